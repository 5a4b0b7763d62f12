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
