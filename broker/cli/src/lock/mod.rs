//! `plimsoll lock`: commands that run under a lock, and what an operator sees of locks and does with them.

mod events;
mod look;
mod manage;
mod namespace;
mod process;
mod render;
mod run;

use clap::{Args, Subcommand};
use plimsoll_client::LockError;

use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::request::request_failure;

const AFTER_HELP: &str = "\
Examples:
  plimsoll lock namespace create default
  plimsoll lock run nightly -- ./report.sh              one of several machines runs it
  plimsoll lock list
  plimsoll lock describe nightly
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

impl LockArgs {
    pub(crate) async fn run(self) -> Result<Exit, Failure> {
        let connection = &self.connection;
        match self.command {
            LockCommand::Namespace(args) => args.run(connection).await,
            LockCommand::Run(args) => args.run(connection).await,
            LockCommand::List(args) => args.run(connection).await,
            LockCommand::Describe(args) => args.run(connection).await,
            LockCommand::History(args) => args.run(connection).await,
            LockCommand::Watch(args) => args.run(connection).await,
            LockCommand::Release(args) => args.run(connection).await,
            LockCommand::Delete(args) => args.run(connection).await,
        }
    }
}

/// Why `doing` ("acquire lock nightly") did not happen, and what to do.
fn lock_failure(doing: &str, error: &LockError) -> Failure {
    let told = |exit| Failure::new(exit, format!("cannot {doing}: {error}"));
    match error {
        LockError::Input(_) => told(Exit::Usage),
        LockError::UnknownNamespace { namespace } => told(Exit::NotFound).hint(format!(
            "`plimsoll lock namespace create {namespace}` makes it; `plimsoll lock namespace list` \
             shows those there are"
        )),
        LockError::Taken { lock, .. } | LockError::TimedOut { lock, .. } => told(Exit::NotAcquired)
            .hint(format!("`plimsoll lock describe {lock}` shows who holds it and who waits")),
        LockError::SessionOver { .. } | LockError::Lost(_) | LockError::NotHolder { .. } => {
            told(Exit::LockLost)
        }
        LockError::InUse { lock, .. } => {
            told(Exit::Failed).hint(format!("`plimsoll lock describe {lock}` shows how it is used"))
        }
        LockError::OutcomeUnknown { .. } => told(Exit::Failed),
        LockError::Request(error) => request_failure(doing, error),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_not_had_and_what_was_lost_have_their_exit_codes() {
        let (lock, waited) = ("nightly".to_owned(), Duration::from_secs(30));
        let failure = lock_failure("acquire", &LockError::TimedOut { lock, waited });
        assert_eq!(failure.exit(), Exit::NotAcquired);
        assert!(failure.to_string().contains("plimsoll lock describe nightly"), "{failure}");
        let namespace = "jobs".to_owned();
        let failure = lock_failure("acquire", &LockError::UnknownNamespace { namespace });
        assert_eq!(failure.exit(), Exit::NotFound);
        assert!(failure.to_string().contains("lock namespace create jobs"), "{failure}");
        let cause = plimsoll_client::LossCause::LeaseRanOut;
        let over = LockError::SessionOver { namespace: "jobs".to_owned(), cause };
        assert_eq!(lock_failure("acquire", &over).exit(), Exit::LockLost);
    }
}
