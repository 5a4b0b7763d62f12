//! `plimsoll group`: consumer groups, how far they have come, and who works on what.

mod delete;
mod describe;
mod list;
mod render;
mod reset;

use clap::{Args, Subcommand};

use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::Failure;

const AFTER_HELP: &str = "\
Examples:
  plimsoll consume orders --group billing               a member, until Ctrl-C
  plimsoll group list
  plimsoll group describe billing
  plimsoll group reset billing --topic orders --to-time -1h --dry-run
  plimsoll group delete billing";

/// Consumer groups: members that share the partitions of topics, and how far each group has come
///
/// A group begins with its first member (`plimsoll consume TOPIC --group NAME`, or a client's). How far it has
/// come, its committed offset in each partition, is kept while it has members and for some time after.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct GroupArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    command: GroupCommand,
}

#[derive(Debug, Subcommand)]
enum GroupCommand {
    List(list::ListArgs),
    Describe(describe::DescribeArgs),
    Reset(reset::ResetArgs),
    Delete(delete::DeleteArgs),
}

impl GroupArgs {
    pub(crate) async fn run(self) -> Result<Exit, Failure> {
        let connection = &self.connection;
        match self.command {
            GroupCommand::List(args) => args.run(connection).await,
            GroupCommand::Describe(args) => args.run(connection).await,
            GroupCommand::Reset(args) => args.run(connection).await,
            GroupCommand::Delete(args) => args.run(connection).await,
        }
    }
}
