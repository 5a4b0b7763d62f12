//! Reading records in order: a cursor, the batches at it, and what must be brought into memory first.
//!
//! [`GroupLog::read`] never blocks on the disk and touches no page that was not populated for this
//! cursor. Where it would have to, it hands out a [`ColdRange`], whose `load` does the blocking work
//! (open, search, populate, check) on a thread of the caller's choice and leaves the result with the
//! cursor.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use plimsoll_protocol::batch::{BATCH_HEADER_BYTES, EntryKind};
use plimsoll_protocol::ids::Offset;

use super::GroupLog;
use super::error::ReadError;
use crate::disk::Mapping;
use crate::entry::LogEntry;
use crate::parking::Mutex;
use crate::segment::file::{Segment, SegmentError};
use crate::segment::scan::{Fault, Walk, check_header};

/// How much is brought into memory at once.
const WINDOW_BYTES: u64 = 4 * 1024 * 1024;

/// A reader's place in a log. Reading on from where the last read ended needs no search.
#[derive(Debug)]
pub struct LogCursor {
    next: Offset,
    place: Place,
}

/// Shared with the [`ColdRange`]s of the cursor.
type Place = Arc<Mutex<Option<Located>>>;

/// The batch at which the cursor stands, in a segment.
#[derive(Debug, Clone)]
struct Located {
    /// The cursor's offset when this was found.
    offset: Offset,
    segment: Arc<Segment>,
    mapping: Arc<dyn Mapping>,
    position: u64,
    /// Pages before this position may be touched.
    warm: u64,
}

/// What [`GroupLog::read`] found.
#[derive(Debug)]
pub enum ReadStep {
    /// Whole batches of records.
    Batches {
        /// Their bytes; adjacent batches are one piece where they lie in a map.
        chunks: Vec<Bytes>,
        /// The cursor's offset now.
        next_offset: Offset,
    },
    /// There are no records before the given limit.
    CaughtUp,
    /// The next bytes must be brought into memory first.
    Cold(ColdRange),
}

/// A piece of the log that is not known to be in memory.
#[derive(Debug)]
pub struct ColdRange {
    group: Arc<GroupLog>,
    offset: Offset,
    place: Place,
}

impl LogCursor {
    /// Offset of the next record to be read.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.next
    }
}

impl GroupLog {
    /// A cursor at the record with this offset.
    #[must_use]
    pub fn cursor(&self, from: Offset) -> LogCursor {
        LogCursor { next: from, place: Arc::new(Mutex::new(None)) }
    }

    /// Reads whole batches at the cursor, in order: those that end at or before `upto`, as many as fit
    /// `max_bytes` but at least one. The first batch may begin before the cursor's offset, where that
    /// offset is not the first of its batch. Moves the cursor on. Does not block on the disk.
    ///
    /// # Errors
    /// When the offset is before the start of the log, or the group is quarantined, or a batch's
    /// header is damaged.
    pub fn read(
        &self,
        cursor: &mut LogCursor,
        upto: Offset,
        max_bytes: usize,
    ) -> Result<ReadStep, ReadError> {
        let stored_upto = {
            let front = self.front.lock();
            front.check()?;
            let log_start = front.marks.start_offset;
            if cursor.next < log_start {
                return Err(ReadError::BeforeStart { offset: cursor.next, log_start });
            }
            if cursor.next >= upto.min(front.marks.end_offset) {
                return Ok(ReadStep::CaughtUp);
            }
            if let Some(entries) = front.cached_at_offset(cursor.next) {
                let (chunks, next) = cached_chunks(entries, cursor.next, upto, max_bytes);
                if chunks.is_empty() {
                    return Ok(ReadStep::CaughtUp);
                }
                cursor.next = next;
                return Ok(ReadStep::Batches { chunks, next_offset: next });
            }
            // Segments may still hold what was truncated and lies there no longer.
            upto.min(front.cached_from_offset())
        };
        let located = cursor.place.lock().take().filter(|located| located.offset == cursor.next);
        if let Some(mut located) = located {
            let step = located.read(stored_upto, max_bytes).map_err(|error| self.failed(error))?;
            cursor.next = located.offset;
            *cursor.place.lock() = Some(located);
            if let Some(step) = step {
                return Ok(step);
            }
        }
        let group = self.me.upgrade().expect("a method of it is running");
        let (offset, place) = (cursor.next, cursor.place.clone());
        Ok(ReadStep::Cold(ColdRange { group, offset, place }))
    }

    /// First offset whose batch holds a record with a timestamp of at least `ms`; `None` where there
    /// is none. Blocks.
    ///
    /// # Errors
    /// When the disk fails or shows damage.
    pub fn offset_for_time(&self, ms: i64) -> Result<Option<Offset>, ReadError> {
        let (start, cached_from) = {
            let front = self.front.lock();
            front.check()?;
            (front.marks.start_offset, front.cached_from_offset())
        };
        let stored = {
            let back = self.readable();
            let mut back = back.lock();
            let after = |info: &crate::segment::SegmentInfo| {
                info.end_offset > start && info.max_timestamp_ms >= ms
            };
            match back.segments.iter().position(|slot| after(&slot.info)) {
                None => None,
                Some(at) => {
                    let info = back.segments[at].info;
                    Some((back.open(&self.shared, self.id(), at)?, info))
                }
            }
        };
        let found = match &stored {
            None => None,
            Some((segment, info)) => self
                .time_in_segment(segment, info.end_bytes, ms)
                .map_err(|error| self.failed(error.into()))?,
        };
        // Segments may still hold what was truncated and lies there no longer.
        if let Some(offset) = found.filter(|&offset| offset < cached_from) {
            return Ok(Some(offset.max(start)));
        }
        // Not in a segment: in the tail, if anywhere.
        let front = self.front.lock();
        let entry = front
            .cached_after(front.cached_from())
            .find(|entry| entry.header.record_count > 0 && entry.header.max_timestamp_ms >= ms);
        Ok(entry.map(|entry| entry.header.base_offset.max(start)))
    }

    fn time_in_segment(
        &self,
        segment: &Segment,
        end: u64,
        ms: i64,
    ) -> Result<Option<Offset>, SegmentError> {
        let interval = self.shared.config.index_interval_bytes;
        let from = segment.search(end, interval, |index| index.before_time(ms))?;
        let mut walk = Walk::new(segment, from, end)?;
        while let Some((_, header)) = walk.next()? {
            if header.record_count > 0 && header.max_timestamp_ms >= ms {
                return Ok(Some(header.base_offset));
            }
        }
        Ok(None)
    }
}

/// Pieces of the entries from the cache: headers in one buffer, bodies as they came.
fn cached_chunks<'a>(
    entries: impl Iterator<Item = &'a LogEntry>,
    mut next: Offset,
    upto: Offset,
    max_bytes: usize,
) -> (Vec<Bytes>, Offset) {
    let mut taken: Vec<&LogEntry> = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        if entry.header.kind != EntryKind::Records {
            continue;
        }
        bytes += entry.bytes() as usize;
        if entry.header.end_offset() > upto || bytes > max_bytes && !taken.is_empty() {
            break;
        }
        taken.push(entry);
        next = entry.header.end_offset();
    }
    let mut heads = BytesMut::with_capacity(taken.len() * BATCH_HEADER_BYTES);
    for entry in &taken {
        heads.extend_from_slice(&entry.header.to_bytes());
    }
    let mut heads = heads.freeze();
    let chunks = taken
        .iter()
        .flat_map(|entry| [heads.split_to(BATCH_HEADER_BYTES), entry.body.clone()])
        .filter(|chunk| !chunk.is_empty())
        .collect();
    (chunks, next)
}

impl Located {
    /// The batches at this place; `None` where the next one is not in memory, or in another segment.
    fn read(&mut self, upto: Offset, max_bytes: usize) -> Result<Option<ReadStep>, ReadError> {
        let end = self.segment.end();
        let readable = self.segment.verified_end(self.position).min(self.warm).min(end);
        if readable < self.position + BATCH_HEADER_BYTES as u64 {
            return Ok(None);
        }
        let bytes = Segment::slice(&self.mapping, self.position..readable);
        let mut chunks = Vec::new();
        let mut piece = 0..0;
        let mut taken = 0;
        let mut at = 0;
        while bytes.len() - at >= BATCH_HEADER_BYTES {
            let position = self.position + at as u64;
            let header = check_header(&bytes[at..], self.segment.crc_start(), position, end)
                .map_err(|fault| ReadError::Damaged(self.segment.damage(position, fault)))?;
            let length = header.batch_length as usize;
            if length > bytes.len() - at {
                break;
            }
            if header.kind == EntryKind::Records {
                let full = taken + length > max_bytes && taken > 0;
                if header.end_offset() > upto || full {
                    if taken == 0 {
                        self.position += at as u64;
                        return Ok(Some(ReadStep::CaughtUp));
                    }
                    break;
                }
                if piece.end == at && !piece.is_empty() {
                    piece.end = at + length;
                } else {
                    if !piece.is_empty() {
                        chunks.push(bytes.slice(piece));
                    }
                    piece = at..at + length;
                }
                taken += length;
                self.offset = header.end_offset();
            }
            at += length;
        }
        self.position += at as u64;
        if !piece.is_empty() {
            chunks.push(bytes.slice(piece));
        }
        if chunks.is_empty() {
            return Ok(None);
        }
        Ok(Some(ReadStep::Batches { chunks, next_offset: self.offset }))
    }
}

impl ColdRange {
    /// Brings the range into memory and checks what was not checked in this life. Blocks: not for an
    /// async thread. Call [`GroupLog::read`] again afterwards.
    ///
    /// # Errors
    /// When the disk fails or shows damage; damage quarantines the group.
    pub fn load(self) -> Result<(), ReadError> {
        let located = self.locate().map_err(|error| self.group.failed(error))?;
        *self.place.lock() = located;
        Ok(())
    }

    fn locate(&self) -> Result<Option<Located>, ReadError> {
        let known = self.place.lock().take().filter(|located| located.offset == self.offset);
        if let Some(mut located) = known
            && located.position < located.segment.end()
        {
            located.warm_up()?;
            return Ok(Some(located));
        }
        let group = &self.group;
        let (segment, end) = {
            let back = group.readable();
            let mut back = back.lock();
            // Between two reads the records may have moved into the cache's past or been dropped;
            // the next read says which.
            let Some(at) = back.slot_of_offset(self.offset) else { return Ok(None) };
            (back.open(&group.shared, group.id(), at)?, back.segments[at].info.end_bytes)
        };
        let interval = group.shared.config.index_interval_bytes;
        let offset = self.offset;
        let from = segment.search(end, interval, |index| index.before_offset(offset))?;
        let mut walk = Walk::new(&segment, from, end)?;
        let position = loop {
            match walk.next()? {
                Some((position, header)) if header.end_offset() > offset => break position,
                Some(_) => {}
                None => {
                    let at = walk.position();
                    return Err(ReadError::Damaged(
                        segment.damage(at, Fault::Short { length: end }),
                    ));
                }
            }
        };
        let mapping = segment.mapping(end)?;
        let mut located = Located { offset, segment, mapping, position, warm: position };
        located.warm_up()?;
        Ok(Some(located))
    }
}

impl Located {
    fn warm_up(&mut self) -> Result<(), SegmentError> {
        let end = self.segment.end();
        if self.mapping.len() < end {
            self.mapping = self.segment.mapping(end)?;
        }
        self.warm = self.segment.warm(&self.mapping, self.position, end, WINDOW_BYTES)?;
        Ok(())
    }
}
