//! A log of records with keys on the simulated disk, and its naive twin: every record that was ever
//! appended, at its offset.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use plimsoll_log::disk::Disk;
use plimsoll_log::disk::sim::SimDisk;
use plimsoll_log::{
    CompactError, Compaction, CompactionPolicy, CompactionRun, Driver, Durability, GroupLog,
    GroupOptions, LogEntry, Store, StoreConfig,
};
use plimsoll_protocol::batch::{
    BATCH_HEADER_BYTES, BatchBuilder, BatchHeader, BatchLimits, Compression, PushOutcome, Record,
    iterate_batches,
};
use plimsoll_protocol::ids::{LogId, LogIndex, Offset, ProducerId, Term};

use crate::support::*;

/// Compacts whatever is dirty, at once.
pub(crate) const EAGER: CompactionPolicy = CompactionPolicy {
    min_age_ms: 0,
    tombstone_ms: 1_000_000,
    dirty_percent_min: 0,
    roll_after_ms: Some(0),
    map_entries_max: 100_000,
};

/// A record as its producer knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) key: Option<String>,
    /// `None` for a tombstone.
    pub(crate) value: Option<Vec<u8>>,
}

pub(crate) fn put(key: &str, value: &[u8]) -> Given {
    Given { key: Some(key.to_owned()), value: Some(value.to_vec()) }
}

pub(crate) fn delete(key: &str) -> Given {
    Given { key: Some(key.to_owned()), value: None }
}

pub(crate) fn without_key(value: &[u8]) -> Given {
    Given { key: None, value: Some(value.to_vec()) }
}

#[derive(Debug)]
pub(crate) struct Keyed {
    pub(crate) disk: SimDisk,
    pub(crate) store: Arc<Store>,
    pub(crate) now_ms: i64,
    /// By offset.
    pub(crate) twin: Twin,
}

/// What was appended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Twin {
    pub(crate) records: Vec<Given>,
    /// The offset behind each entry.
    pub(crate) entry_ends: Vec<u64>,
}

pub(crate) fn open_on(disk: &SimDisk) -> Arc<Store> {
    open_keeping(disk, 0)
}

/// A store that keeps so much of the disk free.
pub(crate) fn open_keeping(disk: &SimDisk, free_bytes_min: u64) -> Arc<Store> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let config = StoreConfig {
        journal_file_bytes: 64 * 1024,
        journal_bytes_max: 512 * 1024,
        journal_reserve_bytes: 8192,
        block_bytes: 16 * 1024,
        segment_step_bytes_min: 8192,
        open_segments_max: 8,
        checkpoint_after_bytes: u64::MAX,
        free_bytes_min,
        ..small_config()
    };
    Store::open(shared, config, Driver::Manual, Box::new(|error| panic!("{error}"))).unwrap()
}

impl Keyed {
    pub(crate) fn new(seed: u64, durability: Durability, segment_bytes: u64) -> Self {
        let disk = SimDisk::new(seed);
        let store = open_on(&disk);
        store.create_group(GROUP, GroupOptions { durability, segment_bytes }).unwrap();
        Self { disk, store, now_ms: 1_000_000, twin: Twin::default() }
    }

    /// The same log, as another disk has it.
    pub(crate) fn on(&self, disk: SimDisk) -> Self {
        let store = open_on(&disk);
        Self { disk, store, now_ms: self.now_ms, twin: self.twin.clone() }
    }

    pub(crate) fn group(&self) -> Arc<GroupLog> {
        self.store.group(GROUP).unwrap()
    }

    pub(crate) fn run(&self) {
        while self.store.step() {}
    }

    fn next_id(&self) -> LogId {
        LogId::new(Term(1), LogIndex(self.twin.entry_ends.len() as u64))
    }

    /// Appends one batch.
    pub(crate) fn append(&mut self, records: &[Given], compression: Compression) {
        let entry = entry_of(self.next_id(), self.now_ms, records, compression);
        self.group().append(vec![entry], nobody()).unwrap();
        self.twin.records.extend_from_slice(records);
        self.twin.entry_ends.push(self.twin.records.len() as u64);
    }

    /// Appends a record that expires, by the clock of its producer.
    pub(crate) fn append_expiring(&mut self, key: &str, timestamp_ms: i64, expires_at_ms: i64) {
        let record = Record {
            timestamp_ms,
            expires_at_ms: Some(expires_at_ms),
            ..Record::new("x").with_key(key.to_owned())
        };
        let entry = entry_of_records(self.next_id(), self.now_ms, [record], Compression::None);
        self.group().append(vec![entry], nobody()).unwrap();
        self.twin.records.push(put(key, b"x"));
        self.twin.entry_ends.push(self.twin.records.len() as u64);
    }

    pub(crate) fn append_blank(&mut self) {
        let id = self.next_id();
        self.group().append(vec![blank(1, id.index.0)], nobody()).unwrap();
        self.twin.entry_ends.push(self.twin.records.len() as u64);
    }

    /// Applies and purges everything, and has checkpoints say which segments are closed.
    pub(crate) fn settle(&self) {
        self.run();
        let group = self.group();
        if let Some(last) = group.bounds().last {
            group.applied(last);
            group.purge(last, nobody());
        }
        self.run();
    }

    pub(crate) fn plan(&self, policy: &CompactionPolicy) -> Option<Compaction> {
        let group = self.group();
        group.plan_compaction(policy, self.now_ms, group.bounds().log_end_offset)
    }

    /// Asks until a compaction is due, with checkpoints between as they come by themselves.
    pub(crate) fn planned(&self, policy: &CompactionPolicy) -> Option<Compaction> {
        for _ in 0..4 {
            if let Some(compaction) = self.plan(policy) {
                return Some(compaction);
            }
            self.run();
            self.store.look_around();
            self.run();
        }
        None
    }

    /// Compacts until nothing more is due; what the runs came to together.
    pub(crate) fn compact(
        &self,
        policy: &CompactionPolicy,
    ) -> Result<Option<CompactionRun>, CompactError> {
        let mut all: Option<CompactionRun> = None;
        while let Some(run) = self.compact_once(policy)? {
            let before = all.unwrap_or_default();
            all = Some(CompactionRun {
                at_ms: run.at_ms,
                bytes_before: before.bytes_before + run.bytes_before,
                bytes_after: before.bytes_after + run.bytes_after,
                records_removed: before.records_removed + run.records_removed,
                records_kept: before.records_kept + run.records_kept,
            });
        }
        Ok(all)
    }

    /// One run, where one is due.
    pub(crate) fn compact_once(
        &self,
        policy: &CompactionPolicy,
    ) -> Result<Option<CompactionRun>, CompactError> {
        self.settle();
        let Some(mut compaction) = self.planned(policy) else { return Ok(None) };
        while !compaction.step(3000, self.now_ms)?.done {}
        let run = compaction.so_far();
        drop(compaction);
        self.run();
        Ok(Some(run))
    }

    /// The records that are there, with their offsets, read on from one.
    pub(crate) fn read(&self, from: u64) -> Vec<(u64, Given)> {
        let bytes = read_all(&self.group(), Offset(from));
        let found = records_in(bytes);
        found.into_iter().filter(|(offset, _)| *offset >= from).collect()
    }

    /// Checks everything that a reader may rely on.
    pub(crate) fn check(&self) {
        let group = self.group();
        assert_eq!(group.is_quarantined(), None);
        let (start, end) = (group.bounds().log_start_offset.0, group.bounds().log_end_offset.0);
        assert_eq!(end, self.twin.records.len() as u64);
        let found = self.read(start);
        for (offset, given) in &found {
            assert_eq!(given, &self.twin.records[*offset as usize], "at {offset}");
        }
        assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0), "offsets rise");
        let there: BTreeMap<u64, &Given> = found.iter().map(|(o, given)| (*o, given)).collect();
        let upto = group.compaction_status().compacted_upto.0;
        let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
        let mut newest_clean: BTreeMap<&str, u64> = BTreeMap::new();
        for (offset, given) in self.twin.records.iter().enumerate() {
            let offset = offset as u64;
            match &given.key {
                None => assert!(offset < start || there.contains_key(&offset), "{offset}: no key"),
                Some(key) => {
                    newest.insert(key, offset);
                    if offset < upto {
                        newest_clean.insert(key, offset);
                    }
                }
            }
        }
        for (&key, &offset) in newest.iter().filter(|(_, offset)| **offset >= start) {
            let is_there = there.contains_key(&offset);
            let is_tombstone = self.twin.records[offset as usize].value.is_none();
            assert!(is_there || is_tombstone, "the last record of {key} at {offset} is gone");
            let older = found.iter().find(|(o, g)| *o < offset && g.key.as_deref() == Some(key));
            assert!(is_there || older.is_none(), "{key} was deleted, and shows {older:?} again");
        }
        for (offset, given) in found.iter().filter(|(offset, _)| *offset < upto) {
            if let Some(key) = &given.key {
                assert_eq!(newest_clean[key.as_str()], *offset, "{key} before {upto}");
            }
        }
    }

    /// Every record from this offset on is there.
    pub(crate) fn check_untouched(&self, from: u64) {
        let found = self.read(from.max(self.group().bounds().log_start_offset.0));
        let all: Vec<_> =
            (from..).zip(self.twin.records[from as usize..].iter().cloned()).collect();
        assert_eq!(found, all);
    }
}

/// An entry of one batch.
fn entry_of(id: LogId, now_ms: i64, records: &[Given], compression: Compression) -> LogEntry {
    let records = records.iter().map(|given| Record {
        key: given.key.as_ref().map(|key| Bytes::copy_from_slice(key.as_bytes())),
        value: given.value.clone().map(Bytes::from),
        timestamp_ms: now_ms,
        ..Record::default()
    });
    entry_of_records(id, now_ms, records, compression)
}

fn entry_of_records(
    id: LogId,
    now_ms: i64,
    records: impl IntoIterator<Item = Record>,
    compression: Compression,
) -> LogEntry {
    let mut builder = BatchBuilder::new(BatchLimits::default());
    for record in records {
        assert_eq!(builder.push(&record).unwrap(), PushOutcome::Added);
    }
    let batch = builder.finish(ProducerId(7), 0, 0, compression);
    let mut header = BatchHeader::parse(&batch).unwrap();
    (header.term, header.index, header.append_time_ms) = (id.term, id.index, now_ms);
    LogEntry { header, body: batch.slice(BATCH_HEADER_BYTES..) }
}

/// An entry of one record, whose key comes again every 13 and whose value says its offset.
pub(crate) fn keyed_entry(index: u64, offset: u64) -> LogEntry {
    let record = put(&format!("key {}", offset % 13), &[offset as u8; 500]);
    entry_of(LogId::new(Term(1), LogIndex(index)), 1_000_000, &[record], Compression::None)
}

/// The records in a piece of a log, whose offsets must be without gaps from batch to batch.
pub(crate) fn records_in(bytes: Vec<u8>) -> Vec<(u64, Given)> {
    let mut next = None;
    for batch in iterate_batches(bytes.clone().into()) {
        let header = batch.unwrap().header;
        assert!(next.is_none_or(|next| next == header.base_offset), "batches are dense");
        next = Some(header.end_offset());
    }
    records_read_meanwhile(bytes)
}

/// The same of what was read while it was compacted: a batch may begin before the place where the reader was.
pub(crate) fn records_read_meanwhile(bytes: Vec<u8>) -> Vec<(u64, Given)> {
    let mut found: Vec<(u64, Given)> = Vec::new();
    let mut next = Offset(0);
    for batch in iterate_batches(bytes.into()) {
        let batch = batch.unwrap();
        batch.check_body_crc().unwrap();
        let offsets = batch.header.base_offset..batch.header.end_offset();
        assert!(found.is_empty() || offsets.contains(&next) || offsets.start == next, "no gap");
        let from = next;
        next = offsets.end;
        for delivered in batch.records(1 << 20).unwrap() {
            let delivered = delivered.unwrap();
            let record = delivered.record;
            let key = record.key.map(|key| String::from_utf8(key.to_vec()).unwrap());
            let value = record.value.map(|value| value.to_vec());
            if found.is_empty() || delivered.offset >= from {
                found.push((delivered.offset.0, Given { key, value }));
            }
        }
    }
    found
}

/// A log of several segments whose keys come again and again.
pub(crate) fn churned(seed: u64, batches: u64) -> Keyed {
    let mut keyed = Keyed::new(seed, Durability::Durable, 8 * 1024);
    churn(&mut keyed, batches);
    keyed
}

pub(crate) fn churn(keyed: &mut Keyed, batches: u64) {
    for _ in 0..batches {
        let at = keyed.twin.records.len() as u64;
        let value = vec![at as u8; 150 + (at * 37 % 200) as usize];
        let key = |number: u64| format!("key {number}");
        let records = [
            put(&key(at % 7), &value),
            put(&key(at * 5 % 11 + 20), &value),
            match at % 4 {
                0 => delete(&key(at % 3)),
                1 => without_key(&value[..20]),
                _ => put(&key(at), &value),
            },
        ];
        let compression = if at.is_multiple_of(5) { Compression::Lz4 } else { Compression::None };
        keyed.append(&records, compression);
        if at.is_multiple_of(6) {
            keyed.append_blank();
        }
        keyed.now_ms += 1000;
        keyed.run();
    }
}
