//! The next step of one partition towards its wanted place, from its members alone.
//!
//! ```text
//!  {1,2,3}  AddLearner 4 ─► {1,2,3}+4  Promote 4 ─► {1,2,3,4}  Transfer ─► Remove 3 ─► {1,2,4}
//!                           (copies)                            (if 3 leads)
//! ```
//!
//! One node at a time, the new one in before the old one goes. A crash of whoever drives the steps
//! leaves members from which the same function continues: nothing else is remembered.
//!
//! Invariant: no step takes a healthy voter away while fewer than the wanted number would be left,
//! or leaves fewer healthy voters than a quorum.
//!
//! Source: Ongaro, "Consensus: bridging theory and practice", 2014, 4.1 (one server at a time), 4.2.1
//! (learners catch up first), 4.2.2 (the leader hands over before it goes).

use std::collections::BTreeSet;

use plimsoll_protocol::ids::{GroupId, NodeId};
use thiserror::Error;

use crate::actual::{Actual, CatchUp, Health, Members};

/// One change of one Raft group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Begin to copy the log to a node. The only step that costs bytes.
    AddLearner(NodeId),
    /// Make a learner that has caught up a voter.
    Promote(NodeId),
    /// Have the leader hand over.
    TransferLeader(NodeId),
    /// Take a voter out; the node may drop its copy once this is committed.
    RemoveVoter(NodeId),
    /// Take a learner out that is not wanted (any more).
    RemoveLearner(NodeId),
}

/// What a partition needs next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// The members are the wanted ones, led by the preferred leader if that one is healthy.
    Done,
    /// This step.
    Step(Step),
    /// Something outside has to happen first.
    Wait(Wait),
    /// Not now, because of what it would risk.
    Refused(StepRefused),
}

/// What a partition waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// A learner still copies.
    Copying {
        /// The learner.
        learner: NodeId,
    },
    /// A wanted node is down, so nothing can be copied to it.
    NodeDown {
        /// The node.
        node: NodeId,
    },
    /// No leader is known: nobody can change the members.
    NoLeader,
}

/// Why a step would be a danger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StepRefused {
    /// Too few voters are healthy even now.
    #[error(
        "partition group {group} has {healthy} healthy voters and needs {quorum} to change \
         anything; bring back one of its nodes first"
    )]
    NoQuorum {
        /// The partition.
        group: GroupId,
        /// Healthy voters now.
        healthy: usize,
        /// Voters that make a quorum now.
        quorum: usize,
    },
    /// What is left would not be a quorum.
    #[error(
        "removing node {node} from partition group {group} would leave {healthy} healthy voters \
         where {quorum} are needed; bring back one of its other nodes first"
    )]
    LosesQuorum {
        /// The partition.
        group: GroupId,
        /// The node to remove.
        node: NodeId,
        /// Healthy voters that would be left.
        healthy: usize,
        /// Voters that would make a quorum then.
        quorum: usize,
    },
    /// Fewer healthy voters than the replication factor would be left.
    #[error(
        "removing node {node} from partition group {group} would leave {healthy} healthy voters of \
         the {replicas} it should have; bring back one of its other nodes first"
    )]
    BelowReplicas {
        /// The partition.
        group: GroupId,
        /// The node to remove.
        node: NodeId,
        /// Healthy voters that would be left.
        healthy: usize,
        /// The replication factor.
        replicas: usize,
    },
}

/// The next step of a partition towards `wanted`, whose first node should lead.
///
/// `healthy` are the nodes that answer. Asking again before the step has taken effect gives the same
/// step again: the caller makes one step of a partition at a time.
///
/// `wanted` is not empty.
#[must_use]
pub fn next_step(
    group: GroupId,
    members: &Members,
    wanted: &[NodeId],
    healthy: &BTreeSet<NodeId>,
) -> Next {
    assert!(!wanted.is_empty(), "a partition has a replica");
    let health = members.health(healthy);
    let missing: Vec<NodeId> =
        wanted.iter().copied().filter(|node| !members.voters.contains(node)).collect();
    let extra = || members.voters.iter().copied().filter(|node| !wanted.contains(node));
    let stray = members.learners.keys().copied().find(|node| !wanted.contains(node));
    let preferred = wanted[0];
    let may_lead = |node: NodeId| members.voters.contains(&node) && healthy.contains(&node);

    let is_wanted = missing.is_empty() && extra().next().is_none() && stray.is_none();
    let Some(leader) = members.leader else {
        return if is_wanted { Next::Done } else { Next::Wait(Wait::NoLeader) };
    };
    if is_wanted && (leader == preferred || !may_lead(preferred)) {
        return Next::Done;
    }
    if health.healthy < health.quorum {
        let Health { healthy, quorum } = health;
        return Next::Refused(StepRefused::NoQuorum { group, healthy, quorum });
    }
    if let Some(stray) = stray {
        return Next::Step(Step::RemoveLearner(stray));
    }
    // A voter too many goes before the next one comes: at most one is ever too many on purpose.
    if members.voters.len() > wanted.len() {
        // The dead go first: a copy that nobody can read protects nothing.
        let node = extra()
            .min_by_key(|node| (healthy.contains(node), *node == leader, *node))
            .expect("more voters than wanted nodes: one is not wanted");
        return remove(group, members, wanted, healthy, node);
    }
    if let Some(next) = bring_in(members, &missing, healthy) {
        return next;
    }
    debug_assert!(extra().next().is_none(), "as many voters as wanted, none missing");
    Next::Step(Step::TransferLeader(preferred))
}

/// The step that brings the next missing node in; one whose copy has begun comes first.
fn bring_in(members: &Members, missing: &[NodeId], healthy: &BTreeSet<NodeId>) -> Option<Next> {
    let with = |wanted: CatchUp| {
        missing
            .iter()
            .copied()
            .find(|node| healthy.contains(node) && members.learners.get(node) == Some(&wanted))
    };
    if let Some(node) = with(CatchUp::CaughtUp) {
        return Some(Next::Step(Step::Promote(node)));
    }
    if let Some(learner) = with(CatchUp::Copying) {
        return Some(Next::Wait(Wait::Copying { learner }));
    }
    let fresh = missing
        .iter()
        .copied()
        .find(|node| healthy.contains(node) && !members.learners.contains_key(node));
    let down = missing.first().copied().map(|node| Next::Wait(Wait::NodeDown { node }));
    fresh.map(|node| Next::Step(Step::AddLearner(node))).or(down)
}

/// The step that takes a voter out: first the leadership, then the vote.
fn remove(
    group: GroupId,
    members: &Members,
    wanted: &[NodeId],
    healthy: &BTreeSet<NodeId>,
    node: NodeId,
) -> Next {
    let mut left = members.clone();
    left.voters.remove(&node);
    let after = left.health(healthy);
    let replicas = wanted.len();
    if after.healthy < after.quorum {
        return Next::Refused(StepRefused::LosesQuorum {
            group,
            node,
            healthy: after.healthy,
            quorum: after.quorum,
        });
    }
    // A dead voter takes nothing with it: its removal is how the partition gets whole again.
    if healthy.contains(&node) && after.healthy < replicas {
        return Next::Refused(StepRefused::BelowReplicas {
            group,
            node,
            healthy: after.healthy,
            replicas,
        });
    }
    if members.leader == Some(node) {
        let successor = wanted
            .iter()
            .chain(&left.voters)
            .copied()
            .find(|next| left.voters.contains(next) && healthy.contains(next));
        let successor = successor.expect("a quorum of the voters that are left is healthy");
        return Next::Step(Step::TransferLeader(successor));
    }
    Next::Step(Step::RemoveVoter(node))
}

/// Why a node cannot be taken out of the cluster at once.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "removing node {node} now would leave {groups} partitions without a quorum (partition group \
     {first} would have {healthy} healthy voters where {quorum} are needed); drain it, or bring back \
     the other nodes first"
)]
pub struct RemovalLosesQuorum {
    /// The node.
    pub node: NodeId,
    /// How many partitions would be lost.
    pub groups: usize,
    /// One of them.
    pub first: GroupId,
    /// Its healthy voters without the node.
    pub healthy: usize,
    /// The voters that make a quorum there.
    pub quorum: usize,
}

/// Whether a node can be switched off and given up now: every partition keeps a quorum without it.
///
/// The quorum is of the voters as they are, the node included: its removal from each group is
/// committed by the others.
///
/// # Errors
/// When a partition would be left without a quorum; names the first and counts them.
pub fn check_removal(
    node: NodeId,
    actual: &Actual,
    healthy: &BTreeSet<NodeId>,
) -> Result<(), RemovalLosesQuorum> {
    let mut others = healthy.clone();
    others.remove(&node);
    let mut refused: Option<RemovalLosesQuorum> = None;
    for (&first, members) in actual {
        let Health { healthy, quorum } = members.health(&others);
        if !members.voters.contains(&node) || healthy >= quorum {
            continue;
        }
        match &mut refused {
            Some(refused) => refused.groups += 1,
            None => refused = Some(RemovalLosesQuorum { node, groups: 1, first, healthy, quorum }),
        }
    }
    refused.map_or(Ok(()), Err)
}
