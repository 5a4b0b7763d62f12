//! Sleep by agreement: a group with other members sleeps only when every member that lives has the
//! same log, applied it, and sleeps too. So nobody expects anything of a sleeping group's leader but
//! what its node shows, and a sleeping replica serves what the whole group has committed.
//!
//! The leader goes first in asking and last in sleeping. A member that slept while another refused is
//! woken by the next append. Members on nodes that are down do not keep a group awake; they are found
//! when their node is back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::AppendEntriesRequest;
use plimsoll_protocol::ids::{GroupId, LogId, NodeId};
use plimsoll_protocol::peer::{
    Appended, RaftVote as WireVote, Sleep, SleepAnswer, SleepGroup, SleepReply,
};
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use crate::group::{Ending, Group};
use crate::host::Host;
use crate::role::Role;
use crate::types::{RaftVote, from_raft, to_raft};
use crate::wake::Awake;

/// How long a member may take to apply what the leader says is committed.
const APPLY_TIMEOUT: Duration = Duration::from_millis(250);
/// How long members may take to answer, all of their groups together; producers to these groups wait
/// meanwhile.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// Groups that one agreement is about.
const GROUPS_AT_ONCE: usize = 256;

/// A group that its leader would lay to rest; nothing is proposed meanwhile.
struct Candidate {
    group: Arc<Group>,
    guard: OwnedMutexGuard<Option<Awake>>,
    ask: SleepGroup,
    /// Those that must agree.
    members: BTreeSet<NodeId>,
    /// Those on nodes that are down.
    absent: BTreeSet<NodeId>,
}

impl Host {
    /// Lays groups to rest that this node leads among others, that nobody wrote to for `idle_for`,
    /// and whose members on nodes that are up agree. Returns how many.
    pub(crate) async fn sleep_together(&self, idle_for: Duration) -> usize {
        let Some(peers) = self.around().neighbours.peers() else { return 0 };
        let mut asleep = 0;
        let idle: Vec<_> =
            self.all_held().into_iter().filter(|group| group.may_sleep(idle_for)).collect();
        for groups in idle.chunks(GROUPS_AT_ONCE) {
            let candidates: Vec<_> =
                groups.iter().filter_map(|group| group.candidate(idle_for)).collect();
            let mut by_node: BTreeMap<NodeId, Vec<SleepGroup>> = BTreeMap::new();
            for candidate in &candidates {
                for node in &candidate.members {
                    by_node.entry(*node).or_default().push(candidate.ask.clone());
                }
            }
            let epoch = self.around().neighbours.epoch();
            let asking = by_node.into_iter().map(|(node, groups)| async move {
                let asked: Vec<GroupId> = groups.iter().map(|ask| ask.group).collect();
                let request = peers.request(node, Sleep { epoch, groups });
                let answers = match timeout(ANSWER_TIMEOUT, request).await {
                    Ok(Ok(reply)) => reply.answers,
                    Ok(Err(_)) | Err(_) => Vec::new(),
                };
                let slept = asked.into_iter().zip(answers);
                let slept = slept.filter(|(_, answer)| *answer == SleepAnswer::Slept);
                slept.map(|(group, _)| (group, node)).collect::<Vec<_>>()
            });
            let agreed = futures_util::future::join_all(asking).await;
            let agreed: BTreeSet<(GroupId, NodeId)> = agreed.into_iter().flatten().collect();
            for Candidate { group, guard, members, absent, .. } in candidates {
                if members.iter().all(|node| agreed.contains(&(group.id(), *node))) {
                    // Asleep it is led by this node as before: that is what its claim says.
                    let rests = group.end_instance(guard, Ending::Rests { claims: true }).await;
                    asleep += usize::from(rests);
                    self.wake_for(&group, &absent).await;
                }
            }
        }
        asleep
    }

    /// Wakes a group that fell asleep without some of its members, if one came back meanwhile: it was
    /// told that the group is awake, and counts on its leader for what it lacks.
    async fn wake_for(&self, group: &Arc<Group>, absent: &BTreeSet<NodeId>) {
        let neighbours = &self.around().neighbours;
        if absent.iter().any(|node| neighbours.is_linked(*node))
            && let Err(error) = group.wake().await
        {
            tracing::warn!(group = %group.id(), %error, "a group cannot be woken");
        }
    }

    /// Answers a leader that would lay groups to rest.
    pub(crate) async fn sleep(&self, from: NodeId, request: Sleep) -> SleepReply {
        let answers = stream::iter(request.groups)
            .map(|ask| async move {
                match self.held(ask.group) {
                    Some(group) => group.sleep_as_agreed(from, &ask).await,
                    None if self.sleeps_already(from, &ask) => SleepAnswer::Slept,
                    None => SleepAnswer::Differs,
                }
            })
            .buffered(64)
            .collect()
            .await;
        SleepReply { answers }
    }

    /// Whether the replica, which nobody holds, is as the leader says.
    fn sleeps_already(&self, from: NodeId, ask: &SleepGroup) -> bool {
        let Some(log) = self.store().group(ask.group) else { return false };
        let led = log
            .vote()
            .is_some_and(|vote| vote.committed && vote.voted_for == from && vote.term == ask.term);
        let applied = log.state().ok().flatten().map(|(applied, _)| applied);
        led && log.bounds().last == Some(ask.last) && applied == Some(ask.last)
    }
}

impl Group {
    /// Whether this node leads the group among others and nobody used it for `idle_for`.
    fn may_sleep(&self, idle_for: Duration) -> bool {
        self.id() != GroupId::CATALOG
            && self.is_idle(idle_for)
            && self.instance().is_some_and(|instance| {
                let standing = instance.standing.borrow();
                standing.has_others && standing.role.led_term().is_some()
            })
    }

    /// The group's lock and what to ask its members, if it is at rest: one configuration, everything
    /// committed, applied, and on every member whose node is up.
    fn candidate(self: &Arc<Self>, idle_for: Duration) -> Option<Candidate> {
        let guard = self.try_lock()?;
        let awake = guard.as_ref()?;
        let term = awake.standing.borrow().role.led_term()?;
        let last = self.log().bounds().last?;
        if !self.is_idle(idle_for)
            || awake.shared.outstanding() > 0
            || awake.shared.applied() != Some(last)
        {
            return None;
        }
        let me = self.around().node;
        let members: BTreeSet<NodeId> = {
            let metrics = awake.raft.server_metrics();
            let metrics = metrics.borrow_watched();
            let membership = metrics.membership_config.membership();
            if membership.get_joint_config().len() > 1 {
                return None;
            }
            membership.nodes().map(|(id, _)| NodeId(*id)).filter(|node| *node != me).collect()
        };
        let neighbours = &self.around().neighbours;
        // Who has a link was told where its groups stand here, and that this one is led.
        let is_up = |node: &NodeId| neighbours.reaches(*node) || neighbours.is_linked(*node);
        let (members, absent): (BTreeSet<_>, BTreeSet<_>) = members.into_iter().partition(is_up);
        let metrics = awake.raft.data_metrics();
        let matched = {
            let metrics = metrics.borrow_watched();
            let matched = |node: &NodeId| {
                let matched = metrics.replication.as_ref()?.get(&node.0)?.as_ref()?;
                Some(from_raft(matched))
            };
            members.iter().all(|node| matched(node) == Some(last))
        };
        // With too few members up the group is not at rest but without a quorum.
        let configs = awake.standing.borrow().configs.clone();
        let ask = SleepGroup { group: self.id(), term, last };
        (matched && self.around().neighbours.reaches_majority(&configs)).then(|| Candidate {
            group: self.clone(),
            guard,
            ask,
            members,
            absent,
        })
    }

    /// Sleeps, if this replica is as its leader says.
    async fn sleep_as_agreed(self: Arc<Self>, from: NodeId, ask: &SleepGroup) -> SleepAnswer {
        let Ok(guard) = timeout(APPLY_TIMEOUT, self.lock()).await else {
            return SleepAnswer::NotApplied;
        };
        let vote = self.log().vote();
        let led = vote.is_some_and(|v| v.committed && v.voted_for == from && v.term == ask.term);
        if !led || self.log().bounds().last != Some(ask.last) {
            return SleepAnswer::Differs;
        }
        let Some(awake) = &*guard else {
            let applied = self.log().state().ok().flatten().map(|(applied, _)| applied);
            return if applied == Some(ask.last) {
                SleepAnswer::Slept
            } else {
                SleepAnswer::NotApplied
            };
        };
        if !matches!(awake.standing.borrow().role, Role::Follower { leader, .. } if leader == from)
        {
            return SleepAnswer::Differs;
        }
        if !applies(awake, from, ask.term.0, ask.last).await {
            return SleepAnswer::NotApplied;
        }
        match self.end_instance(guard, Ending::RestsAsAgreed).await {
            true => SleepAnswer::Slept,
            false => SleepAnswer::NotApplied,
        }
    }
}

impl Group {
    /// The answer of a replica that sleeps as agreed to an append without entries: its vote is the
    /// sender's, it has the entry that it is taken to have, and has applied what is committed. All of
    /// that is on disk, so nothing needs to be woken. A leader whose members fell asleep before it
    /// asks so.
    pub(crate) async fn answer_asleep(
        &self,
        vote: WireVote,
        prev: Option<LogId>,
        commit: Option<LogId>,
    ) -> Option<Appended> {
        if self.instance().is_some() {
            return None;
        }
        let guard = self.lock().await;
        if guard.is_some() || !self.slept_as_agreed() {
            return None;
        }
        let own = self.log().vote()?;
        let same =
            own.committed && vote.committed && (own.term, own.voted_for) == (vote.term, vote.node);
        let has = |id: LogId| self.log().term_at(id.index) == Some(id.term);
        (same && prev.is_some_and(has) && commit <= self.stored_shown())
            .then_some(Appended::Ok(prev))
    }

    /// Up to where readers see the group: awake, or asleep by its stored state.
    pub(crate) fn stored_shown(&self) -> Option<LogId> {
        match self.instance() {
            Some(instance) => instance.shared.shown(),
            None => self.log().state().ok().flatten().map(|(applied, _)| applied),
        }
    }
}

/// Has the replica apply everything up to `last`, which its leader says is committed.
async fn applies(awake: &Awake, leader: NodeId, term: u64, last: LogId) -> bool {
    if awake.shared.applied() == Some(last) {
        return true;
    }
    let request = AppendEntriesRequest {
        vote: RaftVote::new_committed(term, leader.0),
        prev_log_id: Some(to_raft(last)),
        entries: Vec::new(),
        leader_commit: Some(to_raft(last)),
    };
    let told = async {
        let mut answers = Box::pin(awake.raft.stream_append(stream::iter([request])));
        answers.next().await;
        awake.shared.shown_at_least(last).await;
    };
    timeout(APPLY_TIMEOUT, told).await.is_ok()
}
