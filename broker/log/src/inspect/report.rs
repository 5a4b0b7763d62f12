//! What an inspection finds, as plain values.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use plimsoll_protocol::batch::BatchHeader;
use plimsoll_protocol::ids::{GroupId, LogId, LogIndex, NodeId, Offset};

use super::journal::JournalFileReport;
use super::verify::DamagedPlace;
use crate::checkpoint::GroupRecord;
use crate::checkpoint::codec::CheckpointHeader;
use crate::checkpoint::file::CheckpointError;
use crate::config::GroupOptions;
use crate::entry::{Change, Marks, Placed, Swap, Vote};
use crate::header::{FORMAT_VERSION, Identity};
use crate::segment::{Compacted, SegmentId, SegmentInfo, SegmentName};

/// Everything but the batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The cluster.
    pub cluster_id: [u8; 16],
    /// The node.
    pub node_id: NodeId,
    /// Newest format version that this build reads.
    pub format_version: u32,
    /// Checkpoints, newest first.
    pub checkpoints: Vec<CheckpointReport>,
    /// Paths of damaged files that an opening put aside.
    pub quarantined: Vec<String>,
    /// Journal files, oldest first.
    pub journal: Vec<JournalFileReport>,
    /// Blocks after the newest checkpoint: what an opening would replay.
    pub replay_blocks: u64,
    /// Their bytes.
    pub replay_bytes: u64,
    /// Groups, as they would be after an opening.
    pub groups: BTreeMap<GroupId, GroupReport>,
    /// Damage found so far; [`Inspector::verify`](super::Inspector::verify) looks closer.
    pub damaged: Vec<DamagedPlace>,
    pub(super) placed: Vec<PlacedCheck>,
    /// Groups whose log was replaced after the newest checkpoint, as they were then.
    pub(super) installed: BTreeMap<GroupId, GroupRecord>,
    /// Segments that were replaced after the newest checkpoint, in logs that were not.
    pub(super) swaps: Vec<(GroupId, Arc<Swap>)>,
}

/// Entries after the newest checkpoint that lie in a segment, and what they follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PlacedCheck {
    pub(super) group: GroupId,
    pub(super) placed: Placed,
    pub(super) previous: Option<LogId>,
    pub(super) base_offset: Offset,
}

/// One checkpoint file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointReport {
    /// The file.
    pub path: String,
    /// What is wrong with it; the fields below are zero then.
    pub damage: Option<String>,
    /// Its number.
    pub seq: u64,
    /// It was the last thing the store did before it was closed.
    pub closed: bool,
    /// Groups in it.
    pub groups: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// The journal file it needs first.
    pub journal_file: u64,
    /// The byte in that file from which the journal is needed.
    pub journal_offset: u64,
    /// The block that comes next.
    pub next_block: u64,
}

/// One group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupReport {
    /// Its number.
    pub group: GroupId,
    /// Durability and segment size.
    pub options: GroupOptions,
    /// Its vote.
    pub vote: Option<Vote>,
    /// How far Raft had committed, as noted last.
    pub committed: Option<LogId>,
    /// Entries up to here are no longer Raft's.
    pub purged: Option<LogId>,
    /// The last entry. Of a group kept in memory: as of the checkpoint; an opening may find more.
    pub last: Option<LogId>,
    /// First offset that can be read.
    pub log_start_offset: Offset,
    /// Offset of the next record.
    pub log_end_offset: Offset,
    /// Segments as of the checkpoint.
    pub segments: Vec<SegmentReport>,
    /// Its folded state as of the checkpoint.
    pub state: Option<StateReport>,
    /// Entries after the checkpoint, in the journal or referred to by it.
    pub replayed_entries: u64,
    /// Their bytes.
    pub replayed_bytes: u64,
    pub(super) marks: Marks,
}

/// A group's folded state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateReport {
    /// The last entry folded into it.
    pub applied: LogId,
    /// Its size.
    pub bytes: u64,
}

/// One segment, as the checkpoint knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentReport {
    /// The file.
    pub path: String,
    /// Its number in the group.
    pub segment: u64,
    /// Index of its first entry.
    pub base_index: LogIndex,
    /// Number of records before it.
    pub base_offset: Offset,
    /// Its last entry.
    pub last: Option<LogId>,
    /// Offset after its last record.
    pub end_offset: Offset,
    /// Bytes up to its end; what follows in the file is never looked at.
    pub end_bytes: u64,
    /// Nothing is appended to it any more.
    pub sealed: bool,
    /// Largest timestamp of a record; `None` where it holds none.
    pub max_timestamp_ms: Option<i64>,
    /// Largest append time; `None` where it is empty.
    pub max_append_ms: Option<i64>,
    /// What compaction has to say of it; `None` where no records were taken out of it.
    pub compacted: Option<Compacted>,
}

/// One batch in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchReport {
    /// The file.
    pub path: String,
    /// Where it begins in the file.
    pub position: u64,
    /// Its header; `None` where it cannot be read, and then nothing behind it in this file can.
    pub header: Option<BatchHeader>,
    /// Whether it is as it was written.
    pub verdict: Verdict,
}

/// What the checksums say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As it was written, and it continues the log.
    Right,
    /// Damaged.
    Damaged(String),
}

impl Report {
    pub(super) fn new(identity: Identity) -> Self {
        Self {
            cluster_id: identity.cluster_id,
            node_id: identity.node_id,
            format_version: FORMAT_VERSION,
            checkpoints: Vec::new(),
            quarantined: Vec::new(),
            journal: Vec::new(),
            replay_blocks: 0,
            replay_bytes: 0,
            groups: BTreeMap::new(),
            damaged: Vec::new(),
            placed: Vec::new(),
            installed: BTreeMap::new(),
            swaps: Vec::new(),
        }
    }
}

impl CheckpointReport {
    pub(super) fn of(path: String, header: &CheckpointHeader) -> Self {
        Self {
            path,
            damage: None,
            seq: header.seq.0,
            closed: header.closed_before.is_some(),
            groups: header.groups,
            bytes: header.body_bytes + crate::header::HEADER_BYTES as u64,
            journal_file: header.position.file.0,
            journal_offset: header.position.offset,
            next_block: header.position.next_block.0,
        }
    }

    pub(super) fn damaged(path: String, error: &CheckpointError) -> Self {
        Self {
            path,
            damage: Some(error.to_string()),
            seq: 0,
            closed: false,
            groups: 0,
            bytes: 0,
            journal_file: 0,
            journal_offset: 0,
            next_block: 0,
        }
    }
}

impl GroupReport {
    pub(super) fn of(record: &GroupRecord, state: Option<(LogId, Range<usize>)>) -> Self {
        let mut report = Self::with(record.group, record.marks);
        report.segments =
            record.segments.iter().map(|info| SegmentReport::of(record.group, info)).collect();
        report.state =
            state.map(|(applied, range)| StateReport { applied, bytes: range.len() as u64 });
        report
    }

    pub(super) fn with(group: GroupId, marks: Marks) -> Self {
        Self {
            group,
            options: marks.options,
            vote: marks.vote,
            committed: marks.committed,
            purged: marks.purged,
            last: marks.last,
            log_start_offset: marks.start_offset,
            log_end_offset: marks.end_offset,
            segments: Vec::new(),
            state: None,
            replayed_entries: 0,
            replayed_bytes: 0,
            marks,
        }
    }

    /// Takes in a journaled change.
    pub(super) fn apply(&mut self, change: &Change) {
        if let Change::Entries(entries) = change {
            self.replayed_entries += entries.len() as u64;
            self.replayed_bytes += change.entry_bytes();
        }
        self.marks.apply(change);
        self.show_marks();
        if let Change::Install(install) = change {
            self.segments =
                install.segments.iter().map(|info| SegmentReport::of(self.group, info)).collect();
            self.state = install.state.map(|s| StateReport { applied: s.applied, bytes: s.bytes });
        }
    }

    /// Shows a compacted segment in the place of those that it replaces.
    pub(super) fn apply_swap(&mut self, swap: &Swap) {
        let new = SegmentReport::of(self.group, &swap.segment);
        let is_replaced = |s: &SegmentReport| swap.replaced.contains(&SegmentId(s.segment));
        let at = self.segments.iter().position(is_replaced).unwrap_or(self.segments.len());
        self.segments.retain(|segment| !is_replaced(segment));
        self.segments.insert(at, new);
    }

    /// Takes in entries that lie in a segment.
    pub(super) fn apply_placed(&mut self, placed: &Placed) {
        self.replayed_entries += u64::from(placed.entries);
        self.replayed_bytes += placed.to - placed.from;
        self.marks.placed(placed);
        self.show_marks();
    }

    fn show_marks(&mut self) {
        let fresh = Self::with(self.group, self.marks);
        *self = Self {
            segments: std::mem::take(&mut self.segments),
            state: self.state.take(),
            replayed_entries: self.replayed_entries,
            replayed_bytes: self.replayed_bytes,
            ..fresh
        };
    }
}

impl SegmentReport {
    fn of(group: GroupId, info: &SegmentInfo) -> Self {
        let known = |ms: i64| (ms != i64::MIN).then_some(ms);
        Self {
            path: SegmentName { group, id: info.id }.path(),
            segment: info.id.0,
            base_index: info.base_index,
            base_offset: info.base_offset,
            last: info.last,
            end_offset: info.end_offset,
            end_bytes: info.end_bytes,
            sealed: info.sealed,
            max_timestamp_ms: known(info.max_timestamp_ms),
            max_append_ms: known(info.max_append_ms),
            compacted: info.compacted,
        }
    }
}
