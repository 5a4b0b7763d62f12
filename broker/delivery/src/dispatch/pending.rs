//! What is decided and not yet proposed: it gathers while an entry is being written, so that entries
//! grow with the load and their number does not.

use std::collections::VecDeque;

use plimsoll_protocol::ids::Offset;

use crate::command::{
    Acquired, Buried, QueueCommand, QueueEntry, Reason, Released, SubscriptionId,
};
use crate::offsets::{Run, Runs};
use crate::time::{Monotonic, UnixMs};

/// What gathers for the next entry.
#[derive(Debug, Default)]
pub(super) struct Pending {
    acquired: Vec<(Offset, u32)>,
    /// Since when something is in `acquired`.
    acquired_since: Option<Monotonic>,
    released: Vec<Released>,
    settled: Vec<Run>,
    buried: Vec<Buried>,
    dropped: Vec<(Reason, Run)>,
    pub(super) others: Vec<QueueCommand>,
    /// Entries that did not enter the log.
    again: VecDeque<QueueEntry>,
}

impl Pending {
    pub(super) fn acquired(&mut self, offset: Offset, attempt: u32, now: Monotonic) {
        self.acquired.push((offset, attempt));
        self.acquired_since.get_or_insert(now);
    }

    pub(super) fn released(&mut self, offset: Offset, attempt: u32, delayed_until: Option<UnixMs>) {
        self.released.push(Released { offset, attempt, delayed_until });
    }

    pub(super) fn settled(&mut self, offset: Offset) {
        let one = Run::one(offset);
        match self.settled.last_mut() {
            Some(last) if last.upto == offset => last.upto = one.upto,
            _ => self.settled.push(one),
        }
    }

    /// Notes the end of a message; `copies`: where dead letters have a place, those that did not end on
    /// purpose go there.
    pub(super) fn ended(&mut self, offset: Offset, attempts: u32, reason: Reason, copies: bool) {
        let run = Run::one(offset);
        if copies {
            self.buried.push(Buried { run, attempts, reason });
        } else {
            self.dropped.push((reason, run));
        }
    }

    pub(super) fn push_again(&mut self, entry: QueueEntry) {
        self.again.push_front(entry);
    }

    /// Since when there are attempts that no entry has carried.
    pub(super) fn acquired_since(&self) -> Option<Monotonic> {
        self.acquired_since
    }

    /// Whether something waits besides attempts.
    pub(super) fn has_decisions(&self) -> bool {
        let nothing = self.released.is_empty()
            && self.settled.is_empty()
            && self.buried.is_empty()
            && self.dropped.is_empty()
            && self.others.is_empty()
            && self.again.is_empty();
        !nothing
    }

    /// Makes an entry of all that gathered; `counts` says which attempts must still be written.
    pub(super) fn take(
        &mut self,
        subscription: SubscriptionId,
        counts: impl Fn(Offset, u32) -> bool,
    ) -> Option<QueueEntry> {
        if let Some(entry) = self.again.pop_front() {
            return Some(entry);
        }
        let mut commands = Vec::new();
        // The order matters where a message is in two lists: released in one attempt, acquired in the next.
        self.released.sort_unstable_by_key(|item| (item.offset, item.attempt));
        self.released.dedup_by(|next, last| {
            let same = next.offset == last.offset;
            if same {
                *last = *next;
            }
            same
        });
        if !self.released.is_empty() {
            commands.push(QueueCommand::Release { items: std::mem::take(&mut self.released) });
        }
        self.acquired_since = None;
        let items = acquired_runs(&mut self.acquired, counts);
        if !items.is_empty() {
            commands.push(QueueCommand::Acquire { items });
        }
        if !self.settled.is_empty() {
            let runs = Runs::from_unsorted(std::mem::take(&mut self.settled));
            commands.push(QueueCommand::Settle { runs });
        }
        if !self.buried.is_empty() {
            let mut items = std::mem::take(&mut self.buried);
            items.sort_unstable_by_key(|item| item.run);
            commands.push(QueueCommand::DeadLetter { items });
        }
        self.dropped.sort_unstable();
        for same in self.dropped.chunk_by(|a, b| a.0 == b.0) {
            let runs = same.iter().map(|&(_, run)| run).collect();
            commands.push(QueueCommand::Drop { reason: same[0].0, runs });
        }
        self.dropped.clear();
        commands.append(&mut self.others);
        (!commands.is_empty()).then_some(QueueEntry { subscription, commands })
    }
}

/// Drains the list into runs of the same attempt.
fn acquired_runs(
    list: &mut Vec<(Offset, u32)>,
    counts: impl Fn(Offset, u32) -> bool,
) -> Vec<Acquired> {
    list.retain(|&(offset, attempt)| counts(offset, attempt));
    list.sort_unstable();
    let mut items: Vec<Acquired> = Vec::new();
    for (offset, attempt) in list.drain(..) {
        let run = Run::one(offset);
        match items.last_mut() {
            Some(last) if last.run.upto == offset && last.attempt == attempt => {
                last.run.upto = run.upto;
            }
            _ => items.push(Acquired { run, attempt }),
        }
    }
    items
}
