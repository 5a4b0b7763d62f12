//! In a log the tokens of a lock's writes never go down.

use std::collections::BTreeMap;

use plimsoll_linearizability::invariants::{FencedWrite, fenced_writes};

use super::{Event, Invariant, Ledger};
use crate::history::{Partition, RecordName};
use crate::judged::Round;
use crate::lock::LockNews;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct FencedWrites {
    /// Under what records were sent.
    sent: BTreeMap<RecordName, (Round, u64)>,
    /// The last write under a lock in a log.
    last: BTreeMap<(Partition, Round), FencedWrite>,
}

impl Invariant for FencedWrites {
    fn name(&self) -> &'static str {
        "fenced_writes"
    }

    fn judge(&mut self, event: &Event<'_>, _ledger: &Ledger) -> Result<(), String> {
        match *event {
            Event::Lock { news: LockNews::Writing { record, lock, token }, .. } => {
                self.sent.insert(record, (lock, token));
                Ok(())
            }
            Event::FencedWrite { partition, offset, record } => {
                let Some((lock, token)) = self.sent.get(&record).copied() else {
                    return Err(format!("{record:?} is in the log, and nobody sent it"));
                };
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

    #[test]
    fn a_write_behind_one_with_a_higher_token_is_seen() {
        let fine = [writing(1, 5), writing(2, 9), writing(3, 5), stored(1), stored(2)];
        assert_fires(FencedWrites::default(), &Ledger::default(), &fine, &stored(3));
    }
}
