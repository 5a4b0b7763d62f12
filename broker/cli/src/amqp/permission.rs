//! `plimsoll amqp permission`.

use clap::{Args, Subcommand};
use plimsoll_client::AmqpPermissions;
use serde::Serialize;

use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::output::Output;
use crate::request::request_failure;
use crate::table::Table;

const AFTER_HELP: &str = "\
Examples:
  plimsoll amqp permission set harbour ann --configure '^ann-' --write '.*' --read '.*'
  plimsoll amqp permission set / watcher --configure '' --write '' --read '^audit$'
  plimsoll amqp permission clear harbour ann
  plimsoll amqp permission list --user ann";

/// Say what users may do in virtual hosts
///
/// Permissions are regular expressions that are looked for in the names of exchanges and queues: '^' and '$' tie
/// them to begin and end, '.*' allows everything, an empty one nothing. The default exchange is called
/// amq.default.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct PermissionArgs {
    #[command(subcommand)]
    command: PermissionCommand,
}

#[derive(Debug, Subcommand)]
enum PermissionCommand {
    Set(SetArgs),
    Clear(ClearArgs),
    List(ListArgs),
}

/// Say what a user may do in a virtual host, in place of what it could before
///
/// Connections that are open are held to it too.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  plimsoll amqp permission set harbour ann --configure '^ann-' \
                             --write '.*' --read '.*'"
)]
struct SetArgs {
    /// The virtual host
    vhost: String,
    /// The user
    user: String,
    /// What it may declare and delete
    #[arg(long, value_name = "RE")]
    configure: String,
    /// What it may publish to, and bind
    #[arg(long, value_name = "RE")]
    write: String,
    /// What it may consume from, and bind to
    #[arg(long, value_name = "RE")]
    read: String,
}

/// Shut a user out of a virtual host
///
/// Connections that are open stay open and may do nothing more.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  plimsoll amqp permission clear harbour ann")]
struct ClearArgs {
    /// The virtual host
    vhost: String,
    /// The user
    user: String,
}

/// List what users may do
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  plimsoll amqp permission list\n  plimsoll amqp permission \
                             list --vhost harbour --json | jq -r .user"
)]
struct ListArgs {
    /// Only in this virtual host
    #[arg(long, value_name = "NAME")]
    vhost: Option<String>,
    /// Only of this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
}

/// What one user may do in one virtual host, as `--json` prints it.
#[derive(Debug, Serialize)]
struct GrantJson<'a> {
    vhost: &'a str,
    user: &'a str,
    configure: &'a str,
    write: &'a str,
    read: &'a str,
}

impl PermissionArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        match self.command {
            PermissionCommand::Set(args) => args.run(connection).await,
            PermissionCommand::Clear(args) => args.run(connection).await,
            PermissionCommand::List(args) => args.run(connection).await,
        }
    }
}

impl SetArgs {
    async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let Self { vhost, user, configure, write, read } = self;
        let permissions = AmqpPermissions { configure, write, read };
        connection
            .with_client(async |client| {
                let set = client.admin().set_amqp_permissions(&vhost, &user, permissions).await;
                let doing = format!("set permissions of user {user} in virtual host {vhost}");
                set.map_err(|error| request_failure(&doing, &error))
            })
            .await?;
        note(&format!("set permissions of user {user} in virtual host {vhost}"));
        Ok(Exit::Done)
    }
}

impl ClearArgs {
    async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let Self { vhost, user } = self;
        let cleared = connection
            .with_client(async |client| {
                let cleared = client.admin().clear_amqp_permissions(&vhost, &user).await;
                let doing = format!("clear permissions of user {user} in virtual host {vhost}");
                cleared.map_err(|error| request_failure(&doing, &error))
            })
            .await?;
        match cleared {
            true => note(&format!("user {user} may not enter virtual host {vhost} any more")),
            false => note(&format!("user {user} had no permissions in virtual host {vhost}")),
        }
        Ok(Exit::Done)
    }
}

impl ListArgs {
    async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let (vhost, user) = (self.vhost.as_deref(), self.user.as_deref());
        let grants = connection
            .with_client(async |client| {
                let listed = client.admin().list_amqp_permissions(vhost, user).await;
                listed.map_err(|error| request_failure("list permissions", &error))
            })
            .await?;
        let mut output = Output::stdout();
        if self.json {
            grants.iter().try_for_each(|grant| {
                let AmqpPermissions { configure, write, read } = &grant.permissions;
                let (vhost, user) = (&*grant.name.vhost, &*grant.name.user);
                output.json(&GrantJson { vhost, user, configure, write, read })
            })?;
        } else if grants.is_empty() {
            note("nobody may do anything there; `plimsoll amqp permission set` changes that");
        } else {
            let mut table = Table::new(&["VHOST", "USER", "CONFIGURE", "WRITE", "READ"]);
            // Quoted, so that an empty pattern and blanks at an end are seen.
            let quoted = |pattern: &str| format!("'{pattern}'");
            for grant in &grants {
                let AmqpPermissions { configure, write, read } = &grant.permissions;
                let [configure, write, read] = [configure, write, read].map(|one| quoted(one));
                let (vhost, user) = (grant.name.vhost.clone(), grant.name.user.clone());
                table.row(vec![vhost, user, configure, write, read]);
            }
            table.lines().iter().try_for_each(|line| output.line(line))?;
        }
        output.flush()?;
        Ok(Exit::Done)
    }
}
