//! Records come in: as they are committed, or read again from the log.
//!
//! A queue of one level is known in the order of its offsets: a window of ready messages is loaded, and
//! what is behind it stays in the log, unread (`scan..scan_end`), at no cost. A queue of several
//! levels must know the level of each message, so all are looked at once: those beyond the windows are
//! one bit per level and offset, and are read again when their turn comes. A new leader looks at the
//! unsettled part of the log once; the two kinds of reads take turns, and what is known is delivered
//! meanwhile, so neither the old messages nor those of high levels starve; new ones are known at once.

use plimsoll_protocol::ids::Offset;
use thiserror::Error;

use super::Dispatcher;
use super::slots::Stage;
use crate::command::Reason;
use crate::config::Overflow;
use crate::state::QueueState;
use crate::time::{Now, UnixMs};

/// What the dispatcher must know of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Its offset, below 2^56.
    pub offset: Offset,
    /// A hash of its group key, or of its key; none when it has neither. Seeded by the node, so that
    /// nobody chooses collisions.
    pub key: Option<u64>,
    /// Larger is sooner; cut to the queue's levels.
    pub priority: u8,
    /// Not to be delivered before.
    pub deliver_at: Option<UnixMs>,
    /// Not to be delivered after.
    pub expires_at: Option<UnixMs>,
    /// When the leader took it: the `append_time_ms` of its entry.
    pub appended_at: UnixMs,
    /// Its size, for prefetch by bytes.
    pub bytes: u32,
}

/// What to read from the log: from `from` on, in order, no further than `upto`. Each record read is told
/// by [`Dispatcher::read`], and so may be those that lie in the same batch. As few as one are enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// The first offset.
    pub from: Offset,
    /// The offset after the last one.
    pub upto: Offset,
}

/// Why a queue takes no more messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Full {
    /// As many messages as it may have.
    #[error("the queue has {length} messages, {length_max} are allowed")]
    Length {
        /// How many it has.
        length: u64,
        /// How many are allowed.
        length_max: u64,
    },
    /// As many bytes.
    #[error("the queue has about {bytes} bytes, {bytes_max} are allowed")]
    Bytes {
        /// How many it has.
        bytes: u64,
        /// How many are allowed.
        bytes_max: u64,
    },
    /// As many delayed messages as the node keeps in memory.
    #[error("the queue has {delayed} delayed messages, as many as a node keeps")]
    Delayed {
        /// How many it has.
        delayed: usize,
    },
}

/// Bits behind the point of a mean size: what is cut off each time a message comes must not add up.
const MEAN_BITS: u32 = 24;

/// A size as means are kept.
pub(super) fn scaled(bytes: u64) -> u128 {
    u128::from(bytes) << MEAN_BITS
}

impl Dispatcher {
    /// Whether the queue takes messages, before they are proposed.
    ///
    /// # Errors
    /// When it is full, and refuses what comes then.
    pub fn admit(&self, has_delayed: bool) -> Result<(), Full> {
        let delayed = self.delayed.len();
        if has_delayed && delayed >= self.limits.delayed_max {
            return Err(Full::Delayed { delayed });
        }
        match (self.over_limit(1), self.config.overflow) {
            (Some(full), Overflow::Reject) => Err(full),
            _ => Ok(()),
        }
    }

    /// Whether the queue would be too long with `more` messages.
    pub(super) fn over_limit(&self, more: u64) -> Option<Full> {
        let length = self.len();
        let bytes = self.bytes_of(length);
        match (self.config.length_max, self.config.bytes_max) {
            (Some(length_max), _) if length + more > length_max => {
                Some(Full::Length { length, length_max })
            }
            (_, Some(bytes_max)) if self.bytes_of(length + more) > bytes_max => {
                Some(Full::Bytes { bytes, bytes_max })
            }
            _ => None,
        }
    }

    /// About how many bytes so many messages have.
    fn bytes_of(&self, messages: u64) -> u64 {
        u64::try_from((self.mean_scaled * u128::from(messages)) >> MEAN_BITS).unwrap_or(u64::MAX)
    }

    /// Tells of a committed record.
    ///
    /// # Panics
    /// When it is not the next one.
    pub fn appended(&mut self, message: &Message, now: Now) {
        assert_eq!(message.offset, self.end, "records are told in order, each once");
        let known = self.scan == self.scan_end;
        self.end = Offset(message.offset.0 + 1);
        self.unsettled += 1;
        if self.config.bytes_max.is_some() {
            let all = self.mean_scaled * u128::from(self.unsettled - 1);
            self.mean_scaled = (all + scaled(message.bytes.into())) / u128::from(self.unsettled);
        }
        if self.levels.len() > 1 {
            if known {
                (self.scan, self.scan_end) = (self.end, self.end);
            }
            self.place(message, 0, now);
        } else if known && self.may_load() {
            (self.scan, self.scan_end) = (self.end, self.end);
            self.place(message, 0, now);
        } else {
            if known {
                self.scan = message.offset;
            }
            self.scan_end = self.end;
        }
    }

    /// Tells of a record that was read from the log. Answers whether more of what was wanted is welcome;
    /// one that was not taken will be wanted again.
    pub fn read(&mut self, message: &Message, state: &QueueState, now: Now) -> bool {
        let offset = message.offset;
        if (self.scan..self.scan_end).contains(&offset)
            && state.settled().next_unsettled(self.scan) >= offset
        {
            if self.levels.len() == 1 && !self.may_load() {
                return false;
            }
            self.scan = Offset(offset.0 + 1);
            if self.mean_scaled == 0 && self.config.bytes_max.is_some() {
                // What was stored before the queue was first used has no size until it is read.
                self.mean_scaled = scaled(message.bytes.into());
            }
            let mark = state.mark(offset);
            if !state.is_unsettled(offset) || mark.buried.is_some() {
                return true;
            }
            if self.loose.contains(offset) {
                self.hold_turn(message);
            } else if let Some(due) = mark.delayed_until.filter(|&due| due > now.unix) {
                if self.hold_turn(message) {
                    self.delayed.push(due, offset, self.level_of(message));
                }
            } else {
                self.place(message, mark.attempts, now);
            }
            return true;
        }
        let level = self.level_of(message);
        let place = &mut self.levels[usize::from(level)];
        if place.backlog.first() == Some(offset) && place.ready < 2 * self.limits.window {
            place.backlog.remove(offset);
            if !state.is_unsettled(offset) {
                if let Some(key) = message.key.filter(|_| self.keyed()) {
                    self.pass_turn(key, offset);
                }
            } else if !self.loose.contains(offset) {
                self.load(message, level, state.mark(offset).attempts);
            }
            return true;
        }
        false
    }

    /// What to read next. Nothing is wanted while enough is loaded.
    pub fn wants(&mut self, state: &QueueState) -> Option<Want> {
        if self.scan < self.scan_end {
            self.scan = state.settled().next_unsettled(self.scan).min(self.scan_end);
        }
        let (scan, backlog) = (self.wanted_scan(), self.wanted_backlog());
        let want = if self.scan_is_next { scan.or(backlog) } else { backlog.or(scan) };
        self.scan_is_next = want != scan;
        want
    }

    fn wanted_scan(&self) -> Option<Want> {
        let wanted = self.scan < self.scan_end
            && (self.levels.len() > 1
                || self.may_load() && self.levels[0].ready <= self.limits.window / 2);
        wanted.then_some(Want { from: self.scan, upto: self.scan_end })
    }

    fn wanted_backlog(&mut self) -> Option<Want> {
        let window = self.limits.window;
        self.levels.iter_mut().rev().find_map(|level| {
            let from = level.backlog.first()?;
            let first = level.first(&self.slots).map(|index| self.slots[index].offset);
            let sooner = first.is_some_and(|first| level.reads_first(first, window));
            let wanted = level.ready <= window / 2 || sooner;
            wanted.then(|| Want { from, upto: level.backlog.next_absent(from) })
        })
    }

    /// The log begins at `start` now: what is below can be read no more. That is the end of what was
    /// not loaded; it is written as lost.
    pub fn log_starts_at(&mut self, start: Offset, state: &QueueState) {
        self.log_start = start;
        let mut at = state.floor();
        while at < start.min(self.end) {
            if self.slots.find(at).is_none() && !self.buried.contains(at) {
                self.drop_unloaded(at, Reason::Lost);
            }
            at = state.settled().next_unsettled(Offset(at.0 + 1));
        }
        self.scan = self.scan.max(start.min(self.scan_end));
        self.levels.iter_mut().for_each(|level| {
            level.backlog.remove_below(start);
        });
        for (key, turn) in self.keys.lose_below(start, &self.slots) {
            self.pass_turn(key, turn);
        }
    }

    /// A queue of one level loads as long as there is room for one more.
    fn may_load(&self) -> bool {
        self.levels[0].ready < self.limits.window && self.keys.parked < self.limits.parked_max
    }

    pub(super) fn level_of(&self, message: &Message) -> u8 {
        message.priority.min(self.config.levels - 1)
    }

    /// Puts a message where it belongs that was in no place yet.
    fn place(&mut self, message: &Message, attempts: u32, now: Now) {
        let level = self.level_of(message);
        match message.deliver_at {
            Some(due) if due > now.unix && attempts == 0 => {
                self.delayed.push(due, message.offset, level);
            }
            _ => {
                let place = &mut self.levels[usize::from(level)];
                let full = place.ready >= self.limits.window || !place.backlog.is_empty();
                if self.config.levels > 1 && full {
                    place.backlog.insert(message.offset);
                } else {
                    self.load(message, level, attempts);
                }
            }
        }
    }

    /// A message that is not delivered now keeps the others of its key behind it: it waits after a
    /// failure, or its end is decided and not written. Answers whether none is before it.
    fn hold_turn(&mut self, message: &Message) -> bool {
        let Some(key) = message.key.filter(|_| self.keyed()) else { return true };
        let first = self.keys.ask(key, message.offset);
        if !first {
            self.keys.park(key, message.offset);
        }
        first
    }

    /// Loads a message whose time has come.
    fn load(&mut self, message: &Message, level: u8, attempts: u32) {
        let (offset, end) = (message.offset, self.end_of_life(message));
        let key = message.key.filter(|_| self.keyed());
        let behind = key.filter(|key| !self.keys.ask(*key, offset));
        if let Some(key) = behind
            && self.keys.must_park(key, self.limits.waiting_max)
        {
            return self.keys.park(key, offset);
        }
        let index = self.slots.load(offset, key, level, message.bytes, end, attempts);
        match behind {
            Some(key) => {
                self.slots[index].stage = Stage::Blocked;
                self.keys.wait(&mut self.slots, key, index);
            }
            None => self.make_ready(index),
        }
    }
}
