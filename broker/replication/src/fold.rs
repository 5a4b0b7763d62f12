//! The folded state of a group, by what the group is.

use bytes::Bytes;
use plimsoll_delivery::command::SubscriptionId;
use plimsoll_delivery::state::Queues;
use plimsoll_groups::state::Groups;
use plimsoll_locks::fence::Floors;
use plimsoll_locks::state::Locks;
use plimsoll_log::LogEntry;
use plimsoll_protocol::ids::{GroupId, Offset};
use plimsoll_state::DecodeStateError;
use plimsoll_state::catalog::{CatalogReply, CatalogState};
use plimsoll_state::partition::{GroupsAnswers, LocksOutcomes, PartitionState, Progress};
use plimsoll_state::producers::ProducerTable;

/// What a group is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupKind {
    /// Group 0: topics and ids.
    Catalog,
    /// A partition of a topic.
    Partition,
}

impl GroupKind {
    /// What the group of this id is.
    #[must_use]
    pub fn of(id: GroupId) -> Self {
        if id == GroupId::CATALOG { Self::Catalog } else { Self::Partition }
    }

    /// The progress of an encoded state, without decoding the rest.
    pub(crate) fn decode_progress(self, bytes: &[u8]) -> Result<Progress, DecodeStateError> {
        match self {
            Self::Catalog => CatalogState::decode_progress(bytes),
            Self::Partition => PartitionState::decode_progress(bytes),
        }
    }
}

/// A group's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fold {
    Catalog(CatalogState),
    Partition(PartitionState),
}

impl Fold {
    pub(crate) fn empty(kind: GroupKind) -> Self {
        match kind {
            GroupKind::Catalog => Self::Catalog(CatalogState::new()),
            GroupKind::Partition => Self::Partition(PartitionState::new()),
        }
    }

    pub(crate) fn kind(&self) -> GroupKind {
        match self {
            Self::Catalog(_) => GroupKind::Catalog,
            Self::Partition(_) => GroupKind::Partition,
        }
    }

    pub(crate) fn progress(&self) -> &Progress {
        match self {
            Self::Catalog(state) => state.progress(),
            Self::Partition(state) => state.progress(),
        }
    }

    /// The queues of a partition; the catalog has none.
    pub(crate) fn queues(&self) -> Option<&Queues> {
        match self {
            Self::Catalog(_) => None,
            Self::Partition(state) => Some(state.queues()),
        }
    }

    /// The consumer groups of a partition, and what the last entry about them came to.
    pub(crate) fn groups(&self) -> Option<(&Groups, &GroupsAnswers)> {
        match self {
            Self::Catalog(_) => None,
            Self::Partition(state) => Some((state.groups(), state.groups_answers())),
        }
    }

    /// The locks of a namespace's partition, and what the last entries about them came to.
    pub(crate) fn locks(&self) -> Option<(&Locks, &LocksOutcomes)> {
        match self {
            Self::Catalog(_) => None,
            Self::Partition(state) => Some((state.locks(), state.locks_outcomes())),
        }
    }

    /// The lowest tokens that a partition takes of each lock.
    pub(crate) fn floors(&self) -> Option<&Floors> {
        match self {
            Self::Catalog(_) => None,
            Self::Partition(state) => Some(state.floors()),
        }
    }

    /// The first record that must be kept: that of a queue which is not settled; else whatever is
    /// committed may go.
    pub(crate) fn kept_from(&self) -> Offset {
        let queue = self.queues().and_then(|queues| queues.get(SubscriptionId::QUEUE));
        let committed = self.progress().high_watermark;
        queue.map_or(committed, |queue| queue.floor().min(committed))
    }

    /// What is remembered of producers; the catalog remembers none.
    pub(crate) fn producers(&self) -> Option<&ProducerTable> {
        match self {
            Self::Catalog(_) => None,
            Self::Partition(state) => Some(state.producers()),
        }
    }

    /// Folds one committed entry; a command gets its answer.
    pub(crate) fn apply(&mut self, entry: &LogEntry) -> Option<CatalogReply> {
        match self {
            Self::Catalog(state) => state.apply(&entry.header, &entry.body),
            Self::Partition(state) => {
                state.apply(&entry.header, &entry.body);
                None
            }
        }
    }

    pub(crate) fn encode(&self) -> Bytes {
        match self {
            Self::Catalog(state) => state.encode(),
            Self::Partition(state) => state.encode(),
        }
    }

    pub(crate) fn decode(kind: GroupKind, bytes: &[u8]) -> Result<Self, DecodeStateError> {
        match kind {
            GroupKind::Catalog => CatalogState::decode(bytes).map(Self::Catalog),
            GroupKind::Partition => {
                let state = PartitionState::decode(bytes);
                #[cfg(feature = "planted")]
                let state = state.map(remembered);
                state.map(Self::Partition)
            }
        }
    }
}

/// With the bug planted: what is left of a state that was stored.
#[cfg(feature = "planted")]
fn remembered(state: PartitionState) -> PartitionState {
    match plimsoll_log::planted::is_planted(plimsoll_log::planted::Bug::ForgetSettled) {
        true => state.without_settled(),
        false => state,
    }
}
