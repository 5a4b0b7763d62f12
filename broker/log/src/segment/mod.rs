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
}

impl SegmentInfo {
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
