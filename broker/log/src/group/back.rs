//! What of a group is in segments: the list of them, and the marks as of the last change that was
//! materialised. Only the materialiser changes it, with one exception: a segment is opened by whoever
//! needs it first.

use std::sync::{Arc, Weak};

use plimsoll_protocol::ids::{GroupId, LogId, LogIndex, Offset};

use crate::entry::Marks;
use crate::segment::file::{Segment, SegmentError};
use crate::segment::{SegmentId, SegmentInfo, SegmentName};
use crate::store::shared::Shared;

/// A segment, open or not.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) info: SegmentInfo,
    pub(crate) open: Weak<Segment>,
    /// It was begun by a placement of this life. Only into such a one may entries be placed: replay makes
    /// any other one anew.
    pub(crate) placed: bool,
}

impl Slot {
    pub(crate) fn new(info: SegmentInfo, open: Weak<Segment>) -> Self {
        Self { info, open, placed: false }
    }
}

/// Guarded by one mutex; held across the opening of a file, never across reading or writing one.
#[derive(Debug)]
pub(crate) struct Back {
    pub(crate) marks: Marks,
    /// Ascending, without gaps; only the last one may be unsealed.
    pub(crate) segments: Vec<Slot>,
    pub(crate) next_segment: SegmentId,
    pub(crate) deleted: bool,
    /// Counts the installations.
    pub(crate) installs: u64,
}

impl Back {
    pub(crate) fn new(
        marks: Marks,
        segments: impl IntoIterator<Item = SegmentInfo>,
        next_segment: SegmentId,
    ) -> Self {
        let segments = segments.into_iter().map(|info| Slot::new(info, Weak::new())).collect();
        Self { marks, segments, next_segment, deleted: false, installs: 0 }
    }

    /// The segment that is appended to.
    pub(crate) fn active(&self) -> Option<usize> {
        let last = self.segments.len().checked_sub(1)?;
        (!self.segments[last].info.sealed).then_some(last)
    }

    /// The segment that holds this entry.
    pub(crate) fn slot_of_index(&self, index: LogIndex) -> Option<usize> {
        let at = self.segments.partition_point(|slot| slot.info.end_index() <= index);
        self.segments.get(at).filter(|slot| slot.info.has_index(index)).map(|_| at)
    }

    /// The segment that holds this record.
    pub(crate) fn slot_of_offset(&self, offset: Offset) -> Option<usize> {
        let at = self.segments.partition_point(|slot| slot.info.end_offset <= offset);
        self.segments.get(at).filter(|slot| slot.info.has_offset(offset)).map(|_| at)
    }

    /// The open segment of a slot; opens it where needed.
    pub(crate) fn open(
        &mut self,
        shared: &Shared,
        group: GroupId,
        at: usize,
    ) -> Result<Arc<Segment>, SegmentError> {
        let slot = &mut self.segments[at];
        if let Some(segment) = slot.open.upgrade() {
            shared.open_segments.touch(&segment);
            return Ok(segment);
        }
        let name = SegmentName { group, id: slot.info.id };
        let segment = Arc::new(Segment::open(&*shared.disk, &shared.identity, name, &slot.info)?);
        slot.open = Arc::downgrade(&segment);
        shared.open_segments.hold(segment.clone());
        Ok(segment)
    }

    /// The last entry, as far as materialised.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.marks.last
    }

    /// Bytes of all segments up to their ends.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|slot| slot.info.end_bytes).sum()
    }
}
