//! The producer: records in, acknowledgements out.

mod completion;
mod driver;
mod lane;
mod options;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use plimsoll_protocol::api::{AckLevel, Fence, InitProducerRequest, ProducerIdentity};
use plimsoll_protocol::batch::{BatchBuilder, BatchLimits, Compression, Record, RecordView};
use plimsoll_protocol::ids::TopicName;
use tokio::sync::{Semaphore, TryAcquireError};

pub use completion::{Ack, AckFuture};
pub use options::ProducerOptions;

use crate::client::Shared;
use crate::error::{BuildError, SendError};
use crate::metadata::Interest;
use crate::partitioner::{Chooser, Partitioner};
use crate::requests::Repeat;
use driver::{Driver, Shares};
use lane::Lane;

/// What a record costs of the buffer beside its bytes: its length fields and its waiting future.
const RECORD_OVERHEAD_BYTES: usize = 48;

/// Configures a [`Producer`].
#[derive(Clone)]
pub struct ProducerBuilder {
    shared: Arc<Shared>,
    topic: String,
    options: ProducerOptions,
}

impl ProducerBuilder {
    pub(crate) fn new(shared: Arc<Shared>, topic: String) -> Self {
        Self { shared, topic, options: ProducerOptions::default() }
    }

    /// Replaces all options.
    #[must_use]
    pub fn options(mut self, options: ProducerOptions) -> Self {
        self.options = options;
        self
    }

    /// See [`ProducerOptions::acks`].
    #[must_use]
    pub fn acks(mut self, acks: AckLevel) -> Self {
        self.options.acks = acks;
        self
    }

    /// See [`ProducerOptions::compression`].
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.options.compression = compression;
        self
    }

    /// See [`ProducerOptions::partitioner`].
    #[must_use]
    pub fn partitioner(mut self, partitioner: Partitioner) -> Self {
        self.options.partitioner = partitioner;
        self
    }

    /// See [`ProducerOptions::linger`].
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.options.linger = linger;
        self
    }

    /// See [`ProducerOptions::batch_bytes`].
    #[must_use]
    pub fn batch_bytes(mut self, batch_bytes: usize) -> Self {
        self.options.batch_bytes = batch_bytes;
        self
    }

    /// See [`ProducerOptions::batch_records`].
    #[must_use]
    pub fn batch_records(mut self, batch_records: u32) -> Self {
        self.options.batch_records = batch_records;
        self
    }

    /// See [`ProducerOptions::fence`].
    #[must_use]
    pub fn fence(mut self, fence: Fence) -> Self {
        self.options.fence = Some(fence);
        self
    }

    /// Looks the topic up and gets a producer id.
    ///
    /// # Errors
    /// An unknown topic, an option out of bounds, a partitioner that does not fit, no connection.
    pub async fn build(self) -> Result<Producer, BuildError> {
        let mut options = self.options;
        options.check()?;
        let topic = TopicName::internal(&self.topic)
            .map_err(|error| BuildError::Option { option: "topic", reason: format!("{error}") })?;
        let described = self.shared.topic(&topic).await?;
        let identity =
            self.shared.request(InitProducerRequest { existing: None }, Repeat::Freely).await?;
        let interest = self.shared.take_interest(&topic).await;
        let node_limit =
            self.shared.links.any(None).await.map_err(crate::error::RequestError::from)?;
        let batch_bytes_max =
            described.config.batch_bytes_max.min(node_limit.hello().batch_bytes_max);
        let limits = BatchLimits { batch_bytes_max, ..BatchLimits::default() };
        options.batch_bytes = options.batch_bytes.min(batch_bytes_max as usize);
        if self.shared.is_bounded_queue(&topic).await {
            // A batch is taken as a whole or not at all: each message is looked at by itself.
            options.batch_records = 1;
        }
        let chooser =
            Chooser::new(options.partitioner.clone(), described.partitions, self.shared.seed())?;
        let mut lanes = Vec::new();
        lanes.resize_with(described.partitions as usize, OnceLock::new);
        let room = Arc::new(Semaphore::new(options.buffer_bytes));
        Ok(Producer {
            inner: Arc::new(Inner {
                shared: self.shared,
                topic,
                options: Arc::new(options),
                limits,
                identity,
                interest,
                lanes,
                chooser: Arc::new(Mutex::new(chooser)),
                room,
                closed: AtomicBool::new(false),
                shares: Shares::default(),
            }),
        })
    }
}

/// Sends records to one topic. Cloning is cheap; when the last clone is dropped, what was sent is
/// still delivered in the background, so [`Producer::close`] it to know the outcome.
///
/// Idempotence is always on: a batch that is sent again after a lost answer is stored once, and the
/// records of a partition keep the order in which they were given to one producer.
#[derive(Clone)]
pub struct Producer {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    topic: TopicName,
    options: Arc<ProducerOptions>,
    limits: BatchLimits,
    identity: ProducerIdentity,
    interest: Arc<Interest>,
    /// One per partition, made by the first record for it.
    lanes: Vec<OnceLock<Arc<Lane>>>,
    chooser: Arc<Mutex<Chooser>>,
    /// A permit per byte of the buffer.
    room: Arc<Semaphore>,
    closed: AtomicBool,
    shares: Shares,
}

impl Producer {
    /// Sends a record and waits until it is acknowledged.
    ///
    /// A record whose `timestamp_ms` is 0 gets the current time.
    ///
    /// # Errors
    /// See [`SendError`]; [`SendError::is_definite`] says whether it is certainly not stored.
    pub async fn send(&self, record: Record) -> Result<Ack, SendError> {
        self.enqueue(record).await?.await
    }

    /// Queues a record, waiting for room in the buffer, and gives the future of its
    /// acknowledgement. Queue many, then await them together.
    ///
    /// # Errors
    /// When the record fits no batch or the producer is closed.
    pub async fn enqueue(&self, record: Record) -> Result<AckFuture, SendError> {
        let partition = self.choose(record.key.as_deref());
        self.enqueue_to(partition, &record).await
    }

    /// Sends a record to a partition of the caller's choice and waits for the acknowledgement.
    ///
    /// # Errors
    /// As [`Producer::send`].
    pub async fn send_to(&self, partition: u32, record: Record) -> Result<Ack, SendError> {
        self.enqueue_to(partition, &record).await?.await
    }

    /// Queues a record for a partition of the caller's choice.
    ///
    /// # Errors
    /// As [`Producer::enqueue`].
    pub async fn enqueue_to(
        &self,
        partition: u32,
        record: &Record,
    ) -> Result<AckFuture, SendError> {
        let held_bytes = self.held_bytes(record);
        let permits = u32::try_from(held_bytes).unwrap_or(u32::MAX);
        let permit = self.inner.room.acquire_many(permits).await.map_err(|_| SendError::Closed)?;
        let future = self.push(partition, record, permits as usize)?;
        // They come back with the batch's outcome.
        permit.forget();
        Ok(future)
    }

    /// As [`Producer::enqueue`], without waiting.
    ///
    /// # Errors
    /// [`SendError::BufferFull`] when there is no room now.
    pub fn try_enqueue(&self, record: &Record) -> Result<AckFuture, SendError> {
        let partition = self.choose(record.key.as_deref());
        let held_bytes = self.held_bytes(record);
        let permits = u32::try_from(held_bytes).unwrap_or(u32::MAX);
        let permit = self.inner.room.try_acquire_many(permits).map_err(|error| match error {
            TryAcquireError::Closed => SendError::Closed,
            TryAcquireError::NoPermits => {
                SendError::BufferFull { limit: self.inner.options.buffer_bytes }
            }
        })?;
        let future = self.push(partition, record, permits as usize)?;
        permit.forget();
        Ok(future)
    }

    /// Queues a batch that the caller built, as it is: one request, one acknowledgement (with the
    /// offset of its first record).
    ///
    /// # Errors
    /// As [`Producer::enqueue`].
    pub async fn enqueue_batch(
        &self,
        partition: u32,
        batch: BatchBuilder,
    ) -> Result<AckFuture, SendError> {
        if batch.is_empty() {
            return Err(SendError::TooLarge("a batch without records".into()));
        }
        let lane = self.lane(partition)?;
        let held_bytes = batch.bytes().min(self.inner.options.buffer_bytes);
        let permits = u32::try_from(held_bytes).unwrap_or(u32::MAX);
        let permit = self.inner.room.acquire_many(permits).await.map_err(|_| SendError::Closed)?;
        let future = lane.push_batch(batch, permits as usize)?;
        permit.forget();
        Ok(future)
    }

    /// An empty batch within the limits of topic and node, for [`Producer::enqueue_batch`].
    pub fn batch_builder(&self, capacity_bytes: usize) -> BatchBuilder {
        BatchBuilder::with_capacity(self.inner.limits.clone(), capacity_bytes)
    }

    /// Waits until everything queued so far has its outcome.
    ///
    /// # Errors
    /// The first failure since the last flush, of records whose future may have been dropped.
    pub async fn flush(&self) -> Result<(), SendError> {
        let mut first = Ok(());
        for lane in self.inner.lanes.iter().filter_map(OnceLock::get) {
            let flushed = lane.flush().await;
            if first.is_ok() {
                first = flushed;
            }
        }
        first
    }

    /// Flushes and ends the producer; later sends are refused.
    ///
    /// # Errors
    /// As [`Producer::flush`].
    pub async fn close(self) -> Result<(), SendError> {
        self.inner.close();
        self.flush().await
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        self.inner.topic.as_str()
    }

    /// Partitions of the topic when the producer was built.
    pub fn partitions(&self) -> u32 {
        self.inner.lanes.len() as u32
    }

    fn choose(&self, key: Option<&[u8]>) -> u32 {
        self.inner.chooser.lock().expect("no code panics while it holds this lock").choose(key)
    }

    /// What a record holds of the buffer; never more than all of it, so that it can be had.
    fn held_bytes(&self, record: &Record) -> usize {
        let optional = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
        let headers: usize = record
            .headers
            .iter()
            .map(|header| header.name.as_str().len() + header.value.len() + 8)
            .sum();
        let bytes = optional(&record.key) + optional(&record.value) + optional(&record.group_key);
        (bytes + headers + RECORD_OVERHEAD_BYTES).min(self.inner.options.buffer_bytes)
    }

    fn push(
        &self,
        partition: u32,
        record: &Record,
        held_bytes: usize,
    ) -> Result<AckFuture, SendError> {
        let mut view = RecordView::from(record);
        if view.timestamp_ms == 0 {
            view.timestamp_ms = self.inner.shared.unix_ms();
        }
        self.lane(partition)?.push(&view, held_bytes)
    }

    fn lane(&self, partition: u32) -> Result<&Arc<Lane>, SendError> {
        let inner = &self.inner;
        let partitions = inner.lanes.len() as u32;
        let lane = inner
            .lanes
            .get(partition as usize)
            .ok_or(SendError::UnknownPartition { partition, partitions })?;
        if inner.closed.load(Ordering::Acquire) {
            return Err(SendError::Closed);
        }
        if let Some(stale) = inner.shares.stale.get() {
            return Err(stale.clone());
        }
        Ok(lane.get_or_init(|| {
            let lane = Lane::new(
                partition,
                Arc::clone(&inner.options),
                inner.limits.clone(),
                Arc::clone(&inner.room),
                Arc::clone(&inner.chooser),
            );
            Driver::start(
                Arc::clone(&inner.shared),
                Arc::clone(&lane),
                Arc::clone(&inner.options),
                inner.topic.clone(),
                inner.identity.clone(),
                Arc::clone(&inner.interest),
                inner.shares.clone(),
            );
            lane
        }))
    }
}

impl Inner {
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for lane in self.lanes.iter().filter_map(OnceLock::get) {
            lane.close();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("topic", &self.inner.topic).finish_non_exhaustive()
    }
}
