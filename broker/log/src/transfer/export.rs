//! A log that is sent: its segments as they are, up to an entry that was applied.

use std::sync::Arc;

use bytes::Bytes;
use plimsoll_protocol::batch::BatchHeader;
use plimsoll_protocol::ids::{LogId, LogIndex, Offset};
use thiserror::Error;

use super::manifest::{LogManifest, SegmentManifest};
use crate::group::GroupLog;
use crate::group::error::{Quarantined, ReadError};
use crate::parking::Mutex;
use crate::segment::file::Segment;
use crate::segment::header::FIRST_BATCH_AT;
use crate::segment::{SegmentInfo, SegmentName};

/// Why a log cannot be sent up to an entry.
#[derive(Debug, Error)]
pub enum ExportError {
    /// It was not applied yet, or is not in a segment yet. It will be.
    #[error("entry {upto} is not yet applied and in a segment")]
    TooEarly {
        /// The entry.
        upto: LogId,
    },
    /// The log has another entry there, or none, or the entry lies inside a compacted segment.
    #[error("the log does not hold entry {upto}")]
    Unknown {
        /// The entry.
        upto: LogId,
    },
    /// The group was deleted.
    #[error("the group was deleted")]
    Deleted,
    /// The group is quarantined.
    #[error(transparent)]
    Quarantined(#[from] Quarantined),
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A log as it was at one moment. While it is held its files stay, whatever retention takes.
#[derive(Debug)]
pub struct LogExport {
    group: Arc<GroupLog>,
    manifest: LogManifest,
    segments: Vec<SegmentInfo>,
    /// The segment that was read last.
    open: Mutex<Option<(usize, Arc<Segment>)>>,
}

impl GroupLog {
    /// The log up to an entry, to be sent. The entry must be applied: what is committed only is never
    /// truncated. May read the last segment's headers: blocks on the disk.
    ///
    /// # Errors
    /// When the entry is not applied and written, or not in the log, or the log cannot be read.
    pub fn export(&self, upto: LogId) -> Result<LogExport, ExportError> {
        let marks = {
            let front = self.front.lock();
            front.check()?;
            if front.deleted {
                return Err(ExportError::Deleted);
            }
            if upto.index >= front.marks.next_index() {
                return Err(ExportError::Unknown { upto });
            }
            if !front.is_written_and_applied(upto.index) || front.installed.is_some() {
                return Err(ExportError::TooEarly { upto });
            }
            front.marks
        };
        let start = marks.start_index;
        if upto.index < start {
            // All of it was dropped; what is sent is where it goes on.
            if marks.purged != Some(upto) || upto.index.0 + 1 != start.0 {
                return Err(ExportError::Unknown { upto });
            }
            let offset = marks.start_offset;
            return Ok(self.export_of(Vec::new(), offset, upto, offset));
        }
        let (mut segments, last) = self.pinned_segments(start, upto)?;
        let whole = segments[segments.len() - 1];
        let end = match last {
            Some(segment) => self.end_in(&segment, whole, upto),
            None => Ok(whole),
        };
        let checked = end.and_then(|end| match end.last {
            Some(last) if last == upto => Ok(end),
            _ => Err(ExportError::Unknown { upto }),
        });
        let end = match checked {
            Ok(end) => end,
            Err(error) => {
                self.release(&segments);
                return Err(error);
            }
        };
        *segments.last_mut().expect("one holds the entry") = end;
        let start_offset = marks.start_offset.max(segments[0].base_offset);
        Ok(self.export_of(segments, start_offset, upto, end.end_offset))
    }

    /// The segments with entries from `start` up to `upto`, pinned; and the open last one where it holds
    /// entries behind that.
    fn pinned_segments(
        &self,
        start: LogIndex,
        upto: LogId,
    ) -> Result<(Vec<SegmentInfo>, Option<Arc<Segment>>), ExportError> {
        let mut back = self.back.lock();
        let at = back.slot_of_index(upto.index).ok_or(ExportError::TooEarly { upto })?;
        let goes_on = back.segments[at].info.last.is_some_and(|last| last.index > upto.index);
        let last = if goes_on {
            let opened = back.open(&self.shared, self.id(), at);
            drop(back);
            let opened = opened.map_err(|error| self.failed(error.into()))?;
            back = self.back.lock();
            Some(opened)
        } else {
            None
        };
        let wanted = |info: &SegmentInfo| {
            info.last.is_some() && info.end_index() > start && info.base_index <= upto.index
        };
        let segments: Vec<_> = back.segments.iter().map(|slot| slot.info).filter(wanted).collect();
        if segments.last().is_none_or(|info| !info.has_index(upto.index)) {
            return Err(ExportError::TooEarly { upto });
        }
        for info in &segments {
            self.shared.pins.add(SegmentName { group: self.id(), id: info.id });
        }
        Ok((segments, last))
    }

    /// The segment as it was when `upto` was its last entry.
    fn end_in(
        &self,
        segment: &Segment,
        info: SegmentInfo,
        upto: LogId,
    ) -> Result<SegmentInfo, ExportError> {
        let interval = self.shared.config.index_interval_bytes;
        if info.compacted.is_some() {
            // Its entries cannot be told apart any more.
            return Err(ExportError::Unknown { upto });
        }
        let (position, header): (u64, BatchHeader) = segment
            .find_index(upto.index, info.end_bytes, interval)
            .map_err(|error| self.failed(error.into()))?;
        Ok(SegmentInfo {
            end_bytes: position + u64::from(header.batch_length),
            last: Some(header.log_id()),
            end_offset: header.end_offset(),
            ..info
        })
    }

    fn export_of(
        &self,
        segments: Vec<SegmentInfo>,
        start_offset: Offset,
        last: LogId,
        end_offset: Offset,
    ) -> LogExport {
        let manifests = segments.iter().map(|info| {
            SegmentManifest::of(info, info.last.expect("empty segments were left out"))
        });
        let manifest =
            LogManifest { segments: manifests.collect(), start_offset, last, end_offset };
        debug_assert_eq!(manifest.check(), Ok(()));
        LogExport { group: self.this(), manifest, segments, open: Mutex::new(None) }
    }

    fn release(&self, segments: &[SegmentInfo]) {
        for info in segments {
            self.shared.pins.release(SegmentName { group: self.id(), id: info.id });
        }
    }
}

impl LogExport {
    /// What there is to send.
    #[must_use]
    pub fn manifest(&self) -> &LogManifest {
        &self.manifest
    }

    /// Bytes of a segment's batches from `at` on, at most `max`; nothing behind its end. A slice of the map.
    /// The checksums are the receiver's to check. Blocks on the disk.
    ///
    /// # Errors
    /// When the file is gone or cannot be read; damage quarantines the group.
    ///
    /// # Panics
    /// When there is no such segment.
    pub fn read(&self, segment: usize, at: u64, max: usize) -> Result<Bytes, ReadError> {
        let info = &self.segments[segment];
        let end = info.end_bytes;
        let from = FIRST_BATCH_AT.saturating_add(at).min(end);
        let upto = from.saturating_add(max as u64).min(end);
        if from == upto {
            return Ok(Bytes::new());
        }
        let opened = self.opened(segment, info)?;
        let read = opened.mapping(end).and_then(|mapping| {
            opened.populate(&mapping, from..upto)?;
            Ok(Segment::slice(&mapping, from..upto))
        });
        read.map_err(|error| self.group.failed(error.into()))
    }

    /// Checks a segment against its checksums, where the receiver found it damaged; damage quarantines the
    /// group. Blocks on the disk.
    ///
    /// # Errors
    /// What is damaged.
    pub fn verify(&self, segment: usize) -> Result<(), ReadError> {
        let info = &self.segments[segment];
        let opened = self.opened(segment, info)?;
        super::walk(&opened, &self.manifest.segments[segment], |_| {})
            .map_err(|error| self.group.failed(error.into()))
    }

    fn opened(&self, at: usize, info: &SegmentInfo) -> Result<Arc<Segment>, ReadError> {
        let mut open = self.open.lock();
        if let Some((_, segment)) = open.as_ref().filter(|(of, _)| *of == at) {
            return Ok(segment.clone());
        }
        let shared = &self.group.shared;
        let name = SegmentName { group: self.group.id(), id: info.id };
        // Not as a sealed one: no index is needed.
        let info = SegmentInfo { sealed: false, ..*info };
        let segment = Segment::open(&*shared.disk, &shared.identity, name, &info)
            .map_err(|error| self.group.failed(error.into()))?;
        let segment = Arc::new(segment);
        *open = Some((at, segment.clone()));
        Ok(segment)
    }
}

impl Drop for LogExport {
    fn drop(&mut self) {
        self.group.release(&self.segments);
    }
}
