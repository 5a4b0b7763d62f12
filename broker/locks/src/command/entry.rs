//! The body of a control entry of locks: whose it is, its version, then commands to the end of the body.
//!
//! ```text
//!  byte 0   domain, `L`: locks      byte 1   version, 1
//!  then     commands, each a number and its fields
//! ```
//! Nothing protects the bytes: the entry's checksum does.

use bytes::{BufMut, Bytes, BytesMut};
use plimsoll_protocol::wire::Reader;

use super::LockCommand;
use crate::codec::{DecodeLocksError, domain, version};

/// The first byte of a control entry of locks; 1 is that of queues, 2 that of consumer groups. None is
/// used again.
pub const DOMAIN: u8 = b'L';

const VERSION: u8 = 1;

/// Changes of the locks of one namespace that are committed together, and happen at the same moment:
/// what ends in an entry ends before anything is granted in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocksEntry {
    /// In the order in which they came. An entry without changes nothing: what lies before it is folded
    /// when it is.
    pub commands: Vec<LockCommand>,
}

impl LocksEntry {
    /// The body of the control entry.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(128);
        out.put_u8(DOMAIN);
        out.put_u8(VERSION);
        for command in &self.commands {
            command.encode(&mut out);
        }
        out.freeze()
    }

    /// Reads the body of a control entry. Allocates at most 32 times its bytes.
    ///
    /// # Errors
    /// When it belongs to another domain, has a version that this build does not know, or is not what
    /// [`LocksEntry::encode`] writes.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeLocksError> {
        let mut reader = Reader::new(body);
        domain(&mut reader, DOMAIN)?;
        version(&mut reader, "entry", VERSION)?;
        let mut entry = Self::default();
        while reader.remaining() > 0 {
            entry.commands.push(LockCommand::decode(&mut reader)?);
        }
        Ok(entry)
    }
}
