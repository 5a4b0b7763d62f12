//! Random clusters, and the rules counted by hand on their placements.

use std::collections::{BTreeMap, BTreeSet};

use plimsoll_placement::{
    Node, PartitionSpec, Placement, PlacementOptions, Rack, Weight, load_bounds,
};
use plimsoll_protocol::ids::{GroupId, NodeId};
use proptest::prelude::*;

/// A cluster and what it should hold.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) partitions: Vec<PartitionSpec>,
    pub(crate) options: PlacementOptions,
}

/// What to draw clusters from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draw {
    pub(crate) nodes: (usize, usize),
    pub(crate) partitions_max: u32,
    pub(crate) weights: (u32, u32),
    pub(crate) racks: bool,
    pub(crate) mixed_replicas: bool,
    pub(crate) slack_percent: (u32, u32),
}

/// Partitions in orders of magnitude: as many small clusters as large ones.
fn partition_count(max: u32) -> impl Strategy<Value = u32> {
    (0.0..=f64::from(max).ln()).prop_map(|magnitude| magnitude.exp().round() as u32)
}

/// One node in `racks` racks (0: without).
pub(crate) fn node(id: u64, weight: u32, rack: u32) -> Node {
    let rack = (rack > 0).then(|| Rack(format!("rack-{rack}")));
    Node { weight: Weight::new(weight).unwrap(), rack, ..Node::new(NodeId(id)) }
}

pub(crate) fn clusters(draw: Draw) -> impl Strategy<Value = Cluster> {
    let racks = if draw.racks { 1..=8_u32 } else { 0..=0 };
    let nodes = racks.prop_flat_map(move |racks| {
        let rack = if racks == 0 { 0..=0 } else { 1..=racks };
        let one = (draw.weights.0..=draw.weights.1, rack);
        prop::collection::vec(one, draw.nodes.0..=draw.nodes.1)
    });
    let slack = draw.slack_percent.0..=draw.slack_percent.1;
    (nodes, partition_count(draw.partitions_max), any::<u32>(), 1..=5_u8, slack).prop_map(
        move |(nodes, partitions, base, replicas, slack)| {
            let nodes: Vec<Node> =
                (1..).zip(nodes).map(|(id, (weight, rack))| node(id, weight, rack)).collect();
            let most = u8::try_from(nodes.len() - 1).unwrap();
            let replicas_of = |at: u32| {
                let replicas =
                    if draw.mixed_replicas { [1, 3, replicas][at as usize % 3] } else { replicas };
                replicas.min(most)
            };
            let partitions = (0..partitions)
                .map(|at| PartitionSpec {
                    group: GroupId(u64::from(base) + u64::from(at)),
                    replicas: replicas_of(at),
                })
                .collect();
            Cluster { nodes, partitions, options: PlacementOptions::new(slack, 64).unwrap() }
        },
    )
}

/// Replicas and preferred leaders of each node.
pub(crate) fn loads(placement: &Placement) -> BTreeMap<NodeId, (u32, u32)> {
    let mut loads = BTreeMap::new();
    for (_, replicas) in placement.iter() {
        for (rank, &node) in replicas.iter().enumerate() {
            let load: &mut (u32, u32) = loads.entry(node).or_default();
            load.0 += 1;
            load.1 += u32::from(rank == 0);
        }
    }
    loads
}

impl Cluster {
    /// Every partition has its replicas on distinct nodes that take them, in as many racks as can be.
    pub(crate) fn assert_complete(&self, placement: &Placement) {
        let taking: BTreeMap<NodeId, &Node> =
            self.nodes.iter().filter(|n| !n.draining).map(|n| (n.id, n)).collect();
        // A node without a rack is one of its own.
        let rack = |node: &Node| match &node.rack {
            Some(rack) => rack.0.clone(),
            None => format!("node {}", node.id),
        };
        let racks: BTreeSet<String> = taking.values().map(|node| rack(node)).collect();
        assert_eq!(placement.partition_count(), self.partitions.len());
        for spec in &self.partitions {
            let replicas = placement.replicas(spec.group);
            let distinct: BTreeSet<NodeId> = replicas.iter().copied().collect();
            assert_eq!(replicas.len(), usize::from(spec.replicas), "{}", spec.group);
            assert_eq!(distinct.len(), replicas.len(), "{}: a node twice", spec.group);
            let used: BTreeSet<String> = replicas.iter().map(|id| rack(taking[id])).collect();
            assert_eq!(used.len(), replicas.len().min(racks.len()), "{}: racks", spec.group);
        }
    }

    /// No node is above its bound on replicas or (with `leaders`) on preferred leaders.
    pub(crate) fn assert_bounded(&self, placement: &Placement, leaders: bool) {
        let bounds = load_bounds(&self.nodes, &self.partitions, &self.options).unwrap();
        for (node, (replicas, led)) in loads(placement) {
            let bound = bounds[&node];
            assert!(replicas <= bound.replicas, "node {node}: {replicas} replicas, {bound:?}");
            assert!(!leaders || led <= bound.leaders, "node {node}: {led} leaders, {bound:?}");
        }
    }
}
