//! Compaction: what it keeps, what it takes, and what may happen meanwhile.

use plimsoll_log::disk::Disk;
use plimsoll_log::disk::sim::{CrashPlan, Effect, Fault, Operation, SimDisk};
use plimsoll_log::inspect::Inspector;
use plimsoll_log::{
    CompactError, CompactionPolicy, Durability, GroupOptions, LogManifest, ReadError, ReadStep,
    RecordKind, Retention,
};
use plimsoll_protocol::batch::{Compression, iterate_batches};
use plimsoll_protocol::ids::{LogIndex, Offset, Term};
use proptest::prelude::*;
use std::sync::Arc;

use crate::keyed::*;
use crate::support::*;

fn compaction_files(disk: &SimDisk) -> usize {
    let is_compacted =
        |path: &str| path.starts_with("segments/") && path.contains("-") && !path.contains("-0000");
    let names = disk.list("segments").unwrap();
    names.iter().filter(|name| is_compacted(&format!("segments/{name}"))).count()
}

#[test]
fn last_record_of_each_key_stays_at_its_offset() {
    let keyed = churned(1, 120);
    let before = keyed.group().bounds();
    assert!(before.segments > 5, "{before:?}");
    let run = keyed.compact(&EAGER).unwrap().unwrap();
    keyed.check();
    let (bounds, status) = (keyed.group().bounds(), keyed.group().compaction_status());
    assert_eq!(status.last_run.unwrap().at_ms, run.at_ms);
    assert_eq!(status.compacted_upto, before.log_end_offset, "the open segment was closed");
    assert_eq!((status.dirty_bytes, status.compacted_bytes), (0, bounds.bytes));
    assert!(bounds.bytes < before.bytes && run.records_removed > 100, "{run:?} {bounds:?}");
    assert_eq!(bounds.log_start_offset, Offset(0));
    assert_eq!(bounds.last, before.last);
    assert_eq!(keyed.read(0).len() as u64 + run.records_removed, before.log_end_offset.0);
    // From every offset on it is the same log.
    let all = keyed.read(0);
    for from in 0..before.log_end_offset.0 {
        let rest: Vec<_> = all.iter().filter(|(offset, _)| *offset >= from).cloned().collect();
        assert_eq!(keyed.read(from), rest);
    }
    // There is nothing to do a second time.
    assert_eq!(keyed.compact(&EAGER).unwrap(), None);
    for disk in [keyed.disk.kill_process(), keyed.disk.crash(&CrashPlan::NOTHING)] {
        let again = keyed.on(disk);
        again.check();
        assert_eq!(again.read(0), all);
        assert_eq!(again.group().compaction_status().compacted_upto, status.compacted_upto);
    }
}

#[test]
fn what_is_appended_later_is_compacted_with_what_was() {
    let mut keyed = churned(2, 60);
    for round in 0..4 {
        let run = keyed.compact(&EAGER).unwrap().unwrap();
        assert!(run.records_removed > 0, "round {round}");
        keyed.check();
        churn(&mut keyed, 40);
        keyed.check();
        let disk = keyed.disk.kill_process();
        keyed = keyed.on(disk);
        keyed.check();
    }
    keyed.store.close();
    let disk = keyed.disk.kill_process();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let found = Inspector::open(shared).unwrap().verify(&mut |_| {}).unwrap();
    assert_eq!(found.damaged, []);
    assert!(found.batches > 0);
}

#[test]
fn old_files_go_two_checkpoints_later_and_nothing_else_is_left() {
    let keyed = churned(3, 100);
    keyed.compact(&EAGER).unwrap().unwrap();
    for _ in 0..4 {
        keyed.store.look_around();
        keyed.run();
    }
    let segments = keyed.group().bounds().segments as usize;
    let names = keyed.disk.list("segments").unwrap();
    let files = names.iter().filter(|name| name.ends_with(".segment")).count();
    assert_eq!(files, segments, "{names:?}");
    assert!(names.iter().all(|name| !name.ends_with(".tmp")));
}

#[test]
fn tombstone_stays_until_its_horizon_and_deletes_what_was_before_it() {
    let mut keyed = Keyed::new(4, Durability::Durable, 8 * 1024);
    keyed.append(&[put("a", b"1"), put("b", b"2")], Compression::None);
    keyed.append(&[delete("a")], Compression::None);
    let policy = CompactionPolicy { tombstone_ms: 5000, ..EAGER };
    keyed.compact(&policy).unwrap().unwrap();
    assert_eq!(keyed.read(0), [(1, put("b", b"2")), (2, delete("a"))]);
    keyed.now_ms += 4999;
    assert_eq!(keyed.compact(&policy).unwrap(), None, "nothing is dirty, and it is too early");
    keyed.now_ms += 1;
    let run = keyed.compact(&policy).unwrap().unwrap();
    assert_eq!(run.records_removed, 1);
    assert_eq!(keyed.read(0), [(1, put("b", b"2"))]);
    keyed.check();
    // Its offset is still taken.
    assert_eq!(keyed.group().bounds().log_end_offset, Offset(3));
    keyed.append(&[put("a", b"3")], Compression::None);
    assert_eq!(keyed.read(2), [(3, put("a", b"3"))]);
}

/// A run may wait for its turn, and last for hours: the time of a tombstone began when it was planned.
#[test]
fn tombstone_stays_for_its_time_from_when_it_is_rewritten() {
    let mut keyed = Keyed::new(4, Durability::Durable, 8 * 1024);
    keyed.append(&[put("a", b"1"), put("b", b"2")], Compression::None);
    keyed.append(&[delete("a")], Compression::None);
    let policy = CompactionPolicy { tombstone_ms: 5000, ..EAGER };
    keyed.settle();
    let mut compaction = keyed.planned(&policy).unwrap();
    keyed.now_ms += 10_000;
    while !compaction.step(1, keyed.now_ms).unwrap().done {}
    drop(compaction);
    keyed.run();
    keyed.now_ms += 4999;
    assert_eq!(keyed.compact(&policy).unwrap(), None, "it is too early");
    assert_eq!(keyed.read(0), [(1, put("b", b"2")), (2, delete("a"))]);
    keyed.now_ms += 1;
    assert_eq!(keyed.compact(&policy).unwrap().unwrap().records_removed, 1);
}

/// One tombstone had the whole log read into a map and rewritten, and the dirty tombstones that were met got a
/// horizon that began the next run.
#[test]
fn expired_tombstone_has_its_own_segment_rewritten_and_nothing_else() {
    let mut keyed = Keyed::new(4, Durability::Durable, 8 * 1024);
    let policy = CompactionPolicy { tombstone_ms: 5000, dirty_percent_min: 25, ..EAGER };
    for number in 0..60 {
        if number == 10 {
            keyed.append(&[delete("old")], Compression::None);
        }
        keyed.append(&[put(&format!("key {number}"), &[7; 1000])], Compression::None);
    }
    keyed.compact(&policy).unwrap().unwrap();
    let before = keyed.group().bounds();
    assert!(before.segments > 5);
    keyed.append(&[delete("key 3")], Compression::None);
    keyed.now_ms += 5000;
    let run = keyed.compact(&policy).unwrap().unwrap();
    assert_eq!(run.records_removed, 1);
    assert!(run.bytes_before * 3 < before.bytes, "{run:?} {before:?}");
    keyed.check();
    keyed.now_ms += 100_000;
    assert_eq!(keyed.compact(&policy).unwrap(), None, "the other tombstone was not looked at");
    assert_eq!(keyed.read(0).len(), 61);
}

/// What was left after compaction was the producer's clock, and the append time of another batch.
#[test]
fn time_of_a_record_is_over_by_the_clock_of_the_broker_also_after_compaction() {
    let mut keyed = Keyed::new(22, Durability::Durable, 8 * 1024);
    keyed.append_expiring("early", 10, 10 + 300);
    keyed.now_ms += 1000;
    keyed.append_expiring("late", 900_000_000, 900_000_000 + 500);
    keyed.append_expiring("never lived", 20, 10);
    keyed.append(&[put("a", b"1")], Compression::None);
    for _ in 0..2 {
        keyed.append(&[put("a", b"2")], Compression::None);
        keyed.compact(&EAGER).unwrap().unwrap();
        let mut found = Vec::new();
        for batch in iterate_batches(read_all(&keyed.group(), Offset(0)).into()) {
            let batch = batch.unwrap();
            assert!(batch.header.compacted);
            let records = batch.records(1 << 20).unwrap();
            found.extend(records.filter_map(|one| one.unwrap().record.expires_at_ms));
        }
        assert_eq!(found, [1_000_300, 1_001_500, 1_001_000], "as of the first time");
    }
}

#[test]
fn only_what_is_old_purged_and_below_the_limit_is_touched() {
    let mut keyed = churned(5, 60);
    let policy = CompactionPolicy { roll_after_ms: None, ..EAGER };
    keyed.run();
    let group = keyed.group();
    assert!(keyed.planned(&policy).is_none(), "nothing is applied or purged");
    group.applied(group.bounds().last.unwrap());
    assert!(keyed.planned(&policy).is_none(), "nothing is purged");
    group.purge(log_id(1, 30), nobody());
    let end = keyed.twin.entry_ends[30];
    let mut compaction = keyed.planned(&policy).unwrap();
    while !compaction.step(u64::MAX, keyed.now_ms).unwrap().done {}
    drop(compaction);
    keyed.run();
    keyed.check();
    assert!(group.compaction_status().compacted_upto <= Offset(end));
    keyed.check_untouched(end);
    // Raft still reads what it may.
    assert_eq!(group.read_entries(31..33, 1 << 20).unwrap().len(), 2);
    assert!(matches!(group.read_entries(3..5, 1), Err(ReadError::Purged { .. })));
    assert_eq!(group.term_at(LogIndex(3)), None);
    let upto = group.compaction_status().compacted_upto.0;
    let entry = keyed.twin.entry_ends.iter().rposition(|&end| end == upto).unwrap() as u64;
    assert_eq!(group.term_at(LogIndex(entry)), Some(Term(1)), "the end of a segment is known");
    assert_eq!(group.is_quarantined(), None);
    keyed.settle();
    assert!(group.plan_compaction(&policy, keyed.now_ms, Offset(end)).is_none(), "the limit");
    let young = CompactionPolicy { min_age_ms: 3_600_000, ..policy };
    assert!(keyed.planned(&young).is_none(), "too young");
    keyed.now_ms += 3_600_000;
    assert!(keyed.planned(&young).is_some());
}

#[test]
fn idle_log_becomes_compactable_without_traffic() {
    let mut keyed = Keyed::new(6, Durability::Durable, 1 << 20);
    keyed.append(&[put("a", b"1")], Compression::None);
    keyed.append(&[put("a", b"2")], Compression::None);
    keyed.settle();
    let policy = CompactionPolicy { roll_after_ms: Some(60_000), ..EAGER };
    assert!(keyed.planned(&policy).is_none(), "its segment may still grow");
    keyed.now_ms += 60_000;
    let mut compaction = keyed.planned(&policy).expect("it was closed, and checkpoints came");
    while !compaction.step(1, keyed.now_ms).unwrap().done {}
    keyed.run();
    assert_eq!(keyed.read(0), [(1, put("a", b"2"))]);
    keyed.append(&[put("b", b"3")], Compression::None);
    keyed.run();
    keyed.check();
}

/// Under steady use the last entry is never old, or below a limit. What lay in the open segment was then
/// compacted only once it was full.
#[test]
fn open_segment_of_a_log_in_use_is_closed_when_its_first_record_is_old() {
    let mut keyed = Keyed::new(6, Durability::Durable, 1 << 20);
    keyed.append(&[put("a", b"1")], Compression::None);
    keyed.append(&[put("a", b"2")], Compression::None);
    keyed.settle();
    let limit = keyed.group().bounds().log_end_offset;
    let policy = CompactionPolicy { roll_after_ms: Some(60_000), min_age_ms: 30_000, ..EAGER };
    let due = |keyed: &Keyed| keyed.group().compaction_due(&policy, keyed.now_ms, limit);
    keyed.now_ms += 60_000;
    keyed.append(&[put("a", b"3")], Compression::None);
    keyed.run();
    assert_eq!(due(&keyed), None, "it is closed for now");
    keyed.run();
    keyed.append(&[put("a", b"4")], Compression::None);
    keyed.run();
    assert_eq!(keyed.group().bounds().segments, 2);
    keyed.append(&[put("a", b"5")], Compression::None);
    keyed.run();
    assert_eq!(due(&keyed), None);
    assert_eq!(keyed.group().bounds().segments, 2, "the next one is young");
}

/// Who asks has it purged first, and nothing else.
#[test]
fn what_is_due_is_told_before_it_is_purged() {
    let mut keyed = churned(7, 100);
    keyed.run();
    let group = keyed.group();
    group.applied(group.bounds().last.unwrap());
    let policy = CompactionPolicy { roll_after_ms: None, dirty_percent_min: 25, ..EAGER };
    let end = group.bounds().log_end_offset;
    let due = |keyed: &Keyed| {
        for _ in 0..4 {
            keyed.run();
            keyed.store.look_around();
            keyed.run();
            if let Some(last) = group.compaction_due(&policy, keyed.now_ms, end) {
                return Some(last);
            }
        }
        None
    };
    let last = due(&keyed).unwrap();
    assert!(last < group.bounds().last.unwrap(), "the open segment is not part of it");
    assert_eq!(group.bounds().purged, None);
    assert!(keyed.plan(&policy).is_none(), "nothing is purged");
    group.purge(last, nobody());
    keyed.run();
    let mut compaction = keyed.plan(&policy).unwrap();
    while !compaction.step(u64::MAX, keyed.now_ms).unwrap().done {}
    drop(compaction);
    keyed.run();
    keyed.check();
    keyed.append(&[put("key 1", b"x")], Compression::None);
    assert_eq!(due(&keyed), None, "little is dirty");
}

#[test]
fn dirty_share_decides_when_it_is_worth_it() {
    let mut keyed = churned(7, 100);
    keyed.compact(&EAGER).unwrap().unwrap();
    let half = CompactionPolicy { dirty_percent_min: 50, ..EAGER };
    keyed.append(&[put("key 1", b"x")], Compression::None);
    assert_eq!(keyed.compact(&half).unwrap(), None);
    churn(&mut keyed, 150);
    assert!(keyed.compact(&half).unwrap().is_some());
    keyed.check();
}

#[test]
fn reader_that_began_before_reads_on() {
    let mut keyed = churned(8, 120);
    keyed.settle();
    let group = keyed.group();
    let end = group.bounds().log_end_offset;
    for begin in [1u64, 17, 60, 150] {
        let mut cursor = group.cursor(Offset(begin));
        let mut bytes = Vec::new();
        let mut read = |cursor: &mut _, reads: usize| {
            let mut left = reads;
            while left > 0 {
                match group.read(cursor, end, 2000).unwrap() {
                    ReadStep::Batches { chunks, .. } => {
                        chunks.iter().for_each(|chunk| bytes.extend_from_slice(chunk));
                        left -= 1;
                    }
                    ReadStep::Cold(range) => range.load().unwrap(),
                    ReadStep::CaughtUp => return records_in(std::mem::take(&mut bytes)),
                }
            }
            records_in(std::mem::take(&mut bytes))
        };
        let mut found = read(&mut cursor, 3);
        keyed.compact(&EAGER).unwrap();
        for record in read(&mut cursor, usize::MAX) {
            // A batch may begin before the place where the reader was.
            if found.last().is_none_or(|last| last.0 < record.0) {
                found.push(record);
            }
        }
        found.retain(|(offset, _)| *offset >= begin);
        for (offset, given) in &found {
            assert_eq!(given, &keyed.twin.records[*offset as usize]);
        }
        // What is the last of its key now is what it saw, from where it began.
        let there: Vec<_> = keyed.read(begin);
        assert!(there.iter().all(|record| found.contains(record)), "begun at {begin}");
        churn(&mut keyed, 0);
    }
}

#[test]
fn retention_takes_compacted_segments_as_any_other() {
    let mut keyed = churned(9, 150);
    keyed.compact(&EAGER).unwrap().unwrap();
    churn(&mut keyed, 150);
    keyed.settle();
    let group = keyed.group();
    let compaction = keyed.planned(&EAGER).unwrap();
    // The front goes while it is compacted.
    let policy = Retention { max_age_ms: None, max_bytes: Some(group.bounds().bytes / 2) };
    let outcome = group.retain(&policy, keyed.now_ms, group.bounds().log_end_offset);
    assert!(outcome.segments > 0);
    let mut compaction = compaction;
    let error = loop {
        match compaction.step(5000, keyed.now_ms) {
            Ok(step) => assert!(!step.done),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, CompactError::Overtaken), "{error}");
    drop(compaction);
    keyed.run();
    keyed.check();
    keyed.compact(&EAGER).unwrap().unwrap();
    keyed.check();
    let start = group.bounds().log_start_offset;
    assert!(start >= outcome.log_start_offset);
    let disk = keyed.disk.crash(&CrashPlan::NOTHING);
    keyed = keyed.on(disk);
    keyed.check();
    assert_eq!(keyed.group().bounds().log_start_offset, start);
    assert_eq!(
        keyed.disk.list("segments").unwrap().iter().filter(|n| n.ends_with(".tmp")).count(),
        0
    );
}

/// What takes the log away under a compaction ends it, whenever it comes, and it leaves nothing.
#[test]
fn log_that_goes_meanwhile_ends_it_cleanly() {
    for way in 0..4 {
        for steps in 0..60 {
            let keyed = churned(10, 40);
            keyed.settle();
            let group = keyed.group();
            let mut compaction = keyed.planned(&EAGER).unwrap();
            let mut done = false;
            for _ in 0..steps {
                done = done || compaction.step(1, keyed.now_ms).unwrap().done;
            }
            match way {
                0 => keyed.store.delete_group(GROUP, nobody()),
                1 => keyed.store.drop_replica(GROUP, nobody()),
                2 => group.reset_to(log_id(2, 1000), Offset(5000), nobody()),
                _ => group.set_quarantined("for a test"),
            }
            let outcome = loop {
                match compaction.step(u64::MAX, keyed.now_ms) {
                    Ok(step) if step.done => break Ok(()),
                    Ok(_) => {}
                    Err(error) => break Err(error),
                }
            };
            assert!(done || matches!(outcome, Err(CompactError::Overtaken)), "{outcome:?}");
            drop(compaction);
            keyed.run();
            keyed.store.checkpoint_now();
            for _ in 0..3 {
                keyed.store.look_around();
                keyed.run();
            }
            if way < 3 {
                assert_eq!(compaction_files(&keyed.disk), 0, "way {way}, {steps} steps");
            }
            open_on(&keyed.disk.kill_process());
        }
    }
}

#[test]
fn dropped_compaction_leaves_no_file() {
    for steps in 0..40 {
        let keyed = churned(11, 40);
        keyed.settle();
        let mut compaction = keyed.planned(&EAGER).unwrap();
        assert!(keyed.plan(&EAGER).is_none(), "one at a time");
        for _ in 0..steps {
            let _ = compaction.step(1, keyed.now_ms).unwrap();
        }
        drop(compaction);
        assert!(keyed.disk.list("segments").unwrap().iter().all(|name| !name.ends_with(".tmp")));
        keyed.run();
        keyed.check();
        keyed.compact(&EAGER).unwrap();
        keyed.check();
    }
}

/// A crash between the removal of a segment and of its index left the index for good.
#[test]
fn index_without_its_segment_goes_with_the_next_opening() {
    let keyed = churned(11, 100);
    keyed.compact(&EAGER).unwrap().unwrap();
    for _ in 0..4 {
        keyed.store.look_around();
        keyed.run();
    }
    let indexes = |disk: &SimDisk| {
        let names = disk.list("segments").unwrap();
        names.into_iter().filter(|name| name.ends_with(".index")).collect::<Vec<_>>()
    };
    let disk = keyed.disk.kill_process();
    let before = indexes(&disk);
    // Of this group: one that counts upwards and is behind, and one that compaction wrote.
    for number in ["0000000000000000", "8123456789abcdef"] {
        let path = format!("segments/{:016x}-{number}.index", GROUP.0);
        assert!(!disk.exists(&path.replace(".index", ".segment")).unwrap());
        disk.create(&path, plimsoll_log::disk::Mode::Buffered).unwrap();
    }
    let again = keyed.on(disk.kill_process());
    again.check();
    assert_eq!(indexes(&again.disk), before);
}

/// Compaction is what gives space back where it is low; where there is none at all, nothing is read for it.
#[test]
fn compaction_uses_half_of_what_is_kept_free_and_reads_nothing_without_room() {
    const KEPT_FREE: u64 = 1 << 20;
    let keyed = churned(13, 80);
    let disk = keyed.disk.kill_process();
    let store = open_keeping(&disk, KEPT_FREE);
    let keyed = Keyed { disk, store, now_ms: keyed.now_ms, twin: keyed.twin.clone() };
    keyed.settle();
    let mut compaction = keyed.planned(&EAGER).unwrap();
    keyed.disk.set_capacity(keyed.disk.used_bytes() + KEPT_FREE / 2);
    let outcome = compaction.step(1, keyed.now_ms);
    assert!(matches!(outcome, Err(CompactError::Full { .. })), "{outcome:?}");
    drop(compaction);
    keyed.disk.set_capacity(keyed.disk.used_bytes() + KEPT_FREE / 2 + (256 << 10));
    let run = keyed.compact(&EAGER).unwrap().unwrap();
    assert!(run.records_removed > 0);
    keyed.check();
}

#[test]
fn truncation_of_what_was_not_purged_is_no_matter() {
    let keyed = churned(12, 60);
    keyed.settle();
    let group = keyed.group();
    let mut keyed = keyed;
    let purged = group.bounds().last.unwrap();
    let end = keyed.twin.clone();
    let mut compaction = keyed.planned(&EAGER).unwrap();
    churn(&mut keyed, 30);
    let _ = compaction.step(5000, keyed.now_ms).unwrap();
    group.truncate_after(Some(purged.index), nobody()).unwrap();
    keyed.twin = end;
    while !compaction.step(5000, keyed.now_ms).unwrap().done {}
    drop(compaction);
    keyed.run();
    keyed.check();
    // Also where the last entry that is kept lies in a compacted segment.
    churn(&mut keyed, 3);
    let twin = keyed.twin.clone();
    keyed.settle();
    let purged = group.bounds().last.unwrap();
    keyed.compact(&EAGER).unwrap().unwrap();
    churn(&mut keyed, 2);
    keyed.run();
    group.truncate_after(Some(purged.index), nobody()).unwrap();
    keyed.twin = twin;
    keyed.run();
    keyed.check();
    assert_eq!(group.bounds().last, Some(purged));
}

#[test]
fn full_disk_ends_it_and_it_can_be_done_again() {
    for (operation, effect) in [
        (Operation::Create, Effect::Enospc),
        (Operation::Allocate, Effect::Enospc),
        (Operation::Write, Effect::Enospc),
        (Operation::Rename, Effect::Eio),
        (Operation::Sync, Effect::Eio),
        (Operation::SyncDir, Effect::Eio),
    ] {
        for nth in 1..4 {
            let keyed = churned(13, 80);
            keyed.settle();
            let mut compaction = keyed.planned(&EAGER).unwrap();
            let mut fault = Fault::new(operation, nth, effect);
            fault.times = 1;
            keyed.disk.inject(fault);
            let outcome = loop {
                match compaction.step(2000, keyed.now_ms) {
                    Ok(step) if step.done => break None,
                    Ok(_) => {}
                    Err(error) => break Some(error),
                }
            };
            match (outcome, effect) {
                (None, _) => assert!(nth > 1),
                (Some(CompactError::Full { .. }), Effect::Enospc) => {}
                (Some(CompactError::Medium { .. }), Effect::Eio) => {}
                (other, _) => panic!("{operation:?} {nth}: {other:?}"),
            }
            drop(compaction);
            keyed.disk.heal();
            let names = keyed.disk.list("segments").unwrap();
            assert!(names.iter().all(|name| !name.ends_with(".tmp")), "{names:?}");
            keyed.run();
            keyed.check();
            keyed.compact(&EAGER).unwrap();
            keyed.check();
            keyed.on(keyed.disk.crash(&CrashPlan::NOTHING)).check();
        }
    }
}

#[test]
fn low_space_is_found_before_anything_is_written() {
    let keyed = churned(14, 80);
    keyed.settle();
    let mut compaction = keyed.planned(&EAGER).unwrap();
    keyed.disk.set_capacity(keyed.disk.used_bytes() + 100);
    let error = loop {
        match compaction.step(u64::MAX, keyed.now_ms) {
            Ok(step) => assert!(!step.done),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, CompactError::Full { needed, .. } if needed > 100), "{error}");
    assert_eq!(compaction_files(&keyed.disk), 0);
}

#[test]
fn damaged_segment_gives_no_result_and_is_named() {
    for bit in [0, 4100 * 8, 4200 * 8 + 3, 6000 * 8] {
        let keyed = churned(15, 80);
        keyed.settle();
        keyed.store.checkpoint_now();
        let disk = keyed.disk.kill_process();
        let names = disk.list("segments").unwrap();
        let second = names.iter().filter(|name| name.ends_with(".segment")).nth(1).unwrap();
        let path = format!("segments/{second}");
        disk.flip_bit(&path, bit).unwrap();
        let keyed = keyed.on(disk);
        let group = keyed.group();
        group.applied(group.bounds().last.unwrap());
        let error = keyed.compact(&EAGER).unwrap_err();
        let CompactError::Damaged(damage) = &error else { panic!("{error}") };
        assert_eq!(damage.path, path);
        assert!(group.is_quarantined().unwrap().reason.contains(&path));
        assert_eq!(compaction_files(&keyed.disk), 0);
        assert_eq!(group.compaction_status().last_run, None);
    }
}

#[test]
fn log_with_more_keys_than_the_map_takes_several_runs() {
    let mut keyed = Keyed::new(16, Durability::Durable, 16 * 1024);
    for round in 0..3 {
        for number in 0..100 {
            let key = |n: u64| format!("key {}", number * 2 + n);
            keyed.append(&[put(&key(0), &[round; 50]), delete(&key(1))], Compression::None);
        }
        keyed.run();
    }
    let few = CompactionPolicy { map_entries_max: 30, ..EAGER };
    let mut upto = Offset(0);
    let mut runs = 0;
    while keyed.compact_once(&few).unwrap().is_some() {
        keyed.check();
        let now = keyed.group().compaction_status().compacted_upto;
        assert!(now > upto, "it gets on");
        upto = now;
        runs += 1;
    }
    assert!(runs > 10, "{runs}");
    assert_eq!(upto, keyed.group().bounds().log_end_offset);
    assert_eq!(keyed.read(0).len(), 200, "100 values, and 100 tombstones");
    keyed.now_ms += 10_000_000;
    keyed.compact(&few).unwrap().unwrap();
    keyed.check();
    assert_eq!(keyed.read(0).len(), 100);
    let none = CompactionPolicy { map_entries_max: 1, ..EAGER };
    keyed.append(&[put("x", b""), put("y", b"")], Compression::None);
    assert!(matches!(keyed.compact(&none), Err(CompactError::MapFull { limit: 1 })));
}

#[test]
fn new_replica_gets_the_compacted_segments() {
    let mut keyed = churned(17, 120);
    keyed.compact(&EAGER).unwrap().unwrap();
    churn(&mut keyed, 20);
    keyed.settle();
    let group = keyed.group();
    let last = group.bounds().last.unwrap();
    let export = group.export(last).unwrap();
    let manifest = LogManifest::decode(&export.manifest().encode()).unwrap();
    assert_eq!(&manifest, export.manifest());
    assert!(manifest.segments.iter().any(|segment| segment.compacted.is_some()));
    let inside = log_id(1, last.index.0 / 2);
    assert!(group.export(inside).is_err(), "it lies in a compacted segment");
    // What is sent stays, whatever a second compaction replaces meanwhile.
    let compacted = keyed.compact(&EAGER).unwrap().unwrap();
    assert!(compacted.records_removed > 0);
    for _ in 0..4 {
        keyed.store.look_around();
        keyed.run();
    }
    let disk = SimDisk::new(99);
    let store = open_on(&disk);
    let options = GroupOptions { segment_bytes: 8 * 1024, ..GroupOptions::default() };
    let mut import = store.import(GROUP, options, manifest).unwrap();
    for segment in 0..export.manifest().segments.len() {
        let mut at = 0;
        loop {
            let piece = export.read(segment, at, 5000).unwrap();
            if piece.is_empty() {
                break;
            }
            import.write(segment, at, &piece).unwrap();
            at += piece.len() as u64;
        }
    }
    import.finish(last, "state".into(), nobody()).unwrap();
    while store.step() {}
    drop(store);
    let mut copy = keyed.on(disk.crash(&CrashPlan::NOTHING));
    copy.check();
    assert!(copy.group().compaction_status().compacted_upto > Offset(0));
    // It is compacted on like any other.
    churn(&mut copy, 30);
    copy.compact(&EAGER).unwrap().unwrap();
    copy.check();
    let disk = copy.disk.crash(&CrashPlan::NOTHING);
    copy.on(disk).check();
}

#[test]
fn inspection_knows_of_what_was_replaced_after_the_checkpoint() {
    let keyed = churned(19, 100);
    keyed.settle();
    keyed.store.checkpoint_now();
    keyed.compact_once(&EAGER).unwrap().unwrap();
    let before = keyed.store.stats().checkpoints;
    keyed.run();
    assert_eq!(keyed.store.stats().checkpoints, before);
    let disk: Arc<dyn Disk> = Arc::new(keyed.disk.kill_process());
    let inspector = Inspector::open(disk).unwrap();
    assert!(inspector.report().groups[&GROUP].segments.iter().any(|s| s.compacted.is_some()));
    let mut blocks = Vec::new();
    inspector.blocks(&mut |block| blocks.extend(block.records.clone())).unwrap();
    assert!(blocks.contains(&(GROUP, Some(RecordKind::Compacted))));
    let found = inspector.verify(&mut |_| {}).unwrap();
    assert_eq!(found.damaged, []);
    assert_eq!(found.segments, u64::from(keyed.group().bounds().segments));
    let mut compacted = 0;
    let mut count = |batch: &plimsoll_log::inspect::BatchReport| {
        compacted += usize::from(batch.header.unwrap().compacted);
    };
    inspector.batches(GROUP, &mut count).unwrap();
    assert!(compacted > 0);
}

/// A batch that loses nothing keeps its bytes; the small ones around it are put together.
#[test]
fn large_batches_are_copied_and_small_ones_put_together() {
    let mut keyed = Keyed::new(20, Durability::Durable, 1 << 20);
    for number in 0..50 {
        keyed.append(&[put(&format!("small {number}"), &[1; 100])], Compression::None);
        keyed.append_blank();
    }
    keyed.append(&[put("large", &[7; 40_000])], Compression::None);
    keyed.append_blank();
    keyed.append_blank();
    for number in 0..50 {
        keyed.append(&[put(&format!("after {number}"), &[2; 2000])], Compression::Zstd);
    }
    keyed.append(&[put("small 3", &[3; 100])], Compression::None);
    keyed.append_blank();
    keyed.run();
    let last = keyed.group().bounds().last;
    let large = |keyed: &Keyed| {
        let all = headers(&read_all(&keyed.group(), Offset(0)));
        all.into_iter().find(|header| header.batch_length > 40_000).unwrap()
    };
    let before = large(&keyed);
    keyed.compact(&EAGER).unwrap().unwrap();
    keyed.check();
    let after = large(&keyed);
    assert_eq!(after.index, LogIndex(before.index.0 + 2), "it stands for the blank ones behind it");
    assert_eq!((after.body_crc, after.producer_id), (before.body_crc, before.producer_id));
    assert!(!after.compacted);
    let all = headers(&read_all(&keyed.group(), Offset(0)));
    assert!(all.len() <= 5, "{} batches", all.len());
    assert_eq!(all.last().map(|header| header.log_id()), last);
    assert!(all.iter().any(|header| header.compression == Compression::Zstd));
}

#[test]
fn segment_of_several_megabytes_is_read_piece_by_piece() {
    let mut keyed = Keyed::new(22, Durability::Durable, 8 << 20);
    for number in 0..120u64 {
        let length = 20_000 + (number * 7919 % 25_000) as usize;
        let key = format!("key {}", number % 50);
        keyed.append(&[put(&key, &vec![number as u8; length])], Compression::None);
        keyed.run();
    }
    keyed.store.checkpoint_now();
    let mut keyed = keyed.on(keyed.disk.kill_process());
    let last = keyed.group().bounds().last.unwrap();
    keyed.group().applied(last);
    keyed.now_ms += 1;
    let run = keyed.compact(&EAGER).unwrap().unwrap();
    assert_eq!(run.records_removed, 70);
    assert!(run.bytes_before > 3 << 20, "{run:?}");
    assert_eq!(keyed.disk.stats().cold_touches, 0, "pages were touched before they were populated");
    keyed.check();
    assert_eq!(keyed.disk.stats().cold_touches, 0);
}

/// On a real disk, with the store's threads, while records are appended and read.
#[test]
fn appends_and_reads_go_on_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, small_segments()).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let load = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut rounds = 0;
            while !stop.load(load) || rounds == 0 {
                let found = records_read_meanwhile(read_all(&group, Offset(0)));
                assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0), "offsets rise");
                for (offset, given) in found {
                    assert_eq!(given.value, Some(vec![offset as u8; 500]), "at {offset}");
                }
                rounds += 1;
            }
        });
        let mut runs = 0;
        let mut at = 0;
        // As many appends as it takes until a few runs found something to do.
        while runs < 3 {
            let index = group.bounds().last.map_or(0, |last| last.index.0 + 1);
            append(&group, vec![keyed_entry(index, at)]);
            at += 1;
            let last = group.bounds().last.unwrap();
            group.applied(last);
            group.purge(last, nobody());
            if at % 200 == 199 {
                store.checkpoint_now();
                store.checkpoint_now();
                let limit = group.bounds().log_end_offset;
                if let Some(mut compaction) = group.plan_compaction(&EAGER, 2_000_000, limit) {
                    while !compaction.step(10_000, i64::MIN).unwrap().done {}
                    runs += u32::from(compaction.so_far().records_removed > 0);
                }
            }
        }
        stop.store(true, load);
        reader.join().unwrap();
    });
    // Until then the last segment may not be in its place yet.
    store.checkpoint_now();
    let found = records_in(read_all(&group, Offset(0)));
    store.close();
    drop((group, store));
    let store = open(directory.path());
    assert_eq!(records_in(read_all(&store.group(GROUP).unwrap(), Offset(0))), found);
}

#[test]
fn log_in_memory_is_compacted_too() {
    let mut keyed = Keyed::new(18, Durability::Memory, 8 * 1024);
    churn(&mut keyed, 100);
    keyed.compact(&EAGER).unwrap().unwrap();
    keyed.check();
    keyed.store.checkpoint_now();
    for disk in [keyed.disk.kill_process(), keyed.disk.crash(&CrashPlan::NOTHING)] {
        let mut again = keyed.on(disk);
        again.check();
        churn(&mut again, 50);
        again.compact(&EAGER).unwrap().unwrap();
        again.check();
        let disk = again.disk.kill_process();
        again.on(disk).check();
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append { records: Vec<(u8, u16, bool)>, lz4: bool },
    Blank,
    Settle,
    Work { steps: usize },
    Checkpoint,
    Compact { steps: usize, bytes: u64, map: usize, tombstone_ms: u64 },
    Retain { percent: u64 },
    Truncate { back: usize },
    Wait { ms: i64 },
    Reopen { how: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let record = (0..12u8, 0..1500u16, prop::bool::weighted(0.2));
    prop_oneof![
        12 => (prop::collection::vec(record, 1..6), prop::bool::weighted(0.3))
            .prop_map(|(records, lz4)| Step::Append { records, lz4 }),
        2 => Just(Step::Blank),
        3 => Just(Step::Settle),
        3 => (0..5usize).prop_map(|steps| Step::Work { steps }),
        3 => Just(Step::Checkpoint),
        5 => (1..40usize, 1..9000u64, prop_oneof![Just(4usize), Just(1000)], 0..5000u64).prop_map(
            |(steps, bytes, map, tombstone_ms)| Step::Compact { steps, bytes, map, tombstone_ms }),
        1 => (20..100u64).prop_map(|percent| Step::Retain { percent }),
        1 => (1..4usize).prop_map(|back| Step::Truncate { back }),
        2 => (1..4000i64).prop_map(|ms| Step::Wait { ms }),
        1 => (0..4u8).prop_map(|how| Step::Reopen { how }),
    ]
}

fn carry_out(keyed: &mut Keyed, step: &Step) {
    match step {
        Step::Append { records, lz4 } => {
            let given: Vec<_> = records
                .iter()
                .map(|(key, length, is_tombstone)| Given {
                    key: (*key < 10 || *is_tombstone).then(|| format!("key {key}")),
                    value: (!is_tombstone).then(|| vec![*key; usize::from(*length)]),
                })
                .collect();
            let compression = if *lz4 { Compression::Lz4 } else { Compression::None };
            keyed.append(&given, compression);
        }
        Step::Blank => keyed.append_blank(),
        Step::Settle => keyed.settle(),
        Step::Work { steps } => {
            for _ in 0..*steps {
                keyed.store.step();
            }
        }
        Step::Checkpoint => {
            keyed.store.checkpoint_now();
            keyed.store.look_around();
        }
        Step::Compact { steps, bytes, map, tombstone_ms } => {
            let policy =
                CompactionPolicy { map_entries_max: *map, tombstone_ms: *tombstone_ms, ..EAGER };
            let Some(mut compaction) = keyed.planned(&policy) else { return };
            for _ in 0..*steps {
                match compaction.step(*bytes, keyed.now_ms) {
                    Ok(step) if step.done => break,
                    Ok(_) | Err(CompactError::MapFull { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        Step::Retain { percent } => {
            let group = keyed.group();
            let max_bytes = Some(group.bounds().bytes * percent / 100);
            let policy = Retention { max_age_ms: None, max_bytes };
            group.retain(&policy, keyed.now_ms, group.bounds().log_end_offset);
        }
        Step::Truncate { back } => {
            let group = keyed.group();
            let purged = group.bounds().purged.map_or(0, |purged| purged.index.0 as usize + 1);
            let kept = keyed.twin.entry_ends.len().saturating_sub(*back).max(purged);
            group
                .truncate_after(kept.checked_sub(1).map(|k| LogIndex(k as u64)), nobody())
                .unwrap();
            keyed.twin.entry_ends.truncate(kept);
            let records = keyed.twin.entry_ends.last().map_or(0, |end| *end as usize);
            keyed.twin.records.truncate(records);
        }
        Step::Wait { ms } => keyed.now_ms += ms,
        Step::Reopen { how } => {
            keyed.run();
            let disk = match how {
                0 => keyed.disk.crash(&CrashPlan::NOTHING),
                1 => keyed.disk.crash(&CrashPlan::EVERYTHING),
                2 => keyed.disk.kill_process(),
                _ => {
                    keyed.store.close();
                    keyed.disk.kill_process()
                }
            };
            *keyed = keyed.on(disk);
            keyed.check();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    #[test]
    fn compacted_log_shows_what_its_naive_twin_knows(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut keyed = Keyed::new(21, Durability::Durable, 8 * 1024);
        for step in &steps {
            carry_out(&mut keyed, step);
        }
        keyed.check();
        carry_out(&mut keyed, &Step::Reopen { how: 0 });
        keyed.compact(&EAGER).unwrap();
        keyed.check();
        let all = keyed.read(keyed.group().bounds().log_start_offset.0);
        let end = keyed.twin.records.len() as u64;
        for from in (keyed.group().bounds().log_start_offset.0..end).step_by(7) {
            let rest: Vec<_> = all.iter().filter(|(offset, _)| *offset >= from).cloned().collect();
            prop_assert_eq!(keyed.read(from), rest);
        }
        carry_out(&mut keyed, &Step::Reopen { how: 3 });
    }
}
