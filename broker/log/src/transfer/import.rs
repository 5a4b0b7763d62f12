//! A log that is brought in from another node: piece by piece into files that nothing names, then in one
//! step in the place of the log that is there.
//!
//! An import that is dropped before its end leaves what it has for the next one of its group: pieces of
//! the same segments are not sent twice.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use plimsoll_protocol::ids::{GroupId, LogId, LogIndex};
use thiserror::Error;

use super::manifest::{LogManifest, ManifestError, SegmentManifest};
use super::part::Part;
use super::state_file;
use crate::config::GroupOptions;
use crate::disk::{BLOCK_BYTES, Disk};
use crate::entry::{Install, InstalledState};
use crate::fatal::Completion;
use crate::group::GroupLog;
use crate::group::front::StateSlot;
use crate::journal::record::install_bytes_max;
use crate::segment::header::{DIRECTORY, EXTENSION, FIRST_BATCH_AT, STATE_EXTENSION, UNFINISHED};
use crate::segment::scan::Damage;
use crate::segment::{IMPORT_GAP, SegmentId, SegmentName};
use crate::store::{Store, StoreError};

/// Why a log cannot be brought in. The log that is there stays as it is.
#[derive(Debug, Error)]
pub enum ImportError {
    /// The manifest is none of a log.
    #[error("manifest: {0}")]
    Manifest(#[from] ManifestError),
    /// Another import of this group is under way.
    #[error("group {0} is being imported already")]
    Busy(GroupId),
    /// There is no room for it.
    #[error("the log needs {needed} bytes, and {free} are free; {kept_free} must stay free")]
    Full {
        /// Bytes that it still needs.
        needed: u64,
        /// Bytes that there are.
        free: u64,
        /// Bytes that the store keeps free for itself.
        kept_free: u64,
    },
    /// The piece does not follow the one before it, or reaches past the segment's end.
    #[error("a piece of {bytes} bytes at {at} of segment {segment}, which has {held} of {total}")]
    Piece {
        /// Which segment, from 0.
        segment: usize,
        /// Where the piece begins.
        at: u64,
        /// How long it is.
        bytes: u64,
        /// What the segment has.
        held: u64,
        /// What it is to have.
        total: u64,
    },
    /// A segment is not what its sender wrote. The import has ended.
    #[error("segment {segment} arrived damaged: {damage}")]
    Damaged {
        /// Which, from 0.
        segment: usize,
        /// Where, and what is wrong.
        damage: Damage,
    },
    /// A segment is not there in full.
    #[error("segment {segment} has {held} of {total} bytes")]
    Incomplete {
        /// Which, from 0.
        segment: usize,
        /// What it has.
        held: u64,
        /// What it is to have.
        total: u64,
    },
    /// The state is not one of this log.
    #[error(
        "a state of entry {applied} does not belong to a log from behind {previous:?} up to {last}"
    )]
    State {
        /// The last entry that is folded into the state.
        applied: LogId,
        /// The entry before the log, or the last one of those that are compacted.
        previous: Option<LogId>,
        /// Its last one.
        last: LogId,
    },
    /// An earlier error ended the import.
    #[error("the import has ended with an error before")]
    Ended,
    /// The group cannot be made.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The medium failed. The import has ended.
    #[error("{operation} {path} failed: {source}")]
    Medium {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

impl ImportError {
    pub(super) fn medium(operation: &'static str, path: &str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Medium { operation, path, source }
    }
}

/// What a store knows of the imports of its groups.
#[derive(Debug)]
pub(crate) enum ImportSlot {
    /// One is under way.
    Active,
    /// One was dropped before its end.
    Left(Vec<Part>),
}

/// A log on its way in. Call [`Import::write`] until every segment is there, beginning where
/// [`Import::has`] says, then [`Import::finish`].
#[derive(Debug)]
pub struct Import {
    store: Arc<Store>,
    group: GroupId,
    options: GroupOptions,
    manifest: LogManifest,
    parts: Vec<Part>,
    /// Number of the state's file.
    number: SegmentId,
    end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    /// What it has is of no use.
    Failed,
    Finished,
}

impl Store {
    /// Begins to bring a log in for a group, with space reserved for all of it; `options` are for a group
    /// that is not there. Blocks on the disk.
    ///
    /// # Errors
    /// When the manifest contradicts itself, another import of the group is under way, or there is no room.
    pub fn import(
        self: &Arc<Self>,
        group: GroupId,
        options: GroupOptions,
        manifest: LogManifest,
    ) -> Result<Import, ImportError> {
        manifest.check()?;
        let segments = manifest.segments.len();
        let limit = self.shared().entry_bytes_max;
        if install_bytes_max(segments) > limit {
            let limit = (limit / install_bytes_max(1)) as usize;
            return Err(ManifestError::Segments { segments, limit }.into());
        }
        let left = match self.imports().lock().insert(group, ImportSlot::Active) {
            None => Vec::new(),
            Some(ImportSlot::Left(parts)) => parts,
            Some(ImportSlot::Active) => return Err(ImportError::Busy(group)),
        };
        let store = self.clone();
        let (parts, number) = (left, SegmentId(0));
        let mut import = Import { store, group, options, manifest, parts, number, end: End::Open };
        // From here on, dropping it leaves what it has.
        import.reserve()?;
        Ok(import)
    }

    /// Removes what an import of this group left that was dropped before its end. Nothing happens while one
    /// is under way.
    pub fn forget_import(&self, group: GroupId) {
        let mut imports = self.imports().lock();
        if let Some(ImportSlot::Left(_)) = imports.get(&group)
            && let Some(ImportSlot::Left(parts)) = imports.remove(&group)
        {
            drop(imports);
            parts.iter().for_each(|part| part.remove(&*self.shared().disk));
        }
    }
}

impl Import {
    /// What is brought in.
    #[must_use]
    pub fn manifest(&self) -> &LogManifest {
        &self.manifest
    }

    /// Bytes held of each segment: the next piece of it begins there.
    #[must_use]
    pub fn has(&self) -> Vec<u64> {
        self.parts.iter().map(|part| part.held).collect()
    }

    /// Takes in a piece of a segment, which follows the one before it. A segment that is full then is checked,
    /// every byte of it, and synced. Blocks on the disk.
    ///
    /// # Errors
    /// When the piece does not follow; when the segment is damaged, or the medium fails: the import has
    /// ended then.
    pub fn write(&mut self, segment: usize, at: u64, piece: &[u8]) -> Result<(), ImportError> {
        if self.end != End::Open {
            return Err(ImportError::Ended);
        }
        let bytes = piece.len() as u64;
        let (held, total) =
            self.parts.get(segment).map_or((0, 0), |part| (part.held, part.manifest.bytes));
        if at != held || bytes > total - held || bytes == 0 {
            return Err(ImportError::Piece { segment, at, bytes, held, total });
        }
        let shared = self.store.shared();
        let part = &mut self.parts[segment];
        let outcome = part.write(&*shared.disk, piece).and_then(|()| {
            let branch = self.store.group(self.group).map_or(0, |group| group.branch()) + 1;
            match part.held == total {
                true => part.complete(shared, segment, branch),
                false => Ok(()),
            }
        });
        outcome.inspect_err(|_| self.end = End::Failed)
    }

    /// Puts the log in the place of the one that is there, with the state that is folded up to `applied`. The
    /// group is made where it is not there; its vote and options stay where it is. `done` is called once the
    /// new log is the log for good. Blocks on the disk.
    ///
    /// # Errors
    /// When a segment is not there in full, the state is not one of this log, the group was deleted, or the
    /// medium fails. `done` is dropped then.
    pub fn finish(
        mut self,
        applied: LogId,
        state: Bytes,
        done: Completion,
    ) -> Result<Arc<GroupLog>, ImportError> {
        if self.end != End::Open {
            return Err(ImportError::Ended);
        }
        for (segment, part) in self.parts.iter().enumerate() {
            let (held, total) = (part.held, part.manifest.bytes);
            if part.info.is_none() {
                return Err(ImportError::Incomplete { segment, held, total });
            }
        }
        let (previous, last) = (self.manifest.previous(), self.manifest.last);
        // What is compacted is purged for Raft, so the state must have it.
        let begin = previous.max(self.manifest.compacted_upto());
        let is_in_log = begin.is_none_or(|begin| applied >= begin) && applied <= last;
        if !is_in_log {
            return Err(ImportError::State { applied, previous: begin, last });
        }
        let outcome = self.put_in_place(applied, state, done);
        self.end = if outcome.is_ok() { End::Finished } else { End::Failed };
        outcome
    }

    fn put_in_place(
        &mut self,
        applied: LogId,
        state: Bytes,
        done: Completion,
    ) -> Result<Arc<GroupLog>, ImportError> {
        let shared = self.store.shared();
        let disk = &*shared.disk;
        let installed = InstalledState {
            number: self.number,
            applied,
            bytes: state.len() as u64,
            crc: crc32fast::hash(&state),
        };
        let path = SegmentName { group: self.group, id: self.number }.state_path();
        state_file::write(disk, &shared.identity, self.group, &installed, &state)
            .map_err(ImportError::medium("writing", &path))?;
        for part in &self.parts {
            let path = part.name.path();
            disk.rename(&part.unfinished(), &path)
                .map_err(ImportError::medium("renaming", &path))?;
        }
        disk.sync_dir(DIRECTORY).map_err(ImportError::medium("syncing", DIRECTORY))?;
        let group = self.store.create_group(self.group, self.options)?;
        let ids = self.parts.iter().map(|part| part.name.id).chain([self.number]);
        let next_segment = ids.max().map_or(SegmentId(0), |id| SegmentId(id.0 + 1));
        let segments = self.parts.iter().map(|part| part.info.expect("every part was completed"));
        let manifest = &self.manifest;
        let install = Install {
            last: Some(manifest.last),
            committed: Some(manifest.last),
            purged: manifest.previous(),
            start_offset: manifest.start_offset,
            start_index: manifest.first_index(),
            end_offset: manifest.end_offset,
            branch: 0,
            next_segment,
            segments: segments.collect(),
            state: Some(installed),
        };
        assert_eq!(install.check(), Ok(()), "the manifest and the segments were checked");
        group.install(install, StateSlot::Held(applied, state), done);
        Ok(group)
    }

    /// Takes over what an import before has left, and reserves space for the rest.
    fn reserve(&mut self) -> Result<(), ImportError> {
        let store = self.store.clone();
        let disk = &*store.shared().disk;
        let mut free_id = self.free_id(disk)?;
        let mut left = std::mem::take(&mut self.parts);
        let mut next_id = || {
            free_id += 1;
            SegmentId(free_id - 1)
        };
        self.number = next_id();
        for manifest in &self.manifest.segments {
            let at = left.iter().position(|part| part.can_become(manifest));
            let part = match at {
                Some(at) => Part { manifest: *manifest, ..left.swap_remove(at) },
                None => Part::new(SegmentName { group: self.group, id: next_id() }, *manifest),
            };
            self.parts.push(part);
        }
        // What is of no use for this log makes room for it.
        left.iter().for_each(|part| part.remove(disk));
        let length = |part: &Part| {
            (FIRST_BATCH_AT + part.manifest.bytes).next_multiple_of(BLOCK_BYTES as u64)
        };
        let needed: u64 =
            self.parts.iter().map(|part| length(part).saturating_sub(part.reserved)).sum();
        let kept_free = store.shared().config.free_bytes_min;
        let free = disk.free_bytes().map_err(ImportError::medium("looking at", DIRECTORY))?;
        let full = |free| ImportError::Full { needed, free, kept_free };
        if free < needed.saturating_add(kept_free) {
            return Err(full(free));
        }
        for part in &mut self.parts {
            let bytes = length(part);
            match part.reserve(disk, bytes) {
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    return Err(full(disk.free_bytes().unwrap_or(0)));
                }
                reserved => {
                    reserved.map_err(ImportError::medium("making", &part.unfinished()))?;
                }
            }
        }
        Ok(())
    }

    /// The first number that nothing of this group has, behind the gap.
    fn free_id(&self, disk: &dyn Disk) -> Result<u64, ImportError> {
        let names = disk.list(DIRECTORY).map_err(ImportError::medium("listing", DIRECTORY))?;
        let of_group = names.iter().filter_map(|name| {
            let name = name.strip_suffix(UNFINISHED).unwrap_or(name);
            let of = |extension| SegmentName::parse(name, extension);
            of(EXTENSION).or_else(|| of(STATE_EXTENSION))
        });
        let counted = |name: &SegmentName| name.group == self.group && !name.id.is_of_compaction();
        let taken = of_group.filter(counted).map(|name| name.id.0 + 1);
        let taken = taken.chain(self.parts.iter().map(|part| part.name.id.0 + 1));
        let taken = taken.max().unwrap_or(0);
        // What is installed and not yet in the back counts, too: what is appended then follows its numbers.
        let next = self.store.group(self.group).map_or(0, |group| {
            let installed = group.readable().lock().next_segment;
            installed.max(group.back.lock().next_segment).0
        });
        Ok(taken.max(next + IMPORT_GAP))
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        let parts = std::mem::take(&mut self.parts);
        let mut imports = self.store.imports().lock();
        match self.end {
            End::Open => drop(imports.insert(self.group, ImportSlot::Left(parts))),
            End::Finished => drop(imports.remove(&self.group)),
            End::Failed => {
                imports.remove(&self.group);
                drop(imports);
                parts.iter().for_each(|part| part.remove(&*self.store.shared().disk));
            }
        }
    }
}

impl LogManifest {
    /// Index of the first entry that is sent; where none is, the one that comes next.
    fn first_index(&self) -> LogIndex {
        LogIndex(self.previous().map_or(0, |id| id.index.0 + 1))
    }
}

impl Part {
    fn can_become(&self, manifest: &SegmentManifest) -> bool {
        self.manifest.is_same_file(manifest) && self.held <= manifest.bytes
    }
}
