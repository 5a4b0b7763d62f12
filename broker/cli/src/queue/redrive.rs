//! `plimsoll queue redrive`: dead letters go back to where they came from.

use std::time::Duration;

use clap::Args;
use plimsoll_client::{Client, Message, Record};
use plimsoll_protocol::ids::TopicName;
use tokio::time::timeout;

use super::SubscriptionArgs;
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::interrupt::Interrupt;
use crate::produce::build_failure;
use crate::request::known_topic;

/// Where a dead letter was: topic, partition and offset.
const SOURCE: &str = "dead-letter-source";
/// How long nothing must come before all is done.
const SILENCE: Duration = Duration::from_secs(1);

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
        let building = client
            .queue_consumer(self.queue.as_str())
            .subscription(&*self.subscription.subscription)
            .build();
        let mut consumer = building
            .await
            .map_err(|error| build_failure(&format!("use queue {}", self.queue), &error))?;
        let mut producers = std::collections::BTreeMap::new();
        let (mut sent, mut left) = (0_u64, 0_u64);
        // Those without a source are held until the end, so that they do not come again.
        let mut without_source: Vec<Message> = Vec::new();
        while self.count.is_none_or(|count| sent < count) && !interrupt.is_asked() {
            let next = tokio::select! {
                biased;
                () = interrupt.asked() => break,
                next = timeout(SILENCE, consumer.next()) => next,
            };
            let Ok(Some(message)) = next else { break };
            let message = message.map_err(|error| {
                Failure::new(Exit::Failed, format!("cannot receive from {}: {error}", self.queue))
            })?;
            let Some(target) = self.to.clone().or_else(|| source_of(&message.record)) else {
                left += 1;
                without_source.push(message);
                continue;
            };
            if !producers.contains_key(&target) {
                let made = client.producer(target.as_str()).build().await;
                let made =
                    made.map_err(|error| build_failure(&format!("send to {target}"), &error))?;
                producers.insert(target.clone(), made);
            }
            let stored = producers[&target].send(as_new(message.record.clone())).await;
            stored.map_err(|error| {
                Failure::new(Exit::Partly, format!("{sent} sent, then not to {target}: {error}"))
            })?;
            message.accept().await.map_err(|error| {
                let id = format!("{}:{}", message.partition, message.offset);
                Failure::new(
                    Exit::Partly,
                    format!("message {id} was sent to {target}, and {error}"),
                )
            })?;
            sent += 1;
        }
        for message in without_source {
            // Those that are not released now are when the command ends.
            let _ = message.release(Some(Duration::ZERO)).await;
        }
        note(&format!("{sent} messages of {} were sent back", self.queue));
        if left > 0 {
            return Err(Failure::new(Exit::Partly, format!("{left} name no source and stay"))
                .hint("--to QUEUE says where they go"));
        }
        Ok(Exit::Done)
    }
}

/// The topic that a dead letter came from.
fn source_of(record: &Record) -> Option<TopicName> {
    let header = record.headers.iter().rev().find(|header| header.name.as_str() == SOURCE)?;
    let place = std::str::from_utf8(&header.value).ok()?;
    let (rest, _offset) = place.rsplit_once('/')?;
    let (topic, _partition) = rest.rsplit_once('/')?;
    TopicName::new(topic).ok()
}

fn as_new(mut record: Record) -> Record {
    record.headers.retain(|header| !header.name.as_str().starts_with("dead-letter-"));
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_is_found_and_taken_off() {
        let letter = Record::new("x")
            .with_header("trace", "1")
            .with_header("dead-letter-reason", "rejected")
            .with_header(SOURCE, "jobs.eu/3/17");
        assert_eq!(source_of(&letter), TopicName::new("jobs.eu").ok());
        let headers: Vec<_> = as_new(letter).headers.iter().map(|h| h.name.to_string()).collect();
        assert_eq!(headers, ["trace"]);
        for wrong in ["", "jobs", "jobs/3", "//"] {
            assert_eq!(source_of(&Record::new("x").with_header(SOURCE, wrong)), None, "{wrong}");
        }
    }
}
