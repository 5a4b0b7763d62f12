//! What the disk alone does: the floor under a durable acknowledgement, one 4 KiB direct write to a
//! file like the journal's, on the same schedule as the records that are compared with it; and the
//! ceiling over durable throughput, large direct writes one after the other.
//!
//! The file is allocated and written with zeros before, as the journal's are, so that a write
//! changes no metadata. The schedule matters: a core that slept since the last write takes longer
//! to notice that this one is done, for the broker as for the raw write.

use std::io;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use plimsoll_log::disk::real::{OpenOptions, RealDisk};
use plimsoll_log::disk::{AlignedBuffer, BLOCK_BYTES, Disk, DiskFile, Mode};
use serde::Serialize;

use crate::pacer::Pacer;
use crate::percentiles::Latencies;

const FILE: &str = "probe";
const FILE_BYTES: u64 = 16 << 20;
/// Size of the writes of a stream: what a busy journal writes at once.
const STREAM_BLOCK_BYTES: usize = 4 << 20;
const STREAM_FILE_BYTES: u64 = 64 << 20;
const STREAM_BYTES: u64 = 256 << 20;

/// Durations of raw journal writes, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct JournalWrite {
    /// Half of the writes took at most this.
    pub p50: f64,
    /// 99 of 100.
    pub p99: f64,
}

/// A preallocated file that is written 4 KiB at a time.
#[derive(Debug)]
pub struct JournalProbe {
    file: Arc<dyn DiskFile>,
    block: AlignedBuffer,
    next: u64,
    latencies: Latencies,
}

impl JournalProbe {
    /// Makes the file in a new directory inside `directory`.
    pub fn new(directory: &Path) -> io::Result<Self> {
        let file = prepared_file(&directory.join("journal-write"), FILE_BYTES)?;
        let mut block = AlignedBuffer::new(BLOCK_BYTES);
        block.as_mut_slice().fill(0x5A);
        Ok(Self { file, block, next: 0, latencies: Latencies::new() })
    }

    /// Makes `writes` of them, `rate` a second, and adds them to what was measured before.
    pub fn measure(&mut self, writes: u64, rate: NonZeroU32) -> io::Result<()> {
        let pacer = Pacer::new(rate);
        for index in 0..writes {
            pacer.wait(index);
            let began = Instant::now();
            self.file.write_at(self.next, &[self.block.as_slice()])?;
            self.latencies.record(began.elapsed());
            self.next = (self.next + BLOCK_BYTES as u64) % FILE_BYTES;
        }
        Ok(())
    }

    /// What all writes so far took; `None` before the first.
    pub fn figures(&self) -> Option<JournalWrite> {
        let found = self.latencies.percentiles()?;
        Some(JournalWrite { p50: found.p50, p99: found.p99 })
    }
}

/// A file of `bytes` that was written once, in a directory that is made for it.
fn prepared_file(directory: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
    let disk = RealDisk::open(directory, OpenOptions::default()).map_err(io::Error::other)?;
    let file = disk.create(FILE, Mode::Direct)?;
    file.allocate(bytes)?;
    let zeros = AlignedBuffer::new(1 << 20);
    for offset in (0..bytes).step_by(zeros.as_slice().len()) {
        file.write_at(offset, &[zeros.as_slice()])?;
    }
    file.sync()?;
    Ok(file)
}

/// Millions of bytes per second that the disk of `directory` takes, durable, when nothing else is
/// done: 256 MiB in direct writes of 4 MiB, one after the other. Removes what it made.
///
/// # Errors
/// When the file cannot be made or written.
pub fn disk_mb_per_s(directory: &Path) -> io::Result<f64> {
    let directory = directory.join("disk-stream");
    let file = prepared_file(&directory, STREAM_FILE_BYTES)?;
    let mut block = AlignedBuffer::new(STREAM_BLOCK_BYTES);
    block.as_mut_slice().fill(0x5A);
    let began = Instant::now();
    for offset in (0..STREAM_BYTES).step_by(STREAM_BLOCK_BYTES) {
        file.write_at(offset % STREAM_FILE_BYTES, &[block.as_slice()])?;
    }
    let seconds = began.elapsed().as_secs_f64();
    drop(file);
    std::fs::remove_dir_all(directory)?;
    Ok(STREAM_BYTES as f64 / 1e6 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_on_a_schedule_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let mut probe = JournalProbe::new(directory.path()).unwrap();
        assert_eq!(probe.figures(), None);
        probe.measure(20, NonZeroU32::new(10_000).unwrap()).unwrap();
        let figures = probe.figures().unwrap();
        assert!(figures.p50 > 0.0 && figures.p99 >= figures.p50);
    }

    #[test]
    fn a_stream_has_a_rate_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        assert!(disk_mb_per_s(directory.path()).unwrap() > 0.0);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
