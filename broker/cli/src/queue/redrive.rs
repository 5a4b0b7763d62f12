//! `plimsoll queue redrive`: dead letters go back to where they came from.

use clap::Args;
use plimsoll_client::{Client, RedriveError, Redriven};
use plimsoll_protocol::ids::TopicName;

use super::{SubscriptionArgs, queue_build_failure, receive};
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::interrupt::Interrupt;
use crate::request::{known_topic, queue_failure};

const AFTER_HELP: &str = "\
Examples:
  plimsoll queue redrive jobs.dead
  plimsoll queue redrive jobs.dead --count 10 --to jobs.retry

Each message is stored at its destination before it is settled here: should the command be ended between
the two, it is there twice.";

/// Send dead letters back to the queue that they came from
///
/// Without their headers of dead letters, so that they count as new. Messages that name no source stay,
/// unless --to says where they go.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct RedriveArgs {
    /// The queue of dead letters
    #[arg(value_parser = known_topic)]
    queue: TopicName,
    #[command(flatten)]
    subscription: SubscriptionArgs,
    /// Send them here in place of where they came from
    #[arg(long, value_name = "QUEUE")]
    to: Option<TopicName>,
    /// End after so many messages
    #[arg(long, short = 'n', value_name = "N")]
    count: Option<u64>,
}

impl RedriveArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        connection.with_client(async |client| self.redrive(client).await).await
    }

    async fn redrive(&self, client: &Client) -> Result<Exit, Failure> {
        let mut interrupt = Interrupt::listen()?;
        let queue = client.admin().queue(self.queue.as_str(), &*self.subscription.subscription);
        let mut redrive = queue.redrive().most(self.count.unwrap_or(u64::MAX));
        if let Some(to) = &self.to {
            redrive = redrive.to(to.clone());
        }
        let ended = tokio::select! {
            biased;
            () = interrupt.asked() => Ok(redrive.done()),
            ended = redrive.run() => ended,
        };
        let Redriven { sent, without_source } = redrive.done();
        if sent > 0 || ended.is_ok() {
            note(&format!("{} of {} sent back", messages(sent), self.queue));
        }
        if let Err(error) = ended {
            return Err(failure(&self.queue, sent, &error));
        }
        if without_source > 0 {
            let what = format!("{} without a source stay", messages(without_source));
            return Err(Failure::new(Exit::Partly, what).hint("--to QUEUE says where they go"));
        }
        Ok(Exit::Done)
    }
}

fn messages(count: u64) -> String {
    format!("{count} message{}", if count == 1 { "" } else { "s" })
}

fn failure(queue: &TopicName, sent: u64, error: &RedriveError) -> Failure {
    match error {
        RedriveError::Build { topic, source } => {
            queue_build_failure(&format!("use {topic}"), source)
        }
        RedriveError::Request(error) => queue_failure(&format!("look at {queue}"), error),
        RedriveError::Receive(error) => receive::failure(queue, error),
        RedriveError::Send { .. } | RedriveError::Settle { .. } => {
            let exit = if sent == 0 { Exit::Failed } else { Exit::Partly };
            Failure::new(exit, error.to_string())
        }
    }
}
