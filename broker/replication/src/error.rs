//! Why a group cannot be used, and what became of a proposal.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_log::Quarantined;
use plimsoll_protocol::ids::{GroupId, NodeId};
use plimsoll_state::DecodeStateError;
use thiserror::Error;

/// Why a group could not be opened or woken.
#[derive(Debug, Clone, Error)]
pub enum OpenGroupError {
    /// The group showed damage and is shut off until it is repaired.
    #[error("group {group}: {source}")]
    Quarantined {
        /// The group.
        group: GroupId,
        /// What was found.
        source: Quarantined,
    },
    /// Its stored state cannot be read. The group is quarantined; nothing was deleted.
    #[error("the stored state of group {group} cannot be used: {source}")]
    DamagedState {
        /// The group.
        group: GroupId,
        /// Why.
        source: DecodeStateError,
    },
    /// The state and the log do not meet: entries between them are gone. The group is quarantined.
    #[error(
        "group {group} has lost entries: its state ends before entry {first_kept}, its log begins there"
    )]
    MissingEntries {
        /// The group.
        group: GroupId,
        /// First entry of the log.
        first_kept: u64,
    },
    /// The medium or the store failed.
    #[error("the storage of group {group} failed: {source}")]
    Storage {
        /// The group.
        group: GroupId,
        /// What happened.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// It did not become ready in time; another attempt may.
    #[error("group {group} was not ready after {waited:?}")]
    NotReady {
        /// The group.
        group: GroupId,
        /// How long was waited.
        waited: Duration,
    },
    /// This node has no replica of it, or does not know yet that it shall have one.
    #[error("this node has no replica of group {group}")]
    NotPlaced {
        /// The group.
        group: GroupId,
    },
    /// The group was deleted.
    #[error("group {group} was deleted")]
    Deleted {
        /// The group.
        group: GroupId,
    },
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
}

impl OpenGroupError {
    /// Whether this replica failed, and not the group: another one may be whole.
    #[must_use]
    pub fn is_of_replica(&self) -> bool {
        match self {
            Self::Quarantined { .. }
            | Self::DamagedState { .. }
            | Self::MissingEntries { .. }
            | Self::Storage { .. } => true,
            Self::NotReady { .. }
            | Self::NotPlaced { .. }
            | Self::Deleted { .. }
            | Self::ShuttingDown => false,
        }
    }
}

/// Another node leads the group, or none does.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("this node does not lead the group; {}", match .leader {
    Some(node) => format!("node {node} does"),
    None => "its leader is not known".to_owned(),
})]
pub struct NotLeader {
    /// The leader, when it is known.
    pub leader: Option<NodeId>,
    /// Where the leader listens, when it is known.
    pub address: Option<String>,
}

/// Too few voters of the group answer. Nothing entered the log; it works again when they are back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "group {group} has no quorum: this node does not reach a majority of its voters; bring a node \
     back, then try again"
)]
pub struct NoQuorum {
    /// The group.
    pub group: GroupId,
}

/// Why a group cannot take a proposal here. Nothing entered the log.
#[derive(Debug, Clone, Error)]
pub(crate) enum LeadError {
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    #[error(transparent)]
    NoQuorum(#[from] NoQuorum),
    #[error(transparent)]
    Group(#[from] OpenGroupError),
}

/// Why a batch was not stored, or what is not known about it.
#[derive(Debug, Clone, Error)]
pub enum ProduceError {
    /// Records before it are missing. The producer sends from `expected` on.
    #[error("the batch begins at a sequence that is not the next one; expected {expected}")]
    OutOfOrderSequence {
        /// The next sequence.
        expected: u64,
    },
    /// A newer life of the same producer has written here.
    #[error("the producer's epoch is over; the current one is {current}")]
    StaleProducerEpoch {
        /// The epoch in force.
        current: u32,
    },
    /// The partition does not know the producer (any more), and the batch is not its first.
    #[error("the producer is not known to the partition; begin a new epoch at sequence 0")]
    UnknownProducer,
    /// It is stored already, but where is no longer known.
    #[error("the batch was stored before; at which offset is no longer known")]
    DuplicateSequence,
    /// It did not enter the log here.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// It did not enter the log: a majority of the voters is not reached.
    #[error(transparent)]
    NoQuorum(#[from] NoQuorum),
    /// It may or may not be stored: send the same batch again.
    #[error("it is not known whether the batch was stored; send it again with the same sequence")]
    Unknown,
    /// The group cannot be used.
    #[error(transparent)]
    Group(#[from] OpenGroupError),
}

/// Why a command of the catalog was not answered. A refusal is an answer.
#[derive(Debug, Clone, Error)]
pub enum ProposeError {
    /// It did not enter the log here.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// It did not enter the log: a majority of the voters is not reached.
    #[error(transparent)]
    NoQuorum(#[from] NoQuorum),
    /// It may or may not be carried out.
    #[error("it is not known whether the command was carried out; look before repeating it")]
    Unknown,
    /// The group cannot be used.
    #[error(transparent)]
    Group(#[from] OpenGroupError),
}

impl From<LeadError> for ProduceError {
    fn from(error: LeadError) -> Self {
        match error {
            LeadError::NotLeader(error) => Self::NotLeader(error),
            LeadError::NoQuorum(error) => Self::NoQuorum(error),
            LeadError::Group(error) => Self::Group(error),
        }
    }
}

impl From<LeadError> for ProposeError {
    fn from(error: LeadError) -> Self {
        match error {
            LeadError::NotLeader(error) => Self::NotLeader(error),
            LeadError::NoQuorum(error) => Self::NoQuorum(error),
            LeadError::Group(error) => Self::Group(error),
        }
    }
}
