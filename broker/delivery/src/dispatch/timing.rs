//! What time does: leases end, delays end, lives end, and a queue that is too long loses its head.

use plimsoll_protocol::ids::Offset;

use super::Dispatcher;
use crate::command::Reason;
use crate::config::Overflow;
use crate::state::QueueState;
use crate::time::{Monotonic, Now, UnixMs};

/// Most messages that one call deals with, of each kind: the caller has others to serve.
const STEP_MAX: usize = 10_000;

impl Dispatcher {
    /// Carries out what is due.
    pub fn advance(&mut self, state: &QueueState, now: Now) {
        self.unfinished = false;
        self.end_leases(now);
        self.end_delays(state, now);
        self.end_lives(now);
        self.drop_head();
    }

    /// When to call [`Dispatcher::advance`] and [`Dispatcher::propose`] again, if nothing else happens.
    pub fn next_deadline(&mut self, now: Now) -> Option<Monotonic> {
        if self.unfinished {
            return Some(now.monotonic);
        }
        let from_unix = |due: UnixMs| now.monotonic.plus(due.ms_from(now.unix));
        let slots = &self.slots;
        let life = self.levels.iter_mut().filter_map(|level| {
            let end = slots[level.first(slots)?].expires_at;
            (end.0 < i64::MAX).then(|| from_unix(end))
        });
        let life = life.min();
        let delay = self.delayed.first_due().map(from_unix);
        let attempts = self.attempts_deadline();
        [self.leases.first_end(), delay, life, attempts].into_iter().flatten().min()
    }

    fn end_leases(&mut self, now: Now) {
        self.leases.notice_stall(now.monotonic);
        for _ in 0..STEP_MAX {
            let Some(index) = self.leases.first_over(now.monotonic) else { return };
            self.let_go(index);
            self.fail(index, None, now);
        }
        self.unfinished = true;
    }

    /// What is due becomes ready in its level, to be loaded: at its place among the others.
    fn end_delays(&mut self, state: &QueueState, now: Now) {
        for _ in 0..STEP_MAX {
            let Some((offset, level)) = self.delayed.pop_due(now.unix) else { return };
            let ended = self.loose.contains(offset) || !state.is_unsettled(offset);
            if !ended && offset >= self.log_start {
                self.levels[usize::from(level)].backlog.insert(offset);
            }
        }
        self.unfinished = true;
    }

    /// Ends what is over at the head of each level: behind it, a life that is over is noticed when the
    /// message comes to the head, or would be delivered. So RabbitMQ does it.
    fn end_lives(&mut self, now: Now) {
        for level in 0..self.levels.len() {
            for step in 0.. {
                let Some(index) = self.levels[level].first(&self.slots) else { break };
                if self.slots[index].expires_at > now.unix {
                    break;
                }
                if step == STEP_MAX {
                    self.unfinished = true;
                    break;
                }
                self.end_waiting(index, Reason::Expired);
            }
        }
    }

    fn drop_head(&mut self) {
        if self.config.overflow != Overflow::DropHead {
            return;
        }
        for _ in 0..STEP_MAX {
            if self.over_limit(0).is_none() {
                return;
            }
            let head = self.levels.iter_mut().find_map(|level| {
                let loaded = level.first(&self.slots);
                let offset = loaded.map(|index| self.slots[index].offset);
                match (offset, level.backlog.first()) {
                    (Some(offset), Some(behind)) if behind < offset => Some(Head::Behind(behind)),
                    (None, Some(behind)) => Some(Head::Behind(behind)),
                    (_, _) => loaded.map(Head::Loaded),
                }
            });
            match head {
                Some(Head::Loaded(index)) => self.end_waiting(index, Reason::LengthExceeded),
                Some(Head::Behind(offset)) if !self.keyed() => {
                    self.drop_unloaded(offset, Reason::LengthExceeded);
                }
                // Read first; a queue whose messages all wait for their time drops none of them.
                _ => return,
            }
        }
        self.unfinished = true;
    }
}

/// The oldest ready message of the lowest level.
enum Head {
    Loaded(u32),
    Behind(Offset),
}
