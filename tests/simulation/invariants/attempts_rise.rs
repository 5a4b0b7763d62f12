//! Attempts count from 1, and what is written of them never falls. One leader gives each number of a
//! message once, and to one consumer in rising order; where attempts are written before a message is
//! handed out, the number that is handed out is written.

use std::collections::{BTreeMap, BTreeSet};

use plimsoll_delivery::command::QueueCommand;
use plimsoll_protocol::ids::{GroupId, Term};

use super::leaderships::Leaderships;
use super::{Event, Invariant, Ledger};
use crate::messages::{Delivered, Receiver, Saying};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct AttemptsRise {
    leaderships: Leaderships,
    receivers: BTreeMap<Receiver, Began>,
    given: BTreeMap<Era, BTreeSet<(u64, u32)>>,
    /// The last attempt of a message that a consumer was given.
    last: BTreeMap<(Receiver, GroupId, u64), u32>,
}

/// One leader's task: the only one in its term since so many had begun.
type Era = (GroupId, Term, u64);

#[derive(Debug)]
struct Began {
    at: u64,
    /// How many tasks had begun in each group by then.
    begun: BTreeMap<GroupId, u64>,
}

impl Invariant for AttemptsRise {
    fn name(&self) -> &'static str {
        "attempts_rise"
    }

    fn judge(&mut self, event: &Event<'_>, ledger: &Ledger) -> Result<(), String> {
        self.leaderships.note(event);
        match event {
            Event::ReceiverBegins(receiver) => {
                let begun =
                    |group: &GroupId| ledger.group(*group).map(|it| (*group, it.worked.begun));
                let begun = ledger.queue.values().filter_map(begun).collect();
                let began = Began { at: self.leaderships.now(), begun };
                self.receivers.insert(*receiver, began);
                Ok(())
            }
            Event::Delivered(delivered) => self.delivery(delivered, ledger),
            Event::SayingStored(delivered, Saying::Release) => {
                let worked = ledger.queue(delivered.partition).map(|committed| &committed.worked);
                let is_noted = worked.is_some_and(|worked| {
                    let noted = worked.attempts.get(&delivered.offset);
                    noted >= Some(&delivered.attempt) || worked.over(delivered.offset).is_some()
                });
                match is_noted {
                    true => Ok(()),
                    false => Err(format!("given back, answered and not committed: {delivered:?}")),
                }
            }
            Event::Command { group, id, command } => {
                let Some(committed) = ledger.group(*group) else { return Ok(()) };
                let noted = |offset| committed.worked.attempts.get(&offset).copied().unwrap_or(0);
                let falls = match command {
                    QueueCommand::Acquire { items } => items.iter().any(|item| {
                        item.run.offsets().any(|offset| item.attempt <= noted(offset.0))
                    }),
                    QueueCommand::Release { items } => {
                        items.iter().any(|item| item.attempt < noted(item.offset.0))
                    }
                    QueueCommand::DeadLetter { items } => items.iter().any(|item| {
                        item.run.offsets().any(|offset| item.attempts < noted(offset.0))
                    }),
                    _ => false,
                };
                match falls {
                    true => Err(format!("entry {id} of group {group} says {command:?}: it fell")),
                    false => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

impl AttemptsRise {
    fn delivery(&mut self, delivered: &Delivered, ledger: &Ledger) -> Result<(), String> {
        let (offset, attempt) = (delivered.offset, delivered.attempt);
        let Some(committed) = ledger.queue(delivered.partition) else { return Ok(()) };
        let worked = &committed.worked;
        let is_noted = worked.attempts.get(&offset) >= Some(&attempt);
        if attempt == 0 || worked.counts_before() && !is_noted {
            return Err(format!("{delivered:?}, and that attempt is not written"));
        }
        let (Some(era), Some(group)) =
            (self.era(delivered, ledger), ledger.queue.get(&delivered.partition))
        else {
            return Ok(());
        };
        if !self.given.entry(era).or_default().insert((offset, attempt)) {
            return Err(format!("{delivered:?}, and it was given in that attempt before"));
        }
        let last = self.last.insert((delivered.to, *group, offset), attempt);
        match last {
            Some(last) if last >= attempt => Err(format!("{delivered:?} comes after {last}")),
            _ => Ok(()),
        }
    }

    /// Which leader's task made a delivery, where only one can have.
    fn era(&self, delivered: &Delivered, ledger: &Ledger) -> Option<Era> {
        let group = *ledger.queue.get(&delivered.partition)?;
        let began = self.receivers.get(&delivered.to)?;
        let begun = ledger.group(group)?.worked.begun;
        let mut terms = self.leaderships.terms_since(group, began.at);
        let term = terms.next()?;
        let is_alone = terms.next().is_none() && began.begun.get(&group) == Some(&begun);
        is_alone.then_some((group, term, begun))
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::*;
    use super::*;

    #[test]
    fn an_attempt_that_is_given_twice_by_one_leader_is_seen() {
        let ledger = queue_ledger(3, &[(id(1, 5), acquire(0, 2))]);
        let given = |to, attempt| Event::Delivered(delivered(to, 0, attempt));
        let fine = [
            leads(1, 1),
            Event::ReceiverBegins(1),
            Event::ReceiverBegins(2),
            given(1, 1),
            given(2, 2),
            given(1, 3),
        ];
        assert_fires(AttemptsRise::default(), &ledger, &fine, &given(1, 2));
        assert_fires(AttemptsRise::default(), &ledger, &fine, &given(2, 3));
        assert_fires(AttemptsRise::default(), &ledger, &fine, &given(2, 0));
        let other = [leads_no_more(1), leads(2, 2), Event::ReceiverBegins(3), given(3, 3)];
        let fine: Vec<_> = fine.into_iter().chain(other).collect();
        assert_fires(AttemptsRise::default(), &ledger, &fine, &given(3, 3));
    }

    #[test]
    fn an_entry_that_counts_less_is_seen() {
        let ledger = queue_ledger(3, &[(id(1, 5), acquire(0, 2))]);
        let (fine, same, back) = (acquire(0, 3), acquire(0, 2), release(0, 1));
        let command = |command| Event::Command { group: GROUP, id: id(2, 9), command };
        assert_fires(AttemptsRise::default(), &ledger, &[command(&fine)], &command(&same));
        assert_fires(AttemptsRise::default(), &ledger, &[command(&fine)], &command(&back));
    }

    #[test]
    fn a_release_that_is_answered_and_not_committed_is_seen() {
        let ledger = queue_ledger(3, &[(id(1, 5), release(0, 2))]);
        let stored = |attempt| Event::SayingStored(delivered(1, 0, attempt), Saying::Release);
        assert_fires(AttemptsRise::default(), &ledger, &[stored(2)], &stored(3));
    }
}
