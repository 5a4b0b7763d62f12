//! Each grant of a lock that a client was told of has a token of its own, higher than those of all grants that
//! were told of before it was asked for.

use std::collections::BTreeMap;

use plimsoll_linearizability::invariants::{Grant, tokens_rise};

use super::{Event, Invariant, Ledger};
use crate::judged::Round;
use crate::lock::LockNews;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct TokensRise {
    grants: BTreeMap<Round, Vec<Grant>>,
}

impl Invariant for TokensRise {
    fn name(&self) -> &'static str {
        "tokens_rise"
    }

    fn judge(&mut self, event: &Event<'_>, _ledger: &Ledger) -> Result<(), String> {
        let Event::Lock { at_ms, news: LockNews::Granted { lock, request, token, invoked, .. } } =
            event
        else {
            return Ok(());
        };
        let grants = self.grants.entry(*lock).or_default();
        grants.push(Grant {
            fence: lock.to_string(),
            request: *request,
            token: *token,
            invoked: *invoked,
            completed: *at_ms,
        });
        tokens_rise(grants).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::*;
    use super::*;

    #[test]
    fn a_token_that_does_not_grow_is_seen() {
        let fine = [granted(1, 5, 0, 2), granted(2, 9, 1, 6), granted(3, 8, 1, 7)];
        let ledger = Ledger::default();
        assert_fires(TokensRise::default(), &ledger, &fine, &granted(4, 9, 3, 8));
        assert_fires(TokensRise::default(), &ledger, &fine, &granted(4, 7, 7, 8));
    }
}
