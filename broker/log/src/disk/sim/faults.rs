//! Faults on command: which call fails, how, and whether the medium heals.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::time::Duration;

use rustix::io::Errno;

use super::medium::FileId;

/// A kind of call that a [`Fault`] can hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// `Disk::create`.
    Create,
    /// `Disk::open`.
    Open,
    /// `Disk::rename`.
    Rename,
    /// `Disk::remove`.
    Remove,
    /// `Disk::sync_dir`.
    SyncDir,
    /// `DiskFile::allocate`.
    Allocate,
    /// `DiskFile::write_at`.
    Write,
    /// `DiskFile::read_at` and `Mapping::populate`.
    Read,
    /// `DiskFile::sync`.
    Sync,
    /// `DiskFile::map`.
    Map,
}

/// What a [`Fault`] does to the call that it hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The call fails with EIO. A buffered write then changed nothing, a direct one wrote a part of
    /// its sectors, and after a failed sync the unsynced bytes are still read but never reach the
    /// medium, as on ext4: the next sync succeeds without them.
    Eio,
    /// The call fails with ENOSPC and changes nothing; a failed sync loses what it does with EIO.
    Enospc,
    /// The call takes this long (see [`SimDisk::slow_time`](super::SimDisk::slow_time)).
    Slow(Duration),
}

/// A fault to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The kind of call.
    pub operation: Operation,
    /// Only calls on paths that contain this. Default in [`Fault::new`]: every path.
    pub path_contains: String,
    /// So many matching calls go well before it.
    pub after: u64,
    /// So many matching calls are hit; then the medium has healed.
    pub times: u64,
    /// What happens.
    pub effect: Effect,
}

impl Fault {
    /// Hits the `nth` call of this kind from now on, counted from 1, and every later one.
    ///
    /// # Panics
    /// Where `nth` is 0.
    pub fn new(operation: Operation, nth: u64, effect: Effect) -> Self {
        assert!(nth > 0, "calls are counted from 1");
        Self { operation, path_contains: String::new(), after: nth - 1, times: u64::MAX, effect }
    }

    /// Hits one call only; the medium heals after it.
    #[must_use]
    pub fn once(self) -> Self {
        Self { times: 1, ..self }
    }

    /// Hits only calls on paths that contain `text`.
    #[must_use]
    pub fn on(self, text: &str) -> Self {
        Self { path_contains: text.to_owned(), ..self }
    }
}

/// The faults that are still to come, and the places that cannot be read.
#[derive(Debug, Default)]
pub(super) struct Faults {
    faults: Vec<Fault>,
    unreadable: BTreeMap<FileId, Vec<Range<u64>>>,
    calls: BTreeMap<Operation, u64>,
}

/// What the faults say of one call.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Verdict {
    pub(super) error: Option<Errno>,
    pub(super) slow: Duration,
}

impl Verdict {
    pub(super) fn check(self) -> io::Result<()> {
        self.error.map_or(Ok(()), |error| Err(error.into()))
    }
}

impl Faults {
    pub(super) fn are_none(&self) -> bool {
        self.faults.is_empty()
    }

    pub(super) fn add(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    pub(super) fn clear(&mut self) {
        self.faults.clear();
        self.unreadable.clear();
    }

    pub(super) fn calls(&self, operation: Operation) -> u64 {
        self.calls.get(&operation).copied().unwrap_or(0)
    }

    pub(super) fn make_unreadable(&mut self, file: FileId, range: Range<u64>) {
        self.unreadable.entry(file).or_default().push(range);
    }

    pub(super) fn is_readable(&self, file: FileId, range: &Range<u64>) -> bool {
        let bad = self.unreadable.get(&file).into_iter().flatten();
        bad.into_iter().all(|bad| bad.end <= range.start || range.end <= bad.start)
    }

    /// Counts one call and says what happens to it.
    pub(super) fn judge(&mut self, operation: Operation, path: &str) -> Verdict {
        *self.calls.entry(operation).or_default() += 1;
        let mut verdict = Verdict::default();
        for fault in &mut self.faults {
            if fault.operation != operation || !path.contains(&fault.path_contains) {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
                continue;
            }
            if fault.times == 0 {
                continue;
            }
            if fault.times != u64::MAX {
                fault.times -= 1;
            }
            match fault.effect {
                Effect::Eio => verdict.error = Some(Errno::IO),
                Effect::Enospc => verdict.error = Some(Errno::NOSPC),
                Effect::Slow(time) => verdict.slow += time,
            }
        }
        self.faults.retain(|fault| fault.times > 0);
        verdict
    }
}
