//! Checkpoints: for each group exactly where its log ends in the segments, so that the journal before
//! is no longer needed.
//!
//! [`codec`] knows the bytes, [`file`] writes a checkpoint so that it is there in full or not at all,
//! and finds the newest valid one.

use plimsoll_protocol::ids::GroupId;

use crate::entry::{Marks, Swap};
use crate::segment::{SegmentId, SegmentInfo};

pub(crate) mod codec;
pub(crate) mod file;

pub(crate) use file::CheckpointFile;

/// Number of a checkpoint; the first one of a store is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CheckpointSeq(pub(crate) u64);

/// What a checkpoint holds of one group, beside its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupRecord {
    pub(crate) group: GroupId,
    pub(crate) marks: Marks,
    pub(crate) next_segment: SegmentId,
    pub(crate) segments: Vec<SegmentInfo>,
}

impl GroupRecord {
    /// Puts a compacted segment in the place of those that it replaces; false where they are not there.
    pub(crate) fn swap(&mut self, swap: &Swap) -> bool {
        let place = swap.place(&self.segments.iter().collect::<Vec<_>>());
        match place {
            Some(place) => drop(self.segments.splice(place, [swap.segment])),
            None => return false,
        }
        true
    }
}
