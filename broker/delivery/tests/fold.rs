//! The fold of control entries against a naive table, its codecs, and hostile bytes.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, BTreeSet};

use plimsoll_delivery::command::{
    Acquired, Buried, QueueCommand, QueueEntry, Reason, Released, SubscriptionId,
};
use plimsoll_delivery::config::{Counting, Mode, Overflow, QueueConfig};
use plimsoll_delivery::offsets::{Run, Runs};
use plimsoll_delivery::state::{Answer, QueueState, Queues, Refusal};
use plimsoll_delivery::time::UnixMs;
use plimsoll_protocol::ids::Offset;
use proptest::prelude::*;

const END: u64 = 60;

fn run() -> impl Strategy<Value = Run> {
    (0..END + 5, 1..12u64)
        .prop_map(|(from, len)| Run { from: Offset(from), upto: Offset(from + len) })
}

fn runs() -> impl Strategy<Value = Runs> {
    proptest::collection::vec(run(), 1..5).prop_map(|runs| runs.into_iter().collect())
}

fn reason() -> impl Strategy<Value = Reason> {
    proptest::sample::select(Reason::ALL.to_vec())
}

/// Offsets that rise, each with something.
fn rising<T: Clone + std::fmt::Debug>(
    item: impl Strategy<Value = T>,
) -> impl Strategy<Value = Vec<(Offset, T)>> {
    proptest::collection::btree_map((0..END + 5).prop_map(Offset), item, 1..6)
        .prop_map(|items| items.into_iter().collect())
}

fn config() -> impl Strategy<Value = QueueConfig> {
    (
        any::<[bool; 4]>(),
        1..33u8,
        1..100_000u32,
        any::<[Option<u64>; 3]>(),
        any::<Option<[u8; 5]>>(),
    )
        .prop_map(|([key, before, single, drop], levels, number, limits, dead)| QueueConfig {
            mode: if key { Mode::KeyShared } else { Mode::Shared },
            counting: if before { Counting::Before } else { Counting::Behind },
            single_active: single,
            levels: if key { 1 } else { levels },
            lease_ms: number,
            attempts_max: number / 7,
            backoff_ms: number / 3,
            backoff_ms_max: number,
            ttl_ms: limits[0],
            length_max: limits[1],
            bytes_max: limits[2],
            overflow: if drop { Overflow::DropHead } else { Overflow::Reject },
            dead_letter: dead.map(|name| name.to_vec().into()),
        })
}

fn command() -> impl Strategy<Value = QueueCommand> {
    let acquired = rising(1..4u32).prop_map(|items| QueueCommand::Acquire {
        items: items
            .into_iter()
            .map(|(offset, attempt)| Acquired { run: Run::one(offset), attempt })
            .collect(),
    });
    let released =
        rising((1..4u32, proptest::option::of(any::<i64>().prop_map(UnixMs)))).prop_map(|items| {
            QueueCommand::Release {
                items: items
                    .into_iter()
                    .map(|(offset, (attempt, delayed_until))| Released {
                        offset,
                        attempt,
                        delayed_until,
                    })
                    .collect(),
            }
        });
    let buried = rising((0..4u32, reason())).prop_map(|items| QueueCommand::DeadLetter {
        items: items
            .into_iter()
            .map(|(offset, (attempts, reason))| Buried { run: Run::one(offset), attempts, reason })
            .collect(),
    });
    prop_oneof![
        4 => runs().prop_map(|runs| QueueCommand::Settle { runs }),
        4 => acquired,
        4 => released,
        2 => buried,
        1 => (reason(), runs()).prop_map(|(reason, runs)| QueueCommand::Drop { reason, runs }),
        1 => (0..END + 5).prop_map(|offset| QueueCommand::Cancel { offset: Offset(offset) }),
        1 => ((0..END + 5).prop_map(Offset), runs())
            .prop_map(|(upto, held)| QueueCommand::Purge { upto, held }),
        1 => config().prop_map(|config| QueueCommand::Configure { config: Box::new(config) }),
    ]
}

/// The same in the plainest way: what is unsettled, and what is noted of it.
#[derive(Default)]
struct Naive {
    unsettled: BTreeSet<u64>,
    /// Attempts, delay, given up.
    notes: BTreeMap<u64, (u32, Option<UnixMs>, bool)>,
    accepted: u64,
    refused: Vec<(u64, Refusal)>,
}

impl Naive {
    fn refusal(&self, offset: u64) -> Option<Refusal> {
        match offset {
            END.. => Some(Refusal::Unknown),
            _ if !self.unsettled.contains(&offset) => Some(Refusal::AlreadySettled),
            _ => None,
        }
    }

    fn end(&mut self, offset: u64) {
        match self.refusal(offset) {
            Some(refusal) => self.refused.push((offset, refusal)),
            None => {
                self.unsettled.remove(&offset);
                self.notes.remove(&offset);
                self.accepted += 1;
            }
        }
    }

    fn note(&mut self, offset: u64, change: impl FnOnce(&mut (u32, Option<UnixMs>, bool)) -> bool) {
        if let Some(refusal) = self.refusal(offset) {
            return self.refused.push((offset, refusal));
        }
        let mut note = self.notes.get(&offset).copied().unwrap_or_default();
        let current = note.0;
        if note.2 {
            self.refused.push((offset, Refusal::DeadLettered));
        } else if change(&mut note) {
            self.notes.insert(offset, note);
            self.accepted += 1;
        } else {
            self.refused.push((offset, Refusal::StaleAttempt { current }));
        }
    }

    fn apply(&mut self, command: &QueueCommand) {
        match command {
            QueueCommand::Settle { runs } | QueueCommand::Drop { runs, .. } => {
                runs.iter().flat_map(|run| run.offsets()).for_each(|offset| self.end(offset.0));
            }
            QueueCommand::Acquire { items } => items.iter().for_each(|item| {
                self.note(item.run.from.0, |note| {
                    let newer = item.attempt > note.0;
                    *note = (note.0.max(item.attempt), if newer { None } else { note.1 }, false);
                    newer
                });
            }),
            QueueCommand::Release { items } => items.iter().for_each(|item| {
                self.note(item.offset.0, |note| {
                    let current = item.attempt >= note.0;
                    if current {
                        *note = (item.attempt, item.delayed_until, false);
                    }
                    current
                });
            }),
            QueueCommand::DeadLetter { items } => items.iter().for_each(|item| {
                self.note(item.run.from.0, |note| {
                    *note = (note.0.max(item.attempts), None, true);
                    true
                });
            }),
            QueueCommand::Cancel { offset } => self.end(offset.0),
            QueueCommand::Purge { upto, held } => {
                let stays: BTreeSet<_> = held.iter().flat_map(|run| run.offsets()).collect();
                for offset in self.unsettled.clone().range(..upto.0) {
                    let buried = self.notes.get(offset).is_some_and(|note| note.2);
                    if !buried && !stays.contains(&Offset(*offset)) {
                        self.end(*offset);
                    }
                }
            }
            QueueCommand::Configure { .. } => self.accepted += 1,
            QueueCommand::Open { .. } | QueueCommand::Close => {}
        }
    }
}

fn by_offset(answer: &Answer) -> Vec<(u64, Refusal)> {
    let each = answer
        .refused
        .iter()
        .flat_map(|refused| refused.run.offsets().map(move |offset| (offset.0, refused.why)));
    let mut all: Vec<_> = each.collect();
    all.sort_by_key(|(offset, _)| *offset);
    all
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fold_is_what_a_naive_table_is(commands in proptest::collection::vec(command(), 1..30)) {
        let mut state = QueueState::new(QueueConfig::default(), Offset(0), Offset(0));
        state.appended(END as u32, 1_000);
        let mut naive = Naive { unsettled: (0..END).collect(), ..Naive::default() };
        for command in &commands {
            let mut answer = Answer::default();
            state.apply(command, UnixMs(7), &mut answer);
            (naive.accepted, naive.refused) = (0, Vec::new());
            naive.apply(command);
            naive.refused.sort_by_key(|(offset, _)| *offset);
            prop_assert_eq!(answer.accepted, naive.accepted, "{:?}", command);
            prop_assert_eq!(by_offset(&answer), naive.refused.clone(), "{:?}", command);
            for offset in 0..END {
                let unsettled = naive.unsettled.contains(&offset);
                prop_assert_eq!(state.is_unsettled(Offset(offset)), unsettled);
                let mark = state.mark(Offset(offset));
                let note = naive.notes.get(&offset).copied().unwrap_or_default();
                prop_assert_eq!((mark.attempts, mark.delayed_until, mark.buried.is_some()), note);
            }
            prop_assert_eq!(state.unsettled(), naive.unsettled.len() as u64);
            prop_assert!(state.unsettled() > 0 || state.unsettled_bytes() == 0);
            let bytes = state.encode();
            let read = QueueState::decode(&bytes).unwrap();
            prop_assert_eq!(&read, &state);
            prop_assert_eq!(read.encode(), bytes);
        }
    }

    #[test]
    fn entry_is_read_as_it_was_written(
        subscription in any::<u32>(),
        commands in proptest::collection::vec(command(), 1..8),
    ) {
        let entry = QueueEntry { subscription: SubscriptionId(subscription), commands };
        let bytes = entry.encode();
        prop_assert_eq!(QueueEntry::decode(&bytes), Ok(entry));
        for cut in 0..bytes.len() {
            // A cut between two commands leaves a shorter entry; any other is refused.
            if let Ok(shorter) = QueueEntry::decode(&bytes[..cut]) {
                prop_assert_eq!(&shorter.encode()[..], &bytes[..cut]);
            }
        }
    }

    #[test]
    fn damaged_bytes_are_refused_or_read_to_what_is_written_back(
        commands in proptest::collection::vec(command(), 1..20),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        noise in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut queues = Queues::new(Offset(0));
        let open = QueueCommand::Open { start: Offset(0), config: Box::default() };
        let mut all = vec![open];
        all.extend(commands);
        let entry = QueueEntry { subscription: SubscriptionId(3), commands: all };
        queues.appended(END as u32, 777);
        queues.apply(&entry, UnixMs(1));
        prop_assert_eq!(Queues::decode(&queues.encode()), Ok(queues.clone()));
        let damage = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes
        };
        let bytes = damage(&queues.encode());
        if let Ok(read) = Queues::decode(&bytes) {
            prop_assert_eq!(&read.encode()[..], &bytes[..]);
        }
        for bytes in [damage(&entry.encode()), [&[1, 1][..], &noise].concat(), noise] {
            if let Ok(read) = QueueEntry::decode(&bytes) {
                prop_assert_eq!(&read.encode()[..], &bytes[..]);
                queues.clone().apply(&read, UnixMs(2));
            }
        }
    }
}

#[test]
fn entry_of_another_domain_or_version_is_told_apart() {
    let close = QueueEntry { subscription: SubscriptionId(0), commands: vec![QueueCommand::Close] };
    let mut bytes = close.encode().to_vec();
    assert_eq!(bytes, [1, 1, 0, 10], "the bytes of an entry are fixed");
    bytes[0] = 9;
    let error = QueueEntry::decode(&bytes).unwrap_err();
    assert_eq!(error.to_string(), "a control entry of domain 9 is not for queues");
    (bytes[0], bytes[1]) = (1, 2);
    let error = QueueEntry::decode(&bytes).unwrap_err();
    assert_eq!(error.to_string(), "the queue's entry has format version 2; this build reads 1");
}

#[test]
fn thousand_messages_settled_in_order_are_a_few_bytes() {
    let runs = (0..1_000).map(|offset| Run::one(Offset(5_000_000 + offset))).collect();
    let commands = vec![QueueCommand::Settle { runs }];
    let entry = QueueEntry { subscription: SubscriptionId(0), commands };
    assert_eq!(entry.encode().len(), 3 + 1 + 1 + 4 + 2);
}

#[test]
fn subscription_begins_where_it_was_opened_and_ends_when_closed() {
    let mut queues = Queues::new(Offset(10));
    let entry = |commands| QueueEntry { subscription: SubscriptionId(4), commands };
    let open = entry(vec![QueueCommand::Open { start: Offset(7), config: Box::default() }]);
    let settle = entry(vec![QueueCommand::Settle { runs: Runs::from_iter([Offset(8)]) }]);
    let unknown = queues.apply(&settle, UnixMs(0));
    assert_eq!(unknown.refused[0].why, Refusal::Unknown);
    assert_eq!(queues.apply(&open, UnixMs(0)).accepted, 1);
    let queue = queues.get(SubscriptionId(4)).unwrap();
    assert_eq!((queue.floor(), queue.end(), queue.unsettled()), (Offset(7), Offset(10), 3));
    queues.appended(2, 20);
    assert_eq!(queues.apply(&settle, UnixMs(0)).accepted, 1);
    assert_eq!(queues.get(SubscriptionId(4)).unwrap().unsettled(), 4);
    assert_eq!(queues.floor(), Some(Offset(7)));
    queues.apply(&entry(vec![QueueCommand::Close]), UnixMs(0));
    assert_eq!((queues.get(SubscriptionId(4)), queues.floor()), (None, None));
}
