//! Bugs that were put into the product: each must be caught within a few seeds, by the rule that it
//! breaks, or by an assertion of the product or of openraft that says the same. Rules that no bug here
//! breaks are shown to fire by the events of a broken product, in their own files.

use std::time::Instant;

use plimsoll_locks::planted::Bug as LockBug;
use plimsoll_log::planted::Bug;
use plimsoll_simulation::checks::{LINEARIZABLE_KEY, LINEARIZABLE_LOCK};

use crate::run_with;

/// Seeds that are tried for each bug.
const SEEDS: u64 = 60;
/// The virtual time of their faults, in seconds: what was not written must be lost, and missed.
const SECONDS: u64 = 10;

/// A bug, by the crate that it is in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Planted {
    Any(Bug),
    OfLocks(LockBug),
}

impl Planted {
    /// Plants it in everything that runs on this thread from now on.
    pub(crate) fn plant(self) {
        match self {
            Self::Any(bug) => plimsoll_log::planted::plant(bug),
            Self::OfLocks(bug) => plimsoll_locks::planted::plant(bug),
        }
    }
}

const LOCK_BUGS: [(&str, LockBug); 5] = [
    ("half-lease", LockBug::HalfLease),
    ("no-grace", LockBug::NoGrace),
    ("grant-twice", LockBug::GrantTwice),
    ("repeat-token", LockBug::RepeatToken),
    ("forget-waiters", LockBug::ForgetWaiters),
];

const BUGS: [(&str, Bug); 14] = [
    ("acknowledge-unwritten", Bug::AcknowledgeUnwritten),
    ("gap-in-offsets", Bug::GapInOffsets),
    ("forget-vote", Bug::ForgetVote),
    ("store-twice", Bug::StoreTwice),
    ("show-uncommitted", Bug::ShowUncommitted),
    ("skip-read-index", Bug::SkipReadIndex),
    ("answer-unsettled", Bug::AnswerUnsettled),
    ("forget-settled", Bug::ForgetSettled),
    ("settle-released", Bug::SettleReleased),
    ("forget-key", Bug::ForgetKey),
    ("pass-stale-fence", Bug::PassStaleFence),
    ("skip-guards", Bug::SkipGuards),
    ("stale-get", Bug::StaleGet),
    ("compare-nothing", Bug::CompareNothing),
];

/// The bug that this process was told to have.
pub(crate) fn chosen() -> Option<Planted> {
    let name = std::env::var("PLIMSOLL_PLANTED").ok().filter(|name| !name.is_empty())?;
    let bugs = BUGS.into_iter().map(|(known, bug)| (known, Planted::Any(bug)));
    let of_locks = LOCK_BUGS.into_iter().map(|(known, bug)| (known, Planted::OfLocks(bug)));
    let found = bugs.chain(of_locks).find(|(known, _)| *known == name).map(|(_, bug)| bug);
    Some(found.unwrap_or_else(|| panic!("no bug is called {name}")))
}

/// What the first seed from `first` on says that fails. Where one check alone judges, a seed that it did not refuse
/// is none: a bug may also keep a world from coming to its end.
fn caught(name: &str, check: &str, first: u64) -> String {
    let began = Instant::now();
    for seed in first..first + SEEDS {
        if let Err(said) = run_with(seed, SECONDS, Some((name, check))) {
            println!("{name}, seed {seed}, {:.1?}: {}", began.elapsed(), what_failed(&said));
            if check.is_empty() || said.contains(&format!(" ms: {check}: ")) {
                return said;
            }
        }
    }
    panic!("{SEEDS} seeds did not see {name}");
}

/// The line that names the seed and what is broken.
fn what_failed(said: &str) -> &str {
    let names_it = |line: &&str| line.starts_with("seed ") && line.contains(" ms: ");
    said.lines().find(names_it).unwrap_or("it panicked")
}

/// One of these is what is said of it.
fn assert_caught(name: &str, by: &[&str]) {
    let said = caught(name, "", 1);
    assert!(by.iter().any(|text| said.contains(text)), "{name}:\n{said}");
}

/// Where nothing else judges, this check sees it, from the seed on that showed it first when this was written.
fn assert_caught_by(check: &str, name: &str, first: u64) {
    caught(name, check, first);
}

#[test]
fn an_acknowledgement_before_the_write_is_caught() {
    let by = [
        ": no_acked_record_lost: ",
        ": leader_completeness: ",
        ": log_matching: ",
        "follower log reversion is not allowed",
    ];
    assert_caught("acknowledge-unwritten", &by);
}

#[test]
fn a_gap_in_offsets_is_caught() {
    let by = [": offsets_dense: ", ": log_matching: ", "offsets count records"];
    assert_caught("gap-in-offsets", &by);
}

#[test]
fn a_batch_that_is_stored_twice_is_caught() {
    assert_caught("store-twice", &[": no_duplicate: "]);
}

#[test]
fn a_vote_that_is_forgotten_is_caught() {
    assert_caught("forget-vote", &[": vote_once: ", ": election_safety: "]);
}

#[test]
fn a_high_watermark_beyond_what_is_committed_is_caught() {
    assert_caught("show-uncommitted", &[": high_watermark_monotonic: "]);
}

#[test]
fn a_linearizable_read_that_asks_nobody_is_caught() {
    assert_caught_by("reads_are_fresh", "skip-read-index", 37);
}

#[test]
fn a_settlement_that_is_answered_before_it_is_committed_is_caught() {
    assert_caught("answer-unsettled", &[": no_settled_message_redelivered_after_ack: "]);
}

#[test]
fn a_settlement_that_a_stored_state_forgets_is_caught() {
    assert_caught("forget-settled", &[": no_settled_message_redelivered_after_ack: "]);
}

#[test]
fn a_message_that_is_settled_without_being_accepted_is_caught() {
    assert_caught("settle-released", &[": every_message_settled_or_available: "]);
}

#[test]
fn a_message_that_does_not_wait_for_its_key_is_caught() {
    assert_caught("forget-key", &[": order_per_key: "]);
}

#[test]
fn fenced_writes_sees_a_write_that_passes_with_a_stale_token() {
    assert_caught_by("fenced_writes", "pass-stale-fence", 3);
}

#[test]
fn guarded_writes_sees_a_grant_that_is_told_before_floors_are_raised() {
    assert_caught_by("guarded_writes", "skip-guards", 3);
}

#[test]
fn mutual_exclusion_sees_a_lease_that_ends_early() {
    assert_caught_by("mutual_exclusion", "half-lease", 3);
}

#[test]
fn mutual_exclusion_sees_a_new_leader_that_ends_leases_at_once() {
    assert_caught_by("mutual_exclusion", "no-grace", 17);
}

#[test]
fn mutual_exclusion_sees_a_lock_that_is_granted_twice() {
    assert_caught_by("mutual_exclusion", "grant-twice", 3);
}

#[test]
fn tokens_rise_sees_a_token_that_is_given_out_twice() {
    assert_caught_by("tokens_rise", "repeat-token", 3);
}

#[test]
fn no_waiter_forgotten_sees_a_lock_that_is_not_handed_over() {
    assert_caught_by("no_waiter_forgotten", "forget-waiters", 3);
}

#[test]
fn the_checker_sees_a_lock_that_is_granted_twice() {
    assert_caught_by(LINEARIZABLE_LOCK, "grant-twice", 3);
}

#[test]
fn the_checker_sees_a_lease_that_ends_early() {
    assert_caught_by(LINEARIZABLE_LOCK, "half-lease", 3);
}

#[test]
fn the_checker_sees_a_key_that_is_read_without_asking_anybody() {
    assert_caught_by(LINEARIZABLE_KEY, "stale-get", 16);
}

#[test]
fn the_checker_sees_a_change_that_compares_nothing() {
    assert_caught_by(LINEARIZABLE_KEY, "compare-nothing", 2);
}
