//! Why a map gave no answer, or did not take a change.

use std::sync::Arc;

use plimsoll_protocol::error::ErrorCode;
use thiserror::Error;

use super::Revision;
use crate::error::{BuildError, ConsumeError, RequestError};

/// Why a key was not read, changed or watched.
#[derive(Debug, Clone, Error)]
pub enum KvError {
    /// The key has not what was asked for: it is unchanged.
    #[error("not stored: {}", present(revision))]
    Conflict {
        /// What it has; none: it has no value.
        revision: Option<Revision>,
    },
    /// A later holder of the lock was seen: the change is not stored, nor will be any other under this fence.
    #[error(
        "not stored: the fence is stale, the lock is lost; the highest token seen of it is {highest}"
    )]
    StaleFence {
        /// The highest token of the lock that was seen: the fence's own where the lock was given up and not
        /// granted again.
        highest: u64,
    },
    /// Whether the change is stored could not be found out in time, or whether an attempt that was not answered
    /// still will be: also where a condition does not hold by now. Reading the key tells whether it is.
    #[error("outcome unknown: {reason}; the change may be stored")]
    Unknown {
        /// What was seen last.
        reason: Arc<str>,
    },
    /// Changes that the watch has not seen are gone by compaction or retention: what is there is to be read
    /// anew ([`WatchFrom::Present`](crate::WatchFrom::Present)).
    #[error(
        "partition {partition}: {}; read anew what there is, and watch from now on",
        gone(wanted, first)
    )]
    Compacted {
        /// The partition.
        partition: u32,
        /// The first change that was asked for and may be gone, where the node says so.
        wanted: Option<Revision>,
        /// The first change that the node has, where it says so: what lies behind it may be compacted too.
        first: Option<Revision>,
    },
    /// Key and value fit no batch: nothing was sent.
    #[error("not stored: {0}")]
    TooLarge(Arc<str>),
    /// The topic or a partition cannot be used as asked.
    #[error(transparent)]
    Build(BuildError),
    /// It was refused, or not sent. A change is certainly not stored.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A watch cannot go on.
    #[error(transparent)]
    Consume(ConsumeError),
}

fn present(revision: &Option<Revision>) -> String {
    match revision {
        Some(revision) => format!("the key has revision {revision}"),
        None => "the key has no value".to_owned(),
    }
}

fn gone(wanted: &Option<Revision>, first: &Option<Revision>) -> String {
    let wanted = wanted.map_or_else(|| "there".to_owned(), |wanted| format!("revision {wanted}"));
    let gone = format!("changes from {wanted} on may be gone by compaction or retention");
    match first {
        Some(first) => format!("{gone}, the first that is kept has revision {first}"),
        None => gone,
    }
}

impl KvError {
    /// Whether a change is certainly not stored.
    #[must_use]
    pub fn is_definite(&self) -> bool {
        !matches!(self, Self::Unknown { .. })
    }

    /// The code of a refusal that has no variant of its own.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Request(error) | Self::Build(BuildError::Request(error)) => error.code(),
            Self::Consume(ConsumeError::Refused { source, .. }) => Some(source.code),
            _ => None,
        }
    }
}

impl From<BuildError> for KvError {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Request(error) => Self::Request(error),
            error => Self::Build(error),
        }
    }
}

impl From<ConsumeError> for KvError {
    fn from(error: ConsumeError) -> Self {
        match error {
            ConsumeError::OffsetOutOfRange { partition, wanted, log_start } => Self::Compacted {
                partition,
                wanted: Some(wanted.into()),
                first: Some(log_start.into()),
            },
            ConsumeError::Refused { partition, source }
                if source.code == ErrorCode::OffsetCompacted =>
            {
                let wanted = source.detail.map(Revision);
                Self::Compacted { partition, wanted, first: None }
            }
            error => Self::Consume(error),
        }
    }
}
