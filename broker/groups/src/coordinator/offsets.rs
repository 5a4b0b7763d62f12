//! Committing offsets, setting them, deleting groups.

use std::sync::Arc;

use plimsoll_protocol::ids::Offset;
use thiserror::Error;

use super::moves::weight;
use super::{Busy, Coordinator, Ticket, TooManyGroups};
use crate::command::{Committer, GroupCommand, METADATA_BYTES_MAX, OffsetCommit};
use crate::ids::{GroupName, TopicPartition};
use crate::state::{Groups, Refusal};
use crate::time::Monotonic;

/// Why offsets cannot be committed, or set.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CommitError {
    /// Nothing is to be committed, or too much at once.
    #[error(
        "offsets of {partitions} partitions are to be committed at once, 1 to {partitions_max} may; \
         split them"
    )]
    Partitions {
        /// How many.
        partitions: usize,
        /// The bound.
        partitions_max: usize,
    },
    /// The text beside an offset is too long.
    #[error(
        "the metadata beside the offset of partition {at} has {bytes} bytes, {METADATA_BYTES_MAX} are \
         allowed; shorten it"
    )]
    Metadata {
        /// Of which partition.
        at: TopicPartition,
        /// How long it is.
        bytes: usize,
    },
    /// All in all it is too long.
    #[error("a commit of {bytes} bytes is too long, {bytes_max} are allowed; split it")]
    TooLong {
        /// How long it is.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// The topic is deleted, and no member commits.
    #[error("the topic of partition {at} is deleted; leave it out")]
    TopicDeleted {
        /// Which partition.
        at: TopicPartition,
    },
    /// The group would have more committed offsets than it may.
    #[error(
        "consumer group {group} has committed offsets in as many partitions as it may, {offsets_max}; \
         use several groups, or take away those that are not needed"
    )]
    OffsetsFull {
        /// Which group.
        group: GroupName,
        /// The bound.
        offsets_max: usize,
    },
    /// The group would be one too many.
    #[error(transparent)]
    TooManyGroups(#[from] TooManyGroups),
    /// Too much waits to be written.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// As the log stands it would be refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl Coordinator {
    /// Commits offsets: of a member, those that it owns; of nobody, only in a group without members. The
    /// fold has the last word: [`super::Reply::Committed`] names what the member did not own. Of a
    /// partition that comes twice the last counts.
    ///
    /// # Errors
    /// When the commit, or the group, would be out of bounds, the member is fenced, or too much waits to
    /// be written.
    pub fn commit(
        &mut self,
        state: &Groups,
        group: &GroupName,
        by: Option<Committer>,
        mut offsets: Vec<OffsetCommit>,
        now: Monotonic,
    ) -> Result<Ticket, CommitError> {
        // Stable, so that the last of a partition is the last still; the first of each is kept.
        offsets.reverse();
        offsets.sort_by_key(|item| item.at);
        offsets.dedup_by_key(|item| item.at);
        for item in &offsets {
            let bytes = item.metadata.as_ref().map_or(0, |text| Arc::<str>::as_ref(text).len());
            if bytes > METADATA_BYTES_MAX {
                return Err(CommitError::Metadata { at: item.at, bytes });
            }
        }
        if let Some(by) = by
            && state.member(group, by.member).is_none()
        {
            return Err(Refusal::Fenced { member: by.member }.into());
        }
        let partitions: Vec<_> = offsets.iter().map(|item| item.at).collect();
        let command = GroupCommand::Commit { by, offsets };
        self.put_offsets(state, group, &partitions, command, now)
    }

    /// An administrator sets offsets, or takes them away: only in a group without members, unless forced.
    /// Members go on from where they are; whoever owns a partition next begins at its offset.
    ///
    /// # Errors
    /// As [`Coordinator::commit`].
    pub fn reset(
        &mut self,
        state: &Groups,
        group: &GroupName,
        mut offsets: Vec<(TopicPartition, Option<Offset>)>,
        forced: bool,
        now: Monotonic,
    ) -> Result<Ticket, CommitError> {
        offsets.reverse();
        offsets.sort_by_key(|(at, _)| *at);
        offsets.dedup_by_key(|(at, _)| *at);
        let set = |(at, offset): &(TopicPartition, Option<Offset>)| offset.map(|_| *at);
        let partitions: Vec<_> = offsets.iter().filter_map(set).collect();
        self.bounded(offsets.len())?;
        let command = GroupCommand::Reset { offsets, forced };
        self.put_offsets(state, group, &partitions, command, now)
    }

    /// An administrator deletes a group with its offsets: only one without members, unless forced; then
    /// its members are fenced.
    ///
    /// # Errors
    /// When there is no such group, or too much waits to be written.
    pub fn delete(
        &mut self,
        state: &Groups,
        group: &GroupName,
        forced: bool,
    ) -> Result<Ticket, CommitError> {
        self.room()?;
        if state.get(group).is_none() {
            return Err(Refusal::UnknownGroup.into());
        }
        Ok(self.enqueue(group, GroupCommand::Delete { forced }, (0, 0)))
    }

    fn bounded(&self, partitions: usize) -> Result<(), CommitError> {
        let partitions_max = self.limits.commit_partitions_max;
        match (1..=partitions_max).contains(&partitions) {
            true => Ok(()),
            false => Err(CommitError::Partitions { partitions, partitions_max }),
        }
    }

    fn put_offsets(
        &mut self,
        state: &Groups,
        group: &GroupName,
        partitions: &[TopicPartition],
        command: GroupCommand,
        now: Monotonic,
    ) -> Result<Ticket, CommitError> {
        if matches!(command, GroupCommand::Commit { .. }) {
            self.bounded(partitions.len())?;
        }
        let (bytes, bytes_max) = (weight(&command), self.limits.commit_bytes_max);
        if bytes > bytes_max {
            return Err(CommitError::TooLong { bytes, bytes_max });
        }
        // A member's other offsets count; of this one the fold says that it is not owned, or forgets it.
        let is_members = matches!(command, GroupCommand::Commit { by: Some(_), .. });
        if !is_members
            && let Some(&at) = partitions.iter().find(|at| self.topics.is_deleted(at.topic))
        {
            return Err(CommitError::TopicDeleted { at });
        }
        self.room()?;
        let offsets_max = self.limits.offsets_max;
        let view = self.open(group, now)?;
        let there = state.get(group);
        let is_new = |at: &&TopicPartition| there.is_none_or(|it| it.committed(**at).is_none());
        let new = partitions.iter().filter(is_new).count();
        let have = there.map_or(0, |it| it.offsets().len()) + view.offsets_coming;
        if new > 0 && have + new > offsets_max {
            return Err(CommitError::OffsetsFull { group: group.clone(), offsets_max });
        }
        Ok(self.enqueue(group, command, (0, new)))
    }
}
