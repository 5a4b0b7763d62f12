//! Bugs of key-value servers, as their clients would see them.

use plimsoll_linearizability::kv::{Kv, KvOp, KvRet};
use plimsoll_linearizability::{History, Outcome, Verdict, check};

use crate::keys::{Op, Ret};
use crate::script::history;

fn written(revision: u64) -> Outcome<Ret> {
    Outcome::Ok(KvRet::Written { revision })
}

fn found(value: u64, revision: u64) -> Outcome<Ret> {
    Outcome::Ok(KvRet::Found { value, revision })
}

fn absent() -> Outcome<Ret> {
    Outcome::Ok(KvRet::Absent)
}

fn verdict(history: &History<Op, Ret>) -> Verdict {
    check(history, &Kv::new())
}

#[test]
fn a_read_beside_a_write_may_see_either_value() {
    for seen in [found(1, 1), found(2, 2)] {
        let history = history(vec![
            (1, 0, 1, KvOp::Put(1), written(1)),
            (1, 2, 9, KvOp::Put(2), written(2)),
            (2, 3, 4, KvOp::Get, seen),
        ]);
        assert_eq!(verdict(&history), Verdict::Linearizable);
    }
}

#[test]
fn a_stale_read_is_seen_and_named() {
    let history = history(vec![
        (1, 0, 1, KvOp::Put(1), written(1)),
        (1, 2, 3, KvOp::Put(2), written(2)),
        (2, 4, 5, KvOp::Get, found(1, 1)),
    ]);
    let verdict = verdict(&history);
    let Verdict::NotLinearizable(refutation) = &verdict else { panic!("{verdict}") };
    assert_eq!((&refutation.prefix[..], &refutation.stuck[..]), (&[0, 1][..], &[2][..]));
    let text = verdict.to_string();
    let named = "[4..5] client 2: Get -> Found { value: 1, revision: 1 }";
    assert!(text.contains(named), "{text}");
}

#[test]
fn two_reads_that_see_a_write_and_then_not_are_seen() {
    let history = history(vec![
        (1, 0, 1, KvOp::Put(1), written(1)),
        (1, 2, 20, KvOp::Put(2), written(2)),
        (2, 3, 4, KvOp::Get, found(2, 2)),
        (3, 5, 6, KvOp::Get, found(1, 1)),
    ]);
    assert!(verdict(&history).is_refuted());
}

#[test]
fn a_lost_update_is_seen() {
    let cas = |value| KvOp::Cas { expected: 1, value };
    let history = history(vec![
        (1, 0, 1, KvOp::Put(1), written(1)),
        (2, 2, 6, cas(2), written(2)),
        (3, 3, 7, cas(3), written(3)),
    ]);
    assert!(verdict(&history).is_refuted());
}

#[test]
fn an_acknowledged_write_that_is_gone_is_seen() {
    let history =
        history(vec![(1, 0, 1, KvOp::Put(1), written(1)), (2, 2, 3, KvOp::Get, absent())]);
    assert!(verdict(&history).is_refuted());
}

#[test]
fn a_write_that_surely_failed_and_is_read_is_seen() {
    let history =
        history(vec![(1, 0, 1, KvOp::Put(1), Outcome::Failed), (2, 2, 3, KvOp::Get, found(1, 1))]);
    assert!(verdict(&history).is_refuted());
}

#[test]
fn two_that_put_the_same_absent_key_are_seen() {
    let history = history(vec![
        (1, 0, 5, KvOp::PutIfAbsent(1), written(1)),
        (2, 0, 5, KvOp::PutIfAbsent(2), written(2)),
    ]);
    assert!(verdict(&history).is_refuted());
}

#[test]
fn revisions_that_fall_or_repeat_are_seen() {
    for revision in [4, 5] {
        let history = history(vec![
            (1, 0, 1, KvOp::Put(1), written(5)),
            (2, 2, 3, KvOp::Put(2), written(revision)),
        ]);
        assert!(verdict(&history).is_refuted());
    }
}

#[test]
fn a_revision_is_not_used_again_after_a_delete() {
    let history = history(vec![
        (1, 0, 1, KvOp::Put(1), written(5)),
        (1, 2, 3, KvOp::Delete, written(6)),
        (1, 4, 5, KvOp::PutIfAbsent(2), written(6)),
    ]);
    assert!(verdict(&history).is_refuted());
}

#[test]
fn a_conflict_with_the_revision_that_was_expected_is_seen() {
    let cas = KvOp::Cas { expected: 1, value: 2 };
    let conflict = Outcome::Ok(KvRet::Conflict { actual: Some(1) });
    let history = history(vec![(1, 0, 1, KvOp::Put(1), written(1)), (2, 2, 3, cas, conflict)]);
    assert!(verdict(&history).is_refuted());
}

#[test]
fn an_unknown_write_may_appear_late_or_never() {
    let unknown = (1, 0, 1, KvOp::Put(9), Outcome::Unknown);
    let write = (2, 2, 3, KvOp::Put(1), written(1));
    let late = (2, 4, 5, KvOp::Get, found(9, 2));
    let never = (2, 4, 5, KvOp::Get, found(1, 1));
    for read in [late, never] {
        let history = history(vec![unknown.clone(), write.clone(), read]);
        assert_eq!(verdict(&history), Verdict::Linearizable);
    }
}

#[test]
fn an_unknown_write_appears_once() {
    let history = history(vec![
        (1, 0, 1, KvOp::Put(9), Outcome::Unknown),
        (2, 2, 3, KvOp::Get, found(9, 4)),
        (2, 4, 5, KvOp::Put(1), written(6)),
        (3, 6, 7, KvOp::Get, found(9, 7)),
    ]);
    assert!(verdict(&history).is_refuted());
}

/// The client that timed out goes on, and its first write overtakes the second in one read only.
#[test]
fn a_reordering_across_an_unknown_write_is_seen() {
    let rows = |last: Outcome<Ret>| {
        history(vec![
            (1, 0, 1, KvOp::Put(9), Outcome::Unknown),
            (1, 2, 3, KvOp::Put(1), written(5)),
            (2, 4, 5, KvOp::Get, found(9, 8)),
            (2, 6, 7, KvOp::Get, last),
        ])
    };
    assert_eq!(verdict(&rows(found(9, 8))), Verdict::Linearizable);
    assert!(verdict(&rows(found(1, 5))).is_refuted());
}

#[test]
fn an_unknown_write_is_not_squeezed_between_two_revisions_that_touch() {
    let rows = |revision| {
        history(vec![
            (1, 0, 1, KvOp::Put(1), written(5)),
            (2, 2, 3, KvOp::Delete, Outcome::Unknown),
            (1, 4, 5, KvOp::Get, absent()),
            (1, 6, 7, KvOp::Put(2), written(revision)),
        ])
    };
    assert_eq!(verdict(&rows(7)), Verdict::Linearizable);
    assert!(verdict(&rows(6)).is_refuted());
}

#[test]
fn an_operation_does_not_act_before_it_was_invoked_though_its_outcome_is_unknown() {
    let history =
        history(vec![(2, 0, 1, KvOp::Get, found(9, 4)), (1, 2, 3, KvOp::Put(9), Outcome::Unknown)]);
    assert!(verdict(&history).is_refuted());
}

#[test]
fn a_value_ends_when_its_life_is_over_and_not_before() {
    let read_at = |at| {
        let mut history = history(vec![
            (1, 0, 1, KvOp::Put(1), written(1)),
            (2, at, at + 1, KvOp::Get, absent()),
        ]);
        history.may_happen(100, KvOp::Expire(1));
        verdict(&history)
    };
    assert_eq!(read_at(99), Verdict::Linearizable);
    assert!(read_at(98).is_refuted());
}
