//! Commands as bytes: a number, then the fields. Offsets are written as their distance to the offset
//! before, so a message in order costs 2 to 4 bytes and a run of settled ones as much.

use bytes::{BufMut, BytesMut};
use plimsoll_protocol::ids::Offset;

use super::{Acquired, Buried, QueueCommand, Reason, Released};
use crate::codec::{Cursor, DecodeQueueError, invalid, put_i64, put_option, put_u64};
use crate::config::QueueConfig;
use crate::offsets::{Run, decode_runs, encode_runs};
use crate::time::UnixMs;

impl QueueCommand {
    fn number(&self) -> u8 {
        match self {
            Self::Settle { .. } => 1,
            Self::Acquire { .. } => 2,
            Self::Release { .. } => 3,
            Self::DeadLetter { .. } => 4,
            Self::Drop { .. } => 5,
            Self::Cancel { .. } => 6,
            Self::Purge { .. } => 7,
            Self::Configure { .. } => 8,
            Self::Open { .. } => 9,
            Self::Close => 10,
        }
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.number());
        match self {
            Self::Settle { runs } => encode_runs(runs, out),
            Self::Acquire { items } => {
                let mut list = RisingRuns::begin(items.len(), out);
                for item in items {
                    list.put(item.run);
                    put_u64(list.out, item.attempt.into());
                }
            }
            Self::Release { items } => {
                let mut list = RisingRuns::begin(items.len(), out);
                for item in items {
                    list.put_offset(item.offset);
                    put_u64(list.out, item.attempt.into());
                    put_option(list.out, item.delayed_until, |out, time| put_i64(out, time.0));
                }
            }
            Self::DeadLetter { items } => {
                let mut list = RisingRuns::begin(items.len(), out);
                for item in items {
                    list.put(item.run);
                    put_u64(list.out, item.attempts.into());
                    list.out.put_u8(item.reason as u8);
                }
            }
            Self::Drop { reason, runs } => {
                out.put_u8(*reason as u8);
                encode_runs(runs, out);
            }
            Self::Cancel { offset } => put_u64(out, offset.0),
            Self::Purge { upto, held } => {
                put_u64(out, upto.0);
                encode_runs(held, out);
            }
            Self::Configure { config } => config.encode(out),
            Self::Open { start, config } => {
                put_u64(out, start.0);
                config.encode(out);
            }
            Self::Close => {}
        }
    }

    pub(super) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, DecodeQueueError> {
        Ok(match cursor.u8()? {
            1 => Self::Settle { runs: decode_runs(cursor)? },
            2 => Self::Acquire {
                items: rising(cursor, 3, |cursor, last| {
                    let run = run_behind(cursor, last)?;
                    Ok((run.upto, Acquired { run, attempt: cursor.u32()? }))
                })?,
            },
            3 => Self::Release {
                items: rising(cursor, 3, |cursor, last| {
                    let offset = cursor.offset_from(last)?;
                    let attempt = cursor.u32()?;
                    let delayed_until = cursor.option(Cursor::i64)?.map(UnixMs);
                    Ok((Offset(offset.0 + 1), Released { offset, attempt, delayed_until }))
                })?,
            },
            4 => Self::DeadLetter {
                items: rising(cursor, 4, |cursor, last| {
                    let run = run_behind(cursor, last)?;
                    let attempts = cursor.u32()?;
                    Ok((run.upto, Buried { run, attempts, reason: decode_reason(cursor)? }))
                })?,
            },
            5 => Self::Drop { reason: decode_reason(cursor)?, runs: decode_runs(cursor)? },
            6 => Self::Cancel { offset: cursor.offset_from(Offset(0))? },
            7 => Self::Purge { upto: Offset(cursor.u64()?), held: decode_runs(cursor)? },
            8 => Self::Configure { config: Box::new(QueueConfig::decode(cursor)?) },
            9 => {
                let start = Offset(cursor.u64()?);
                Self::Open { start, config: Box::new(QueueConfig::decode(cursor)?) }
            }
            10 => Self::Close,
            number => {
                let number = number.into();
                return Err(DecodeQueueError::UnknownValue { what: "command", number });
            }
        })
    }
}

/// Writes runs that rise: each as its distance to the end of the one before, and its length less one.
struct RisingRuns<'a> {
    out: &'a mut BytesMut,
    last: u64,
}

impl<'a> RisingRuns<'a> {
    fn begin(count: usize, out: &'a mut BytesMut) -> Self {
        put_u64(out, count as u64);
        Self { out, last: 0 }
    }

    fn put(&mut self, run: Run) {
        assert!(run.from.0 >= self.last && !run.is_empty(), "the items of a command rise");
        put_u64(self.out, run.from.0 - self.last);
        put_u64(self.out, run.len() - 1);
        self.last = run.upto.0;
    }

    fn put_offset(&mut self, offset: Offset) {
        assert!(offset.0 >= self.last, "the items of a command rise");
        put_u64(self.out, offset.0 - self.last);
        self.last = offset.0 + 1;
    }
}

fn rising<T>(
    cursor: &mut Cursor<'_>,
    item_bytes_min: usize,
    mut read: impl FnMut(&mut Cursor<'_>, Offset) -> Result<(Offset, T), DecodeQueueError>,
) -> Result<Vec<T>, DecodeQueueError> {
    let count = cursor.count(item_bytes_min)?;
    if count == 0 {
        return invalid("a command has an item");
    }
    let mut items = Vec::with_capacity(count);
    let mut last = Offset(0);
    for _ in 0..count {
        let (behind, item) = read(cursor, last)?;
        last = behind;
        items.push(item);
    }
    Ok(items)
}

fn run_behind(cursor: &mut Cursor<'_>, last: Offset) -> Result<Run, DecodeQueueError> {
    let from = cursor.offset_from(last)?;
    let end = cursor.offset_from(from)?;
    Ok(Run { from, upto: Offset(end.0 + 1) })
}

pub(crate) fn decode_reason(cursor: &mut Cursor<'_>) -> Result<Reason, DecodeQueueError> {
    let number = cursor.u8()?;
    Reason::ALL
        .into_iter()
        .find(|&reason| reason as u8 == number)
        .ok_or(DecodeQueueError::UnknownValue { what: "reason", number: number.into() })
}
