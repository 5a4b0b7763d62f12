//! The recording disk: every operation of a workload, so that the power can be cut after each.

use std::sync::Arc;

use super::crash::{Choices, CrashPlan, choices, crash};
use super::medium::{Medium, Op};
use super::{Shared, SimDisk};

/// A recording that is under way; see [`SimDisk::record`].
#[derive(Debug)]
pub struct Recording {
    pub(super) shared: Arc<Shared>,
    pub(super) base: Medium,
}

impl Recording {
    /// How many operations have been recorded.
    pub fn position(&self) -> usize {
        self.shared.lock().recorded.as_ref().map_or(0, Vec::len)
    }

    /// Ends it.
    pub fn finish(self) -> Record {
        let ops = self.shared.lock().recorded.take().unwrap_or_default();
        Record { base: self.base, ops }
    }
}

/// A finished recording: the medium at its beginning, and the operations since.
#[derive(Debug, Clone)]
pub struct Record {
    base: Medium,
    ops: Vec<Op>,
}

impl Record {
    /// The operations, in the order in which they were carried out.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// The marks of a test with the position behind each: an image at that position or a later one
    /// must hold what the mark stands for.
    pub fn marks(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.ops.iter().enumerate().filter_map(|(at, op)| match op {
            Op::Mark { mark } => Some((at + 1, *mark)),
            _ => None,
        })
    }

    /// Begins a walk over the operations.
    pub fn replay(&self) -> Replay<'_> {
        Replay { record: self, medium: self.base.clone(), position: 0 }
    }

    /// The image after the first `position` operations.
    ///
    /// # Panics
    /// Where there are fewer operations.
    pub fn image(&self, position: usize, plan: &CrashPlan) -> SimDisk {
        let mut replay = self.replay();
        while replay.position < position {
            assert!(replay.advance(), "operation {position} of {}", self.ops.len());
        }
        replay.image(plan)
    }
}

/// A walk over a [`Record`]: at each position it makes crash images, at the cost of what they hold.
#[derive(Debug, Clone)]
pub struct Replay<'a> {
    record: &'a Record,
    medium: Medium,
    position: usize,
}

impl Replay<'_> {
    /// What is walked over.
    pub fn record(&self) -> &Record {
        self.record
    }

    /// How many operations were carried out.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Carries out the next operation; false where there is none.
    pub fn advance(&mut self) -> bool {
        let Some(op) = self.record.ops.get(self.position) else { return false };
        self.medium.apply(op);
        self.position += 1;
        true
    }

    /// The operation that is under way when the power fails here.
    pub fn next_op(&self) -> Option<&Op> {
        self.record.ops.get(self.position)
    }

    /// How much a crash can choose from here.
    pub fn choices(&self) -> Choices {
        choices(&self.medium)
    }

    /// What a process finds after a power failure here.
    pub fn image(&self, plan: &CrashPlan) -> SimDisk {
        SimDisk::on_medium(crash(&self.medium, self.next_op(), plan), self.position as u64)
    }

    /// What a process finds after `kill -9` here: everything that was written, unsynced as it was.
    pub fn image_after_kill(&self) -> SimDisk {
        let mut medium = self.medium.clone();
        medium.close_handles();
        SimDisk::on_medium(medium, self.position as u64)
    }
}
