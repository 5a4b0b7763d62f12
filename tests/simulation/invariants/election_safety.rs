//! At most one process leads a group in a term, ever.

use std::collections::BTreeMap;

use plimsoll_protocol::ids::{GroupId, Term};

use super::{Event, Invariant, Ledger, Life};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ElectionSafety {
    leaders: BTreeMap<(GroupId, Term), Life>,
}

impl Invariant for ElectionSafety {
    fn name(&self) -> &'static str {
        "election_safety"
    }

    fn judge(&mut self, event: &Event<'_>, _ledger: &Ledger) -> Result<(), String> {
        let Event::Leads { at, group, term, .. } = event else { return Ok(()) };
        let first = *self.leaders.entry((*group, *term)).or_insert(*at);
        if first == *at {
            return Ok(());
        }
        Err(format!("{at:?} leads group {group} in term {term}, in which {first:?} led it"))
    }
}
