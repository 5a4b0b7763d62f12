//! Each sequence of a producer's life is stored once, and in order; so is each record.

use std::collections::BTreeMap;

use plimsoll_protocol::ids::{GroupId, ProducerId};

use super::{Event, Invariant, Ledger};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct NoDuplicate {
    /// The sequence that comes next, by group, producer and epoch.
    next: BTreeMap<(GroupId, u64, u32), u64>,
}

impl Invariant for NoDuplicate {
    fn name(&self) -> &'static str {
        "no_duplicate"
    }

    fn judge(&mut self, event: &Event<'_>, ledger: &Ledger) -> Result<(), String> {
        let Event::FirstCommitted { group, entry } = event else { return Ok(()) };
        if entry.record_count == 0 {
            return Ok(());
        }
        let (producer, epoch, sequence) = entry.producer;
        if producer != ProducerId::NONE.0 {
            let next = self.next.entry((*group, producer, epoch)).or_insert(0);
            if sequence != *next {
                return Err(format!(
                    "{entry:?} was committed in group {group}, where sequence {next} is next"
                ));
            }
            *next = sequence + u64::from(entry.record_count);
        }
        // A leader that dies may leave a dead letter twice.
        if ledger.letters == Some(*group) {
            return Ok(());
        }
        let Some(committed) = ledger.group(*group) else { return Ok(()) };
        let first = usize::try_from(entry.base_offset).unwrap_or(usize::MAX);
        for record in committed.records.iter().skip(first) {
            if let Some(offsets) = committed.offsets.get(record)
                && offsets.len() > 1
            {
                return Err(format!("{record:?} is stored at offsets {offsets:?} of {group}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Entry;
    use super::super::planted::*;
    use super::*;

    fn committed(entry: &Entry) -> Event<'_> {
        Event::FirstCommitted { group: GROUP, entry }
    }

    #[test]
    fn a_sequence_that_is_stored_again_or_left_out_is_seen() {
        let fine = [entry(id(1, 1), 0, 2), entry(id(1, 2), 2, 2)];
        let events: Vec<_> = fine.iter().map(committed).collect();
        for sequence in [2, 5] {
            let broken = Entry { producer: (7, 0, sequence), ..entry(id(1, 3), 4, 2) };
            let rules = NoDuplicate::default();
            assert_fires(rules, &Ledger::default(), &events, &committed(&broken));
        }
    }

    #[test]
    fn a_record_at_two_offsets_is_seen() {
        let twice = Entry { producer: (8, 0, 0), ..entry(id(1, 2), 1, 1) };
        let mut ledger = ledger(&[entry(id(1, 1), 0, 1), twice.clone()]);
        let committed = ledger.groups.get_mut(&GROUP).unwrap();
        committed.records[1] = name(0);
        committed.offsets.entry(name(0)).or_default().push(1);
        let broken = Event::FirstCommitted { group: GROUP, entry: &twice };
        assert_fires(NoDuplicate::default(), &ledger, &[], &broken);
    }
}
