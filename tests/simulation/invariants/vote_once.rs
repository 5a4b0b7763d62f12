//! A node votes once in a term, over restarts: what it keeps never goes back, and within a term never
//! changes but from promised to won.

use std::collections::BTreeMap;

use plimsoll_log::Vote;
use plimsoll_protocol::ids::GroupId;

use super::{Event, Invariant, Ledger};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct VoteOnce {
    votes: BTreeMap<(u64, GroupId), Vote>,
}

impl Invariant for VoteOnce {
    fn name(&self) -> &'static str {
        "vote_once"
    }

    fn judge(&mut self, event: &Event<'_>, _ledger: &Ledger) -> Result<(), String> {
        let Event::Voted { node, group, vote } = event else { return Ok(()) };
        let before = self.votes.insert((*node, *group), *vote);
        let Some(before) = before else { return Ok(()) };
        let fine = vote.term > before.term
            || vote.term == before.term
                && (vote.voted_for == before.voted_for || vote.committed && !before.committed)
                && (vote.committed || !before.committed);
        match fine {
            true => Ok(()),
            false => Err(format!("node {node} voted {vote:?} in group {group} after {before:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::*;
    use super::*;

    #[test]
    fn a_second_vote_and_one_that_was_forgotten_are_seen() {
        let voted = |vote| Event::Voted { node: 1, group: GROUP, vote };
        let fine = [
            voted(vote(1, 2, false)),
            voted(vote(1, 2, true)),
            voted(vote(3, 1, false)),
            voted(vote(3, 2, true)),
        ];
        for broken in [vote(3, 1, true), vote(3, 2, false), vote(2, 2, true)] {
            let ledger = Ledger::default();
            assert_fires(VoteOnce::default(), &ledger, &fine[..], &voted(broken));
        }
    }
}
