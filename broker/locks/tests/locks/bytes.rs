//! The bytes of entries and snapshots: fixed, told apart, and harmless when they are none of ours.

use plimsoll_locks::DecodeLocksError;
use plimsoll_locks::command::{LockCommand, LocksEntry, Want};
use plimsoll_locks::ids::{Label, LeaseMs, RequestId, SessionId, SessionNumber, Token, Value};
use plimsoll_locks::state::Locks;
use plimsoll_protocol::ids::LogIndex;
use proptest::prelude::*;

use super::bed::*;
use super::histories::entries;

#[test]
fn entry_of_another_domain_or_version_is_told_apart() {
    let entry = LocksEntry { commands: vec![close(2)] };
    let mut bytes = entry.encode().to_vec();
    let session = [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(bytes, [&b"L\x01\x02"[..], &session].concat(), "the bytes of an entry are fixed");
    bytes[0] = 2;
    let error = LocksEntry::decode(&bytes).unwrap_err();
    assert_eq!(error.to_string(), "a control entry of domain 2 is not for locks");
    (bytes[0], bytes[1]) = (b'L', 2);
    let error = LocksEntry::decode(&bytes).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the entry of locks has format version 2; this build reads 1: use a newer build"
    );
    assert_eq!(LocksEntry::decode(b"L\x01"), Ok(LocksEntry::default()));
    let mut state = Locks::default().encode().to_vec();
    assert_eq!(state, [&[1][..], &[0; 44]].concat(), "the bytes of a state are fixed");
    state.push(0);
    assert_eq!(Locks::decode(&state), Err(DecodeLocksError::TrailingBytes { extra: 1 }));
}

/// A count that the bytes cannot hold is refused before anything is allocated for it.
#[test]
fn list_longer_than_its_bytes_is_refused() {
    let state = [&[1][..], &[0; 32], &[0xff; 4], &[0; 100]].concat();
    let rule = "a list fits into the bytes at hand";
    assert_eq!(Locks::decode(&state), Err(DecodeLocksError::Invalid { rule }));
    assert!(size_of::<LockCommand>() <= 128, "LocksEntry::decode says how much it allocates");
}

/// What no client can do by itself: two holders of one lock, or a line that stands still.
#[test]
fn state_that_breaks_a_rule_is_refused() {
    let mut bed = Bed::new(2);
    bed.one(acquire(1, 1, "a", Want::Exclusive));
    bed.one(acquire(2, 1, "a", Want::Exclusive));
    let good = bed.state.encode().to_vec();
    let refused = (0..good.len()).flat_map(|at| (0..8).map(move |bit| (at, bit)));
    let mut read = 0;
    for (at, bit) in refused {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << bit;
        if let Ok(state) = Locks::decode(&bytes) {
            assert_eq!(state.encode(), bytes, "one encoding per state");
            read += 1;
        }
    }
    assert!(read < good.len() * 8, "some bits break a rule");
}

/// A command of each kind that the histories do not have.
fn rare() -> impl Strategy<Value = LockCommand> {
    let session = || any::<u128>().prop_map(SessionId);
    let texts = || ".{1,9}".prop_filter_map("a label", |text| Label::new(&text).ok());
    prop_oneof![
        (session(), 1_000..=600_000u64, texts()).prop_map(|(session, ms, label)| {
            LockCommand::OpenSession { session, lease: LeaseMs::new(ms).unwrap(), label }
        }),
        (session(), any::<u64>())
            .prop_map(|(session, seen)| LockCommand::Expire { session, seen: LogIndex(seen) }),
        (session(), any::<u64>()).prop_map(|(session, request)| {
            LockCommand::CancelWait { session, request: RequestId(request) }
        }),
        (any::<Option<u64>>(), texts()).prop_map(|(whose, by)| {
            let whose = whose.map(SessionNumber);
            LockCommand::ForceRelease { lock: name("x/y"), whose, by }
        }),
        (session(), any::<u64>(), ".{0,40}").prop_map(|(session, token, value)| {
            let value = Value::new(&value).unwrap();
            LockCommand::SetValue { session, lock: name("a"), token: Token(token), value }
        }),
        (any::<Option<u32>>(), any::<u64>(), 1..5u8).prop_map(|(slot, token, topics)| {
            let topics = (0..topics).map(|number| topic(&format!("t{number}"))).collect();
            LockCommand::GuardsRaised { lock: name("a"), slot, token: Token(token), topics }
        }),
        (any::<bool>(), texts()).prop_map(|(forced, by)| LockCommand::DeleteLock {
            lock: name("a"),
            forced,
            by
        }),
        any::<u32>().prop_map(|value| acquire(1, 2, "a", lead(&value.to_string()))),
        (1..=1_024u32).prop_map(|of| tries(1, 2, "a", permit(of))),
        (0..=16usize).prop_map(|count| {
            let topics: Vec<_> = (0..count).map(|number| format!("t{number}")).collect();
            let topics: Vec<_> = topics.iter().map(String::as_str).collect();
            LockCommand::Acquire(Box::new(guarding(1, 2, "a", &topics)))
        }),
    ]
}

proptest! {
    #[test]
    fn entries_survive_their_bytes(commands in proptest::collection::vec(rare(), 0..20)) {
        let entry = LocksEntry { commands };
        prop_assert_eq!(LocksEntry::decode(&entry.encode()), Ok(entry));
    }

    #[test]
    fn arbitrary_bytes_are_no_panic(mut bytes in proptest::collection::vec(any::<u8>(), 2..300)) {
        let _ = (LocksEntry::decode(&bytes), Locks::decode(&bytes));
        bytes[..2].copy_from_slice(b"L\x01");
        if let Ok(entry) = LocksEntry::decode(&bytes) {
            prop_assert_eq!(entry.encode(), bytes.clone());
        }
        bytes[0] = 1;
        if let Ok(state) = Locks::decode(&bytes) {
            prop_assert_eq!(state.encode(), bytes);
        }
    }

    #[test]
    fn damaged_states_and_entries_are_no_panic(
        entries in entries(1..20),
        at in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<bool>(),
    ) {
        let mut bed = Bed::default();
        for entry in entries {
            let mut bytes = entry.encode().to_vec();
            damage(&mut bytes, at, byte, cut);
            let _ = LocksEntry::decode(&bytes);
            bed.apply(entry.commands);
        }
        let mut bytes = bed.state.encode().to_vec();
        damage(&mut bytes, at, byte, cut);
        // What is read is a state: it folds on without a panic.
        if let Ok(mut state) = Locks::decode(&bytes) {
            prop_assert_eq!(state.encode(), bytes);
            let commands = (1..5).flat_map(|id| [close(id), open(id), acquire(id, 99, "a", Want::Read)]);
            state.apply(&LocksEntry { commands: commands.collect() }, LogIndex(u64::MAX), Default::default());
        }
    }
}

fn damage(bytes: &mut Vec<u8>, at: proptest::sample::Index, byte: u8, cut: bool) {
    let at = at.index(bytes.len());
    bytes[at] ^= byte;
    if cut {
        bytes.truncate(at);
    }
}
