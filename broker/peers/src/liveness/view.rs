//! What a node believes of the others, at one moment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use plimsoll_protocol::ids::NodeId;
use plimsoll_protocol::peer::Condition;

/// What a node believes of the others, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// This node.
    pub me: NodeId,
    /// The nodes that are heard; this one is not among them.
    pub up: BTreeSet<NodeId>,
    /// Per node that is heard, and for this node: whom it reaches, that is hears and is heard by.
    pub reach: BTreeMap<NodeId, BTreeSet<NodeId>>,
    /// Per node that is heard: whether it takes on work.
    pub conditions: BTreeMap<NodeId, Condition>,
}

/// A change of what a node believes of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LivenessEvent {
    /// The node is heard (again).
    Up(NodeId),
    /// The node was silent for the timeout.
    Down(NodeId),
    /// The node is heard in a later life: what it led it leads no more.
    Restarted(NodeId),
    /// Whom the node reaches has changed; this node's own reach too.
    ReachChanged(NodeId),
    /// This process did not run for as long: what it believes begins anew.
    SelfStalled(Duration),
}

impl View {
    /// A node that has heard nobody.
    #[must_use]
    pub fn alone(me: NodeId) -> Self {
        let reach = BTreeMap::from([(me, BTreeSet::from([me]))]);
        Self { me, up: BTreeSet::new(), reach, conditions: BTreeMap::new() }
    }

    /// Whether the node was heard within the timeout. True of this node.
    #[must_use]
    pub fn hears(&self, node: NodeId) -> bool {
        node == self.me || self.up.contains(&node)
    }

    /// Whether the node is heard and has heard this one within the timeout. True of this node.
    #[must_use]
    pub fn reaches(&self, node: NodeId) -> bool {
        self.reach.get(&self.me).is_some_and(|reach| reach.contains(&node))
    }

    /// Whether `node` is heard and takes on work.
    #[must_use]
    pub fn serves(&self, node: NodeId) -> bool {
        node == self.me || self.conditions.get(&node) == Some(&Condition::Serving)
    }

    /// Whether `leader` is heard and itself reaches a majority of each configuration: then its claim
    /// to lead is believed, and a vote against it is refused.
    #[must_use]
    pub fn shields(&self, leader: NodeId, configs: &[BTreeSet<NodeId>]) -> bool {
        self.hears(leader) && self.has_majority(leader, configs)
    }

    /// Whether this node reaches a majority of each configuration.
    #[must_use]
    pub fn reaches_majority(&self, configs: &[BTreeSet<NodeId>]) -> bool {
        self.has_majority(self.me, configs)
    }

    fn has_majority(&self, node: NodeId, configs: &[BTreeSet<NodeId>]) -> bool {
        let reach = self.reach.get(&node);
        let reached =
            |other: &NodeId| *other == node || reach.is_some_and(|reach| reach.contains(other));
        configs
            .iter()
            .all(|config| config.iter().filter(|other| reached(other)).count() * 2 > config.len())
    }
}
