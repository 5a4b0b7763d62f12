//! What the simulated medium holds, and the operations that change it.
//!
//! Every change is an [`Op`] that goes through [`Medium::apply`]: a recording is the list of them,
//! and applying a prefix of the list to the medium it began with gives the state at that moment
//! again, unsynced parts included.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;

use super::pages::{PAGE, Pages};

/// A file's number on its medium. Never used again; a name is only a reference to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub(super) u32);

/// A change of the medium, as it was carried out (a failed one appears with what it did).
#[derive(Debug, Clone)]
pub enum Op {
    /// A name for a new, empty file.
    Create {
        /// The name.
        path: String,
        /// The new file.
        file: FileId,
    },
    /// A new directory.
    CreateDir {
        /// Its path.
        path: String,
    },
    /// A name takes another's place.
    Rename {
        /// The name that goes.
        from: String,
        /// The name that now means the file.
        to: String,
    },
    /// A name goes.
    Remove {
        /// The name.
        path: String,
    },
    /// A directory's names become durable.
    SyncDir {
        /// Its path.
        path: String,
    },
    /// Bytes of a file change.
    Write {
        /// The file.
        file: FileId,
        /// First byte.
        offset: u64,
        /// The bytes.
        data: Bytes,
        /// Durable at once (`Mode::Direct`).
        direct: bool,
    },
    /// A file grows with zeros.
    Allocate {
        /// The file.
        file: FileId,
        /// Its length afterwards.
        bytes: u64,
    },
    /// A file's bytes and length become durable.
    Sync {
        /// The file.
        file: FileId,
    },
    /// A sync failed: the file's unsynced writes are still read, count as clean, and will never
    /// reach the medium.
    LoseUnsynced {
        /// The file.
        file: FileId,
    },
    /// The cache is dropped: what is read is what the medium holds, where nothing waits for a sync.
    DropCache,
    /// A bit decays, on the medium and in the cache.
    FlipBit {
        /// The file.
        file: FileId,
        /// Which, counted from the file's beginning.
        bit: u64,
    },
    /// No change: a test's note that everything up to here was acknowledged.
    Mark {
        /// The test's number for it.
        mark: u64,
    },
}

/// A change of a file that is not durable yet, in the order of all pending ones.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) order: u64,
    pub(super) change: Change,
}

#[derive(Debug, Clone)]
pub(super) enum Change {
    Write { offset: u64, data: Bytes },
    Allocate { bytes: u64 },
}

/// A file: what the medium holds, and what a process reads.
#[derive(Debug, Clone, Default)]
pub(super) struct Inode {
    pub(super) durable: Pages,
    pub(super) current: Pages,
    pub(super) pending: Vec<Pending>,
}

impl Inode {
    fn settle(&mut self) {
        for pending in self.pending.drain(..) {
            match pending.change {
                Change::Write { offset, data } => self.durable.write(offset, &data),
                Change::Allocate { bytes } => self.durable.grow(bytes),
            }
        }
    }

    /// The kernel writes back what the cache holds of the range before a direct write.
    fn write_through(&mut self, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        let overlaps = |pending: &Pending| match &pending.change {
            Change::Write { offset: other, data } => {
                *other < end && offset < other + data.len() as u64
            }
            Change::Allocate { .. } => false,
        };
        if self.pending.iter().any(overlaps) {
            self.settle();
        }
        self.durable.write(offset, data);
    }

    /// The length is metadata, and kept by the file system's own journal.
    fn lose_unsynced(&mut self) {
        self.pending.clear();
        let length = self.current.len();
        self.durable.grow(length);
    }
}

/// What a name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    Directory,
    File(FileId),
}

/// Names and their meaning; the root directory is the empty path.
pub(super) type Names = BTreeMap<String, Node>;

/// A change of a name that is not durable yet.
#[derive(Debug, Clone)]
pub(super) struct PendingName {
    pub(super) order: u64,
    pub(super) directory: String,
    pub(super) change: NameChange,
}

#[derive(Debug, Clone)]
pub(super) enum NameChange {
    Link { path: String, node: Node },
    Unlink { path: String },
    Rename { from: String, to: String, node: Node },
}

impl NameChange {
    pub(super) fn apply(&self, names: &mut Names) {
        match self {
            Self::Link { path, node } => {
                names.insert(path.clone(), *node);
            }
            Self::Unlink { path } => {
                names.remove(path);
            }
            Self::Rename { from, to, node } => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }
}

/// The directory of a path.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

impl fmt::Display for Op {
    /// One line, without the bytes of a write.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { path, file } => write!(f, "create {path} as file {}", file.0),
            Self::CreateDir { path } => write!(f, "create directory {path}"),
            Self::Rename { from, to } => write!(f, "rename {from} to {to}"),
            Self::Remove { path } => write!(f, "remove {path}"),
            Self::SyncDir { path } => write!(f, "sync directory {path:?}"),
            Self::Write { file, offset, data, direct } => {
                let how = if *direct { "direct write" } else { "write" };
                write!(f, "{how} of {} bytes at {offset} of file {}", data.len(), file.0)
            }
            Self::Allocate { file, bytes } => write!(f, "allocate {bytes} of file {}", file.0),
            Self::Sync { file } => write!(f, "sync file {}", file.0),
            Self::LoseUnsynced { file } => write!(f, "failed sync of file {}", file.0),
            Self::DropCache => write!(f, "drop the cache"),
            Self::FlipBit { file, bit } => write!(f, "flip bit {bit} of file {}", file.0),
            Self::Mark { mark } => write!(f, "mark {mark}"),
        }
    }
}

/// Everything that a machine without power keeps, and everything that it forgets.
#[derive(Debug, Clone)]
pub(super) struct Medium {
    pub(super) inodes: BTreeMap<FileId, Inode>,
    pub(super) names: Names,
    pub(super) durable_names: Names,
    pub(super) pending_names: Vec<PendingName>,
    /// Files that an open [`DiskFile`](super::super::DiskFile) or map still reads.
    pub(super) open: BTreeMap<FileId, u32>,
    /// Whether a direct write passes the cache; else it is a write and a sync.
    pub(super) direct_access: bool,
    /// How often the power failed before.
    pub(super) boots: u64,
    next_file: u32,
    next_order: u64,
}

impl Medium {
    /// An empty root directory.
    pub(super) fn new() -> Self {
        let root = Names::from([(String::new(), Node::Directory)]);
        Self {
            inodes: BTreeMap::new(),
            names: root.clone(),
            durable_names: root,
            pending_names: Vec::new(),
            open: BTreeMap::new(),
            direct_access: true,
            boots: 0,
            next_file: 0,
            next_order: 0,
        }
    }

    /// A medium where everything named is durable: what a process finds when it starts.
    pub(super) fn settled(names: Names, files: impl IntoIterator<Item = (FileId, Pages)>) -> Self {
        let mut medium = Self::new();
        medium.durable_names = names.clone();
        medium.names = names;
        for (file, pages) in files {
            medium.next_file = medium.next_file.max(file.0 + 1);
            let inode = Inode { durable: pages.clone(), current: pages, pending: Vec::new() };
            medium.inodes.insert(file, inode);
        }
        medium
    }

    pub(super) fn file(&self, path: &str) -> Option<FileId> {
        match self.names.get(path) {
            Some(Node::File(file)) => Some(*file),
            _ => None,
        }
    }

    pub(super) fn is_directory(&self, path: &str) -> bool {
        self.names.get(path) == Some(&Node::Directory)
    }

    /// The number that the next created file gets.
    pub(super) fn next_file(&self) -> FileId {
        FileId(self.next_file)
    }

    pub(super) fn inode(&self, file: FileId) -> &Inode {
        self.inodes.get(&file).expect("a file lives while a name or a handle refers to it")
    }

    /// Changes a file. A replay knows no handles, so there a file that was removed while it was
    /// still being written is gone already, and nobody can see the difference.
    fn change_file(&mut self, file: FileId, change: impl FnOnce(&mut Inode)) {
        if let Some(inode) = self.inodes.get_mut(&file) {
            change(inode);
        }
    }

    /// Pages that count against the capacity: of every file that a name or a handle refers to.
    pub(super) fn used_bytes(&self) -> u64 {
        self.live_files()
            .iter()
            .map(|file| self.inode(*file).current.len().next_multiple_of(PAGE as u64))
            .sum()
    }

    fn live_files(&self) -> BTreeSet<FileId> {
        let named = self.names.values().filter_map(|node| match node {
            Node::File(file) => Some(*file),
            Node::Directory => None,
        });
        named.chain(self.open.keys().copied()).collect()
    }

    /// Forgets files that nothing refers to, in the cache or on the medium.
    pub(super) fn collect(&mut self) {
        let mut live = self.live_files();
        let kept = self.durable_names.values().copied();
        let pending = self.pending_names.iter().filter_map(|pending| match pending.change {
            NameChange::Link { node, .. } | NameChange::Rename { node, .. } => Some(node),
            NameChange::Unlink { .. } => None,
        });
        live.extend(kept.chain(pending).filter_map(|node| match node {
            Node::File(file) => Some(file),
            Node::Directory => None,
        }));
        self.inodes.retain(|file, _| live.contains(file));
    }

    /// For a copy of the medium that a new process opens: the old one's handles are gone.
    pub(super) fn close_handles(&mut self) {
        self.open.clear();
        self.collect();
    }

    fn order(&mut self) -> u64 {
        self.next_order += 1;
        self.next_order
    }

    fn change_name(&mut self, directory: &str, change: NameChange) {
        change.apply(&mut self.names);
        let order = self.order();
        self.pending_names.push(PendingName { order, directory: directory.to_owned(), change });
    }

    /// Carries out an operation whose conditions were checked.
    pub(super) fn apply(&mut self, op: &Op) {
        match op {
            Op::Create { path, file } => {
                self.next_file = self.next_file.max(file.0 + 1);
                self.inodes.insert(*file, Inode::default());
                let node = Node::File(*file);
                self.change_name(parent(path), NameChange::Link { path: path.clone(), node });
            }
            Op::CreateDir { path } => {
                let node = Node::Directory;
                self.change_name(parent(path), NameChange::Link { path: path.clone(), node });
            }
            Op::Rename { from, to } => {
                let node = self.names[from];
                let (from, to) = (from.clone(), to.clone());
                let directory = parent(&to).to_owned();
                self.change_name(&directory, NameChange::Rename { from, to, node });
            }
            Op::Remove { path } => {
                self.change_name(parent(path), NameChange::Unlink { path: path.clone() });
            }
            Op::SyncDir { path } => {
                let names = &mut self.durable_names;
                self.pending_names.retain(|pending| {
                    if pending.directory == *path {
                        pending.change.apply(names);
                    }
                    pending.directory != *path
                });
                self.collect();
            }
            Op::Write { file, offset, data, direct } => {
                let order = self.order();
                self.change_file(*file, |inode| {
                    inode.current.write(*offset, data);
                    if *direct {
                        inode.write_through(*offset, data);
                    } else {
                        let change = Change::Write { offset: *offset, data: data.clone() };
                        inode.pending.push(Pending { order, change });
                    }
                });
            }
            Op::Allocate { file, bytes } => {
                let (order, change) = (self.order(), Change::Allocate { bytes: *bytes });
                self.change_file(*file, |inode| {
                    inode.current.grow(*bytes);
                    inode.pending.push(Pending { order, change });
                });
            }
            Op::Sync { file } => self.change_file(*file, Inode::settle),
            Op::LoseUnsynced { file } => self.change_file(*file, Inode::lose_unsynced),
            Op::DropCache => {
                for inode in self.inodes.values_mut().filter(|inode| inode.pending.is_empty()) {
                    inode.current = inode.durable.clone();
                }
            }
            Op::FlipBit { file, bit } => {
                self.change_file(*file, |inode| {
                    inode.current.flip(*bit);
                    if *bit / 8 < inode.durable.len() {
                        inode.durable.flip(*bit);
                    }
                });
            }
            Op::Mark { .. } => {}
        }
    }
}
