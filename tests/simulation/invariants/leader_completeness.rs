//! Who leads has every entry that was committed before its term began.

use super::{Event, Invariant, Ledger};

/// See the module.
#[derive(Debug)]
pub(super) struct LeaderCompleteness;

impl Invariant for LeaderCompleteness {
    fn name(&self) -> &'static str {
        "leader_completeness"
    }

    fn judge(&mut self, event: &Event<'_>, ledger: &Ledger) -> Result<(), String> {
        let Event::Leads { at, group, term, last, term_at_committed } = event else {
            return Ok(());
        };
        let Some(committed) = ledger.group(*group).and_then(|all| all.last()) else {
            return Ok(());
        };
        // What was committed in its own term or a later one it need not have.
        if committed.id.term >= *term {
            return Ok(());
        }
        let has_it = last.is_some_and(|last| last.index >= committed.id.index)
            && term_at_committed.is_none_or(|term| term == committed.id.term);
        match has_it {
            true => Ok(()),
            false => Err(format!(
                "{at:?} leads group {group} in term {term} with a log that ends at {last:?}, and {} \
                 was committed before",
                committed.id
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_protocol::ids::{LogId, Term};

    use super::super::planted::*;
    use super::*;

    #[test]
    fn a_leader_without_a_committed_entry_is_seen() {
        let ledger = ledger(&[entry(id(1, 1), 0, 1), entry(id(1, 2), 1, 1)]);
        let leads = |term, last: LogId, at_committed| Event::Leads {
            at: life(1, 1),
            group: GROUP,
            term: Term(term),
            last: Some(last),
            term_at_committed: at_committed,
        };
        let fine = [leads(2, id(1, 2), Some(Term(1))), leads(1, id(1, 1), None)];
        assert_fires(LeaderCompleteness, &ledger, &fine, &leads(2, id(1, 1), None));
        assert_fires(LeaderCompleteness, &ledger, &fine, &leads(3, id(2, 2), Some(Term(2))));
    }
}
