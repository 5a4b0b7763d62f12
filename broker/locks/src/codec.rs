//! How control entries and snapshots of locks are read: the fields by [`plimsoll_protocol::wire`],
//! which is bounded by the bytes at hand; one encoding per value.

use plimsoll_protocol::wire::{Decode, DecodeError, Reader};
use thiserror::Error;

/// Why bytes are not the entry, or the state, that they should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeLocksError {
    /// A field cannot be read.
    #[error("the entry or state of locks is damaged: {0}")]
    Malformed(#[from] DecodeError),
    /// The entry belongs to something else than locks.
    #[error("a control entry of domain {domain} is not for locks")]
    OtherDomain {
        /// The first byte of the entry.
        domain: u8,
    },
    /// A version that this build does not know.
    #[error(
        "the {what} of locks has format version {version}; this build reads {known}: \
         use a newer build"
    )]
    UnknownVersion {
        /// Of what.
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
        number: u8,
    },
    /// Bytes follow the end.
    #[error("{extra} bytes follow the end of the state of locks")]
    TrailingBytes {
        /// How many.
        extra: usize,
    },
    /// The fields contradict each other in a way that no encoder writes.
    #[error("the entry or state of locks breaks a rule: {rule}")]
    Invalid {
        /// The rule.
        rule: &'static str,
    },
}

/// An error for bytes that no encoder writes.
pub(crate) fn invalid<T>(rule: &'static str) -> Result<T, DecodeLocksError> {
    Err(DecodeLocksError::Invalid { rule })
}

/// Asks that the entry is of this domain.
pub(crate) fn domain(reader: &mut Reader<'_>, own: u8) -> Result<(), DecodeLocksError> {
    match u8::decode(reader)? {
        domain if domain == own => Ok(()),
        domain => Err(DecodeLocksError::OtherDomain { domain }),
    }
}

/// Asks that the version is the one known.
pub(crate) fn version(
    reader: &mut Reader<'_>,
    what: &'static str,
    known: u8,
) -> Result<(), DecodeLocksError> {
    match u8::decode(reader)? {
        version if version == known => Ok(()),
        version => Err(DecodeLocksError::UnknownVersion { what, version, known }),
    }
}

/// The length of a list whose items take at least `item_bytes_min` bytes each.
pub(crate) fn count(
    reader: &mut Reader<'_>,
    item_bytes_min: usize,
) -> Result<usize, DecodeLocksError> {
    let count = u32::decode(reader)? as usize;
    if count > reader.remaining() / item_bytes_min {
        return invalid("a list fits into the bytes at hand");
    }
    Ok(count)
}

/// Reads a text of at most `bytes_max` bytes.
pub(crate) fn text(reader: &mut Reader<'_>, bytes_max: usize) -> Result<String, DecodeLocksError> {
    let text = String::decode(reader)?;
    if text.len() > bytes_max { invalid("a text is within its bound") } else { Ok(text) }
}
