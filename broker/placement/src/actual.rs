//! What is true of a partition now, as its leader reports it: the only memory that moves need.

use std::collections::{BTreeMap, BTreeSet};

use plimsoll_protocol::ids::{GroupId, NodeId};

use crate::placement::Placement;

/// The members of one partition's Raft group, as committed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Members {
    /// Nodes whose votes count.
    pub voters: BTreeSet<NodeId>,
    /// Nodes that receive the log without a vote, and whether each has caught up with it.
    pub learners: BTreeMap<NodeId, CatchUp>,
    /// The leader, when one is known.
    pub leader: Option<NodeId>,
}

/// How far a learner is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatchUp {
    /// It still copies: as a voter it would hold up commits.
    Copying,
    /// It has nearly everything: it may become a voter.
    CaughtUp,
}

impl Members {
    /// Voters only.
    #[must_use]
    pub fn of_voters(voters: impl IntoIterator<Item = NodeId>, leader: Option<NodeId>) -> Self {
        Self { voters: voters.into_iter().collect(), learners: BTreeMap::new(), leader }
    }

    /// How many voters are healthy, and how many a quorum takes.
    pub(crate) fn health(&self, healthy: &BTreeSet<NodeId>) -> Health {
        Health {
            healthy: self.voters.intersection(healthy).count(),
            quorum: self.voters.len() / 2 + 1,
        }
    }
}

/// Voters of a group, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) healthy: usize,
    pub(crate) quorum: usize,
}

/// The members of every partition.
pub type Actual = BTreeMap<GroupId, Members>;

/// The members that a placement asks for, all voters and led by the preferred leader.
#[must_use]
pub fn members_of(placement: &Placement) -> Actual {
    let members = |replicas: &[NodeId]| {
        Members::of_voters(replicas.iter().copied(), replicas.first().copied())
    };
    placement.iter().map(|(group, replicas)| (group, members(replicas))).collect()
}
