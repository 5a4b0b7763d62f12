//! Copies of what was given up, to where dead letters go. The copy is stored first, then the original is
//! settled: a leader that dies between the two leaves it there twice.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use plimsoll_delivery::dispatch::{DeadLetterOrder, Dispatcher};
use plimsoll_protocol::batch::{
    BatchBuilder, BatchLimits, Compression, Header, PushOutcome, Record,
};
use plimsoll_protocol::ids::{Offset, ProducerId, TopicName};
use plimsoll_replication::Group;
use tokio::sync::watch;
use tokio::time::sleep;

use super::records::Records;
use super::registry::QueueName;
use crate::amqp::Letters;
use crate::broker::Broker;

/// Copies that are made at once.
const COPIES_MAX: usize = 64;
/// How long a copy that was not stored waits for its next attempt.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// A copy that is larger is compressed: its record may have come so.
const PLAIN_BYTES_MAX: usize = 1 << 20;
/// A larger one fits no frame between nodes.
const LETTER_BYTES_MAX: usize = 15 << 20;

/// Why it was given up, as [`plimsoll_delivery::command::Reason::as_str`] says.
const REASON: &str = "dead-letter-reason";
/// Where it was: topic, partition and offset, as `topic/partition/offset`.
const SOURCE: &str = "dead-letter-source";
/// How often it was delivered there.
const ATTEMPTS: &str = "dead-letter-attempts";

/// Where dead letters go.
#[derive(Debug, Clone)]
enum Target {
    Topic(TopicName),
    /// The exchange that the queue names.
    Exchange,
}

/// See the module.
pub(super) struct DeadLetters {
    broker: Arc<Broker>,
    source: QueueName,
    /// Copies that wait follow it.
    target: watch::Sender<Option<Target>>,
    copying: usize,
}

impl DeadLetters {
    /// Where dead letters go, in words.
    pub(super) fn destination(&self) -> Option<String> {
        match &*self.target.borrow() {
            Some(Target::Topic(topic)) => Some(topic.to_string()),
            Some(Target::Exchange) => Some("its dead letter exchange".to_owned()),
            None => None,
        }
    }

    pub(super) fn new(broker: &Arc<Broker>, source: &QueueName, target: Option<&Bytes>) -> Self {
        let (broker, source) = (Arc::clone(broker), source.clone());
        let mut letters = Self { broker, source, target: watch::channel(None).0, copying: 0 };
        letters.set_target(target);
        letters
    }

    pub(super) fn set_target(&mut self, target: Option<&Bytes>) {
        self.target.send_replace(target.and_then(|target| match Letters::is_target(target) {
            true => Some(Target::Exchange),
            false => TopicName::new(std::str::from_utf8(target).ok()?).ok().map(Target::Topic),
        }));
    }

    pub(super) fn is_idle(&self) -> bool {
        self.copying == 0
    }

    /// The next message to copy, unless many are being copied.
    pub(super) fn next(&mut self, dispatcher: &mut Dispatcher) -> Option<DeadLetterOrder> {
        if self.copying >= COPIES_MAX {
            return None;
        }
        let order = dispatcher.poll_dead_letter()?;
        self.copying += 1;
        Some(order)
    }

    /// A copy was made.
    pub(super) fn made(&mut self) {
        self.copying -= 1;
    }

    /// Copies one; tries until it is stored. Answers its offset.
    pub(super) fn copy(
        &self,
        group: &Arc<Group>,
        order: DeadLetterOrder,
    ) -> Pin<Box<dyn Future<Output = Offset> + Send>> {
        let (broker, source) = (Arc::clone(&self.broker), self.source.clone());
        let (targets, group) = (self.target.subscribe(), Arc::clone(group));
        Box::pin(async move {
            let mut has_warned = false;
            loop {
                // Without a target it is dropped, and counts as copied.
                let Some(target) = targets.borrow().clone() else { return order.offset };
                let Some(record) = read(&group, &source, order).await else { return order.offset };
                let stored = match &target {
                    Target::Topic(target) => {
                        let Some(batch) = letter(record, &source, order) else {
                            return order.offset;
                        };
                        broker.store_anywhere(target, order.offset.0, batch).await.map(drop)
                    }
                    Target::Exchange => {
                        let (letters, topic) = (broker.letters(), &source.topic);
                        letters.send(&broker, topic, record, order.reason).await
                    }
                };
                let Err(error) = stored else { return order.offset };
                if !std::mem::replace(&mut has_warned, true) {
                    let (topic, offset) = (&source.topic, order.offset);
                    tracing::warn!(%topic, %offset, ?target, %error, "a dead letter waits to be copied");
                }
                sleep(AGAIN_AFTER).await;
            }
        })
    }
}

/// The record; none where the log no longer has it.
async fn read(group: &Arc<Group>, source: &QueueName, order: DeadLetterOrder) -> Option<Record> {
    let offset = order.offset;
    let mut records = Records::new(false);
    loop {
        let committed = *group.high_watermark().borrow();
        match records.read(group, offset, committed).await {
            Ok(_) => match records.find(offset) {
                Some(found) => {
                    return Record::decode(&found.record, &mut 0, found.base_timestamp_ms).ok();
                }
                // This replica does not show it yet.
                None => sleep(AGAIN_AFTER).await,
            },
            Err(_) if offset < group.log().bounds().log_start_offset => return None,
            Err(error) => {
                tracing::warn!(topic = %source.topic, %offset, %error, "a dead letter cannot be read");
                sleep(AGAIN_AFTER).await;
            }
        }
    }
}

/// A batch with the copy of one record.
fn letter(record: Record, source: &QueueName, order: DeadLetterOrder) -> Option<Bytes> {
    let mut builder = BatchBuilder::new(BatchLimits {
        batch_bytes_max: u32::MAX,
        headers_per_record_max: u32::MAX,
        ..BatchLimits::default()
    });
    let pushed = builder.push(&with_reason(record, source, order));
    if pushed != Ok(PushOutcome::Added) {
        let offset = order.offset;
        tracing::error!(topic = %source.topic, %offset, "a dead letter is too large for its headers");
        return None;
    }
    let compression = match builder.bytes() > PLAIN_BYTES_MAX {
        true => Compression::Lz4,
        false => Compression::None,
    };
    let batch = builder.finish(ProducerId::NONE, 0, 0, compression);
    if batch.len() > LETTER_BYTES_MAX {
        let (topic, offset) = (&source.topic, order.offset);
        tracing::error!(%topic, %offset, "a dead letter is too large to be copied, and is dropped");
        return None;
    }
    Some(batch)
}

/// The record as a dead letter: it says why, and neither waits nor dies again.
fn with_reason(mut record: Record, source: &QueueName, order: DeadLetterOrder) -> Record {
    record.headers.retain(|header| ![REASON, SOURCE, ATTEMPTS].contains(&header.name.as_str()));
    let place = format!("{}/{}/{}", source.topic, source.partition, order.offset);
    let said = [
        (REASON, order.reason.as_str().to_owned()),
        (SOURCE, place),
        (ATTEMPTS, order.attempts.to_string()),
    ];
    let said = said.map(|(name, value)| Header { name: name.into(), value: value.into() });
    record.headers.extend(said);
    Record { deliver_at_ms: None, expires_at_ms: None, ..record }
}

#[cfg(test)]
mod tests {
    use plimsoll_delivery::command::Reason;
    use plimsoll_protocol::ids::PartitionIndex;

    use super::*;

    #[test]
    fn dead_letter_says_why_once_and_does_not_die_again() {
        let source = QueueName {
            topic: TopicName::new("orders").unwrap(),
            partition: PartitionIndex(2),
            subscription: String::new(),
        };
        let order = DeadLetterOrder { offset: Offset(7), attempts: 3, reason: Reason::Rejected };
        let record = Record {
            deliver_at_ms: Some(1),
            expires_at_ms: Some(2),
            priority: Some(3),
            ..Record::new("x").with_header(REASON, "expired").with_header("trace", "1")
        };
        let letter = with_reason(record, &source, order);
        let headers: Vec<_> = letter.headers.iter().map(|h| (h.name.as_str(), &*h.value)).collect();
        let expected: [(&str, &[u8]); 4] =
            [("trace", b"1"), (REASON, b"rejected"), (SOURCE, b"orders/2/7"), (ATTEMPTS, b"3")];
        assert_eq!(headers, expected);
        assert_eq!(
            (letter.deliver_at_ms, letter.expires_at_ms, letter.priority),
            (None, None, Some(3))
        );
    }
}
