//! Readers of streams: a task for each carries the log from an offset on to its connection, read at this
//! node's replica where it has one, else at the leader.
//!
//! Invariant: each record comes once and in order, whoever leads. What the connection does not take is not
//! read.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use plimsoll_amqp::routing::StreamStart;
use plimsoll_amqp_gateway::backend::{
    AttachError, Attachment, BoxFuture, ConsumerEnd, Delivery, Pulled, QueueError, Settled,
};
use plimsoll_amqp_gateway::catalog::QueueEntry;
use plimsoll_amqp_gateway::inbox::{ConsumerPort, Detached};
use plimsoll_amqp_gateway::message::Stored;
use plimsoll_protocol::api::{
    FetchRequest, FetchResponse, Isolation, ListOffsetsRequest, StartPosition,
};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::{Offset, PartitionIndex, TopicName};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::backend::{queue_error, topic_of};
use crate::broker::Broker;
use crate::native::{fetch_here, offsets_here};
use crate::queues::{DECOMPRESSED_BYTES_MAX, batches};
use crate::refusals;

const PARTITION: PartitionIndex = PartitionIndex(0);
/// How long a reader waits after a failure, at first and at most.
const AGAIN: Duration = Duration::from_millis(50);
const AGAIN_MAX: Duration = Duration::from_secs(1);
/// Bytes of one read.
const READ_BYTES: u32 = 256 << 10;
/// How long one read waits at the end of the stream.
const READ_WAIT_MS: u32 = 5_000;

/// A reader that goes on until it is let go.
struct Reading(Mutex<Option<JoinHandle<()>>>);

/// Begins a reader.
///
/// # Errors
/// [`AttachError`].
pub(super) async fn attach(
    broker: Arc<Broker>,
    queue: &QueueEntry,
    start: StreamStart,
    port: ConsumerPort,
) -> Result<Arc<dyn Attachment>, AttachError> {
    let topic = topic_of(queue)?;
    let next = first_offset(&broker, &topic, start).await.map_err(|error| queue_error(&error))?;
    let reader = Reader { broker, topic, next, port, prefers_leader: false };
    let task = tokio::spawn(reader.run());
    Ok(Arc::new(Reading(Mutex::new(Some(task)))))
}

/// How many messages a stream has.
///
/// # Errors
/// [`QueueError`].
pub(super) async fn length(broker: &Arc<Broker>, queue: &QueueEntry) -> Result<u64, QueueError> {
    let ends = ends(broker, &topic_of(queue)?).await;
    let (first, end) = ends.map_err(|error| queue_error(&error))?;
    Ok(end.0 - first.0)
}

/// The offsets of positions, as the leader knows them.
async fn offsets(
    broker: &Arc<Broker>,
    topic: &TopicName,
    positions: &[StartPosition],
) -> Result<Vec<Offset>, ErrorResponse> {
    let positions = positions.to_vec();
    let request = ListOffsetsRequest { topic: topic.clone(), partition: PARTITION, positions };
    let (response, _) = broker.ask_leader(&request, || offsets_here(broker, &request)).await?;
    Ok(response.offsets)
}

/// The first offset that can be read, and the one behind the last.
async fn ends(broker: &Arc<Broker>, topic: &TopicName) -> Result<(Offset, Offset), ErrorResponse> {
    let ends = offsets(broker, topic, &[StartPosition::Earliest, StartPosition::Latest]).await?;
    match *ends {
        // The first may have moved in between.
        [first, end] => Ok((first.min(end), end)),
        _ => Err(refusals::bug("two positions have other than two offsets")),
    }
}

/// Where a reader begins. An offset that is not there (any more) is the nearest one, as in RabbitMQ.
async fn first_offset(
    broker: &Arc<Broker>,
    topic: &TopicName,
    start: StreamStart,
) -> Result<Offset, ErrorResponse> {
    let (first, end) = ends(broker, topic).await?;
    let from_time = async |ms: i64| {
        let found = offsets(broker, topic, &[StartPosition::Time(ms)]).await?;
        Ok(found.first().map_or(end, |offset| *offset.max(&first)))
    };
    match start {
        StreamStart::First => Ok(first),
        StreamStart::Next => Ok(end),
        StreamStart::Last => Ok(Offset(end.0.saturating_sub(1)).max(first)),
        StreamStart::Offset(offset) => Ok(Offset(offset).clamp(first, end)),
        StreamStart::Time(ms) => from_time(ms).await,
        StreamStart::Age(ms) => {
            let now = broker.host().clock().unix_ms();
            from_time(now.saturating_sub_unsigned(ms)).await
        }
    }
}

struct Reader {
    broker: Arc<Broker>,
    topic: TopicName,
    next: Offset,
    port: ConsumerPort,
    /// The replica here is behind what was read already.
    prefers_leader: bool,
}

impl Reader {
    /// Reads until the stream is deleted, the node stops, or nobody takes it any more.
    async fn run(mut self) {
        let mut again = AGAIN;
        let mut stopping = self.broker.stopping();
        loop {
            let read = tokio::select! {
                biased;
                () = stopping.wait() => return,
                read = self.read() => read,
            };
            let error = match read {
                Ok((response, payload)) => {
                    again = AGAIN;
                    match self.pass_on(payload).await {
                        Ok(()) => {
                            self.next = self.next.max(response.next_offset);
                            continue;
                        }
                        Err(Stop::Detached(Detached)) => return,
                        Err(Stop::Unreadable(error)) => error,
                    }
                }
                Err(error) => error,
            };
            if self.broker.catalog().topic(&self.topic).is_none() {
                return self.port.end(ConsumerEnd::Deleted);
            }
            self.learn(&error);
            if error.code.is_retriable() || error.code == ErrorCode::OffsetOutOfRange {
                tracing::debug!(topic = %self.topic, next = %self.next, %error, "a stream is read again");
            } else {
                tracing::warn!(topic = %self.topic, next = %self.next, %error, "a stream cannot be read");
            }
            tokio::select! {
                biased;
                () = stopping.wait() => return,
                () = sleep(again) => {}
            }
            again = (again * 2).min(AGAIN_MAX);
        }
    }

    async fn read(&self) -> Result<(FetchResponse, Vec<Bytes>), ErrorResponse> {
        let request = FetchRequest {
            topic: self.topic.clone(),
            partition: PARTITION,
            from: self.next,
            max_bytes: READ_BYTES,
            max_wait_ms: READ_WAIT_MS,
            isolation: Isolation::Committed,
            max_staleness_ms: None,
            any_replica: !self.prefers_leader,
        };
        self.broker.ask_once(&request, fetch_here(&self.broker, &request)).await
    }

    /// What has gone below the start of the log is passed over, as in RabbitMQ. Where a replica does not have
    /// yet what was read at another one, the leader is asked.
    fn learn(&mut self, error: &ErrorResponse) {
        self.prefers_leader = false;
        if error.code == ErrorCode::OffsetOutOfRange {
            let nearest = Offset(error.offset.unwrap_or(0));
            self.prefers_leader = nearest <= self.next;
            self.next = self.next.max(nearest);
        }
    }

    /// Passes on the records of batches, but for those before the next one.
    async fn pass_on(&mut self, payload: Vec<Bytes>) -> Result<(), Stop> {
        for batch in batches(payload) {
            let records = batch.and_then(|batch| batch.records(DECOMPRESSED_BYTES_MAX));
            for record in records.map_err(unreadable)? {
                let placed = record.map_err(unreadable)?;
                if placed.offset < self.next {
                    continue;
                }
                let (offset, record) = (placed.offset, placed.record);
                let headers = record.headers.into_iter().map(|header| (header.name, header.value));
                let value = record.value.unwrap_or_default();
                let stored = Stored::new(value, record.timestamp_ms, headers);
                let delivery = Delivery { offset: offset.0, attempt: 1, record: stored };
                self.port.send(delivery).await.map_err(Stop::Detached)?;
                self.next = Offset(offset.0 + 1);
            }
        }
        Ok(())
    }
}

/// Why batches are not passed on to their end.
enum Stop {
    Detached(Detached),
    Unreadable(ErrorResponse),
}

fn unreadable(error: impl std::fmt::Display) -> Stop {
    Stop::Unreadable(refusals::bug(&format!("a stored batch: {error}")))
}

impl Reading {
    fn end(&self) {
        let task = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        task.inspect(JoinHandle::abort);
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.end();
    }
}

impl Attachment for Reading {
    /// Only the client's window learns of it.
    fn settle(&self, _settled: Vec<Settled>) {}

    fn settle_durably(&self, _settled: Vec<Settled>) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn pull(&self) -> BoxFuture<'_, Result<Option<Pulled>, QueueError>> {
        let reason = "messages of a stream are not taken one by one".to_owned();
        Box::pin(std::future::ready(Err(QueueError::Unavailable { reason })))
    }

    fn retire(&self) -> BoxFuture<'_, u32> {
        self.detach()
    }

    /// A stream does not go with its last reader: how many are left is not counted.
    fn detach(&self) -> BoxFuture<'_, u32> {
        self.end();
        Box::pin(std::future::ready(1))
    }
}
