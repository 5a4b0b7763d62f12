//! Bugs that the enumeration found, each told alone.

use std::sync::Arc;

use bytes::Bytes;
use plimsoll_log::disk::sim::{CrashPlan, Effect, Fault, Op, Operation, SimDisk, SurvivingNames};
use plimsoll_log::{Completion, Driver, Durability, GroupLog, GroupOptions, LogEntry, Store, Vote};
use plimsoll_protocol::batch::EntryKind;
use plimsoll_protocol::ids::{GroupId, LogId, LogIndex, NodeId, Term};

use crate::workload::{config, open, run_until_idle};

const GROUP: GroupId = GroupId(1);

fn group(store: &Store) -> Arc<GroupLog> {
    store.group(GROUP).expect("it was created")
}

fn create(store: &Store, durability: Durability) -> Arc<GroupLog> {
    let options = GroupOptions { durability, ..GroupOptions::default() };
    store.create_group(GROUP, options).expect("a new group")
}

fn done() -> Completion {
    Box::new(|outcome| outcome.expect("nothing fails here"))
}

fn append(group: &GroupLog, term: u64, body: &'static str) {
    let index = group.bounds().last.map_or(0, |last| last.index.0 + 1);
    let id = LogId::new(Term(term), LogIndex(index));
    let entry = LogEntry::new(EntryKind::Control, id, Bytes::from_static(body.as_bytes()));
    group.append(vec![entry], done()).expect("it follows the last one");
}

fn vote(term: u64) -> Vote {
    Vote { term: Term(term), voted_for: NodeId(1), committed: true }
}

fn bodies(group: &GroupLog) -> Vec<Bytes> {
    let end = group.bounds().last.map_or(0, |last| last.index.0 + 1);
    if end == 0 {
        return Vec::new();
    }
    group
        .read_entries(0..end, usize::MAX)
        .expect("it is readable")
        .into_iter()
        .map(|entry| entry.body)
        .collect()
}

/// A process was killed after the rename of a new checkpoint and before the sync of its directory. The
/// next one took the name for durable and used journal files again that only the older checkpoint
/// needed; the power failed, the name was gone, and the store could not be opened.
#[test]
fn checkpoint_name_is_durable_before_its_journal_is_used_again() {
    let disk = SimDisk::new(1);
    let store = open(&disk, 1).unwrap();
    let log = create(&store, Durability::Durable);
    let recording = disk.record();
    for round in 0..12 {
        append(&log, 1, "x");
        run_until_idle(&store);
        if round % 3 == 0 {
            store.checkpoint_now();
        }
    }
    let record = recording.finish();
    let renamed = |op: &Op| matches!(op, Op::Rename { to, .. } if to.ends_with(".checkpoint"));
    let mut replay = record.replay();
    let mut found = 0;
    while let Some(op) = replay.next_op() {
        let is_rename = renamed(op);
        replay.advance();
        if !is_rename {
            continue;
        }
        found += 1;
        let image = replay.image_after_kill();
        let store = open(&image, 2).unwrap();
        let shown = bodies(&group(&store));
        run_until_idle(&store);
        drop(store);
        let names = SurvivingNames::Nothing;
        let again = open(&image.crash(&CrashPlan { names, ..CrashPlan::NOTHING }), 3).unwrap();
        assert_eq!(bodies(&group(&again)), shown);
    }
    assert!(found >= 3, "{found} checkpoints");
}

/// Without direct access a journal block is a write and a sync. The sync failed, the process ended; the
/// next one read the block from the cache, synced (which succeeded: the bytes counted as clean),
/// showed its entry and its vote, and lost them with the power.
#[test]
fn block_whose_sync_failed_is_on_the_medium_before_it_is_shown() {
    let disk = SimDisk::new(1).without_direct_access();
    let store = Store::open(Arc::new(disk.clone()), config(1), Driver::Manual, Box::new(|_| {}));
    let store = store.unwrap();
    let log = create(&store, Durability::Durable);
    append(&log, 1, "acknowledged");
    run_until_idle(&store);
    disk.inject(Fault::new(Operation::Sync, 1, Effect::Eio).on("journal").once());
    let refused: Completion = Box::new(|outcome| assert!(outcome.is_err()));
    log.save_vote(vote(7), refused);
    run_until_idle(&store);
    assert!(store.fatal().is_some());
    drop((store, log));

    let next = disk.kill_process();
    let store = open(&next, 2).unwrap();
    let shown = group(&store).vote();
    drop(store);
    let store = open(&next.crash(&CrashPlan::NOTHING), 3).unwrap();
    assert_eq!(group(&store).vote(), shown);
    assert_eq!(bodies(&group(&store)), ["acknowledged"]);
}

/// A memory group was made durable. The first opening after that replayed its durable entries into
/// segments; the second, from the same checkpoint, took them for entries that only segments hold, and
/// then found that the journal did not continue the log.
#[test]
fn group_that_became_durable_is_recovered_twice() {
    let disk = SimDisk::new(1);
    let store = open(&disk, 1).unwrap();
    let log = create(&store, Durability::Memory);
    append(&log, 1, "memory");
    run_until_idle(&store);
    let options = GroupOptions { durability: Durability::Durable, ..log.options() };
    store.set_options(GROUP, options).unwrap();
    append(&log, 1, "durable");
    append(&log, 1, "durable too");
    run_until_idle(&store);
    drop((store, log));
    let mut image = disk;
    for life in 2..6 {
        image = image.kill_process();
        let store = open(&image, life).unwrap();
        assert_eq!(bodies(&group(&store)), ["memory", "durable", "durable too"]);
    }
    let store = open(&image.crash(&CrashPlan::NOTHING), 9).unwrap();
    assert_eq!(bodies(&group(&store)), ["memory", "durable", "durable too"]);
}

/// A store was closed cleanly, opened again, and used by memory groups alone, which writes no journal
/// block. After `kill -9` it still looked clean, and what had been acknowledged was not looked for.
#[test]
fn memory_group_survives_a_kill_after_a_clean_close() {
    let disk = SimDisk::new(1);
    let store = open(&disk, 1).unwrap();
    append(&create(&store, Durability::Memory), 1, "before");
    store.close();
    drop(store);
    let store = open(&disk, 2).unwrap();
    append(&group(&store), 1, "after");
    run_until_idle(&store);
    drop(store);
    let store = open(&disk.kill_process(), 3).unwrap();
    assert_eq!(bodies(&group(&store)), ["before", "after"]);
}

/// A new leader's entries may be older than its term, and older than the entries that they replace. They
/// were told from the replaced ones by their terms, and so were lost when the process was killed.
#[test]
fn entries_of_an_older_term_replace_those_of_a_newer_one() {
    for durability in [Durability::Durable, Durability::Memory] {
        let disk = SimDisk::new(1);
        let store = open(&disk, 1).unwrap();
        let log = create(&store, durability);
        append(&log, 1, "kept");
        append(&log, 7, "replaced");
        log.save_vote(vote(8), done());
        log.truncate_after(Some(LogIndex(0)), done()).unwrap();
        append(&log, 6, "of term 6");
        run_until_idle(&store);
        drop((store, log));
        let store = open(&disk.kill_process(), 2).unwrap();
        assert_eq!(bodies(&group(&store)), ["kept", "of term 6"], "{durability:?}");
    }
}
