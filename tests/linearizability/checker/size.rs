//! The size that TESTING asks for: 5 clients and 1,000 operations of one key.

use plimsoll_linearizability::kv::{Kv, KvOp, KvRet, check_key};
use plimsoll_linearizability::lock::{LockOp, LockRet, check_lock};
use plimsoll_linearizability::{History, Outcome, Verdict, check, check_within};

use crate::interleave::{Dice, Plan, run};
use crate::keys::Keys;
use crate::locks::Locks;

/// One of 20 operations times out: about 50 of them may come at any later place.
const FULL: Plan = Plan { clients: 5, operations: 1_000, unknown: 5 };

#[test]
fn a_full_history_of_a_key_is_decided() {
    for seed in 0..10 {
        let history = run(&mut Keys::default(), &mut Dice::new(seed), FULL);
        assert_eq!(check_key(history), Verdict::Linearizable, "seed {seed}");
    }
}

#[test]
fn a_full_history_of_a_lock_is_decided() {
    for seed in 0..10 {
        let mut locks = Locks::new(true);
        let history = run(&mut locks, &mut Dice::new(seed), FULL);
        assert_eq!(check_lock(history, &locks.leases), Verdict::Linearizable, "seed {seed}");
    }
}

#[test]
fn a_stale_read_at_the_end_of_a_full_history_is_found() {
    for seed in 0..10 {
        let mut history = run(&mut Keys::default(), &mut Dice::new(seed), FULL);
        let call = history.invoke(9, 1_000_000, KvOp::Get);
        let stale = history.operations().iter().find_map(|op| match (&op.op, &op.outcome) {
            (KvOp::Put(value), Outcome::Ok(KvRet::Written { revision })) => {
                Some(KvRet::Found { value: *value, revision: *revision })
            }
            _ => None,
        });
        history.complete(call, 1_000_001, Outcome::Ok(stale.expect("one was put")));
        let verdict = check_key(history);
        assert!(verdict.is_refuted(), "seed {seed}: {verdict}");
    }
}

#[test]
fn a_token_that_returns_at_the_end_of_a_full_history_is_found() {
    for seed in 0..10 {
        let mut locks = Locks::new(true);
        let mut history = run(&mut locks, &mut Dice::new(seed), FULL);
        let token = Locks::grants(&history)[0].token;
        let call = history.invoke(9, 1_000_000, LockOp::Describe);
        let holder = LockRet::Holder { token: Some(token) };
        history.complete(call, 1_000_001, Outcome::Ok(holder));
        let verdict = check_lock(history, &locks.leases);
        assert!(verdict.is_refuted(), "seed {seed}: {verdict}");
    }
}

/// Each of the writes may have happened, alone or not, and none of them explains the read.
#[test]
fn a_search_that_takes_too_long_is_given_up() {
    let mut history = History::new();
    for client in 0..16 {
        history.invoke(client, 0, KvOp::Put(client));
    }
    let call = history.invoke(99, 20, KvOp::Get);
    history.complete(call, 21, Outcome::Ok(KvRet::Found { value: 99, revision: 99 }));
    assert!(check(&history, &Kv::new()).is_refuted());
    let verdict = check_within(&history, &Kv::new(), 10);
    assert!(matches!(verdict, Verdict::TooHard { after: 11.. }), "{verdict}");
}
