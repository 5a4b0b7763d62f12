//! Methods: what the two ends of a connection ask and tell each other. The table in `table.rs` is the
//! only place that names their numbers and fields; structs, encoder and decoder come from it.
//!
//! Invariants: a method that was read is written back as the same bytes, bits that have no meaning
//! and the two letters for one number in tables apart; reading allocates for short strings only.
//! Knows nothing of which method may come when.
//!
//! Source: AMQP 0-9-1 with RabbitMQ's extensions; `tests/definition.rs` checks the table against a
//! list made from the protocol's definition.

mod table;

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use crate::erlang;
use crate::error::{Fault, MethodId, ReplyCode};
use crate::wire::{Field, FieldType, Malformed, Reader, Writer};

pub use table::*;

/// What the table says of one method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MethodSpec {
    /// Class and method number.
    pub id: MethodId,
    /// `class.method`.
    pub name: &'static str,
    /// Whether a client may send it.
    pub to_server: bool,
    /// Whether a server may send it.
    pub to_client: bool,
    /// Whether a content follows.
    pub has_content: bool,
    /// Names and types of its fields.
    pub fields: &'static [(&'static str, FieldType)],
}

/// Why a payload is not a method.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MethodError {
    /// Shorter than the numbers of class and method.
    #[error("a method's payload has {bytes} bytes")]
    NoId {
        /// How many it has.
        bytes: usize,
    },
    /// No method has these numbers.
    #[error("there is no method {} of class {}", .id.method, .id.class)]
    Unknown {
        /// The numbers.
        id: MethodId,
    },
    /// The fields are not those of the method.
    #[error("{name}: {malformed}")]
    Fields {
        /// Its numbers.
        id: MethodId,
        /// Its name.
        name: &'static str,
        /// What is wrong.
        malformed: Malformed,
        /// The bytes that should be its fields.
        fields: Bytes,
    },
}

impl MethodError {
    /// How the connection ends for it. Fields that cannot be read are 501 as in RabbitMQ, where the
    /// specification has 502; a method nobody knows is 540.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::NoId { .. } => Fault::new(ReplyCode::FrameError, self.to_string()),
            Self::Unknown { id } => {
                Fault::new(ReplyCode::NotImplemented, self.to_string()).blamed_on(*id)
            }
            Self::Fields { id, malformed: Malformed::Utf8, .. } => {
                Fault::new(ReplyCode::FrameError, "Malformed UTF-8 in shortstr").blamed_on(*id)
            }
            Self::Fields { id, malformed: Malformed::Table(error), .. } => {
                Fault::new(ReplyCode::SyntaxError, error.to_string()).blamed_on(*id)
            }
            Self::Fields { id, fields, .. } => {
                let text = format!("cannot decode {}", erlang::numbers(fields));
                Fault::new(ReplyCode::FrameError, text).blamed_on(*id)
            }
        }
    }
}

macro_rules! methods {
    (@content) => { false };
    (@content content) => { true };
    (@to_server server) => { true };
    (@to_server client) => { false };
    (@to_server both) => { true };
    (@to_client server) => { false };
    (@to_client client) => { true };
    (@to_client both) => { true };
    ($(
        $(#[$doc:meta])*
        $name:ident ($class:literal, $method:literal) $text:literal
        to $to:ident $($content:ident)? { $($field:ident: $type:ty),* $(,)? };
    )+) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Default, PartialEq, Eq)]
            pub struct $name {
                $(
                    #[doc = concat!("Field `", stringify!($field), "`.")]
                    pub $field: $type,
                )*
            }

            impl $name {
                /// Class and method number.
                pub const ID: MethodId = MethodId::new($class, $method);
            }

            impl From<$name> for Method {
                fn from(method: $name) -> Self {
                    Self::$name(method)
                }
            }
        )+

        /// Any method.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Method {
            $(
                #[doc = concat!("`", $text, "`")]
                $name($name),
            )+
        }

        /// Every method, in the order of the table.
        pub const METHODS: &[MethodSpec] = &[$(MethodSpec {
            id: $name::ID,
            name: $text,
            to_server: methods!(@to_server $to),
            to_client: methods!(@to_client $to),
            has_content: methods!(@content $($content)?),
            fields: &[$((stringify!($field), <$type as Field>::TYPE)),*],
        }),+];

        impl Method {
            /// What the table says of it.
            #[must_use]
            pub fn spec(&self) -> &'static MethodSpec {
                /// Places in [`METHODS`].
                #[derive(Clone, Copy)]
                enum Place { $($name,)+ }
                let place = match self { $(Self::$name(_) => Place::$name,)+ };
                &METHODS[place as usize]
            }

            /// Reads the fields of method `id`, from the byte at 4 on.
            pub(super) fn read_fields(id: MethodId, payload: &Bytes) -> Result<Self, MethodError> {
                let reader = Reader::new(payload, 4);
                let (name, read) = match (id.class, id.method) {
                    $(($class, $method) => {
                        ($text, read_to_end(reader, |_reader| {
                            Ok(Self::$name($name { $($field: Field::read(_reader)?),* }))
                        }))
                    })+
                    _ => return Err(MethodError::Unknown { id }),
                };
                read.map_err(|malformed| {
                    MethodError::Fields { id, name, malformed, fields: payload.slice(4..) }
                })
            }

            /// Appends the payload of its frame.
            pub fn write(&self, out: &mut BytesMut) {
                let mut writer = Writer::new(out);
                self.id().class.write(&mut writer);
                self.id().method.write(&mut writer);
                match self {
                    $(Self::$name(_method) => { $(_method.$field.write(&mut writer);)* })+
                }
            }
        }
    };
}
pub(crate) use methods;

fn read_to_end(
    mut reader: Reader<'_>,
    read: impl FnOnce(&mut Reader<'_>) -> Result<Method, Malformed>,
) -> Result<Method, Malformed> {
    let method = read(&mut reader)?;
    reader.finish()?;
    Ok(method)
}

impl Method {
    /// Reads the payload of a method frame.
    ///
    /// # Errors
    /// When there is no such method, or the bytes are not its fields.
    pub fn read(payload: &Bytes) -> Result<Self, MethodError> {
        Self::read_fields(method_id(payload)?, payload)
    }

    /// Class and method number.
    #[must_use]
    pub fn id(&self) -> MethodId {
        self.spec().id
    }
}

/// The numbers in front of a method's fields.
///
/// # Errors
/// [`MethodError::NoId`] when the payload is shorter.
pub fn method_id(payload: &Bytes) -> Result<MethodId, MethodError> {
    let Some(&[a, b, c, d]) = payload.first_chunk() else {
        return Err(MethodError::NoId { bytes: payload.len() });
    };
    Ok(MethodId::new(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}
