//! Seeds of the simulation: some that stay, some that are new, one that is given.
//!
//! `PLIMSOLL_SEED=S` with the test `one_seed` shows a seed again; with `PLIMSOLL_VERBOSE=1` its last
//! events in words. `PLIMSOLL_LONG=1` runs `PLIMSOLL_SEEDS` seeds (default 5,000) of
//! `PLIMSOLL_SECONDS` (default 30) virtual seconds of faults each, from `PLIMSOLL_FIRST_SEED` (default
//! 1,000,000) on; with `PLIMSOLL_MINUTES` it begins no seed any more after so long. With the feature
//! `planted`, bugs are put into the product, and must be seen.

#![allow(clippy::print_stdout, reason = "a run tells how to replay it")]

mod chance;
#[cfg(feature = "planted")]
mod planted;
mod style;

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use plimsoll_simulation::checks::Checks;
use plimsoll_simulation::judged::Judged;
use plimsoll_simulation::run::{Length, run};

/// Seeds of a usual run.
const SEEDS: u64 = 200;
/// The virtual time of their faults, in seconds.
const SECONDS: u64 = 3;
/// Histories of locks and keys with faults in them that a usual run must judge.
const HISTORIES_MIN: u64 = 1000;
/// What the line begins with that one seed leaves for the others.
const REPORT: &str = "report:";

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// What is added up over seeds: records sent and acknowledged, faults, messages of the queue settled, histories
/// of locks and keys that were judged, those with faults, their operations and those without an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Outcome {
    trace: u64,
    sent: u64,
    acked: u64,
    faults: u64,
    settled: u64,
    histories: u64,
    with_faults: u64,
    operations: u64,
    unknown: u64,
}

impl Outcome {
    fn read(numbers: &str) -> Option<Self> {
        let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let [trace, sent, acked, faults, settled, histories, with_faults, operations, unknown] =
            *numbers.first_chunk()?;
        Some(Self {
            trace,
            sent,
            acked,
            faults,
            settled,
            histories,
            with_faults,
            operations,
            unknown,
        })
    }

    fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.acked += other.acked;
        self.faults += other.faults;
        self.settled += other.settled;
        self.histories += other.histories;
        self.with_faults += other.with_faults;
        self.operations += other.operations;
        self.unknown += other.unknown;
    }
}

/// Runs a seed in a process of its own; the error is what it said.
fn run_apart(seed: u64, seconds: u64) -> Result<Outcome, String> {
    run_with(seed, seconds, None)
}

/// The same with a bug planted, for all checks to see or for one of them alone.
fn run_with(seed: u64, seconds: u64, planted: Option<(&str, &str)>) -> Result<Outcome, String> {
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(program);
    command.args(["one_seed", "--exact", "--nocapture"]);
    command.env("PLIMSOLL_SEED", seed.to_string()).env("PLIMSOLL_SECONDS", seconds.to_string());
    let (bug, check) = planted.unwrap_or_default();
    command.env("PLIMSOLL_PLANTED", bug).env("PLIMSOLL_CHECK", check);
    let output = command.output().expect("a program can start itself");
    let said = String::from_utf8_lossy(&output.stdout);
    let report = said.lines().find_map(|line| line.split_once(REPORT));
    report
        .and_then(|(_, numbers)| Outcome::read(numbers))
        .ok_or_else(|| format!("{said}{}", String::from_utf8_lossy(&output.stderr)))
}

/// Runs seeds on all cores, and begins none after `until`; fails with the first that went wrong. Gives the sum.
fn run_all(first: u64, count: u64, seconds: u64, until: Option<Instant>) -> Outcome {
    let next = AtomicU64::new(first);
    let failures = Mutex::new(Vec::new());
    let (fine, sum, began) = (AtomicU64::new(0), Mutex::new(Outcome::default()), Instant::now());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while failures.lock().expect("not poisoned").is_empty() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || until.is_some_and(|until| Instant::now() > until) {
                        return;
                    }
                    match run_apart(seed, seconds) {
                        Ok(outcome) => {
                            fine.fetch_add(1, Ordering::Relaxed);
                            sum.lock().expect("not poisoned").add(&outcome);
                        }
                        Err(said) => failures.lock().expect("not poisoned").push(said),
                    }
                }
            });
        }
    });
    if let Some(failure) = failures.into_inner().expect("not poisoned").into_iter().next() {
        panic!("{failure}");
    }
    let sum = sum.into_inner().expect("not poisoned");
    let Outcome { sent, acked, faults, settled, .. } = sum;
    let Outcome { histories, with_faults, operations, unknown, .. } = sum;
    println!(
        "{} seeds in {:?}: {sent} records sent, {acked} acknowledged, {settled} messages settled, {faults} \
         faults",
        fine.into_inner(),
        began.elapsed(),
    );
    // One that is not, or not decided, is a failure.
    println!(
        "{histories} histories of locks and keys judged linearizable, {with_faults} of them with faults; \
         {operations} operations, {unknown} without an answer; 0 too hard"
    );
    sum
}

#[test]
fn seeds_keep_every_invariant() {
    if number("PLIMSOLL_LONG", 0) > 0 {
        let (first, count) =
            (number("PLIMSOLL_FIRST_SEED", 1_000_000), number("PLIMSOLL_SEEDS", 5000));
        let minutes = number("PLIMSOLL_MINUTES", 0);
        let until = (minutes > 0).then(|| Instant::now() + Duration::from_secs(60 * minutes));
        run_all(first, count, number("PLIMSOLL_SECONDS", 30), until);
        return;
    }
    let (first, count) = (number("PLIMSOLL_FIRST_SEED", 1), number("PLIMSOLL_SEEDS", SEEDS));
    let sum = run_all(first, count, SECONDS, None);
    if count >= SEEDS {
        let judged = sum.with_faults;
        assert!(judged >= HISTORIES_MIN, "{judged} histories with faults show too little");
    }
}

#[test]
fn a_seed_that_is_run_twice_has_the_same_trace() {
    for seed in 7..10 {
        match (run_apart(seed, SECONDS), run_apart(seed, SECONDS)) {
            (Ok(one), Ok(two)) => assert_eq!(one, two, "seed {seed}"),
            (Err(said), _) | (_, Err(said)) => panic!("{said}"),
        }
    }
}

/// The process of one seed; does nothing where none is given.
#[test]
fn one_seed() {
    let Ok(seed) = std::env::var("PLIMSOLL_SEED") else { return };
    let seed = seed.parse().expect("a number");
    chance::come_from(seed);
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().init();
    let length = Length { faulty_ms: 1000 * number("PLIMSOLL_SECONDS", SECONDS) };
    #[cfg(feature = "planted")]
    let bug = planted::chosen();
    let checks = match std::env::var("PLIMSOLL_CHECK") {
        Ok(name) if !name.is_empty() => Checks::only(&name),
        _ => Checks::default(),
    };
    let is_verbose = number("PLIMSOLL_VERBOSE", 0) > 0;
    // A thread of its own: what this one has drawn already was not the seed's.
    let outcome = std::thread::spawn(move || {
        #[cfg(feature = "planted")]
        if let Some(bug) = bug {
            bug.plant();
        }
        run(seed, length, checks, is_verbose)
    });
    let outcome = outcome.join();
    match outcome.expect("the simulation itself does not panic") {
        Ok(report) => {
            let faults: u32 = report.faults.iter().map(|(_, count)| count).sum();
            let (sent, acked, seen) = report.records;
            print!("{}", report.recent);
            let (began, ended) = report.reads;
            println!(
                "seed {seed}: {seen} records delivered, {ended} of {began} reads, {:?}",
                report.faults
            );
            println!("seed {seed}: {:?}", report.messages);
            println!("seed {seed}: {:?}", report.judged);
            let (trace, settled) = (report.trace, report.messages.settled);
            let Judged { histories, with_faults, operations, unknown } = report.judged;
            println!(
                "{REPORT} {trace} {sent} {acked} {faults} {settled} {histories} {with_faults} {operations} \
                 {unknown}"
            );
        }
        Err(failure) => panic!("{failure}"),
    }
}
