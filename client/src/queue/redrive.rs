//! Dead letters, back to where they came from.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_protocol::batch::Record;
use plimsoll_protocol::ids::TopicName;
use thiserror::Error;
use tokio::time::timeout;

use super::admin::{MessageId, QueueAdmin};
use super::message::{Message, SettleError};
use super::{QueueConsumer, QueueConsumerBuilder};
use crate::error::{BuildError, ConsumeError, RequestError, SendError};
use crate::producer::{Producer, ProducerBuilder};

/// Where a dead letter was: topic, partition and offset, with a stroke between them.
const SOURCE: &str = "dead-letter-source";
/// What the names of a dead letter's own headers begin with.
const OWN_HEADERS: &str = "dead-letter-";
/// How long nothing must come before it is asked whether there is anything left.
const SILENCE: Duration = Duration::from_millis(500);
/// After so many silences nothing more is expected, whatever the queue says.
const SILENCES_MAX: u32 = 6;
/// Messages that are held at a time, of each partition.
const HELD_MAX: u32 = 100;

/// Sends dead letters back to the queues that they came from, without their headers of dead letters, so that
/// they count as new. Those that name no source stay.
///
/// Each is stored at its destination before it is settled here: whoever dies, or drops [`Redrive::run`],
/// between the two leaves it there twice.
pub struct Redrive {
    /// The queue of dead letters.
    queue: QueueAdmin,
    to: Option<TopicName>,
    most: u64,
    done: Redriven,
}

/// How far it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Redriven {
    /// Messages that were sent back.
    pub sent: u64,
    /// Messages that name no source and stay.
    pub without_source: u64,
}

/// Why it did not go on.
#[derive(Debug, Clone, Error)]
pub enum RedriveError {
    /// The queue of dead letters, or a destination, cannot be used.
    #[error("cannot use {topic}: {source}")]
    Build {
        /// Which.
        topic: String,
        /// Why.
        source: BuildError,
    },
    /// Nothing is received from the queue of dead letters.
    #[error(transparent)]
    Receive(#[from] ConsumeError),
    /// How the queue stands is not known.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A message was not stored, or that is not known. It is still a dead letter.
    #[error("message {id} did not get to {to}: {source}")]
    Send {
        /// Which.
        id: MessageId,
        /// Where it was to go.
        to: TopicName,
        /// Why.
        source: SendError,
    },
    /// A message was stored, and is still a dead letter, or may be.
    #[error("message {id} was sent to {to}, and stays a dead letter too: {source}")]
    Settle {
        /// Which.
        id: MessageId,
        /// Where it went.
        to: TopicName,
        /// Why.
        source: SettleError,
    },
}

impl QueueAdmin {
    /// To send dead letters, which this is the queue of, back to where they came from.
    #[must_use]
    pub fn redrive(&self) -> Redrive {
        Redrive { queue: self.clone(), to: None, most: u64::MAX, done: Redriven::default() }
    }
}

impl Redrive {
    /// To this topic, in place of where they came from; those that name no source too.
    #[must_use]
    pub fn to(self, topic: TopicName) -> Self {
        Self { to: Some(topic), ..self }
    }

    /// At most so many.
    #[must_use]
    pub fn most(self, messages: u64) -> Self {
        Self { most: messages, ..self }
    }

    /// How far it went: also when it was cancelled, or failed.
    #[must_use]
    pub fn done(&self) -> Redriven {
        self.done
    }

    /// Sends what is there when it begins, and what comes meanwhile. What others hold is left to them, and what
    /// is behind more than 100 messages of a partition that name no source is left. May be cancelled; called
    /// again it goes on.
    ///
    /// # Errors
    /// [`RedriveError`]; what was sent before stays sent.
    pub async fn run(&mut self) -> Result<Redriven, RedriveError> {
        let QueueAdmin { shared, topic, subscription } = self.queue.clone();
        let consumer = QueueConsumerBuilder::new(shared, topic.clone())
            .subscription(subscription)
            .prefetch(HELD_MAX);
        let mut consumer = consumer.build().await.map_err(|source| unusable(topic, source))?;
        // Those without a source are held until the end, so that they do not come again.
        let mut without_source = Vec::new();
        let outcome = self.send_all(&mut consumer, &mut without_source).await;
        for message in &without_source {
            // Those that are not released now are when the consumer ends.
            drop(message.release(Some(Duration::ZERO)));
        }
        outcome.map(|()| self.done)
    }

    async fn send_all(
        &mut self,
        consumer: &mut QueueConsumer,
        without_source: &mut Vec<Message>,
    ) -> Result<(), RedriveError> {
        let mut producers = BTreeMap::new();
        self.done.without_source = 0;
        let mut silences = 0;
        while self.done.sent < self.most {
            let Ok(next) = timeout(SILENCE, consumer.next()).await else {
                silences += 1;
                // What waits behind others of its key, or for room, is not handed out however long one waits.
                if silences < SILENCES_MAX && self.has_more().await? {
                    continue;
                }
                return Ok(());
            };
            silences = 0;
            let Some(message) = next.transpose()? else { return Ok(()) };
            let Some(to) = self.to.clone().or_else(|| source_of(&message.record)) else {
                self.done.without_source += 1;
                without_source.push(message);
                continue;
            };
            self.send(&message, to, &mut producers).await?;
            self.done.sent += 1;
        }
        Ok(())
    }

    async fn send(
        &self,
        message: &Message,
        to: TopicName,
        producers: &mut BTreeMap<TopicName, Producer>,
    ) -> Result<(), RedriveError> {
        if !producers.contains_key(&to) {
            let builder = ProducerBuilder::new(Arc::clone(&self.queue.shared), to.to_string());
            let made = builder.build().await;
            let made = made.map_err(|source| unusable(to.to_string(), source))?;
            producers.insert(to.clone(), made);
        }
        let id = MessageId { partition: message.partition, offset: message.offset };
        if let Err(source) = producers[&to].send(as_new(message.record.clone())).await {
            return Err(RedriveError::Send { id, to, source });
        }
        message.accept().await.map_err(|source| RedriveError::Settle { id, to, source })
    }

    /// Whether a partition has something to hand out: then it is on its way. What is held is not looked at.
    async fn has_more(&self) -> Result<bool, RedriveError> {
        let name = TopicName::internal(&self.queue.topic);
        let name = name.expect("it was looked up when the consumer was built");
        for partition in 0..self.queue.shared.topic(&name).await?.partitions {
            if self.queue.standing(partition).await?.ready > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn unusable(topic: String, source: BuildError) -> RedriveError {
    RedriveError::Build { topic, source }
}

impl std::fmt::Debug for Redrive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redrive").field("topic", &self.queue.topic).finish_non_exhaustive()
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
    record.headers.retain(|header| !header.name.as_str().starts_with(OWN_HEADERS));
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
