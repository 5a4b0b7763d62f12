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
