//! The floor under a durable acknowledgement: one 4 KiB direct write to a file like the journal's,
//! on the same disk, on the same schedule as the records that are compared with it.
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
        let disk = RealDisk::open(directory.join("journal-write"), OpenOptions::default())
            .map_err(io::Error::other)?;
        let file = disk.create(FILE, Mode::Direct)?;
        file.allocate(FILE_BYTES)?;
        let zeros = AlignedBuffer::new(1 << 20);
        let step = zeros.as_slice().len();
        for offset in (0..FILE_BYTES).step_by(step) {
            file.write_at(offset, &[zeros.as_slice()])?;
        }
        file.sync()?;
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
}
