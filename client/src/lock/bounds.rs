//! What names, leases and values of locks may be: checked here, so that a slip is told before anything is sent.
//! The node checks it again. Source: `broker/locks/LOCKS.md`.

use std::time::Duration;

use plimsoll_protocol::api::namespace_topic;
use plimsoll_protocol::ids::{TopicName, TopicNameError};
use thiserror::Error;

const LOCK_BYTES_MAX: usize = 255;
const LABEL_BYTES_MAX: usize = 255;
const VALUE_BYTES_MAX: usize = 1_024;
const PERMITS_MAX: u32 = 1_024;
const LEASE_MIN: Duration = Duration::from_secs(1);
const LEASE_MAX: Duration = Duration::from_secs(600);

/// Something that is asked for is out of its bounds.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LockInputError {
    /// The namespace cannot be named so.
    #[error("the name of a namespace of locks: {0}")]
    Namespace(TopicNameError),
    /// The lock's name is empty or too long.
    #[error("the name of a lock has {bytes} bytes; allowed are 1 to {LOCK_BYTES_MAX}")]
    NameLength {
        /// Its length in bytes.
        bytes: usize,
    },
    /// The lock's name has a character that it may not have.
    #[error(
        "the name of a lock has the character {character:?} at byte {position}; \
         use A-Z a-z 0-9 . _ - / : @ = + only"
    )]
    NameCharacter {
        /// The first such character.
        character: char,
        /// Its byte position.
        position: usize,
    },
    /// The lease is too short or too long.
    #[error("a lease of {lease:?}; allowed are 1 s to 10 min, 10 s is usual")]
    Lease {
        /// What was asked for.
        lease: Duration,
    },
    /// The label cannot be shown.
    #[error(
        "the label of a session has {bytes} bytes; allowed are 1 to {LABEL_BYTES_MAX} without control \
         characters"
    )]
    Label {
        /// Its length in bytes.
        bytes: usize,
    },
    /// Too many permits, or none.
    #[error("a semaphore of {permits} permits; allowed are 1 to {PERMITS_MAX}")]
    Permits {
        /// What was asked for.
        permits: u32,
    },
    /// What observers are to see is too long.
    #[error("the value of a leader has {bytes} bytes; allowed are {VALUE_BYTES_MAX}")]
    Value {
        /// Its length in bytes.
        bytes: usize,
    },
    /// What is to be guarded is no topic.
    #[error("a topic that a lock guards: {0}")]
    Guard(TopicNameError),
}

/// The topic of a namespace.
pub(super) fn namespace(name: &str) -> Result<TopicName, LockInputError> {
    namespace_topic(name).map_err(LockInputError::Namespace)
}

pub(super) fn lock_name(name: &str) -> Result<(), LockInputError> {
    if name.is_empty() || name.len() > LOCK_BYTES_MAX {
        return Err(LockInputError::NameLength { bytes: name.len() });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@=+".contains(c);
    match name.char_indices().find(|&(_, c)| !allowed(c)) {
        Some((position, character)) => Err(LockInputError::NameCharacter { character, position }),
        None => Ok(()),
    }
}

/// A lease in milliseconds.
pub(super) fn lease(lease: Duration) -> Result<u32, LockInputError> {
    let within = (LEASE_MIN..=LEASE_MAX).contains(&lease);
    let ms = u32::try_from(lease.as_millis()).ok();
    ms.filter(|_| within).ok_or(LockInputError::Lease { lease })
}

pub(super) fn label(label: &str) -> Result<(), LockInputError> {
    let fits = (1..=LABEL_BYTES_MAX).contains(&label.len()) && !label.contains(char::is_control);
    if fits { Ok(()) } else { Err(LockInputError::Label { bytes: label.len() }) }
}

pub(super) fn permits(permits: u32) -> Result<(), LockInputError> {
    let fits = (1..=PERMITS_MAX).contains(&permits);
    if fits { Ok(()) } else { Err(LockInputError::Permits { permits }) }
}

pub(super) fn value(value: &str) -> Result<(), LockInputError> {
    let bytes = value.len();
    if bytes <= VALUE_BYTES_MAX { Ok(()) } else { Err(LockInputError::Value { bytes }) }
}

pub(super) fn guards(topics: &[String]) -> Result<Vec<TopicName>, LockInputError> {
    topics.iter().map(|topic| TopicName::internal(topic).map_err(LockInputError::Guard)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_out_of_bounds_say_what_is_allowed() {
        for name in ["a", "orders/eu-west_1.leader", "db:42@x=y+z", &"n".repeat(255)] {
            lock_name(name).unwrap();
        }
        let bytes = 1 << 20;
        let huge = lock_name(&"n".repeat(bytes)).unwrap_err();
        assert_eq!(huge, LockInputError::NameLength { bytes });
        assert!(huge.to_string().contains("1048576 bytes; allowed are 1 to 255"), "{huge}");
        assert!(lock_name("").is_err());
        let sharp = LockInputError::NameCharacter { character: '#', position: 1 };
        assert_eq!(lock_name("a#1"), Err(sharp));
        assert!(namespace("").is_err() && namespace("a/b").is_err());
        assert!(namespace(&"n".repeat(248)).is_err());
        assert_eq!(namespace("jobs").unwrap().as_str(), "__locks.jobs");
    }

    #[test]
    fn leases_of_zero_or_of_years_name_the_bounds() {
        for ms in [0, 999, 600_001, 365 * 24 * 3_600_000, u64::MAX] {
            let error = lease(Duration::from_millis(ms)).unwrap_err().to_string();
            assert!(error.contains("1 s to 10 min"), "{error}");
        }
        assert_eq!(lease(Duration::from_secs(10)), Ok(10_000));
        assert_eq!(lease(LEASE_MAX), Ok(600_000));
    }

    #[test]
    fn labels_values_permits_and_guards_have_bounds() {
        assert!(label("").is_err() && label("a\n").is_err() && label(&"l".repeat(256)).is_err());
        assert!(permits(0).is_err() && permits(1_025).is_err() && permits(3).is_ok());
        assert!(value(&"v".repeat(1_025)).is_err() && value("").is_ok());
        assert!(guards(&["orders".to_owned(), "a b".to_owned()]).is_err());
    }
}
