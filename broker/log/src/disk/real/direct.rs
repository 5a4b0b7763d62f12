//! Finds out whether a file system writes past the page cache (`O_DIRECT|O_DSYNC`).
//!
//! tmpfs of older kernels, some FUSE and overlay file systems, and devices with blocks above
//! [`BLOCK_BYTES`] answer `EINVAL`, some of them only at the first write: so one block is written.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;

use super::super::{AlignedBuffer, BLOCK_BYTES};
use super::{FILE_PERMISSIONS, retry};

/// Whether direct writes work in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DirectAccess {
    Present,
    Absent,
}

/// Leftover of a process that was killed while it probed; made anew and removed by each probe.
const PROBE: &str = "direct-access.tmp";

/// Writes and reads one block directly. The caller holds the directory's lock.
///
/// # Errors
/// What kept the file from being made at all; a full disk is no error here (`Absent` would be a
/// wrong answer for the rest of the process's life, so it counts as present).
pub(super) fn probe(root: BorrowedFd<'_>) -> io::Result<DirectAccess> {
    remove(root)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let opened = retry(|| {
        let flags = flags | OFlags::DIRECT | OFlags::DSYNC;
        rustix::fs::openat(root, PROBE, flags, FILE_PERMISSIONS)
    });
    let answer = match opened {
        Ok(file) => {
            let mut block = AlignedBuffer::new(BLOCK_BYTES);
            let written = retry(|| rustix::io::pwrite(&file, block.as_slice(), 0));
            match written {
                Ok(bytes) if bytes == BLOCK_BYTES => {
                    match retry(|| rustix::io::pread(&file, block.as_mut_slice(), 0)) {
                        Ok(bytes) if bytes == BLOCK_BYTES => Ok(DirectAccess::Present),
                        Ok(_) | Err(Errno::INVAL) => Ok(DirectAccess::Absent),
                        Err(error) => Err(error.into()),
                    }
                }
                Err(Errno::NOSPC | Errno::DQUOT) => Ok(DirectAccess::Present),
                Ok(_) | Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(DirectAccess::Absent),
                Err(error) => Err(error.into()),
            }
        }
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(DirectAccess::Absent),
        // No room for a name: the store's own errors say so better, and later.
        Err(Errno::NOSPC | Errno::DQUOT) => Ok(DirectAccess::Present),
        Err(error) => Err(error.into()),
    };
    // open(2) with O_CREAT may leave the name behind although O_DIRECT was refused.
    remove(root)?;
    answer
}

fn remove(root: BorrowedFd<'_>) -> io::Result<()> {
    match retry(|| rustix::fs::unlinkat(root, PROBE, AtFlags::empty())) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
