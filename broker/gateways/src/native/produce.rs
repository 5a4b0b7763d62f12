//! Storing batches: checked, admitted in order, answered when they have got as far as was asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use plimsoll_protocol::api::{
    AckLevel, Fence, InitProducerRequest, LOCKS_PREFIX, ProduceRequest, ProduceResponse,
    ProducerIdentity, Request,
};
use plimsoll_protocol::batch::{
    BatchError, BatchHeader, BatchLimits, Compression, RecordBatch, validate_produced,
};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::frame::{Frame, FrameHeader, encode_error, encode_response};
use plimsoll_protocol::ids::{CorrelationId, Offset, PartitionIndex, TopicName};
use plimsoll_replication::{FencePass, PendingProduce, ProduceError, Produced};
use plimsoll_state::catalog::Catalog;
use plimsoll_transport::HeldRoom;
use tokio::sync::watch;
use tokio::time::timeout;

use super::outbox::OutFrame;
use super::session::{Broken, Room, Session};
use super::stream::{Answer, Stop, Stream, done};
use crate::broker::{Broker, Partition};
use crate::queues::Admitted;
use crate::refusals;
use crate::routing::Access;

/// What a produce request costs of the bytes in flight besides its payload: the memory that follows
/// it around. So tiny batches are bounded too.
const REQUEST_BYTES: usize = 1024;
/// Checking more than this, in bytes of records, takes longer than a connection's turn should.
const CHECKED_IN_PLACE_BYTES_MAX: u32 = 2 << 20;
/// Partitions that one stream remembers.
const LANES_MAX: usize = 4096;
/// How long a batch may wait for a majority. Beyond, its outcome is called unknown, which it is: while
/// it waits it takes room that other partitions' batches want.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The partitions that a stream produces to, looked up once.
#[derive(Default)]
pub(super) struct Lanes {
    partitions: BTreeMap<(TopicName, PartitionIndex), Partition>,
    catalog: Option<watch::Receiver<Arc<Catalog>>>,
}

impl Lanes {
    async fn partition(
        &mut self,
        broker: &Broker,
        topic: &TopicName,
        partition: PartitionIndex,
    ) -> Result<Partition, ErrorResponse> {
        let catalog = self.catalog.get_or_insert_with(|| broker.catalog_changes());
        // An error says that the catalog is gone; the look-up below says so, too.
        if catalog.has_changed().unwrap_or(true) {
            catalog.mark_unchanged();
            self.partitions.clear();
        }
        let key = (topic.clone(), partition);
        if let Some(partition) = self.partitions.get(&key) {
            return Ok(partition.clone());
        }
        let found = broker.partition(topic, partition, Access::Leader).await?;
        if self.partitions.len() >= LANES_MAX {
            self.partitions.clear();
        }
        self.partitions.insert(key, found.clone());
        Ok(found)
    }
}

/// A request with a batch, and the room that it takes until it is answered.
pub(super) struct TakenIn<R> {
    pub(super) header: FrameHeader,
    pub(super) request: R,
    pub(super) payload: Bytes,
    pub(super) room: Room,
}

/// Reads a request that carries a batch, and waits for room for it; one that cannot be read is refused.
pub(super) async fn take_in<R: Request>(
    stream: &Stream,
    frame: Frame,
    received_in: Option<HeldRoom>,
) -> Result<Option<TakenIn<R>>, Stop> {
    let header = frame.header;
    let request = match frame.decode_body::<R>() {
        Ok(request) => request,
        Err(error) => {
            drop((frame, received_in));
            stream.refuse(&header, &error.into()).await?;
            return Ok(None);
        }
    };
    let bytes = frame.payload.len() + REQUEST_BYTES;
    let Ok(room) = stream.session.room(bytes, received_in).await else {
        return Err(Stop::Broken(Broken::unread(&stream.session.broker, &header)));
    };
    Ok(Some(TakenIn { header, request, payload: frame.payload, room }))
}

/// Takes one produce request in; the answer follows by the outbox.
pub(super) async fn produce(
    stream: &mut Stream,
    frame: Frame,
    received_in: Option<HeldRoom>,
) -> Result<(), Stop> {
    let Some(TakenIn { header, request, payload, room }) =
        take_in::<ProduceRequest>(stream, frame, received_in).await?
    else {
        return Ok(());
    };
    let (batch, partition, pending, admitted) = match admit(stream, &request, payload).await {
        Ok(admitted) => admitted,
        Err(error) => return Ok(stream.refuse(&header, &error).await?),
    };
    let reply = Reply {
        session: Arc::clone(&stream.session),
        topic: request.topic,
        partition: request.partition,
        header,
        batch,
        durability: partition.durability,
        room,
        _admitted: admitted,
    };
    if request.acks == AckLevel::None {
        // Offset and time are not known yet: none are told.
        let taken = ProduceResponse {
            base_offset: Offset(0),
            reached: AckLevel::None,
            durability: partition.durability,
            duplicate: false,
            append_time_ms: 0,
        };
        let head = encode_response::<ProduceRequest>(header.correlation, &taken, 0).freeze();
        stream.outbox.send(OutFrame::head(head)).await?;
        stream.spawn(async move {
            if let Err(error) = outcome(pending).await {
                tracing::debug!(topic = %reply.topic, %error, "an unacknowledged batch was lost");
            }
            drop(reply);
        });
        return Ok(());
    }
    let reply = Box::pin(async move {
        let outcome = outcome(pending).await;
        reply.frame(outcome)
    });
    Ok(stream.outbox.send_when_ready(reply)?)
}

/// The outcome of a batch, as far as it is known in time. A leader that is cut off from its majority
/// has none to tell.
async fn outcome(
    pending: impl Future<Output = Result<Produced, ProduceError>>,
) -> Result<Produced, ProduceError> {
    timeout(ANSWER_MAX, pending).await.unwrap_or(Err(ProduceError::Unknown))
}

/// Checks a batch and hands it to its partition.
async fn admit(
    stream: &mut Stream,
    request: &ProduceRequest,
    batch: Bytes,
) -> Result<(BatchHeader, Partition, PendingProduce, Option<Admitted>), ErrorResponse> {
    let broker = Arc::clone(&stream.session.broker);
    broker.check_space()?;
    let (topic, index) = (&request.topic, request.partition);
    let partition = stream.lanes.partition(&broker, topic, index).await?;
    let checked =
        check(&stream.session, &batch, &partition.batch_limits, partition.is_compacted).await;
    let header = checked.map_err(|unfit| unfit.refusal(topic, index))?;
    // What is sent again is answered as the first time, however full the queue is now.
    let mut admitted = None;
    if partition.queue.is_some() && !partition.group.is_known(&header) {
        let messages = header.record_count.into();
        let admitting =
            broker.admit_to_queue(topic, index, &partition, messages, || has_delayed(&batch));
        admitted = admitting.await?;
    }
    let pass = match pass(&broker, topic, &partition, &header, request.fence.as_ref()).await? {
        Passed::Known(outcome) => return Ok((header, partition, outcome, admitted)),
        Passed::Write(pass) => pass,
    };
    match partition.group.produce_under(batch, header, pass.as_ref()).await {
        Ok(pending) => Ok((header, partition, pending, admitted)),
        Err(error) => Err(broker.located(refusals::produce(&error, topic, index))),
    }
}

/// What becomes of a batch by the lock that it is written under.
pub(super) enum Passed {
    /// It may be written: under this pass, where it shows a fence.
    Write(Option<FencePass>),
    /// The lock is lost, and it was stored before, or is in flight: its outcome is that of the first time.
    Known(PendingProduce),
}

/// Lets a batch pass under the lock that it is written under, where it is.
///
/// # Errors
/// Where the lock is lost, or one is required.
pub(super) async fn pass(
    broker: &Arc<Broker>,
    topic: &TopicName,
    partition: &Partition,
    header: &BatchHeader,
    fence: Option<&Fence>,
) -> Result<Passed, ErrorResponse> {
    check_writable(topic)?;
    let Some(fence) = fence else {
        return match partition.require_fence {
            true => Err(refusals::fence_required(topic)),
            false => Ok(Passed::Write(None)),
        };
    };
    match broker.judge_fence(&partition.group, fence).await {
        Ok(pass) => Ok(Passed::Write(Some(pass))),
        // Asked behind the refusal: by now everything that is stored is folded here.
        Err(error) if error.code == ErrorCode::StaleFence => {
            let outcome = partition.group.outcome_of(header).await;
            outcome.map(Passed::Known).ok_or_else(|| broker.fence_refused(fence, error))
        }
        Err(error) => Err(error),
    }
}

/// What happened to locks only their keeper writes.
fn check_writable(topic: &TopicName) -> Result<(), ErrorResponse> {
    if topic.as_str().starts_with(LOCKS_PREFIX) {
        let message =
            format!("{topic} tells what happened to locks: it can be read, and not written");
        return Err(ErrorResponse::new(ErrorCode::InvalidTopicName, message));
    }
    Ok(())
}

/// Whether some record of a batch waits for its time. Of a batch that cannot be read none does: it is
/// refused for that.
fn has_delayed(batch: &Bytes) -> bool {
    let records = RecordBatch::parse(batch.clone())
        .and_then(|(batch, _)| batch.records(BatchLimits::default().records_bytes_max as usize));
    let mut records = records.into_iter().flatten();
    records.any(|record| record.is_ok_and(|found| found.record.deliver_at_ms.is_some()))
}

/// Why a batch is not stored as it is.
#[derive(Debug)]
pub(super) enum Unfit {
    /// It is not one that keeps the limits.
    Batch(BatchError),
    /// A record has no key, and the topic is compacted.
    Keyless {
        /// Which of its records.
        number: u64,
    },
}

impl From<BatchError> for Unfit {
    fn from(error: BatchError) -> Self {
        Self::Batch(error)
    }
}

impl Unfit {
    /// What the producer is told.
    pub(super) fn refusal(&self, topic: &TopicName, partition: PartitionIndex) -> ErrorResponse {
        match self {
            Self::Batch(error) => refusals::batch(error, topic, partition),
            Self::Keyless { number } => refusals::keyless(topic, partition, *number),
        }
    }
}

/// Checks a batch, and that each record has a key where it must be `keyed`.
pub(super) async fn check(
    session: &Session,
    batch: &Bytes,
    limits: &BatchLimits,
    keyed: bool,
) -> Result<BatchHeader, Unfit> {
    let claimed = BatchHeader::parse(batch)?;
    let work = match claimed.compression {
        Compression::None => u32::try_from(batch.len()).unwrap_or(u32::MAX),
        _ => claimed.records_bytes,
    };
    // Those that are checked in place are one per thread at most: they take no room.
    if work <= CHECKED_IN_PLACE_BYTES_MAX || batch.len() > limits.batch_bytes_max as usize {
        return check_here(batch, limits, keyed);
    }
    let room = match claimed.compression {
        Compression::None => None,
        _ => Some(session.checking_room(work).await),
    };
    let (batch, limits) = (batch.clone(), limits.clone());
    let check = move || {
        let checked = check_here(&batch, &limits, keyed);
        // Here, because the thread goes on when whoever waits for it does not.
        drop(room);
        checked
    };
    session.broker.host().blocking().run(check).await
}

fn check_here(batch: &Bytes, limits: &BatchLimits, keyed: bool) -> Result<BatchHeader, Unfit> {
    let header = validate_produced(batch, limits)?;
    if keyed {
        let (batch, _) = RecordBatch::parse(batch.clone())?;
        let mut records = batch.records(limits.records_bytes_max as usize)?;
        let mut number = 0;
        while let Some(record) = records.next_view() {
            if record?.1.key.is_none() {
                return Err(Unfit::Keyless { number });
            }
            number += 1;
        }
    }
    Ok(header)
}

/// What the answer to a produce request needs to know.
struct Reply {
    session: Arc<Session>,
    topic: TopicName,
    partition: PartitionIndex,
    header: FrameHeader,
    batch: BatchHeader,
    durability: plimsoll_protocol::api::Durability,
    room: Room,
    /// Its place in a queue that takes so many and no more.
    _admitted: Option<Admitted>,
}

impl Reply {
    fn frame(self, outcome: Result<Produced, ProduceError>) -> OutFrame {
        let counters = self.session.broker.counters();
        let head = match outcome {
            Ok(produced) => {
                counters.batches_produced.add(1);
                counters.records_produced.add(u64::from(self.batch.record_count));
                counters.bytes_produced.add(u64::from(self.batch.batch_length));
                counters.batches_repeated.add(u64::from(produced.duplicate));
                response(self.header.correlation, &produced, self.durability)
            }
            Err(error) => {
                counters.requests_refused.add(1);
                let error = refusals::produce(&error, &self.topic, self.partition);
                let error = self.session.broker.located(error);
                encode_error(&self.header, &error).freeze()
            }
        };
        // Others may use the node's room from now on; the connection's own is taken until the peer
        // has let the answer be written.
        let permit = Some(self.room.keep_connection());
        OutFrame { head, payload: Vec::new(), permit }
    }
}

fn response(
    correlation: CorrelationId,
    produced: &Produced,
    durability: plimsoll_protocol::api::Durability,
) -> Bytes {
    let response = ProduceResponse {
        base_offset: produced.base_offset,
        reached: produced.reached,
        durability,
        duplicate: produced.duplicate,
        append_time_ms: produced.append_time_ms,
    };
    encode_response::<ProduceRequest>(correlation, &response, 0).freeze()
}

/// Gives a producer its id, or its next epoch.
pub(super) async fn init_producer(
    session: Arc<Session>,
    request: InitProducerRequest,
) -> Result<Answer<InitProducerRequest>, ErrorResponse> {
    match request.existing {
        Some(ProducerIdentity { producer_id, .. }) if !producer_id.is_some() => {
            Err(ErrorResponse::new(
                ErrorCode::InvalidArgument,
                "producer 0 means none: ask without an existing producer for a new id",
            ))
        }
        Some(ProducerIdentity { producer_id, epoch }) => match epoch.checked_add(1) {
            Some(epoch) => done(ProducerIdentity { producer_id, epoch }),
            None => done(session.broker.new_producer().await?),
        },
        None => done(session.broker.new_producer().await?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_never_gets_a_majority_gives_its_room_back_with_an_unknown_outcome() {
        let never = std::future::pending();
        assert!(matches!(outcome(never).await, Err(ProduceError::Unknown)));
    }
}
