//! Random histories of clients and leaders; what must hold in them is in `world.rs`.

use plimsoll_locks::command::Want;
use plimsoll_locks::keeper::Patience;
use proptest::prelude::*;

use super::bed::{lead, permit};
use super::world::World;

/// One step of a history. Numbers choose among what is there.
#[derive(Debug, Clone)]
enum Step {
    Acquire { client: u8, lock: u8, wait: bool, patience: Option<u16> },
    AskAgain(u8),
    Release { client: u8, which: u8 },
    Close(u8),
    Beat(u8),
    DeliverBeat { which: u8, lost: bool },
    Pass(u16),
    Stall(u16),
    Propose,
    Fold,
    Apply,
    Refuse,
    Publish,
    Published,
    Guard { fails: bool },
    ChangeLeader { committed: (bool, bool), ms: u16 },
}

fn step() -> impl Strategy<Value = Step> {
    let client = any::<u8>;
    prop_oneof![
        12 => (client(), 0..5u8, proptest::bool::weighted(0.8), any::<Option<u16>>()).prop_map(
            |(client, lock, wait, patience)| Step::Acquire { client, lock, wait, patience }
        ),
        3 => client().prop_map(Step::AskAgain),
        8 => (client(), any::<u8>()).prop_map(|(client, which)| Step::Release { client, which }),
        1 => client().prop_map(Step::Close),
        12 => client().prop_map(Step::Beat),
        12 => (any::<u8>(), proptest::bool::weighted(0.2))
            .prop_map(|(which, lost)| Step::DeliverBeat { which, lost }),
        8 => (1..900u16).prop_map(Step::Pass),
        1 => (1..20_000u16).prop_map(Step::Stall),
        24 => Just(Step::Propose),
        6 => Just(Step::Fold),
        20 => Just(Step::Apply),
        1 => Just(Step::Refuse),
        4 => Just(Step::Publish),
        4 => Just(Step::Published),
        8 => proptest::bool::weighted(0.1).prop_map(|fails| Step::Guard { fails }),
        1 => (any::<(bool, bool)>(), 0..3_000u16)
            .prop_map(|(committed, ms)| Step::ChangeLeader { committed, ms }),
    ]
}

fn take(world: &mut World, step: &Step) {
    match *step {
        Step::Acquire { client, lock, wait, patience } => {
            let what = match lock {
                0 => ("a", Want::Exclusive, false),
                1 => ("b", Want::Exclusive, true),
                2 => ("c", if client % 3 == 0 { Want::Write } else { Want::Read }, false),
                3 => ("d", permit(2), client % 2 == 0),
                _ => ("e", lead("me"), false),
            };
            let patience = patience.map_or(Patience::Unbounded, |ms| Patience::AtMost(ms.into()));
            world.acquire(client.into(), what, (wait, patience));
        }
        Step::AskAgain(client) => world.ask_again(client.into()),
        Step::Release { client, which } => world.release(client.into(), which.into()),
        Step::Close(client) => world.close(client.into()),
        Step::Beat(client) => world.beat(client.into()),
        Step::DeliverBeat { which, lost } => world.deliver_beat(which.into(), lost),
        Step::Pass(ms) => world.pass(ms.into()),
        Step::Stall(ms) => world.stall(ms.into()),
        Step::Propose => world.propose(),
        Step::Fold => world.fold_next(),
        Step::Apply => world.apply(),
        Step::Refuse => world.refuse(),
        Step::Publish => world.publish(),
        Step::Published => world.published(),
        Step::Guard { fails } => world.guard(fails),
        Step::ChangeLeader { committed, ms } => world.change_leader(committed, ms.into()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1_000,
        max_shrink_iters: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default() })]

    #[test]
    fn leaders_keep_every_promise(steps in proptest::collection::vec(step(), 1..250)) {
        let mut world = World::new(5);
        world.propose();
        world.apply();
        for step in &steps {
            take(&mut world, step);
        }
        world.settle();
    }
}
