//! Random entries: what holds after each of them, whatever they say.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use plimsoll_locks::command::{Kind, LockCommand, LocksEntry, Want};
use plimsoll_locks::ids::{LockName, RequestId, SessionId, SessionNumber, Token};
use plimsoll_locks::state::{Answer, Locks, What};
use plimsoll_locks::time::UnixMs;
use plimsoll_protocol::ids::LogIndex;
use proptest::prelude::*;

use super::bed::*;

const LOCKS: [&str; 3] = ["a", "b", "c"];

fn want() -> impl Strategy<Value = Want> {
    prop_oneof![
        3 => Just(Want::Exclusive),
        5 => Just(Want::Read),
        4 => Just(Want::Write),
        5 => Just(permit(2)),
        2 => Just(lead("v")),
    ]
}

fn command() -> impl Strategy<Value = LockCommand> {
    let session = || 1..7u128;
    let request = || 1..60u64;
    let lock = || (0..LOCKS.len()).prop_map(|at| LOCKS[at]);
    prop_oneof![
        3 => session().prop_map(open),
        1 => session().prop_map(close),
        1 => (session(), 0..60u64).prop_map(|(session, seen)| {
            LockCommand::Expire { session: SessionId(session), seen: LogIndex(seen) }
        }),
        12 => (session(), request(), lock(), want())
            .prop_map(|(session, request, lock, want)| acquire(session, request, lock, want)),
        4 => (session(), request(), lock(), want())
            .prop_map(|(session, request, lock, want)| tries(session, request, lock, want)),
        2 => (session(), request()).prop_map(|(session, request)| LockCommand::CancelWait {
            session: SessionId(session), request: RequestId(request)
        }),
        // The token is made one that is held before the entry is folded.
        10 => (session(), lock()).prop_map(|(session, lock)| release(session, 0, lock, 0)),
        1 => (lock(), any::<bool>()).prop_map(|(lock, all)| LockCommand::ForceRelease {
            lock: name(lock), whose: (!all).then_some(SessionNumber(2)), by: label("alice")
        }),
        1 => (lock(), any::<bool>()).prop_map(|(lock, forced)| LockCommand::DeleteLock {
            lock: name(lock), forced, by: label("alice")
        }),
    ]
}

/// Entries of a few sessions and locks.
pub(crate) fn entries(count: Range<usize>) -> impl Strategy<Value = Vec<LocksEntry>> {
    let commands = proptest::collection::vec(command(), 1..7);
    proptest::collection::vec(commands.prop_map(|commands| LocksEntry { commands }), count)
}

/// What was seen of all that happened.
#[derive(Default)]
struct Witness {
    /// The last token of each lock, or permit.
    tokens: BTreeMap<(LockName, Option<u32>), (Token, bool)>,
    /// Number of the next event.
    next_event: u64,
}

/// Who, since which entry: a session may go and come again in one entry.
type Waits = (SessionNumber, UnixMs);

/// Who holds and who waits, in line.
fn line(state: &Locks, lock: &str) -> (Vec<SessionNumber>, Vec<Waits>) {
    let Some(it) = state.describe(&name(lock), usize::MAX) else { return Default::default() };
    let holders = it.holders.iter().map(|it| it.session).collect();
    (holders, it.waiters.iter().map(|it| (it.session, it.since)).collect())
}

fn holders_are_those_that_the_kind_allows(state: &Locks, lock: &str) {
    let Some(it) = state.describe(&name(lock), usize::MAX) else { return };
    let slots: BTreeSet<_> = it.holders.iter().map(|it| it.slot).collect();
    let tokens: BTreeSet<_> = it.holders.iter().map(|it| it.token).collect();
    let one = it.holders.len() <= 1;
    match it.kind {
        Kind::Exclusive | Kind::Election => assert!(one, "{it:?}"),
        Kind::ReadWrite => {
            assert!(one || (it.holders.iter().all(|it| it.reads) && tokens.len() == 1), "{it:?}");
        }
        Kind::Semaphore { permits } => {
            assert!(it.holders.len() <= permits.count() as usize, "{it:?}");
            assert_eq!(slots.len(), it.holders.len(), "{it:?}");
        }
    }
}

impl Witness {
    /// Each grant has a higher token than all before it of the same lock or permit, unless it joins
    /// readers.
    fn tokens_rise(&mut self, state: &Locks, index: u64) {
        let seen = self.next_event;
        for event in state.unpublished().skip_while(|event| event.number < seen) {
            assert_eq!(event.number, self.next_event, "events are counted without gaps");
            self.next_event += 1;
            if event.what != What::Granted {
                continue;
            }
            let who = event.who.as_ref().unwrap();
            let token = who.token.unwrap();
            let it = state.describe(&event.lock, 0).unwrap();
            let reads = it.holders.iter().any(|it| it.session == who.session && it.reads);
            let key = (event.lock.clone(), who.slot);
            let last = self.tokens.insert(key, (token, reads));
            let joins = last == Some((token, true)) && reads;
            let rises = last.is_none_or(|(last, _)| last < token);
            assert!(rises || joins, "{event:?} after {last:?}");
            assert!(token == Token(index) || joins, "{event:?} in entry {index}");
        }
    }
}

/// Nobody who came later is granted while somebody who came before waits.
fn served_in_order(state: &Locks, lock: &str, before: &(Vec<SessionNumber>, Vec<Waits>)) {
    let (held, waited) = before;
    let (holds, waits) = line(state, lock);
    let still: Vec<_> = waited.iter().filter(|it| waits.contains(it)).copied().collect();
    assert_eq!(still[..], waits[..still.len()], "those who wait keep their order");
    let Some(first) = still.first() else { return };
    let first = waited.iter().position(|it| it == first).unwrap();
    for granted in holds.iter().filter(|it| !held.contains(it)) {
        let was = waited.iter().position(|it| it.0 == *granted);
        assert!(was.is_some_and(|was| was < first), "{granted} overtook in lock {lock}");
    }
}

fn with_tokens(entry: LocksEntry, state: &Locks) -> LocksEntry {
    let known = |command| match command {
        LockCommand::Release { session, request, lock, token } => {
            let held = state.held_by(session).find(|(_, held, _)| **held == lock);
            let (request, token) = held.map_or((request, token), |it| (it.0, it.2.token));
            LockCommand::Release { session, request, lock, token }
        }
        LockCommand::Expire { session, seen } => {
            let odd = seen.0 % 2 == 1;
            let last = state.session(session).filter(|_| odd).map(|it| it.renewed);
            LockCommand::Expire { session, seen: last.unwrap_or(seen) }
        }
        other => other,
    };
    LocksEntry { commands: entry.commands.into_iter().map(known).collect() }
}

/// All acquires of an entry, asked once more behind it, are answered alike and change nothing.
fn asked_again(state: &Locks, entry: &LocksEntry, index: u64, answers: &[Answer]) {
    let pairs = entry.commands.iter().zip(answers);
    let acquires = pairs.filter(|(it, _)| matches!(it, LockCommand::Acquire(_)));
    let final_answers = acquires.filter(|(_, answer)| {
        matches!(answer, Answer::Granted(_) | Answer::Taken(_) | Answer::Waiting { .. })
    });
    let (commands, answers): (Vec<_>, Vec<_>) =
        final_answers.map(|(it, answer)| (it.clone(), answer.clone())).unzip();
    let mut copy = state.clone();
    let again = copy.apply(&LocksEntry { commands }, LogIndex(index + 1), UnixMs(0));
    assert_eq!(again.answers, answers);
    assert!(again.changed.is_empty() && again.lost.is_empty());
    assert_eq!(copy.unpublished().len(), state.unpublished().len());
    for lock in LOCKS {
        assert_eq!(copy.describe(&name(lock), 99), state.describe(&name(lock), 99));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1_000,
        max_shrink_iters: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default() })]

    #[test]
    fn entries_keep_every_promise(entries in entries(1..60), cut in any::<proptest::sample::Index>()) {
        let cut = cut.index(entries.len());
        let (mut state, mut twin) = (Locks::default(), Locks::default());
        let mut witness = Witness::default();
        // Everybody has a session at first.
        let begin = LocksEntry { commands: (1..7).map(open).collect() };
        for (entry, number) in std::iter::once(begin).chain(entries).zip(0..) {
            let entry = with_tokens(entry, &state);
            let index = 3 * number as u64 + 1;
            let before = LOCKS.map(|lock| line(&state, lock));
            let applied = state.apply(&entry, LogIndex(index), UnixMs(number as i64));
            let (held, waits) = (LOCKS.map(|lock| line(&state, lock)), &applied.answers);
            prop_assert_eq!(waits.len(), entry.commands.len());
            for ((lock, before), now) in LOCKS.iter().zip(&before).zip(&held) {
                holders_are_those_that_the_kind_allows(&state, lock);
                let deleted = entry.commands.iter().any(|it| matches!(it, LockCommand::DeleteLock { .. }));
                if !deleted {
                    served_in_order(&state, lock, before);
                }
                prop_assert!(!now.0.is_empty() || now.1.is_empty(), "{} is free and waited for", lock);
            }
            witness.tokens_rise(&state, index);
            asked_again(&state, &entry, index, &applied.answers);
            // Another replica, which came from a snapshot in the middle.
            if number == cut {
                twin = Locks::decode(&twin.encode()).unwrap();
            }
            let decoded = LocksEntry::decode(&entry.encode()).unwrap();
            prop_assert_eq!(&twin.apply(&decoded, LogIndex(index), UnixMs(number as i64)), &applied);
            prop_assert_eq!(&twin, &state);
            let bytes = state.encode();
            prop_assert_eq!(&twin.encode(), &bytes);
            // Decoding checks what a state may be, also that no head of a line could be granted.
            let decoded = Locks::decode(&bytes);
            prop_assert_eq!(decoded.as_ref(), Ok(&state));
            if number % 3 == 0 {
                let upto = state.unpublished().next().map_or(0, |event| event.number + 1);
                state.published(upto);
                twin.published(upto);
            }
        }
        // All sessions end: nothing is left but what is to be published.
        let commands = (1..7).map(close).collect();
        state.apply(&LocksEntry { commands }, LogIndex(1_000), UnixMs(0));
        prop_assert!(state.list(None, 9).is_empty());
    }
}
