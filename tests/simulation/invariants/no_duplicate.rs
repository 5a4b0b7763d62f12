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
