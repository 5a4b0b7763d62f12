//! What the groups and the threads of a store have in common.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use plimsoll_protocol::ids::{GroupId, LogId};

use super::checkpointer::Outcome;
use super::materialiser::Capture;
use super::queue::{MaterialQueue, Queue, Work};
use super::space::Space;
use crate::checkpoint::{CheckpointFile, CheckpointSeq};
use crate::config::StoreConfig;
use crate::disk::Disk;
use crate::fatal::{FatalError, FatalState};
use crate::group::GroupLog;
use crate::group::error::ReadError;
use crate::header::Identity;
use crate::journal::writer::JournalFiles;
use crate::parking::{Condvar, Mutex, RwLock};
use crate::random::Random;
use crate::segment::open::OpenSegments;
use crate::transfer::pins::Pins;

pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) identity: Identity,
    pub(crate) config: StoreConfig,
    pub(crate) random: Arc<Random>,
    pub(crate) entry_bytes_max: u64,
    pub(crate) fatal: FatalState,
    pub(crate) queue: Queue,
    pub(crate) material: MaterialQueue,
    pub(crate) journal_files: Arc<JournalFiles>,
    pub(crate) open_segments: OpenSegments,
    /// Segments that are being sent.
    pub(crate) pins: Pins,
    /// Groups that the next checkpoint must write anew.
    pub(crate) changed: Mutex<Vec<Arc<GroupLog>>>,
    /// The newest checkpoint, for states that are read back.
    pub(crate) checkpoint: RwLock<Option<Arc<CheckpointFile>>>,
    pub(crate) kept: KeptCheckpoints,
    pub(crate) requests: CheckpointRequests,
    pub(crate) space: Space,
    pub(crate) counters: Counters,
    /// Set by an abrupt end: threads stop where they are.
    pub(crate) aborted: AtomicBool,
    /// Being closed: who finds no room on the disk does not wait for some.
    pub(crate) closing: AtomicBool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// Which checkpoints a recovery may begin with.
#[derive(Debug, Default)]
pub(crate) struct KeptCheckpoints {
    /// The older one of two; 0 while there are not two that this life knows.
    older: AtomicU64,
    /// Somebody waits until the older one is at least this one.
    wanted: AtomicU64,
}

impl KeptCheckpoints {
    pub(crate) fn set_older(&self, seq: CheckpointSeq) {
        self.older.store(seq.0, Ordering::Relaxed);
    }

    /// Whether every recovery begins with this checkpoint or a later one.
    pub(crate) fn are_since(&self, seq: CheckpointSeq) -> bool {
        seq.0 <= self.older.load(Ordering::Relaxed)
    }

    /// Has checkpoints made, also where nothing changes, until every recovery begins with this one or a
    /// later one.
    pub(crate) fn want(&self, seq: CheckpointSeq) {
        self.wanted.fetch_max(seq.0, Ordering::Relaxed);
    }

    pub(crate) fn is_one_wanted(&self) -> bool {
        self.older.load(Ordering::Relaxed) < self.wanted.load(Ordering::Relaxed)
    }
}

/// Running totals.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) blocks: AtomicU64,
    pub(crate) journaled_bytes: AtomicU64,
    pub(crate) materialised_bytes: AtomicU64,
    pub(crate) placed_bytes: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    /// Journaled or materialised since the last checkpoint, the larger of both.
    pub(crate) since_checkpoint: AtomicU64,
}

impl Shared {
    pub(crate) fn gave_up(&self) -> bool {
        self.aborted.load(Ordering::Relaxed) || self.fatal.is_set()
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Ends the store where it stands, as a killed process would.
    pub(crate) fn abort(&self) {
        self.aborted.store(true, Ordering::Relaxed);
        self.wake_waiters();
    }

    /// What completions get once nothing is done any more.
    pub(crate) fn end_of_service(&self) -> Arc<FatalError> {
        self.fatal.get().unwrap_or_else(|| Arc::new(FatalError::Closed))
    }

    /// Lets every waiting thread look whether it should end.
    pub(crate) fn wake_all(&self) {
        self.queue.close();
        self.material.close();
        self.requests.close();
        self.wake_waiters();
    }

    /// Lets every waiter look whether the store stopped.
    pub(crate) fn wake_waiters(&self) {
        self.material.wake();
        self.journal_files.wake();
        self.requests.wake();
    }

    /// Ends what nobody will work on any more.
    pub(crate) fn fail_queued(&self) {
        let mut items = VecDeque::new();
        self.queue.try_take(&mut items);
        while let Some(work) = self.material.try_take() {
            if let Work::Block(block) = work {
                items.extend(block.items);
            }
        }
        // Groups hold this very structure: what holds groups must go.
        self.changed.lock().clear();
        drop(self.requests.take_finish());
        let error = self.end_of_service();
        for done in items.into_iter().filter_map(|item| item.done) {
            done(Err(error.clone()));
        }
    }

    /// Counts bytes towards the next checkpoint.
    pub(crate) fn count_towards_checkpoint(&self, bytes: u64) {
        let before = self.counters.since_checkpoint.fetch_add(bytes, Ordering::Relaxed);
        let limit = self.config.checkpoint_after_bytes;
        if before < limit && before + bytes >= limit {
            self.requests.wake();
        }
    }

    /// Reads a group's state back from the newest checkpoint.
    pub(crate) fn stored_state(&self, group: GroupId) -> Result<Option<(LogId, Bytes)>, ReadError> {
        let Some(checkpoint) = self.checkpoint.read().clone() else { return Ok(None) };
        checkpoint.read_state(group)
    }
}

/// How the other threads ask the checkpoint thread for something.
#[derive(Default)]
pub(crate) struct CheckpointRequests {
    state: Mutex<RequestState>,
    changed: Condvar,
}

#[derive(Default)]
struct RequestState {
    asked: u64,
    done: u64,
    /// Requests up to this number were served by a checkpoint that is durable.
    written: u64,
    woken: bool,
    closed: bool,
    /// The materialiser has ended.
    finished: bool,
    last_capture: Option<Capture>,
}

/// What the checkpoint thread woke up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wakeup {
    /// The number of the last request.
    pub(crate) asked: u64,
    /// It was not served yet.
    pub(crate) is_asked: bool,
    /// The materialiser has ended: only the last checkpoint is left to do.
    pub(crate) finished: bool,
}

impl CheckpointRequests {
    /// Asks for a checkpoint of everything up to now; returns the request's number.
    pub(crate) fn ask(&self) -> u64 {
        let mut state = self.state.lock();
        state.asked += 1;
        state.woken = true;
        let number = state.asked;
        drop(state);
        self.changed.notify_all();
        number
    }

    /// Lets the checkpoint thread look around.
    pub(crate) fn wake(&self) {
        self.state.lock().woken = true;
        self.changed.notify_all();
    }

    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits for a wake-up, at most `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) -> Wakeup {
        let mut state = self.state.lock();
        if !state.woken && !state.closed && !state.finished {
            state = self.changed.wait_for(state, timeout);
        }
        state.woken = false;
        let is_asked = state.asked > state.done;
        Wakeup { asked: state.asked, is_asked, finished: state.finished }
    }

    /// The materialiser has ended; this is how it left everything, where that may be written down.
    pub(crate) fn finish(&self, capture: Option<Capture>) {
        let mut state = self.state.lock();
        state.finished = true;
        state.last_capture = capture;
        drop(state);
        self.changed.notify_all();
    }

    pub(crate) fn take_finish(&self) -> Option<Capture> {
        self.state.lock().last_capture.take()
    }

    pub(crate) fn is_asked(&self) -> Option<u64> {
        let state = self.state.lock();
        (state.asked > state.done).then_some(state.asked)
    }

    /// Requests up to this number were served, as well as could be.
    pub(crate) fn done(&self, number: u64, outcome: Outcome) {
        let mut state = self.state.lock();
        state.done = state.done.max(number);
        if outcome == Outcome::Written {
            state.written = state.written.max(number);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until a request was served or `given_up` says so. Whether a checkpoint was written for
    /// it: served is also a request for which there was no room.
    pub(crate) fn wait_for(&self, number: u64, given_up: impl Fn() -> bool) -> bool {
        let mut state = self.state.lock();
        while state.done < number && !state.closed && !given_up() {
            state = self.changed.wait_for(state, Duration::from_millis(100));
        }
        state.written >= number
    }
}
