//! A change of durability rests on a checkpoint: what only segments hold must be on stable storage
//! before the journal goes on behind it.

use std::sync::Arc;

use plimsoll_log::disk::Disk;
use plimsoll_log::disk::sim::{CrashPlan, Effect, Fault, Operation, SimDisk};
use plimsoll_log::{Driver, Durability, GroupOptions, Store};

use crate::support::*;

fn open_sim(disk: &SimDisk, driver: Driver) -> Arc<Store> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    Store::open(shared, small_config(), driver, Box::new(|error| panic!("fatal: {error}"))).unwrap()
}

fn in_memory() -> GroupOptions {
    GroupOptions { durability: Durability::Memory, ..small_segments() }
}

/// A memory group was made durable on a full disk. The checkpoint found no room, and the change went
/// on all the same: what was then acknowledged as durable continued entries of which no checkpoint
/// knew, and whose sync could have been what had failed.
#[test]
fn change_of_durability_waits_for_a_checkpoint_that_is_written() {
    let disk = SimDisk::new(1);
    let store = open_sim(&disk, Driver::Threads);
    let group = store.create_group(GROUP, in_memory()).unwrap();
    append(&group, vec![records(1, 0, 1, 100)]);
    // No checkpoint finds room, whoever asks for it.
    disk.inject(Fault::new(Operation::Create, 1, Effect::Enospc).on(".checkpoint"));
    let attempts = disk.calls(Operation::Create) + 10;
    store.set_options(GROUP, small_segments()).unwrap();
    let (done, told) = completion();
    group.append(vec![records(1, 1, 1, 100)], done).unwrap();
    let mut acknowledged = false;
    while !acknowledged && disk.calls(Operation::Create) < attempts {
        acknowledged = told.try_recv().is_ok();
        std::thread::yield_now();
    }
    if acknowledged {
        let again = open_sim(&disk.crash(&CrashPlan::NOTHING), Driver::Manual);
        assert_eq!(entries(&again.group(GROUP).unwrap(), 0).len(), 2);
    }
    assert!(!acknowledged, "nothing is acknowledged behind a change that is not made");
    disk.heal();
    wait(&told).unwrap();
    let again = open_sim(&disk.crash(&CrashPlan::NOTHING), Driver::Manual);
    assert_eq!(entries(&again.group(GROUP).unwrap(), 0).len(), 2);
    assert_eq!(again.group(GROUP).unwrap().options(), small_segments());
}

/// Both directions, killed and without power at each operation of the disk around the change.
#[test]
fn crash_around_a_change_of_durability_loses_nothing_durable() {
    for (before, after) in [(in_memory(), small_segments()), (small_segments(), in_memory())] {
        let disk = SimDisk::new(2);
        let store = open_sim(&disk, Driver::Manual);
        let group = store.create_group(GROUP, before).unwrap();
        group.append(vec![records(1, 0, 1, 100)], nobody()).unwrap();
        while store.step() {}
        let recording = disk.record();
        let marked = |mark: u64| {
            let disk = disk.clone();
            Box::new(move |outcome: Outcome| {
                outcome.unwrap();
                disk.mark(mark);
            })
        };
        store.set_options(GROUP, after).unwrap();
        group.append(vec![records(1, 1, 1, 100)], marked(2)).unwrap();
        while store.step() {}
        store.set_options(GROUP, before).unwrap();
        group.append(vec![records(1, 2, 1, 100)], marked(3)).unwrap();
        while store.step() {}
        let record = recording.finish();
        let mut replay = record.replay();
        let mut acknowledged = 1;
        while let Some(op) = replay.next_op() {
            if let plimsoll_log::disk::sim::Op::Mark { mark } = op {
                acknowledged = *mark as usize;
            }
            replay.advance();
            let killed = open_sim(&replay.image_after_kill(), Driver::Manual);
            assert!(entries(&killed.group(GROUP).unwrap(), 0).len() >= acknowledged);
            let without_power = open_sim(&replay.image(&CrashPlan::NOTHING), Driver::Manual);
            let group = without_power.group(GROUP).unwrap();
            let found = entries(&group, 0).len();
            // The entry that was last acknowledged is durable where the group then was.
            let last_is_durable = match acknowledged {
                2 => after.durability == Durability::Durable,
                _ => before.durability == Durability::Durable,
            };
            assert!(found >= acknowledged - usize::from(!last_is_durable), "{found}");
        }
        assert_eq!(acknowledged, 3);
    }
}
