//! The other nodes, as the groups see them: who lives, who leads what, and what the catalog says of
//! where groups lie.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use plimsoll_protocol::ids::{GroupId, NodeId, Term};
use tokio::sync::{Semaphore, watch};

use crate::elector::ELECTIONS_IN_FLIGHT_MAX;
use crate::leaders::{Leaders, LeadsChange};
use crate::placements::{Placed, Placements};
use crate::role::majority_of_each;

/// Most Raft instances of a node that are built at a time.
const WAKES_IN_FLIGHT_MAX: usize = 64;

/// See the module.
pub(crate) struct Neighbours {
    me: NodeId,
    placements: OnceLock<Arc<dyn Placements>>,
    leaders: Leaders,
    /// Whether the local catalog is known to be as new as the cluster's was at some moment of this
    /// life of the node.
    confirmed: watch::Sender<bool>,
    /// Goes up when a node came, went or changed whom it reaches.
    moved: watch::Sender<u64>,
    pub(crate) elections: Arc<Semaphore>,
    pub(crate) wakes: Semaphore,
}

impl fmt::Debug for Neighbours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Neighbours").field("me", &self.me).finish_non_exhaustive()
    }
}

impl Neighbours {
    pub(crate) fn new(me: NodeId) -> Self {
        Self {
            me,
            placements: OnceLock::new(),
            leaders: Leaders::default(),
            confirmed: watch::Sender::new(false),
            moved: watch::Sender::new(0),
            elections: Arc::new(Semaphore::new(ELECTIONS_IN_FLIGHT_MAX)),
            wakes: Semaphore::new(WAKES_IN_FLIGHT_MAX),
        }
    }

    pub(crate) fn set_placements(&self, placements: Arc<dyn Placements>) -> bool {
        self.placements.set(placements).is_ok()
    }

    /// Where the group lies, if somebody told this host where to ask.
    pub(crate) fn placed(&self, group: GroupId) -> Option<Placed> {
        self.placements.get()?.placed(group)
    }

    /// Whether every group has this node as its only replica, because nobody said otherwise.
    pub(crate) fn is_unplaced(&self) -> bool {
        self.placements.get().is_none()
    }

    /// Waits until the local catalog is confirmed in this life of the node; false after `limit`.
    pub(crate) async fn confirmed_within(&self, limit: Duration) -> bool {
        let mut confirmed = self.confirmed.subscribe();
        let waiting = confirmed.wait_for(|confirmed| *confirmed);
        matches!(tokio::time::timeout(limit, waiting).await, Ok(Ok(_)))
    }

    /// The local catalog is as new as the cluster's was a moment ago.
    pub(crate) fn confirm_catalog(&self) {
        self.confirmed.send_replace(true);
    }

    /// This node's replica of the group cannot be used, or can be again.
    pub(crate) fn set_unfit(&self, group: GroupId, unfit: bool) {
        self.leaders.set_unfit(group, unfit, |change| self.tell(change));
    }

    /// Tells when something about the other nodes has changed.
    pub(crate) fn changes(&self) -> Changes {
        Changes(self.moved.subscribe())
    }

    /// Whether the node gave a sign of life of late; this node does.
    pub(crate) fn hears(&self, node: NodeId) -> bool {
        node == self.me
    }

    /// Whether this node and that one hear each other.
    pub(crate) fn reaches(&self, node: NodeId) -> bool {
        node == self.me
    }

    /// Whether this node reaches a majority of the voters.
    pub(crate) fn reaches_majority(&self, configs: &[BTreeSet<NodeId>]) -> bool {
        majority_of_each(configs, |node| self.reaches(node))
    }

    /// Whether another node than `candidate` leads the group by its own word, in a term that is not
    /// below `term`, is heard here and itself reaches a majority of the voters.
    pub(crate) fn is_shielded(
        &self,
        group: GroupId,
        term: Term,
        candidate: Option<NodeId>,
        configs: &[BTreeSet<NodeId>],
    ) -> bool {
        self.leaders.claimants(group).into_iter().any(|(leader, claimed)| {
            Some(leader) != candidate && claimed >= term && self.shields(leader, configs)
        })
    }

    fn shields(&self, _leader: NodeId, _configs: &[BTreeSet<NodeId>]) -> bool {
        false
    }

    /// Whether this node may become a leader: not while it is leaving.
    pub(crate) fn may_lead(&self) -> bool {
        true
    }

    /// Tells every node that this one leads the group.
    pub(crate) fn claim(&self, group: GroupId, term: Term) {
        self.leaders.claim(group, term, |change| self.tell(change));
    }

    /// Takes the claim back.
    pub(crate) fn release(&self, group: GroupId) {
        self.leaders.release(group, |change| self.tell(change));
    }

    fn tell(&self, _change: LeadsChange) {}

    /// The live node, other than this one, that claims the group.
    pub(crate) fn leader_elsewhere(&self, group: GroupId) -> Option<NodeId> {
        let claimants = self.leaders.claimants(group).into_iter();
        let live = claimants.filter(|(node, _)| self.hears(*node));
        live.max_by_key(|(_, term)| *term).map(|(node, _)| node)
    }

    /// The node to ask for the group: the live one that claims it, else the first live one in the
    /// order of its placement that can lead. Every node that sees the same gets the same.
    pub(crate) fn hint(&self, group: GroupId, placed: &[NodeId]) -> Option<(NodeId, Option<Term>)> {
        if let Some((node, term)) = self.leaders.leader(group, self.me, |node| self.hears(node)) {
            return Some((node, Some(term)));
        }
        let fit = |node: &NodeId| self.hears(*node) && !self.leaders.is_unfit(*node, group);
        placed.iter().copied().find(fit).map(|node| (node, None))
    }
}

/// See [`Neighbours::changes`].
#[derive(Debug)]
pub(crate) struct Changes(watch::Receiver<u64>);

impl Changes {
    /// Returns when something has changed since the last time.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
