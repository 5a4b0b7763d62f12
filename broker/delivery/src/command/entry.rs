//! The body of a control entry of queues: whose it is, its version, which queue, then commands to the
//! end of the body.
//!
//! ```text
//!  byte 0   domain, 1: queues       byte 1   version, 1
//!  then     the subscription's id, then commands, each a number and its fields
//! ```
//! Nothing protects the bytes: the entry's checksum does.

use bytes::{BufMut, Bytes, BytesMut};

use super::QueueCommand;
use crate::codec::{Cursor, DecodeQueueError, invalid, put_u64};

/// The first byte of a control entry of queues. Other users of control entries in a partition's log
/// (locks, offset commits, transactions) take other numbers; none is used again.
pub const DOMAIN: u8 = 1;

const VERSION: u8 = 1;

/// Which subscription of the topic; 0 is the built-in one of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SubscriptionId(pub u32);

impl SubscriptionId {
    /// The built-in one of a queue.
    pub const QUEUE: Self = Self(0);
}

/// Changes of one queue that are committed together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueueEntry {
    /// Whose.
    pub subscription: SubscriptionId,
    /// In the order in which they are applied. Not empty.
    pub commands: Vec<QueueCommand>,
}

impl QueueEntry {
    /// The body of the control entry.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        out.put_u8(DOMAIN);
        out.put_u8(VERSION);
        put_u64(&mut out, self.subscription.0.into());
        for command in &self.commands {
            command.encode(&mut out);
        }
        out.freeze()
    }

    /// Reads the body of a control entry. Allocates at most 32 times its bytes.
    ///
    /// # Errors
    /// When it belongs to another domain, has a version that this build does not know, or is not what
    /// [`QueueEntry::encode`] writes.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeQueueError> {
        let mut cursor = Cursor::new(body);
        let domain = cursor.u8()?;
        if domain != DOMAIN {
            return Err(DecodeQueueError::OtherDomain { domain });
        }
        cursor.version("entry", VERSION)?;
        let subscription = SubscriptionId(cursor.u32()?);
        let mut commands = Vec::new();
        while cursor.remaining() > 0 {
            commands.push(QueueCommand::decode(&mut cursor)?);
        }
        if commands.is_empty() {
            return invalid("an entry has a command");
        }
        Ok(Self { subscription, commands })
    }
}
