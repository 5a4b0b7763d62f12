//! What can be wrong with a batch. The one who made the bytes is to blame for every variant.

use thiserror::Error;

use super::compression::DecompressError;
use super::gap::GapError;
use super::record_codec::RecordError;
use crate::error::ErrorCode;

/// Why bytes are not a valid batch.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BatchError {
    /// The bytes end before the batch does.
    #[error("a batch of {needed} bytes is cut off after {have}")]
    Truncated {
        /// How many bytes the batch needs.
        needed: u64,
        /// How many there are.
        have: u64,
    },
    /// Bytes follow where the batch should end.
    #[error("{extra} bytes follow the batch")]
    TrailingBytes {
        /// How many.
        extra: u64,
    },
    /// The batch says that it is shorter than its own header.
    #[error("batch_length {batch_length} is shorter than the header")]
    LengthTooSmall {
        /// The stored length.
        batch_length: u32,
    },
    /// The batch is larger than allowed.
    #[error("the batch has {bytes} bytes, {limit} are allowed")]
    TooLarge {
        /// Size of the batch.
        bytes: u64,
        /// The limit in force.
        limit: u64,
    },
    /// A format version that this build does not know.
    #[error("batch format version {version} is unknown")]
    UnknownVersion {
        /// The stored version.
        version: u8,
    },
    /// An entry kind that this build does not know.
    #[error("entry kind {kind} is unknown")]
    UnknownKind {
        /// The stored kind.
        kind: u8,
    },
    /// An entry of another kind where records are expected.
    #[error("the batch does not carry records")]
    NotRecords,
    /// A bit that must be zero is set.
    #[error("reserved bits of {field} are set")]
    ReservedBits {
        /// The header field.
        field: &'static str,
    },
    /// A compression that this build does not know.
    #[error("compression {number} is unknown")]
    UnknownCompression {
        /// The stored number.
        number: u8,
    },
    /// The body checksum is wrong: the bytes changed after the producer made them.
    #[error("body_crc is {stored:#010x}, the bytes give {computed:#010x}")]
    BodyCrc {
        /// What the header says.
        stored: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// A count of records outside its bounds.
    #[error("the batch counts {count} records, {limit} are allowed and 1 is needed")]
    CountOutOfRange {
        /// The stored count.
        count: u32,
        /// The limit in force.
        limit: u32,
    },
    /// The records section is larger than allowed.
    #[error("the records section has {bytes} bytes, {limit} are allowed")]
    SectionTooLarge {
        /// Its size after decompression, as far as known.
        bytes: u64,
        /// The limit in force.
        limit: u64,
    },
    /// The header's `records_bytes` is not the size of the section.
    #[error("records_bytes is {stored}, the section has {actual}")]
    SectionBytes {
        /// What the header says.
        stored: u32,
        /// What the section has.
        actual: u64,
    },
    /// The section holds fewer or more records than the header counts, gaps included.
    #[error("record_count is {stored}, the section holds {}{actual}", if *.more { "more than " } else { "" })]
    RecordCount {
        /// What the header says.
        stored: u32,
        /// How many were found.
        actual: u32,
        /// Whether bytes were left after `actual` records.
        more: bool,
    },
    /// The header's largest timestamp is not that of the records.
    #[error("max_timestamp_ms is {stored}, the records' largest is {actual}")]
    MaxTimestamp {
        /// What the header says.
        stored: i64,
        /// What the records give.
        actual: i64,
    },
    /// Sequences of the batch's records do not fit 64 bits.
    #[error("base_sequence {base_sequence} and {count} records do not fit 64 bits")]
    SequenceOverflow {
        /// The stored sequence.
        base_sequence: u64,
        /// The stored count.
        count: u32,
    },
    /// Offsets of the batch's records do not fit 64 bits.
    #[error("base_offset {base_offset} and {count} records do not fit 64 bits")]
    OffsetOverflow {
        /// The stored offset.
        base_offset: u64,
        /// The stored count.
        count: u32,
    },
    /// The records section cannot be decompressed.
    #[error("the records section cannot be decompressed")]
    Decompress(#[from] DecompressError),
    /// One record is damaged.
    #[error("record {position} of the batch is damaged")]
    Record {
        /// Its position in the batch, counted from 0: its offset less the batch's base offset.
        position: u32,
        /// What is wrong with it.
        source: RecordError,
    },
    /// A gap is damaged, or lies where none may.
    #[error("no record {position} of the batch, and no gap that may lie there")]
    Gap {
        /// Position of its first offset in the batch, counted from 0.
        position: u32,
        /// What is wrong with it.
        source: GapError,
    },
}

impl BatchError {
    /// The code with which a broker answers a producer that sent such a batch.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::TooLarge { .. } | Self::SectionTooLarge { .. } => ErrorCode::BatchTooLarge,
            Self::CountOutOfRange { count, limit } if count > limit && *limit > 0 => {
                ErrorCode::BatchTooLarge
            }
            Self::UnknownCompression { .. } => ErrorCode::UnsupportedCompression,
            _ => ErrorCode::CorruptBatch,
        }
    }
}
