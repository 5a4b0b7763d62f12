//! Has all histories judged, and says how many there were and what happened during them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};

use plimsoll_linearizability::{History, Verdict};

use crate::rounds::{Named, Span};
use crate::schedule::Kind;

/// What was judged, and found to be in order.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    histories: usize,
    /// Of them, those with a fault between their first question and their last answer.
    pub(crate) with_fault: usize,
    by_kind: BTreeMap<Kind, usize>,
    pub(crate) operations: usize,
    pub(crate) unknown: usize,
}

/// Judges all of them.
///
/// # Panics
/// When one is wrong, or was too hard to be judged: with all of it.
pub(crate) fn judge<Op: Debug, Ret: Debug>(
    histories: Vec<Named<Op, Ret>>,
    faults: &[(Kind, Span)],
    check: impl Fn(&History<Op, Ret>) -> Verdict,
) -> Judged {
    let mut judged = Judged::default();
    for named in histories {
        let Some(span) = named.span() else { continue };
        let verdict = check(&named.history);
        assert!(verdict.is_linearizable(), "{}\n{verdict}", named.print());
        judged.histories += 1;
        judged.operations += named.history.len();
        judged.unknown += named.unknown();
        let during = faults.iter().filter(|(_, fault)| fault.overlaps(&span));
        let kinds: BTreeSet<Kind> = during.map(|(kind, _)| *kind).collect();
        judged.with_fault += usize::from(!kinds.is_empty());
        for kind in kinds {
            *judged.by_kind.entry(kind).or_default() += 1;
        }
    }
    judged
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { histories, with_fault, by_kind, operations, unknown } = self;
        write!(
            f,
            "{histories} histories of {operations} operations ({unknown} of unknown outcome) are \
             linearizable, 0 were too hard to judge; {with_fault} had a fault during them"
        )?;
        for (kind, times) in by_kind {
            write!(f, "; {kind} {times}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_linearizability::Outcome;
    use plimsoll_linearizability::kv::{KvOp, KvRet, check_key};

    use super::*;
    use crate::rounds::{Clock, Rounds};

    /// Two names, one after the other: a put each, and a read that is told of `read`.
    fn histories(read: u64) -> Vec<Named<KvOp<u64>, KvRet<u64>>> {
        let rounds = Rounds::new(Clock::start(), "key", 1, 2);
        for _ in 0..2 {
            let put = rounds.turn(0);
            let told = Outcome::Ok(KvRet::Written { revision: 7 });
            let invoked = rounds.clock().now();
            let put_at = rounds.note(&put, 1, invoked, KvOp::Put(1), told);
            let get = rounds.turn(0);
            assert_eq!(put.name, get.name);
            let told = Outcome::Ok(KvRet::Found { value: read, revision: 7 });
            rounds.note(&get, 2, put_at + 1, KvOp::Get, told);
        }
        rounds.take()
    }

    #[test]
    fn a_name_is_used_for_its_turns_and_each_has_a_history() {
        let histories = histories(1);
        let names: Vec<_> = histories.iter().map(|named| named.name.as_str()).collect();
        assert_eq!(names, ["key-0", "key-1"]);
        let during = histories[0].span().unwrap();
        let after = histories[1].span().unwrap().until + 1;
        let faults = [
            (Kind::Kill, during),
            (Kind::Kill, during),
            (Kind::Cut, Span { from: after, until: after }),
        ];
        let judged = judge(histories, &faults, |history| check_key(history.clone()));
        assert_eq!((judged.histories, judged.with_fault, judged.operations), (2, 1, 4));
        assert_eq!(judged.by_kind, BTreeMap::from([(Kind::Kill, 1)]));
    }

    #[test]
    #[should_panic(expected = "not linearizable")]
    fn a_value_that_nobody_wrote_is_seen() {
        judge(histories(2), &[], |history| check_key(history.clone()));
    }
}
