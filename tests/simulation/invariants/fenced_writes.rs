//! In a log the tokens of a lock's writes never go down; and where a lock guards the topic, nothing that is sent
//! under a token after a client was told of a higher one is ever in the log.

use std::collections::{BTreeMap, BTreeSet};

use plimsoll_linearizability::invariants::{FencedWrite, fenced_writes};

use super::{Event, Invariant, Ledger};
use crate::history::{Partition, RecordName};
use crate::judged::Round;
use crate::lock::LockNews;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct FencedWrites {
    /// The highest token that a client was told of, of locks that guard.
    told: BTreeMap<Round, u64>,
    /// Under what records were sent.
    sent: BTreeMap<RecordName, (Round, u64)>,
    /// Records that were sent too late.
    late: BTreeSet<RecordName>,
    /// The last write under a lock in a log.
    last: BTreeMap<(Partition, Round), FencedWrite>,
}

impl Invariant for FencedWrites {
    fn name(&self) -> &'static str {
        "fenced_writes"
    }

    fn judge(&mut self, event: &Event<'_>, _ledger: &Ledger) -> Result<(), String> {
        match *event {
            Event::Lock { news: LockNews::Granted { lock, token, guards: true, .. }, .. } => {
                let told = self.told.entry(lock).or_insert(token);
                *told = token.max(*told);
                Ok(())
            }
            Event::Lock { news: LockNews::Writing { record, lock, token }, .. } => {
                self.sent.insert(record, (lock, token));
                if self.told.get(&lock).is_some_and(|told| token < *told) {
                    self.late.insert(record);
                }
                Ok(())
            }
            Event::FencedWrite { partition, offset, record } => {
                let Some((lock, token)) = self.sent.get(&record).copied() else {
                    return Err(format!("{record:?} is in the log, and nobody sent it"));
                };
                if self.late.contains(&record) {
                    return Err(format!(
                        "{record:?} under token {token} of lock {lock} is at offset {offset}, and was sent \
                         after a higher token was granted"
                    ));
                }
                let write = FencedWrite { fence: lock.to_string(), token, position: offset };
                let last = self.last.insert((partition, lock), write.clone());
                let log = last.iter().chain([&write]);
                fenced_writes(log).map_err(|error| error.to_string())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::*;
    use super::*;

    fn writing(number: u64, token: u64) -> Event<'static> {
        let news = LockNews::Writing { record: name(number), lock: LOCK, token };
        Event::Lock { at_ms: 0, news }
    }

    fn stored(number: u64) -> Event<'static> {
        Event::FencedWrite { partition: 0, offset: number, record: name(number) }
    }

    #[test]
    fn a_write_of_a_former_holder_is_seen_before_the_first_of_the_next_one() {
        let fine = [granted(1, 5, 0, 2), writing(1, 5), stored(1), writing(2, 5), stored(2)];
        let next = [granted(2, 9, 0, 4), writing(3, 5)];
        let fine: Vec<_> = fine.into_iter().chain(next).collect();
        assert_fires(FencedWrites::default(), &Ledger::default(), &fine, &stored(3));
    }

    #[test]
    fn a_write_behind_one_with_a_higher_token_is_seen() {
        let fine = [writing(1, 5), writing(2, 9), writing(3, 5), stored(1), stored(2)];
        assert_fires(FencedWrites::default(), &Ledger::default(), &fine, &stored(3));
    }
}
