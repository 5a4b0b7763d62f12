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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u64);

/// A segment's file, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// The group.
    pub group: GroupId,
    /// The segment.
    pub id: SegmentId,
}

/// What is known of a segment without opening it: what a checkpoint records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number.
    pub id: SegmentId,
    /// Index of its first entry.
    pub base_index: LogIndex,
    /// Number of records before it.
    pub base_offset: Offset,
    /// The entry before its first one.
    pub previous: Option<LogId>,
    /// The log's branch when it was begun.
    pub branch: u64,
    /// Starts the checksums of its batch headers.
    pub salt: Salt,
    /// Where its batches end, in bytes; nothing after it is ever looked at.
    pub end_bytes: u64,
    /// Its last entry; `None` while it is empty.
    pub last: Option<LogId>,
    /// Offset after its last record.
    pub end_offset: Offset,
    /// Largest timestamp of a record, in milliseconds since 1970.
    pub max_timestamp_ms: i64,
    /// Largest append time, in milliseconds since 1970.
    pub max_append_ms: i64,
    /// Nothing is appended to it any more.
    pub sealed: bool,
}

impl SegmentInfo {
    /// Index after its last entry.
    #[must_use]
    pub fn end_index(&self) -> LogIndex {
        self.last.map_or(self.base_index, |last| LogIndex(last.index.0 + 1))
    }

    /// Whether it holds the entry with this index.
    #[must_use]
    pub fn has_index(&self, index: LogIndex) -> bool {
        (self.base_index..self.end_index()).contains(&index)
    }

    /// Whether it holds the record with this offset.
    #[must_use]
    pub fn has_offset(&self, offset: Offset) -> bool {
        (self.base_offset..self.end_offset).contains(&offset)
    }

    /// Takes in an entry written at `end_bytes`.
    pub(crate) fn appended(&mut self, header: &BatchHeader) {
        debug_assert_eq!(header.index, self.end_index());
        debug_assert_eq!(header.base_offset, self.end_offset);
        self.end_bytes += u64::from(header.batch_length);
        self.last = Some(header.log_id());
        self.end_offset = header.end_offset();
        self.max_append_ms = self.max_append_ms.max(header.append_time_ms);
        if header.record_count > 0 {
            self.max_timestamp_ms = self.max_timestamp_ms.max(header.max_timestamp_ms);
        }
    }
}
