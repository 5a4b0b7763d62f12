//! The records of one batch, walked from the first to the last. Offsets that have none are passed over.

use std::ops::Range;

use bytes::Bytes;

use super::error::BatchError;
use super::gap::{self, GapError};
use super::header::BatchHeader;
use super::record::{DeliveredRecord, Record, RecordView};
use super::record_codec::{HEADERS_PER_RECORD_CEILING, RecordError, RecordSpan};
use crate::ids::Offset;

/// A record's offset, where it lies in [`RecordIter::section`], and a look at it.
pub type PlacedRecord<'a> = (Offset, Range<usize>, RecordView<'a>);

/// The records of one batch, each with its offset. After an error there are no more.
///
/// The offsets grow by one from record to record, except in a compacted batch, where they leave out
/// those that have no record any more: take an offset from here, never count.
#[derive(Debug, Clone)]
pub struct RecordIter {
    section: Bytes,
    at: usize,
    /// How many offsets lie behind, those without a record included.
    position: u32,
    /// How many offsets the batch has.
    count: u32,
    base_offset: u64,
    base_timestamp_ms: i64,
    compacted: bool,
    after_gap: bool,
    failed: bool,
}

/// What lies at one place of a section.
enum Step {
    /// A record, its offset, and where it begins.
    Record(Offset, usize, RecordSpan),
    /// Offsets without a record.
    Gap,
}

impl RecordIter {
    /// A walk over `section`, which is that of the batch with this header. The caller has checked that
    /// the batch's offsets fit 64 bits.
    pub(super) fn new(section: Bytes, header: &BatchHeader) -> Self {
        Self {
            section,
            at: 0,
            position: 0,
            count: header.record_count,
            base_offset: header.base_offset.0,
            base_timestamp_ms: header.base_timestamp_ms,
            compacted: header.compacted,
            after_gap: false,
            failed: false,
        }
    }

    /// The next record without taking a share of the batch's memory: cheaper than
    /// [`Iterator::next`] for a caller that only looks.
    pub fn next_view(&mut self) -> Option<Result<(Offset, RecordView<'_>), BatchError>> {
        match self.next_span()? {
            Ok((offset, _, span)) => {
                Some(Ok((offset, span.view(&self.section, self.base_timestamp_ms))))
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// As [`RecordIter::next_view`], with where the record lies in [`RecordIter::section`]: what
    /// [`Record::decode`] reads again.
    pub fn next_placed(&mut self) -> Option<Result<PlacedRecord<'_>, BatchError>> {
        match self.next_span()? {
            Ok((offset, from, span)) => {
                let view = span.view(&self.section, self.base_timestamp_ms);
                Some(Ok((offset, from..self.at, view)))
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// The records as they lie one after the other, and the gaps between them, without compression.
    #[must_use]
    pub fn section(&self) -> &Bytes {
        &self.section
    }

    /// Passes over records below `offset`, still checking each. The next record is the first at or
    /// above `offset` that there is.
    ///
    /// # Errors
    /// When a record on the way is damaged.
    pub fn skip_to(&mut self, offset: Offset) -> Result<(), BatchError> {
        while self.position < self.count && self.base_offset + u64::from(self.position) < offset.0 {
            match self.step() {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => break,
            }
        }
        Ok(())
    }

    #[inline]
    fn next_span(&mut self) -> Option<Result<(Offset, usize, RecordSpan), BatchError>> {
        loop {
            match self.step()? {
                Ok(Step::Record(offset, from, span)) => return Some(Ok((offset, from, span))),
                Ok(Step::Gap) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    #[inline]
    fn step(&mut self) -> Option<Result<Step, BatchError>> {
        if self.failed {
            return None;
        }
        let step = self.parse_step().transpose()?;
        self.failed = step.is_err();
        Some(step)
    }

    #[inline]
    fn parse_step(&mut self) -> Result<Option<Step>, BatchError> {
        let (position, stored) = (self.position, self.count);
        if self.at == self.section.len() {
            if position == stored {
                return Ok(None);
            }
            return Err(BatchError::RecordCount { stored, actual: position, more: false });
        }
        if position == stored {
            return Err(BatchError::RecordCount { stored, actual: position, more: true });
        }
        if gap::begins(&self.section, self.at) {
            self.pass_gap().map_err(|source| BatchError::Gap { position, source })?;
            return Ok(Some(Step::Gap));
        }
        let from = self.at;
        let span = RecordSpan::parse(&self.section, &mut self.at, HEADERS_PER_RECORD_CEILING)
            .map_err(|source| BatchError::Record { position, source })?;
        self.position += 1;
        self.after_gap = false;
        Ok(Some(Step::Record(Offset(self.base_offset + u64::from(position)), from, span)))
    }

    fn pass_gap(&mut self) -> Result<(), GapError> {
        if !self.compacted {
            return Err(GapError::NotCompacted);
        }
        if self.after_gap {
            return Err(GapError::AfterGap);
        }
        let offsets = gap::parse(&self.section, &mut self.at)?;
        let left = self.count - self.position;
        if offsets > left {
            return Err(GapError::TooLong { offsets, left });
        }
        self.position += offsets;
        self.after_gap = true;
        Ok(())
    }
}

impl Iterator for RecordIter {
    type Item = Result<DeliveredRecord, BatchError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_span()?.map(|(offset, _, span)| DeliveredRecord {
            offset,
            record: span.slice(&self.section, self.base_timestamp_ms),
        }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // A record has at least three bytes, so a count that lies makes nobody allocate for it. Gaps
        // only make it fewer.
        let left = (self.count - self.position) as usize;
        (0, Some(left.min((self.section.len() - self.at) / 3).saturating_add(1)))
    }
}

impl std::iter::FusedIterator for RecordIter {}

impl Record {
    /// Takes the first record off `section`, which is a records section or a part of one that begins
    /// with a record, and moves `at` behind it. The record's bytes are slices of the section.
    ///
    /// # Errors
    /// When there is no record: at the end, at a gap, and where the bytes are damaged.
    pub fn decode(
        section: &Bytes,
        at: &mut usize,
        base_timestamp_ms: i64,
    ) -> Result<Self, RecordError> {
        let span = RecordSpan::parse(section, at, HEADERS_PER_RECORD_CEILING)?;
        Ok(span.slice(section, base_timestamp_ms))
    }
}
