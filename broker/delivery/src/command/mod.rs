//! What a leader writes into the log about a queue: control entries of commands.
//!
//! The leader's delivery machine decides, with a clock and with what it holds in memory; the fold
//! ([`crate::state`]) only notes what was decided. So a command says what is so, never what to find out:
//! a time in it is the result of a decision.

mod code;
mod entry;

use plimsoll_protocol::ids::Offset;

use crate::config::QueueConfig;
use crate::offsets::{Run, Runs};
use crate::time::UnixMs;

pub(crate) use code::decode_reason;
pub use entry::{DOMAIN, QueueEntry, SubscriptionId};

/// Why a message ended otherwise than by being accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    /// A consumer rejected it.
    Rejected = 1,
    /// It was delivered as often as it may be.
    AttemptsExhausted = 2,
    /// Its life, or the queue's, was over before it was delivered.
    Expired = 3,
    /// The queue was full and it was the oldest.
    LengthExceeded = 4,
    /// It was cancelled by its offset.
    Cancelled = 5,
    /// The queue was purged.
    Purged = 6,
    /// The log no longer holds it: retention was shorter than the queue.
    Lost = 7,
}

impl Reason {
    /// Every reason, by number.
    pub const ALL: [Self; 7] = [
        Self::Rejected,
        Self::AttemptsExhausted,
        Self::Expired,
        Self::LengthExceeded,
        Self::Cancelled,
        Self::Purged,
        Self::Lost,
    ];

    /// The reason as headers and people read it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::AttemptsExhausted => "attempts-exhausted",
            Self::Expired => "expired",
            Self::LengthExceeded => "length-exceeded",
            Self::Cancelled => "cancelled",
            Self::Purged => "purged",
            Self::Lost => "lost",
        }
    }
}

/// Messages that are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acquired {
    /// Which.
    pub run: Run,
    /// For the how manieth time, from 1; the same for all of them.
    pub attempt: u32,
}

/// A message that is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Released {
    /// Which.
    pub offset: Offset,
    /// The attempt that failed, from 1.
    pub attempt: u32,
    /// When it may be delivered again; at once without.
    pub delayed_until: Option<UnixMs>,
}

/// Messages that are given up, to be copied to where dead letters go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buried {
    /// Which.
    pub run: Run,
    /// How often they were delivered.
    pub attempts: u32,
    /// Why.
    pub reason: Reason,
}

/// One change of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueueCommand {
    /// Consumers accepted these, or the copies of these dead letters are committed.
    Settle {
        /// Which.
        runs: Runs,
    },
    /// These are (about to be) with consumers.
    Acquire {
        /// Which, rising by offset.
        items: Vec<Acquired>,
    },
    /// These failed and wait for their next attempt.
    Release {
        /// Which, rising by offset.
        items: Vec<Released>,
    },
    /// These are delivered no more and wait to be copied.
    DeadLetter {
        /// Which, rising by offset.
        items: Vec<Buried>,
    },
    /// These are gone, without a copy.
    Drop {
        /// Why.
        reason: Reason,
        /// Which.
        runs: Runs,
    },
    /// Somebody asked for the end of one message.
    Cancel {
        /// Which.
        offset: Offset,
    },
    /// Everything below `upto` goes, but for what consumers hold.
    Purge {
        /// The first offset that stays.
        upto: Offset,
        /// What stays below it.
        held: Runs,
    },
    /// Another configuration.
    Configure {
        /// All of it.
        config: Box<QueueConfig>,
    },
    /// The subscription begins; one that is there gets the configuration.
    Open {
        /// Its first message; what is older counts as settled.
        start: Offset,
        /// How it behaves.
        config: Box<QueueConfig>,
    },
    /// The subscription ends, and its state is forgotten.
    Close,
}
