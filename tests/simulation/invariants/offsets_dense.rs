//! The offset of an entry is the number of records before it; entries follow each other without a gap.

use std::collections::BTreeMap;

use plimsoll_protocol::ids::{GroupId, LogId};

use super::{Event, Invariant, Ledger};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct OffsetsDense {
    /// The last committed entry of each group, and the offset after it.
    ends: BTreeMap<GroupId, (LogId, u64)>,
}

impl Invariant for OffsetsDense {
    fn name(&self) -> &'static str {
        "offsets_dense"
    }

    fn judge(&mut self, event: &Event<'_>, _ledger: &Ledger) -> Result<(), String> {
        let Event::FirstCommitted { group, entry } = event else { return Ok(()) };
        let end = entry.base_offset + u64::from(entry.record_count);
        let before = self.ends.insert(*group, (entry.id, end));
        let (index, offset, term) = match before {
            None => (entry.id.index.0, entry.base_offset, entry.id.term),
            Some((id, end)) => (id.index.0 + 1, end, id.term),
        };
        let fine = entry.id.index.0 == index
            && entry.base_offset == offset
            && entry.id.term >= term
            && (before.is_some() || entry.base_offset == 0);
        match fine {
            true => Ok(()),
            false => Err(format!("in group {group} {entry:?} follows {before:?}")),
        }
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
    fn gaps_in_offsets_and_indexes_are_seen() {
        let fine = [entry(id(1, 1), 0, 2), entry(id(1, 2), 2, 3), entry(id(2, 3), 5, 0)];
        let fine: Vec<_> = fine.iter().map(committed).collect();
        for broken in [entry(id(2, 4), 6, 1), entry(id(2, 5), 5, 1), entry(id(1, 4), 5, 1)] {
            let ledger = Ledger::default();
            assert_fires(OffsetsDense::default(), &ledger, &fine, &committed(&broken));
        }
    }
}
