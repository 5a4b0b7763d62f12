//! The keeper of an awake group: one task that turns what its Raft instance and the other nodes say
//! into the group's [`Role`], claims the group while this node leads it, and asks for votes while
//! nobody does.

use std::collections::BTreeSet;
use std::sync::Arc;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver as _;
use plimsoll_log::GroupLog;
use plimsoll_protocol::ids::{GroupId, NodeId, Term};
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use crate::elector;
use crate::host::Surroundings;
use crate::role::{Configs, Role, Standing, is_alone};
use crate::shared::Shared;
use crate::types::{Membership, Types};
use crate::wake::Raft;

/// What the keeper of a group needs.
pub(crate) struct Keeper {
    pub(crate) group: GroupId,
    pub(crate) raft: Raft,
    pub(crate) log: Arc<GroupLog>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) around: Arc<Surroundings>,
    pub(crate) standing: watch::Sender<Standing>,
    /// What the group shows; outlives its sleep.
    pub(crate) role: watch::Sender<Role>,
    /// Told when somebody wants the group led now, or a leader took back its claim.
    pub(crate) nudge: Arc<Notify>,
    /// Told when the replica is quarantined.
    pub(crate) damaged: Arc<Notify>,
}

/// An election that this node wants.
struct Candidacy {
    next: Instant,
    /// Held from the first attempt on.
    permit: Option<OwnedSemaphorePermit>,
}

/// The leader that this replica follows.
#[derive(Clone, Copy)]
struct Following {
    leader: NodeId,
    term: Term,
    /// How often its node had begun a new life when this was learned.
    restarts: u64,
}

/// What the Raft instance says of itself.
struct Seen {
    term: Term,
    leads: bool,
    leader: Option<NodeId>,
    configs: Configs,
    has_others: bool,
}

impl Keeper {
    /// Runs until the Raft instance ends, or its replica is quarantined: it may not lead, vote or answer
    /// then, and is ended.
    pub(crate) async fn run(self) {
        let mut metrics = self.raft.server_metrics();
        let mut neighbours = self.around.neighbours.changes();
        let mut candidacy = None;
        let mut following = None;
        loop {
            let seen = self.look(&mut metrics);
            let ready = self.show(&seen, &mut following);
            self.consider(&seen, &mut candidacy);
            let due = candidacy.as_ref().map(|candidacy| candidacy.next);
            tokio::select! {
                biased;
                () = self.damaged.notified() => break,
                changed = metrics.changed() => if changed.is_err() { break },
                () = self.recovered(seen.term), if !ready => self.lead(&seen),
                () = neighbours.changed() => {}
                () = self.nudge.notified() => {
                    if let Some(candidacy) = &mut candidacy && candidacy.permit.is_none() {
                        candidacy.next = Instant::now();
                    }
                }
                () = sleep_until(due), if due.is_some() => self.campaign(&mut candidacy).await,
            }
        }
        self.around.neighbours.release(self.group);
        // Not asleep: whoever reads here is to look for the leader.
        let term = self.standing.borrow().role.term().unwrap_or_default();
        let role = Role::Searching { term };
        self.standing.send_modify(|standing| {
            standing.role = role;
            standing.ended = true;
        });
        self.role.send_replace(role);
    }

    fn look(&self, metrics: &mut ServerMetrics) -> Seen {
        let seen = metrics.borrow_and_update();
        Seen {
            term: Term(seen.vote.leader_id.term),
            leads: seen.state == ServerState::Leader,
            leader: seen.current_leader.map(NodeId),
            configs: configs_of(seen.membership_config.membership()),
            has_others: has_others(seen.membership_config.membership(), self.around.node),
        }
    }

    /// Shows the role that follows from what was seen, except that a new leader is not ready yet.
    /// Returns whether it is.
    fn show(&self, seen: &Seen, following: &mut Option<Following>) -> bool {
        let term = seen.term;
        let neighbours = &self.around.neighbours;
        let role = if seen.leads {
            neighbours.claim(self.group, term);
            if self.standing.borrow().role == (Role::Leader { term }) {
                Role::Leader { term }
            } else {
                Role::Searching { term }
            }
        } else {
            neighbours.release(self.group);
            match seen.leader.filter(|leader| self.believes(*leader, term, following)) {
                Some(leader) => Role::Follower { leader, term },
                None => Role::Searching { term },
            }
        };
        self.set(role, seen);
        !seen.leads || role == (Role::Leader { term })
    }

    /// Whether a leader can be believed to lead on: its node is heard, and has not begun a new life since
    /// it was elected, in which it leads nothing unless it says so.
    fn believes(&self, leader: NodeId, term: Term, following: &mut Option<Following>) -> bool {
        let neighbours = &self.around.neighbours;
        let restarts = neighbours.restarts(leader);
        let known = following.filter(|known| (known.leader, known.term) == (leader, term));
        // What the instance begins with is of a stored vote, however old.
        let learned = if following.is_none() { 0 } else { restarts };
        let learned = Following { leader, term, restarts: learned };
        let known = *following.insert(known.unwrap_or(learned));
        neighbours.hears(leader)
            && (known.restarts == restarts || neighbours.claims(leader, self.group, term))
    }

    fn set(&self, role: Role, seen: &Seen) {
        let was = self.standing.borrow().role;
        self.standing.send_if_modified(|standing| {
            let changed = standing.role != role
                || standing.configs != seen.configs
                || standing.has_others != seen.has_others;
            if changed {
                standing.role = role;
                standing.configs = seen.configs.clone();
                standing.has_others = seen.has_others;
            }
            changed
        });
        self.role.send_if_modified(|shown| std::mem::replace(shown, role) != role);
        if was != role {
            tracing::debug!(group = %self.group, ?role, "role in the group");
        }
    }

    /// Waits until the first entry of `term` is applied: then everything before it is, too.
    async fn recovered(&self, term: Term) {
        let mut metrics = self.raft.data_metrics();
        loop {
            let applied = metrics.borrow_and_update().last_applied;
            if applied.is_some_and(|id| id.leader_id.term == term.0) {
                return;
            }
            if metrics.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// The leader is ready: it admits batches as if there had been none before.
    fn lead(&self, seen: &Seen) {
        self.shared.begin_term(seen.term);
        self.set(Role::Leader { term: seen.term }, seen);
    }

    /// Begins, keeps or ends a candidacy.
    fn consider(&self, seen: &Seen, candidacy: &mut Option<Candidacy>) {
        let me = self.around.node;
        let neighbours = &self.around.neighbours;
        let is_voter = seen.configs.iter().any(|voters| voters.contains(&me));
        let seeks = !seen.leads
            && is_voter
            && !is_alone(&seen.configs, me)
            && neighbours.may_lead()
            && neighbours.reaches_majority(&seen.configs)
            && !neighbours.is_shielded(self.group, seen.term, None, &seen.configs);
        if !seeks {
            *candidacy = None;
        } else if candidacy.is_none() {
            let placed = neighbours.placed(self.group).map(|placed| placed.wanted);
            let placed = placed.as_deref().unwrap_or_default();
            let rank = elector::rank(me, &seen.configs, placed, |node| neighbours.reaches(node));
            let random = &*self.around.config.random;
            let delay = elector::first_delay(rank.unwrap_or_default(), random);
            *candidacy = Some(Candidacy { next: Instant::now() + delay, permit: None });
        }
    }

    /// Asks for votes, unless too many elections are under way.
    async fn campaign(&self, candidacy: &mut Option<Candidacy>) {
        let Some(candidacy) = candidacy else { return };
        if let Some(until) = self.around.doubt(&self.log) {
            candidacy.next = until;
            return;
        }
        candidacy.next = Instant::now() + elector::retry_delay(&*self.around.config.random);
        if candidacy.permit.is_none() {
            let elections = &self.around.neighbours.elections;
            candidacy.permit = elections.clone().try_acquire_owned().ok();
        }
        if candidacy.permit.is_some() {
            tracing::debug!(group = %self.group, "asks for votes");
            // It fails where the instance has ended; the metrics say so, too.
            let _ = self.raft.trigger().elect(true).await;
        }
    }
}

type ServerMetrics =
    openraft::alias::WatchReceiverOf<Types, openraft::metrics::RaftServerMetrics<Types>>;

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The sets of voters of a membership.
pub(crate) fn configs_of(membership: &Membership) -> Configs {
    let sets = membership.get_joint_config().iter();
    sets.map(|voters| voters.iter().copied().map(NodeId).collect::<BTreeSet<_>>()).collect()
}

/// Whether a membership names another node than `me`.
pub(crate) fn has_others(membership: &Membership, me: NodeId) -> bool {
    membership.nodes().any(|(id, _)| *id != me.0)
}
