//! Which nodes hold which partitions: the data that group 0 keeps and every node can compute.

use std::collections::BTreeMap;

use plimsoll_protocol::ids::{GroupId, NodeId};

/// A partition that needs a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionSpec {
    /// The partition's Raft group.
    pub group: GroupId,
    /// On how many nodes it should be: its replication factor, at least 1.
    pub replicas: u8,
}

/// The nodes of each partition, the preferred leader first.
///
/// Invariant: a list is not empty and names no node twice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement {
    groups: BTreeMap<GroupId, Vec<NodeId>>,
}

impl Placement {
    /// No partition.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the nodes of one partition, the preferred leader first.
    ///
    /// Panics when the list is empty or names a node twice: whoever reads a placement from outside
    /// checks it first.
    pub fn insert(&mut self, group: GroupId, replicas: Vec<NodeId>) {
        assert!(!replicas.is_empty(), "a partition has a replica");
        let twice = (1..replicas.len()).any(|at| replicas[..at].contains(&replicas[at]));
        assert!(!twice, "a node holds a partition at most once");
        self.groups.insert(group, replicas);
    }

    /// Forgets a partition, for one that was deleted.
    pub fn remove(&mut self, group: GroupId) {
        self.groups.remove(&group);
    }

    /// The nodes of a partition, the preferred leader first; empty when it has no place.
    #[must_use]
    pub fn replicas(&self, group: GroupId) -> &[NodeId] {
        self.groups.get(&group).map_or(&[], Vec::as_slice)
    }

    /// The node that should lead a partition.
    #[must_use]
    pub fn preferred_leader(&self, group: GroupId) -> Option<NodeId> {
        self.replicas(group).first().copied()
    }

    /// All partitions in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (GroupId, &[NodeId])> {
        self.groups.iter().map(|(&group, replicas)| (group, replicas.as_slice()))
    }

    /// Number of partitions.
    #[must_use]
    pub fn partition_count(&self) -> usize {
        self.groups.len()
    }

    /// Number of replicas of all partitions.
    #[must_use]
    pub fn replica_count(&self) -> usize {
        self.groups.values().map(Vec::len).sum()
    }

    /// Number of replicas that `next` has on nodes that do not hold them here: what has to be copied.
    #[must_use]
    pub fn moved_replicas(&self, next: &Self) -> usize {
        let moved = |(group, replicas): (GroupId, &[NodeId])| {
            let here = self.replicas(group);
            replicas.iter().filter(|node| !here.contains(node)).count()
        };
        next.iter().map(moved).sum()
    }
}

impl FromIterator<(GroupId, Vec<NodeId>)> for Placement {
    fn from_iter<I: IntoIterator<Item = (GroupId, Vec<NodeId>)>>(groups: I) -> Self {
        let mut placement = Self::new();
        for (group, replicas) in groups {
            placement.insert(group, replicas);
        }
        placement
    }
}
