//! The one seam to the medium: every file this crate touches goes through [`Disk`].
//!
//! What is assumed of a medium, and nothing more:
//! - A write that was not followed by a sync may be lost, in whole or in part, in any order of its
//!   512-byte sectors; a name that was created, renamed or removed may be lost until its directory
//!   was synced.
//! - A [`Mode::Direct`] write is durable when it returns, and may be torn when the power fails
//!   during it.
//! - After [`DiskFile::allocate`] returned, writes below that length do not fail for lack of space.
//!
//! [`real::RealDisk`] is the operating system's; [`sim::SimDisk`] forgets or tears what was not
//! synced, fails on command, and enumerates crash images.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

pub mod real;
pub mod sim;

/// How a file's bytes reach the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Through the page cache: visible at once to maps and reads, durable after
    /// [`DiskFile::sync`].
    Buffered,
    /// Past the page cache (`O_DIRECT|O_DSYNC`, or `pwrite` and `fdatasync` where the file system
    /// has no direct access): durable when [`DiskFile::write_at`] returns. Offsets and the total
    /// length of a write or read are multiples of [`BLOCK_BYTES`], and the buffer is an
    /// [`AlignedBuffer`].
    Direct,
}

/// One start of a machine, told from all others.
pub type BootId = [u8; 16];

/// Unit of direct access, in bytes: no torn write touches bytes outside the blocks it covers.
pub const BLOCK_BYTES: usize = 4096;

/// A directory tree that one process owns. Paths are relative, `/`-separated, made by this crate
/// from numbers only, never from a user's text.
pub trait Disk: Send + Sync + fmt::Debug + 'static {
    /// Creates an empty file. Fails with [`io::ErrorKind::AlreadyExists`] where the name is taken.
    fn create(&self, path: &str, mode: Mode) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &str, mode: Mode) -> io::Result<Arc<dyn DiskFile>>;
    /// Replaces `to` by `from`, a name in the same directory, in one step; durable after
    /// [`Disk::sync_dir`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a name. Open files and maps of it stay readable.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Names in a directory, without `.` and `..`, sorted.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Creates a directory and its parents; no error where it exists. Each is durable after
    /// [`Disk::sync_dir`] of its own parent.
    fn create_dir_all(&self, dir: &str) -> io::Result<()>;
    /// Makes the names in a directory durable; the root is the empty path.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Whether a name exists.
    fn exists(&self, path: &str) -> io::Result<bool>;
    /// Bytes that can still be allocated by this process.
    fn free_bytes(&self) -> io::Result<u64>;
    /// Which start of the machine this is; `None` where that is not known. While it is the same, nothing
    /// that was written was lost by a power failure.
    fn boot_id(&self) -> io::Result<Option<BootId>>;
}

/// An open file of a [`Disk`]. All calls take offsets; there is no cursor.
pub trait DiskFile: Send + Sync + fmt::Debug + 'static {
    /// Length in bytes, allocated space included.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Grows the file to `bytes` with space reserved on the medium (`fallocate`); never shrinks it.
    /// New bytes read as zero. [`io::ErrorKind::StorageFull`] where the medium is full.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    /// Writes all of `parts`, one after the other, beginning at `offset`.
    fn write_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()>;
    /// Fills `buffer` from `offset`; [`io::ErrorKind::UnexpectedEof`] past the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Makes all earlier writes and the length durable (`fdatasync`).
    fn sync(&self) -> io::Result<()>;
    /// Maps the first `bytes` bytes for reading; they must be allocated.
    fn map(&self, bytes: u64) -> io::Result<Arc<dyn Mapping>>;
}

/// A read-only map of a file's beginning. It lives as long as any slice of it.
pub trait Mapping: Send + Sync + fmt::Debug + 'static {
    /// Mapped bytes.
    fn len(&self) -> u64;
    /// Whether nothing is mapped.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The bytes of a range, without copying where the medium is memory-mapped. The caller asks
    /// only for ranges whose bytes were published, and for cold ranges only after
    /// [`Mapping::populate`].
    fn slice(self: Arc<Self>, range: Range<u64>) -> Bytes;
    /// Brings a range into memory (`MADV_POPULATE_READ`); a medium error is returned here instead
    /// of raised as a signal later. Blocks.
    fn populate(&self, range: Range<u64>) -> io::Result<()>;
}

/// A zeroed buffer whose start lies on a [`BLOCK_BYTES`] boundary, for direct access.
#[derive(Debug)]
pub struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBuffer {
    /// A buffer of `length` bytes, rounded up to whole blocks.
    pub fn new(length: usize) -> Self {
        let length = length.next_multiple_of(BLOCK_BYTES);
        let memory = vec![0; length + BLOCK_BYTES];
        let start = memory.as_ptr().align_offset(BLOCK_BYTES);
        Self { memory, start, length }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }

    /// The bytes, to be written.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}
