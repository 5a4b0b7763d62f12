//! Keys of a key-shared queue: for each key one message at a time has the turn, and the others wait
//! behind it in the order in which they became ready, which is that of their offsets but for messages
//! that were scheduled.
//!
//! A message whose attempt failed keeps the turn of its key while it waits for the next: order holds,
//! and only its own key stands still. Waiting messages are loaded up to a bound; the others are
//! *parked*: 8 bytes each, read from the log again when their turn comes.
//!
//! Invariant: the parked ones of a key are behind its loaded ones; a key without a turn is not in the
//! map. Two keys with one hash are one key here: less beside each other, never out of order.

use std::collections::VecDeque;

use plimsoll_protocol::ids::Offset;

use super::slots::{Link, List, NumberMap, Slots};

#[derive(Debug)]
struct Key {
    /// Who has the turn: ready, held, being ended, delayed after a failure, or to be loaded.
    turn: Offset,
    waiting: List,
    parked: VecDeque<Offset>,
}

/// The keys of which some message is loaded, delayed after a failure, or parked.
#[derive(Debug, Default)]
pub(super) struct Keys {
    keys: NumberMap<u64, Key>,
    /// Loaded messages that wait.
    pub(super) waiting: usize,
    /// Messages that wait and are not loaded.
    pub(super) parked: usize,
}

/// Whose turn it is after a message has ended.
pub(super) enum Next {
    /// Nobody waits.
    Nobody,
    /// This loaded message.
    Loaded(u32),
    /// This one, which must be loaded.
    Parked(Offset),
}

impl Keys {
    /// Asks for the turn; says whether `offset` has it.
    pub(super) fn ask(&mut self, key: u64, offset: Offset) -> bool {
        let new = Key { turn: offset, waiting: List::EMPTY, parked: VecDeque::new() };
        self.keys.entry(key).or_insert(new).turn == offset
    }

    /// Who has the turn of this key.
    pub(super) fn turn(&self, key: u64) -> Option<Offset> {
        self.keys.get(&key).map(|key| key.turn)
    }

    /// Whether a message that must wait has to be parked: those behind a parked one must be.
    pub(super) fn must_park(&self, key: u64, waiting_max: usize) -> bool {
        let parked = self.keys.get(&key).is_some_and(|key| !key.parked.is_empty());
        parked || self.waiting >= waiting_max
    }

    /// Lets a loaded message wait.
    pub(super) fn wait(&mut self, slots: &mut Slots, key: u64, index: u32) {
        let key = self.keys.get_mut(&key).expect("somebody has the turn");
        slots.push_back(&mut key.waiting, Link::Key, index);
        slots[index].waits = true;
        self.waiting += 1;
    }

    /// Lets a message wait that is not loaded.
    pub(super) fn park(&mut self, key: u64, offset: Offset) {
        self.keys.get_mut(&key).expect("somebody has the turn").parked.push_back(offset);
        self.parked += 1;
    }

    /// Takes out a loaded message that waits.
    pub(super) fn leave(&mut self, slots: &mut Slots, key: u64, index: u32) {
        let key = self.keys.get_mut(&key).expect("a message waits behind another");
        slots.unlink(&mut key.waiting, Link::Key, index);
        slots[index].waits = false;
        self.waiting -= 1;
    }

    /// The turn passes on, if `offset` had it.
    pub(super) fn pass(&mut self, slots: &mut Slots, hash: u64, offset: Offset) -> Next {
        let Some(key) = self.keys.get_mut(&hash) else { return Next::Nobody };
        if key.turn != offset {
            return Next::Nobody;
        }
        if key.waiting.head != super::slots::NONE {
            let index = key.waiting.head;
            slots.unlink(&mut key.waiting, Link::Key, index);
            slots[index].waits = false;
            self.waiting -= 1;
            key.turn = slots[index].offset;
            return Next::Loaded(index);
        }
        if let Some(offset) = key.parked.pop_front() {
            self.parked -= 1;
            key.turn = offset;
            return Next::Parked(offset);
        }
        self.keys.remove(&hash);
        Next::Nobody
    }

    /// Forgets what is below `start` and not loaded; gives the keys whose turn was lost with it, sorted.
    pub(super) fn lose_below(&mut self, start: Offset, slots: &Slots) -> Vec<(u64, Offset)> {
        let mut lost = Vec::new();
        for (&hash, key) in &mut self.keys {
            let before = key.parked.len();
            key.parked.retain(|&offset| offset >= start);
            self.parked -= before - key.parked.len();
            if key.turn < start && slots.find(key.turn).is_none() {
                lost.push((hash, key.turn));
            }
        }
        lost.sort_unstable();
        lost
    }

    /// The key whose turn this message has. Looks at all: for what happens rarely.
    pub(super) fn find_turn(&self, offset: Offset) -> Option<u64> {
        self.keys.iter().find(|(_, key)| key.turn == offset).map(|(&hash, _)| hash)
    }

    /// Behind whose turn a message waits that is not loaded, and how many of its key are before it.
    /// Looks at all: for people, not for machines.
    pub(super) fn find_parked(&self, offset: Offset) -> Option<(Offset, u64)> {
        self.keys.values().find_map(|key| {
            let ahead = key.parked.iter().position(|&parked| parked == offset)?;
            Some((key.turn, ahead as u64))
        })
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Bytes of memory, near enough for a metric.
    pub(super) fn memory_bytes(&self) -> usize {
        self.keys.capacity() * (size_of::<(u64, Key)>() + 1) + self.parked * size_of::<Offset>()
    }
}
