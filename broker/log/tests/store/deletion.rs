//! What comes after the deletion of a group, or races with it, is refused or ignored, and is never
//! seen again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use plimsoll_log::disk::Disk;
use plimsoll_log::disk::sim::{CrashPlan, SimDisk};
use plimsoll_log::{
    Driver, Durability, GroupLog, GroupOptions, ReadError, ReadStep, Retention, Store, Vote,
};
use plimsoll_protocol::ids::{GroupId, LogIndex, NodeId, Offset, Term};

use crate::support::*;

fn open_sim(disk: &SimDisk) -> Arc<Store> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let on_fatal = Box::new(|error: &plimsoll_log::FatalError| panic!("fatal: {error}"));
    Store::open(shared, small_config(), Driver::Manual, on_fatal).unwrap()
}

fn vote(term: u64) -> Vote {
    Vote { term: Term(term), voted_for: NodeId(1), committed: false }
}

/// Everything that can be asked of a log, one kind after the other. Completions must be called.
fn ask_everything(store: &Store, group: &GroupLog) {
    let _ = group.append(vec![records(9, 20, 1, 100)], nobody());
    group.save_vote(vote(9), nobody());
    group.save_committed(log_id(1, 3));
    let _ = group.truncate_after(Some(LogIndex(15)), nobody());
    group.purge(log_id(1, 5), nobody());
    group.applied(log_id(1, 19));
    group.retain(&Retention { max_age_ms: None, max_bytes: Some(0) }, 0, Offset(20));
    group.put_state(log_id(1, 5), "state".into());
    let _ = store.set_options(group.id(), GroupOptions::default());
    group.reset_to(log_id(9, 100), Offset(100), nobody());
    group.purge(log_id(9, 200), nobody());
}

/// A vote was saved between the queueing of a deletion and its end. The journal then spoke of a group
/// that did not exist, and the store did not open any more.
#[test]
fn changes_behind_a_deletion_are_refused_and_the_store_opens() {
    for durability in [Durability::Durable, Durability::Memory] {
        let disk = SimDisk::new(1);
        let store = open_sim(&disk);
        let group =
            store.create_group(GROUP, GroupOptions { durability, ..small_segments() }).unwrap();
        let other = store.create_group(GroupId(8), small_segments()).unwrap();
        group.append((0..20).map(|index| records(1, index, 1, 3000)).collect(), nobody()).unwrap();
        while store.step() {}
        let (done, deleted) = completion();
        store.delete_group(GROUP, done);
        assert!(group.is_deleted());
        let (done, voted) = completion();
        group.save_vote(vote(7), done);
        let (done, purged) = completion();
        group.purge(log_id(1, 3), done);
        let (done, reset) = completion();
        group.reset_to(log_id(1, 30), Offset(50), done);
        for told in [voted, purged, reset] {
            let outcome = told.try_recv().expect("it is refused at once");
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains("deleted"), "{error}");
        }
        assert!(group.append(vec![records(1, 20, 1, 10)], nobody()).is_err());
        assert!(group.truncate_after(Some(LogIndex(3)), nobody()).is_err());
        assert!(store.set_options(GROUP, GroupOptions::default()).is_err());
        ask_everything(&store, &group);
        other.append(vec![records(1, 0, 1, 100)], nobody()).unwrap();
        while store.step() {}
        wait(&deleted).unwrap();
        // Once more, with the deletion through.
        ask_everything(&store, &group);
        while store.step() {}
        let again = open_sim(&disk.kill_process());
        assert_eq!(again.groups(), [GroupId(8)]);
        assert_eq!(entries(&again.group(GroupId(8)).unwrap(), 0).len(), 1);
        // The files go, and none comes back.
        for term in 2..6 {
            store.checkpoint_now();
            ask_everything(&store, &group);
            other.save_vote(vote(term), nobody());
        }
        store.checkpoint_now();
        let of_group = |path: &str| path.contains("/0000000000000007-");
        let left: Vec<_> = disk.files().into_iter().filter(|(path, _)| of_group(path)).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn changes_that_race_with_a_deletion_are_made_before_it_or_refused() {
    for round in 0..40 {
        let disk = SimDisk::new(round);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let on_fatal = Box::new(|error: &plimsoll_log::FatalError| panic!("fatal: {error}"));
        let store = Store::open(shared, small_config(), Driver::Threads, on_fatal).unwrap();
        let durability = if round % 2 == 0 { Durability::Durable } else { Durability::Memory };
        let group =
            store.create_group(GROUP, GroupOptions { durability, ..small_segments() }).unwrap();
        fill(&group, 1, 5, 3000);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    ask_everything(&store, &group);
                }
            });
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let _ = group.read_entries(0..1, 10);
                    if let Ok(ReadStep::Cold(range)) =
                        group.read(&mut group.cursor(Offset(0)), Offset(5), 10)
                    {
                        let _ = range.load();
                    }
                }
            });
            store.checkpoint_now();
            let (done, told) = completion();
            store.delete_group(GROUP, done);
            let outcome = wait(&told);
            is_over.store(true, Ordering::Relaxed);
            outcome.unwrap();
        });
        let again = open_sim(&disk.kill_process());
        assert!(again.groups().is_empty());
        store.close();
    }
}

/// A reader of a deleted topic was told to load a range that was no longer there, again and again.
#[test]
fn reader_of_a_deleted_group_is_told_that_its_records_are_gone() {
    let disk = SimDisk::new(1);
    let store = open_sim(&disk);
    let group = store.create_group(GROUP, small_segments()).unwrap();
    group.append((0..20).map(|index| records(1, index, 1, 3000)).collect(), nobody()).unwrap();
    while store.step() {}
    group.applied(log_id(1, 19));
    let mut cursor = group.cursor(Offset(3));
    let loaded = match group.read(&mut cursor, Offset(20), 10).unwrap() {
        ReadStep::Cold(range) => range,
        other => panic!("{other:?}"),
    };
    store.delete_group(GROUP, nobody());
    // Before the deletion is through, and after it.
    for _ in 0..2 {
        for from in [3, 10] {
            let mut cursor = group.cursor(Offset(from));
            let read = group.read(&mut cursor, Offset(20), 10);
            assert!(
                matches!(read, Err(ReadError::BeforeStart { log_start: Offset(20), .. })),
                "{read:?}"
            );
            let entries = group.read_entries(from..20, 10);
            assert!(matches!(entries, Err(ReadError::Purged { .. })), "{entries:?}");
        }
        assert_eq!(group.offset_for_time(0).unwrap(), None);
        while store.step() {}
    }
    loaded.load().unwrap();
    assert!(group.read(&mut cursor, Offset(20), 10).is_err());
    let mut cursor = group.cursor(Offset(20));
    assert!(matches!(group.read(&mut cursor, Offset(20), 10), Ok(ReadStep::CaughtUp)));
}

/// Who deleted a group that somebody else was just deleting was told at once that it was gone, before
/// that was durable.
#[test]
fn second_deletion_waits_for_the_first() {
    for durability in [Durability::Durable, Durability::Memory] {
        let disk = SimDisk::new(1);
        let store = open_sim(&disk);
        store.create_group(GROUP, GroupOptions { durability, ..small_segments() }).unwrap();
        while store.step() {}
        let (done, first) = completion();
        store.delete_group(GROUP, done);
        let (done, second) = completion();
        store.delete_group(GROUP, done);
        assert!(second.try_recv().is_err());
        while store.step() {}
        wait(&first).unwrap();
        wait(&second).unwrap();
        assert!(open_sim(&disk.crash(&CrashPlan::NOTHING)).groups().is_empty());
        // Afterwards there is nothing to wait for.
        let (done, third) = completion();
        store.delete_group(GROUP, done);
        while store.step() {}
        wait(&third).unwrap();
    }
}
