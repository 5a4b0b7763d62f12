//! What of a group is in segments: the list of them, and the marks as of the last change that was
//! materialised. Only the materialiser changes it, with one exception: a segment is opened by whoever
//! needs it first.

use std::ops::Range;
use std::sync::{Arc, Weak};

use plimsoll_protocol::ids::{GroupId, LogId, LogIndex, Offset};

use crate::checkpoint::CheckpointSeq;
use crate::entry::{Marks, Swap};
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
    /// The first checkpoint that names it as closed.
    pub(crate) sealed_in: Option<CheckpointSeq>,
    /// Append time of its first records; after an opening, of the last ones that there were.
    pub(crate) first_append_ms: Option<i64>,
}

impl Slot {
    pub(crate) fn new(info: SegmentInfo, open: Weak<Segment>) -> Self {
        let first_append_ms = (info.max_append_ms > i64::MIN).then_some(info.max_append_ms);
        Self { info, open, placed: false, sealed_in: None, first_append_ms }
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
    /// Counts what [`Front::generation`](super::front::Front::generation) counts.
    pub(crate) generation: u64,
}

impl Back {
    pub(crate) fn new(
        marks: Marks,
        segments: impl IntoIterator<Item = SegmentInfo>,
        next_segment: SegmentId,
    ) -> Self {
        let segments = segments.into_iter().map(|info| Slot::new(info, Weak::new())).collect();
        Self { marks, segments, next_segment, deleted: false, installs: 0, generation: 0 }
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

    /// Where the segments lie that a compaction replaces; `None` where the log has others.
    pub(crate) fn place_of(&self, swap: &Swap) -> Option<Range<usize>> {
        let infos: Vec<&SegmentInfo> = self.segments.iter().map(|slot| &slot.info).collect();
        swap.place(&infos)
    }

    /// Notes which segments a checkpoint names as closed.
    pub(crate) fn note_checkpoint(&mut self, seq: CheckpointSeq, named: &[SegmentInfo]) {
        let waiting = |slot: &&mut Slot| slot.info.sealed && slot.sealed_in.is_none();
        for slot in self.segments.iter_mut().filter(waiting) {
            let at = named.partition_point(|info| info.base_index < slot.info.base_index);
            let mut same = named[at..].iter();
            if same.any(|info| *info == slot.info) {
                slot.sealed_in = Some(seq);
            }
        }
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
