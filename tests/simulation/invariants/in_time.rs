//! A message is handed out not before its time, and ends by its age not before it is over: no node's clock
//! has shown the time yet then, so no leader can have seen it.

use plimsoll_delivery::command::{QueueCommand, Reason};

use super::worked::named;
use super::{Event, Invariant, Ledger};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct InTime;

impl Invariant for InTime {
    fn name(&self) -> &'static str {
        "in_time"
    }

    fn judge(&mut self, event: &Event<'_>, ledger: &Ledger) -> Result<(), String> {
        let now = ledger.latest_unix_ms;
        match event {
            Event::Delivered(delivered) => {
                let stored = ledger.queue(delivered.partition);
                let at = stored.and_then(|stored| stored.deliver_at.get(&delivered.offset));
                match at {
                    Some(at) if *at > now => Err(format!(
                        "{delivered:?} is to be delivered at {at}, and no clock shows more than {now}"
                    )),
                    _ => Ok(()),
                }
            }
            Event::Command { group, id, command } => {
                let Some(stored) = ledger.group(*group) else { return Ok(()) };
                let expired = match command {
                    QueueCommand::Drop { reason: Reason::Expired, .. } => named(command),
                    QueueCommand::DeadLetter { items } => items
                        .iter()
                        .filter(|item| item.reason == Reason::Expired)
                        .flat_map(|item| item.run.offsets().map(|offset| offset.0))
                        .collect(),
                    _ => return Ok(()),
                };
                let is_over =
                    |offset: &u64| stored.expires_at.get(offset).is_some_and(|at| *at <= now);
                match expired.iter().find(|offset| !is_over(offset)) {
                    None => Ok(()),
                    Some(offset) => Err(format!(
                        "entry {id} of group {group} ends message {offset} by its age: it expires at {:?}, \
                         and no clock shows more than {now}",
                        stored.expires_at.get(offset)
                    )),
                }
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_delivery::offsets::Run;
    use plimsoll_protocol::ids::Offset;

    use super::super::planted::*;
    use super::*;

    /// Message 1 is to be delivered at 100, message 2 expires at 100.
    fn ledger_at(now: i64) -> Ledger {
        let mut ledger = queue_ledger(3, &[]);
        ledger.latest_unix_ms = now;
        ledger.set_times(GROUP, 1, Some(100), None);
        ledger.set_times(GROUP, 2, None, Some(100));
        ledger
    }

    #[test]
    fn a_message_that_is_handed_out_before_its_time_is_seen() {
        let fine = [Event::Delivered(delivered(1, 0, 1)), Event::Delivered(delivered(1, 2, 1))];
        let early = Event::Delivered(delivered(1, 1, 1));
        assert_fires(InTime, &ledger_at(99), &fine, &early);
        InTime.judge(&early, &ledger_at(100)).unwrap();
    }

    #[test]
    fn a_message_that_ends_before_its_age_is_over_is_seen() {
        let runs = [Run::one(Offset(2))].into_iter().collect();
        let dropped = QueueCommand::Drop { runs, reason: Reason::Expired };
        for ends in [&dropped, &bury(2, Reason::Expired)] {
            let event = Event::Command { group: GROUP, id: id(1, 5), command: ends };
            assert_fires(InTime, &ledger_at(99), &[], &event);
            InTime.judge(&event, &ledger_at(100)).unwrap();
        }
        let ageless = bury(0, Reason::Expired);
        let ageless = Event::Command { group: GROUP, id: id(1, 5), command: &ageless };
        assert_fires(InTime, &ledger_at(1000), &[], &ageless);
    }
}
