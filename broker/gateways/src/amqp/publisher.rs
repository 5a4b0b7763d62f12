//! One task per queue that is published to: records into batches, outcomes back, in order.
//!
//! What is published under a lock goes in batches of its own, one after the other: before each the lock's
//! namespace is asked whether the lock is held still, because no lock can guard the topic of a queue.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesOrdered, StreamExt as _};
use plimsoll_amqp::routing::Overflow;
use plimsoll_amqp_gateway::backend::Record;
use plimsoll_amqp_gateway::catalog::QueueEntry;
use plimsoll_amqp_gateway::inbox::{Published, Receipt};
use plimsoll_delivery::command::Reason;
use plimsoll_protocol::api::{AckLevel, Fence, ProduceRequest};
use plimsoll_protocol::batch::{
    BatchBuilder, BatchHeader, BatchLimits, Compression, HeadersView, PushOutcome,
    Record as BatchRecord, RecordBatch, RecordView,
};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::{PartitionIndex, ProducerId, TopicName};
use plimsoll_replication::{OpenGroupError, ProduceError};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::backend::topic_of;
use super::changes::is_deleted;
use crate::broker::{Broker, Partition};
use crate::queues::{QueueLimits, QueueName};
use crate::refusals;
use crate::routing::Access;

/// Records of one batch.
const BATCH_RECORDS: usize = 1_000;
/// Bytes at which a batch is full.
const BATCH_BYTES: usize = 256 << 10;
/// Batches that are on their way at once.
const IN_FLIGHT: usize = 8;
/// A queue that nobody published to for so long needs no task.
const IDLE: Duration = Duration::from_secs(10);
/// How long a batch may wait for a majority.
const ANSWER_MAX: Duration = Duration::from_secs(30);

const PARTITION: PartitionIndex = PartitionIndex(0);

struct Item {
    record: Record,
    receipt: Receipt,
}

/// The tasks, by the declaration of their queue.
#[derive(Default)]
pub(super) struct Publishers(Arc<Mutex<HashMap<u64, mpsc::UnboundedSender<Item>>>>);

type Tasks = Arc<Mutex<HashMap<u64, mpsc::UnboundedSender<Item>>>>;

fn lock(tasks: &Tasks) -> MutexGuard<'_, HashMap<u64, mpsc::UnboundedSender<Item>>> {
    tasks.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Publishers {
    /// Hands a record to its queue's task. What waits there is bounded by what connections may publish
    /// ahead.
    pub(super) fn publish(
        &self,
        broker: &Arc<Broker>,
        queue: &QueueEntry,
        record: Record,
        receipt: Receipt,
    ) {
        let Ok(topic) = topic_of(queue) else { return receipt.tell(Published::Deleted) };
        let mut tasks = lock(&self.0);
        let task = tasks.entry(queue.declaration).or_insert_with(|| {
            let (sender, items) = mpsc::unbounded_channel();
            let (broker, tasks) = (Arc::clone(broker), Arc::clone(&self.0));
            let (declaration, arguments) = (queue.declaration, &queue.arguments);
            let counts_bytes = arguments.max_length_bytes.is_some() && !queue.is_stream();
            let buries_refused = arguments.overflow == Overflow::RejectPublishDlx;
            let publisher =
                Publisher { broker, topic, declaration, tasks, counts_bytes, buries_refused };
            tokio::spawn(publisher.run(items));
            sender
        });
        // A task ends only after it has left the table under this lock.
        let _ = task.send(Item { record, receipt });
    }
}

struct Publisher {
    broker: Arc<Broker>,
    topic: TopicName,
    declaration: u64,
    tasks: Tasks,
    /// Whether the queue may have so many bytes and no more.
    counts_bytes: bool,
    /// Whether what the queue refuses goes to its dead letter exchange.
    buries_refused: bool,
}

type Outcome = (Published, Vec<Receipt>);
/// Batches that are on their way, in their order.
type InFlight = FuturesOrdered<Pin<Box<dyn Future<Output = Outcome> + Send>>>;

impl Publisher {
    async fn run(self, mut items: mpsc::UnboundedReceiver<Item>) {
        let mut in_flight = InFlight::new();
        let mut taken = Vec::new();
        if self.counts_bytes
            && let Ok(queue) = self.broker.queue(&self.topic, PARTITION, "").await
        {
            // Bytes are counted from when the queue is at work: what is stored before has none.
            let _ = queue.describe().await;
        }
        loop {
            let idle = in_flight.is_empty();
            tokio::select! {
                biased;
                Some((outcome, receipts)) = in_flight.next() => tell(&outcome, receipts),
                count = items.recv_many(&mut taken, BATCH_RECORDS), if in_flight.len() < IN_FLIGHT => {
                    if count == 0 {
                        return;
                    }
                    while !taken.is_empty() {
                        self.submit(&mut taken, &mut in_flight).await;
                    }
                }
                () = tokio::time::sleep(IDLE), if idle => {
                    let mut tasks = lock(&self.tasks);
                    if items.is_empty() {
                        tasks.remove(&self.declaration);
                        return;
                    }
                }
            }
        }
    }

    /// Sends the next batch of what was taken. What is before it is sent already: its place is behind.
    async fn submit(&self, taken: &mut Vec<Item>, in_flight: &mut InFlight) {
        let found = self.broker.partition(&self.topic, PARTITION, Access::Leader).await;
        if found.as_ref().is_err_and(is_deleted) {
            let receipts = taken.drain(..).map(|item| item.receipt).collect();
            return tell(&Published::Deleted, receipts);
        }
        let catalog = self.broker.catalog();
        let limits = catalog.topic(&self.topic).and_then(|meta| QueueLimits::of(meta));
        let limits = limits.filter(|limits| limits.are_any());
        // Of a queue that takes so many and no more each record is looked at by itself.
        let most = if limits.is_some() { 1 } else { BATCH_RECORDS };
        let fence = taken.first().and_then(|item| item.record.fence.clone());
        let (batch, receipts) = batch_of(taken, most, fence.as_ref());
        let Some(batch) = batch else { return tell(&Published::Unknown, receipts) };
        if fence.is_some() || limits.is_some() || found.is_err() {
            // What is looked at by itself, asked for elsewhere or sent to another node goes one after the other,
            // which keeps the order.
            while let Some((outcome, receipts)) = in_flight.next().await {
                tell(&outcome, receipts);
            }
        }
        match found {
            Ok(partition) => {
                let mut place = None;
                if limits.is_some() {
                    let admitting =
                        self.broker.admit_to_queue(&self.topic, PARTITION, &partition, 1, || false);
                    match admitting.await {
                        Ok(admitted) => place = admitted,
                        Err(error) => {
                            let outcome = match error.code {
                                ErrorCode::QueueFull => {
                                    self.bury(batch).await;
                                    Published::Full
                                }
                                _ => Published::Unknown,
                            };
                            return tell(&outcome, receipts);
                        }
                    }
                }
                if let Some(fence) = fence {
                    let outcome = self.store_under(&partition, &fence, batch).await;
                    return tell(&outcome, receipts);
                }
                let sent = store(partition, batch).await;
                in_flight.push_back(Box::pin(async move {
                    let outcome = sent.with(receipts).await;
                    drop(place);
                    outcome
                }));
            }
            Err(error) => {
                if let Some(limits) = limits
                    && !self.has_room_elsewhere(limits).await
                {
                    self.bury(batch).await;
                    return tell(&Published::Full, receipts);
                }
                let outcome = match fence {
                    Some(fence) => self.store_under_elsewhere(&error, &fence, batch).await,
                    None => match self.broker.store_anywhere(&self.topic, 0, batch).await {
                        Ok(_) => Published::Stored,
                        Err(error) if is_deleted(&error) => Published::Deleted,
                        Err(_) => Published::Unknown,
                    },
                };
                tell(&outcome, receipts);
            }
        }
    }
}

impl Publisher {
    /// Whether a queue that another node leads takes one more, as far as its task there has counted. One
    /// that does not answer says so when it is to store.
    async fn has_room_elsewhere(&self, limits: QueueLimits) -> bool {
        let (topic, subscription) = (self.topic.clone(), String::new());
        let name = QueueName { topic, partition: PARTITION, subscription };
        let described = self.broker.at_queue(&name, |queue| async move { queue.describe().await });
        match described.await {
            Ok(standing) => {
                let length = standing.ready + standing.delayed;
                let bytes = standing.unsettled_bytes / standing.unsettled.max(1) * length;
                limits.allow(length, bytes)
            }
            Err(_) => true,
        }
    }

    /// Stores a batch under a lock, at this node.
    async fn store_under(&self, partition: &Partition, shown: &str, batch: Bytes) -> Published {
        let storing = async {
            let fence = fence_of(shown)?;
            let pass = self.broker.confirmed_pass(&partition.group, &fence).await?;
            let header = BatchHeader::parse(&batch).expect("a batch that was just built");
            let stored = partition.group.produce_under(batch, header, Some(&pass)).await;
            drop(pass);
            let pending = stored.map_err(|error| self.refusal(&error))?;
            match timeout(ANSWER_MAX, pending).await {
                Ok(outcome) => outcome.map(drop).map_err(|error| self.refusal(&error)),
                Err(_) => Err(self.refusal(&ProduceError::Unknown)),
            }
        };
        under_lock(storing.await)
    }

    /// Stores a batch under a lock at the node that leads the queue, as `error` says.
    async fn store_under_elsewhere(
        &self,
        error: &ErrorResponse,
        shown: &str,
        batch: Bytes,
    ) -> Published {
        let storing = async {
            let fence = fence_of(shown)?;
            let leader = error.leader.as_ref().ok_or_else(|| error.clone())?;
            self.broker.confirm_fence(&fence).await?;
            let request = ProduceRequest {
                topic: self.topic.clone(),
                partition: PARTITION,
                acks: AckLevel::Quorum,
                fence: Some(fence),
            };
            let link = self.broker.leader_link(leader.node).await?;
            link.ask_with(&request, batch).await.map(drop)
        };
        under_lock(storing.await)
    }

    fn refusal(&self, error: &ProduceError) -> ErrorResponse {
        refusals::produce(error, &self.topic, PARTITION)
    }

    /// Sends what the queue refused to its dead letter exchange, where it was declared so. Once at most, as
    /// in RabbitMQ: the publisher hears of the refusal, and sends again what matters to it.
    async fn bury(&self, batch: Bytes) {
        if !self.buries_refused {
            return;
        }
        for record in records_of(batch) {
            let (letters, reason) = (self.broker.letters(), Reason::LengthExceeded);
            if let Err(error) = letters.send(&self.broker, &self.topic, record, reason).await {
                tracing::debug!(topic = %self.topic, %error, "a refused message is no dead letter");
            }
        }
    }
}

/// The lock as it was written by who published under it.
fn fence_of(shown: &str) -> Result<Fence, ErrorResponse> {
    let invalid =
        |error| ErrorResponse::new(ErrorCode::InvalidArgument, format!("x-fence: {error}"));
    Fence::parse(shown).map_err(|error| invalid(error.to_string()))
}

/// What becomes of records that were published under a lock.
fn under_lock(stored: Result<(), ErrorResponse>) -> Published {
    match stored {
        Ok(()) => Published::Stored,
        Err(error) if is_deleted(&error) => Published::Deleted,
        Err(error) if error.code == ErrorCode::QueueFull => Published::Full,
        Err(error) if error.code.is_retriable() => Published::Unknown,
        Err(error) => Published::Refused(error.message.into()),
    }
}

/// The records of a batch that was built here.
fn records_of(batch: Bytes) -> Vec<BatchRecord> {
    let Ok((batch, _)) = RecordBatch::parse(batch) else { return Vec::new() };
    let Ok(records) = batch.records(usize::MAX) else { return Vec::new() };
    records.filter_map(|record| Some(record.ok()?.record)).collect()
}

fn tell(outcome: &Published, receipts: Vec<Receipt>) {
    receipts.into_iter().for_each(|receipt| receipt.tell(outcome.clone()));
}

/// A batch that was handed to its partition, in its place among the others.
enum Sent {
    Known(Published),
    Pending(plimsoll_replication::PendingProduce),
}

impl Sent {
    async fn with(self, receipts: Vec<Receipt>) -> Outcome {
        let outcome = match self {
            Self::Known(outcome) => outcome,
            Self::Pending(pending) => match timeout(ANSWER_MAX, pending).await {
                Ok(Ok(_)) => Published::Stored,
                Ok(Err(error)) => failed(&error),
                Err(_) => Published::Unknown,
            },
        };
        (outcome, receipts)
    }
}

async fn store(partition: Partition, batch: Bytes) -> Sent {
    let header = BatchHeader::parse(&batch).expect("a batch that was just built");
    match partition.group.produce(batch, header).await {
        Ok(pending) => Sent::Pending(pending),
        Err(error) => Sent::Known(failed(&error)),
    }
}

fn failed(error: &ProduceError) -> Published {
    match error {
        ProduceError::Group(OpenGroupError::Deleted { .. }) => Published::Deleted,
        _ => Published::Unknown,
    }
}

/// Limits of the format itself: what a message may have AMQP's session has checked.
pub(super) fn limits() -> BatchLimits {
    BatchLimits {
        batch_bytes_max: u32::MAX,
        headers_per_record_max: u32::MAX,
        ..BatchLimits::default()
    }
}

/// Takes at most `most` records off the front into a batch, those under this lock, or under none; those that fit
/// none are left without.
fn batch_of(
    taken: &mut Vec<Item>,
    most: usize,
    fence: Option<&Arc<str>>,
) -> (Option<Bytes>, Vec<Receipt>) {
    let mut builder = BatchBuilder::new(limits());
    let mut count = 0;
    for item in taken.iter().take(most) {
        let is_full = !builder.is_empty() && builder.bytes() >= BATCH_BYTES;
        if is_full || item.record.fence.as_ref() != fence {
            break;
        }
        match push(&mut builder, &item.record) {
            Ok(PushOutcome::Added) => count += 1,
            Ok(PushOutcome::Full) => break,
            // Alone, so that only its own publisher hears of it.
            Err(_) if count == 0 => {
                return (None, vec![taken.remove(0).receipt]);
            }
            Err(_) => break,
        }
    }
    let receipts = taken.drain(..count).map(|item| item.receipt).collect();
    (Some(builder.finish(ProducerId::NONE, 0, 0, Compression::None)), receipts)
}

pub(super) fn push(
    builder: &mut BatchBuilder,
    record: &Record,
) -> Result<PushOutcome, plimsoll_protocol::batch::PushError> {
    // Names are the gateway's own, or those of a record before.
    let named = record.headers.iter().map(|(name, value)| {
        let name = std::str::from_utf8(name).unwrap_or_default();
        (name, &**value)
    });
    let headers: Vec<(&str, &[u8])> = named.collect();
    builder.push(RecordView {
        value: Some(&record.value),
        headers: HeadersView::Pairs(&headers),
        timestamp_ms: record.timestamp_ms,
        deliver_at_ms: record.deliver_at_ms,
        expires_at_ms: record.expires_at_ms,
        priority: record.priority,
        ..RecordView::default()
    })
}
