//! A replica that is dropped: its log, state and files go, its options and its vote stay.

use std::sync::Arc;

use plimsoll_log::disk::Disk;
use plimsoll_log::disk::sim::{CrashPlan, SimDisk};
use plimsoll_log::{Driver, Durability, GroupOptions, Store, Vote};
use plimsoll_protocol::ids::{GroupId, NodeId, Offset, Term};

use crate::support::*;

const VOTE: Vote = Vote { term: Term(4), voted_for: NodeId(2), committed: true };

fn open_sim(disk: &SimDisk) -> Arc<Store> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let on_fatal = Box::new(|error: &plimsoll_log::FatalError| panic!("fatal: {error}"));
    Store::open(shared, small_config(), Driver::Manual, on_fatal).unwrap()
}

fn run(store: &Store) {
    while store.step() {}
}

fn expect_dropped(store: &Store, options: GroupOptions) {
    let group = store.group(GROUP).unwrap();
    let bounds = group.bounds();
    assert_eq!((bounds.last, bounds.purged), (None, None));
    assert_eq!((bounds.log_start_offset, bounds.log_end_offset), (Offset(0), Offset(0)));
    assert_eq!(group.state().unwrap(), None);
    assert_eq!(group.committed(), None);
    assert_eq!(group.vote(), Some(VOTE));
    assert_eq!(group.options(), options);
    assert_eq!(group.is_quarantined(), None);
}

#[test]
fn dropped_replica_keeps_its_vote_and_options_and_nothing_else() {
    for durability in [Durability::Durable, Durability::Memory] {
        let disk = SimDisk::new(1);
        let store = open_sim(&disk);
        let options = GroupOptions { durability, ..small_segments() };
        let group = store.create_group(GROUP, options).unwrap();
        group.append((0..20).map(|index| records(1, index, 1, 3000)).collect(), nobody()).unwrap();
        group.save_vote(VOTE, nobody());
        group.save_committed(log_id(1, 19));
        run(&store);
        group.applied(log_id(1, 19));
        group.put_state(log_id(1, 19), "state".into());
        store.checkpoint_now();
        group.set_quarantined("damage that goes with the log");

        let (done, told) = completion();
        store.drop_replica(GROUP, done);
        expect_dropped(&store, options);
        run(&store);
        wait(&told).unwrap();
        expect_dropped(&store, options);
        expect_dropped(&open_sim(&disk.kill_process()), options);
        expect_dropped(&open_sim(&disk.crash(&CrashPlan::NOTHING)), options);

        for _ in 0..2 {
            group.save_vote(VOTE, nobody());
            store.checkpoint_now();
        }
        let of_group = |path: &str| path.contains("/0000000000000007-");
        let left: Vec<_> = disk.files().into_iter().filter(|(path, _)| of_group(path)).collect();
        assert!(left.is_empty(), "{left:?}");
        expect_dropped(&open_sim(&disk.crash(&CrashPlan::NOTHING)), options);

        // It may come back.
        group.append(vec![records(5, 0, 1, 100)], nobody()).unwrap();
        run(&store);
        let again = open_sim(&disk.kill_process());
        assert_eq!(entries(&again.group(GROUP).unwrap(), 0).len(), 1);
    }
}

/// A checkpoint between the call and its turn in the journal must not hold the old log without its state:
/// were the power to fail then, the log could not be folded any more.
#[test]
fn log_that_is_not_dropped_yet_keeps_its_state() {
    let disk = SimDisk::new(1);
    let store = open_sim(&disk);
    let group = store.create_group(GROUP, small_segments()).unwrap();
    group.append(vec![records(1, 0, 1, 100)], nobody()).unwrap();
    run(&store);
    group.put_state(log_id(1, 0), "state".into());
    store.checkpoint_now();
    let held = group.state().unwrap();
    assert!(held.is_some());
    store.drop_replica(GROUP, nobody());
    assert_eq!(group.state().unwrap(), None);
    let crashed = open_sim(&disk.crash(&CrashPlan::EVERYTHING));
    let log = crashed.group(GROUP).unwrap();
    assert_eq!(log.state().unwrap(), held);
    assert_eq!(log.bounds().last, Some(log_id(1, 0)));
}

#[test]
fn dropping_what_is_not_there_is_done_at_once() {
    let store = open_sim(&SimDisk::new(1));
    let (done, told) = completion();
    store.drop_replica(GroupId(99), done);
    told.try_recv().unwrap().unwrap();
}
