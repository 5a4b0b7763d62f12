//! A compaction under way: so much at a time as its caller allows.

use std::sync::Arc;

use plimsoll_protocol::batch::EntryKind;
use plimsoll_protocol::ids::Offset;

use super::newest::Newest;
use super::output::check_space;
use super::plan::{first_dirty, next_group};
use super::rewrite::{Rewrite, Rules};
use super::source::Source;
use super::status::CompactionRun;
use super::{CompactError, CompactionPolicy};
use crate::entry::{Change, Swap};
use crate::group::GroupLog;
use crate::journal::record::swap_bytes_max;
use crate::segment::SegmentInfo;

/// Most segments that become one at once: what the smallest journal can name.
const GROUPED_SEGMENTS_MAX: usize = 1024;

/// What a compaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// The newest record of each key, and what goes with it.
    Newest,
    /// Tombstones whose time is over: no key is looked at, and only segments that have one are rewritten.
    Expired,
}

/// What a compaction begins with.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) group: Arc<GroupLog>,
    pub(super) generation: u64,
    pub(super) sources: Vec<SegmentInfo>,
    pub(super) goal: Goal,
    pub(super) segment_bytes: u64,
    pub(super) newest: Newest,
    pub(super) now_ms: i64,
    pub(super) policy: CompactionPolicy,
}

/// What one call of [`Compaction::step`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use = "it says whether there is more to do"]
pub struct CompactionStep {
    /// Bytes of batches that were read.
    pub read: u64,
    /// Bytes that were written.
    pub written: u64,
    /// There is nothing more to do. What was written is in the log, or is on its way into it.
    pub done: bool,
}

/// A compaction of one log. Call [`Compaction::step`] until it is done; dropped before, it leaves no file.
/// Appends, reads and retention go on meanwhile.
#[derive(Debug)]
pub struct Compaction {
    group: Arc<GroupLog>,
    /// The count of the front while its segments are those that were planned for, and those put in their place.
    generation: u64,
    sources: Vec<SegmentInfo>,
    segment_bytes: u64,
    map_entries_max: usize,
    rules: Rules,
    goal: Goal,
    /// The time of the last step.
    now_ms: i64,
    phase: Phase,
    run: CompactionRun,
}

#[derive(Debug)]
enum Phase {
    /// Reading what is dirty: the number of the segment, and the segment while it is open.
    Mapping(usize, Option<Box<Source>>),
    /// About to rewrite the segments from this one on.
    Between(usize),
    Rewriting(Box<Rewrite>, usize),
    Ended,
}

impl Compaction {
    pub(super) fn new(job: Job) -> Self {
        let Job { group, generation, sources, goal, segment_bytes, newest, now_ms, policy } = job;
        let end = sources.last().map_or(Offset(0), |info| info.end_offset);
        let (clean_to, phase) = match goal {
            Goal::Newest => (end, Phase::Mapping(0, None)),
            Goal::Expired => (first_dirty(&sources).unwrap_or(end), Phase::Between(0)),
        };
        let rules = Rules { newest, clean_to, now_ms, tombstone_ms: policy.tombstone_ms };
        let run = CompactionRun { at_ms: now_ms, ..CompactionRun::default() };
        let map_entries_max = policy.map_entries_max;
        Self {
            group,
            generation,
            sources,
            segment_bytes,
            map_entries_max,
            rules,
            goal,
            now_ms,
            phase,
            run,
        }
    }

    /// The log that is compacted.
    #[must_use]
    pub fn group(&self) -> &Arc<GroupLog> {
        &self.group
    }

    /// Goes on until about `bytes_max` bytes were read and written, at least one batch. Where a segment is
    /// finished it is synced, and takes the place of those whose records it holds. A run may wait and last for
    /// hours: the time that tombstones stay begins where their segment does, so `now_ms` is the time of this
    /// step. Blocks on the disk.
    ///
    /// # Errors
    /// See [`CompactError`]. It has ended then, and further calls do nothing.
    pub fn step(&mut self, bytes_max: u64, now_ms: i64) -> Result<CompactionStep, CompactError> {
        self.now_ms = now_ms;
        let mut step = CompactionStep::default();
        loop {
            let outcome = match self.group.shared.gave_up() {
                true => Err(CompactError::Stopped),
                false => self.advance(&mut step),
            };
            if let Err(error) = outcome {
                self.phase = Phase::Ended;
                if let CompactError::Damaged(damage) = &error {
                    self.group.set_quarantined(&damage.to_string());
                }
                return Err(error);
            }
            step.done = matches!(self.phase, Phase::Ended);
            if step.done || step.read + step.written >= bytes_max.max(1) {
                return Ok(step);
            }
        }
    }

    /// What the run came to so far.
    #[must_use]
    pub fn so_far(&self) -> CompactionRun {
        self.run
    }

    fn advance(&mut self, step: &mut CompactionStep) -> Result<(), CompactError> {
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Mapping(at, source) => self.phase = self.map(at, source, step)?,
            Phase::Between(at) => self.phase = self.begin_group(at)?,
            Phase::Rewriting(mut rewrite, next) => {
                let is_done = rewrite.step(&self.group, &self.rules, step)?;
                self.phase = if is_done {
                    self.put_in_place(*rewrite)?;
                    Phase::Between(next)
                } else {
                    Phase::Rewriting(rewrite, next)
                };
            }
            Phase::Ended => {}
        }
        Ok(())
    }

    /// Takes one batch into the map.
    fn map(
        &mut self,
        at: usize,
        source: Option<Box<Source>>,
        step: &mut CompactionStep,
    ) -> Result<Phase, CompactError> {
        if at == 0 && source.is_none() {
            // Before all that is read in vain without room for what is written first.
            let next = next_group(&self.sources, 0, self.segment_bytes, GROUPED_SEGMENTS_MAX);
            let needed = self.sources[..next].iter().map(|info| info.end_bytes).sum();
            check_space(&self.group.shared, needed)?;
        }
        let Some(info) = self.sources.get(at).copied() else { return Ok(Phase::Between(0)) };
        if !info.is_dirty() {
            return Ok(Phase::Mapping(at + 1, None));
        }
        let mut source = match source {
            Some(source) => source,
            None => Box::new(Source::open(&self.group, &info)?),
        };
        let Some(batch) = source.next()? else { return Ok(Phase::Mapping(at + 1, None)) };
        let header = &batch.header;
        step.read += u64::from(header.batch_length);
        if header.kind != EntryKind::Records || header.end_offset() <= info.clean_to() {
            return Ok(Phase::Mapping(at, Some(source)));
        }
        let unreadable = |error| CompactError::from(source.unreadable(&batch, error));
        let mut records = batch.records(header.records_bytes as usize).map_err(unreadable)?;
        while let Some(record) = records.next_view() {
            let (offset, record) = record.map_err(unreadable)?;
            let is_noted = record.key.is_none_or(|key| self.rules.newest.note(key, offset));
            if !is_noted {
                // What is in the map of this batch does no harm; the next run begins with the batch.
                return self.stop_mapping(at, header.base_offset.max(info.clean_to()));
            }
        }
        Ok(Phase::Mapping(at, Some(source)))
    }

    /// The map is full: what lies from `clean_to` on is for the next run.
    fn stop_mapping(&mut self, at: usize, clean_to: Offset) -> Result<Phase, CompactError> {
        if first_dirty(&self.sources).is_none_or(|first| clean_to <= first) {
            return Err(CompactError::MapFull { limit: self.map_entries_max });
        }
        let is_begun = self.sources[at].base_offset < clean_to;
        self.sources.truncate(if is_begun { at + 1 } else { at });
        self.rules.clean_to = clean_to;
        Ok(Phase::Between(0))
    }

    /// Begins with the next group of segments that has anything to lose.
    fn begin_group(&mut self, from: usize) -> Result<Phase, CompactError> {
        if from >= self.sources.len() {
            return Ok(Phase::Ended);
        }
        // One time for all of a group, and never an earlier one than before.
        self.rules.now_ms = self.rules.now_ms.max(self.now_ms);
        let most = GROUPED_SEGMENTS_MAX;
        debug_assert!(swap_bytes_max(most) <= 16 * 1024, "the smallest journal takes it");
        let next = next_group(&self.sources, from, self.segment_bytes, most);
        let group = &self.sources[from..next];
        let has_expired = |info: &SegmentInfo| info.has_expired(self.rules.now_ms);
        let may_lose = match self.goal {
            Goal::Newest => {
                !self.rules.newest.is_empty()
                    || group.iter().any(|info| info.is_dirty() || has_expired(info))
            }
            Goal::Expired => group.iter().any(has_expired),
        };
        if !may_lose {
            return Ok(Phase::Between(next));
        }
        let rewrite = Rewrite::begin(&self.group, group, self.rules.now_ms)?;
        Ok(Phase::Rewriting(Box::new(rewrite), next))
    }

    /// Puts the segment that was made in the place of its sources, where they are still the log.
    fn put_in_place(&mut self, mut rewrite: Rewrite) -> Result<(), CompactError> {
        let segment = *rewrite.output().info();
        let replaced = rewrite.sources.iter().map(|info| info.id).collect();
        let first_last = rewrite.sources[0].last.expect("a planned segment has entries");
        let mut front = self.group.front.lock();
        let is_other = front.deleted
            || front.quarantined.is_some()
            || front.generation != self.generation
            || front.marks.start_index > first_last.index;
        if is_other {
            return Err(CompactError::Overtaken);
        }
        front.generation += 1;
        self.generation += 1;
        // From here on the journal may name it.
        rewrite.output().keep();
        let change = Change::Compacted(Arc::new(Swap { replaced, segment }));
        self.group.push(front, change, None);
        self.run.bytes_before += rewrite.sources.iter().map(|info| info.end_bytes).sum::<u64>();
        self.run.bytes_after += segment.end_bytes;
        self.run.records_removed += rewrite.removed;
        self.run.records_kept += rewrite.kept;
        Ok(())
    }
}

impl Drop for Compaction {
    fn drop(&mut self) {
        self.phase = Phase::Ended;
        self.group.compaction.end(self.run);
    }
}
