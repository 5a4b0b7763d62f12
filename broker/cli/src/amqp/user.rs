//! `plimsoll amqp user`.

use clap::{Args, Subcommand};
use plimsoll_client::AmqpUserChange;
use serde::Serialize;

use super::password::PasswordArgs;
use crate::confirm::confirm;
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::output::Output;
use crate::request::request_failure;
use crate::table::Table;

const AFTER_HELP: &str = "\
Examples:
  pass show ann | plimsoll amqp user create ann --password-stdin
  PLIMSOLL_AMQP_PASSWORD=\"$(pass show ann)\" plimsoll amqp user passwd ann
  plimsoll amqp user list
  plimsoll amqp user delete ann";

/// Create, change, delete and list users
///
/// What a user may do in which virtual host is said by `plimsoll amqp permission`. Passwords are never taken from
/// the command line; nodes keep a salted hash of them.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct UserArgs {
    #[command(subcommand)]
    command: UserCommand,
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    Create(CreateArgs),
    Passwd(PasswdArgs),
    Tags(TagsArgs),
    Delete(DeleteArgs),
    List(ListArgs),
}

/// Create a user
///
/// It may enter no virtual host until permissions say so.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  pass show ann | plimsoll amqp user create ann \
                             --password-stdin\n  plimsoll amqp user create ops --tag administrator \
                             --password-stdin < ops.password")]
struct CreateArgs {
    /// Its name
    user: String,
    #[command(flatten)]
    password: PasswordArgs,
    /// What it is, such as administrator; may be given several times. `impersonator` lets it send messages in
    /// the name of others
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
}

/// Change a user's password
///
/// Connections that are open stay open; new ones need the new password.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  pass show ann | plimsoll amqp user passwd ann \
                             --password-stdin")]
struct PasswdArgs {
    /// The user
    user: String,
    #[command(flatten)]
    password: PasswordArgs,
}

/// Give a user other tags, in place of those that it has
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  plimsoll amqp user tags ann monitoring impersonator\n  \
                             plimsoll amqp user tags ann    (none)")]
struct TagsArgs {
    /// The user
    user: String,
    /// The tags; none takes all away
    tags: Vec<String>,
}

/// Delete a user and its permissions
///
/// Asks first on a terminal; elsewhere --yes is needed. Its connections are closed; what it declared stays.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  plimsoll amqp user delete ann\n  plimsoll amqp user delete \
                             guest --yes"
)]
struct DeleteArgs {
    /// The user
    user: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// List users
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  plimsoll amqp user list\n  plimsoll amqp user list --json | \
                             jq -r .user"
)]
struct ListArgs {
    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
}

/// A user as `--json` prints it.
#[derive(Debug, Serialize)]
struct UserJson<'a> {
    user: &'a str,
    tags: &'a [String],
    vhosts: u32,
}

impl UserArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        match self.command {
            UserCommand::Create(args) => args.run(connection).await,
            UserCommand::Passwd(args) => args.run(connection).await,
            UserCommand::Tags(args) => args.run(connection).await,
            UserCommand::Delete(args) => args.run(connection).await,
            UserCommand::List(args) => args.run(connection).await,
        }
    }
}

impl CreateArgs {
    async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let (user, password) = (&*self.user, self.password.read()?);
        connection
            .with_client(async |client| {
                let created = client.admin().create_amqp_user(user, password, self.tag).await;
                created.map_err(|error| request_failure(&format!("create user {user}"), &error))
            })
            .await?;
        note(&format!(
            "created user {user}; `plimsoll amqp permission set VHOST {user} ...` lets it in"
        ));
        Ok(Exit::Done)
    }
}

/// Changes a user, and says so.
async fn change(
    connection: &ConnectionArgs,
    user: &str,
    change: AmqpUserChange,
    what: &str,
) -> Result<Exit, Failure> {
    connection
        .with_client(async |client| {
            let changed = client.admin().change_amqp_user(user, change).await;
            changed.map_err(|error| request_failure(&format!("change user {user}"), &error))
        })
        .await?;
    note(&format!("changed the {what} of user {user}"));
    Ok(Exit::Done)
}

impl PasswdArgs {
    async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let password = Some(self.password.read()?);
        let changed = AmqpUserChange { password, tags: None };
        change(connection, &self.user, changed, "password").await
    }
}

impl TagsArgs {
    async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let changed = AmqpUserChange { password: None, tags: Some(self.tags) };
        change(connection, &self.user, changed, "tags").await
    }
}

impl DeleteArgs {
    async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let what = format!("user {}", self.user);
        let question = format!("Delete {what} and close its connections?");
        confirm(self.yes, &question, &format!("deleting {what}"), "deleted")?;
        connection
            .with_client(async |client| {
                let deleted = client.admin().delete_amqp_user(&self.user).await;
                deleted.map_err(|error| request_failure(&format!("delete {what}"), &error))
            })
            .await?;
        note(&format!("deleted {what}"));
        Ok(Exit::Done)
    }
}

impl ListArgs {
    async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let users = connection
            .with_client(async |client| {
                let listed = client.admin().list_amqp_users().await;
                listed.map_err(|error| request_failure("list users", &error))
            })
            .await?;
        let mut output = Output::stdout();
        if self.json {
            users.iter().try_for_each(|user| {
                output.json(&UserJson { user: &user.user, tags: &user.tags, vhosts: user.vhosts })
            })?;
        } else if users.is_empty() {
            note("no users; `plimsoll amqp user create NAME` makes one");
        } else {
            let mut table = Table::new(&["USER", ">VHOSTS", "TAGS"]);
            for user in &users {
                table.row(vec![user.user.clone(), user.vhosts.to_string(), user.tags.join(",")]);
            }
            table.lines().iter().try_for_each(|line| output.line(line))?;
        }
        output.flush()?;
        Ok(Exit::Done)
    }
}
