//! A key of a key-value view: a register with revisions.
//!
//! Source: DESIGN section 5. A revision is the offset of the record that was written, so the revisions
//! of a key rise strictly, and others may lie between.

mod unseen;

use std::fmt::Debug;
use std::hash::Hash;
use std::marker::PhantomData;

use crate::check::check;
use crate::history::History;
use crate::model::Model;
use crate::rising::Rising;
use crate::verdict::Verdict;

pub use unseen::{Shown, unseen_alike};

/// Judges the history of one key. The verdict's indexes are those of `history`; values that were never
/// read are not printed.
#[must_use]
pub fn check_key<Value: Clone + Debug + Eq + Hash>(
    history: History<KvOp<Value>, KvRet<Value>>,
) -> Verdict {
    check(&unseen_alike(history), &Kv::new())
}

/// One key, absent at first.
///
/// Only linearizable reads belong into its history. Values should differ: a checker cannot tell two
/// writes of one value apart by a read alone.
#[derive(Debug, Clone, Copy)]
pub struct Kv<Value>(PhantomData<Value>);

/// What is asked of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvOp<Value> {
    /// Answered by `Found` or `Absent`.
    Get,
    /// Answered by `Written`.
    Put(Value),
    /// Answered by `Written` if the key was absent, else by `Conflict` with its revision.
    PutIfAbsent(Value),
    /// Answered by `Written` if the key had this revision, else by `Conflict`.
    Cas {
        /// The revision that it must have.
        expected: u64,
        /// What to write.
        value: Value,
    },
    /// Answered by `Written` with the revision of the tombstone, also where the key was absent, or by
    /// `Absent` if it was and nothing was written.
    Delete,
    /// As `Delete`, if the key has this revision; else answered by `Conflict`.
    DeleteIf {
        /// The revision that it must have.
        expected: u64,
    },
    /// The life of this value is over: an event of the server, for
    /// [`may_happen`](crate::History::may_happen). Holds for a key whose values all differ.
    Expire(Value),
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvRet<Value> {
    /// The key has a value.
    Found {
        /// The value.
        value: Value,
        /// The revision at which it was written.
        revision: u64,
    },
    /// It has none.
    Absent,
    /// It was written.
    Written {
        /// At this revision.
        revision: u64,
    },
    /// It was not written.
    Conflict {
        /// The revision that it has instead; `None` if it is absent.
        actual: Option<u64>,
    },
}

/// The key as the next operation finds it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KvState<Value> {
    value: Option<Value>,
    /// The revision of the last write or tombstone.
    last: Rising,
}

impl<Value> Kv<Value> {
    /// The model.
    #[must_use]
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<Value> Default for Kv<Value> {
    fn default() -> Self {
        Self::new()
    }
}

impl<Value: Clone + Debug + Eq + Hash> Model for Kv<Value> {
    type Op = KvOp<Value>;
    type Ret = KvRet<Value>;
    type State = KvState<Value>;

    fn initial(&self) -> KvState<Value> {
        KvState { value: None, last: Rising::Never }
    }

    fn apply(
        &self,
        state: &KvState<Value>,
        op: &KvOp<Value>,
        ret: Option<&KvRet<Value>>,
    ) -> Vec<KvState<Value>> {
        let after = match ret {
            Some(ret) => state.answering(op, ret),
            None => state.unanswered(op),
        };
        after.into_iter().collect()
    }

    fn is_repeatable(&self, op: &KvOp<Value>) -> bool {
        match op {
            // A revision that is past does not come back, nor does a value that only one wrote.
            KvOp::Get | KvOp::Cas { .. } | KvOp::DeleteIf { .. } | KvOp::Expire(_) => true,
            KvOp::Put(_) | KvOp::PutIfAbsent(_) | KvOp::Delete => false,
        }
    }
}

impl<Value: Clone + Eq> KvState<Value> {
    fn answering(&self, op: &KvOp<Value>, ret: &KvRet<Value>) -> Option<Self> {
        match (op, ret) {
            (KvOp::Get, KvRet::Found { value, revision }) => {
                let after = self.with_revision(*revision)?;
                (after.value.as_ref() == Some(value)).then_some(after)
            }
            (KvOp::Get | KvOp::Delete, KvRet::Absent) => self.if_absent(),
            (KvOp::Put(value), KvRet::Written { revision }) => {
                self.written(Some(value), Some(*revision))
            }
            (KvOp::PutIfAbsent(value), KvRet::Written { revision }) => {
                self.if_absent()?.written(Some(value), Some(*revision))
            }
            (KvOp::PutIfAbsent(_), KvRet::Conflict { actual: Some(actual) }) => {
                self.with_revision(*actual)
            }
            (KvOp::Cas { expected, value }, KvRet::Written { revision }) => {
                self.with_revision(*expected)?.written(Some(value), Some(*revision))
            }
            (KvOp::Delete, KvRet::Written { revision }) => self.written(None, Some(*revision)),
            (KvOp::DeleteIf { expected }, KvRet::Written { revision }) => {
                self.with_revision(*expected)?.written(None, Some(*revision))
            }
            (
                KvOp::Cas { expected, .. } | KvOp::DeleteIf { expected },
                KvRet::Conflict { actual },
            ) => match actual {
                Some(actual) if actual == expected => None,
                Some(actual) => self.with_revision(*actual),
                None => self.if_absent(),
            },
            _ => None,
        }
    }

    /// What an operation does if it does anything.
    fn unanswered(&self, op: &KvOp<Value>) -> Option<Self> {
        match op {
            KvOp::Get => None,
            KvOp::Put(value) => self.written(Some(value), None),
            KvOp::PutIfAbsent(value) => self.if_absent()?.written(Some(value), None),
            KvOp::Cas { expected, value } => {
                self.with_revision(*expected)?.written(Some(value), None)
            }
            KvOp::Delete => self.written(None, None),
            KvOp::DeleteIf { expected } => self.with_revision(*expected)?.written(None, None),
            KvOp::Expire(value) => (self.value.as_ref() == Some(value))
                .then_some(Self { value: None, last: self.last }),
        }
    }

    /// The state if there is a value and it was written at this revision.
    fn with_revision(&self, revision: u64) -> Option<Self> {
        let value = Some(self.value.clone()?);
        Some(Self { value, last: self.last.seen(revision)? })
    }

    fn if_absent(&self) -> Option<Self> {
        self.value.is_none().then(|| self.clone())
    }

    fn written(&self, value: Option<&Value>, revision: Option<u64>) -> Option<Self> {
        Some(Self { value: value.cloned(), last: self.last.raised(revision)? })
    }
}
