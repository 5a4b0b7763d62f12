//! The names and numbers of consumer groups, with their bounds.

use std::fmt;
use std::sync::Arc;

use bytes::BytesMut;
use plimsoll_protocol::api::group_home;
use plimsoll_protocol::ids::PartitionIndex;
use plimsoll_protocol::wire::{Decode, DecodeError, Encode, Reader};
use thiserror::Error;

/// Longest name of a group, in bytes.
pub const GROUP_NAME_BYTES_MAX: usize = 255;

/// Name of a consumer group: 1 to 255 bytes of UTF-8 without control characters. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName(Arc<str>);

/// Why a text is not a group's name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GroupNameError {
    /// The text has no characters.
    #[error("the name of a consumer group cannot be empty; use 1 to {GROUP_NAME_BYTES_MAX} bytes")]
    Empty,
    /// The text is longer than [`GROUP_NAME_BYTES_MAX`].
    #[error(
        "the name of a consumer group has {bytes} bytes, {GROUP_NAME_BYTES_MAX} are allowed; \
         choose a shorter one"
    )]
    TooLong {
        /// Length of the text in bytes.
        bytes: usize,
    },
    /// The text has a character that would not print.
    #[error(
        "the name of a consumer group has a control character at byte {position}; leave it out"
    )]
    Control {
        /// Its byte position.
        position: usize,
    },
}

impl GroupName {
    /// Checks a user's text and makes it a name.
    ///
    /// # Errors
    /// When the text is empty, too long, or has a control character.
    pub fn new(text: &str) -> Result<Self, GroupNameError> {
        if text.is_empty() {
            return Err(GroupNameError::Empty);
        }
        if text.len() > GROUP_NAME_BYTES_MAX {
            return Err(GroupNameError::TooLong { bytes: text.len() });
        }
        match text.char_indices().find(|(_, c)| c.is_control()) {
            Some((position, _)) => Err(GroupNameError::Control { position }),
            None => Ok(Self(Arc::from(text))),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The partition of the topic `__groups` that holds this group, when it has `partitions` of them
    /// (at least 1). Their number never changes: groups would lose their offsets.
    #[must_use]
    pub fn home(&self, partitions: u32) -> PartitionIndex {
        group_home(&self.0, partitions)
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// One member of a group: a random number that its client chooses when it starts, and keeps. Written
/// as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MemberId(pub u128);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A topic. Never used again after a deletion; the catalog counts them upwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TopicId(pub u64);

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One partition of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TopicPartition {
    /// Of which topic.
    pub topic: TopicId,
    /// Which of it.
    pub partition: PartitionIndex,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// A count of the changes of ownership in one partition of `__groups`, from 1. Who joins, and who is
/// granted something, gets the next one; no two changes have the same, not even of different groups, so
/// a group that is deleted and made again does not begin anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! wire_number {
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

wire_number!(MemberId(u128), TopicId(u64), Epoch(u64));

impl Encode for TopicPartition {
    fn encode(&self, out: &mut BytesMut) {
        self.topic.encode(out);
        self.partition.encode(out);
    }
}

impl Decode for TopicPartition {
    const BYTES_MIN: usize = 12;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { topic: TopicId::decode(reader)?, partition: PartitionIndex::decode(reader)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_within_bounds_are_accepted() {
        for name in ["a", "orders / eu", "größe", &"n".repeat(255)] {
            assert_eq!(GroupName::new(name).unwrap().as_str(), name);
        }
        assert_eq!(GroupName::new(""), Err(GroupNameError::Empty));
        assert_eq!(GroupName::new(&"n".repeat(256)), Err(GroupNameError::TooLong { bytes: 256 }));
        assert_eq!(GroupName::new("a\nb"), Err(GroupNameError::Control { position: 1 }));
    }

    /// Offsets are found again only where they were put: the function must never change.
    #[test]
    fn home_of_a_group_is_fixed_and_spread() {
        let home = |name: &str, partitions| GroupName::new(name).unwrap().home(partitions).0;
        assert_eq!([home("billing", 16), home("audit", 16), home("größe", 16)], FIXED);
        let mut found = [0; 16];
        for number in 0..1_600 {
            found[home(&format!("group-{number}"), 16) as usize] += 1;
        }
        assert!(found.iter().all(|&groups| (60..=140).contains(&groups)), "{found:?}");
        assert_eq!(home("billing", 1), 0);
    }

    const FIXED: [u32; 3] = [1, 5, 8];
}
