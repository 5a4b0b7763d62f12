//! An open file: positioned vectored writes that finish or fail, reservations, direct access.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::super::{AlignedBuffer, BLOCK_BYTES, DiskFile, Mapping, Mode};
use super::map::RealMapping;
use super::retry;

/// The kernel's `IOV_MAX`.
const PARTS_MAX: usize = 1024;

/// Bytes of zeros written at a time where the file system cannot reserve space.
const ZERO_STEP_BYTES: usize = 1 << 20;

/// A file of a [`RealDisk`](super::RealDisk).
#[derive(Debug)]
pub(super) struct RealFile {
    file: Arc<File>,
    mode: Mode,
    /// Whether the descriptor has `O_DIRECT|O_DSYNC`; without it a direct write is followed by
    /// `fdatasync`.
    direct: bool,
}

impl RealFile {
    pub(super) fn new(fd: OwnedFd, mode: Mode, direct: bool) -> Self {
        Self { file: Arc::new(File::from(fd)), mode, direct }
    }

    /// Refuses what `O_DIRECT` refuses on some file systems and a fallback would let pass.
    fn check_aligned(&self, offset: u64, part: &[u8]) -> io::Result<()> {
        let aligned = offset.is_multiple_of(BLOCK_BYTES as u64)
            && part.len().is_multiple_of(BLOCK_BYTES)
            && part.as_ptr().addr().is_multiple_of(BLOCK_BYTES);
        if self.mode == Mode::Buffered || aligned { Ok(()) } else { Err(Errno::INVAL.into()) }
    }

    fn write_vectored(&self, mut offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        for group in parts.chunks(PARTS_MAX) {
            let mut slices: Vec<IoSlice<'_>> =
                group.iter().map(|part| IoSlice::new(part)).collect();
            let mut rest = slices.as_mut_slice();
            // Parts without bytes in front would make a write of nothing look like a failed one.
            IoSlice::advance_slices(&mut rest, 0);
            while !rest.is_empty() {
                let written = retry(|| rustix::io::pwritev(&self.file, rest, offset))?;
                self.check_progress(written)?;
                offset += written as u64;
                IoSlice::advance_slices(&mut rest, written);
            }
        }
        Ok(())
    }

    fn write_one(&self, mut offset: u64, mut part: &[u8]) -> io::Result<()> {
        while !part.is_empty() {
            let written = retry(|| rustix::io::pwrite(&self.file, part, offset))?;
            self.check_progress(written)?;
            offset += written as u64;
            part = &part[written..];
        }
        Ok(())
    }

    /// A short write is continued; one that ends inside a block cannot be, with direct access.
    fn check_progress(&self, written: usize) -> io::Result<()> {
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        if self.direct && !written.is_multiple_of(BLOCK_BYTES) {
            return Err(Errno::IO.into());
        }
        Ok(())
    }

    /// For file systems without `fallocate`: zeros behind the end, so that space is really taken.
    pub(super) fn allocate_by_writing(&self, bytes: u64) -> io::Result<()> {
        let zeros = AlignedBuffer::new(ZERO_STEP_BYTES);
        let mut end = self.len()?;
        while end < bytes {
            let step = (bytes - end).min(ZERO_STEP_BYTES as u64) as usize;
            self.write_one(end, &zeros.as_slice()[..step])?;
            end += step as u64;
        }
        Ok(())
    }
}

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        match retry(|| rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, bytes)) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.allocate_by_writing(bytes),
            Err(Errno::DQUOT) => Err(io::ErrorKind::StorageFull.into()),
            Err(error) => Err(error.into()),
        }
    }

    fn write_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        for part in parts {
            self.check_aligned(offset, part)?;
        }
        match parts {
            [part] => self.write_one(offset, part)?,
            parts => self.write_vectored(offset, parts)?,
        }
        if self.mode == Mode::Direct && !self.direct {
            self.sync()?;
        }
        Ok(())
    }

    fn read_at(&self, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        self.check_aligned(offset, buffer)?;
        while !buffer.is_empty() {
            let read = retry(|| rustix::io::pread(&self.file, &mut *buffer, offset))?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if self.direct && !read.is_multiple_of(BLOCK_BYTES) {
                // The file ends inside a block, and so before the end of the buffer.
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            offset += read as u64;
            buffer = &mut buffer[read..];
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(retry(|| rustix::fs::fdatasync(&self.file))?)
    }

    fn map(&self, bytes: u64) -> io::Result<Arc<dyn Mapping>> {
        if bytes > self.len()? {
            // Touching a page behind the end would be a signal.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Arc::new(RealMapping::new(Arc::clone(&self.file), bytes)?))
    }
}
