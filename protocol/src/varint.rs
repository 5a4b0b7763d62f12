//! Variable-length integers of the records section and of control entries: seven bits a byte, least significant first, the
//! high bit says that another byte follows. One encoding per number: longer forms are refused.

use bytes::BytesMut;
use thiserror::Error;

/// Most bytes a 32-bit number takes.
pub const U32_BYTES_MAX: usize = 5;
/// Most bytes a 64-bit number takes.
pub const U64_BYTES_MAX: usize = 10;

/// Why bytes are not a variable-length integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum VarintError {
    /// The bytes end inside the number.
    #[error("the bytes end inside a number")]
    Truncated,
    /// The number does not fit its width, or has a longer form than it needs.
    #[error("a number is too large or not in its shortest form")]
    OutOfRange,
}

/// Reads a number of at most 32 bits at `at` and moves `at` behind it.
///
/// # Errors
/// When the bytes end early or the number does not fit.
#[inline]
pub fn read_u32(bytes: &[u8], at: &mut usize) -> Result<u32, VarintError> {
    match bytes.get(*at) {
        Some(&byte) if byte < 0x80 => {
            *at += 1;
            Ok(u32::from(byte))
        }
        Some(_) => u32::try_from(read_long(bytes, at)?).map_err(|_| VarintError::OutOfRange),
        None => Err(VarintError::Truncated),
    }
}

/// Reads a number of at most 64 bits at `at` and moves `at` behind it.
///
/// # Errors
/// When the bytes end early or the number does not fit.
#[inline]
pub fn read_u64(bytes: &[u8], at: &mut usize) -> Result<u64, VarintError> {
    match bytes.get(*at) {
        Some(&byte) if byte < 0x80 => {
            *at += 1;
            Ok(u64::from(byte))
        }
        Some(_) => read_long(bytes, at),
        None => Err(VarintError::Truncated),
    }
}

/// Reads a signed number, stored with its sign in the lowest bit (zigzag).
///
/// # Errors
/// When the bytes end early or the number does not fit.
#[inline]
pub fn read_i64(bytes: &[u8], at: &mut usize) -> Result<i64, VarintError> {
    read_u64(bytes, at).map(unzigzag)
}

fn read_long(bytes: &[u8], at: &mut usize) -> Result<u64, VarintError> {
    let mut number = 0u64;
    for position in 0..U64_BYTES_MAX {
        let Some(&byte) = bytes.get(*at + position) else { return Err(VarintError::Truncated) };
        // The tenth byte holds the one bit that is left of 64.
        if position == U64_BYTES_MAX - 1 && byte > 1 {
            return Err(VarintError::OutOfRange);
        }
        number |= u64::from(byte & 0x7f) << (7 * position);
        if byte < 0x80 {
            if byte == 0 && position > 0 {
                return Err(VarintError::OutOfRange);
            }
            *at += position + 1;
            return Ok(number);
        }
    }
    Err(VarintError::OutOfRange)
}

/// Writes `number` to `out` at `at`, moves `at` behind it. `out` has room for ten bytes from there.
#[inline]
pub(crate) fn write_u64(mut number: u64, out: &mut [u8], at: &mut usize) {
    while number >= 0x80 {
        out[*at] = (number as u8) | 0x80;
        number >>= 7;
        *at += 1;
    }
    out[*at] = number as u8;
    *at += 1;
}

/// Appends `number` to `out`.
#[inline]
pub fn put_u64(out: &mut BytesMut, number: u64) {
    let (mut bytes, mut at) = ([0; U64_BYTES_MAX], 0);
    write_u64(number, &mut bytes, &mut at);
    out.extend_from_slice(&bytes[..at]);
}

/// How many bytes `number` takes.
#[inline]
#[must_use]
pub fn len_u64(number: u64) -> usize {
    let bits = 64 - (number | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Maps a signed number to an unsigned one so that small magnitudes stay small.
#[inline]
#[must_use]
pub fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

/// Undoes [`zigzag`].
#[inline]
#[must_use]
pub fn unzigzag(number: u64) -> i64 {
    ((number >> 1) as i64) ^ -((number & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(number: u64) -> Vec<u8> {
        let (mut out, mut at) = ([0; U64_BYTES_MAX], 0);
        write_u64(number, &mut out, &mut at);
        out[..at].to_vec()
    }

    proptest! {
        #[test]
        fn numbers_survive(number: u64, shift in 0u32..64) {
            let number = number >> shift;
            let bytes = encoded(number);
            prop_assert_eq!(bytes.len(), len_u64(number));
            let mut at = 0;
            prop_assert_eq!(read_u64(&bytes, &mut at), Ok(number));
            prop_assert_eq!(at, bytes.len());
            let mut at = 0;
            prop_assert_eq!(
                read_u32(&bytes, &mut at),
                u32::try_from(number).map_err(|_| VarintError::OutOfRange)
            );
        }

        #[test]
        fn signed_numbers_survive(number: i64) {
            prop_assert_eq!(unzigzag(zigzag(number)), number);
        }

        #[test]
        fn what_is_read_is_the_only_form(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            let mut at = 0;
            if let Ok(number) = read_u64(&bytes, &mut at) {
                prop_assert_eq!(encoded(number), &bytes[..at]);
            }
        }
    }

    #[test]
    fn bounds_of_each_width() {
        for number in [0, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut at = 0;
            assert_eq!(read_u64(&encoded(number), &mut at), Ok(number));
        }
        assert_eq!(read_u64(&[0x80, 0], &mut 0), Err(VarintError::OutOfRange));
        assert_eq!(read_u64(&[0x80], &mut 0), Err(VarintError::Truncated));
        assert_eq!(read_u64(&[0xff; 10], &mut 0), Err(VarintError::OutOfRange));
    }
}
