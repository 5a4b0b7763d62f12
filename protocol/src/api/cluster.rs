//! Watching the cluster, and changing what it is made of. Each request is answered by any node.

use crate::api::{NodeState, request};
use crate::ids::{NodeId, PartitionIndex, Term, TopicName};
use crate::wire::wire_struct;

wire_struct! {
    /// Asks how the cluster is.
    pub struct ClusterStatusRequest {}
}

wire_struct! {
    /// The cluster as the answering node sees it. Lists of partitions are cut where they do not fit
    /// one answer; the totals beside them are whole.
    pub struct ClusterStatusResponse {
        /// The cluster.
        pub cluster_id: String,
        /// The node that answers: `up`, `last_heard_ms` and `clock_offset_ms` are its view.
        pub answered_by: NodeId,
        /// The catalog's epoch.
        pub epoch: u64,
        /// The node that leads the catalog, when there is one.
        pub controller: Option<NodeId>,
        /// The nodes by id; no removed ones.
        pub nodes: Vec<ClusterNode>,
        /// How many topics there are.
        pub topics: u32,
        /// How many partitions there are.
        pub partitions: u32,
        /// Partitions that lack something, the worst first.
        pub unwell: Vec<UnwellPartition>,
        /// How many partitions lack something.
        pub unwell_total: u32,
        /// Replicas on their way.
        pub moves: Vec<MoveProgress>,
        /// How many partitions are not yet where they belong.
        pub moves_total: u32,
        /// What an operator should know: what happened, what is at risk, what to do.
        pub warnings: Vec<String>,
    }
}

request!(ClusterStatusRequest, ClusterStatus, 1 -> ClusterStatusResponse);

wire_struct! {
    /// A node as an operator sees it.
    pub struct ClusterNode {
        /// The node.
        pub node: NodeId,
        /// Host and port.
        pub address: String,
        /// Where it stands.
        pub rack: Option<String>,
        /// Its share of the replicas, in hundredths: 100 is the usual one.
        pub weight_hundredths: u32,
        /// Between joining and leaving.
        pub state: NodeState,
        /// Whether the answering node hears it. A node hears itself.
        pub up: bool,
        /// Milliseconds since it was heard; none: not since the answering node started.
        pub last_heard_ms: Option<u64>,
        /// Its wall clock less that of the answering node, in milliseconds.
        pub clock_offset_ms: Option<i64>,
        /// Its version, for people.
        pub version: String,
        /// How many partitions it leads.
        pub leaders: u32,
        /// How many replicas belong on it.
        pub replicas: u32,
        /// Size of the segments it holds, when known.
        pub bytes: Option<u64>,
    }
}

wire_struct! {
    /// A partition that lacks something.
    pub struct UnwellPartition {
        /// The topic.
        pub topic: TopicName,
        /// The partition.
        pub partition: PartitionIndex,
        /// Its leader, when there is one.
        pub leader: Option<NodeId>,
        /// Where its replicas belong.
        pub replicas: Vec<NodeId>,
        /// Those of them that have what is committed.
        pub in_sync: Vec<NodeId>,
        /// Entries that the furthest behind of the others lacks.
        pub lag: u64,
        /// What it lacks, and what helps.
        pub why: String,
    }
}

wire_struct! {
    /// A partition whose replicas move.
    pub struct MoveProgress {
        /// The topic.
        pub topic: TopicName,
        /// The partition.
        pub partition: PartitionIndex,
        /// Where its replicas are.
        pub from: Vec<NodeId>,
        /// Where they belong.
        pub to: Vec<NodeId>,
        /// The step under way.
        pub step: String,
        /// Bytes copied so far.
        pub bytes_done: u64,
        /// Bytes to copy.
        pub bytes_total: u64,
    }
}

wire_struct! {
    /// Asks what a rebalance would do, and does nothing.
    pub struct ClusterPlanRequest {}
}

wire_struct! {
    /// What is to be moved.
    pub struct ClusterPlanResponse {
        /// The partitions whose replicas change, cut where they do not fit one answer.
        pub changes: Vec<PlannedChange>,
        /// How many partitions change.
        pub changes_total: u32,
        /// How many replicas are to be copied.
        pub replicas_moved: u32,
        /// How many replicas there are.
        pub replicas_total: u32,
        /// About how many bytes that is, where sizes are known.
        pub bytes: u64,
        /// Replicas per node, before and after.
        pub loads: Vec<PlannedLoad>,
    }
}

request!(ClusterPlanRequest, ClusterPlan, 1 -> ClusterPlanResponse);

wire_struct! {
    /// A partition whose replicas change.
    pub struct PlannedChange {
        /// The topic.
        pub topic: TopicName,
        /// The partition.
        pub partition: PartitionIndex,
        /// Where its replicas belong now.
        pub from: Vec<NodeId>,
        /// Where they will belong.
        pub to: Vec<NodeId>,
    }
}

wire_struct! {
    /// A node's replicas before and after.
    pub struct PlannedLoad {
        /// The node.
        pub node: NodeId,
        /// How many replicas belong on it now.
        pub before: u32,
        /// How many will.
        pub after: u32,
    }
}

wire_struct! {
    /// Moves replicas to where they belong. Answered when that is decided; the moves follow.
    pub struct RebalanceRequest {}
}

request!(RebalanceRequest, Rebalance, 1 -> ClusterPlanResponse);

wire_struct! {
    /// Moves everything away from a node, or lets it have replicas again.
    pub struct DrainNodeRequest {
        /// The node.
        pub node: NodeId,
        /// Off: it may have replicas again; what was moved stays where it is until a rebalance.
        pub on: bool,
    }
}

request!(DrainNodeRequest, DrainNode, 1 -> ClusterPlanResponse);

wire_struct! {
    /// Takes a node out of the cluster for good. A live node must be drained first; the replicas of a
    /// dead one are replaced.
    pub struct RemoveNodeRequest {
        /// The node.
        pub node: NodeId,
        /// Also where replicas would be lost, as long as no group loses its quorum.
        pub force: bool,
    }
}

wire_struct! {
    /// What the removal does.
    pub struct RemoveNodeResponse {
        /// Whether the node is out; else it is when the moves below are done.
        pub removed: bool,
        /// Replicas that are made anew elsewhere.
        pub plan: ClusterPlanResponse,
    }
}

request!(RemoveNodeRequest, RemoveNode, 1 -> RemoveNodeResponse);

wire_struct! {
    /// Hands the leadership of a partition to another replica.
    pub struct TransferLeaderRequest {
        /// The topic.
        pub topic: TopicName,
        /// The partition.
        pub partition: PartitionIndex,
        /// To whom; none: to the preferred one of the others.
        pub to: Option<NodeId>,
    }
}

wire_struct! {
    /// Who leads now.
    pub struct TransferLeaderResponse {
        /// The leader.
        pub leader: NodeId,
        /// Its term.
        pub term: Term,
    }
}

request!(TransferLeaderRequest, TransferLeader, 1 -> TransferLeaderResponse);

wire_struct! {
    /// Asks for what a new node needs to join.
    pub struct JoinTokenRequest {}
}

wire_struct! {
    /// What a new node needs to join.
    pub struct JoinTokenResponse hides token {
        /// The token. Whoever has it can add a node.
        pub token: String,
        /// Addresses that may be given to `--join`.
        pub addresses: Vec<String>,
    }
}

request!(JoinTokenRequest, JoinToken, 1 -> JoinTokenResponse);
