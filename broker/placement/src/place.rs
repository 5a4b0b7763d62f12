//! The functions that answer where partitions belong. Each is pure: the answer depends on the
//! arguments and on nothing else, not even on the order in which they list things.

use std::collections::{BTreeMap, BTreeSet};

use plimsoll_protocol::ids::{GroupId, NodeId};
use thiserror::Error;

use crate::balance;
use crate::fill::{self, Aim};
use crate::leaders;
use crate::node::Node;
use crate::options::PlacementOptions;
use crate::placement::{PartitionSpec, Placement};
use crate::table::{Site, Table};

/// More replicas are asked for than there are nodes to hold them.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "partition group {group} asks for {replication_factor} replicas, but only {nodes} nodes take \
     replicas ({draining} more are draining); add nodes or ask for fewer replicas"
)]
pub struct NotEnoughNodes {
    /// A partition that asks for too many.
    pub group: GroupId,
    /// The replicas it asks for.
    pub replication_factor: u8,
    /// Nodes that take replicas.
    pub nodes: usize,
    /// Nodes that are there and are draining.
    pub draining: usize,
}

/// Why there is no placement.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlaceError {
    /// More replicas than nodes.
    #[error(transparent)]
    NotEnoughNodes(#[from] NotEnoughNodes),
    /// A partition without replicas.
    #[error("partition group {group} asks for 0 replicas; ask for at least 1")]
    NoReplicas {
        /// The partition.
        group: GroupId,
    },
    /// One node listed twice.
    #[error("node {node} is listed twice; a node id belongs to one node only")]
    DuplicateNode {
        /// The node.
        node: NodeId,
    },
    /// One partition listed twice.
    #[error("partition group {group} is listed twice")]
    DuplicatePartition {
        /// The partition.
        group: GroupId,
    },
    /// More nodes than a placement can be computed for.
    #[error("{nodes} nodes are more than the {NODES_MAX} that a placement is made for")]
    TooManyNodes {
        /// Their number.
        nodes: usize,
    },
}

/// Largest number of nodes of a placement.
pub const NODES_MAX: usize = 10_000;

/// Where partitions belong by the ring alone, whatever is in force now.
///
/// Each partition, in the order of hashes, goes to the first nodes on its walk along the ring that
/// are in racks of their own and are below their load bound.
///
/// # Errors
/// When the input contradicts itself or asks for more replicas than there are nodes.
pub fn place(
    nodes: &[Node],
    partitions: &[PartitionSpec],
    options: &PlacementOptions,
) -> Result<Placement, PlaceError> {
    let mut table = Table::new(nodes, partitions, options)?;
    fill::fill(&mut table, Aim::LoadBound);
    leaders::choose(&mut table, Aim::LoadBound);
    Ok(table.into_placement())
}

/// The placement in force, with a place for every partition that has none. Nothing moves.
///
/// For new topics. The least loaded side of the ring is filled first: a new partition goes to the
/// first node on its walk that is below its fair share, so making topics never calls for moves.
/// A load bound that is exceeded already, or that new partitions alone cannot keep, is left to
/// [`rebalance`]. Partitions in force that are not listed are dropped.
///
/// # Errors
/// When the input contradicts itself or asks for more replicas than there are nodes. Partitions that
/// have a place already do not count.
pub fn extend(
    in_force: &Placement,
    nodes: &[Node],
    partitions: &[PartitionSpec],
    options: &PlacementOptions,
) -> Result<Placement, PlaceError> {
    // What stays as it is need not fit the nodes of today: it only counts as load.
    let (fixed, new): (Vec<PartitionSpec>, Vec<PartitionSpec>) =
        partitions.iter().partition(|spec| !in_force.replicas(spec.group).is_empty());
    let fixed: Placement = fixed
        .into_iter()
        .map(|spec| (spec.group, in_force.replicas(spec.group).to_vec()))
        .collect();
    let mut carried = Carried::default();
    for (_, replicas) in fixed.iter() {
        carried.add(replicas);
    }
    Ok(extended(&carried, nodes, &new, options)?.into_placement_with(fixed))
}

/// As [`extend`], of the new partitions only, where those in force are given as what they weigh: a
/// topic among many is placed without listing the others.
///
/// # Errors
/// As [`extend`].
pub fn extend_beside(
    carried: &Carried,
    nodes: &[Node],
    new: &[PartitionSpec],
    options: &PlacementOptions,
) -> Result<Placement, PlaceError> {
    Ok(extended(carried, nodes, new, options)?.into_placement())
}

fn extended(
    carried: &Carried,
    nodes: &[Node],
    new: &[PartitionSpec],
    options: &PlacementOptions,
) -> Result<Table, PlaceError> {
    let mut table = Table::new(nodes, new, options)?;
    table.carry(carried);
    fill::fill(&mut table, Aim::FairShare);
    leaders::choose(&mut table, Aim::FairShare);
    Ok(table)
}

/// What partitions that stay where they are weigh: all that a place for new ones depends on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Carried {
    /// Number of partitions by their number of replicas.
    pub(crate) partitions: BTreeMap<usize, u32>,
    pub(crate) nodes: BTreeMap<NodeId, Carries>,
}

/// What one node carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Carries {
    pub(crate) replicas: u32,
    pub(crate) leaders: u32,
}

impl Carried {
    /// Counts one partition, the preferred leader first.
    pub fn add(&mut self, replicas: &[NodeId]) {
        *self.partitions.entry(replicas.len()).or_default() += 1;
        for (rank, &id) in replicas.iter().enumerate() {
            let node = self.nodes.entry(id).or_default();
            node.replicas += 1;
            node.leaders += u32::from(rank == 0);
        }
    }
}

/// The placement in force, changed as little as it takes to keep every rule with these nodes.
///
/// For nodes that come, go, drain, or change weight or rack. A replica stays where it is unless its
/// node is gone or draining, its rack holds another while a rack is free, or its node is above its
/// load bound; a node far below its share (a newcomer) takes replicas, those that the ring gives it
/// first. What has to move follows the ring to the first node below its fair share.
///
/// Applied to its own result it changes nothing.
///
/// # Errors
/// When the input contradicts itself or asks for more replicas than there are nodes.
pub fn rebalance(
    in_force: &Placement,
    nodes: &[Node],
    partitions: &[PartitionSpec],
    options: &PlacementOptions,
) -> Result<Placement, PlaceError> {
    let mut table = Table::new(nodes, partitions, options)?;
    balance::keep(&mut table, in_force);
    balance::relieve(&mut table);
    fill::fill(&mut table, Aim::FairShare);
    balance::pull(&mut table);
    leaders::choose(&mut table, Aim::FairShare);
    Ok(table.into_placement())
}

/// The most replicas and preferred leaders that [`place`] and [`rebalance`] put on each node.
///
/// `ceil((1 + epsilon) x fair share)`, where the fair share is in proportion to the weight as far as
/// the rules on nodes and racks leave it open. The leaders' bound is a promise when all partitions
/// have the same replication factor, and an aim when they differ.
///
/// # Errors
/// As [`place`].
pub fn load_bounds(
    nodes: &[Node],
    partitions: &[PartitionSpec],
    options: &PlacementOptions,
) -> Result<BTreeMap<NodeId, LoadBound>, PlaceError> {
    let table = Table::new(nodes, partitions, options)?;
    let bounds = table.sites.iter().enumerate().map(|(node, site)| {
        let bound = LoadBound {
            replicas: table.replicas.bound[node],
            replicas_fair: table.replicas.fair[node].ceil(),
            leaders: table.leaders.bound[node],
        };
        (site.id, bound)
    });
    Ok(bounds.collect())
}

/// What one node may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadBound {
    /// Replicas at most.
    pub replicas: u32,
    /// Its fair share of replicas, rounded up.
    pub replicas_fair: u32,
    /// Preferred leaders at most.
    pub leaders: u32,
}

/// The nodes that take replicas, by id, with racks as numbers.
///
/// By id, so that nothing depends on the order in which they were listed.
pub(crate) fn sites(nodes: &[Node]) -> Result<Vec<Site>, PlaceError> {
    if nodes.len() > NODES_MAX {
        return Err(PlaceError::TooManyNodes { nodes: nodes.len() });
    }
    let mut ids = BTreeSet::new();
    if let Some(twice) = nodes.iter().find(|node| !ids.insert(node.id)) {
        return Err(PlaceError::DuplicateNode { node: twice.id });
    }
    let mut taking: Vec<&Node> = nodes.iter().filter(|node| !node.draining).collect();
    taking.sort_unstable_by_key(|node| node.id);
    let mut numbers = BTreeMap::new();
    let mut rack_count = 0;
    let mut next_rack = || {
        rack_count += 1;
        rack_count - 1
    };
    let site = |node: &Node| {
        let rack = match &node.rack {
            Some(rack) => *numbers.entry(rack.clone()).or_insert_with(&mut next_rack),
            None => next_rack(),
        };
        Site { id: node.id, weight: node.weight, rack }
    };
    Ok(taking.into_iter().map(site).collect())
}

/// Refuses what no placement can answer.
pub(crate) fn check(
    nodes: &[Node],
    taking: usize,
    partitions: &[PartitionSpec],
) -> Result<(), PlaceError> {
    let mut groups = BTreeSet::new();
    for &PartitionSpec { group, replicas } in partitions {
        if !groups.insert(group) {
            return Err(PlaceError::DuplicatePartition { group });
        }
        if replicas == 0 {
            return Err(PlaceError::NoReplicas { group });
        }
        if usize::from(replicas) > taking {
            return Err(NotEnoughNodes {
                group,
                replication_factor: replicas,
                nodes: taking,
                draining: nodes.len() - taking,
            }
            .into());
        }
    }
    Ok(())
}
