//! Copies of what was given up, to where dead letters go, in the order in which they were given up. The copy
//! is stored first, then the original is settled: a leader that dies between the two leaves it there twice.

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
use crate::amqp::{Letters, is_deleted};
use crate::broker::Broker;

/// Copies that are made together.
const COPIES_MAX: usize = 64;
/// How long a copy that was not stored waits for its next attempt at first: an attempt wakes a group that
/// sleeps, and the next one must come before it sleeps again.
const AGAIN_FIRST: Duration = Duration::from_millis(20);
/// And at most.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Bytes of copies that go together; one that is larger is compressed, for its record may have come so.
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
#[derive(Debug, Clone, PartialEq, Eq)]
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
    copying: bool,
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
        let mut letters = Self { broker, source, target: watch::channel(None).0, copying: false };
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
        !self.copying
    }

    /// The next messages to copy, in order; none while others are being copied, which come first.
    pub(super) fn next(&mut self, dispatcher: &mut Dispatcher) -> Vec<DeadLetterOrder> {
        if self.copying {
            return Vec::new();
        }
        let orders = std::iter::from_fn(|| dispatcher.poll_dead_letter());
        let orders: Vec<_> = orders.take(COPIES_MAX).collect();
        self.copying = !orders.is_empty();
        orders
    }

    /// Those that [`DeadLetters::next`] gave were copied.
    pub(super) fn made(&mut self) {
        self.copying = false;
    }

    /// Copies some, in order; tries until they are stored. Answers their offsets.
    pub(super) fn copy(
        &self,
        group: &Arc<Group>,
        orders: Vec<DeadLetterOrder>,
    ) -> impl Future<Output = Vec<Offset>> + Send + use<> {
        let (broker, source) = (Arc::clone(&self.broker), self.source.clone());
        let copier = Copier { broker, source, targets: self.target.subscribe() };
        let group = Arc::clone(group);
        async move {
            let (mut letters, mut bytes) = (Vec::new(), 0);
            for order in &orders {
                let Some(record) = read(&group, &copier.source, *order).await else { continue };
                let size = size(&record);
                if bytes + size > PLAIN_BYTES_MAX && !letters.is_empty() {
                    copier.store(&letters).await;
                    letters.clear();
                    bytes = 0;
                }
                letters.push((record, *order));
                bytes += size;
            }
            copier.store(&letters).await;
            orders.iter().map(|order| order.offset).collect()
        }
    }
}

/// What copying takes.
struct Copier {
    broker: Arc<Broker>,
    source: QueueName,
    targets: watch::Receiver<Option<Target>>,
}

impl Copier {
    /// Stores copies where they are to go. Without a target they are dropped, and count as copied.
    async fn store(&self, letters: &[(Record, DeadLetterOrder)]) {
        let Some((_, first)) = letters.first() else { return };
        loop {
            let Some(target) = self.targets.borrow().clone() else { return };
            let batches = match &target {
                Target::Topic(topic) => {
                    let batch = batch_of(letters, &self.source);
                    batch.into_iter().map(|batch| (topic.clone(), batch)).collect()
                }
                Target::Exchange => {
                    let records =
                        letters.iter().map(|(record, order)| (record.clone(), order.reason));
                    self.broker.letters().batches(&self.broker, &self.source.topic, records)
                }
            };
            if self.store_batches(&target, batches, first.offset).await {
                return;
            }
        }
    }

    /// Stores each batch in its topic, whatever becomes of the others. Answers false where they are to go
    /// elsewhere by now.
    async fn store_batches(
        &self,
        target: &Target,
        mut batches: Vec<(TopicName, Bytes)>,
        first: Offset,
    ) -> bool {
        let (mut again, mut has_warned) = (AGAIN_FIRST, false);
        loop {
            let (mut left, mut failed) = (Vec::new(), None);
            for (topic, batch) in batches {
                match self.broker.store_anywhere(&topic, first.0, batch.clone()).await {
                    Ok(_) => {}
                    // The queue was deleted since: nobody misses the message.
                    Err(error) if *target == Target::Exchange && is_deleted(&error) => {}
                    Err(error) => {
                        left.push((topic, batch));
                        failed = Some(error);
                    }
                }
            }
            let Some(error) = failed else { return true };
            if !std::mem::replace(&mut has_warned, true) {
                let topic = &self.source.topic;
                tracing::warn!(%topic, offset = %first, ?target, %error, "dead letters wait to be copied");
            }
            sleep(again).await;
            again = (again * 2).min(AGAIN_AFTER);
            if self.targets.borrow().as_ref() != Some(target) {
                return false;
            }
            batches = left;
        }
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

/// A batch with the copies of some records; none where there is nothing to copy.
fn batch_of(letters: &[(Record, DeadLetterOrder)], source: &QueueName) -> Option<Bytes> {
    let topic = &source.topic;
    let mut builder = BatchBuilder::new(BatchLimits {
        batch_bytes_max: u32::MAX,
        headers_per_record_max: u32::MAX,
        ..BatchLimits::default()
    });
    for (record, order) in letters {
        let pushed = builder.push(&with_reason(record.clone(), source, *order));
        if pushed != Ok(PushOutcome::Added) {
            let offset = order.offset;
            tracing::error!(%topic, %offset, "a dead letter is too large for its headers");
        }
    }
    finished(builder, topic)
}

/// A batch of dead letters of a queue, compressed where it is large; none where there is nothing to copy, or what
/// there is, one record then, fits no frame between nodes.
pub(crate) fn finished(builder: BatchBuilder, source: &TopicName) -> Option<Bytes> {
    if builder.is_empty() {
        return None;
    }
    let compression = match builder.bytes() > PLAIN_BYTES_MAX {
        true => Compression::Lz4,
        false => Compression::None,
    };
    let batch = builder.finish(ProducerId::NONE, 0, 0, compression);
    if batch.len() > LETTER_BYTES_MAX {
        tracing::error!(topic = %source, "a dead letter is too large to be copied, and is dropped");
        return None;
    }
    Some(batch)
}

/// About as many bytes as a record has in a batch.
fn size(record: &Record) -> usize {
    let length = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
    let headers =
        record.headers.iter().map(|header| header.name.as_str().len() + header.value.len());
    length(&record.key) + length(&record.group_key) + length(&record.value) + headers.sum::<usize>()
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
