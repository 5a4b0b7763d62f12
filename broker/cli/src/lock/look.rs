//! Looking at locks without taking anything.

use clap::Args;

use super::render::{
    DescribedJson, LockJson, SessionJson, holders, locks, one_lock, sessions, waiters,
};
use super::{NamespaceArgs, refused};
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::output::Output;

/// List locks that are held, waited for or guard topics
///
/// Where several hold one, that with the lowest token is shown, and how many there are more.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  plimsoll lock list\n  plimsoll lock list orders/ --namespace jobs \
                       --json | jq -r 'select(.waiters > 0) | .lock'"
)]
pub(super) struct ListArgs {
    /// Only those whose name begins with this
    #[arg(default_value = "")]
    prefix: String,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
}

impl ListArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let namespace = &self.namespace.namespace;
        let listed = connection
            .with_client(async |client| {
                let listed = client.admin().locks(namespace).list(&self.prefix).await;
                listed.map_err(|error| refused("list locks", self.namespace.all(), &error))
            })
            .await?;
        let mut output = Output::stdout();
        if self.json {
            listed.iter().try_for_each(|lock| output.json(&LockJson::of(lock)))?;
        } else if !listed.is_empty() {
            locks(&listed).lines().iter().try_for_each(|line| output.line(line))?;
        }
        output.flush()?;
        if listed.is_empty() && !self.json {
            note(&match &*self.prefix {
                "" => format!("no lock of namespace {namespace} is in use"),
                prefix => format!(
                    "no lock of namespace {namespace} that begins with {prefix:?} is in use"
                ),
            });
        }
        Ok(Exit::Done)
    }
}

/// Show a lock: who holds it, and who waits
///
/// Of those who wait the first 1,000 are listed.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  plimsoll lock describe nightly\n  plimsoll lock describe nightly \
                       --json | jq '.holders[0].token'"
)]
pub(super) struct DescribeArgs {
    /// The lock
    lock: String,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

impl DescribeArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let described = connection
            .with_client(async |client| {
                let admin = client.admin().locks(&self.namespace.namespace);
                let doing = format!("describe lock {}", self.lock);
                let about = self.namespace.about(&self.lock);
                let described = admin.describe(&self.lock).await;
                described.map_err(|error| refused(&doing, about, &error))
            })
            .await?;
        let mut output = Output::stdout();
        if self.json {
            output.json(&DescribedJson::of(&described))?;
        } else {
            output.line(&one_lock(&described))?;
            let tables = [holders(&described), waiters(&described)];
            for table in tables.iter().filter(|table| !table.is_empty()) {
                output.line("")?;
                table.lines().iter().try_for_each(|line| output.line(line))?;
            }
        }
        output.flush()?;
        Ok(Exit::Done)
    }
}

/// List the sessions of a namespace: who is there, for how long, with how much
///
/// A session is a client: it is listed also while it holds and waits for nothing. Its lease begins anew each time it is
/// heard of; LEFT is how long it lives if that is not so again. Where a session holds a lock, `plimsoll lock list` and
/// `plimsoll lock describe` show which.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  plimsoll lock sessions jobs\n  plimsoll lock sessions jobs --json | jq -r \
                       'select(.waiting > 0) | .label'"
)]
pub(super) struct SessionsArgs {
    /// The namespace, also as --namespace
    #[arg(value_name = "NAMESPACE", conflicts_with = "namespace")]
    named: Option<String>,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
}

impl SessionsArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let namespace = self.named.unwrap_or(self.namespace.namespace);
        let all = NamespaceArgs { namespace };
        let namespace = &all.namespace;
        let listed = connection
            .with_client(async |client| {
                let listed = client.admin().locks(namespace).sessions().await;
                listed.map_err(|error| refused("list sessions", all.all(), &error))
            })
            .await?;
        let mut output = Output::stdout();
        if self.json {
            listed.iter().try_for_each(|session| output.json(&SessionJson::of(session)))?;
        } else if !listed.is_empty() {
            sessions(&listed).lines().iter().try_for_each(|line| output.line(line))?;
        }
        output.flush()?;
        if listed.is_empty() && !self.json {
            note(&format!("namespace {namespace} has no session"));
        }
        Ok(Exit::Done)
    }
}
