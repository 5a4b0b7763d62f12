//! A compacted topic as a map: a key's value is its last record, the record's offset its revision.
//!
//! ```text
//!  mod         the handle: reading and changing single keys
//!  entry       a key with its value, its revision, and what happens to it
//!  error       what goes wrong
//!  lanes       producer identities, so that a change that is sent again is stored once
//!  put         the way of one change to the leader of its partition
//!  scan        keys in their order, over all partitions
//!  watch       what happens to keys, from a revision on or behind a scan
//!  near_cache  values in memory that a watch keeps fresh
//! ```
//!
//! A key belongs to the partition that the default partitioner of a producer gives it. Raising the number of
//! partitions moves keys, so the number of a map's partitions should stay.

mod entry;
mod error;
mod lanes;
mod near_cache;
mod put;
mod scan;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use plimsoll_protocol::api::{
    Done, Fence, Isolation, KvCondition, KvGetRequest, KvPutRequest, KvPutResponse,
};
use plimsoll_protocol::batch::{BatchLimits, Record};
use plimsoll_protocol::ids::{Offset, PartitionIndex, TopicName};
use tokio::sync::OnceCell;

use crate::client::Shared;
use crate::consumer::ConsumerBuilder;
use crate::error::{BuildError, RequestError};
use crate::metadata::Interest;
use crate::partitioner::partition_of_key;
use crate::pulse::Owed;
pub use entry::{Deleted, Entry, KvEvent, Revision};
pub use error::KvError;
use lanes::Lanes;
pub use near_cache::{Cached, Freshness, NearCache, NearCacheOptions, WhenStale};
pub use scan::Scan;
pub use watch::{Watch, WatchFrom, WatchItem};

/// A map of keys and values. Cloning is cheap; clones may be used at once.
///
/// Reads see everything that was acknowledged before ([`Kv::stale`] reads what any replica has). Changes are
/// as durable as the topic says when they return, and are stored once, however often they are sent again. A
/// change whose future is dropped before it is done may be stored or not.
#[derive(Clone)]
pub struct Kv {
    inner: Arc<Inner>,
    any_replica: bool,
    fence: Option<Fence>,
    ttl: Option<Duration>,
}

struct Inner {
    shared: Arc<Shared>,
    topic: String,
    /// Looked up when it is used first.
    map: OnceCell<Map>,
}

/// A topic that is used as a map.
struct Map {
    shared: Arc<Shared>,
    topic: TopicName,
    partitions: u32,
    limits: BatchLimits,
    /// Keeps the topic's partitions known.
    _interest: Arc<Interest>,
    lanes: Lanes,
}

impl Kv {
    pub(crate) fn new(shared: Arc<Shared>, topic: String) -> Self {
        let inner = Arc::new(Inner { shared, topic, map: OnceCell::new() });
        Self { inner, any_replica: false, fence: None, ttl: None }
    }

    /// The same map, read from any replica: sooner, and perhaps without what was acknowledged a moment ago.
    #[must_use]
    pub fn stale(&self) -> Self {
        Self { any_replica: true, ..self.clone() }
    }

    /// The same map, changed under a lock: once a later holder of the lock was seen, changes are refused
    /// ([`KvError::StaleFence`]).
    #[must_use]
    pub fn with_fence(&self, fence: Fence) -> Self {
        Self { fence: Some(fence), ..self.clone() }
    }

    /// The same map, with values that live so long, by the leader's clock, in whole milliseconds.
    #[must_use]
    pub fn with_ttl(&self, ttl: Duration) -> Self {
        Self { ttl: Some(ttl), ..self.clone() }
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.inner.topic
    }

    /// The value of a key; `None` where it has none.
    ///
    /// # Errors
    /// An unknown topic, one that is not compacted, no connection, no majority.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Entry>, KvError> {
        Ok(self.look_up(key.as_ref()).await?.found)
    }

    /// Gives a key a value, whatever it has.
    ///
    /// # Errors
    /// See [`KvError`]; [`KvError::is_definite`] says whether it is certainly not stored.
    pub async fn put(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
    ) -> Result<Revision, KvError> {
        self.set(key.as_ref(), value.into(), KvCondition::Always(Done {})).await
    }

    /// Gives a key a value, where it has none.
    ///
    /// # Errors
    /// [`KvError::Conflict`] where it has one; else as [`Kv::put`].
    pub async fn put_if_absent(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
    ) -> Result<Revision, KvError> {
        self.set(key.as_ref(), value.into(), KvCondition::Absent(Done {})).await
    }

    /// Gives a key a value, where it has any.
    ///
    /// # Errors
    /// [`KvError::Conflict`] where it has none; else as [`Kv::put`].
    pub async fn put_if_present(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
    ) -> Result<Revision, KvError> {
        self.set(key.as_ref(), value.into(), KvCondition::Present(Done {})).await
    }

    /// Gives a key a value, where it has the one of this revision.
    ///
    /// # Errors
    /// [`KvError::Conflict`] where it has another or none; else as [`Kv::put`].
    pub async fn compare_and_set(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
        expected: Revision,
    ) -> Result<Revision, KvError> {
        self.set(key.as_ref(), value.into(), KvCondition::Revision(expected.into())).await
    }

    /// Takes a key's value away, whatever it has. One that has none is deleted again. What it had is not known
    /// where the answer to the first attempt was lost.
    ///
    /// # Errors
    /// As [`Kv::put`].
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<Deleted, KvError> {
        let done = self.change(key.as_ref(), None, KvCondition::Always(Done {})).await?;
        let (revision, before) = (done.revision.into(), done.before.map(Revision::from));
        Ok(Deleted { revision, before })
    }

    /// Takes a key's value away, where it is the one of this revision. The revision of the deletion.
    ///
    /// # Errors
    /// [`KvError::Conflict`] where it has another or none; else as [`Kv::put`].
    pub async fn delete_if(
        &self,
        key: impl AsRef<[u8]>,
        expected: Revision,
    ) -> Result<Revision, KvError> {
        let condition = KvCondition::Revision(expected.into());
        Ok(self.change(key.as_ref(), None, condition).await?.revision.into())
    }

    /// All keys that begin with this, in their order. Each page of a partition is read by itself: keys that
    /// are changed meanwhile are seen before or after their change.
    pub fn scan(&self, prefix: impl AsRef<[u8]>) -> Scan {
        Scan::new(self.clone(), Bytes::copy_from_slice(prefix.as_ref()))
    }

    /// What happens to the keys that begin with this.
    ///
    /// # Errors
    /// An unknown topic or partition, no connection. What goes wrong later comes through [`Watch::next`].
    pub async fn watch(&self, prefix: impl AsRef<[u8]>, from: WatchFrom) -> Result<Watch, KvError> {
        Watch::of_prefix(self.clone(), Bytes::copy_from_slice(prefix.as_ref()), from).await
    }

    /// What happens to one key: only its partition is read.
    ///
    /// # Errors
    /// As [`Kv::watch`].
    pub async fn watch_key(
        &self,
        key: impl AsRef<[u8]>,
        from: WatchFrom,
    ) -> Result<Watch, KvError> {
        Watch::of_key(self.clone(), Bytes::copy_from_slice(key.as_ref()), from).await
    }

    /// What the topic keeps of a key, the oldest first: what was before is gone by compaction. Reads the
    /// key's partition from its begin to its end.
    ///
    /// # Errors
    /// An unknown topic, no connection, damaged records.
    pub async fn history(&self, key: impl AsRef<[u8]>) -> Result<Vec<KvEvent>, KvError> {
        let key = key.as_ref();
        let map = self.map().await?;
        let mut consumer = self
            .consumer()
            .partitions([map.partition_of(key).0])
            .isolation(Isolation::Linearizable)
            .bounded()
            .build()
            .await?;
        let mut kept = Vec::new();
        while let Some(consumed) = consumer.next().await {
            let consumed = consumed?;
            if consumed.record.key.as_deref() == Some(key) {
                let (partition, offset) = (consumed.partition, consumed.offset);
                let written_ms = consumed.append_time_ms;
                kept.extend(KvEvent::of_record(partition, offset, written_ms, consumed.record));
            }
        }
        Ok(kept)
    }

    /// Values in memory, with the defaults: see [`Kv::near_cache_with`].
    #[must_use]
    pub fn near_cache(&self, prefix: impl AsRef<[u8]>) -> NearCache {
        self.near_cache_with(prefix, NearCacheOptions::default())
    }

    /// Values of the keys that begin with this in memory, which a watch keeps fresh. It loads in the
    /// background, from now on.
    #[must_use]
    pub fn near_cache_with(
        &self,
        prefix: impl AsRef<[u8]>,
        options: NearCacheOptions,
    ) -> NearCache {
        NearCache::start(self.clone(), Bytes::copy_from_slice(prefix.as_ref()), options)
    }

    /// The partition that a key belongs to.
    ///
    /// # Errors
    /// An unknown topic, no connection.
    pub async fn partition_of(&self, key: impl AsRef<[u8]>) -> Result<u32, KvError> {
        Ok(self.map().await?.partition_of(key.as_ref()).0)
    }

    async fn look_up(&self, key: &[u8]) -> Result<LookedUp, KvError> {
        let map = self.map().await?;
        let (partition, topic) = (map.partition_of(key), map.topic.clone());
        let key = Bytes::copy_from_slice(key);
        let (isolation, any_replica) = self.reading();
        let request = KvGetRequest { topic, partition, key: key.clone(), isolation, any_replica };
        let (answer, value) = if any_replica {
            map.shared.request_replica(&map.topic, partition, request, Owed::Answer).await?
        } else {
            map.shared.request_leader(&map.topic, partition, request, Owed::Answer).await?
        };
        let found = answer.found.map(|meta| Entry::new(key, value, &meta));
        Ok(LookedUp { found, partition: partition.0, upto: answer.upto })
    }

    fn reading(&self) -> (Isolation, bool) {
        match self.any_replica {
            true => (Isolation::Committed, true),
            false => (Isolation::Linearizable, false),
        }
    }

    fn consumer(&self) -> ConsumerBuilder {
        ConsumerBuilder::new(Arc::clone(&self.inner.shared), self.inner.topic.clone())
    }

    async fn set(
        &self,
        key: &[u8],
        value: Bytes,
        condition: KvCondition,
    ) -> Result<Revision, KvError> {
        Ok(self.change(key, Some(value), condition).await?.revision.into())
    }

    async fn change(
        &self,
        key: &[u8],
        value: Option<Bytes>,
        condition: KvCondition,
    ) -> Result<KvPutResponse, KvError> {
        let map = self.map().await?;
        let (topic, partition, fence) =
            (map.topic.clone(), map.partition_of(key), self.fence.clone());
        let request = KvPutRequest { topic, partition, condition, fence };
        let timestamp_ms = map.shared.unix_ms();
        let lives = |ttl: Duration| i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        // A deletion lives for ever.
        let ttl = self.ttl.filter(|_| value.is_some());
        let expires_at_ms = ttl.map(|ttl| timestamp_ms.saturating_add(lives(ttl)));
        let key = Some(Bytes::copy_from_slice(key));
        let record = Record { key, value, timestamp_ms, expires_at_ms, ..Record::default() };
        let mut writer = map.lanes.take(map, partition.0).await;
        writer.put(map, &request, &record).await
    }

    async fn map(&self) -> Result<&Map, KvError> {
        self.inner.map.get_or_try_init(|| self.inner.look_up()).await
    }
}

/// What a read of a key came to.
struct LookedUp {
    found: Option<Entry>,
    partition: u32,
    /// Up to here the answer knows the log.
    upto: Offset,
}

impl Inner {
    async fn look_up(&self) -> Result<Map, KvError> {
        let shared = &self.shared;
        let topic = TopicName::internal(&self.topic)
            .map_err(|error| BuildError::Option { option: "topic", reason: error.to_string() })?;
        let described = shared.topic(&topic).await?;
        let interest = shared.take_interest(&topic).await;
        let link = shared.links.any(None).await.map_err(RequestError::from)?;
        let batch_bytes_max = described.config.batch_bytes_max.min(link.hello().batch_bytes_max);
        Ok(Map {
            shared: Arc::clone(shared),
            topic,
            partitions: described.partitions.max(1),
            limits: BatchLimits { batch_bytes_max, ..BatchLimits::default() },
            _interest: interest,
            lanes: Lanes::default(),
        })
    }
}

impl Map {
    fn partition_of(&self, key: &[u8]) -> PartitionIndex {
        PartitionIndex(partition_of_key(key, self.partitions))
    }
}

impl std::fmt::Debug for Kv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kv").field("topic", &self.inner.topic).finish_non_exhaustive()
    }
}
