//! A placement in the making: partitions against nodes, with loads and their bounds.
//!
//! Nodes are positions in `sites` (`u16`), partitions positions in `slots`, which are in the order
//! of their hashes. The rule that ties them is [`Table::fits`].

use std::collections::BTreeMap;

use plimsoll_protocol::ids::{GroupId, NodeId};

use crate::fill::Aim;
use crate::hash::{Domain, hash};
use crate::node::{Node, Weight};
use crate::options::PlacementOptions;
use crate::place::{Carried, PlaceError, check, sites};
use crate::placement::{PartitionSpec, Placement};
use crate::ring::Ring;
use crate::share::{Class, Share, fair_shares};

/// A node that takes replicas.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site {
    pub(crate) id: NodeId,
    pub(crate) weight: Weight,
    pub(crate) rack: u16,
}

/// A partition and the nodes that hold it so far.
pub(crate) struct Slot {
    pub(crate) group: GroupId,
    pub(crate) replicas: usize,
    /// How many replicas may be in racks that hold one already: none when there are racks enough.
    pub(crate) sharing_max: usize,
    pub(crate) held: Vec<u16>,
    pub(crate) leader: Option<u16>,
}

/// Loads of all nodes, of one kind, with what is fair and what is allowed.
pub(crate) struct Loads {
    pub(crate) now: Vec<u32>,
    pub(crate) fair: Vec<Share>,
    /// Never exceeded when it can be kept.
    pub(crate) bound: Vec<u32>,
    /// A node below this takes from others.
    pub(crate) floor: Vec<u32>,
}

impl Loads {
    fn new(fair: Vec<Share>, partitions: u32, slack_percent: u32) -> Self {
        let bound = |share: &Share| share.percent(100 + slack_percent).ceil().min(partitions);
        let floor = |share: &Share| share.percent(100 - slack_percent).floor();
        Self {
            now: vec![0; fair.len()],
            bound: fair.iter().map(bound).collect(),
            floor: fair.iter().map(floor).collect(),
            fair,
        }
    }

    /// Orders nodes: the one that carries less of its share first, then the lower position.
    pub(crate) fn compare(&self, a: u16, b: u16) -> std::cmp::Ordering {
        let load = |node: u16| (self.now[usize::from(node)], self.fair[usize::from(node)]);
        Share::compare_loads(load(a), load(b)).then(a.cmp(&b))
    }

    pub(crate) fn has_room(&self, node: u16) -> bool {
        self.now[usize::from(node)] < self.bound[usize::from(node)]
    }

    /// The first of the candidates that is below its fair share rounded down, else rounded up, else
    /// below its bound. Rounding down comes first: were some nodes filled up to the rounded-up share
    /// early, the last would be left with what their fractions add up to.
    pub(crate) fn first_with_room(
        &self,
        aim: Aim,
        candidates: &(impl Iterator<Item = u16> + Clone),
    ) -> Option<u16> {
        let first = |limit: &dyn Fn(usize) -> u32| {
            candidates.clone().find(|&node| {
                let at = usize::from(node);
                self.now[at] < limit(at).min(self.bound[at])
            })
        };
        let fair = match aim {
            Aim::LoadBound => None,
            Aim::FairShare => {
                first(&|at| self.fair[at].floor()).or_else(|| first(&|at| self.fair[at].ceil()))
            }
        };
        fair.or_else(|| first(&|at| self.bound[at]))
    }
}

/// The whole state of one computation.
pub(crate) struct Table {
    pub(crate) sites: Vec<Site>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) replicas: Loads,
    pub(crate) leaders: Loads,
    /// For each slot all nodes in the order of its walk along the ring, one after the other.
    order: Vec<u16>,
    slack_percent: u32,
    classes: BTreeMap<usize, u32>,
}

impl Table {
    /// Nothing placed yet.
    pub(crate) fn new(
        nodes: &[Node],
        partitions: &[PartitionSpec],
        options: &PlacementOptions,
    ) -> Result<Self, PlaceError> {
        let sites = sites(nodes)?;
        check(nodes, sites.len(), partitions)?;
        let rack_count = sites.iter().map(|site| usize::from(site.rack) + 1).max().unwrap_or(0);
        let slot = |spec: &PartitionSpec| Slot {
            group: spec.group,
            replicas: usize::from(spec.replicas),
            sharing_max: usize::from(spec.replicas).saturating_sub(rack_count),
            held: Vec::with_capacity(usize::from(spec.replicas)),
            leader: None,
        };
        let mut slots: Vec<Slot> = partitions.iter().map(slot).collect();
        // Hash order, not id order: otherwise the last topic would always be the one pushed aside.
        slots.sort_unstable_by_key(|s| (hash(Domain::Partition, s.group.0, 0), s.group));

        let ring =
            Ring::new(sites.iter().map(|site| (site.id, site.weight)), options.virtual_nodes());
        let mut order = Vec::with_capacity(slots.len() * sites.len());
        let mut seen = vec![false; sites.len()];
        for slot in &slots {
            ring.walk(slot.group, &mut seen, &mut order);
        }

        let mut classes = BTreeMap::new();
        for slot in &slots {
            *classes.entry(slot.replicas).or_insert(0) += 1;
        }
        let none = || Loads::new(Vec::new(), 0, 0);
        let slack_percent = options.load_slack_percent();
        let mut table =
            Self { sites, slots, replicas: none(), leaders: none(), order, slack_percent, classes };
        table.set_bounds();
        Ok(table)
    }

    fn set_bounds(&mut self) {
        let nodes: Vec<(Weight, u16)> =
            self.sites.iter().map(|site| (site.weight, site.rack)).collect();
        let classes: Vec<Class> = self
            .classes
            .iter()
            .map(|(&replicas, &partitions)| Class { replicas, partitions })
            .collect();
        let shares = fair_shares(&nodes, &classes);
        let partitions = self.classes.values().sum();
        self.replicas = Loads::new(shares.replicas, partitions, self.slack_percent);
        self.leaders = Loads::new(shares.leaders, partitions, self.slack_percent);
    }

    /// Counts partitions that stay where they are as load; shares and bounds are then of all.
    ///
    /// Called once, before anything is placed.
    pub(crate) fn carry(&mut self, fixed: &Carried) {
        for (&replicas, &partitions) in &fixed.partitions {
            // More replicas than nodes can only be of nodes that are gone: they are no load here.
            let replicas = replicas.min(self.sites.len());
            if replicas > 0 {
                *self.classes.entry(replicas).or_insert(0) += partitions;
            }
        }
        self.set_bounds();
        for (&id, load) in &fixed.nodes {
            if let Some(node) = self.position(id) {
                self.replicas.now[usize::from(node)] += load.replicas;
                self.leaders.now[usize::from(node)] += load.leaders;
            }
        }
    }

    /// Position of a node that takes replicas.
    pub(crate) fn position(&self, id: NodeId) -> Option<u16> {
        let at = self.sites.binary_search_by_key(&id, |site| site.id).ok()?;
        Some(u16::try_from(at).expect("the number of nodes was checked"))
    }

    /// All nodes in the order in which the slot's walk meets them.
    pub(crate) fn walk(&self, slot: usize) -> &[u16] {
        &self.order[slot * self.sites.len()..][..self.sites.len()]
    }

    /// How late the slot's walk meets the node.
    pub(crate) fn rank(&self, slot: usize, node: u16) -> usize {
        let met = self.walk(slot).iter().position(|&met| met == node);
        met.expect("a walk meets every node")
    }

    fn rack(&self, node: u16) -> u16 {
        self.sites[usize::from(node)].rack
    }

    /// How many replicas of the slot are in racks that hold another.
    fn sharing(&self, held: &(impl Iterator<Item = u16> + Clone)) -> usize {
        let first = |(at, node): &(usize, u16)| {
            !held.clone().take(*at).any(|other| self.rack(other) == self.rack(*node))
        };
        let count = held.clone().count();
        count - held.clone().enumerate().filter(first).count()
    }

    /// Whether the slot has more replicas in shared racks than it may.
    pub(crate) fn shares_too_much(&self, slot: usize) -> bool {
        let slot = &self.slots[slot];
        self.sharing(&slot.held.iter().copied()) > slot.sharing_max
    }

    /// Whether another replica of the slot is in the node's rack.
    pub(crate) fn shares_rack(&self, slot: usize, node: u16) -> bool {
        let others = self.slots[slot].held.iter().filter(|&&other| other != node);
        others.into_iter().any(|&other| self.rack(other) == self.rack(node))
    }

    /// Whether the slot may be held by `node`, after `leaving` has given it up.
    ///
    /// One replica per node, and no more sharing of racks than it must be: a slot of `r` replicas
    /// among `k` racks is in `min(r, k)` of them exactly if at most `r - k` of its replicas share.
    pub(crate) fn fits(&self, slot: usize, leaving: Option<u16>, node: u16) -> bool {
        let slot = &self.slots[slot];
        if slot.held.contains(&node) {
            return false;
        }
        let others = slot.held.iter().copied().filter(|&other| Some(other) != leaving);
        self.sharing(&others.chain([node])) <= slot.sharing_max
    }

    /// Puts a replica on a node.
    pub(crate) fn add(&mut self, slot: usize, node: u16) {
        let held = &mut self.slots[slot].held;
        assert!(!held.contains(&node), "a node holds a partition at most once");
        held.push(node);
        self.replicas.now[usize::from(node)] += 1;
    }

    /// Takes a replica off a node.
    pub(crate) fn drop(&mut self, slot: usize, node: u16) {
        let held = &mut self.slots[slot].held;
        let at = held.iter().position(|&other| other == node).expect("the node holds it");
        held.remove(at);
        self.replicas.now[usize::from(node)] -= 1;
    }

    /// Moves a replica from one node to another.
    pub(crate) fn shift(&mut self, slot: usize, from: u16, to: u16) {
        self.drop(slot, from);
        self.add(slot, to);
    }

    /// The slots on each node.
    pub(crate) fn held_by_node(&self) -> Vec<Vec<usize>> {
        let mut lists = vec![Vec::new(); self.sites.len()];
        for (slot, Slot { held, .. }) in self.slots.iter().enumerate() {
            for &node in held {
                lists[usize::from(node)].push(slot);
            }
        }
        lists
    }

    /// All node positions.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = u16> + use<> {
        0..u16::try_from(self.sites.len()).expect("the number of nodes was checked")
    }

    /// The finished placement: leader first, then by the ring.
    pub(crate) fn into_placement(self) -> Placement {
        self.into_placement_with(Placement::new())
    }

    /// The finished placement together with partitions that stayed as they were.
    pub(crate) fn into_placement_with(self, mut placement: Placement) -> Placement {
        for (at, slot) in self.slots.iter().enumerate() {
            assert_eq!(slot.held.len(), slot.replicas, "every replica has a place");
            let leader = slot.leader.expect("every partition has a preferred leader");
            let mut held: Vec<u16> = slot.held.clone();
            held.sort_unstable_by_key(|&node| (node != leader, self.rank(at, node)));
            let ids = held.into_iter().map(|node| self.sites[usize::from(node)].id).collect();
            placement.insert(slot.group, ids);
        }
        placement
    }
}
