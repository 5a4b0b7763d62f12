//! The body of a control entry of floors: any partition may have such.
//!
//! ```text
//!  byte 0   domain, `F`: floors     byte 1   version, 1
//!  then     changes, each a number and its fields:
//!           1 raise            namespace u64 | fence's name | token u64
//!           2 prune a lock     namespace u64 | lock's name
//!           3 prune a namespace   namespace u64
//! ```
//! Nothing protects the bytes: the entry's checksum does.

use bytes::{BufMut, Bytes, BytesMut};
use plimsoll_protocol::wire::{Decode, Encode, Reader};

use super::{Fence, FenceName};
use crate::codec::{DecodeLocksError, domain, text, version};
use crate::ids::{LockName, NamespaceId, Token};

/// The first byte of a control entry of floors. Not used for anything else.
pub const DOMAIN: u8 = b'F';

const VERSION: u8 = 1;

/// One change of the floors of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FloorChange {
    /// A lock that guards this topic was granted: nobody writes under an earlier token any more.
    Raise(Fence),
    /// A lock was deleted.
    PruneLock {
        /// Of which namespace.
        namespace: NamespaceId,
        /// Which.
        lock: LockName,
    },
    /// A namespace was deleted.
    PruneNamespace {
        /// Which.
        namespace: NamespaceId,
    },
}

/// Changes of the floors of a partition that are committed together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FloorEntry {
    /// In the order in which they are applied.
    pub changes: Vec<FloorChange>,
}

impl FloorEntry {
    /// The body of the control entry.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        out.put_u8(DOMAIN);
        out.put_u8(VERSION);
        for change in &self.changes {
            match change {
                FloorChange::Raise(fence) => {
                    out.put_u8(1);
                    fence.encode(&mut out);
                }
                FloorChange::PruneLock { namespace, lock } => {
                    out.put_u8(2);
                    namespace.encode(&mut out);
                    lock.encode(&mut out);
                }
                FloorChange::PruneNamespace { namespace } => {
                    out.put_u8(3);
                    namespace.encode(&mut out);
                }
            }
        }
        out.freeze()
    }

    /// Reads the body of a control entry. Allocates at most 32 times its bytes.
    ///
    /// # Errors
    /// When it belongs to another domain, has a version that this build does not know, or is not what
    /// [`FloorEntry::encode`] writes.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeLocksError> {
        let mut reader = Reader::new(body);
        domain(&mut reader, DOMAIN)?;
        version(&mut reader, "entry of floors", VERSION)?;
        let mut entry = Self::default();
        while reader.remaining() > 0 {
            entry.changes.push(match u8::decode(&mut reader)? {
                1 => FloorChange::Raise(Fence::decode(&mut reader)?),
                2 => FloorChange::PruneLock {
                    namespace: NamespaceId::decode(&mut reader)?,
                    lock: LockName::decode(&mut reader)?,
                },
                3 => FloorChange::PruneNamespace { namespace: NamespaceId::decode(&mut reader)? },
                number => {
                    return Err(DecodeLocksError::UnknownValue {
                        what: "change of floors",
                        number,
                    });
                }
            });
        }
        Ok(entry)
    }
}

impl Fence {
    /// Appends the fence's encoding: namespace u64, name, token u64.
    pub fn encode(&self, out: &mut BytesMut) {
        self.namespace.encode(out);
        self.name.encode(out);
        self.token.encode(out);
    }

    /// Reads what [`Fence::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes end early, or name no lock.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeLocksError> {
        Ok(Self {
            namespace: NamespaceId::decode(reader)?,
            name: FenceName::decode(reader)?,
            token: Token::decode(reader)?,
        })
    }
}

impl FenceName {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        self.as_str().encode(out);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeLocksError> {
        let text = text(reader, Self::BYTES_MAX)?;
        Self::parse(&text)
            .map_err(|_| DecodeLocksError::Invalid { rule: "a fence names a lock or a permit" })
    }
}
