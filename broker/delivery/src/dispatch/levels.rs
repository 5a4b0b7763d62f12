//! One priority level: what is ready in it. A window of it is loaded; the rest is a set of offsets.
//!
//! Invariant: what is taken next is the lowest offset that is loaded. Messages that come back
//! (released, or due) stand in `back`, the others in `fresh`; stale references are passed over.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use plimsoll_protocol::ids::Offset;

use super::slots::{SlotRef, Slots};
use crate::offsets::OffsetSet;

#[derive(Debug, Default)]
pub(super) struct Level {
    fresh: VecDeque<(Offset, SlotRef)>,
    back: BinaryHeap<Reverse<(Offset, SlotRef)>>,
    /// How many loaded messages are ready.
    pub(super) ready: usize,
    /// Ready, and not loaded.
    pub(super) backlog: OffsetSet,
}

impl Level {
    /// Adds a loaded message that has become ready.
    pub(super) fn push(&mut self, slots: &Slots, index: u32) {
        let (offset, reference) = (slots[index].offset, slots.reference(index));
        self.ready += 1;
        match self.fresh.back() {
            Some(&(last, _)) if last >= offset => self.back.push(Reverse((offset, reference))),
            _ => self.fresh.push_back((offset, reference)),
        }
    }

    /// Whether something that is ready and not loaded goes before `offset`, and there is room to load
    /// it: messages whose time has come, and those that a new leader finds. Delivery waits for the read.
    pub(super) fn reads_first(&self, offset: Offset, window: usize) -> bool {
        !self.backlog.is_empty()
            && self.ready <= window * 3 / 2
            && self.backlog.first().is_some_and(|first| first < offset)
    }

    /// The message to deliver next.
    pub(super) fn first(&mut self, slots: &Slots) -> Option<u32> {
        if self.ready == 0 {
            self.fresh.clear();
            self.back.clear();
            return None;
        }
        while self.fresh.front().is_some_and(|&(_, slot)| !slots.is_ready(slot)) {
            self.fresh.pop_front();
        }
        while self.back.peek().is_some_and(|Reverse((_, slot))| !slots.is_ready(*slot)) {
            self.back.pop();
        }
        let fresh = self.fresh.front().copied();
        let back = self.back.peek().map(|Reverse(back)| *back);
        let (_, slot) = [fresh, back].into_iter().flatten().min().expect("some message is ready");
        Some(slot.index)
    }
}
