//! `plimsoll lock namespace`: where locks are.

use std::time::Duration;

use clap::{Args, Subcommand};
use plimsoll_client::NewLockNamespace;

use super::render::{NamespaceJson, namespaces, one_namespace};
use super::{About, refused};
use crate::confirm::confirm;
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::output::Output;
use crate::quantity::parse_duration;

/// Namespaces of locks: each is led by one node and replicated
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  plimsoll lock namespace create jobs\n  plimsoll lock namespace \
                       list\n  plimsoll lock namespace delete jobs --yes"
)]
pub(super) struct NamespaceCommands {
    #[command(subcommand)]
    command: NamespaceCommand,
}

#[derive(Debug, Subcommand)]
enum NamespaceCommand {
    Create(CreateArgs),
    Delete(DeleteArgs),
    List(ListArgs),
}

impl NamespaceCommands {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        match self.command {
            NamespaceCommand::Create(args) => args.run(connection).await,
            NamespaceCommand::Delete(args) => args.run(connection).await,
            NamespaceCommand::List(args) => args.run(connection).await,
        }
    }
}

/// Create a namespace of locks
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  plimsoll lock namespace create default\n  plimsoll lock namespace \
                       create jobs --replicas 3 --history 30d --if-not-exists"
)]
struct CreateArgs {
    /// Its name
    name: String,
    /// Copies of what it knows, on different nodes [default: 3, or one on each node where there are fewer]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    replicas: Option<u16>,
    /// How long what happened to a lock is kept; the last of each lock always is
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "7d")]
    history: Duration,
    /// Succeed when the namespace exists; it stays as it is
    #[arg(long)]
    if_not_exists: bool,
    /// Print the namespace as a JSON object
    #[arg(long)]
    json: bool,
}

impl CreateArgs {
    async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let wanted = NewLockNamespace {
            name: self.name.clone(),
            replicas: self.replicas.unwrap_or(0),
            history_ms: u64::try_from(self.history.as_millis()).unwrap_or(u64::MAX),
            if_not_exists: self.if_not_exists,
        };
        let made = connection
            .with_client(async |client| {
                let made = client.admin().create_lock_namespace(wanted).await;
                let doing = format!("create namespace {}", self.name);
                let about = About { namespace: &self.name, lock: "NAME" };
                made.map_err(|error| refused(&doing, about, &error))
            })
            .await?;
        if self.json {
            let mut output = Output::stdout();
            output.json(&NamespaceJson::of(&made))?;
            output.flush()?;
        } else {
            note(&format!("created namespace {}", one_namespace(&made)));
        }
        Ok(Exit::Done)
    }
}

/// Delete a namespace with its locks and their history
///
/// Asks first on a terminal; elsewhere --yes is needed. Refused while locks are held or guard topics, unless
/// --force is given.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  plimsoll lock namespace delete jobs\n  plimsoll lock namespace \
                       delete jobs --yes --force"
)]
struct DeleteArgs {
    /// Its name
    name: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Also one whose locks are held, which are lost, or guard topics, which take stale writes then
    #[arg(long)]
    force: bool,
}

impl DeleteArgs {
    async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let name = &self.name;
        let question = format!("Delete namespace {name} with its locks and their history?");
        confirm(self.yes, &question, &format!("deleting namespace {name}"), "deleted")?;
        connection
            .with_client(async |client| {
                let deleted = client.admin().delete_lock_namespace(name, self.force).await;
                let about = About { namespace: name, lock: "NAME" };
                let doing = format!("delete namespace {name}");
                deleted.map_err(|error| refused(&doing, about, &error))
            })
            .await?;
        note(&format!("deleted namespace {name}"));
        Ok(Exit::Done)
    }
}

/// List namespaces of locks
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  plimsoll lock namespace list\n  plimsoll lock namespace list \
                       --json | jq -r .namespace"
)]
struct ListArgs {
    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
}

impl ListArgs {
    async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let listed = connection
            .with_client(async |client| {
                let listed = client.admin().list_lock_namespaces().await;
                let about = About { namespace: "NAME", lock: "NAME" };
                listed.map_err(|error| refused("list namespaces", about, &error))
            })
            .await?;
        let mut output = Output::stdout();
        if self.json {
            listed.iter().try_for_each(|one| output.json(&NamespaceJson::of(one)))?;
        } else if !listed.is_empty() {
            namespaces(&listed).lines().iter().try_for_each(|line| output.line(line))?;
        }
        output.flush()?;
        if listed.is_empty() && !self.json {
            note("no namespaces of locks yet; `plimsoll lock namespace create NAME` makes one");
        }
        Ok(Exit::Done)
    }
}
