//! What a leader remembers of a group besides the replicated state.

use std::collections::{BTreeMap, BTreeSet};

use super::assign::Target;
use super::members::Assignment;
use crate::command::Removal;
use crate::ids::{Epoch, MemberId, TopicId, TopicPartition};
use crate::state::Member;
use crate::time::Monotonic;

/// What is remembered of a group.
#[derive(Debug)]
pub(super) struct View {
    /// Who should own what.
    pub(super) target: Target,
    /// Of each member that the log knows.
    pub(super) sessions: BTreeMap<MemberId, Session>,
    /// Requests that wait or are being written, and by how many they may make members and offsets more.
    pub(super) requests: usize,
    pub(super) members_coming: usize,
    pub(super) offsets_coming: usize,
    /// Since when this leader sees it without members.
    pub(super) quiet_from: Monotonic,
    /// To be written: the group is to expire; topics of it that are deleted.
    pub(super) expires: bool,
    pub(super) forget: BTreeSet<TopicId>,
}

/// What is remembered of a member.
#[derive(Debug)]
pub(super) struct Session {
    /// When it is over, unless the member is heard of.
    pub(super) end: Monotonic,
    /// When it must have revoked what it was asked to.
    pub(super) revoke_by: Option<Monotonic>,
    /// It ended, and that is to be written. From here on the member is fenced, whatever becomes of the
    /// entry.
    pub(super) over: Option<Removal>,
    /// What it said that it stopped with, and since when it had owned that.
    pub(super) released: BTreeMap<TopicPartition, Epoch>,
    /// What this leader told it last.
    pub(super) told: Option<Assignment>,
}

impl Session {
    pub(super) fn new(end: Monotonic) -> Self {
        Self { end, revoke_by: None, over: None, released: BTreeMap::new(), told: None }
    }

    /// When something is over.
    pub(super) fn deadline(&self) -> Monotonic {
        self.revoke_by.map_or(self.end, |revoke_by| revoke_by.min(self.end))
    }
}

impl View {
    pub(super) fn new(now: Monotonic) -> Self {
        Self {
            target: Target::new(),
            sessions: BTreeMap::new(),
            requests: 0,
            members_coming: 0,
            offsets_coming: 0,
            quiet_from: now,
            expires: false,
            forget: BTreeSet::new(),
        }
    }

    fn should_own(&self, id: MemberId, at: &TopicPartition) -> bool {
        self.target.get(&id).is_some_and(|target| target.contains(at))
    }

    /// What the member owns, has not stopped with, and should not own.
    pub(super) fn to_revoke<'a>(
        &'a self,
        id: MemberId,
        member: &'a Member,
    ) -> impl Iterator<Item = TopicPartition> + 'a {
        self.held(id, member).filter(move |at| !self.should_own(id, at))
    }

    /// What the member owns, has not stopped with, and should own.
    pub(super) fn to_keep<'a>(
        &'a self,
        id: MemberId,
        member: &'a Member,
    ) -> impl Iterator<Item = TopicPartition> + 'a {
        self.held(id, member).filter(move |at| self.should_own(id, at))
    }

    /// What the member owns and has not stopped with.
    fn held<'a>(
        &'a self,
        id: MemberId,
        member: &'a Member,
    ) -> impl Iterator<Item = TopicPartition> + 'a {
        let released = self.sessions.get(&id).map(|session| &session.released);
        let held = move |(at, since): &(&TopicPartition, &Epoch)| {
            released.is_none_or(|released| released.get(at) != Some(since))
        };
        member.owns().iter().filter(held).map(|(at, _)| *at)
    }
}
