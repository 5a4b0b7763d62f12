//! What a store is told when it is opened: sizes, limits and intervals, each with its bounds.

use std::time::Duration;

use thiserror::Error;

use crate::disk::BLOCK_BYTES;
use crate::header::Identity;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Settings of a [`Store`](crate::Store). Checked once, when the store is opened.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Size of one journal file, in bytes; whole blocks of 4096, at least 64 KiB. Default 64 MiB.
    /// Larger: fewer changes of file; smaller: less space held by an idle node. An entry must fit.
    pub journal_file_bytes: u64,
    /// All journal files together, in bytes; at least three files. Default 512 MiB. Smaller: an
    /// append waits sooner for a checkpoint; larger: a longer replay after a crash is possible.
    pub journal_bytes_max: u64,
    /// End of a journal file that appends of records leave free while no next file is ready, so that
    /// votes can be written on a full disk; at most a quarter of the file. Default 256 KiB.
    pub journal_reserve_bytes: u64,
    /// How much one journal block gathers, in bytes; 4 KiB to 64 MiB. Default 4 MiB. Larger: more
    /// throughput of small appends in a burst; smaller: the first of them waits less.
    pub block_bytes: u64,
    /// A checkpoint is made after this many journaled or materialised bytes. Default 128 MiB.
    /// Smaller: a shorter replay after a crash, more writing while running.
    pub checkpoint_after_bytes: u64,
    /// A checkpoint is made at the latest this long after the first change that no checkpoint
    /// holds. Default 5 s. There is no clock with [`Driver::Manual`].
    pub checkpoint_after: Duration,
    /// First reservation of space of a segment, in bytes; whole blocks of 4096. Default 256 KiB. Behind
    /// a segment that was filled the next one begins with `segment_step_bytes_max`.
    pub segment_step_bytes_min: u64,
    /// Largest reservation at once, in bytes, at least the first one. Default 16 MiB. Larger:
    /// fewer maps of a busy partition; smaller: less space that is reserved and not used.
    pub segment_step_bytes_max: u64,
    /// Distance of the entries of a segment's index, in bytes; at least 4 KiB. Default 64 KiB.
    /// Smaller: a faster search, more memory per open segment.
    pub index_interval_bytes: u64,
    /// How many segments are kept open, at least 8. Default 1024. Each takes a file handle and
    /// usually a map; readers may hold more open for as long as they read.
    pub open_segments_max: usize,
    /// Below this much free space the store reports [`SpaceState::Low`](crate::SpaceState::Low).
    /// Default 256 MiB.
    pub free_bytes_min: u64,
    /// Journaled but not yet in segments, in bytes; at least one block. Default 256 MiB. The journal
    /// waits when it is reached, which is how a slow disk slows the producers down.
    pub unwritten_bytes_max: u64,
    /// Appends to a durable group that wait together are *placed*: written straight into the group's
    /// segments and synced there, while the journal only refers to them. This many bytes of one group in
    /// appends of at least `place_item_bytes_min` make it worth that; `u64::MAX` places nothing. Default
    /// 1 MiB. Smaller: more syncs of segments, each slower than a journal write of few bytes; larger: more
    /// bytes are written twice.
    pub place_bytes_min: u64,
    /// Smaller appends do not count for `place_bytes_min`, in bytes. Default 64 KiB. Smaller: a burst of
    /// many appends is placed, too; larger: only large ones are.
    pub place_item_bytes_min: u64,
    /// How much one group commit places, in bytes; at least one entry is. Default 16 MiB. Larger: fewer
    /// syncs; smaller: a vote behind them waits less.
    pub place_bytes_max: u64,
    /// Entries of one group that stay in memory although they are in a segment because they were not
    /// applied yet, in bytes. Default 4 MiB. Past it they are read from the segment.
    pub tail_cache_bytes_max: u64,
    /// A group's folded state of at most this many bytes stays in memory; a larger one is read back
    /// from the checkpoint. Default 1 KiB.
    pub state_in_memory_bytes_max: usize,
    /// How long to wait before a write that failed for lack of space is tried again. Default 50 ms.
    pub retry_full_disk_after: Duration,
    /// Whose directory a new one becomes: a node that joins a cluster was given cluster and number. `None`,
    /// the default, makes random ones. A directory that is another's is not opened.
    pub identity: Option<Identity>,
    /// Seed of the random numbers (salts, identity); `None` takes the operating system's. For
    /// simulations only: every opening of the same directory needs another seed.
    pub seed: Option<u64>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            journal_file_bytes: 64 * MIB,
            journal_bytes_max: 512 * MIB,
            journal_reserve_bytes: 256 * KIB,
            block_bytes: 4 * MIB,
            checkpoint_after_bytes: 128 * MIB,
            checkpoint_after: Duration::from_secs(5),
            segment_step_bytes_min: 256 * KIB,
            segment_step_bytes_max: 16 * MIB,
            index_interval_bytes: 64 * KIB,
            open_segments_max: 1024,
            free_bytes_min: 256 * MIB,
            unwritten_bytes_max: 256 * MIB,
            place_bytes_min: MIB,
            place_item_bytes_min: 64 * KIB,
            place_bytes_max: 16 * MIB,
            tail_cache_bytes_max: 4 * MIB,
            state_in_memory_bytes_max: KIB as usize,
            retry_full_disk_after: Duration::from_millis(50),
            identity: None,
            seed: None,
        }
    }
}

/// A setting outside its bounds.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{setting} is {value}; it must be {bounds}")]
pub struct ConfigError {
    /// Name of the field.
    pub setting: &'static str,
    /// What it was.
    pub value: u64,
    /// What is allowed, in words.
    pub bounds: &'static str,
}

impl StoreConfig {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first setting that is outside.
    pub fn check(&self) -> Result<(), ConfigError> {
        const BLOCK: u64 = BLOCK_BYTES as u64;
        let check = |fine: bool, setting, value, bounds| {
            if fine { Ok(()) } else { Err(ConfigError { setting, value, bounds }) }
        };
        let file = self.journal_file_bytes;
        check(
            file >= 64 * KIB && file.is_multiple_of(BLOCK),
            "journal_file_bytes",
            file,
            "a multiple of 4096, at least 65536",
        )?;
        check(
            self.journal_bytes_max >= 3 * file,
            "journal_bytes_max",
            self.journal_bytes_max,
            "at least three times journal_file_bytes",
        )?;
        check(
            self.journal_reserve_bytes <= file / 4,
            "journal_reserve_bytes",
            self.journal_reserve_bytes,
            "at most a quarter of journal_file_bytes",
        )?;
        check(
            (BLOCK..=64 * MIB).contains(&self.block_bytes),
            "block_bytes",
            self.block_bytes,
            "4096 to 67108864",
        )?;
        let step = self.segment_step_bytes_min;
        check(
            step >= 2 * BLOCK && step.is_multiple_of(BLOCK),
            "segment_step_bytes_min",
            step,
            "a multiple of 4096, at least 8192",
        )?;
        check(
            self.segment_step_bytes_max >= step,
            "segment_step_bytes_max",
            self.segment_step_bytes_max,
            "at least segment_step_bytes_min",
        )?;
        check(
            self.index_interval_bytes >= BLOCK,
            "index_interval_bytes",
            self.index_interval_bytes,
            "at least 4096",
        )?;
        check(
            self.open_segments_max >= 8,
            "open_segments_max",
            self.open_segments_max as u64,
            "at least 8",
        )?;
        check(
            self.unwritten_bytes_max >= self.block_bytes,
            "unwritten_bytes_max",
            self.unwritten_bytes_max,
            "at least block_bytes",
        )?;
        check(
            self.place_bytes_max >= BLOCK,
            "place_bytes_max",
            self.place_bytes_max,
            "at least 4096",
        )?;
        check(
            self.place_bytes_min == u64::MAX || self.place_bytes_min <= self.place_bytes_max,
            "place_bytes_min",
            self.place_bytes_min,
            "at most place_bytes_max, or 18446744073709551615 for never",
        )
    }
}

/// Who runs the store's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// Three threads: journal, materialiser, checkpoint.
    Threads,
    /// Nobody but [`Store::step`](crate::Store::step): the simulation decides when.
    Manual,
}

/// When an append to a group counts as flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Durability {
    /// When the journal holds it on stable storage.
    #[default]
    Durable = 0,
    /// When it is in the segment's page cache. Survives the process, not the machine.
    Memory = 1,
}

/// Smallest segment size that is kept to; a smaller wish is raised to it.
pub const SEGMENT_BYTES_MIN: u64 = 8 * KIB;

/// What a group is created with; both can be changed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupOptions {
    /// When an append counts as flushed.
    pub durability: Durability,
    /// A segment that has reached this many bytes is closed and the next begun; at least
    /// [`SEGMENT_BYTES_MIN`]. Default 128 MiB. Smaller: retention drops smaller pieces; larger:
    /// fewer files.
    pub segment_bytes: u64,
}

impl Default for GroupOptions {
    fn default() -> Self {
        Self { durability: Durability::Durable, segment_bytes: 128 * MIB }
    }
}

impl GroupOptions {
    /// The segment size that is kept to.
    pub(crate) fn segment_bytes_kept(&self) -> u64 {
        self.segment_bytes.max(SEGMENT_BYTES_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_within_their_bounds() {
        StoreConfig::default().check().unwrap();
    }

    #[test]
    fn a_setting_outside_its_bounds_is_named() {
        let config = StoreConfig { open_segments_max: 1, ..StoreConfig::default() };
        assert_eq!(config.check().unwrap_err().setting, "open_segments_max");
        let config = StoreConfig { journal_file_bytes: 70_000, ..StoreConfig::default() };
        assert_eq!(config.check().unwrap_err().setting, "journal_file_bytes");
    }
}
