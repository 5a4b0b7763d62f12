//! The other nodes, as the groups see them: who lives, who leads what, and what the catalog says of
//! where groups lie.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use plimsoll_peers::{PeerError, Peers, View};
use plimsoll_protocol::ids::{GroupId, NodeId, Term};
use plimsoll_protocol::peer::{GroupClaim, Leads};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::elector::ELECTIONS_IN_FLIGHT_MAX;
use crate::leaders::{Leaders, LeadsChange};
use crate::placements::{Placed, Placements};

/// Most Raft instances of a node that are built at a time.
const WAKES_IN_FLIGHT_MAX: usize = 64;

/// How long a node that is not heard any more is taken to be back soon: compaction leaves it what it lacks.
/// Longer: more waits to be compacted meanwhile; shorter: a node that was restarted is sent whole logs.
const MISSED_FOR: Duration = Duration::from_secs(600);

/// See the module.
pub(crate) struct Neighbours {
    me: NodeId,
    peers: OnceLock<Peers>,
    /// The nodes that get every change of what this one leads, and whether they have said all that
    /// they lead on the present link.
    linked: Mutex<BTreeMap<NodeId, bool>>,
    /// How often each node has begun a new life since this one started.
    restarts: Mutex<BTreeMap<NodeId, u64>>,
    /// Since when nodes are not heard that were heard before.
    away: Mutex<BTreeMap<NodeId, Instant>>,
    /// Since when this node could hear others.
    began: Instant,
    /// This node is leaving: it takes no leadership any more.
    leaving: watch::Sender<bool>,
    /// Until then replicas of groups without durability may lack what this node answered for.
    doubt_until: OnceLock<Instant>,
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
            peers: OnceLock::new(),
            linked: Mutex::default(),
            restarts: Mutex::default(),
            away: Mutex::default(),
            began: Instant::now(),
            leaving: watch::Sender::new(false),
            doubt_until: OnceLock::new(),
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

    /// Waits until the local catalog is confirmed in this life of the node; false after `limit`, and when the
    /// node leaves: who waits holds its group, which is to end.
    pub(crate) async fn confirmed_within(&self, limit: Duration) -> bool {
        let mut confirmed = self.confirmed.subscribe();
        let waiting = tokio::time::timeout(limit, confirmed.wait_for(|confirmed| *confirmed));
        tokio::select! {
            biased;
            waited = waiting => matches!(waited, Ok(Ok(_))),
            () = self.left() => false,
        }
    }

    pub(crate) fn confirmed(&self) -> watch::Receiver<bool> {
        self.confirmed.subscribe()
    }

    /// The local catalog is as new as the cluster's was a moment ago.
    pub(crate) fn confirm_catalog(&self) {
        self.confirmed.send_replace(true);
    }

    /// This node's replica of the group cannot be used, or can be again.
    pub(crate) fn set_unfit(&self, group: GroupId, unfit: bool) {
        self.leaders.set_unfit(group, unfit, |change| self.tell(change));
    }

    /// Whether any node said that of any group.
    pub(crate) fn has_unfit(&self) -> bool {
        self.leaders.has_unfit()
    }

    /// Whether a node said that its replica of the group cannot be used; this node, too.
    pub(crate) fn is_unfit(&self, node: NodeId, group: GroupId) -> bool {
        self.leaders.is_unfit(node, self.me, group)
    }

    /// Tells when something about the other nodes has changed.
    pub(crate) fn changes(&self) -> Changes {
        Changes(self.moved.subscribe())
    }

    /// Something about the other nodes has changed.
    pub(crate) fn touch(&self) {
        self.moved.send_modify(|moved| *moved += 1);
    }

    pub(crate) fn set_peers(&self, peers: Peers) -> bool {
        self.peers.set(peers).is_ok()
    }

    /// A power failure may have taken what this node answered for, in groups without durability.
    pub(crate) fn doubt(&self, until: Instant) {
        let _ = self.doubt_until.set(until);
    }

    pub(crate) fn doubt_until(&self) -> Option<Instant> {
        self.doubt_until.get().copied()
    }

    /// The links to other nodes, where there are any.
    pub(crate) fn peers(&self) -> Option<&Peers> {
        self.peers.get()
    }

    /// The epoch of the local catalog.
    pub(crate) fn epoch(&self) -> u64 {
        self.placements.get().map_or(0, |placements| placements.epoch())
    }

    fn view<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        match self.peers.get() {
            Some(peers) => look(&peers.view()),
            None => look(&View::alone(self.me)),
        }
    }

    /// Whether the node gave a sign of life of late; this node does.
    pub(crate) fn hears(&self, node: NodeId) -> bool {
        node == self.me || self.view(|view| view.hears(node))
    }

    /// Whether the node is heard and takes on work; this one does.
    pub(crate) fn serves(&self, node: NodeId) -> bool {
        self.view(|view| view.serves(node))
    }

    /// Whether this node and that one hear each other.
    pub(crate) fn reaches(&self, node: NodeId) -> bool {
        node == self.me || self.view(|view| view.reaches(node))
    }

    /// Whether the node is not heard and was a short time ago: what it lacks is kept for it. Who was not heard in
    /// this life of the node counts as heard when it began.
    pub(crate) fn is_missed(&self, node: NodeId) -> bool {
        let away = self.away().get(&node).copied();
        !self.hears(node) && away.unwrap_or(self.began).elapsed() < MISSED_FOR
    }

    /// The node is heard again, or is not any more.
    pub(crate) fn set_heard(&self, node: NodeId, heard: bool) {
        let mut away = self.away();
        match heard {
            true => drop(away.remove(&node)),
            false => drop(away.entry(node).or_insert_with(Instant::now)),
        }
    }

    fn away(&self) -> MutexGuard<'_, BTreeMap<NodeId, Instant>> {
        self.away.lock().expect("nothing panics while it holds the times")
    }

    /// Whether there is a link to the node, which may not have given a sign of life on it yet.
    pub(crate) fn is_linked(&self, node: NodeId) -> bool {
        self.links().contains_key(&node)
    }

    /// Whether this node reaches a majority of the voters.
    pub(crate) fn reaches_majority(&self, configs: &[BTreeSet<NodeId>]) -> bool {
        self.view(|view| view.reaches_majority(configs))
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

    fn shields(&self, leader: NodeId, configs: &[BTreeSet<NodeId>]) -> bool {
        self.view(|view| view.shields(leader, configs))
    }

    /// Whether this node may become a leader: not while it is leaving.
    pub(crate) fn may_lead(&self) -> bool {
        !*self.leaving.borrow()
    }

    /// Ends when this node is leaving. May be cancelled.
    pub(crate) async fn left(&self) {
        // The sender lives as long as this.
        let _ = self.leaving.subscribe().wait_for(|leaving| *leaving).await;
    }

    /// This node is leaving.
    pub(crate) fn leave(&self) {
        self.leaving.send_replace(true);
        self.touch();
    }

    /// Tells every node that this one leads the group.
    pub(crate) fn claim(&self, group: GroupId, term: Term) {
        self.leaders.claim(group, term, |change| self.tell(change));
    }

    /// Takes the claim back.
    pub(crate) fn release(&self, group: GroupId) {
        self.leaders.release(group, |change| self.tell(change));
    }

    fn tell(&self, change: LeadsChange) {
        let Some(peers) = self.peers.get() else { return };
        let leads = self.to_frame(change);
        for node in self.links().keys() {
            push_or_unlink(peers, *node, leads.clone());
        }
    }

    fn to_frame(&self, change: LeadsChange) -> Leads {
        let LeadsChange { full, add, drop, unfit } = change;
        let add = add.into_iter().map(|(group, term)| GroupClaim { group, term }).collect();
        Leads { epoch: self.epoch(), full, add, drop, unfit }
    }

    /// A new link: the node is told all that this one leads, and every change from now on.
    pub(crate) fn linked(&self, node: NodeId) {
        let Some(peers) = self.peers.get() else { return };
        self.leaders.with_full(|full| {
            self.links().insert(node, false);
            push_or_unlink(peers, node, self.to_frame(full));
        });
    }

    /// The link is gone.
    pub(crate) fn unlinked(&self, node: NodeId) {
        self.links().remove(&node);
    }

    /// Takes in what another node leads. Returns the groups that it does not lead any more.
    pub(crate) fn heard(&self, from: NodeId, leads: Leads) -> Vec<GroupId> {
        let add = leads.add.into_iter().map(|claim| (claim.group, claim.term)).collect();
        let Leads { full, drop, unfit, .. } = leads;
        if full && let Some(is_told) = self.links().get_mut(&from) {
            *is_told = true;
        }
        self.leaders.heard(from, LeadsChange { full, add, drop, unfit })
    }

    /// The node began a new life: it leads nothing of what it led. Returns those groups; none where
    /// it has said already what it leads now.
    pub(crate) fn restarted(&self, node: NodeId) -> Vec<GroupId> {
        *self.restart_counts().entry(node).or_default() += 1;
        let is_told = self.links().get(&node).copied();
        if is_told == Some(true) { Vec::new() } else { self.leaders.forget(node) }
    }

    /// How often the node began a new life since this one started.
    pub(crate) fn restarts(&self, node: NodeId) -> u64 {
        self.restart_counts().get(&node).copied().unwrap_or_default()
    }

    fn restart_counts(&self) -> MutexGuard<'_, BTreeMap<NodeId, u64>> {
        self.restarts.lock().expect("nothing panics while it holds the counts")
    }

    /// Whether the node says that it leads the group, in `term` or a later one.
    pub(crate) fn claims(&self, node: NodeId, group: GroupId, term: Term) -> bool {
        let claimants = self.leaders.claimants(group).into_iter();
        claimants.filter(|(claimant, _)| *claimant == node).any(|(_, claimed)| claimed >= term)
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<NodeId, bool>> {
        self.linked.lock().expect("nothing panics while it holds the links")
    }

    /// The live node that claims the group in the highest term, this one included.
    pub(crate) fn leader(&self, group: GroupId) -> Option<(NodeId, Term)> {
        self.leaders.leader(group, self.me, |node| self.hears(node))
    }

    /// The live node, other than this one, that claims the group in `term` or a later one.
    pub(crate) fn leader_since(&self, group: GroupId, term: Term) -> Option<NodeId> {
        let claimants = self.leaders.claimants(group).into_iter();
        let live = claimants.filter(|(node, claimed)| *claimed >= term && self.hears(*node));
        live.max_by_key(|(_, term)| *term).map(|(node, _)| node)
    }

    /// The live node, other than this one, that claims the group.
    pub(crate) fn leader_elsewhere(&self, group: GroupId) -> Option<NodeId> {
        self.leader_since(group, Term(0))
    }

    /// The node to ask for the group: the live one that claims it, else the first live one in the
    /// order of its placement that can lead. Every node that sees the same gets the same.
    pub(crate) fn hint(&self, group: GroupId, placed: &[NodeId]) -> Option<(NodeId, Option<Term>)> {
        if let Some((node, term)) = self.leader(group) {
            return Some((node, Some(term)));
        }
        placed.iter().copied().find(|node| self.is_fit(group, *node)).map(|node| (node, None))
    }

    /// Whether the node is live, takes on work, and did not say that it cannot lead the group.
    pub(crate) fn is_fit(&self, group: GroupId, node: NodeId) -> bool {
        let may_lead = node != self.me || self.may_lead();
        may_lead && self.serves(node) && !self.leaders.is_unfit(node, self.me, group)
    }
}

/// Whoever does not get a change has lost its link, or loses it here: with the next one it gets
/// everything. Else it would go on believing in a leader that is none, and shield it.
fn push_or_unlink(peers: &Peers, node: NodeId, leads: Leads) {
    if let Err(error @ (PeerError::Full { .. } | PeerError::TooLarge { .. })) =
        peers.push(node, leads)
    {
        tracing::warn!(peer = %node, %error, "a node cannot be told what this one leads");
        peers.unlink(node, "what this node leads could not be sent");
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than anybody who stops a node is patient.
    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_catalog_is_let_go_when_the_node_leaves() {
        let neighbours = Arc::new(Neighbours::new(NodeId(1)));
        let waiting = Arc::clone(&neighbours);
        let began = Instant::now();
        let waiting = tokio::spawn(async move { waiting.confirmed_within(LONG).await });
        tokio::task::yield_now().await;
        neighbours.leave();
        assert!(!waiting.await.unwrap());
        assert!(began.elapsed() < LONG);
        neighbours.confirm_catalog();
        assert!(neighbours.confirmed_within(LONG).await, "what is known is told also then");
    }
}
