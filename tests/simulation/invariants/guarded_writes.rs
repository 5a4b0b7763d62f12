//! Where a lock guards the topic, nothing that is sent under a token after a client was told of a higher one is ever
//! in the log.

use std::collections::BTreeMap;

use super::{Event, Invariant, Ledger};
use crate::history::RecordName;
use crate::judged::Round;
use crate::lock::LockNews;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct GuardedWrites {
    /// The highest token that a client was told of, of locks that guard.
    told: BTreeMap<Round, u64>,
    /// Records that were sent too late: under which lock, and which token was known.
    late: BTreeMap<RecordName, (Round, u64)>,
}

impl Invariant for GuardedWrites {
    fn name(&self) -> &'static str {
        "guarded_writes"
    }

    fn judge(&mut self, event: &Event<'_>, _ledger: &Ledger) -> Result<(), String> {
        match *event {
            Event::Lock { news: LockNews::Granted { lock, token, guards: true, .. }, .. } => {
                let told = self.told.entry(lock).or_insert(token);
                *told = token.max(*told);
                Ok(())
            }
            Event::Lock { news: LockNews::Writing { record, lock, token }, .. } => {
                let known = self.told.get(&lock).copied().filter(|told| token < *told);
                self.late.extend(known.map(|known| (record, (lock, known))));
                Ok(())
            }
            Event::FencedWrite { offset, record, .. } => match self.late.get(&record) {
                None => Ok(()),
                Some((lock, known)) => Err(format!(
                    "{record:?} under lock {lock} is at offset {offset}, and was sent after the higher token \
                     {known} was told of"
                )),
            },
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::*;
    use super::*;

    #[test]
    fn a_write_of_a_former_holder_is_seen_before_the_first_of_the_next_one() {
        let fine = [granted(1, 5, 0, 2), writing(1, 5), stored(1), writing(2, 5), stored(2)];
        let next = [granted(2, 9, 0, 4), writing(3, 5)];
        let fine: Vec<_> = fine.into_iter().chain(next).collect();
        assert_fires(GuardedWrites::default(), &Ledger::default(), &fine, &stored(3));
    }

    #[test]
    fn what_was_sent_before_the_next_one_was_told_may_come_behind_it() {
        let mut rule = GuardedWrites::default();
        let fine = [granted(1, 5, 0, 2), writing(1, 5), granted(2, 9, 0, 4), stored(1)];
        fine.iter().for_each(|event| rule.judge(event, &Ledger::default()).unwrap());
    }
}
