//! What is so, for people.

use super::Coordinator;
use super::view::View;
use crate::command::{MemberSpec, Removal};
use crate::ids::{Epoch, GroupName, MemberId, TopicPartition};
use crate::state::{GroupState, Groups, Member};
use crate::time::{Monotonic, UnixMs};

/// How a group is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It has no members.
    Empty,
    /// Partitions are on their way to another member.
    Moving,
    /// Everybody owns what it should.
    Settled,
}

impl Phase {
    /// The phase as people read it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Moving => "moving",
            Self::Settled => "settled",
        }
    }
}

/// A member, as it is and as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberDescription {
    /// Which.
    pub id: MemberId,
    /// What it says of itself.
    pub spec: MemberSpec,
    /// When it joined, and when it was granted something last.
    pub joined: Epoch,
    /// Its latest epoch.
    pub epoch: Epoch,
    /// What it owns, rising.
    pub owns: Vec<TopicPartition>,
    /// What it should own, rising.
    pub should_own: Vec<TopicPartition>,
    /// What it has to stop with before somebody else can have it, rising.
    pub to_revoke: Vec<TopicPartition>,
    /// How long until it has to be heard of, in milliseconds.
    pub session_left_ms: u64,
    /// Why it is to go, when that is not yet written.
    pub over: Option<Removal>,
}

/// A group, as it is and as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDescription {
    /// Its name.
    pub name: GroupName,
    /// How it is.
    pub phase: Phase,
    /// Its last change.
    pub generation: Epoch,
    /// The members, by id.
    pub members: Vec<MemberDescription>,
    /// In how many partitions it has committed offsets.
    pub offsets: usize,
    /// Since when it has no members, or since the last commit without one.
    pub quiet_since: Option<UnixMs>,
}

/// A group in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSummary {
    /// Its name.
    pub name: GroupName,
    /// How it is.
    pub phase: Phase,
    /// Its last change.
    pub generation: Epoch,
    /// How many members it has.
    pub members: usize,
    /// In how many partitions it has committed offsets.
    pub offsets: usize,
}

impl Coordinator {
    /// All there is to say about a group, if there is one.
    #[must_use]
    pub fn describe(
        &self,
        state: &Groups,
        name: &GroupName,
        now: Monotonic,
    ) -> Option<GroupDescription> {
        let group = state.get(name)?;
        let view = self.views.get(name)?;
        let members = group.members().iter();
        Some(GroupDescription {
            name: name.clone(),
            phase: phase(group, view),
            generation: group.generation(),
            members: members.map(|(&id, member)| describe(view, id, member, now)).collect(),
            offsets: group.offsets().len(),
            quiet_since: group.members().is_empty().then(|| group.quiet_since()),
        })
    }

    /// At most `count` groups whose names come after `after`, by name: a page of the list.
    #[must_use]
    pub fn list(
        &self,
        state: &Groups,
        after: Option<&GroupName>,
        count: usize,
    ) -> Vec<GroupSummary> {
        let known = state.after(after).filter_map(|(name, group)| {
            let phase = phase(group, self.views.get(name)?);
            let (members, offsets) = (group.members().len(), group.offsets().len());
            let generation = group.generation();
            Some(GroupSummary { name: name.clone(), phase, generation, members, offsets })
        });
        known.take(count).collect()
    }
}

fn phase(group: &GroupState, view: &View) -> Phase {
    let settled = |(id, member): (&MemberId, &Member)| {
        let target = view.target.get(id);
        let session = view.sessions.get(id);
        session.is_some_and(|session| session.over.is_none() && session.released.is_empty())
            && target.is_some_and(|target| target.iter().eq(member.owns().keys()))
    };
    match group.members() {
        members if members.is_empty() => Phase::Empty,
        members if members.iter().all(settled) => Phase::Settled,
        _ => Phase::Moving,
    }
}

fn describe(view: &View, id: MemberId, member: &Member, now: Monotonic) -> MemberDescription {
    let session = view.sessions.get(&id);
    MemberDescription {
        id,
        spec: member.spec.clone(),
        joined: member.joined,
        epoch: member.epoch,
        owns: member.owns().keys().copied().collect(),
        should_own: view.target.get(&id).into_iter().flatten().copied().collect(),
        to_revoke: view.to_revoke(id, member).collect(),
        session_left_ms: session.map_or(0, |session| session.end.0.saturating_sub(now.0)),
        over: session.and_then(|session| session.over),
    }
}
