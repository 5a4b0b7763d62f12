//! What consumers say about what they hold, and how messages end otherwise.

use plimsoll_protocol::ids::Offset;
use thiserror::Error;

use super::Dispatcher;
use super::consumers::ConsumerId;
use super::keys::Next;
use super::slots::{Link, NONE, Stage};
use crate::command::{QueueCommand, Reason};
use crate::config::LEASE_MS_MAX;
use crate::offsets::{Run, Runs};
use crate::state::QueueState;
use crate::time::{Monotonic, Now};

/// What a consumer makes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Accept,
    /// Not done: again, after so many milliseconds; without, after the queue's backoff.
    Release {
        /// How long it waits.
        delay_ms: Option<u64>,
    },
    /// Never again: a dead letter, or dropped.
    Reject,
}

/// Why a consumer has no say about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SettleError {
    /// It does not hold it (any more): its lease is over, or it has settled it.
    #[error(
        "message {offset} is not held by this consumer: its lease ended, or it was settled before"
    )]
    NotHeld {
        /// Which message.
        offset: Offset,
    },
    /// It was given the message again since.
    #[error("message {offset} was delivered again since: attempt {current} counts, not {attempt}")]
    StaleAttempt {
        /// Which message.
        offset: Offset,
        /// The attempt that was named.
        attempt: u32,
        /// The attempt that counts.
        current: u32,
    },
}

impl Dispatcher {
    /// Takes what a consumer says. It is certain, and to be answered, once the entry with it is applied.
    ///
    /// # Errors
    /// When the consumer does not hold the message in this attempt.
    pub fn settle(
        &mut self,
        consumer: ConsumerId,
        offset: Offset,
        attempt: u32,
        outcome: Outcome,
        now: Now,
    ) -> Result<(), SettleError> {
        let index = self.held_by(consumer, offset, attempt)?;
        self.let_go(index);
        match outcome {
            Outcome::Accept => {
                self.begin_end(index);
                self.pending.settled(offset);
            }
            Outcome::Release { delay_ms } => self.fail(index, delay_ms, now),
            Outcome::Reject => self.end(index, Reason::Rejected),
        }
        Ok(())
    }

    /// Begins the lease anew: `lease_ms` from now, or the queue's length. Answers when it ends. Nothing
    /// is written: a new leader knows no leases.
    ///
    /// # Errors
    /// When the consumer does not hold the message in this attempt.
    pub fn extend(
        &mut self,
        consumer: ConsumerId,
        offset: Offset,
        attempt: u32,
        lease_ms: Option<u32>,
        now: Now,
    ) -> Result<Monotonic, SettleError> {
        let index = self.held_by(consumer, offset, attempt)?;
        self.leases.cancel(&mut self.slots, index);
        let lease_ms = lease_ms.unwrap_or(self.config.lease_ms).min(LEASE_MS_MAX);
        let until = now.monotonic.plus(lease_ms.into());
        self.leases.begin(&mut self.slots, index, until);
        Ok(until)
    }

    /// A dead letter's copy is committed where dead letters go.
    pub fn copied(&mut self, offset: Offset) {
        if self.buried.contains(offset) {
            self.pending.settled(offset);
        }
    }

    /// Ends a message that nobody holds. Answers whether it did: not when it is held, settled, unknown,
    /// a dead letter, or being ended.
    pub fn cancel(&mut self, offset: Offset, state: &QueueState) -> bool {
        if !state.is_unsettled(offset) || self.buried.contains(offset) {
            return false;
        }
        let Some(index) = self.slots.find(offset) else {
            if !self.loose.insert(offset) {
                return false;
            }
            self.forget_unloaded(offset);
            self.pending.others.push(QueueCommand::Cancel { offset });
            return true;
        };
        match self.slots[index].stage {
            Stage::Ready => self.leave_ready(index),
            // It stays behind the others of its key until its end is written: should the leader die
            // before, it is there again, and must not have been overtaken.
            Stage::Blocked => {}
            _ => return false,
        }
        self.begin_end(index);
        self.pending.others.push(QueueCommand::Cancel { offset });
        true
    }

    /// Ends everything that nobody holds; answers how much, by what is known.
    pub fn purge(&mut self) -> u64 {
        let goes = self.len();
        let mut held = Vec::new();
        let mut turns = Vec::new();
        for index in self.slots.indices().collect::<Vec<_>>() {
            match self.slots[index].stage {
                Stage::Ready => self.leave_ready(index),
                Stage::Blocked => self.leave_key(index),
                _ => {
                    let slot = self.slots[index];
                    held.push(Run::one(slot.offset));
                    match slot.key {
                        Some(_) if slot.waits => self.leave_key(index),
                        Some(key) => turns.push((key, slot.offset)),
                        None => {}
                    }
                    continue;
                }
            }
            self.begin_end(index);
        }
        for level in &mut self.levels {
            level.backlog = crate::offsets::OffsetSet::new();
        }
        self.delayed.clear();
        self.keys.clear();
        turns.iter().for_each(|&(key, offset)| {
            self.keys.ask(key, offset);
        });
        (self.scan, self.scan_end) = (self.end, self.end);
        let held = Runs::from_unsorted(held);
        self.pending.others.push(QueueCommand::Purge { upto: self.end, held });
        goes
    }

    fn held_by(
        &self,
        consumer: ConsumerId,
        offset: Offset,
        attempt: u32,
    ) -> Result<u32, SettleError> {
        let index = self.slots.find(offset).ok_or(SettleError::NotHeld { offset })?;
        let slot = &self.slots[index];
        let here =
            slot.stage == Stage::Held && self.consumers.find(consumer) == Some(slot.consumer);
        match here {
            true if slot.attempts == attempt => Ok(index),
            true => Err(SettleError::StaleAttempt { offset, attempt, current: slot.attempts }),
            false => Err(SettleError::NotHeld { offset }),
        }
    }

    /// Takes a message from its consumer; the caller says at once what it is then.
    pub(super) fn let_go(&mut self, index: u32) {
        let slot = &self.slots[index];
        let (place, bytes, stage) = (slot.consumer, slot.bytes, slot.stage);
        if stage == Stage::Held {
            self.leases.cancel(&mut self.slots, index);
        }
        let held = &mut self.consumers.get_mut(place).held;
        self.slots.unlink(held, Link::Consumer, index);
        self.consumers.taken(place, bytes);
        self.slots[index].consumer = NONE;
        self.held -= 1;
    }

    /// An attempt failed: the message is given up, waits, or is ready again. Without a delay of its own
    /// it waits as the queue's backoff says.
    pub(super) fn fail(&mut self, index: u32, delay_ms: Option<u64>, now: Now) {
        let (offset, attempts) = (self.slots[index].offset, self.slots[index].attempts);
        let max = self.config.attempts_max;
        if max > 0 && attempts >= max {
            return self.end(index, Reason::AttemptsExhausted);
        }
        match delay_ms.unwrap_or_else(|| self.config.backoff_ms(attempts)) {
            0 => {
                self.pending.released(offset, attempts, None);
                self.make_ready(index);
            }
            delay => {
                self.pending.released(offset, attempts, Some(now.unix.plus(delay)));
                self.begin_end(index);
            }
        }
    }

    /// Ends a message that is ready.
    pub(super) fn end_waiting(&mut self, index: u32, reason: Reason) {
        self.leave_ready(index);
        self.end(index, reason);
    }

    /// Decides that a loaded message ends: as a dead letter where the queue has a place for them.
    pub(super) fn end(&mut self, index: u32, reason: Reason) {
        self.begin_end(index);
        let (offset, attempts) = (self.slots[index].offset, self.slots[index].attempts);
        self.pending.ended(offset, attempts, reason, self.config.dead_letter.is_some());
    }

    /// The same for one that is not loaded.
    pub(super) fn drop_unloaded(&mut self, offset: Offset, reason: Reason) {
        if self.loose.insert(offset) {
            self.forget_unloaded(offset);
            let copies = reason != Reason::Lost && self.config.dead_letter.is_some();
            self.pending.ended(offset, 0, reason, copies);
        }
    }

    fn forget_unloaded(&mut self, offset: Offset) {
        // A queue with keys finds out when it reads the message, and passes the turn on then.
        if !self.keyed() {
            self.levels.iter_mut().for_each(|level| {
                level.backlog.remove(offset);
            });
        }
    }

    fn begin_end(&mut self, index: u32) {
        self.slots[index].stage = Stage::Ending;
        self.ending += 1;
    }

    pub(super) fn leave_key(&mut self, index: u32) {
        let key = self.slots[index].key.expect("only messages with a key wait for one");
        self.keys.leave(&mut self.slots, key, index);
    }

    /// The message that had the turn of this key has ended.
    pub(super) fn pass_turn(&mut self, key: u64, offset: Offset) {
        match self.keys.pass(&mut self.slots, key, offset) {
            Next::Nobody => {}
            Next::Loaded(index) if self.slots[index].stage == Stage::Ending => {}
            Next::Loaded(index) => self.make_ready(index),
            Next::Parked(offset) => {
                self.levels[0].backlog.insert(offset);
            }
        }
    }
}
