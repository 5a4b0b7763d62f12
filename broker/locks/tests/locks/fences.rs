//! Floors: what a partition refuses, and when it forgets.

use plimsoll_locks::fence::{
    Fence, FenceError, FenceName, FloorChange, FloorEntry, Floors, Judgement,
};
use plimsoll_locks::ids::{NamespaceId, Token};
use proptest::prelude::*;

use super::bed::name;

fn fence(namespace: u64, text: &str, token: u64) -> Fence {
    let name = FenceName::parse(text).unwrap();
    Fence { namespace: NamespaceId(namespace), name, token: Token(token) }
}

#[test]
fn stale_token_is_refused_with_the_highest_seen() {
    let mut floors = Floors::default();
    assert_eq!(floors.raise(&fence(1, "a", 5)), Ok(Judgement::Rises));
    assert_eq!(floors.check(&fence(1, "a", 5)), Ok(Judgement::Known));
    assert_eq!(floors.check(&fence(1, "a", 6)), Ok(Judgement::Rises));
    let Err(FenceError::Stale(stale)) = floors.raise(&fence(1, "a", 4)) else { panic!("stale") };
    assert_eq!(stale.highest, Token(5));
    assert_eq!(
        stale.to_string(),
        "the fence is stale: token 4 of lock a in namespace 1 is over, 5 has been seen since; \
         the lock is lost: stop, and acquire it again"
    );
    assert_eq!(floors.check(&fence(2, "a", 4)), Ok(Judgement::Rises), "another namespace");
    assert_eq!(floors.check(&fence(1, "a#0", 4)), Ok(Judgement::Rises), "another permit");
}

#[test]
fn fence_names_have_one_text_each() {
    for text in ["a", "a#0", "a#4294967295", &format!("{}#7", "n".repeat(255))] {
        let fence = FenceName::parse(text).unwrap();
        let (lock, slot) = fence.parts();
        assert_eq!((FenceName::new(&lock, slot).as_str(), fence.as_str()), (text, text));
    }
    for text in ["", "#1", "a#", "a#01", "a#+1", "a#1#2", "a#4294967296", "a b", "a#x"] {
        assert!(FenceName::parse(text).is_err(), "{text}");
    }
}

#[test]
fn pruned_lock_is_forgotten_with_its_permits_and_no_other() {
    let mut floors = Floors::default();
    let all = ["a", "a#0", "a#17", "a+", "aa", "a-b#0", "b"];
    for text in all {
        floors.raise(&fence(1, text, 5)).unwrap();
        floors.raise(&fence(2, text, 5)).unwrap();
    }
    floors.prune_lock(NamespaceId(1), &name("a"));
    let left: Vec<_> = floors.iter().filter(|it| it.0.0 == 1).map(|it| it.1.as_str()).collect();
    assert_eq!(left, ["a+", "a-b#0", "aa", "b"]);
    floors.prune_namespace(NamespaceId(1));
    assert_eq!(floors.len(), all.len());
    for text in ["a", "a+", "aa", "a-b", "b"] {
        floors.prune_lock(NamespaceId(2), &name(text));
    }
    assert!(floors.is_empty());
    assert_eq!(floors, Floors::default());
}

#[test]
fn more_floors_than_may_be_are_refused_and_known_ones_pass() {
    let mut floors = Floors::default();
    for number in 0..plimsoll_locks::fence::FLOORS_MAX {
        floors.raise(&fence(number as u64 % 7, &format!("l{number}"), 1)).unwrap();
    }
    assert!(matches!(floors.raise(&fence(1, "new", 1)), Err(FenceError::Full(_))));
    assert_eq!(floors.raise(&fence(0, "l0", 2)), Ok(Judgement::Rises));
    floors.prune_lock(NamespaceId(0), &name("l0"));
    assert_eq!(floors.raise(&fence(1, "new", 1)), Ok(Judgement::Rises));
}

#[test]
fn entry_of_floors_has_fixed_bytes() {
    let raise = FloorChange::Raise(fence(1, "a#2", 3));
    let prune = FloorChange::PruneLock { namespace: NamespaceId(1), lock: name("a") };
    let all = FloorChange::PruneNamespace { namespace: NamespaceId(1) };
    let entry = FloorEntry { changes: vec![raise, prune, all] };
    let one = [1, 0, 0, 0, 0, 0, 0, 0];
    let bytes = [
        &b"F\x01\x01"[..],
        &one,
        &[3, 0],
        b"a#2",
        &[3, 0, 0, 0, 0, 0, 0, 0],
        &[2],
        &one,
        &[1, 0],
        b"a",
        &[3],
        &one,
    ];
    assert_eq!(entry.encode(), bytes.concat());
    assert_eq!(FloorEntry::decode(&entry.encode()), Ok(entry));
    let error = FloorEntry::decode(b"L\x01").unwrap_err();
    assert_eq!(error.to_string(), "a control entry of domain 76 is not for locks");
    assert_eq!(Floors::default().encode(), [1, 0, 0, 0, 0][..]);
}

proptest! {
    #[test]
    fn floors_only_rise_and_survive_their_bytes(
        raises in proptest::collection::vec((0..3u64, "[ab](#[0-2])?", 0..20u64), 0..60)
    ) {
        let mut floors = Floors::default();
        for (namespace, text, token) in raises {
            let fence = fence(namespace, &text, token);
            let before = floors.floor(fence.namespace, &fence.name);
            let said = floors.check(&fence);
            let changes = vec![FloorChange::Raise(fence.clone())];
            prop_assert_eq!(floors.apply(&FloorEntry { changes }).remove(0), said.clone());
            let after = floors.floor(fence.namespace, &fence.name);
            prop_assert_eq!(after, before.max(Some(fence.token)));
            prop_assert_eq!(said.is_ok(), before.is_none_or(|before| before <= fence.token));
        }
        prop_assert_eq!(floors.iter().count(), floors.len());
        prop_assert_eq!(Floors::decode(&floors.encode()), Ok(floors));
    }

    #[test]
    fn arbitrary_bytes_are_no_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Floors::decode(&bytes);
        let _ = FloorEntry::decode(&bytes);
        if bytes.len() > 1 {
            bytes[..2].copy_from_slice(b"F\x01");
            if let Ok(entry) = FloorEntry::decode(&bytes) {
                prop_assert_eq!(entry.encode(), bytes.clone());
            }
            bytes[0] = 1;
            if let Ok(floors) = Floors::decode(&bytes) {
                prop_assert_eq!(floors.encode(), bytes);
            }
        }
    }
}
