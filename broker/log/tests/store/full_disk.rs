//! A full disk: reported, waited out, and over without a restart.

use std::sync::Arc;

use plimsoll_log::disk::Disk;
use plimsoll_log::disk::sim::{Effect, Fault, Operation, SimDisk};
use plimsoll_log::{
    Driver, Durability, FatalError, GroupOptions, Retention, SpaceState, Store, StoreConfig, Vote,
};
use plimsoll_protocol::batch::BATCH_HEADER_BYTES;
use plimsoll_protocol::ids::{GroupId, NodeId, Offset, Term};

use crate::support::*;

fn open_sim(disk: &SimDisk, driver: Driver) -> Arc<Store> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    Store::open(shared, journaling_config(), driver, Box::new(|error| panic!("fatal: {error}")))
        .unwrap()
}

#[test]
fn a_segment_that_cannot_grow_waits_for_space() {
    let disk = SimDisk::new(1);
    let store = open_sim(&disk, Driver::Manual);
    let group = store.create_group(GROUP, small_segments()).unwrap();
    group.append(vec![records(1, 0, 1, 1000)], nobody()).unwrap();
    while store.step() {}
    assert_eq!(store.space(), SpaceState::Ok);
    disk.set_capacity(disk.used_bytes());
    let (done, told) = completion();
    group.append((1..40).map(|index| records(1, index, 1, 1000)).collect(), done).unwrap();
    while store.step() {}
    // Durable all the same, readable all the same, and said to be low.
    wait(&told).unwrap();
    assert!(matches!(store.space(), SpaceState::Low { .. }));
    assert_eq!(entries(&group, 0).len(), 40);
    // A vote still gets through.
    let (done, told) = completion();
    let vote = Vote { term: Term(2), voted_for: NodeId(1), committed: false };
    group.save_vote(vote, done);
    while store.step() {}
    wait(&told).unwrap();
    // A restart at this moment loses nothing.
    let image = disk.kill_process();
    image.set_capacity(1 << 30);
    let again = open_sim(&image, Driver::Manual);
    assert_eq!(entries(&again.group(GROUP).unwrap(), 0).len(), 40);
    assert_eq!(again.group(GROUP).unwrap().vote(), Some(vote));

    disk.set_capacity(1 << 30);
    while store.step() {}
    assert_eq!(store.space(), SpaceState::Ok);
    group.applied(log_id(1, 39));
    assert_eq!(headers(&read_all(&group, Offset(0))).len(), 40);
}

/// A segment grows in steps that double. With room for the entry and not for the step, it stood still,
/// and a deletion behind it that would have made room did too.
#[test]
fn a_segment_grows_by_what_is_needed_where_there_is_no_room_for_more() {
    let disk = SimDisk::new(3);
    let store = open_sim(&disk, Driver::Manual);
    let options = GroupOptions { segment_bytes: 1 << 20, ..small_segments() };
    let group = store.create_group(GROUP, options).unwrap();
    group.append(vec![records(1, 0, 1, 100_000)], nobody()).unwrap();
    while store.step() {}
    // Two more entries need 200 KB; the next step alone would take more than that.
    group.append(vec![records(1, 1, 1, 100_000)], nobody()).unwrap();
    while store.step() {}
    disk.set_capacity(disk.used_bytes() + 110_000);
    let before = group.bounds().bytes;
    group.append(vec![records(1, 2, 1, 100_000)], nobody()).unwrap();
    while store.step() {}
    assert_eq!(group.bounds().bytes, before + 100_000 + BATCH_HEADER_BYTES as u64);
}

#[test]
fn votes_are_written_when_the_journal_cannot_grow() {
    let disk = SimDisk::new(2);
    let store = open_sim(&disk, Driver::Manual);
    let group = store.create_group(GROUP, small_segments()).unwrap();
    while store.step() {}
    disk.set_capacity(disk.used_bytes());
    // Fills the journal file up to the reserve, and the next one that was ready.
    let mut index = 0;
    loop {
        let (done, told) = completion();
        group.append(vec![records(1, index, 1, 20_000)], done).unwrap();
        while store.step() {}
        index += 1;
        if told.try_recv().is_err() {
            break;
        }
    }
    assert!(index > 10, "{index}");
    assert!(matches!(store.space(), SpaceState::Low { .. }));
    // The append that found no room waits in the queue, and everything behind it: so a vote of a
    // store that refuses records in time gets through.
    disk.set_capacity(1 << 30);
    while store.step() {}
    let (done, told) = completion();
    append_and_step(&store, &group, index);
    group.save_vote(Vote { term: Term(2), voted_for: NodeId(1), committed: false }, done);
    while store.step() {}
    wait(&told).unwrap();
    assert_eq!(store.space(), SpaceState::Ok);
    assert_eq!(group.bounds().last, Some(log_id(1, index)));
}

fn append_and_step(store: &Store, group: &plimsoll_log::GroupLog, index: u64) {
    let (done, told) = completion();
    group.append(vec![records(1, index, 1, 10)], done).unwrap();
    while store.step() {}
    wait(&told).unwrap();
}

/// A store in which no segment has to grow.
fn open_with_large_steps(disk: &SimDisk, driver: Driver) -> Arc<Store> {
    let config = StoreConfig {
        segment_step_bytes_min: 2 << 20,
        segment_step_bytes_max: 2 << 20,
        ..journaling_config()
    };
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let on_fatal = Box::new(|error: &FatalError| panic!("fatal: {error}"));
    Store::open(shared, config, driver, on_fatal).unwrap()
}

#[test]
fn small_changes_use_the_reserve() {
    let disk = SimDisk::new(3);
    let store = open_with_large_steps(&disk, Driver::Manual);
    let group = store.create_group(GROUP, GroupOptions::default()).unwrap();
    group.append(vec![blank(1, 0)], nobody()).unwrap();
    while store.step() {}
    disk.set_capacity(disk.used_bytes());
    // Two files of 256 KiB, a header page and 16 KiB of reserve in the last one; a block each.
    let mut index = 1;
    while store.stats().journaled_bytes < ((252 + 252 - 16) << 10) {
        group.append(vec![records(1, index, 1, 3900)], nobody()).unwrap();
        while store.step() {}
        index += 1;
        assert!(index < 200, "{:?}", store.stats());
    }
    for term in 2..4 {
        let (done, told) = completion();
        group.save_vote(Vote { term: Term(term), voted_for: NodeId(1), committed: false }, done);
        while store.step() {}
        wait(&told).unwrap();
    }
}

#[test]
fn threads_go_on_by_themselves_once_there_is_room() {
    let disk = SimDisk::new(4);
    let store = open_sim(&disk, Driver::Threads);
    let group = store.create_group(GROUP, small_segments()).unwrap();
    fill(&group, 1, 60, 1000);
    store.checkpoint_now();
    disk.set_capacity(disk.used_bytes());
    let (done, told) = completion();
    group.append((60..160).map(|index| records(1, index, 2, 1000)).collect(), done).unwrap();
    wait(&told).unwrap();
    while store.space() == SpaceState::Ok {
        std::thread::yield_now();
    }
    // Retention works on a full disk, too.
    group.applied(log_id(1, 159));
    let policy = Retention { max_age_ms: None, max_bytes: Some(0) };
    assert!(group.retain(&policy, 0, Offset(120)).segments > 0);
    disk.set_capacity(1 << 30);
    while store.space() != SpaceState::Ok {
        std::thread::yield_now();
    }
    store.checkpoint_now();
    let start = group.bounds().log_start_offset;
    assert_eq!(headers(&read_all(&group, start)).last().unwrap().index.0, 159);
    store.close();
}

/// Closes a store on a thread of its own; whether it came back.
fn closes(store: &Arc<Store>) -> bool {
    let (tell, told) = std::sync::mpsc::channel();
    let store = store.clone();
    std::thread::spawn(move || {
        store.close();
        let _ = tell.send(());
    });
    told.recv_timeout(std::time::Duration::from_secs(10)).is_ok()
}

/// A node was told to stop while its disk was full: it waited for space that nobody was going to make,
/// until it was killed.
#[test]
fn close_does_not_wait_for_space() {
    for driver in [Driver::Threads, Driver::Manual] {
        let disk = SimDisk::new(5);
        let store = open_sim(&disk, driver);
        let in_memory = GroupOptions { durability: Durability::Memory, ..small_segments() };
        let group = store.create_group(GROUP, small_segments()).unwrap();
        let memory = store.create_group(GroupId(8), in_memory).unwrap();
        group.append(vec![records(1, 0, 1, 1000)], nobody()).unwrap();
        memory.append(vec![records(1, 0, 1, 1000)], nobody()).unwrap();
        store.checkpoint_now();
        disk.set_capacity(disk.used_bytes());
        let (done, kept) = completion();
        group.append((1..40).map(|index| records(1, index, 1, 1000)).collect(), done).unwrap();
        while driver == Driver::Manual && store.step() {}
        wait(&kept).unwrap();
        let (done, refused) = completion();
        memory.append((1..40).map(|index| records(1, index, 1, 1000)).collect(), done).unwrap();
        while store.space() == SpaceState::Ok {
            store.step();
            std::thread::yield_now();
        }
        assert!(closes(&store), "{driver:?}");
        assert!(wait(&refused).is_err());
        let image = disk.kill_process();
        image.set_capacity(1 << 30);
        let again = open_sim(&image, Driver::Manual);
        assert_eq!(entries(&again.group(GROUP).unwrap(), 0).len(), 40);
        assert!(!entries(&again.group(GroupId(8)).unwrap(), 0).is_empty());
    }
}

/// The same while the journal needs another file, and while a change of durability needs a checkpoint.
#[test]
fn close_does_not_wait_for_a_journal_file_or_a_checkpoint() {
    for changes_durability in [false, true] {
        let disk = SimDisk::new(6);
        let store = open_with_large_steps(&disk, Driver::Threads);
        let group = store.create_group(GROUP, GroupOptions::default()).unwrap();
        append(&group, vec![blank(1, 0)]);
        store.checkpoint_now();
        disk.set_capacity(disk.used_bytes());
        if changes_durability {
            let options =
                GroupOptions { durability: Durability::Memory, ..GroupOptions::default() };
            store.set_options(GROUP, options).unwrap();
        }
        let (done, told) = completion();
        let entries = (1..70).map(|index| records(1, index, 1, 20_000)).collect();
        group.append(entries, done).unwrap();
        while store.space() == SpaceState::Ok {
            std::thread::yield_now();
        }
        assert!(closes(&store), "{changes_durability}");
        assert!(wait(&told).is_err());
        assert!(store.fatal().is_none());
    }
}

/// Without threads the store went on making checkpoints for ever where there was room for one, but
/// not for the next file of the journal.
#[test]
fn step_ends_where_the_journal_cannot_grow_and_a_checkpoint_can() {
    let disk = SimDisk::new(7);
    let store = open_sim(&disk, Driver::Manual);
    // Enough for segments and checkpoints, not for a second file of 256 KiB.
    disk.set_capacity(disk.used_bytes() + (100 << 10));
    let group = store.create_group(GROUP, small_segments()).unwrap();
    let mut index = 0;
    let mut is_stuck = false;
    while !is_stuck {
        disk.set_capacity(disk.used_bytes() + (100 << 10));
        let (done, told) = completion();
        group.append(vec![records(1, index, 1, 20_000)], done).unwrap();
        let steps = (0..1000).take_while(|_| store.step()).count();
        assert!(steps < 1000, "it never comes to rest");
        index += 1;
        is_stuck = told.try_recv().is_err();
        assert!(index < 1000);
    }
    disk.set_capacity(1 << 30);
    while store.step() {}
    assert_eq!(entries(&group, 0).len() as u64, index);
}

/// A journal file that could not be used again, for lack of space for its new name, was forgotten: it
/// took its space until the next start, and counted as free.
#[test]
fn journal_file_that_cannot_be_used_again_is_removed() {
    let disk = SimDisk::new(8);
    let store = open_sim(&disk, Driver::Manual);
    let group = store.create_group(GROUP, small_segments()).unwrap();
    // Of the renamings to come, some give an old file its new name.
    for nth in [6, 11, 16] {
        disk.inject(Fault::new(Operation::Rename, nth, Effect::Enospc).on(".journal").once());
    }
    for index in 0..200 {
        group.append(vec![records(1, index, 1, 20_000)], nobody()).unwrap();
        while store.step() {}
        group.applied(log_id(1, index));
    }
    let files = disk.files().into_iter().filter(|(path, _)| path.starts_with("journal/")).count();
    assert_eq!(files, store.stats().journal_files);
    assert_eq!(store.space(), SpaceState::Ok);
}
