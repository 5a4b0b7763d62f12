//! No two clients hold a lock at once, each by its own clock. A client that was stopped holds it until its lease
//! ends, whatever it believes when it goes on; one from whom an operator takes it, until that is sent.
//!
//! Whom an operator's order without a token hits is not seen from outside: such a lock is not judged any more.

use std::collections::{BTreeMap, BTreeSet};

use plimsoll_linearizability::invariants::{Hold, mutual_exclusion};

use super::{Event, Invariant, Ledger};
use crate::judged::Round;
use crate::lock::LockNews;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct MutualExclusion {
    locks: BTreeMap<Round, Holds>,
}

#[derive(Debug, Default)]
struct Holds {
    holds: Vec<Hold>,
    /// Tokens of those that are not made longer any more.
    over: BTreeSet<u64>,
    is_forced: bool,
}

impl Invariant for MutualExclusion {
    fn name(&self) -> &'static str {
        "mutual_exclusion"
    }

    fn judge(&mut self, event: &Event<'_>, _ledger: &Ledger) -> Result<(), String> {
        let Event::Lock { at_ms, news } = event else { return Ok(()) };
        let at = *at_ms;
        match *news {
            LockNews::Granted { lock, token, .. } => {
                let of = self.locks.entry(lock).or_default();
                of.holds.push(Hold { fence: lock.to_string(), token, from: at, until: at });
                Ok(())
            }
            LockNews::HeldUntil { lock, token, until } => {
                let of = self.locks.entry(lock).or_default();
                if of.over.contains(&token) {
                    return Ok(());
                }
                let mut lengthened = false;
                for hold in of.holds.iter_mut().filter(|hold| hold.token == token) {
                    lengthened |= hold.until < until;
                    hold.until = hold.until.max(until);
                }
                match lengthened && !of.is_forced {
                    true => mutual_exclusion(&of.holds).map_err(|error| error.to_string()),
                    false => Ok(()),
                }
            }
            LockNews::GivenUp { lock, token } | LockNews::Forced { lock, token: Some(token) } => {
                let of = self.locks.entry(lock).or_default();
                of.over.insert(token);
                for hold in of.holds.iter_mut().filter(|hold| hold.token == token) {
                    hold.until = hold.until.min(at);
                }
                Ok(())
            }
            LockNews::Forced { lock, token: None } => {
                self.locks.entry(lock).or_default().is_forced = true;
                Ok(())
            }
            LockNews::Writing { .. } | LockNews::Shown { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::*;
    use super::*;

    fn news(at_ms: u64, news: LockNews) -> Event<'static> {
        Event::Lock { at_ms, news }
    }

    fn held(at_ms: u64, token: u64, until: u64) -> Event<'static> {
        news(at_ms, LockNews::HeldUntil { lock: LOCK, token, until })
    }

    fn forced(at_ms: u64, token: Option<u64>) -> Event<'static> {
        news(at_ms, LockNews::Forced { lock: LOCK, token })
    }

    #[test]
    fn a_lock_that_is_held_twice_is_seen() {
        let ledger = Ledger::default();
        let given_up = news(30, LockNews::GivenUp { lock: LOCK, token: 5 });
        let fine = [granted(1, 5, 0, 2), held(2, 5, 50), given_up, granted(2, 9, 1, 30)];
        let again = [held(30, 9, 90), granted(3, 12, 1, 89)];
        let all: Vec<_> = fine.into_iter().chain(again).collect();
        assert_fires(MutualExclusion::default(), &ledger, &all, &held(89, 12, 130));
    }

    #[test]
    fn who_was_stopped_holds_it_until_the_lease_ends() {
        let ledger = Ledger::default();
        let fine = [granted(1, 5, 0, 2), held(2, 5, 50), granted(2, 9, 1, 49)];
        assert_fires(MutualExclusion::default(), &ledger, &fine, &held(49, 9, 90));
    }

    #[test]
    fn what_an_operator_takes_is_held_no_longer() {
        let ledger = Ledger::default();
        let mut rule = MutualExclusion::default();
        let fine = [granted(1, 5, 0, 2), held(2, 5, 50), forced(10, Some(5)), granted(2, 9, 1, 11)];
        let fine = fine.into_iter().chain([held(11, 9, 60), held(12, 5, 70), forced(20, None)]);
        let fine = fine.chain([granted(3, 12, 1, 21), held(21, 12, 80)]);
        fine.for_each(|event| rule.judge(&event, &ledger).unwrap());
    }
}
