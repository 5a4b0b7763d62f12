//! A medium that fails: the first failure ends the store, nothing is acknowledged after it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use plimsoll_log::disk::Disk;
use plimsoll_log::disk::sim::{CrashPlan, Effect, Fault, Operation, SimDisk};
use plimsoll_log::{Driver, FatalError, Store, Vote};
use plimsoll_protocol::ids::{NodeId, Term};

use crate::support::*;

struct Failing {
    disk: SimDisk,
    store: Arc<Store>,
    told: Arc<AtomicUsize>,
}

fn open_failing(disk: SimDisk, driver: Driver) -> Failing {
    let told = Arc::new(AtomicUsize::new(0));
    let counter = told.clone();
    let on_fatal = move |_: &FatalError| {
        counter.fetch_add(1, Ordering::SeqCst);
    };
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let store = Store::open(shared, small_config(), driver, Box::new(on_fatal)).unwrap();
    Failing { disk, store, told }
}

#[test]
fn after_a_failed_journal_write_nothing_is_acknowledged() {
    for driver in [Driver::Threads, Driver::Manual] {
        let failing = open_failing(SimDisk::new(1), driver);
        let Failing { disk, store, told } = &failing;
        let group = store.create_group(GROUP, small_segments()).unwrap();
        let outcomes = Arc::new(Mutex::new(Vec::new()));
        let append = |index: u64| {
            let outcomes = outcomes.clone();
            let done = move |outcome: Outcome| outcomes.lock().unwrap().push(outcome.is_ok());
            group.append(vec![records(1, index, 1, 100)], Box::new(done)).unwrap();
        };
        let settled = |count: usize| {
            while outcomes.lock().unwrap().len() < count {
                store.step();
                std::thread::yield_now();
            }
        };
        append(0);
        settled(1);
        // The device fails once and heals.
        disk.inject(
            Fault::new(Operation::Write, 1, Effect::Eio).on("0000000000000001.journal").once(),
        );
        append(1);
        settled(2);
        for index in 2..10 {
            append(index);
        }
        settled(10);
        let outcomes = outcomes.lock().unwrap().clone();
        assert_eq!(outcomes, [vec![true], vec![false; 9]].concat());
        assert_eq!(told.load(Ordering::SeqCst), 1, "told once");
        assert!(store.fatal().unwrap().to_string().contains("writing"));
        store.close();
        // What was acknowledged is there afterwards; what was not may be, or not.
        drop(group);
        let image = disk.kill_process();
        drop(failing);
        let again = open_failing(image, driver);
        assert!(!entries(&again.store.group(GROUP).unwrap(), 0).is_empty());
    }
}

#[test]
fn a_failed_segment_write_or_sync_ends_the_store_too() {
    for (operation, on) in [(Operation::Write, "segments"), (Operation::Sync, "segments")] {
        let failing = open_failing(SimDisk::new(2), Driver::Manual);
        let group = failing.store.create_group(GROUP, small_segments()).unwrap();
        failing.disk.inject(Fault::new(operation, 1, Effect::Eio).on(on).once());
        group.append(vec![records(1, 0, 1, 100)], nobody()).unwrap();
        failing.store.checkpoint_now();
        assert_eq!(failing.told.load(Ordering::SeqCst), 1, "{operation:?}");
        assert!(
            failing
                .store
                .create_group(plimsoll_protocol::ids::GroupId(9), small_segments())
                .is_err()
        );
        // The journal has it.
        let image = failing.disk.kill_process();
        let again = open_failing(image, Driver::Manual);
        assert_eq!(entries(&again.store.group(GROUP).unwrap(), 0).len(), 1);
    }
}

#[test]
fn a_failed_read_is_an_error_value() {
    let failing = open_failing(SimDisk::new(3), Driver::Manual);
    let group = failing.store.create_group(GROUP, small_segments()).unwrap();
    for index in 0..20 {
        group.append(vec![records(1, index, 1, 1000)], nobody()).unwrap();
    }
    group.applied(log_id(1, 19));
    while failing.store.step() {}
    let path = failing.disk.files().into_iter().find(|(p, _)| p.ends_with(".segment")).unwrap().0;
    failing.disk.make_unreadable(&path, 4096..8192).unwrap();
    let error = group.read_entries(0..5, 1).unwrap_err();
    assert!(error.to_string().contains(&path), "{error}");
    assert!(group.is_quarantined().is_none(), "a failing read is no damage");
    failing.disk.heal();
    assert_eq!(group.read_entries(0..5, 1).unwrap().len(), 1);
}

/// A sync of a segment failed for lack of space, as delayed allocation does it. It was tried again, and
/// succeeded: the bytes counted as clean. The checkpoint then named what no disk held, and the journal
/// that had it was given up.
#[test]
fn sync_that_fails_for_lack_of_space_ends_the_store() {
    for (operation, on) in [
        (Operation::Sync, "segments"),
        (Operation::SyncDir, "segments"),
        (Operation::SyncDir, "checkpoint"),
    ] {
        let failing = open_failing(SimDisk::new(5), Driver::Manual);
        let Failing { disk, store, told } = &failing;
        let group = store.create_group(GROUP, small_segments()).unwrap();
        disk.inject(Fault::new(operation, 1, Effect::Enospc).on(on).once());
        group.append(vec![records(1, 0, 1, 100)], nobody()).unwrap();
        for _ in 0..3 {
            store.checkpoint_now();
        }
        let stopped = told.load(Ordering::SeqCst);
        let again = open_failing(disk.crash(&CrashPlan::NOTHING), Driver::Manual);
        let group = again.store.group(GROUP).unwrap();
        assert_eq!(entries(&group, 0).len(), 1, "{operation:?} of {on}");
        assert_eq!(stopped, 1, "{operation:?} of {on}");
    }
}

/// The newest checkpoint decayed while the store ran. The pieces of groups that had not changed were
/// carried into the next ones as they were, under a checksum that said all was well, and with the
/// second one no whole copy was left. A state that could not be read was left out.
#[test]
fn damaged_piece_of_a_checkpoint_is_not_carried_over() {
    let other = plimsoll_protocol::ids::GroupId(9);
    for changes_group in [false, true] {
        let failing = open_failing(SimDisk::new(6), Driver::Manual);
        let Failing { disk, store, told } = &failing;
        let group = store.create_group(GROUP, small_segments()).unwrap();
        store.create_group(other, small_segments()).unwrap();
        group.append(vec![records(1, 0, 1, 100)], nobody()).unwrap();
        while store.step() {}
        let state = bytes::Bytes::from(vec![0xab; 5000]);
        group.put_state(log_id(1, 0), state.clone());
        store.checkpoint_now();
        store.group(other).unwrap().append(vec![records(1, 0, 1, 100)], nobody()).unwrap();
        store.checkpoint_now();
        let files = disk.files().into_iter().map(|(path, _)| path);
        let newest = files.filter(|path| path.ends_with(".checkpoint")).max().unwrap();
        let content = disk.content(&newest).unwrap();
        let at = content.windows(8).position(|window| window == [0xab; 8]).unwrap();
        disk.flip_bit(&newest, 8 * (at as u64 + 100)).unwrap();
        for term in 2..4 {
            let changed = store.group(if changes_group { GROUP } else { other }).unwrap();
            let vote = Vote { term: Term(term), voted_for: NodeId(1), committed: false };
            changed.save_vote(vote, nobody());
            store.checkpoint_now();
        }
        let stopped = told.load(Ordering::SeqCst);
        // The older checkpoint and the journal after it have everything.
        let again = open_failing(disk.kill_process(), Driver::Manual);
        let group = again.store.group(GROUP).unwrap();
        assert_eq!(group.state().unwrap(), Some((log_id(1, 0), state)));
        assert_eq!(stopped, 1, "told once");
        let reason = store.fatal().unwrap().to_string();
        assert!(reason.contains(&newest), "{reason}");
    }
}

struct Broken;

impl plimsoll_log::StateSource for Broken {
    fn encode_state(&self) -> Option<(plimsoll_protocol::ids::LogId, bytes::Bytes)> {
        panic!("a test breaks the source of a state")
    }
}

/// The checkpoint thread was gone and nobody was told: once the journal's files were used up, the appends
/// and votes of every group waited for ever.
#[test]
fn a_thread_that_fails_stops_the_store() {
    let Failing { store, told, .. } = open_failing(SimDisk::new(9), Driver::Threads);
    let group = store.create_group(GROUP, small_segments()).unwrap();
    append(&group, vec![records(1, 0, 1, 100)]);
    let source = Arc::new(Broken);
    let weak = Arc::downgrade(&source);
    group.set_state_source(Some(weak));
    store.checkpoint_now();
    assert!(matches!(*store.fatal().unwrap(), FatalError::Panicked { .. }));
    assert_eq!(told.load(Ordering::SeqCst), 1);
    let (done, outcome) = completion();
    group.append(vec![records(1, 1, 1, 100)], done).unwrap();
    assert!(wait(&outcome).is_err());
}
