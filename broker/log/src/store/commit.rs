//! Group commit: everything queued goes into one block, one direct write, then the completions are
//! called in order and the items are handed to the materialiser.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::queue::{Block, Item, Work};
use super::shared::Shared;
use crate::config::Durability;
use crate::entry::Change;
use crate::fatal::{Completion, FatalError};
use crate::journal::block::BlockBuilder;
use crate::journal::record;
use crate::journal::writer::JournalWriter;

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

/// Items that share a block.
#[derive(Default)]
struct Gathered {
    items: VecDeque<Item>,
    done: Vec<Completion>,
    bytes: u64,
}

impl GroupCommit {
    pub(crate) fn new(shared: Arc<Shared>, writer: JournalWriter) -> Self {
        let block = BlockBuilder::new(shared.config.block_bytes as usize);
        let (pending, scratch) = (VecDeque::new(), Vec::new());
        Self { shared, writer, block, pending, scratch, checkpointed: false }
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

    /// Journals one block of what is pending.
    pub(crate) fn commit(&mut self) -> Commit {
        if self.pending.is_empty() {
            return Commit::Idle;
        }
        if self.shared.fatal.is_set() {
            self.fail();
            return Commit::Done;
        }
        let mut gathered = self.gather();
        if gathered.items.is_empty() {
            if self.head_changes_durability() && !self.checkpointed {
                return Commit::NeedsCheckpoint;
            }
            if !self.writer.next_file() {
                return Commit::NeedsFile;
            }
            self.shared.requests.wake();
            gathered = self.gather();
            assert!(!gathered.items.is_empty(), "what was appended fits an empty file");
        }
        if let Err(error) = self.write() {
            self.shared.fatal.raise(error);
            gathered.done.extend(gathered.items.iter_mut().filter_map(|item| item.done.take()));
            let error = self.shared.end_of_service();
            for done in gathered.done {
                done(Err(error.clone()));
            }
            self.fail();
            return Commit::Done;
        }
        for done in gathered.done {
            done(Ok(()));
        }
        self.shared.count_towards_checkpoint(gathered.bytes);
        self.shared.material.push(Work::Block(Block {
            items: gathered.items,
            end: self.writer.position(),
            bytes: gathered.bytes,
        }));
        Commit::Done
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

    fn head_changes_durability(&self) -> bool {
        self.pending.front().is_some_and(|item| match &item.change {
            Change::Options(options) => options.durability != item.durability,
            _ => false,
        })
    }

    /// Moves items from `pending` into the block until it is full.
    fn gather(&mut self) -> Gathered {
        let mut gathered = Gathered::default();
        while let Some(item) = self.pending.front_mut() {
            if !item.is_journaled() {
                let bytes = item.change.entry_bytes();
                if gathered.bytes + bytes > self.shared.config.block_bytes
                    && !gathered.items.is_empty()
                {
                    break;
                }
                gathered.bytes += bytes;
                gathered.items.extend(self.pending.pop_front());
                continue;
            }
            let may_use_reserve = item.change.is_small();
            let room = self.writer.room(may_use_reserve);
            let group = item.group.id().0;
            let limit = self.shared.config.block_bytes;
            if let Change::Entries(entries) = &mut item.change {
                let mut taken = 0;
                for entry in entries.iter() {
                    let payload = record::entry_payload_bytes(entry);
                    if !fits(&self.block, payload, room, limit) {
                        break;
                    }
                    record::push_entry(&mut self.block, group, entry);
                    gathered.bytes += entry.bytes();
                    taken += 1;
                }
                if taken < entries.len() {
                    if taken > 0 {
                        let rest = entries.split_off(taken);
                        let part = std::mem::replace(entries, rest);
                        gathered.items.push_back(Item {
                            group: item.group.clone(),
                            durability: item.durability,
                            branch: item.branch,
                            change: Change::Entries(part),
                            done: None,
                        });
                    }
                    break;
                }
            } else {
                if let Change::Options(options) = &item.change
                    && options.durability != item.durability
                    && !(self.checkpointed && gathered.items.is_empty())
                {
                    break;
                }
                let kind = record::encode_small(&item.change, &mut self.scratch);
                if !fits(&self.block, self.scratch.len(), room, limit) {
                    break;
                }
                self.block.push(kind as u8, group, &[&self.scratch]);
                self.checkpointed = false;
            }
            // What a memory group waits for is the materialiser, for all its changes, so that they
            // complete in order.
            if item.durability == Durability::Durable {
                gathered.done.extend(item.done.take());
            }
            gathered.items.extend(self.pending.pop_front());
        }
        gathered
    }

    /// Ends everything pending with the store's error.
    pub(crate) fn fail(&mut self) {
        let error = self.shared.end_of_service();
        for done in self.pending.drain(..).filter_map(|item| item.done) {
            done(Err(error.clone()));
        }
    }
}

/// Whether a record fits the block, and the block the file.
fn fits(block: &BlockBuilder, payload: usize, room: u64, limit: u64) -> bool {
    if block.is_empty() {
        BlockBuilder::padded_alone(payload) as u64 <= room
    } else {
        block.padded_with(payload) as u64 <= room.min(limit)
    }
}
