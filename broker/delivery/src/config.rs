//! How a queue behaves, as its creator asked for it. Part of the replicated state, so that every
//! leader goes by the same.

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::codec::{Cursor, DecodeQueueError, put_option, put_u64};

/// Most priority levels of a queue. Issue 4 asks for 10 at least; a level costs an index.
pub const LEVELS_MAX: u8 = 32;
/// Longest lease: 12 hours, as SQS has it.
pub const LEASE_MS_MAX: u32 = 12 * 60 * 60 * 1000;
/// Most bytes that name where dead letters go.
pub const DEAD_LETTER_BYTES_MAX: usize = 1024;

/// How messages of the same key are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Mode {
    /// Keys mean nothing: whoever has room gets the next message.
    #[default]
    Shared = 0,
    /// One message of a key at a time, in the order of their offsets; keys run beside each other.
    KeyShared = 1,
}

/// When an attempt is written into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Counting {
    /// With the next entry that is proposed anyway. A leader that dies takes along the attempts that no
    /// entry carried yet: the number of an attempt may then be given twice, and never one is left out. A
    /// consumer may miss a number: that of a message that was on its way to it when the leader died.
    #[default]
    Behind = 0,
    /// Before the message is handed out: the number of an attempt is never given twice, and one that is
    /// written counts, even if the leader dies before it delivers. One quorum write more before each
    /// delivery, in batches.
    Before = 1,
}

/// What happens to a queue that is as long as it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Overflow {
    /// New messages are refused.
    #[default]
    Reject = 0,
    /// The oldest ready messages of the lowest priority go.
    DropHead = 1,
}

/// The configuration of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueConfig {
    /// Shared or key-shared.
    pub mode: Mode,
    /// When attempts are written.
    pub counting: Counting,
    /// Whether one consumer at a time gets everything, the others stand by.
    pub single_active: bool,
    /// Priority levels, 1 to [`LEVELS_MAX`]; default 1. A record's priority is cut to `levels - 1`.
    /// More than one makes a new leader read what is unsettled once, and is not for key-shared queues.
    pub levels: u8,
    /// How long a consumer holds a message before it must settle or extend, in milliseconds, 1 to
    /// [`LEASE_MS_MAX`]; default 30,000. Longer means later redelivery after a consumer hangs.
    pub lease_ms: u32,
    /// How often a message is delivered before it is given up; 0 for ever. Default 20, as RabbitMQ's
    /// quorum queues.
    pub attempts_max: u32,
    /// How long the first failed message waits, in milliseconds; doubles with each attempt. Default 0:
    /// not at all.
    pub backoff_ms: u32,
    /// Longest wait that doubling leads to, in milliseconds. Default 600,000.
    pub backoff_ms_max: u32,
    /// Longest life of a message in the queue, in milliseconds; default none. A record's own end
    /// counts too when it is sooner.
    pub ttl_ms: Option<u64>,
    /// Most messages that are not held by a consumer; default none.
    pub length_max: Option<u64>,
    /// Most bytes of them; default none. An estimate behind what this leader has seen.
    pub bytes_max: Option<u64>,
    /// What happens beyond these two.
    pub overflow: Overflow,
    /// Where messages go that are rejected, given up, expired or dropped: a topic's name, or what a
    /// gateway wrote (exchange and routing key). At most [`DEAD_LETTER_BYTES_MAX`] bytes. Without, they
    /// are dropped.
    pub dead_letter: Option<Bytes>,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Shared,
            counting: Counting::Behind,
            single_active: false,
            levels: 1,
            lease_ms: 30_000,
            attempts_max: 20,
            backoff_ms: 0,
            backoff_ms_max: 600_000,
            ttl_ms: None,
            length_max: None,
            bytes_max: None,
            overflow: Overflow::Reject,
            dead_letter: None,
        }
    }
}

/// Why a configuration cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Too few or too many levels.
    #[error("a queue has 1 to {LEVELS_MAX} priority levels, not {levels}")]
    Levels {
        /// What was asked for.
        levels: u8,
    },
    /// Order per key and order by priority contradict each other.
    #[error("a key-shared queue keeps the order of each key and cannot have priorities too")]
    KeysAndLevels,
    /// A lease of no length, or too long.
    #[error("a lease is 1 to {LEASE_MS_MAX} ms long, not {lease_ms}")]
    Lease {
        /// What was asked for.
        lease_ms: u32,
    },
    /// The name of where dead letters go is too long.
    #[error(
        "where dead letters go is written in {bytes} bytes, {DEAD_LETTER_BYTES_MAX} are allowed"
    )]
    DeadLetter {
        /// How long it is.
        bytes: usize,
    },
}

impl QueueConfig {
    /// Checks the bounds that the fields' docs name.
    ///
    /// # Errors
    /// By the first field that is out of them.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !(1..=LEVELS_MAX).contains(&self.levels) {
            return Err(ConfigError::Levels { levels: self.levels });
        }
        if self.mode == Mode::KeyShared && self.levels > 1 {
            return Err(ConfigError::KeysAndLevels);
        }
        if !(1..=LEASE_MS_MAX).contains(&self.lease_ms) {
            return Err(ConfigError::Lease { lease_ms: self.lease_ms });
        }
        let bytes = self.dead_letter.as_ref().map_or(0, Bytes::len);
        if bytes > DEAD_LETTER_BYTES_MAX {
            return Err(ConfigError::DeadLetter { bytes });
        }
        Ok(())
    }

    /// How long a message waits that failed for the `attempt`-th time, in milliseconds:
    /// `min(backoff_ms * 2^(attempt - 1), backoff_ms_max)`.
    #[must_use]
    pub fn backoff_ms(&self, attempt: u32) -> u64 {
        let doublings = attempt.saturating_sub(1).min(32);
        (u64::from(self.backoff_ms) << doublings).min(u64::from(self.backoff_ms_max))
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.mode as u8);
        out.put_u8(self.counting as u8);
        out.put_u8(u8::from(self.single_active));
        out.put_u8(self.levels);
        for number in [self.lease_ms, self.attempts_max, self.backoff_ms, self.backoff_ms_max] {
            put_u64(out, number.into());
        }
        for limit in [self.ttl_ms, self.length_max, self.bytes_max] {
            put_option(out, limit, put_u64);
        }
        out.put_u8(self.overflow as u8);
        put_option(out, self.dead_letter.as_ref(), |out, target| {
            put_u64(out, target.len() as u64);
            out.put_slice(target);
        });
    }

    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, DecodeQueueError> {
        let unknown =
            |what, number: u8| Err(DecodeQueueError::UnknownValue { what, number: number.into() });
        let config = Self {
            mode: match cursor.u8()? {
                0 => Mode::Shared,
                1 => Mode::KeyShared,
                number => return unknown("mode", number),
            },
            counting: match cursor.u8()? {
                0 => Counting::Behind,
                1 => Counting::Before,
                number => return unknown("way to count attempts", number),
            },
            single_active: cursor.flag()?,
            levels: cursor.u8()?,
            lease_ms: cursor.u32()?,
            attempts_max: cursor.u32()?,
            backoff_ms: cursor.u32()?,
            backoff_ms_max: cursor.u32()?,
            ttl_ms: cursor.option(Cursor::u64)?,
            length_max: cursor.option(Cursor::u64)?,
            bytes_max: cursor.option(Cursor::u64)?,
            overflow: match cursor.u8()? {
                0 => Overflow::Reject,
                1 => Overflow::DropHead,
                number => return unknown("overflow", number),
            },
            dead_letter: cursor.option(|cursor| {
                let len = cursor.count(1)?;
                Ok(Bytes::copy_from_slice(cursor.take(len)?))
            })?,
        };
        match config.check() {
            Ok(()) => Ok(config),
            Err(_) => {
                Err(DecodeQueueError::Invalid { rule: "a configuration is within its bounds" })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_bound() {
        let config =
            QueueConfig { backoff_ms: 100, backoff_ms_max: 1_000, ..QueueConfig::default() };
        let waits: Vec<_> = (1..=6).map(|attempt| config.backoff_ms(attempt)).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(config.backoff_ms(u32::MAX), 1_000);
        assert_eq!(QueueConfig::default().backoff_ms(9), 0);
    }

    #[test]
    fn configuration_out_of_bounds_is_refused() {
        let good = QueueConfig::default();
        assert_eq!(good.check(), Ok(()));
        let levels = QueueConfig { levels: 33, ..good.clone() };
        assert_eq!(levels.check(), Err(ConfigError::Levels { levels: 33 }));
        let both = QueueConfig { levels: 2, mode: Mode::KeyShared, ..good.clone() };
        assert_eq!(both.check(), Err(ConfigError::KeysAndLevels));
        let lease = QueueConfig { lease_ms: 0, ..good.clone() };
        assert_eq!(lease.check(), Err(ConfigError::Lease { lease_ms: 0 }));
        let long = QueueConfig { dead_letter: Some(vec![0; 1025].into()), ..good };
        assert_eq!(long.check(), Err(ConfigError::DeadLetter { bytes: 1025 }));
    }
}
