//! The difference between what is and what is wanted, as an ordered list of moves: pure data, to be
//! shown and to be carried out. It can be thrown away and made again from the members at any time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use plimsoll_protocol::ids::{GroupId, NodeId};

use crate::actual::{Actual, CatchUp, Members};
use crate::placement::Placement;
use crate::step::{Next, Step, next_step};

/// What has to change for one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The partition.
    pub group: GroupId,
    /// Where it shall be, the preferred leader first.
    pub wanted: Vec<NodeId>,
    /// Nodes that get a copy.
    pub add: Vec<NodeId>,
    /// Voters and learners that go.
    pub remove: Vec<NodeId>,
    /// Estimate of the bytes that one copy takes.
    pub bytes_per_copy: u64,
}

impl Move {
    /// Bytes that the whole move copies, by estimate.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes_per_copy.saturating_mul(self.add.len() as u64)
    }

    /// The steps in the order in which they come when nothing fails.
    ///
    /// `members` is what the move was made from.
    #[must_use]
    pub fn steps(&self, members: &Members) -> Vec<Step> {
        let mut now = members.clone();
        let everybody: BTreeSet<NodeId> = self
            .wanted
            .iter()
            .copied()
            .chain(now.voters.iter().copied())
            .chain(now.learners.keys().copied())
            .collect();
        now.leader = now.leader.or_else(|| now.voters.first().copied());
        let mut steps = Vec::new();
        for _ in 0..5 * everybody.len() {
            now.catch_up();
            match next_step(self.group, &now, &self.wanted, &everybody) {
                Next::Step(step) => {
                    now.take(step);
                    steps.push(step);
                }
                _ => break,
            }
        }
        steps
    }
}

impl Members {
    /// What the members are once a step has taken effect. A new learner is still copying.
    pub fn take(&mut self, step: Step) {
        match step {
            Step::AddLearner(node) => {
                self.learners.insert(node, CatchUp::Copying);
            }
            Step::Promote(node) => {
                self.learners.remove(&node);
                self.voters.insert(node);
            }
            Step::TransferLeader(node) => self.leader = Some(node),
            Step::RemoveVoter(node) => {
                self.voters.remove(&node);
            }
            Step::RemoveLearner(node) => {
                self.learners.remove(&node);
            }
        }
    }

    /// All learners have caught up.
    fn catch_up(&mut self) {
        for state in self.learners.values_mut() {
            *state = CatchUp::CaughtUp;
        }
    }
}

/// Moves in the order in which they should begin.
///
/// First partitions that have lost voters (the most first), then those that leave a draining node,
/// then the others; small ones before large ones, so that most of the work is done early.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    moves: Vec<Move>,
}

/// What a plan copies to and from one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeTraffic {
    /// Replicas that the node gets.
    pub replicas_in: usize,
    /// Replicas that it gives up.
    pub replicas_out: usize,
    /// Bytes that it receives, by estimate.
    pub bytes_in: u64,
}

impl Plan {
    /// The moves from the members as they are to the wanted placement.
    ///
    /// `staying` are the nodes that are up and not draining; `bytes` estimates a copy of a partition.
    /// A partition that the wanted placement does not name, or that has no members yet, needs no move.
    #[must_use]
    pub fn new(
        actual: &Actual,
        wanted: &Placement,
        staying: &BTreeSet<NodeId>,
        bytes: impl Fn(GroupId) -> u64,
    ) -> Self {
        let mut moves = Vec::new();
        for (group, wanted) in wanted.iter() {
            let Some(members) = actual.get(&group).filter(|m| !m.voters.is_empty()) else {
                continue;
            };
            let add: Vec<NodeId> =
                wanted.iter().copied().filter(|node| !members.voters.contains(node)).collect();
            let present = members.voters.iter().chain(members.learners.keys()).copied();
            let remove: Vec<NodeId> = present.filter(|node| !wanted.contains(node)).collect();
            let leads = members.leader.is_none_or(|leader| leader == wanted[0]);
            if add.is_empty() && remove.is_empty() && leads {
                continue;
            }
            let leaving = members.voters.difference(staying).count();
            let one =
                Move { group, wanted: wanted.to_vec(), add, remove, bytes_per_copy: bytes(group) };
            moves.push((Reverse(leaving), one.bytes(), group, one));
        }
        moves.sort_by_key(|&(leaving, bytes, group, _)| (leaving, bytes, group));
        Self { moves: moves.into_iter().map(|(_, _, _, one)| one).collect() }
    }

    /// The moves, the most urgent first.
    #[must_use]
    pub fn moves(&self) -> &[Move] {
        &self.moves
    }

    /// Whether everything is where it should be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.moves.is_empty()
    }

    /// Replicas that are copied.
    #[must_use]
    pub fn copied_replicas(&self) -> usize {
        self.moves.iter().map(|one| one.add.len()).sum()
    }

    /// Bytes that are copied, by estimate.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.moves.iter().fold(0, |sum, one| sum.saturating_add(one.bytes()))
    }

    /// What each node gets and gives.
    #[must_use]
    pub fn traffic(&self) -> BTreeMap<NodeId, NodeTraffic> {
        let mut traffic: BTreeMap<NodeId, NodeTraffic> = BTreeMap::new();
        for one in &self.moves {
            for &node in &one.add {
                let node = traffic.entry(node).or_default();
                node.replicas_in += 1;
                node.bytes_in = node.bytes_in.saturating_add(one.bytes_per_copy);
            }
            for &node in &one.remove {
                traffic.entry(node).or_default().replicas_out += 1;
            }
        }
        traffic
    }
}
