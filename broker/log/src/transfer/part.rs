//! A segment that arrives: a file under a name that nothing uses, until all of it is there and checked.

use std::io;

use super::import::ImportError;
use super::manifest::SegmentManifest;
use super::walk;
use crate::disk::{Disk, Mode};
use crate::fatal::of_sync;
use crate::random::Salt;
use crate::segment::file::{Segment, SegmentError};
use crate::segment::header::{FIRST_BATCH_AT, SegmentHeader, UNFINISHED};
use crate::segment::index::SparseIndex;
use crate::segment::{SegmentInfo, SegmentName};
use crate::store::shared::Shared;

/// One segment of an import.
#[derive(Debug)]
pub(crate) struct Part {
    pub(super) name: SegmentName,
    pub(super) manifest: SegmentManifest,
    /// Bytes of batches that are written.
    pub(super) held: u64,
    /// Bytes that the file has; 0 while there is none.
    pub(super) reserved: u64,
    /// What was found in it once all was there. It is synced then.
    pub(super) info: Option<SegmentInfo>,
}

impl Part {
    pub(super) fn new(name: SegmentName, manifest: SegmentManifest) -> Self {
        Self { name, manifest, held: 0, reserved: 0, info: None }
    }

    /// Path of the file until it is part of the log.
    pub(super) fn unfinished(&self) -> String {
        self.name.path() + UNFINISHED
    }

    /// Makes the file, or makes it longer.
    pub(super) fn reserve(&mut self, disk: &dyn Disk, bytes: u64) -> io::Result<()> {
        if self.info.is_some_and(|info| info.end_bytes != FIRST_BATCH_AT + self.manifest.bytes) {
            // There is more of it now.
            self.info = None;
        }
        if bytes <= self.reserved {
            return Ok(());
        }
        let path = self.unfinished();
        let file = match self.reserved {
            0 => disk.create(&path, Mode::Buffered)?,
            _ => disk.open(&path, Mode::Buffered)?,
        };
        let grown = file.allocate(bytes);
        if grown.is_ok() {
            self.reserved = bytes;
        } else if self.reserved == 0 {
            let _ = disk.remove(&path);
        }
        grown
    }

    /// Adds bytes behind the ones that are there.
    pub(super) fn write(&mut self, disk: &dyn Disk, piece: &[u8]) -> Result<(), ImportError> {
        let path = self.unfinished();
        disk.open(&path, Mode::Buffered)
            .and_then(|file| file.write_at(FIRST_BATCH_AT + self.held, &[piece]))
            .map_err(ImportError::medium("writing", &path))?;
        self.held += piece.len() as u64;
        Ok(())
    }

    /// Checks every byte, puts the header in front, and syncs.
    pub(super) fn complete(
        &mut self,
        shared: &Shared,
        segment: usize,
        branch: u64,
    ) -> Result<(), ImportError> {
        let manifest = self.manifest;
        let header = SegmentHeader {
            name: self.name,
            base_index: manifest.base_index,
            base_offset: manifest.base_offset,
            previous: manifest.previous,
            branch,
            salt: Salt(manifest.salt),
        };
        let path = self.unfinished();
        let (disk, identity) = (&*shared.disk, &shared.identity);
        let file =
            disk.open(&path, Mode::Buffered).map_err(ImportError::medium("opening", &path))?;
        let end = FIRST_BATCH_AT + manifest.bytes;
        let opened = Segment::over(header, file.clone(), end)
            .map_err(ImportError::medium("opening", &path))?;
        let mut info = SegmentInfo { compacted: manifest.compacted, ..header.info() };
        let mut index = SparseIndex::default();
        let interval = shared.config.index_interval_bytes;
        walk(&opened, &manifest, |found| {
            info.appended(found);
            index.add(found, interval);
        })
        .map_err(|error| match error {
            SegmentError::Damaged(damage) => ImportError::Damaged { segment, damage },
            SegmentError::Medium { operation, path, source } => {
                ImportError::Medium { operation, path, source }
            }
        })?;
        info.sealed = true;
        assert_eq!(info.end_bytes, end, "the walk ended there");
        file.write_at(0, &[&header.encode(identity)])
            .and_then(|()| file.sync().map_err(of_sync))
            .map_err(ImportError::medium("syncing", &path))?;
        self.write_index(disk, &index.encode(identity, self.name, &info));
        self.info = Some(info);
        Ok(())
    }

    /// Not synced: it is checked when read, and made again.
    fn write_index(&self, disk: &dyn Disk, bytes: &[u8]) {
        let path = self.name.index_path();
        let write = || -> io::Result<()> {
            if disk.exists(&path)? {
                disk.remove(&path)?;
            }
            let file = disk.create(&path, Mode::Buffered)?;
            file.allocate(bytes.len() as u64)?;
            file.write_at(0, &[bytes])
        };
        if let Err(error) = write() {
            tracing::debug!(path, %error, "index not written");
        }
    }

    /// Removes what there is of it. What stays costs space until the next start.
    pub(super) fn remove(&self, disk: &dyn Disk) {
        for path in [self.unfinished(), self.name.path(), self.name.index_path()] {
            if disk.exists(&path).unwrap_or(false)
                && let Err(error) = disk.remove(&path)
            {
                tracing::warn!(path, %error, "a part of an import was not removed");
            }
        }
    }
}
