//! Two entries with the same term and index are the same entry, in whichever logs and lives; and what
//! was committed at an index stays.

use std::collections::BTreeMap;

use plimsoll_protocol::ids::{GroupId, LogId};

use super::{Entry, Event, Invariant, Ledger};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct LogMatching {
    entries: BTreeMap<(GroupId, LogId), Entry>,
}

impl Invariant for LogMatching {
    fn name(&self) -> &'static str {
        "log_matching"
    }

    fn judge(&mut self, event: &Event<'_>, ledger: &Ledger) -> Result<(), String> {
        match event {
            Event::Stored { at, group, entry } => {
                let first = self.entries.entry((*group, entry.id));
                let first = first.or_insert_with(|| (*entry).clone());
                match first == *entry {
                    true => Ok(()),
                    false => Err(format!(
                        "{at:?} has {entry:?} in group {group}, where another log has {first:?}"
                    )),
                }
            }
            Event::Committed { at, group, entry } => {
                let committed = ledger.group(*group).and_then(|all| all.entry(entry.id.index.0));
                match committed {
                    Some(first) if first != *entry => Err(format!(
                        "{at:?} holds {entry:?} for committed in group {group}, where {first:?} is"
                    )),
                    _ => Ok(()),
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

    #[test]
    fn another_entry_with_the_same_id_and_one_that_replaces_a_committed_one_are_seen() {
        let first = entry(id(1, 1), 0, 2);
        let other = Entry { body_crc: 2, ..first.clone() };
        let later = entry(id(2, 1), 0, 2);
        let ledger = ledger(std::slice::from_ref(&first));
        let stored = |node, entry| Event::Stored { at: life(node, 1), group: GROUP, entry };
        let fine = [stored(1, &first), stored(2, &first), stored(3, &later)];
        assert_fires(LogMatching::default(), &ledger, &fine, &stored(3, &other));
        let committed = |entry| Event::Committed { at: life(2, 1), group: GROUP, entry };
        let fine = [committed(&first)];
        assert_fires(LogMatching::default(), &ledger, &fine, &committed(&later));
    }
}
