//! One process owns a data directory: an exclusive `flock` on the file `LOCK`, which names the
//! owner's process id for the one that comes second.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use super::{FILE_PERMISSIONS, retry};

/// Never removed: a lock file that is unlinked can be locked twice.
const LOCK_FILE: &str = "LOCK";

/// The directory is in use.
#[derive(Debug, thiserror::Error)]
#[error(
    "the data directory {} is in use by {}: stop that process, or give this one another directory",
    root.display(),
    match pid { Some(pid) => format!("process {pid}"), None => "another process".to_owned() }
)]
pub struct Locked {
    /// The directory.
    pub root: PathBuf,
    /// The owner, where its lock file names it.
    pub pid: Option<u32>,
}

pub(super) enum TakeError {
    Held(Locked),
    Io(io::Error),
}

impl From<Errno> for TakeError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// Holds the lock until it is dropped; the kernel drops it for a process that was killed.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    file: OwnedFd,
}

impl Drop for DirectoryLock {
    /// To close the file is not enough: a child that this process begins at the same moment has it open,
    /// and the lock with it, until it has become another program.
    fn drop(&mut self) {
        if let Err(error) = retry(|| rustix::fs::flock(&self.file, FlockOperation::Unlock)) {
            tracing::warn!(%error, "the data directory's lock goes when its file is closed");
        }
    }
}

impl DirectoryLock {
    pub(super) fn take(root: BorrowedFd<'_>, path: &Path) -> Result<Self, TakeError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = retry(|| rustix::fs::openat(root, LOCK_FILE, flags, FILE_PERMISSIONS))?;
        match retry(|| rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let pid = read_pid(&file);
                return Err(TakeError::Held(Locked { root: path.to_path_buf(), pid }));
            }
            Err(error) => return Err(error.into()),
        }
        // The name is for people, so a full disk does not keep the node from starting.
        let pid = format!("{}\n", std::process::id());
        let named = retry(|| rustix::fs::ftruncate(&file, 0))
            .and_then(|()| retry(|| rustix::io::pwrite(&file, pid.as_bytes(), 0)));
        if let Err(error) = named {
            tracing::warn!(%error, "the lock file does not name this process");
        }
        Ok(Self { file })
    }
}

fn read_pid(file: &OwnedFd) -> Option<u32> {
    let mut text = [0; 16];
    let bytes = retry(|| rustix::io::pread(file, &mut text[..], 0)).ok()?;
    std::str::from_utf8(&text[..bytes]).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn child_that_has_the_file_still_does_not_keep_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let root = File::open(directory.path()).unwrap();
        let take = || DirectoryLock::take(root.as_fd(), directory.path());
        let lock = take().ok().unwrap();
        // As a fork has it.
        let _inherited = rustix::io::dup(&lock.file).unwrap();
        assert!(matches!(take(), Err(TakeError::Held(_))));
        drop(lock);
        assert!(take().is_ok());
    }
}
