//! Power failures, enumerated: short workloads over a store on the recording disk; after each
//! operation of the disk every kind of crash image; on each image a recovery that must show all that
//! was acknowledged, nothing that never was, and nothing damaged.
//!
//! `versions` is the naive twin that knows what may be shown, `workload` the random operations,
//! `observed` reads a store by every way there is, `explore` makes the images, `flips` decays bits.
//! `PLIMSOLL_LONG=1` looks at a hundred times as much. A failure prints how to replay its image alone.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod batches;
mod explore;
mod failures;
mod faults;
mod flips;
mod imports;
mod observed;
mod regressions;
mod versions;
mod workload;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use explore::{Effort, ImageId, Tally, explore};
use flips::{Closed, Verdicts, flip_bits};
use plimsoll_log::Driver;
use plimsoll_log::disk::sim::Effect;

/// The reference machine has two cores.
const THREADS: usize = 2;

const EFFORT: Effort = Effort { operations: 60, random_plans: 4, driver: Driver::Manual };

fn is_long() -> bool {
    std::env::var_os("PLIMSOLL_LONG").is_some_and(|value| value == "1")
}

/// Explores workloads until so many images were looked at.
fn explore_images(effort: Effort, images: u64, first_seed: u64) -> Tally {
    let tally = Tally::default();
    let next = AtomicU64::new(first_seed);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while tally.images() < images && !tally.failures.are_enough() {
                    explore(next.fetch_add(1, Ordering::Relaxed), effort, &tally, None);
                }
            });
        }
    });
    tally
}

#[test]
fn every_crash_image_recovers_to_what_was_promised() {
    let images = if is_long() { 1_000_000 } else { 50_000 };
    let began = std::time::Instant::now();
    let tally = explore_images(EFFORT, images, 1);
    let seconds = began.elapsed().as_secs_f64();
    tally.failures.expect_none();
    println!("{tally:?} in {seconds:.1} s, {:.0} images/s", tally.images() as f64 / seconds);
    assert!(tally.images() >= images);
    // A run in which what it is about never happened proves nothing.
    for seen in [&tally.torn, &tally.killed, &tally.in_recovery] {
        assert!(seen.load(Ordering::Relaxed) > images / 100, "{tally:?}");
    }
    assert!(tally.imported.load(Ordering::Relaxed) > 0, "{tally:?}");
    let (workloads, placing) = (&tally.workloads, &tally.placing);
    let (workloads, placing) = (workloads.load(Ordering::Relaxed), placing.load(Ordering::Relaxed));
    assert!(workloads / 2 < placing && placing < workloads, "{tally:?}");
}

#[test]
fn flipped_bit_is_harmless_or_seen() {
    let (stores, per_store) = if is_long() { (200, 100) } else { (40, 50) };
    let verdicts = flip_bits(1000..1000 + stores, per_store, 80);
    verdicts.failures.expect_none();
    println!("{verdicts:?}");
    assert_eq!(verdicts.total(), stores * per_store);
    for seen in [&verdicts.harmless, &verdicts.refused, &verdicts.unreadable] {
        assert!(seen.load(Ordering::Relaxed) > 0, "{verdicts:?}");
    }
}

/// The three threads do their work side by side here, so that a checkpoint can lie anywhere between
/// the calls. Such a workload cannot be repeated; the failure says what there is to know of it.
#[test]
fn crash_images_of_a_store_with_threads_recover_to_what_was_promised() {
    let images = if is_long() { 200_000 } else { 10_000 };
    let effort = Effort { operations: 60, random_plans: 2, driver: Driver::Threads };
    let tally = explore_images(effort, images, 5000);
    tally.failures.expect_none();
    assert!(tally.images() >= images);
}

#[test]
fn failing_call_costs_nothing_that_was_acknowledged() {
    let seeds = if is_long() { 2000..2060 } else { 2000..2003 };
    let mut tally = faults::Tally::default();
    for seed in seeds {
        for direct_access in [true, false] {
            let effects = [(Effect::Eio, 1)];
            faults::fail_each_call(seed, 40, direct_access, &effects, &mut tally);
        }
    }
    tally.failures.expect_none();
    println!("{tally:?}");
    assert!(tally.stopped > 0 && tally.finished > 0, "{tally:?}");
}

#[test]
fn failing_read_is_an_error_that_passes() {
    let mut tally = faults::Tally::default();
    for seed in if is_long() { 4000..4100 } else { 4000..4006 } {
        faults::fail_each_read(seed, 60, &mut tally);
    }
    tally.failures.expect_none();
    println!("{tally:?}");
    assert!(tally.stopped > 0 && tally.finished > 0, "{tally:?}");
}

#[test]
fn full_disk_is_no_end() {
    let seeds = if is_long() { 3000..3060 } else { 3000..3003 };
    let mut tally = faults::Tally::default();
    for seed in seeds {
        let effects = [(Effect::Enospc, 1), (Effect::Enospc, 5)];
        faults::fail_each_call(seed, 40, true, &effects, &mut tally);
    }
    tally.failures.expect_none();
    println!("{tally:?}");
    assert!(tally.stopped == 0 && tally.finished > 0, "{tally:?}");
}

#[test]
fn same_seed_gives_the_same_workload() {
    let texts = || {
        let recorded = workload::record(7, EFFORT.operations, Driver::Manual);
        recorded.record.ops().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(texts(), texts());
}

fn numbers(variable: &str) -> Option<Vec<u64>> {
    let value = std::env::var(variable).ok()?;
    Some(value.split(':').map(|number| number.parse().expect("numbers, with colons")).collect())
}

#[test]
fn replay() {
    let Some(numbers) = numbers("PLIMSOLL_REPLAY") else { return };
    let [seed, position, number] = numbers[..] else {
        panic!("PLIMSOLL_REPLAY=seed:operation:image")
    };
    let only = ImageId { seed, position: position as usize, number: number as usize };
    let tally = Tally::default();
    explore(seed, EFFORT, &tally, Some(only));
    assert!(tally.images() > 0, "there is no such image");
    tally.failures.expect_none();
}

#[test]
fn replay_flip() {
    let Some(numbers) = numbers("PLIMSOLL_REPLAY_FLIP") else { return };
    let [seed, number] = numbers[..] else { panic!("PLIMSOLL_REPLAY_FLIP=seed:flip") };
    let verdicts = Verdicts::default();
    Closed::of_workload(seed, 80).flip(number, &verdicts);
    verdicts.failures.expect_none();
}
