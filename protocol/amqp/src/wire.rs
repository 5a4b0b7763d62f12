//! How fields lie in frames: big-endian numbers, strings with their length before them, and bits
//! that share an octet with their neighbours.
//!
//! Invariants: nothing is read past the payload of its frame; a length is checked against what is
//! left before it is used; long strings and tables are slices of the frame, not copies.

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::shortstr::ShortStr;
use crate::table::{FieldTable, TableError, check_table};

/// Why a payload is not the fields that it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Malformed {
    /// It ends inside a field.
    #[error("the payload ends inside a field")]
    Truncated,
    /// Bytes are left behind the last field.
    #[error("{extra} bytes follow the last field")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// A short string is not UTF-8.
    #[error("a short string is not UTF-8")]
    Utf8,
    /// A table cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// More flag words of properties than there are properties.
    #[error("flags of unknown properties")]
    UnknownProperties,
}

/// The type of a method's field, as the protocol's definition names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldType {
    /// One bit, packed with the bits beside it.
    Bit,
    /// 8 bits.
    Octet,
    /// 16 bits.
    Short,
    /// 32 bits.
    Long,
    /// 64 bits.
    LongLong,
    /// At most 255 bytes of text.
    ShortStr,
    /// At most 4 GiB of anything.
    LongStr,
    /// A field table.
    Table,
}

impl FieldType {
    /// Its name in the definition.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bit => "bit",
            Self::Octet => "octet",
            Self::Short => "short",
            Self::Long => "long",
            Self::LongLong => "longlong",
            Self::ShortStr => "shortstr",
            Self::LongStr => "longstr",
            Self::Table => "table",
        }
    }
}

/// Something that can be a field of a method or property.
pub trait Field: Sized {
    /// Its type in the definition.
    const TYPE: FieldType;

    /// Reads one and leaves the reader behind it.
    ///
    /// # Errors
    /// When the bytes at hand are not one.
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed>;

    /// Appends it.
    fn write(&self, writer: &mut Writer<'_>);
}

/// Reads the fields of one payload.
#[derive(Debug)]
pub struct Reader<'a> {
    payload: &'a Bytes,
    at: usize,
    /// The octet whose bits are being read, and how many were.
    bits: Option<(u8, u8)>,
}

impl<'a> Reader<'a> {
    /// Reads `payload` from the byte at `at` on.
    ///
    /// # Panics
    /// When `at` lies behind the end.
    #[must_use]
    pub fn new(payload: &'a Bytes, at: usize) -> Self {
        assert!(at <= payload.len(), "reading begins inside the payload");
        Self { payload, at, bits: None }
    }

    /// How many bytes are left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.payload.len() - self.at
    }

    /// Fails when anything is left.
    ///
    /// # Errors
    /// [`Malformed::Trailing`].
    pub fn finish(self) -> Result<(), Malformed> {
        match self.remaining() {
            0 => Ok(()),
            extra => Err(Malformed::Trailing { extra }),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        self.bits = None;
        let from = self.at;
        let taken = self.payload[from..].get(..count).ok_or(Malformed::Truncated)?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn slice_with_length(&mut self) -> Result<Bytes, Malformed> {
        let count = u32::from_be_bytes(self.array()?) as usize;
        let from = self.at;
        self.take(count)?;
        Ok(self.payload.slice(from..from + count))
    }

    fn bit(&mut self) -> Result<bool, Malformed> {
        let (octet, used) = match self.bits {
            Some((octet, used)) if used < 8 => (octet, used),
            _ => (self.array::<1>()?[0], 0),
        };
        self.bits = Some((octet, used + 1));
        Ok(octet >> used & 1 != 0)
    }
}

/// Appends fields to a buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut BytesMut,
    /// How many bits of the last octet are in use; 0: the next bit begins an octet.
    bits: u8,
}

impl<'a> Writer<'a> {
    /// Appends to `out`.
    #[must_use]
    pub fn new(out: &'a mut BytesMut) -> Self {
        Self { out, bits: 0 }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bits = 0;
        self.out.put_slice(bytes);
    }

    fn put_with_length(&mut self, bytes: &[u8]) {
        let count = u32::try_from(bytes.len()).expect("strings and tables come from frames");
        self.put(&count.to_be_bytes());
        self.put(bytes);
    }

    fn bit(&mut self, bit: bool) {
        if self.bits == 0 || self.bits == 8 {
            self.out.put_u8(0);
            self.bits = 0;
        }
        let last = self.out.last_mut().expect("an octet for the bits was just begun");
        *last |= u8::from(bit) << self.bits;
        self.bits += 1;
    }
}

macro_rules! number_fields {
    ($($number:ty => $kind:ident),+) => {$(
        impl Field for $number {
            const TYPE: FieldType = FieldType::$kind;

            fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
                Ok(Self::from_be_bytes(reader.array()?))
            }

            fn write(&self, writer: &mut Writer<'_>) {
                writer.put(&self.to_be_bytes());
            }
        }
    )+};
}

number_fields!(u8 => Octet, u16 => Short, u32 => Long, u64 => LongLong);

impl Field for bool {
    const TYPE: FieldType = FieldType::Bit;

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        reader.bit()
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.bit(*self);
    }
}

impl Field for ShortStr {
    const TYPE: FieldType = FieldType::ShortStr;

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let count = usize::from(reader.array::<1>()?[0]);
        let text = std::str::from_utf8(reader.take(count)?).map_err(|_| Malformed::Utf8)?;
        Ok(Self::cut(text))
    }

    fn write(&self, writer: &mut Writer<'_>) {
        let count = u8::try_from(self.len()).expect("a short string has at most 255 bytes");
        writer.put(&[count]);
        writer.put(self.as_bytes());
    }
}

impl Field for Bytes {
    const TYPE: FieldType = FieldType::LongStr;

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        reader.slice_with_length()
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.put_with_length(self);
    }
}

impl Field for FieldTable {
    const TYPE: FieldType = FieldType::Table;

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let bytes = reader.slice_with_length()?;
        check_table(&bytes)?;
        Ok(Self::from_checked(bytes))
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.put_with_length(self.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bits_share_octets_until_another_field_comes() {
        let mut out = BytesMut::new();
        let mut writer = Writer::new(&mut out);
        for bit in [true, false, true, false, false, false, false, true, true] {
            bit.write(&mut writer);
        }
        7u8.write(&mut writer);
        true.write(&mut writer);
        assert_eq!(&out[..], [0b1000_0101, 1, 7, 1]);
    }

    #[test]
    fn length_that_lies_is_refused() {
        let payload = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 1, 2]);
        assert_eq!(Bytes::read(&mut Reader::new(&payload, 0)), Err(Malformed::Truncated));
        let payload = Bytes::from_static(&[3, b'a', b'b']);
        assert_eq!(ShortStr::read(&mut Reader::new(&payload, 0)), Err(Malformed::Truncated));
        let payload = Bytes::from_static(&[2, 0xc3, 0x28]);
        assert_eq!(ShortStr::read(&mut Reader::new(&payload, 0)), Err(Malformed::Utf8));
    }

    proptest! {
        #[test]
        fn bits_and_numbers_survive_in_any_order(
            fields in prop::collection::vec((any::<bool>(), any::<u16>(), any::<bool>()), 0..40),
        ) {
            let mut out = BytesMut::new();
            let mut writer = Writer::new(&mut out);
            for (is_bit, number, bit) in &fields {
                if *is_bit { bit.write(&mut writer) } else { number.write(&mut writer) }
            }
            let payload = out.freeze();
            let mut reader = Reader::new(&payload, 0);
            for (is_bit, number, bit) in fields {
                if is_bit {
                    prop_assert_eq!(bool::read(&mut reader), Ok(bit));
                } else {
                    prop_assert_eq!(u16::read(&mut reader), Ok(number));
                }
            }
            prop_assert_eq!(reader.finish(), Ok(()));
        }
    }
}
