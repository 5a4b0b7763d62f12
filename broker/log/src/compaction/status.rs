//! How far a log is compacted, for those who must not wait.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use plimsoll_protocol::ids::Offset;

use crate::group::GroupLog;
use crate::group::back::Back;
use crate::parking::Mutex;

/// How far a log is compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CompactionStatus {
    /// Of the records before this offset only the newest of each key is left, as of the last run that put
    /// something in its place.
    pub compacted_upto: Offset,
    /// Bytes of segments without anything that compaction has not looked at.
    pub compacted_bytes: u64,
    /// Bytes of all other segments, the open one too.
    pub dirty_bytes: u64,
    /// A run is under way.
    pub is_running: bool,
    /// The last run since the store was opened that replaced anything.
    pub last_run: Option<CompactionRun>,
}

/// What a run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CompactionRun {
    /// When it was planned, in milliseconds since 1970.
    pub at_ms: i64,
    /// Bytes of the segments that it replaced.
    pub bytes_before: u64,
    /// Bytes of what stands in their place.
    pub bytes_after: u64,
    /// Records that are gone.
    pub records_removed: u64,
    /// Records that were written anew.
    pub records_kept: u64,
}

/// What a group keeps of it.
#[derive(Debug, Default)]
pub(crate) struct CompactionRecord {
    is_running: AtomicBool,
    upto: AtomicU64,
    bytes: AtomicU64,
    /// Most groups never have one.
    last_run: Mutex<Option<Box<CompactionRun>>>,
}

impl CompactionRecord {
    /// Begins a run; false where one is under way.
    pub(super) fn begin(&self) -> bool {
        !self.is_running.swap(true, Ordering::AcqRel)
    }

    pub(super) fn end(&self, run: CompactionRun) {
        if run.bytes_before > 0 {
            *self.last_run.lock() = Some(Box::new(run));
        }
        self.is_running.store(false, Ordering::Release);
    }

    /// Takes in how the segments are.
    pub(crate) fn note(&self, back: &Back) {
        let infos = || back.segments.iter().map(|slot| &slot.info);
        let bytes = infos().filter(|info| !info.is_dirty()).map(|info| info.end_bytes).sum();
        self.bytes.store(bytes, Ordering::Relaxed);
        let first_dirty = infos().find(|info| info.is_dirty());
        let upto = first_dirty.map_or(back.marks.end_offset, |info| info.clean_to());
        self.upto.store(upto.0, Ordering::Relaxed);
    }
}

impl GroupLog {
    /// How far the log is compacted. Never waits for the disk.
    #[must_use]
    pub fn compaction_status(&self) -> CompactionStatus {
        let record = &self.compaction;
        let compacted_bytes = record.bytes.load(Ordering::Relaxed);
        CompactionStatus {
            compacted_upto: Offset(record.upto.load(Ordering::Relaxed)),
            compacted_bytes,
            dirty_bytes: self.bounds().bytes.saturating_sub(compacted_bytes),
            is_running: record.is_running.load(Ordering::Acquire),
            last_run: record.last_run.lock().as_deref().copied(),
        }
    }
}
