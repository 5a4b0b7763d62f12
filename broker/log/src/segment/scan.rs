//! Walking over the batches of a segment: each header is read in memory that was populated before,
//! checked against the segment's salt, and must end before the segment does.

use std::sync::Arc;

use bytes::Bytes;
use plimsoll_protocol::batch::{BATCH_HEADER_BYTES, BatchError, BatchHeader};
use plimsoll_protocol::ids::{LogId, LogIndex, Offset};
use thiserror::Error;

use super::file::{Segment, SegmentError};
use crate::disk::Mapping;
use crate::entry::Placed;
use crate::header::HeaderError;

const HEADER_BYTES: u64 = BATCH_HEADER_BYTES as u64;

/// How much is populated at once while walking.
const WINDOW_BYTES: u64 = 64 * 1024;

/// A place in a segment file whose bytes are not what was written there.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{path} is damaged at byte {position}: {fault}")]
pub struct Damage {
    /// The file, relative to the data directory.
    pub path: String,
    /// Where the damaged piece begins.
    pub position: u64,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with a piece of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// The file is not there.
    #[error("the file is missing")]
    Missing,
    /// The first block of the file.
    #[error("{0}")]
    FileHeader(HeaderError),
    /// The file is shorter than what was written.
    #[error("the file ends at {length}")]
    Short {
        /// Bytes of the file.
        length: u64,
    },
    /// The header of a batch cannot be read.
    #[error("batch header: {0}")]
    Header(BatchError),
    /// The header's checksum is wrong.
    #[error("the checksum of the batch header is wrong")]
    HeaderChecksum,
    /// The batch would reach past the end of the segment.
    #[error("a batch of {batch_length} bytes reaches past the end at {end}")]
    Length {
        /// The stored length.
        batch_length: u32,
        /// End of what was written.
        end: u64,
    },
    /// The checksums are right, and the records cannot be read.
    #[error("records: {0}")]
    Records(BatchError),
    /// The body's checksum is wrong.
    #[error("the checksum of the batch body is wrong")]
    BodyChecksum,
    /// A state's checksum is wrong.
    #[error("the checksum of the state is wrong")]
    StateChecksum,
    /// Entries to which the journal refers are not the ones that it means.
    #[error(
        "{found} entries end here with {last:?}; the journal refers to {expected}, up to {expected_last}"
    )]
    Placed {
        /// How many there are.
        found: u32,
        /// The last one.
        last: Option<LogId>,
        /// How many there should be.
        expected: u32,
        /// What should be the last one.
        expected_last: LogId,
    },
    /// The entry does not continue the log.
    #[error("entry {found} with offset {offset} stands where entry {expected} is expected")]
    Sequence {
        /// What the header says.
        found: LogId,
        /// Its base offset.
        offset: Offset,
        /// Which index must come here.
        expected: LogIndex,
    },
}

/// Checks a header that was read at `position` of a segment that ends at `end`.
pub(crate) fn check_header(
    bytes: &[u8],
    crc_start: u32,
    position: u64,
    end: u64,
) -> Result<BatchHeader, Fault> {
    let header = BatchHeader::parse(bytes).map_err(Fault::Header)?;
    if !header.check_header_crc(crc_start) {
        return Err(Fault::HeaderChecksum);
    }
    if u64::from(header.batch_length) > end - position {
        return Err(Fault::Length { batch_length: header.batch_length, end });
    }
    Ok(header)
}

/// A walk over batch headers, from one batch to the end. Blocks on the disk.
pub(crate) struct Walk<'a> {
    segment: &'a Segment,
    mapping: Arc<dyn Mapping>,
    position: u64,
    end: u64,
    window: Bytes,
    window_start: u64,
}

impl<'a> Walk<'a> {
    /// Begins at `position`, where a batch begins, and goes up to `end`, at most the published end.
    pub(crate) fn new(segment: &'a Segment, position: u64, end: u64) -> Result<Self, SegmentError> {
        let mapping = segment.mapping(end)?;
        Ok(Self { segment, mapping, position, end, window: Bytes::new(), window_start: 0 })
    }

    /// Where the next batch begins.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The next header, and where its batch begins.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, BatchHeader)>, SegmentError> {
        let position = self.position;
        if position >= self.end {
            return Ok(None);
        }
        let damage = |fault| SegmentError::Damaged(self.segment.damage(position, fault));
        if self.end - position < HEADER_BYTES {
            return Err(damage(Fault::Length { batch_length: 0, end: self.end }));
        }
        let inside = position.checked_sub(self.window_start).unwrap_or(u64::MAX);
        let inside = if inside.saturating_add(HEADER_BYTES) > self.window.len() as u64 {
            let upto = (position + WINDOW_BYTES).min(self.mapping.len());
            self.segment.populate(&self.mapping, position..upto)?;
            self.window = self.mapping.clone().slice(position..upto);
            self.window_start = position;
            0
        } else {
            inside as usize
        };
        let header =
            check_header(&self.window[inside..], self.segment.crc_start(), position, self.end)
                .map_err(damage)?;
        self.position += u64::from(header.batch_length);
        Ok(Some((position, header)))
    }
}

/// Checks every byte of entries to which the journal refers, and returns their headers. Blocks on the disk.
pub(crate) fn check_placed(
    segment: &Segment,
    placed: &Placed,
    previous: Option<LogId>,
    base_offset: Offset,
) -> Result<Vec<BatchHeader>, SegmentError> {
    let mut headers = Vec::new();
    let keep = |header: &BatchHeader| headers.push(*header);
    check_batches(segment, placed, Density::Full, previous, base_offset, keep)?;
    Ok(headers)
}

/// Whether entries may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Density {
    /// Each batch is the entry after the one before.
    Full,
    /// Compaction was here: a batch may stand for several entries, and has the identity of the last one.
    /// Offsets are without gaps all the same.
    Compacted,
}

/// Checks every byte of entries that lie one behind the other: checksums of headers and bodies, that they
/// follow `previous` and each other, and that they end as `placed` says. Shows their headers to `visit`.
/// How many there are is checked where none may be missing. Blocks on the disk.
pub(crate) fn check_batches(
    segment: &Segment,
    placed: &Placed,
    density: Density,
    previous: Option<LogId>,
    base_offset: Offset,
    mut visit: impl FnMut(&BatchHeader),
) -> Result<(), SegmentError> {
    const WINDOW_BYTES: u64 = 4 * 1024 * 1024;
    let damage = |at, fault| SegmentError::Damaged(segment.damage(at, fault));
    let end = placed.to;
    let length = segment.allocated();
    if length < end {
        return Err(damage(length, Fault::Short { length }));
    }
    let mapping = segment.mapping(end)?;
    let mut found = 0;
    let (mut next, mut offset) = (placed.first, base_offset);
    let mut last = previous;
    let mut window = Bytes::new();
    let mut window_start = placed.from;
    let mut position = placed.from;
    while position < end {
        let mut need = |bytes: u64| -> Result<Bytes, SegmentError> {
            let at = position - window_start;
            if at + bytes > window.len() as u64 {
                let upto = (position + WINDOW_BYTES.max(bytes)).min(end);
                segment.populate(&mapping, position..upto)?;
                window = mapping.clone().slice(position..upto);
                window_start = position;
            }
            let at = (position - window_start) as usize;
            Ok(window.slice(at..at + bytes as usize))
        };
        if end - position < HEADER_BYTES {
            return Err(damage(position, Fault::Length { batch_length: 0, end }));
        }
        let header = check_header(&need(HEADER_BYTES)?, segment.crc_start(), position, end)
            .map_err(|fault| damage(position, fault))?;
        let is_next = match density {
            Density::Full => header.index == next,
            Density::Compacted => header.index >= next && header.index <= placed.last.index,
        };
        let follows = is_next
            && header.base_offset == offset
            && last.is_none_or(|last| header.term >= last.term);
        if !follows {
            let (found, offset) = (header.log_id(), header.base_offset);
            return Err(damage(position, Fault::Sequence { found, offset, expected: next }));
        }
        let batch = need(u64::from(header.batch_length))?;
        if !header.check_body_crc(&batch[BATCH_HEADER_BYTES..]) {
            return Err(damage(position, Fault::BodyChecksum));
        }
        position += u64::from(header.batch_length);
        next = LogIndex(header.index.0 + 1);
        offset = header.end_offset();
        last = Some(header.log_id());
        visit(&header);
        found += 1;
    }
    let is_complete = found == placed.entries || density == Density::Compacted;
    if !is_complete || last != Some(placed.last) || offset != placed.end_offset {
        let (expected, expected_last) = (placed.entries, placed.last);
        return Err(damage(position, Fault::Placed { found, last, expected, expected_last }));
    }
    Ok(())
}
