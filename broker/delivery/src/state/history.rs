//! The last messages that ended otherwise than by being accepted. Only people read it: the answer to
//! "why was my message not delivered?" is most often asked minutes, not months, after the fact.

use std::collections::VecDeque;

use bytes::{BufMut, BytesMut};
use plimsoll_protocol::ids::Offset;

use crate::codec::{Cursor, DecodeQueueError, invalid, put_i64, put_u64};
use crate::command::{Reason, decode_reason};
use crate::offsets::Run;
use crate::time::UnixMs;

/// How many ends are remembered. A run that ended together is one.
pub const ENDED_MAX: usize = 1024;

/// Messages that ended together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub run: Run,
    /// Why.
    pub reason: Reason,
    /// How often they were delivered.
    pub attempts: u32,
    /// When the leader decided it.
    pub at: UnixMs,
}

/// The last [`ENDED_MAX`] of them, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct History(VecDeque<Ended>);

impl History {
    pub(super) fn push(&mut self, ended: Ended) {
        if let Some(last) = self.0.back_mut()
            && last.run.upto == ended.run.from
            && (last.reason, last.attempts, last.at) == (ended.reason, ended.attempts, ended.at)
        {
            last.run.upto = ended.run.upto;
            return;
        }
        if self.0.len() == ENDED_MAX {
            self.0.pop_front();
        }
        self.0.push_back(ended);
    }

    pub(super) fn find(&self, offset: Offset) -> Option<&Ended> {
        self.0.iter().rev().find(|ended| ended.run.contains(offset))
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.0.capacity() * size_of::<Ended>()
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        put_u64(out, self.0.len() as u64);
        for ended in &self.0 {
            put_u64(out, ended.run.from.0);
            put_u64(out, ended.run.len() - 1);
            out.put_u8(ended.reason as u8);
            put_u64(out, ended.attempts.into());
            put_i64(out, ended.at.0);
        }
    }

    pub(super) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, DecodeQueueError> {
        let count = cursor.count(5)?;
        if count > ENDED_MAX {
            return invalid("a bounded number of ends is remembered");
        }
        let mut all = VecDeque::with_capacity(count);
        for _ in 0..count {
            let from = cursor.offset_from(Offset(0))?;
            let end = cursor.offset_from(from)?;
            all.push_back(Ended {
                run: Run { from, upto: Offset(end.0 + 1) },
                reason: decode_reason(cursor)?,
                attempts: cursor.u32()?,
                at: UnixMs(cursor.i64()?),
            });
        }
        Ok(Self(all))
    }
}
