//! The records of one batch, walked from the first to the last.

use std::ops::Range;

use bytes::Bytes;

use super::error::BatchError;
use super::header::BatchHeader;
use super::record::{DeliveredRecord, Record, RecordView};
use super::record_codec::{HEADERS_PER_RECORD_CEILING, RecordError, RecordSpan};
use crate::ids::Offset;

/// A record's offset, where it lies in [`RecordIter::section`], and a look at it.
pub type PlacedRecord<'a> = (Offset, Range<usize>, RecordView<'a>);

/// The records of one batch. After an error there are no more.
#[derive(Debug, Clone)]
pub struct RecordIter {
    section: Bytes,
    at: usize,
    position: u32,
    count: u32,
    base_offset: u64,
    base_timestamp_ms: i64,
    failed: bool,
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
            failed: false,
        }
    }

    /// The next record without taking a share of the batch's memory: cheaper than
    /// [`Iterator::next`] for a caller that only looks.
    pub fn next_view(&mut self) -> Option<Result<(Offset, RecordView<'_>), BatchError>> {
        match self.next_span()? {
            Ok((offset, span)) => {
                Some(Ok((offset, span.view(&self.section, self.base_timestamp_ms))))
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// As [`RecordIter::next_view`], with where the record lies in [`RecordIter::section`]: what
    /// [`Record::decode`] reads again.
    pub fn next_placed(&mut self) -> Option<Result<PlacedRecord<'_>, BatchError>> {
        let from = self.at;
        match self.next_span()? {
            Ok((offset, span)) => {
                let view = span.view(&self.section, self.base_timestamp_ms);
                Some(Ok((offset, from..self.at, view)))
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// The records as they lie one after the other, without compression.
    #[must_use]
    pub fn section(&self) -> &Bytes {
        &self.section
    }

    /// Passes over records below `offset`, still checking each.
    ///
    /// # Errors
    /// When a record on the way is damaged.
    pub fn skip_to(&mut self, offset: Offset) -> Result<(), BatchError> {
        while self.position < self.count && self.base_offset + u64::from(self.position) < offset.0 {
            match self.next_span() {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => break,
            }
        }
        Ok(())
    }

    #[inline]
    fn next_span(&mut self) -> Option<Result<(Offset, RecordSpan), BatchError>> {
        if self.failed {
            return None;
        }
        let (position, stored) = (self.position, self.count);
        if self.at == self.section.len() {
            if position == stored {
                return None;
            }
            self.failed = true;
            return Some(Err(BatchError::RecordCount { stored, actual: position, more: false }));
        }
        if position == stored {
            self.failed = true;
            return Some(Err(BatchError::RecordCount { stored, actual: position, more: true }));
        }
        match RecordSpan::parse(&self.section, &mut self.at, HEADERS_PER_RECORD_CEILING) {
            Ok(span) => {
                self.position += 1;
                Some(Ok((Offset(self.base_offset + u64::from(position)), span)))
            }
            Err(source) => {
                self.failed = true;
                Some(Err(BatchError::Record { position, source }))
            }
        }
    }
}

impl Iterator for RecordIter {
    type Item = Result<DeliveredRecord, BatchError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_span()?.map(|(offset, span)| DeliveredRecord {
            offset,
            record: span.slice(&self.section, self.base_timestamp_ms),
        }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // A record has at least three bytes, so a count that lies makes nobody allocate for it.
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
    /// When there is no record.
    pub fn decode(
        section: &Bytes,
        at: &mut usize,
        base_timestamp_ms: i64,
    ) -> Result<Self, RecordError> {
        let span = RecordSpan::parse(section, at, HEADERS_PER_RECORD_CEILING)?;
        Ok(span.slice(section, base_timestamp_ms))
    }
}
