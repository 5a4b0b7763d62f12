//! The fold of one control entry, command by command.

use std::collections::BTreeMap;

use thiserror::Error;

use super::{Committed, GroupState, Groups, Member};
use crate::command::{Committer, GroupCommand, GroupsEntry, MemberSpec, OffsetCommit};
use crate::ids::{Epoch, GroupName, MemberId, TopicId, TopicPartition};
use crate::time::UnixMs;

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Who says it is no member, or was another one then.
    #[error(
        "member {member} is fenced: its session ended, it left, or it joined anew; \
         stop what it owned and join again"
    )]
    Fenced {
        /// Who.
        member: MemberId,
    },
    /// Only a group without members may be treated so.
    #[error(
        "the consumer group has {members} members; stop them first, or force it (they go on from \
         where they are)"
    )]
    HasMembers {
        /// How many.
        members: usize,
    },
    /// Nobody joined it and nothing is committed in it, or it is gone.
    #[error("there is no such consumer group; it begins when a member joins or commits")]
    UnknownGroup,
    /// Somebody owns what was to be granted. No leader asks for that.
    #[error("partition {at} is owned by member {owner} and cannot be granted")]
    Owned {
        /// Which.
        at: TopicPartition,
        /// By whom.
        owner: MemberId,
    },
    /// Something has happened since the leader looked.
    #[error("the consumer group changed meanwhile; nothing was done")]
    Stale,
}

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is so.
    Done,
    /// The offsets are committed, but for these, which the committer does not own, or did not when it
    /// spoke.
    Committed {
        /// Rising.
        not_owned: Vec<TopicPartition>,
    },
    /// Nothing changed.
    Refused(Refusal),
}

impl Groups {
    /// Folds a control entry; `at` is the leader's time in the entry. One answer per command, in the
    /// order of [`GroupsEntry::commands`].
    pub fn apply(&mut self, entry: &GroupsEntry, at: UnixMs) -> Vec<Answer> {
        let each = |(group, command)| match self.command(group, command, at) {
            Ok(answer) => answer,
            Err(refusal) => Answer::Refused(refusal),
        };
        entry.commands().map(each).collect()
    }

    fn command(
        &mut self,
        name: &GroupName,
        command: &GroupCommand,
        at: UnixMs,
    ) -> Result<Answer, Refusal> {
        let group = match command {
            GroupCommand::Join { .. } => self.by_name.entry(name.clone()).or_default(),
            GroupCommand::Commit { by: None, .. } | GroupCommand::Reset { .. } => {
                self.by_name.entry(name.clone()).or_default()
            }
            _ => self.by_name.get_mut(name).ok_or(match command {
                GroupCommand::Commit { by: Some(Committer { member, .. }), .. }
                | GroupCommand::Remove { member, .. }
                | GroupCommand::Grant { member, .. }
                | GroupCommand::Release { member, .. } => Refusal::Fenced { member: *member },
                _ => Refusal::UnknownGroup,
            })?,
        };
        let next = Epoch(self.epoch.0 + 1);
        let answer = match command {
            GroupCommand::Join { member, spec } => group.join(*member, spec, next),
            GroupCommand::Remove { member, epoch, .. } => group.remove(*member, *epoch, next),
            GroupCommand::Grant { member, partitions } => group.grant(*member, partitions, next),
            GroupCommand::Release { member, epoch, partitions } => {
                group.release(*member, *epoch, partitions)
            }
            GroupCommand::Commit { by, offsets } => group.commit(*by, offsets, at),
            GroupCommand::Reset { offsets, forced } => group.without_members(*forced).map(|()| {
                for (partition, offset) in offsets {
                    match offset {
                        Some(offset) => {
                            let item = Committed { offset: *offset, metadata: None, at };
                            group.offsets.insert(*partition, item);
                        }
                        None => drop(group.offsets.remove(partition)),
                    }
                }
                Answer::Done
            }),
            GroupCommand::Forget { topic } => {
                group.forget(*topic);
                Ok(Answer::Done)
            }
            GroupCommand::Expire { quiet_since } => match group.members.is_empty() {
                true if group.quiet_since == *quiet_since => {
                    group.offsets.clear();
                    Ok(Answer::Done)
                }
                _ => Err(Refusal::Stale),
            },
            GroupCommand::Delete { forced } => group.without_members(*forced).map(|()| {
                *group = GroupState::default();
                Answer::Done
            }),
        };
        if group.generation == next {
            self.epoch = next;
        }
        if group.members.is_empty() && answer.is_ok() {
            group.quiet_since = group.quiet_since.max(at);
        }
        if group.is_gone() {
            self.by_name.remove(name);
        }
        answer
    }
}

impl GroupState {
    fn without_members(&self, forced: bool) -> Result<(), Refusal> {
        match self.members.len() {
            members if members > 0 && !forced => Err(Refusal::HasMembers { members }),
            _ => Ok(()),
        }
    }

    fn join(&mut self, id: MemberId, spec: &MemberSpec, next: Epoch) -> Result<Answer, Refusal> {
        let before = self.members.remove(&id);
        let mut predecessor = before.as_ref().and_then(|member| member.predecessor);
        let mut owns = before.map(|member| member.owns).unwrap_or_default();
        let same = |(_, other): &(&MemberId, &Member)| {
            spec.instance.is_some() && other.spec.instance == spec.instance
        };
        if let Some(former) = self.members.iter().find(same).map(|(&former, _)| former) {
            let former_member = self.members.remove(&former).expect("it was found");
            owns.extend(former_member.owns);
            predecessor = Some(former);
        }
        owns.values_mut().for_each(|since| *since = next);
        self.owners.extend(owns.keys().map(|&at| (at, id)));
        let spec = spec.clone();
        let member = Member { spec, joined: next, epoch: next, predecessor, owns };
        self.members.insert(id, member);
        self.generation = next;
        Ok(Answer::Done)
    }

    fn remove(&mut self, id: MemberId, epoch: Epoch, next: Epoch) -> Result<Answer, Refusal> {
        match self.members.get(&id) {
            None => return Err(Refusal::Fenced { member: id }),
            Some(member) if member.joined > epoch => return Err(Refusal::Stale),
            Some(_) => {}
        }
        let member = self.members.remove(&id).expect("it is there");
        for at in member.owns.keys() {
            self.owners.remove(at);
        }
        self.generation = next;
        Ok(Answer::Done)
    }

    fn grant(
        &mut self,
        id: MemberId,
        partitions: &[TopicPartition],
        next: Epoch,
    ) -> Result<Answer, Refusal> {
        let fenced = Refusal::Fenced { member: id };
        let member = self.members.get_mut(&id).ok_or(fenced)?;
        let taken = |at: &TopicPartition| self.owners.get(at).map(|&owner| (*at, owner));
        if let Some((at, owner)) = partitions.iter().find_map(taken) {
            return Err(Refusal::Owned { at, owner });
        }
        for &at in partitions {
            self.owners.insert(at, id);
            member.owns.insert(at, next);
        }
        member.epoch = next;
        self.generation = next;
        Ok(Answer::Done)
    }

    fn release(
        &mut self,
        id: MemberId,
        epoch: Epoch,
        partitions: &[TopicPartition],
    ) -> Result<Answer, Refusal> {
        let fenced = Refusal::Fenced { member: id };
        let member = self.members.get_mut(&id).ok_or(fenced)?;
        for at in partitions {
            if member.owns.get(at).is_some_and(|&since| since <= epoch) {
                member.owns.remove(at);
                self.owners.remove(at);
            }
        }
        Ok(Answer::Done)
    }

    fn commit(
        &mut self,
        by: Option<Committer>,
        offsets: &[OffsetCommit],
        at: UnixMs,
    ) -> Result<Answer, Refusal> {
        let nothing = BTreeMap::new();
        let (owns, epoch) = match by {
            None => {
                self.without_members(false)?;
                (&nothing, Epoch(0))
            }
            Some(Committer { member: id, epoch }) => match self.members.get(&id) {
                Some(member) if (member.joined..=member.epoch).contains(&epoch) => {
                    (&member.owns, epoch)
                }
                _ => return Err(Refusal::Fenced { member: id }),
            },
        };
        let mut not_owned = Vec::new();
        for item in offsets {
            // Owned now, and since before the member spoke: it did not own it for a second time.
            if by.is_none() || owns.get(&item.at).is_some_and(|&since| since <= epoch) {
                let metadata = item.metadata.clone();
                self.offsets.insert(item.at, Committed { offset: item.offset, metadata, at });
            } else {
                not_owned.push(item.at);
            }
        }
        Ok(Answer::Committed { not_owned })
    }

    fn forget(&mut self, topic: TopicId) {
        self.offsets.retain(|at, _| at.topic != topic);
        self.owners.retain(|at, _| at.topic != topic);
        for member in self.members.values_mut() {
            member.owns.retain(|at, _| at.topic != topic);
        }
    }
}
