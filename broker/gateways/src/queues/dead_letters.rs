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
use tokio::time::sleep;

use super::records::Records;
use super::registry::QueueName;
use crate::broker::Broker;

/// Copies that are made at once.
const COPIES_MAX: usize = 64;
/// How long a copy that was not stored waits for its next attempt.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Why it was given up, as [`plimsoll_delivery::command::Reason::as_str`] says.
const REASON: &str = "dead-letter-reason";
/// Where it was: topic, partition and offset, as `topic/partition/offset`.
const SOURCE: &str = "dead-letter-source";
/// How often it was delivered there.
const ATTEMPTS: &str = "dead-letter-attempts";

/// See the module.
pub(super) struct DeadLetters {
    broker: Arc<Broker>,
    source: QueueName,
    target: Option<TopicName>,
    copying: usize,
}

impl DeadLetters {
    pub(super) fn new(broker: &Arc<Broker>, source: &QueueName, target: Option<&Bytes>) -> Self {
        let (broker, source) = (Arc::clone(broker), source.clone());
        let mut letters = Self { broker, source, target: None, copying: 0 };
        letters.set_target(target);
        letters
    }

    pub(super) fn set_target(&mut self, target: Option<&Bytes>) {
        let name = target.and_then(|target| std::str::from_utf8(target).ok());
        self.target = name.and_then(|name| TopicName::new(name).ok());
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
        let (target, group) = (self.target.clone(), Arc::clone(group));
        Box::pin(async move {
            // Without a target it was dropped by the settings of now, and counts as copied.
            let Some(target) = target else { return order.offset };
            let mut has_warned = false;
            loop {
                let Some(batch) = letter(&group, &source, order).await else { return order.offset };
                let stored = broker.store_anywhere(&target, order.offset.0, batch).await;
                let Err(error) = stored else { return order.offset };
                if !std::mem::replace(&mut has_warned, true) {
                    let (topic, offset) = (&source.topic, order.offset);
                    tracing::warn!(%topic, %offset, %target, %error, "a dead letter waits to be copied");
                }
                sleep(AGAIN_AFTER).await;
            }
        })
    }
}

/// A batch with the copy of one record; none where the log no longer has it.
async fn letter(group: &Arc<Group>, source: &QueueName, order: DeadLetterOrder) -> Option<Bytes> {
    let offset = order.offset;
    let mut records = Records::new(false);
    loop {
        let committed = *group.high_watermark().borrow();
        match records.read(group, offset, committed).await {
            Ok(_) => break,
            Err(_) if offset < group.log().bounds().log_start_offset => return None,
            Err(error) => {
                tracing::warn!(topic = %source.topic, %offset, %error, "a dead letter cannot be read");
                sleep(AGAIN_AFTER).await;
            }
        }
    }
    let found = records.find(offset)?;
    let record = Record::decode(&found.record, &mut 0, found.base_timestamp_ms).ok()?;
    let mut builder = BatchBuilder::new(BatchLimits {
        batch_bytes_max: u32::MAX,
        headers_per_record_max: u32::MAX,
        ..BatchLimits::default()
    });
    let pushed = builder.push(&with_reason(record, source, order));
    if pushed != Ok(PushOutcome::Added) {
        tracing::error!(topic = %source.topic, %offset, "a dead letter is too large for its headers");
        return None;
    }
    Some(builder.finish(ProducerId::NONE, 0, 0, Compression::None))
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
