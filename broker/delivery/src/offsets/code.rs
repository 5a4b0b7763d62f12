//! Sets and lists of runs as bytes. The same set gives the same bytes, whatever its history.
//!
//! ```text
//!  runs:  count, then per run: gap to the run before (at least 1, but for the first), length - 1
//!  set:   count of items, then per item: gap in blocks * 4 + form, then
//!           form 0  blocks - 1                 all of them full
//!           form 1  runs of positions          one block of at most 100 runs
//!           form 2  64 words of 8 bytes        one block of more
//! ```
//! All numbers are variable-length, but for the words. A set decodes into at most about 40 times its
//! bytes: an item takes at least 4 bytes here, and about 150 in the map.

use bytes::{BufMut, BytesMut};
use plimsoll_protocol::ids::Offset;

use super::part::{BLOCK, BLOCK_LEN, Part};
use super::{OffsetSet, Run, Runs, Span};
use crate::codec::{Cursor, DecodeQueueError, invalid, put_u64};

/// A block of more runs is written as bits.
const RUNS_WRITTEN_MAX: usize = 100;
const WORDS_BYTES: usize = BLOCK as usize / 8;
const BLOCKS: u64 = u64::MAX / BLOCK + 1;

/// Writes a list of runs.
pub(crate) fn encode_runs(runs: &Runs, out: &mut BytesMut) {
    put_u64(out, runs.run_count() as u64);
    let mut last = 0;
    for run in runs.iter() {
        put_u64(out, run.from.0 - last);
        put_u64(out, run.len() - 1);
        last = run.upto.0;
    }
}

/// Reads what [`encode_runs`] wrote.
pub(crate) fn decode_runs(cursor: &mut Cursor<'_>) -> Result<Runs, DecodeQueueError> {
    let count = cursor.count(2)?;
    let mut runs = Vec::with_capacity(count);
    let mut last = Offset(0);
    for position in 0..count {
        let from = cursor.offset_from(last)?;
        if position > 0 && from == last {
            return invalid("runs do not touch");
        }
        let end = cursor.offset_from(from)?;
        last = Offset(end.0 + 1);
        runs.push(Run { from, upto: last });
    }
    Ok(Runs::from_checked(runs))
}

/// Writes a set.
pub(crate) fn encode_set(set: &OffsetSet, out: &mut BytesMut) {
    put_u64(out, set.spans.len() as u64);
    let mut last = 0;
    for (&block, span) in &set.spans {
        let gap = block - last;
        last = block + 1;
        match span {
            Span::Full(blocks) => {
                put_u64(out, gap * 4);
                put_u64(out, blocks - 1);
                last = block + blocks;
            }
            Span::Part(part) => {
                let runs: Vec<_> = part.runs().collect();
                if runs.len() <= RUNS_WRITTEN_MAX {
                    put_u64(out, gap * 4 + 1);
                    encode_positions(&runs, out);
                } else {
                    put_u64(out, gap * 4 + 2);
                    let words = part.words().expect("so many runs are kept as bits");
                    words.iter().for_each(|&word| out.put_u64_le(word));
                }
            }
        }
    }
}

fn encode_positions(runs: &[(u16, u16)], out: &mut BytesMut) {
    put_u64(out, runs.len() as u64);
    let mut last = 0;
    for &(from, upto) in runs {
        put_u64(out, u64::from(from - last));
        put_u64(out, u64::from(upto - from - 1));
        last = upto;
    }
}

/// Reads what [`encode_set`] wrote.
pub(crate) fn decode_set(cursor: &mut Cursor<'_>) -> Result<OffsetSet, DecodeQueueError> {
    let mut set = OffsetSet::new();
    let mut last = 0u64;
    let mut last_was_full = false;
    for _ in 0..cursor.count(2)? {
        let head = cursor.u64()?;
        let (gap, form) = (head / 4, head % 4);
        let block = last + gap;
        if block >= BLOCKS {
            return invalid("offsets are below the largest number");
        }
        last = block + 1;
        let full = form == 0;
        if full && last_was_full && gap == 0 {
            return invalid("full items do not touch");
        }
        last_was_full = full;
        let part = match form {
            0 => {
                let more = cursor.u64()?;
                if more >= BLOCKS - block - 1 {
                    return invalid("offsets are below the largest number");
                }
                last += more;
                set.len += (more + 1) * BLOCK;
                set.spans.insert(block, Span::Full(more + 1));
                continue;
            }
            1 => decode_positions(cursor)?,
            2 => decode_words(cursor)?,
            _ => return invalid("a set has items of three forms"),
        };
        if part.len() == 0 || part.len() == BLOCK_LEN {
            return invalid("a part is neither empty nor full");
        }
        set.len += u64::from(part.len());
        set.spans.insert(block, Span::Part(part));
    }
    Ok(set)
}

fn decode_positions(cursor: &mut Cursor<'_>) -> Result<Part, DecodeQueueError> {
    let count = cursor.count(2)?;
    if count > RUNS_WRITTEN_MAX {
        return invalid("a block of many runs is written as bits");
    }
    let mut part = Part::empty();
    let mut last = 0;
    for position in 0..count {
        let from = last + cursor.u64()?.min(BLOCK);
        let upto = from + cursor.u64()?.min(BLOCK) + 1;
        if upto > BLOCK || (position > 0 && from == last) {
            return invalid("runs of a block rise and do not touch");
        }
        part.insert(from as u16, upto as u16);
        last = upto;
    }
    Ok(part)
}

fn decode_words(cursor: &mut Cursor<'_>) -> Result<Part, DecodeQueueError> {
    let bytes = cursor.take(WORDS_BYTES)?;
    let (words, _) = bytes.as_chunks::<8>();
    let part = Part::from_words(|word| u64::from_le_bytes(words[word]));
    if part.runs().take(RUNS_WRITTEN_MAX + 1).count() <= RUNS_WRITTEN_MAX {
        return invalid("a block of few runs is written as runs");
    }
    Ok(part)
}
