//! How control entries and snapshots are written and read: variable-length numbers, one encoding per
//! value, every count checked against the bytes that are left before anything is allocated for it.

use bytes::{BufMut, BytesMut};
use plimsoll_protocol::ids::Offset;
pub(crate) use plimsoll_protocol::varint::put_u64;
use plimsoll_protocol::varint::{self, VarintError};
use thiserror::Error;

/// Why bytes are not the entry, or the state, that they should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeQueueError {
    /// The bytes end inside a field.
    #[error("byte {at} of the queue's entry or state: the bytes end inside a field")]
    Truncated {
        /// Where the field begins.
        at: usize,
    },
    /// A number is too large, or not in its shortest form.
    #[error("byte {at} of the queue's entry or state: a number is too large or too long")]
    Number {
        /// Where the number begins.
        at: usize,
    },
    /// The entry belongs to something else than queues.
    #[error("a control entry of domain {domain} is not for queues")]
    OtherDomain {
        /// The first byte of the entry.
        domain: u8,
    },
    /// A version that this build does not know.
    #[error("the queue's {what} has format version {version}; this build reads {known}")]
    UnknownVersion {
        /// Entry or state.
        what: &'static str,
        /// The version found.
        version: u8,
        /// The one known.
        known: u8,
    },
    /// A number that stands for nothing known.
    #[error("{number} is not a known {what}")]
    UnknownValue {
        /// What it should stand for.
        what: &'static str,
        /// The number.
        number: u64,
    },
    /// Bytes follow the end.
    #[error("{extra} bytes follow the end of the queue's state")]
    TrailingBytes {
        /// How many.
        extra: usize,
    },
    /// The fields contradict each other in a way that no encoder writes.
    #[error("the queue's entry or state breaks a rule: {rule}")]
    Invalid {
        /// The rule.
        rule: &'static str,
    },
}

/// An error for bytes that no encoder writes.
pub(crate) fn invalid<T>(rule: &'static str) -> Result<T, DecodeQueueError> {
    Err(DecodeQueueError::Invalid { rule })
}

/// Bytes that are not yet read.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeQueueError> {
        let Some(taken) = self.bytes[self.at..].get(..count) else {
            return Err(DecodeQueueError::Truncated { at: self.at });
        };
        self.at += count;
        Ok(taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeQueueError> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn flag(&mut self) -> Result<bool, DecodeQueueError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            number => Err(DecodeQueueError::UnknownValue { what: "flag", number: number.into() }),
        }
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeQueueError> {
        let at = self.at;
        varint::read_u32(self.bytes, &mut self.at).map_err(|error| fault(error, at))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeQueueError> {
        let at = self.at;
        varint::read_u64(self.bytes, &mut self.at).map_err(|error| fault(error, at))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, DecodeQueueError> {
        let at = self.at;
        varint::read_i64(self.bytes, &mut self.at).map_err(|error| fault(error, at))
    }

    /// A number behind `last`: how an offset is written in a list that rises.
    pub(crate) fn offset_from(&mut self, last: Offset) -> Result<Offset, DecodeQueueError> {
        match last.0.checked_add(self.u64()?) {
            Some(offset) if offset < u64::MAX => Ok(Offset(offset)),
            _ => invalid("offsets are below the largest number"),
        }
    }

    /// The length of a list whose items take at least `item_bytes_min` bytes each.
    pub(crate) fn count(&mut self, item_bytes_min: usize) -> Result<usize, DecodeQueueError> {
        let count = self.u64()?;
        if count > (self.remaining() / item_bytes_min) as u64 {
            return invalid("a list fits into the bytes at hand");
        }
        Ok(count as usize)
    }

    pub(crate) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeQueueError>,
    ) -> Result<Option<T>, DecodeQueueError> {
        if self.flag()? { read(self).map(Some) } else { Ok(None) }
    }

    /// Asks that the version is the one known.
    pub(crate) fn version(
        &mut self,
        what: &'static str,
        known: u8,
    ) -> Result<(), DecodeQueueError> {
        match self.u8()? {
            version if version == known => Ok(()),
            version => Err(DecodeQueueError::UnknownVersion { what, version, known }),
        }
    }

    pub(crate) fn finish(&self) -> Result<(), DecodeQueueError> {
        match self.remaining() {
            0 => Ok(()),
            extra => Err(DecodeQueueError::TrailingBytes { extra }),
        }
    }
}

fn fault(error: VarintError, at: usize) -> DecodeQueueError {
    match error {
        VarintError::Truncated => DecodeQueueError::Truncated { at },
        VarintError::OutOfRange => DecodeQueueError::Number { at },
    }
}

/// Writes a signed number.
pub(crate) fn put_i64(out: &mut BytesMut, number: i64) {
    put_u64(out, varint::zigzag(number));
}

/// Writes a flag, and the value if there is one.
pub(crate) fn put_option<T: Copy>(
    out: &mut BytesMut,
    value: Option<T>,
    write: impl FnOnce(&mut BytesMut, T),
) {
    out.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        write(out, value);
    }
}
