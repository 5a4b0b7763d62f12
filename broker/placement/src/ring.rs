//! The ring: virtual nodes in the order of their hashes, and the walk from a partition along them.
//!
//! Source: Karger et al., "Consistent hashing and random trees", STOC 1997; DeCandia et al.,
//! "Dynamo", SOSP 2007, 4.2 (virtual nodes, preference list).

use plimsoll_protocol::ids::{GroupId, NodeId};

use crate::hash::{Domain, hash};
use crate::node::Weight;

/// The points of all nodes, sorted.
pub(crate) struct Ring {
    /// Hash of a virtual node and the position of its node in the list the ring was made from.
    points: Vec<(u64, u16)>,
    node_count: usize,
}

/// Number of points of a node: in proportion to its weight alone.
///
/// Not relative to the other nodes' weights: then every point would depend on who else is there, and
/// a join would move more than the newcomer's share.
fn point_count(weight: Weight, virtual_nodes: u32) -> u64 {
    let points = u64::from(weight.hundredths()) * u64::from(virtual_nodes);
    points.div_ceil(u64::from(Weight::ORDINARY.hundredths())).max(1)
}

impl Ring {
    /// Makes the ring of nodes; `virtual_nodes` is for one of ordinary weight.
    pub(crate) fn new(nodes: impl Iterator<Item = (NodeId, Weight)>, virtual_nodes: u32) -> Self {
        let mut points = Vec::new();
        let mut node_count = 0;
        for (position, (id, weight)) in nodes.enumerate() {
            let position = u16::try_from(position).expect("the number of nodes was checked");
            let numbers = 0..point_count(weight, virtual_nodes);
            points
                .extend(numbers.map(|number| (hash(Domain::VirtualNode, id.0, number), position)));
            node_count += 1;
        }
        points.sort_unstable();
        Self { points, node_count }
    }

    /// All nodes in the order in which a walk from the partition's point meets them.
    ///
    /// Appends exactly as many positions as there are nodes to `order`.
    pub(crate) fn walk(&self, group: GroupId, seen: &mut [bool], order: &mut Vec<u16>) {
        debug_assert_eq!(seen.len(), self.node_count);
        seen.fill(false);
        let start = hash(Domain::Partition, group.0, 0);
        let first = self.points.partition_point(|&(point, _)| point < start);
        let mut left = self.node_count;
        for &(_, node) in self.points[first..].iter().chain(&self.points[..first]) {
            if left == 0 {
                break;
            }
            let seen = &mut seen[usize::from(node)];
            if !*seen {
                *seen = true;
                order.push(node);
                left -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn walk_of(ring: &Ring, group: u64) -> Vec<u16> {
        let mut order = Vec::new();
        ring.walk(GroupId(group), &mut vec![false; ring.node_count], &mut order);
        order
    }

    /// The same by the book: each node's distance to its nearest point, sorted.
    fn naive(nodes: &[(NodeId, Weight)], virtual_nodes: u32, group: u64) -> Vec<u16> {
        let start = hash(Domain::Partition, group, 0);
        let mut nearest: Vec<(u64, u16)> = (0..)
            .zip(nodes)
            .map(|(position, &(id, weight))| {
                let distance = |number| hash(Domain::VirtualNode, id.0, number).wrapping_sub(start);
                let points = 0..point_count(weight, virtual_nodes);
                (points.map(distance).min().unwrap(), position)
            })
            .collect();
        nearest.sort_unstable();
        nearest.into_iter().map(|(_, position)| position).collect()
    }

    #[test]
    fn points_follow_the_weight() {
        assert_eq!(point_count(Weight::ORDINARY, 256), 256);
        assert_eq!(point_count(Weight::new(50).unwrap(), 256), 128);
        assert_eq!(point_count(Weight::new(1000).unwrap(), 256), 2560);
        assert_eq!(point_count(Weight::new(1).unwrap(), 1), 1);
    }

    #[test]
    fn a_node_that_leaves_changes_no_order_among_the_others() {
        let weights = [100, 50, 300, 100, 100].map(|w| Weight::new(w).unwrap());
        let all: Vec<_> = (1..).map(NodeId).zip(weights).collect();
        let ring = Ring::new(all.iter().copied(), 64);
        let without = Ring::new(all[..4].iter().copied(), 64);
        for group in 0..500 {
            let mut before = walk_of(&ring, group);
            before.retain(|&node| node != 4);
            assert_eq!(before, walk_of(&without, group), "group {group}");
        }
    }

    proptest! {
        #[test]
        fn walk_meets_nodes_by_distance(
            weights in prop::collection::vec(1_u32..=1000, 1..12),
            virtual_nodes in 1_u32..40,
            group in any::<u64>(),
        ) {
            let nodes: Vec<_> = weights.iter().zip(10..)
                .map(|(&w, id)| (NodeId(id), Weight::new(w).unwrap())).collect();
            let ring = Ring::new(nodes.iter().copied(), virtual_nodes);
            prop_assert_eq!(walk_of(&ring, group), naive(&nodes, virtual_nodes, group));
        }
    }
}
