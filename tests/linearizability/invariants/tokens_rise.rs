//! A fencing token is given out once, and is higher than all that were given out before.

use std::collections::BTreeMap;

/// A grant as its client saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The lock, with its namespace.
    pub fence: String,
    /// Which request it answered. Attempts of one request are told of one token.
    pub request: u64,
    /// The fencing token.
    pub token: u64,
    /// When the request was sent.
    pub invoked: u64,
    /// When its client was told.
    pub completed: u64,
}

/// How tokens can be wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// See there.
    #[error(transparent)]
    NotRisen(#[from] TokenNotRisen),
    /// See there.
    #[error(transparent)]
    Repeated(#[from] TokenRepeated),
}

/// A grant that was asked for after another was told of has a token that is not higher.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{later:?} was asked for when {earlier:?} was known, and its token is not higher")]
pub struct TokenNotRisen {
    /// The one with the higher token, or the same.
    pub earlier: Grant,
    /// The one that came after it.
    pub later: Grant,
}

/// Two requests were given the same token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{first:?} and {second:?} have one token")]
pub struct TokenRepeated {
    /// One of them.
    pub first: Grant,
    /// The other.
    pub second: Grant,
}

/// Judges all grants of a history, in any order.
///
/// # Errors
/// The first violation, of the lock whose name comes first.
pub fn tokens_rise(grants: &[Grant]) -> Result<(), TokenError> {
    let mut fences: BTreeMap<&str, Vec<&Grant>> = BTreeMap::new();
    for grant in grants {
        fences.entry(&grant.fence).or_default().push(grant);
    }
    for grants in fences.values() {
        none_twice(grants)?;
        rise(grants)?;
    }
    Ok(())
}

fn none_twice(grants: &[&Grant]) -> Result<(), TokenRepeated> {
    let mut owners: BTreeMap<u64, &Grant> = BTreeMap::new();
    for grant in grants {
        let first = *owners.entry(grant.token).or_insert(grant);
        if first.request != grant.request {
            return Err(TokenRepeated { first: first.clone(), second: (*grant).clone() });
        }
    }
    Ok(())
}

fn rise(grants: &[&Grant]) -> Result<(), TokenNotRisen> {
    let mut by_completion = grants.to_vec();
    by_completion.sort_by_key(|grant| grant.completed);
    let mut by_invocation = grants.to_vec();
    by_invocation.sort_by_key(|grant| grant.invoked);
    let mut completed = by_completion.into_iter().peekable();
    let mut highest: Option<&Grant> = None;
    for later in by_invocation {
        while let Some(grant) = completed.next_if(|grant| grant.completed < later.invoked) {
            if highest.is_none_or(|highest| highest.token < grant.token) {
                highest = Some(grant);
            }
        }
        let Some(earlier) = highest else { continue };
        let again = earlier.request == later.request && earlier.token == later.token;
        if earlier.token >= later.token && !again {
            return Err(TokenNotRisen { earlier: earlier.clone(), later: later.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(request: u64, token: u64, invoked: u64, completed: u64) -> Grant {
        Grant { fence: "jobs/nightly".into(), request, token, invoked, completed }
    }

    #[test]
    fn grants_that_overlap_may_be_told_of_in_any_order() {
        assert_eq!(tokens_rise(&[grant(1, 9, 0, 10), grant(2, 4, 5, 20)]), Ok(()));
        // At the very same time: a coarse clock does not tell which came first.
        assert_eq!(tokens_rise(&[grant(1, 9, 0, 10), grant(2, 4, 10, 20)]), Ok(()));
    }

    #[test]
    fn a_token_below_one_that_was_known_is_seen() {
        let (earlier, later) = (grant(1, 9, 0, 10), grant(2, 4, 11, 20));
        let expected = TokenNotRisen { earlier: earlier.clone(), later: later.clone() };
        assert_eq!(tokens_rise(&[later, earlier]), Err(expected.into()));
    }

    #[test]
    fn a_token_of_two_requests_is_seen_though_they_overlap() {
        let (first, second) = (grant(1, 9, 0, 10), grant(2, 9, 5, 20));
        let expected = TokenRepeated { first: first.clone(), second: second.clone() };
        assert_eq!(tokens_rise(&[first, second]), Err(expected.into()));
    }

    #[test]
    fn a_request_that_is_repeated_has_its_token_until_another_has_the_lock() {
        let (first, again) = (grant(1, 9, 0, 10), grant(1, 9, 11, 12));
        assert_eq!(tokens_rise(&[first.clone(), again.clone()]), Ok(()));
        let (other, late) = (grant(2, 12, 13, 14), grant(1, 9, 15, 16));
        let expected = TokenNotRisen { earlier: other.clone(), later: late.clone() };
        assert_eq!(tokens_rise(&[first, again, other, late]), Err(expected.into()));
    }

    #[test]
    fn locks_have_tokens_of_their_own() {
        let other = Grant { fence: "jobs/weekly".into(), ..grant(2, 4, 11, 20) };
        assert_eq!(tokens_rise(&[grant(1, 9, 0, 10), other]), Ok(()));
    }
}
