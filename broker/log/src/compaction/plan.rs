//! What of a log may be compacted, and whether that is due.

use plimsoll_protocol::ids::{LogId, Offset};

use super::CompactionPolicy;
use super::newest::Newest;
use super::run::{Compaction, Goal, Job};
use crate::checkpoint::CheckpointSeq;
use crate::entry::Change;
use crate::group::GroupLog;
use crate::group::front::Front;
use crate::group::retention::RetainLimit;
use crate::segment::SegmentInfo;

/// Segments as the back has them, in order.
struct Stored {
    segments: Vec<StoredSegment>,
    generation: u64,
    segment_bytes: u64,
}

struct StoredSegment {
    info: SegmentInfo,
    sealed_in: Option<CheckpointSeq>,
    first_append_ms: Option<i64>,
}

/// What there is to do.
#[derive(Default)]
struct Found {
    /// From the front of the log, all closed, and named as closed by every checkpoint that a recovery may
    /// begin with.
    ready: Vec<SegmentInfo>,
    /// Of those behind them that only wait for checkpoints: bytes, and the last checkpoint that must become
    /// the older one.
    waiting: Size,
    wanted: Option<CheckpointSeq>,
    /// The open segment is to be closed.
    is_rolling: bool,
}

/// What is to be rewritten, and why.
struct Due {
    sources: Vec<SegmentInfo>,
    goal: Goal,
}

#[derive(Default, Clone, Copy)]
struct Size {
    bytes: u64,
    dirty: u64,
}

impl Size {
    fn of<'a>(infos: impl IntoIterator<Item = &'a SegmentInfo>) -> Self {
        let mut size = Self::default();
        infos.into_iter().for_each(|info| size.add(info));
        size
    }

    fn add(&mut self, info: &SegmentInfo) {
        self.bytes += info.end_bytes;
        self.dirty += if info.is_dirty() { info.end_bytes } else { 0 };
    }

    fn is_due(&self, policy: &CompactionPolicy) -> bool {
        let percent = u128::from(policy.dirty_percent_min);
        self.dirty > 0 && u128::from(self.dirty) * 100 >= percent * u128::from(self.bytes)
    }
}

impl GroupLog {
    /// The last entry of what is due to be compacted by `policy`, purged for Raft or not: of closed segments
    /// from the front of the log whose entries are all applied, and end before `limit`. Once it is purged,
    /// [`GroupLog::plan_compaction`] takes what ends with it.
    ///
    /// Where the open segment holds so much that it is worth it, it is closed; where segments wait for
    /// checkpoints before they may be rewritten, those are made, also where nothing else happens. Call it
    /// again then, some seconds later. Never waits for the disk.
    #[must_use]
    pub fn compaction_due(
        &self,
        policy: &CompactionPolicy,
        now_ms: i64,
        limit: impl Into<RetainLimit>,
    ) -> Option<LogId> {
        let (_, due) = self.due(policy, now_ms, limit.into(), |_| true)?;
        due.sources.last()?.last
    }

    /// The compaction that is due by `policy`, if any, as [`GroupLog::compaction_due`], of what is purged for
    /// Raft. At most one is under way for a group.
    #[must_use]
    pub fn plan_compaction(
        &self,
        policy: &CompactionPolicy,
        now_ms: i64,
        limit: impl Into<RetainLimit>,
    ) -> Option<Compaction> {
        // As far as the back has it: then the journal has it, too.
        let purged = self.back.lock().marks.purged;
        let is_purged = |info: &SegmentInfo| info.last <= purged;
        let (stored, due) = self.due(policy, now_ms, limit.into(), is_purged)?;
        if !self.compaction.begin() {
            return None;
        }
        let newest = Newest::new(self.shared.random.next(), policy.map_entries_max);
        Some(Compaction::new(Job {
            group: self.this(),
            generation: stored.generation,
            sources: due.sources,
            goal: due.goal,
            segment_bytes: stored.segment_bytes,
            newest,
            now_ms,
            policy: *policy,
        }))
    }

    /// What is due, as far as `may_be_rewritten` says yes. Has the open segment closed and checkpoints made
    /// where something waits for that.
    fn due(
        &self,
        policy: &CompactionPolicy,
        now_ms: i64,
        limit: RetainLimit,
        may_be_rewritten: impl Fn(&SegmentInfo) -> bool,
    ) -> Option<(Stored, Due)> {
        if self.compaction_status().is_running || self.shared.gave_up() {
            return None;
        }
        let stored = self.stored();
        let found = {
            let front = self.front.lock();
            let found = self.find(&front, &stored, policy, now_ms, limit)?;
            if found.is_rolling {
                self.push(front, Change::Roll, None);
            }
            found
        };
        if let Some(wanted) = found.wanted {
            self.shared.kept.want(wanted);
        }
        let mut sources = found.ready;
        let upto = sources.iter().position(|info| !may_be_rewritten(info));
        sources.truncate(upto.unwrap_or(sources.len()));
        let goal = match Size::of(&sources).is_due(policy) {
            true => Goal::Newest,
            false => {
                // Tombstones alone: what lies behind the last of them stays as it is.
                let last = sources.iter().rposition(|info| info.has_expired(now_ms))?;
                sources.truncate(last + 1);
                Goal::Expired
            }
        };
        let has_offsets = sources.first()?.base_offset < sources.last()?.end_offset;
        has_offsets.then_some((stored, Due { sources, goal }))
    }

    fn stored(&self) -> Stored {
        let back = self.back.lock();
        let segments = back.segments.iter().map(|slot| StoredSegment {
            info: slot.info,
            sealed_in: slot.sealed_in,
            first_append_ms: slot.first_append_ms,
        });
        Stored {
            segments: segments.collect(),
            generation: back.generation,
            segment_bytes: back.marks.options.segment_bytes_kept(),
        }
    }

    /// `None` where the log is about to be another one.
    fn find(
        &self,
        front: &Front,
        stored: &Stored,
        policy: &CompactionPolicy,
        now_ms: i64,
        limit: RetainLimit,
    ) -> Option<Found> {
        let is_other = front.deleted || front.generation != stored.generation;
        if is_other || front.quarantined.is_some() {
            return None;
        }
        let age = |ms: u64| now_ms.saturating_sub(i64::try_from(ms).unwrap_or(i64::MAX));
        let may_go = |info: &SegmentInfo, last: LogId| {
            front.is_written_and_applied(last.index)
                && info.end_offset <= limit.offset
                && last.index <= limit.last
                && info.max_append_ms <= age(policy.min_age_ms)
        };
        let mut found = Found::default();
        let mut all = Size::default();
        let mut may_all_go = true;
        for StoredSegment { info, sealed_in, first_append_ms } in &stored.segments {
            let Some(last) = info.last else { break };
            if last.index < front.marks.start_index {
                continue;
            }
            all.add(info);
            if !info.sealed {
                // Also while it is appended to, or a log in steady use would keep what fits a segment. To close
                // it takes nothing away, so nothing else is asked.
                let is_old = |ms| first_append_ms.is_some_and(|first| first <= age(ms));
                found.is_rolling = policy.roll_after_ms.is_some_and(is_old) && all.is_due(policy);
                break;
            }
            may_all_go = may_all_go && may_go(info, last);
            if !may_all_go {
                continue;
            }
            match sealed_in {
                Some(seq) if found.waiting.bytes == 0 && self.shared.kept.are_since(*seq) => {
                    found.ready.push(*info);
                }
                // Where no checkpoint names it yet, one is on its way.
                _ => {
                    found.waiting.add(info);
                    found.wanted = found.wanted.max(*sealed_in);
                }
            }
        }
        let mut sealed = Size::of(&found.ready);
        sealed.bytes += found.waiting.bytes;
        sealed.dirty += found.waiting.dirty;
        if found.waiting.dirty == 0 || !sealed.is_due(policy) {
            found.wanted = None;
        }
        Some(found)
    }
}

/// Which segments become one: neighbours, as many as together are no larger than a segment should be. A
/// group takes offsets, so that a batch can stand for its entries.
pub(super) fn next_group(
    sources: &[SegmentInfo],
    from: usize,
    segment_bytes: u64,
    segments_max: usize,
) -> usize {
    let has_offsets =
        |infos: &[SegmentInfo]| infos.iter().any(|info| info.base_offset < info.end_offset);
    let mut bytes = 0;
    for (at, info) in sources.iter().enumerate().skip(from) {
        let held = &sources[from..at];
        let is_full = bytes + info.end_bytes > segment_bytes || held.len() >= segments_max;
        // The last ones without offsets have nobody behind them to join.
        if is_full && has_offsets(held) && has_offsets(&sources[at..]) {
            return at;
        }
        bytes += info.end_bytes;
    }
    sources.len()
}

/// First offset that was not looked at yet.
pub(super) fn first_dirty(sources: &[SegmentInfo]) -> Option<Offset> {
    sources.iter().find(|info| info.is_dirty()).map(SegmentInfo::clean_to)
}
