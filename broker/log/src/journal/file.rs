//! Journal files: their names, headers, and how one is made or used again.
//!
//! A file is made in full before it gets its name: allocated, overwritten with zeros (so that a later
//! direct write changes no metadata), headed, synced. A file whose blocks are no longer needed is
//! taken out of the numbering first, then gets a new salt and the next number; the blocks in it then
//! belong to another life and never validate again.

use std::io;
use std::sync::Arc;

use super::{BlockSeq, FileSeq};
use crate::disk::{AlignedBuffer, BLOCK_BYTES, Disk, DiskFile, Mode};
use crate::fatal::of_sync;
use crate::fields::FieldWriter;
use crate::header::{self, HEADER_BYTES, HeaderError, Identity};
use crate::random::Salt;

pub(crate) const DIRECTORY: &str = "journal";
const EXTENSION: &str = ".journal";
/// Ending of files that are being made; whatever has it is nobody's.
pub(crate) const UNFINISHED: &str = ".tmp";
const MAGIC: [u8; 8] = *b"PLMJRNL1";
const ZEROS_BYTES: usize = 4 * 1024 * 1024;

/// What a journal file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JournalHeader {
    /// Its number; later files have larger numbers.
    pub(crate) seq: FileSeq,
    /// No block in it has a lower number.
    pub(crate) blocks_from: BlockSeq,
    /// Starts the checksums of its blocks.
    pub(crate) salt: Salt,
    /// Its size.
    pub(crate) file_bytes: u64,
}

pub(crate) fn path(seq: FileSeq) -> String {
    format!("{DIRECTORY}/{:016x}{EXTENSION}", seq.0)
}

fn unfinished_path(seq: FileSeq) -> String {
    path(seq) + UNFINISHED
}

/// The number in a file's name.
pub(crate) fn seq_of(name: &str) -> Option<FileSeq> {
    let digits = name.strip_suffix(EXTENSION)?;
    if digits.len() != 16 {
        return None;
    }
    u64::from_str_radix(digits, 16).ok().map(FileSeq)
}

/// All journal files by number, oldest first.
pub(crate) fn list(disk: &dyn Disk) -> io::Result<Vec<FileSeq>> {
    let mut found: Vec<FileSeq> =
        disk.list(DIRECTORY)?.iter().filter_map(|name| seq_of(name)).collect();
    found.sort_unstable();
    Ok(found)
}

/// A file that can take blocks.
#[derive(Debug)]
pub(crate) struct JournalFile {
    pub(crate) header: JournalHeader,
    pub(crate) file: Arc<dyn DiskFile>,
}

fn encode_header(identity: &Identity, header: &JournalHeader) -> AlignedBuffer {
    let bytes = header::encode(MAGIC, identity, |out| {
        out.put_u64(header.seq.0);
        out.put_u64(header.blocks_from.0);
        out.put_u64(header.salt.0);
        out.put_u64(header.file_bytes);
    });
    let mut aligned = AlignedBuffer::new(HEADER_BYTES);
    aligned.as_mut_slice().copy_from_slice(&bytes);
    aligned
}

pub(crate) fn decode_header(
    identity: &Identity,
    name: FileSeq,
    bytes: &[u8],
) -> Result<JournalHeader, HeaderError> {
    let mut reader = header::decode_own(MAGIC, identity, bytes)?;
    let header = JournalHeader {
        seq: FileSeq(reader.u64("file seq")?),
        blocks_from: BlockSeq(reader.u64("first block")?),
        salt: Salt(reader.u64("salt")?),
        file_bytes: reader.u64("file bytes")?,
    };
    reader.end()?;
    if header.seq == name { Ok(header) } else { Err(HeaderError::Misplaced) }
}

/// Makes a new file. On any error nothing with the final name is left.
pub(crate) fn create(
    disk: &dyn Disk,
    identity: &Identity,
    header: JournalHeader,
) -> io::Result<JournalFile> {
    let unfinished = unfinished_path(header.seq);
    if disk.exists(&unfinished)? {
        disk.remove(&unfinished)?;
    }
    let made = fill(disk, &unfinished, identity, &header).and_then(|file| {
        publish(disk, &unfinished, header.seq)?;
        Ok(file)
    });
    if made.is_err() {
        // The space is needed elsewhere; that it cannot be removed either changes nothing.
        let _ = disk.remove(&unfinished);
    }
    let file = made?;
    Ok(JournalFile { header, file })
}

fn fill(
    disk: &dyn Disk,
    unfinished: &str,
    identity: &Identity,
    header: &JournalHeader,
) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.create(unfinished, Mode::Direct)?;
    file.allocate(header.file_bytes)?;
    let size = header.file_bytes.min(ZEROS_BYTES as u64) as usize;
    let zeros = AlignedBuffer::new(size);
    let mut offset = 0;
    while offset < header.file_bytes {
        let length = (header.file_bytes - offset).min(size as u64);
        file.write_at(offset, &[&zeros.as_slice()[..length as usize]])?;
        offset += length;
    }
    file.write_at(0, &[encode_header(identity, header).as_slice()])?;
    file.sync()?;
    Ok(file)
}

/// Gives the file `old` a new life as `header.seq`. It must have the size that `header` says. On any
/// error it is gone.
pub(crate) fn recycle(
    disk: &dyn Disk,
    identity: &Identity,
    old: FileSeq,
    header: JournalHeader,
) -> io::Result<JournalFile> {
    let revived = revive(disk, identity, old, header);
    if revived.is_err() {
        // Nobody counts it any more, whatever its name is, and the space is needed elsewhere.
        for name in [path(old), unfinished_path(header.seq)] {
            let _ = disk.remove(&name);
        }
    }
    revived
}

fn revive(
    disk: &dyn Disk,
    identity: &Identity,
    old: FileSeq,
    header: JournalHeader,
) -> io::Result<JournalFile> {
    let unfinished = unfinished_path(header.seq);
    disk.rename(&path(old), &unfinished)?;
    disk.sync_dir(DIRECTORY).map_err(of_sync)?;
    let file = disk.open(&unfinished, Mode::Direct)?;
    file.write_at(0, &[encode_header(identity, &header).as_slice()])?;
    file.sync()?;
    publish(disk, &unfinished, header.seq)?;
    Ok(JournalFile { header, file })
}

fn publish(disk: &dyn Disk, unfinished: &str, seq: FileSeq) -> io::Result<()> {
    disk.rename(unfinished, &path(seq))?;
    disk.sync_dir(DIRECTORY).map_err(of_sync)
}

/// Opens a file and reads its header.
pub(crate) fn open(
    disk: &dyn Disk,
    identity: &Identity,
    seq: FileSeq,
) -> io::Result<Result<JournalFile, HeaderError>> {
    let file = disk.open(&path(seq), Mode::Direct)?;
    if file.len()? < HEADER_BYTES as u64 {
        return Ok(Err(HeaderError::Magic));
    }
    let mut first = AlignedBuffer::new(BLOCK_BYTES);
    file.read_at(0, first.as_mut_slice())?;
    let header = match decode_header(identity, seq, first.as_slice()) {
        Ok(header) => header,
        Err(error) => return Ok(Err(error)),
    };
    if file.len()? < header.file_bytes {
        return Ok(Err(HeaderError::Misplaced));
    }
    Ok(Ok(JournalFile { header, file }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sixteen_hex_digits() {
        assert_eq!(path(FileSeq(0x1f)), "journal/000000000000001f.journal");
        assert_eq!(seq_of("000000000000001f.journal"), Some(FileSeq(0x1f)));
        for name in ["1f.journal", "000000000000001f.journal.tmp", "000000000000001g.journal", ""] {
            assert_eq!(seq_of(name), None, "{name}");
        }
    }
}
