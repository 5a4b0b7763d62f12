//! Random operations and reopenings against a naive twin: a vector of entries per group.

use std::collections::BTreeMap;
use std::sync::Arc;

use plimsoll_log::disk::Disk;
use plimsoll_log::disk::sim::SimDisk;
use plimsoll_log::{
    Driver, Durability, GroupOptions, LogEntry, Retention, Store, StoreConfig, Vote,
};
use plimsoll_protocol::ids::{GroupId, LogId, LogIndex, NodeId, Offset, Term};
use proptest::prelude::*;

use crate::support::*;

#[derive(Debug, Clone)]
enum Step {
    Append { group: u64, count: u64, bytes: usize },
    Vote { group: u64, term: u64 },
    Truncate { group: u64, back: u64 },
    Purge { group: u64, back: u64 },
    Retain { group: u64, max_bytes: u64 },
    Reset { group: u64, ahead: u64 },
    Work { steps: usize },
    Checkpoint,
    Reopen { clean: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let group = 0..3u64;
    prop_oneof![
        8 => (group.clone(), 1..5u64, 0..3000usize)
            .prop_map(|(group, count, bytes)| Step::Append { group, count, bytes }),
        2 => (group.clone(), 1..9u64).prop_map(|(group, term)| Step::Vote { group, term }),
        3 => (group.clone(), 0..8u64).prop_map(|(group, back)| Step::Truncate { group, back }),
        1 => (group.clone(), 0..8u64).prop_map(|(group, back)| Step::Purge { group, back }),
        1 => (group.clone(), 0..60_000u64)
            .prop_map(|(group, max_bytes)| Step::Retain { group, max_bytes }),
        1 => (group, 1..9u64).prop_map(|(group, ahead)| Step::Reset { group, ahead }),
        6 => (0..6usize).prop_map(|steps| Step::Work { steps }),
        2 => Just(Step::Checkpoint),
        1 => any::<bool>().prop_map(|clean| Step::Reopen { clean }),
    ]
}

/// What a group must show.
#[derive(Debug, Clone)]
struct Twin {
    first: u64,
    entries: Vec<LogEntry>,
    term: u64,
    vote: Option<Vote>,
    purged: Option<LogId>,
    start_offset: Offset,
    before: (Option<LogId>, Offset),
}

impl Twin {
    fn new() -> Self {
        Self {
            first: 0,
            entries: Vec::new(),
            term: 1,
            vote: None,
            purged: None,
            start_offset: Offset(0),
            before: (None, Offset(0)),
        }
    }

    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn last(&self) -> (Option<LogId>, Offset) {
        let last = self.entries.last();
        last.map_or(self.before, |entry| (Some(entry.id()), entry.header.end_offset()))
    }
}

struct Pair {
    disk: SimDisk,
    store: Arc<Store>,
    twins: BTreeMap<u64, Twin>,
}

fn open_store(disk: &SimDisk) -> Arc<Store> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let config = StoreConfig {
        journal_file_bytes: 64 * 1024,
        journal_bytes_max: 256 * 1024,
        journal_reserve_bytes: 8192,
        block_bytes: 16 * 1024,
        checkpoint_after_bytes: 64 * 1024,
        segment_step_bytes_min: 8192,
        open_segments_max: 8,
        tail_cache_bytes_max: 8192,
        ..small_config()
    };
    Store::open(shared, config, Driver::Manual, Box::new(|error| panic!("{error}"))).unwrap()
}

impl Pair {
    fn new() -> Self {
        let disk = SimDisk::new(7);
        let store = open_store(&disk);
        let mut twins = BTreeMap::new();
        for group in 0..3 {
            let durability = if group == 2 { Durability::Memory } else { Durability::Durable };
            let options = GroupOptions { durability, segment_bytes: 16 * 1024 };
            store.create_group(GroupId(group), options).unwrap();
            twins.insert(group, Twin::new());
        }
        Self { disk, store, twins }
    }

    fn carry_out(&mut self, step: &Step) {
        match *step {
            Step::Append { group, count, bytes } => {
                let twin = self.twins.get_mut(&group).unwrap();
                let mut offset = twin.last().1;
                let mut all = Vec::new();
                for number in 0..count {
                    let mut entry =
                        records(twin.term, twin.next() + number, 1 + number as u32, bytes);
                    entry.header.base_offset = offset;
                    offset = entry.header.end_offset();
                    all.push(entry);
                }
                twin.entries.extend(all.clone());
                // What the caller put into the field does not matter.
                all.iter_mut().for_each(|entry| entry.header.base_offset = Offset(0));
                let log = self.store.group(GroupId(group)).unwrap();
                log.append(all, nobody()).unwrap();
            }
            Step::Vote { group, term } => {
                let twin = self.twins.get_mut(&group).unwrap();
                twin.term = twin.term.max(term);
                let vote = Vote { term: Term(twin.term), voted_for: NodeId(term), committed: true };
                twin.vote = Some(vote);
                self.store.group(GroupId(group)).unwrap().save_vote(vote, nobody());
            }
            Step::Truncate { group, back } => {
                let twin = self.twins.get_mut(&group).unwrap();
                let lowest = twin.purged.map_or(0, |id| id.index.0 + 1).max(twin.first);
                let next = twin.next().saturating_sub(back).max(lowest);
                twin.entries.truncate((next - twin.first) as usize);
                let kept = next.checked_sub(1).map(LogIndex);
                let log = self.store.group(GroupId(group)).unwrap();
                log.truncate_after(kept, nobody()).unwrap();
            }
            Step::Purge { group, back } => {
                let twin = self.twins.get_mut(&group).unwrap();
                let Some(at) = twin.entries.len().checked_sub(1 + back as usize) else { return };
                let id = twin.entries[at].id();
                twin.purged = twin.purged.max(Some(id));
                self.store.group(GroupId(group)).unwrap().purge(id, nobody());
            }
            Step::Retain { group, max_bytes } => {
                let log = self.store.group(GroupId(group)).unwrap();
                let twin = self.twins.get_mut(&group).unwrap();
                // Applied is never taken back: half of what is there.
                let Some(entry) = twin.entries.get(twin.entries.len() / 2) else { return };
                if twin.purged < Some(entry.id()) {
                    return;
                }
                log.applied(entry.id());
                let policy = Retention { max_age_ms: None, max_bytes: Some(max_bytes) };
                log.retain(&policy, 0, entry.header.end_offset());
                // Which segments there are is the store's business; that it keeps to the bounds is not.
                let bounds = log.bounds();
                assert!(bounds.log_start_offset <= entry.header.end_offset());
                twin.start_offset = bounds.log_start_offset;
                let dropped = twin
                    .entries
                    .partition_point(|entry| entry.header.index < log.first_kept_index());
                if dropped > 0 {
                    let last = &twin.entries[dropped - 1];
                    twin.before = (Some(last.id()), last.header.end_offset());
                    twin.purged = twin.purged.max(Some(last.id()));
                    twin.first += dropped as u64;
                    twin.entries.drain(..dropped);
                }
            }
            Step::Reset { group, ahead } => {
                let twin = self.twins.get_mut(&group).unwrap();
                let id = log_id(twin.term, twin.next() + ahead);
                let offset = Offset(twin.last().1.0 + ahead * 3);
                twin.first = id.index.0 + 1;
                twin.entries.clear();
                twin.before = (Some(id), offset);
                twin.purged = Some(id);
                twin.start_offset = offset;
                self.store.group(GroupId(group)).unwrap().reset_to(id, offset, nobody());
            }
            Step::Work { steps } => {
                for _ in 0..steps {
                    self.store.step();
                }
            }
            Step::Checkpoint => self.store.checkpoint_now(),
            Step::Reopen { clean } => {
                // Everything that was asked for is done first, so that both know the same.
                while self.store.step() {}
                if clean {
                    self.store.close();
                }
                self.disk = self.disk.kill_process();
                self.store = open_store(&self.disk);
                self.check();
            }
        }
    }

    fn check(&self) {
        for (&group, twin) in &self.twins {
            let log = self.store.group(GroupId(group)).unwrap();
            let bounds = log.bounds();
            assert_eq!((bounds.last, bounds.log_end_offset), twin.last(), "group {group}");
            assert_eq!(bounds.purged, twin.purged, "group {group}");
            assert_eq!(bounds.log_start_offset, twin.start_offset, "group {group}");
            assert_eq!(log.vote(), twin.vote, "group {group}");
            let unpurged = twin.purged.map_or(0, |id| id.index.0 + 1).max(twin.first);
            let expected = &twin.entries[(unpurged - twin.first) as usize..];
            assert_same(&entries(&log, unpurged), expected);
            let read = headers(&read_all(&log, twin.start_offset));
            let expected: Vec<_> = twin.entries.iter().map(|entry| entry.header).collect();
            assert_eq!(read, expected, "group {group}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]
    #[test]
    fn a_store_shows_what_its_naive_twin_knows(steps in prop::collection::vec(step(), 1..60)) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.carry_out(step);
        }
        pair.check();
        pair.carry_out(&Step::Reopen { clean: false });
        pair.carry_out(&Step::Reopen { clean: true });
    }
}
