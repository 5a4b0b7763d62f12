//! Bugs of lock servers, as their clients would see them.

use plimsoll_linearizability::lock::{Leases, LockOp, LockRet, Request, check_lock};
use plimsoll_linearizability::{Outcome, Verdict};

use crate::script::{Row, history};

const LEASE: u64 = 100;

fn acquire(request: u64) -> LockOp {
    LockOp::Acquire { request: Request(request) }
}

fn try_acquire(request: u64) -> LockOp {
    LockOp::TryAcquire { request: Request(request) }
}

fn release(token: u64) -> LockOp {
    LockOp::Release { token }
}

fn granted(token: u64) -> Outcome<LockRet> {
    Outcome::Ok(LockRet::Granted { token })
}

fn told(ret: LockRet) -> Outcome<LockRet> {
    Outcome::Ok(ret)
}

/// With leases that no keep-alive made longer.
fn verdict(rows: Vec<Row<LockOp, LockRet>>) -> Verdict {
    renewed(rows, &Leases::new(LEASE))
}

fn renewed(rows: Vec<Row<LockOp, LockRet>>, leases: &Leases) -> Verdict {
    check_lock(history(rows), leases)
}

#[test]
fn a_lock_goes_from_hand_to_hand() {
    let verdict = verdict(vec![
        (1, 0, 1, acquire(1), granted(3)),
        (2, 2, 20, acquire(2), granted(7)),
        (3, 3, 4, try_acquire(3), told(LockRet::Taken)),
        (1, 10, 12, release(3), told(LockRet::Released)),
        (3, 21, 22, LockOp::Describe, told(LockRet::Holder { token: Some(7) })),
    ]);
    assert_eq!(verdict, Verdict::Linearizable);
}

#[test]
fn a_double_grant_is_seen() {
    let verdict = verdict(vec![
        (1, 0, 1, acquire(1), granted(3)),
        (2, 2, 20, acquire(2), granted(7)),
        (1, 21, 22, release(3), told(LockRet::Released)),
    ]);
    assert!(verdict.is_refuted(), "{verdict}");
}

#[test]
fn a_second_grant_is_accepted_where_the_lease_can_be_over_and_not_before() {
    let second = |completed| {
        verdict(vec![(1, 5, 8, acquire(1), granted(3)), (2, 6, completed, acquire(2), granted(7))])
    };
    assert_eq!(second(5 + LEASE), Verdict::Linearizable);
    assert!(second(5 + LEASE - 1).is_refuted());
}

#[test]
fn a_keep_alive_moves_the_end_of_a_lease() {
    let mut leases = Leases::new(LEASE);
    leases.renewed(Request(1), 50);
    let second = |completed| {
        let rows =
            vec![(1, 5, 8, acquire(1), granted(3)), (2, 6, completed, acquire(2), granted(7))];
        renewed(rows, &leases)
    };
    assert_eq!(second(50 + LEASE), Verdict::Linearizable);
    assert!(second(50 + LEASE - 1).is_refuted());
}

#[test]
fn a_lease_that_ended_once_does_not_end_the_next_hold() {
    let verdict = verdict(vec![
        (1, 0, 1, acquire(1), granted(3)),
        (2, 150, 151, acquire(2), granted(5)),
        (3, 160, 161, acquire(3), granted(8)),
    ]);
    assert!(verdict.is_refuted(), "{verdict}");
}

#[test]
fn a_token_that_repeats_or_falls_is_seen() {
    for token in [2, 3] {
        let verdict = verdict(vec![
            (1, 0, 1, acquire(1), granted(3)),
            (1, 2, 3, release(3), told(LockRet::Released)),
            (2, 4, 5, acquire(2), granted(token)),
        ]);
        assert!(verdict.is_refuted(), "{verdict}");
    }
}

#[test]
fn a_release_by_a_former_holder_that_frees_the_lock_is_seen() {
    let verdict = verdict(vec![
        (1, 0, 1, acquire(1), granted(3)),
        (2, 150, 151, acquire(2), granted(5)),
        (1, 152, 153, release(3), told(LockRet::Released)),
    ]);
    assert!(verdict.is_refuted(), "{verdict}");
}

#[test]
fn a_lock_that_is_taken_by_nobody_is_seen() {
    let verdict = verdict(vec![
        (1, 0, 1, acquire(1), granted(3)),
        (1, 2, 3, release(3), told(LockRet::Released)),
        (2, 4, 5, try_acquire(2), told(LockRet::Taken)),
    ]);
    assert!(verdict.is_refuted(), "{verdict}");
}

#[test]
fn an_unknown_acquire_may_hold_the_lock_for_a_lease() {
    let rows = |outcome| {
        vec![
            (1, 0, 1, acquire(1), outcome),
            (2, 2, 3, try_acquire(2), told(LockRet::Taken)),
            (2, 90, 101, acquire(3), granted(6)),
        ]
    };
    assert_eq!(verdict(rows(Outcome::Unknown)), Verdict::Linearizable);
    assert!(verdict(rows(Outcome::Failed)).is_refuted());
}

#[test]
fn a_request_that_is_repeated_is_told_of_its_token() {
    let again = |token| {
        verdict(vec![
            (1, 0, 1, acquire(1), Outcome::Unknown),
            (3, 2, 3, LockOp::Describe, told(LockRet::Holder { token: Some(4) })),
            (1, 4, 5, acquire(1), granted(token)),
        ])
    };
    assert_eq!(again(4), Verdict::Linearizable);
    assert!(again(6).is_refuted());
}

/// The release timed out, the lock went on, and then the old holder is said to have it still.
#[test]
fn a_reordering_across_an_unknown_release_is_seen() {
    let last = |token| {
        verdict(vec![
            (1, 0, 1, acquire(1), granted(3)),
            (1, 2, 3, release(3), Outcome::Unknown),
            (2, 4, 5, acquire(2), granted(6)),
            (3, 6, 7, LockOp::Describe, told(LockRet::Holder { token: Some(token) })),
        ])
    };
    assert_eq!(last(6), Verdict::Linearizable);
    assert!(last(3).is_refuted());
}

#[test]
fn an_operator_ends_a_hold_once() {
    let rows = |client_2_releases| {
        vec![
            (1, 0, 1, acquire(1), granted(3)),
            (2, 2, 3, LockOp::ForceRelease, told(client_2_releases)),
            (3, 4, 5, acquire(2), granted(6)),
        ]
    };
    assert_eq!(verdict(rows(LockRet::Released)), Verdict::Linearizable);
    assert!(verdict(rows(LockRet::NotHolder)).is_refuted());
}

#[test]
fn an_unknown_acquire_that_its_client_gave_up_may_end_before_its_lease() {
    let rows = || {
        vec![
            (1, 10, 11, acquire(1), Outcome::Unknown),
            (2, 12, 13, try_acquire(2), told(LockRet::Taken)),
            (2, 30, 31, acquire(3), granted(6)),
        ]
    };
    let mut leases = Leases::new(LEASE);
    assert!(renewed(rows(), &leases).is_refuted());
    leases.given_up(Request(1), 32);
    assert!(renewed(rows(), &leases).is_refuted());
    leases.given_up(Request(1), 20);
    assert_eq!(renewed(rows(), &leases), Verdict::Linearizable);
}

#[test]
fn an_operator_who_is_told_no_more_than_that_it_is_over_is_believed_that() {
    let rows = |op, holder| {
        vec![
            (1, 0, 1, acquire(1), granted(3)),
            (2, 2, 3, op, told(LockRet::Ended)),
            (2, 4, 5, op, told(LockRet::Ended)),
            (3, 6, 7, LockOp::Describe, told(LockRet::Holder { token: holder })),
        ]
    };
    for op in [release(3), LockOp::ForceRelease] {
        assert_eq!(verdict(rows(op, None)), Verdict::Linearizable);
        assert!(verdict(rows(op, Some(3))).is_refuted());
    }
    assert!(verdict(rows(release(2), None)).is_refuted());
}

/// It asked when its session had not been heard of for a while, and counts from before.
#[test]
fn a_client_whose_own_count_is_over_may_end_its_session() {
    let rows = || vec![(1, 60, 61, acquire(1), granted(3)), (2, 130, 141, acquire(2), granted(6))];
    let mut leases = Leases::new(LEASE);
    assert!(renewed(rows(), &leases).is_refuted());
    leases.counted_until(Request(1), 142);
    assert!(renewed(rows(), &leases).is_refuted());
    let mut leases = Leases::new(LEASE);
    leases.counted_until(Request(1), 140);
    assert_eq!(renewed(rows(), &leases), Verdict::Linearizable);
}
