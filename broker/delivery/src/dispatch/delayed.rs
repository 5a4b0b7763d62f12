//! Messages that wait for their time: 16 bytes each in a heap, whether scheduled by their producer or
//! released with a delay. 1,000,000 take 16 MB, and the next due one is found in O(log n).
//!
//! A message that ends while it waits (cancelled) stays here until its time and is passed over then.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use plimsoll_protocol::ids::Offset;

use crate::time::UnixMs;

/// Offsets are below 2^56 here: 8 bits beside them hold the level.
const LEVEL_BITS: u32 = 8;

#[derive(Debug, Default)]
pub(super) struct Delayed(BinaryHeap<Reverse<(UnixMs, u64)>>);

impl Delayed {
    pub(super) fn push(&mut self, due: UnixMs, offset: Offset, level: u8) {
        assert!(offset.0 >> (64 - LEVEL_BITS) == 0, "offset {offset} is not below 2^56");
        self.0.push(Reverse((due, offset.0 << LEVEL_BITS | u64::from(level))));
    }

    pub(super) fn first_due(&self) -> Option<UnixMs> {
        self.0.peek().map(|Reverse((due, _))| *due)
    }

    pub(super) fn pop_due(&mut self, now: UnixMs) -> Option<(Offset, u8)> {
        self.0.peek().filter(|Reverse((due, _))| *due <= now)?;
        self.0.pop().map(|Reverse((_, packed))| unpack(packed))
    }

    /// When this message is due. Looks at all: for people, not for machines.
    pub(super) fn due(&self, offset: Offset) -> Option<UnixMs> {
        let found = self.0.iter().find(|Reverse((_, packed))| unpack(*packed).0 == offset);
        found.map(|Reverse((due, _))| *due)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn clear(&mut self) {
        self.0 = BinaryHeap::new();
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.0.capacity() * size_of::<(UnixMs, u64)>()
    }
}

fn unpack(packed: u64) -> (Offset, u8) {
    (Offset(packed >> LEVEL_BITS), (packed & 0xff) as u8)
}
