//! The power fails at every step of a compaction: afterwards the log is one of before or one of after it,
//! and can be compacted again.

use plimsoll_log::Durability;
use plimsoll_log::disk::Disk;
use plimsoll_log::disk::sim::{CrashPlan, SimDisk, SplitMix, SurvivingNames};

use crate::keyed::*;

fn plans(random: &mut SplitMix) -> Vec<CrashPlan> {
    let mut plans = vec![
        CrashPlan::NOTHING,
        CrashPlan::EVERYTHING,
        CrashPlan { names: SurvivingNames::Nothing, ..CrashPlan::EVERYTHING },
        CrashPlan { names: SurvivingNames::Everything, ..CrashPlan::NOTHING },
    ];
    plans.extend((0..3).map(|_| CrashPlan::random(random.number())));
    plans
}

/// The newest checkpoint is damaged, where there are two: replay begins with the older one, which may name
/// what was replaced since.
fn damage_newest_checkpoint(image: &SimDisk) -> bool {
    let names = image.list("checkpoint").unwrap();
    let mut found = names.iter().filter(|name| name.ends_with(".checkpoint"));
    match (found.next_back(), found.next_back()) {
        (Some(newest), Some(_)) => {
            image.flip_bit(&format!("checkpoint/{newest}"), 4200 * 8).unwrap();
            true
        }
        _ => false,
    }
}

/// What lies there holds all that was promised, and goes on.
fn check_image(keyed: &Keyed, image: SimDisk, random: &mut SplitMix) {
    let mut again = keyed.on(image);
    again.check();
    let before = again.read(0);
    // Also after another crash that takes what the recovery did not sync.
    let plan = CrashPlan::random(random.number());
    let third = again.on(again.disk.crash(&plan));
    third.check();
    assert_eq!(third.read(0), before);
    drop(third);
    if random.chance(30) {
        churn(&mut again, 5);
        again.compact(&EAGER).expect("a second compaction works");
        again.check();
        let last = again.on(again.disk.crash(&CrashPlan::NOTHING));
        last.check();
        assert_eq!(last.read(0), again.read(0));
    }
}

fn explore(seed: u64, durability: Durability) {
    let mut keyed = Keyed::new(seed, durability, 8 * 1024);
    churn(&mut keyed, 60);
    keyed.compact(&EAGER).unwrap().unwrap();
    churn(&mut keyed, 40);
    keyed.settle();
    let mut compaction = keyed.planned(&EAGER).unwrap();
    let recording = keyed.disk.record();
    while !compaction.step(2000, keyed.now_ms).unwrap().done {
        keyed.run();
    }
    drop(compaction);
    keyed.run();
    for _ in 0..4 {
        keyed.store.look_around();
        keyed.run();
    }
    let record = recording.finish();
    keyed.check();
    let mut random = SplitMix::new(seed);
    let mut replay = record.replay();
    let (mut images, mut damaged) = (0, 0);
    loop {
        for plan in plans(&mut random) {
            check_image(&keyed, replay.image(&plan), &mut random);
            images += 1;
        }
        check_image(&keyed, replay.image_after_kill(), &mut random);
        let image = replay.image_after_kill();
        if damage_newest_checkpoint(&image) {
            check_image(&keyed, image, &mut random);
            damaged += 1;
        }
        if !replay.advance() {
            break;
        }
    }
    assert!(images > 200 && damaged > 20, "{images} images, {damaged} with a damaged checkpoint");
}

#[test]
fn power_failure_at_each_step_leaves_a_whole_log() {
    explore(1, Durability::Durable);
}

#[test]
fn power_failure_at_each_step_leaves_a_whole_log_of_a_group_in_memory() {
    explore(2, Durability::Memory);
}
