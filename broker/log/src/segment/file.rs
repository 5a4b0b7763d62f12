//! One open segment file: written by the materialiser with `pwrite`, read by everybody through a map,
//! up to the published end.
//!
//! Invariant: header <= published end <= allocated bytes. Bytes before the published end never
//! change; a truncation lowers the end, and the log goes on in a new segment.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use thiserror::Error;

use super::header::{FIRST_BATCH_AT, SegmentHeader};
use super::index::SparseIndex;
use super::scan::{Damage, Fault, Walk, check_header};
use super::verified::Verified;
use super::{SegmentInfo, SegmentName};
use crate::disk::{Disk, DiskFile, Mapping, Mode};
use crate::fatal::of_sync;
use crate::header::{HEADER_BYTES, Identity};
use crate::parking::Mutex;

/// Why a segment cannot be read or written.
#[derive(Debug, Error)]
pub(crate) enum SegmentError {
    #[error("{operation} of {path} failed: {source}")]
    Medium { operation: &'static str, path: String, source: io::Error },
    #[error(transparent)]
    Damaged(Damage),
}

/// An open segment.
#[derive(Debug)]
pub(crate) struct Segment {
    header: SegmentHeader,
    crc_start: u32,
    file: Arc<dyn DiskFile>,
    end: AtomicU64,
    allocated: AtomicU64,
    map: Mutex<Option<Arc<dyn Mapping>>>,
    index: Mutex<SparseIndex>,
    verified: Mutex<Verified>,
    /// Written since the last capture for a checkpoint, and not synced since by a placement.
    unsynced: AtomicBool,
    /// Held by a sync; whether one failed.
    sync_failed: Mutex<bool>,
    /// Its name is known to be on stable storage.
    named: AtomicBool,
    /// When it was last used, by the clock of [`super::open::OpenSegments`].
    pub(super) used: AtomicU64,
}

impl Segment {
    /// Makes the file anew; a leftover with its name goes. Not synced: the journal holds the same
    /// bytes until a checkpoint, which syncs first, or refers to them after a sync.
    pub(crate) fn create(
        disk: &dyn Disk,
        identity: &Identity,
        header: SegmentHeader,
        step_bytes: u64,
    ) -> io::Result<Self> {
        let path = header.name.path();
        for leftover in [&path, &header.name.index_path()] {
            if disk.exists(leftover)? {
                disk.remove(leftover)?;
            }
        }
        let file = disk.create(&path, Mode::Buffered)?;
        let filled = file
            .allocate(step_bytes.max(FIRST_BATCH_AT))
            .and_then(|()| file.write_at(0, &[&header.encode(identity)]));
        if let Err(error) = filled {
            // Without its header it is of no use; the next attempt removes it too.
            let _ = disk.remove(&path);
            return Err(error);
        }
        Self::with(header, file, FIRST_BATCH_AT)
    }

    /// A file that is taken to have this header, whatever it begins with; its batches end at `end`.
    pub(crate) fn over(
        header: SegmentHeader,
        file: Arc<dyn DiskFile>,
        end: u64,
    ) -> io::Result<Self> {
        Self::with(header, file, end)
    }

    fn with(header: SegmentHeader, file: Arc<dyn DiskFile>, end: u64) -> io::Result<Self> {
        let allocated = file.len()?;
        Ok(Self {
            crc_start: header.salt.crc_start(),
            header,
            file,
            end: AtomicU64::new(end),
            allocated: AtomicU64::new(allocated),
            map: Mutex::new(None),
            index: Mutex::new(SparseIndex::default()),
            verified: Mutex::new(Verified::default()),
            unsynced: AtomicBool::new(false),
            sync_failed: Mutex::new(false),
            named: AtomicBool::new(false),
            used: AtomicU64::new(0),
        })
    }

    /// Opens the file that `info` speaks of. Blocks on the disk.
    pub(crate) fn open(
        disk: &dyn Disk,
        identity: &Identity,
        name: SegmentName,
        info: &SegmentInfo,
    ) -> Result<Self, SegmentError> {
        let header = SegmentHeader::of(name.group, info);
        let segment = Self::open_headed(disk, identity, name, info.end_bytes)?;
        if segment.header != header {
            let fault = Fault::FileHeader(crate::header::HeaderError::Misplaced);
            return Err(SegmentError::Damaged(segment.damage(0, fault)));
        }
        if info.sealed {
            segment.load_index(disk, identity, info);
        }
        Ok(segment)
    }

    /// Opens a file by what its own header says; its batches are taken to end at `end`.
    pub(crate) fn open_headed(
        disk: &dyn Disk,
        identity: &Identity,
        name: SegmentName,
        end: u64,
    ) -> Result<Self, SegmentError> {
        let path = name.path();
        let damaged =
            |position, fault| SegmentError::Damaged(Damage { path: path.clone(), position, fault });
        let medium =
            |source| SegmentError::Medium { operation: "opening", path: path.clone(), source };
        let file = match disk.open(&path, Mode::Buffered) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(damaged(0, Fault::Missing));
            }
            opened => opened.map_err(medium)?,
        };
        let length = file.len().map_err(medium)?;
        if length < end.max(FIRST_BATCH_AT) {
            return Err(damaged(length, Fault::Short { length }));
        }
        let mut first = vec![0; HEADER_BYTES];
        file.read_at(0, &mut first).map_err(medium)?;
        let header = SegmentHeader::decode(identity, name, &first)
            .map_err(|error| damaged(0, Fault::FileHeader(error)))?;
        Self::with(header, file, end).map_err(medium)
    }

    pub(crate) fn name(&self) -> SegmentName {
        self.header.name
    }

    pub(crate) fn header(&self) -> &SegmentHeader {
        &self.header
    }

    pub(crate) fn crc_start(&self) -> u32 {
        self.crc_start
    }

    /// Byte position up to which batches may be looked at.
    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    pub(crate) fn allocated(&self) -> u64 {
        self.allocated.load(Ordering::Relaxed)
    }

    pub(crate) fn damage(&self, position: u64, fault: Fault) -> Damage {
        Damage { path: self.header.name.path(), position, fault }
    }

    fn medium(&self, operation: &'static str, source: io::Error) -> SegmentError {
        SegmentError::Medium { operation, path: self.header.name.path(), source }
    }

    /// Reserves space up to `bytes`. The materialiser only.
    pub(crate) fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.file.allocate(bytes)?;
        self.allocated.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Writes behind the published end, into space that was reserved. The materialiser only.
    pub(crate) fn write_at(&self, position: u64, parts: &[&[u8]]) -> io::Result<()> {
        self.file.write_at(position, parts)
    }

    /// Lets readers see everything before `end`; `batches` are the headers in between.
    pub(crate) fn publish(
        &self,
        end: u64,
        batches: &[plimsoll_protocol::batch::BatchHeader],
        index_interval: u64,
    ) {
        let from = self.end();
        {
            let mut index = self.index.lock();
            if index.covered() == from {
                for header in batches {
                    index.add(header, index_interval);
                }
            }
        }
        self.verified.lock().add(from..end);
        self.end.store(end, Ordering::Release);
    }

    /// Takes in what was found behind the end, and checked, when the store was opened.
    pub(crate) fn adopt(&self, end: u64) {
        let from = self.end();
        self.verified.lock().add(from..end);
        self.end.store(end, Ordering::Release);
    }

    /// Writes bytes once more where they lie. For bytes that another process wrote and nobody synced:
    /// had its sync failed, they would count as clean, and a later sync would leave them out.
    pub(crate) fn rewrite(&self, range: Range<u64>) -> Result<(), SegmentError> {
        const STEP_BYTES: u64 = 1024 * 1024;
        let mapping = self.mapping(range.end)?;
        let mut at = range.start;
        while at < range.end {
            let next = range.end.min(at + STEP_BYTES);
            self.populate(&mapping, at..next)?;
            let bytes = mapping.clone().slice(at..next);
            self.file.write_at(at, &[&bytes]).map_err(|source| self.medium("writing", source))?;
            at = next;
        }
        Ok(())
    }

    /// Takes back everything from `end` on.
    pub(crate) fn cut(&self, end: u64) {
        self.end.store(end, Ordering::Release);
        self.index.lock().cut(end);
        self.verified.lock().cut(end);
    }

    /// Notes that it was written; says whether that was noted before.
    pub(crate) fn mark_unsynced(&self) -> bool {
        self.unsynced.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn unmark_unsynced(&self) {
        self.unsynced.store(false, Ordering::Release);
    }

    /// Makes everything that was written durable. One at a time, and none succeeds after one that failed:
    /// the system tells of a lost page only once, so of two threads that sync one file at once only one
    /// would learn of it.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let mut failed = self.sync_failed.lock();
        if *failed {
            return Err(io::Error::other("a sync of this file failed before"));
        }
        self.file.sync().map_err(of_sync).inspect_err(|_| *failed = true)
    }

    /// Whether its name is known to be on stable storage.
    pub(crate) fn is_named(&self) -> bool {
        self.named.load(Ordering::Acquire)
    }

    /// The directory was synced after the file was made.
    pub(crate) fn set_named(&self) {
        self.named.store(true, Ordering::Release);
    }

    /// A map of at least the first `bytes` bytes, which must be allocated.
    pub(crate) fn mapping(&self, bytes: u64) -> Result<Arc<dyn Mapping>, SegmentError> {
        let mut map = self.map.lock();
        if let Some(mapping) = map.as_ref().filter(|mapping| mapping.len() >= bytes) {
            return Ok(mapping.clone());
        }
        let mapping = self
            .file
            .map(self.allocated().max(bytes))
            .map_err(|source| self.medium("mapping", source))?;
        *map = Some(mapping.clone());
        Ok(mapping)
    }

    /// Brings a range into memory; an error of the medium comes out here.
    pub(crate) fn populate(
        &self,
        mapping: &Arc<dyn Mapping>,
        range: Range<u64>,
    ) -> Result<(), SegmentError> {
        mapping.populate(range).map_err(|source| self.medium("reading", source))
    }

    /// End of the range from `position` on whose checksums were found right in this life.
    pub(crate) fn verified_end(&self, position: u64) -> u64 {
        self.verified.lock().end_from(position)
    }

    /// Brings the bytes from `position`, where a batch begins, into memory: at least that batch, and
    /// what else lies in the next `window` bytes. Checks every batch there that was not checked yet.
    /// Returns the position up to which pages may be touched. Blocks on the disk.
    pub(crate) fn warm(
        &self,
        mapping: &Arc<dyn Mapping>,
        position: u64,
        end: u64,
        window: u64,
    ) -> Result<u64, SegmentError> {
        let damaged = |at, fault| SegmentError::Damaged(self.damage(at, fault));
        let mut warm = (position + window).min(mapping.len());
        self.populate(mapping, position..warm)?;
        let bytes = mapping.clone().slice(position..warm);
        let first = check_header(&bytes, self.crc_start, position, end)
            .map_err(|fault| damaged(position, fault))?;
        let first_end = position + u64::from(first.batch_length);
        let bytes = if first_end > warm {
            self.populate(mapping, warm..first_end)?;
            warm = first_end;
            mapping.clone().slice(position..warm)
        } else {
            bytes
        };
        let limit = end.min(warm);
        let mut at = self.verified_end(position);
        while at < limit {
            let rest = &bytes[(at - position) as usize..];
            if rest.len() < plimsoll_protocol::batch::BATCH_HEADER_BYTES {
                break;
            }
            let header =
                check_header(rest, self.crc_start, at, end).map_err(|fault| damaged(at, fault))?;
            let length = header.batch_length as usize;
            let Some(body) = rest.get(plimsoll_protocol::batch::BATCH_HEADER_BYTES..length) else {
                break;
            };
            if !header.check_body_crc(body) {
                return Err(damaged(at, Fault::BodyChecksum));
            }
            self.verified.lock().add(at..at + length as u64);
            at = self.verified_end(at);
        }
        Ok(warm)
    }

    /// Some batch as `before` finds it in the index, after the index was completed. Blocks.
    pub(crate) fn search(
        &self,
        end: u64,
        index_interval: u64,
        before: impl FnOnce(&SparseIndex) -> u64,
    ) -> Result<u64, SegmentError> {
        let mut index = {
            let shared = self.index.lock();
            if shared.covered() >= end {
                return Ok(before(&shared));
            }
            shared.clone()
        };
        // Walked without the lock: the materialiser must not wait for the disk here.
        let mut walk = Walk::new(self, index.covered(), end)?;
        while let Some((_, header)) = walk.next()? {
            index.add(&header, index_interval);
        }
        let found = before(&index);
        let mut shared = self.index.lock();
        if shared.covered() < index.covered() && index.covered() <= self.end() {
            *shared = index;
        }
        Ok(found)
    }

    /// Range of the batch with this log index. Blocks.
    pub(crate) fn find_index(
        &self,
        target: plimsoll_protocol::ids::LogIndex,
        end: u64,
        index_interval: u64,
    ) -> Result<(u64, plimsoll_protocol::batch::BatchHeader), SegmentError> {
        let from = self.search(end, index_interval, |index| index.before_index(target))?;
        let mut walk = Walk::new(self, from, end)?;
        while let Some((position, header)) = walk.next()? {
            if header.index == target {
                return Ok((position, header));
            }
            if header.index > target {
                let found = header.log_id();
                let fault = Fault::Sequence { found, offset: header.base_offset, expected: target };
                return Err(SegmentError::Damaged(self.damage(position, fault)));
            }
        }
        let fault = Fault::Short { length: end };
        Err(SegmentError::Damaged(self.damage(end, fault)))
    }

    fn load_index(&self, disk: &dyn Disk, identity: &Identity, info: &SegmentInfo) {
        let path = self.header.name.index_path();
        let read = || -> io::Result<Vec<u8>> {
            let file = disk.open(&path, Mode::Buffered)?;
            let mut bytes = vec![0; file.len()? as usize];
            file.read_at(0, &mut bytes)?;
            Ok(bytes)
        };
        // Missing or damaged: it is made again on first use.
        let Ok(bytes) = read() else { return };
        match SparseIndex::decode(identity, self.header.name, info, &bytes) {
            Ok(index) => *self.index.lock() = index,
            Err(error) => tracing::debug!(path, %error, "index file not used"),
        }
    }

    /// The bytes of the index file of a sealed segment. Blocks.
    pub(crate) fn encode_index(
        &self,
        identity: &Identity,
        info: &SegmentInfo,
        index_interval: u64,
    ) -> Result<Vec<u8>, SegmentError> {
        let mut bytes = Vec::new();
        self.search(info.end_bytes, index_interval, |index| {
            bytes = index.encode(identity, self.header.name, info);
            0
        })?;
        Ok(bytes)
    }

    /// The bytes of a range that is populated.
    pub(crate) fn slice(mapping: &Arc<dyn Mapping>, range: Range<u64>) -> Bytes {
        mapping.clone().slice(range)
    }
}
