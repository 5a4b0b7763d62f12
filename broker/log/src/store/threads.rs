//! The three threads of a store. Each owns its piece of the machinery and meets the others at the
//! queues only.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use std::sync::atomic::Ordering;

use super::checkpointer::{Checkpointer, Outcome};
use super::commit::{Commit, GroupCommit};
use super::materialiser::{Halt, Materialiser};
use super::placing::{Part, Placement};
use super::queue::Work;
use super::shared::Shared;
use super::stepper::Stepper;
use crate::fatal::FatalError;

/// How often the checkpoint thread looks around unasked.
const LOOK_AROUND_EVERY: Duration = Duration::from_secs(1);

/// Starts them.
pub(crate) fn start(stepper: Stepper) -> Vec<JoinHandle<()>> {
    let Stepper { shared, commit, materialiser, mut checkpointer } = stepper;
    checkpointer.sync_in_parallel();
    let journal = shared.clone();
    let material = shared.clone();
    vec![
        spawn("plimsoll-journal", journal, |shared| run_journal(shared, commit)),
        spawn("plimsoll-write", material, |shared| run_materialiser(shared, materialiser)),
        spawn("plimsoll-ckpt", shared, |shared| run_checkpointer(shared, checkpointer)),
    ]
}

/// A thread that fails stops the store: the others would wait for it, and votes behind them, while the
/// node goes on showing that it lives.
fn spawn(
    name: &'static str,
    shared: Arc<Shared>,
    run: impl FnOnce(&Arc<Shared>) + Send + 'static,
) -> JoinHandle<()> {
    let guarded = move || {
        // What it left half done is not looked at any more once the store has stopped.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(&shared))) {
            shared.fatal.raise(FatalError::Panicked { thread: name });
            // Nobody may be left who works the queues off.
            shared.wake_all();
            shared.fail_queued();
            resume_unwind(panic);
        }
    };
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(guarded)
        .expect("a process that opens a store can start three threads")
}

fn run_journal(shared: &Arc<Shared>, mut commit: GroupCommit) {
    while shared.queue.take(commit.pending()) {
        loop {
            if shared.aborted.load(Ordering::Relaxed) {
                commit.fail();
                break;
            }
            // What carries no entries is let through: a vote does not wait for segments.
            if commit.is_entries_next() {
                let limit = shared.config.unwritten_bytes_max;
                shared.material.wait_for_room(limit, || shared.gave_up());
            }
            match commit.commit(&mut |parts| ask_to_place(shared, parts)) {
                Commit::Idle => break,
                Commit::Done => {}
                Commit::NeedsFile => {
                    shared.requests.wake();
                    let is_hopeless = || shared.is_closing() && shared.space.is_journal_stuck();
                    shared.journal_files.wait_for_spare(|| shared.gave_up() || is_hopeless());
                    if is_hopeless() && !shared.journal_files.has_spare() {
                        shared.abort();
                    }
                }
                Commit::NeedsCheckpoint => {
                    let number = shared.requests.ask();
                    if shared.requests.wait_for(number, || shared.gave_up()) {
                        commit.checkpointed();
                    } else if shared.is_closing() {
                        shared.abort();
                    } else {
                        // The change would rest on a checkpoint that is not there.
                        shared.material.pause(shared.config.retry_full_disk_after);
                    }
                }
            }
        }
    }
    // Closed: what was journaled is still to be materialised, then the last checkpoint is made.
    shared.material.close();
}

/// Has the materialiser place entries; `None` where the store stopped.
fn ask_to_place(shared: &Shared, parts: Vec<Part>) -> Option<Placement> {
    let (reply, answer) = mpsc::channel();
    if !shared.material.push_place(parts, reply) {
        return None;
    }
    answer.recv().ok()
}

fn run_materialiser(shared: &Arc<Shared>, mut materialiser: Materialiser) {
    // Captures that wait for the block that refers to what was placed.
    let mut held = Vec::new();
    while let Some(work) = shared.material.take() {
        match work {
            Work::Block(block) => {
                materialiser.begin(block);
                write_block(shared, &mut materialiser);
            }
            Work::Capture(reply) => held.push(reply),
            Work::Place(parts, reply) => place(shared, &mut materialiser, parts, &reply),
        }
        if shared.gave_up() {
            // A block may be worked off in part, or placed and not worked off: a checkpoint of that would
            // stand before entries that it holds, and could not be replayed from. Nobody gets one.
            held.clear();
        } else if !materialiser.is_placing() {
            for reply in held.drain(..) {
                // Nobody waits for it where the store was dropped meanwhile.
                let _ = reply.send(materialiser.capture());
            }
        }
        if shared.aborted.load(Ordering::Relaxed) {
            break;
        }
    }
    drop(held);
    shared.material.give_up_answers();
    // Where a block is missing the store was stopped, and writes no checkpoint.
    shared.requests.finish((!materialiser.is_placing()).then(|| materialiser.capture()));
}

fn place(
    shared: &Shared,
    materialiser: &mut Materialiser,
    parts: Vec<Part>,
    reply: &mpsc::Sender<Placement>,
) {
    if shared.gave_up() {
        return;
    }
    match materialiser.place(parts) {
        // Nobody waits for it where the journal thread has ended.
        Ok(placement) => drop(reply.send(placement)),
        Err(error) => {
            shared.fatal.raise(error);
            shared.wake_waiters();
        }
    }
}

fn write_block(shared: &Shared, materialiser: &mut Materialiser) {
    loop {
        if shared.gave_up() {
            materialiser.fail();
            return;
        }
        match materialiser.work() {
            Ok(()) => {
                shared.space.set_stuck(false);
                return;
            }
            Err(Halt::Full) => {
                shared.space.set_stuck(true);
                // Votes wait behind it. What has no room here has some in the journal.
                if let Some((parts, reply)) = shared.material.take_place() {
                    drop(reply.send(Placement::refusing(parts)));
                }
                if shared.is_closing() {
                    shared.abort();
                    continue;
                }
                shared.material.pause(shared.config.retry_full_disk_after);
            }
            Err(Halt::Fatal(error)) => {
                shared.fatal.raise(error);
                shared.wake_waiters();
            }
        }
    }
}

fn run_checkpointer(shared: &Arc<Shared>, mut checkpointer: Checkpointer) {
    let mut last = Instant::now();
    let mut dirty_since: Option<Instant> = None;
    let mut pause = LOOK_AROUND_EVERY;
    checkpointer.prepare_journal();
    loop {
        let wakeup = shared.requests.wait(pause);
        if shared.gave_up() {
            break;
        }
        shared.space.measure(&*shared.disk, shared.config.free_bytes_min);
        let journal_full = checkpointer.prepare_journal();
        if shared.is_closing() {
            // Who waits for the next file learns whether there was room for it.
            shared.journal_files.wake();
        }
        // The journal thread may be waiting for the next file: it is not left alone for long.
        pause = match journal_full {
            true => shared.config.retry_full_disk_after.min(LOOK_AROUND_EVERY),
            false => LOOK_AROUND_EVERY,
        };
        if wakeup.finished {
            break;
        }
        let has_work = checkpointer.has_work();
        dirty_since = match dirty_since {
            since if !has_work => since.and(None),
            None => Some(Instant::now()),
            since => since,
        };
        let due = dirty_since
            .is_some_and(|since| since.elapsed() >= shared.config.checkpoint_after)
            || shared.counters.since_checkpoint.load(Ordering::Relaxed)
                >= shared.config.checkpoint_after_bytes
            || journal_full && last.elapsed() >= shared.config.retry_full_disk_after;
        if wakeup.is_asked || has_work && due {
            let (reply, answer) = mpsc::channel();
            if !shared.material.push_capture(reply) {
                continue;
            }
            let Ok(capture) = answer.recv() else { continue };
            if shared.gave_up() {
                break;
            }
            let outcome = checkpointer.run(capture, false);
            last = Instant::now();
            dirty_since = None;
            if outcome == Outcome::Written {
                checkpointer.prepare_journal();
            }
            // Also where there was no room: who waits looks at the space.
            shared.requests.done(wakeup.asked, outcome);
        }
        if shared.fatal.is_set() {
            shared.wake_waiters();
        }
    }
    if let Some(capture) = shared.requests.take_finish()
        && !shared.gave_up()
    {
        checkpointer.run(capture, true);
    }
    if shared.fatal.is_set() {
        shared.wake_waiters();
    }
}
