//! The numbers and names that Plimsoll hands around, each its own type so that two of them cannot be
//! swapped by mistake.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// Defines a newtype over an unsigned number: ordered, hashable, printed as the plain number.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$inner> for $name {
            fn from(number: $inner) -> Self {
                Self(number)
            }
        }

        impl From<$name> for $inner {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

number! {
    /// Number of a record in its partition, counted from 0.
    Offset(u64)
}
number! {
    /// Raft's count of leaders of one group.
    Term(u64)
}
number! {
    /// Position of an entry in its Raft log, counted from 0. Not an offset.
    LogIndex(u64)
}
number! {
    /// One Raft group: a partition, or the catalog (group 0). Never used again after a deletion.
    GroupId(u64)
}
number! {
    /// One node of the cluster. Never used again, not even after the node's disk was wiped.
    NodeId(u64)
}
number! {
    /// One producer; 0 means a producer without de-duplication.
    ProducerId(u64)
}
number! {
    /// Position of a partition in its topic, counted from 0.
    PartitionIndex(u32)
}
number! {
    /// What ties a response to its request on one stream; chosen by the caller.
    CorrelationId(u32)
}

impl GroupId {
    /// The metadata group: its fold is the catalog of topics and producer ids.
    pub const CATALOG: Self = Self(0);
}

impl ProducerId {
    /// "No producer": the batch is not de-duplicated.
    pub const NONE: Self = Self(0);

    /// Whether batches of this producer are de-duplicated.
    #[must_use]
    pub fn is_some(self) -> bool {
        self != Self::NONE
    }
}

/// Identity of a Raft entry. Ordered by term first, then by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogId {
    /// Term of the leader that proposed the entry.
    pub term: Term,
    /// Position of the entry in the log.
    pub index: LogIndex,
}

impl LogId {
    /// Puts a log id together.
    #[must_use]
    pub fn new(term: Term, index: LogIndex) -> Self {
        Self { term, index }
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.index)
    }
}

/// Name of a topic: 1 to 255 bytes of `A-Z a-z 0-9 . _ -`, neither `.` nor `..`.
///
/// Names that begin with `__` belong to Plimsoll and are made by [`TopicName::internal`] only.
/// Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

/// Longest topic name, in bytes.
pub const TOPIC_NAME_BYTES_MAX: usize = 255;

const INTERNAL_PREFIX: &str = "__";

/// Why a text is not a topic name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TopicNameError {
    /// The text has no characters.
    #[error("a topic name cannot be empty; use 1 to 255 of A-Z a-z 0-9 . _ -")]
    Empty,
    /// The text is longer than [`TOPIC_NAME_BYTES_MAX`].
    #[error(
        "a topic name of {bytes} bytes is too long; at most {TOPIC_NAME_BYTES_MAX} are allowed"
    )]
    TooLong {
        /// Length of the text in bytes.
        bytes: usize,
    },
    /// A character outside the alphabet.
    #[error(
        "topic name has the character {character:?} at byte {position}; use A-Z a-z 0-9 . _ - only"
    )]
    Character {
        /// The first character that is not allowed.
        character: char,
        /// Its byte position.
        position: usize,
    },
    /// The text is `.` or `..`.
    #[error("a topic cannot be named \".\" or \"..\"; choose another name")]
    Dots,
    /// The text begins with `__`.
    #[error("topic names that begin with \"__\" are reserved for Plimsoll; choose another name")]
    Reserved,
}

impl TopicName {
    /// Checks a user's text and makes it a name.
    ///
    /// # Errors
    /// When the text breaks a rule of [`TopicName`]; the error says which and what to use instead.
    pub fn new(text: &str) -> Result<Self, TopicNameError> {
        let name = Self::internal(text)?;
        if name.is_internal() { Err(TopicNameError::Reserved) } else { Ok(name) }
    }

    /// As [`TopicName::new`], but names that begin with `__` are allowed.
    ///
    /// # Errors
    /// When the text breaks another rule of [`TopicName`].
    pub fn internal(text: &str) -> Result<Self, TopicNameError> {
        if text.is_empty() {
            return Err(TopicNameError::Empty);
        }
        if text.len() > TOPIC_NAME_BYTES_MAX {
            return Err(TopicNameError::TooLong { bytes: text.len() });
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if let Some((position, character)) = text.char_indices().find(|&(_, c)| !allowed(c)) {
            return Err(TopicNameError::Character { character, position });
        }
        if text == "." || text == ".." {
            return Err(TopicNameError::Dots);
        }
        Ok(Self(Arc::from(text)))
    }

    /// Whether the name belongs to Plimsoll.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.0.starts_with(INTERNAL_PREFIX)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for TopicName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for TopicName {
    type Err = TopicNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_are_accepted() {
        for name in ["a", "orders.eu-west_1", "...", "A", "_x", &"n".repeat(255)] {
            assert_eq!(TopicName::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn hostile_names_are_refused() {
        let long = "n".repeat(256);
        for name in ["", ".", "..", "a/b", "../x", "a\0", "a b", "\n", "é", "__state", &long] {
            assert!(TopicName::new(name).is_err(), "{name:?} was accepted");
        }
    }

    #[test]
    fn internal_names_need_the_internal_constructor() {
        assert_eq!(TopicName::new("__x"), Err(TopicNameError::Reserved));
        assert!(TopicName::internal("__x").unwrap().is_internal());
        assert!(TopicName::internal("../x").is_err());
    }

    #[test]
    fn log_ids_are_ordered_by_term_first() {
        let id = |term, index| LogId::new(Term(term), LogIndex(index));
        assert!(id(1, 9) < id(2, 0));
        assert!(id(2, 0) < id(2, 1));
        assert_eq!(id(3, 4).to_string(), "3.4");
    }
}
