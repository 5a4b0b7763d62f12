//! How commands, answers and refusals are written: a number for the variant, then its fields; and
//! structs: their fields.

/// Defines an enum whose variants have numbers and named fields, with its encoding. A number is never
/// used for another variant.
macro_rules! wire_variants {
    (
        $(#[$meta:meta])*
        $visible:vis enum $name:ident as $what:literal {
            $(
                $(#[$variant_meta:meta])*
                $variant:ident = $number:literal
                $({ $($(#[$field_meta:meta])* $field:ident: $kind:ty),* $(,)? })?
            ),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        $visible enum $name {
            $(
                $(#[$variant_meta])*
                $variant $({ $($(#[$field_meta])* $field: $kind),* })?
            ),+
        }

        impl plimsoll_protocol::wire::Encode for $name {
            fn encode(&self, out: &mut bytes::BytesMut) {
                match self {
                    $(
                        Self::$variant $({ $($field),* })? => {
                            bytes::BufMut::put_u8(out, $number);
                            $($($field.encode(out);)*)?
                        }
                    )+
                }
            }
        }

        impl plimsoll_protocol::wire::Decode for $name {
            const BYTES_MIN: usize = 1;

            fn decode(
                reader: &mut plimsoll_protocol::wire::Reader<'_>,
            ) -> Result<Self, plimsoll_protocol::wire::DecodeError> {
                match u8::decode(reader)? {
                    $(
                        $number => Ok(Self::$variant $({
                            $($field: plimsoll_protocol::wire::Decode::decode(reader)?),*
                        })?),
                    )+
                    number => Err(reader.fault(
                        plimsoll_protocol::wire::DecodeFault::UnknownValue {
                            what: $what,
                            number: u64::from(number),
                        },
                    )),
                }
            }
        }
    };
}

/// Encodes a struct as its fields, in the order in which they are named here.
macro_rules! wire_fields {
    ($name:ident { $($field:ident: $kind:ty),+ $(,)? }) => {
        impl plimsoll_protocol::wire::Encode for $name {
            fn encode(&self, out: &mut bytes::BytesMut) {
                $(self.$field.encode(out);)+
            }
        }

        impl plimsoll_protocol::wire::Decode for $name {
            const BYTES_MIN: usize = 0 $(+ <$kind as plimsoll_protocol::wire::Decode>::BYTES_MIN)+;

            fn decode(
                reader: &mut plimsoll_protocol::wire::Reader<'_>,
            ) -> Result<Self, plimsoll_protocol::wire::DecodeError> {
                Ok(Self { $($field: plimsoll_protocol::wire::Decode::decode(reader)?),+ })
            }
        }
    };
}

pub(super) use {wire_fields, wire_variants};
