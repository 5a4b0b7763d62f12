//! The cluster as a client needs it: which nodes there are, and which of them leads what.

use crate::api::request;
use crate::ids::{GroupId, NodeId, PartitionIndex, Term, TopicName};
use crate::wire::{wire_enum, wire_struct};

wire_enum! {
    /// Where a node is between joining and leaving.
    pub enum NodeState as "node state" {
        /// It has its id, and still copies the catalog. It gets no replicas.
        Joining = 0 / "joining",
        /// It holds replicas and is given new ones.
        Active = 1 / "active",
        /// Its replicas are moved away and it is given no new ones.
        Draining = 2 / "draining",
        /// It is no member any more. Its id is never used again.
        Removed = 3 / "removed",
    }
}

wire_struct! {
    /// Asks for the nodes, and for the partitions of some topics.
    pub struct MetadataRequest {
        /// The topics whose partitions are wanted; none: only the nodes.
        pub topics: Vec<TopicName>,
        /// The first partition to show of the first of these topics; the others are shown from 0 on.
        pub first_partition: PartitionIndex,
    }
}

wire_struct! {
    /// The nodes, and as many partitions as one answer holds. What is left out is asked for again: a
    /// topic that is neither in `topics` nor `unknown`, and the rest of a topic whose last partition
    /// shown is not its last one.
    pub struct MetadataResponse {
        /// The cluster.
        pub cluster_id: String,
        /// The catalog's epoch that the answer shows: it grows with each change of nodes, topics and
        /// placement, on all nodes alike.
        pub epoch: u64,
        /// The node that leads the catalog, when known.
        pub controller: Option<NodeId>,
        /// The members, by id; no removed ones.
        pub nodes: Vec<NodeInfo>,
        /// In the order of the request.
        pub topics: Vec<TopicMetadata>,
        /// Topics of the request that do not exist.
        pub unknown: Vec<TopicName>,
    }
}

request!(MetadataRequest, Metadata, 1 -> MetadataResponse);

wire_struct! {
    /// A node as a client sees it.
    pub struct NodeInfo {
        /// The node.
        pub node: NodeId,
        /// Host and port where clients reach it.
        pub address: String,
        /// Where it stands; a consumer may prefer a replica of its own rack.
        pub rack: Option<String>,
        /// Between joining and leaving.
        pub state: NodeState,
    }
}

wire_struct! {
    /// A topic's partitions, in order, from the first that was asked for on.
    pub struct TopicMetadata {
        /// The topic.
        pub topic: TopicName,
        /// Its number, never used again.
        pub topic_id: u64,
        /// How many partitions it has.
        pub partitions_total: u32,
        /// Those that one answer holds.
        pub partitions: Vec<PartitionMetadata>,
    }
}

wire_struct! {
    /// Where a partition is, as the answering node knows it.
    pub struct PartitionMetadata {
        /// The partition.
        pub partition: PartitionIndex,
        /// Its Raft group.
        pub group_id: GroupId,
        /// Whom to ask: its leader, or the node that will lead it once it is woken.
        pub leader: Option<NodeId>,
        /// The leader's term; 0 where it is not known. An answer with a lower term is older.
        pub term: Term,
        /// Where its replicas belong, the preferred leader first.
        pub replicas: Vec<NodeId>,
    }
}

wire_struct! {
    /// Waits until the catalog's epoch is above one that the client has seen. Answered then, or after
    /// 30 s with the epoch as it is. Over QUIC it is sent on a stream of its own.
    pub struct WatchMetadataRequest {
        /// The epoch that the client has seen.
        pub epoch: u64,
    }
}

wire_struct! {
    /// The epoch now.
    pub struct WatchMetadataResponse {
        /// Above that of the request, when something has changed.
        pub epoch: u64,
    }
}

request!(WatchMetadataRequest, WatchMetadata, 1 -> WatchMetadataResponse);
