//! What a client was told to be stored is committed, at the offset that it was told; and what a
//! consumer gets at an offset is what is committed there.

use super::{Event, Invariant, Ledger};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct NoAckedRecordLost;

impl Invariant for NoAckedRecordLost {
    fn name(&self) -> &'static str {
        "no_acked_record_lost"
    }

    fn judge(&mut self, event: &Event<'_>, ledger: &Ledger) -> Result<(), String> {
        match event {
            Event::Acked { record, partition, offset } => {
                let stored = ledger.partition(*partition);
                let stored = stored.and_then(|committed| committed.offsets.get(record));
                let fine = stored.is_some_and(|stored| {
                    !stored.is_empty() && offset.is_none_or(|offset| stored.contains(&offset))
                });
                match fine {
                    true => Ok(()),
                    false => Err(format!(
                        "{record:?} was acknowledged at offset {offset:?} of partition {partition}; \
                         it is committed at {stored:?}"
                    )),
                }
            }
            Event::Seen(seen) => {
                let committed = ledger.partition(seen.partition);
                let at = usize::try_from(seen.offset).unwrap_or(usize::MAX);
                let stored = committed.and_then(|committed| committed.records.get(at));
                match stored == Some(&seen.record) {
                    true => Ok(()),
                    false => Err(format!("{seen:?}, and {stored:?} is committed there")),
                }
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::*;
    use super::*;
    use crate::history::Seen;

    #[test]
    fn an_acknowledgement_of_what_is_not_there_is_seen() {
        let ledger = ledger(&[entry(id(1, 1), 0, 2)]);
        let acked = |number, offset| Event::Acked { record: name(number), partition: 0, offset };
        let fine = [acked(0, Some(0)), acked(1, None)];
        assert_fires(NoAckedRecordLost, &ledger, &fine, &acked(1, Some(0)));
        assert_fires(NoAckedRecordLost, &ledger, &fine, &acked(2, None));
    }

    #[test]
    fn a_consumer_that_gets_what_is_not_committed_is_seen() {
        let ledger = ledger(&[entry(id(1, 1), 0, 2)]);
        let seen = |offset, number| {
            Event::Seen(Seen { consumer: (0, 1), partition: 0, offset, record: name(number) })
        };
        assert_fires(NoAckedRecordLost, &ledger, &[seen(1, 1)], &seen(0, 1));
        assert_fires(NoAckedRecordLost, &ledger, &[seen(1, 1)], &seen(2, 2));
    }
}
