//! The store's work without threads, one unit at a time: what the simulation and the crash tests
//! drive. It uses the very pieces that the threads run.

use super::checkpointer::{Checkpointer, Outcome};
use super::commit::{Commit, GroupCommit};
use super::materialiser::{Halt, Materialiser};
use super::open::Opened;
use super::placing::{Part, Placement};
use super::queue::Work;
use super::shared::Shared;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The three pieces in one hand.
pub(crate) struct Stepper {
    pub(crate) shared: Arc<Shared>,
    pub(crate) commit: GroupCommit,
    pub(crate) materialiser: Materialiser,
    pub(crate) checkpointer: Checkpointer,
}

impl std::fmt::Debug for Stepper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stepper").finish_non_exhaustive()
    }
}

impl Stepper {
    pub(crate) fn new(opened: Opened) -> Self {
        let Opened { shared, writer, materialiser, checkpointer, .. } = opened;
        let commit = GroupCommit::new(shared.clone(), writer);
        Self { shared, commit, materialiser, checkpointer }
    }

    /// Whether the threads would be at work now.
    pub(crate) fn is_work_due(&mut self) -> bool {
        let shared = &self.shared;
        !self.commit.pending().is_empty()
            || shared.queue.is_urgent()
            || self.materialiser.is_busy()
            || shared.material.has_work()
            || self.is_checkpoint_due()
    }

    fn is_checkpoint_due(&self) -> bool {
        let shared = &self.shared;
        shared.counters.since_checkpoint.load(Ordering::Relaxed)
            >= shared.config.checkpoint_after_bytes
            || shared.requests.is_asked().is_some()
    }

    /// What the checkpoint thread does now and then, unasked.
    pub(crate) fn look_around(&mut self) {
        if self.shared.gave_up() {
            return;
        }
        self.shared.space.measure(&*self.shared.disk, self.shared.config.free_bytes_min);
        self.checkpointer.prepare_journal();
        if self.checkpointer.has_work() {
            self.shared.requests.ask();
        }
    }

    /// One unit of work.
    pub(crate) fn step(&mut self) -> bool {
        let shared = self.shared.clone();
        if self.commit.pending().is_empty() {
            shared.queue.try_take(self.commit.pending());
        }
        let full = shared.material.is_full(shared.config.unwritten_bytes_max);
        if !(full && self.commit.is_entries_next()) && self.commit_one() {
            return true;
        }
        if self.materialise_one() {
            return true;
        }
        self.is_checkpoint_due() && self.checkpoint(false)
    }

    fn commit_one(&mut self) -> bool {
        let Self { shared, commit, materialiser, .. } = self;
        match commit.commit(&mut |parts| place(shared, materialiser, parts)) {
            Commit::Done => {
                if !self.shared.fatal.is_set() {
                    // Ahead of need, as the checkpoint thread does it.
                    self.checkpointer.prepare_journal();
                }
                true
            }
            Commit::Idle => false,
            Commit::NeedsFile => {
                if self.checkpointer.prepare_journal() {
                    if self.materialise_one() {
                        return true;
                    }
                    self.checkpoint(false);
                }
                // A checkpoint that freed no file brings the journal no further.
                self.shared.journal_files.has_spare()
            }
            Commit::NeedsCheckpoint => {
                if self.materialise_one() {
                    return true;
                }
                if !self.checkpoint(false) {
                    return false;
                }
                self.commit.checkpointed();
                true
            }
        }
    }

    fn materialise_one(&mut self) -> bool {
        materialise_one(&self.shared, &mut self.materialiser)
    }

    /// A checkpoint of what is materialised. False where there was no room, or the store stopped.
    fn checkpoint(&mut self, last: bool) -> bool {
        if self.materialiser.is_busy()
            || self.materialiser.is_placing()
            || self.shared.fatal.is_set()
        {
            return false;
        }
        let asked = self.shared.requests.is_asked();
        let outcome = self.checkpointer.run(self.materialiser.capture(), last);
        if let Some(number) = asked {
            self.shared.requests.done(number, outcome);
        }
        if outcome == Outcome::Written && !last {
            self.checkpointer.prepare_journal();
        }
        outcome == Outcome::Written
    }

    /// Ends what was begun and could not be finished with the store's error.
    pub(crate) fn fail(&mut self) {
        self.commit.fail();
        self.materialiser.fail();
    }

    /// Works everything off, then makes a checkpoint.
    pub(crate) fn checkpoint_all(&mut self, last: bool) {
        while self.step() {}
        if last || self.checkpointer.has_work() {
            self.checkpoint(last);
        }
    }
}

/// Works one block off. False where there is none, or no room for it.
fn materialise_one(shared: &Shared, materialiser: &mut Materialiser) -> bool {
    if !materialiser.is_busy() {
        match shared.material.try_take() {
            Some(Work::Block(block)) => materialiser.begin(block),
            Some(Work::Capture(_) | Work::Place(..)) => unreachable!("they are done directly"),
            None => return false,
        }
    }
    if shared.fatal.is_set() {
        materialiser.fail();
        return true;
    }
    match materialiser.work() {
        Ok(()) => {
            shared.space.set_stuck(false);
            true
        }
        Err(Halt::Full) => {
            shared.space.set_stuck(true);
            false
        }
        Err(Halt::Fatal(error)) => {
            shared.fatal.raise(error);
            materialiser.fail();
            true
        }
    }
}

/// Places entries behind everything that was handed on; `None` where the store stopped.
fn place(shared: &Shared, materialiser: &mut Materialiser, parts: Vec<Part>) -> Option<Placement> {
    while materialise_one(shared, materialiser) {}
    if shared.fatal.is_set() {
        return None;
    }
    if materialiser.is_busy() {
        return Some(Placement::refusing(parts));
    }
    match materialiser.place(parts) {
        Ok(placement) => Some(placement),
        Err(error) => {
            shared.fatal.raise(error);
            None
        }
    }
}
