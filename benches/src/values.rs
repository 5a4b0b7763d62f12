//! What the measured records carry: bytes that look random, so that nothing on the way can be
//! clever about them, and that cost next to nothing to make, so that the load is not what is
//! measured.

use std::time::{SystemTime, UNIX_EPOCH};

use plimsoll_protocol::batch::{
    BATCH_HEADER_BYTES, BatchBuilder, PushError, PushOutcome, RecordView,
};

/// Bytes that values are cut from, besides one value's length.
const POOL_BYTES: usize = 1 << 20;
/// Distance of the beginnings of two values: odd, so that all places are visited.
const STEP: usize = 4_099;
/// What a record takes beside its value, at most, without key and headers.
const RECORD_OVERHEAD_BYTES: usize = 24;

/// An endless row of values of one length, each cut from a pool of random bytes.
#[derive(Debug)]
pub struct Values {
    pool: Vec<u8>,
    length: usize,
    at: usize,
}

impl Values {
    /// Values of `length` bytes. Different seeds give different values.
    pub fn new(length: u32, seed: u64) -> Self {
        let length = length as usize;
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut pool = Vec::with_capacity(POOL_BYTES + length + 8);
        while pool.len() < POOL_BYTES + length {
            // xorshift64*
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            pool.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
        }
        Self { pool, length, at: 0 }
    }

    /// The next value.
    pub fn next_value(&mut self) -> &[u8] {
        self.at = (self.at + STEP) % POOL_BYTES;
        &self.pool[self.at..self.at + self.length]
    }

    /// Puts `count` values, stamped with the present time, into an empty batch.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn fill(&mut self, batch: &mut BatchBuilder, count: u32) -> Result<(), BatchTooLarge> {
        let timestamp_ms = unix_ms();
        for _ in 0..count {
            push(batch, self.next_value(), timestamp_ms)?;
        }
        Ok(())
    }

    /// Room that `count` values take in a batch, at most.
    pub fn batch_bytes(&self, count: u32) -> usize {
        BATCH_HEADER_BYTES + count as usize * (self.length + RECORD_OVERHEAD_BYTES)
    }
}

/// Adds a record that must fit.
///
/// # Errors
/// When it does not.
pub fn push(
    batch: &mut BatchBuilder,
    value: &[u8],
    timestamp_ms: i64,
) -> Result<(), BatchTooLarge> {
    push_record(batch, RecordView { timestamp_ms, ..RecordView::new(value) })
}

/// As [`push`], with whatever else the record has.
///
/// # Errors
/// When it does not fit.
pub fn push_record(batch: &mut BatchBuilder, record: RecordView<'_>) -> Result<(), BatchTooLarge> {
    match batch.push(record) {
        Ok(PushOutcome::Added) => Ok(()),
        Ok(PushOutcome::Full) => {
            let limit = batch.limits().batch_bytes_max;
            Err(BatchTooLarge::Full { records: batch.record_count(), limit })
        }
        Err(source) => Err(BatchTooLarge::Record(source)),
    }
}

/// The settings ask for a batch that no topic takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchTooLarge {
    /// All records together.
    #[error(
        "a batch is full after {records} records ({limit} bytes are allowed); lower \
         --batch-records or --record-bytes"
    )]
    Full {
        /// How many fit.
        records: u32,
        /// The limit in force.
        limit: u32,
    },
    /// One record alone.
    #[error(transparent)]
    Record(#[from] PushError),
}

/// Milliseconds since 1970.
pub fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use plimsoll_protocol::batch::BatchLimits;

    use super::*;

    #[test]
    fn values_differ_from_each_other_and_by_seed() {
        let (mut first, mut second) = (Values::new(100, 1), Values::new(100, 2));
        let value = first.next_value().to_vec();
        assert_eq!(value.len(), 100);
        assert_ne!(value, first.next_value());
        assert_ne!(value, second.next_value());
    }

    #[test]
    fn values_as_long_as_the_pool_are_cut_too() {
        let mut values = Values::new(3 << 20, 1);
        for _ in 0..1_000 {
            assert_eq!(values.next_value().len(), 3 << 20);
        }
    }

    #[test]
    fn a_batch_that_no_topic_takes_is_refused_with_the_flag_to_change() {
        let mut values = Values::new(1_000, 1);
        let mut batch = BatchBuilder::new(BatchLimits::default());
        values.fill(&mut batch, 1_000).unwrap();
        assert_eq!(batch.record_count(), 1_000);
        assert!(batch.bytes() <= values.batch_bytes(1_000));
        let refused = values.fill(&mut batch, 100_000).unwrap_err();
        assert!(refused.to_string().contains("--batch-records"), "{refused}");
    }
}
