//! Appends blocks to the journal, and keeps the next file ready.
//!
//! [`JournalWriter`] belongs to the journal thread. [`JournalFiles`] is shared with the checkpoint
//! thread, which makes the next file ahead of need and knows which old ones may be used again.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::block::BlockBuilder;
use super::file::{self, JournalFile, JournalHeader};
use super::{BlockSeq, FileSeq, JournalPosition};
use crate::disk::{Disk, DiskFile};
use crate::fatal::FatalError;
use crate::header::{HEADER_BYTES, Identity};
use crate::parking::{Condvar, Mutex};
use crate::random::Random;

/// Which files exist, and the one that comes next.
pub(crate) struct JournalFiles {
    disk: Arc<dyn Disk>,
    identity: Identity,
    random: Arc<Random>,
    file_bytes: u64,
    bytes_max: u64,
    state: Mutex<FilesState>,
    changed: Condvar,
}

struct FilesState {
    /// Files with blocks, oldest first; the last one is being written.
    live: VecDeque<FileSeq>,
    /// Made and headed, without blocks.
    spare: Option<JournalFile>,
    /// Files of the right size that hold nothing.
    unused: Vec<FileSeq>,
    next_seq: FileSeq,
    next_block: BlockSeq,
    /// The newest checkpoint needs files from here.
    needed_by_newest: FileSeq,
    /// The older kept checkpoint needs files from here.
    needed_by_older: FileSeq,
}

/// What [`JournalFiles::prepare`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prepared {
    /// A next file is ready.
    Ready,
    /// All files are in use; a checkpoint must free one first.
    NeedsCheckpoint,
}

impl JournalFiles {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        identity: Identity,
        random: Arc<Random>,
        file_bytes: u64,
        bytes_max: u64,
    ) -> Self {
        let state = FilesState {
            live: VecDeque::new(),
            spare: None,
            unused: Vec::new(),
            next_seq: FileSeq(1),
            next_block: BlockSeq(1),
            needed_by_newest: FileSeq(0),
            needed_by_older: FileSeq(0),
        };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Self { disk, identity, random, file_bytes, bytes_max, state, changed }
    }

    /// Takes over the files that were found when the store was opened.
    pub(crate) fn adopt(&self, found: FoundFiles) {
        let mut state = self.state.lock();
        state.live = found.live.into();
        state.unused = found.unused;
        state.next_seq = found.next_seq;
        state.next_block = found.next_block;
        state.needed_by_newest = found.needed_by_newest;
        state.needed_by_older = found.needed_by_older;
    }

    /// Sees to it that a next file is ready, by using an old one again or making a new one.
    pub(crate) fn prepare(&self) -> Result<Prepared, (FileSeq, io::Error)> {
        self.prepare_within(self.bytes_max)
    }

    /// As [`JournalFiles::prepare`], whatever the size of all files is: an opened store always goes on
    /// in a fresh one.
    pub(crate) fn prepare_beyond_limit(&self) -> Result<Prepared, (FileSeq, io::Error)> {
        self.prepare_within(u64::MAX)
    }

    fn prepare_within(&self, bytes_max: u64) -> Result<Prepared, (FileSeq, io::Error)> {
        let (header, old) = {
            let mut state = self.state.lock();
            if state.spare.is_some() {
                return Ok(Prepared::Ready);
            }
            let files = state.live.len() + state.unused.len();
            let may_grow = (files as u64 + 1) * self.file_bytes <= bytes_max;
            let oldest = state.live.front().copied().filter(|_| state.live.len() > 1);
            let old = if let Some(unused) = state.unused.pop() {
                Some(unused)
            } else if oldest.is_some_and(|seq| seq < state.needed_by_older)
                || !may_grow && oldest.is_some_and(|seq| seq < state.needed_by_newest)
            {
                state.live.pop_front()
            } else if may_grow {
                None
            } else {
                return Ok(Prepared::NeedsCheckpoint);
            };
            let seq = state.next_seq;
            state.next_seq = FileSeq(seq.0 + 1);
            let header = JournalHeader {
                seq,
                blocks_from: state.next_block,
                salt: self.random.salt(),
                file_bytes: self.file_bytes,
            };
            (header, old)
        };
        let made = match old {
            Some(old) => file::recycle(&*self.disk, &self.identity, old, header),
            None => file::create(&*self.disk, &self.identity, header),
        };
        let made = match made {
            Err(error) if error.kind() == io::ErrorKind::StorageFull && old.is_none() => {
                match self.take_needed_by_older_only() {
                    Some(old) => file::recycle(&*self.disk, &self.identity, old, header),
                    None => Err(error),
                }
            }
            made => made,
        };
        let spare = made.map_err(|error| (header.seq, error))?;
        self.state.lock().spare = Some(spare);
        self.changed.notify_all();
        Ok(Prepared::Ready)
    }

    /// On a full disk: a file that only the older of the two checkpoints needs.
    fn take_needed_by_older_only(&self) -> Option<FileSeq> {
        let mut state = self.state.lock();
        let newest = state.needed_by_newest;
        let free = state.live.len() > 1 && state.live.front().is_some_and(|&seq| seq < newest);
        if free { state.live.pop_front() } else { None }
    }

    /// Notes what the two kept checkpoints need.
    pub(crate) fn needed(&self, by_newest: FileSeq, by_older: FileSeq) {
        let mut state = self.state.lock();
        state.needed_by_newest = by_newest;
        state.needed_by_older = by_older;
    }

    /// Number of the file that is made next.
    pub(crate) fn next_seq(&self) -> FileSeq {
        self.state.lock().next_seq
    }

    pub(crate) fn has_spare(&self) -> bool {
        self.state.lock().spare.is_some()
    }

    /// Bytes of all files, and their number.
    pub(crate) fn size(&self) -> (u64, usize) {
        let state = self.state.lock();
        let files = state.live.len() + state.unused.len() + usize::from(state.spare.is_some());
        (files as u64 * self.file_bytes, files)
    }

    /// Waits until a next file is ready or `given_up` says so.
    pub(crate) fn wait_for_spare(&self, given_up: impl Fn() -> bool) {
        let mut state = self.state.lock();
        while state.spare.is_none() && !given_up() {
            state = self.changed.wait(state);
        }
    }

    /// Lets a waiter look again whether it should give up.
    pub(crate) fn wake(&self) {
        drop(self.state.lock());
        self.changed.notify_all();
    }

    fn take_spare(&self, next_block: BlockSeq) -> Option<JournalFile> {
        let mut state = self.state.lock();
        state.next_block = next_block;
        let spare = state.spare.take()?;
        state.live.push_back(spare.header.seq);
        Some(spare)
    }
}

/// The files found when the store was opened.
#[derive(Debug)]
pub(crate) struct FoundFiles {
    pub(crate) live: Vec<FileSeq>,
    pub(crate) unused: Vec<FileSeq>,
    pub(crate) next_seq: FileSeq,
    pub(crate) next_block: BlockSeq,
    pub(crate) needed_by_newest: FileSeq,
    pub(crate) needed_by_older: FileSeq,
}

/// Writes blocks, one at a time.
pub(crate) struct JournalWriter {
    files: Arc<JournalFiles>,
    seq: FileSeq,
    file: Arc<dyn DiskFile>,
    crc_start: u32,
    offset: u64,
    next_block: BlockSeq,
    reserve_bytes: u64,
}

impl JournalWriter {
    /// Begins in the file that `files` has ready: never in one that already holds blocks, so that
    /// nothing acknowledged is ever overwritten or extended.
    pub(crate) fn begin(
        files: Arc<JournalFiles>,
        next_block: BlockSeq,
        reserve_bytes: u64,
    ) -> Option<Self> {
        let JournalFile { header, file } = files.take_spare(next_block)?;
        Some(Self {
            files,
            seq: header.seq,
            file,
            crc_start: header.salt.crc_start(),
            offset: HEADER_BYTES as u64,
            next_block,
            reserve_bytes,
        })
    }

    /// Largest block that any file can take.
    pub(crate) fn block_bytes_max(file_bytes: u64, reserve_bytes: u64) -> u64 {
        file_bytes - HEADER_BYTES as u64 - reserve_bytes
    }

    /// Bytes that a block may have in the current file. While no next file is ready, the end of the
    /// file is kept for `small` changes.
    pub(crate) fn room(&self, small: bool) -> u64 {
        let room = self.files.file_bytes - self.offset;
        if small || self.files.has_spare() { room } else { room.saturating_sub(self.reserve_bytes) }
    }

    /// Goes on in the next file; false when none is ready.
    pub(crate) fn next_file(&mut self) -> bool {
        let Some(JournalFile { header, file }) = self.files.take_spare(self.next_block) else {
            return false;
        };
        self.seq = header.seq;
        self.file = file;
        self.crc_start = header.salt.crc_start();
        self.offset = HEADER_BYTES as u64;
        true
    }

    /// Writes one block; it is durable on return.
    pub(crate) fn write(&mut self, block: &mut BlockBuilder) -> Result<(), FatalError> {
        // One write is in flight at a time, so everything before this block is durable.
        let durable = BlockSeq(self.next_block.0 - 1);
        let bytes = block.finish(self.next_block, durable, self.crc_start);
        assert!(self.offset + bytes.len() as u64 <= self.files.file_bytes, "a block fits its file");
        self.file
            .write_at(self.offset, &[bytes])
            .map_err(|error| FatalError::medium("writing", &file::path(self.seq), error))?;
        self.offset += bytes.len() as u64;
        self.next_block = self.next_block.next();
        Ok(())
    }

    /// Where the next block goes.
    pub(crate) fn position(&self) -> JournalPosition {
        JournalPosition { file: self.seq, offset: self.offset, next_block: self.next_block }
    }
}
