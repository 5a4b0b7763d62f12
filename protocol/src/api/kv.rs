//! A compacted topic as a map: the last record of each key is its value, the record's offset its revision.
//!
//! A key belongs to one partition, as for a producer: by its hash. A watch is a subscription.

use bytes::Bytes;

use crate::api::{Done, Fence, Isolation, request};
use crate::ids::{Offset, PartitionIndex, TopicName};
use crate::wire::{wire_choice, wire_struct};

wire_struct! {
    /// Asks for the value of a key.
    pub struct KvGetRequest {
        /// The topic.
        pub topic: TopicName,
        /// The partition that the key belongs to.
        pub partition: PartitionIndex,
        /// The key.
        pub key: Bytes,
        /// What the read may have missed.
        pub isolation: Isolation,
        /// Any replica may answer; otherwise only the leader does.
        pub any_replica: bool,
    }
}

wire_struct! {
    /// What a key has; the value is the payload.
    pub struct KvGetResponse {
        /// None: the key has no value.
        pub found: Option<KvMeta>,
        /// Up to here the answer knows the log: a watch from here on misses nothing.
        pub upto: Offset,
    }
}

wire_struct! {
    /// What is known of a value beside its bytes.
    pub struct KvMeta {
        /// The record's offset: larger than that of every value that the key had before.
        pub revision: Offset,
        /// When the leader took it, in milliseconds since 1970 (UTC).
        pub written_ms: i64,
        /// How long it still lives, in milliseconds; none: until it is changed.
        pub ttl_left_ms: Option<u64>,
    }
}

request!(KvGetRequest, KvGet, 1 -> KvGetResponse);

wire_choice! {
    /// What must be true of a key for a change of it.
    pub enum KvCondition as "condition" {
        /// Nothing.
        Always(Done) = 0,
        /// It has no value.
        Absent(Done) = 1,
        /// Its value has this revision.
        Revision(Offset) = 2,
        /// It has a value.
        Present(Done) = 3,
    }
}

wire_struct! {
    /// Changes one key: the payload is a batch of one record, a tombstone deletes. Its time to live is
    /// `expires-at` less its timestamp, counted by the leader's clock from when it took it.
    pub struct KvPutRequest {
        /// The topic.
        pub topic: TopicName,
        /// The partition that the key belongs to.
        pub partition: PartitionIndex,
        /// What must be true of the key.
        pub condition: KvCondition,
        /// The lock under which it is made.
        pub fence: Option<Fence>,
    }
}

wire_struct! {
    /// The change is stored.
    pub struct KvPutResponse {
        /// Its revision.
        pub revision: Offset,
        /// What the key had before, where it had a value.
        pub before: Option<Offset>,
        /// Whether it was stored before, by the same request of the same producer.
        pub duplicate: bool,
    }
}

request!(KvPutRequest, KvPut, 1 -> KvPutResponse);

wire_struct! {
    /// Lists keys of one partition, in their order.
    pub struct KvScanRequest {
        /// The topic.
        pub topic: TopicName,
        /// The partition.
        pub partition: PartitionIndex,
        /// Only keys that begin with this.
        pub prefix: Bytes,
        /// Only keys behind this one: the last of the page before.
        pub after: Option<Bytes>,
        /// How many at most.
        pub count_max: u32,
        /// Leave the values out.
        pub keys_only: bool,
        /// What the read may have missed.
        pub isolation: Isolation,
        /// Any replica may answer; otherwise only the leader does.
        pub any_replica: bool,
    }
}

wire_struct! {
    /// Keys and values, as many as one answer holds.
    pub struct KvScanResponse {
        /// In the order of the keys.
        pub entries: Vec<KvEntry>,
        /// There are more behind the last one of these.
        pub has_more: bool,
        /// Up to here the answer knows the log: a watch from here on misses nothing.
        pub upto: Offset,
    }
}

wire_struct! {
    /// A key with its value.
    pub struct KvEntry {
        /// The key.
        pub key: Bytes,
        /// Its value; empty where only keys were asked for.
        pub value: Bytes,
        /// What is known of it.
        pub meta: KvMeta,
    }
}

request!(KvScanRequest, KvScan, 1 -> KvScanResponse);
