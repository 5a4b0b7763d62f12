//! The operating system's disk: a directory locked by one process, direct writes for the journal,
//! read-only maps for the segments.
//!
//! [`RealDisk::open`] takes the lock and finds out, once, whether the file system has direct
//! access; everything after that goes through [`Disk`].

mod direct;
mod file;
mod lock;
mod map;
mod sigbus;

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode as Permissions, OFlags};
use rustix::io::Errno;

pub use self::lock::Locked;
pub use self::sigbus::install_sigbus_handler;

use self::direct::DirectAccess;
use self::file::RealFile;
use super::{BootId, Disk, DiskFile, Mode};

/// Files and directories are for the owner, and for its group to read (a backup, an inspection).
const FILE_PERMISSIONS: Permissions = Permissions::from_raw_mode(0o640);
const DIRECTORY_PERMISSIONS: Permissions = Permissions::from_raw_mode(0o750);

/// Where Linux says which start of the machine this is.
const BOOT_ID_PATH: &str = "/proc/sys/kernel/random/boot_id";

/// How [`RealDisk::open`] opens a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenOptions {
    /// Take no lock, create nothing, refuse every change with
    /// [`io::ErrorKind::ReadOnlyFilesystem`]. For offline inspection. Default: false.
    pub read_only: bool,
    /// Use `O_DIRECT|O_DSYNC` where the file system has it. Off, every [`Mode::Direct`] write is a
    /// `pwrite` and an `fdatasync`: two to three times slower for small writes. Default: true.
    pub direct_access: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { read_only: false, direct_access: true }
    }
}

impl OpenOptions {
    /// For offline inspection: no lock, no change.
    pub fn read_only() -> Self {
        Self { read_only: true, ..Self::default() }
    }
}

/// Why a directory could not be opened as a [`RealDisk`].
#[derive(Debug, thiserror::Error)]
pub enum OpenDiskError {
    /// Another process, or another disk of this one, holds the directory.
    #[error(transparent)]
    Locked(#[from] Locked),
    /// The directory does not exist, and a read-only disk does not make it.
    #[error("there is no data directory at {}: check the path given with --data", root.display())]
    Missing {
        /// The directory asked for.
        root: PathBuf,
    },
    /// The directory could not be made.
    #[error("cannot create the data directory {}: {source}", root.display())]
    Create {
        /// The directory asked for.
        root: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The directory is there and cannot be used: it is a file, or belongs to another user, or its
    /// file system is mounted read-only.
    #[error(
        "cannot use the data directory {}: {source}; it must be a directory on a writable file \
         system that belongs to the user who runs this process",
        root.display()
    )]
    Unusable {
        /// The directory asked for.
        root: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// A directory of the operating system's file system. The lock lasts as long as this value.
#[derive(Debug)]
pub struct RealDisk {
    path: PathBuf,
    root: OwnedFd,
    read_only: bool,
    direct: DirectAccess,
    /// Held for its `flock` alone. `None` for a read-only disk.
    _lock: Option<lock::DirectoryLock>,
}

impl RealDisk {
    /// Opens a directory, creating it and its parents if need be, and locks it for this process.
    ///
    /// # Errors
    /// [`OpenDiskError`] says by which process the directory is locked, or what is wrong with it.
    pub fn open(path: impl AsRef<Path>, options: OpenOptions) -> Result<Self, OpenDiskError> {
        let path = path.as_ref().to_path_buf();
        let unusable = |source| OpenDiskError::Unusable { root: path.clone(), source };
        if options.read_only {
            return match open_directory(&path) {
                Ok(root) => Ok(Self {
                    path,
                    root,
                    read_only: true,
                    direct: DirectAccess::Absent,
                    _lock: None,
                }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Err(OpenDiskError::Missing { root: path })
                }
                Err(error) => Err(unusable(error)),
            };
        }
        if !path.is_dir() {
            create_durably(&path)
                .map_err(|source| OpenDiskError::Create { root: path.clone(), source })?;
        }
        let root = open_directory(&path).map_err(unusable)?;
        let lock = match lock::DirectoryLock::take(root.as_fd(), &path) {
            Ok(lock) => lock,
            Err(lock::TakeError::Held(held)) => return Err(held.into()),
            Err(lock::TakeError::Io(error)) => return Err(unusable(error)),
        };
        let direct = if options.direct_access {
            direct::probe(root.as_fd()).map_err(unusable)?
        } else {
            DirectAccess::Absent
        };
        match direct {
            DirectAccess::Present => {
                tracing::debug!(path = %path.display(), "journal writes use O_DIRECT|O_DSYNC");
            }
            DirectAccess::Absent => tracing::info!(
                path = %path.display(),
                "no direct access here: journal writes use pwrite and fdatasync, which is slower"
            ),
        }
        Ok(Self { path, root, read_only: false, direct, _lock: Some(lock) })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether [`Mode::Direct`] goes past the page cache here.
    pub fn has_direct_access(&self) -> bool {
        self.direct == DirectAccess::Present
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.read_only { Err(Errno::ROFS.into()) } else { Ok(()) }
    }

    fn open_file(&self, path: &str, mode: Mode, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        check_path(path)?;
        let access = if self.read_only { OFlags::RDONLY } else { OFlags::RDWR };
        let mut flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if create {
            flags |= OFlags::CREATE | OFlags::EXCL;
        }
        let direct = mode == Mode::Direct && self.direct == DirectAccess::Present;
        if direct {
            flags |= OFlags::DIRECT | OFlags::DSYNC;
        }
        let fd = retry(|| rustix::fs::openat(&self.root, path, flags, FILE_PERMISSIONS))?;
        Ok(Arc::new(RealFile::new(fd, mode, direct)))
    }

    fn open_subdirectory(&self, dir: &str) -> io::Result<OwnedFd> {
        check_path(dir)?;
        let dir = if dir.is_empty() { "." } else { dir };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(retry(|| rustix::fs::openat(&self.root, dir, flags, Permissions::empty()))?)
    }
}

impl Disk for RealDisk {
    fn create(&self, path: &str, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        self.check_writable()?;
        self.open_file(path, mode, true)
    }

    fn open(&self, path: &str, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        self.open_file(path, mode, false)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check_writable()?;
        check_path(from)?;
        check_path(to)?;
        Ok(retry(|| rustix::fs::renameat(&self.root, from, &self.root, to))?)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.check_writable()?;
        check_path(path)?;
        Ok(retry(|| rustix::fs::unlinkat(&self.root, path, AtFlags::empty()))?)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(self.open_subdirectory(dir)?)? {
            // A name that is not UTF-8 is none of ours; it is shown, never matched.
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir_all(&self, dir: &str) -> io::Result<()> {
        self.check_writable()?;
        check_path(dir)?;
        let ends = dir.match_indices('/').map(|(at, _)| at).chain([dir.len()]);
        for end in ends.filter(|&end| end > 0) {
            let made =
                retry(|| rustix::fs::mkdirat(&self.root, &dir[..end], DIRECTORY_PERMISSIONS));
            match made {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.open_subdirectory(dir).map(drop)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.check_writable()?;
        let directory = self.open_subdirectory(dir)?;
        Ok(retry(|| rustix::fs::fsync(&directory))?)
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        check_path(path)?;
        let path = if path.is_empty() { "." } else { path };
        match retry(|| rustix::fs::statat(&self.root, path, AtFlags::SYMLINK_NOFOLLOW)) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let space = retry(|| rustix::fs::fstatvfs(&self.root))?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    fn boot_id(&self) -> io::Result<Option<BootId>> {
        let text = match fs::read_to_string(BOOT_ID_PATH) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        Ok(parse_boot_id(&text))
    }
}

/// Paths come from this crate; one that could leave the directory is a bug that must not reach it.
fn check_path(path: &str) -> io::Result<()> {
    let leaves = path.starts_with('/') || path.split('/').any(|part| part == "..");
    if leaves || path.contains('\0') { Err(Errno::INVAL.into()) } else { Ok(()) }
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(retry(|| rustix::fs::open(path, flags, Permissions::empty()))?)
}

/// Creates a directory and its missing parents, and syncs the parent of each that it made.
fn create_durably(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !parent.is_dir() {
        create_durably(parent)?;
    }
    match fs::create_dir(path) {
        Ok(()) => fs::File::open(parent)?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Reads a boot id as Linux writes it: a UUID.
fn parse_boot_id(text: &str) -> Option<BootId> {
    let digits: String = text.trim().chars().filter(|&c| c != '-').collect();
    let number = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32)?;
    Some(number.to_be_bytes())
}

/// Repeats a call that a signal interrupted.
fn retry<T>(call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    rustix::io::retry_on_intr(call)
}

#[cfg(test)]
mod tests;
