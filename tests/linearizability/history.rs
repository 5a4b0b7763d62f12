//! What clients asked for, when, and what they were told: all that a checker may know.

use std::collections::BTreeMap;
use std::fmt;

/// How an operation ended, as its client knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<Ret> {
    /// It took effect between its invocation and its completion, and this was the answer. A refusal
    /// that depends on the state (`Conflict`, `Taken`) is an answer too.
    Ok(Ret),
    /// It surely had no effect and never will, and the answer says nothing about the state.
    Failed,
    /// A timeout, or still open at the end: it may take effect at any time after its invocation, or
    /// never.
    Unknown,
}

/// On whose behalf an operation happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// A client. After an unknown outcome it goes on as another logical client, with the next life,
    /// because what it asked for may still happen beside what it asks for next.
    Client {
        /// Which.
        number: u32,
        /// How many of its outcomes were unknown before.
        life: u32,
    },
    /// Nobody asked: an event within the server, such as the end of a lease.
    Nobody,
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation<Op, Ret> {
    /// Who asked.
    pub caller: Caller,
    /// What for.
    pub op: Op,
    /// When it was sent, or for an event of the server: when it could happen at the earliest.
    pub invoked: u64,
    /// When its client was told. `None` while it is open. Invariant: `invoked <= completed`.
    pub completed: Option<u64>,
    /// How it ended; `Unknown` while it is open.
    pub outcome: Outcome<Ret>,
}

/// Names an operation of the history that gave it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call(usize);

/// Operations with their times.
///
/// Times are of one clock that never goes back and that all clients share, in any unit: virtual time,
/// a counter of events, the monotonic clock of the machine. Of two operations the first comes before
/// the second only if it completed *strictly* before the second was invoked, so a coarse clock makes
/// the judgement milder, never wrong.
///
/// Call [`invoke`](Self::invoke) before the request is sent, and [`complete`](Self::complete) after
/// its answer was received. What was never completed is unknown. A client that tries again by itself
/// is one operation from its first attempt to its last answer if the server recognizes the attempts
/// as one (the same request id), and several operations if it does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History<Op, Ret> {
    operations: Vec<Operation<Op, Ret>>,
    /// Unknown outcomes by client.
    lives: BTreeMap<u32, u32>,
}

impl<Op, Ret> Default for History<Op, Ret> {
    fn default() -> Self {
        Self { operations: Vec::new(), lives: BTreeMap::new() }
    }
}

impl<Op, Ret> History<Op, Ret> {
    /// An empty history.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A client sends an operation.
    pub fn invoke(&mut self, client: u32, at: u64, op: Op) -> Call {
        let life = self.lives.get(&client).copied().unwrap_or(0);
        self.push(Caller::Client { number: client, life }, at, op)
    }

    /// The client is told how an operation ended, or gives it up.
    ///
    /// # Panics
    /// If the operation was completed before, or `at` is before its invocation.
    pub fn complete(&mut self, call: Call, at: u64, outcome: Outcome<Ret>) {
        let operation = &mut self.operations[call.0];
        assert!(operation.completed.is_none(), "an operation is completed once");
        assert!(operation.invoked <= at, "an answer comes after the question");
        if let (Outcome::Unknown, Caller::Client { number, .. }) = (&outcome, operation.caller) {
            *self.lives.entry(number).or_insert(0) += 1;
        }
        operation.completed = Some(at);
        operation.outcome = outcome;
    }

    /// Something that the server may do by itself at any time from `at` on, or never.
    pub fn may_happen(&mut self, at: u64, op: Op) -> Call {
        self.push(Caller::Nobody, at, op)
    }

    /// What was recorded, in the order of recording.
    #[must_use]
    pub fn operations(&self) -> &[Operation<Op, Ret>] {
        &self.operations
    }

    /// How many operations were recorded.
    #[must_use]
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether nothing was recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    fn push(&mut self, caller: Caller, invoked: u64, op: Op) -> Call {
        let outcome = Outcome::Unknown;
        self.operations.push(Operation { caller, op, invoked, completed: None, outcome });
        Call(self.operations.len() - 1)
    }
}

impl<Op, Ret> History<Op, Ret> {
    /// The same operations, with what was asked and answered said otherwise.
    #[must_use]
    pub fn map<OtherOp, OtherRet>(
        self,
        mut change_op: impl FnMut(Op) -> OtherOp,
        mut change_ret: impl FnMut(Ret) -> OtherRet,
    ) -> History<OtherOp, OtherRet> {
        let change = |Operation { caller, op, invoked, completed, outcome }| Operation {
            caller,
            op: change_op(op),
            invoked,
            completed,
            outcome: match outcome {
                Outcome::Ok(ret) => Outcome::Ok(change_ret(ret)),
                Outcome::Failed => Outcome::Failed,
                Outcome::Unknown => Outcome::Unknown,
            },
        };
        let operations = self.operations.into_iter().map(change).collect();
        History { operations, lives: self.lives }
    }
}

impl<Key: Ord, Op, Ret> History<(Key, Op), Ret> {
    /// One history for each key. A history is linearizable if and only if each of these is, and they
    /// are far cheaper to check.
    ///
    /// Source: Herlihy and Wing, Linearizability (1990), theorem 1 (locality).
    #[must_use]
    pub fn by_key(self) -> BTreeMap<Key, History<Op, Ret>> {
        let mut parts: BTreeMap<Key, History<Op, Ret>> = BTreeMap::new();
        for operation in self.operations {
            let (key, op) = operation.op;
            let Operation { caller, invoked, completed, outcome, .. } = operation;
            let part = parts.entry(key).or_default();
            part.operations.push(Operation { caller, op, invoked, completed, outcome });
        }
        for part in parts.values_mut() {
            part.lives.clone_from(&self.lives);
        }
        parts
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client { number, life: 0 } => write!(f, "client {number}"),
            Self::Client { number, life } => write!(f, "client {number}, life {life}"),
            Self::Nobody => f.write_str("the server"),
        }
    }
}

impl<Op: fmt::Debug, Ret: fmt::Debug> fmt::Display for Operation<Op, Ret> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { caller, op, invoked, completed, outcome } = self;
        match (outcome, completed) {
            (Outcome::Ok(ret), Some(at)) => {
                write!(f, "[{invoked}..{at}] {caller}: {op:?} -> {ret:?}")
            }
            (Outcome::Failed, Some(at)) => {
                write!(f, "[{invoked}..{at}] {caller}: {op:?} -> failed")
            }
            _ => write!(f, "[{invoked}..) {caller}: {op:?} -> unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_with_an_unknown_outcome_goes_on_as_another() {
        let mut history = History::<&str, ()>::new();
        let first = history.invoke(1, 0, "put");
        history.complete(first, 5, Outcome::Unknown);
        history.invoke(1, 6, "get");
        history.invoke(2, 6, "get");
        let callers: Vec<_> = history.operations().iter().map(|op| op.caller.to_string()).collect();
        assert_eq!(callers, ["client 1", "client 1, life 1", "client 2"]);
    }

    #[test]
    fn a_history_splits_by_key_and_keeps_times_and_outcomes() {
        let mut history = History::<(&str, u8), u8>::new();
        let a = history.invoke(1, 0, ("a", 1));
        let b = history.invoke(2, 1, ("b", 2));
        history.complete(b, 3, Outcome::Ok(9));
        history.complete(a, 4, Outcome::Failed);
        let parts = history.by_key();
        assert_eq!(parts["a"].operations()[0].to_string(), "[0..4] client 1: 1 -> failed");
        assert_eq!(parts["b"].operations()[0].to_string(), "[1..3] client 2: 2 -> 9");
    }

    #[test]
    #[should_panic(expected = "completed once")]
    fn an_operation_is_not_completed_twice() {
        let mut history = History::<(), ()>::new();
        let call = history.invoke(1, 0, ());
        history.complete(call, 1, Outcome::Unknown);
        history.complete(call, 2, Outcome::Ok(()));
    }
}
