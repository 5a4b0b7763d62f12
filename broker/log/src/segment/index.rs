//! The sparse index of a segment: for one batch in about every 64 KiB, where it lies, and the largest
//! timestamp before it. Kept in memory while a segment is written; a sealed segment has it in a file
//! of its own. Missing or damaged, it is made again by walking over the batch headers: it is never
//! the only place of anything.

use plimsoll_protocol::batch::BatchHeader;
use plimsoll_protocol::ids::{LogIndex, Offset};

use super::header::FIRST_BATCH_AT;
use super::{SegmentInfo, SegmentName};
use crate::fields::{FieldError, FieldReader, FieldWriter};
use crate::header::{self, HEADER_BYTES, HeaderError, Identity};

pub(crate) const EXTENSION: &str = ".index";
const MAGIC: [u8; 8] = *b"PLMINDX1";
const ENTRY_BYTES: usize = 32;

/// One batch of the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) index: LogIndex,
    pub(crate) base_offset: Offset,
    pub(crate) position: u64,
    /// Largest record timestamp of all batches before this one; `i64::MIN` where there are none.
    pub(crate) max_timestamp_before_ms: i64,
}

/// Index of a segment's batches up to a byte position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SparseIndex {
    entries: Vec<IndexEntry>,
    /// Batches before this position are taken into account.
    covered: u64,
    max_timestamp_ms: i64,
}

impl Default for SparseIndex {
    fn default() -> Self {
        Self { entries: Vec::new(), covered: FIRST_BATCH_AT, max_timestamp_ms: i64::MIN }
    }
}

impl SparseIndex {
    pub(crate) fn covered(&self) -> u64 {
        self.covered
    }

    /// Takes in the batch at `covered`.
    pub(crate) fn add(&mut self, header: &BatchHeader, interval: u64) {
        let due = self.entries.last().map_or(FIRST_BATCH_AT, |last| last.position + interval);
        if self.covered >= due {
            self.entries.push(IndexEntry {
                index: header.index,
                base_offset: header.base_offset,
                position: self.covered,
                max_timestamp_before_ms: self.max_timestamp_ms,
            });
        }
        self.covered += u64::from(header.batch_length);
        if header.record_count > 0 {
            self.max_timestamp_ms = self.max_timestamp_ms.max(header.max_timestamp_ms);
        }
    }

    /// Position of an indexed batch at or before `index`.
    pub(crate) fn before_index(&self, index: LogIndex) -> u64 {
        self.position(|entry| entry.index <= index)
    }

    /// Position of an indexed batch at or before the one that holds `offset`.
    pub(crate) fn before_offset(&self, offset: Offset) -> u64 {
        // Entries without records share the base offset of the records behind them, so several
        // indexed batches may begin at `offset`; the last one may already lie behind its records.
        let at = self.entries.partition_point(|entry| entry.base_offset < offset);
        let exact = self.entries.get(at).filter(|entry| entry.base_offset == offset);
        match (exact, at.checked_sub(1)) {
            (Some(entry), _) => entry.position,
            (None, Some(before)) => self.entries[before].position,
            (None, None) => FIRST_BATCH_AT,
        }
    }

    /// Position of an indexed batch such that all batches before it are older than `ms`.
    pub(crate) fn before_time(&self, ms: i64) -> u64 {
        self.position(|entry| entry.max_timestamp_before_ms < ms)
    }

    fn position(&self, before: impl Fn(&IndexEntry) -> bool) -> u64 {
        let at = self.entries.partition_point(before);
        at.checked_sub(1).map_or(FIRST_BATCH_AT, |at| self.entries[at].position)
    }

    /// Forgets the batches from `position` on.
    pub(crate) fn cut(&mut self, position: u64) {
        if position < self.covered {
            let kept = self.entries.partition_point(|entry| entry.position < position);
            // The largest timestamp up to `position` is not known between two entries, so what lies
            // behind the last kept entry is walked over again.
            match self.entries[..kept].last().copied() {
                Some(last) => {
                    self.entries.truncate(kept - 1);
                    self.covered = last.position;
                    self.max_timestamp_ms = last.max_timestamp_before_ms;
                }
                None => *self = Self::default(),
            }
        }
    }

    /// The bytes of an index file.
    pub(crate) fn encode(
        &self,
        identity: &Identity,
        name: SegmentName,
        info: &SegmentInfo,
    ) -> Vec<u8> {
        let mut entries = Vec::with_capacity(self.entries.len() * ENTRY_BYTES);
        for entry in &self.entries {
            entries.put_u64(entry.index.0);
            entries.put_u64(entry.base_offset.0);
            entries.put_u64(entry.position);
            entries.put_i64(entry.max_timestamp_before_ms);
        }
        let mut bytes = header::encode(MAGIC, identity, |out| {
            out.put_u64(name.group.0);
            out.put_u64(name.id.0);
            out.put_u64(info.salt.0);
            out.put_u64(self.covered);
            out.put_i64(self.max_timestamp_ms);
            out.put_u32(self.entries.len() as u32);
            out.put_u32(crc32fast::hash(&entries));
        });
        bytes.extend_from_slice(&entries);
        bytes
    }

    /// Reads an index file; it must be of exactly this segment, as long as it is now.
    pub(crate) fn decode(
        identity: &Identity,
        name: SegmentName,
        info: &SegmentInfo,
        bytes: &[u8],
    ) -> Result<Self, HeaderError> {
        let mut reader = header::decode_own(MAGIC, identity, bytes)?;
        let of = (reader.u64("group")?, reader.u64("segment")?, reader.u64("salt")?);
        let covered = reader.u64("covered")?;
        let max_timestamp_ms = reader.i64("max timestamp")?;
        let count = reader.u32("count")? as usize;
        let checksum = reader.u32("entries checksum")?;
        reader.end()?;
        if of != (name.group.0, name.id.0, info.salt.0) || covered != info.end_bytes {
            return Err(HeaderError::Misplaced);
        }
        let stored = bytes
            .get(HEADER_BYTES..)
            .filter(|stored| stored.len() / ENTRY_BYTES == count && stored.len() % ENTRY_BYTES == 0)
            .ok_or(FieldError { field: "entries", position: HEADER_BYTES })?;
        if crc32fast::hash(stored) != checksum {
            return Err(HeaderError::Checksum);
        }
        let mut reader = FieldReader::new(stored);
        let mut entries = Vec::with_capacity(count);
        while reader.remaining() > 0 {
            entries.push(IndexEntry {
                index: LogIndex(reader.u64("index")?),
                base_offset: reader.offset("base offset")?,
                position: reader.u64("position")?,
                max_timestamp_before_ms: reader.i64("max timestamp before")?,
            });
        }
        Ok(Self { entries, covered, max_timestamp_ms })
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_protocol::ids::{GroupId, NodeId, Term};
    use proptest::prelude::*;

    use super::super::SegmentId;
    use super::super::header::SegmentHeader;
    use super::*;
    use crate::random::Salt;

    const IDENTITY: Identity = Identity { cluster_id: [3; 16], node_id: NodeId(1) };

    fn segment() -> (SegmentName, SegmentInfo) {
        let name = SegmentName { group: GroupId(1), id: SegmentId(0) };
        let header = SegmentHeader {
            name,
            base_index: LogIndex(5),
            base_offset: Offset(100),
            previous: None,
            branch: 0,
            salt: Salt(9),
        };
        (name, header.info())
    }

    fn headers(batches: &[(u32, u32, i64)], info: &mut SegmentInfo) -> Vec<BatchHeader> {
        let mut all = Vec::new();
        for &(length, records, timestamp) in batches {
            let header = BatchHeader {
                batch_length: 96 + length,
                term: Term(1),
                index: info.end_index(),
                base_offset: info.end_offset,
                record_count: records,
                max_timestamp_ms: timestamp,
                ..BatchHeader::default()
            };
            info.appended(&header);
            all.push(header);
        }
        all
    }

    proptest! {
        #[test]
        fn a_search_ends_at_or_before_the_batch(
            batches in prop::collection::vec((0..3000u32, 0..3u32, -5..5i64), 1..60),
            target in any::<prop::sample::Index>(),
            time in -6..6i64,
        ) {
            let (name, mut info) = segment();
            let headers = headers(&batches, &mut info);
            let mut index = SparseIndex::default();
            let mut positions = Vec::new();
            for header in &headers {
                positions.push(index.covered());
                index.add(header, 4096);
            }
            let at = target.index(headers.len());
            let found = index.before_index(headers[at].index);
            prop_assert!(found <= positions[at] && positions.contains(&found));
            if headers[at].record_count > 0 {
                let found = index.before_offset(headers[at].base_offset);
                prop_assert!(found <= positions[at] && positions.contains(&found));
            }
            let found = index.before_time(time);
            for (header, position) in headers.iter().zip(&positions) {
                let reached = header.record_count > 0 && header.max_timestamp_ms >= time;
                prop_assert!(!reached || found <= *position || headers.iter().zip(&positions).any(
                    |(h, p)| h.record_count > 0 && h.max_timestamp_ms >= time && p < position));
            }
            let bytes = index.encode(&IDENTITY, name, &info);
            prop_assert_eq!(SparseIndex::decode(&IDENTITY, name, &info, &bytes), Ok(index.clone()));

            let cut_at = positions[at];
            index.cut(cut_at);
            prop_assert!(index.covered() <= cut_at);
            let resumed = positions.iter().position(|&p| p == index.covered()).unwrap();
            let mut again = SparseIndex::default();
            for header in &headers[..resumed] {
                again.add(header, 4096);
            }
            prop_assert_eq!(index, again);
        }

        #[test]
        fn a_damaged_index_is_refused(bit in any::<prop::sample::Index>()) {
            let (name, mut info) = segment();
            let mut index = SparseIndex::default();
            for header in headers(&[(5000, 1, 3); 8], &mut info) {
                index.add(&header, 4096);
            }
            let mut bytes = index.encode(&IDENTITY, name, &info);
            let covered: Vec<usize> = (0..92).chain(HEADER_BYTES..bytes.len()).collect();
            let at = bit.index(covered.len() * 8);
            bytes[covered[at / 8]] ^= 1 << (at % 8);
            prop_assert!(SparseIndex::decode(&IDENTITY, name, &info, &bytes).is_err());
        }
    }
}
