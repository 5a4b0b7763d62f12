//! Values that no answer shows are all alike.
//!
//! Of the writes that timed out most are never read. One of them may still stand behind a revision that
//! somebody was told of, and then any of them may: a search would try each. Once they are alike it tries
//! one.

use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;

use super::{KvOp, KvRet};
use crate::history::{History, Outcome};

/// A value, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shown<Value> {
    /// An answer shows it, or its life ends.
    Value(Value),
    /// Nobody was ever told of it.
    Unseen,
}

impl<Value: fmt::Debug> fmt::Debug for Shown<Value> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => value.fmt(f),
            Self::Unseen => f.write_str("(never read)"),
        }
    }
}

/// The same operations at the same places, with values that no answer shows made alike. It is
/// linearizable if and only if `history` is.
#[must_use]
pub fn unseen_alike<Value: Clone + Eq + Hash>(
    history: History<KvOp<Value>, KvRet<Value>>,
) -> History<KvOp<Shown<Value>>, KvRet<Shown<Value>>> {
    let mut shown = HashSet::new();
    for operation in history.operations() {
        if let Outcome::Ok(KvRet::Found { value, .. }) = &operation.outcome {
            shown.insert(value.clone());
        }
        // It ends this value and no other.
        if let KvOp::Expire(value) = &operation.op {
            shown.insert(value.clone());
        }
    }
    let show = |value| if shown.contains(&value) { Shown::Value(value) } else { Shown::Unseen };
    history.map(|op| op.map(show), |ret| ret.map(show))
}

impl<Value> KvOp<Value> {
    fn map<Other>(self, change: impl FnOnce(Value) -> Other) -> KvOp<Other> {
        match self {
            Self::Get => KvOp::Get,
            Self::Put(value) => KvOp::Put(change(value)),
            Self::PutIfAbsent(value) => KvOp::PutIfAbsent(change(value)),
            Self::Cas { expected, value } => KvOp::Cas { expected, value: change(value) },
            Self::Delete => KvOp::Delete,
            Self::DeleteIf { expected } => KvOp::DeleteIf { expected },
            Self::Expire(value) => KvOp::Expire(change(value)),
        }
    }
}

impl<Value> KvRet<Value> {
    fn map<Other>(self, change: impl FnOnce(Value) -> Other) -> KvRet<Other> {
        match self {
            Self::Found { value, revision } => KvRet::Found { value: change(value), revision },
            Self::Absent => KvRet::Absent,
            Self::Written { revision } => KvRet::Written { revision },
            Self::Conflict { actual } => KvRet::Conflict { actual },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_values_that_are_read_or_end_are_told_apart() {
        let mut history = History::new();
        for value in [1, 2, 3, 4] {
            history.invoke(value, 0, KvOp::Put(value));
        }
        let read = history.invoke(5, 1, KvOp::Get);
        history.complete(read, 2, Outcome::Ok(KvRet::Found { value: 2, revision: 7 }));
        history.may_happen(9, KvOp::Expire(3));
        let alike = unseen_alike(history);
        let printed: Vec<_> = alike.operations().iter().map(ToString::to_string).collect();
        assert_eq!(
            printed,
            [
                "[0..) client 1: Put((never read)) -> unknown",
                "[0..) client 2: Put(2) -> unknown",
                "[0..) client 3: Put(3) -> unknown",
                "[0..) client 4: Put((never read)) -> unknown",
                "[1..2] client 5: Get -> Found { value: 2, revision: 7 }",
                "[9..) the server: Expire(3) -> unknown",
            ]
        );
    }
}
