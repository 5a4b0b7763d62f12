//! What a content's header carries: the size of the body and the fourteen properties of class basic.
//!
//! Invariants: reading properties allocates for short strings only; what was read is written back as
//! the same bytes. Knows nothing of what the properties do; the body's bytes are elsewhere.
//!
//! Source: AMQP 0-9-1, 4.2.6.1 (header frames) and 1.8 (class basic).

use bytes::{BufMut, Bytes, BytesMut};

use crate::shortstr::ShortStr;
use crate::table::FieldTable;
use crate::wire::{Field, Malformed, Reader, Writer};

/// The class that has contents.
pub const BASIC_CLASS: u16 = 60;

/// In a word of flags: another word follows.
const MORE_FLAGS: u16 = 1;

macro_rules! properties {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $bit:literal;)+) => {
        /// The properties of a message, those absent that were not given.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Properties {
            $($(#[$doc])* pub $name: Option<$type>,)+
        }

        impl Properties {
            /// Reads them from where the flags begin up to the end.
            ///
            /// # Errors
            /// When the bytes are not those that the flags announce, and no more.
            pub fn read(payload: &Bytes) -> Result<Self, Malformed> {
                let mut reader = Reader::new(payload, 0);
                let flags = u16::read(&mut reader)?;
                let mut more = flags & MORE_FLAGS != 0;
                while more {
                    let word = u16::read(&mut reader)?;
                    if word & !MORE_FLAGS != 0 {
                        return Err(Malformed::UnknownProperties);
                    }
                    more = word & MORE_FLAGS != 0;
                }
                let mut read = Self::default();
                $(if flags & (1 << $bit) != 0 {
                    read.$name = Some(Field::read(&mut reader)?);
                })+
                if flags & 0b10 != 0 {
                    return Err(Malformed::UnknownProperties);
                }
                reader.finish()?;
                Ok(read)
            }

            /// Appends flags and properties.
            pub fn write(&self, out: &mut BytesMut) {
                let mut flags = 0u16;
                $(flags |= u16::from(self.$name.is_some()) << $bit;)+
                out.put_u16(flags);
                let mut writer = Writer::new(out);
                $(if let Some(value) = &self.$name {
                    value.write(&mut writer);
                })+
            }
        }
    };
}

properties! {
    /// MIME type of the body.
    content_type: ShortStr = 15;
    /// MIME encoding of the body.
    content_encoding: ShortStr = 14;
    /// Headers, for the headers exchange and for users.
    headers: FieldTable = 13;
    /// 2: persistent; all else: not.
    delivery_mode: u8 = 12;
    /// Priority, from 0.
    priority: u8 = 11;
    /// Which request it answers.
    correlation_id: ShortStr = 10;
    /// Where the answer goes.
    reply_to: ShortStr = 9;
    /// Time to live in milliseconds, as a text.
    expiration: ShortStr = 8;
    /// Chosen by the sender.
    message_id: ShortStr = 7;
    /// Seconds since 1970, chosen by the sender.
    timestamp: u64 = 6;
    /// Name of the message's type.
    kind: ShortStr = 5;
    /// Who sent it; checked against the login.
    user_id: ShortStr = 4;
    /// Which application sent it.
    app_id: ShortStr = 3;
    /// Of AMQP 0-8; carried.
    cluster_id: ShortStr = 2;
}

impl Properties {
    /// The encoding, to be kept beside a message and delivered as it is.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        self.write(&mut out);
        out.freeze()
    }

    /// Whether the message survives a restart of a durable queue.
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        self.delivery_mode == Some(2)
    }
}

/// The payload of a header frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentHeader {
    /// Class of the method before it.
    pub class: u16,
    /// Bytes of the body that follows in body frames.
    pub body_bytes: u64,
    /// The properties, not read yet.
    pub properties: Bytes,
}

impl ContentHeader {
    /// Reads the payload of a header frame; none if it is too short or its weight is not 0.
    #[must_use]
    pub fn read(payload: &Bytes) -> Option<Self> {
        let mut reader = Reader::new(payload, 0);
        let class = u16::read(&mut reader).ok()?;
        let weight = u16::read(&mut reader).ok()?;
        let body_bytes = u64::read(&mut reader).ok()?;
        let properties = payload.slice(payload.len() - reader.remaining()..);
        (weight == 0).then_some(Self { class, body_bytes, properties })
    }

    /// Appends the payload of a header frame of class basic with properties that are encoded already.
    pub fn write(out: &mut BytesMut, body_bytes: usize, properties: &[u8]) {
        out.put_u16(BASIC_CLASS);
        out.put_u16(0);
        out.put_u64(body_bytes as u64);
        out.put_slice(properties);
    }
}
