//! What happened is accepted; what cannot have happened is refused; and in small the checker agrees with
//! its naive twin on either.

use plimsoll_linearizability::invariants::{mutual_exclusion, tokens_rise};
use plimsoll_linearizability::kv::{Kv, KvRet, check_key};
use plimsoll_linearizability::lock::{Lock, LockOp, LockRet};
use plimsoll_linearizability::{Caller, History, Outcome, Verdict, check};
use proptest::prelude::*;

use crate::interleave::{Dice, Plan, run};
use crate::keys::{self, Keys, NEVER_WRITTEN};
use crate::locks::Locks;
use crate::naive;

fn of_a_key(seed: u64, plan: Plan) -> History<keys::Op, keys::Ret> {
    run(&mut Keys::default(), &mut Dice::new(seed), plan)
}

fn of_a_lock(seed: u64, plan: Plan) -> History<LockOp, LockRet> {
    let mut locks = Locks::new(true);
    let mut history = run(&mut locks, &mut Dice::new(seed), plan);
    locks.leases.add_ends(&mut history);
    history
}

/// The history with one answer changed by `change`, which says whether it could.
fn changed<Op: Clone, Ret: Clone>(
    history: &History<Op, Ret>,
    dice: &mut Dice,
    mut change: impl FnMut(&mut Ret, &mut Dice) -> bool,
) -> Option<History<Op, Ret>> {
    let operations = history.operations();
    let begin = usize::try_from(dice.below(operations.len().max(1) as u64)).expect("an index");
    let mut outcomes: Vec<_> = operations.iter().map(|op| op.outcome.clone()).collect();
    let count = outcomes.len();
    (0..count).find_map(|step| match &mut outcomes[(begin + step) % count] {
        Outcome::Ok(ret) => change(ret, dice).then_some(()),
        Outcome::Failed | Outcome::Unknown => None,
    })?;
    let mut copy = History::new();
    for (operation, outcome) in operations.iter().zip(outcomes) {
        let (at, op) = (operation.invoked, operation.op.clone());
        let call = match operation.caller {
            Caller::Client { number, .. } => copy.invoke(number, at, op),
            Caller::Nobody => copy.may_happen(at, op),
        };
        if let Some(completed) = operation.completed {
            copy.complete(call, completed, outcome);
        }
    }
    Some(copy)
}

/// Another answer of a key, which may or may not be possible.
fn other_of_a_key(ret: &mut keys::Ret, dice: &mut Dice) -> bool {
    let (value, number) = (1 + dice.below(6), dice.below(8));
    *ret = match ret {
        KvRet::Found { .. } | KvRet::Absent if dice.percent(30) => KvRet::Absent,
        KvRet::Found { .. } | KvRet::Absent => KvRet::Found { value, revision: number },
        KvRet::Written { .. } | KvRet::Conflict { .. } if dice.percent(50) => {
            KvRet::Written { revision: number }
        }
        KvRet::Written { .. } | KvRet::Conflict { .. } => {
            KvRet::Conflict { actual: (number > 0).then_some(number) }
        }
    };
    true
}

/// Another answer of a lock, which may or may not be possible.
fn other_of_a_lock(ret: &mut LockRet, dice: &mut Dice) -> bool {
    let token = dice.below(8);
    *ret = match ret {
        LockRet::Granted { .. } | LockRet::Taken if dice.percent(30) => LockRet::Taken,
        LockRet::Granted { .. } | LockRet::Taken => LockRet::Granted { token },
        LockRet::Released => LockRet::NotHolder,
        LockRet::NotHolder => LockRet::Released,
        LockRet::Holder { .. } => LockRet::Holder { token: (token > 0).then_some(token) },
        LockRet::Ended => return false,
    };
    true
}

fn small(operations: usize) -> Plan {
    Plan { clients: 3, operations, unknown: 30 }
}

/// Compares the checker with its twin on a small history of a key, changed or not.
fn agree_on_a_key(seed: u64, operations: usize, change: bool) -> bool {
    let mut dice = Dice::new(!seed);
    let mut history = of_a_key(seed, small(operations));
    if change {
        history = changed(&history, &mut dice, other_of_a_key).unwrap_or(history);
    }
    let expected = naive::is_linearizable(&history, &Kv::new());
    let verdict = check(&history, &Kv::new());
    assert_eq!(verdict.is_linearizable(), expected, "{verdict}\n{history:#?}");
    let verdict = check_key(history);
    assert_eq!(verdict.is_linearizable(), expected, "{verdict}, values that differ or not");
    expected
}

/// As above, of a lock. Each grant adds the end of its lease, so there are fewer operations.
fn agree_on_a_lock(seed: u64, operations: usize, change: bool) -> bool {
    let mut dice = Dice::new(!seed);
    let mut history = of_a_lock(seed, small(operations));
    if change {
        history = changed(&history, &mut dice, other_of_a_lock).unwrap_or(history);
    }
    let expected = naive::is_linearizable(&history, &Lock::default());
    let verdict = check(&history, &Lock::default());
    assert_eq!(verdict.is_linearizable(), expected, "{verdict}\n{history:#?}");
    let verdict = check(&history, &Lock::of(&history));
    assert_eq!(verdict.is_linearizable(), expected, "{verdict}, requests that are alike or not");
    expected
}

proptest! {
    #[test]
    fn what_a_key_really_did_is_accepted(seed: u64, operations in 1..120usize, unknown in 0..30u64) {
        let history = of_a_key(seed, Plan { clients: 5, operations, unknown });
        prop_assert_eq!(check_key(history), Verdict::Linearizable);
    }

    #[test]
    fn what_a_lock_really_did_is_accepted(seed: u64, operations in 1..120usize, unknown in 0..30u64) {
        let history = of_a_lock(seed, Plan { clients: 5, operations, unknown });
        prop_assert_eq!(check(&history, &Lock::of(&history)), Verdict::Linearizable);
    }

    #[test]
    fn a_value_that_nobody_wrote_is_refused(seed: u64, operations in 1..120usize, unknown in 0..20u64) {
        let history = of_a_key(seed, Plan { clients: 5, operations, unknown });
        let invent = |ret: &mut keys::Ret, _: &mut Dice| match ret {
            KvRet::Found { value, .. } => {
                *value = NEVER_WRITTEN;
                true
            }
            _ => false,
        };
        if let Some(history) = changed(&history, &mut Dice::new(seed), invent) {
            let verdict = check_key(history);
            prop_assert!(verdict.is_refuted(), "{verdict}");
        }
    }

    #[test]
    fn a_revision_that_was_given_out_twice_is_refused(
        seed: u64, operations in 1..120usize, unknown in 0..20u64,
    ) {
        let history = of_a_key(seed, Plan { clients: 5, operations, unknown });
        let mut revisions = history.operations().iter().filter_map(|op| match op.outcome {
            Outcome::Ok(KvRet::Written { revision }) => Some(revision),
            _ => None,
        });
        let first = revisions.next();
        let repeat = |ret: &mut keys::Ret, _: &mut Dice| match (ret, first) {
            (KvRet::Written { revision }, Some(first)) if *revision != first => {
                *revision = first;
                true
            }
            _ => false,
        };
        if let Some(history) = changed(&history, &mut Dice::new(seed), repeat) {
            let verdict = check_key(history);
            prop_assert!(verdict.is_refuted(), "{verdict}");
        }
    }

    #[test]
    fn a_token_that_was_given_out_twice_is_refused(
        seed: u64, operations in 1..120usize, unknown in 0..20u64,
    ) {
        let history = of_a_lock(seed, Plan { clients: 5, operations, unknown });
        let first = Locks::grants(&history).first().map(|grant| grant.token);
        let repeat = |ret: &mut LockRet, _: &mut Dice| match (ret, first) {
            (LockRet::Granted { token }, Some(first)) if *token != first => {
                *token = first;
                true
            }
            _ => false,
        };
        if let Some(history) = changed(&history, &mut Dice::new(seed), repeat) {
            let verdict = check(&history, &Lock::of(&history));
            prop_assert!(verdict.is_refuted(), "{verdict}");
            prop_assert!(tokens_rise(&Locks::grants(&history)).is_err());
        }
    }

    #[test]
    fn the_invariants_hold_of_what_a_lock_really_did(
        seed: u64, operations in 1..300usize, unknown in 0..30u64,
    ) {
        let mut locks = Locks::new(false);
        let plan = Plan { clients: 5, operations, unknown };
        let history = run(&mut locks, &mut Dice::new(seed), plan);
        prop_assert_eq!(tokens_rise(&Locks::grants(&history)), Ok(()));
        prop_assert_eq!(mutual_exclusion(&locks.holds(&history)), Ok(()));
    }

    #[test]
    fn the_checker_and_its_naive_twin_agree_on_a_key(
        seed: u64, operations in 1..8usize, change: bool,
    ) {
        agree_on_a_key(seed, operations, change);
    }

    #[test]
    fn the_checker_and_its_naive_twin_agree_on_a_lock(
        seed: u64, operations in 1..7usize, change: bool,
    ) {
        agree_on_a_lock(seed, operations, change);
    }
}

/// Of the changed histories that the twins are compared on, a good part is possible and a good part not.
#[test]
fn the_twins_are_compared_on_both_verdicts() {
    let possible = (0..300).filter(|seed| agree_on_a_key(*seed, 7, true)).count();
    assert!((30..270).contains(&possible), "{possible} of 300");
    let possible = (0..300).filter(|seed| agree_on_a_lock(*seed, 6, true)).count();
    assert!((30..270).contains(&possible), "{possible} of 300");
}
