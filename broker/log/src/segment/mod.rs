//! A group's log in files: each segment a header and batches back to back, read through a map,
//! written with `pwrite`.
//!
//! [`header`] knows the file's name and first block, [`file`] the open file (bytes in, bytes out, the
//! published end), [`scan`] walks over batches, [`index`] finds one without walking from the start.
//! What a group knows of a segment that is not open is a [`SegmentInfo`].

use plimsoll_protocol::batch::BatchHeader;
use plimsoll_protocol::ids::{GroupId, LogId, LogIndex, Offset};

use crate::random::Salt;

pub(crate) mod file;
pub(crate) mod header;
pub(crate) mod index;
pub(crate) mod open;
pub(crate) mod scan;
pub(crate) mod verified;

/// Number of a segment in its group, never used again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SegmentId(pub(crate) u64);

/// A segment's file, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SegmentName {
    /// The group.
    pub(crate) group: GroupId,
    /// The segment.
    pub(crate) id: SegmentId,
}

/// Segments of a log that is being brought in have numbers so far behind those of the log that is there:
/// what replay makes anew in front of the installation never takes one of them, and nobody takes them
/// for a part of the log before.
pub(crate) const IMPORT_GAP: u64 = 1 << 32;

/// Segments that compaction writes have numbers from here on, drawn at random: none is ever met by the
/// numbers that count upwards, or drawn again. Where they stand in the log says their place in the list of
/// segments, not their number.
pub(crate) const COMPACTED_FROM: u64 = 1 << 63;

impl SegmentId {
    /// Whether it is the number of a segment that compaction wrote. One that was imported has another one.
    pub(crate) fn is_of_compaction(self) -> bool {
        self.0 >= COMPACTED_FROM
    }
}

/// What is known of a segment in which records may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// When it was written, in milliseconds since 1970.
    pub at_ms: i64,
    /// From when on the first of its tombstones may go, in milliseconds since 1970; `None` where it has none.
    pub horizon_ms: Option<i64>,
    /// Of its records before this offset the newest of each key is known, in this segment and before it.
    pub clean_to: Offset,
}

/// A file that is no part of a log any more, or never was one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retired {
    /// A segment, and its index.
    Segment(SegmentName),
    /// The state that came with an installed log.
    State(SegmentName),
}

/// What is known of a segment without opening it: what a checkpoint records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentInfo {
    /// Its number.
    pub(crate) id: SegmentId,
    /// Index of its first entry.
    pub(crate) base_index: LogIndex,
    /// Number of records before it.
    pub(crate) base_offset: Offset,
    /// The entry before its first one.
    pub(crate) previous: Option<LogId>,
    /// The log's branch when it was begun.
    pub(crate) branch: u64,
    /// Starts the checksums of its batch headers.
    pub(crate) salt: Salt,
    /// Where its batches end, in bytes; nothing after it is ever looked at.
    pub(crate) end_bytes: u64,
    /// Its last entry; `None` while it is empty.
    pub(crate) last: Option<LogId>,
    /// Offset after its last record.
    pub(crate) end_offset: Offset,
    /// Largest timestamp of a record, in milliseconds since 1970.
    pub(crate) max_timestamp_ms: i64,
    /// Largest append time, in milliseconds since 1970.
    pub(crate) max_append_ms: i64,
    /// Nothing is appended to it any more.
    pub(crate) sealed: bool,
    /// Set where compaction wrote it: a batch may then stand for several entries, and others are gone. Its
    /// offsets are without gaps all the same, and its last batch has the identity of its last entry.
    pub(crate) compacted: Option<Compacted>,
}

impl SegmentInfo {
    /// Whether a batch may stand where this segment ends now.
    #[must_use]
    pub(crate) fn is_next(&self, header: &BatchHeader) -> bool {
        let follows = match self.compacted {
            None => header.index == self.end_index(),
            Some(_) => header.index >= self.end_index(),
        };
        follows && header.base_offset == self.end_offset
    }

    /// Records from this offset on were not looked at by compaction yet.
    #[must_use]
    pub(crate) fn clean_to(&self) -> Offset {
        self.compacted.map_or(self.base_offset, |compacted| compacted.clean_to.min(self.end_offset))
    }

    /// Whether compaction has records of it to look at.
    #[must_use]
    pub(crate) fn is_dirty(&self) -> bool {
        self.clean_to() < self.end_offset || self.compacted.is_none()
    }

    /// Whether it has a tombstone whose time is over.
    #[must_use]
    pub(crate) fn has_expired(&self, now_ms: i64) -> bool {
        let horizon_ms = self.compacted.and_then(|compacted| compacted.horizon_ms);
        horizon_ms.is_some_and(|horizon_ms| horizon_ms <= now_ms)
    }

    /// Index after its last entry.
    #[must_use]
    pub(crate) fn end_index(&self) -> LogIndex {
        self.last.map_or(self.base_index, |last| LogIndex(last.index.0 + 1))
    }

    /// Whether it holds the entry with this index.
    #[must_use]
    pub(crate) fn has_index(&self, index: LogIndex) -> bool {
        (self.base_index..self.end_index()).contains(&index)
    }

    /// Whether it holds the record with this offset.
    #[must_use]
    pub(crate) fn has_offset(&self, offset: Offset) -> bool {
        (self.base_offset..self.end_offset).contains(&offset)
    }

    /// Takes in an entry written at `end_bytes`.
    pub(crate) fn appended(&mut self, header: &BatchHeader) {
        debug_assert!(self.is_next(header), "{header:?} does not continue {self:?}");
        self.end_bytes += u64::from(header.batch_length);
        self.last = Some(header.log_id());
        self.end_offset = header.end_offset();
        self.max_append_ms = self.max_append_ms.max(header.append_time_ms);
        if header.record_count > 0 {
            self.max_timestamp_ms = self.max_timestamp_ms.max(header.max_timestamp_ms);
        }
    }
}
