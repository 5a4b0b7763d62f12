//! The search for an order of operations that explains every answer.
//!
//! An order is built from the front. What may come next is whatever was invoked before the first
//! completion among the operations that are left; each of them is tried, in depth first, and a state
//! that was met before with the same operations behind it is not entered again.
//!
//! Operations without an answer are what makes this hard: each may come at any later place, or at
//! none. They are tried last, the fewest first, only where an answer needs them; and of two ways to
//! the same place the one that used fewer of them up can do all that the other can, so the other is not
//! entered. Of those that are alike the first comes first ([`Model::is_alike`]), and those that have an
//! effect only once are not counted ([`Model::is_repeatable`]).
//!
//! Source: Wing and Gong, Testing and verifying concurrent objects (1993); Lowe, Testing for
//! linearizability (2017), for the states met before. Taking the fewest unknown ones is ours.

use std::collections::HashMap;

use crate::bits::Bits;
use crate::history::{History, Outcome};
use crate::model::Model;
use crate::verdict::{LAST_MAX, Refutation, Verdict};

/// The states that [`check`] remembers before it gives up: with 1,000 operations some 200 MB. An
/// ordinary history needs one or two for each operation.
pub const STATES_MAX: usize = 500_000;

/// Whether the answers of `history` are those of a server that did one operation at a time, each
/// between its invocation and its completion.
#[must_use]
pub fn check<M: Model>(history: &History<M::Op, M::Ret>, model: &M) -> Verdict {
    check_within(history, model, STATES_MAX)
}

/// As [`check`], with another bound of the states that are remembered. It bounds time and memory: a
/// state costs a bit for each operation and what the model's state holds.
#[must_use]
pub fn check_within<M: Model>(
    history: &History<M::Op, M::Ret>,
    model: &M,
    states_max: usize,
) -> Verdict {
    let mut search = Search::new(history, model);
    if search.answered.is_empty() {
        return Verdict::Linearizable;
    }
    let mut deepest: Option<Refutation> = None;
    let nothing = Bits::none_of(search.pending.len());
    let mut frames = vec![search.frame(model.initial(), nothing, Vec::new(), None)];
    while let Some(frame) = frames.last_mut() {
        if let Some(next) = search.next(frame) {
            search.placed.insert(next.answered);
            // The first frame has placed nothing, each other one operation.
            if frames.len() == search.answered.len() {
                return Verdict::Linearizable;
            }
            if search.remember(&next) {
                frames.push(search.frame(next.state, next.used, next.steps, Some(next.answered)));
            } else {
                search.placed.remove(next.answered);
            }
        } else {
            if deepest.as_ref().is_none_or(|known| known.prefix.len() < length(&frames)) {
                deepest = Some(search.refutation(history, &frames));
            }
            if let Some(placed) = frames.pop().and_then(|frame| frame.placed) {
                search.placed.remove(placed);
            }
        }
        if search.states > states_max {
            return Verdict::TooHard { after: search.states };
        }
    }
    Verdict::NotLinearizable(deepest.expect("the first frame ended without a choice"))
}

/// An operation with an answer. It must be placed.
struct Answered<'a, M: Model> {
    index: usize,
    op: &'a M::Op,
    ret: &'a M::Ret,
    invoked: u64,
    completed: u64,
}

/// An operation without. It may be placed.
struct Pending<'a, M: Model> {
    index: usize,
    op: &'a M::Op,
    invoked: u64,
    /// The number of the last one before it that is alike. That one comes first.
    alike: Option<usize>,
    /// It is never used up.
    is_repeatable: bool,
}

/// A state that is reached by operations without an answer alone.
#[derive(Clone)]
struct Reached<S> {
    state: S,
    /// Of the pending operations, those that were placed so far and are used up by that.
    used: Bits,
    /// The pending operations that were placed since the last answered one, in order.
    steps: Vec<usize>,
}

/// An answered operation that may be placed, behind `steps`.
struct Next<S> {
    answered: usize,
    state: S,
    used: Bits,
    steps: Vec<usize>,
}

/// A place of the order, behind an answered operation.
struct Frame<S> {
    /// That operation; none at the front.
    placed: Option<usize>,
    /// The pending ones placed just before it.
    steps: Vec<usize>,
    /// The answered operations of which one must come next, the first to be completed first.
    candidates: Vec<usize>,
    /// The pending operations below this number may come next too.
    pending_end: usize,
    /// In the order of how many steps they took.
    reached: Vec<Reached<S>>,
    /// The candidates were tried behind so many of `reached`.
    tried: usize,
    /// Another pending operation was added to so many of `reached`.
    extended: usize,
    /// What is left to try, the last first.
    choices: Vec<Next<S>>,
}

struct Search<'a, M: Model> {
    model: &'a M,
    /// By invocation.
    answered: Vec<Answered<'a, M>>,
    /// By invocation.
    pending: Vec<Pending<'a, M>>,
    /// Of the answered ones.
    placed: Bits,
    /// The sets of pending operations with which a state was entered. None holds another.
    entered: HashMap<(Bits, M::State), Vec<Bits>>,
    /// Sets and states that were remembered.
    states: usize,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(history: &'a History<M::Op, M::Ret>, model: &'a M) -> Self {
        let (mut answered, mut pending) = (Vec::new(), Vec::new());
        for (index, operation) in history.operations().iter().enumerate() {
            let (op, invoked) = (&operation.op, operation.invoked);
            match (&operation.outcome, operation.completed) {
                (Outcome::Ok(ret), Some(completed)) => {
                    answered.push(Answered { index, op, ret, invoked, completed });
                }
                (Outcome::Failed, _) => {}
                _ => {
                    let is_repeatable = model.is_repeatable(op);
                    pending.push(Pending { index, op, invoked, alike: None, is_repeatable });
                }
            }
        }
        answered.sort_by_key(|operation| operation.invoked);
        pending.sort_by_key(|operation| operation.invoked);
        for number in 0..pending.len() {
            let op = pending[number].op;
            pending[number].alike =
                pending[..number].iter().rposition(|other| model.is_alike(other.op, op));
        }
        let placed = Bits::none_of(answered.len());
        Self { model, answered, pending, placed, entered: HashMap::new(), states: 0 }
    }

    fn frame(
        &self,
        state: M::State,
        used: Bits,
        steps: Vec<usize>,
        placed: Option<usize>,
    ) -> Frame<M::State> {
        let (candidates, first_completion) = self.candidates();
        let in_time = |pending: &Pending<'_, M>| pending.invoked <= first_completion;
        Frame {
            placed,
            steps,
            candidates,
            pending_end: self.pending.partition_point(in_time),
            reached: vec![Reached { state, used, steps: Vec::new() }],
            tried: 0,
            extended: 0,
            choices: Vec::new(),
        }
    }

    /// What was invoked before the first completion among what is left, and that completion.
    fn candidates(&self) -> (Vec<usize>, u64) {
        let mut first_completion = u64::MAX;
        let mut found = Vec::new();
        for number in self.placed.first_missing()..self.answered.len() {
            if self.placed.has(number) {
                continue;
            }
            let operation = &self.answered[number];
            // Whatever follows was invoked later still, so it is not completed before either.
            if operation.invoked > first_completion {
                break;
            }
            first_completion = first_completion.min(operation.completed);
            found.push(number);
        }
        found.sort_by_key(|number| self.answered[*number].completed);
        (found, first_completion)
    }

    /// What to try next in a frame.
    fn next(&mut self, frame: &mut Frame<M::State>) -> Option<Next<M::State>> {
        loop {
            if let Some(next) = frame.choices.pop() {
                return Some(next);
            }
            if frame.tried < frame.reached.len() {
                frame.tried += 1;
                frame.choices = self.choices(frame, &frame.reached[frame.tried - 1]);
            } else if frame.extended < frame.reached.len() {
                frame.extended += 1;
                self.extend(frame, frame.extended - 1);
            } else {
                return None;
            }
        }
    }

    fn choices(&self, frame: &Frame<M::State>, from: &Reached<M::State>) -> Vec<Next<M::State>> {
        let mut choices = Vec::new();
        for number in frame.candidates.iter().rev() {
            let operation = &self.answered[*number];
            for state in self.model.apply(&from.state, operation.op, Some(operation.ret)) {
                let Reached { used, steps, .. } = from.clone();
                choices.push(Next { answered: *number, state, used, steps });
            }
        }
        choices
    }

    /// Adds to what is reached whatever one more pending operation leads to.
    fn extend(&mut self, frame: &mut Frame<M::State>, from: usize) {
        let from = frame.reached[from].clone();
        for (number, pending) in self.pending[..frame.pending_end].iter().enumerate() {
            let comes_later = pending.alike.is_some_and(|alike| !from.used.has(alike));
            if from.used.has(number) || comes_later {
                continue;
            }
            let mut used = from.used.clone();
            if !pending.is_repeatable {
                used.insert(number);
            }
            for state in self.model.apply(&from.state, pending.op, None) {
                let known =
                    |other: &Reached<M::State>| other.state == state && other.used.is_within(&used);
                if frame.reached.iter().any(known) {
                    continue;
                }
                let mut steps = from.steps.clone();
                steps.push(number);
                frame.reached.push(Reached { state, used: used.clone(), steps });
                self.states += 1;
            }
        }
    }

    /// Whether a state was not entered before with as few pending operations used up.
    fn remember(&mut self, next: &Next<M::State>) -> bool {
        let sets = self.entered.entry((self.placed.clone(), next.state.clone())).or_default();
        if sets.iter().any(|set| set.is_within(&next.used)) {
            return false;
        }
        sets.retain(|set| !next.used.is_within(set));
        sets.push(next.used.clone());
        self.states += 1;
        true
    }

    fn refutation(
        &self,
        history: &History<M::Op, M::Ret>,
        frames: &[Frame<M::State>],
    ) -> Refutation {
        let frame = frames.last().expect("the search has not ended");
        let mut prefix = Vec::new();
        for frame in frames {
            prefix.extend(frame.steps.iter().map(|number| self.pending[*number].index));
            prefix.extend(frame.placed.map(|number| self.answered[number].index));
        }
        let stuck: Vec<usize> =
            frame.candidates.iter().map(|number| self.answered[*number].index).collect();
        let print = |indexes: &[usize]| -> Vec<String> {
            indexes.iter().map(|index| history.operations()[*index].to_string()).collect()
        };
        let last = print(&prefix[prefix.len().saturating_sub(LAST_MAX)..]);
        let (state, next) = (format!("{:?}", frame.reached[0].state), print(&stuck));
        Refutation { prefix, stuck, state, last, next }
    }
}

/// Operations in the order that the frames stand for.
fn length<S>(frames: &[Frame<S>]) -> usize {
    frames.iter().map(|frame| frame.steps.len() + usize::from(frame.placed.is_some())).sum()
}
