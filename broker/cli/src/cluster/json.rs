//! The cluster in JSON, for scripts. Times in ms, sizes in bytes, null for what is not known.

use plimsoll_protocol::api::{
    ClusterNode, ClusterPlanResponse, ClusterStatusResponse, JoinTokenResponse, MoveProgress,
    PlannedChange, PlannedLoad, RemoveNodeResponse, TransferLeaderResponse, UnwellPartition,
};
use plimsoll_protocol::ids::NodeId;
use serde::Serialize;

fn ids(nodes: &[NodeId]) -> Vec<u64> {
    nodes.iter().map(|node| node.0).collect()
}

#[derive(Debug, Serialize)]
pub(super) struct StatusJson<'a> {
    cluster_id: &'a str,
    answered_by: u64,
    epoch: u64,
    controller: Option<u64>,
    topics: u32,
    partitions: u32,
    nodes: Vec<NodeJson<'a>>,
    unwell_total: u32,
    unwell: Vec<UnwellJson<'a>>,
    moves_total: u32,
    moves: Vec<MoveJson<'a>>,
    warnings: &'a [String],
}

impl<'a> StatusJson<'a> {
    pub(super) fn of(status: &'a ClusterStatusResponse) -> Self {
        Self {
            cluster_id: &status.cluster_id,
            answered_by: status.answered_by.0,
            epoch: status.epoch,
            controller: status.controller.map(|node| node.0),
            topics: status.topics,
            partitions: status.partitions,
            nodes: status.nodes.iter().map(NodeJson::of).collect(),
            unwell_total: status.unwell_total,
            unwell: status.unwell.iter().map(UnwellJson::of).collect(),
            moves_total: status.moves_total,
            moves: status.moves.iter().map(MoveJson::of).collect(),
            warnings: &status.warnings,
        }
    }
}

#[derive(Debug, Serialize)]
struct NodeJson<'a> {
    node: u64,
    address: &'a str,
    rack: Option<&'a str>,
    weight_hundredths: u32,
    state: &'static str,
    up: bool,
    last_heard_ms: Option<u64>,
    clock_offset_ms: Option<i64>,
    version: &'a str,
    leaders: u32,
    replicas: u32,
    bytes: Option<u64>,
}

impl<'a> NodeJson<'a> {
    fn of(node: &'a ClusterNode) -> Self {
        Self {
            node: node.node.0,
            address: &node.address,
            rack: node.rack.as_deref(),
            weight_hundredths: node.weight_hundredths,
            state: node.state.as_str(),
            up: node.up,
            last_heard_ms: node.last_heard_ms,
            clock_offset_ms: node.clock_offset_ms,
            version: &node.version,
            leaders: node.leaders,
            replicas: node.replicas,
            bytes: node.bytes,
        }
    }
}

#[derive(Debug, Serialize)]
struct UnwellJson<'a> {
    topic: &'a str,
    partition: u32,
    leader: Option<u64>,
    replicas: Vec<u64>,
    in_sync: Vec<u64>,
    lag: u64,
    why: &'a str,
}

impl<'a> UnwellJson<'a> {
    fn of(partition: &'a UnwellPartition) -> Self {
        Self {
            topic: partition.topic.as_str(),
            partition: partition.partition.0,
            leader: partition.leader.map(|node| node.0),
            replicas: ids(&partition.replicas),
            in_sync: ids(&partition.in_sync),
            lag: partition.lag,
            why: &partition.why,
        }
    }
}

#[derive(Debug, Serialize)]
struct MoveJson<'a> {
    topic: &'a str,
    partition: u32,
    from: Vec<u64>,
    to: Vec<u64>,
    step: &'a str,
    bytes_done: u64,
    bytes_total: u64,
}

impl<'a> MoveJson<'a> {
    fn of(one: &'a MoveProgress) -> Self {
        Self {
            topic: one.topic.as_str(),
            partition: one.partition.0,
            from: ids(&one.from),
            to: ids(&one.to),
            step: &one.step,
            bytes_done: one.bytes_done,
            bytes_total: one.bytes_total,
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct PlanJson<'a> {
    changes_total: u32,
    replicas_moved: u32,
    replicas_total: u32,
    bytes: u64,
    changes: Vec<ChangeJson<'a>>,
    loads: Vec<LoadJson>,
}

impl<'a> PlanJson<'a> {
    pub(super) fn of(plan: &'a ClusterPlanResponse) -> Self {
        Self {
            changes_total: plan.changes_total,
            replicas_moved: plan.replicas_moved,
            replicas_total: plan.replicas_total,
            bytes: plan.bytes,
            changes: plan.changes.iter().map(ChangeJson::of).collect(),
            loads: plan.loads.iter().map(LoadJson::of).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
struct ChangeJson<'a> {
    topic: &'a str,
    partition: u32,
    from: Vec<u64>,
    to: Vec<u64>,
}

impl<'a> ChangeJson<'a> {
    fn of(change: &'a PlannedChange) -> Self {
        Self {
            topic: change.topic.as_str(),
            partition: change.partition.0,
            from: ids(&change.from),
            to: ids(&change.to),
        }
    }
}

#[derive(Debug, Serialize)]
struct LoadJson {
    node: u64,
    before: u32,
    after: u32,
}

impl LoadJson {
    fn of(load: &PlannedLoad) -> Self {
        Self { node: load.node.0, before: load.before, after: load.after }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct RemovalJson<'a> {
    node: u64,
    removed: bool,
    plan: PlanJson<'a>,
}

impl<'a> RemovalJson<'a> {
    pub(super) fn of(node: u64, removal: &'a RemoveNodeResponse) -> Self {
        Self { node, removed: removal.removed, plan: PlanJson::of(&removal.plan) }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct LeaderJson<'a> {
    topic: &'a str,
    partition: u32,
    leader: u64,
    term: u64,
}

impl<'a> LeaderJson<'a> {
    pub(super) fn of(topic: &'a str, partition: u32, led: &TransferLeaderResponse) -> Self {
        Self { topic, partition, leader: led.leader.0, term: led.term.0 }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct TokenJson<'a> {
    token: &'a str,
    addresses: &'a [String],
}

impl<'a> TokenJson<'a> {
    pub(super) fn of(token: &'a JoinTokenResponse) -> Self {
        Self { token: &token.token, addresses: &token.addresses }
    }
}
