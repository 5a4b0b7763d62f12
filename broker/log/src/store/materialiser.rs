//! Writes changes into segments, in the order of the journal. The same code serves at run time and
//! at replay.
//!
//! Nothing here is synced: what it writes is in the journal until a checkpoint has synced it. What it
//! *places* is synced by the journal thread, before the journal refers to it.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use plimsoll_protocol::batch::{BATCH_HEADER_BYTES, BatchHeader};
use plimsoll_protocol::ids::{GroupId, LogIndex};

use super::placing::{Extent, Part, PlacedPart, Placement, push_extent};
use super::queue::{Block, Item};
use super::shared::Shared;
use crate::checkpoint::GroupRecord;
use crate::disk::BLOCK_BYTES;
use crate::entry::{Change, Cut, Install, LogEntry, Placed, Reset, Start, Swap};
use crate::fatal::FatalError;
use crate::group::GroupLog;
use crate::group::back::{Back, Slot};
use crate::journal::JournalPosition;
use crate::segment::file::{Segment, SegmentError};
use crate::segment::header::{DIRECTORY, EXTENSION, FIRST_BATCH_AT, SegmentHeader};
use crate::segment::{Retired, SegmentId, SegmentInfo, SegmentName};

/// Entries written by one system call.
const GATHERED_ENTRIES_MAX: usize = 128;
const GATHERED_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The materialiser thread's state.
pub(crate) struct Materialiser {
    shared: Arc<Shared>,
    /// After the last block that was worked off.
    position: JournalPosition,
    current: Option<Block>,
    /// Segments with entries that were placed, until the block that refers to them has come.
    placing: Option<Vec<Arc<Segment>>>,
    /// Written since the last capture.
    unsynced: Vec<Arc<Segment>>,
    sealed: Vec<(Arc<GroupLog>, SegmentInfo)>,
    retired: Vec<Retired>,
}

/// Where everything stood between two blocks.
pub(crate) struct Capture {
    pub(crate) position: JournalPosition,
    /// Groups that changed since the capture before.
    pub(crate) groups: Vec<CapturedGroup>,
    /// Segments that must be synced before a checkpoint may name them.
    pub(crate) unsynced: Vec<Arc<Segment>>,
    /// Segments that were closed.
    pub(crate) sealed: Vec<(Arc<GroupLog>, SegmentInfo)>,
    /// Files that are no longer part of a log.
    pub(crate) retired: Vec<Retired>,
}

/// How a group stood.
pub(crate) struct CapturedGroup {
    pub(crate) group: Arc<GroupLog>,
    /// `None` for a deleted one.
    pub(crate) record: Option<GroupRecord>,
    /// How often its log had been installed: the state must be of the same log.
    pub(crate) installs: u64,
}

/// Why work stands still.
#[derive(Debug)]
pub(crate) enum Halt {
    /// No room on the disk; try again later.
    Full,
    /// The medium failed.
    Fatal(FatalError),
}

impl Materialiser {
    pub(crate) fn new(shared: Arc<Shared>, position: JournalPosition) -> Self {
        Self {
            shared,
            position,
            current: None,
            placing: None,
            unsynced: Vec::new(),
            sealed: Vec::new(),
            retired: Vec::new(),
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.current.is_some()
    }

    /// Whether the segments are ahead of the journal: no checkpoint may be taken then.
    pub(crate) fn is_placing(&self) -> bool {
        self.placing.is_some()
    }

    /// Takes on a block; the one before must be worked off.
    pub(crate) fn begin(&mut self, block: Block) {
        assert!(self.current.is_none(), "one block at a time");
        self.current = Some(block);
        // The journal thread has synced them before it wrote the block, and since then nothing was
        // written into any segment.
        for synced in self.placing.take().into_iter().flatten() {
            self.unsynced.retain(|segment| !Arc::ptr_eq(segment, &synced));
            synced.unmark_unsynced();
        }
    }

    /// Writes entries into their segments before they are in the journal; the next block must refer to
    /// them. Where there is no room for all of them it stops there, and tries nothing again.
    pub(crate) fn place(&mut self, parts: Vec<Part>) -> Result<Placement, FatalError> {
        assert!(self.current.is_none() && self.placing.is_none(), "one block at a time");
        // From here on, also where it fails: the segments are ahead of the journal.
        self.placing = Some(Vec::new());
        let mut segments: Vec<Arc<Segment>> = Vec::new();
        let mut placement = Placement { parts: Vec::with_capacity(parts.len()), is_full: false };
        for Part { group, branch, mut entries } in parts {
            let mut extents = Vec::new();
            if !placement.is_full {
                match self.append(&group, &mut entries, Some(&mut extents)) {
                    Ok(()) => {}
                    Err(Halt::Full) => {
                        placement.is_full = true;
                        self.drop_empty_segment(&group);
                    }
                    Err(Halt::Fatal(error)) => return Err(error),
                }
            }
            if let Some(last) = extents.last() {
                let next = LogIndex(last.last.index.0 + 1);
                self.written(&group, branch, Some(next));
            }
            for extent in &extents {
                if !segments.iter().any(|segment| Arc::ptr_eq(segment, &extent.segment)) {
                    segments.push(extent.segment.clone());
                }
            }
            placement.parts.push(PlacedPart { extents, left: entries });
        }
        self.placing = Some(segments);
        Ok(placement)
    }

    /// Takes a segment back that was begun by a placement and got nothing: there was no room. Nothing
    /// refers to it, so replay would not know it.
    fn drop_empty_segment(&mut self, group: &Arc<GroupLog>) {
        let mut back = group.back.lock();
        let Some(slot) = back.segments.pop_if(|slot| slot.placed && slot.info.last.is_none())
        else {
            return;
        };
        drop(back);
        let name = SegmentName { group: group.id(), id: slot.info.id };
        self.shared.open_segments.forget(name);
        if let Err(error) = self.shared.disk.remove(&name.path()) {
            let path = name.path();
            tracing::warn!(path, %error, "a segment without entries was not removed");
        }
    }

    /// Works on the current block to its end. After [`Halt::Full`] it goes on where it stopped.
    pub(crate) fn work(&mut self) -> Result<(), Halt> {
        while let Some(block) = self.current.as_mut() {
            let Some(mut item) = block.items.pop_front() else {
                self.position = block.end;
                self.shared.material.finished(block.bytes);
                self.current = None;
                break;
            };
            if let Err(halt) = self.apply(&item.group, &mut item.change, item.branch) {
                // Entries left the item as they were written; the rest is for the next attempt.
                let block = self.current.as_mut().expect("it is being worked on");
                block.items.push_front(item);
                return Err(halt);
            }
            if let Some(done) = item.done {
                done(Ok(()));
            }
        }
        Ok(())
    }

    /// Ends everything in the current block with the store's error.
    pub(crate) fn fail(&mut self) {
        let Some(block) = self.current.take() else { return };
        let error = self.shared.end_of_service();
        for done in block.items.into_iter().filter_map(|item: Item| item.done) {
            done(Err(error.clone()));
        }
        self.shared.material.finished(block.bytes);
    }

    /// Puts one change into the back of a group.
    pub(crate) fn apply(
        &mut self,
        group: &Arc<GroupLog>,
        change: &mut Change,
        branch: u64,
    ) -> Result<(), Halt> {
        let mut next = None;
        match change {
            Change::Entries(entries) => {
                self.append(group, entries, None)?;
                next = Some(group.back.lock().marks.next_index());
            }
            Change::Cut(cut) => {
                self.cut(group, cut)?;
                next = Some(cut.end_index());
            }
            Change::Start(start) => self.start(group, start),
            Change::Reset(reset) => self.reset(group, reset),
            Change::Install(install) => {
                self.install(group, install);
                next = Some(install.end_index());
            }
            Change::Compacted(swap) => self.swap(group, swap),
            Change::Roll => self.roll(group),
            Change::Delete => self.delete(group),
            Change::Create(_)
            | Change::Options(_)
            | Change::Vote(_)
            | Change::Committed(_)
            | Change::Purge(_) => group.back.lock().marks.apply(change),
        }
        self.written(group, branch, next);
        Ok(())
    }

    /// The back was changed; entries below `next` are in segments.
    fn written(&self, group: &GroupLog, branch: u64, next: Option<LogIndex>) {
        group.materialised();
        if let Some(next) = next {
            let cache_bytes_max = self.shared.config.tail_cache_bytes_max;
            group.front.lock().written(branch, next, cache_bytes_max);
        }
    }

    /// Appends entries, and takes them out of `entries`. With `extents` they are placed: only into
    /// segments that placements began, and where they lie is noted.
    fn append(
        &mut self,
        group: &Arc<GroupLog>,
        entries: &mut Vec<LogEntry>,
        mut extents: Option<&mut Vec<Extent>>,
    ) -> Result<(), Halt> {
        while let Some(first) = entries.first() {
            let (first, bytes) = (first.header.index, first.bytes());
            let placed = extents.is_some().then_some(bytes);
            let (segment, info) = self.segment_to_append(group, placed)?;
            let taken = self.write(group, &segment, &info, entries)?;
            if let Some(extents) = &mut extents {
                let last = &entries[taken - 1].header;
                let extent = Extent {
                    from: info.end_bytes,
                    to: segment.end(),
                    segment,
                    first,
                    entries: taken as u32,
                    last: last.log_id(),
                    end_offset: last.end_offset(),
                };
                push_extent(extents, extent);
            }
            entries.drain(..taken);
        }
        Ok(())
    }

    /// The open segment that takes the next entry; closes a full one and makes the next. With `placed`,
    /// the bytes of that entry, only one that a placement began will do.
    fn segment_to_append(
        &mut self,
        group: &Arc<GroupLog>,
        placed: Option<u64>,
    ) -> Result<(Arc<Segment>, SegmentInfo), Halt> {
        let mut back = group.back.lock();
        if let Some(at) = back.active() {
            let info = back.segments[at].info;
            let limit = back.marks.options.segment_bytes_kept();
            let will_do = placed.is_none() || back.segments[at].placed;
            if will_do && (info.end_bytes < limit || info.last.is_none()) {
                match back.open(&self.shared, group.id(), at) {
                    Ok(segment) => return Ok((segment, info)),
                    Err(SegmentError::Medium { operation, path, source }) => {
                        return Err(Halt::Fatal(FatalError::Medium { operation, path, source }));
                    }
                    // What it held is lost or damaged, what comes is not: it goes into the next.
                    Err(SegmentError::Damaged(damage)) => {
                        drop(back);
                        group.set_quarantined(&damage.to_string());
                        let free = self.segment_behind_all_files(group.id())?;
                        back = group.back.lock();
                        back.next_segment = back.next_segment.max(free);
                    }
                }
            }
        }
        let shared = &self.shared;
        // Who has filled a segment will fill this one, too: each reservation stops the writer, so it
        // gets a large one at once.
        let filled = back
            .segments
            .last()
            .is_some_and(|slot| slot.info.end_bytes >= back.marks.options.segment_bytes_kept());
        let step = match filled || placed.is_some() {
            true => {
                shared.config.segment_step_bytes_max.min(back.marks.options.segment_bytes_kept())
            }
            false => shared.config.segment_step_bytes_min,
        };
        // A placed entry that fits is worth the segment; one that does not costs none.
        let needed = (FIRST_BATCH_AT + placed.unwrap_or(0)).next_multiple_of(BLOCK_BYTES as u64);
        let step = step.max(needed);
        let header = SegmentHeader {
            name: SegmentName { group: group.id(), id: back.next_segment },
            base_index: back.marks.next_index(),
            base_offset: back.marks.end_offset,
            previous: back.last(),
            branch: back.marks.branch,
            salt: self.shared.random.salt(),
        };
        shared.space.measure(&*shared.disk, shared.config.free_bytes_min);
        let create = |step| Segment::create(&*shared.disk, &shared.identity, header, step);
        // On a disk that is nearly full a small step does what the large one cannot.
        let least = shared.config.segment_step_bytes_min.max(needed);
        let segment = match create(step) {
            Err(error) if is_full(&error) && step > least => create(least),
            made => made,
        }
        .map_err(|error| halt("creating", &header.name.path(), error))?;
        let segment = Arc::new(segment);
        shared.open_segments.hold(segment.clone());
        let info = header.info();
        back.next_segment = SegmentId(header.name.id.0 + 1);
        // Only now: where there was no room for the next one, nothing was changed.
        self.seal_last(group, &mut back);
        let open = Arc::downgrade(&segment);
        back.segments.push(Slot { placed: placed.is_some(), ..Slot::new(info, open) });
        Ok((segment, info))
    }

    /// A number behind those of all files of a group. Replay that takes one segment more than the life
    /// before did, because a file is damaged, must not begin it where that life has placed entries.
    fn segment_behind_all_files(&self, group: GroupId) -> Result<SegmentId, Halt> {
        let names = self.shared.disk.list(DIRECTORY);
        let names = names.map_err(|error| halt("listing", DIRECTORY, error))?;
        let ids = names.iter().filter_map(|name| SegmentName::parse(name, EXTENSION));
        let ids = ids.filter(|name| name.group == group && !name.id.is_of_compaction());
        let ids = ids.map(|name| name.id.0 + 1);
        Ok(SegmentId(ids.max().unwrap_or(0)))
    }

    /// Writes as many entries as the segment takes, at least one, and publishes them.
    fn write(
        &mut self,
        group: &Arc<GroupLog>,
        segment: &Arc<Segment>,
        info: &SegmentInfo,
        entries: &[LogEntry],
    ) -> Result<usize, Halt> {
        let limit = {
            let back = group.back.lock();
            let first = &entries[0].header;
            assert_eq!(first.index, back.marks.next_index(), "entries follow each other");
            assert_eq!(first.base_offset, back.marks.end_offset, "offsets count records");
            back.marks.options.segment_bytes_kept()
        };
        let mut end = info.end_bytes;
        let mut sealed: Vec<BatchHeader> = Vec::with_capacity(entries.len().min(16));
        let mut heads: Vec<[u8; BATCH_HEADER_BYTES]> = Vec::with_capacity(sealed.capacity());
        for entry in entries.iter().take(GATHERED_ENTRIES_MAX) {
            let full = end >= limit || end - info.end_bytes >= GATHERED_BYTES_MAX;
            if full && !sealed.is_empty() {
                break;
            }
            let mut header = entry.header;
            header.seal(segment.crc_start());
            heads.push(header.to_bytes());
            sealed.push(header);
            end += entry.bytes();
        }
        self.reserve(segment, end, limit)?;
        let parts: Vec<&[u8]> = heads
            .iter()
            .zip(entries)
            .flat_map(|(head, entry)| [head.as_slice(), &entry.body])
            .collect();
        segment
            .write_at(info.end_bytes, &parts)
            .map_err(|error| halt("writing", &segment.name().path(), error))?;
        let interval = self.shared.config.index_interval_bytes;
        segment.publish(end, &sealed, interval);
        {
            let mut back = group.back.lock();
            let slot = back.segments.last_mut().expect("it was just appended to");
            for header in &sealed {
                slot.info.appended(header);
            }
            for header in &sealed {
                back.marks.appended(header);
            }
            let slot = back.segments.last_mut().expect("it was just appended to");
            let records = sealed.iter().find(|header| header.record_count > 0);
            slot.first_append_ms = slot.first_append_ms.or(records.map(|h| h.append_time_ms));
        }
        if !segment.mark_unsynced() {
            self.unsynced.push(segment.clone());
            if self.unsynced.len() >= self.shared.config.open_segments_max {
                self.shared.requests.ask();
            }
        }
        let written = end - info.end_bytes;
        self.shared.counters.materialised_bytes.fetch_add(written, Ordering::Relaxed);
        Ok(sealed.len())
    }

    /// Reserves space for everything before `end`, in steps that double.
    fn reserve(&self, segment: &Segment, end: u64, segment_bytes: u64) -> Result<(), Halt> {
        const BLOCK: u64 = BLOCK_BYTES as u64;
        let allocated = segment.allocated();
        if end <= allocated {
            return Ok(());
        }
        let shared = &self.shared;
        shared.space.measure(&*shared.disk, shared.config.free_bytes_min);
        let (min, max) =
            (shared.config.segment_step_bytes_min, shared.config.segment_step_bytes_max);
        let step = allocated.clamp(min, max);
        let most = segment_bytes.next_multiple_of(BLOCK);
        let needed = end.next_multiple_of(BLOCK);
        let bytes = (allocated + step).next_multiple_of(BLOCK).min(most).max(needed);
        match segment.allocate(bytes) {
            Err(error) if is_full(&error) && bytes > needed => segment.allocate(needed),
            done => done,
        }
        .map_err(|error| halt("growing", &segment.name().path(), error))
    }

    fn retire(&mut self, name: SegmentName) {
        self.shared.open_segments.forget(name);
        self.retired.push(Retired::Segment(name));
    }

    /// Takes the end of the log away. What is cut is never written again: the segment is closed, and
    /// the log goes on in a new one, so that bytes once published never change under a reader.
    pub(crate) fn cut(&mut self, group: &Arc<GroupLog>, cut: &Cut) -> Result<(), Halt> {
        let next = cut.end_index();
        let mut back = group.back.lock();
        while back.segments.last().is_some_and(|slot| slot.info.base_index >= next) {
            let gone = back.segments.pop().expect("there is a last one");
            self.retire(SegmentName { group: group.id(), id: gone.info.id });
        }
        let at = back.segments.len().checked_sub(1);
        if let Some(at) = at.filter(|&at| back.segments[at].info.end_index() > next) {
            let info = back.segments[at].info;
            let interval = self.shared.config.index_interval_bytes;
            let opened = back.open(&self.shared, group.id(), at);
            drop(back);
            let found = opened.and_then(|segment| {
                let (position, _) = segment.find_index(next, info.end_bytes, interval)?;
                segment.cut(position);
                Ok(position)
            });
            let position = match found {
                Ok(position) => position,
                Err(SegmentError::Damaged(damage)) => {
                    group.set_quarantined(&damage.to_string());
                    damage.position.clamp(FIRST_BATCH_AT, info.end_bytes)
                }
                Err(SegmentError::Medium { operation, path, source }) => {
                    return Err(Halt::Fatal(FatalError::Medium { operation, path, source }));
                }
            };
            back = group.back.lock();
            let info = &mut back.segments[at].info;
            info.end_bytes = position;
            info.last = cut.last;
            info.end_offset = cut.end_offset;
        }
        self.seal_last(group, &mut back);
        back.marks.apply(&Change::Cut(*cut));
        Ok(())
    }

    /// Takes the beginning of the log away.
    pub(crate) fn start(&mut self, group: &Arc<GroupLog>, start: &Start) {
        let mut back = group.back.lock();
        let gone = back
            .segments
            .partition_point(|slot| slot.info.end_index().0 <= start.dropped.index.0 + 1);
        for slot in back.segments.drain(..gone) {
            self.retire(SegmentName { group: group.id(), id: slot.info.id });
        }
        if back.segments.is_empty() {
            back.segments = Vec::new();
        }
        back.marks.apply(&Change::Start(*start));
    }

    /// Takes the whole log away; it goes on elsewhere.
    pub(crate) fn reset(&mut self, group: &Arc<GroupLog>, reset: &Reset) {
        let mut back = group.back.lock();
        for slot in std::mem::take(&mut back.segments) {
            self.retire(SegmentName { group: group.id(), id: slot.info.id });
        }
        back.marks.apply(&Change::Reset(*reset));
        back.generation += 1;
    }

    /// Puts a compacted segment in the place of those whose records it holds. Readers that have one of them
    /// open read on in it.
    fn swap(&mut self, group: &Arc<GroupLog>, swap: &Swap) {
        let mut back = group.back.lock();
        let place =
            back.place_of(swap).expect("it was checked when it was journaled, or read back");
        let new = Slot::new(swap.segment, Weak::new());
        back.marks.purge_compacted([&swap.segment]);
        for gone in back.segments.splice(place, [new]).collect::<Vec<_>>() {
            self.retire(SegmentName { group: group.id(), id: gone.info.id });
        }
        back.generation += 1;
    }

    /// Closes the segment that is being appended to, where it holds anything.
    fn roll(&mut self, group: &Arc<GroupLog>) {
        let mut back = group.back.lock();
        if back.active().is_some_and(|at| back.segments[at].info.last.is_some()) {
            self.seal_last(group, &mut back);
        }
    }

    /// Replaces the whole log by one whose segments are there.
    pub(crate) fn install(&mut self, group: &Arc<GroupLog>, install: &Install) {
        let id = group.id();
        let installs = {
            let mut back = group.back.lock();
            for slot in std::mem::take(&mut back.segments) {
                self.retire(SegmentName { group: id, id: slot.info.id });
            }
            let slots = install.segments.iter().map(|&info| Slot::new(info, Weak::new()));
            back.segments = slots.collect();
            back.next_segment = back.next_segment.max(install.next_segment);
            back.marks.apply_install(install);
            back.installs += 1;
            back.generation += 1;
            back.installs
        };
        // Needed while the journal is replayed from before: as long as a segment that went is.
        if let Some(state) = &install.state {
            self.retired.push(Retired::State(SegmentName { group: id, id: state.number }));
        }
        let mut front = group.front.lock();
        if front.installs == installs {
            front.installed = None;
        }
    }

    fn delete(&mut self, group: &Arc<GroupLog>) {
        let mut back = group.back.lock();
        back.deleted = true;
        back.generation += 1;
        for slot in std::mem::take(&mut back.segments) {
            self.retire(SegmentName { group: group.id(), id: slot.info.id });
        }
    }

    /// Takes over entries that an earlier life placed at the end of the active segment. They were checked,
    /// and are on stable storage.
    pub(crate) fn take_over(
        &mut self,
        group: &Arc<GroupLog>,
        segment: &Segment,
        placed: &Placed,
        headers: &[BatchHeader],
    ) {
        segment.publish(placed.to, headers, self.shared.config.index_interval_bytes);
        let mut back = group.back.lock();
        let slot = back.segments.last_mut().expect("it was just looked at");
        headers.iter().for_each(|header| slot.info.appended(header));
        headers.iter().for_each(|header| back.marks.appended(header));
        drop(back);
        group.materialised();
    }

    /// Closes the segment that is being appended to, if there is one.
    pub(crate) fn seal(&mut self, group: &Arc<GroupLog>) {
        self.seal_last(group, &mut group.back.lock());
    }

    fn seal_last(&mut self, group: &Arc<GroupLog>, back: &mut Back) {
        if let Some(at) = back.active() {
            back.segments[at].info.sealed = true;
            self.sealed.push((group.clone(), back.segments[at].info));
        }
    }

    /// Notes a segment that must be synced before a checkpoint names it.
    pub(crate) fn note_unsynced(&mut self, segment: Arc<Segment>) {
        if !segment.mark_unsynced() {
            self.unsynced.push(segment);
        }
    }

    /// Where everything stands, between two blocks.
    pub(crate) fn capture(&mut self) -> Capture {
        assert!(self.current.is_none(), "a checkpoint lies between two blocks");
        assert!(self.placing.is_none(), "no checkpoint holds what the journal does not");
        let changed = std::mem::take(&mut *self.shared.changed.lock());
        let mut groups = Vec::with_capacity(changed.len());
        for group in changed {
            // Before it is looked at, so that a later change lists it again.
            group.listed.store(false, Ordering::Release);
            let back = group.back.lock();
            let record = (!back.deleted).then(|| GroupRecord {
                group: group.id(),
                marks: back.marks,
                next_segment: back.next_segment,
                segments: back.segments.iter().map(|slot| slot.info).collect(),
            });
            let installs = back.installs;
            drop(back);
            groups.push(CapturedGroup { group, record, installs });
        }
        let unsynced = std::mem::take(&mut self.unsynced);
        for segment in &unsynced {
            segment.unmark_unsynced();
        }
        Capture {
            position: self.position,
            groups,
            unsynced,
            sealed: std::mem::take(&mut self.sealed),
            retired: std::mem::take(&mut self.retired),
        }
    }

    pub(crate) fn set_position(&mut self, position: JournalPosition) {
        self.position = position;
    }
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StorageFull
}

fn halt(operation: &'static str, path: &str, error: io::Error) -> Halt {
    if is_full(&error) {
        Halt::Full
    } else {
        Halt::Fatal(FatalError::medium(operation, path, error))
    }
}
