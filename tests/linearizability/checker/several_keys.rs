//! How a test uses the crate: one history for all keys, judged key by key.

use plimsoll_linearizability::invariants::{Grant, TokenError, tokens_rise};
use plimsoll_linearizability::kv::{KvOp, KvRet, check_key};
use plimsoll_linearizability::lock::{Leases, LockOp, LockRet, Request, check_lock};
use plimsoll_linearizability::{History, Outcome, Verdict};

#[test]
fn a_stale_read_of_one_key_is_found_among_others() {
    let mut history = History::new();
    for (key, at) in [("a", 0), ("b", 10)] {
        let put = history.invoke(1, at, (key, KvOp::Put("old")));
        history.complete(put, at + 1, Outcome::Ok(KvRet::Written { revision: at }));
        let put = history.invoke(1, at + 2, (key, KvOp::Put("new")));
        history.complete(put, at + 3, Outcome::Ok(KvRet::Written { revision: at + 2 }));
    }
    // It timed out, so client 1 goes on as another; nothing need come of it.
    let delete = history.invoke(1, 20, ("a", KvOp::Delete));
    history.complete(delete, 25, Outcome::Unknown);
    let get = history.invoke(2, 30, ("b", KvOp::Get));
    history.complete(get, 31, Outcome::Ok(KvRet::Found { value: "old", revision: 10 }));

    let verdicts: Vec<_> =
        history.by_key().into_iter().map(|(key, part)| (key, check_key(part))).collect();
    assert_eq!(verdicts[0], ("a", Verdict::Linearizable));
    let ("b", Verdict::NotLinearizable(refutation)) = &verdicts[1] else { panic!("{verdicts:?}") };
    assert_eq!(
        refutation.next,
        ["[30..31] client 2: Get -> Found { value: \"old\", revision: 10 }"]
    );
}

#[test]
fn locks_are_judged_with_the_leases_of_all_of_them() {
    let mut history = History::new();
    let mut leases = Leases::new(1_000);
    let mut grants = Vec::new();
    for (client, fence, sent, told, token) in
        [(1, "jobs", 0, 5, 40), (2, "mail", 1, 6, 41), (3, "jobs", 500, 1_100, 57)]
    {
        let request = Request(u64::from(client));
        let call = history.invoke(client, sent, (fence, LockOp::Acquire { request }));
        history.complete(call, told, Outcome::Ok(LockRet::Granted { token }));
        let (fence, request) = (fence.to_string(), request.0);
        grants.push(Grant { fence, request, token, invoked: sent, completed: told });
    }
    let judge = |leases: &Leases| {
        let parts = history.clone().by_key().into_values();
        parts.map(|part| check_lock(part, leases).is_linearizable()).collect::<Vec<_>>()
    };
    assert_eq!(judge(&leases), [true, true], "the lease of client 1 can end at 1,000");
    leases.renewed(Request(1), 101);
    assert_eq!(judge(&leases), [false, true], "it was renewed until 1,101");

    assert_eq!(tokens_rise(&grants), Ok(()));
    grants[2].token = 40;
    assert!(matches!(tokens_rise(&grants), Err(TokenError::Repeated(_))));
}
