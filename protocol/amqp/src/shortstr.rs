//! Short strings: names of queues, exchanges, keys, tags. At most 255 bytes of UTF-8, cheap to
//! clone, free where empty, and independent of the buffer that they were read from.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use thiserror::Error;

/// Bytes that a short string holds; its length is one byte.
pub const SHORTSTR_BYTES_MAX: usize = 255;

/// A text has more bytes than a short string holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{bytes} bytes, a short string holds 255")]
pub struct ShortStrTooLong {
    /// How many bytes it has.
    pub bytes: usize,
}

/// A text of at most 255 bytes.
///
/// Source: AMQP 0-9-1, 4.2.5.3; UTF-8 as RabbitMQ checks it.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShortStr(Option<Arc<str>>);

impl ShortStr {
    /// The empty string.
    pub const EMPTY: Self = Self(None);

    /// As much of `text` as fits, cut between characters.
    #[must_use]
    pub fn cut(text: &str) -> Self {
        let fits = &text[..text.floor_char_boundary(SHORTSTR_BYTES_MAX)];
        Self((!fits.is_empty()).then(|| fits.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }
}

impl TryFrom<&str> for ShortStr {
    type Error = ShortStrTooLong;

    fn try_from(text: &str) -> Result<Self, ShortStrTooLong> {
        match text.len() {
            0..=SHORTSTR_BYTES_MAX => Ok(Self::cut(text)),
            bytes => Err(ShortStrTooLong { bytes }),
        }
    }
}

impl Deref for ShortStr {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

/// As its text, so that a map's key can be looked up by `&str`.
impl Hash for ShortStr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

/// Invariant: hashes and orders as its text, because `None` stands for the empty text only.
impl Borrow<str> for ShortStr {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for ShortStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for ShortStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}
