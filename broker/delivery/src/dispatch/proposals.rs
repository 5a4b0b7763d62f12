//! What is to be written into the log, and what follows once it is.

use plimsoll_protocol::ids::Offset;

use super::slots::Stage;
use super::{DeadLetterOrder, Dispatcher};
use crate::command::{Acquired, Buried, QueueCommand, QueueEntry, Released};
use crate::config::Counting;
use crate::offsets::Run;
use crate::state::QueueState;
use crate::time::{Monotonic, Now};

/// How long an attempt waits for an entry that is written anyway, in milliseconds, where attempts are
/// counted behind.
pub(super) const ATTEMPTS_WAIT_MS: u64 = 50;

impl Dispatcher {
    /// The next control entry to propose, if there is something to write. One at a time: while it is
    /// being written the next one gathers. It is carried out only when it is committed and
    /// [`Dispatcher::applied`].
    pub fn propose(&mut self, now: Now) -> Option<QueueEntry> {
        let counting = self.config.counting;
        let attempts_due = match (self.attempts_deadline(), counting) {
            (None, _) => false,
            (Some(_), Counting::Before) => true,
            (Some(deadline), Counting::Behind) => deadline <= now.monotonic,
        };
        if !attempts_due && !self.pending.has_decisions() {
            return None;
        }
        let wanted = match counting {
            Counting::Before => Stage::Granting,
            Counting::Behind => Stage::Held,
        };
        let slots = &self.slots;
        self.pending.take(self.subscription, |offset, attempt| {
            slots.find(offset).is_some_and(|index| {
                slots[index].stage == wanted && slots[index].attempts == attempt
            })
        })
    }

    /// When attempts that wait for an entry must be written without one.
    pub(super) fn attempts_deadline(&self) -> Option<Monotonic> {
        self.pending.acquired_since().map(|since| since.plus(ATTEMPTS_WAIT_MS))
    }

    /// The proposed entry certainly did not enter the log and this node still leads: it is given by
    /// [`Dispatcher::propose`] again, before anything else.
    pub fn refused(&mut self, entry: QueueEntry) {
        self.pending.push_again(entry);
    }

    /// A proposed entry is committed, and `state` has folded it.
    pub fn applied(&mut self, entry: &QueueEntry, state: &QueueState, now: Now) {
        for command in &entry.commands {
            match command {
                QueueCommand::Settle { runs } | QueueCommand::Drop { runs, .. } => {
                    runs.iter().for_each(|run| self.ended_run(run));
                }
                QueueCommand::Acquire { items } => {
                    items.iter().for_each(|item| self.acquired(item, now));
                }
                QueueCommand::Release { items } => {
                    items.iter().for_each(|item| self.released(item));
                }
                QueueCommand::DeadLetter { items } => {
                    items.iter().for_each(|item| self.buried(item, state));
                }
                QueueCommand::Cancel { offset } => self.cancelled(*offset),
                QueueCommand::Purge { upto, .. } => {
                    let gone = |index: &u32| {
                        let slot = &self.slots[*index];
                        slot.offset < *upto
                            && slot.stage == Stage::Ending
                            && !state.is_unsettled(slot.offset)
                    };
                    let gone: Vec<_> = self.slots.indices().filter(gone).collect();
                    gone.into_iter().for_each(|index| self.finish(index));
                    self.loose.remove_below(*upto);
                }
                QueueCommand::Configure { .. }
                | QueueCommand::Open { .. }
                | QueueCommand::Close => {}
            }
        }
        // The fold may be ahead of what was told: what it has more is told later, and counted then.
        let untold = state.end().0.saturating_sub(self.end.0);
        let unfolded = self.end.0.saturating_sub(state.end().0);
        self.unsettled = (state.unsettled() + unfolded).saturating_sub(untold);
        if self.unsettled == 0 {
            self.mean_scaled = 0;
        }
    }

    fn ended_run(&mut self, run: Run) {
        self.loose.remove_run(run);
        if !self.buried.is_empty() {
            self.buried.remove_run(run);
        }
        run.offsets().for_each(|offset| self.finish_decided(offset));
    }

    /// Ends a message whose end was decided here.
    fn finish_decided(&mut self, offset: Offset) {
        if let Some(index) = self.slots.find(offset)
            && self.slots[index].stage == Stage::Ending
        {
            self.finish(index);
        }
    }

    fn cancelled(&mut self, offset: Offset) {
        self.ended_run(Run::one(offset));
        // One that waited after a failure was not loaded, and had the turn of its key.
        if self.keyed()
            && let Some(key) = self.keys.find_turn(offset)
        {
            self.pass_turn(key, offset);
        }
    }

    fn acquired(&mut self, item: &Acquired, now: Now) {
        for offset in item.run.offsets() {
            if let Some(index) = self.slots.find(offset)
                && self.slots[index].stage == Stage::Granting
                && self.slots[index].attempts == item.attempt
            {
                self.grant(index, now);
            }
        }
    }

    /// A message that waits from now on is not kept loaded; its key's turn stays with it.
    fn released(&mut self, item: &Released) {
        let Some(due) = item.delayed_until else { return };
        if let Some(index) = self.slots.find(item.offset)
            && self.slots[index].stage == Stage::Ending
            && self.slots[index].attempts == item.attempt
        {
            self.delayed.push(due, item.offset, self.slots[index].level);
            self.ending -= 1;
            self.slots.free(index);
        }
    }

    fn buried(&mut self, item: &Buried, state: &QueueState) {
        for offset in item.run.offsets() {
            self.loose.remove(offset);
            self.finish_decided(offset);
            // The fold has the last word: somebody may have ended it before.
            let mark = state.mark(offset);
            if let Some(reason) = mark.buried
                && self.buried.insert(offset)
            {
                self.orders.push_back(DeadLetterOrder { offset, attempts: mark.attempts, reason });
            }
        }
    }

    /// A message is gone: its slot is free, and the turn of its key passes on.
    fn finish(&mut self, index: u32) {
        let slot = &self.slots[index];
        assert_eq!(slot.stage, Stage::Ending, "message {} was being ended", slot.offset);
        let (key, offset) = (slot.key, slot.offset);
        if slot.waits {
            self.leave_key(index);
        }
        self.ending -= 1;
        self.slots.free(index);
        if let Some(key) = key {
            self.pass_turn(key, offset);
        }
    }
}
