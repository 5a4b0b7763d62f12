//! Bits that decay in the files of a store: each is harmless, or is seen; none is served.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use plimsoll_log::Driver;
use plimsoll_log::disk::sim::{CrashPlan, SimDisk, SplitMix};

use crate::failures::Failures;
use crate::observed::{find_version, observe};
use crate::versions::Promise;
use crate::workload::{self, Recorded};

/// What became of the flips.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    /// Nothing changed for anybody.
    pub(crate) harmless: AtomicU64,
    /// The store did not open, with an error that names the damage.
    pub(crate) refused: AtomicU64,
    /// It opened, and reading the group gave a typed error.
    pub(crate) unreadable: AtomicU64,
    /// What did not pass.
    pub(crate) failures: Failures,
}

impl Verdicts {
    pub(crate) fn total(&self) -> u64 {
        let all = [&self.harmless, &self.refused, &self.unreadable];
        all.into_iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// A store that was closed cleanly, to be damaged.
pub(crate) struct Closed {
    seed: u64,
    recorded: Recorded,
    image: SimDisk,
}

impl Closed {
    pub(crate) fn of_workload(seed: u64, operations: usize) -> Self {
        let recorded = workload::record(seed, operations, Driver::Manual);
        let image = recorded.disk.crash(&CrashPlan::NOTHING);
        Self { seed, recorded, image }
    }

    /// Flips one bit and looks what happens.
    pub(crate) fn flip(&self, number: u64, verdicts: &Verdicts) {
        let mut random = SplitMix::new(self.seed ^ (number << 24));
        let (path, bit) = self.choose(&mut random);
        let seed = self.seed;
        verdicts.failures.watch(
            || {
                format!(
                    "workload {seed}, closed, flip {number}: bit {bit} of {path}\n\
                     replay it alone: PLIMSOLL_REPLAY_FLIP={seed}:{number} \
                     cargo test -p plimsoll-log --test power_loss replay_flip -- --nocapture"
                )
            },
            || self.check(&path, bit, random.clone().number(), verdicts),
        );
    }

    fn check(&self, path: &str, bit: u64, seed: u64, verdicts: &Verdicts) {
        let image = self.image.kill_process();
        image.flip_bit(path, bit).expect("it was chosen inside");
        let verdict = match workload::open(&image, seed) {
            Err(error) => {
                expect_named(&error, path);
                &verdicts.refused
            }
            Ok(store) => match observe(&store) {
                Err(error) => {
                    expect_named(&error, path);
                    let quarantined =
                        |id| store.group(id).is_some_and(|group| group.is_quarantined().is_some());
                    assert!(
                        store.groups().into_iter().any(quarantined),
                        "no group is quarantined after: {error}"
                    );
                    &verdicts.unreadable
                }
                Ok(observed) => {
                    let versions = &self.recorded.versions;
                    let promise = Promise::exactly(versions.newest_id());
                    let all = Promise {
                        in_memory: promise.issued,
                        checkpointed: promise.issued,
                        ..promise
                    };
                    find_version(&observed, versions, &all, false).unwrap_or_else(|differences| {
                        panic!("damage is served as valid:\n{differences}")
                    });
                    &verdicts.harmless
                }
            },
        };
        verdict.fetch_add(1, Ordering::Relaxed);
        self.expect_kept(&image, path);
    }

    /// A bit of some file: each kind of file equally often, and its used beginning more often than
    /// the reserved space behind.
    fn choose(&self, random: &mut SplitMix) -> (String, u64) {
        let files = self.image.files();
        let kinds =
            [".journal", ".segment", ".checkpoint", ".index", "plimsoll.meta", "plimsoll.boot"];
        loop {
            let kind = kinds[random.below(kinds.len() as u64) as usize];
            let of_kind: Vec<_> =
                files.iter().filter(|(path, bytes)| path.ends_with(kind) && *bytes > 0).collect();
            if of_kind.is_empty() {
                continue;
            }
            let (path, bytes) = of_kind[random.below(of_kind.len() as u64) as usize];
            let end = match random.below(3) {
                0 => 600.min(*bytes),
                1 => (12 << 10).min(*bytes),
                _ => *bytes,
            };
            return (path.clone(), random.below(end * 8));
        }
    }

    /// Damaged data is put aside, never deleted.
    fn expect_kept(&self, image: &SimDisk, path: &str) {
        if !path.ends_with(".segment") && !path.ends_with(".checkpoint") {
            return;
        }
        let kept = image.files().iter().any(|(name, _)| name.starts_with(path));
        assert!(kept, "{path} was deleted");
    }
}

/// Damage is told with the file that it is in.
fn expect_named(error: &dyn std::error::Error, path: &str) {
    let name = path.rsplit('/').next().unwrap_or(path);
    assert!(error.to_string().contains(name), "the error does not name {path}: {error}");
}

/// Flips bits of closed stores, spread over `threads` threads.
pub(crate) fn flip_bits(
    seeds: std::ops::Range<u64>,
    per_store: u64,
    operations: usize,
) -> Arc<Verdicts> {
    let verdicts = Arc::new(Verdicts::default());
    let next = AtomicU64::new(seeds.start);
    thread::scope(|scope| {
        for _ in 0..crate::THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || verdicts.failures.are_enough() {
                        return;
                    }
                    let closed = Closed::of_workload(seed, operations);
                    (0..per_store).for_each(|number| closed.flip(number, &verdicts));
                }
            });
        }
    });
    verdicts
}
