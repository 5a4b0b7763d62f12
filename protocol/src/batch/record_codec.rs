//! The bytes of one record: parsed to ranges of the section without an allocation, and written in one
//! pass once their number is known.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::record::{EncodedHeaders, Header, HeaderName, HeadersView, Record, RecordView};
use crate::varint::{self, VarintError};

const HAS_KEY: u8 = 1;
const HAS_HEADERS: u8 = 1 << 1;
const HAS_DELIVER_AT: u8 = 1 << 2;
const HAS_EXPIRES_AT: u8 = 1 << 3;
const HAS_PRIORITY: u8 = 1 << 4;
const HAS_GROUP_KEY: u8 = 1 << 5;
const IS_TOMBSTONE: u8 = 1 << 6;
const RESERVED: u8 = 1 << 7;

/// Most headers that the format allows in one record; a broker's limit is lower.
pub const HEADERS_PER_RECORD_CEILING: u32 = 65_535;

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecordError {
    /// A number is damaged.
    #[error("{field}: {source}")]
    Number {
        /// The field the number belongs to.
        field: &'static str,
        /// What is wrong with it.
        source: VarintError,
    },
    /// A field is longer than what is left of the record, or the record than the section.
    #[error("{field} needs {needed} bytes, {left} are left")]
    Truncated {
        /// The field.
        field: &'static str,
        /// How many bytes it says it has.
        needed: u64,
        /// How many there are.
        left: u64,
    },
    /// The reserved flag is set.
    #[error("a reserved flag is set")]
    ReservedFlag,
    /// A tombstone has bytes where a value would be.
    #[error("a tombstone has a value of {bytes} bytes")]
    TombstoneWithValue {
        /// How many bytes.
        bytes: u64,
    },
    /// The flag for headers is set and there are none.
    #[error("headers are announced and there are none")]
    NoHeaders,
    /// More headers than allowed.
    #[error("{count} headers, {limit} are allowed")]
    TooManyHeaders {
        /// How many.
        count: u32,
        /// The limit in force.
        limit: u32,
    },
    /// The name of a header is not UTF-8.
    #[error("the name of a header is not UTF-8")]
    HeaderName,
}

/// Where the parts of one record lie in the records section.
#[derive(Debug, Clone)]
pub(super) struct RecordSpan {
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    headers: Range<usize>,
    header_count: u32,
    pub(super) timestamp_delta: i64,
    deliver_at_delta: Option<i64>,
    expires_at_delta: Option<i64>,
    priority: Option<u8>,
    group_key: Option<Range<usize>>,
}

impl RecordSpan {
    /// Parses the record that begins at `at` and moves `at` behind it. Nothing is allocated.
    #[inline]
    pub(super) fn parse(
        section: &[u8],
        at: &mut usize,
        headers_max: u32,
    ) -> Result<Self, RecordError> {
        let record_bytes = varint::read_u32(section, at).map_err(number("record length"))?;
        let end = end_of(section, *at, record_bytes, "record")?;
        let rec = &section[..end];
        let mut p = *at;
        let flags = byte(rec, &mut p, "flags")?;
        if flags & RESERVED != 0 {
            return Err(RecordError::ReservedFlag);
        }
        let timestamp_delta = varint::read_i64(rec, &mut p).map_err(number("timestamp"))?;
        let mut span = Self {
            key: None,
            value: None,
            headers: 0..0,
            header_count: 0,
            timestamp_delta,
            deliver_at_delta: None,
            expires_at_delta: None,
            priority: None,
            group_key: None,
        };
        if flags & !IS_TOMBSTONE != 0 {
            span.parse_optional(rec, &mut p, flags, headers_max)?;
        }
        if flags & IS_TOMBSTONE == 0 {
            span.value = Some(p..end);
        } else if p != end {
            return Err(RecordError::TombstoneWithValue { bytes: (end - p) as u64 });
        }
        *at = end;
        Ok(span)
    }

    fn parse_optional(
        &mut self,
        rec: &[u8],
        p: &mut usize,
        flags: u8,
        headers_max: u32,
    ) -> Result<(), RecordError> {
        if flags & HAS_KEY != 0 {
            self.key = Some(byte_string(rec, p, "key")?);
        }
        if flags & HAS_HEADERS != 0 {
            let count = varint::read_u32(rec, p).map_err(number("header count"))?;
            let limit = headers_max.min(HEADERS_PER_RECORD_CEILING);
            if count > limit {
                return Err(RecordError::TooManyHeaders { count, limit });
            }
            if count == 0 {
                return Err(RecordError::NoHeaders);
            }
            let from = *p;
            for _ in 0..count {
                parse_header(rec, p)?;
            }
            self.headers = from..*p;
            self.header_count = count;
        }
        if flags & HAS_DELIVER_AT != 0 {
            self.deliver_at_delta =
                Some(varint::read_i64(rec, p).map_err(number("deliver-at time"))?);
        }
        if flags & HAS_EXPIRES_AT != 0 {
            self.expires_at_delta =
                Some(varint::read_i64(rec, p).map_err(number("expires-at time"))?);
        }
        if flags & HAS_PRIORITY != 0 {
            self.priority = Some(byte(rec, p, "priority")?);
        }
        if flags & HAS_GROUP_KEY != 0 {
            self.group_key = Some(byte_string(rec, p, "group key")?);
        }
        Ok(())
    }

    /// Shows the record; `section` is the one it was parsed from.
    pub(super) fn view<'a>(&self, section: &'a [u8], base_timestamp_ms: i64) -> RecordView<'a> {
        let part = |range: &Option<Range<usize>>| range.clone().map(|range| &section[range]);
        let timestamp_ms = base_timestamp_ms.wrapping_add(self.timestamp_delta);
        RecordView {
            key: part(&self.key),
            value: part(&self.value),
            headers: HeadersView::Encoded(EncodedHeaders {
                count: self.header_count,
                bytes: &section[self.headers.clone()],
            }),
            timestamp_ms,
            deliver_at_ms: self.deliver_at_delta.map(|delta| timestamp_ms.wrapping_add(delta)),
            expires_at_ms: self.expires_at_delta.map(|delta| timestamp_ms.wrapping_add(delta)),
            priority: self.priority,
            group_key: part(&self.group_key),
        }
    }

    /// The record as slices of `section`, without a copy.
    pub(super) fn slice(self, section: &Bytes, base_timestamp_ms: i64) -> Record {
        let timestamp_ms = base_timestamp_ms.wrapping_add(self.timestamp_delta);
        let mut headers = Vec::new();
        if self.header_count > 0 {
            headers.reserve_exact(self.header_count as usize);
            let mut at = self.headers.start;
            for _ in 0..self.header_count {
                let (name, value) =
                    parse_header(section, &mut at).expect("the parser checked the headers");
                let name = HeaderName(section.slice_ref(name.as_bytes()));
                headers.push(Header { name, value: section.slice(value) });
            }
        }
        Record {
            key: self.key.map(|range| section.slice(range)),
            value: self.value.map(|range| section.slice(range)),
            headers,
            timestamp_ms,
            deliver_at_ms: self.deliver_at_delta.map(|delta| timestamp_ms.wrapping_add(delta)),
            expires_at_ms: self.expires_at_delta.map(|delta| timestamp_ms.wrapping_add(delta)),
            priority: self.priority,
            group_key: self.group_key.map(|range| section.slice(range)),
        }
    }
}

fn number(field: &'static str) -> impl Fn(VarintError) -> RecordError {
    move |source| RecordError::Number { field, source }
}

fn byte(rec: &[u8], p: &mut usize, field: &'static str) -> Result<u8, RecordError> {
    let byte = *rec.get(*p).ok_or(RecordError::Truncated { field, needed: 1, left: 0 })?;
    *p += 1;
    Ok(byte)
}

/// The end of `len` bytes from `at`, which is within `bytes`.
fn end_of(bytes: &[u8], at: usize, len: u32, field: &'static str) -> Result<usize, RecordError> {
    let left = bytes.len() - at;
    if len as usize > left {
        let (needed, left) = (u64::from(len), left as u64);
        return Err(RecordError::Truncated { field, needed, left });
    }
    Ok(at + len as usize)
}

fn byte_string(
    rec: &[u8],
    p: &mut usize,
    field: &'static str,
) -> Result<Range<usize>, RecordError> {
    let len = varint::read_u32(rec, p).map_err(number(field))?;
    let end = end_of(rec, *p, len, field)?;
    let range = *p..end;
    *p = end;
    Ok(range)
}

/// One name and the place of its value, at `at`.
pub(super) fn parse_header<'a>(
    bytes: &'a [u8],
    at: &mut usize,
) -> Result<(&'a str, Range<usize>), RecordError> {
    let name = byte_string(bytes, at, "header name")?;
    let name = std::str::from_utf8(&bytes[name]).map_err(|_| RecordError::HeaderName)?;
    let value = byte_string(bytes, at, "header value")?;
    Ok((name, value))
}

/// Where a record's size is known before its first byte is written.
pub(super) struct RecordEncoding<'a> {
    view: RecordView<'a>,
    timestamp_delta: u64,
    /// Bytes after the length field.
    record_bytes: usize,
}

/// Room for the fields before a record's key: length, flags, timestamp.
const HEAD_BYTES_MAX: usize = varint::U64_BYTES_MAX * 2 + 1;

impl<'a> RecordEncoding<'a> {
    #[inline]
    pub(super) fn new(view: RecordView<'a>, base_timestamp_ms: i64) -> Self {
        let delta = view.timestamp_ms.wrapping_sub(base_timestamp_ms);
        let timestamp_delta = varint::zigzag(delta);
        let byte_string = |bytes: Option<&[u8]>| {
            bytes.map_or(0, |bytes| varint::len_u64(bytes.len() as u64) + bytes.len())
        };
        let time =
            |at: Option<i64>| at.map_or(0, |at| varint::len_u64(relative(at, view.timestamp_ms)));
        let mut record_bytes = 1
            + varint::len_u64(timestamp_delta)
            + byte_string(view.key)
            + time(view.deliver_at_ms)
            + time(view.expires_at_ms)
            + usize::from(view.priority.is_some())
            + byte_string(view.group_key)
            + view.value.map_or(0, <[u8]>::len);
        if !view.headers.is_empty() {
            record_bytes += varint::len_u64(view.headers.len() as u64) + view.headers.encoded_len();
        }
        Self { view, timestamp_delta, record_bytes }
    }

    /// Bytes that the record adds to the section, its length field included.
    #[inline]
    pub(super) fn total_bytes(&self) -> usize {
        varint::len_u64(self.record_bytes as u64) + self.record_bytes
    }

    /// Appends the record; the caller has checked that its size fits 32 bits.
    #[inline]
    pub(super) fn write(&self, out: &mut BytesMut) {
        let view = &self.view;
        out.reserve(self.total_bytes());
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        let flags = flag(view.key.is_some(), HAS_KEY)
            | flag(!view.headers.is_empty(), HAS_HEADERS)
            | flag(view.deliver_at_ms.is_some(), HAS_DELIVER_AT)
            | flag(view.expires_at_ms.is_some(), HAS_EXPIRES_AT)
            | flag(view.priority.is_some(), HAS_PRIORITY)
            | flag(view.group_key.is_some(), HAS_GROUP_KEY)
            | flag(view.value.is_none(), IS_TOMBSTONE);
        let (mut head, mut at) = ([0; HEAD_BYTES_MAX], 0);
        varint::write_u64(self.record_bytes as u64, &mut head, &mut at);
        head[at] = flags;
        at += 1;
        varint::write_u64(self.timestamp_delta, &mut head, &mut at);
        out.extend_from_slice(&head[..at]);
        if flags & !IS_TOMBSTONE != 0 {
            self.write_optional(out);
        }
        if let Some(value) = view.value {
            out.extend_from_slice(value);
        }
    }

    fn write_optional(&self, out: &mut BytesMut) {
        let view = &self.view;
        if let Some(key) = view.key {
            put_byte_string(out, key);
        }
        if !view.headers.is_empty() {
            varint::put_u64(out, view.headers.len() as u64);
            for (name, value) in view.headers.iter() {
                put_byte_string(out, name.as_bytes());
                put_byte_string(out, value);
            }
        }
        for at in [view.deliver_at_ms, view.expires_at_ms].into_iter().flatten() {
            varint::put_u64(out, relative(at, view.timestamp_ms));
        }
        if let Some(priority) = view.priority {
            out.put_u8(priority);
        }
        if let Some(group_key) = view.group_key {
            put_byte_string(out, group_key);
        }
    }
}

/// A time relative to the record's own. Wraps around, so that every pair of times has an encoding.
fn relative(at_ms: i64, timestamp_ms: i64) -> u64 {
    varint::zigzag(at_ms.wrapping_sub(timestamp_ms))
}

fn put_byte_string(out: &mut BytesMut, bytes: &[u8]) {
    varint::put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
