//! The delivery machine and the fold against a naive model: random histories of appends, deliveries,
//! settlements, time, deaths of consumers and changes of the leader. What must hold is in `checks.rs`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod checks;
mod world;

use plimsoll_delivery::config::{Counting, Mode, Overflow, QueueConfig};
use plimsoll_delivery::dispatch::Limits;
use proptest::prelude::*;

use world::World;

/// One step of a history. Numbers choose among what is there.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Append {
        count: u8,
        key: u8,
        priority: u8,
        delay: u16,
        life: u16,
    },
    Attach {
        prefetch: u8,
        priority: i8,
    },
    Detach(u8),
    /// Read what is wanted, and deliver what can be.
    Deliver(u8),
    Accept(u8),
    Release {
        which: u8,
        delay: Option<u16>,
    },
    Reject(u8),
    Extend(u8),
    /// Somebody settles what it does not hold.
    SettleStale(u8),
    Pass(u16),
    Propose,
    Commit,
    Refuse,
    /// The leader dies; what it proposed last is in the log or not.
    ChangeLeader {
        committed: bool,
    },
    Cancel(u8),
    Purge,
    CopyDeadLetter,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..6u8, 0..4u8, any::<u8>(), 0..40u16, 0..60u16).prop_map(
            |(count, key, priority, delay, life)| Step::Append {
                count,
                key,
                priority,
                delay: delay.saturating_sub(30) * 50,
                life: life.saturating_sub(50) * 100,
            }
        ),
        2 => (1..5u8, -1..2i8).prop_map(|(prefetch, priority)| Step::Attach { prefetch, priority }),
        1 => any::<u8>().prop_map(Step::Detach),
        10 => (1..8u8).prop_map(Step::Deliver),
        8 => any::<u8>().prop_map(Step::Accept),
        3 => (any::<u8>(), proptest::option::of(0..300u16))
            .prop_map(|(which, delay)| Step::Release { which, delay }),
        1 => any::<u8>().prop_map(Step::Reject),
        1 => any::<u8>().prop_map(Step::Extend),
        1 => any::<u8>().prop_map(Step::SettleStale),
        3 => (1..400u16).prop_map(Step::Pass),
        5 => Just(Step::Propose),
        5 => Just(Step::Commit),
        1 => Just(Step::Refuse),
        1 => any::<bool>().prop_map(|committed| Step::ChangeLeader { committed }),
        1 => any::<u8>().prop_map(Step::Cancel),
        1 => (0..20u8).prop_map(|n| if n == 0 { Step::Purge } else { Step::CopyDeadLetter }),
    ]
}

fn config() -> impl Strategy<Value = QueueConfig> {
    let shape =
        prop_oneof![Just((Mode::Shared, 1)), Just((Mode::Shared, 10)), Just((Mode::KeyShared, 1)),];
    (shape, any::<[bool; 4]>(), 0..4u8, 0..6u32).prop_map(
        |((mode, levels), [before, single, backoff, dead], drop, attempts_max)| QueueConfig {
            mode,
            levels,
            counting: if before { Counting::Before } else { Counting::Behind },
            single_active: single,
            lease_ms: 500,
            attempts_max,
            backoff_ms: if backoff { 40 } else { 0 },
            length_max: (drop == 0).then_some(20),
            overflow: if drop == 0 { Overflow::DropHead } else { Overflow::Reject },
            dead_letter: dead.then(|| "dead".into()),
            ..QueueConfig::default()
        },
    )
}

fn limits() -> impl Strategy<Value = Limits> {
    prop_oneof![
        Just(Limits::default()),
        Just(Limits { window: 4, waiting_max: 2, ..Limits::default() }),
        Just(Limits { window: 3, waiting_max: 1, held_max: 5, parked_max: 6, ..Limits::default() }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        max_shrink_iters: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default() })]

    #[test]
    fn histories_keep_every_promise(
        config in config(),
        limits in limits(),
        steps in proptest::collection::vec(step(), 1..160),
    ) {
        let mut world = World::new(config, limits);
        for step in &steps {
            world.take(step);
        }
        world.finish();
    }
}
