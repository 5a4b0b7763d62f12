//! Random histories; what must hold in them is in `checks.rs`.

use proptest::prelude::*;

use super::world::World;

/// One step of a history. Numbers choose among what is there.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Start {
        topics: u8,
        instance: Option<u8>,
    },
    Rejoin(u8),
    Kill(u8),
    Beat(u8),
    /// The heartbeat arrives, its answer does not.
    BeatLost(u8),
    /// A copy of an old heartbeat arrives.
    LateBeat {
        which: u8,
        old: u8,
    },
    LateJoin(u8),
    Leave(u8),
    Push {
        lost: bool,
    },
    Commit(u8),
    LateCommit {
        which: u8,
        old: u8,
    },
    Pass(u16),
    Propose,
    Apply,
    Refuse,
    /// The leader dies; what it proposed last is in the log or not.
    ChangeLeader {
        committed: bool,
    },
    MorePartitions(u8),
    DeleteTopic,
}

fn step() -> impl Strategy<Value = Step> {
    let two = || (any::<u8>(), any::<u8>());
    prop_oneof![
        3 => (0..4u8, proptest::option::weighted(0.4, 0..2u8))
            .prop_map(|(topics, instance)| Step::Start { topics, instance }),
        3 => any::<u8>().prop_map(Step::Rejoin),
        1 => any::<u8>().prop_map(Step::Kill),
        16 => any::<u8>().prop_map(Step::Beat),
        2 => any::<u8>().prop_map(Step::BeatLost),
        3 => two().prop_map(|(which, old)| Step::LateBeat { which, old }),
        1 => any::<u8>().prop_map(Step::LateJoin),
        1 => any::<u8>().prop_map(Step::Leave),
        2 => proptest::bool::weighted(0.3).prop_map(|lost| Step::Push { lost }),
        4 => any::<u8>().prop_map(Step::Commit),
        3 => two().prop_map(|(which, old)| Step::LateCommit { which, old }),
        5 => (1..700u16).prop_map(Step::Pass),
        12 => Just(Step::Propose),
        12 => Just(Step::Apply),
        1 => Just(Step::Refuse),
        1 => any::<bool>().prop_map(|committed| Step::ChangeLeader { committed }),
        1 => (0..20u8).prop_map(|number| match number {
            0 => Step::DeleteTopic,
            _ => Step::MorePartitions(number % 2),
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        max_shrink_iters: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default() })]

    #[test]
    fn histories_keep_every_promise(steps in proptest::collection::vec(step(), 1..200)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        world.settle();
    }
}
