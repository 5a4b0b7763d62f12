//! The log of one group: what Raft and the readers of a partition call.
//!
//! A [`GroupLog`] has two halves. The *front* changes at once with each call and answers what was
//! asked last; the *back* follows behind the journal and holds what is in segments. A call changes
//! the front and pushes the same change into the store's queue under the front's lock, so that both
//! halves see all changes in the same order.
//!
//! Order of locks: who is told of a quarantine, front, then a log that is being installed, then the store's queue. Front and back are
//! never held together.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, Weak};

use plimsoll_protocol::batch::{BATCH_HEADER_BYTES, BatchHeader};
use plimsoll_protocol::ids::{GroupId, LogId, LogIndex, Offset, Term};

use crate::compaction::status::CompactionRecord;
use crate::config::{Durability, GroupOptions};
use crate::entry::{Change, Cut, Install, LogEntry, Marks, Reset, Vote};
use crate::fatal::{Completion, FatalError};
use crate::parking::Mutex;
use crate::segment::SegmentInfo;
use crate::segment::scan::check_header;
use crate::store::queue::Item;
use crate::store::shared::Shared;

pub(crate) mod back;
pub(crate) mod cursor;
pub(crate) mod error;
pub(crate) mod front;
pub(crate) mod retention;
pub(crate) mod state;

use back::Back;
use error::{AppendError, Quarantined, ReadError, TruncateError};
use front::{Front, StateSlot};
use state::StateSource;

/// Where a group's log begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBounds {
    /// Entries up to here are no longer Raft's.
    pub purged: Option<LogId>,
    /// The last entry; where all were purged, the last purged one.
    pub last: Option<LogId>,
    /// First offset that can be read.
    pub log_start_offset: Offset,
    /// Offset of the next record.
    pub log_end_offset: Offset,
    /// Bytes in segments.
    pub bytes: u64,
    /// Segments.
    pub segments: u32,
}

/// Who is told when a group is quarantined.
#[derive(Default)]
struct OnQuarantine(Option<Box<dyn Fn() + Send + Sync>>);

impl OnQuarantine {
    fn tell(&self) {
        if let Some(tell) = &self.0 {
            tell();
        }
    }
}

impl fmt::Debug for OnQuarantine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnQuarantine").field("is_set", &self.0.is_some()).finish()
    }
}

/// The log of one group. All calls may come from any thread.
#[derive(Debug)]
pub struct GroupLog {
    id: GroupId,
    pub(crate) shared: Arc<Shared>,
    me: Weak<GroupLog>,
    pub(crate) front: Mutex<Front>,
    pub(crate) back: Mutex<Back>,
    state_source: Mutex<Option<Weak<dyn StateSource>>>,
    on_quarantine: Mutex<OnQuarantine>,
    /// Whether it is in the list of groups that the next checkpoint must write anew.
    pub(crate) listed: AtomicBool,
    /// Size of the back, for those who must not wait for its lock.
    stored_bytes: AtomicU64,
    stored_segments: AtomicU32,
    pub(crate) compaction: CompactionRecord,
}

impl GroupLog {
    pub(crate) fn new(
        id: GroupId,
        shared: Arc<Shared>,
        marks: Marks,
        back: Back,
        state: StateSlot,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            id,
            shared,
            me: me.clone(),
            front: Mutex::new(Front::new(marks, state)),
            back: Mutex::new(back),
            state_source: Mutex::new(None),
            on_quarantine: Mutex::default(),
            listed: AtomicBool::new(false),
            stored_bytes: AtomicU64::new(0),
            stored_segments: AtomicU32::new(0),
            compaction: CompactionRecord::default(),
        })
    }

    /// Lets the front begin where the back ended up after recovery.
    pub(crate) fn restart(&self) {
        self.note_size();
        let (marks, installs, generation) = {
            let back = self.back.lock();
            (back.marks, back.installs, back.generation)
        };
        let mut front = self.front.lock();
        let quarantined = front.quarantined.take();
        let state = std::mem::replace(&mut front.state, StateSlot::None);
        *front = Front::new(marks, state);
        front.installs = installs;
        front.generation = generation;
        front.quarantined = quarantined;
    }

    /// Begins a new branch where the log ends: what an opening did not adopt is then out for good,
    /// whatever becomes readable again later.
    pub(crate) fn begin_branch(&self) {
        let mut front = self.front.lock();
        let cut = front.cut_at_end();
        self.push(front, Change::Cut(cut), None);
    }

    /// Number of the group.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// What it was created with, or told since.
    #[must_use]
    pub fn options(&self) -> GroupOptions {
        self.front.lock().marks.options
    }

    /// Appends entries that follow the last one. Fills their base offsets. They can be read when this
    /// returns; `done` is called once they are flushed: in the journal, or in the segment's page
    /// cache where the group's durability is [`Memory`](crate::Durability::Memory). Never blocks on
    /// the disk.
    ///
    /// # Errors
    /// When an entry does not follow, cannot be stored at all, or the group is quarantined or
    /// deleted. Nothing is changed then, and `done` is dropped.
    pub fn append(&self, mut entries: Vec<LogEntry>, done: Completion) -> Result<(), AppendError> {
        let limit = self.shared.entry_bytes_max;
        let mut front = self.front.lock();
        front.check()?;
        if front.deleted {
            return Err(AppendError::Deleted);
        }
        let mut expected = front.marks.next_index();
        let mut offset = front.marks.end_offset;
        for entry in &mut entries {
            let (index, stored) = (entry.header.index, entry.header.batch_length);
            if index != expected {
                return Err(AppendError::NotNext { found: index, expected });
            }
            let actual = (BATCH_HEADER_BYTES + entry.body.len()) as u64;
            if u64::from(stored) != actual {
                return Err(AppendError::Length { index, stored, actual });
            }
            if actual > limit {
                return Err(AppendError::TooLarge { index, bytes: actual, limit });
            }
            entry.header.base_offset = offset;
            #[cfg(feature = "planted")]
            if index.0 % 50 == 49
                && entry.header.record_count > 0
                && crate::planted::is_planted(crate::planted::Bug::GapInOffsets)
            {
                entry.header.base_offset.0 += 1;
            }
            offset = entry.header.end_offset();
            expected = LogIndex(index.0 + 1);
        }
        front.append(&entries);
        #[cfg(feature = "planted")]
        let done = crate::planted::done_already(crate::planted::Bug::AcknowledgeUnwritten, done);
        self.push(front, Change::Entries(entries), Some(done));
        Ok(())
    }

    /// Puts a change that the front already shows into the store's queue.
    pub(crate) fn push(
        &self,
        front: MutexGuard<'_, Front>,
        change: Change,
        done: Option<Completion>,
    ) {
        let durability = front.marks.options.durability;
        self.push_as(durability, front, change, done);
    }

    fn push_as(
        &self,
        durability: Durability,
        front: MutexGuard<'_, Front>,
        change: Change,
        done: Option<Completion>,
    ) {
        let refused = self.shared.queue.push(self.item(durability, &front, change, done));
        drop(front);
        if let Some(done) = refused {
            done(Err(self.shared.end_of_service()));
        }
    }

    fn item(
        &self,
        durability: Durability,
        front: &Front,
        change: Change,
        done: Option<Completion>,
    ) -> Item {
        let group = self.this();
        Item { group, durability, branch: front.marks.branch, change, done }
    }

    /// Changes the options. A change of durability begins a new branch, so that recovery can tell
    /// the entries that only segments hold from those that the journal holds too.
    pub(crate) fn set_options(&self, options: GroupOptions) {
        let mut front = self.front.lock();
        let marks = front.marks;
        if front.deleted || marks.options == options {
            return;
        }
        // The change itself still belongs to the old durability.
        let durability = marks.options.durability;
        if options.durability != durability {
            let cut = front.cut_at_end();
            let item = self.item(durability, &front, Change::Cut(cut), None);
            // Nobody waits for it; a store that was closed takes the options as little.
            drop(self.shared.queue.push(item));
        }
        let change = Change::Options(options);
        front.marks.apply(&change);
        drop(self.shared.queue.push(self.item(durability, &front, change, None)));
        // Marks of a memory group are not journaled; those of a durable one are, this one too.
        if options.durability == Durability::Durable
            && durability == Durability::Memory
            && let Some(committed) = front.marks.committed
        {
            let change = Change::Committed(committed);
            self.shared.queue.push_lazily(self.item(options.durability, &front, change, None));
        }
    }

    /// Applies a small change to the front and queues it. After the deletion of the group nothing is
    /// queued: the journal would speak of a group that does not exist, and could not be replayed.
    pub(crate) fn change(&self, change: Change, done: Option<Completion>) {
        let mut front = self.front.lock();
        if front.deleted {
            drop(front);
            return refuse(done);
        }
        let durability = front.marks.options.durability;
        front.marks.apply(&change);
        self.push_as(durability, front, change, done);
    }

    /// Stores a vote. `done` is called when the vote, and everything that any group appended before
    /// this call, is durable.
    pub fn save_vote(&self, vote: Vote, done: Completion) {
        #[cfg(feature = "planted")]
        if crate::planted::is_planted(crate::planted::Bug::ForgetVote) {
            self.front.lock().marks.apply(&Change::Vote(vote));
            return done(Ok(()));
        }
        self.change(Change::Vote(vote), Some(done));
    }

    /// The vote stored last.
    #[must_use]
    pub fn vote(&self) -> Option<Vote> {
        self.front.lock().marks.vote
    }

    /// Notes how far Raft has committed; of a durable group it is journaled with the next write.
    pub fn save_committed(&self, id: LogId) {
        let mut front = self.front.lock();
        if !front.deleted && front.marks.committed != Some(id) {
            front.marks.committed = Some(id);
            let durability = front.marks.options.durability;
            let item = self.item(durability, &front, Change::Committed(id), None);
            self.shared.queue.push_lazily(item);
        }
    }

    /// How far Raft has committed, as noted last.
    #[must_use]
    pub fn committed(&self) -> Option<LogId> {
        self.front.lock().marks.committed
    }

    /// Takes all entries after `last_kept` away, all entries at all where it is `None`. They never
    /// come back, also not after a crash. May block where the kept entry is no longer cached.
    ///
    /// # Errors
    /// When the entry to be kept was purged or cannot be read. Nothing is changed then, and `done` is
    /// dropped.
    pub fn truncate_after(
        &self,
        last_kept: Option<LogIndex>,
        done: Completion,
    ) -> Result<(), TruncateError> {
        let kept = match last_kept {
            None => None,
            Some(index) => self.end_of(index)?,
        };
        let mut front = self.front.lock();
        if front.deleted {
            return Err(TruncateError::Deleted);
        }
        let marks = front.marks;
        if let Some(purged) = marks.purged
            && last_kept.is_none_or(|kept| kept < purged.index)
        {
            return Err(TruncateError::Purged { last_kept, purged: purged.index });
        }
        let next = last_kept.map_or(LogIndex(0), |kept| LogIndex(kept.0 + 1));
        if next >= marks.next_index() {
            // Nothing goes; the completion still takes its turn.
            self.push(front, Change::Entries(Vec::new()), Some(done));
            return Ok(());
        }
        let (last, end_offset) = match kept {
            Some((id, end_offset)) => (Some(id), end_offset),
            None => (None, Offset(0)),
        };
        let cut = Cut { last, end_offset, branch: marks.branch + 1 };
        front.cut(&cut);
        self.push(front, Change::Cut(cut), Some(done));
        Ok(())
    }

    /// Identity of an entry and the offset after it; `None` past the end.
    fn end_of(&self, index: LogIndex) -> Result<Option<(LogId, Offset)>, ReadError> {
        let marks = {
            let front = self.front.lock();
            if index >= front.marks.next_index() {
                return Ok(None);
            }
            if let Some(entry) = front.cached(index) {
                return Ok(Some((entry.id(), entry.header.end_offset())));
            }
            front.marks
        };
        if let Some(last) = marks.last.filter(|last| last.index == index) {
            return Ok(Some((last, marks.end_offset)));
        }
        if index < marks.start_index {
            return match marks.purged {
                Some(purged) if purged.index == index => Ok(Some((purged, marks.start_offset))),
                _ => Err(ReadError::Purged { index, first: marks.start_index }),
            };
        }
        if let Some(end) = self.end_of_segment(index) {
            return Ok(Some(end));
        }
        let header = self.stored_header(index)?;
        Ok(Some((header.log_id(), header.end_offset())))
    }

    /// Identity of an entry that is the last one of its segment, and the offset after it: known also where
    /// compaction took the entry away.
    fn end_of_segment(&self, index: LogIndex) -> Option<(LogId, Offset)> {
        let back = self.readable();
        let back = back.lock();
        let info = &back.segments[back.slot_of_index(index)?].info;
        info.last.filter(|last| last.index == index).map(|last| (last, info.end_offset))
    }

    /// The header of an entry in a segment. Blocks.
    fn stored_header(&self, index: LogIndex) -> Result<BatchHeader, ReadError> {
        let (segment, info) = {
            let back = self.readable();
            let mut back = back.lock();
            let first = back.marks.start_index;
            let at = back.slot_of_index(index).ok_or(ReadError::Purged { index, first })?;
            let info = back.segments[at].info;
            of_single_entries(&info, index)?;
            (back.open(&self.shared, self.id, at), info)
        };
        let interval = self.shared.config.index_interval_bytes;
        let found = segment
            .and_then(|segment| segment.find_index(index, info.end_bytes, interval))
            .map_err(|error| self.failed(error.into()))?;
        Ok(found.1)
    }

    pub(crate) fn this(&self) -> Arc<Self> {
        self.me.upgrade().expect("a method of it is running")
    }

    /// How often the end of the log was taken away: by a cut, or the whole of it when it was dropped or
    /// replaced. Survives both, and restarts; 0 where it never was. In groups without durability it also grows
    /// with each start that follows a power failure.
    #[must_use]
    pub fn branch(&self) -> u64 {
        self.front.lock().marks.branch
    }

    /// The back, as readers see it: a log that was installed is there at once.
    pub(crate) fn readable(&self) -> ReadableBack<'_> {
        match self.front.lock().installed.clone() {
            Some(installed) => ReadableBack::Installed(installed),
            None => ReadableBack::Own(&self.back),
        }
    }

    /// Replaces the log and the state. The segments and the state's file must be on stable storage.
    pub(crate) fn install(&self, mut install: Install, state: StateSlot, done: Completion) {
        let mut front = self.front.lock();
        if front.deleted {
            drop(front);
            return refuse(Some(done));
        }
        install.branch = front.marks.branch + 1;
        // Of several that are on their way the numbers go on, too.
        let before = front.installed.as_ref().map(|installed| installed.lock().next_segment);
        install.next_segment = install.next_segment.max(before.unwrap_or_default());
        let install = Arc::new(install);
        let mut marks = front.marks;
        marks.apply_install(&install);
        let segments = install.segments.iter().copied();
        let back = Back::new(marks, segments, install.next_segment);
        front.install(&install, state, back);
        self.push(front, Change::Install(install), Some(done));
    }

    /// The log and the state go; the vote and the options stay. Nobody is asked for a state any more.
    pub fn drop_log(&self, done: Completion) {
        *self.state_source.lock() = None;
        self.install(Install::default(), StateSlot::None, done);
    }

    /// Quarantines the group where an error shows damage.
    pub(crate) fn failed(&self, error: ReadError) -> ReadError {
        if let ReadError::Damaged(damage) = &error {
            self.set_quarantined(&damage.to_string());
        }
        error
    }

    /// Raft no longer needs the entries up to `upto`. Readers of records still see them, until
    /// retention takes them. An id past the last entry empties the log, as [`GroupLog::reset_to`]
    /// with the offset that comes next.
    pub fn purge(&self, upto: LogId, done: Completion) {
        let mut front = self.front.lock();
        if front.deleted {
            drop(front);
            return refuse(Some(done));
        }
        if upto.index < front.marks.next_index() {
            let change = Change::Purge(upto);
            front.marks.apply(&change);
            self.push(front, change, Some(done));
        } else {
            let beyond = front.marks.end_offset;
            self.reset(front, upto, beyond, done);
        }
    }

    /// Empties the log; it goes on after `last`, whose records end at `offset`. For a state that is
    /// ahead of the log: an installed snapshot, or a power failure that took the unwritten end of a
    /// [`Memory`](crate::Durability::Memory) group.
    pub fn reset_to(&self, last: LogId, offset: Offset, done: Completion) {
        let front = self.front.lock();
        if front.deleted {
            drop(front);
            return refuse(Some(done));
        }
        self.reset(front, last, offset, done);
    }

    fn reset(
        &self,
        mut front: MutexGuard<'_, Front>,
        last: LogId,
        offset: Offset,
        done: Completion,
    ) {
        let reset = Reset { last, offset, branch: front.marks.branch + 1 };
        front.reset(&reset);
        self.push(front, Change::Reset(reset), Some(done));
    }

    /// Where the log begins and ends. Never waits for the disk.
    #[must_use]
    pub fn bounds(&self) -> LogBounds {
        let marks = self.front.lock().marks;
        let bytes = self.stored_bytes.load(Ordering::Relaxed);
        let segments = self.stored_segments.load(Ordering::Relaxed);
        LogBounds {
            purged: marks.purged,
            last: marks.last,
            log_start_offset: marks.start_offset,
            log_end_offset: marks.end_offset,
            bytes,
            segments,
        }
    }

    /// Term of an entry, if it is known. May block where the entry is no longer cached.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        let known = |id: Option<LogId>| id.filter(|id| id.index == index).map(|id| id.term);
        let marks = {
            let front = self.front.lock();
            if let Some(entry) = front.cached(index) {
                return Some(entry.header.term);
            }
            front.marks
        };
        known(marks.last).or_else(|| known(marks.purged)).or_else(|| {
            let there = index >= marks.start_index && index < marks.next_index();
            let end = there.then(|| self.end_of_segment(index)).flatten();
            match end {
                Some((last, _)) => Some(last.term),
                None if there => self.stored_header(index).ok().map(|header| header.term),
                None => None,
            }
        })
    }

    /// Entries with the indexes of `range`, in order, as many as fit `max_bytes` but at least one
    /// where there is one. The part of the range past the end of the log is left out. Blocks where
    /// entries are no longer cached.
    ///
    /// # Errors
    /// When the first entry was purged, or the disk fails, or shows damage.
    pub fn read_entries(
        &self,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Result<Vec<LogEntry>, ReadError> {
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut next = range.start;
        loop {
            let stop = {
                let front = self.front.lock();
                front.check()?;
                let stop = range.end.min(front.marks.next_index().0);
                if next >= stop {
                    return Ok(found);
                }
                let first = front.marks.start_index.max(
                    front.marks.purged.map_or(LogIndex(0), |purged| LogIndex(purged.index.0 + 1)),
                );
                if next < first.0 {
                    return Err(ReadError::Purged { index: LogIndex(next), first });
                }
                let cached_from = front.cached_from().0;
                if next >= cached_from {
                    for entry in front.cached_after(LogIndex(next)) {
                        let full = bytes + entry.bytes() as usize > max_bytes;
                        if entry.header.index.0 >= stop || full && !found.is_empty() {
                            break;
                        }
                        bytes += entry.bytes() as usize;
                        found.push(entry.clone());
                    }
                    return Ok(found);
                }
                stop.min(cached_from)
            };
            let before = found.len();
            let full = self
                .read_stored(LogIndex(next)..LogIndex(stop), max_bytes, &mut bytes, &mut found)
                .map_err(|error| self.failed(error))?;
            next += (found.len() - before) as u64;
            if full {
                return Ok(found);
            }
        }
    }

    /// Adds entries of one segment; true once `max_bytes` are reached.
    fn read_stored(
        &self,
        range: Range<LogIndex>,
        max_bytes: usize,
        bytes: &mut usize,
        found: &mut Vec<LogEntry>,
    ) -> Result<bool, ReadError> {
        const WINDOW_BYTES: u64 = 1024 * 1024;
        let (segment, info) = {
            let back = self.readable();
            let mut back = back.lock();
            let (index, first) = (range.start, back.marks.start_index);
            let at = back.slot_of_index(index).ok_or(ReadError::Purged { index, first })?;
            of_single_entries(&back.segments[at].info, index)?;
            (back.open(&self.shared, self.id, at)?, back.segments[at].info)
        };
        let end = info.end_bytes;
        let interval = self.shared.config.index_interval_bytes;
        let (mut position, _) = segment.find_index(range.start, end, interval)?;
        let mapping = segment.mapping(end)?;
        while position < end {
            let warm = segment.warm(&mapping, position, end, WINDOW_BYTES)?.min(end);
            let window = mapping.clone().slice(position..warm);
            let mut at = 0;
            while window.len() - at >= BATCH_HEADER_BYTES {
                let here = position + at as u64;
                let header = check_header(&window[at..], segment.crc_start(), here, end)
                    .map_err(|fault| ReadError::Damaged(segment.damage(here, fault)))?;
                let length = header.batch_length as usize;
                if length > window.len() - at {
                    break;
                }
                if header.index >= range.end {
                    return Ok(false);
                }
                if *bytes + length > max_bytes && !found.is_empty() {
                    return Ok(true);
                }
                let body = window.slice(at + BATCH_HEADER_BYTES..at + length);
                found.push(LogEntry { header, body });
                *bytes += length;
                at += length;
            }
            position += at as u64;
        }
        Ok(false)
    }

    /// Entries up to `id` were applied: they leave the tail cache once they are in a segment.
    pub fn applied(&self, id: LogId) {
        self.front.lock().applied(id.index, self.shared.config.tail_cache_bytes_max);
    }

    /// Stops the group from serving, changing and deleting anything.
    pub fn set_quarantined(&self, reason: &str) {
        {
            let mut front = self.front.lock();
            if front.quarantined.is_some() {
                return;
            }
            tracing::error!(group = %self.id, reason, "group quarantined");
            front.quarantined = Some(Quarantined { reason: reason.into() });
        }
        self.on_quarantine.lock().tell();
    }

    /// Who is told when the group is quarantined; at once where it is. Must not call the group.
    pub fn on_quarantine(&self, tell: Option<Box<dyn Fn() + Send + Sync>>) {
        let mut told = self.on_quarantine.lock();
        told.0 = tell;
        if self.is_quarantined().is_some() {
            told.tell();
        }
    }

    /// Why the group is quarantined, if it is.
    #[must_use]
    pub fn is_quarantined(&self) -> Option<Quarantined> {
        self.front.lock().quarantined.clone()
    }

    /// Why the store does nothing more, if it stopped: what was appended last may be in memory only.
    #[must_use]
    pub fn stopped(&self) -> Option<Arc<FatalError>> {
        self.shared.gave_up().then(|| self.shared.end_of_service())
    }

    /// Whether it was deleted. What readers hold of its bytes stays valid; whatever else is asked of
    /// it is refused or ignored.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.front.lock().deleted
    }

    pub(crate) fn delete(&self, done: Completion) {
        let mut front = self.front.lock();
        if front.deleted {
            // It takes its turn behind the deletion that is under way.
            self.push(front, Change::Entries(Vec::new()), Some(done));
            return;
        }
        front.delete();
        self.push(front, Change::Delete, Some(done));
    }

    /// Sees to it that the next checkpoint writes this group anew.
    pub(crate) fn list_as_changed(&self) {
        // A closed store makes no checkpoint, and the list would keep the disk locked.
        let closed = self.shared.aborted.load(Ordering::Relaxed);
        if !closed && !self.listed.swap(true, Ordering::AcqRel) {
            let group = self.me.upgrade().expect("a method of it is running");
            self.shared.changed.lock().push(group);
        }
    }

    /// The back was changed.
    pub(crate) fn materialised(&self) {
        self.note_size();
        self.list_as_changed();
    }

    fn note_size(&self) {
        let back = self.back.lock();
        self.stored_bytes.store(back.bytes(), Ordering::Relaxed);
        self.stored_segments.store(back.segments.len() as u32, Ordering::Relaxed);
        self.compaction.note(&back);
    }

    /// Bytes of entries in the tail cache.
    #[must_use]
    pub fn cached_bytes(&self) -> u64 {
        self.front.lock().cached_bytes()
    }
}

/// Refuses to look for an entry where a batch may stand for several: whoever asks for one was told before
/// that it was purged.
fn of_single_entries(info: &SegmentInfo, index: LogIndex) -> Result<(), ReadError> {
    match info.compacted {
        None => Ok(()),
        Some(_) => Err(ReadError::Purged { index, first: info.end_index() }),
    }
}

/// The back that readers look at.
pub(crate) enum ReadableBack<'a> {
    Own(&'a Mutex<Back>),
    Installed(Arc<Mutex<Back>>),
}

impl ReadableBack<'_> {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Back> {
        match self {
            Self::Own(back) => back.lock(),
            Self::Installed(back) => back.lock(),
        }
    }
}

/// Tells who waits for a change of a deleted group that it is not made.
fn refuse(done: Option<Completion>) {
    if let Some(done) = done {
        done(Err(Arc::new(FatalError::Deleted)));
    }
}
