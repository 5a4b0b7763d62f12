//! `plimsoll amqp vhost`.

use clap::{Args, Subcommand};
use plimsoll_client::VhostInfo;
use serde::Serialize;

use crate::confirm::confirm;
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::output::Output;
use crate::request::request_failure;
use crate::table::Table;

const AFTER_HELP: &str = "\
Examples:
  plimsoll amqp vhost create harbour
  plimsoll amqp vhost list
  plimsoll amqp vhost delete harbour";

/// Create, delete and list virtual hosts
///
/// A virtual host has exchanges, queues and bindings of its own. Clients name it when they connect, and may enter
/// those that they have permissions in.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct VhostArgs {
    #[command(subcommand)]
    command: VhostCommand,
}

#[derive(Debug, Subcommand)]
enum VhostCommand {
    Create(CreateArgs),
    Delete(DeleteArgs),
    List(ListArgs),
}

/// Create a virtual host
///
/// Nobody may enter it until permissions say so. One that exists already stays as it is.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  plimsoll amqp vhost create harbour")]
struct CreateArgs {
    /// Its name
    vhost: String,
}

/// Delete a virtual host with all queues and messages in it
///
/// Asks first on a terminal; elsewhere --yes is needed. Its exchanges, queues, messages, bindings and permissions
/// are gone, and its connections are closed.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  plimsoll amqp vhost delete harbour\n  plimsoll amqp vhost \
                             delete harbour --yes"
)]
struct DeleteArgs {
    /// Its name
    vhost: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// List virtual hosts
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  plimsoll amqp vhost list\n  plimsoll amqp vhost list --json \
                             | jq -r .vhost"
)]
struct ListArgs {
    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
}

/// A virtual host as `--json` prints it.
#[derive(Debug, Serialize)]
struct VhostJson<'a> {
    vhost: &'a str,
    created_ms: i64,
    exchanges: u32,
    queues: u32,
    users: u32,
}

impl VhostArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        match self.command {
            VhostCommand::Create(args) => args.run(connection).await,
            VhostCommand::Delete(args) => args.run(connection).await,
            VhostCommand::List(args) => args.run(connection).await,
        }
    }
}

impl CreateArgs {
    async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let vhost = &*self.vhost;
        let created = connection
            .with_client(async |client| {
                let created = client.admin().create_vhost(vhost).await;
                let doing = format!("create virtual host {vhost}");
                created.map_err(|error| request_failure(&doing, &error))
            })
            .await?;
        match created {
            true => note(&format!("created virtual host {vhost}")),
            false => note(&format!("there is already a virtual host {vhost}")),
        }
        Ok(Exit::Done)
    }
}

impl DeleteArgs {
    async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let what = format!("virtual host {}", self.vhost);
        let question = format!("Delete {what} with all queues and messages in it?");
        confirm(self.yes, &question, &format!("deleting {what}"), "deleted")?;
        connection
            .with_client(async |client| {
                let deleted = client.admin().delete_vhost(&self.vhost).await;
                deleted.map_err(|error| request_failure(&format!("delete {what}"), &error))
            })
            .await?;
        note(&format!("deleted {what}"));
        Ok(Exit::Done)
    }
}

impl ListArgs {
    async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let vhosts = connection
            .with_client(async |client| {
                let listed = client.admin().list_vhosts().await;
                listed.map_err(|error| request_failure("list virtual hosts", &error))
            })
            .await?;
        let mut output = Output::stdout();
        if self.json {
            vhosts.iter().try_for_each(|vhost| {
                let VhostInfo { vhost, created_ms, exchanges, queues, users } = vhost;
                output.json(&VhostJson {
                    vhost,
                    created_ms: *created_ms,
                    exchanges: *exchanges,
                    queues: *queues,
                    users: *users,
                })
            })?;
        } else if vhosts.is_empty() {
            note("no virtual hosts; `plimsoll amqp vhost create NAME` makes one");
        } else {
            let mut table = Table::new(&["VHOST", ">EXCHANGES", ">QUEUES", ">USERS"]);
            for vhost in &vhosts {
                let counts = [vhost.exchanges, vhost.queues, vhost.users].map(|n| n.to_string());
                table.row([vec![vhost.vhost.clone()], counts.to_vec()].concat());
            }
            table.lines().iter().try_for_each(|line| output.line(line))?;
        }
        output.flush()?;
        Ok(Exit::Done)
    }
}
