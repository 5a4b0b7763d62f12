//! Builds a compacted batch: the records that are kept, each at the offset it always had, and gaps for
//! the rest.

use bytes::BytesMut;

use super::RecordBatch;
use super::compression::Compression;
use super::gap;
use super::header::{BATCH_HEADER_BYTES, BatchHeader, EntryKind};
use super::record::RecordView;
use super::record_codec::{HEADERS_PER_RECORD_CEILING, RecordEncoding};
use crate::ids::{LogId, Offset, ProducerId};

/// What a compacted batch takes over from the neighbouring entries that it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactedFrom {
    /// Identity of the last entry.
    pub last: LogId,
    /// [`BatchHeader::append_time_ms`] of the last entry.
    pub append_time_ms: i64,
    /// The largest [`BatchHeader::max_timestamp_ms`] of the entries, of removed records too: a search
    /// by time must not pass over the batch.
    pub max_timestamp_ms: i64,
    /// From when on the tombstones that were kept may be removed, in milliseconds since 1970 (UTC).
    /// Without meaning where none was kept.
    pub tombstone_horizon_ms: i64,
}

/// Collects what is left of neighbouring entries into one batch: [`CompactedBatchBuilder::keep`] for
/// each record that stays, in the order of offsets, [`CompactedBatchBuilder::covers_to`] with the end
/// of the last entry, then [`CompactedBatchBuilder::finish`].
///
/// The builder has no limit of its own: the caller ends a batch, between two entries, before
/// [`CompactedBatchBuilder::bytes`] and the next entry's `records_bytes` exceed what a reader takes.
#[derive(Debug)]
pub struct CompactedBatchBuilder {
    /// Records and gaps up to `written`.
    section: BytesMut,
    base_offset: Offset,
    /// How many offsets the section has so far.
    written: u32,
    /// How many offsets are covered; those after `written` have no record. Invariant: not less than
    /// `written`.
    covered: u32,
    kept: u32,
    has_tombstone: bool,
    base_timestamp_ms: Option<i64>,
    max_timestamp_ms: i64,
}

impl CompactedBatchBuilder {
    /// A batch that covers nothing yet; `base_offset` is that of the first entry it stands for.
    #[must_use]
    pub fn new(base_offset: Offset) -> Self {
        Self {
            section: BytesMut::new(),
            base_offset,
            written: 0,
            covered: 0,
            kept: 0,
            has_tombstone: false,
            base_timestamp_ms: None,
            max_timestamp_ms: i64::MIN,
        }
    }

    /// The same with this base timestamp instead of that of the first record that is kept.
    ///
    /// With the base timestamp of its entry, what is left of one entry never takes more bytes than the
    /// entry's own section without compression.
    #[must_use]
    pub fn with_base_timestamp_ms(self, base_timestamp_ms: i64) -> Self {
        Self { base_timestamp_ms: Some(base_timestamp_ms), ..self }
    }

    /// Keeps a record at its offset. Offsets between [`CompactedBatchBuilder::end_offset`] and it have
    /// no record any more.
    ///
    /// # Panics
    /// When the offset is below [`CompactedBatchBuilder::end_offset`], more than 2^32 - 2 above the
    /// base offset, or the record has more headers than the format allows.
    pub fn keep<'a>(&mut self, offset: Offset, record: impl Into<RecordView<'a>>) {
        let view = record.into();
        assert!(
            view.headers.len() <= HEADERS_PER_RECORD_CEILING as usize,
            "a record that was read from a batch keeps the ceiling of headers"
        );
        self.covers_to(offset);
        gap::put(&mut self.section, self.covered - self.written);
        let base_timestamp_ms = *self.base_timestamp_ms.get_or_insert(view.timestamp_ms);
        RecordEncoding::new(view, base_timestamp_ms).write(&mut self.section);
        self.covers_to(Offset(offset.0.checked_add(1).expect("offsets fit 64 bits")));
        self.written = self.covered;
        self.kept += 1;
        self.has_tombstone |= view.value.is_none();
        self.max_timestamp_ms = self.max_timestamp_ms.max(view.timestamp_ms);
    }

    /// Covers the offsets below `end_offset`: those behind the last record have none any more.
    ///
    /// # Panics
    /// When `end_offset` is below [`CompactedBatchBuilder::end_offset`], or more than 2^32 - 1 above the
    /// base offset.
    pub fn covers_to(&mut self, end_offset: Offset) {
        let covered = end_offset.0.checked_sub(self.base_offset.0);
        let covered = covered.and_then(|covered| u32::try_from(covered).ok());
        let covered = covered.expect("a batch covers less than 2^32 offsets from its base offset");
        assert!(covered >= self.covered, "records are kept in the order of their offsets");
        self.covered = covered;
    }

    /// The offset of the first entry that it stands for.
    #[must_use]
    pub fn base_offset(&self) -> Offset {
        self.base_offset
    }

    /// The offset after the last one that is covered.
    #[must_use]
    pub fn end_offset(&self) -> Offset {
        Offset(self.base_offset.0 + u64::from(self.covered))
    }

    /// How many records were kept.
    #[must_use]
    pub fn kept(&self) -> u32 {
        self.kept
    }

    /// Whether one of them is a tombstone.
    #[must_use]
    pub fn has_tombstone(&self) -> bool {
        self.has_tombstone
    }

    /// Size of the batch so far, header included, before compression.
    #[must_use]
    pub fn bytes(&self) -> usize {
        BATCH_HEADER_BYTES + self.section.len() + gap::encoded_len(self.covered - self.written)
    }

    /// Compresses where asked and worth it, and fills the header but for its own checksum: whoever
    /// writes the batch to a file seals it with the file's salt.
    ///
    /// The header's largest timestamp is never below that of a record that was kept.
    ///
    /// # Panics
    /// When no offset is covered, or the batch is 4 GiB or larger.
    #[must_use]
    pub fn finish(mut self, from: CompactedFrom, compression: Compression) -> RecordBatch {
        assert!(self.covered > 0, "a batch stands for at least one offset");
        gap::put(&mut self.section, self.covered - self.written);
        let bytes_of =
            |len: usize| u32::try_from(len).expect("a batch has far less than 4 GiB of records");
        let mut header = BatchHeader {
            kind: EntryKind::Records,
            compacted: true,
            term: from.last.term,
            index: from.last.index,
            base_offset: self.base_offset,
            append_time_ms: from.append_time_ms,
            producer_id: ProducerId::NONE,
            // 0 is for a batch without tombstones; a horizon so early is one that has passed.
            base_sequence: if self.has_tombstone {
                from.tombstone_horizon_ms.max(1).unsigned_abs()
            } else {
                0
            },
            record_count: self.covered,
            base_timestamp_ms: self.base_timestamp_ms.unwrap_or(0),
            max_timestamp_ms: from.max_timestamp_ms.max(self.max_timestamp_ms),
            records_bytes: bytes_of(self.section.len()),
            ..BatchHeader::default()
        };
        let body = match compression.compress(&self.section, 0) {
            Some(compressed) => {
                header.compression = compression;
                compressed.into()
            }
            None => self.section.freeze(),
        };
        header.batch_length = bytes_of(BATCH_HEADER_BYTES + body.len());
        header.body_crc = header.compute_body_crc(&body);
        RecordBatch { header, body }
    }
}

#[cfg(test)]
mod tests;
