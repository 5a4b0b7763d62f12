//! Why a group refuses an operation.

use std::io;
use std::sync::Arc;

use plimsoll_protocol::ids::{LogIndex, Offset};
use thiserror::Error;

use crate::segment::file::SegmentError;
use crate::segment::scan::Damage;

/// The group showed damage, or was told to stop: it neither serves nor deletes anything until it is
/// repaired.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the group is quarantined: {reason}")]
pub struct Quarantined {
    /// What was found, and where.
    pub reason: Arc<str>,
}

/// Why entries were not appended. Nothing was changed, and the completion is dropped uncalled.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AppendError {
    /// The first entry does not follow the last one, or they do not follow each other.
    #[error("entry {found} was appended where entry {expected} comes next")]
    NotNext {
        /// Index of the offered entry.
        found: LogIndex,
        /// Index that comes next.
        expected: LogIndex,
    },
    /// The header's length is not that of header and body.
    #[error("entry {index} says it has {stored} bytes and has {actual}")]
    Length {
        /// The entry.
        index: LogIndex,
        /// What its header says.
        stored: u32,
        /// What it has.
        actual: u64,
    },
    /// No journal file could take it.
    #[error("entry {index} has {bytes} bytes; the journal's files take at most {limit}")]
    TooLarge {
        /// The entry.
        index: LogIndex,
        /// Its size.
        bytes: u64,
        /// The largest size.
        limit: u64,
    },
    /// The group is quarantined.
    #[error(transparent)]
    Quarantined(#[from] Quarantined),
    /// The group was deleted.
    #[error("the group was deleted")]
    Deleted,
}

/// Why a log was not truncated. Nothing was changed, and the completion is dropped uncalled.
#[derive(Debug, Error)]
pub enum TruncateError {
    /// Entries that were purged cannot be truncated.
    #[error("the log cannot be truncated after {last_kept:?}: it was purged up to {purged}")]
    Purged {
        /// The last entry to be kept.
        last_kept: Option<LogIndex>,
        /// Up to where the log was purged.
        purged: LogIndex,
    },
    /// The group was deleted.
    #[error("the group was deleted")]
    Deleted,
    /// The last entry to be kept could not be read.
    #[error("the entry to be kept last cannot be read: {0}")]
    Read(#[from] ReadError),
}

/// Why something could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// Retention took these records away.
    #[error("offset {offset} is before the start of the log at {log_start}")]
    BeforeStart {
        /// What was asked for.
        offset: Offset,
        /// The first offset there is.
        log_start: Offset,
    },
    /// These entries are not kept any more.
    #[error("entry {index} is not kept any more; the first one is {first}")]
    Purged {
        /// What was asked for.
        index: LogIndex,
        /// The first index there is.
        first: LogIndex,
    },
    /// There is no such entry yet.
    #[error("entry {index} is past the end of the log at {end}")]
    PastEnd {
        /// What was asked for.
        index: LogIndex,
        /// The index that comes next.
        end: LogIndex,
    },
    /// The bytes on disk are not what was written. The group is quarantined.
    #[error(transparent)]
    Damaged(Damage),
    /// The group is quarantined.
    #[error(transparent)]
    Quarantined(#[from] Quarantined),
    /// The medium failed.
    #[error("{operation} of {path} failed: {source}")]
    Medium {
        /// What was being done.
        operation: &'static str,
        /// To which file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The stored state is damaged.
    #[error("the state in {path} is damaged")]
    State {
        /// The checkpoint file.
        path: String,
    },
}

impl From<SegmentError> for ReadError {
    fn from(error: SegmentError) -> Self {
        match error {
            SegmentError::Damaged(damage) => Self::Damaged(damage),
            SegmentError::Medium { operation, path, source } => {
                Self::Medium { operation, path, source }
            }
        }
    }
}
