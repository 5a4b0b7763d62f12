//! The segment that a compaction writes: under a name that nothing uses, until all of it is on stable
//! storage.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use plimsoll_protocol::batch::BatchHeader;
use plimsoll_protocol::ids::Offset;

use super::CompactError;
use crate::disk::{BLOCK_BYTES, DiskFile, Mode};
use crate::fatal::of_sync;
use crate::group::GroupLog;
use crate::segment::header::{DIRECTORY, SegmentHeader, UNFINISHED};
use crate::segment::index::SparseIndex;
use crate::segment::{COMPACTED_FROM, Compacted, SegmentId, SegmentInfo, SegmentName};
use crate::store::shared::Shared;

/// What is gathered before it is written.
const GATHERED_BYTES: usize = 256 * 1024;

/// What is written is synced in pieces of this size: all of a segment at its end would keep the journal from the
/// disk for long.
const SYNCED_BYTES: u64 = 8 << 20;

/// A segment in the making. Dropped before [`Output::keep`], it leaves nothing.
#[derive(Debug)]
pub(super) struct Output {
    shared: Arc<Shared>,
    header: SegmentHeader,
    crc_start: u32,
    file: Arc<dyn DiskFile>,
    /// The segment as far as it was filled.
    info: SegmentInfo,
    index: SparseIndex,
    /// Bytes behind those in the file.
    gathered: Vec<u8>,
    written: u64,
    /// Up to where it was synced.
    synced: u64,
    is_kept: bool,
}

impl Output {
    /// Makes the file of a segment that begins where `first` does. Blocks.
    pub(super) fn create(
        group: &GroupLog,
        first: &SegmentInfo,
        needed: u64,
        at_ms: i64,
    ) -> Result<Self, CompactError> {
        let shared = group.shared.clone();
        let disk = &*shared.disk;
        check_space(&shared, needed)?;
        let name = loop {
            let id = SegmentId(COMPACTED_FROM | shared.random.next());
            let name = SegmentName { group: group.id(), id };
            let exists =
                |path: &str| disk.exists(path).map_err(medium(&shared, "looking at", path));
            if !exists(&name.path())? && !exists(&unfinished(name))? {
                break name;
            }
        };
        let header = SegmentHeader {
            name,
            salt: shared.random.salt(),
            ..SegmentHeader::of(group.id(), first)
        };
        let compacted = Compacted { at_ms, horizon_ms: None, clean_to: first.base_offset };
        let info = SegmentInfo { compacted: Some(compacted), sealed: true, ..header.info() };
        let path = unfinished(name);
        let file = disk.create(&path, Mode::Buffered).map_err(medium(&shared, "making", &path))?;
        let output = Self {
            crc_start: header.salt.crc_start(),
            written: info.end_bytes,
            synced: info.end_bytes,
            header,
            file,
            info,
            index: SparseIndex::default(),
            gathered: Vec::new(),
            is_kept: false,
            shared,
        };
        let head = output.header.encode(&output.shared.identity);
        let made = output.file.allocate(output.written);
        made.and_then(|()| output.file.write_at(0, &[&head])).map_err(output.medium("writing"))?;
        Ok(output)
    }

    /// The segment as far as it was filled.
    pub(super) fn info(&self) -> &SegmentInfo {
        &self.info
    }

    /// Adds a batch; how many bytes were written for it. Blocks now and then.
    pub(super) fn push(
        &mut self,
        mut header: BatchHeader,
        body: &Bytes,
    ) -> Result<u64, CompactError> {
        header.seal(self.crc_start);
        self.info.appended(&header);
        self.index.add(&header, self.shared.config.index_interval_bytes);
        self.gathered.extend_from_slice(&header.to_bytes());
        self.gathered.extend_from_slice(body);
        if self.gathered.len() < GATHERED_BYTES {
            return Ok(0);
        }
        self.write()
    }

    fn write(&mut self) -> Result<u64, CompactError> {
        let end = self.written + self.gathered.len() as u64;
        self.file
            .allocate(end.next_multiple_of(BLOCK_BYTES as u64))
            .and_then(|()| self.file.write_at(self.written, &[&self.gathered]))
            .map_err(self.medium("writing"))?;
        let bytes = end - self.written;
        self.written = end;
        self.gathered.clear();
        if end - self.synced >= SYNCED_BYTES {
            self.file.sync().map_err(of_sync).map_err(self.medium("syncing"))?;
            self.synced = end;
        }
        Ok(bytes)
    }

    /// Makes the segment durable under its name. It stands for what the `sources` stand for. Blocks.
    pub(super) fn finish(
        &mut self,
        sources: &[SegmentInfo],
        clean_to: Offset,
        horizon_ms: Option<i64>,
    ) -> Result<u64, CompactError> {
        let bytes = self.write()?;
        let last = sources.last().expect("a group has a segment");
        assert_eq!(
            (self.info.last, self.info.end_offset),
            (last.last, last.end_offset),
            "it stands for the same entries"
        );
        let compacted = self.info.compacted.as_mut().expect("it was made so");
        compacted.horizon_ms = horizon_ms;
        compacted.clean_to = clean_to.clamp(self.info.base_offset, last.end_offset);
        // What was removed counts, too: retention goes by it.
        let appended = sources.iter().map(|info| info.max_append_ms).max();
        self.info.max_append_ms = appended.unwrap_or(i64::MIN);
        let (disk, name) = (&*self.shared.disk, self.header.name);
        self.file.sync().map_err(of_sync).map_err(self.medium("syncing"))?;
        self.write_index();
        disk.rename(&unfinished(name), &name.path()).map_err(self.medium("renaming"))?;
        disk.sync_dir(DIRECTORY).map_err(of_sync).map_err(self.medium("syncing the name of"))?;
        Ok(bytes)
    }

    /// The journal is about to name it: it stays.
    pub(super) fn keep(&mut self) {
        self.is_kept = true;
    }

    /// Not synced: it is checked when read, and made again.
    fn write_index(&self) {
        let path = self.header.name.index_path();
        let bytes = self.index.encode(&self.shared.identity, self.header.name, &self.info);
        let write = || -> io::Result<()> {
            let file = self.shared.disk.create(&path, Mode::Buffered)?;
            file.allocate(bytes.len() as u64)?;
            file.write_at(0, &[&bytes])
        };
        if let Err(error) = write() {
            tracing::debug!(path, %error, "index not written");
        }
    }

    fn medium(&self, operation: &'static str) -> impl FnOnce(io::Error) -> CompactError + use<> {
        medium(&self.shared, operation, &unfinished(self.header.name))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let (disk, name) = (&self.shared.disk, self.header.name);
        for path in [unfinished(name), name.path(), name.index_path()] {
            if disk.exists(&path).unwrap_or(false)
                && let Err(error) = disk.remove(&path)
            {
                tracing::warn!(path, %error, "a segment that compaction gave up was not removed");
            }
        }
    }
}

fn unfinished(name: SegmentName) -> String {
    name.path() + UNFINISHED
}

/// Whether there is room for a segment of so many bytes. Half of what the store keeps free may be used: where
/// space is low, compaction is what gives it back. Where the disk does not say, nothing is known to be wrong.
pub(super) fn check_space(shared: &Shared, needed: u64) -> Result<(), CompactError> {
    let kept_free = shared.config.free_bytes_min / 2;
    match shared.disk.free_bytes() {
        Ok(free) if free < needed.saturating_add(kept_free) => {
            Err(CompactError::Full { needed, free, kept_free })
        }
        _ => Ok(()),
    }
}

fn medium(
    shared: &Arc<Shared>,
    operation: &'static str,
    path: &str,
) -> impl FnOnce(io::Error) -> CompactError + use<> {
    let (shared, path) = (shared.clone(), path.to_owned());
    move |source| match source.kind() {
        io::ErrorKind::StorageFull => CompactError::Full {
            needed: GATHERED_BYTES as u64,
            free: shared.disk.free_bytes().unwrap_or(0),
            kept_free: shared.config.free_bytes_min,
        },
        _ => CompactError::Medium { operation, path, source },
    }
}
