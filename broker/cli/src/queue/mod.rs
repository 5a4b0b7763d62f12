//! `plimsoll queue`: queues, subscriptions, and their messages one by one.

mod look;
mod manage;
mod receive;
mod redrive;
mod render;
mod send;

use clap::{Args, Subcommand};
use plimsoll_client::{Admin, BuildError, QueueInfo, RequestError};
use plimsoll_protocol::api::QUEUE_CONFIG_KEYS;
use plimsoll_protocol::ids::TopicName;

use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::produce::build_failure;
use crate::request::queue_failure;

const AFTER_HELP: &str = "\
Examples:
  plimsoll queue create jobs -c attempts=5 -c backoff=1s -c dead-letter=jobs.dead
  plimsoll queue send jobs 'resize-17'
  plimsoll queue receive jobs --count 1
  plimsoll queue explain jobs 0:17
  plimsoll queue redrive jobs.dead";

/// Queues: messages that are handed out one by one and settled one by one
///
/// A queue is a topic whose records stay until they are settled. A topic can have subscriptions beside it
/// that settle in the same way (subscribe); they are named by --subscription. Records of a queue are read
/// by `plimsoll consume` as well.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct QueueArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    command: QueueCommand,
}

#[derive(Debug, Subcommand)]
enum QueueCommand {
    Create(manage::CreateArgs),
    List(manage::ListArgs),
    Describe(look::DescribeArgs),
    Alter(manage::AlterArgs),
    Subscribe(manage::SubscribeArgs),
    Unsubscribe(manage::UnsubscribeArgs),
    Send(Box<send::SendArgs>),
    Receive(Box<receive::ReceiveArgs>),
    Peek(look::PeekArgs),
    Explain(look::ExplainArgs),
    Cancel(look::CancelArgs),
    Purge(manage::PurgeArgs),
    Delete(manage::DeleteArgs),
    Redrive(redrive::RedriveArgs),
}

/// Which subscription of the topic.
#[derive(Debug, Clone, Default, Args)]
struct SubscriptionArgs {
    /// A subscription of the topic, in place of the queue itself
    #[arg(long, short = 's', value_name = "NAME", default_value = "")]
    subscription: String,
}

impl QueueArgs {
    pub(crate) async fn run(self) -> Result<Exit, Failure> {
        let connection = &self.connection;
        match self.command {
            QueueCommand::Create(args) => args.run(connection).await,
            QueueCommand::List(args) => args.run(connection).await,
            QueueCommand::Describe(args) => args.run(connection).await,
            QueueCommand::Alter(args) => args.run(connection).await,
            QueueCommand::Subscribe(args) => args.run(connection).await,
            QueueCommand::Unsubscribe(args) => args.run(connection).await,
            QueueCommand::Send(args) => args.run(connection).await,
            QueueCommand::Receive(args) => args.run(connection).await,
            QueueCommand::Peek(args) => args.run(connection).await,
            QueueCommand::Explain(args) => args.run(connection).await,
            QueueCommand::Cancel(args) => args.run(connection).await,
            QueueCommand::Purge(args) => args.run(connection).await,
            QueueCommand::Delete(args) => args.run(connection).await,
            QueueCommand::Redrive(args) => args.run(connection).await,
        }
    }
}

/// The settings of a queue, for the help pages.
fn settings_help() -> String {
    let mut text = String::from("Settings (--config KEY=VALUE):");
    for key in QUEUE_CONFIG_KEYS {
        text.push_str(&format!("\n  {}  (default {}; {})", key.name, key.default, key.bounds));
        text.push_str(&format!("\n      {}", key.meaning));
    }
    text
}

/// A producer or consumer of a queue that could not be made, in words.
fn queue_build_failure(doing: &str, error: &BuildError) -> Failure {
    match error {
        BuildError::Request(error) => queue_failure(doing, error),
        error => build_failure(doing, error),
    }
}

/// A queue, or a subscription of a topic, as the cluster lists it.
async fn find_queue(
    admin: &Admin,
    topic: &TopicName,
    subscription: &str,
) -> Result<Option<QueueInfo>, RequestError> {
    let listed = admin.list_queues(Some(topic.as_str())).await?;
    let is_it = |info: &QueueInfo| info.topic == *topic && info.subscription == subscription;
    Ok(listed.into_iter().find(is_it))
}

/// A slip on the command line that the parser of arguments could not see.
fn usage(error: &impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, error.to_string())
}
