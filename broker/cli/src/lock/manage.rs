//! What an operator does with locks. Both ask before they take something from somebody.

use clap::Args;

use super::NamespaceArgs;
use crate::confirm::confirm;
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::request::request_failure;

/// Take a lock away from who holds it
///
/// For a holder that is gone for good, or stuck: the next one in line gets the lock. The former holder may still
/// run and learns of it late; what it writes with its fence is refused once the next holder was seen. Asks first
/// on a terminal; elsewhere --yes is needed.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  plimsoll lock release nightly --force\n  plimsoll lock release gpu \
                       --force --token 4711 --yes"
)]
pub(super) struct ReleaseArgs {
    /// The lock
    lock: String,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// Says that it is meant: whoever holds the lock loses it
    #[arg(long, required = true)]
    force: bool,
    /// Only the grant with this token; default: every one
    #[arg(long, value_name = "N")]
    token: Option<u64>,
    /// Who does it, for the history [default: the user's name]
    #[arg(long, value_name = "TEXT")]
    by: Option<String>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl ReleaseArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let (lock, namespace) = (&self.lock, &self.namespace.namespace);
        let what = match self.token {
            Some(token) => format!("lock {lock} of namespace {namespace} (token {token})"),
            None => format!("lock {lock} of namespace {namespace}"),
        };
        let question = format!("Take {what} away from who holds it?");
        confirm(self.yes, &question, &format!("releasing {what}"), "released")?;
        let by = self.by.unwrap_or_else(user);
        connection
            .with_client(async |client| {
                let admin = client.admin().locks(namespace);
                let released = admin.force_release(lock, self.token, &by).await;
                released.map_err(|error| request_failure(&format!("release {what}"), &error))
            })
            .await?;
        note(&format!("released {what}"));
        Ok(Exit::Done)
    }
}

/// The user of this process, as far as its surroundings say.
fn user() -> String {
    let named = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    named.filter(|name| !name.is_empty()).unwrap_or_else(|| "an operator".to_owned())
}

/// Forget a lock, and its fences in the topics that it guards
///
/// A topic that it guarded takes writes with old fences of it again. Asks first on a terminal; elsewhere --yes is
/// needed. Refused while the lock is held or waited for, unless --force is given.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  plimsoll lock delete nightly\n  plimsoll lock delete nightly --yes \
                       --force"
)]
pub(super) struct DeleteArgs {
    /// The lock
    lock: String,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// Also while it is held or waited for: its holders lose it
    #[arg(long)]
    force: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl DeleteArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let (lock, namespace) = (&self.lock, &self.namespace.namespace);
        let what = format!("lock {lock} of namespace {namespace}");
        let question = format!("Forget {what} and its fences?");
        confirm(self.yes, &question, &format!("deleting {what}"), "deleted")?;
        connection
            .with_client(async |client| {
                let deleted = client.admin().locks(namespace).delete(lock, self.force).await;
                deleted.map_err(|error| request_failure(&format!("delete {what}"), &error))
            })
            .await?;
        note(&format!("deleted {what}"));
        Ok(Exit::Done)
    }
}
