//! Joining, heartbeats, leaving.

use std::collections::BTreeSet;

use thiserror::Error;

use super::{Busy, Coordinator, Ticket, TooManyGroups};
use crate::command::{GroupCommand, MemberSpec, Removal, SpecError};
use crate::ids::{Epoch, GroupName, MemberId, TopicPartition};
use crate::state::{Groups, Member};
use crate::time::Monotonic;

/// What a member should do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// What the member says from now on, with every heartbeat and commit. It takes this and `partitions`
    /// in one step.
    pub epoch: Epoch,
    /// The group's last change, for people.
    pub generation: Epoch,
    /// What it may work on from now on, rising. What it works on and does not find here it stops with,
    /// commits, waits for the reply to that, and then leaves out of its next heartbeat.
    pub partitions: Vec<TopicPartition>,
    /// Whether more is to come, or to go.
    pub settling: bool,
    /// How often it should heartbeat, in milliseconds.
    pub heartbeat_ms: u32,
    /// Its session, in milliseconds: when its last answered heartbeat was sent so long ago, it stops with
    /// everything.
    pub session_ms: u32,
}

/// Why somebody cannot join.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JoinError {
    /// What it says of itself is out of bounds.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The group would be one too many.
    #[error(transparent)]
    TooManyGroups(#[from] TooManyGroups),
    /// The group has as many members as it may.
    #[error(
        "consumer group {group} has {members_max} members, its most; stop some, or use another group"
    )]
    GroupFull {
        /// Which group.
        group: GroupName,
        /// The bound.
        members_max: usize,
    },
    /// Too much waits to be written.
    #[error(transparent)]
    Busy(#[from] Busy),
}

/// Why a member is not one any more.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HeartbeatError {
    /// Its session ended, it kept what it should have given up, it left, or joined anew.
    #[error(
        "member {member} of consumer group {group} is fenced: it was silent for longer than its session, \
         gave up partitions too late, left, or joined anew; stop all it owned and join again"
    )]
    FencedMember {
        /// Which group.
        group: GroupName,
        /// Who.
        member: MemberId,
    },
    /// Another process has its instance's name.
    #[error(
        "member {member} of consumer group {group} is fenced: member {by} joined as the same instance, \
         {instance:?}; stop, and give each process its own instance name"
    )]
    FencedInstance {
        /// Which group.
        group: GroupName,
        /// Who.
        member: MemberId,
        /// Who has its place.
        by: MemberId,
        /// As what.
        instance: String,
    },
}

impl Coordinator {
    /// Somebody begins to be a member and owns nothing yet: [`super::Reply::Joined`] says what it may
    /// work on. It chooses a random id and keeps it when it tries again or was fenced. The same instance
    /// as another member takes that one's place and partitions, and fences it.
    ///
    /// # Errors
    /// When it, or the group, would be out of bounds, or too much waits to be written.
    pub fn join(
        &mut self,
        state: &Groups,
        group: &GroupName,
        member: MemberId,
        spec: MemberSpec,
        now: Monotonic,
    ) -> Result<Ticket, JoinError> {
        spec.check()?;
        self.room()?;
        let members_max = self.limits.members_max;
        let view = self.open(group, now)?;
        let members = state.get(group).map(|it| it.members());
        let takes_place = members.is_some_and(|members| {
            let same = |it: &Member| spec.instance.is_some() && it.spec.instance == spec.instance;
            members.contains_key(&member) || members.values().any(same)
        });
        if !takes_place && members.map_or(0, |it| it.len()) + view.members_coming >= members_max {
            return Err(JoinError::GroupFull { group: group.clone(), members_max });
        }
        let command = GroupCommand::Join { member, spec: Box::new(spec) };
        Ok(self.enqueue(group, command, (usize::from(!takes_place), 0)))
    }

    /// A member is alive, has adopted `epoch`, and works on `owned` and nothing else; without `owned`
    /// nothing changed since it said so last. Answers what it should work on.
    ///
    /// # Errors
    /// When it is not a member any more, or `epoch` is not of this membership: it stops at once.
    pub fn heartbeat(
        &mut self,
        state: &Groups,
        group: &GroupName,
        id: MemberId,
        epoch: Epoch,
        owned: Option<&[TopicPartition]>,
        now: Monotonic,
    ) -> Result<Assignment, HeartbeatError> {
        let member = self.current(state, group, id, epoch)?;
        let released: Vec<_> = owned.map_or_else(Vec::new, |owned| {
            let owned: BTreeSet<_> = owned.iter().collect();
            // What it was granted after it spoke it cannot have stopped with.
            let stopped =
                |(at, since): &(&TopicPartition, &Epoch)| **since <= epoch && !owned.contains(at);
            member.owns().iter().filter(stopped).map(|(at, since)| (*at, *since)).collect()
        });
        let end = now.plus(member.spec.session_ms.into());
        let mut news = false;
        self.change_session(group, id, |session| {
            session.end = session.end.max(end);
            for (at, since) in released {
                news |= session.released.insert(at, since) != Some(since);
            }
        });
        if news {
            self.dirty.insert(group.clone());
        }
        if let Some(group_state) = state.get(group) {
            self.time_revocation(group, group_state, id, now);
        }
        let fenced = HeartbeatError::FencedMember { group: group.clone(), member: id };
        self.tell(state, group, id).ok_or(fenced)
    }

    /// A member goes and has stopped with everything; what it owned is free once that is written. Nothing
    /// to wait for when it is gone already. A static member that will be back within its session does not
    /// leave: it says nothing.
    ///
    /// # Errors
    /// When `epoch` is not of this membership.
    pub fn leave(
        &mut self,
        state: &Groups,
        group: &GroupName,
        id: MemberId,
        epoch: Epoch,
    ) -> Result<Option<Ticket>, HeartbeatError> {
        let session = self.views.get(group).and_then(|view| view.sessions.get(&id));
        if session.is_none_or(|session| session.over.is_some()) {
            return Ok(None);
        }
        let joined = self.current(state, group, id, epoch)?.joined;
        self.change_session(group, id, |session| session.over = Some(Removal::Left));
        let command = GroupCommand::Remove { member: id, epoch: joined, why: Removal::Left };
        Ok(Some(self.enqueue(group, command, (0, 0))))
    }

    /// The member, if it is one and `epoch` is of its membership.
    fn current<'a>(
        &self,
        state: &'a Groups,
        group: &GroupName,
        id: MemberId,
        epoch: Epoch,
    ) -> Result<&'a Member, HeartbeatError> {
        let session = self.views.get(group).and_then(|view| view.sessions.get(&id));
        let over = session.is_none_or(|session| session.over.is_some());
        let member = state.member(group, id);
        if let Some(member) = member
            && !over
            && (member.joined..=member.epoch).contains(&epoch)
        {
            return Ok(member);
        }
        let successor =
            state.get(group).filter(|_| member.is_none()).and_then(|it| it.successor(id));
        Err(match successor {
            Some((by, successor)) => HeartbeatError::FencedInstance {
                group: group.clone(),
                member: id,
                by,
                instance: successor.spec.instance.clone().unwrap_or_default(),
            },
            None => HeartbeatError::FencedMember { group: group.clone(), member: id },
        })
    }

    /// What a member should work on; it is told now.
    pub(super) fn tell(
        &mut self,
        state: &Groups,
        name: &GroupName,
        id: MemberId,
    ) -> Option<Assignment> {
        let group = state.get(name)?;
        let member = group.members().get(&id)?;
        let view = self.views.get_mut(name)?;
        let partitions: Vec<_> = view.to_keep(id, member).collect();
        let target = view.target.get(&id).map_or(0, BTreeSet::len);
        let assignment = Assignment {
            epoch: member.epoch,
            generation: group.generation(),
            settling: partitions.len() != member.owns().len() || partitions.len() != target,
            partitions,
            heartbeat_ms: member.spec.heartbeat_ms(),
            session_ms: member.spec.session_ms,
        };
        view.sessions.get_mut(&id)?.told = Some(assignment.clone());
        Some(assignment)
    }
}
