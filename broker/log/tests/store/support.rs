//! What these tests share: a store in a temporary directory, entries, waiting for completions.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use plimsoll_log::disk::Disk;
use plimsoll_log::disk::real::{OpenOptions, RealDisk};
use plimsoll_log::{
    Completion, Driver, FatalError, GroupLog, GroupOptions, LogEntry, OpenError, ReadStep, Store,
    StoreConfig,
};
use plimsoll_protocol::batch::{BatchHeader, EntryKind};
use plimsoll_protocol::ids::{GroupId, LogId, LogIndex, Offset, Term};

/// Small files, so that a short test rolls, recycles and checkpoints. Nothing is placed.
pub(crate) fn journaling_config() -> StoreConfig {
    StoreConfig { place_bytes_min: u64::MAX, ..small_config() }
}

/// Small files, so that a short test rolls, recycles and checkpoints, and places what has a kilobyte.
pub(crate) fn small_config() -> StoreConfig {
    StoreConfig {
        place_bytes_min: 2 << 10,
        place_item_bytes_min: 1 << 10,
        place_bytes_max: 32 << 10,
        journal_file_bytes: 256 * 1024,
        journal_bytes_max: 8 * 256 * 1024,
        journal_reserve_bytes: 16 * 1024,
        block_bytes: 64 * 1024,
        checkpoint_after_bytes: 512 * 1024,
        segment_step_bytes_min: 16 * 1024,
        segment_step_bytes_max: 256 * 1024,
        index_interval_bytes: 4096,
        free_bytes_min: 0,
        unwritten_bytes_max: 256 * 1024,
        ..StoreConfig::default()
    }
}

pub(crate) fn try_open(
    path: &Path,
    config: StoreConfig,
    driver: Driver,
) -> Result<Arc<Store>, OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(path, OpenOptions::default()).unwrap());
    Store::open(disk, config, driver, Box::new(|error| panic!("fatal: {error}")))
}

pub(crate) fn open(path: &Path) -> Arc<Store> {
    try_open(path, small_config(), Driver::Threads).unwrap()
}

pub(crate) fn small_segments() -> GroupOptions {
    GroupOptions { segment_bytes: 32 * 1024, ..GroupOptions::default() }
}

/// An entry of `records` records whose body is derived from its term and index.
pub(crate) fn records(term: u64, index: u64, records: u32, body_bytes: usize) -> LogEntry {
    let body: Vec<u8> =
        (0..body_bytes).map(|at| (at as u64 * 31 + index * 7 + term * 13) as u8).collect();
    let mut header = BatchHeader {
        batch_length: (96 + body.len()) as u32,
        kind: EntryKind::Records,
        term: Term(term),
        index: LogIndex(index),
        append_time_ms: 1_000_000 + index as i64,
        record_count: records,
        base_timestamp_ms: 1_000_000 + index as i64,
        max_timestamp_ms: 1_000_000 + index as i64,
        records_bytes: body.len() as u32,
        ..BatchHeader::default()
    };
    header.body_crc = header.compute_body_crc(&body);
    LogEntry { header, body: Bytes::from(body) }
}

pub(crate) fn blank(term: u64, index: u64) -> LogEntry {
    LogEntry::new(EntryKind::Blank, log_id(term, index), Bytes::new())
}

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(Term(term), LogIndex(index))
}

pub(crate) type Outcome = Result<(), Arc<FatalError>>;

/// A completion and where its outcome arrives.
pub(crate) fn completion() -> (Completion, mpsc::Receiver<Outcome>) {
    let (tell, told) = mpsc::channel();
    (
        Box::new(move |outcome| {
            let _ = tell.send(outcome);
        }),
        told,
    )
}

pub(crate) fn nobody() -> Completion {
    Box::new(|_| {})
}

pub(crate) fn wait(told: &mpsc::Receiver<Outcome>) -> Outcome {
    told.recv_timeout(Duration::from_secs(60)).expect("the completion is called")
}

pub(crate) fn append(group: &GroupLog, entries: Vec<LogEntry>) {
    let (done, told) = completion();
    group.append(entries, done).unwrap();
    wait(&told).unwrap();
}

/// Appends `count` entries of two records after the last one.
pub(crate) fn fill(group: &GroupLog, term: u64, count: u64, body_bytes: usize) {
    let next = group.bounds().last.map_or(0, |last| last.index.0 + 1);
    for index in next..next + count {
        group.append(vec![records(term, index, 2, body_bytes)], nobody()).unwrap();
    }
    let (done, told) = completion();
    group.append(vec![], done).unwrap();
    wait(&told).unwrap();
    if let Some(last) = group.bounds().last {
        group.applied(last);
    }
}

/// All entries from `from` on.
pub(crate) fn entries(group: &GroupLog, from: u64) -> Vec<LogEntry> {
    let mut found: Vec<LogEntry> = Vec::new();
    let end = group.bounds().last.map_or(0, |last| last.index.0 + 1);
    let mut next = from;
    while next < end {
        let more = group.read_entries(next..end, 50_000).unwrap();
        assert!(!more.is_empty(), "a range that is not empty gives something");
        next += more.len() as u64;
        found.extend(more);
    }
    found
}

/// All records from an offset on, as bytes of batches, through a cursor.
pub(crate) fn read_all(group: &GroupLog, from: Offset) -> Vec<u8> {
    let mut cursor = group.cursor(from);
    let upto = group.bounds().log_end_offset;
    let mut bytes = Vec::new();
    loop {
        match group.read(&mut cursor, upto, 20_000).unwrap() {
            ReadStep::Batches { chunks, .. } => {
                chunks.iter().for_each(|chunk| bytes.extend_from_slice(chunk));
            }
            ReadStep::Cold(range) => range.load().unwrap(),
            ReadStep::CaughtUp => return bytes,
        }
    }
}

/// The batches in a piece of a log: their headers, the file's checksum left out.
pub(crate) fn headers(mut bytes: &[u8]) -> Vec<BatchHeader> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let mut header = BatchHeader::parse(bytes).unwrap();
        assert!(header.check_body_crc(&bytes[96..header.batch_length as usize]));
        bytes = &bytes[header.batch_length as usize..];
        header.header_crc = 0;
        found.push(header);
    }
    found
}

/// The same entries, whatever file they were sealed for.
pub(crate) fn assert_same(found: &[LogEntry], expected: &[LogEntry]) {
    let plain = |entries: &[LogEntry]| -> Vec<LogEntry> {
        entries
            .iter()
            .cloned()
            .map(|mut entry| {
                entry.header.header_crc = 0;
                entry
            })
            .collect()
    };
    assert_eq!(plain(found), plain(expected));
}

pub(crate) const GROUP: GroupId = GroupId(7);
