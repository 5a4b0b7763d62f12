//! Who wants messages, how many more, and whose turn it is.
//!
//! Invariant: a consumer that has room and may be given messages unasked is in the turns of its
//! priority, once. The highest priority with somebody in it goes first; within one, in turn.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use thiserror::Error;

use super::slots::List;

/// What a consumer asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumerSpec {
    /// Most messages that it holds at a time; 0: it is given messages only when it asks
    /// ([`super::Dispatcher::pull`]), and does not count as a consumer where others must be alone.
    pub prefetch_count: u32,
    /// Bytes beyond which it gets nothing more. The last message may reach over it, so that every
    /// message can be delivered. 0: nothing unasked.
    pub prefetch_bytes: u64,
    /// Larger comes first, as long as it has room.
    pub priority: i32,
    /// Whether it must be the only one.
    pub exclusive: bool,
    /// Whether a message is settled by being delivered: at most once.
    pub settles_itself: bool,
}

impl Default for ConsumerSpec {
    fn default() -> Self {
        Self {
            prefetch_count: 100,
            prefetch_bytes: 16 << 20,
            priority: 0,
            exclusive: false,
            settles_itself: false,
        }
    }
}

/// Names a consumer of one dispatcher; not used again for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerId {
    pub(super) index: u32,
    generation: u32,
}

/// Why a consumer cannot be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AttachError {
    /// Somebody has the queue alone.
    #[error("the queue has an exclusive consumer")]
    HasExclusive,
    /// It wants to be alone and is not.
    #[error("the queue has {others} other consumers; an exclusive one must be alone")]
    NotAlone {
        /// How many others there are.
        others: u32,
    },
}

#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) spec: ConsumerSpec,
    generation: u32,
    attached: bool,
    /// It takes nothing unasked any more: it does not count, and goes when it holds nothing.
    passive: bool,
    /// Its place among all that were ever attached.
    order: u64,
    queued: bool,
    pub(super) held: List,
    pub(super) held_count: u32,
    held_bytes: u64,
}

impl Consumer {
    fn has_room(&self) -> bool {
        self.attached
            && self.held_count < self.spec.prefetch_count
            && self.held_bytes < self.spec.prefetch_bytes
    }
}

#[derive(Debug, Default)]
pub(super) struct Consumers {
    all: Vec<Consumer>,
    free: Vec<u32>,
    turns: BTreeMap<Reverse<i32>, VecDeque<u32>>,
    /// Who gets everything, in a queue with a single active consumer.
    active: Option<u32>,
    single_active: bool,
    next_order: u64,
}

impl Consumers {
    pub(super) fn new(single_active: bool) -> Self {
        Self { single_active, ..Self::default() }
    }

    pub(super) fn attach(&mut self, spec: ConsumerSpec) -> Result<ConsumerId, AttachError> {
        let (others, passive) = (self.len(), spec.prefetch_count == 0);
        if !passive && self.active().any(|index| self.all[index as usize].spec.exclusive) {
            return Err(AttachError::HasExclusive);
        }
        if !passive && spec.exclusive && others > 0 {
            return Err(AttachError::NotAlone { others });
        }
        let mut consumer = Consumer {
            spec,
            generation: 0,
            attached: true,
            passive,
            order: self.next_order,
            queued: false,
            held: List::EMPTY,
            held_count: 0,
            held_bytes: 0,
        };
        self.next_order += 1;
        let index = if let Some(index) = self.free.pop() {
            let place = &mut self.all[index as usize];
            consumer.generation = place.generation.wrapping_add(1);
            *place = consumer;
            index
        } else {
            self.all.push(consumer);
            u32::try_from(self.all.len() - 1).expect("fewer than 2^32 consumers")
        };
        self.choose_active();
        self.offer(index);
        Ok(ConsumerId { index, generation: self.all[index as usize].generation })
    }

    fn leave_turns(&mut self, index: u32) {
        let consumer = &mut self.all[index as usize];
        consumer.queued = false;
        if let Some(turns) = self.turns.get_mut(&Reverse(consumer.spec.priority)) {
            turns.retain(|&other| other != index);
        }
    }

    /// Takes the consumer out; what it held must have been taken from it.
    pub(super) fn detach(&mut self, index: u32) {
        if self.all[index as usize].queued {
            self.leave_turns(index);
        }
        let consumer = &mut self.all[index as usize];
        assert_eq!(consumer.held_count, 0, "a consumer leaves nothing behind");
        consumer.attached = false;
        self.free.push(index);
        if self.active == Some(index) {
            self.active = None;
        }
        self.choose_active();
    }

    /// It takes nothing unasked any more, and does not count.
    pub(super) fn retire(&mut self, index: u32) {
        if self.all[index as usize].queued {
            self.leave_turns(index);
        }
        let consumer = &mut self.all[index as usize];
        consumer.passive = true;
        (consumer.spec.prefetch_count, consumer.spec.exclusive) = (0, false);
        if self.active == Some(index) {
            self.active = None;
            self.choose_active();
        }
    }

    /// The consumer's place, while it is attached.
    pub(super) fn find(&self, id: ConsumerId) -> Option<u32> {
        let consumer = self.all.get(id.index as usize)?;
        (consumer.attached && consumer.generation == id.generation).then_some(id.index)
    }

    pub(super) fn id(&self, index: u32) -> ConsumerId {
        ConsumerId { index, generation: self.all[index as usize].generation }
    }

    pub(super) fn get_mut(&mut self, index: u32) -> &mut Consumer {
        &mut self.all[index as usize]
    }

    /// Whose turn it is. It stays that until [`Consumers::given`].
    pub(super) fn next(&mut self) -> Option<u32> {
        let (all, may) = (&mut self.all, (self.single_active, self.active));
        for turns in self.turns.values_mut() {
            while let Some(&index) = turns.front() {
                let consumer = &mut all[index as usize];
                if consumer.has_room() && (!may.0 || may.1 == Some(index)) {
                    return Some(index);
                }
                consumer.queued = false;
                turns.pop_front();
            }
        }
        None
    }

    /// Notes that a message is with a consumer, which then is the last in turn.
    pub(super) fn given(&mut self, index: u32, bytes: u32) {
        let consumer = &mut self.all[index as usize];
        consumer.held_count += 1;
        consumer.held_bytes += u64::from(bytes);
        if consumer.queued
            && let Some(turns) = self.turns.get_mut(&Reverse(consumer.spec.priority))
            && turns.front() == Some(&index)
        {
            turns.pop_front();
            consumer.queued = false;
            self.offer(index);
        }
    }

    /// Notes that a message is no more with a consumer.
    pub(super) fn taken(&mut self, index: u32, bytes: u32) {
        let consumer = &mut self.all[index as usize];
        consumer.held_count -= 1;
        consumer.held_bytes -= u64::from(bytes);
        self.offer(index);
    }

    /// Changes how much a consumer may hold.
    pub(super) fn set_prefetch(&mut self, index: u32, count: u32, bytes: u64) {
        let spec = &mut self.all[index as usize].spec;
        (spec.prefetch_count, spec.prefetch_bytes) = (count, bytes);
        self.offer(index);
    }

    pub(super) fn len(&self) -> u32 {
        self.active().count() as u32
    }

    /// Those that are given messages unasked.
    fn active(&self) -> impl Iterator<Item = u32> + '_ {
        let counts = |consumer: &Consumer| consumer.attached && !consumer.passive;
        (0..self.all.len() as u32).filter(move |&index| counts(&self.all[index as usize]))
    }

    fn choose_active(&mut self) {
        if self.single_active && self.active.is_none() {
            self.active = self.active().min_by_key(|&index| {
                let consumer = &self.all[index as usize];
                (Reverse(consumer.spec.priority), consumer.order)
            });
            if let Some(active) = self.active {
                self.offer(active);
            }
        }
    }

    fn offer(&mut self, index: u32) {
        if self.single_active && self.active != Some(index) {
            return;
        }
        let consumer = &mut self.all[index as usize];
        if !consumer.queued && consumer.has_room() {
            consumer.queued = true;
            self.turns.entry(Reverse(consumer.spec.priority)).or_default().push_back(index);
        }
    }
}
