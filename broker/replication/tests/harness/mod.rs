//! A node's groups over a real directory, with batches to hand in and records to read back.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]

pub mod cluster;
pub mod simulated;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use plimsoll_log::disk::real::{OpenDiskError, OpenOptions, RealDisk};
use plimsoll_log::{Driver, Durability, GroupOptions, ReadStep, Store, StoreConfig};
use plimsoll_protocol::batch::{
    BatchBuilder, BatchHeader, BatchLimits, Compression, PushOutcome, RecordView, iterate_batches,
};
use plimsoll_protocol::ids::{GroupId, NodeId, Offset, ProducerId};
use plimsoll_replication::{
    Clock, Group, GroupKind, Host, HostConfig, PendingProduce, ProduceError, Produced,
};

pub const DURABLE: GroupOptions =
    GroupOptions { durability: Durability::Durable, segment_bytes: 1 << 20 };
pub const MEMORY: GroupOptions =
    GroupOptions { durability: Durability::Memory, segment_bytes: 1 << 20 };
pub const PARTITION: GroupId = GroupId(1);

/// A clock that stands still until it is moved; the wall clock counts its readings.
#[derive(Debug, Default)]
pub struct TestClock {
    readings: AtomicI64,
    monotonic: Mutex<Duration>,
}

impl TestClock {
    pub fn advance(&self, by: Duration) {
        *self.monotonic.lock().expect("not poisoned") += by;
    }
}

impl Clock for TestClock {
    fn unix_ms(&self) -> i64 {
        1_000_000 + self.readings.fetch_add(1, Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        *self.monotonic.lock().expect("not poisoned")
    }
}

/// Small files, so that a test rolls and checkpoints, in little space.
pub fn small_store() -> StoreConfig {
    StoreConfig {
        journal_file_bytes: 4 << 20,
        journal_bytes_max: 16 << 20,
        free_bytes_min: 1 << 20,
        ..StoreConfig::default()
    }
}

/// One life of a node.
pub struct Node {
    pub host: Arc<Host>,
    pub clock: Arc<TestClock>,
    pub directory: Arc<tempfile::TempDir>,
}

impl Node {
    pub fn new() -> Self {
        let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
        let disk = RealDisk::open(directory.path(), OpenOptions::default());
        Self::over(directory, disk.expect("the directory is free"))
    }

    fn over(directory: Arc<tempfile::TempDir>, disk: RealDisk) -> Self {
        let on_fatal = Box::new(|error: &plimsoll_log::FatalError| panic!("{error}"));
        let store = Store::open(Arc::new(disk), small_store(), Driver::Threads, on_fatal)
            .expect("the store opens");
        let clock = Arc::new(TestClock::default());
        let host = Host::new(store, NodeId(1), clock.clone(), HostConfig::default());
        Self { host, clock, directory }
    }

    /// A new life, once the old one has let go of the directory.
    async fn again(directory: Arc<tempfile::TempDir>, old: Weak<Store>) -> Self {
        while old.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
        loop {
            match RealDisk::open(directory.path(), OpenOptions::default()) {
                Ok(disk) => return Self::over(directory, disk),
                Err(OpenDiskError::Locked(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub async fn partition(&self) -> Arc<Group> {
        self.group(PARTITION, DURABLE).await
    }

    pub async fn group(&self, id: GroupId, options: GroupOptions) -> Arc<Group> {
        self.host.group(id, GroupKind::of(id), options).await.expect("the group wakes")
    }

    /// Shuts down in order and starts again.
    pub async fn restart(self) -> Self {
        self.host.shutdown().await;
        self.host.store().close();
        self.end().await
    }

    /// Ends as a killed process and starts again: no state is stored, no checkpoint is made.
    pub async fn kill(self) -> Self {
        self.host.abort().await;
        self.end().await
    }

    async fn end(self) -> Self {
        let old = Arc::downgrade(self.host.store());
        let Self { host, directory, .. } = self;
        drop(host);
        Self::again(directory, old).await
    }
}

/// A producer's numbering in one partition.
#[derive(Debug, Clone)]
pub struct Producer {
    pub id: ProducerId,
    pub epoch: u32,
    pub next: u64,
}

impl Producer {
    pub fn new(id: u64) -> Self {
        Self { id: ProducerId(id), epoch: 0, next: 0 }
    }

    /// The next batch, of these values.
    pub fn batch(&mut self, values: &[&str]) -> Bytes {
        let batch = batch_of(self.id, self.epoch, self.next, values);
        self.next += values.len() as u64;
        batch
    }

    /// The next batch, of one record with a key.
    pub fn keyed(&mut self, key: &str, value: &str) -> Bytes {
        let record = RecordView { key: Some(key.as_bytes()), ..RecordView::new(value.as_bytes()) };
        let mut builder = BatchBuilder::new(BatchLimits::default());
        assert_eq!(builder.push(record).expect("a small record"), PushOutcome::Added);
        self.next += 1;
        builder.finish(self.id, self.epoch, self.next - 1, Compression::None)
    }
}

pub fn batch_of(id: ProducerId, epoch: u32, base_sequence: u64, values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(BatchLimits::default());
    for value in values {
        let pushed = builder.push(RecordView::new(value.as_bytes())).expect("a small record");
        assert_eq!(pushed, PushOutcome::Added);
    }
    builder.finish(id, epoch, base_sequence, Compression::None)
}

pub async fn propose(group: &Arc<Group>, batch: &Bytes) -> Result<PendingProduce, ProduceError> {
    let header = BatchHeader::parse(batch).expect("a whole batch");
    group.produce(batch.clone(), header).await
}

pub async fn produce(group: &Arc<Group>, batch: &Bytes) -> Result<Produced, ProduceError> {
    propose(group, batch).await?.await
}

/// The values from `from` up to the high watermark, by offset.
pub fn read_all(group: &Group, from: Offset) -> BTreeMap<u64, String> {
    let upto = *group.high_watermark().borrow();
    let mut cursor = group.log().cursor(from);
    let mut found = BTreeMap::new();
    loop {
        match group.log().read(&mut cursor, upto, 1 << 20).expect("readable") {
            ReadStep::CaughtUp => return found,
            ReadStep::Cold(range) => range.load().expect("readable"),
            ReadStep::Batches { chunks, .. } => {
                // A batch may lie in two chunks: its header and its body.
                for batch in iterate_batches(Bytes::from(chunks.concat())) {
                    let batch = batch.expect("a whole batch");
                    for record in batch.records(1 << 20).expect("readable records") {
                        let record = record.expect("a whole record");
                        let value = record.record.value.expect("every record has a value");
                        let text = String::from_utf8(value.to_vec()).expect("text");
                        found.insert(record.offset.0, text);
                    }
                }
            }
        }
    }
}

pub fn values(group: &Group) -> Vec<String> {
    read_all(group, Offset(0)).into_values().collect()
}
