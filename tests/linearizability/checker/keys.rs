//! A correct key-value server for one key, and clients of it.

use plimsoll_linearizability::kv::{KvOp, KvRet};

use crate::interleave::{Dice, Workload};

pub(crate) type Op = KvOp<u64>;
pub(crate) type Ret = KvRet<u64>;

/// No client writes this.
pub(crate) const NEVER_WRITTEN: u64 = u64::MAX;

#[derive(Default)]
pub(crate) struct Keys {
    value: Option<(u64, u64)>,
    log_end: u64,
    values: u64,
    /// The last revision that any client saw: what a compare-and-set expects.
    seen: u64,
}

impl Keys {
    fn write(&mut self, value: Option<u64>, dice: &mut Dice) -> Ret {
        // Other keys are written to the same log.
        let revision = self.log_end + dice.below(3);
        self.log_end = revision + 1;
        self.value = value.map(|value| (value, revision));
        KvRet::Written { revision }
    }

    fn write_if(&mut self, holds: bool, value: Option<u64>, dice: &mut Dice) -> Ret {
        if holds {
            self.write(value, dice)
        } else {
            KvRet::Conflict { actual: self.value.map(|(_, revision)| revision) }
        }
    }
}

impl Workload for Keys {
    type Op = Op;
    type Ret = Ret;

    fn ask(&mut self, _client: u32, _now: u64, dice: &mut Dice) -> Op {
        self.values += 1;
        let (value, expected) = (self.values, self.seen);
        match dice.below(12) {
            0..=3 => KvOp::Get,
            4..=5 => KvOp::Put(value),
            6 => KvOp::PutIfAbsent(value),
            7..=9 => KvOp::Cas { expected, value },
            10 => KvOp::Delete,
            _ => KvOp::DeleteIf { expected },
        }
    }

    fn execute(&mut self, op: &Op, _now: u64, dice: &mut Dice) -> Option<Ret> {
        let revision = self.value.map(|(_, revision)| revision);
        Some(match op {
            KvOp::Get => match self.value {
                Some((value, revision)) => KvRet::Found { value, revision },
                None => KvRet::Absent,
            },
            KvOp::Put(value) => self.write(Some(*value), dice),
            KvOp::PutIfAbsent(value) => self.write_if(revision.is_none(), Some(*value), dice),
            KvOp::Cas { expected, value } => {
                self.write_if(revision == Some(*expected), Some(*value), dice)
            }
            KvOp::Delete if revision.is_none() => KvRet::Absent,
            KvOp::Delete => self.write(None, dice),
            KvOp::DeleteIf { expected } => self.write_if(revision == Some(*expected), None, dice),
            KvOp::Expire(_) => return None,
        })
    }

    fn told(&mut self, _client: u32, _op: &Op, ret: &Ret) {
        if let KvRet::Found { revision, .. } | KvRet::Written { revision } = ret {
            self.seen = *revision;
        }
    }
}
