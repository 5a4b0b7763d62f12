//! What an operator does with locks. Both ask before they take something from somebody.

use clap::Args;

use plimsoll_client::GrantFilter;

use super::{NamespaceArgs, refused};
use crate::confirm::confirm;
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};

/// Take a lock away from who holds it
///
/// For a holder that is gone for good, or stuck: the next one in line gets the lock. The former holder may still
/// run and learns of it late; what it writes with its fence is refused once the next holder was seen. Asks first
/// on a terminal; elsewhere --yes is needed. Where nobody holds it so, it ends with 1 and says that.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  plimsoll lock release nightly --force\n  plimsoll lock release gpu \
                       --force --session 17 --yes\n  plimsoll lock release reports --force --token 4711 \
                       --yes"
)]
pub(super) struct ReleaseArgs {
    /// The lock
    lock: String,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// Says that it is meant: whoever holds the lock loses it
    #[arg(long, required = true)]
    force: bool,
    /// Only from those who hold it under this token, which readers share; default: under any
    #[arg(long, value_name = "N")]
    token: Option<u64>,
    /// Only from this session, as `plimsoll lock describe` shows it; default: from all
    #[arg(long, value_name = "N")]
    session: Option<u64>,
    #[command(flatten)]
    by: ByArgs,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl ReleaseArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let (lock, namespace) = (&self.lock, &self.namespace.namespace);
        let grants = GrantFilter { token: self.token, session: self.session };
        let what = format!("lock {lock} of namespace {namespace}{}", filter_text(grants));
        let question = format!("Take {what} away from who holds it?");
        confirm(self.yes, &question, &format!("releasing {what}"), "released")?;
        let by = self.by.name();
        connection
            .with_client(async |client| {
                let admin = client.admin().locks(namespace);
                let released = admin.force_release(lock, grants, &by).await;
                let about = self.namespace.about(lock);
                released.map_err(|error| refused(&format!("release {what}"), about, &error))
            })
            .await?;
        note(&format!("released {what}"));
        Ok(Exit::Done)
    }
}

/// ` (session 3, token 41)`; nothing where all are meant.
fn filter_text(grants: GrantFilter) -> String {
    let session = grants.session.map(|session| format!("session {session}"));
    let token = grants.token.map(|token| format!("token {token}"));
    let named: Vec<_> = session.into_iter().chain(token).collect();
    if named.is_empty() { String::new() } else { format!(" ({})", named.join(", ")) }
}

/// Who the operator is.
#[derive(Debug, Args)]
struct ByArgs {
    /// Who does it, for the history [default: the user's name]
    #[arg(long, value_name = "TEXT")]
    by: Option<String>,
}

impl ByArgs {
    /// As it was given; else the user of this process, as far as its surroundings say.
    fn name(&self) -> String {
        let user = || ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
        let named = self.by.clone().or_else(user).filter(|name| !name.is_empty());
        named.unwrap_or_else(|| "an operator".to_owned())
    }
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
    #[command(flatten)]
    by: ByArgs,
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
        let by = self.by.name();
        connection
            .with_client(async |client| {
                let deleted = client.admin().locks(namespace).delete(lock, self.force, &by).await;
                let about = self.namespace.about(lock);
                deleted.map_err(|error| refused(&format!("delete {what}"), about, &error))
            })
            .await?;
        note(&format!("deleted {what}"));
        Ok(Exit::Done)
    }
}
