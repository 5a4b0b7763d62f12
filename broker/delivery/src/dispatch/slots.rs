//! The messages that are loaded: one slot each in a slab, found by offset, linked into lists through
//! indices. Nothing is allocated per message once the slab has grown.
//!
//! Invariant: a slot is found by its offset as long as it is not free; a [`SlotRef`] of a freed slot
//! fits no slot any more.

#![expect(clippy::disallowed_types, reason = "fixed hasher, and nothing iterates over the map")]

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use plimsoll_protocol::ids::Offset;

use crate::time::UnixMs;

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

/// A map whose keys are numbers that nobody chooses to collide: offsets, and hashes of keys.
pub(super) type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<Mix>>;

/// Spreads a number over 64 bits: multiply and fold.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers are hashed");
    }

    fn write_u64(&mut self, number: u64) {
        let product = u128::from(number ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

/// Where a loaded message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The slot is not in use.
    Free,
    /// It can be delivered.
    Ready,
    /// It waits for the message of its key that is before it.
    Blocked,
    /// It is meant for a consumer and waits until that is written.
    Granting,
    /// A consumer holds it.
    Held,
    /// What becomes of it is decided and being written.
    Ending,
}

/// The lists that a slot can be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// Of the leases that end at the same moment.
    Lease = 0,
    /// Of what one consumer holds.
    Consumer = 1,
    /// Of what waits behind one key.
    Key = 2,
}

/// First and last of a list of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct List {
    pub(super) head: u32,
    pub(super) tail: u32,
}

impl List {
    pub(super) const EMPTY: Self = Self { head: NONE, tail: NONE };
}

/// A loaded message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) offset: Offset,
    /// The hash of its key, where keys matter and it has one.
    pub(super) key: Option<u64>,
    /// The end of its life; `i64::MAX` for none.
    pub(super) expires_at: UnixMs,
    /// When its lease ends, in ticks of [`super::leases`].
    pub(super) lease_tick: u64,
    pub(super) bytes: u32,
    /// How often it was delivered, the delivery under way included.
    pub(super) attempts: u32,
    /// Index of the consumer that holds it or is about to.
    pub(super) consumer: u32,
    generation: u32,
    pub(super) level: u8,
    pub(super) stage: Stage,
    /// Whether it stands behind another message of its key. It may be ending there.
    pub(super) waits: bool,
    links: [(u32, u32); 3],
}

/// A slot at a time; the slot may be another message's later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SlotRef {
    pub(super) index: u32,
    generation: u32,
}

/// All loaded messages.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_offset: NumberMap<Offset, u32>,
}

impl Slots {
    /// Loads a message; it is in no list.
    ///
    /// # Panics
    /// When the offset is loaded already.
    pub(super) fn load(
        &mut self,
        offset: Offset,
        key: Option<u64>,
        level: u8,
        bytes: u32,
        expires_at: UnixMs,
        attempts: u32,
    ) -> u32 {
        let mut slot = Slot {
            offset,
            key,
            expires_at,
            lease_tick: 0,
            bytes,
            attempts,
            consumer: NONE,
            generation: 0,
            level,
            stage: Stage::Ready,
            waits: false,
            links: [(NONE, NONE); 3],
        };
        let index = if let Some(index) = self.free.pop() {
            slot.generation = self.slots[index as usize].generation;
            self.slots[index as usize] = slot;
            index
        } else {
            self.slots.push(slot);
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 messages are loaded")
        };
        let before = self.by_offset.insert(offset, index);
        assert_eq!(before, None, "message {offset} is loaded twice");
        index
    }

    /// Frees a slot that is in no list.
    pub(super) fn free(&mut self, index: u32) {
        let slot = &mut self[index];
        slot.stage = Stage::Free;
        slot.generation = slot.generation.wrapping_add(1);
        let offset = slot.offset;
        self.by_offset.remove(&offset);
        self.free.push(index);
    }

    pub(super) fn find(&self, offset: Offset) -> Option<u32> {
        self.by_offset.get(&offset).copied()
    }

    pub(super) fn reference(&self, index: u32) -> SlotRef {
        SlotRef { index, generation: self[index].generation }
    }

    /// Whether the reference still means the message that it meant, and that is ready.
    pub(super) fn is_ready(&self, reference: SlotRef) -> bool {
        let slot = &self[reference.index];
        slot.generation == reference.generation && slot.stage == Stage::Ready
    }

    /// The indices of loaded messages, in the order of the slab.
    pub(super) fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.slots.len() as u32).filter(|&index| self[index].stage != Stage::Free)
    }

    pub(super) fn push_back(&mut self, list: &mut List, link: Link, index: u32) {
        self[index].links[link as usize] = (list.tail, NONE);
        match list.tail {
            NONE => list.head = index,
            tail => self[tail].links[link as usize].1 = index,
        }
        list.tail = index;
    }

    pub(super) fn unlink(&mut self, list: &mut List, link: Link, index: u32) {
        let (before, behind) = self[index].links[link as usize];
        match before {
            NONE => list.head = behind,
            before => self[before].links[link as usize].1 = behind,
        }
        match behind {
            NONE => list.tail = before,
            behind => self[behind].links[link as usize].0 = before,
        }
        self[index].links[link as usize] = (NONE, NONE);
    }

    /// Bytes of memory, near enough for a metric.
    pub(super) fn memory_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
            + self.free.capacity() * 4
            + self.by_offset.capacity() * (size_of::<(Offset, u32)>() + 1) * 8 / 7
    }
}

impl std::ops::Index<u32> for Slots {
    type Output = Slot;

    fn index(&self, index: u32) -> &Slot {
        &self.slots[index as usize]
    }
}

impl std::ops::IndexMut<u32> for Slots {
    fn index_mut(&mut self, index: u32) -> &mut Slot {
        &mut self.slots[index as usize]
    }
}
