//! Two clients never both rightly believe that they hold a lock.
//!
//! This is what leases promise as long as clocks run at the speed that they are said to: a client's view
//! of its lease ends before the server's. A client that was paused believes wrongly, and what it does is
//! for the fences: its hold is to be recorded by the end of its lease, not by when it woke up.

use std::collections::BTreeMap;

/// The time in which a client surely held a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The lock, with its namespace.
    pub fence: String,
    /// Whose.
    pub token: u64,
    /// When the client was told of the grant.
    pub from: u64,
    /// When it sent the release, or its lease ended by its own clock, or an operator sent a release by
    /// force: the first of these. A hold with `until <= from` is none.
    pub until: u64,
}

/// Two holds that overlap.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{first:?} and {second:?} overlap")]
pub struct HeldTwice {
    /// The one that began first.
    pub first: Hold,
    /// The one that began before its end.
    pub second: Hold,
}

/// Judges all holds of a history, in any order. Holds that touch do not overlap, nor do two of one
/// token, which are one grant that was told of twice.
///
/// # Errors
/// The first violation, of the lock whose name comes first.
pub fn mutual_exclusion(holds: &[Hold]) -> Result<(), HeldTwice> {
    let mut fences: BTreeMap<&str, Vec<&Hold>> = BTreeMap::new();
    for hold in holds.iter().filter(|hold| hold.from < hold.until) {
        fences.entry(&hold.fence).or_default().push(hold);
    }
    for holds in fences.values_mut() {
        holds.sort_by_key(|hold| hold.from);
        let mut longest: Option<&Hold> = None;
        for hold in holds {
            if let Some(first) = longest
                && hold.from < first.until
                && hold.token != first.token
            {
                return Err(HeldTwice { first: first.clone(), second: (*hold).clone() });
            }
            if longest.is_none_or(|longest| longest.until < hold.until) {
                longest = Some(hold);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(token: u64, from: u64, until: u64) -> Hold {
        Hold { fence: "jobs/nightly".into(), token, from, until }
    }

    #[test]
    fn holds_that_follow_each_other_are_fine() {
        assert_eq!(mutual_exclusion(&[hold(2, 10, 20), hold(1, 0, 10), hold(3, 25, 26)]), Ok(()));
    }

    #[test]
    fn a_hold_within_another_is_seen_behind_a_short_one_too() {
        let (long, short, inner) = (hold(1, 0, 100), hold(1, 1, 2), hold(2, 50, 51));
        let expected = HeldTwice { first: long.clone(), second: inner.clone() };
        assert_eq!(mutual_exclusion(&[inner, short, long]), Err(expected));
    }

    #[test]
    fn a_grant_that_was_told_after_its_lease_is_no_hold() {
        assert_eq!(mutual_exclusion(&[hold(1, 30, 20), hold(2, 10, 40)]), Ok(()));
    }

    #[test]
    fn other_locks_are_held_at_the_same_time() {
        let other = Hold { fence: "jobs/weekly".into(), ..hold(2, 0, 10) };
        assert_eq!(mutual_exclusion(&[hold(1, 0, 10), other]), Ok(()));
    }
}
