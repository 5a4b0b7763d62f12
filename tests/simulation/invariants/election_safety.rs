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

#[cfg(test)]
mod tests {
    use super::super::planted::*;
    use super::*;

    #[test]
    fn two_leaders_in_a_term_are_seen() {
        let leads = |at, term| Event::Leads {
            at,
            group: GROUP,
            term: Term(term),
            last: None,
            term_at_committed: None,
        };
        let fine = [leads(life(1, 1), 1), leads(life(1, 1), 1), leads(life(2, 1), 2)];
        let rules = ElectionSafety::default;
        assert_fires(rules(), &Ledger::default(), &fine, &leads(life(3, 1), 2));
        // Another life of the same node is another leader: it does not know what the first promised.
        assert_fires(rules(), &Ledger::default(), &fine, &leads(life(2, 2), 2));
    }
}
