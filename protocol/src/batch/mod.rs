//! The one batch format: what a producer builds is what lies in the log and what a consumer reads.
//!
//! A batch is a header of 96 bytes and a records section. The broker fills the first 44 bytes of the
//! header beside the producer's bytes and never encodes a record again, except where it compacts: it
//! makes one batch of one or more, with gaps where records were. Entries of the log without records
//! (blank, membership, control) use the same header.
//!
//! * Producer: [`BatchBuilder`].
//! * Broker: [`validate_produced`], then [`BatchHeader::seal`] with the salt of the file;
//!   [`CompactedBatchBuilder`] where it compacts.
//! * Consumer: [`iterate_batches`], [`RecordBatch::check_body_crc`], [`RecordBatch::records`].

mod builder;
mod compacted_builder;
mod compression;
mod error;
mod gap;
mod header;
mod record;
mod record_codec;
mod record_iter;
mod validate;

use bytes::Bytes;

pub use builder::{BatchBuilder, PushError, PushOutcome, set_producer};
pub use compacted_builder::{CompactedBatchBuilder, CompactedFrom};
pub use compression::{Compression, DecompressError};
pub use error::BatchError;
pub use gap::GapError;
pub use header::{
    BATCH_FORMAT_VERSION, BATCH_HEADER_BYTES, BODY_CRC_FROM, BatchHeader, EntryKind, body_crc,
};
pub use record::{
    DeliveredRecord, EncodedHeaders, Header, HeaderName, HeadersView, Record, RecordView,
};
pub use record_codec::{HEADERS_PER_RECORD_CEILING, RecordError};
pub use record_iter::{PlacedRecord, RecordIter};
pub use validate::validate_produced;

/// How large a batch may be. A producer keeps these limits, a broker checks them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchLimits {
    /// Largest batch as sent, header included, in bytes. Default 8 MiB. Larger batches cost less per
    /// record and make one slow sender hold more memory.
    pub batch_bytes_max: u32,
    /// Most records in a batch. Default 1,000,000.
    pub record_count_max: u32,
    /// Largest records section after decompression, in bytes. Default 64 MiB. Bounds what a small
    /// compressed batch can make its readers allocate.
    pub records_bytes_max: u32,
    /// Most headers of one record. Default 256.
    pub headers_per_record_max: u32,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            batch_bytes_max: 8 << 20,
            record_count_max: 1_000_000,
            records_bytes_max: 64 << 20,
            headers_per_record_max: 256,
        }
    }
}

/// A batch: its header, and the bytes behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordBatch {
    /// The header, with the broker's part where a broker has filled it.
    pub header: BatchHeader,
    /// Bytes 96 and on: the records section as stored.
    pub body: Bytes,
}

impl RecordBatch {
    /// Takes the first batch off `bytes` and gives what follows it. No checksum is computed.
    ///
    /// # Errors
    /// When the header is not one, or the bytes end before the batch does.
    pub fn parse(mut bytes: Bytes) -> Result<(Self, Bytes), BatchError> {
        let header = BatchHeader::parse(&bytes)?;
        let batch_bytes = header.batch_length as usize;
        if batch_bytes > bytes.len() {
            let (needed, have) = (batch_bytes as u64, bytes.len() as u64);
            return Err(BatchError::Truncated { needed, have });
        }
        let rest = bytes.split_off(batch_bytes);
        let body = bytes.split_off(BATCH_HEADER_BYTES);
        Ok((Self { header, body }, rest))
    }

    /// Checks that the bytes are those that the producer made, or the broker that compacted them.
    ///
    /// # Errors
    /// [`BatchError::BodyCrc`] when they are not.
    pub fn check_body_crc(&self) -> Result<(), BatchError> {
        check_body_crc(&self.header, &self.header.to_bytes(), &self.body)
    }

    /// The records with their offsets, as slices of the batch, or of one buffer of at most
    /// `max_decompressed` bytes where it is compressed. An entry of another kind has none; a compacted
    /// batch has fewer than `record_count`, perhaps none.
    ///
    /// # Errors
    /// When the section cannot be decompressed within the limit, or the offsets do not fit 64 bits.
    pub fn records(&self, max_decompressed: usize) -> Result<RecordIter, BatchError> {
        let header = &self.header;
        let base_offset = header.base_offset.0;
        if base_offset.checked_add(u64::from(header.record_count)).is_none() {
            let count = header.record_count;
            return Err(BatchError::OffsetOverflow { base_offset, count });
        }
        let section = match (header.kind, header.compression) {
            (EntryKind::Records, Compression::None) => {
                validate::section(header, &self.body, usize::MAX)?;
                self.body.clone()
            }
            (EntryKind::Records, _) => {
                Bytes::from(validate::section(header, &self.body, max_decompressed)?.into_owned())
            }
            _ => Bytes::new(),
        };
        Ok(RecordIter::new(section, header))
    }
}

/// Splits a payload of whole batches. After an error there are no more.
pub fn iterate_batches(
    payload: Bytes,
) -> impl Iterator<Item = Result<RecordBatch, BatchError>> + Send {
    let mut rest = payload;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        match RecordBatch::parse(std::mem::take(&mut rest)) {
            Ok((batch, following)) => {
                rest = following;
                Some(Ok(batch))
            }
            Err(error) => Some(Err(error)),
        }
    })
}

fn check_length(header: &BatchHeader, have: usize) -> Result<(), BatchError> {
    let needed = header.batch_length as usize;
    match have.checked_sub(needed) {
        Some(0) => Ok(()),
        Some(extra) => Err(BatchError::TrailingBytes { extra: extra as u64 }),
        None => Err(BatchError::Truncated { needed: needed as u64, have: have as u64 }),
    }
}

fn check_body_crc(header: &BatchHeader, head: &[u8], body: &[u8]) -> Result<(), BatchError> {
    let (stored, computed) = (header.body_crc, body_crc(&head[BODY_CRC_FROM..], body));
    if stored == computed { Ok(()) } else { Err(BatchError::BodyCrc { stored, computed }) }
}

#[cfg(test)]
mod tests;
