//! Read-only maps of files, handed out as reference-counted slices.
//!
//! This module and [`sigbus`](super::sigbus) are the only ones with `unsafe`. What makes the maps
//! sound is kept by the rest of the crate: a mapped file is never truncated, it is written by
//! `pwrite` alone and only past the published end, and no byte past that end is looked at.
#![allow(unsafe_code, reason = "a file map is a promise about the file that no type can make")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{Advice, Mmap, MmapOptions};
use rustix::io::Errno;

use super::super::Mapping;
use super::retry;

/// Bytes read at a time where the kernel cannot populate (before Linux 5.14).
const SCRATCH_BYTES: usize = 256 << 10;

/// A map of a file's beginning.
#[derive(Debug)]
pub(super) struct RealMapping {
    map: Arc<Mmap>,
    /// The whole map; slices of it share one reference count and cost no allocation.
    bytes: Bytes,
    /// For kernels that cannot populate.
    file: Arc<File>,
}

/// Keeps the map alive for the slices.
struct MapOwner(Arc<Mmap>);

impl AsRef<[u8]> for MapOwner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl RealMapping {
    /// Maps `bytes` bytes, which the caller has checked to lie inside the file.
    pub(super) fn new(file: Arc<File>, bytes: u64) -> io::Result<Self> {
        let length = usize::try_from(bytes).map_err(|_| io::Error::from(Errno::OVERFLOW))?;
        // SAFETY: the file lies in a directory that this process has locked, is never truncated
        // while the disk is open (rule 3 of the maps), and covers `bytes`. Its bytes change only
        // past the published end, and no slice of such bytes is ever read: readers are bounded by
        // the published end, which is stored with release after the write and loaded with acquire.
        let map = unsafe { MmapOptions::new().len(length).map(&*file)? };
        let map = Arc::new(map);
        let bytes = Bytes::from_owner(MapOwner(Arc::clone(&map)));
        Ok(Self { map, bytes, file })
    }

    pub(super) fn read_through_file(&self, range: Range<u64>) -> io::Result<()> {
        let mut scratch = vec![0; SCRATCH_BYTES];
        let mut at = range.start;
        while at < range.end {
            let step = (range.end - at).min(SCRATCH_BYTES as u64) as usize;
            let read = retry(|| rustix::io::pread(&self.file, &mut scratch[..step], at))?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            at += read as u64;
        }
        Ok(())
    }
}

impl Mapping for RealMapping {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn slice(self: Arc<Self>, range: Range<u64>) -> Bytes {
        assert!(range.start <= range.end && range.end <= self.len(), "slice {range:?} of the map");
        self.bytes.slice(range.start as usize..range.end as usize)
    }

    fn populate(&self, range: Range<u64>) -> io::Result<()> {
        assert!(
            range.start <= range.end && range.end <= self.len(),
            "populate {range:?} of the map"
        );
        if range.is_empty() {
            return Ok(());
        }
        let (start, length) = (range.start as usize, (range.end - range.start) as usize);
        loop {
            let Err(error) = self.map.advise_range(Advice::PopulateRead, start, length) else {
                return Ok(());
            };
            match Errno::from_io_error(&error) {
                Some(Errno::INTR | Errno::AGAIN) => {}
                Some(Errno::INVAL) => return self.read_through_file(range),
                // A touch would have raised SIGBUS: the medium could not be read.
                Some(Errno::FAULT) => return Err(Errno::IO.into()),
                _ => return Err(error),
            }
        }
    }
}
