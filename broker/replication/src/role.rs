//! What this node is in a group.

use std::collections::BTreeSet;
use std::sync::Arc;

use plimsoll_protocol::ids::{NodeId, Term};

/// What this node is in a group, as its Raft instance and the other nodes tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Nothing: the group was laid to rest, or not used yet in this life of the node.
    #[default]
    Asleep,
    /// It leads: everything that was in the log when the term began is folded, and batches are
    /// taken in.
    Leader {
        /// The term that it leads in.
        term: Term,
    },
    /// It follows a leader.
    Follower {
        /// The leader.
        leader: NodeId,
        /// The leader's term.
        term: Term,
    },
    /// It knows no leader that lives, or it has been elected and is not ready yet, or its Raft instance
    /// ended by itself.
    Searching {
        /// The term of its last vote.
        term: Term,
    },
}

impl Role {
    /// The term in which this node leads.
    #[must_use]
    pub fn led_term(self) -> Option<Term> {
        match self {
            Self::Leader { term } => Some(term),
            _ => None,
        }
    }

    /// The term of the last vote that this node knows of, while the group is awake.
    #[must_use]
    pub fn term(self) -> Option<Term> {
        match self {
            Self::Asleep => None,
            Self::Leader { term } | Self::Follower { term, .. } | Self::Searching { term } => {
                Some(term)
            }
        }
    }
}

/// The voters of a group: one set, or two while they change.
pub(crate) type Configs = Arc<[BTreeSet<NodeId>]>;

/// What is known of a group's Raft instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) role: Role,
    pub(crate) configs: Configs,
    /// Whether the membership names another node, as a voter or a learner.
    pub(crate) has_others: bool,
    /// The instance ended by itself, or is to be ended because the replica is quarantined.
    pub(crate) ended: bool,
}

impl Standing {
    /// Whether `node` is the only voter: then no time and no other node matters.
    pub(crate) fn is_alone(&self, node: NodeId) -> bool {
        is_alone(&self.configs, node)
    }
}

/// Whether `node` is the only voter of a group.
pub(crate) fn is_alone(configs: &[BTreeSet<NodeId>], node: NodeId) -> bool {
    !configs.is_empty() && configs.iter().all(|voters| voters.len() == 1 && voters.contains(&node))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn only_a_single_voter_is_alone() {
        assert!(is_alone(&[set(&[1])], NodeId(1)));
        assert!(!is_alone(&[set(&[1])], NodeId(2)));
        assert!(!is_alone(&[set(&[1]), set(&[1, 2])], NodeId(1)));
        assert!(!is_alone(&[], NodeId(1)));
    }
}
