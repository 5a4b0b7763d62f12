//! The part of protobuf that the messages of etcd need: varints and length-delimited fields.
//!
//! Source: protobuf's "Encoding" page. A field that has its default (0, empty) is left out, as every encoder of
//! proto3 does; a decoder passes over what it does not ask for.

use bytes::{BufMut as _, Bytes, BytesMut};
use thiserror::Error;

const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const FIXED_32: u64 = 5;

/// A message that is being written, field by field.
#[derive(Debug, Default)]
pub(super) struct Writer(BytesMut);

impl Writer {
    /// Adds a number, unless it is 0. Negative ones take ten bytes, as protobuf has them.
    pub(super) fn int(mut self, field: u32, value: i64) -> Self {
        if value != 0 {
            self.tag(field, VARINT);
            self.varint(value.cast_unsigned());
        }
        self
    }

    /// Adds a number also where it is 0: one of a `oneof`, whose presence says which it is.
    pub(super) fn present_int(mut self, field: u32, value: i64) -> Self {
        self.tag(field, VARINT);
        self.varint(value.cast_unsigned());
        self
    }

    /// Adds bytes or a string, unless they are empty.
    pub(super) fn bytes(self, field: u32, value: &[u8]) -> Self {
        if value.is_empty() { self } else { self.present_bytes(field, value) }
    }

    /// Adds a message.
    pub(super) fn message(self, field: u32, message: &Self) -> Self {
        self.present_bytes(field, &message.0)
    }

    fn present_bytes(mut self, field: u32, value: &[u8]) -> Self {
        self.tag(field, LENGTH_DELIMITED);
        self.varint(value.len() as u64);
        self.0.put_slice(value);
        self
    }

    /// The message.
    pub(super) fn finish(self) -> Bytes {
        self.0.freeze()
    }

    fn tag(&mut self, field: u32, kind: u64) {
        self.varint(u64::from(field) << 3 | kind);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.put_u8(value as u8);
    }
}

/// What came is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a message of etcd cannot be read: it ends, or has a field that protobuf does not know")]
pub(crate) struct Malformed;

/// A field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field<'a> {
    /// A number.
    Int(i64),
    /// Bytes, a string, or a message.
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    /// The number; 0 where it is none.
    pub(super) fn int(self) -> i64 {
        match self {
            Self::Int(value) => value,
            Self::Bytes(_) => 0,
        }
    }

    /// The bytes; empty where it has none.
    pub(super) fn bytes(self) -> &'a [u8] {
        match self {
            Self::Int(_) => &[],
            Self::Bytes(value) => value,
        }
    }
}

/// Finds a field of a message; of several the last, as protobuf wants it. `None` where it has its default.
///
/// # Errors
/// What is no message.
pub(super) fn find(message: &[u8], wanted: u32) -> Result<Option<Field<'_>>, Malformed> {
    let (mut rest, mut found) = (message, None);
    while !rest.is_empty() {
        let (number, field) = next(&mut rest)?;
        if number == u64::from(wanted) {
            found = field.or(found);
        }
    }
    Ok(found)
}

/// Takes the first field off; `None` for a kind that is passed over.
fn next<'a>(rest: &mut &'a [u8]) -> Result<(u64, Option<Field<'a>>), Malformed> {
    let tag = varint(rest)?;
    let field = match tag & 7 {
        VARINT => Some(Field::Int(varint(rest)?.cast_signed())),
        LENGTH_DELIMITED => {
            let length = usize::try_from(varint(rest)?).map_err(|_| Malformed)?;
            Some(Field::Bytes(take(rest, length)?))
        }
        FIXED_64 => take(rest, 8).map(|_| None)?,
        FIXED_32 => take(rest, 4).map(|_| None)?,
        _ => return Err(Malformed),
    };
    Ok((tag >> 3, field))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (taken, left) = rest.split_at_checked(length).ok_or(Malformed)?;
    *rest = left;
    Ok(taken)
}

fn varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)?[0];
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_specification() {
        // Protobuf's own example: field 1 is 150.
        assert_eq!(Writer::default().int(1, 150).finish()[..], [0x08, 0x96, 0x01]);
        let minus_two = Writer::default().int(1, -2).finish();
        let expected = [8, 0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1];
        assert_eq!(minus_two[..], expected);
        assert_eq!(find(&minus_two, 1), Ok(Some(Field::Int(-2))));
        assert!(Writer::default().int(1, 0).bytes(2, b"").finish().is_empty());
        assert_eq!(Writer::default().present_int(5, 0).finish()[..], [0x28, 0x00]);
    }

    #[test]
    fn bytes_and_messages_carry_their_length() {
        // Protobuf's own examples: field 2 is "testing"; field 3 is the message of the number above.
        let text = Writer::default().bytes(2, b"testing").finish();
        assert_eq!(text[..], *b"\x12\x07testing");
        let nested = Writer::default().message(3, &Writer::default().int(1, 150)).finish();
        assert_eq!(nested[..], [0x1A, 0x03, 0x08, 0x96, 0x01]);
        let inner = find(&nested, 3).unwrap().unwrap().bytes();
        assert_eq!(find(inner, 1), Ok(Some(Field::Int(150))));
        let empty = Writer::default().message(3, &Writer::default()).finish();
        assert_eq!(empty[..], [0x1A, 0x00], "an empty message is there");
    }

    #[test]
    fn fields_of_other_numbers_and_kinds_are_passed_over() {
        let message = [
            0x09, 1, 2, 3, 4, 5, 6, 7, 8, // field 1, 64 bits
            0x15, 1, 2, 3, 4, // field 2, 32 bits
            0x18, 7, // field 3: 7
            0x18, 9, // field 3 again: 9
        ];
        assert_eq!(find(&message, 3), Ok(Some(Field::Int(9))));
        assert_eq!(find(&message, 4), Ok(None));
        assert_eq!(find(&message, 1), Ok(None));
    }

    #[test]
    fn what_is_cut_off_or_unknown_is_refused() {
        let groups_or_cut: [&[u8]; 6] =
            [&[0x08], &[0x08, 0x80], &[0x12, 5, 1], &[0x09, 1], &[0x0B], &[0xFF; 11]];
        for message in groups_or_cut {
            assert_eq!(find(message, 1), Err(Malformed), "{message:?}");
        }
    }
}
