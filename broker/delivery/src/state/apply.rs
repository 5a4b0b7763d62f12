//! The fold of one command.

use plimsoll_protocol::ids::Offset;

use super::{Ended, Mark, QueueState};
use crate::command::{Acquired, Buried, QueueCommand, Reason, Released};
use crate::offsets::{Run, Runs};
use crate::time::UnixMs;

/// What became of an entry's messages. Refusals are answers, not errors: an entry is committed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// For how many messages the command did what it says.
    pub accepted: u64,
    /// Those for which it did not, with the reason. Empty, and then not allocated, as a rule.
    pub refused: Vec<Refused>,
}

/// Messages for which a command did nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Which.
    pub run: Run,
    /// Why.
    pub why: Refusal,
}

/// Why a command did nothing for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It was settled before.
    AlreadySettled,
    /// The log has no such message, or the partition no such queue.
    Unknown,
    /// It was delivered again since.
    StaleAttempt {
        /// The attempt that counts.
        current: u32,
    },
    /// It was given up before.
    DeadLettered,
}

impl Answer {
    pub(super) fn refuse(&mut self, run: Run, why: Refusal) {
        self.refused.push(Refused { run, why });
    }
}

impl QueueState {
    /// Folds one command; `at` is the leader's time in the entry. [`QueueCommand::Open`] and
    /// [`QueueCommand::Close`] are the business of [`super::Queues`] and, here, change nothing but
    /// the configuration.
    pub fn apply(&mut self, command: &QueueCommand, at: UnixMs, answer: &mut Answer) {
        match command {
            QueueCommand::Settle { runs } => self.end_runs(runs, None, at, answer),
            QueueCommand::Acquire { items } => {
                items.iter().for_each(|item| self.acquire(item, answer));
            }
            QueueCommand::Release { items } => {
                items.iter().for_each(|item| self.release(item, answer));
            }
            QueueCommand::DeadLetter { items } => {
                items.iter().for_each(|item| self.bury(item, at, answer));
            }
            QueueCommand::Drop { reason, runs } => self.end_runs(runs, Some(*reason), at, answer),
            QueueCommand::Cancel { offset } => {
                let one = Runs::from_iter([*offset]);
                self.end_runs(&one, Some(Reason::Cancelled), at, answer);
            }
            QueueCommand::Purge { upto, held } => self.purge(*upto, held, at, answer),
            QueueCommand::Configure { config } | QueueCommand::Open { config, .. } => {
                self.config = (**config).clone();
                answer.accepted += 1;
            }
            QueueCommand::Close => {}
        }
    }

    fn end_runs(&mut self, runs: &Runs, reason: Option<Reason>, at: UnixMs, answer: &mut Answer) {
        for run in runs.iter() {
            for part in self.existing_parts(run, answer) {
                self.end_part(part, reason, at);
                answer.accepted += part.len();
            }
        }
    }

    /// Settles messages of which none is settled.
    fn end_part(&mut self, part: Run, reason: Option<Reason>, at: UnixMs) {
        let before = self.unsettled();
        let attempts = self.marks.get(&part.from).map_or(0, |mark| mark.attempts);
        let new = self.settled.settle(part);
        assert_eq!(new, part.len(), "a part has no settled message");
        let freed = u128::from(self.bytes) * u128::from(new) / u128::from(before);
        self.bytes -= u64::try_from(freed).expect("a share is not more than the whole");
        while !self.marks.is_empty()
            && let Some((&offset, _)) = self.marks.range(part.from..part.upto).next()
        {
            self.marks.remove(&offset);
        }
        if let Some(reason) = reason {
            self.history.push(Ended { run: part, reason, attempts, at });
        }
    }

    fn acquire(&mut self, item: &Acquired, answer: &mut Answer) {
        for offset in self.existing_parts(item.run, answer).iter().flat_map(Run::offsets) {
            let mark = self.marks.entry(offset).or_default();
            let refusal = match mark {
                Mark { buried: Some(_), .. } => Refusal::DeadLettered,
                Mark { attempts, .. } if *attempts >= item.attempt => {
                    Refusal::StaleAttempt { current: *attempts }
                }
                _ => {
                    *mark = Mark { attempts: item.attempt, ..Mark::default() };
                    answer.accepted += 1;
                    continue;
                }
            };
            self.forget_if_empty(offset);
            answer.refuse(Run::one(offset), refusal);
        }
    }

    fn release(&mut self, item: &Released, answer: &mut Answer) {
        let one = Run::one(item.offset);
        if self.existing_parts(one, answer).is_empty() {
            return;
        }
        let mark = self.marks.entry(item.offset).or_default();
        if mark.buried.is_some() {
            return answer.refuse(one, Refusal::DeadLettered);
        }
        if mark.attempts > item.attempt {
            return answer.refuse(one, Refusal::StaleAttempt { current: mark.attempts });
        }
        mark.attempts = item.attempt;
        mark.delayed_until = item.delayed_until;
        answer.accepted += 1;
        self.forget_if_empty(item.offset);
    }

    fn bury(&mut self, item: &Buried, at: UnixMs, answer: &mut Answer) {
        for part in self.existing_parts(item.run, answer) {
            for offset in part.offsets() {
                let mark = self.marks.entry(offset).or_default();
                if mark.buried.is_some() {
                    answer.refuse(Run::one(offset), Refusal::DeadLettered);
                    continue;
                }
                let attempts = mark.attempts.max(item.attempts);
                *mark = Mark { attempts, delayed_until: None, buried: Some(item.reason) };
                answer.accepted += 1;
                let run = Run::one(offset);
                self.history.push(Ended { run, reason: item.reason, attempts, at });
            }
        }
    }

    fn purge(&mut self, upto: Offset, held: &Runs, at: UnixMs, answer: &mut Answer) {
        let buried = self.buried().map(|(offset, ..)| Run::one(offset));
        let stays: Runs = held.iter().chain(buried).collect();
        let upto = upto.min(self.end);
        let mut from = self.floor();
        for stay in stays.iter().chain([Run { from: upto, upto }]) {
            let goes = Run { from, upto: stay.from.min(upto) };
            for part in self.unsettled_parts(goes) {
                self.end_part(part, Some(Reason::Purged), at);
                answer.accepted += part.len();
            }
            from = from.max(stay.upto);
        }
    }

    /// The parts of `run` that exist and are not settled; the rest is refused.
    fn existing_parts(&self, run: Run, answer: &mut Answer) -> Vec<Run> {
        let parts = self.unsettled_parts(run);
        let mut at = run.from;
        let end = Run { from: run.upto.min(self.end), upto: run.upto };
        for part in parts.iter().chain([&end]) {
            if at < part.from {
                answer.refuse(Run { from: at, upto: part.from }, Refusal::AlreadySettled);
            }
            at = at.max(part.upto);
        }
        if !end.is_empty() {
            let unknown = Run { from: end.from.max(run.from), upto: run.upto };
            answer.refuse(unknown, Refusal::Unknown);
        }
        parts
    }

    fn forget_if_empty(&mut self, offset: Offset) {
        if self.marks.get(&offset) == Some(&Mark::default()) {
            self.marks.remove(&offset);
        }
    }
}
