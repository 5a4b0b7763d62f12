//! What callers see of a group at once: the marks as of the last call, and the entries that are not
//! yet in a segment or not yet applied.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use plimsoll_protocol::ids::{LogId, LogIndex, Offset};

use super::back::Back;
use super::error::Quarantined;
use crate::config::Durability;
use crate::entry::{Change, Cut, Install, LogEntry, Marks, Reset};
use crate::parking::Mutex;

/// Guarded by one mutex that is never held across I/O.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) marks: Marks,
    /// Entries up to `marks.last`, without gaps. Invariant: holds every entry from `written` on.
    cache: VecDeque<LogEntry>,
    cached_bytes: u64,
    /// Entries below this index are in segments.
    written: LogIndex,
    /// Entries below this index were applied.
    applied: LogIndex,
    /// Entries of a durable group below this index are on stable storage.
    journaled: LogIndex,
    pub(crate) state: StateSlot,
    /// The state before one that is folded from entries that are not on stable storage yet.
    state_before: StateSlot,
    pub(crate) quarantined: Option<Quarantined>,
    pub(crate) deleted: bool,
    /// The log that was installed, for readers, while the back still holds the one before.
    pub(crate) installed: Option<Arc<Mutex<Back>>>,
    /// Counts the installations.
    pub(crate) installs: u64,
    /// Counts the changes that put other segments in the place of those that were there: installations,
    /// resets, compactions, the deletion. Where the back has counted as many, its segments are those of this
    /// log.
    pub(crate) generation: u64,
    /// The states before installations that the newest checkpoint may not hold yet, each with the count that
    /// it belongs to: a log and the state of another one must never meet in a checkpoint.
    pub(crate) states_before: Vec<(u64, StateSlot)>,
}

/// A group's folded state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StateSlot {
    None,
    /// In memory: small, or not yet in a checkpoint.
    Held(LogId, Bytes),
    /// In the newest checkpoint.
    Stored(LogId),
}

impl StateSlot {
    pub(crate) fn applied(&self) -> Option<LogId> {
        match self {
            Self::None => None,
            Self::Held(id, _) | Self::Stored(id) => Some(*id),
        }
    }

    fn folded_upto(&self) -> LogIndex {
        LogIndex(self.applied().map_or(0, |id| id.index.0 + 1))
    }
}

impl Front {
    pub(crate) fn new(marks: Marks, state: StateSlot) -> Self {
        // What is folded into the state was applied, whether the group is woken in this life or not. The
        // state may be ahead of a log that lost entries; what comes in their place was not applied.
        let folded = state.folded_upto();
        let state_before = match folded > marks.next_index() {
            true => state.clone(),
            false => StateSlot::None,
        };
        Self {
            written: marks.next_index(),
            applied: folded.min(marks.next_index()),
            marks,
            cache: VecDeque::new(),
            cached_bytes: 0,
            journaled: marks.next_index(),
            state,
            state_before,
            quarantined: None,
            deleted: false,
            installed: None,
            installs: 0,
            generation: 0,
            states_before: Vec::new(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), Quarantined> {
        self.quarantined.clone().map_or(Ok(()), Err)
    }

    /// Index of the first cached entry; the next index where nothing is cached.
    pub(crate) fn cached_from(&self) -> LogIndex {
        self.cache.front().map_or(self.marks.next_index(), |entry| entry.header.index)
    }

    /// Base offset of the first cached entry; the end offset where nothing is cached.
    pub(crate) fn cached_from_offset(&self) -> Offset {
        self.cache.front().map_or(self.marks.end_offset, |entry| entry.header.base_offset)
    }

    /// The cached entry with this index.
    pub(crate) fn cached(&self, index: LogIndex) -> Option<&LogEntry> {
        let at = index.0.checked_sub(self.cached_from().0)?;
        self.cache.get(usize::try_from(at).ok()?)
    }

    /// The cached entries from this index on, which must not lie before the cache.
    pub(crate) fn cached_after(&self, index: LogIndex) -> impl Iterator<Item = &LogEntry> {
        let at = (index.0 - self.cached_from().0) as usize;
        self.cache.range(at.min(self.cache.len())..)
    }

    /// Position in the cache of the entry that holds this offset, if the cache reaches back so far.
    pub(crate) fn cached_at_offset(
        &self,
        offset: Offset,
    ) -> Option<impl Iterator<Item = &LogEntry>> {
        let first = self.cache.front()?;
        if offset < first.header.base_offset {
            return None;
        }
        let at = self.cache.partition_point(|entry| entry.header.end_offset() <= offset);
        Some(self.cache.range(at..))
    }

    /// Takes in entries that follow the last one; their base offsets are filled.
    pub(crate) fn append(&mut self, entries: &[LogEntry]) {
        for entry in entries {
            self.marks.appended(&entry.header);
            self.cached_bytes += entry.bytes();
            self.cache.push_back(entry.clone());
        }
    }

    /// Begins a new branch without taking anything away.
    pub(crate) fn cut_at_end(&mut self) -> Cut {
        let marks = &self.marks;
        let cut = Cut { last: marks.last, end_offset: marks.end_offset, branch: marks.branch + 1 };
        self.cut(&cut);
        cut
    }

    pub(crate) fn cut(&mut self, cut: &Cut) {
        self.marks.apply(&Change::Cut(*cut));
        let next = cut.end_index();
        while self.cache.back().is_some_and(|entry| entry.header.index >= next) {
            self.cached_bytes -= self.cache.pop_back().map_or(0, |entry| entry.bytes());
        }
        self.written = self.written.min(next);
        self.applied = self.applied.min(next);
        self.journaled = self.journaled.min(next);
        self.forget_allocation();
    }

    pub(crate) fn reset(&mut self, reset: &Reset) {
        self.generation += 1;
        self.marks.apply(&Change::Reset(*reset));
        self.cache = VecDeque::new();
        self.cached_bytes = 0;
        self.written = LogIndex(reset.last.index.0 + 1);
        self.applied = self.written;
        self.journaled = LogIndex(0);
    }

    /// The log is another one from now on, and so is the state. What was damaged is gone.
    pub(crate) fn install(&mut self, install: &Install, state: StateSlot, back: Back) {
        let before = self.kept_state();
        self.states_before.push((self.installs, before));
        self.state = state;
        self.state_before = StateSlot::None;
        self.journaled = LogIndex(0);
        self.installs += 1;
        self.generation += 1;
        self.marks.apply_install(install);
        self.cache = VecDeque::new();
        self.cached_bytes = 0;
        self.written = self.marks.next_index();
        self.applied = self.folded_upto();
        self.quarantined = None;
        self.installed = Some(Arc::new(Mutex::new(back)));
    }

    /// Index behind the entries that are folded into the state.
    fn folded_upto(&self) -> LogIndex {
        self.state.folded_upto().min(self.marks.next_index())
    }

    /// The group was deleted. Its log is an empty one from now on, which begins where it ended: that
    /// is what readers find, whether the segments are gone yet or not.
    pub(crate) fn delete(&mut self) {
        self.generation += 1;
        self.deleted = true;
        self.marks.start_offset = self.marks.end_offset;
        self.marks.start_index = self.marks.next_index();
        self.cache = VecDeque::new();
        self.cached_bytes = 0;
    }

    /// Entries below `next` of this branch are in segments.
    pub(crate) fn written(&mut self, branch: u64, next: LogIndex, cache_bytes_max: u64) {
        if branch == self.marks.branch {
            self.written = self.written.max(next);
            self.shrink(cache_bytes_max);
        }
    }

    /// Everything up to `next` of this branch is on stable storage.
    pub(crate) fn journaled(&mut self, branch: u64, next: LogIndex) {
        if branch == self.marks.branch {
            self.journaled = self.journaled.max(next);
        }
    }

    /// Whether a state that is folded up to `applied` can outlive a crash together with its log. Without
    /// durability every one may: the log goes on behind it.
    pub(crate) fn may_keep(&self, applied: LogId) -> bool {
        self.marks.options.durability == Durability::Memory || applied.index < self.journaled
    }

    /// Stores a state.
    pub(crate) fn put_state(&mut self, applied: LogId, state: Bytes) {
        self.state_before = match self.may_keep(applied) {
            true => StateSlot::None,
            false => self.kept_state(),
        };
        self.state = StateSlot::Held(applied, state);
    }

    /// The state for a checkpoint: the last one that is not ahead of what is on stable storage.
    pub(crate) fn kept_state(&self) -> StateSlot {
        match self.state.applied() {
            Some(applied) if !self.may_keep(applied) => self.state_before.clone(),
            _ => self.state.clone(),
        }
    }

    /// Entries up to `index` were applied.
    pub(crate) fn applied(&mut self, index: LogIndex, cache_bytes_max: u64) {
        self.applied = self.applied.max(LogIndex(index.0 + 1));
        self.shrink(cache_bytes_max);
    }

    /// Whether the entry with this index is in a segment and was applied.
    pub(crate) fn is_written_and_applied(&self, index: LogIndex) -> bool {
        index < self.written && index < self.applied
    }

    fn shrink(&mut self, cache_bytes_max: u64) {
        while let Some(first) = self.cache.front() {
            let index = first.header.index;
            let unneeded = index < self.applied || self.cached_bytes > cache_bytes_max;
            if index >= self.written || !unneeded {
                break;
            }
            self.cached_bytes -= first.bytes();
            self.cache.pop_front();
        }
        self.forget_allocation();
    }

    /// A group at rest keeps no buffer.
    fn forget_allocation(&mut self) {
        if self.cache.is_empty() {
            self.cache = VecDeque::new();
        }
    }

    pub(crate) fn cached_bytes(&self) -> u64 {
        self.cached_bytes
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_protocol::batch::EntryKind;
    use plimsoll_protocol::ids::Term;

    use super::*;
    use crate::config::GroupOptions;

    fn entry(index: u64) -> LogEntry {
        let id = LogId::new(Term(1), LogIndex(index));
        LogEntry::new(EntryKind::Blank, id, Bytes::from_static(b"body"))
    }

    fn front(entries: u64) -> Front {
        let mut front = Front::new(Marks::new(GroupOptions::default()), StateSlot::None);
        front.append(&(0..entries).map(entry).collect::<Vec<_>>());
        front
    }

    #[test]
    fn an_entry_leaves_once_it_is_written_and_applied() {
        let mut front = front(4);
        front.written(0, LogIndex(3), u64::MAX);
        assert_eq!(front.cached_from(), LogIndex(0));
        front.applied(LogIndex(0), u64::MAX);
        assert_eq!(front.cached_from(), LogIndex(1));
        front.applied(LogIndex(3), u64::MAX);
        assert_eq!(front.cached_from(), LogIndex(3));
        front.written(0, LogIndex(4), u64::MAX);
        assert_eq!(front.cached_from(), LogIndex(4));
        assert_eq!(front.cached_bytes(), 0);
    }

    #[test]
    fn a_full_cache_lets_written_entries_go_before_they_are_applied() {
        let mut front = front(4);
        front.written(0, LogIndex(3), 150);
        assert_eq!(front.cached_from(), LogIndex(3));
    }

    #[test]
    fn news_of_the_log_before_a_truncation_is_not_taken_for_the_new_one() {
        let mut front = front(4);
        let last = Some(LogId::new(Term(1), LogIndex(1)));
        let cut = Cut { last, end_offset: Offset(0), branch: 1 };
        front.cut(&cut);
        front.append(&[entry(2), entry(3)]);
        front.applied(LogIndex(3), u64::MAX);
        front.written(0, LogIndex(4), u64::MAX);
        assert_eq!(front.cached_from(), LogIndex(0), "the old entries 2 and 3 were meant");
        front.written(1, LogIndex(4), u64::MAX);
        assert_eq!(front.cached_from(), LogIndex(4));
    }

    #[test]
    fn state_is_kept_once_its_entries_are_on_stable_storage() {
        let mut front = front(4);
        let id = |index| LogId::new(Term(1), LogIndex(index));
        let state = |index| StateSlot::Held(id(index), Bytes::from_static(b"state"));
        front.put_state(id(1), Bytes::from_static(b"state"));
        assert_eq!(front.kept_state(), StateSlot::None);
        front.journaled(0, LogIndex(2));
        assert_eq!(front.kept_state(), state(1));
        front.put_state(id(2), Bytes::from_static(b"state"));
        front.put_state(id(3), Bytes::from_static(b"state"));
        assert_eq!(front.kept_state(), state(1), "the last one that its log can carry");
        front.journaled(0, LogIndex(4));
        assert_eq!(front.kept_state(), state(3));
        front.cut_at_end();
        front.append(&[entry(4)]);
        front.journaled(0, LogIndex(5));
        front.put_state(id(4), Bytes::from_static(b"state"));
        assert_eq!(front.kept_state(), state(3), "another branch was journaled");
    }

    #[test]
    fn state_without_durability_is_kept_at_once() {
        let mut front = front(4);
        front.marks.options.durability = Durability::Memory;
        let id = LogId::new(Term(1), LogIndex(3));
        front.put_state(id, Bytes::from_static(b"state"));
        assert_eq!(front.kept_state(), StateSlot::Held(id, Bytes::from_static(b"state")));
    }

    #[test]
    fn entries_are_found_by_index_and_offset() {
        let front = front(3);
        assert_eq!(front.cached(LogIndex(2)).unwrap().header.index, LogIndex(2));
        assert!(front.cached(LogIndex(3)).is_none());
        assert_eq!(front.cached_after(LogIndex(1)).count(), 2);
        assert_eq!(front.cached_at_offset(Offset(0)).unwrap().count(), 0);
    }
}
