//! Field tables and arrays. A table is its encoded bytes, walked once when it is read and from then
//! on iterated in place: reading one allocates nothing, passing it on copies nothing.
//!
//! Invariants: a [`FieldTable`] holds bytes that [`check_table`] took, so iteration cannot fail; no
//! table is nested deeper than [`TABLE_DEPTH_MAX`]; the walk does not recurse.
//!
//! Type letters are those that RabbitMQ and its clients use, not those of the specification's
//! grammar: `s` is a 16-bit number, `l` and `L` both a signed 64-bit one, `x` a byte array.
//!
//! Source: AMQP 0-9-1, 4.2.1 and 4.2.5.5; RabbitMQ, "AMQP 0-9-1 Errata", section 3.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

/// How deep tables and arrays may lie in each other; the outermost table is 1 deep.
pub const TABLE_DEPTH_MAX: usize = 16;

/// Why bytes are not a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TableError {
    /// A name, a value or what holds it ends early.
    #[error("a table ends inside a field")]
    Truncated,
    /// A letter that stands for no type.
    #[error("type {letter} of a table's field is unknown")]
    UnknownType {
        /// The letter.
        letter: u8,
    },
    /// Tables lie in each other too deep.
    #[error("tables are nested deeper than 16")]
    TooDeep,
}

/// One value of a table or array, borrowed from its bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FieldValue<'a> {
    /// `t`
    Bool(bool),
    /// `b`
    I8(i8),
    /// `B`
    U8(u8),
    /// `s`
    I16(i16),
    /// `u`
    U16(u16),
    /// `I`
    I32(i32),
    /// `i`
    U32(u32),
    /// `l`, and `L` when read
    I64(i64),
    /// `f`
    F32(f32),
    /// `d`
    F64(f64),
    /// `D`: digits after the point, and the number without it. RabbitMQ takes it as unsigned.
    Decimal {
        /// Digits after the point.
        scale: u8,
        /// The digits.
        value: u32,
    },
    /// `S`
    LongStr(&'a [u8]),
    /// `x`
    Bytes(&'a [u8]),
    /// `A`
    Array(ArrayRef<'a>),
    /// `T`: seconds since 1970.
    Timestamp(u64),
    /// `F`
    Table(TableRef<'a>),
    /// `V`
    Void,
}

impl FieldValue<'_> {
    /// The name of its type in RabbitMQ's texts.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::I8(_) => "byte",
            Self::U8(_) => "unsignedbyte",
            Self::I16(_) => "short",
            Self::U16(_) => "unsignedshort",
            Self::I32(_) => "signedint",
            Self::U32(_) => "unsignedint",
            Self::I64(_) => "long",
            Self::F32(_) => "float",
            Self::F64(_) => "double",
            Self::Decimal { .. } => "decimal",
            Self::LongStr(_) => "longstr",
            Self::Bytes(_) => "binary",
            Self::Array(_) => "array",
            Self::Timestamp(_) => "timestamp",
            Self::Table(_) => "table",
            Self::Void => "void",
        }
    }

    /// The number, where it is an integer of any width.
    #[must_use]
    pub const fn as_integer(&self) -> Option<i64> {
        match *self {
            Self::I8(number) => Some(number as i64),
            Self::U8(number) => Some(number as i64),
            Self::I16(number) => Some(number as i64),
            Self::U16(number) => Some(number as i64),
            Self::I32(number) => Some(number as i64),
            Self::U32(number) => Some(number as i64),
            Self::I64(number) => Some(number),
            _ => None,
        }
    }

    /// The text, where it is a long string of UTF-8.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::LongStr(text) => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }

    /// Appends letter and value.
    fn write(&self, out: &mut BytesMut) {
        let with_length = |out: &mut BytesMut, letter: u8, bytes: &[u8]| {
            out.put_u8(letter);
            out.put_u32(u32::try_from(bytes.len()).expect("a value comes from a frame"));
            out.put_slice(bytes);
        };
        match *self {
            Self::Bool(flag) => out.put_slice(&[b't', u8::from(flag)]),
            Self::I8(number) => out.put_slice(&[b'b', number.to_be_bytes()[0]]),
            Self::U8(number) => out.put_slice(&[b'B', number]),
            Self::I16(number) => (out.put_u8(b's'), out.put_i16(number)).1,
            Self::U16(number) => (out.put_u8(b'u'), out.put_u16(number)).1,
            Self::I32(number) => (out.put_u8(b'I'), out.put_i32(number)).1,
            Self::U32(number) => (out.put_u8(b'i'), out.put_u32(number)).1,
            Self::I64(number) => (out.put_u8(b'l'), out.put_i64(number)).1,
            Self::F32(number) => (out.put_u8(b'f'), out.put_f32(number)).1,
            Self::F64(number) => (out.put_u8(b'd'), out.put_f64(number)).1,
            Self::Decimal { scale, value } => {
                out.put_slice(&[b'D', scale]);
                out.put_u32(value);
            }
            Self::LongStr(text) => with_length(out, b'S', text),
            Self::Bytes(bytes) => with_length(out, b'x', bytes),
            Self::Array(array) => with_length(out, b'A', array.0),
            Self::Timestamp(seconds) => (out.put_u8(b'T'), out.put_u64(seconds)).1,
            Self::Table(table) => with_length(out, b'F', table.0),
            Self::Void => out.put_u8(b'V'),
        }
    }
}

/// Takes `count` bytes off the front.
fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8], TableError> {
    let (taken, rest) = bytes.split_at_checked(count).ok_or(TableError::Truncated)?;
    *bytes = rest;
    Ok(taken)
}

fn take_array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], TableError> {
    let (taken, rest) = bytes.split_first_chunk().ok_or(TableError::Truncated)?;
    *bytes = rest;
    Ok(*taken)
}

fn take_name<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], TableError> {
    let count = take_array::<1>(bytes)?[0];
    take(bytes, usize::from(count))
}

/// Reads one value; what lies in tables and arrays is not looked at.
fn take_value<'a>(bytes: &mut &'a [u8]) -> Result<FieldValue<'a>, TableError> {
    let letter = take_array::<1>(bytes)?[0];
    let with_length = |bytes: &mut &'a [u8]| {
        let count = u32::from_be_bytes(take_array(bytes)?) as usize;
        take(bytes, count)
    };
    Ok(match letter {
        b't' => FieldValue::Bool(take_array::<1>(bytes)?[0] != 0),
        b'b' => FieldValue::I8(i8::from_be_bytes(take_array(bytes)?)),
        b'B' => FieldValue::U8(take_array::<1>(bytes)?[0]),
        b's' => FieldValue::I16(i16::from_be_bytes(take_array(bytes)?)),
        b'u' => FieldValue::U16(u16::from_be_bytes(take_array(bytes)?)),
        b'I' => FieldValue::I32(i32::from_be_bytes(take_array(bytes)?)),
        b'i' => FieldValue::U32(u32::from_be_bytes(take_array(bytes)?)),
        b'l' | b'L' => FieldValue::I64(i64::from_be_bytes(take_array(bytes)?)),
        b'f' => FieldValue::F32(f32::from_be_bytes(take_array(bytes)?)),
        b'd' => FieldValue::F64(f64::from_be_bytes(take_array(bytes)?)),
        b'D' => {
            let scale = take_array::<1>(bytes)?[0];
            FieldValue::Decimal { scale, value: u32::from_be_bytes(take_array(bytes)?) }
        }
        b'S' => FieldValue::LongStr(with_length(bytes)?),
        b'x' => FieldValue::Bytes(with_length(bytes)?),
        b'A' => FieldValue::Array(ArrayRef(with_length(bytes)?)),
        b'T' => FieldValue::Timestamp(u64::from_be_bytes(take_array(bytes)?)),
        b'F' => FieldValue::Table(TableRef(with_length(bytes)?)),
        b'V' => FieldValue::Void,
        _ => return Err(TableError::UnknownType { letter }),
    })
}

/// Walks a table and everything in it, without the four bytes of its length.
///
/// # Errors
/// When the bytes are not a table, or one nested too deep.
pub fn check_table(bytes: &[u8]) -> Result<(), TableError> {
    // What is left of each level, and whether its fields have names. Values lie whole in their
    // level, so a level's end is checked when its length is read.
    let mut levels = [(bytes, true); TABLE_DEPTH_MAX];
    let mut depth = 1;
    while depth > 0 {
        let (left, named) = &mut levels[depth - 1];
        if left.is_empty() {
            depth -= 1;
            continue;
        }
        if *named {
            take_name(left)?;
        }
        let inner = match take_value(left)? {
            FieldValue::Table(table) => (table.0, true),
            FieldValue::Array(array) => (array.0, false),
            _ => continue,
        };
        *levels.get_mut(depth).ok_or(TableError::TooDeep)? = inner;
        depth += 1;
    }
    Ok(())
}

/// A table inside bytes that were checked.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct TableRef<'a>(&'a [u8]);

impl<'a> TableRef<'a> {
    /// Its fields, in the order in which they lie.
    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], FieldValue<'a>)> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            if left.is_empty() {
                return None;
            }
            let name = take_name(&mut left).expect("the table was checked");
            Some((name, take_value(&mut left).expect("the table was checked")))
        })
    }

    /// The first field with this name.
    #[must_use]
    pub fn find(self, name: impl AsRef<[u8]>) -> Option<FieldValue<'a>> {
        self.iter().find(|(other, _)| *other == name.as_ref()).map(|(_, value)| value)
    }
}

impl fmt::Debug for TableRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(name, value)| (String::from_utf8_lossy(name), value)))
            .finish()
    }
}

/// An array inside bytes that were checked.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct ArrayRef<'a>(&'a [u8]);

impl<'a> ArrayRef<'a> {
    /// Its values in order.
    pub fn iter(self) -> impl Iterator<Item = FieldValue<'a>> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            (!left.is_empty()).then(|| take_value(&mut left).expect("the array was checked"))
        })
    }
}

impl fmt::Debug for ArrayRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A table. Two are equal when their bytes are.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FieldTable(Bytes);

impl FieldTable {
    /// A table of bytes that [`check_table`] took.
    pub(crate) fn from_checked(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// Reads a table that has no length before it, as in an AMQPLAIN response.
    ///
    /// # Errors
    /// When the bytes are not a table.
    pub fn parse(bytes: Bytes) -> Result<Self, TableError> {
        check_table(&bytes).map(|()| Self(bytes))
    }

    /// Its fields.
    #[must_use]
    pub fn fields(&self) -> TableRef<'_> {
        TableRef(&self.0)
    }

    /// The first field with this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<FieldValue<'_>> {
        self.fields().find(name)
    }

    /// The encoding, without the length before it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it has no fields.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for FieldTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fields().fmt(f)
    }
}

/// Writes a table field by field.
#[derive(Debug, Default)]
pub struct TableBuilder(BytesMut);

impl TableBuilder {
    /// A table without fields.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a field. A name has at most 255 bytes; what is over is cut.
    #[must_use]
    pub fn field(mut self, name: impl AsRef<[u8]>, value: FieldValue<'_>) -> Self {
        let name = name.as_ref();
        let name = &name[..name.len().min(usize::from(u8::MAX))];
        self.0.put_u8(name.len() as u8);
        self.0.put_slice(name);
        value.write(&mut self.0);
        self
    }

    /// Appends a long string.
    #[must_use]
    pub fn text(self, name: &str, text: &str) -> Self {
        self.field(name, FieldValue::LongStr(text.as_bytes()))
    }

    /// The table.
    ///
    /// # Errors
    /// [`TableError::TooDeep`] when tables given to it were nested up to the limit already.
    pub fn build(self) -> Result<FieldTable, TableError> {
        FieldTable::parse(self.0.freeze())
    }
}

/// Writes an array value by value.
#[derive(Debug, Default)]
pub struct ArrayBuilder(BytesMut);

impl ArrayBuilder {
    /// Appends a value.
    pub fn push(&mut self, value: FieldValue<'_>) {
        value.write(&mut self.0);
    }

    /// The array, to be put into a table.
    #[must_use]
    pub fn as_value(&self) -> FieldValue<'_> {
        FieldValue::Array(ArrayRef(&self.0))
    }
}
