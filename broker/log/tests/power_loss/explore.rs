//! Cuts the power after each operation of a recorded workload, in every way that a plan names, and
//! checks what the store that finds the image shows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use plimsoll_log::disk::sim::{
    CrashPlan, InFlight, Op, Replay, SimDisk, SplitMix, SurvivingData, SurvivingNames,
};
use plimsoll_log::{Driver, Store};

use crate::failures::Failures;
use crate::observed::{Observed, find_version, observe, shown_version};
use crate::versions::{Mark, Promise, Versions};
use crate::workload::{self, Recorded, go_on};

/// How much of the space of crashes is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Operations on the store in a workload.
    pub(crate) operations: usize,
    /// Random plans beside the fixed ones, at each operation of the disk.
    pub(crate) random_plans: usize,
    /// Who does the store's work in the workload.
    pub(crate) driver: Driver,
}

/// What was looked at.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Images that a store was opened on.
    pub(crate) images: AtomicU64,
    /// Of these, images of a crash inside a recovery.
    pub(crate) in_recovery: AtomicU64,
    /// Of these, images with a direct write cut in the middle.
    pub(crate) torn: AtomicU64,
    /// Of these, what a process finds after `kill -9`.
    pub(crate) killed: AtomicU64,
    /// Operations of the disks that were recorded.
    pub(crate) operations: AtomicU64,
    /// Workloads.
    pub(crate) workloads: AtomicU64,
    /// Of these, workloads in which entries were placed.
    pub(crate) placing: AtomicU64,
    /// Logs that were brought in.
    pub(crate) imported: AtomicU64,
    /// Bytes that were placed.
    pub(crate) placed_bytes: AtomicU64,
    /// What did not pass.
    pub(crate) failures: Failures,
}

impl Tally {
    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn images(&self) -> u64 {
        self.images.load(Ordering::Relaxed)
    }
}

/// Names one image, so that it can be looked at alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ImageId {
    pub(crate) seed: u64,
    pub(crate) position: usize,
    pub(crate) number: usize,
}

impl ImageId {
    fn describe(self, replay: &Replay<'_>, outcome: &Outcome, driver: Driver) -> String {
        let Self { seed, position, number } = self;
        let op = replay.next_op().map_or("the end".to_owned(), ToString::to_string);
        let what = format!(
            "power failed in workload {seed} before operation {position} ({op}), image {number}: \
             {outcome:?}"
        );
        match driver {
            Driver::Manual => format!(
                "{what}\nreplay it alone: PLIMSOLL_REPLAY={seed}:{position}:{number} \
                 cargo test -p plimsoll-log --test power_loss replay -- --nocapture"
            ),
            // It never happens a second time: show what led to it.
            Driver::Threads => {
                let before = &replay.record().ops()[..position];
                let last = &before[before.len().saturating_sub(60)..];
                let ops: Vec<String> = last.iter().map(|op| format!("  {op}")).collect();
                format!("{what}\nbefore that:\n{}", ops.join("\n"))
            }
        }
    }
}

/// Explores the workload of one seed; with `only`, just one of its images.
pub(crate) fn explore(seed: u64, effort: Effort, tally: &Tally, only: Option<ImageId>) {
    let recorded = tally.failures.watch(
        || format!("workload {seed} failed by itself"),
        || workload::record(seed, effort.operations, effort.driver),
    );
    let Some(recorded) = recorded else { return };
    Tally::count(&tally.workloads);
    if recorded.placed_bytes > 0 {
        Tally::count(&tally.placing);
    }
    tally.imported.fetch_add(recorded.imported, Ordering::Relaxed);
    tally.placed_bytes.fetch_add(recorded.placed_bytes, Ordering::Relaxed);
    let ops = recorded.record.ops();
    tally.operations.fetch_add(ops.len() as u64, Ordering::Relaxed);
    let mut replay = recorded.record.replay();
    let mut promise = Promise::default();
    loop {
        let position = replay.position();
        if let Some(Op::Mark { mark }) = replay.next_op() {
            // The image is the same behind the mark, and more was promised there.
            promise.note(Mark::from_number(*mark));
        } else if only.is_none_or(|only| only.position == position) {
            explore_position(&recorded, &replay, promise, seed, effort, tally, only);
        }
        if tally.failures.are_enough() || !replay.advance() {
            break;
        }
    }
}

fn explore_position(
    recorded: &Recorded,
    replay: &Replay<'_>,
    promise: Promise,
    seed: u64,
    effort: Effort,
    tally: &Tally,
    only: Option<ImageId>,
) {
    let position = replay.position();
    let plans = plans(replay, seed, effort.random_plans);
    for (number, plan) in plans.iter().enumerate() {
        let id = ImageId { seed, position, number };
        if only.is_some_and(|only| only != id) {
            continue;
        }
        let (image, after_kill) = match plan {
            Outcome::PowerFailure(plan) => {
                if plan.in_flight != InFlight::Nothing {
                    Tally::count(&tally.torn);
                }
                (replay.image(plan), false)
            }
            Outcome::Kill => {
                Tally::count(&tally.killed);
                (replay.image_after_kill(), true)
            }
        };
        let mut random = SplitMix::new(seed ^ ((position as u64) << 20) ^ number as u64);
        tally.failures.watch(
            || id.describe(replay, plan, effort.driver),
            || check(&recorded.versions, &image, &promise, after_kill, &mut random, tally),
        );
    }
}

#[derive(Debug)]
enum Outcome {
    PowerFailure(CrashPlan),
    Kill,
}

/// What is tried at one position. The same for the same arguments.
fn plans(replay: &Replay<'_>, seed: u64, random_plans: usize) -> Vec<Outcome> {
    let choices = replay.choices();
    let direct = matches!(replay.next_op(), Some(Op::Write { direct: true, .. }));
    let mut plans = vec![CrashPlan::NOTHING];
    let mut random = SplitMix::new(seed.rotate_left(32) ^ replay.position() as u64);
    if choices.writes > 0 || choices.names > 0 {
        plans.push(CrashPlan::EVERYTHING);
    }
    if choices.writes > 0 && choices.names > 0 {
        plans.push(CrashPlan { names: SurvivingNames::Nothing, ..CrashPlan::EVERYTHING });
        plans.push(CrashPlan { names: SurvivingNames::Everything, ..CrashPlan::NOTHING });
    }
    if direct {
        plans.push(CrashPlan { in_flight: InFlight::Head(1), ..CrashPlan::NOTHING });
        plans.push(CrashPlan { in_flight: InFlight::Tail(1), ..CrashPlan::EVERYTHING });
    }
    if choices.writes > 0 || choices.names > 1 || direct {
        for _ in 0..random_plans {
            let mut plan = CrashPlan::random(random.number());
            // Counted within what there is.
            let some = random.below(choices.writes as u64 + 1) as usize;
            plan.data = match plan.data {
                SurvivingData::First(_) => SurvivingData::First(some),
                SurvivingData::Only(_) => SurvivingData::Only(some),
                SurvivingData::AllBut(_) => SurvivingData::AllBut(some),
                data => data,
            };
            if let SurvivingNames::First(_) = plan.names {
                let some = random.below(choices.names as u64 + 1) as usize;
                plan.names = SurvivingNames::First(some);
            }
            if !direct {
                plan.in_flight = InFlight::Nothing;
            }
            if !plans.contains(&plan) {
                plans.push(plan);
            }
        }
    }
    let mut outcomes: Vec<_> = plans.into_iter().map(Outcome::PowerFailure).collect();
    if choices.writes > 0 || choices.names > 0 {
        outcomes.push(Outcome::Kill);
    }
    outcomes
}

/// Opens a store on an image and reads all of it.
fn recover(image: &SimDisk, seed: u64, tally: &Tally) -> (Arc<Store>, Observed) {
    Tally::count(&tally.images);
    let store =
        workload::open(image, seed).unwrap_or_else(|error| panic!("does not open: {error}"));
    let observed = observe(&store).unwrap_or_else(|error| panic!("cannot be read: {error}"));
    let touched = image.stats().cold_touches;
    assert_eq!(touched, 0, "pages of maps were touched before they were populated");
    (store, observed)
}

fn check(
    versions: &Versions,
    image: &SimDisk,
    promise: &Promise,
    after_kill: bool,
    random: &mut SplitMix,
    tally: &Tally,
) {
    if random.chance(15) {
        check_crash_inside_recovery(versions, &image.kill_process(), promise, random, tally);
    }
    let (store, observed) = recover(image, random.number(), tally);
    let found = find_version(&observed, versions, promise, after_kill)
        .unwrap_or_else(|differences| panic!("shows what was not promised:\n{differences}"));
    let shown = shown_version(versions.version(found), &observed);

    // What of memory groups was only in the cache of a killed process can still be lost.
    let safe = if after_kill { 0 } else { 1 };
    let promise = |version| Promise { checkpointed: safe, ..Promise::exactly(version) };

    // It was shown, so it stays, whatever becomes of what the recovery left unsynced.
    if random.chance(30) {
        let plan = CrashPlan::random(random.number());
        let (_, again) = recover(&image.crash(&plan), random.number(), tally);
        expect(&again, &Versions::starting_with(shown.clone()), promise(1), false, || {
            format!("recovered a second time, after {plan:?}")
        });
    }
    // It can be worked with, and what is then acknowledged stays too.
    if random.chance(30) {
        let mut versions = Versions::starting_with(shown);
        go_on(&store, &mut versions, random);
        let live = observe(&store).unwrap_or_else(|error| panic!("cannot be read: {error}"));
        expect(&live, &versions, promise(2), true, || "gone on".to_owned());
        drop(store);
        let plan = CrashPlan::random(random.number());
        let (_, again) = recover(&image.crash(&plan), random.number(), tally);
        expect(&again, &versions, promise(2), false, || format!("gone on, after {plan:?}"));
    }
}

/// The power fails again while the store recovers; nothing new was promised.
fn check_crash_inside_recovery(
    versions: &Versions,
    image: &SimDisk,
    promise: &Promise,
    random: &mut SplitMix,
    tally: &Tally,
) {
    let recording = image.record();
    drop(recover(image, random.number(), tally));
    let record = recording.finish();
    for _ in 0..3 {
        Tally::count(&tally.in_recovery);
        let position = random.below(record.ops().len() as u64 + 1) as usize;
        let plan = CrashPlan::random(random.number());
        let (_, observed) = recover(&record.image(position, &plan), random.number(), tally);
        find_version(&observed, versions, promise, false).unwrap_or_else(|differences| {
            panic!("crashed in recovery at {position} with {plan:?}, then:\n{differences}")
        });
    }
}

fn expect(
    observed: &Observed,
    versions: &Versions,
    promise: Promise,
    after_kill: bool,
    when: impl Fn() -> String,
) {
    find_version(observed, versions, &promise, after_kill)
        .unwrap_or_else(|differences| panic!("{}:\n{differences}", when()));
}
