//! Large appends that are written straight into their segments, while the journal only refers to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use plimsoll_log::disk::Disk;
use plimsoll_log::disk::sim::{CrashPlan, Effect, Fault, Operation, SimDisk};
use plimsoll_log::inspect::Inspector;
use plimsoll_log::{
    Driver, Durability, FatalError, GroupLog, GroupOptions, LogEntry, OpenError, RecordKind,
    SpaceState, Store, StoreConfig, Vote,
};
use plimsoll_protocol::ids::{GroupId, LogIndex, NodeId, Offset, Term};

use crate::support::*;

const LARGE: usize = 20_000;

fn config() -> StoreConfig {
    StoreConfig {
        place_bytes_min: 16 << 10,
        place_item_bytes_min: 4 << 10,
        place_bytes_max: 256 << 10,
        ..small_config()
    }
}

fn try_open(disk: &SimDisk, driver: Driver) -> Result<Arc<Store>, OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Store::open(disk, config(), driver, Box::new(|error| panic!("fatal: {error}")))
}

fn open(disk: &SimDisk) -> Arc<Store> {
    try_open(disk, Driver::Manual).unwrap()
}

fn run(store: &Store) {
    while store.step() {}
}

fn large(term: u64, index: u64) -> LogEntry {
    records(term, index, 2, LARGE)
}

fn small(term: u64, index: u64) -> LogEntry {
    records(term, index, 2, 100)
}

/// Appends each entry by itself, all before the store does anything.
fn push(group: &GroupLog, entries: impl IntoIterator<Item = LogEntry>) {
    for entry in entries {
        group.append(vec![entry], Box::new(|outcome| outcome.unwrap())).unwrap();
    }
}

/// What a group must show after the process was killed, after the power failed, and after both twice.
fn expect_after_crash(disk: &SimDisk, id: GroupId, expected: &[LogEntry]) {
    let mut image = disk.kill_process();
    for _ in 0..2 {
        let store = open(&image);
        assert_same(&with_offsets(&store.group(id).unwrap()), expected);
        drop(store);
        image = image.crash(&CrashPlan::NOTHING);
    }
    let store = open(&image);
    assert_same(&with_offsets(&store.group(id).unwrap()), expected);
    store.checkpoint_now();
    let next = expected.len() as u64;
    let group = store.group(id).unwrap();
    push(&group, [large(9, next), small(9, next + 1)]);
    run(&store);
    drop((store, group));
    let store = open(&image.crash(&CrashPlan::NOTHING));
    assert_eq!(entries(&store.group(id).unwrap(), 0).len() as u64, next + 2);
}

/// All entries, base offsets taken out: what they were made with.
fn with_offsets(group: &GroupLog) -> Vec<LogEntry> {
    let mut found = entries(group, 0);
    let mut offset = 0;
    for entry in &mut found {
        assert_eq!(entry.header.base_offset, Offset(offset));
        offset += u64::from(entry.header.record_count);
        entry.header.base_offset = Offset(0);
    }
    found
}

#[test]
fn placed_entries_are_written_once_and_survive() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let group = store.create_group(GROUP, GroupOptions::default()).unwrap();
    run(&store);
    let expected: Vec<_> = (0..10).map(|index| large(1, index)).collect();
    push(&group, expected.clone());
    run(&store);
    let stats = store.stats();
    assert_eq!(stats.placed_bytes, 10 * (LARGE as u64 + 96));
    assert!(stats.journaled_bytes <= 4 * 4096, "{stats:?}");
    assert_eq!(stats.materialised_bytes, stats.placed_bytes);
    assert_same(&with_offsets(&group), &expected);
    drop((store, group));
    expect_after_crash(&disk, GROUP, &expected);
}

#[test]
fn small_appends_are_journaled_as_ever() {
    let disk = SimDisk::new(2);
    let store = open(&disk);
    let group = store.create_group(GROUP, GroupOptions::default()).unwrap();
    push(&group, (0..400).map(|index| small(1, index)));
    run(&store);
    assert_eq!(store.stats().placed_bytes, 0);
    assert!(store.stats().journaled_bytes > 400 * 196);
}

#[test]
fn memory_groups_place_nothing() {
    let disk = SimDisk::new(3);
    let store = open(&disk);
    let options = GroupOptions { durability: Durability::Memory, ..GroupOptions::default() };
    let group = store.create_group(GROUP, options).unwrap();
    push(&group, (0..10).map(|index| large(1, index)));
    run(&store);
    assert_eq!(store.stats().placed_bytes, 0);
    assert_eq!(entries(&group, 0).len(), 10);
}

/// Replay writes ordinary entries once more where they were. What was placed in the same segment, in
/// front of them and behind them, must survive that.
#[test]
fn ordinary_and_placed_entries_share_a_segment() {
    let disk = SimDisk::new(4);
    let store = open(&disk);
    let group = store.create_group(GROUP, GroupOptions::default()).unwrap();
    run(&store);
    let mut expected = Vec::new();
    for round in 0..3 {
        for entry in [large(1, 4 * round), small(1, 4 * round + 1)] {
            push(&group, [entry.clone()]);
            run(&store);
            expected.push(entry);
        }
        // And in one commit.
        let both = [small(1, 4 * round + 2), large(1, 4 * round + 3)];
        push(&group, both.clone());
        run(&store);
        expected.extend(both);
    }
    assert_eq!(group.bounds().segments, 1);
    assert!(store.stats().placed_bytes > 6 * LARGE as u64);
    drop((store, group));
    expect_after_crash(&disk, GROUP, &expected);
}

/// The active segment of an earlier life is made anew by replay: nothing may be placed into it.
#[test]
fn nothing_is_placed_into_a_segment_that_replay_makes() {
    let disk = SimDisk::new(5);
    let mut image = disk.clone();
    let mut expected = Vec::new();
    for life in 0..4 {
        let store = open(&image);
        let group = store.create_group(GROUP, GroupOptions::default()).unwrap();
        run(&store);
        for entry in [small(1, 3 * life), large(1, 3 * life + 1), small(1, 3 * life + 2)] {
            push(&group, [entry.clone()]);
            run(&store);
            expected.push(entry);
        }
        assert_eq!(group.bounds().segments as u64, life + 2);
        drop((store, group));
        image = image.crash(&CrashPlan::NOTHING);
    }
    expect_after_crash(&image, GROUP, &expected);
}

#[test]
fn cut_into_placed_entries_survives() {
    for cut_in_same_commit in [false, true] {
        let disk = SimDisk::new(6);
        let store = open(&disk);
        let group = store.create_group(GROUP, small_segments()).unwrap();
        run(&store);
        let mut expected: Vec<_> = (0..6).map(|index| large(1, index)).collect();
        push(&group, expected.clone());
        if !cut_in_same_commit {
            run(&store);
        }
        group.truncate_after(Some(LogIndex(2)), nobody()).unwrap();
        expected.truncate(3);
        for entry in [large(2, 3), small(2, 4), large(2, 5)] {
            push(&group, [entry.clone()]);
            expected.push(entry);
        }
        run(&store);
        assert!(store.stats().placed_bytes > 7 * LARGE as u64);
        drop((store, group));
        expect_after_crash(&disk, GROUP, &expected);
    }
}

#[test]
fn groups_take_turns_in_one_commit() {
    let disk = SimDisk::new(7);
    let store = open(&disk);
    let ids = [GroupId(1), GroupId(2), GroupId(3)];
    let groups = ids.map(|id| store.create_group(id, small_segments()).unwrap());
    run(&store);
    let blocks = store.stats().blocks;
    // The third group has small appends only, and stays in the journal.
    let of = |at: usize, index| if at == 2 { small(1, index) } else { large(1, index) };
    for index in 0..4 {
        for (at, group) in groups.iter().enumerate() {
            push(group, [of(at, index)]);
            group.save_committed(log_id(1, index));
        }
    }
    run(&store);
    let stats = store.stats();
    assert_eq!(stats.blocks, blocks + 1);
    assert_eq!(stats.placed_bytes, 8 * (LARGE as u64 + 96));
    drop((store, groups));
    for (at, id) in ids.into_iter().enumerate() {
        let expected: Vec<_> = (0..4).map(|index| of(at, index)).collect();
        expect_after_crash(&disk.crash(&CrashPlan::NOTHING), id, &expected);
    }
}

/// The older of two checkpoints needs what was placed after it, also where it was taken away again
/// before the newer one.
#[test]
fn older_checkpoint_finds_what_was_placed_and_taken_away() {
    for resets in [false, true] {
        let disk = SimDisk::new(8);
        let store = open(&disk);
        let group = store.create_group(GROUP, small_segments()).unwrap();
        push(&group, [small(1, 0)]);
        store.checkpoint_now();
        push(&group, (1..6).map(|index| large(1, index)));
        run(&store);
        if resets {
            group.reset_to(log_id(1, 5), Offset(12), nobody());
        } else {
            group.truncate_after(Some(LogIndex(1)), nobody()).unwrap();
        }
        let bounds = group.bounds();
        store.checkpoint_now();
        drop((store, group));
        let files = disk.files().into_iter().map(|(path, _)| path);
        let newest = files.filter(|path| path.ends_with(".checkpoint")).max().unwrap();
        disk.flip_bit(&newest, 8 * 4100).unwrap();
        let store = open(&disk.crash(&CrashPlan::NOTHING));
        let found = store.group(GROUP).unwrap().bounds();
        assert_eq!((found.last, found.log_end_offset), (bounds.last, bounds.log_end_offset));
        assert_eq!(entries(&store.group(GROUP).unwrap(), 6).len(), 0);
    }
}

#[test]
fn full_disk_while_placing_lets_everything_through_the_journal() {
    for driver in [Driver::Manual, Driver::Threads] {
        let disk = SimDisk::new(9);
        let store = try_open(&disk, driver).unwrap();
        let group = store.create_group(GROUP, GroupOptions::default()).unwrap();
        let step = || while driver == Driver::Manual && store.step() {};
        let mut expected = vec![large(1, 0)];
        let (done, told) = completion();
        group.append(expected.clone(), done).unwrap();
        step();
        wait(&told).unwrap();
        disk.set_capacity(disk.used_bytes());
        // There is room for some in the segment, and for the rest in the journal.
        let more: Vec<_> = (1..15).map(|index| large(1, index)).collect();
        let (done, told) = completion();
        push(&group, more[..13].iter().cloned());
        group.append(vec![more[13].clone()], done).unwrap();
        expected.extend(more);
        step();
        wait(&told).unwrap();
        let placed = store.stats().placed_bytes / (LARGE as u64 + 96);
        assert!((5..14).contains(&placed), "{placed} entries were placed");
        let vote = Vote { term: Term(2), voted_for: NodeId(1), committed: false };
        let (done, told) = completion();
        group.save_vote(vote, done);
        step();
        wait(&told).unwrap();
        let image = disk.kill_process();
        image.set_capacity(1 << 30);
        expect_after_crash(&image, GROUP, &expected);

        // With room again all goes on, and large appends are placed again.
        disk.set_capacity(1 << 30);
        while store.space() != SpaceState::Ok || store.stats().unwritten_bytes > 0 {
            step();
            std::thread::yield_now();
        }
        let before = store.stats().placed_bytes;
        let mut index = 15;
        while store.stats().placed_bytes == before {
            let (done, told) = completion();
            group.append(vec![large(1, index)], done).unwrap();
            step();
            wait(&told).unwrap();
            index += 1;
            assert!(index < 200, "nothing is placed any more");
        }
        store.close();
    }
}

#[test]
fn failed_sync_of_placed_entries_ends_the_store() {
    for driver in [Driver::Manual, Driver::Threads] {
        for (operation, effect) in [
            (Operation::Sync, Effect::Eio),
            (Operation::Sync, Effect::Enospc),
            (Operation::SyncDir, Effect::Eio),
            (Operation::Write, Effect::Eio),
        ] {
            let disk = SimDisk::new(10);
            let told = Arc::new(AtomicUsize::new(0));
            let counter = told.clone();
            let on_fatal = move |_: &FatalError| {
                counter.fetch_add(1, Ordering::SeqCst);
            };
            let shared: Arc<dyn Disk> = Arc::new(disk.clone());
            let store = Store::open(shared, config(), driver, Box::new(on_fatal)).unwrap();
            let group = store.create_group(GROUP, GroupOptions::default()).unwrap();
            let outcome = |entries: Vec<LogEntry>| {
                let (done, told) = completion();
                group.append(entries, done).unwrap();
                while driver == Driver::Manual && store.step() {}
                wait(&told)
            };
            outcome(vec![small(1, 0)]).unwrap();
            disk.inject(Fault::new(operation, 1, effect).on("segments").once());
            assert!(outcome(vec![large(1, 1)]).is_err(), "{operation:?}");
            assert!(outcome(vec![large(1, 2)]).is_err(), "{operation:?}");
            assert_eq!(told.load(Ordering::SeqCst), 1, "told once");
            store.close();
            drop(group);
            drop(store);
            for image in [disk.kill_process(), disk.crash(&CrashPlan::NOTHING)] {
                let again = open(&image);
                assert_eq!(entries(&again.group(GROUP).unwrap(), 0).len(), 1, "{operation:?}");
            }
        }
    }
}

#[test]
fn damaged_placed_bytes_are_named_and_nothing_is_deleted() {
    let disk = SimDisk::new(11);
    let store = open(&disk);
    let group = store.create_group(GROUP, small_segments()).unwrap();
    run(&store);
    push(&group, (0..6).map(|index| large(1, index)));
    run(&store);
    drop((store, group));
    let image = disk.crash(&CrashPlan::NOTHING);
    let segments = |disk: &SimDisk| -> Vec<String> {
        let files = disk.files().into_iter().map(|(path, _)| path);
        files.filter(|path| path.ends_with(".segment")).collect()
    };
    let before = segments(&image);
    let batch = LARGE as u64 + 96;
    // In the file's header, a batch's header, a body; the error names the batch.
    for (byte, named) in [(10, 0), (4096 + 10, 4096), (4096 + batch + 500, 4096 + batch)] {
        for path in &before {
            let damaged = image.kill_process();
            damaged.flip_bit(path, 8 * byte).unwrap();
            let inspector = Inspector::open(Arc::new(damaged.clone())).unwrap();
            let found = inspector.verify(&mut |_| {}).unwrap().damaged;
            drop(inspector);
            assert!(found.iter().any(|place| place.path == *path && place.position == Some(named)));
            let error = try_open(&damaged, Driver::Manual).unwrap_err();
            assert!(matches!(error, OpenError::Placed { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains(path) && text.contains(&format!("byte {named}")), "{text}");
            assert_eq!(segments(&damaged), before);
        }
    }
    let missing = image.kill_process();
    missing.remove(&before[0]).unwrap();
    let error = try_open(&missing, Driver::Manual).unwrap_err();
    assert!(error.to_string().contains(&before[0]), "{error}");
    assert_eq!(segments(&missing), before[1..]);
}

/// Replay found the active segment damaged, began the next one for the ordinary entries, under the number
/// and over the file in which the life before had placed entries: their only copy was removed.
#[test]
fn damaged_segment_in_front_of_placed_entries_does_not_cost_them() {
    let disk = SimDisk::new(13);
    let store = open(&disk);
    let group = store.create_group(GROUP, GroupOptions::default()).unwrap();
    push(&group, (0..3).map(|index| small(1, index)));
    run(&store);
    store.checkpoint_now();
    push(&group, (3..6).map(|index| small(1, index)));
    run(&store);
    push(&group, (6..12).map(|index| large(1, index)));
    run(&store);
    assert!(store.stats().placed_bytes > 0);
    drop((store, group));
    let damaged = disk.crash(&CrashPlan::NOTHING);
    let segments: Vec<String> = damaged
        .files()
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| path.ends_with(".segment"))
        .collect();
    assert_eq!(segments.len(), 2, "one for ordinary entries, one for placed ones: {segments:?}");
    damaged.flip_bit(&segments[0], 8 * 10).unwrap();
    for _ in 0..2 {
        let store = open(&damaged);
        let group = store.group(GROUP).unwrap();
        assert_eq!(group.bounds().last, Some(log_id(1, 11)), "the placed entries were taken over");
    }
}

#[test]
fn an_inspection_shows_and_checks_what_was_placed() {
    let disk = SimDisk::new(12);
    let store = open(&disk);
    let group = store.create_group(GROUP, GroupOptions::default()).unwrap();
    run(&store);
    push(&group, (0..6).map(|index| large(1, index)));
    run(&store);
    drop((store, group));
    let inspector = Inspector::open(Arc::new(disk.kill_process())).unwrap();
    let shown = &inspector.report().groups[&GROUP];
    assert_eq!((shown.last, shown.replayed_entries), (Some(log_id(1, 5)), 6));
    let mut placed = Vec::new();
    let mut kinds = Vec::new();
    inspector
        .blocks(&mut |block| {
            placed.extend(block.placed.clone());
            kinds.extend(block.records.iter().map(|(_, kind)| *kind));
        })
        .unwrap();
    assert!(kinds.contains(&Some(RecordKind::Placed)));
    assert_eq!(placed.iter().map(|placed| placed.entries).sum::<u32>(), 6);
    assert_eq!((placed[0].from, placed[0].first), (4096, LogIndex(0)));
    let found = inspector.verify(&mut |_| {}).unwrap();
    assert_eq!((found.damaged, found.notes, found.placed), (vec![], vec![], 6));
}

/// The three threads, on a real disk.
#[test]
fn threads_place_while_checkpoints_are_made() {
    let directory = tempfile::tempdir().unwrap();
    let config = || StoreConfig { checkpoint_after_bytes: 100 << 10, ..config() };
    let store = crate::support::try_open(directory.path(), config(), Driver::Threads).unwrap();
    let group = store.create_group(GROUP, small_segments()).unwrap();
    let mut index = 0;
    for _ in 0..20 {
        let (done, told) = completion();
        push(&group, (0..4).map(|at| large(1, index + at)));
        group.append(vec![small(1, index + 4)], done).unwrap();
        index += 5;
        wait(&told).unwrap();
    }
    assert!(store.stats().placed_bytes > 0);
    assert!(store.stats().checkpoints > 0);
    drop((store, group));
    let store = crate::support::try_open(directory.path(), config(), Driver::Threads).unwrap();
    assert_eq!(entries(&store.group(GROUP).unwrap(), 0).len() as u64, index);
}
