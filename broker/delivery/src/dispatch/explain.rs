//! Why a message is not delivered. For people: it may look at everything.

use plimsoll_protocol::ids::Offset;

use super::Dispatcher;
use super::consumers::ConsumerId;
use super::slots::Stage;
use crate::command::Reason;
use crate::offsets::Run;
use crate::state::{Ended, QueueState};
use crate::time::{Monotonic, Now, UnixMs};

/// Where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Explanation {
    /// The log has no such message yet.
    Unknown,
    /// It is settled: accepted, or ended in another way longer ago than is remembered.
    Settled,
    /// It ended, and not by being accepted.
    Ended(Ended),
    /// It was given up and waits to be copied to where dead letters go.
    DeadLettered {
        /// Why.
        reason: Reason,
        /// How often it was delivered.
        attempts: u32,
    },
    /// A consumer has it.
    Held {
        /// Who.
        consumer: ConsumerId,
        /// In which attempt.
        attempt: u32,
        /// When its lease ends.
        until: Monotonic,
    },
    /// It is meant for a consumer, and the attempt is being written.
    Granting {
        /// For whom.
        consumer: ConsumerId,
    },
    /// What becomes of it is decided and being written.
    Ending,
    /// It waits for its time.
    Delayed {
        /// When that is.
        until: UnixMs,
        /// How often it was delivered.
        attempts: u32,
    },
    /// It waits for the message of its key that is before it.
    BehindKey {
        /// That message.
        of: Offset,
        /// Messages of its key between the two, as far as they are known to be before it.
        ahead: u64,
    },
    /// Its life is over; it ends when it comes to the head of its level.
    Expired,
    /// It is ready.
    Waiting {
        /// How many messages go first: of higher levels, and those before it. Messages that were not
        /// read yet count as ready.
        ahead: u64,
        /// Whether some consumer has room. If none goes first and this is false, it waits for that.
        consumer_has_room: bool,
    },
}

impl Dispatcher {
    /// Where the message at `offset` stands, and why.
    pub fn explain(&mut self, offset: Offset, state: &QueueState, now: Now) -> Explanation {
        if offset >= state.end() {
            return Explanation::Unknown;
        }
        if !state.is_unsettled(offset) {
            return state
                .ended(offset)
                .map_or(Explanation::Settled, |&end| Explanation::Ended(end));
        }
        let mark = state.mark(offset);
        if let Some(reason) = mark.buried {
            return Explanation::DeadLettered { reason, attempts: mark.attempts };
        }
        if self.loose.contains(offset) {
            return Explanation::Ending;
        }
        if let Some(index) = self.slots.find(offset) {
            return self.explain_loaded(index, now);
        }
        let is_scanned = !(self.scan..self.scan_end).contains(&offset);
        let due = if is_scanned { self.delayed.due(offset) } else { mark.delayed_until };
        if let Some(until) = due.filter(|&due| due > now.unix) {
            return Explanation::Delayed { until, attempts: mark.attempts };
        }
        if let Some((of, ahead)) = self.keys.find_parked(offset) {
            return Explanation::BehindKey { of, ahead };
        }
        let level = self.levels.iter().position(|level| level.backlog.contains(offset));
        let not_read =
            state.settled().unsettled_in(Run { from: self.scan, upto: self.scan_end.min(offset) });
        self.waiting(offset, level.unwrap_or(0), not_read)
    }

    fn explain_loaded(&mut self, index: u32, now: Now) -> Explanation {
        let slot = self.slots[index];
        match slot.stage {
            Stage::Held => Explanation::Held {
                consumer: self.consumers.id(slot.consumer),
                attempt: slot.attempts,
                until: self.leases.end(&self.slots, index),
            },
            Stage::Granting => Explanation::Granting { consumer: self.consumers.id(slot.consumer) },
            Stage::Ending | Stage::Free => Explanation::Ending,
            Stage::Ready | Stage::Blocked if slot.expires_at <= now.unix => Explanation::Expired,
            Stage::Blocked => {
                let key = slot.key.expect("only messages with a key wait for one");
                let of = self.keys.turn(key).expect("somebody has the turn");
                let before = |other: &u32| {
                    let other = &self.slots[*other];
                    other.stage == Stage::Blocked
                        && other.key == Some(key)
                        && other.offset < slot.offset
                };
                let ahead = self.slots.indices().filter(before).count() as u64;
                Explanation::BehindKey { of, ahead }
            }
            Stage::Ready => self.waiting(slot.offset, usize::from(slot.level), 0),
        }
    }

    fn waiting(&mut self, offset: Offset, level: usize, not_read: u64) -> Explanation {
        let higher = self.levels[level + 1..].iter();
        let higher: u64 = higher.map(|level| level.ready as u64 + level.backlog.len()).sum();
        let before = |index: &u32| {
            let slot = &self.slots[*index];
            slot.stage == Stage::Ready && usize::from(slot.level) == level && slot.offset < offset
        };
        let loaded = self.slots.indices().filter(before).count() as u64;
        let behind = self.levels[level].backlog.count_below(offset);
        let consumer_has_room = self.consumers.next().is_some();
        Explanation::Waiting { ahead: higher + loaded + behind + not_read, consumer_has_room }
    }
}
