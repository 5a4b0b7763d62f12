//! The names and numbers of locks, with their bounds: a value of one of these types is within them.

use std::fmt;
use std::sync::Arc;

use bytes::BytesMut;
use plimsoll_protocol::ids::LogIndex;
use plimsoll_protocol::wire::{Decode, DecodeError, Encode, Reader};
use thiserror::Error;

use crate::codec::{DecodeLocksError, invalid, text};

/// Longest name of a lock, in bytes.
pub const LOCK_NAME_BYTES_MAX: usize = 255;
/// Longest label, in bytes.
pub const LABEL_BYTES_MAX: usize = 255;
/// Longest value of a leader, in bytes.
pub const VALUE_BYTES_MAX: usize = 1_024;
/// Most permits of a semaphore.
pub const PERMITS_MAX: u32 = 1_024;
/// Shortest lease, in milliseconds: below it a pause of the network costs locks.
pub const LEASE_MS_MIN: u32 = 1_000;
/// Longest lease, in milliseconds, ten minutes: so long the locks of a dead holder stay held.
pub const LEASE_MS_MAX: u32 = 600_000;

/// Name of a lock: 1 to 255 bytes of `A-Z a-z 0-9 . _ - / : @ = +`. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockName(Arc<str>);

/// Why a text is not a lock's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LockNameError {
    /// The text has no characters.
    #[error("the name of a lock cannot be empty; use 1 to {LOCK_NAME_BYTES_MAX} bytes")]
    Empty,
    /// The text is longer than [`LOCK_NAME_BYTES_MAX`].
    #[error(
        "the name of a lock has {bytes} bytes, {LOCK_NAME_BYTES_MAX} are allowed; choose a shorter one"
    )]
    TooLong {
        /// Length of the text in bytes.
        bytes: usize,
    },
    /// A character outside the alphabet.
    #[error(
        "the name of a lock has the character {character:?} at byte {position}; \
         use A-Z a-z 0-9 . _ - / : @ = + only"
    )]
    Character {
        /// The first character that is not allowed.
        character: char,
        /// Its byte position.
        position: usize,
    },
}

impl LockName {
    /// Checks a user's text and makes it a name.
    ///
    /// # Errors
    /// When the text is empty, too long, or has a character outside the alphabet.
    pub fn new(text: &str) -> Result<Self, LockNameError> {
        if text.is_empty() {
            return Err(LockNameError::Empty);
        }
        if text.len() > LOCK_NAME_BYTES_MAX {
            return Err(LockNameError::TooLong { bytes: text.len() });
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@=+".contains(c);
        match text.char_indices().find(|&(_, c)| !allowed(c)) {
            Some((position, character)) => Err(LockNameError::Character { character, position }),
            None => Ok(Self(Arc::from(text))),
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeLocksError> {
        let name = text(reader, LOCK_NAME_BYTES_MAX)?;
        Self::new(&name)
            .map_err(|_| DecodeLocksError::Invalid { rule: "a lock has a name that it may have" })
    }
}

/// Who somebody is, for people: 1 to 255 bytes of UTF-8 without control characters. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(Arc<str>);

/// A text is not a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "the label of a session, which tells people whose it is, is 1 to {LABEL_BYTES_MAX} bytes without \
     control characters; this one has {bytes} bytes"
)]
pub struct LabelError {
    /// Length of the text in bytes.
    pub bytes: usize,
}

impl Label {
    /// Checks a user's text and makes it a label.
    ///
    /// # Errors
    /// When the text is empty, too long, or has a control character.
    pub fn new(text: &str) -> Result<Self, LabelError> {
        let fits = (1..=LABEL_BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control);
        if fits { Ok(Self(Arc::from(text))) } else { Err(LabelError { bytes: text.len() }) }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeLocksError> {
        let label = text(reader, LABEL_BYTES_MAX)?;
        Self::new(&label)
            .map_err(|_| DecodeLocksError::Invalid { rule: "a label is one that may be" })
    }
}

/// What the leader of an election wants its observers to see: at most 1,024 bytes of UTF-8. Cloning is
/// cheap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(Arc<str>);

/// A text is too long for a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "the value of a leader has {bytes} bytes, {VALUE_BYTES_MAX} are allowed; \
     put what is longer into a topic and its place here"
)]
pub struct ValueError {
    /// Length of the text in bytes.
    pub bytes: usize,
}

impl Value {
    /// Checks a user's text and makes it a value.
    ///
    /// # Errors
    /// When the text is too long.
    pub fn new(text: &str) -> Result<Self, ValueError> {
        match text.len() {
            bytes if bytes > VALUE_BYTES_MAX => Err(ValueError { bytes }),
            _ => Ok(Self(Arc::from(text))),
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeLocksError> {
        text(reader, VALUE_BYTES_MAX).map(|text| Self(Arc::from(text)))
    }
}

macro_rules! text {
    ($($name:ident),+) => {$(
        impl $name {
            /// As text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            pub(crate) fn encode(&self, out: &mut BytesMut) {
                self.0.encode(out);
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    )+};
}

text!(LockName, Label, Value);

/// One session: a random number that its client chooses when it begins one, and keeps. Who knows it can
/// release what the session holds, so it is a secret and is never printed; people see its
/// [`SessionNumber`]. A session that ended is over: its client chooses another number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u128);

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(secret)")
    }
}

/// What people see of a session: the namespace counts them from 1, none is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SessionNumber(pub u64);

/// One acquire of a session. The client counts them upwards; what it asks again, because no answer
/// came, has the same number; what it asks anew, after an answer, has the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RequestId(pub u64);

/// Fencing token of a grant: the log index of the entry that granted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Token(pub u64);

/// One namespace of locks; the catalog gives the numbers and never uses one again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NamespaceId(pub u64);

impl From<LogIndex> for Token {
    fn from(index: LogIndex) -> Self {
        Self(index.0)
    }
}

macro_rules! number {
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

number!(SessionId(u128), SessionNumber(u64), RequestId(u64), Token(u64), NamespaceId(u64));

macro_rules! plain {
    ($($id:ident),+) => {$(
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}

plain!(SessionNumber, RequestId, Token, NamespaceId, LeaseMs, Permits);

/// How long a session lives after it was last heard of, in milliseconds: [`LEASE_MS_MIN`] to
/// [`LEASE_MS_MAX`]. Longer: the locks of a dead holder stay held longer. Shorter: a pause costs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseMs(u32);

/// A lease is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a lease is {LEASE_MS_MIN} to {LEASE_MS_MAX} ms long, not {ms}; 10,000 is usual")]
pub struct LeaseError {
    /// What was asked for.
    pub ms: u64,
}

impl LeaseMs {
    /// Checks the bounds.
    ///
    /// # Errors
    /// When the lease is out of them.
    pub fn new(ms: u64) -> Result<Self, LeaseError> {
        let within = u32::try_from(ms).ok();
        let within = within.filter(|ms| (LEASE_MS_MIN..=LEASE_MS_MAX).contains(ms));
        within.map(Self).ok_or(LeaseError { ms })
    }

    /// In milliseconds.
    #[must_use]
    pub fn ms(self) -> u64 {
        self.0.into()
    }

    pub(crate) fn encode(self, out: &mut BytesMut) {
        self.0.encode(out);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeLocksError> {
        let ms = u32::decode(reader)?;
        Self::new(ms.into()).or_else(|_| invalid("a lease is within its bounds"))
    }
}

/// How many may hold a semaphore at the same time: 1 to [`PERMITS_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Permits(u32);

/// A semaphore cannot have so many permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a semaphore has 1 to {PERMITS_MAX} permits, not {permits}")]
pub struct PermitsError {
    /// What was asked for.
    pub permits: u32,
}

impl Permits {
    /// Checks the bounds.
    ///
    /// # Errors
    /// When the number is out of them.
    pub fn new(permits: u32) -> Result<Self, PermitsError> {
        match (1..=PERMITS_MAX).contains(&permits) {
            true => Ok(Self(permits)),
            false => Err(PermitsError { permits }),
        }
    }

    /// As a number.
    #[must_use]
    pub fn count(self) -> u32 {
        self.0
    }

    pub(crate) fn encode(self, out: &mut BytesMut) {
        self.0.encode(out);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeLocksError> {
        Self::new(u32::decode(reader)?).or_else(|_| invalid("permits are within their bounds"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_names_have_a_plain_alphabet_and_a_bound() {
        for name in ["a", "orders/eu-west_1.leader", "db:42@x=y+z", &"n".repeat(255)] {
            assert_eq!(LockName::new(name).unwrap().as_str(), name);
        }
        assert_eq!(LockName::new(""), Err(LockNameError::Empty));
        let bytes = 1 << 20;
        let huge = LockName::new(&"n".repeat(bytes));
        assert_eq!(huge, Err(LockNameError::TooLong { bytes }));
        assert_eq!(
            LockName::new("a#1"),
            Err(LockNameError::Character { character: '#', position: 1 })
        );
        assert!(LockName::new("a b").is_err() && LockName::new("é").is_err());
    }

    #[test]
    fn leases_of_zero_or_of_years_name_the_bounds() {
        for ms in [0, 999, 600_001, 365 * 24 * 3_600_000, u64::MAX] {
            let error = LeaseMs::new(ms).unwrap_err().to_string();
            assert!(error.contains("1000 to 600000 ms"), "{error}");
        }
        assert_eq!(LeaseMs::new(1_000).unwrap().ms(), 1_000);
        assert_eq!(LeaseMs::new(600_000).unwrap().ms(), 600_000);
    }

    #[test]
    fn session_is_never_printed() {
        assert_eq!(format!("{:?}", SessionId(0x1234_5678)), "SessionId(secret)");
    }

    #[test]
    fn permits_labels_and_values_have_bounds() {
        assert!(Permits::new(0).is_err() && Permits::new(1_025).is_err());
        assert!(Label::new("").is_err() && Label::new("a\n").is_err());
        assert!(Label::new(&"l".repeat(256)).is_err() && Label::new("größe \"1\"").is_ok());
        assert!(Value::new(&"v".repeat(1_025)).is_err() && Value::new("").is_ok());
    }
}
