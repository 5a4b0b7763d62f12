//! Why encoded state or a command cannot be read. The fields are read by
//! [`plimsoll_protocol::wire`], which is bounded by the bytes at hand.

use plimsoll_protocol::wire::{Decode, DecodeError, Reader};
use thiserror::Error;

/// Why bytes are not the state, or the command, that they should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeStateError {
    /// A field cannot be read.
    #[error("the encoded state is damaged: {0}")]
    Malformed(#[from] DecodeError),
    /// A version that this build does not know.
    #[error(
        "the state has format version {version}; this build reads version {known}: use a newer build"
    )]
    UnknownVersion {
        /// The version found.
        version: u8,
        /// The one known.
        known: u8,
    },
    /// The queues cannot be read.
    #[error("the encoded state is damaged: {0}")]
    Queues(#[from] plimsoll_delivery::DecodeQueueError),
    /// The consumer groups cannot be read.
    #[error("the encoded state is damaged: {0}")]
    Groups(#[from] plimsoll_groups::DecodeGroupsError),
    /// The locks, or the floors, cannot be read.
    #[error("the encoded state is damaged: {0}")]
    Locks(#[from] plimsoll_locks::DecodeLocksError),
    /// Bytes follow the end of the state.
    #[error("{extra} bytes follow the end of the encoded state")]
    TrailingBytes {
        /// How many.
        extra: usize,
    },
    /// The fields contradict each other in a way that no encoder writes.
    #[error("the encoded state breaks a rule: {rule}")]
    Invalid {
        /// The rule.
        rule: &'static str,
    },
}

/// Reads the version byte, then the rest, and asks that nothing is left.
pub(crate) fn versioned<T>(
    bytes: &[u8],
    known: u8,
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeStateError>,
) -> Result<T, DecodeStateError> {
    versioned_since(bytes, known, known, |_, reader| read(reader))
}

/// As [`versioned`], where every version from `oldest` to `known` can be read.
pub(crate) fn versioned_since<T>(
    bytes: &[u8],
    oldest: u8,
    known: u8,
    read: impl FnOnce(u8, &mut Reader<'_>) -> Result<T, DecodeStateError>,
) -> Result<T, DecodeStateError> {
    let mut reader = Reader::new(bytes);
    let version = check_version(&mut reader, oldest, known)?;
    let value = read(version, &mut reader)?;
    match reader.remaining() {
        0 => Ok(value),
        extra => Err(DecodeStateError::TrailingBytes { extra }),
    }
}

pub(crate) fn check_version(
    reader: &mut Reader<'_>,
    oldest: u8,
    known: u8,
) -> Result<u8, DecodeStateError> {
    match u8::decode(reader)? {
        version if (oldest..=known).contains(&version) => Ok(version),
        version => Err(DecodeStateError::UnknownVersion { version, known }),
    }
}

/// The length of a list whose items take at least `item_bytes_min` bytes each.
pub(crate) fn count(
    reader: &mut Reader<'_>,
    item_bytes_min: usize,
) -> Result<usize, DecodeStateError> {
    let count = u32::decode(reader)? as usize;
    if count > reader.remaining() / item_bytes_min {
        return Err(DecodeStateError::Invalid { rule: "a list fits into the bytes at hand" });
    }
    Ok(count)
}
