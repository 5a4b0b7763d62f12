//! The texts of AMQP's names and keys.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use bytes::BytesMut;
use plimsoll_protocol::wire::{Decode, DecodeError, DecodeFault, Encode, Reader};
use thiserror::Error;

/// Most bytes of an [`AmqpText`].
pub const TEXT_BYTES_MAX: usize = 255;

/// A text of 0 to [`TEXT_BYTES_MAX`] bytes: the name of a virtual host, user, exchange or queue, a
/// routing key, a tag. Cloning is cheap.
///
/// Source: AMQP 0-9-1, 4.2.5.3 (short strings); UTF-8 as RabbitMQ checks it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AmqpText(Arc<str>);

/// A text has more bytes than a short string holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a text of {bytes} bytes is too long; at most {TEXT_BYTES_MAX} are allowed")]
pub struct AmqpTextTooLong {
    /// How many bytes it has.
    pub bytes: usize,
}

impl AmqpText {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether there is no character in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A text of this build, which is short.
    pub(super) fn known(text: &'static str) -> Self {
        Self::try_from(text).expect("texts of this build are short")
    }
}

impl TryFrom<&str> for AmqpText {
    type Error = AmqpTextTooLong;

    fn try_from(text: &str) -> Result<Self, AmqpTextTooLong> {
        match text.len() {
            0..=TEXT_BYTES_MAX => Ok(Self(text.into())),
            bytes => Err(AmqpTextTooLong { bytes }),
        }
    }
}

impl Borrow<str> for AmqpText {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AmqpText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Encode for AmqpText {
    fn encode(&self, out: &mut BytesMut) {
        self.0.encode(out);
    }
}

impl Decode for AmqpText {
    const BYTES_MIN: usize = String::BYTES_MIN;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let text = String::decode(reader)?;
        Self::try_from(text.as_str()).map_err(|AmqpTextTooLong { bytes }| {
            let number = u64::try_from(bytes).unwrap_or(u64::MAX);
            reader.fault(DecodeFault::UnknownValue { what: "length of a short text", number })
        })
    }
}
