//! Who gets what: the highest level that has something, its lowest offset, and the consumer whose turn
//! it is. Consumers come and go here too.

use plimsoll_protocol::ids::Offset;

use super::consumers::{AttachError, ConsumerId, ConsumerSpec};
use super::slots::{Link, NONE, Stage};
use super::{Dispatcher, Outcome};
use crate::command::Reason;
use crate::config::Counting;
use crate::time::{Monotonic, Now};

/// A message to hand to a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// Who gets it.
    pub consumer: ConsumerId,
    /// Which.
    pub offset: Offset,
    /// For the how manieth time, from 1; above 1 it is a redelivery.
    pub attempt: u32,
    /// When the consumer must have settled or extended it.
    pub until: Monotonic,
}

impl Dispatcher {
    /// Lets a consumer in.
    ///
    /// # Errors
    /// When it or another one must be alone.
    pub fn attach(&mut self, spec: ConsumerSpec) -> Result<ConsumerId, AttachError> {
        self.consumers.attach(spec)
    }

    /// A consumer is gone: what it held is ready again at once, with its attempt counted.
    pub fn detach(&mut self, consumer: ConsumerId, now: Now) {
        let Some(place) = self.consumers.find(consumer) else { return };
        loop {
            let index = self.consumers.get_mut(place).held.head;
            if index == NONE {
                break;
            }
            self.let_go(index);
            self.fail(index, Some(0), now);
        }
        self.consumers.detach(place);
    }

    /// A consumer takes no more and counts as none; what it holds it holds until it is settled, its lease is
    /// over, or the consumer is detached.
    pub fn retire(&mut self, consumer: ConsumerId) {
        if let Some(place) = self.consumers.find(consumer) {
            self.consumers.retire(place);
        }
    }

    /// Changes how much a consumer may hold.
    pub fn set_prefetch(&mut self, consumer: ConsumerId, count: u32, bytes: u64) {
        if let Some(place) = self.consumers.find(consumer) {
            self.consumers.set_prefetch(place, count, bytes);
        }
    }

    /// How many consumers there are.
    #[must_use]
    pub fn consumers(&self) -> u32 {
        self.consumers.len()
    }

    /// The next delivery, if a consumer has room and a message is ready.
    pub fn poll(&mut self, now: Now) -> Option<Delivery> {
        loop {
            while let Some(granted) = self.granted.pop_front() {
                if self.is_held(&granted) {
                    return Some(granted);
                }
            }
            if self.held >= self.limits.held_max {
                return None;
            }
            let consumer = self.consumers.next()?;
            let index = self.next_ready(now)?;
            let delivery = self.hand(index, consumer, now);
            if delivery.is_some() {
                return delivery;
            }
        }
    }

    /// The next message for a consumer that asks for one, whatever it holds and whose turn it is. With
    /// [`Counting::Before`] it comes by [`Dispatcher::poll`] later, and this answers nothing.
    pub fn pull(&mut self, consumer: ConsumerId, now: Now) -> Option<Delivery> {
        let place = self.consumers.find(consumer)?;
        if self.held >= self.limits.held_max {
            return None;
        }
        let index = self.next_ready(now)?;
        self.hand(index, place, now)
    }

    /// The message to deliver next. What has outlived its time on the way there is ended.
    pub(super) fn next_ready(&mut self, now: Now) -> Option<u32> {
        for level in (0..self.levels.len()).rev() {
            while let Some(index) = self.levels[level].first(&self.slots) {
                let slot = &self.slots[index];
                if self.levels[level].reads_first(slot.offset, self.limits.window) {
                    return None;
                }
                // Attempts of an earlier leader count: it may have died with the last one allowed.
                let max = self.config.attempts_max;
                let reason = match slot.expires_at > now.unix {
                    true if max == 0 || slot.attempts < max => return Some(index),
                    true => Reason::AttemptsExhausted,
                    false => Reason::Expired,
                };
                self.end_waiting(index, reason);
            }
            if !self.levels[level].backlog.is_empty() {
                // Strict: lower levels wait until what is ready here has been read.
                return None;
            }
        }
        None
    }

    fn hand(&mut self, index: u32, place: u32, now: Now) -> Option<Delivery> {
        self.leave_ready(index);
        let slot = &mut self.slots[index];
        slot.attempts += 1;
        slot.consumer = place;
        let (offset, attempt, bytes) = (slot.offset, slot.attempts, slot.bytes);
        self.consumers.given(place, bytes);
        let consumer = self.consumers.get_mut(place);
        let settles_itself = consumer.spec.settles_itself;
        self.slots.push_back(&mut consumer.held, Link::Consumer, index);
        self.held += 1;
        self.pending.acquired(offset, attempt, now.monotonic);
        if self.config.counting == Counting::Before && !settles_itself {
            self.slots[index].stage = Stage::Granting;
            return None;
        }
        let delivery = self.begin_lease(index, now);
        if settles_itself {
            self.settle(delivery.consumer, offset, attempt, Outcome::Accept, now)
                .expect("it was handed out just now");
        }
        Some(delivery)
    }

    /// The attempt of a message is written: now it is delivered.
    pub(super) fn grant(&mut self, index: u32, now: Now) {
        let delivery = self.begin_lease(index, now);
        self.granted.push_back(delivery);
    }

    fn begin_lease(&mut self, index: u32, now: Now) -> Delivery {
        let until = now.monotonic.plus(self.config.lease_ms.into());
        self.slots[index].stage = Stage::Held;
        self.leases.begin(&mut self.slots, index, until);
        let slot = &self.slots[index];
        let consumer = self.consumers.id(slot.consumer);
        Delivery { consumer, offset: slot.offset, attempt: slot.attempts, until }
    }

    fn is_held(&self, delivery: &Delivery) -> bool {
        let Some(index) = self.slots.find(delivery.offset) else { return false };
        let slot = &self.slots[index];
        slot.stage == Stage::Held
            && slot.attempts == delivery.attempt
            && slot.consumer == delivery.consumer.index
    }

    /// A ready message is ready no more; its place in the level is passed over from now on.
    pub(super) fn leave_ready(&mut self, index: u32) {
        let slot = &self.slots[index];
        assert_eq!(slot.stage, Stage::Ready, "message {} is ready", slot.offset);
        self.levels[usize::from(slot.level)].ready -= 1;
    }

    /// A loaded message may be delivered from now on.
    pub(super) fn make_ready(&mut self, index: u32) {
        self.slots[index].stage = Stage::Ready;
        let level = usize::from(self.slots[index].level);
        self.levels[level].push(&self.slots, index);
    }
}
