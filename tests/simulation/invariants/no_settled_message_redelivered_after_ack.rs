//! What a consumer was told of a message that it accepted or rejected is committed by then; from then on
//! nobody hands the message out, and no leader decides anything of it.
//!
//! When a delivery began is not seen from outside. It certainly began after the answer if the consumer
//! itself did, or if it counts a later attempt; of a leader who was deposed and does not know it, neither
//! says anything. So a delivery breaks the rule if it is of that kind, and nobody who led in an earlier
//! term than that of the settlement may have made it.

use std::collections::BTreeMap;

use plimsoll_delivery::command::QueueCommand;
use plimsoll_protocol::ids::Term;

use super::leaderships::Leaderships;
use super::worked::named;
use super::{Event, Invariant, Ledger};
use crate::history::Partition;
use crate::messages::{Delivered, Receiver, Saying};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct NoSettledMessageRedeliveredAfterAck {
    leaderships: Leaderships,
    /// When each consumer began.
    receivers: BTreeMap<Receiver, u64>,
    /// The first answer that ended each message.
    answered: BTreeMap<(Partition, u64), Answered>,
}

#[derive(Debug)]
struct Answered {
    at: u64,
    attempt: u32,
    /// Of the entry that ended it.
    term: Term,
}

impl Invariant for NoSettledMessageRedeliveredAfterAck {
    fn name(&self) -> &'static str {
        "no_settled_message_redelivered_after_ack"
    }

    fn judge(&mut self, event: &Event<'_>, ledger: &Ledger) -> Result<(), String> {
        self.leaderships.note(event);
        match event {
            Event::ReceiverBegins(receiver) => {
                self.receivers.insert(*receiver, self.leaderships.now());
            }
            Event::SayingStored(delivered, Saying::Accept | Saying::Reject) => {
                return self.answer(delivered, ledger);
            }
            Event::Delivered(delivered) => return self.delivery(delivered, ledger),
            Event::Command { group, id, command } => {
                let Some(worked) = ledger.group(*group).map(|committed| &committed.worked) else {
                    return Ok(());
                };
                let copied = matches!(command, QueueCommand::Settle { .. });
                for offset in named(command) {
                    let ended = match copied {
                        // A dead letter is given up first, and settled when its copy is stored.
                        true => worked.ended.get(&offset).copied(),
                        false => worked.over(offset),
                    };
                    if let Some(ended) = ended {
                        return Err(format!(
                            "entry {id} of group {group} says {command:?}, and message {offset} was \
                             ended by {ended}"
                        ));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl NoSettledMessageRedeliveredAfterAck {
    fn answer(&mut self, delivered: &Delivered, ledger: &Ledger) -> Result<(), String> {
        let worked = ledger.queue(delivered.partition).map(|committed| &committed.worked);
        let Some(ended) = worked.and_then(|worked| worked.over(delivered.offset)) else {
            return Err(format!("a settlement was answered and is not committed: {delivered:?}"));
        };
        let (at, attempt) = (self.leaderships.now(), delivered.attempt);
        let place = (delivered.partition, delivered.offset);
        self.answered.entry(place).or_insert(Answered { at, attempt, term: ended.term });
        Ok(())
    }

    fn delivery(&self, delivered: &Delivered, ledger: &Ledger) -> Result<(), String> {
        let place = (delivered.partition, delivered.offset);
        let (Some(answered), Some(began), Some(group)) = (
            self.answered.get(&place),
            self.receivers.get(&delivered.to),
            ledger.queue.get(&delivered.partition),
        ) else {
            return Ok(());
        };
        let is_later = *began > answered.at || delivered.attempt > answered.attempt;
        let is_excused = || {
            let mut terms = self.leaderships.terms_since(*group, *began);
            terms.any(|term| term < answered.term)
        };
        match is_later && !is_excused() {
            true => Err(format!("{delivered:?} was settled before: {answered:?}")),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::*;
    use super::*;

    #[test]
    fn an_answer_without_a_committed_settlement_is_seen() {
        let ledger = queue_ledger(3, &[(id(1, 5), settle([0]))]);
        let stored = |offset| Event::SayingStored(delivered(1, offset, 1), Saying::Accept);
        let broken = NoSettledMessageRedeliveredAfterAck::default();
        assert_fires(broken, &ledger, &[stored(0)], &stored(1));
    }

    #[test]
    fn a_delivery_after_the_answer_is_seen() {
        let ledger = queue_ledger(3, &[(id(1, 5), settle([0]))]);
        let fine = [
            leads(1, 1),
            Event::ReceiverBegins(1),
            Event::Delivered(delivered(1, 0, 2)),
            Event::SayingStored(delivered(1, 0, 2), Saying::Accept),
            // It was on its way.
            Event::Delivered(delivered(1, 0, 1)),
        ];
        let later = Event::Delivered(delivered(1, 0, 3));
        assert_fires(NoSettledMessageRedeliveredAfterAck::default(), &ledger, &fine, &later);
        let fine: Vec<_> = fine.into_iter().chain([Event::ReceiverBegins(2)]).collect();
        let again = Event::Delivered(delivered(2, 0, 1));
        assert_fires(NoSettledMessageRedeliveredAfterAck::default(), &ledger, &fine, &again);
    }

    #[test]
    fn a_deposed_leader_may_not_know() {
        let ledger = queue_ledger(3, &[(id(2, 5), settle([0]))]);
        let again = |to| Event::Delivered(delivered(to, 0, 1));
        let fine = [
            leads(1, 1),
            leads(2, 2),
            Event::ReceiverBegins(1),
            Event::SayingStored(delivered(1, 0, 1), Saying::Accept),
            Event::ReceiverBegins(2),
            again(2),
            leads_no_more(1),
            again(2),
            Event::ReceiverBegins(3),
        ];
        assert_fires(NoSettledMessageRedeliveredAfterAck::default(), &ledger, &fine, &again(3));
    }

    #[test]
    fn a_decision_on_a_settled_message_is_seen() {
        let ledger = queue_ledger(3, &[(id(1, 5), settle([0]))]);
        let (fine, broken) = (settle([1]), acquire(0, 1));
        let command = |command| Event::Command { group: GROUP, id: id(2, 9), command };
        let rule = NoSettledMessageRedeliveredAfterAck::default();
        assert_fires(rule, &ledger, &[command(&fine)], &command(&broken));
    }
}
