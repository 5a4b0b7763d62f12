//! How control entries and snapshots of groups are read: the fields by [`plimsoll_protocol::wire`],
//! which is bounded by the bytes at hand; one encoding per value.

use plimsoll_protocol::wire::{Decode, DecodeError, Reader};
use thiserror::Error;

/// Why bytes are not the entry, or the state, that they should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeGroupsError {
    /// A field cannot be read.
    #[error("the entry or state of consumer groups is damaged: {0}")]
    Malformed(#[from] DecodeError),
    /// The entry belongs to something else than consumer groups.
    #[error("a control entry of domain {domain} is not for consumer groups")]
    OtherDomain {
        /// The first byte of the entry.
        domain: u8,
    },
    /// A version that this build does not know.
    #[error(
        "the {what} of consumer groups has format version {version}; this build reads {known}: \
         use a newer build"
    )]
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
        number: u8,
    },
    /// Bytes follow the end.
    #[error("{extra} bytes follow the end of the state of consumer groups")]
    TrailingBytes {
        /// How many.
        extra: usize,
    },
    /// The fields contradict each other in a way that no encoder writes.
    #[error("the entry or state of consumer groups breaks a rule: {rule}")]
    Invalid {
        /// The rule.
        rule: &'static str,
    },
}

/// An error for bytes that no encoder writes.
pub(crate) fn invalid<T>(rule: &'static str) -> Result<T, DecodeGroupsError> {
    Err(DecodeGroupsError::Invalid { rule })
}

/// Asks that the version is the one known.
pub(crate) fn version(
    reader: &mut Reader<'_>,
    what: &'static str,
    known: u8,
) -> Result<(), DecodeGroupsError> {
    match u8::decode(reader)? {
        version if version == known => Ok(()),
        version => Err(DecodeGroupsError::UnknownVersion { what, version, known }),
    }
}

/// The length of a list whose items take at least `item_bytes_min` bytes each.
pub(crate) fn count(
    reader: &mut Reader<'_>,
    item_bytes_min: usize,
) -> Result<usize, DecodeGroupsError> {
    let count = u32::decode(reader)? as usize;
    if count > reader.remaining() / item_bytes_min {
        return invalid("a list fits into the bytes at hand");
    }
    Ok(count)
}

/// Reads a list that is not empty and whose keys rise.
pub(crate) fn rising<T, K: Ord + Copy>(
    reader: &mut Reader<'_>,
    item_bytes_min: usize,
    mut read: impl FnMut(&mut Reader<'_>) -> Result<(K, T), DecodeGroupsError>,
) -> Result<Vec<T>, DecodeGroupsError> {
    let count = count(reader, item_bytes_min)?;
    if count == 0 {
        return invalid("a list of a command has an item");
    }
    let mut items = Vec::with_capacity(count);
    let mut last = None;
    for _ in 0..count {
        let (key, item) = read(reader)?;
        if last.replace(key).is_some_and(|last| last >= key) {
            return invalid("a list rises");
        }
        items.push(item);
    }
    Ok(items)
}

/// Reads a text of at most `bytes_max` bytes.
pub(crate) fn text(reader: &mut Reader<'_>, bytes_max: usize) -> Result<String, DecodeGroupsError> {
    let text = String::decode(reader)?;
    if text.len() > bytes_max { invalid("a text is within its bound") } else { Ok(text) }
}
