//! Floors as bytes.
//!
//! ```text
//!  byte 0   version, 1
//!  then     namespaces u32, rising, of each: id u64 | floors u32, by name, of each: name | token u64
//! ```

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use plimsoll_protocol::wire::{Decode, Encode, Reader};

use super::{FenceName, Floors};
use crate::codec::{DecodeLocksError, count, invalid, version};
use crate::ids::{NamespaceId, Token};

const VERSION: u8 = 1;

impl Floors {
    /// The floors as bytes: the same floors give the same bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        (self.by_namespace.len() as u32).encode(&mut out);
        for (namespace, floors) in &self.by_namespace {
            namespace.encode(&mut out);
            (floors.len() as u32).encode(&mut out);
            for (name, token) in floors {
                name.encode(&mut out);
                token.encode(&mut out);
            }
        }
        out.freeze()
    }

    /// Reads what [`Floors::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are not encoded floors of a version that this build knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeLocksError> {
        let mut reader = Reader::new(bytes);
        version(&mut reader, "state of floors", VERSION)?;
        let mut state = Self::default();
        for _ in 0..count(&mut reader, 23)? {
            let namespace = NamespaceId::decode(&mut reader)?;
            if state.by_namespace.last_key_value().is_some_and(|(last, _)| *last >= namespace) {
                return invalid("namespaces rise");
            }
            let mut floors = BTreeMap::new();
            for _ in 0..count(&mut reader, 11)? {
                let name = FenceName::decode(&mut reader)?;
                if floors.last_key_value().is_some_and(|(last, _)| *last >= name) {
                    return invalid("floors rise by name");
                }
                floors.insert(name, Token::decode(&mut reader)?);
            }
            if floors.is_empty() {
                return invalid("a namespace that is remembered has a floor");
            }
            state.count += floors.len();
            state.by_namespace.insert(namespace, floors);
        }
        match reader.remaining() {
            0 => Ok(state),
            extra => Err(DecodeLocksError::TrailingBytes { extra }),
        }
    }
}
