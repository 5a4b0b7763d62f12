//! The coordinator of the groups of one partition of `__groups`: only its leader has it, in memory.
//!
//! ```text
//!  members    joining, heartbeats, leaving
//!  offsets    committing, setting offsets, deleting groups
//!  assign     who should own what: a pure function
//!  moves      what is to be written into the log, and what follows once it is
//!  timing     sessions and revocations that are over, offsets that nobody needs; when to look again
//!  describe   for people
//!  limits     bounds          view    what is remembered of each group
//! ```
//!
//! Order of calls: [`Coordinator::new`] once the leader has applied its own first entry; then
//! * after anything: [`Coordinator::propose`] when no entry of this coordinator is being written (while
//!   one is, the next gathers), [`Coordinator::poll_changed`] until it gives nothing,
//!   [`Coordinator::advance`] at [`Coordinator::next_deadline`];
//! * when the proposed entry is applied: the fold first, then [`Coordinator::applied`], then the replies;
//! * when it certainly did not enter the log: [`Coordinator::refused`]. When that is unknown, or this
//!   node leads no more, the coordinator is dropped, and requests without a reply are of unknown outcome.
//!
//! A heartbeat's answer may be sent only when it is certain that this node still led when the heartbeat
//! came (GROUPS.md, "Wiring").
//!
//! Invariants: an assignment names only what the log says that the member owns; nothing is taken from a
//! member that heartbeats, unless it has said that it stopped with it, or was told to for longer than its
//! rebalance timeout; a member that keeps what it has is told nothing new. Memory is bounded by
//! [`Limits`]. The machine does not know connections, records, or names of topics.

pub mod assign;
mod describe;
mod limits;
mod members;
mod moves;
mod offsets;
mod timing;
mod view;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use thiserror::Error;

pub use describe::{GroupDescription, GroupSummary, MemberDescription, Phase};
pub use limits::Limits;
pub use members::{Assignment, HeartbeatError, JoinError};
pub use moves::Reply;
pub use offsets::CommitError;

use crate::command::GroupCommand;
use crate::ids::{GroupName, MemberId, TopicId};
use crate::state::{GroupState, Groups};
use crate::time::Monotonic;
use assign::{Share, assign};
use view::{Session, View};

/// The topics, as the catalog of this node has them; it may be behind, never ahead.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Topics {
    /// How many partitions each has.
    pub partitions: BTreeMap<TopicId, u32>,
    /// The next id that the catalog will give: from here on it knows nothing; a lower one that is not in
    /// the table was deleted.
    pub next: TopicId,
}

impl Topics {
    /// How many partitions the topic has: 0 when it is deleted, nothing when that is not known.
    #[must_use]
    pub fn count(&self, topic: TopicId) -> Option<u32> {
        let deleted = (topic < self.next).then_some(0);
        self.partitions.get(&topic).copied().or(deleted)
    }

    fn is_deleted(&self, topic: TopicId) -> bool {
        topic < self.next && !self.partitions.contains_key(&topic)
    }
}

/// Ties a [`Reply`] to the request that it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// More waits to be written than may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "{bytes} bytes of changes of consumer groups wait to be written, {bytes_max} may; \
     try again in a moment"
)]
pub struct Busy {
    /// How much waits.
    pub bytes: usize,
    /// How much may.
    pub bytes_max: usize,
}

/// There are as many groups as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "this partition of __groups holds {groups_max} consumer groups, its most; delete those that are \
     not needed, or choose another name"
)]
pub struct TooManyGroups {
    /// The bound.
    pub groups_max: usize,
}

/// That somebody waits for a command.
#[derive(Debug, Clone, Copy)]
struct Asked {
    ticket: Ticket,
    /// By how many it may make the members, and the committed offsets, more.
    members: usize,
    offsets: usize,
}

/// A request that waits to be written.
#[derive(Debug)]
struct Pending {
    group: GroupName,
    command: GroupCommand,
    asked: Asked,
}

/// The coordinator of the groups of one partition of `__groups`.
#[derive(Debug)]
pub struct Coordinator {
    limits: Limits,
    topics: Topics,
    views: BTreeMap<GroupName, View>,
    /// When each member's session, or its time to revoke, is over.
    deadlines: BTreeSet<(Monotonic, GroupName, MemberId)>,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    /// Of each command of the entry that is being written, its request, if somebody asked for it.
    in_flight: Option<Vec<Option<Asked>>>,
    /// Groups in which there may be something to take, to give or to end.
    dirty: BTreeSet<GroupName>,
    /// Members whose assignment may have changed.
    changed: BTreeSet<(GroupName, MemberId)>,
    next_ticket: u64,
    next_sweep: Monotonic,
}

impl Coordinator {
    /// The machine of a new leader. Every member that the log knows keeps what it owns, and has its full
    /// session to be heard of.
    #[must_use]
    pub fn new(limits: Limits, topics: Topics, state: &Groups, now: Monotonic) -> Self {
        let mut coordinator = Self {
            limits,
            topics,
            views: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            in_flight: None,
            dirty: BTreeSet::new(),
            changed: BTreeSet::new(),
            next_ticket: 0,
            next_sweep: now,
        };
        for (name, group) in state.iter() {
            coordinator.views.insert(name.clone(), View::new(now));
            coordinator.members_changed(name, group, &BTreeSet::new(), now);
        }
        coordinator
    }

    /// Takes the topics as the catalog has them now: new ones, more partitions, deletions.
    pub fn set_topics(&mut self, topics: Topics, state: &Groups, now: Monotonic) {
        let before = std::mem::replace(&mut self.topics, topics);
        let all = before.partitions.keys().chain(self.topics.partitions.keys());
        let differs = |topic: &&TopicId| before.count(**topic) != self.topics.count(**topic);
        let changed: BTreeSet<TopicId> = all.filter(differs).copied().collect();
        if changed.is_empty() {
            return;
        }
        if changed.iter().any(|topic| self.topics.is_deleted(*topic)) {
            self.next_sweep = now;
        }
        for (name, group) in state.iter() {
            let mut wanted = group.members().values().flat_map(|member| &member.spec.topics);
            if wanted.any(|topic| changed.contains(topic)) {
                self.retarget(name, group, now);
            }
        }
    }

    /// The next member that should be told at once what it should own now, with what it should.
    pub fn poll_changed(&mut self, state: &Groups) -> Option<(GroupName, MemberId, Assignment)> {
        while let Some((name, id)) = self.changed.pop_first() {
            let session = self.views.get(&name).and_then(|view| view.sessions.get(&id));
            // One that was told nothing yet by this leader hears it when it asks.
            let Some(told) = session.filter(|it| it.over.is_none()).and_then(|it| it.told.clone())
            else {
                continue;
            };
            if let Some(now) = self.tell(state, &name, id)
                && (told.epoch, &told.partitions) != (now.epoch, &now.partitions)
            {
                return Some((name, id, now));
            }
        }
        None
    }

    /// Queues a request; who asks has checked its bounds.
    fn enqueue(
        &mut self,
        group: &GroupName,
        command: GroupCommand,
        (members, offsets): (usize, usize),
    ) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.pending_bytes += moves::weight(&command);
        if let Some(view) = self.views.get_mut(group) {
            view.members_coming += members;
            view.offsets_coming += offsets;
            view.requests += 1;
        }
        let asked = Asked { ticket, members, offsets };
        self.pending.push_back(Pending { group: group.clone(), command, asked });
        ticket
    }

    fn room(&self) -> Result<(), Busy> {
        let (bytes, bytes_max) = (self.pending_bytes, self.limits.pending_bytes_max);
        if bytes < bytes_max { Ok(()) } else { Err(Busy { bytes, bytes_max }) }
    }

    /// Makes room for what is remembered of a group that may be new.
    fn open(&mut self, group: &GroupName, now: Monotonic) -> Result<&mut View, TooManyGroups> {
        let groups_max = self.limits.groups_max;
        if !self.views.contains_key(group) && self.views.len() >= groups_max {
            return Err(TooManyGroups { groups_max });
        }
        Ok(self.views.entry(group.clone()).or_insert_with(|| View::new(now)))
    }

    /// Makes the sessions those of the members, begins those that `joined` anew, and says again who
    /// should own what.
    fn members_changed(
        &mut self,
        name: &GroupName,
        group: &GroupState,
        joined: &BTreeSet<MemberId>,
        now: Monotonic,
    ) {
        let Some(view) = self.views.get_mut(name) else { return };
        let stays = |id: &MemberId| group.members().contains_key(id) && !joined.contains(id);
        for (&id, session) in view.sessions.iter().filter(|(id, _)| !stays(id)) {
            self.deadlines.remove(&(session.deadline(), name.clone(), id));
        }
        view.sessions.retain(|id, _| stays(id));
        if group.members().is_empty() {
            view.quiet_from = now;
        }
        for (&id, member) in group.members() {
            if let Entry::Vacant(place) = view.sessions.entry(id) {
                let session = Session::new(now.plus(member.spec.session_ms.into()));
                self.deadlines.insert((session.deadline(), name.clone(), id));
                place.insert(session);
            }
        }
        self.retarget(name, group, now);
    }

    /// Says again who should own what in this group.
    fn retarget(&mut self, name: &GroupName, group: &GroupState, now: Monotonic) {
        let Some(view) = self.views.get_mut(name) else { return };
        let members = group.members().iter();
        let shares = members
            .map(|(&id, it)| (id, Share { topics: &it.spec.topics, owns: it.owns() }))
            .collect();
        view.target = assign(&shares, &view.target, |topic| self.topics.count(topic));
        self.look_again(name, group, now);
    }

    /// After what is owned, or should be, has changed: begins and ends the members' time to revoke.
    fn look_again(&mut self, name: &GroupName, group: &GroupState, now: Monotonic) {
        for (&id, member) in group.members() {
            let view = self.views.get_mut(name);
            if let Some(session) = view.and_then(|view| view.sessions.get_mut(&id)) {
                session.released.retain(|at, since| member.owns().get(at) == Some(since));
            }
            self.time_revocation(name, group, id, now);
            self.changed.insert((name.clone(), id));
        }
        self.dirty.insert(name.clone());
    }

    /// Begins a member's time to revoke when there is something to revoke, and ends it when not.
    fn time_revocation(
        &mut self,
        name: &GroupName,
        group: &GroupState,
        id: MemberId,
        now: Monotonic,
    ) {
        let Some(view) = self.views.get_mut(name) else { return };
        let (Some(member), Some(session)) = (group.members().get(&id), view.sessions.get(&id))
        else {
            return;
        };
        let must = view.to_revoke(id, member).next().is_some();
        let revoke_by = match (must, session.revoke_by) {
            (true, None) => Some(now.plus(member.spec.rebalance_ms.into())),
            (true, begun) => begun,
            (false, _) => None,
        };
        if revoke_by != session.revoke_by {
            self.change_session(name, id, |session| session.revoke_by = revoke_by);
        }
    }

    /// Changes a session and where it stands among the deadlines. One that is over has none.
    fn change_session(
        &mut self,
        name: &GroupName,
        id: MemberId,
        change: impl FnOnce(&mut Session),
    ) {
        let view = self.views.get_mut(name);
        let Some(session) = view.and_then(|view| view.sessions.get_mut(&id)) else { return };
        let before = session.deadline();
        change(session);
        let (after, over) = (session.deadline(), session.over.is_some());
        let mut key = (before, name.clone(), id);
        self.deadlines.remove(&key);
        if !over {
            key.0 = after;
            self.deadlines.insert(key);
        }
    }
}
