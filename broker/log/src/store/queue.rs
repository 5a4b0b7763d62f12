//! The two queues between the threads: what is to be journaled, and what is to be materialised.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use super::materialiser::Capture;
use super::placing::{Part, Placement};
use crate::config::Durability;
use crate::entry::Change;
use crate::fatal::Completion;
use crate::group::GroupLog;
use crate::journal::JournalPosition;
use crate::parking::{Condvar, Mutex};

/// So many items that nobody waits for start a block of their own.
const LAZY_ITEMS_MAX: usize = 1024;

/// How often a waiter looks whether the store has stopped.
const FLUSH_LOOK_EVERY: Duration = Duration::from_millis(100);

/// One change of one group on its way to the disk.
pub(crate) struct Item {
    pub(crate) group: Arc<GroupLog>,
    /// The group's durability when the change was made.
    pub(crate) durability: Durability,
    /// The log's branch after the change.
    pub(crate) branch: u64,
    pub(crate) change: Change,
    pub(crate) done: Option<Completion>,
}

impl Item {
    /// Whether it is written to the journal: everything but what a memory group says of its entries, and
    /// where a segment ends.
    /// A committed mark says less than they do, and one that was journaled would make the entries
    /// behind it wait for the disk.
    pub(crate) fn is_journaled(&self) -> bool {
        if matches!(self.change, Change::Roll) {
            return false;
        }
        self.durability == Durability::Durable
            || !matches!(self.change, Change::Entries(_) | Change::Committed(_))
    }
}

/// What is to be journaled, in order. Never blocks a pusher.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<QueueState>,
    ready: Condvar,
    passed: Condvar,
}

#[derive(Default)]
struct QueueState {
    items: VecDeque<Item>,
    /// Somebody waits for one of the items.
    urgent: bool,
    /// The journal thread sleeps.
    waiting: bool,
    closed: bool,
    /// Items ever taken.
    taken: u64,
    /// Items that were taken, journaled and handed on.
    passed: u64,
    /// Somebody waits for `passed`.
    watched: bool,
}

impl Queue {
    /// Adds an item. Gives the completion back where the store was closed.
    pub(crate) fn push(&self, mut item: Item) -> Option<Completion> {
        let mut state = self.state.lock();
        if state.closed {
            return item.done.take();
        }
        state.items.push_back(item);
        state.urgent = true;
        let wake = std::mem::take(&mut state.waiting);
        drop(state);
        if wake {
            self.ready.notify_one();
        }
        None
    }

    /// Adds an item that nobody waits for: it goes with the next block.
    pub(crate) fn push_lazily(&self, item: Item) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        state.items.push_back(item);
        if state.items.len() > LAZY_ITEMS_MAX {
            state.urgent = true;
            if std::mem::take(&mut state.waiting) {
                self.ready.notify_one();
            }
        }
    }

    /// Moves everything into `into`, which is empty; waits for something that is waited for. False
    /// once the queue is closed and empty.
    pub(crate) fn take(&self, into: &mut VecDeque<Item>) -> bool {
        let mut state = self.state.lock();
        state.passed = state.taken;
        if state.watched {
            state.watched = false;
            self.passed.notify_all();
        }
        while !state.urgent && !state.closed {
            state.waiting = true;
            state = self.ready.wait(state);
        }
        state.waiting = false;
        state.urgent = false;
        std::mem::swap(&mut state.items, into);
        state.taken += into.len() as u64;
        !(state.closed && into.is_empty())
    }

    /// As [`Queue::take`] without waiting.
    pub(crate) fn try_take(&self, into: &mut VecDeque<Item>) {
        let mut state = self.state.lock();
        state.urgent = false;
        std::mem::swap(&mut state.items, into);
    }

    /// Whether there is something that somebody waits for, so that [`Queue::take`] would not wait.
    pub(crate) fn is_urgent(&self) -> bool {
        self.state.lock().urgent
    }

    /// Waits until everything queued now was handed to the materialiser, or `given_up` says so.
    pub(crate) fn flush(&self, given_up: impl Fn() -> bool) {
        let mut state = self.state.lock();
        let upto = state.taken + state.items.len() as u64;
        state.urgent |= !state.items.is_empty();
        state.waiting = false;
        self.ready.notify_one();
        while state.passed < upto && !given_up() {
            state.watched = true;
            state = self.passed.wait_for(state, FLUSH_LOOK_EVERY);
        }
    }

    /// Takes no more items.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.ready.notify_all();
    }
}

/// A unit of the materialiser's work.
pub(crate) enum Work {
    /// What one group commit carried.
    Block(Block),
    /// Say where everything stands, for a checkpoint.
    Capture(Sender<Capture>),
    /// Put entries into segments that the next block will refer to.
    Place(Vec<Part>, Sender<Placement>),
}

/// The items of one group commit.
pub(crate) struct Block {
    pub(crate) items: VecDeque<Item>,
    /// Where the journal stands after them.
    pub(crate) end: JournalPosition,
    pub(crate) bytes: u64,
}

/// What is to be materialised, in order, bounded in bytes.
#[derive(Default)]
pub(crate) struct MaterialQueue {
    state: Mutex<MaterialState>,
    ready: Condvar,
    room: Condvar,
}

#[derive(Default)]
struct MaterialState {
    works: VecDeque<Work>,
    /// Of blocks that are queued or being worked on.
    bytes: u64,
    closed: bool,
}

impl MaterialQueue {
    pub(crate) fn push(&self, work: Work) {
        let mut state = self.state.lock();
        if let Work::Block(block) = &work {
            state.bytes += block.bytes;
        }
        state.works.push_back(work);
        drop(state);
        self.ready.notify_one();
    }

    /// Asks for a capture behind everything queued; false where the materialiser is about to end.
    pub(crate) fn push_capture(&self, reply: Sender<Capture>) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        state.works.push_back(Work::Capture(reply));
        drop(state);
        self.ready.notify_one();
        true
    }

    /// Asks for entries to be placed behind everything queued; false where the materialiser is about to
    /// end.
    pub(crate) fn push_place(&self, parts: Vec<Part>, reply: Sender<Placement>) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        state.works.push_back(Work::Place(parts, reply));
        drop(state);
        self.ready.notify_one();
        // The materialiser may be waiting for space, and must say that it has none.
        self.room.notify_all();
        true
    }

    /// Takes a request to place entries out of its turn: there is no room.
    pub(crate) fn take_place(&self) -> Option<(Vec<Part>, Sender<Placement>)> {
        let mut state = self.state.lock();
        let at = state.works.iter().position(|work| matches!(work, Work::Place(..)))?;
        match state.works.remove(at) {
            Some(Work::Place(parts, reply)) => Some((parts, reply)),
            _ => unreachable!("it was just found there"),
        }
    }

    /// Sleeps for a while, less when the queue is woken.
    pub(crate) fn pause(&self, timeout: Duration) {
        let state = self.state.lock();
        drop(self.room.wait_for(state, timeout));
    }

    /// Waits until less than `max` bytes are under way, or `given_up` says so.
    pub(crate) fn wait_for_room(&self, max: u64, given_up: impl Fn() -> bool) {
        let mut state = self.state.lock();
        while state.bytes >= max && !given_up() {
            state = self.room.wait(state);
        }
    }

    pub(crate) fn is_full(&self, max: u64) -> bool {
        self.state.lock().bytes >= max
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.state.lock().bytes
    }

    /// The next work; waits for it. `None` once the queue is closed and empty.
    pub(crate) fn take(&self) -> Option<Work> {
        let mut state = self.state.lock();
        loop {
            if let Some(work) = state.works.pop_front() {
                return Some(work);
            }
            if state.closed {
                return None;
            }
            state = self.ready.wait(state);
        }
    }

    pub(crate) fn has_work(&self) -> bool {
        !self.state.lock().works.is_empty()
    }

    pub(crate) fn try_take(&self) -> Option<Work> {
        self.state.lock().works.pop_front()
    }

    /// A block was worked off.
    pub(crate) fn finished(&self, bytes: u64) {
        self.state.lock().bytes -= bytes;
        self.room.notify_all();
    }

    /// Lets waiters look again whether they should give up.
    pub(crate) fn wake(&self) {
        drop(self.state.lock());
        self.room.notify_all();
    }

    /// Takes no more work after what is queued.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.ready.notify_all();
    }

    /// The materialiser has ended, maybe with work left: who waits for an answer is told that none
    /// will come. Blocks stay for whoever calls their completions.
    pub(crate) fn give_up_answers(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.works.retain(|work| matches!(work, Work::Block(_)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A store was dropped while its checkpoint thread waited for a capture. The materialiser ended at
    /// the work before it, the request stayed in the queue, and the drop waited for ever.
    #[test]
    fn capture_that_is_left_behind_is_told_so() {
        let queue = MaterialQueue::default();
        let (reply, answer) = mpsc::channel();
        assert!(queue.push_capture(reply));
        queue.give_up_answers();
        assert!(answer.recv().is_err());
        let (reply, _answer) = mpsc::channel();
        assert!(!queue.push_capture(reply), "there is nobody to answer it");
    }

    #[test]
    fn placing_that_is_left_behind_is_told_so() {
        let queue = MaterialQueue::default();
        let (reply, answer) = mpsc::channel();
        assert!(queue.push_place(Vec::new(), reply));
        queue.give_up_answers();
        assert!(answer.recv().is_err());
        let (reply, _answer) = mpsc::channel();
        assert!(!queue.push_place(Vec::new(), reply), "there is nobody to answer it");
    }
}
