//! Bringing the groups up to date when a store is opened.
//!
//! Changes of durable groups go through the materialiser, as at run time. The entries of memory groups
//! are not in the journal: for those groups the journaled changes are collected first, then their
//! segments are read on from where the checkpoint left them, as far as every check holds.
//!
//! Of entries that were placed the journal says only where they lie. They are on stable storage, because
//! it says so: they are checked, and where one is not as it was written, the store does not open.

use std::collections::BTreeMap;
use std::ops::RangeTo;
use std::sync::Arc;

use bytes::Bytes;
use plimsoll_protocol::batch::{BATCH_HEADER_BYTES, BatchHeader};
use plimsoll_protocol::ids::{GroupId, LogIndex, Term};

use super::materialiser::{Halt, Materialiser};
use super::open::OpenError;
use super::shared::Shared;
use crate::checkpoint::file::ReadCheckpoint;
use crate::config::Durability;
use crate::entry::{Change, Install, Marks, Placed, Reset};
use crate::group::GroupLog;
use crate::group::back::{Back, Slot};
use crate::group::front::StateSlot;
use crate::header::HeaderError;
use crate::journal::file as journal_file;
use crate::journal::record::{self, Record};
use crate::journal::replay::ReadBlock;
use crate::journal::{BlockSeq, FileSeq, JournalPosition};
use crate::segment::file::{Segment, SegmentError};
use crate::segment::scan::{Fault, check_header, check_placed};
use crate::segment::{IMPORT_GAP, Retired, SegmentId, SegmentInfo, SegmentName, header, index};
use crate::transfer::state_file::{self, StateFileError};

/// A journaled truncation: segments of earlier branches end before this index.
struct Bound {
    branch: u64,
    end: LogIndex,
}

/// How far the segments of a memory group are read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// To their end.
    End,
    /// To where the group became durable, which began a branch: what an earlier opening replayed into
    /// the segments after that comes from the journal once more.
    Journaled,
}

/// The state of an opening.
pub(crate) struct Recovery {
    shared: Arc<Shared>,
    pub(crate) groups: BTreeMap<GroupId, Arc<GroupLog>>,
    pub(crate) materialiser: Materialiser,
    /// Journaled changes of memory groups, in order.
    deferred: BTreeMap<GroupId, Vec<Change>>,
    /// Memory groups whose segments were read on.
    pub(crate) read_on: Vec<Arc<GroupLog>>,
    /// Segment files there are, by group; listed when first needed.
    files: Option<BTreeMap<GroupId, Vec<SegmentId>>>,
}

impl Recovery {
    pub(crate) fn new(shared: Arc<Shared>, start: Option<JournalPosition>) -> Self {
        let position = start.unwrap_or(JournalPosition {
            file: FileSeq(0),
            offset: 0,
            next_block: BlockSeq(1),
        });
        let materialiser = Materialiser::new(shared.clone(), position);
        let groups = BTreeMap::new();
        Self {
            shared,
            groups,
            materialiser,
            deferred: BTreeMap::new(),
            read_on: Vec::new(),
            files: None,
        }
    }

    /// Makes the groups of a checkpoint.
    pub(crate) fn take_over(&mut self, checkpoint: &ReadCheckpoint) {
        let small = self.shared.config.state_in_memory_bytes_max;
        for piece in &checkpoint.pieces {
            let state = match checkpoint.state(piece) {
                None => StateSlot::None,
                Some((applied, bytes)) if bytes.len() <= small => {
                    // A copy: a slice would keep the whole file in memory.
                    StateSlot::Held(applied, Bytes::copy_from_slice(&bytes))
                }
                Some((applied, _)) => StateSlot::Stored(applied),
            };
            let record = &piece.record;
            let mut marks = record.marks;
            // One of a version that did not see to it may say otherwise of a log that it was sent.
            marks.purge_compacted(&record.segments);
            let mut back = Back::new(marks, record.segments.iter().copied(), record.next_segment);
            back.note_checkpoint(checkpoint.file.header.seq, &record.segments);
            let shared = self.shared.clone();
            let group = GroupLog::new(record.group, shared, marks, back, state);
            self.groups.insert(record.group, group);
        }
    }

    /// Applies a block that was read back.
    pub(crate) fn replay(&mut self, block: &ReadBlock) -> Result<(), OpenError> {
        let path = || journal_file::path(block.file);
        // Entries of the same group that follow each other are written together.
        let mut run: Option<(GroupId, Change)> = None;
        for raw in &block.records {
            let payload = block.bytes.slice(raw.payload.clone());
            let record = record::decode(raw.kind, &payload).map_err(|error| OpenError::Record {
                path: path(),
                position: block.offset,
                error,
            })?;
            let group = GroupId(raw.group);
            let change = match record {
                Record::Change(change) => change,
                Record::Placed(placed) => {
                    if let Some((group, change)) = run.take() {
                        self.replay_change(block, group, change)?;
                    }
                    self.replay_placed(block, group, &placed)?;
                    continue;
                }
            };
            match (&mut run, change) {
                (Some((held, Change::Entries(entries))), Change::Entries(more))
                    if *held == group =>
                {
                    entries.extend(more);
                }
                (run, change) => {
                    if let Some((group, change)) = run.replace((group, change)) {
                        self.replay_change(block, group, change)?;
                    }
                }
            }
        }
        match run {
            Some((group, change)) => self.replay_change(block, group, change),
            None => Ok(()),
        }
    }

    fn replay_change(
        &mut self,
        block: &ReadBlock,
        id: GroupId,
        change: Change,
    ) -> Result<(), OpenError> {
        let misfit = |problem| misfit(block, id, problem);
        if let Change::Create(options) = &change {
            if self.groups.contains_key(&id) {
                return Err(misfit("creates it although it is there"));
            }
            let marks = Marks::new(*options);
            let back = Back::new(marks, [], SegmentId(0));
            let group = GroupLog::new(id, self.shared.clone(), marks, back, StateSlot::None);
            group.list_as_changed();
            self.groups.insert(id, group);
            return Ok(());
        }
        let group = self.groups.get(&id).ok_or_else(|| misfit("that does not exist"))?.clone();
        if matches!(change, Change::Delete) {
            self.groups.remove(&id);
            self.deferred.remove(&id);
            return self.apply(&group, change);
        }
        if let Change::Install(install) = &change {
            install.check().map_err(misfit)?;
            let state = self.installed_state(block, id, install)?;
            let mut front = group.front.lock();
            front.state = state;
            // What was damaged is gone.
            front.quarantined = None;
        }
        let durability = group.back.lock().marks.options.durability;
        if durability == Durability::Memory {
            if matches!(change, Change::Entries(_)) {
                return Err(misfit("journals entries although it is kept in memory"));
            }
            let durable_now = matches!(
                &change,
                Change::Options(options) if options.durability == Durability::Durable
            );
            if durable_now {
                self.recover_memory_group(&group, Until::Journaled)?;
                return self.apply(&group, change);
            }
            self.deferred.entry(id).or_default().push(change);
            return Ok(());
        }
        if let Change::Compacted(swap) = &change
            && group.back.lock().place_of(swap).is_none()
        {
            return Err(misfit("replaces segments that are not there"));
        }
        if let Change::Entries(entries) = &change {
            let marks = group.back.lock().marks;
            let first = &entries[0].header;
            let follows = entries.windows(2).all(|pair| {
                pair[1].header.index.0 == pair[0].header.index.0 + 1
                    && pair[1].header.base_offset == pair[0].header.end_offset()
            });
            if first.index != marks.next_index()
                || first.base_offset != marks.end_offset
                || !follows
            {
                return Err(misfit("does not continue its log"));
            }
        }
        self.apply(&group, change)
    }

    /// The state that came with a log.
    fn installed_state(
        &self,
        block: &ReadBlock,
        group: GroupId,
        install: &Install,
    ) -> Result<StateSlot, OpenError> {
        let Some(installed) = &install.state else { return Ok(StateSlot::None) };
        let shared = &self.shared;
        match state_file::read(&*shared.disk, &shared.identity, group, installed) {
            Ok(bytes) => Ok(StateSlot::Held(installed.applied, bytes)),
            Err(StateFileError::Medium(source)) => {
                let path = SegmentName { group, id: installed.number }.state_path();
                Err(OpenError::Medium { operation: "reading", path, source })
            }
            Err(StateFileError::Damaged(damage)) => {
                let (path, position) = (journal_file::path(block.file), block.offset);
                Err(OpenError::Placed { damage, path, position })
            }
        }
    }

    /// Takes over entries that lie in a segment.
    fn replay_placed(
        &mut self,
        block: &ReadBlock,
        id: GroupId,
        placed: &Placed,
    ) -> Result<(), OpenError> {
        let misfit = |problem| misfit(block, id, problem);
        let group = self.groups.get(&id).ok_or_else(|| misfit("that does not exist"))?.clone();
        let marks = group.back.lock().marks;
        if marks.options.durability == Durability::Memory {
            return Err(misfit("refers to entries although it is kept in memory"));
        }
        if placed.first != marks.next_index() {
            return Err(misfit("does not continue its log"));
        }
        let segment = self.placed_segment(&group, placed).map_err(of_placed(block))?;
        let info = group.back.lock().segments.last().map(|slot| slot.info);
        let continues =
            info.is_some_and(|info| info.id == placed.segment && info.end_bytes == placed.from);
        if !continues {
            return Err(misfit("does not continue its segment"));
        }
        let headers = check_placed(&segment, placed, marks.last, marks.end_offset)
            .map_err(of_placed(block))?;
        self.materialiser.take_over(&group, &segment, placed, &headers);
        Ok(())
    }

    /// The segment in which entries were placed, as the last one of its log.
    fn placed_segment(
        &mut self,
        group: &Arc<GroupLog>,
        placed: &Placed,
    ) -> Result<Arc<Segment>, SegmentError> {
        let shared = self.shared.clone();
        let other = |segment: &Segment| {
            let fault = Fault::FileHeader(HeaderError::Misplaced);
            SegmentError::Damaged(segment.damage(0, fault))
        };
        let marks = {
            let mut back = group.back.lock();
            let at = back.active().filter(|&at| back.segments[at].info.id == placed.segment);
            if let Some(at) = at {
                let segment = back.open(&shared, group.id(), at)?;
                let is_meant = segment.header().salt == placed.salt;
                return if is_meant { Ok(segment) } else { Err(other(&segment)) };
            }
            back.marks
        };
        let name = SegmentName { group: group.id(), id: placed.segment };
        let first = header::FIRST_BATCH_AT;
        let segment = Segment::open_headed(&*shared.disk, &shared.identity, name, first)?;
        let head = segment.header();
        let is_meant = head.salt == placed.salt
            && head.base_index == marks.next_index()
            && head.base_offset == marks.end_offset
            && head.previous == marks.last;
        if !is_meant {
            return Err(other(&segment));
        }
        let segment = Arc::new(segment);
        self.materialiser.seal(group);
        let mut back = group.back.lock();
        back.next_segment = back.next_segment.max(SegmentId(placed.segment.0 + 1));
        back.segments.push(Slot::new(segment.header().info(), Arc::downgrade(&segment)));
        drop(back);
        shared.open_segments.hold(segment.clone());
        Ok(segment)
    }

    fn apply(&mut self, group: &Arc<GroupLog>, mut change: Change) -> Result<(), OpenError> {
        self.materialiser.apply(group, &mut change, 0).map_err(|halt| match halt {
            Halt::Full => OpenError::Full { path: header::DIRECTORY.to_owned() },
            Halt::Fatal(error) => OpenError::Fatal(error),
        })
    }

    /// Reads on in the segments of memory groups. After a clean end there is nothing to find.
    pub(crate) fn recover_memory_groups(&mut self, clean: bool) -> Result<(), OpenError> {
        if clean {
            return Ok(());
        }
        let memory: Vec<_> = self
            .groups
            .values()
            .filter(|group| group.back.lock().marks.options.durability == Durability::Memory)
            .cloned()
            .collect();
        for group in memory {
            self.recover_memory_group(&group, Until::End)?;
        }
        Ok(())
    }

    fn recover_memory_group(
        &mut self,
        group: &Arc<GroupLog>,
        until: Until,
    ) -> Result<(), OpenError> {
        let changes = self.deferred.remove(&group.id()).unwrap_or_default();
        // What was reset or cut after the checkpoint goes first, so that reading on begins where the
        // log really went on.
        let mut bounds: Vec<Bound> = Vec::new();
        for change in &changes {
            match change {
                Change::Reset(reset) => {
                    bounds.push(Bound { branch: reset.branch, end: LogIndex(0) });
                    self.materialiser.reset(group, reset);
                }
                Change::Cut(cut) => {
                    let end = cut.end_index();
                    bounds.push(Bound { branch: cut.branch, end });
                    if end < group.back.lock().marks.next_index() {
                        self.apply(group, Change::Cut(*cut))?;
                    }
                }
                Change::Install(install) => {
                    bounds.push(Bound { branch: install.branch, end: LogIndex(0) });
                    self.materialiser.install(group, install);
                }
                _ => {}
            }
        }
        let newest = bounds.iter().map(|bound| bound.branch).max();
        let newest = newest.unwrap_or(0).max(group.back.lock().marks.branch);
        let branches = match until {
            Until::Journaled => ..newest,
            Until::End => ..u64::MAX,
        };
        self.read_on(group, &bounds, branches).map_err(|error| match error {
            SegmentError::Medium { operation, path, source } => {
                OpenError::Medium { operation, path, source }
            }
            SegmentError::Damaged(damage) => {
                unreachable!("damage ends the reading on: {damage}")
            }
        })?;
        {
            let mut back = group.back.lock();
            back.marks.branch = back.marks.branch.max(newest);
        }
        let is_anew = |change: &Change| matches!(change, Change::Reset(_) | Change::Install(_));
        let last_reset = changes.iter().rposition(is_anew);
        for (at, change) in changes.into_iter().enumerate() {
            match &change {
                Change::Reset(_) | Change::Cut(_) | Change::Install(_) => {}
                // Of the log that was replaced, and so gone with it.
                Change::Start(_)
                | Change::Purge(_)
                | Change::Committed(_)
                | Change::Compacted(_)
                    if last_reset.is_some_and(|reset| at < reset) => {}
                Change::Start(start) => {
                    let lost = {
                        let marks = group.back.lock().marks;
                        marks.last.is_none_or(|last| last.index < start.dropped.index)
                    };
                    if lost {
                        // The segments between did not survive: the log begins where it should have.
                        let (last, offset) = (start.dropped, start.offset);
                        let branch = group.back.lock().marks.branch + 1;
                        self.materialiser.reset(group, &Reset { last, offset, branch });
                    } else {
                        self.materialiser.start(group, start);
                    }
                }
                Change::Compacted(swap) => {
                    let place = group.back.lock().place_of(swap);
                    match place {
                        Some(_) => self.apply(group, change)?,
                        None => group.set_quarantined(
                            "the journal replaces segments by a compacted one that are not there",
                        ),
                    }
                }
                _ => group.back.lock().marks.apply(&change),
            }
        }
        group.list_as_changed();
        self.read_on.push(group.clone());
        Ok(())
    }

    /// Adopts the entries behind the recorded end of a log, in its last segment and in the ones after
    /// it, while all checks hold.
    fn read_on(
        &mut self,
        group: &Arc<GroupLog>,
        bounds: &[Bound],
        branches: RangeTo<u64>,
    ) -> Result<(), SegmentError> {
        let active = {
            let mut back = group.back.lock();
            match back.active() {
                None => None,
                Some(at) => match back.open(&self.shared, group.id(), at) {
                    Ok(segment) => Some((segment, back.segments[at].info)),
                    Err(SegmentError::Damaged(_)) => None,
                    Err(error) => return Err(error),
                },
            }
        };
        if let Some((segment, info)) = active {
            let marks = group.back.lock().marks;
            let grown = read_on_in(&segment, info, &marks, bounds)?;
            if grown.end_bytes > info.end_bytes {
                segment.rewrite(info.end_bytes..grown.end_bytes)?;
                self.adopt(group, segment, grown);
            }
        }
        let shared = self.shared.clone();
        let files = self.list_files()?;
        let ids = files.get(&group.id()).cloned().unwrap_or_default();
        for id in ids {
            let marks = {
                let back = group.back.lock();
                // Behind the gap lie segments of a log that was not brought in to its end.
                if id < back.next_segment || id.0 - back.next_segment.0 >= IMPORT_GAP {
                    continue;
                }
                back.marks
            };
            let name = SegmentName { group: group.id(), id };
            let opened =
                Segment::open_headed(&*shared.disk, &shared.identity, name, header::FIRST_BATCH_AT);
            let segment = match opened {
                Ok(segment) => Arc::new(segment),
                Err(SegmentError::Damaged(_)) => continue,
                Err(error) => return Err(error),
            };
            let head = segment.header();
            let continues = head.branch >= marks.branch
                && branches.contains(&head.branch)
                && head.base_index == marks.next_index()
                && head.base_offset == marks.end_offset
                && head.previous == marks.last;
            if !continues {
                continue;
            }
            let grown = read_on_in(&segment, head.info(), &marks, bounds)?;
            if grown.last.is_some() {
                segment.rewrite(0..grown.end_bytes)?;
                self.materialiser.seal(group);
                {
                    let mut back = group.back.lock();
                    back.next_segment = SegmentId(id.0 + 1);
                    let open = Arc::downgrade(&segment);
                    back.segments.push(Slot::new(head.info(), open));
                }
                shared.open_segments.hold(segment.clone());
                self.adopt(group, segment, grown);
            }
        }
        Ok(())
    }

    fn adopt(&mut self, group: &Arc<GroupLog>, segment: Arc<Segment>, grown: SegmentInfo) {
        segment.adopt(grown.end_bytes);
        let mut back = group.back.lock();
        back.segments.last_mut().expect("it was just read").info = grown;
        back.marks.last = grown.last;
        back.marks.end_offset = grown.end_offset;
        back.marks.branch = back.marks.branch.max(grown.branch);
        drop(back);
        self.materialiser.note_unsynced(segment);
    }

    fn list_files(&mut self) -> Result<&BTreeMap<GroupId, Vec<SegmentId>>, SegmentError> {
        if self.files.is_none() {
            let directory = header::DIRECTORY;
            let names = self.shared.disk.list(directory).map_err(|source| {
                SegmentError::Medium { operation: "listing", path: directory.to_owned(), source }
            })?;
            let mut files: BTreeMap<GroupId, Vec<SegmentId>> = BTreeMap::new();
            for name in names.iter().filter_map(|n| SegmentName::parse(n, header::EXTENSION)) {
                files.entry(name.group).or_default().push(name.id);
            }
            files.values_mut().for_each(|ids| ids.sort_unstable());
            self.files = Some(files);
        }
        Ok(self.files.as_ref().expect("it was just listed"))
    }

    /// Removes files that no checkpoint can name, and returns those that an older one may.
    pub(crate) fn tidy_segments(&mut self) -> Result<Vec<Retired>, OpenError> {
        let disk = self.shared.disk.clone();
        let directory = header::DIRECTORY;
        let medium = |operation, path: &str, source| OpenError::Medium {
            operation,
            path: path.to_owned(),
            source,
        };
        let names = disk.list(directory).map_err(|error| medium("listing", directory, error))?;
        let mut retired = Vec::new();
        for file_name in names {
            let of = |extension| SegmentName::parse(&file_name, extension);
            let segment = of(header::EXTENSION).map(Retired::Segment);
            let retirable = segment.or_else(|| of(header::STATE_EXTENSION).map(Retired::State));
            let name = match retirable {
                Some(Retired::Segment(name) | Retired::State(name)) => name,
                None => match of(index::EXTENSION) {
                    Some(name) => name,
                    None => {
                        if file_name.ends_with(header::UNFINISHED) {
                            let path = format!("{directory}/{file_name}");
                            disk.remove(&path).map_err(|error| medium("removing", &path, error))?;
                        }
                        continue;
                    }
                },
            };
            let known = self.groups.get(&name.group).map(|group| {
                let back = group.back.lock();
                let is_state = matches!(retirable, Some(Retired::State(_)));
                let named = back.segments.iter().any(|slot| slot.info.id == name.id);
                // A compacted one may be named by the checkpoint before; its number does not say.
                let is_new = name.id >= back.next_segment && !name.id.is_of_compaction();
                (named && !is_state, is_new)
            });
            match known {
                Some((true, _)) => {}
                // Made after every checkpoint, and not part of the log that was recovered.
                Some((false, true)) => {
                    let path = format!("{directory}/{file_name}");
                    disk.remove(&path).map_err(|error| medium("removing", &path, error))?;
                }
                Some((false, false)) | None => match retirable {
                    Some(file) => retired.push(file),
                    // An index goes with its segment. Where that is gone, a crash came between the two.
                    None => {
                        let path = format!("{directory}/{file_name}");
                        let segment = name.path();
                        let is_there = disk.exists(&segment);
                        if !is_there.map_err(|error| medium("looking at", &segment, error))? {
                            disk.remove(&path).map_err(|error| medium("removing", &path, error))?;
                        }
                    }
                },
            }
        }
        Ok(retired)
    }
}

/// What is wrong with entries to which a block refers.
fn of_placed(block: &ReadBlock) -> impl FnOnce(SegmentError) -> OpenError {
    let (path, position) = (journal_file::path(block.file), block.offset);
    move |error| match error {
        SegmentError::Medium { operation, path, source } => {
            OpenError::Medium { operation, path, source }
        }
        SegmentError::Damaged(damage) => OpenError::Placed { damage, path, position },
    }
}

/// A record of `block` that does not fit the group.
fn misfit(block: &ReadBlock, group: GroupId, problem: &'static str) -> OpenError {
    let (path, position) = (journal_file::path(block.file), block.offset);
    OpenError::Misfit { path, position, group, problem }
}

/// Follows the batches behind the end of a segment, while every check holds: checksums of header and
/// body, index, offset, term, and the truncations that were journaled.
fn read_on_in(
    segment: &Segment,
    info: SegmentInfo,
    marks: &Marks,
    bounds: &[Bound],
) -> Result<SegmentInfo, SegmentError> {
    const WINDOW_BYTES: u64 = 1024 * 1024;
    let mut info = info;
    let file_end = segment.allocated();
    let mapping = segment.mapping(file_end)?;
    // What was written before a truncation ends there; what was written after it lies in segments of
    // its own.
    let end_index = bounds
        .iter()
        .filter(|bound| bound.branch > info.branch)
        .map(|bound| bound.end)
        .min()
        .unwrap_or(LogIndex(u64::MAX));
    let mut term = marks.last.map_or(Term(0), |last| last.term);
    let mut window = Bytes::new();
    let mut window_start = info.end_bytes;
    loop {
        let position = info.end_bytes;
        let has = |window: &Bytes, start: u64, bytes: usize| {
            (position - start) as usize + bytes <= window.len()
        };
        let mut need = |bytes: usize| -> Result<Option<Bytes>, SegmentError> {
            if position + bytes as u64 > file_end {
                return Ok(None);
            }
            if !has(&window, window_start, bytes) {
                let upto = (position + WINDOW_BYTES.max(bytes as u64)).min(file_end);
                segment.populate(&mapping, position..upto)?;
                window = mapping.clone().slice(position..upto);
                window_start = position;
            }
            let at = (position - window_start) as usize;
            Ok(Some(window.slice(at..at + bytes)))
        };
        let Some(head) = need(BATCH_HEADER_BYTES)? else { return Ok(info) };
        let Ok(header) = check_header(&head, segment.crc_start(), position, file_end) else {
            return Ok(info);
        };
        if header.index >= end_index || !continues(&header, &info, term) {
            return Ok(info);
        }
        let Some(batch) = need(header.batch_length as usize)? else { return Ok(info) };
        if !header.check_body_crc(&batch[BATCH_HEADER_BYTES..]) {
            return Ok(info);
        }
        term = header.term;
        info.appended(&header);
    }
}

fn continues(header: &BatchHeader, info: &SegmentInfo, term: Term) -> bool {
    header.index == info.end_index() && header.base_offset == info.end_offset && header.term >= term
}
