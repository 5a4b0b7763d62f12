//! `plimsoll lock`: commands that run under a lock, and what an operator sees of locks and does with them.

mod events;
mod look;
mod manage;
mod namespace;
mod process;
mod render;
mod run;

use clap::{Args, Subcommand};
use plimsoll_client::{ErrorCode, LockError, RequestError};

use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::request::{failure, hint_for};

const AFTER_HELP: &str = "\
Examples:
  plimsoll lock namespace create default
  plimsoll lock run nightly -- ./report.sh              one of several machines runs it
  plimsoll lock list
  plimsoll lock describe nightly
  plimsoll lock sessions
  plimsoll lock history nightly
  plimsoll lock release nightly --force --yes           the holder is gone for good";

/// Locks: leases with fencing tokens, in namespaces
///
/// A lock is a lease: it ends when nothing is heard of its holder. What must not be done by two holders one after
/// the other shows the holder's fence, namespace/lock/token: writes with a stale one are refused.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct LockArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    command: LockCommand,
}

#[derive(Debug, Subcommand)]
enum LockCommand {
    Namespace(namespace::NamespaceCommands),
    Run(Box<run::RunArgs>),
    List(look::ListArgs),
    Describe(look::DescribeArgs),
    Sessions(look::SessionsArgs),
    History(events::HistoryArgs),
    Watch(events::WatchArgs),
    Release(manage::ReleaseArgs),
    Delete(manage::DeleteArgs),
}

/// Which namespace.
#[derive(Debug, Clone, Args)]
struct NamespaceArgs {
    /// The namespace of the lock
    #[arg(long, value_name = "NAME", default_value = "default")]
    namespace: String,
}

impl NamespaceArgs {
    /// What a command is about that concerns a lock of it.
    fn about<'a>(&'a self, lock: &'a str) -> About<'a> {
        About { namespace: &self.namespace, lock }
    }

    /// The same of a command that concerns no single lock.
    fn all(&self) -> About<'_> {
        self.about("NAME")
    }
}

/// Which lock a command is about: what it advises can be typed as it is.
#[derive(Debug, Clone, Copy)]
struct About<'a> {
    namespace: &'a str,
    lock: &'a str,
}

impl About<'_> {
    fn describe(self) -> String {
        format!("`plimsoll lock describe {} --namespace {}`", self.lock, self.namespace)
    }

    fn list(self) -> String {
        format!("`plimsoll lock list --namespace {}`", self.namespace)
    }

    fn create(self) -> String {
        format!(
            "`plimsoll lock namespace create {}` makes it; `plimsoll lock namespace list` shows those there are",
            self.namespace
        )
    }

    /// What can be done about a refusal.
    fn hint(self, code: ErrorCode) -> Option<String> {
        Some(match code {
            // A namespace is a topic, and may be looked for as one.
            ErrorCode::UnknownNamespace | ErrorCode::UnknownTopic => self.create(),
            ErrorCode::NamespaceInUse => {
                format!("{} shows what is in use; `--force` deletes it all the same", self.list())
            }
            ErrorCode::UnknownLock => {
                let Self { namespace, lock } = self;
                format!(
                    "{} shows the locks that are in use, `plimsoll lock history {lock} --namespace \
                     {namespace}` what was",
                    self.list()
                )
            }
            ErrorCode::LockInUse => {
                format!("{} shows who uses it, `--force` takes it away", self.describe())
            }
            ErrorCode::NotLockHolder => {
                format!("{} shows who holds it, with session and token", self.describe())
            }
            other => return hint_for(other).map(str::to_owned),
        })
    }
}

impl LockArgs {
    pub(crate) async fn run(self) -> Result<Exit, Failure> {
        let connection = &self.connection;
        match self.command {
            LockCommand::Namespace(args) => args.run(connection).await,
            LockCommand::Run(args) => args.run(connection).await,
            LockCommand::List(args) => args.run(connection).await,
            LockCommand::Describe(args) => args.run(connection).await,
            LockCommand::Sessions(args) => args.run(connection).await,
            LockCommand::History(args) => args.run(connection).await,
            LockCommand::Watch(args) => args.run(connection).await,
            LockCommand::Release(args) => args.run(connection).await,
            LockCommand::Delete(args) => args.run(connection).await,
        }
    }
}

/// Why `doing` ("describe lock nightly") did not happen, and what to do.
fn refused(doing: &str, about: About<'_>, error: &RequestError) -> Failure {
    failure(doing, error, |code| about.hint(code))
}

/// The same of what the client's locks say.
fn lock_failure(doing: &str, about: About<'_>, error: &LockError) -> Failure {
    let told = |exit| Failure::new(exit, format!("cannot {doing}: {error}"));
    match error {
        LockError::Input(_) => told(Exit::Usage),
        LockError::UnknownNamespace { .. } => told(Exit::NotFound).hint(about.create()),
        LockError::Taken { .. } | LockError::TimedOut { .. } => told(Exit::NotAcquired)
            .hint(format!("{} shows who holds it and who waits", about.describe())),
        LockError::SessionOver { .. } | LockError::Lost(_) | LockError::NotHolder { .. } => {
            told(Exit::LockLost)
        }
        LockError::InUse { .. } => {
            told(Exit::Failed).hint(format!("{} shows how it is used", about.describe()))
        }
        LockError::OutcomeUnknown { .. } => told(Exit::Failed),
        LockError::Request(error) => refused(doing, about, error),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_not_had_and_what_was_lost_have_their_exit_codes() {
        let about = About { namespace: "jobs", lock: "nightly" };
        let (lock, waited) = ("nightly".to_owned(), Duration::from_secs(30));
        let failure = lock_failure("acquire", about, &LockError::TimedOut { lock, waited });
        assert_eq!(failure.exit(), Exit::NotAcquired);
        let advice = "`plimsoll lock describe nightly --namespace jobs`";
        assert!(failure.to_string().contains(advice), "{failure}");
        let namespace = "jobs".to_owned();
        let failure = lock_failure("acquire", about, &LockError::UnknownNamespace { namespace });
        assert_eq!(failure.exit(), Exit::NotFound);
        assert!(failure.to_string().contains("lock namespace create jobs"), "{failure}");
        let cause = plimsoll_client::LossCause::LeaseRanOut;
        let over = LockError::SessionOver { namespace: "jobs".to_owned(), cause };
        assert_eq!(lock_failure("acquire", about, &over).exit(), Exit::LockLost);
    }

    #[test]
    fn every_command_that_is_advised_names_the_namespace() {
        let about = About { namespace: "jobs", lock: "nightly" };
        for code in [
            ErrorCode::NamespaceInUse,
            ErrorCode::UnknownLock,
            ErrorCode::LockInUse,
            ErrorCode::NotLockHolder,
        ] {
            let hint = about.hint(code).unwrap();
            for command in hint.split('`').filter(|part| part.starts_with("plimsoll")) {
                assert!(command.contains("--namespace jobs"), "{code:?}: {hint}");
            }
            assert!(hint.contains("plimsoll lock"), "{code:?}: {hint}");
        }
        let hint = about.hint(ErrorCode::UnknownNamespace).unwrap();
        assert!(hint.contains("namespace create jobs"), "{hint}");
    }
}
