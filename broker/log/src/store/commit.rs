//! Group commit: what is queued goes into one block, one direct write, then the completions are
//! called in order and the items are handed to the materialiser.
//!
//! In four steps: choose what goes into the commit, place what is large (see [`placing`](super::placing)),
//! encode the block, write it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use plimsoll_protocol::ids::{GroupId, LogIndex};

use super::placing::{Extent, Part, Placement, Plan, push_extent};
use super::queue::{Block, Item, Work};
use super::shared::Shared;
use crate::config::Durability;
use crate::entry::{Change, LogEntry};
use crate::fatal::FatalError;
use crate::journal::block::{BlockBuilder, BlockSize};
use crate::journal::record;
use crate::journal::writer::JournalWriter;
use crate::segment::file::Segment;
use crate::segment::header;

/// Bytes of batches that an extent has at least, but for the first and the last of an item: what the
/// smallest segment takes.
const EXTENT_BYTES_MIN: u64 = crate::config::SEGMENT_BYTES_MIN - header::FIRST_BATCH_AT;

/// The journal thread's state.
pub(crate) struct GroupCommit {
    shared: Arc<Shared>,
    writer: JournalWriter,
    block: BlockBuilder,
    /// Taken from the queue, not yet journaled.
    pending: VecDeque<Item>,
    scratch: Vec<u8>,
    /// A checkpoint was made for the change of durability at the head of `pending`.
    checkpointed: bool,
    /// Bytes that were free when there was no room to place something.
    full_at: Option<u64>,
}

/// What [`GroupCommit::commit`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Commit {
    /// There was nothing to do.
    Idle,
    /// One block was written, or items that need none were passed on.
    Done,
    /// The journal is full: a next file must be made ready first.
    NeedsFile,
    /// A change of durability comes next: everything before it must be in a checkpoint first.
    NeedsCheckpoint,
}

/// What goes into one commit, in order.
#[derive(Default)]
struct Chosen {
    items: VecDeque<ChosenItem>,
    /// Of entries that go to the materialiser.
    bytes: u64,
    /// Of entries that are placed.
    placed_bytes: u64,
    /// The most that the block can take.
    size: BlockSize,
}

struct ChosenItem {
    item: Item,
    /// Its entries are placed.
    is_placed: bool,
    /// Where they lie.
    extents: Vec<Extent>,
}

impl Chosen {
    fn push(&mut self, item: Item, is_placed: bool) {
        self.items.push_back(ChosenItem { item, is_placed, extents: Vec::new() });
    }
}

impl GroupCommit {
    pub(crate) fn new(shared: Arc<Shared>, writer: JournalWriter) -> Self {
        let block = BlockBuilder::new(shared.config.block_bytes as usize);
        let (pending, scratch) = (VecDeque::new(), Vec::new());
        let (checkpointed, full_at) = (false, None);
        Self { shared, writer, block, pending, scratch, checkpointed, full_at }
    }

    /// The items taken from the queue and not yet journaled; filled from the queue when empty.
    pub(crate) fn pending(&mut self) -> &mut VecDeque<Item> {
        &mut self.pending
    }

    /// Whether the next item carries entries.
    pub(crate) fn is_entries_next(&self) -> bool {
        self.pending.front().is_some_and(|item| item.change.entry_bytes() > 0)
    }

    /// The checkpoint that was needed is made.
    pub(crate) fn checkpointed(&mut self) {
        self.checkpointed = true;
    }

    /// Journals one block of what is pending. `place` has the materialiser place entries, behind
    /// everything that was handed to it before; `None` where the store stopped.
    pub(crate) fn commit(
        &mut self,
        place: &mut dyn FnMut(Vec<Part>) -> Option<Placement>,
    ) -> Commit {
        if self.pending.is_empty() {
            return Commit::Idle;
        }
        if self.shared.fatal.is_set() {
            self.fail();
            return Commit::Done;
        }
        let plan = if self.may_place() {
            Plan::of(&self.pending, &self.shared.config)
        } else {
            Plan::default()
        };
        let mut chosen = match self.choose_for_file(&plan) {
            Ok(chosen) => chosen,
            Err(needs) => return needs,
        };
        if chosen.placed_bytes > 0 {
            if !self.place(&mut chosen, place) {
                return self.give_up(chosen);
            }
            if chosen.items.is_empty() {
                // There was no room for any of it. No checkpoint need wait for a block any more.
                self.hand_on(VecDeque::new(), 0);
                chosen = match self.choose_for_file(&Plan::default()) {
                    Ok(chosen) => chosen,
                    Err(needs) => return needs,
                };
            }
        }
        self.encode(&mut chosen);
        if let Err(error) = self.write() {
            self.shared.fatal.raise(error);
            return self.give_up(chosen);
        }
        let (mut done, mut items) = (Vec::new(), VecDeque::with_capacity(chosen.items.len()));
        for ChosenItem { mut item, is_placed, extents } in chosen.items {
            if let Some(next) = journaled_upto(&item, &extents) {
                item.group.front.lock().journaled(item.branch, next);
            }
            // What a memory group waits for is the materialiser, for all its changes, so that they
            // complete in order.
            if item.durability == Durability::Durable {
                done.extend(item.done.take());
            }
            if !is_placed {
                items.push_back(item);
            }
        }
        for done in done {
            done(Ok(()));
        }
        let placed = chosen.placed_bytes;
        self.shared.counters.placed_bytes.fetch_add(placed, Ordering::Relaxed);
        self.shared.count_towards_checkpoint(chosen.bytes + placed);
        self.hand_on(items, chosen.bytes);
        Commit::Done
    }

    /// Gives the materialiser what was journaled.
    fn hand_on(&self, items: VecDeque<Item>, bytes: u64) {
        let end = self.writer.position();
        self.shared.material.push(Work::Block(Block { items, end, bytes }));
    }

    /// Ends everything with the store's error, what was chosen first.
    fn give_up(&mut self, chosen: Chosen) -> Commit {
        let error = self.shared.end_of_service();
        for done in chosen.items.into_iter().filter_map(|chosen| chosen.item.done) {
            done(Err(error.clone()));
        }
        self.fail();
        Commit::Done
    }

    /// Whether large appends may be placed: not where space is short or the segments are far behind,
    /// because the journal would wait for them, and with it the votes.
    fn may_place(&mut self) -> bool {
        let (space, config) = (&self.shared.space, &self.shared.config);
        let grown = |full_at| space.free() >= config.place_bytes_max.saturating_add(full_at);
        if self.full_at.is_some_and(grown) {
            self.full_at = None;
        }
        self.full_at.is_none()
            && !space.is_low()
            && self.shared.material.bytes() <= config.place_bytes_max
    }

    /// Chooses; goes on in the next file where this one is full.
    fn choose_for_file(&mut self, plan: &Plan) -> Result<Chosen, Commit> {
        let chosen = self.choose(plan);
        if !chosen.items.is_empty() {
            return Ok(chosen);
        }
        if self.head_changes_durability() && !self.checkpointed {
            return Err(Commit::NeedsCheckpoint);
        }
        if !self.writer.next_file() {
            return Err(Commit::NeedsFile);
        }
        self.shared.requests.wake();
        let chosen = self.choose(plan);
        assert!(!chosen.items.is_empty(), "what was appended fits an empty file");
        Ok(chosen)
    }

    fn head_changes_durability(&self) -> bool {
        self.pending.front().is_some_and(|item| match &item.change {
            Change::Options(options) => options.durability != item.durability,
            _ => false,
        })
    }

    /// Moves items from `pending` until the block is full. What is chosen fits the file, also where
    /// every placed entry gets a record of its own segment.
    fn choose(&mut self, plan: &Plan) -> Chosen {
        let mut chosen = Chosen::default();
        // Groups with a change that must be materialised before entries of theirs can be placed.
        let mut changed: BTreeSet<GroupId> = BTreeSet::new();
        let limit = self.shared.config.block_bytes;
        while let Some(item) = self.pending.front_mut() {
            if !item.is_journaled() {
                let bytes = item.change.entry_bytes();
                if chosen.bytes + bytes > limit && !chosen.items.is_empty() {
                    break;
                }
                chosen.bytes += bytes;
                let item = self.pending.pop_front().expect("it was just looked at");
                chosen.push(item, false);
                continue;
            }
            let id = item.group.id();
            let room = self.writer.room(item.change.is_small());
            if let Change::Entries(entries) = &mut item.change {
                let is_placed = plan.places(id) && !entries.is_empty();
                if !entries.is_empty() && changed.contains(&id) && plan.waits_after_change(id) {
                    break;
                }
                let taken = if is_placed {
                    let most = self.shared.config.place_bytes_max;
                    choose_placed(&mut chosen, entries, most, room, limit)
                } else {
                    choose_entries(&mut chosen, entries, room, limit)
                };
                if taken < entries.len() {
                    if taken > 0 {
                        let rest = entries.split_off(taken);
                        let part = Change::Entries(std::mem::replace(entries, rest));
                        chosen.push(part_of(item, part), is_placed);
                    }
                    break;
                }
                let item = self.pending.pop_front().expect("it was just looked at");
                chosen.push(item, is_placed);
                continue;
            }
            if let Change::Options(options) = &item.change
                && options.durability != item.durability
                && !(self.checkpointed && chosen.items.is_empty())
            {
                break;
            }
            record::encode_small(&item.change, &mut self.scratch);
            if !chosen.size.fit(self.scratch.len(), 1, room, limit) {
                break;
            }
            self.checkpointed = false;
            // How far Raft has committed is nothing that entries depend on.
            if !matches!(item.change, Change::Committed(_)) {
                changed.insert(id);
            }
            let item = self.pending.pop_front().expect("it was just looked at");
            chosen.push(item, false);
        }
        chosen
    }

    /// Has what is to be placed written into its segments and syncs them. Where there was no room for all
    /// of it, the rest goes back to `pending`, with all that was chosen behind it. False where the
    /// store stopped.
    fn place(
        &mut self,
        chosen: &mut Chosen,
        place: &mut dyn FnMut(Vec<Part>) -> Option<Placement>,
    ) -> bool {
        let mut parts = Vec::new();
        for ChosenItem { item, .. } in chosen.items.iter_mut().filter(|item| item.is_placed) {
            let Change::Entries(entries) = &mut item.change else {
                unreachable!("only entries are placed")
            };
            let (group, branch) = (item.group.clone(), item.branch);
            parts.push(Part { group, branch, entries: std::mem::take(entries) });
        }
        let Some(placement) = place(parts) else { return false };
        if placement.is_full {
            let shared = &self.shared;
            shared.space.measure(&*shared.disk, shared.config.free_bytes_min);
            self.full_at = Some(shared.space.free());
        }
        self.take_in(chosen, placement);
        if let Err(error) = self.sync_placed(chosen) {
            self.shared.fatal.raise(error);
            return false;
        }
        true
    }

    /// Notes where the entries lie, and takes back what was not placed.
    fn take_in(&mut self, chosen: &mut Chosen, placement: Placement) {
        let mut parts = placement.parts.into_iter();
        let mut kept = VecDeque::with_capacity(chosen.items.len());
        let mut back: VecDeque<Item> = VecDeque::new();
        (chosen.bytes, chosen.placed_bytes) = (0, 0);
        for ChosenItem { mut item, is_placed, .. } in chosen.items.drain(..) {
            let mut extents = Vec::new();
            if is_placed {
                let part = parts.next().expect("every part is answered");
                chosen.placed_bytes += part.extents.iter().map(|e| e.to - e.from).sum::<u64>();
                extents = part.extents;
                if !part.left.is_empty() {
                    if !extents.is_empty() {
                        assert!(back.is_empty(), "nothing is placed behind what was not");
                        let item = part_of(&item, Change::Entries(Vec::new()));
                        kept.push_back(ChosenItem { item, is_placed, extents });
                    }
                    item.change = Change::Entries(part.left);
                    back.push_back(item);
                    continue;
                }
            }
            if back.is_empty() {
                chosen.bytes += item.change.entry_bytes();
                kept.push_back(ChosenItem { item, is_placed, extents });
            } else {
                assert!(extents.is_empty(), "nothing is placed behind what was not");
                back.push_back(item);
            }
        }
        chosen.items = kept;
        for item in back.into_iter().rev() {
            self.pending.push_front(item);
        }
        join_extents(chosen);
    }

    /// Syncs the segments, and their names where they are new.
    fn sync_placed(&self, chosen: &Chosen) -> Result<(), FatalError> {
        let mut segments: Vec<&Arc<Segment>> = Vec::new();
        for extent in chosen.items.iter().flat_map(|item| &item.extents) {
            if !segments.iter().any(|segment| Arc::ptr_eq(segment, &extent.segment)) {
                segments.push(&extent.segment);
            }
        }
        for segment in &segments {
            segment
                .sync()
                .map_err(|error| FatalError::medium("syncing", &segment.name().path(), error))?;
        }
        if segments.iter().any(|segment| !segment.is_named()) {
            let directory = header::DIRECTORY;
            let synced = self.shared.disk.sync_dir(directory);
            synced.map_err(|error| FatalError::medium("syncing", directory, error))?;
            segments.iter().for_each(|segment| segment.set_named());
        }
        Ok(())
    }

    /// Builds the block.
    fn encode(&mut self, chosen: &mut Chosen) {
        for ChosenItem { item, extents, .. } in &chosen.items {
            if !item.is_journaled() {
                continue;
            }
            let group = item.group.id().0;
            for extent in extents {
                record::push_placed(&mut self.block, group, &extent.record());
            }
            if let Change::Entries(entries) = &item.change {
                for entry in entries {
                    record::push_entry(&mut self.block, group, entry);
                }
            } else {
                let kind = record::encode_small(&item.change, &mut self.scratch);
                self.block.push(kind as u8, group, &[&self.scratch]);
            }
        }
        assert!(
            self.block.is_empty() || self.block.padded() <= chosen.size.padded(),
            "a block takes no more than was counted"
        );
    }

    fn write(&mut self) -> Result<(), FatalError> {
        if self.block.is_empty() {
            return Ok(());
        }
        let bytes = self.block.padded() as u64;
        self.writer.write(&mut self.block)?;
        self.block.clear();
        self.shared.counters.blocks.fetch_add(1, Ordering::Relaxed);
        self.shared.counters.journaled_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Ends everything pending with the store's error.
    pub(crate) fn fail(&mut self) {
        let error = self.shared.end_of_service();
        for done in self.pending.drain(..).filter_map(|item| item.done) {
            done(Err(error.clone()));
        }
    }
}

/// Index behind the entries of the group that are on stable storage with the item, where it says.
fn journaled_upto(item: &Item, extents: &[Extent]) -> Option<LogIndex> {
    match &item.change {
        Change::Entries(_) if item.durability == Durability::Memory => None,
        Change::Entries(entries) => {
            let placed = extents.last().map(|extent| extent.last.index);
            let last = entries.last().map(|entry| entry.header.index).or(placed);
            last.map(|last| LogIndex(last.0 + 1))
        }
        Change::Cut(cut) => Some(cut.end_index()),
        Change::Reset(reset) => Some(LogIndex(reset.last.index.0 + 1)),
        Change::Install(install) => Some(install.end_index()),
        Change::Create(_)
        | Change::Options(_)
        | Change::Delete
        | Change::Vote(_)
        | Change::Committed(_)
        | Change::Purge(_)
        | Change::Start(_)
        | Change::Compacted(_)
        | Change::Roll => None,
    }
}

/// The first entries of an item; nobody waits for them alone.
fn part_of(item: &Item, change: Change) -> Item {
    let (group, durability, branch) = (item.group.clone(), item.durability, item.branch);
    Item { group, durability, branch, change, done: None }
}

/// How many entries of an item fit the block.
fn choose_entries(chosen: &mut Chosen, entries: &[LogEntry], room: u64, limit: u64) -> usize {
    let mut taken = 0;
    for entry in entries {
        if !chosen.size.fit(record::entry_payload_bytes(entry), 1, room, limit) {
            break;
        }
        chosen.bytes += entry.bytes();
        taken += 1;
    }
    taken
}

/// How many entries of an item are placed, so that also the most records that may refer to them fit.
fn choose_placed(
    chosen: &mut Chosen,
    entries: &[LogEntry],
    most: u64,
    room: u64,
    limit: u64,
) -> usize {
    let (mut taken, mut bytes, mut records) = (0, 0, 0);
    for entry in entries {
        let placed = chosen.placed_bytes + entry.bytes();
        if placed > most && chosen.placed_bytes > 0 {
            break;
        }
        bytes += entry.bytes();
        // One more where a segment turns out to be damaged.
        let extents = (bytes / EXTENT_BYTES_MIN + 3).min(taken as u64 + 1) as usize;
        if extents > records {
            if !chosen.size.fit(record::PLACED_BYTES, extents - records, room, limit) {
                break;
            }
            records = extents;
        }
        chosen.placed_bytes = placed;
        taken += 1;
    }
    taken
}

/// Entries of a group that lie one behind the other need one record, however many items they came in:
/// nothing stands between them that depends on them.
fn join_extents(chosen: &mut Chosen) {
    let mut last_of: BTreeMap<GroupId, usize> = BTreeMap::new();
    for at in 0..chosen.items.len() {
        if chosen.items[at].extents.is_empty() {
            continue;
        }
        let id = chosen.items[at].item.group.id();
        match last_of.get(&id).copied() {
            None => drop(last_of.insert(id, at)),
            Some(first) => {
                for extent in std::mem::take(&mut chosen.items[at].extents) {
                    push_extent(&mut chosen.items[first].extents, extent);
                }
            }
        }
    }
}
