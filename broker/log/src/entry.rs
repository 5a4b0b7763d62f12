//! What a group's log is made of: entries, votes, and the marks kept beside the entries.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use plimsoll_protocol::batch::{BatchHeader, EntryKind};
use plimsoll_protocol::ids::{LogId, LogIndex, NodeId, Offset, Term};

use crate::config::GroupOptions;
use crate::random::Salt;
use crate::segment::{SegmentId, SegmentInfo};

/// One entry of a log: the 96-byte header, filled, and the bytes behind it. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Kind, term and index are the caller's; the base offset is filled by the log.
    pub header: BatchHeader,
    /// Bytes 96 to the end of the batch.
    pub body: Bytes,
}

impl LogEntry {
    /// An entry that is not records.
    #[must_use]
    pub fn new(kind: EntryKind, id: LogId, body: Bytes) -> Self {
        let mut header = BatchHeader::for_entry(kind, &body);
        header.term = id.term;
        header.index = id.index;
        Self { header, body }
    }

    /// Term and index.
    #[must_use]
    pub fn id(&self) -> LogId {
        self.header.log_id()
    }

    /// Bytes it takes in a segment.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        u64::from(self.header.batch_length)
    }
}

/// What a node has promised in a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vote {
    /// The term.
    pub term: Term,
    /// Whom it was given to.
    pub voted_for: NodeId,
    /// Whether that node is known to be the leader.
    pub committed: bool,
}

/// What a group knows beside its entries, at one moment of its history. The front holds it as of the
/// last call, the materialiser as of what it has written; both get there by the same
/// [`Change`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) options: GroupOptions,
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    /// Entries up to here are no longer Raft's to resend.
    pub(crate) purged: Option<LogId>,
    /// The last entry that was ever appended and not truncated, purged or not.
    pub(crate) last: Option<LogId>,
    /// First offset that can be read.
    pub(crate) start_offset: Offset,
    /// First index whose entry is kept in a segment or the cache.
    pub(crate) start_index: LogIndex,
    /// Offset of the next record.
    pub(crate) end_offset: Offset,
    /// How often entries were taken away from the end. News of the log before such a moment is not
    /// news of the log after it, and bytes written before it are bounded by it.
    pub(crate) branch: u64,
}

impl Marks {
    pub(crate) fn new(options: GroupOptions) -> Self {
        Self {
            options,
            vote: None,
            committed: None,
            purged: None,
            last: None,
            start_offset: Offset(0),
            start_index: LogIndex(0),
            end_offset: Offset(0),
            branch: 0,
        }
    }

    /// Index of the entry that comes next.
    pub(crate) fn next_index(&self) -> LogIndex {
        self.last.map_or(LogIndex(0), |last| LogIndex(last.index.0 + 1))
    }

    /// Puts a change into effect. Entries are noted by [`Marks::appended`] one by one.
    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Entries(entries) => {
                for entry in entries {
                    self.appended(&entry.header);
                }
            }
            Change::Vote(vote) => self.vote = Some(*vote),
            Change::Committed(id) => self.committed = Some(*id),
            Change::Cut(cut) => {
                self.last = cut.last;
                self.end_offset = cut.end_offset;
                self.branch = cut.branch;
            }
            Change::Purge(id) => self.purged = self.purged.max(Some(*id)),
            Change::Start(start) => {
                self.start_offset = start.offset;
                self.start_index = LogIndex(start.dropped.index.0 + 1);
                self.purged = self.purged.max(Some(start.dropped));
            }
            Change::Reset(reset) => {
                self.last = Some(reset.last);
                self.purged = Some(reset.last);
                self.start_index = LogIndex(reset.last.index.0 + 1);
                self.start_offset = reset.offset;
                self.end_offset = reset.offset;
                self.branch = reset.branch;
            }
            Change::Install(install) => self.apply_install(install),
            Change::Create(options) | Change::Options(options) => self.options = *options,
            Change::Delete | Change::Compacted(_) | Change::Roll => {}
        }
    }

    pub(crate) fn apply_install(&mut self, install: &Install) {
        self.committed = install.committed;
        self.purged = install.purged;
        self.last = install.last;
        self.start_offset = install.start_offset;
        self.start_index = install.start_index;
        self.end_offset = install.end_offset;
        self.branch = install.branch;
        self.purge_compacted(&install.segments);
    }

    /// Sees to it that Raft asks for no entry of a compacted segment, in which single ones are not found: what
    /// is compacted is purged, also where the log came from another node, or those marks were lost.
    pub(crate) fn purge_compacted<'a>(
        &mut self,
        segments: impl IntoIterator<Item = &'a SegmentInfo>,
    ) {
        let compacted = segments.into_iter().filter(|info| info.compacted.is_some());
        self.purged = self.purged.max(compacted.filter_map(|info| info.last).max());
    }

    /// Takes in entries that were placed.
    pub(crate) fn placed(&mut self, placed: &Placed) {
        self.last = Some(placed.last);
        self.end_offset = placed.end_offset;
    }

    pub(crate) fn appended(&mut self, header: &BatchHeader) {
        self.last = Some(header.log_id());
        self.end_offset = header.end_offset();
    }
}

/// Entries that lie in a segment, on stable storage, and to which the journal only refers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    /// The segment.
    pub(crate) segment: SegmentId,
    /// The salt of its file: no other file of that name is meant.
    pub(crate) salt: Salt,
    /// Byte position of the first entry.
    pub(crate) from: u64,
    /// Byte position after the last one.
    pub(crate) to: u64,
    /// Index of the first one.
    pub(crate) first: LogIndex,
    /// How many.
    pub(crate) entries: u32,
    /// The last one.
    pub(crate) last: LogId,
    /// Offset after its last record.
    pub(crate) end_offset: Offset,
}

/// One change of a group, in the order of the store's queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Create(GroupOptions),
    Options(GroupOptions),
    Delete,
    Entries(Vec<LogEntry>),
    Vote(Vote),
    Committed(LogId),
    Cut(Cut),
    Purge(LogId),
    Start(Start),
    Reset(Reset),
    Install(Arc<Install>),
    /// Segments were replaced by one with fewer records.
    Compacted(Arc<Swap>),
    /// The segment that is appended to is closed. Not journaled: replay may close it elsewhere.
    Roll,
}

/// The end of the log was taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// What is then the last entry.
    pub(crate) last: Option<LogId>,
    /// Where the next record then goes.
    pub(crate) end_offset: Offset,
    /// The branch that begins here. What lies in segments of an earlier branch ends at `last`.
    pub(crate) branch: u64,
}

impl Cut {
    /// Index after the last entry that is left.
    pub(crate) fn end_index(&self) -> LogIndex {
        self.last.map_or(LogIndex(0), |last| LogIndex(last.index.0 + 1))
    }
}

/// The beginning of the log was taken away by retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    /// First offset that can then be read.
    pub(crate) offset: Offset,
    /// The last entry that went.
    pub(crate) dropped: LogId,
}

/// The whole log was taken away; it goes on after `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reset {
    pub(crate) last: LogId,
    pub(crate) offset: Offset,
    /// The branch that begins here.
    pub(crate) branch: u64,
}

/// The whole log was replaced, by one whose segments were made and synced before, or by nothing. The vote
/// and the options stay.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Install {
    pub(crate) last: Option<LogId>,
    pub(crate) committed: Option<LogId>,
    /// The entry before the first one.
    pub(crate) purged: Option<LogId>,
    pub(crate) start_offset: Offset,
    pub(crate) start_index: LogIndex,
    pub(crate) end_offset: Offset,
    /// The branch that begins here.
    pub(crate) branch: u64,
    /// Segments made later have this number or a larger one.
    pub(crate) next_segment: SegmentId,
    /// All sealed.
    pub(crate) segments: Vec<SegmentInfo>,
    pub(crate) state: Option<InstalledState>,
}

/// Neighbouring segments were replaced by one that stands for the same entries and offsets, and holds fewer
/// records. It is on stable storage with its name before the journal speaks of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Swap {
    /// The segments that go, in the order of the log.
    pub(crate) replaced: Vec<SegmentId>,
    /// What stands in their place. Sealed and compacted.
    pub(crate) segment: SegmentInfo,
}

impl Swap {
    /// Where in the list of segments those lie that it replaces; `None` where they are not there one behind
    /// the other, or are other ones than it stands for.
    pub(crate) fn place(&self, segments: &[&SegmentInfo]) -> Option<Range<usize>> {
        let first = self.replaced.first()?;
        let from = segments.iter().position(|info| info.id == *first)?;
        let found = segments.get(from..from + self.replaced.len())?;
        let (begin, end) = (found.first()?, found.last()?);
        let new = &self.segment;
        let fits = found.iter().map(|info| info.id).eq(self.replaced.iter().copied())
            && found.iter().all(|info| info.sealed)
            && new.sealed
            && new.compacted.is_some()
            && (new.base_index, new.base_offset) == (begin.base_index, begin.base_offset)
            && new.previous == begin.previous
            && (new.last, new.end_offset) == (end.last, end.end_offset);
        fits.then_some(from..from + found.len())
    }
}

/// The folded state that came with a log, in a file of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InstalledState {
    /// Number of the file.
    pub(crate) number: SegmentId,
    /// The last entry that is folded into it.
    pub(crate) applied: LogId,
    pub(crate) bytes: u64,
    pub(crate) crc: u32,
}

impl Install {
    /// Index after the last entry.
    pub(crate) fn end_index(&self) -> LogIndex {
        self.last.map_or(LogIndex(0), |last| LogIndex(last.index.0 + 1))
    }

    /// Whether its segments are one log that begins and ends as it says; if not, why.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let (mut next, mut offset) = (self.start_index, None);
        let mut last = self.purged;
        if self.start_index.0 != last.map_or(0, |last| last.index.0 + 1) {
            return Err("begins at another entry than it says");
        }
        for info in &self.segments {
            let follows = info.base_index == next
                && offset.is_none_or(|offset| offset == info.base_offset)
                && info.previous == last;
            if !follows || !info.sealed || info.last.is_none() || info.id >= self.next_segment {
                return Err("has a segment that does not continue the one before it");
            }
            (next, offset, last) = (info.end_index(), Some(info.end_offset), info.last);
        }
        let ends = last == self.last && offset.unwrap_or(self.end_offset) == self.end_offset;
        let starts = self.start_offset <= self.end_offset
            && self.segments.first().is_none_or(|first| first.base_offset <= self.start_offset);
        if ends && starts { Ok(()) } else { Err("ends or starts elsewhere than it says") }
    }
}

impl Change {
    /// Bytes of records and other entries that it carries.
    pub(crate) fn entry_bytes(&self) -> u64 {
        match self {
            Self::Entries(entries) => entries.iter().map(LogEntry::bytes).sum(),
            _ => 0,
        }
    }

    /// Whether it may use the journal's reserve: everything but records.
    pub(crate) fn is_small(&self) -> bool {
        match self {
            Self::Entries(entries) => entries.iter().all(|e| e.header.kind != EntryKind::Records),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_protocol::ids::GroupId;

    use super::*;
    use crate::segment::header::SegmentHeader;
    use crate::segment::{Compacted, SegmentName};

    /// Three closed segments of ten entries, and ten records, each.
    fn segments() -> Vec<SegmentInfo> {
        let mut all: Vec<SegmentInfo> = Vec::new();
        for number in 0..3 {
            let header = SegmentHeader {
                name: SegmentName { group: GroupId(1), id: SegmentId(number) },
                base_index: LogIndex(number * 10),
                base_offset: Offset(number * 10),
                previous: all.last().and_then(|info| info.last),
                branch: 0,
                salt: Salt(number),
            };
            let last = Some(LogId::new(Term(1), LogIndex(number * 10 + 9)));
            let end_offset = Offset(number * 10 + 10);
            all.push(SegmentInfo { last, end_offset, sealed: true, ..header.info() });
        }
        all
    }

    fn swap(from: usize, upto: usize) -> Swap {
        let replaced = &segments()[from..=upto];
        let clean_to = replaced[replaced.len() - 1].end_offset;
        let segment = SegmentInfo {
            id: SegmentId(99),
            last: replaced[replaced.len() - 1].last,
            end_offset: clean_to,
            compacted: Some(Compacted { at_ms: 0, horizon_ms: None, clean_to }),
            ..replaced[0]
        };
        Swap { replaced: replaced.iter().map(|info| info.id).collect(), segment }
    }

    fn place(swap: &Swap, segments: &[SegmentInfo]) -> Option<Range<usize>> {
        swap.place(&segments.iter().collect::<Vec<_>>())
    }

    #[test]
    fn swap_fits_the_segments_that_it_stands_for_only() {
        let all = segments();
        for (from, upto) in [(0, 0), (0, 1), (1, 2), (0, 2)] {
            assert_eq!(place(&swap(from, upto), &all), Some(from..upto + 1));
        }
        let good = swap(0, 1);
        assert_eq!(place(&good, &all[1..]), None, "the first one is gone");
        assert_eq!(place(&good, &all[..1]), None, "the last one is gone");
        let mut open = all.clone();
        open[1].sealed = false;
        assert_eq!(place(&good, &open), None, "it may still grow");
        let wrong: [fn(&mut SegmentInfo); 6] = [
            |info| info.base_index.0 += 1,
            |info| info.base_offset.0 += 1,
            |info| info.previous = Some(LogId::new(Term(1), LogIndex(7))),
            |info| info.last = None,
            |info| info.end_offset.0 += 1,
            |info| info.compacted = None,
        ];
        for spoil in wrong {
            let mut bad = good.clone();
            spoil(&mut bad.segment);
            assert_eq!(place(&bad, &all), None, "{:?}", bad.segment);
        }
        let others = Swap { replaced: vec![SegmentId(0), SegmentId(2)], ..swap(0, 2) };
        assert_eq!(place(&others, &all), None, "one between them is left out");
    }
}
