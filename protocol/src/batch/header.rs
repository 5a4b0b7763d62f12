//! The 96-byte header of a batch: the part that the broker fills, and the part that the producer
//! fills and the body checksum covers.

use super::compression::Compression;
use super::error::BatchError;
use super::record::RecordView;
use crate::ids::{LogId, LogIndex, Offset, ProducerId, Term};

/// Size of the header of every batch.
pub const BATCH_HEADER_BYTES: usize = 96;

/// The one format version that exists.
pub const BATCH_FORMAT_VERSION: u8 = 1;

/// Where the part covered by the body checksum begins.
pub const BODY_CRC_FROM: usize = 48;

/// Where the stored header checksum lies; it covers the bytes before it and the body checksum.
pub(super) const HEADER_CRC_AT: usize = 40;

/// The bit of `broker_flags` that says a batch is compacted; the others are reserved.
const COMPACTED: u16 = 1;

/// What an entry of the log carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum EntryKind {
    /// Records: the only kind that takes offsets.
    #[default]
    Records = 0,
    /// The entry a new leader commits first; carries nothing.
    Blank = 1,
    /// A change of the group's voters and learners.
    Membership = 2,
    /// A change of state without records.
    Control = 3,
}

impl EntryKind {
    /// The kind with this number.
    ///
    /// # Errors
    /// [`BatchError::UnknownKind`] for a number that stands for none.
    pub fn from_u8(number: u8) -> Result<Self, BatchError> {
        match number {
            0 => Ok(Self::Records),
            1 => Ok(Self::Blank),
            2 => Ok(Self::Membership),
            3 => Ok(Self::Control),
            kind => Err(BatchError::UnknownKind { kind }),
        }
    }
}

/// The header of a batch, field by field. `protocol/FORMAT.md` draws the bytes.
///
/// A producer fills lengths and counts; the leader fills `kind`, `term`, `index`, `base_offset` and
/// `append_time_ms`; whoever writes the batch to a file seals it with the file's salt.
///
/// In a *compacted* batch some fields mean something else, because a broker has made it from one or more
/// neighbouring entries after their commit; each field says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BatchHeader {
    /// Size of the whole batch, header included.
    pub batch_length: u32,
    /// What the entry carries.
    pub kind: EntryKind,
    /// Whether a broker has removed records from it, so that offsets may have none; see
    /// [`CompactedBatchBuilder`](super::CompactedBatchBuilder). Invariant: only of kind records.
    pub compacted: bool,
    /// Term of the leader that proposed the entry. Compacted: that of the last entry it stands for.
    pub term: Term,
    /// Position of the entry in its Raft log. Compacted: that of the last entry it stands for.
    pub index: LogIndex,
    /// Number of offsets that all entries before this one take. Compacted: that of the first entry it
    /// stands for.
    pub base_offset: Offset,
    /// When the leader took the batch, in milliseconds since 1970 (UTC). Compacted: that of the last
    /// entry it stands for.
    pub append_time_ms: i64,
    /// Checksum of the broker's part, started from the file's salt.
    pub header_crc: u32,
    /// Checksum of the producer's part and the body.
    pub body_crc: u32,
    /// Who made the batch; [`ProducerId::NONE`] for a batch that is not de-duplicated. Compacted: none.
    pub producer_id: ProducerId,
    /// Sequence of the first record, counted from 0 per producer, epoch and partition. Compacted: no
    /// sequence; read [`BatchHeader::tombstone_horizon_ms`].
    pub base_sequence: u64,
    /// The producer's life: raised to shut out an earlier one. Compacted: 0.
    pub producer_epoch: u32,
    /// How many records the section holds. Compacted: how many offsets it covers, with and without a
    /// record.
    pub record_count: u32,
    /// What the records' timestamps are relative to, in milliseconds since 1970 (UTC).
    pub base_timestamp_ms: i64,
    /// The largest timestamp of any record. Compacted: an upper bound, the largest of the entries that it
    /// stands for.
    pub max_timestamp_ms: i64,
    /// Size of the records section after decompression.
    pub records_bytes: u32,
    /// How the records section is stored.
    pub compression: Compression,
}

impl BatchHeader {
    /// Reads a header from the first 96 of `bytes`. Checksums are not checked here.
    ///
    /// # Errors
    /// When there are fewer than 96 bytes, the format version or kind is unknown, a reserved bit is
    /// set, the batch is shorter than its header, or an entry without records counts some or is
    /// compacted.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some(b) = bytes.first_chunk::<BATCH_HEADER_BYTES>() else {
            return Err(BatchError::Truncated {
                needed: BATCH_HEADER_BYTES as u64,
                have: bytes.len() as u64,
            });
        };
        if b[4] != BATCH_FORMAT_VERSION {
            return Err(BatchError::UnknownVersion { version: b[4] });
        }
        let broker_flags = u16_at(b, 6);
        if broker_flags & !COMPACTED != 0 {
            return Err(BatchError::ReservedBits { field: "broker_flags" });
        }
        if u16_at(b, 94) != 0 {
            return Err(BatchError::ReservedBits { field: "reserved" });
        }
        let header = Self {
            batch_length: u32_at(b, 0),
            kind: EntryKind::from_u8(b[5])?,
            compacted: broker_flags & COMPACTED != 0,
            term: Term(u64_at(b, 8)),
            index: LogIndex(u64_at(b, 16)),
            base_offset: Offset(u64_at(b, 24)),
            append_time_ms: u64_at(b, 32).cast_signed(),
            header_crc: u32_at(b, HEADER_CRC_AT),
            body_crc: u32_at(b, 44),
            producer_id: ProducerId(u64_at(b, 48)),
            base_sequence: u64_at(b, 56),
            producer_epoch: u32_at(b, 64),
            record_count: u32_at(b, 68),
            base_timestamp_ms: u64_at(b, 72).cast_signed(),
            max_timestamp_ms: u64_at(b, 80).cast_signed(),
            records_bytes: u32_at(b, 88),
            compression: Compression::from_attributes(u16_at(b, 92))?,
        };
        if (header.batch_length as usize) < BATCH_HEADER_BYTES {
            return Err(BatchError::LengthTooSmall { batch_length: header.batch_length });
        }
        if header.kind != EntryKind::Records && header.record_count != 0 {
            return Err(BatchError::CountOutOfRange { count: header.record_count, limit: 0 });
        }
        if header.kind != EntryKind::Records && header.compacted {
            return Err(BatchError::ReservedBits { field: "broker_flags" });
        }
        Ok(header)
    }

    /// Writes the 96 bytes. What [`BatchHeader::parse`] accepted is written back bit for bit.
    pub fn write_to(&self, out: &mut [u8; BATCH_HEADER_BYTES]) {
        out[0..4].copy_from_slice(&self.batch_length.to_le_bytes());
        out[4] = BATCH_FORMAT_VERSION;
        out[5] = self.kind as u8;
        let broker_flags = if self.compacted { COMPACTED } else { 0 };
        out[6..8].copy_from_slice(&broker_flags.to_le_bytes());
        out[8..16].copy_from_slice(&self.term.0.to_le_bytes());
        out[16..24].copy_from_slice(&self.index.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.base_offset.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.append_time_ms.to_le_bytes());
        out[40..44].copy_from_slice(&self.header_crc.to_le_bytes());
        out[44..48].copy_from_slice(&self.body_crc.to_le_bytes());
        out[48..56].copy_from_slice(&self.producer_id.0.to_le_bytes());
        out[56..64].copy_from_slice(&self.base_sequence.to_le_bytes());
        out[64..68].copy_from_slice(&self.producer_epoch.to_le_bytes());
        out[68..72].copy_from_slice(&self.record_count.to_le_bytes());
        out[72..80].copy_from_slice(&self.base_timestamp_ms.to_le_bytes());
        out[80..88].copy_from_slice(&self.max_timestamp_ms.to_le_bytes());
        out[88..92].copy_from_slice(&self.records_bytes.to_le_bytes());
        out[92..94].copy_from_slice(&self.compression.attributes().to_le_bytes());
        out[94..96].fill(0);
    }

    /// The 96 bytes as an array.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; BATCH_HEADER_BYTES] {
        let mut out = [0; BATCH_HEADER_BYTES];
        self.write_to(&mut out);
        out
    }

    /// Header of an entry whose body is not records: the body is `body` as it is.
    ///
    /// # Panics
    /// When `body` is 4 GiB or larger.
    #[must_use]
    pub fn for_entry(kind: EntryKind, body: &[u8]) -> Self {
        let batch_length = u32::try_from(BATCH_HEADER_BYTES + body.len())
            .expect("the body of an entry is far below 4 GiB");
        let mut header = Self { batch_length, kind, ..Self::default() };
        header.body_crc = header.compute_body_crc(body);
        header
    }

    /// The offset after the last one that the batch covers: where the next records entry begins.
    #[must_use]
    pub fn end_offset(&self) -> Offset {
        match self.kind {
            EntryKind::Records => {
                Offset(self.base_offset.0.saturating_add(u64::from(self.record_count)))
            }
            _ => self.base_offset,
        }
    }

    /// Identity of the entry.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        LogId { term: self.term, index: self.index }
    }

    /// Size of the body behind the header, in bytes.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        (self.batch_length as usize).saturating_sub(BATCH_HEADER_BYTES)
    }

    /// The sequence that the producer's next batch begins with. Without meaning for a compacted batch,
    /// which has neither a producer nor sequences.
    #[must_use]
    pub fn end_sequence(&self) -> u64 {
        self.base_sequence.saturating_add(u64::from(self.record_count))
    }

    /// From when on the tombstones of a compacted batch may be removed, in milliseconds since 1970
    /// (UTC): what [`BatchHeader::base_sequence`] holds there. `None` where it has no tombstone, and for
    /// a batch that is not compacted.
    #[must_use]
    pub fn tombstone_horizon_ms(&self) -> Option<i64> {
        let horizon_ms = i64::try_from(self.base_sequence).unwrap_or(i64::MAX);
        (self.compacted && horizon_ms != 0).then_some(horizon_ms)
    }

    /// Computes `header_crc` for a file with this salt. Do it last: every field is covered.
    pub fn seal(&mut self, salt: u32) {
        self.header_crc = self.compute_header_crc(salt);
    }

    /// Whether `header_crc` is right for a file with this salt.
    #[must_use]
    pub fn check_header_crc(&self, salt: u32) -> bool {
        self.header_crc == self.compute_header_crc(salt)
    }

    /// Whether `body_crc` is right for this body.
    #[must_use]
    pub fn check_body_crc(&self, body: &[u8]) -> bool {
        self.body_crc == self.compute_body_crc(body)
    }

    /// When the time of one of its records is over, in milliseconds since 1970 (UTC), if ever. The producer's
    /// clock says for how long it lives, and the broker's from when on: a producer whose clock is wrong does no
    /// harm. Of batches that compaction put together only one append time is kept, so what it stores is the end.
    #[must_use]
    pub fn expiry_of(&self, record: &RecordView<'_>) -> Option<i64> {
        let expires_at_ms = record.expires_at_ms?;
        if self.compacted {
            return Some(expires_at_ms);
        }
        let life_ms = expires_at_ms.saturating_sub(record.timestamp_ms).max(0);
        Some(self.append_time_ms.saturating_add(life_ms))
    }

    /// The checksum that `body_crc` holds for this body.
    #[must_use]
    pub fn compute_body_crc(&self, body: &[u8]) -> u32 {
        body_crc(&self.to_bytes()[BODY_CRC_FROM..], body)
    }

    fn compute_header_crc(&self, salt: u32) -> u32 {
        let bytes = self.to_bytes();
        let mut crc = crc32fast::Hasher::new_with_initial(salt);
        crc.update(&bytes[..HEADER_CRC_AT]);
        crc.update(&bytes[HEADER_CRC_AT + 4..BODY_CRC_FROM]);
        crc.finalize()
    }
}

/// Checksum of the producer's part: CRC-32 (IEEE) of header bytes 48 to 96 and the body behind them.
#[must_use]
pub fn body_crc(header_48_to_96: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(header_48_to_96);
    crc.update(body);
    crc.finalize()
}

fn u16_at(b: &[u8; BATCH_HEADER_BYTES], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

fn u32_at(b: &[u8; BATCH_HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn u64_at(b: &[u8; BATCH_HEADER_BYTES], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | u64::from(u32_at(b, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled() -> BatchHeader {
        BatchHeader {
            batch_length: 0x0403_0201,
            kind: EntryKind::Records,
            compacted: true,
            term: Term(0x1111_2222_3333_4444),
            index: LogIndex(7),
            base_offset: Offset(1000),
            append_time_ms: -5,
            header_crc: 0xaabb_ccdd,
            body_crc: 0x0102_0304,
            producer_id: ProducerId(42),
            base_sequence: 9,
            producer_epoch: 3,
            record_count: 11,
            base_timestamp_ms: i64::MIN,
            max_timestamp_ms: i64::MAX,
            records_bytes: 77,
            compression: Compression::Zstd,
        }
    }

    #[test]
    fn every_field_survives() {
        let header = filled();
        assert_eq!(BatchHeader::parse(&header.to_bytes()), Ok(header));
    }

    #[test]
    fn only_records_are_compacted() {
        let mut header = BatchHeader::for_entry(EntryKind::Control, b"payload");
        header.compacted = true;
        assert_eq!(
            BatchHeader::parse(&header.to_bytes()),
            Err(BatchError::ReservedBits { field: "broker_flags" })
        );
    }

    #[test]
    fn horizon_of_tombstones_is_that_of_a_compacted_batch() {
        let with = |compacted, base_sequence| {
            BatchHeader { compacted, base_sequence, ..filled() }.tombstone_horizon_ms()
        };
        assert_eq!(with(true, 1_750_000_000_000), Some(1_750_000_000_000));
        assert_eq!(with(true, u64::MAX), Some(i64::MAX));
        assert_eq!(with(true, 0), None);
        assert_eq!(with(false, 1_750_000_000_000), None);
    }

    #[test]
    fn seal_holds_for_its_salt_only_and_covers_each_byte() {
        let mut header = filled();
        header.seal(99);
        assert!(header.check_header_crc(99));
        assert!(!header.check_header_crc(98));
        let bytes = header.to_bytes();
        for at in (0..HEADER_CRC_AT).chain(44..48) {
            let mut damaged = bytes;
            damaged[at] ^= 1;
            if let Ok(damaged) = BatchHeader::parse(&damaged) {
                assert!(!damaged.check_header_crc(99), "byte {at} is not covered");
            }
        }
    }

    #[test]
    fn entries_without_records_keep_their_offset() {
        let header = BatchHeader::for_entry(EntryKind::Control, b"payload");
        assert_eq!(header.batch_length, 103);
        assert_eq!(header.end_offset(), header.base_offset);
        assert!(header.check_body_crc(b"payload"));
        assert!(!header.check_body_crc(b"Payload"));
        assert_eq!(BatchHeader::parse(&header.to_bytes()), Ok(header));
    }

    #[test]
    fn wrong_headers_are_refused() {
        let good = filled().to_bytes();
        let with = |at: usize, byte: u8| {
            let mut bytes = good;
            bytes[at] = byte;
            BatchHeader::parse(&bytes)
        };
        assert!(matches!(with(4, 2), Err(BatchError::UnknownVersion { version: 2 })));
        assert!(matches!(with(5, 4), Err(BatchError::UnknownKind { kind: 4 })));
        assert!(matches!(with(5, 1), Err(BatchError::CountOutOfRange { count: 11, limit: 0 })));
        for bit in 1..8 {
            assert!(matches!(with(6, 1 << bit), Err(BatchError::ReservedBits { .. })));
        }
        for bit in 0..8 {
            assert!(matches!(with(7, 1 << bit), Err(BatchError::ReservedBits { .. })));
        }
        assert!(matches!(with(92, 3), Err(BatchError::UnknownCompression { number: 3 })));
        assert!(matches!(with(92, 8), Err(BatchError::ReservedBits { .. })));
        assert!(matches!(with(95, 1), Err(BatchError::ReservedBits { .. })));
        assert!(matches!(
            BatchHeader::parse(&good[..95]),
            Err(BatchError::Truncated { needed: 96, have: 95 })
        ));
        let short = BatchHeader { batch_length: 95, ..filled() };
        assert!(matches!(
            BatchHeader::parse(&short.to_bytes()),
            Err(BatchError::LengthTooSmall { batch_length: 95 })
        ));
    }
}
