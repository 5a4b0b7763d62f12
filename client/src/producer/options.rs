//! Settings of a producer, each with its bounds.

use std::time::Duration;

use plimsoll_protocol::api::{AckLevel, Fence};
use plimsoll_protocol::batch::Compression;

use crate::error::BuildError;
use crate::partitioner::Partitioner;

/// Settings of a producer.
#[derive(Debug, Clone)]
pub struct ProducerOptions {
    /// What must be reached before a record counts as stored. Default `Quorum`.
    pub acks: AckLevel,
    /// Compression of batches. Default none.
    pub compression: Compression,
    /// Which partition a record goes to. Default [`Partitioner::Hash`].
    pub partitioner: Partitioner,
    /// A batch is closed when it has this many bytes, 1 KiB..=8 MiB. Default 1 MiB. Larger batches
    /// carry more per request and wait longer. Lowered to what the node allows.
    pub batch_bytes: usize,
    /// A batch is closed when it has this many records, 1..=1,000,000. Default 16,384.
    pub batch_records: u32,
    /// How long a batch waits for more records although it could be sent, 0..=10 s. Default 0: it
    /// gathers only while others are on their way.
    pub linger: Duration,
    /// Full batches on their way per partition, 1..=8. Default 8. The node remembers the last 8
    /// per producer, so more could not be recognised when they are sent again.
    pub in_flight_max: usize,
    /// Batches on their way per partition above which one that is not full keeps gathering,
    /// 1..=in_flight_max. Default 2: one at the node while the next is on the wire.
    pub eager_in_flight: usize,
    /// Bytes of records that wait for their acknowledgement, in all partitions, 64 KiB..=4 GiB.
    /// Default 64 MiB. A send waits for room when they are used up.
    pub buffer_bytes: usize,
    /// How long a record is tried before it is given up, from when it was sent. Default 120 s.
    pub delivery_timeout: Duration,
    /// The lock under which it writes. Once a later holder of the lock was seen, what it sends is refused, and
    /// it stays refused. Default none.
    pub fence: Option<Fence>,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            acks: AckLevel::Quorum,
            compression: Compression::None,
            partitioner: Partitioner::Hash,
            batch_bytes: 1 << 20,
            batch_records: 16_384,
            linger: Duration::ZERO,
            in_flight_max: 8,
            eager_in_flight: 2,
            buffer_bytes: 64 << 20,
            delivery_timeout: Duration::from_secs(120),
            fence: None,
        }
    }
}

impl ProducerOptions {
    pub(crate) fn check(&self) -> Result<(), BuildError> {
        let within = |option, fits: bool, bounds: &str| match fits {
            true => Ok(()),
            false => Err(BuildError::Option { option, reason: format!("allowed are {bounds}") }),
        };
        let buffer_max = 4_usize << 30;
        within("batch_bytes", (1024..=8 << 20).contains(&self.batch_bytes), "1 KiB to 8 MiB")?;
        within("batch_records", (1..=1_000_000).contains(&self.batch_records), "1 to 1,000,000")?;
        within("linger", self.linger <= Duration::from_secs(10), "0 to 10 s")?;
        within("in_flight_max", (1..=8).contains(&self.in_flight_max), "1 to 8")?;
        within(
            "eager_in_flight",
            (1..=self.in_flight_max).contains(&self.eager_in_flight),
            "1 to in_flight_max",
        )?;
        within(
            "buffer_bytes",
            (64 << 10..=buffer_max).contains(&self.buffer_bytes),
            "64 KiB to 4 GiB",
        )?;
        within("delivery_timeout", !self.delivery_timeout.is_zero(), "more than 0")
    }
}
