//! The log: group commits, and reads from the tail cache and from the maps.
//!
//! `cargo bench -p plimsoll-bench --bench log`; the store lies in the system's temporary directory,
//! or in `TMPDIR`. Where that is in memory, commits show the work beside the disk.

use std::sync::Arc;

use bytes::Bytes;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use plimsoll_log::disk::real::{OpenOptions, RealDisk};
use plimsoll_log::{Driver, GroupLog, GroupOptions, LogEntry, ReadStep, Store, StoreConfig};
use plimsoll_protocol::batch::{BatchHeader, EntryKind};
use plimsoll_protocol::ids::{GroupId, LogIndex, Offset, Term};
use tempfile::TempDir;

fn main() {
    divan::main();
}

/// A store whose work is done by [`Log::work`], not by threads.
struct Log {
    store: Arc<Store>,
    group: Arc<GroupLog>,
    next: u64,
    _directory: TempDir,
}

impl Log {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let disk = RealDisk::open(directory.path(), OpenOptions::default()).expect("a disk");
        let on_fatal = Box::new(|error: &plimsoll_log::FatalError| panic!("{error}"));
        let store = Store::open(Arc::new(disk), StoreConfig::default(), Driver::Manual, on_fatal)
            .expect("a new store");
        let group = store.create_group(GroupId(1), GroupOptions::default()).expect("a group");
        let log = Self { store, group, next: 0, _directory: directory };
        log.work();
        log
    }

    fn append(&mut self, entries: u64, body_bytes: usize) {
        let entries = (0..entries).map(|_| self.entry(body_bytes)).collect();
        self.group.append(entries, Box::new(|_| {})).expect("in order");
    }

    fn entry(&mut self, body_bytes: usize) -> LogEntry {
        let body = Bytes::from(vec![0x5A; body_bytes]);
        let mut header = BatchHeader::for_entry(EntryKind::Records, &body);
        (header.term, header.index, header.record_count) = (Term(1), LogIndex(self.next), 1);
        header.body_crc = header.compute_body_crc(&body);
        self.next += 1;
        LogEntry { header, body }
    }

    /// Commits and materialises what is queued.
    fn work(&self) {
        while self.store.step() {}
    }

    fn read_all(&self) -> usize {
        let upto = self.group.bounds().log_end_offset;
        let mut cursor = self.group.cursor(Offset(0));
        let mut bytes = 0;
        loop {
            match self.group.read(&mut cursor, upto, 1 << 20).expect("undamaged") {
                ReadStep::Batches { chunks, .. } => {
                    bytes += black_box(chunks).iter().map(Bytes::len).sum::<usize>();
                }
                ReadStep::Cold(range) => range.load().expect("undamaged"),
                ReadStep::CaughtUp => return bytes,
            }
        }
    }
}

/// Shapes of what is read: entries, bytes of one.
const SHAPES: [(u64, usize); 2] = [(1_000, 200), (16, 1_000_000)];

#[divan::bench(args = [(1, 200), (64, 200), (1, 1_000_000)])]
fn append_and_commit(bencher: Bencher<'_, '_>, (entries, body_bytes): (u64, usize)) {
    let mut log = Log::new();
    bencher
        .counter(ItemsCount::new(entries))
        .counter(BytesCount::new(entries * body_bytes as u64))
        .bench_local(|| {
            log.append(entries, body_bytes);
            log.work();
        });
}

#[divan::bench(args = SHAPES)]
fn read_tail_cache(bencher: Bencher<'_, '_>, (entries, body_bytes): (u64, usize)) {
    let mut log = Log::new();
    log.append(entries, body_bytes);
    let bytes = BytesCount::new(entries * body_bytes as u64);
    bencher.counter(ItemsCount::new(entries)).counter(bytes).bench_local(|| log.read_all());
}

#[divan::bench(args = SHAPES)]
fn read_maps(bencher: Bencher<'_, '_>, (entries, body_bytes): (u64, usize)) {
    let mut log = Log::new();
    log.append(entries, body_bytes);
    log.work();
    log.group.applied(log.group.bounds().last.expect("entries were appended"));
    log.read_all();
    let bytes = BytesCount::new(entries * body_bytes as u64);
    bencher.counter(ItemsCount::new(entries)).counter(bytes).bench_local(|| log.read_all());
}
