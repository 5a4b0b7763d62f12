//! No message is lost, and none invented: what a consumer is given is what lies at that offset; a message
//! ends only because a consumer said so, or because its attempts are used up, and as a dead letter only
//! when its copy is stored; and when everything is well again, whatever had not ended could be received.

use std::collections::BTreeSet;

use plimsoll_delivery::command::{Buried, QueueCommand, Reason};
use plimsoll_protocol::ids::GroupId;

use super::worked::named;
use super::{Committed, Event, Invariant, Ledger};
use crate::history::{Partition, RecordName};
use crate::messages::Saying;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct EveryMessageSettledOrAvailable {
    accepted: BTreeSet<(Partition, u64)>,
    rejected: BTreeSet<(Partition, u64)>,
}

impl Invariant for EveryMessageSettledOrAvailable {
    fn name(&self) -> &'static str {
        "every_message_settled_or_available"
    }

    fn judge(&mut self, event: &Event<'_>, ledger: &Ledger) -> Result<(), String> {
        match event {
            Event::MessageAcked { message, partition, offset } => {
                let stored = ledger.queue(*partition);
                let offsets = stored.and_then(|committed| committed.offsets.get(message));
                let fine = offsets.is_some_and(|offsets| {
                    offset.map_or(!offsets.is_empty(), |offset| offsets.contains(&offset))
                });
                match fine {
                    true => Ok(()),
                    false => Err(format!(
                        "{message:?} was acknowledged at offset {offset:?} of partition {partition}; \
                         it is committed at {offsets:?}"
                    )),
                }
            }
            Event::Delivered(delivered) => {
                let stored = ledger.queue(delivered.partition);
                let stored = stored.and_then(|committed| record(committed, delivered.offset));
                match stored == Some(delivered.message) {
                    true => Ok(()),
                    false => Err(format!("{delivered:?}, and {stored:?} is committed there")),
                }
            }
            Event::Said(delivered, saying) => {
                let place = (delivered.partition, delivered.offset);
                let said = match saying {
                    Saying::Accept => &mut self.accepted,
                    Saying::Reject => &mut self.rejected,
                    Saying::Release => return Ok(()),
                };
                said.insert(place);
                Ok(())
            }
            Event::Command { group, id, command } => {
                let judged = self.command(*group, command, ledger);
                judged.map_err(|broken| format!("entry {id} of group {group}: {broken}"))
            }
            Event::Drained => drained(ledger),
            _ => Ok(()),
        }
    }
}

impl EveryMessageSettledOrAvailable {
    fn command(
        &self,
        group: GroupId,
        command: &QueueCommand,
        ledger: &Ledger,
    ) -> Result<(), String> {
        let Some(partition) = ledger.queue_partition(group) else { return Ok(()) };
        let Some(committed) = ledger.group(group) else { return Ok(()) };
        for offset in named(command) {
            if record(committed, offset).is_none() {
                return Err(format!("{command:?}, and there is no message {offset}"));
            }
        }
        let is_said = |said: &BTreeSet<_>, offset| said.contains(&(partition, offset));
        match command {
            QueueCommand::Settle { .. } => {
                let lost = named(command).into_iter().find(|offset| {
                    !is_said(&self.accepted, *offset) && !is_copied(committed, *offset, ledger)
                });
                lost.map_or(Ok(()), |lost| {
                    Err(format!("message {lost} is settled, and nobody accepted it"))
                })
            }
            QueueCommand::DeadLetter { items } => {
                let attempts_max = committed.worked.attempts_max();
                let has_reason = |item: &&Buried| match item.reason {
                    Reason::Rejected => {
                        item.run.offsets().all(|offset| is_said(&self.rejected, offset.0))
                    }
                    Reason::AttemptsExhausted => attempts_max > 0 && item.attempts >= attempts_max,
                    // When is judged elsewhere.
                    Reason::Expired => {
                        item.run.offsets().all(|at| committed.expires_at.contains_key(&at.0))
                    }
                    _ => false,
                };
                let wrong = items.iter().find(|item| !has_reason(item));
                wrong.map_or(Ok(()), |wrong| Err(format!("given up without a reason: {wrong:?}")))
            }
            QueueCommand::Drop { reason, .. } => {
                let is_wanted = |offset| match reason {
                    Reason::Rejected => is_said(&self.rejected, offset),
                    Reason::Expired => committed.expires_at.contains_key(&offset),
                    _ => false,
                };
                match named(command).into_iter().all(is_wanted) {
                    true => Ok(()),
                    false => Err(format!("messages are dropped without a reason: {command:?}")),
                }
            }
            QueueCommand::Cancel { .. } | QueueCommand::Purge { .. } | QueueCommand::Close => {
                Err(format!("nobody asked for {command:?}"))
            }
            QueueCommand::Acquire { .. }
            | QueueCommand::Release { .. }
            | QueueCommand::Configure { .. }
            | QueueCommand::Open { .. } => Ok(()),
        }
    }
}

fn record(committed: &Committed, offset: u64) -> Option<RecordName> {
    committed.records.get(usize::try_from(offset).ok()?).copied()
}

/// Whether a message was given up, and lies where dead letters go.
fn is_copied(committed: &Committed, offset: u64, ledger: &Ledger) -> bool {
    let letters = ledger.letters.and_then(|letters| ledger.group(letters));
    let copies = || letters?.offsets.get(&record(committed, offset)?);
    committed.worked.buried.contains_key(&offset) && copies().is_some()
}

/// The last consumer has taken everything, and says that nothing is left.
fn drained(ledger: &Ledger) -> Result<(), String> {
    for (partition, group) in &ledger.queue {
        let Some(committed) = ledger.group(*group) else { continue };
        let all = 0..committed.records.len() as u64;
        let left: Vec<_> =
            all.filter(|offset| !committed.worked.ended.contains_key(offset)).collect();
        if let Some(first) = left.first() {
            let (at, until) = (committed.deliver_at.get(first), committed.expires_at.get(first));
            let (worked, now) = (&committed.worked, ledger.latest_unix_ms);
            let (buried, attempts) = (worked.buried.get(first), worked.attempts.get(first));
            return Err(format!(
                "messages {left:?} of partition {partition} cannot be received; {first} is to be delivered \
                 at {at:?}, until {until:?}, given up {buried:?}, attempts {attempts:?}; it is {now}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::planted::*;
    use super::*;

    fn command(command: &QueueCommand) -> Event<'_> {
        Event::Command { group: GROUP, id: id(2, 9), command }
    }

    fn rule() -> EveryMessageSettledOrAvailable {
        EveryMessageSettledOrAvailable::default()
    }

    #[test]
    fn a_message_that_is_not_where_it_was_acknowledged_is_seen() {
        let ledger = queue_ledger(2, &[]);
        let acked =
            |number, offset| Event::MessageAcked { message: name(number), partition: 0, offset };
        assert_fires(rule(), &ledger, &[acked(1, Some(1)), acked(0, None)], &acked(0, Some(1)));
        assert_fires(rule(), &ledger, &[], &acked(2, None));
    }

    #[test]
    fn a_message_that_was_never_sent_is_seen() {
        let ledger = queue_ledger(2, &[]);
        let fine = Event::Delivered(delivered(1, 1, 1));
        assert_fires(rule(), &ledger, &[fine], &Event::Delivered(delivered(1, 2, 1)));
    }

    #[test]
    fn a_settlement_that_nobody_asked_for_is_seen() {
        let ledger = queue_ledger(3, &[]);
        let fine = [Event::Said(delivered(1, 0, 1), Saying::Accept)];
        let released = [Event::Said(delivered(1, 1, 1), Saying::Release)];
        let both: Vec<_> = fine.into_iter().chain(released).collect();
        assert_fires(rule(), &ledger, &both, &command(&settle([0, 1])));
        assert_fires(rule(), &ledger, &both, &command(&settle([7])));
    }

    #[test]
    fn a_dead_letter_without_a_reason_or_a_copy_is_seen() {
        let given_up = bury(1, Reason::Rejected);
        let ledger = queue_ledger(3, &[(id(1, 5), given_up.clone())]);
        let fine = [Event::Said(delivered(1, 1, 1), Saying::Reject), command(&given_up)];
        assert_fires(rule(), &ledger, &fine, &command(&settle([1])));
        assert_fires(rule(), &ledger, &[], &command(&given_up));
        assert_fires(rule(), &ledger, &[], &command(&bury(1, Reason::AttemptsExhausted)));
        assert_fires(rule(), &ledger, &fine, &command(&bury(1, Reason::Expired)));
    }

    #[test]
    fn a_message_that_is_left_when_nothing_can_be_received_is_seen() {
        let all = queue_ledger(2, &[(id(1, 5), settle([0, 1]))]);
        rule().judge(&Event::Drained, &all).unwrap();
        let some = queue_ledger(2, &[(id(1, 5), settle([0]))]);
        assert_fires(rule(), &some, &[], &Event::Drained);
    }
}
