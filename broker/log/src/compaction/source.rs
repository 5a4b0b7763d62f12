//! Reading a segment that is to be compacted, batch by batch, every byte checked.

use std::sync::Arc;

use bytes::Bytes;
use plimsoll_protocol::batch::{BATCH_HEADER_BYTES, BatchError, RecordBatch};

use super::CompactError;
use crate::disk::Mapping;
use crate::group::GroupLog;
use crate::segment::SegmentInfo;
use crate::segment::file::{Segment, SegmentError};
use crate::segment::header::FIRST_BATCH_AT;
use crate::segment::scan::{Fault, check_header};

const WINDOW_BYTES: u64 = 1024 * 1024;

/// A segment that is read. It stays readable whatever becomes of its name.
#[derive(Debug)]
pub(super) struct Source {
    segment: Arc<Segment>,
    mapping: Arc<dyn Mapping>,
    info: SegmentInfo,
    /// The segment as if it ended where the next batch begins.
    read: SegmentInfo,
    /// Pages before this position may be touched, and what lies there was checked.
    warm: u64,
}

impl Source {
    /// Opens a segment of the log. Blocks.
    pub(super) fn open(group: &GroupLog, info: &SegmentInfo) -> Result<Self, CompactError> {
        let segment = {
            let mut back = group.back.lock();
            let at = back.segments.iter().position(|slot| slot.info == *info);
            let at = at.ok_or(CompactError::Overtaken)?;
            back.open(&group.shared, group.id(), at)?
        };
        let mapping = segment.mapping(info.end_bytes)?;
        let read = SegmentInfo {
            end_bytes: FIRST_BATCH_AT,
            last: None,
            end_offset: info.base_offset,
            ..*info
        };
        Ok(Self { segment, mapping, info: *info, read, warm: FIRST_BATCH_AT })
    }

    /// The next batch; `None` at the end, where the log must be as far as it should be. Blocks.
    pub(super) fn next(&mut self) -> Result<Option<RecordBatch>, SegmentError> {
        let (position, end) = (self.read.end_bytes, self.info.end_bytes);
        let damage = |fault| SegmentError::Damaged(self.segment.damage(position, fault));
        if position >= end {
            let is_whole =
                (self.read.last, self.read.end_offset) == (self.info.last, self.info.end_offset);
            return if is_whole { Ok(None) } else { Err(damage(Fault::Short { length: end })) };
        }
        let slice = |from, upto| -> Bytes { self.mapping.clone().slice(from..upto) };
        let body_at = position + BATCH_HEADER_BYTES as u64;
        if end < body_at {
            return Err(damage(Fault::Length { batch_length: 0, end }));
        }
        let readable = |warm: u64| self.segment.verified_end(position).min(warm);
        let known = (readable(self.warm) >= body_at).then(|| slice(position, body_at));
        let known = known
            .and_then(|head| check_header(&head, self.segment.crc_start(), position, end).ok());
        let is_warm = known
            .is_some_and(|header| readable(self.warm) >= position + u64::from(header.batch_length));
        if !is_warm {
            self.warm = self.segment.warm(&self.mapping, position, end, WINDOW_BYTES)?;
        }
        let slice = |from, upto| -> Bytes { self.mapping.clone().slice(from..upto) };
        let header =
            check_header(&slice(position, body_at), self.segment.crc_start(), position, end)
                .map_err(|fault| SegmentError::Damaged(self.segment.damage(position, fault)))?;
        if !self.read.is_next(&header) {
            let (found, offset) = (header.log_id(), header.base_offset);
            let fault = Fault::Sequence { found, offset, expected: self.read.end_index() };
            return Err(SegmentError::Damaged(self.segment.damage(position, fault)));
        }
        let body = slice(body_at, position + u64::from(header.batch_length));
        self.read.appended(&header);
        Ok(Some(RecordBatch { header, body }))
    }

    /// The batch that was read last has records that cannot be read.
    pub(super) fn unreadable(&self, batch: &RecordBatch, error: BatchError) -> SegmentError {
        let position = self.read.end_bytes - u64::from(batch.header.batch_length);
        SegmentError::Damaged(self.segment.damage(position, Fault::Records(error)))
    }
}
