//! One record, as applications see it: the owned form that they hold, and the borrowed form that is
//! encoded without a copy.

use std::fmt;

use bytes::Bytes;

use super::record_codec::parse_header;
use crate::ids::Offset;
use crate::varint;

/// A record as an application holds it. Cloning shares the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Decides the partition, and what a compacted topic keeps.
    pub key: Option<Bytes>,
    /// The content; `None` is a tombstone, which is not the same as empty.
    pub value: Option<Bytes>,
    /// Names and values beside the content, in order; names may repeat.
    pub headers: Vec<Header>,
    /// When the producer made the record, in milliseconds since 1970 (UTC).
    pub timestamp_ms: i64,
    /// Not to be delivered before this time, in milliseconds since 1970 (UTC).
    pub deliver_at_ms: Option<i64>,
    /// Not to be delivered after this time, in milliseconds since 1970 (UTC).
    pub expires_at_ms: Option<i64>,
    /// Larger is sooner; a queue's own default without.
    pub priority: Option<u8>,
    /// Records of the same group are worked off in order.
    pub group_key: Option<Bytes>,
}

impl Record {
    /// A record with a value and nothing else.
    #[must_use]
    pub fn new(value: impl Into<Bytes>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }

    /// The same record with this key.
    #[must_use]
    pub fn with_key(self, key: impl Into<Bytes>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// The same record with this timestamp.
    #[must_use]
    pub fn with_timestamp_ms(self, timestamp_ms: i64) -> Self {
        Self { timestamp_ms, ..self }
    }

    /// The same record with one more header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<Bytes>) -> Self {
        self.headers.push(Header { name: HeaderName::from(name), value: value.into() });
        self
    }
}

/// One header of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Its name.
    pub name: HeaderName,
    /// Its value, any bytes.
    pub value: Bytes,
}

/// Name of a header: UTF-8, shared with the batch it came from.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct HeaderName(pub(super) Bytes);

impl HeaderName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("checked when the name was made")
    }
}

impl From<&str> for HeaderName {
    fn from(name: &str) -> Self {
        Self(Bytes::copy_from_slice(name.as_bytes()))
    }
}

impl From<String> for HeaderName {
    fn from(name: String) -> Self {
        Self(Bytes::from(name))
    }
}

impl TryFrom<Bytes> for HeaderName {
    type Error = std::str::Utf8Error;

    fn try_from(name: Bytes) -> Result<Self, Self::Error> {
        std::str::from_utf8(&name)?;
        Ok(Self(name))
    }
}

impl AsRef<[u8]> for HeaderName {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// A record with its place in the partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveredRecord {
    /// Number of the record in its partition.
    pub offset: Offset,
    /// The record.
    pub record: Record,
}

/// A record whose bytes lie elsewhere: what a batch builder encodes, and what a walk over a batch
/// without allocation shows. The fields are those of [`Record`].
#[derive(Debug, Clone, Copy, Default)]
pub struct RecordView<'a> {
    /// See [`Record::key`].
    pub key: Option<&'a [u8]>,
    /// See [`Record::value`].
    pub value: Option<&'a [u8]>,
    /// See [`Record::headers`].
    pub headers: HeadersView<'a>,
    /// See [`Record::timestamp_ms`].
    pub timestamp_ms: i64,
    /// See [`Record::deliver_at_ms`].
    pub deliver_at_ms: Option<i64>,
    /// See [`Record::expires_at_ms`].
    pub expires_at_ms: Option<i64>,
    /// See [`Record::priority`].
    pub priority: Option<u8>,
    /// See [`Record::group_key`].
    pub group_key: Option<&'a [u8]>,
}

impl<'a> RecordView<'a> {
    /// A record with a value and nothing else.
    #[must_use]
    pub fn new(value: &'a [u8]) -> Self {
        Self { value: Some(value), ..Self::default() }
    }

    /// Copies the bytes into a record of its own.
    #[must_use]
    pub fn to_record(&self) -> Record {
        let copy = |bytes: Option<&[u8]>| bytes.map(Bytes::copy_from_slice);
        Record {
            key: copy(self.key),
            value: copy(self.value),
            headers: self
                .headers
                .iter()
                .map(|(name, value)| Header {
                    name: HeaderName::from(name),
                    value: Bytes::copy_from_slice(value),
                })
                .collect(),
            timestamp_ms: self.timestamp_ms,
            deliver_at_ms: self.deliver_at_ms,
            expires_at_ms: self.expires_at_ms,
            priority: self.priority,
            group_key: copy(self.group_key),
        }
    }
}

impl<'a> From<&'a Record> for RecordView<'a> {
    fn from(record: &'a Record) -> Self {
        Self {
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: HeadersView::Owned(&record.headers),
            timestamp_ms: record.timestamp_ms,
            deliver_at_ms: record.deliver_at_ms,
            expires_at_ms: record.expires_at_ms,
            priority: record.priority,
            group_key: record.group_key.as_deref(),
        }
    }
}

/// Headers that lie elsewhere.
#[derive(Debug, Clone, Copy)]
pub enum HeadersView<'a> {
    /// Names and values as an application has them at hand.
    Pairs(&'a [(&'a str, &'a [u8])]),
    /// The headers of a [`Record`].
    Owned(&'a [Header]),
    /// Headers of a parsed record, still encoded.
    Encoded(EncodedHeaders<'a>),
}

impl Default for HeadersView<'_> {
    fn default() -> Self {
        Self::Pairs(&[])
    }
}

/// Headers in their encoded form; made only by the parser, which has checked them.
#[derive(Debug, Clone, Copy)]
pub struct EncodedHeaders<'a> {
    pub(super) count: u32,
    pub(super) bytes: &'a [u8],
}

impl<'a> HeadersView<'a> {
    /// How many headers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Pairs(pairs) => pairs.len(),
            Self::Owned(headers) => headers.len(),
            Self::Encoded(encoded) => encoded.count as usize,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        let view = *self;
        let mut at = 0;
        (0..self.len()).map(move |position| match view {
            Self::Pairs(pairs) => pairs[position],
            Self::Owned(headers) => (headers[position].name.as_str(), &*headers[position].value),
            Self::Encoded(encoded) => {
                let (name, value) =
                    parse_header(encoded.bytes, &mut at).expect("the parser checked the headers");
                (name, &encoded.bytes[value])
            }
        })
    }

    /// Bytes that the headers take in a record, without their count.
    pub(super) fn encoded_len(&self) -> usize {
        let bytes = |len: usize| varint::len_u64(len as u64) + len;
        self.iter().map(|(name, value)| bytes(name.len()) + bytes(value.len())).sum()
    }
}
