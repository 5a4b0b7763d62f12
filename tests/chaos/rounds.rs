//! Histories of names that change: each is used for so many turns, then the next one is. So every history is
//! short, as a search through it needs, and a run yields many.

use std::fmt::Debug;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use plimsoll_linearizability::{History, Outcome};

/// The one clock of a run, in nanoseconds from its start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).expect("no run lasts for centuries")
    }
}

/// Time in which something happened, by the clock of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: u64,
    pub(crate) until: u64,
}

impl Span {
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.from <= other.until && other.from <= self.until
    }
}

/// A name and what was asked of it.
#[derive(Debug)]
pub(crate) struct Named<Op, Ret> {
    pub(crate) name: String,
    pub(crate) history: History<Op, Ret>,
}

/// The right to one more operation on a name.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    pub(crate) name: String,
    index: usize,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Rounds<Op, Ret> {
    clock: Clock,
    prefix: &'static str,
    turns_max: usize,
    state: Mutex<State<Op, Ret>>,
}

#[derive(Debug)]
struct State<Op, Ret> {
    /// Of each slot: which name it has now, and how often that was used.
    slots: Vec<(usize, usize)>,
    named: Vec<Named<Op, Ret>>,
}

impl<Op, Ret> Rounds<Op, Ret> {
    /// So many names at a time, each for so many turns.
    pub(crate) fn new(clock: Clock, prefix: &'static str, slots: usize, turns_max: usize) -> Self {
        // Each gets its first name with its first turn.
        let state = State { slots: vec![(0, turns_max); slots], named: Vec::new() };
        Self { clock, prefix, turns_max, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State<Op, Ret>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    /// The name that a slot has now.
    pub(crate) fn turn(&self, slot: usize) -> Turn {
        let mut state = self.state();
        if state.slots[slot].1 >= self.turns_max {
            let index = state.named.len();
            let name = format!("{}-{index}", self.prefix);
            state.named.push(Named { name, history: History::new() });
            state.slots[slot] = (index, 0);
        }
        state.slots[slot].1 += 1;
        let index = state.slots[slot].0;
        Turn { name: state.named[index].name.clone(), index }
    }

    /// Notes an operation that was sent at `invoked` and has come to its end now. When that was.
    pub(crate) fn note(
        &self,
        turn: &Turn,
        client: u32,
        invoked: u64,
        op: Op,
        outcome: Outcome<Ret>,
    ) -> u64 {
        let now = self.clock.now();
        let history = &mut self.state().named[turn.index].history;
        let call = history.invoke(client, invoked, op);
        history.complete(call, now, outcome);
        now
    }

    /// All histories, when nothing is under way any more.
    pub(crate) fn take(&self) -> Vec<Named<Op, Ret>> {
        let mut state = self.state();
        state.slots.fill((0, self.turns_max));
        std::mem::take(&mut state.named)
    }
}

impl<Op: Debug, Ret: Debug> Named<Op, Ret> {
    /// From the first operation to the last answer.
    pub(crate) fn span(&self) -> Option<Span> {
        let operations = self.history.operations();
        let from = operations.iter().map(|operation| operation.invoked).min()?;
        let until = operations.iter().filter_map(|operation| operation.completed).max()?;
        Some(Span { from, until })
    }

    /// How many of its operations have no answer.
    pub(crate) fn unknown(&self) -> usize {
        let operations = self.history.operations().iter();
        operations.filter(|operation| matches!(operation.outcome, Outcome::Unknown)).count()
    }

    /// For people, by the time of asking.
    pub(crate) fn print(&self) -> String {
        let mut operations: Vec<_> = self.history.operations().iter().collect();
        operations.sort_by_key(|operation| operation.invoked);
        let lines: Vec<_> = operations.iter().map(|operation| format!("  {operation}")).collect();
        format!("{}:\n{}", self.name, lines.join("\n"))
    }
}
