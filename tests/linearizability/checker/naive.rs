//! The naive twin of the checker: tries every order of every choice of operations. For a handful.

use plimsoll_linearizability::{History, Model, Operation, Outcome};

pub(crate) fn is_linearizable<M: Model>(history: &History<M::Op, M::Ret>, model: &M) -> bool {
    let left: Vec<_> =
        history.operations().iter().filter(|op| !matches!(op.outcome, Outcome::Failed)).collect();
    explains(model, &model.initial(), &left)
}

fn explains<M: Model>(model: &M, state: &M::State, left: &[&Operation<M::Op, M::Ret>]) -> bool {
    if left.iter().all(|operation| answer(operation).is_none()) {
        return true;
    }
    (0..left.len()).any(|first| {
        let mut rest = left.to_vec();
        let operation = rest.remove(first);
        let comes_first = rest.iter().all(|other| !precedes(other, operation));
        let ret = answer(operation);
        comes_first
            && model
                .apply(state, &operation.op, ret)
                .iter()
                .any(|after| explains(model, after, &rest))
    })
}

fn answer<Op, Ret>(operation: &Operation<Op, Ret>) -> Option<&Ret> {
    match &operation.outcome {
        Outcome::Ok(ret) => Some(ret),
        Outcome::Failed | Outcome::Unknown => None,
    }
}

/// Whether `one` surely took effect before `other` did.
fn precedes<Op, Ret>(one: &Operation<Op, Ret>, other: &Operation<Op, Ret>) -> bool {
    answer(one).is_some() && one.completed.is_some_and(|completed| completed < other.invoked)
}
