//! `plimsoll amqp`: virtual hosts, users, permissions and queues of clients that speak AMQP.

mod password;
mod permission;
mod queue;
mod user;
mod vhost;

use clap::{Args, Subcommand};

use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::Failure;

const AFTER_HELP: &str = "\
Examples:
  plimsoll amqp vhost create harbour
  pass show ann | plimsoll amqp user create ann --password-stdin
  plimsoll amqp permission set harbour ann --configure '^ann-' --write '.*' --read '.*'
  plimsoll amqp permission list
  plimsoll amqp queue list

A new cluster has the virtual host / and the user guest, password guest, who may do everything and
comes in from the node's own machine only.";

/// Virtual hosts, users, permissions and queues of AMQP clients
///
/// They are of the whole cluster. A node listens for AMQP with `plimsoll serve --listen-amqp`.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct AmqpArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    command: AmqpCommand,
}

#[derive(Debug, Subcommand)]
enum AmqpCommand {
    Vhost(vhost::VhostArgs),
    User(user::UserArgs),
    Permission(permission::PermissionArgs),
    Queue(queue::QueueArgs),
}

impl AmqpArgs {
    pub(crate) async fn run(self) -> Result<Exit, Failure> {
        let connection = &self.connection;
        match self.command {
            AmqpCommand::Vhost(args) => args.run(connection).await,
            AmqpCommand::User(args) => args.run(connection).await,
            AmqpCommand::Permission(args) => args.run(connection).await,
            AmqpCommand::Queue(args) => args.run(connection).await,
        }
    }
}
