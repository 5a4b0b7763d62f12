//! Compaction: of the records with a key the last one stays, at the offset that it always had.
//!
//! ```text
//!   GroupLog::plan_compaction ─► Compaction ── step(bytes_max) ──►  … ──► done
//!      which segments  (plan)        1. read what is dirty into a map: key ─► newest offset  (newest)
//!                                    2. group by group of segments, from the front of the log:
//!                                       read them (source), keep what is newest (rewrite),
//!                                       write one segment for all of them (output): NAME.segment.tmp,
//!                                       sync, rename, sync of the directory, journal record `compacted`
//! ```
//! Before the record stands in the journal the old segments are the log, and the new one is named by nothing;
//! after it the new one is. `COMPACTION.md` beside this crate says why each step is safe.

use std::io;

use thiserror::Error;

use crate::segment::file::SegmentError;
use crate::segment::scan::Damage;

mod newest;
mod output;
mod plan;
mod rewrite;
mod run;
mod source;
pub(crate) mod status;

pub use run::{Compaction, CompactionStep};

/// When a log is compacted, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionPolicy {
    /// Segments whose last append is younger than this stay as they are, in milliseconds. Larger: a reader
    /// that lags less than this sees every record; smaller: space is free sooner.
    pub min_age_ms: u64,
    /// How long a tombstone stays after it was rewritten for the first time, in milliseconds. A reader that
    /// takes longer from the start of the log to its end may miss a deletion.
    pub tombstone_ms: u64,
    /// The log is rewritten once so much of what may be is dirty, 0 to 100 percent of its bytes. Smaller:
    /// less space is used, and more is written for it.
    pub dirty_percent_min: u8,
    /// The open segment is closed, so that it can be compacted, once its first record is this old, in
    /// milliseconds; `None` leaves it to its size.
    pub roll_after_ms: Option<u64>,
    /// How many keys one run keeps in memory, each about 50 bytes. Smaller: a log with more new keys needs
    /// several runs, each of which rewrites all before.
    pub map_entries_max: usize,
}

/// Why a compaction ended before its end. What it had put in the place of old segments before stays; every
/// other file that it made is gone.
#[derive(Debug, Error)]
pub enum CompactError {
    /// A segment is not what was written. The group is quarantined.
    #[error(transparent)]
    Damaged(Damage),
    /// There is no room for what it writes.
    #[error("compaction needs {needed} bytes, and {free} are free; {kept_free} must stay free")]
    Full {
        /// Bytes that it needs at once.
        needed: u64,
        /// Bytes that there are.
        free: u64,
        /// Bytes that the store keeps free for itself.
        kept_free: u64,
    },
    /// The log was deleted, emptied or replaced meanwhile, or its front was dropped, or it was quarantined.
    #[error("the log was changed while it was compacted")]
    Overtaken,
    /// A single batch has more keys than the map takes.
    #[error("a batch has more keys than the {limit} that a compaction may keep in memory")]
    MapFull {
        /// [`CompactionPolicy::map_entries_max`].
        limit: usize,
    },
    /// The store stopped.
    #[error("the store stopped")]
    Stopped,
    /// The medium failed.
    #[error("{operation} {path} failed: {source}")]
    Medium {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

impl From<SegmentError> for CompactError {
    fn from(error: SegmentError) -> Self {
        match error {
            SegmentError::Damaged(damage) => Self::Damaged(damage),
            SegmentError::Medium { operation, path, source } => {
                Self::Medium { operation, path, source }
            }
        }
    }
}
