//! Histories of locks and keys that the linearizability checker judges when a run is over.
//!
//! A history is to be short, so that an answer is found for it whatever happens: of a lock or a key so many
//! operations are recorded, then clients go on with another one in its place.

use std::collections::BTreeMap;
use std::fmt;

use plimsoll_linearizability::kv::check_key;
use plimsoll_linearizability::lock::check_lock;
use plimsoll_linearizability::{History as Operations, Outcome, Verdict};

use crate::checks::{Checks, LINEARIZABLE_KEY, LINEARIZABLE_LOCK};
use crate::history::State;

/// So many operations of a lock or a key begin before another one comes in its place.
const OPERATIONS_MAX: usize = 14;
/// A history with fewer operations is judged, and not counted.
const OPERATIONS_COUNTED_MIN: usize = 5;

/// The how-manieth lock or key in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Round {
    /// Which place.
    pub place: u64,
    /// Counted from 0.
    pub number: u64,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.place, self.number)
    }
}

/// What was asked of the locks or keys of a world, and answered.
#[derive(Debug)]
pub struct Rounds<Op, Ret> {
    current: BTreeMap<u64, u64>,
    histories: BTreeMap<Round, Operations<Op, Ret>>,
}

impl<Op, Ret> Default for Rounds<Op, Ret> {
    fn default() -> Self {
        Self { current: BTreeMap::new(), histories: BTreeMap::new() }
    }
}

impl<Op, Ret> Rounds<Op, Ret> {
    /// What to work with in a place from now on.
    pub fn current(&mut self, place: u64) -> Round {
        let number = self.current.entry(place).or_insert(0);
        let is_full = |history: &Operations<Op, Ret>| history.len() >= OPERATIONS_MAX;
        if self.histories.get(&Round { place, number: *number }).is_some_and(is_full) {
            *number += 1;
        }
        Round { place, number: *number }
    }

    /// Its history.
    pub fn of(&mut self, round: Round) -> &mut Operations<Op, Ret> {
        self.histories.entry(round).or_default()
    }
}

/// When a process was dead or stopped, or hosts were cut off from each other; in milliseconds of the world.
#[derive(Debug, Clone, Default)]
pub struct Troubles(Vec<(u64, u64)>);

impl Troubles {
    /// It was so at that time, which is no earlier than what was noted before.
    pub fn note(&mut self, at_ms: u64) {
        match self.0.last_mut() {
            Some((_, last)) if *last + 1 >= at_ms => *last = at_ms,
            _ => self.0.push((at_ms, at_ms)),
        }
    }

    /// Whether it was so at some time from `from_ms` to `to_ms`.
    #[must_use]
    pub fn within(&self, from_ms: u64, to_ms: u64) -> bool {
        self.0.iter().any(|(from, to)| *from <= to_ms && from_ms <= *to)
    }
}

/// How much was judged, and found to be linearizable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Judged {
    /// Histories of five operations or more.
    pub histories: u64,
    /// Those during which a process died or was stopped, or hosts were cut off from each other.
    pub with_faults: u64,
    /// Operations in all of them.
    pub operations: u64,
    /// Those of which no answer came.
    pub unknown: u64,
}

impl Judged {
    fn count<Op, Ret>(&mut self, history: &Operations<Op, Ret>, troubles: &Troubles) {
        let operations = history.operations();
        if operations.len() < OPERATIONS_COUNTED_MIN {
            return;
        }
        let begin = operations.iter().map(|operation| operation.invoked).min().unwrap_or(0);
        let ends = operations.iter().map(|it| it.completed.unwrap_or(it.invoked));
        self.histories += 1;
        self.with_faults += u64::from(troubles.within(begin, ends.max().unwrap_or(begin)));
        self.operations += operations.len() as u64;
        let unknown = operations.iter().filter(|it| matches!(it.outcome, Outcome::Unknown));
        self.unknown += unknown.count() as u64;
    }
}

/// Judges all histories.
///
/// # Errors
/// One that is not linearizable, or that was not decided, with its operations.
pub(crate) fn judge(state: &State, troubles: &Troubles, checks: &Checks) -> Result<Judged, String> {
    let mut judged = Judged::default();
    if checks.has(LINEARIZABLE_LOCK) {
        for (round, history) in &state.locks.rounds.histories {
            let verdict = check_lock(history.clone(), &state.locks.leases);
            passed(LINEARIZABLE_LOCK, *round, &verdict, history)?;
            judged.count(history, troubles);
        }
    }
    if checks.has(LINEARIZABLE_KEY) {
        for (round, history) in &state.keys.rounds.histories {
            passed(LINEARIZABLE_KEY, *round, &check_key(history.clone()), history)?;
            judged.count(history, troubles);
        }
    }
    Ok(judged)
}

fn passed<Op: fmt::Debug, Ret: fmt::Debug>(
    check: &str,
    round: Round,
    verdict: &Verdict,
    history: &Operations<Op, Ret>,
) -> Result<(), String> {
    if verdict.is_linearizable() {
        return Ok(());
    }
    let operations: Vec<_> = history.operations().iter().map(ToString::to_string).collect();
    Err(format!("{check}: {round}: {verdict}\n  {}", operations.join("\n  ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_ends_after_so_many_operations() {
        let mut rounds = Rounds::<u8, ()>::default();
        for at in 0..OPERATIONS_MAX as u64 {
            let round = rounds.current(3);
            assert_eq!(round, Round { place: 3, number: 0 });
            rounds.of(round).invoke(1, at, 0);
        }
        assert_eq!(rounds.current(3), Round { place: 3, number: 1 });
        assert_eq!(rounds.current(4), Round { place: 4, number: 0 });
    }

    #[test]
    fn troubles_are_seen_where_they_overlap() {
        let mut troubles = Troubles::default();
        [5, 6, 7, 20].into_iter().for_each(|at| troubles.note(at));
        assert_eq!(troubles.0, [(5, 7), (20, 20)]);
        assert!(troubles.within(7, 9) && troubles.within(0, 5) && troubles.within(6, 6));
        assert!(!troubles.within(8, 19) && !troubles.within(21, 99));
    }
}
