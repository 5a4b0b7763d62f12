//! Checkpoint files: written in full under another name, synced, renamed; read back whole.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use plimsoll_protocol::ids::{GroupId, LogId};
use thiserror::Error;

use super::CheckpointSeq;
use super::codec::{self, CheckpointHeader, Piece};
use crate::disk::{Disk, DiskFile, Mode};
use crate::fatal::of_sync;
use crate::fields::FieldError;
use crate::group::error::ReadError;
use crate::header::{HEADER_BYTES, HeaderError, Identity};

pub(crate) const DIRECTORY: &str = "checkpoint";
const EXTENSION: &str = ".checkpoint";
const UNFINISHED: &str = ".tmp";
/// Ending of a damaged checkpoint that was put aside.
pub(crate) const QUARANTINE: &str = ".quarantine";

pub(crate) fn path(seq: CheckpointSeq) -> String {
    format!("{DIRECTORY}/{:016x}{EXTENSION}", seq.0)
}

fn seq_of(name: &str) -> Option<CheckpointSeq> {
    let digits = name.strip_suffix(EXTENSION)?;
    if digits.len() != 16 {
        return None;
    }
    u64::from_str_radix(digits, 16).ok().map(CheckpointSeq)
}

/// The checkpoints there are, oldest first, valid or not.
pub(crate) fn list(disk: &dyn Disk) -> io::Result<Vec<CheckpointSeq>> {
    let mut found: Vec<_> = disk.list(DIRECTORY)?.iter().filter_map(|name| seq_of(name)).collect();
    found.sort_unstable();
    Ok(found)
}

/// The highest number any file here has or had, damaged ones included.
pub(crate) fn highest_seq(disk: &dyn Disk) -> io::Result<Option<CheckpointSeq>> {
    let names = disk.list(DIRECTORY)?;
    let numbers = names.iter().filter_map(|name| u64::from_str_radix(name.get(..16)?, 16).ok());
    Ok(numbers.max().map(CheckpointSeq))
}

/// Paths of the damaged checkpoints that were put aside, now or in an earlier life.
pub(crate) fn quarantined(disk: &dyn Disk) -> io::Result<Vec<String>> {
    let names = disk.list(DIRECTORY)?.into_iter().filter(|name| name.ends_with(QUARANTINE));
    Ok(names.map(|name| format!("{DIRECTORY}/{name}")).collect())
}

/// Removes what an interrupted writer left.
pub(crate) fn remove_unfinished(disk: &dyn Disk) -> io::Result<()> {
    for name in disk.list(DIRECTORY)? {
        if name.ends_with(UNFINISHED) {
            disk.remove(&format!("{DIRECTORY}/{name}"))?;
        }
    }
    Ok(())
}

/// Puts a damaged checkpoint aside; it is never deleted.
pub(crate) fn quarantine(disk: &dyn Disk, seq: CheckpointSeq) -> io::Result<()> {
    let path = path(seq);
    disk.rename(&path, &format!("{path}{QUARANTINE}"))?;
    disk.sync_dir(DIRECTORY)
}

/// Why a checkpoint file cannot be used.
#[derive(Debug, Error)]
pub(crate) enum CheckpointError {
    /// The medium failed.
    #[error(transparent)]
    Medium(#[from] io::Error),
    /// Its header.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// It is shorter or longer than its header says.
    #[error("it has {actual} bytes, its header says {expected}")]
    Length {
        /// What the header says.
        expected: u64,
        /// What it has.
        actual: u64,
    },
    /// The checksum of what follows the header.
    #[error("the checksum of its content is wrong")]
    Checksum,
    /// A group's piece.
    #[error("its piece at byte {position}: {error}")]
    Piece {
        /// Where the piece begins in the file.
        position: u64,
        /// What is wrong.
        error: FieldError,
    },
}

/// A written checkpoint and where each group's piece lies in it.
#[derive(Debug)]
pub(crate) struct CheckpointFile {
    pub(crate) header: CheckpointHeader,
    file: Arc<dyn DiskFile>,
    /// Byte positions in the file.
    pieces: BTreeMap<GroupId, Range<u64>>,
}

/// A checkpoint that was read from its file.
pub(crate) struct ReadCheckpoint {
    pub(crate) file: CheckpointFile,
    pub(crate) pieces: Vec<Piece>,
    /// The file's bytes; the ranges of the pieces' states lie within the pieces.
    bytes: Bytes,
}

impl ReadCheckpoint {
    /// The state of a piece.
    pub(crate) fn state(&self, piece: &Piece) -> Option<(LogId, Bytes)> {
        let (applied, range) = piece.state.clone()?;
        let start = self.file.pieces[&piece.record.group].start as usize;
        Some((applied, self.bytes.slice(start + range.start..start + range.end)))
    }
}

/// Reads and checks a checkpoint.
pub(crate) fn read(
    disk: &dyn Disk,
    identity: &Identity,
    seq: CheckpointSeq,
) -> Result<ReadCheckpoint, CheckpointError> {
    let file = disk.open(&path(seq), Mode::Buffered)?;
    let length = file.len()?;
    if length < HEADER_BYTES as u64 {
        return Err(CheckpointError::Length { expected: HEADER_BYTES as u64, actual: length });
    }
    let mut bytes = vec![0; length as usize];
    file.read_at(0, &mut bytes)?;
    let header = CheckpointHeader::decode(identity, &bytes[..HEADER_BYTES])?;
    if header.seq != seq {
        return Err(HeaderError::Misplaced.into());
    }
    if header.body_bytes != length - HEADER_BYTES as u64 {
        let expected = header.body_bytes.saturating_add(HEADER_BYTES as u64);
        return Err(CheckpointError::Length { expected, actual: length });
    }
    if crc32fast::hash(&bytes[HEADER_BYTES..]) != header.body_crc {
        return Err(CheckpointError::Checksum);
    }
    let (mut pieces, mut places) = (Vec::new(), BTreeMap::new());
    let mut at = HEADER_BYTES;
    while at < bytes.len() {
        let broken = |error| CheckpointError::Piece { position: at as u64, error };
        let (length, group) = codec::piece_extent(&bytes[at..]).map_err(broken)?;
        pieces.push(codec::read_piece(&bytes[at..at + length]).map_err(broken)?);
        places.insert(group, at as u64..(at + length) as u64);
        at += length;
    }
    let bytes = Bytes::from(bytes);
    Ok(ReadCheckpoint { file: CheckpointFile { header, file, pieces: places }, pieces, bytes })
}

/// Collects the pieces of a new checkpoint.
#[derive(Debug, Default)]
pub(crate) struct CheckpointBuilder {
    bytes: Vec<u8>,
    pieces: BTreeMap<GroupId, Range<u64>>,
}

impl CheckpointBuilder {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; HEADER_BYTES], pieces: BTreeMap::new() }
    }

    /// Adds a group; groups come in ascending order.
    pub(crate) fn add(&mut self, group: GroupId, put: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len() as u64;
        put(&mut self.bytes);
        self.pieces.insert(group, start..self.bytes.len() as u64);
    }

    /// Writes the file; it is durable, under its name, on return.
    pub(crate) fn write(
        mut self,
        disk: &dyn Disk,
        identity: &Identity,
        mut header: CheckpointHeader,
    ) -> io::Result<CheckpointFile> {
        header.groups = self.pieces.len() as u64;
        header.body_bytes = (self.bytes.len() - HEADER_BYTES) as u64;
        header.body_crc = crc32fast::hash(&self.bytes[HEADER_BYTES..]);
        self.bytes[..HEADER_BYTES].copy_from_slice(&header.encode(identity));
        let path = path(header.seq);
        let unfinished = format!("{path}{UNFINISHED}");
        if disk.exists(&unfinished)? {
            disk.remove(&unfinished)?;
        }
        let fill = || {
            let file = disk.create(&unfinished, Mode::Buffered)?;
            file.allocate(self.bytes.len() as u64)?;
            file.write_at(0, &[&self.bytes])?;
            file.sync()?;
            io::Result::Ok(file)
        };
        let filled = fill();
        if filled.is_err() {
            // The space is needed elsewhere; that it cannot be removed either changes nothing.
            let _ = disk.remove(&unfinished);
        }
        let file = filled?;
        disk.rename(&unfinished, &path)?;
        // Until here all was of a file that the next attempt makes anew.
        disk.sync_dir(DIRECTORY).map_err(of_sync)?;
        Ok(CheckpointFile { header, file, pieces: self.pieces })
    }
}

impl CheckpointFile {
    /// The groups in it.
    pub(crate) fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.pieces.keys().copied()
    }

    /// All bytes of the file, to carry pieces over. Blocks.
    pub(crate) fn read_all(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; HEADER_BYTES + self.header.body_bytes as usize];
        self.file.read_at(0, &mut bytes)?;
        Ok(bytes)
    }

    /// Where a group's piece lies in the file.
    pub(crate) fn place(&self, group: GroupId) -> Option<Range<usize>> {
        let place = self.pieces.get(&group)?;
        Some(place.start as usize..place.end as usize)
    }

    /// Reads a group's state back. Blocks.
    pub(crate) fn read_state(&self, group: GroupId) -> Result<Option<(LogId, Bytes)>, ReadError> {
        let Some(place) = self.place(group) else { return Ok(None) };
        let mut piece = vec![0; place.len()];
        let path = || path(self.header.seq);
        self.file.read_at(place.start as u64, &mut piece).map_err(|source| ReadError::Medium {
            operation: "reading",
            path: path(),
            source,
        })?;
        let read = codec::read_piece(&piece).map_err(|_| ReadError::State { path: path() })?;
        let piece = Bytes::from(piece);
        Ok(read.state.map(|(applied, range)| (applied, piece.slice(range))))
    }
}
