//! The temporary directory that a measured node lives in: on a real disk, with room for the load,
//! gone afterwards.
//!
//! A figure for durable writes is worthless on a file system that lives in memory. So the
//! directory is made where the files are real: beside the build (`target/`), else in the working
//! directory, else in the system's temporary directory, whichever is first on a disk. Only a
//! directory that the user names may be a tmpfs.

use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use thiserror::Error;

use crate::machine::FileSystem;

/// A directory of this run. Removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    directory: TempDir,
}

/// Why no directory was made.
#[derive(Debug, Error)]
pub enum ScratchError {
    /// Every candidate is in memory or cannot be written.
    #[error(
        "found no directory on a real disk for the node's data ({}); name one with --data-dir DIR",
        tried.join(", ")
    )]
    NoRealDisk {
        /// What was tried, with the reason against it.
        tried: Vec<String>,
    },
    /// The directory that the user named cannot hold one.
    #[error(
        "cannot make a temporary directory in {}: {source}; name another with --data-dir DIR",
        directory.display()
    )]
    Unusable {
        /// The directory.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Too little room for the load.
    #[error(
        "{} has {:.1} GB free and this run needs about {:.1} GB; lower --records or --bytes, or \
         name another disk with --data-dir DIR",
        directory.display(),
        *free_bytes as f64 / 1e9,
        *needed_bytes as f64 / 1e9
    )]
    TooFull {
        /// The directory.
        directory: PathBuf,
        /// Free bytes there.
        free_bytes: u64,
        /// Bytes that the load needs at its peak.
        needed_bytes: u64,
    },
}

impl Scratch {
    /// Makes one inside `named`, or where [the module](self) says.
    pub fn new(named: Option<&Path>, needed_bytes: u64) -> Result<Self, ScratchError> {
        let directory = match named {
            Some(directory) => make_in(directory).map_err(|source| ScratchError::Unusable {
                directory: directory.to_owned(),
                source,
            })?,
            None => on_a_real_disk(&candidates())?,
        };
        let scratch = Self { directory };
        let free_bytes = free_bytes(scratch.path());
        if free_bytes < needed_bytes {
            let directory = scratch.path().parent().unwrap_or(scratch.path()).to_owned();
            return Err(ScratchError::TooFull { directory, free_bytes, needed_bytes });
        }
        Ok(scratch)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

fn make_in(directory: &Path) -> io::Result<TempDir> {
    tempfile::Builder::new().prefix("plimsoll-").tempdir_in(directory)
}

fn candidates() -> Vec<PathBuf> {
    let mut candidates = Vec::new();
    if let Ok(binary) = std::env::current_exe() {
        let target =
            binary.ancestors().find(|path| path.file_name().is_some_and(|n| n == "target"));
        candidates.extend(target.map(Path::to_owned));
    }
    candidates.extend(std::env::current_dir());
    candidates.push(std::env::temp_dir());
    candidates
}

fn on_a_real_disk(candidates: &[PathBuf]) -> Result<TempDir, ScratchError> {
    let mut tried = Vec::new();
    for directory in candidates {
        match FileSystem::of(directory) {
            Some(found) if found.is_memory() => {
                tried.push(format!("{} is {}, in memory", directory.display(), found.kind));
            }
            _ => match make_in(directory) {
                Ok(made) => return Ok(made),
                Err(source) => tried.push(format!("{}: {source}", directory.display())),
            },
        }
    }
    Err(ScratchError::NoRealDisk { tried })
}

/// Bytes that an ordinary user may still write there; plenty where the system does not say.
fn free_bytes(path: &Path) -> u64 {
    rustix::fs::statvfs(path)
        .map_or(u64::MAX, |found| found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_directory_is_gone_when_dropped() {
        let outer = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(Some(outer.path()), 1).unwrap();
        let path = scratch.path().to_owned();
        assert!(path.is_dir());
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn a_load_larger_than_the_disk_is_refused() {
        let outer = tempfile::tempdir().unwrap();
        let refused = Scratch::new(Some(outer.path()), u64::MAX).unwrap_err();
        assert!(matches!(refused, ScratchError::TooFull { .. }), "{refused}");
        assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 0, "left a directory behind");
    }

    #[test]
    fn without_a_disk_the_error_names_what_was_tried() {
        let refused = on_a_real_disk(&["/dev/shm".into(), "/nowhere".into()]);
        // A machine may have /dev/shm on a disk; then there is nothing to refuse.
        if let Err(refused) = refused {
            let text = refused.to_string();
            assert!(text.contains("/nowhere") && text.contains("--data-dir"), "{text}");
        }
    }
}
