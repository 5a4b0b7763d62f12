//! A medium that fails: each call of a workload fails once, with EIO or for lack of space. Nothing is
//! acknowledged after the store stopped, everything acknowledged before is found by the next process,
//! and a full disk is no end.

use std::sync::Arc;

use plimsoll_log::disk::sim::{CrashPlan, Effect, Fault, Operation, SimDisk, SplitMix};
use plimsoll_log::{Driver, Store};

use crate::failures::Failures;
use crate::observed::{find_version, observe, shown_version};
use crate::versions::{Promise, Version, Versions};
use crate::workload::{self, FaultyRun};

/// Calls that write. A failed read is an error of that call alone.
const WRITING: [Operation; 7] = [
    Operation::Create,
    Operation::Rename,
    Operation::Remove,
    Operation::SyncDir,
    Operation::Allocate,
    Operation::Write,
    Operation::Sync,
];

/// What came of the faults.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Runs in which the fault came.
    pub(crate) runs: u64,
    /// Of these, runs in which the store stopped.
    pub(crate) stopped: u64,
    /// Of these, runs in which it went on to the end.
    pub(crate) finished: u64,
    /// Images that were recovered afterwards.
    pub(crate) images: u64,
    pub(crate) failures: Failures,
}

/// Opens and reads a store that was killed, and lets each read fail once: an error that says so, and
/// at the next attempt everything is there.
pub(crate) fn fail_each_read(seed: u64, operations: usize, tally: &mut Tally) {
    let recorded = workload::record(seed, operations, Driver::Manual);
    let ops = recorded.record.ops().len();
    let image = || recorded.record.image(ops - ops / 4, &CrashPlan::EVERYTHING);
    let healthy = image();
    let store = workload::open(&healthy, seed).expect("an undamaged store opens");
    let expected = observe(&store).expect("an undamaged store is readable");
    drop(store);
    for nth in 1..=healthy.calls(Operation::Read) {
        let fault = Fault::new(Operation::Read, nth, Effect::Eio).once();
        let failures = std::mem::take(&mut tally.failures);
        failures.watch(
            || format!("workload {seed}, killed, {fault:?}"),
            || {
                let disk = image();
                disk.inject(fault.clone());
                let (stopped, text) = match workload::open(&disk, seed) {
                    Err(error) => (true, error.to_string()),
                    Ok(store) => match observe(&store) {
                        Err(error) => {
                            let observed = observe(&store).expect("the medium has healed");
                            assert_eq!(observed, expected, "read again");
                            (false, error.to_string())
                        }
                        // An index that cannot be read is made again.
                        Ok(observed) => {
                            assert_eq!(observed, expected);
                            (false, "os error 5".to_owned())
                        }
                    },
                };
                assert!(text.contains("os error 5"), "the error does not say why: {text}");
                tally.runs += 1;
                if stopped {
                    tally.stopped += 1;
                    let store = workload::open(&disk, seed).expect("the medium has healed");
                    let observed = observe(&store).expect("the medium has healed");
                    assert_eq!(observed, expected, "opened again");
                } else {
                    tally.finished += 1;
                }
            },
        );
        tally.failures = failures;
    }
}

/// Runs a workload once for each call that writes, and lets that call fail.
pub(crate) fn fail_each_call(
    seed: u64,
    operations: usize,
    direct_access: bool,
    effects: &[(Effect, u64)],
    tally: &mut Tally,
) {
    let disk = || {
        let disk = SimDisk::new(seed);
        if direct_access { disk } else { disk.without_direct_access() }
    };
    let healthy = disk();
    workload::run_on(healthy.clone(), seed, operations);
    for operation in WRITING {
        for nth in 1..=healthy.calls(operation) {
            for &(effect, times) in effects {
                // The journal's space is reserved: only these can lack it.
                let needs_space = matches!(operation, Operation::Create | Operation::Allocate);
                if effect == Effect::Enospc && !needs_space {
                    continue;
                }
                let fault = Fault { times, ..Fault::new(operation, nth, effect) };
                let failures = std::mem::take(&mut tally.failures);
                failures.watch(
                    || format!("workload {seed}, direct access {direct_access}, {fault:?}"),
                    || {
                        let disk = disk();
                        disk.inject(fault.clone());
                        let run = workload::run_on(disk.clone(), seed, operations);
                        disk.heal();
                        check(&disk, &run, seed ^ nth, effect, tally);
                    },
                );
                tally.failures = failures;
                if tally.failures.are_enough() {
                    return;
                }
            }
        }
    }
}

fn check(disk: &SimDisk, run: &FaultyRun, seed: u64, effect: Effect, tally: &mut Tally) {
    tally.runs += 1;
    if run.has_stopped {
        tally.stopped += 1;
        assert_eq!(effect, Effect::Eio, "a full disk stopped the store");
    } else {
        tally.finished += 1;
    }
    let mut random = SplitMix::new(seed);
    let plans = [CrashPlan::NOTHING, CrashPlan::EVERYTHING, CrashPlan::random(random.number())];
    for plan in plans {
        open_and_check(&disk.crash(&plan), run, false, &mut random, tally);
    }
    // The next process finds the cache as it was, bytes that the medium lost included. What it shows
    // must be on the medium before it shows it, and what it names in a checkpoint before that.
    for with_checkpoint in [false, true] {
        let next = disk.kill_process();
        let (store, shown) = open_and_check(&next, run, true, &mut random, tally);
        let mut promise = Promise::exactly(1);
        if with_checkpoint {
            store.checkpoint_now();
            promise.checkpointed = 1;
        }
        drop(store);
        let versions = Versions::starting_with(shown);
        let after = FaultyRun { promise, versions, has_stopped: false };
        let image = next.crash(&CrashPlan::random(random.number()));
        open_and_check(&image, &after, false, &mut random, tally);
    }
}

/// Opens a store on an image and checks what it shows.
fn open_and_check(
    image: &SimDisk,
    run: &FaultyRun,
    after_kill: bool,
    random: &mut SplitMix,
    tally: &mut Tally,
) -> (Arc<Store>, Version) {
    tally.images += 1;
    let store = workload::open(image, random.number())
        .unwrap_or_else(|error| panic!("does not open: {error}"));
    let observed = observe(&store).unwrap_or_else(|error| panic!("cannot be read: {error}"));
    let found = find_version(&observed, &run.versions, &run.promise, after_kill)
        .unwrap_or_else(|differences| panic!("shows what was not promised:\n{differences}"));
    (store, shown_version(run.versions.version(found), &observed))
}
