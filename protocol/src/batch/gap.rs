//! A gap: the offsets of a compacted batch that have no record any more, where a record would begin.
//!
//! ```text
//!   0x00            a record is never of no bytes, so its length is never 0
//!   offsets         varint u32      how many offsets follow each other without a record, from 1
//! ```

use bytes::{BufMut, BytesMut};
use thiserror::Error;

use crate::varint::{self, VarintError};

/// What stands where a record's length would.
const MARK: u8 = 0;

/// Why bytes that begin as a gap are not one that may lie there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum GapError {
    /// Only a compacted batch has gaps.
    #[error("a batch that is not compacted has a gap")]
    NotCompacted,
    /// The number of offsets is damaged.
    #[error("the length of a gap: {0}")]
    Number(VarintError),
    /// A gap of no offsets.
    #[error("a gap of no offsets")]
    Empty,
    /// Neighbouring gaps are written as one.
    #[error("a gap follows a gap")]
    AfterGap,
    /// The gap is longer than what is left of the batch's offsets.
    #[error("a gap of {offsets} offsets where {left} are left")]
    TooLong {
        /// How many offsets the gap says it has.
        offsets: u32,
        /// How many of the header's `record_count` are left.
        left: u32,
    },
}

/// Whether a gap, and no record, begins at `at`.
#[inline]
pub(super) fn begins(section: &[u8], at: usize) -> bool {
    section.get(at) == Some(&MARK)
}

/// How many offsets the gap has that [`begins`] at `at`; moves `at` behind it.
pub(super) fn parse(section: &[u8], at: &mut usize) -> Result<u32, GapError> {
    let mut behind = *at + 1;
    let offsets = varint::read_u32(section, &mut behind).map_err(GapError::Number)?;
    if offsets == 0 {
        return Err(GapError::Empty);
    }
    *at = behind;
    Ok(offsets)
}

/// Appends a gap of so many offsets; of none, nothing.
pub(super) fn put(out: &mut BytesMut, offsets: u32) {
    if offsets > 0 {
        out.put_u8(MARK);
        varint::put_u64(out, offsets.into());
    }
}

/// How many bytes [`put`] appends.
pub(super) fn encoded_len(offsets: u32) -> usize {
    if offsets == 0 { 0 } else { 1 + varint::len_u64(offsets.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn gaps_survive(offsets in 1u32.., shift in 0u32..32) {
            let offsets = (offsets >> shift).max(1);
            let mut out = BytesMut::new();
            put(&mut out, offsets);
            prop_assert_eq!(out.len(), encoded_len(offsets));
            prop_assert!(begins(&out, 0));
            let mut at = 0;
            prop_assert_eq!(parse(&out, &mut at), Ok(offsets));
            prop_assert_eq!(at, out.len());
        }
    }

    #[test]
    fn gap_of_nothing_is_not_written_and_not_read() {
        let mut out = BytesMut::new();
        put(&mut out, 0);
        assert_eq!((out.len(), encoded_len(0)), (0, 0));
        assert_eq!(parse(&[MARK, 0], &mut 0), Err(GapError::Empty));
    }

    #[test]
    fn damaged_length_is_refused() {
        let number = |error| Err(GapError::Number(error));
        assert_eq!(parse(&[MARK], &mut 0), number(VarintError::Truncated));
        assert_eq!(parse(&[MARK, 0x80], &mut 0), number(VarintError::Truncated));
        assert_eq!(parse(&[MARK, 0x81, 0], &mut 0), number(VarintError::OutOfRange));
        let wide = [MARK, 0xff, 0xff, 0xff, 0xff, 0x1f];
        assert_eq!(parse(&wide, &mut 0), number(VarintError::OutOfRange));
    }
}
