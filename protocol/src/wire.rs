//! How the bodies of frames are written and read: fixed-width little-endian numbers, strings with a
//! 16-bit length, byte strings and lists with a 32-bit one, options with a byte before them.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::error::ErrorCode;
use crate::ids::{
    CorrelationId, GroupId, LogId, LogIndex, NodeId, Offset, PartitionIndex, ProducerId, Term,
    TopicName, TopicNameError,
};

/// Something that has a place in the body of a frame.
pub trait Encode {
    /// Appends the encoding to `out`.
    fn encode(&self, out: &mut BytesMut);
}

/// Something that can be read from the body of a frame.
pub trait Decode: Sized {
    /// The shortest encoding, in bytes: what a list's count is checked against before anything is
    /// allocated for it. At least 1 for whatever may stand in a list.
    const BYTES_MIN: usize;

    /// Reads one value and leaves the reader behind it.
    ///
    /// # Errors
    /// When the bytes end early or are not an encoding of this type.
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError>;
}

/// Reads a value that fills `bytes` exactly.
///
/// # Errors
/// As [`Decode::decode`], and when bytes are left over.
pub fn decode_all<T: Decode>(bytes: &[u8]) -> Result<T, DecodeError> {
    let mut reader = Reader::new(bytes);
    let value = T::decode(&mut reader)?;
    match reader.remaining() {
        0 => Ok(value),
        extra => Err(reader.fault(DecodeFault::TrailingBytes { extra })),
    }
}

/// The encoding of `value` alone.
pub fn encode_to_bytes(value: &impl Encode) -> Bytes {
    let mut out = BytesMut::new();
    value.encode(&mut out);
    out.freeze()
}

/// Why the body of a frame cannot be read: what is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("byte {at} of the body: {fault}")]
pub struct DecodeError {
    /// Byte position in the body.
    pub at: usize,
    /// What is wrong there.
    #[source]
    pub fault: DecodeFault,
}

impl DecodeError {
    /// The code with which a node answers such a request.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self.fault {
            DecodeFault::TopicName(_) => ErrorCode::InvalidTopicName,
            DecodeFault::UnknownValue { .. } => ErrorCode::InvalidArgument,
            _ => ErrorCode::MalformedFrame,
        }
    }
}

/// What can be wrong with the body of a frame.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeFault {
    /// The body ends inside a field.
    #[error("{needed} bytes are needed, {left} are left")]
    Truncated {
        /// How many bytes the field needs.
        needed: usize,
        /// How many are left.
        left: usize,
    },
    /// Bytes are left after the last field.
    #[error("{extra} bytes follow the last field")]
    TrailingBytes {
        /// How many.
        extra: usize,
    },
    /// A list says that it has more items than the bytes that are left can hold.
    #[error("a list of {count} items does not fit the {left} bytes that are left")]
    ListCount {
        /// How many items it says it has.
        count: u32,
        /// How many bytes are left.
        left: usize,
    },
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    Utf8,
    /// A flag is neither 0 nor 1.
    #[error("a flag is {value}, it must be 0 or 1")]
    Flag {
        /// The byte.
        value: u8,
    },
    /// A number that stands for no known value.
    #[error("{number} is not a known {what}")]
    UnknownValue {
        /// What the number should stand for.
        what: &'static str,
        /// The number.
        number: u64,
    },
    /// A text is not a topic name.
    #[error(transparent)]
    TopicName(#[from] TopicNameError),
}

/// The bytes of a body that are not yet read.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Reads `bytes` from the first on.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bytes are left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// An error at the present position.
    #[must_use]
    pub fn fault(&self, fault: DecodeFault) -> DecodeError {
        DecodeError { at: self.at, fault }
    }

    /// Takes `count` bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let left = self.remaining();
        if count > left {
            return Err(self.fault(DecodeFault::Truncated { needed: count, left }));
        }
        let taken = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn str(&mut self) -> Result<&'a str, DecodeError> {
        let len = u16::decode(self)?;
        let at = self.at;
        let bytes = self.take(usize::from(len))?;
        std::str::from_utf8(bytes).map_err(|_| DecodeError { at, fault: DecodeFault::Utf8 })
    }
}

macro_rules! wire_number {
    ($($number:ty),+) => {$(
        impl Encode for $number {
            fn encode(&self, out: &mut BytesMut) {
                out.put_slice(&self.to_le_bytes());
            }
        }

        impl Decode for $number {
            const BYTES_MIN: usize = size_of::<$number>();

            fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(Self::from_le_bytes(reader.array()?))
            }
        }
    )+};
}

wire_number!(u8, u16, u32, u64, u128, i64);

macro_rules! wire_id {
    ($($id:ident($inner:ty)),+) => {$(
        impl Encode for $id {
            fn encode(&self, out: &mut BytesMut) {
                self.0.encode(out);
            }
        }

        impl Decode for $id {
            const BYTES_MIN: usize = <$inner>::BYTES_MIN;

            fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                <$inner>::decode(reader).map(Self)
            }
        }
    )+};
}

wire_id!(
    Offset(u64),
    Term(u64),
    LogIndex(u64),
    GroupId(u64),
    NodeId(u64),
    ProducerId(u64),
    PartitionIndex(u32),
    CorrelationId(u32)
);

impl Encode for LogId {
    fn encode(&self, out: &mut BytesMut) {
        self.term.encode(out);
        self.index.encode(out);
    }
}

impl Decode for LogId {
    const BYTES_MIN: usize = 16;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { term: Term::decode(reader)?, index: LogIndex::decode(reader)? })
    }
}

/// Bytes as they are, so many: ids of clusters, secrets.
impl<const N: usize> Encode for [u8; N] {
    fn encode(&self, out: &mut BytesMut) {
        out.put_slice(self);
    }
}

impl<const N: usize> Decode for [u8; N] {
    const BYTES_MIN: usize = N;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.array()
    }
}

impl Encode for bool {
    fn encode(&self, out: &mut BytesMut) {
        u8::from(*self).encode(out);
    }
}

impl Decode for bool {
    const BYTES_MIN: usize = 1;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(reader)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(reader.fault(DecodeFault::Flag { value })),
        }
    }
}

/// A string has at most 65,535 bytes; a longer one is cut at the last character that fits. Names and
/// values have tighter bounds, checked where they are made; only messages for people come near.
impl Encode for str {
    fn encode(&self, out: &mut BytesMut) {
        let cut = &self[..self.floor_char_boundary(usize::from(u16::MAX))];
        out.reserve(2 + cut.len());
        (cut.len() as u16).encode(out);
        out.put_slice(cut.as_bytes());
    }
}

impl Encode for String {
    fn encode(&self, out: &mut BytesMut) {
        self.as_str().encode(out);
    }
}

impl Decode for String {
    const BYTES_MIN: usize = 2;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.str().map(Self::from)
    }
}

impl Encode for TopicName {
    fn encode(&self, out: &mut BytesMut) {
        self.as_str().encode(out);
    }
}

/// Internal names are readable; who creates, alters or deletes topics for a user refuses them by
/// [`TopicName::is_internal`].
impl Decode for TopicName {
    const BYTES_MIN: usize = 3;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let at = reader.at;
        Self::internal(reader.str()?).map_err(|error| DecodeError { at, fault: error.into() })
    }
}

impl Encode for Bytes {
    fn encode(&self, out: &mut BytesMut) {
        let len = u32::try_from(self.len()).expect("a byte string is within a frame's limit");
        len.encode(out);
        out.put_slice(self);
    }
}

impl Decode for Bytes {
    const BYTES_MIN: usize = 4;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let len = u32::decode(reader)?;
        reader.take(len as usize).map(Self::copy_from_slice)
    }
}

impl<T: Encode> Encode for Option<T> {
    fn encode(&self, out: &mut BytesMut) {
        self.is_some().encode(out);
        if let Some(value) = self {
            value.encode(out);
        }
    }
}

impl<T: Decode> Decode for Option<T> {
    const BYTES_MIN: usize = 1;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        bool::decode(reader)?.then(|| T::decode(reader)).transpose()
    }
}

impl<T: Encode> Encode for Vec<T> {
    fn encode(&self, out: &mut BytesMut) {
        let count = u32::try_from(self.len()).expect("a list is within a frame's limit");
        count.encode(out);
        for item in self {
            item.encode(out);
        }
    }
}

impl<T: Decode> Decode for Vec<T> {
    const BYTES_MIN: usize = 4;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        const { assert!(T::BYTES_MIN > 0, "an item of a list takes at least one byte") };
        let count = u32::decode(reader)?;
        let left = reader.remaining();
        if count as usize > left / T::BYTES_MIN {
            return Err(reader.fault(DecodeFault::ListCount { count, left }));
        }
        let mut items = Self::with_capacity(count as usize);
        for _ in 0..count {
            items.push(T::decode(reader)?);
        }
        Ok(items)
    }
}

/// What `{:?}` shows of a field: not the value of one that is among `hidden`.
pub(crate) fn shown<'a>(
    hidden: &[&str],
    field: &str,
    value: &'a dyn fmt::Debug,
) -> &'a dyn fmt::Debug {
    if hidden.contains(&field) { &Secret } else { value }
}

struct Secret;

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Defines a struct whose fields are encoded in the order in which they are written down. Those that it
/// `hides` are secrets, and never printed.
macro_rules! wire_struct {
    (
        $(#[$doc:meta])*
        pub struct $name:ident $(hides $($hidden:ident),+)?
        { $($(#[$field_doc:meta])* pub $field:ident: $kind:ty),* $(,)? }
    ) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq)]
        pub struct $name { $($(#[$field_doc])* pub $field: $kind),* }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let _hidden: &[&str] = &[$($(stringify!($hidden)),+)?];
                f.debug_struct(stringify!($name))
                    $(.field(
                        stringify!($field),
                        $crate::wire::shown(_hidden, stringify!($field), &self.$field),
                    ))*
                    .finish()
            }
        }

        impl $name {
            /// Names and types of the fields in the order of their bytes, as `protocol/FORMAT.md`
            /// shows them.
            #[doc(hidden)]
            pub const LAYOUT: &str =
                concat!(stringify!($name), $("\n  ", stringify!($field), ": ", stringify!($kind)),*);
        }

        #[cfg(test)]
        impl $crate::wire::any::Any for $name {
            fn any() -> proptest::strategy::BoxedStrategy<Self> {
                use proptest::strategy::Strategy;
                $crate::wire::any::nested!(any $($kind),*)
                    .prop_map(|$crate::wire::any::nested!(fields $($field),*)| {
                        Self { $($field),* }
                    })
                    .boxed()
            }
        }

        impl $crate::wire::Encode for $name {
            fn encode(&self, _out: &mut bytes::BytesMut) {
                $(self.$field.encode(_out);)*
            }
        }

        impl $crate::wire::Decode for $name {
            const BYTES_MIN: usize = 0 $(+ <$kind as $crate::wire::Decode>::BYTES_MIN)*;

            fn decode(
                _reader: &mut $crate::wire::Reader<'_>,
            ) -> Result<Self, $crate::wire::DecodeError> {
                Ok(Self { $($field: $crate::wire::Decode::decode(_reader)?),* })
            }
        }
    };
}

/// Defines an enum that is one byte on the wire.
macro_rules! wire_enum {
    (
        $(#[$doc:meta])*
        pub enum $name:ident as $what:literal {
            $($(#[$variant_doc:meta])* $variant:ident = $number:literal / $text:literal),+ $(,)?
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$variant_doc])* $variant = $number),+ }

        #[cfg(test)]
        impl $crate::wire::any::Any for $name {
            fn any() -> proptest::strategy::BoxedStrategy<Self> {
                use proptest::strategy::Strategy;
                proptest::sample::select(Self::ALL).boxed()
            }
        }

        impl $name {
            /// Numbers of the values, as the documents of the format show them.
            #[doc(hidden)]
            pub const LAYOUT: &str = concat!(
                stringify!($name), ": u8",
                $("\n  ", stringify!($number), " ", $text),+
            );

            /// Every value, in order.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The value as people write it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl $crate::wire::Encode for $name {
            fn encode(&self, out: &mut bytes::BytesMut) {
                (*self as u8).encode(out);
            }
        }

        impl $crate::wire::Decode for $name {
            const BYTES_MIN: usize = 1;

            fn decode(
                reader: &mut $crate::wire::Reader<'_>,
            ) -> Result<Self, $crate::wire::DecodeError> {
                match u8::decode(reader)? {
                    $($number => Ok(Self::$variant),)+
                    number => Err(reader.fault($crate::wire::DecodeFault::UnknownValue {
                        what: $what,
                        number: u64::from(number),
                    })),
                }
            }
        }
    };
}

/// Defines an enum whose values carry one value each: one byte that says which, then that value.
macro_rules! wire_choice {
    (
        $(#[$doc:meta])*
        pub enum $name:ident as $what:literal {
            $($(#[$variant_doc:meta])* $variant:ident($kind:ty) = $number:literal),+ $(,)?
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant($kind)),+ }

        impl $name {
            /// Numbers and contents of the variants, as the documents of the format show them.
            #[doc(hidden)]
            pub const LAYOUT: &str = concat!(
                stringify!($name), ": u8, then",
                $("\n  ", stringify!($number), " ", stringify!($variant), ": ", stringify!($kind)),+
            );
        }

        #[cfg(test)]
        impl $crate::wire::any::Any for $name {
            fn any() -> proptest::strategy::BoxedStrategy<Self> {
                use proptest::strategy::Strategy;
                proptest::prop_oneof![
                    $(<$kind as $crate::wire::any::Any>::any().prop_map(Self::$variant)),+
                ]
                .boxed()
            }
        }

        impl $crate::wire::Encode for $name {
            fn encode(&self, out: &mut bytes::BytesMut) {
                match self {
                    $(Self::$variant(value) => {
                        $crate::wire::Encode::encode(&($number as u8), out);
                        $crate::wire::Encode::encode(value, out);
                    })+
                }
            }
        }

        impl $crate::wire::Decode for $name {
            const BYTES_MIN: usize = 1;

            fn decode(
                reader: &mut $crate::wire::Reader<'_>,
            ) -> Result<Self, $crate::wire::DecodeError> {
                match u8::decode(reader)? {
                    $($number => $crate::wire::Decode::decode(reader).map(Self::$variant),)+
                    number => Err(reader.fault($crate::wire::DecodeFault::UnknownValue {
                        what: $what,
                        number: u64::from(number),
                    })),
                }
            }
        }
    };
}

pub(crate) use {wire_choice, wire_enum, wire_struct};

#[cfg(test)]
pub(crate) mod any;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn survives<T: Encode + Decode + PartialEq + fmt::Debug>(value: &T) {
        let bytes = encode_to_bytes(value);
        assert!(bytes.len() >= T::BYTES_MIN);
        assert_eq!(&decode_all::<T>(&bytes).unwrap(), value);
        for cut in 0..bytes.len() {
            assert!(decode_all::<T>(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn values_survive_and_every_cut_is_an_error(
            strings in prop::collection::vec(prop::option::of(".{0,9}"), 0..5),
            numbers in prop::collection::vec(any::<u64>(), 0..5),
            bytes in prop::collection::vec(any::<u8>(), 0..20),
            signed: i64,
            flag: bool,
        ) {
            survives(&strings);
            survives(&numbers);
            survives(&Bytes::from(bytes));
            survives(&signed);
            survives(&flag);
        }
    }

    #[test]
    fn list_count_is_checked_before_it_is_believed() {
        let error = decode_all::<Vec<u64>>(&[255, 255, 255, 255, 0, 0]).unwrap_err();
        assert_eq!(error.fault, DecodeFault::ListCount { count: u32::MAX, left: 2 });
        assert_eq!(error.code(), ErrorCode::MalformedFrame);
    }

    #[test]
    fn long_string_is_cut_between_characters() {
        let text = "ä".repeat(40_000);
        let back: String = decode_all(&encode_to_bytes(&text)).unwrap();
        assert_eq!(back, "ä".repeat(32_767));
    }

    #[test]
    fn bad_names_and_flags_have_their_codes() {
        let bad_name = encode_to_bytes(&"../etc".to_owned());
        let error = decode_all::<TopicName>(&bad_name).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidTopicName);
        assert_eq!(decode_all::<bool>(&[2]).unwrap_err().fault, DecodeFault::Flag { value: 2 });
        assert_eq!(
            decode_all::<String>(&[1, 0, 0xff]).unwrap_err(),
            DecodeError { at: 2, fault: DecodeFault::Utf8 }
        );
        assert_eq!(
            decode_all::<u8>(&[1, 2]).unwrap_err().fault,
            DecodeFault::TrailingBytes { extra: 1 }
        );
    }
}
