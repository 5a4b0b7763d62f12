//! Whether there is room on the disk.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::disk::Disk;

/// Room on the data directory's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpaceState {
    /// Enough.
    Ok,
    /// Too little: records should be refused; votes, reads and deletions go on. Ends by itself once
    /// there is room again.
    Low {
        /// Bytes that can still be allocated.
        free: u64,
        /// Bytes that should be free.
        needed: u64,
    },
}

/// Written by the store's threads, read by anybody.
#[derive(Debug, Default)]
pub(crate) struct Space {
    free: AtomicU64,
    needed: AtomicU64,
    low: AtomicBool,
    /// A segment could not grow: low whatever `free` says.
    stuck: AtomicBool,
    /// A journal file or a checkpoint could not be made.
    journal_stuck: AtomicBool,
}

impl Space {
    /// Whether there is too little room, for whatever reason.
    pub(crate) fn is_low(&self) -> bool {
        [&self.low, &self.stuck, &self.journal_stuck].iter().any(|b| b.load(Ordering::Relaxed))
    }

    pub(crate) fn state(&self) -> SpaceState {
        if self.is_low() {
            SpaceState::Low {
                free: self.free.load(Ordering::Relaxed),
                needed: self.needed.load(Ordering::Relaxed),
            }
        } else {
            SpaceState::Ok
        }
    }

    /// Bytes that could be allocated when the disk was looked at last.
    pub(crate) fn free(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// Looks at the disk.
    pub(crate) fn measure(&self, disk: &dyn Disk, free_bytes_min: u64) {
        // Where the disk does not say, nothing is known to be wrong.
        let Ok(free) = disk.free_bytes() else { return };
        self.free.store(free, Ordering::Relaxed);
        self.needed.store(free_bytes_min, Ordering::Relaxed);
        let low = free < free_bytes_min;
        if self.low.swap(low, Ordering::Relaxed) != low {
            if low {
                tracing::warn!(free, needed = free_bytes_min, "disk space is low");
            } else {
                tracing::info!(free, "disk space is sufficient again");
            }
        }
    }

    /// Whether a segment could not grow for lack of space.
    pub(crate) fn set_stuck(&self, stuck: bool) {
        note(&self.stuck, stuck);
    }

    /// Whether the last journal file or checkpoint could not be made for lack of space.
    pub(crate) fn is_journal_stuck(&self) -> bool {
        self.journal_stuck.load(Ordering::Relaxed)
    }

    /// Whether a journal file or a checkpoint could not be made for lack of space.
    pub(crate) fn set_journal_stuck(&self, stuck: bool) {
        note(&self.journal_stuck, stuck);
    }
}

fn note(flag: &AtomicBool, stuck: bool) {
    if flag.load(Ordering::Relaxed) != stuck && flag.swap(stuck, Ordering::Relaxed) != stuck {
        if stuck {
            tracing::warn!("disk full: waiting for space");
        } else {
            tracing::info!("disk full: went on");
        }
    }
}
