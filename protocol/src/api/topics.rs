//! Topics: listing, showing, creating, changing, deleting.

use crate::api::{Done, TopicConfig, request};
use crate::ids::{GroupId, NodeId, Offset, PartitionIndex, Term, TopicName};
use crate::wire::{wire_enum, wire_struct};

wire_enum! {
    /// What an acknowledgement of a topic's records means.
    pub enum Durability as "durability" {
        /// On stable storage.
        Durable = 0 / "durable",
        /// In memory: a killed process loses nothing, a power failure loses what was not yet written
        /// back.
        Memory = 1 / "memory",
    }
}

wire_struct! {
    /// Lists topics in the order of their names, page by page.
    pub struct ListTopicsRequest {
        /// Only names that begin with this.
        pub prefix: Option<String>,
        /// Only names behind this one: the last name of the page before.
        pub after: Option<TopicName>,
    }
}

wire_struct! {
    /// The topics, as many as one answer holds.
    pub struct ListTopicsResponse {
        /// One per topic.
        pub topics: Vec<TopicInfo>,
        /// There are more behind the last one of these.
        pub has_more: bool,
    }
}

request!(ListTopicsRequest, ListTopics, 1 -> ListTopicsResponse);

wire_struct! {
    /// Shows a topic and some of its partitions.
    pub struct DescribeTopicRequest {
        /// The topic.
        pub topic: TopicName,
        /// The first partition to show.
        pub first_partition: PartitionIndex,
        /// How many to show at most; the node shows fewer where they do not fit one answer. 0: only
        /// the topic.
        pub partitions_max: u32,
    }
}

wire_struct! {
    /// A topic and some of its partitions.
    pub struct DescribeTopicResponse {
        /// The topic; it says how many partitions there are.
        pub topic: TopicInfo,
        /// One per partition, in order, from the one that was asked for on.
        pub partitions: Vec<PartitionInfo>,
    }
}

request!(DescribeTopicRequest, DescribeTopic, 1 -> DescribeTopicResponse);

wire_struct! {
    /// Creates a topic.
    pub struct CreateTopicRequest {
        /// Its name.
        pub topic: TopicName,
        /// How many partitions, at least 1.
        pub partitions: u32,
        /// How many replicas of each. 0: 3, or one on each node where there are fewer.
        pub replicas: u16,
        /// Its configuration; the node checks the bounds.
        pub config: TopicConfig,
        /// Answer with the topic as it is when it exists already.
        pub if_not_exists: bool,
    }
}

request!(CreateTopicRequest, CreateTopic, 1 -> TopicInfo);

wire_struct! {
    /// Changes a topic. All changes take effect together or none does.
    pub struct AlterTopicRequest {
        /// The topic.
        pub topic: TopicName,
        /// The new number of partitions; it can only grow.
        pub partitions: Option<u32>,
        /// Changes of the configuration.
        pub changes: Vec<ConfigChange>,
    }
}

wire_struct! {
    /// One change of a topic's configuration.
    pub struct ConfigChange {
        /// The key, as in [`crate::api::TOPIC_CONFIG_KEYS`].
        pub key: String,
        /// The value as people write it; `None` goes back to the default.
        pub value: Option<String>,
    }
}

request!(AlterTopicRequest, AlterTopic, 1 -> TopicInfo);

wire_struct! {
    /// Deletes a topic with its records.
    pub struct DeleteTopicRequest {
        /// The topic.
        pub topic: TopicName,
    }
}

request!(DeleteTopicRequest, DeleteTopic, 1 -> Done);

wire_struct! {
    /// What a topic is.
    pub struct TopicInfo {
        /// Its name.
        pub name: TopicName,
        /// Its number, never used again.
        pub topic_id: u64,
        /// How many partitions.
        pub partitions: u32,
        /// How many replicas of each.
        pub replicas: u16,
        /// Its configuration.
        pub config: TopicConfig,
        /// When it was created, in milliseconds since 1970 (UTC).
        pub created_ms: i64,
    }
}

wire_enum! {
    /// Whether a partition is at work.
    pub enum PartitionCondition as "partition condition" {
        /// It has a leader and takes requests.
        Awake = 0 / "awake",
        /// Nobody uses it; the next request wakes it.
        Asleep = 1 / "asleep",
        /// It showed damage and is shut off until it is repaired.
        Quarantined = 2 / "quarantined",
    }
}

wire_struct! {
    /// Where a partition stands, as the answering node knows it.
    pub struct PartitionInfo {
        /// The partition.
        pub partition: PartitionIndex,
        /// Its Raft group.
        pub group_id: GroupId,
        /// Its leader, when there is one.
        pub leader: Option<NodeId>,
        /// The leader's term.
        pub term: Term,
        /// The first offset that can still be read.
        pub log_start_offset: Offset,
        /// The offset after the last committed record.
        pub high_watermark: Offset,
        /// The offset the next record will get.
        pub log_end_offset: Offset,
        /// Size of its segments.
        pub bytes: u64,
        /// Number of its segments.
        pub segments: u32,
        /// Whether it is at work.
        pub condition: PartitionCondition,
        /// Where its replicas belong, the preferred leader first.
        pub replicas: Vec<NodeId>,
        /// How far it is compacted here, of a compacted topic.
        pub compaction: Option<CompactionInfo>,
    }
}

wire_struct! {
    /// How far a partition is compacted on the answering node.
    pub struct CompactionInfo {
        /// Below this offset only the last record of each key is left.
        pub compacted_to: Offset,
        /// Size of what is compacted.
        pub compacted_bytes: u64,
        /// Size of what is not, the segment that is written to included.
        pub waiting_bytes: u64,
        /// When the last compaction ended, in milliseconds since 1970 (UTC); none since the node began.
        pub last_ms: Option<i64>,
        /// Size of what the last compaction read.
        pub last_bytes_before: u64,
        /// Size of what it left of that.
        pub last_bytes_after: u64,
        /// A compaction is under way.
        pub running: bool,
    }
}
