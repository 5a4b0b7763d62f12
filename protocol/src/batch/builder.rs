//! Builds a batch: records are encoded straight into the buffer that goes out, behind the place of
//! the header.

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use super::BatchLimits;
use super::compression::Compression;
use super::error::BatchError;
use super::header::{BATCH_HEADER_BYTES, BODY_CRC_FROM, BatchHeader, EntryKind, body_crc};
use super::record::RecordView;
use super::record_codec::{HEADERS_PER_RECORD_CEILING, RecordEncoding};
use crate::ids::ProducerId;

/// What became of a record that was pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a record that did not fit must be pushed to the next batch"]
pub enum PushOutcome {
    /// It is in the batch.
    Added,
    /// The batch has no room for it: finish this one and push it to the next.
    Full,
}

/// Why a record fits no batch at all.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PushError {
    /// Alone it exceeds the size of a batch.
    #[error(
        "a record of {bytes} bytes exceeds the largest batch of {limit} bytes; make the record \
         smaller or raise batch-bytes-max"
    )]
    RecordTooLarge {
        /// Size of a batch with only this record.
        bytes: u64,
        /// The limit in force.
        limit: u64,
    },
    /// It has more headers than allowed.
    #[error("a record has {count} headers, {limit} are allowed")]
    TooManyHeaders {
        /// How many.
        count: u64,
        /// The limit in force.
        limit: u32,
    },
}

/// Collects records into one batch: [`BatchBuilder::push`] until it is full, then
/// [`BatchBuilder::finish`].
#[derive(Debug)]
pub struct BatchBuilder {
    /// The header's place, then the records.
    buffer: BytesMut,
    limits: BatchLimits,
    record_count: u32,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
}

impl BatchBuilder {
    /// An empty batch. Its buffer grows with the records.
    #[must_use]
    pub fn new(limits: BatchLimits) -> Self {
        Self::with_capacity(limits, BATCH_HEADER_BYTES)
    }

    /// An empty batch whose buffer has room for `bytes`, header included, from the start.
    #[must_use]
    pub fn with_capacity(limits: BatchLimits, bytes: usize) -> Self {
        let mut buffer = BytesMut::with_capacity(bytes.max(BATCH_HEADER_BYTES));
        buffer.resize(BATCH_HEADER_BYTES, 0);
        Self { buffer, limits, record_count: 0, base_timestamp_ms: 0, max_timestamp_ms: i64::MIN }
    }

    /// Adds a record, or says that the batch is full and leaves it as it was.
    ///
    /// # Errors
    /// When the record would not fit an empty batch either.
    #[inline]
    pub fn push<'a>(
        &mut self,
        record: impl Into<RecordView<'a>>,
    ) -> Result<PushOutcome, PushError> {
        let view = record.into();
        let headers_max = self.limits.headers_per_record_max.min(HEADERS_PER_RECORD_CEILING);
        if view.headers.len() > headers_max as usize {
            let count = view.headers.len() as u64;
            return Err(PushError::TooManyHeaders { count, limit: headers_max });
        }
        let base_timestamp_ms =
            if self.is_empty() { view.timestamp_ms } else { self.base_timestamp_ms };
        let encoding = RecordEncoding::new(view, base_timestamp_ms);
        if self.buffer.len() + encoding.total_bytes() > self.bytes_max() {
            let bytes = BATCH_HEADER_BYTES + encoding.total_bytes();
            if self.is_empty() || bytes > self.bytes_max() {
                let (bytes, limit) = (bytes as u64, self.bytes_max() as u64);
                return Err(PushError::RecordTooLarge { bytes, limit });
            }
            return Ok(PushOutcome::Full);
        }
        if self.record_count >= self.limits.record_count_max.max(1) {
            return Ok(PushOutcome::Full);
        }
        encoding.write(&mut self.buffer);
        self.record_count += 1;
        self.base_timestamp_ms = base_timestamp_ms;
        self.max_timestamp_ms = self.max_timestamp_ms.max(view.timestamp_ms);
        Ok(PushOutcome::Added)
    }

    /// Size of the batch so far, header included, before compression.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// How many records it holds.
    #[must_use]
    pub fn record_count(&self) -> u32 {
        self.record_count
    }

    /// Whether it holds no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// The limits it keeps.
    #[must_use]
    pub fn limits(&self) -> &BatchLimits {
        &self.limits
    }

    /// Compresses where asked and worth it, fills the producer's part of the header, and gives the
    /// batch in one piece. The broker's part is zero. A batch without records is refused by brokers.
    #[must_use]
    pub fn finish(
        self,
        producer_id: ProducerId,
        epoch: u32,
        base_sequence: u64,
        compression: Compression,
    ) -> Bytes {
        let is_empty = self.is_empty();
        let bytes_in = |section: &[u8]| {
            u32::try_from(section.len()).expect("push keeps a batch under its 32-bit limit")
        };
        let section = &self.buffer[BATCH_HEADER_BYTES..];
        let mut header = BatchHeader {
            kind: EntryKind::Records,
            producer_id,
            base_sequence,
            producer_epoch: epoch,
            record_count: self.record_count,
            base_timestamp_ms: self.base_timestamp_ms,
            max_timestamp_ms: if is_empty { 0 } else { self.max_timestamp_ms },
            records_bytes: bytes_in(section),
            ..BatchHeader::default()
        };
        match compression.compress(section, BATCH_HEADER_BYTES) {
            Some(mut batch) => {
                header.compression = compression;
                write_producer_part(&mut header, &mut batch);
                Bytes::from(batch)
            }
            None => {
                let mut batch = self.buffer;
                write_producer_part(&mut header, &mut batch);
                batch.freeze()
            }
        }
    }

    fn bytes_max(&self) -> usize {
        let records_bytes_max = self.limits.records_bytes_max as usize;
        (self.limits.batch_bytes_max as usize).min(records_bytes_max + BATCH_HEADER_BYTES)
    }
}

/// Gives a finished batch to another producer, epoch or sequence and computes its checksum anew:
/// for a producer that lost its id, and for benchmarks that send prepared batches.
///
/// # Errors
/// When `batch` is not one whole batch.
pub fn set_producer(
    batch: &mut [u8],
    producer_id: ProducerId,
    epoch: u32,
    base_sequence: u64,
) -> Result<(), BatchError> {
    let mut header = BatchHeader::parse(batch)?;
    super::check_length(&header, batch.len())?;
    header.producer_id = producer_id;
    header.producer_epoch = epoch;
    header.base_sequence = base_sequence;
    write_producer_part(&mut header, batch);
    Ok(())
}

/// Fills the first 96 bytes of `batch`, length and body checksum from the bytes that lie there.
fn write_producer_part(header: &mut BatchHeader, batch: &mut [u8]) {
    header.batch_length =
        u32::try_from(batch.len()).expect("push keeps a batch under its 32-bit limit");
    let (head, body) = batch
        .split_first_chunk_mut::<BATCH_HEADER_BYTES>()
        .expect("the header's place comes first");
    header.write_to(head);
    header.body_crc = body_crc(&head[BODY_CRC_FROM..], body);
    header.write_to(head);
}
