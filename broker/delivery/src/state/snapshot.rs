//! The state as bytes, for a checkpoint or a new replica. The same state gives the same bytes.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use plimsoll_protocol::ids::Offset;

use super::history::History;
use super::{Mark, QueueState};
use crate::codec::{Cursor, DecodeQueueError, invalid, put_i64, put_u64};
use crate::command::Reason;
use crate::config::QueueConfig;
use crate::settled::Settled;
use crate::time::UnixMs;

const VERSION: u8 = 1;

/// In the byte before a mark's fields: it has a delay; the bits above are the reason's number, or 0.
const DELAYED: u8 = 1;

impl QueueState {
    /// The state as bytes. Nothing protects them; who stores them adds a checksum.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.encode_to(&mut out);
        out.freeze()
    }

    pub(super) fn encode_to(&self, out: &mut BytesMut) {
        out.put_u8(VERSION);
        self.config.encode(out);
        put_u64(out, self.end.0);
        put_u64(out, self.bytes);
        self.settled.encode(out);
        put_u64(out, self.marks.len() as u64);
        let mut last = 0;
        for (&offset, mark) in &self.marks {
            put_u64(out, offset.0 - last);
            last = offset.0;
            let reason = mark.buried.map_or(0, |reason| reason as u8);
            out.put_u8(reason << 1 | u8::from(mark.delayed_until.is_some()));
            put_u64(out, mark.attempts.into());
            if let Some(time) = mark.delayed_until {
                put_i64(out, time.0);
            }
        }
        self.history.encode(out);
    }

    /// Reads what [`QueueState::encode`] wrote. Allocates at most 64 times the bytes.
    ///
    /// # Errors
    /// When the bytes are not an encoded state of a version that this build knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeQueueError> {
        let mut cursor = Cursor::new(bytes);
        let state = Self::decode_from(&mut cursor)?;
        cursor.finish()?;
        Ok(state)
    }

    pub(super) fn decode_from(cursor: &mut Cursor<'_>) -> Result<Self, DecodeQueueError> {
        cursor.version("state", VERSION)?;
        let config = QueueConfig::decode(cursor)?;
        let end = Offset(cursor.u64()?);
        let bytes = cursor.u64()?;
        let settled = Settled::decode(cursor)?;
        if settled.floor() > end || settled.next_settled(end.max(settled.floor())).is_some() {
            return invalid("what is settled is in the log");
        }
        let marks = decode_marks(cursor)?;
        let known = |offset: &Offset| *offset < end && !settled.contains(*offset);
        if !marks.keys().all(known) {
            return invalid("only unsettled messages of the log have marks");
        }
        let history = History::decode(cursor)?;
        Ok(Self { config, settled, end, bytes, marks, history })
    }
}

fn decode_marks(cursor: &mut Cursor<'_>) -> Result<BTreeMap<Offset, Mark>, DecodeQueueError> {
    let mut marks = BTreeMap::new();
    let mut last = None;
    for _ in 0..cursor.count(3)? {
        let offset = cursor.offset_from(last.unwrap_or(Offset(0)))?;
        if last.replace(offset) == Some(offset) {
            return invalid("marks rise");
        }
        let flags = cursor.u8()?;
        let buried = match flags >> 1 {
            0 => None,
            number => match Reason::ALL.into_iter().find(|&reason| reason as u8 == number) {
                None => {
                    let number = number.into();
                    return Err(DecodeQueueError::UnknownValue { what: "reason", number });
                }
                reason => reason,
            },
        };
        let attempts = cursor.u32()?;
        let delayed = flags & DELAYED != 0;
        let delayed_until = if delayed { Some(UnixMs(cursor.i64()?)) } else { None };
        let mark = Mark { attempts, delayed_until, buried };
        if mark == Mark::default() {
            return invalid("a mark says something");
        }
        marks.insert(offset, mark);
    }
    Ok(marks)
}
