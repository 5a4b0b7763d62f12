//! Open files and maps of the simulated disk.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::Errno;

use super::super::{BLOCK_BYTES, DiskFile, Mapping, Mode};
use super::faults::Operation;
use super::medium::{FileId, Op};
use super::pages::SECTOR;
use super::{Shared, State};

/// Keeps a removed file's bytes while something still reads them.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    file: FileId,
}

impl Handle {
    fn new(shared: Arc<Shared>, state: &mut State, file: FileId) -> Self {
        *state.medium.open.entry(file).or_default() += 1;
        Self { shared, file }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(count) = state.medium.open.get_mut(&self.file) {
            *count -= 1;
            if *count == 0 {
                state.medium.open.remove(&self.file);
                state.medium.collect();
            }
        }
    }
}

/// A file of a [`SimDisk`](super::SimDisk).
#[derive(Debug)]
pub(super) struct SimFile {
    handle: Handle,
    mode: Mode,
}

impl SimFile {
    pub(super) fn new(shared: Arc<Shared>, state: &mut State, file: FileId, mode: Mode) -> Self {
        Self { handle: Handle::new(shared, state, file), mode }
    }

    fn file(&self) -> FileId {
        self.handle.file
    }

    /// What `O_DIRECT` refuses.
    fn check_aligned(&self, offset: u64, part: &[u8]) -> io::Result<()> {
        let aligned = offset.is_multiple_of(BLOCK_BYTES as u64)
            && part.len().is_multiple_of(BLOCK_BYTES)
            && part.as_ptr().addr().is_multiple_of(BLOCK_BYTES);
        if self.mode == Mode::Buffered || aligned { Ok(()) } else { Err(Errno::INVAL.into()) }
    }

    fn sync_now(&self, state: &mut State) -> io::Result<()> {
        let verdict = state.begin_on(Operation::Sync, self.file())?;
        if verdict.error.is_some() {
            state.carry_out(Op::LoseUnsynced { file: self.file() });
        }
        verdict.check()?;
        state.stats.syncs += 1;
        state.carry_out(Op::Sync { file: self.file() });
        Ok(())
    }

    /// A direct write that fails has written some of its sectors.
    fn leave_torn(&self, state: &mut State, offset: u64, data: &[u8]) {
        for (number, sector) in data.chunks(SECTOR).enumerate() {
            let at = offset + (number * SECTOR) as u64;
            let inside = at + sector.len() as u64 <= state.medium.inode(self.file()).current.len();
            if inside && state.random.chance(50) {
                let data = Bytes::copy_from_slice(sector);
                state.carry_out(Op::Write { file: self.file(), offset: at, data, direct: true });
            }
        }
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.handle.shared.lock().medium.inode(self.file()).current.len())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.handle.shared.lock();
        state.begin_on(Operation::Allocate, self.file())?.check()?;
        let now = state.medium.inode(self.file()).current.len();
        if bytes <= now {
            return Ok(());
        }
        let block = BLOCK_BYTES as u64;
        state.check_space(bytes.next_multiple_of(block) - now.next_multiple_of(block))?;
        state.carry_out(Op::Allocate { file: self.file(), bytes });
        Ok(())
    }

    fn write_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        for part in parts {
            self.check_aligned(offset, part)?;
        }
        let data: Bytes = match parts {
            [part] => Bytes::copy_from_slice(part),
            parts => parts.concat().into(),
        };
        let mut state = self.handle.shared.lock();
        let verdict = state.begin_on(Operation::Write, self.file())?;
        let direct = self.mode == Mode::Direct && state.medium.direct_access;
        if verdict.error == Some(Errno::IO) && direct {
            self.leave_torn(&mut state, offset, &data);
        }
        verdict.check()?;
        if data.is_empty() {
            return Ok(());
        }
        let (now, end) =
            (state.medium.inode(self.file()).current.len(), offset + data.len() as u64);
        let block = BLOCK_BYTES as u64;
        let more = end.next_multiple_of(block).saturating_sub(now.next_multiple_of(block));
        if more > 0 {
            state.check_space(more)?;
        }
        state.stats.writes += 1;
        state.stats.written_bytes += data.len() as u64;
        if !direct {
            state.make_resident(self.file(), offset..end);
        }
        state.carry_out(Op::Write { file: self.file(), offset, data, direct });
        if self.mode == Mode::Direct && !direct { self.sync_now(&mut state) } else { Ok(()) }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.check_aligned(offset, buffer)?;
        let range = offset..offset + buffer.len() as u64;
        let mut state = self.handle.shared.lock();
        state.begin_on(Operation::Read, self.file())?.check()?;
        if !state.faults.is_readable(self.file(), &range) {
            return Err(Errno::IO.into());
        }
        let pages = &state.medium.inode(self.file()).current;
        if range.end > pages.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        pages.read(offset, buffer);
        state.stats.reads += 1;
        if self.mode == Mode::Buffered {
            state.make_resident(self.file(), range);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_now(&mut self.handle.shared.lock())
    }

    fn map(&self, bytes: u64) -> io::Result<Arc<dyn Mapping>> {
        let mut state = self.handle.shared.lock();
        state.begin_on(Operation::Map, self.file())?.check()?;
        if bytes > state.medium.inode(self.file()).current.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let handle = Handle::new(Arc::clone(&self.handle.shared), &mut state, self.file());
        Ok(Arc::new(SimMapping { handle, bytes }))
    }
}

/// A map: it shows what is written to the file later too, like a real one; a slice is a copy of
/// the moment.
#[derive(Debug)]
struct SimMapping {
    handle: Handle,
    bytes: u64,
}

impl Mapping for SimMapping {
    fn len(&self) -> u64 {
        self.bytes
    }

    fn slice(self: Arc<Self>, range: Range<u64>) -> Bytes {
        assert!(range.start <= range.end && range.end <= self.bytes, "slice {range:?} of the map");
        let mut content = vec![0; (range.end - range.start) as usize];
        let mut state = self.handle.shared.lock();
        let file = self.handle.file;
        assert!(state.faults.is_readable(file, &range), "SIGBUS: {range:?} cannot be read");
        state.stats.cold_touches += state.count_cold(file, range.clone());
        state.medium.inode(file).current.read(range.start, &mut content);
        state.make_resident(file, range);
        content.into()
    }

    fn populate(&self, range: Range<u64>) -> io::Result<()> {
        assert!(
            range.start <= range.end && range.end <= self.bytes,
            "populate {range:?} of the map"
        );
        let mut state = self.handle.shared.lock();
        let file = self.handle.file;
        state.begin_on(Operation::Read, file)?.check()?;
        if !state.faults.is_readable(file, &range) {
            return Err(Errno::IO.into());
        }
        state.make_resident(file, range);
        Ok(())
    }
}
