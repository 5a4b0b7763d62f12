//! Reads the journal back, and tells a torn tail from damage.
//!
//! Blocks are numbered without gaps. Where the block that must come next is not there, the next file
//! is looked at: a writer that was stopped, or whose file was full, went on there with the very same
//! number. Where it is not there either, this is the end of the journal *if* no later block of this
//! life says that the missing one was durable; if one does, the medium lost what it had confirmed,
//! and nothing may be cut.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use super::block::{self, BlockHeader, RawRecord};
use super::file::{self, JournalFile};
use super::{BlockSeq, FileSeq, JournalPosition};
use crate::disk::{AlignedBuffer, BLOCK_BYTES, Disk, Mode};
use crate::header::{HEADER_BYTES, HeaderError, Identity};

const WINDOW_BYTES: usize = 4 * 1024 * 1024;
const PAGE: u64 = BLOCK_BYTES as u64;

/// A block that was read back.
pub(crate) struct ReadBlock {
    pub(crate) file: FileSeq,
    pub(crate) offset: u64,
    pub(crate) header: BlockHeader,
    /// Header, records, padding.
    pub(crate) bytes: Bytes,
    pub(crate) records: Vec<RawRecord>,
}

/// Why the journal cannot be read to its end.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// The medium failed.
    #[error("reading {path} failed: {source}")]
    Medium {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file that is needed has no valid header.
    #[error("{path} cannot be used: {error}")]
    Header {
        /// The file.
        path: String,
        /// Why.
        error: HeaderError,
    },
    /// A file that is needed is not there.
    #[error("{path} is missing: the checkpoint needs the journal from there on")]
    Missing {
        /// The file.
        path: String,
    },
    /// A block that was durable is damaged or gone.
    #[error(
        "{path} is damaged at byte {position}: block {block} is missing there, and block {witness} at \
         byte {witness_position} of {witness_path} says that it was on stable storage"
    )]
    Damaged {
        /// Where the block should be.
        path: String,
        /// At which byte.
        position: u64,
        /// The missing block.
        block: u64,
        /// The file of a later block.
        witness_path: String,
        /// Where it is.
        witness_position: u64,
        /// Its number.
        witness: u64,
    },
}

/// Where a block lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockPlace {
    pub(crate) file: FileSeq,
    pub(crate) offset: u64,
    /// Whole pages.
    pub(crate) bytes: usize,
}

/// Writes a block once more where it lies, and so makes it durable. A sync would not do: the write
/// of an earlier process may have failed, and then the cache holds bytes that count as clean and
/// never reach the medium.
pub(crate) fn make_durable(disk: &dyn Disk, place: BlockPlace) -> io::Result<()> {
    let file = disk.open(&file::path(place.file), Mode::Direct)?;
    let mut block = AlignedBuffer::new(place.bytes);
    file.read_at(place.offset, block.as_mut_slice())?;
    file.write_at(place.offset, &[block.as_slice()])?;
    file.sync()
}

/// Where the journal ends.
#[derive(Debug)]
pub(crate) struct JournalEnd {
    /// The last file with blocks of this life, and the position after them.
    pub(crate) tail: Option<(FileSeq, u64)>,
    /// The last block that was read back: the only one that may not be on stable storage.
    pub(crate) last_block: Option<BlockPlace>,
    pub(crate) next_block: BlockSeq,
    /// Files with blocks from the starting position on, oldest first.
    pub(crate) live: Vec<FileSeq>,
    /// Files after the tail that hold nothing.
    pub(crate) unused: Vec<FileSeq>,
}

/// Reads one file in large aligned pieces.
pub(crate) struct FileScan {
    opened: JournalFile,
    crc_start: u32,
    window: Bytes,
    window_start: u64,
}

struct Window(AlignedBuffer);

impl AsRef<[u8]> for Window {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

impl FileScan {
    pub(crate) fn new(opened: JournalFile) -> Self {
        let crc_start = opened.header.salt.crc_start();
        Self { opened, crc_start, window: Bytes::new(), window_start: 0 }
    }

    pub(crate) fn seq(&self) -> FileSeq {
        self.opened.header.seq
    }

    fn path(&self) -> String {
        file::path(self.seq())
    }

    fn end(&self) -> u64 {
        self.opened.header.file_bytes
    }

    /// At least `needed` bytes at `offset`, which must lie in the file.
    fn bytes_at(&mut self, offset: u64, needed: usize) -> Result<Bytes, ReplayError> {
        debug_assert!(offset + needed as u64 <= self.end());
        let inside = offset.checked_sub(self.window_start).map(|at| at as usize);
        if let Some(at) = inside.filter(|at| at + needed <= self.window.len()) {
            return Ok(self.window.slice(at..));
        }
        let length = needed.max(WINDOW_BYTES).min((self.end() - offset) as usize);
        let mut buffer = AlignedBuffer::new(length);
        self.opened
            .file
            .read_at(offset, buffer.as_mut_slice())
            .map_err(|source| ReplayError::Medium { path: self.path(), source })?;
        self.window = Bytes::from_owner(Window(buffer));
        self.window_start = offset;
        Ok(self.window.clone())
    }

    /// The block at a position, if a valid one of this life begins there.
    pub(crate) fn block_at(&mut self, offset: u64) -> Result<Option<ReadBlock>, ReplayError> {
        if offset + PAGE > self.end() {
            return Ok(None);
        }
        let first = self.bytes_at(offset, BLOCK_BYTES)?;
        let Ok(header) = BlockHeader::parse(&first, self.end() - offset) else {
            return Ok(None);
        };
        let bytes = self.bytes_at(offset, header.padded() as usize)?;
        let bytes = bytes.slice(..header.padded() as usize);
        if header.check(&bytes, self.crc_start).is_err() {
            return Ok(None);
        }
        let Ok(records) = block::records(&bytes, &header) else {
            return Ok(None);
        };
        Ok(Some(ReadBlock { file: self.seq(), offset, header, bytes, records }))
    }

    /// The first valid block at or after a position with at least this number.
    fn find(&mut self, mut offset: u64, from: BlockSeq) -> Result<Option<ReadBlock>, ReplayError> {
        while offset + PAGE <= self.end() {
            let page = self.bytes_at(offset, BLOCK_BYTES)?;
            let candidate = BlockHeader::parse(&page, self.end() - offset);
            if candidate.is_ok_and(|header| header.seq >= from)
                && let Some(block) = self.block_at(offset)?
            {
                return Ok(Some(block));
            }
            offset += PAGE;
        }
        Ok(None)
    }
}

fn open(disk: &dyn Disk, identity: &Identity, seq: FileSeq) -> Result<FileScan, ReplayError> {
    let path = || file::path(seq);
    match file::open(disk, identity, seq) {
        Err(source) => Err(ReplayError::Medium { path: path(), source }),
        Ok(Err(error)) => Err(ReplayError::Header { path: path(), error }),
        Ok(Ok(opened)) => Ok(FileScan::new(opened)),
    }
}

/// Calls `apply` with each block after `from`, in order; without `from`, with every block there is.
pub(crate) fn replay<E: From<ReplayError>>(
    disk: &Arc<dyn Disk>,
    identity: &Identity,
    from: Option<JournalPosition>,
    mut apply: impl FnMut(ReadBlock) -> Result<(), E>,
) -> Result<JournalEnd, E> {
    let listed = file::list(&**disk)
        .map_err(|source| ReplayError::Medium { path: file::DIRECTORY.to_owned(), source })?;
    let first = from.map_or(FileSeq(0), |position| position.file);
    if from.is_some() && !listed.contains(&first) {
        return Err(ReplayError::Missing { path: file::path(first) }.into());
    }
    let mut end = JournalEnd {
        tail: from.map(|position| (position.file, position.offset)),
        last_block: None,
        next_block: from.map_or(BlockSeq(1), |position| position.next_block),
        live: from.map(|position| position.file).into_iter().collect(),
        unused: Vec::new(),
    };
    // Scans of the last file with blocks, and of files after it in which the next block did not begin.
    let mut tail: Option<FileScan> = None;
    let mut skipped: Vec<FileScan> = Vec::new();
    for &seq in listed.iter().filter(|&&seq| seq >= first) {
        let mut scan = open(&**disk, identity, seq)?;
        let mut offset = match from {
            Some(position) if position.file == seq => position.offset,
            _ => HEADER_BYTES as u64,
        };
        let mut went_on = from.is_some_and(|position| position.file == seq);
        while let Some(block) = scan.block_at(offset)?.filter(|b| b.header.seq == end.next_block) {
            went_on = true;
            let bytes = block.bytes.len();
            end.last_block = Some(BlockPlace { file: seq, offset, bytes });
            offset += block.header.padded();
            end.next_block = end.next_block.next();
            apply(block)?;
        }
        if went_on {
            // Files that were passed over held nothing; the numbering went on behind them.
            end.unused.extend(skipped.drain(..).map(|scan| scan.seq()));
            if end.live.last() != Some(&seq) {
                end.live.push(seq);
            }
            end.tail = Some((seq, offset));
            tail = Some(scan);
        } else {
            skipped.push(scan);
        }
    }
    let missing = end.tail.map(|(seq, offset)| (file::path(seq), offset));
    let after = end.tail.map_or(HEADER_BYTES as u64, |(_, offset)| offset);
    let scans = tail.iter_mut().map(|scan| (after, scan));
    for (offset, scan) in scans.chain(skipped.iter_mut().map(|scan| (HEADER_BYTES as u64, scan))) {
        let Some(witness) = scan.find(offset, end.next_block)? else { continue };
        if witness.header.durable < end.next_block {
            continue;
        }
        let (path, position) =
            missing.clone().unwrap_or_else(|| (scan.path(), HEADER_BYTES as u64));
        return Err(ReplayError::Damaged {
            path,
            position,
            block: end.next_block.0,
            witness_path: file::path(witness.file),
            witness_position: witness.offset,
            witness: witness.header.seq.0,
        }
        .into());
    }
    end.unused.extend(skipped.iter().map(FileScan::seq));
    Ok(end)
}
