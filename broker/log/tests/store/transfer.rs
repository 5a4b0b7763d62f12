//! Logs that go from one store to another as segment files.

use std::sync::Arc;

use plimsoll_log::disk::Disk;
use plimsoll_log::disk::sim::{CrashPlan, SimDisk};
use plimsoll_log::{
    Driver, Durability, ExportError, GroupLog, GroupOptions, Import, ImportError, LogExport,
    LogManifest, Retention, Store, StoreConfig, Vote,
};
use plimsoll_protocol::ids::{LogId, NodeId, Offset, Term};

use crate::support::*;

const PIECE: usize = 5000;

fn open_sim(disk: &SimDisk) -> Arc<Store> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let on_fatal = Box::new(|error: &plimsoll_log::FatalError| panic!("fatal: {error}"));
    Store::open(shared, small_config(), Driver::Manual, on_fatal).unwrap()
}

fn run(store: &Store) {
    while store.step() {}
}

/// A log of `count` entries, written and applied, in several segments.
fn source(count: u64) -> (Arc<Store>, Arc<GroupLog>) {
    let store = open_sim(&SimDisk::new(7));
    let group = store.create_group(GROUP, small_segments()).unwrap();
    extend(&store, &group, 1, count);
    (store, group)
}

fn extend(store: &Store, group: &GroupLog, term: u64, count: u64) {
    let next = group.bounds().last.map_or(0, |last| last.index.0 + 1);
    for index in next..next + count {
        group.append(vec![records(term, index, 3, 2500)], nobody()).unwrap();
        run(store);
    }
    group.applied(log_id(term, next + count - 1));
}

fn begin(store: &Arc<Store>, export: &LogExport) -> Result<Import, ImportError> {
    let manifest = LogManifest::decode(&export.manifest().encode()).unwrap();
    store.import(GROUP, small_segments(), manifest)
}

/// Sends what is missing, at most `limit` bytes; how many were sent.
fn send(export: &LogExport, import: &mut Import, limit: usize) -> Result<usize, ImportError> {
    let mut sent = 0;
    for (segment, mut at) in import.has().into_iter().enumerate() {
        loop {
            let piece = export.read(segment, at, PIECE.min(limit - sent)).unwrap();
            if piece.is_empty() {
                break;
            }
            import.write(segment, at, &piece)?;
            at += piece.len() as u64;
            sent += piece.len();
        }
    }
    Ok(sent)
}

fn copy(export: &LogExport, store: &Arc<Store>, state: &'static str) -> Arc<GroupLog> {
    let mut import = begin(store, export).unwrap();
    send(export, &mut import, usize::MAX).unwrap();
    let (done, told) = completion();
    let applied = export.manifest().last;
    let group = import.finish(applied, state.into(), done).unwrap();
    // It is there at once, for whoever reads.
    assert_eq!(group.bounds().last, Some(applied));
    assert_eq!(entries(&group, first(&group)).last().unwrap().id(), applied);
    assert!(told.try_recv().is_err(), "it is not durable yet");
    run(store);
    wait(&told).unwrap();
    group
}

fn first(group: &GroupLog) -> u64 {
    group.bounds().purged.map_or(0, |id| id.index.0 + 1)
}

fn expect_equal(copy: &GroupLog, original: &GroupLog, upto: LogId) {
    let of = |group: &GroupLog| -> Vec<_> {
        let all = entries(group, first(group));
        all.into_iter().filter(|entry| entry.header.index <= upto.index).collect()
    };
    assert_same(&of(copy), &of(original));
    assert_eq!(copy.bounds().last, Some(upto));
    let start = copy.bounds().log_start_offset;
    assert_eq!(start, original.bounds().log_start_offset);
    let end = copy.bounds().log_end_offset;
    let original = headers(&read_all(original, start));
    let original: Vec<_> = original.into_iter().filter(|h| h.end_offset() <= end).collect();
    assert_eq!(headers(&read_all(copy, start)), original);
}

fn expect_state(group: &GroupLog, applied: LogId, state: &'static str) {
    assert_eq!(group.state().unwrap(), Some((applied, state.into())));
}

#[test]
fn copied_log_is_equal_and_stays_so() {
    let (_store, original) = source(60);
    assert!(original.bounds().segments > 3);
    // At the end, and in the middle of a segment.
    for upto in [log_id(1, 59), log_id(1, 31)] {
        let export = original.export(upto).unwrap();
        let disk = SimDisk::new(2);
        let store = open_sim(&disk);
        let group = copy(&export, &store, "folded");
        expect_equal(&group, &original, upto);
        expect_state(&group, upto, "folded");
        assert_eq!(group.committed(), Some(upto));
        assert_eq!(group.vote(), None);
        for after in [disk.kill_process(), disk.crash(&CrashPlan::NOTHING)] {
            let again = open_sim(&after);
            expect_equal(&again.group(GROUP).unwrap(), &original, upto);
            expect_state(&again.group(GROUP).unwrap(), upto, "folded");
        }
        extend(&store, &group, 2, 20);
        for _ in 0..3 {
            store.checkpoint_now();
            group.save_vote(VOTE, nobody());
        }
        let files = disk.files();
        assert!(!files.iter().any(|(path, _)| path.ends_with(".state") || path.ends_with(".tmp")));
        let crashed = open_sim(&disk.crash(&CrashPlan::NOTHING));
        let group = crashed.group(GROUP).unwrap();
        assert_eq!(entries(&group, 0).len() as u64, upto.index.0 + 21);
        expect_state(&group, upto, "folded");
        assert_eq!(disk.stats().cold_touches, 0);
    }
}

const VOTE: Vote = Vote { term: Term(9), voted_for: NodeId(3), committed: false };

#[test]
fn imported_log_takes_the_place_of_a_shorter_one_and_the_vote_stays() {
    let (_store, original) = source(40);
    let upto = log_id(1, 39);
    let export = original.export(upto).unwrap();
    for durability in [Durability::Durable, Durability::Memory] {
        let disk = SimDisk::new(2);
        let store = open_sim(&disk);
        let options = GroupOptions { durability, ..small_segments() };
        let group = store.create_group(GROUP, options).unwrap();
        extend(&store, &group, 1, 10);
        group.save_vote(VOTE, nobody());
        group.put_state(log_id(1, 9), "old".into());
        store.checkpoint_now();
        let mut cursor = group.cursor(Offset(3));
        let copied = copy(&export, &store, "new");
        assert!(Arc::ptr_eq(&copied, &group));
        expect_equal(&group, &original, upto);
        // A reader that was there before reads on.
        while let plimsoll_log::ReadStep::Cold(range) =
            group.read(&mut cursor, Offset(120), 3000).unwrap()
        {
            range.load().unwrap();
        }
        assert!(cursor.next_offset() > Offset(3));
        let again = open_sim(&disk.crash(&CrashPlan::NOTHING));
        let again = again.group(GROUP).unwrap();
        expect_equal(&again, &original, upto);
        expect_state(&again, upto, "new");
        assert_eq!((again.vote(), again.options()), (Some(VOTE), options));
    }
}

#[test]
fn dropped_import_is_taken_up_where_it_was_left() {
    let (source_store, original) = source(30);
    let store = open_sim(&SimDisk::new(2));
    let early = original.export(log_id(1, 29)).unwrap();
    let mut import = begin(&store, &early).unwrap();
    assert!(matches!(begin(&store, &early), Err(ImportError::Busy(_))));
    let sent = send(&early, &mut import, 40_000).unwrap();
    assert_eq!(sent, 40_000);
    drop(import);
    extend(&source_store, &original, 1, 20);
    let upto = log_id(1, 49);
    let late = original.export(upto).unwrap();
    let mut import = begin(&store, &late).unwrap();
    assert_eq!(import.has().iter().sum::<u64>(), 40_000);
    let rest = send(&late, &mut import, usize::MAX).unwrap();
    assert_eq!((sent + rest) as u64, late.manifest().bytes());
    let group = import.finish(upto, "state".into(), nobody()).unwrap();
    run(&store);
    expect_equal(&group, &original, upto);
}

#[test]
fn forgotten_import_leaves_no_file() {
    let (_store, original) = source(30);
    let disk = SimDisk::new(2);
    let store = open_sim(&disk);
    let export = original.export(log_id(1, 29)).unwrap();
    let mut import = begin(&store, &export).unwrap();
    send(&export, &mut import, 60_000).unwrap();
    store.forget_import(GROUP);
    assert!(!import.has().is_empty(), "one that is under way is left alone");
    drop(import);
    let of_segments = || disk.files().iter().filter(|(path, _)| path.contains("segments/")).count();
    assert!(of_segments() > 0);
    // Neither does one that a crash has ended.
    let again = open_sim(&disk.kill_process());
    assert!(again.groups().is_empty());
    assert!(again.create_group(GROUP, small_segments()).is_ok());
    store.forget_import(GROUP);
    assert_eq!(of_segments(), 0);
}

#[test]
fn every_kind_of_damage_on_the_way_is_seen_and_the_old_log_stays() {
    let (_store, original) = source(30);
    let export = original.export(log_id(1, 29)).unwrap();
    let bytes = export.manifest().segments[0].bytes;
    // In a batch header, in its checksum, in a body, at the very end.
    for at in [20, 12, 500, bytes - 1] {
        let disk = SimDisk::new(2);
        let store = open_sim(&disk);
        let group = store.create_group(GROUP, small_segments()).unwrap();
        extend(&store, &group, 1, 3);
        let mut import = begin(&store, &export).unwrap();
        let mut piece = export.read(0, 0, bytes as usize).unwrap().to_vec();
        piece[at as usize] ^= 4;
        let error = import.write(0, 0, &piece).unwrap_err();
        assert!(matches!(error, ImportError::Damaged { segment: 0, .. }), "{error}");
        assert!(matches!(import.write(0, 0, &piece), Err(ImportError::Ended)));
        assert!(matches!(
            import.finish(log_id(1, 29), "state".into(), nobody()),
            Err(ImportError::Ended)
        ));
        assert_eq!(group.bounds().last, Some(log_id(1, 2)));
        assert!(!disk.files().iter().any(|(path, _)| path.ends_with(".tmp")));
    }
    export.verify(0).unwrap();
}

#[test]
fn manifest_of_another_log_than_the_batches_is_seen() {
    let (_store, original) = source(30);
    let export = original.export(log_id(1, 29)).unwrap();
    let wrong: [fn(&mut LogManifest); 4] = [
        |manifest| manifest.segments[0].salt ^= 1,
        |manifest| {
            manifest.segments[0].end_offset.0 += 1;
            manifest.segments[1].base_offset.0 += 1;
        },
        |manifest| {
            let id = log_id(0, manifest.segments[0].last.index.0);
            manifest.segments[0].last = id;
            manifest.segments[1].previous = Some(id);
        },
        |manifest| {
            let id = log_id(1, manifest.segments[0].last.index.0 + 1);
            manifest.segments[0].last = id;
            manifest.segments[1].previous = Some(id);
            manifest.segments[1].base_index.0 += 1;
        },
    ];
    for change in wrong {
        let store = open_sim(&SimDisk::new(2));
        let mut manifest = export.manifest().clone();
        change(&mut manifest);
        manifest.check().unwrap();
        let mut import = store.import(GROUP, small_segments(), manifest).unwrap();
        let sent = send(&export, &mut import, usize::MAX);
        assert!(matches!(sent, Err(ImportError::Damaged { .. })), "{sent:?}");
    }
}

#[test]
fn pieces_come_in_order_and_all_of_them() {
    let (_store, original) = source(30);
    let export = original.export(log_id(1, 29)).unwrap();
    let store = open_sim(&SimDisk::new(2));
    let mut import = begin(&store, &export).unwrap();
    let piece = export.read(0, 0, 1000).unwrap();
    for (segment, at) in [(0, 1), (1, 5), (99, 0)] {
        let refused = import.write(segment, at, &piece);
        assert!(matches!(refused, Err(ImportError::Piece { .. })), "{refused:?}");
    }
    import.write(0, 0, &piece).unwrap();
    assert!(import.write(0, 0, &piece).is_err());
    let upto = log_id(1, 29);
    let early = import.finish(upto, "state".into(), nobody());
    assert!(matches!(early, Err(ImportError::Incomplete { segment: 0, held: 1000, .. })));
    // It is left for the next one, which a state of another log ends.
    let mut import = begin(&store, &export).unwrap();
    assert_eq!(import.has()[0], 1000);
    send(&export, &mut import, usize::MAX).unwrap();
    let wrong = import.finish(log_id(1, 30), "state".into(), nobody());
    assert!(matches!(wrong, Err(ImportError::State { .. })));
    assert!(store.groups().is_empty());
}

#[test]
fn room_for_all_of_it_is_reserved_before_the_first_byte() {
    let (_store, original) = source(60);
    let export = original.export(log_id(1, 59)).unwrap();
    let disk = SimDisk::new(2);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let config = StoreConfig { free_bytes_min: 50_000, ..small_config() };
    let store = Store::open(shared, config, Driver::Manual, Box::new(|_| {})).unwrap();
    let used = disk.used_bytes();
    disk.set_capacity(used + export.manifest().bytes() + 50_000);
    let refused = begin(&store, &export);
    assert!(matches!(refused, Err(ImportError::Full { kept_free: 50_000, .. })), "{refused:?}");
    assert_eq!(disk.used_bytes(), used);
    disk.set_capacity(used + export.manifest().bytes() + 50_000 + 10 * 8192);
    let mut import = begin(&store, &export).unwrap();
    let reserved = disk.used_bytes();
    send(&export, &mut import, usize::MAX).unwrap();
    assert!(disk.used_bytes() <= reserved + 8192 * 10, "indexes are all that comes later");
}

#[test]
fn what_is_being_sent_stays_although_retention_took_it() {
    let disk = SimDisk::new(3);
    let store = open_sim(&disk);
    let group = store.create_group(GROUP, small_segments()).unwrap();
    extend(&store, &group, 1, 60);
    let upto = log_id(1, 59);
    let expected = entries(&group, 0);
    let export = group.export(upto).unwrap();
    let everything = Retention { max_age_ms: None, max_bytes: Some(0) };
    let outcome = group.retain(&everything, 0, Offset(180));
    assert!(outcome.segments > 2);
    let segments = || disk.files().iter().filter(|(path, _)| path.ends_with(".segment")).count();
    let before = segments();
    let checkpoint = |rounds| {
        for _ in 0..rounds {
            group.save_vote(VOTE, nobody());
            store.checkpoint_now();
        }
    };
    checkpoint(4);
    assert_eq!(segments(), before);
    let other = open_sim(&SimDisk::new(4));
    let copied = copy(&export, &other, "state");
    assert_same(&entries(&copied, 0), &expected);
    drop(export);
    store.checkpoint_now();
    assert_eq!(segments(), before - outcome.segments as usize);

    // What is sent next begins where the log does now.
    let export = group.export(upto).unwrap();
    let other = open_sim(&SimDisk::new(4));
    let copied = copy(&export, &other, "state");
    assert_eq!(copied.bounds().log_start_offset, outcome.log_start_offset);
    assert!(copied.bounds().purged.is_some());
    expect_equal(&copied, &group, upto);
}

#[test]
fn log_without_entries_is_sent_too() {
    let store = open_sim(&SimDisk::new(3));
    let group = store.create_group(GROUP, small_segments()).unwrap();
    extend(&store, &group, 1, 20);
    let upto = log_id(1, 19);
    group.retain(&Retention { max_age_ms: Some(1), max_bytes: None }, i64::MAX, Offset(60));
    run(&store);
    assert_eq!(group.bounds().log_start_offset, Offset(60));
    let export = group.export(upto).unwrap();
    assert!(export.manifest().segments.is_empty());
    let disk = SimDisk::new(4);
    let other = open_sim(&disk);
    let import = begin(&other, &export).unwrap();
    let copied = import.finish(upto, "state".into(), nobody()).unwrap();
    run(&other);
    let again = open_sim(&disk.crash(&CrashPlan::NOTHING)).group(GROUP).unwrap();
    for group in [copied, again] {
        let bounds = group.bounds();
        assert_eq!((bounds.last, bounds.purged), (Some(upto), Some(upto)));
        assert_eq!((bounds.log_start_offset, bounds.log_end_offset), (Offset(60), Offset(60)));
        expect_state(&group, upto, "state");
    }
}

#[test]
fn only_what_is_applied_and_written_can_be_sent() {
    let store = open_sim(&SimDisk::new(3));
    let group = store.create_group(GROUP, small_segments()).unwrap();
    group.append((0..5).map(|index| records(2, index, 1, 100)).collect(), nobody()).unwrap();
    let upto = log_id(2, 4);
    assert!(matches!(group.export(upto), Err(ExportError::TooEarly { .. })));
    run(&store);
    assert!(matches!(group.export(upto), Err(ExportError::TooEarly { .. })));
    group.applied(upto);
    assert!(matches!(group.export(log_id(2, 5)), Err(ExportError::Unknown { .. })));
    assert!(matches!(group.export(log_id(1, 3)), Err(ExportError::Unknown { .. })));
    assert!(matches!(group.export(log_id(1, 4)), Err(ExportError::Unknown { .. })));
    group.export(upto).unwrap();
}

/// A state's file that decayed before a checkpoint held it: the log could not be folded without it.
#[test]
fn damaged_state_of_an_imported_log_keeps_the_store_closed() {
    let (_store, original) = source(10);
    let export = original.export(log_id(1, 9)).unwrap();
    let disk = SimDisk::new(2);
    let store = open_sim(&disk);
    copy(&export, &store, "a state that will decay");
    let after = disk.kill_process();
    let (path, _) = after.files().into_iter().find(|(path, _)| path.ends_with(".state")).unwrap();
    after.flip_bit(&path, (4096 + 3) * 8).unwrap();
    let shared: Arc<dyn Disk> = Arc::new(after);
    let opened = Store::open(shared, small_config(), Driver::Manual, Box::new(|_| {}));
    let error = opened.unwrap_err().to_string();
    assert!(error.contains(&path) && error.contains("checksum"), "{error}");
}
