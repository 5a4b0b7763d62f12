//! Where partitions should be, computed from the catalog by whoever proposes a change: new topics,
//! nodes that come, drain and go. Pure, but not part of the fold: two builds may compute differently,
//! so what was computed is carried in the command, with the placement epoch it was computed at.
//!
//! ```text
//!  catalog ──► place_topic, extend_topic ──► ProposedPlacement ──► CreateTopic, AlterTopic
//!     │
//!     └──────► rebalance, drained, without ──► PlacementPlan ───► SetPlacement
//! ```
//! A refusal with `StalePlacement` means: compute it anew from the catalog as it is then.

use std::collections::{BTreeMap, BTreeSet};

use plimsoll_placement::{
    Carried, Node, NotEnoughNodes, PartitionSpec, PlaceError, Placement, PlacementOptions, Rack,
    Weight, extend_beside, rebalance as rebalanced,
};
use plimsoll_protocol::api::NodeState;
use plimsoll_protocol::ids::{GroupId, NodeId, TopicName};
use thiserror::Error;

use super::replicas::Shared;
use super::{
    Catalog, CatalogCommand, CatalogRefusal, LEVEL_NEWEST, METADATA_VOTERS_MAX, NodeMeta,
    PLACEMENT_CHANGES_MAX, PlacementChange, ProposedPlacement, REPLICAS_MAX, Replicas,
};

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlanError {
    /// The catalog would refuse it: the reason it would give.
    #[error(transparent)]
    Refused(#[from] CatalogRefusal),
    /// The catalog breaks a rule of placement: a bug.
    #[error("no placement can be computed: {0}")]
    Place(PlaceError),
}

/// What is to change in the places of partitions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlacementPlan {
    /// The placement epoch it was computed at.
    pub base: u64,
    /// The groups that change, by id; the catalog's own group, when its voters change, is the first.
    /// At most [`PLACEMENT_CHANGES_MAX`]: what is left over is in the next plan.
    pub changes: Vec<PlannedMove>,
    /// Replicas that get a copy on another node.
    pub replicas_moved: usize,
    /// Replicas of all partitions.
    pub replicas_total: usize,
    /// Replicas of each member, before and after; those of removed nodes too, as long as any are left.
    pub loads: BTreeMap<NodeId, Load>,
}

/// A group whose place changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedMove {
    /// The group.
    pub group: GroupId,
    /// Where it belongs now, the preferred leader first.
    pub from: Replicas,
    /// Where it will.
    pub to: Replicas,
}

/// Replicas of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// As it is.
    pub before: u32,
    /// As planned.
    pub after: u32,
}

impl PlacementPlan {
    /// Whether everything is where it should be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The command that puts the plan in force.
    #[must_use]
    pub fn command(&self) -> CatalogCommand {
        let change = |one: &PlannedMove| PlacementChange {
            group: one.group,
            wanted: Replicas::clone(&one.to),
        };
        CatalogCommand::SetPlacement {
            base: self.base,
            changes: self.changes.iter().map(change).collect(),
        }
    }
}

/// Places for the partitions of a topic that is to be made; none where one of its name is there, which stays
/// as it is or is refused.
///
/// # Errors
/// As [`place_topic`].
pub fn place_unless_known(
    catalog: &Catalog,
    topic: &TopicName,
    partitions: u32,
    replicas: u16,
    down: &BTreeSet<NodeId>,
) -> Result<Option<ProposedPlacement>, PlanError> {
    match catalog.topic(topic) {
        Some(_) => Ok(None),
        None => place_topic_beside(catalog, partitions, replicas, down).map(Some),
    }
}

/// Replicas of a partition for whom no number is given: so many that one node may be lost.
const REPLICAS_DEFAULT: u16 = 3;

/// How many replicas a partition is asked to have, and how many it gets from the nodes as they are. 0 is the
/// default, 3: those that find no node yet are made when nodes join.
#[must_use]
pub fn replica_counts(catalog: &Catalog, asked: u16) -> (u16, u16) {
    match asked {
        0 => (REPLICAS_DEFAULT, placeable(catalog, REPLICAS_DEFAULT)),
        _ => (asked, asked),
    }
}

/// So many replicas, or as many as there are nodes for.
fn placeable(catalog: &Catalog, replicas: u16) -> u16 {
    let active = u16::try_from(catalog.count(NodeState::Active)).unwrap_or(u16::MAX);
    replicas.min(active.max(1))
}

/// Places for the partitions of a new topic. Nothing else moves.
///
/// # Errors
/// `NotEnoughNodes`, `TooManyReplicas`, `NoReplicas`, `NotSetUp`.
pub fn place_topic(
    catalog: &Catalog,
    partitions: u32,
    replicas: u16,
) -> Result<ProposedPlacement, PlanError> {
    place_topic_beside(catalog, partitions, replicas, &BTreeSet::new())
}

/// The same, but not on nodes that are `down`, as long as there are enough others.
///
/// # Errors
/// As [`place_topic`].
pub fn place_topic_beside(
    catalog: &Catalog,
    partitions: u32,
    replicas: u16,
    down: &BTreeSet<NodeId>,
) -> Result<ProposedPlacement, PlanError> {
    check_replicas(catalog, replicas)?;
    let mut nodes = placement_nodes(catalog);
    let live = nodes.iter().filter(|node| !node.draining && !down.contains(&node.id)).count();
    if live >= usize::from(replicas) {
        nodes.iter_mut().for_each(|node| node.draining |= down.contains(&node.id));
    }
    let mut carried = Carried::default();
    for (_, set) in catalog.placements() {
        carried.add(&set.wanted);
    }
    // The ids that the partitions will get, unless another topic comes first: then they are as well
    // placed by other ids.
    let first = catalog.next_group_id;
    let new: Vec<PartitionSpec> = (first..first.saturating_add(u64::from(partitions)))
        .map(|group| spec(GroupId(group), replicas.into()))
        .collect();
    let options = PlacementOptions::default();
    let placed = extend_beside(&carried, &nodes, &new, &options).map_err(refused)?;
    let mut shared = Shared::default();
    let replicas =
        new.iter().map(|spec| shared.one(placed.replicas(spec.group).to_vec())).collect();
    Ok(ProposedPlacement { base: catalog.placement_epoch, replicas })
}

/// Places for partitions that are added to a topic, `partitions` being the new number; none where it
/// is not more than now. Nothing else moves.
///
/// # Errors
/// As [`place_topic`], and `UnknownTopic`.
pub fn extend_topic(
    catalog: &Catalog,
    topic: &TopicName,
    partitions: u32,
) -> Result<ProposedPlacement, PlanError> {
    let Some(meta) = catalog.topic(topic) else {
        return Err(CatalogRefusal::UnknownTopic { topic: topic.clone() }.into());
    };
    let now = u32::try_from(meta.partitions.len()).expect("bounded by its maximum");
    match partitions.saturating_sub(now) {
        0 => Ok(ProposedPlacement { base: catalog.placement_epoch, replicas: Vec::new() }),
        added => place_topic(catalog, added, placeable(catalog, meta.replicas)),
    }
}

/// The places as they should be with the nodes as they are, changed as little as the rules allow:
/// newcomers get their share, draining nodes are emptied, replicas that were lost are made anew.
///
/// # Errors
/// `NotEnoughNodes` where no node takes replicas, `NotSetUp`.
pub fn rebalance(catalog: &Catalog) -> Result<PlacementPlan, PlanError> {
    plan(catalog, &placement_nodes(catalog))
}

/// What [`rebalance`] will say once the node is draining: to be shown, and to be checked, before
/// `DrainNode` is proposed.
///
/// # Errors
/// `NotEnoughNodes` where the others cannot hold every replica; `UnknownNode`, `NodeRemoved`.
pub fn drained(catalog: &Catalog, node: NodeId) -> Result<PlacementPlan, PlanError> {
    catalog.member(node)?;
    let mut nodes = placement_nodes(catalog);
    for one in nodes.iter_mut().filter(|one| one.id == node) {
        one.draining = true;
    }
    check_factors(catalog, &nodes)?;
    plan(catalog, &nodes)
}

/// The places without a node, each replica that it held made anew elsewhere. For a node that is dead,
/// or drained and not yet empty. Whether the groups keep a quorum without it is for
/// [`plimsoll_placement::check_removal`], which needs their members as they are.
///
/// `force` lets partitions have fewer replicas than their topic asks for, where the nodes that are
/// left are too few; they get them back by a [`rebalance`] once there are more.
///
/// # Errors
/// `NotEnoughNodes` where the others cannot hold every replica, unless forced; `LastNode`;
/// `UnknownNode`, `NodeRemoved`.
pub fn without(catalog: &Catalog, node: NodeId, force: bool) -> Result<PlacementPlan, PlanError> {
    catalog.member(node)?;
    let mut nodes = placement_nodes(catalog);
    nodes.retain(|one| one.id != node);
    if nodes.iter().all(|one| one.draining) {
        return Err(CatalogRefusal::LastNode { node }.into());
    }
    if !force {
        check_factors(catalog, &nodes)?;
    }
    plan(catalog, &nodes)
}

/// How many nodes should have a vote in the catalog's own group, of so many that take replicas: an
/// odd number.
#[must_use]
pub fn metadata_voters(active: usize) -> usize {
    let most = active.min(usize::from(METADATA_VOTERS_MAX));
    (most + most % 2).saturating_sub(1)
}

/// The command that lets everything be used that this build knows, to be proposed where `version` is
/// this build's; none where the cluster is there already. Also none as long as a member says that it
/// runs another version, or there is no member.
#[must_use]
pub fn raise_level(catalog: &Catalog, version: &str) -> Option<CatalogCommand> {
    let alike = catalog.members().all(|(_, node)| node.spec.version == version);
    let raises = catalog.is_set_up() && alike && catalog.level < LEVEL_NEWEST;
    raises.then_some(CatalogCommand::SetLevel { level: LEVEL_NEWEST })
}

/// The nodes as placement sees them: those that join hold nothing yet.
#[must_use]
pub fn placement_nodes(catalog: &Catalog) -> Vec<Node> {
    let node = |(id, meta): (NodeId, &std::sync::Arc<NodeMeta>)| {
        let draining = match meta.state {
            NodeState::Active => false,
            NodeState::Draining => true,
            NodeState::Joining | NodeState::Removed => return None,
        };
        Some(Node {
            id,
            weight: Weight::new(meta.spec.weight_hundredths).unwrap_or_default(),
            rack: meta.spec.rack.clone().map(Rack),
            draining,
        })
    };
    catalog.nodes().filter_map(node).collect()
}

/// The placement in force, without the catalog's own group.
#[must_use]
pub fn in_force(catalog: &Catalog) -> Placement {
    let placed = catalog.placements().filter(|(_, set)| !set.wanted.is_empty());
    placed.map(|(group, set)| (group, set.wanted.to_vec())).collect()
}

fn plan(catalog: &Catalog, nodes: &[Node]) -> Result<PlacementPlan, PlanError> {
    check_set_up(catalog)?;
    let active = nodes.iter().filter(|node| !node.draining).count();
    let options = PlacementOptions::default();
    let before = in_force(catalog);
    let specs = specs(catalog, active.max(1));
    let after = rebalanced(&before, nodes, &specs, &options).map_err(refused)?;
    let mut plan = PlacementPlan {
        base: catalog.placement_epoch,
        replicas_moved: before.moved_replicas(&after),
        replicas_total: after.replica_count(),
        ..PlacementPlan::default()
    };
    for (id, _) in catalog.members() {
        plan.loads.insert(id, Load::default());
    }
    let mut shared = Shared::default();
    plan.changes.extend(metadata_move(catalog, nodes)?);
    for (group, to) in after.iter() {
        let from = before.replicas(group);
        for &node in from {
            plan.loads.entry(node).or_default().before += 1;
        }
        for &node in to {
            plan.loads.entry(node).or_default().after += 1;
        }
        if from != to && plan.changes.len() < PLACEMENT_CHANGES_MAX as usize {
            let (from, to) = (shared.one(from.to_vec()), shared.one(to.to_vec()));
            plan.changes.push(PlannedMove { group, from, to });
        }
    }
    Ok(plan)
}

/// The voters of the catalog's own group, when they have to change.
fn metadata_move(catalog: &Catalog, nodes: &[Node]) -> Result<Option<PlannedMove>, PlanError> {
    let group = GroupId::CATALOG;
    let from = Replicas::clone(&catalog.metadata.wanted);
    let active = nodes.iter().filter(|node| !node.draining).count();
    // A node that is being emptied keeps its vote until it is removed, where there would be fewer without it.
    let votes = |node: &Node| !node.draining || from.contains(&node.id);
    let voting = nodes.iter().filter(|node| votes(node)).count();
    let keeps = metadata_voters(active) < metadata_voters(voting).min(from.len());
    let staying = nodes.iter().cloned().map(|node| {
        let draining = node.draining && !(keeps && from.contains(&node.id));
        Node { draining, ..node }
    });
    let staying: Vec<Node> = staying.collect();
    let nodes = staying.as_slice();
    let active = nodes.iter().filter(|node| !node.draining).count();
    let before: Placement = [(group, from.to_vec())].into_iter().collect();
    let specs = [spec(group, metadata_voters(active).max(1))];
    let options = PlacementOptions::default();
    let after = rebalanced(&before, nodes, &specs, &options).map_err(refused)?;
    let to: Replicas = after.replicas(group).into();
    // An order alone is no reason: the catalog's leader stays where it is.
    let same = |a: &Replicas, b: &Replicas| a.iter().collect::<BTreeSet<_>>() == b.iter().collect();
    Ok((!same(&from, &to)).then_some(PlannedMove { group, from, to }))
}

fn specs(catalog: &Catalog, replicas_max: usize) -> Vec<PartitionSpec> {
    let topics = catalog.topics().flat_map(|(_, topic)| {
        let replicas = usize::from(topic.replicas).min(replicas_max);
        topic.partitions.iter().map(move |&group| spec(group, replicas))
    });
    topics.collect()
}

fn spec(group: GroupId, replicas: usize) -> PartitionSpec {
    let most = usize::from(REPLICAS_MAX);
    let replicas = u8::try_from(replicas.min(most)).expect("at most REPLICAS_MAX");
    PartitionSpec { group, replicas }
}

fn check_set_up(catalog: &Catalog) -> Result<(), CatalogRefusal> {
    if catalog.is_set_up() { Ok(()) } else { Err(CatalogRefusal::NotSetUp) }
}

fn check_replicas(catalog: &Catalog, asked: u16) -> Result<(), CatalogRefusal> {
    check_set_up(catalog)?;
    match asked {
        0 => Err(CatalogRefusal::NoReplicas),
        _ if asked > REPLICAS_MAX => Err(CatalogRefusal::TooManyReplicas { asked }),
        _ => enough(asked, &placement_nodes(catalog)),
    }
}

/// Whether these nodes can hold as many replicas as the topics ask for and have nodes for now.
fn check_factors(catalog: &Catalog, nodes: &[Node]) -> Result<(), CatalogRefusal> {
    let most = catalog.topics().map(|(_, topic)| topic.replicas).max().unwrap_or(0);
    enough(placeable(catalog, most.max(1)), nodes)
}

fn enough(asked: u16, nodes: &[Node]) -> Result<(), CatalogRefusal> {
    let draining = nodes.iter().filter(|node| node.draining).count();
    let active = nodes.len() - draining;
    if usize::from(asked) <= active {
        return Ok(());
    }
    let number = |count| u32::try_from(count).unwrap_or(u32::MAX);
    let (active, draining) = (number(active), number(draining));
    Err(CatalogRefusal::NotEnoughNodes { asked, active, draining })
}

fn refused(error: PlaceError) -> PlanError {
    match error {
        PlaceError::NotEnoughNodes(NotEnoughNodes {
            replication_factor, nodes, draining, ..
        }) => {
            let number = |count| u32::try_from(count).unwrap_or(u32::MAX);
            CatalogRefusal::NotEnoughNodes {
                asked: replication_factor.into(),
                active: number(nodes),
                draining: number(draining),
            }
            .into()
        }
        error => PlanError::Place(error),
    }
}

#[cfg(test)]
mod tests;
