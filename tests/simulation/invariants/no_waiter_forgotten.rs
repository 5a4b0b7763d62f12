//! Nobody waits for a lock that nobody holds: who gives it up hands it over in the same entry.

use super::{Event, Invariant, Ledger};
use crate::lock::LockNews;

/// See the module.
#[derive(Debug)]
pub(super) struct NoWaiterForgotten;

impl Invariant for NoWaiterForgotten {
    fn name(&self) -> &'static str {
        "no_waiter_forgotten"
    }

    fn judge(&mut self, event: &Event<'_>, _ledger: &Ledger) -> Result<(), String> {
        match *event {
            Event::Lock { news: LockNews::Shown { lock, holders: 0, waiters }, .. }
                if waiters > 0 =>
            {
                Err(format!("nobody holds lock {lock}, and {waiters} wait for it"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::*;
    use super::*;

    fn shown(holders: usize, waiters: usize) -> Event<'static> {
        Event::Lock { at_ms: 0, news: LockNews::Shown { lock: LOCK, holders, waiters } }
    }

    #[test]
    fn who_waits_for_a_free_lock_is_seen() {
        let fine = [shown(0, 0), shown(1, 0), shown(1, 3)];
        assert_fires(NoWaiterForgotten, &Ledger::default(), &fine, &shown(0, 1));
    }
}
