//! Seeds of the simulation: some that stay, some that are new, one that is given.
//!
//! `PLIMSOLL_SEED=S` with the test `one_seed` shows a seed again, with its last events in words.
//! `PLIMSOLL_LONG=1` runs `PLIMSOLL_SEEDS` seeds (default 5,000) of `PLIMSOLL_SECONDS` (default 30)
//! virtual seconds of faults each, from `PLIMSOLL_FIRST_SEED` (default 1,000,000) on.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use plimsoll_simulation::run::{Length, run};

/// Seeds of a usual run, and the virtual time of their faults.
const SEEDS: u64 = 40;
const SHORT: Length = Length { faulty_ms: 3000 };

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// Runs seeds on all cores; fails with the first that went wrong.
fn run_all(first: u64, count: u64, length: Length) {
    let next = AtomicU64::new(first);
    let failures = Mutex::new(Vec::new());
    let (sent, acked, faults) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let began = Instant::now();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || !failures.lock().expect("not poisoned").is_empty() {
                        return;
                    }
                    match run(seed, length, false) {
                        Ok(report) => {
                            sent.fetch_add(report.records.0, Ordering::Relaxed);
                            acked.fetch_add(report.records.1, Ordering::Relaxed);
                            let count = report.faults.iter().map(|(_, n)| u64::from(*n)).sum();
                            faults.fetch_add(count, Ordering::Relaxed);
                        }
                        Err(failure) => failures.lock().expect("not poisoned").push(failure),
                    }
                }
            });
        }
    });
    println!(
        "{count} seeds in {:?}: {} records sent, {} acknowledged, {} faults",
        began.elapsed(),
        sent.into_inner(),
        acked.into_inner(),
        faults.into_inner()
    );
    if let Some(failure) = failures.into_inner().expect("not poisoned").into_iter().next() {
        panic!("{failure}");
    }
}

#[test]
fn seeds_keep_every_invariant() {
    if number("PLIMSOLL_LONG", 0) > 0 {
        let length = Length { faulty_ms: 1000 * number("PLIMSOLL_SECONDS", 30) };
        let first = number("PLIMSOLL_FIRST_SEED", 1_000_000);
        return run_all(first, number("PLIMSOLL_SEEDS", 5000), length);
    }
    run_all(1, number("PLIMSOLL_SEEDS", SEEDS), SHORT);
}

#[test]
fn a_seed_that_is_run_twice_has_the_same_trace() {
    for seed in [7, 8] {
        let (one, two) = (run(seed, SHORT, false), run(seed, SHORT, false));
        match (one, two) {
            (Ok(one), Ok(two)) => assert_eq!(one, two, "seed {seed}"),
            (Err(failure), _) | (_, Err(failure)) => panic!("{failure}"),
        }
    }
}

#[test]
fn one_seed() {
    let Ok(seed) = std::env::var("PLIMSOLL_SEED") else { return };
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().init();
    let length = Length { faulty_ms: 1000 * number("PLIMSOLL_SECONDS", SHORT.faulty_ms / 1000) };
    match run(seed.parse().expect("a number"), length, true) {
        Ok(report) => println!("{report:?}"),
        Err(failure) => panic!("{failure}"),
    }
}
