//! Purging moves Raft's pointer; retention takes whole segments, and their files only once no kept
//! checkpoint names them.

use bytes::Bytes;
use plimsoll_log::{Driver, LogEntry, ReadError, RetainLimit, Retention};
use plimsoll_protocol::batch::EntryKind;
use plimsoll_protocol::ids::{LogIndex, Offset};

use crate::support::*;

const BY_SIZE: Retention = Retention { max_age_ms: None, max_bytes: Some(100 * 1024) };

fn segment_files(directory: &std::path::Path) -> usize {
    let names = std::fs::read_dir(directory.join("segments")).unwrap();
    names.filter(|n| n.as_ref().unwrap().path().extension().is_some_and(|e| e == "segment")).count()
}

#[test]
fn purged_entries_are_gone_for_raft_and_stay_for_readers() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, small_segments()).unwrap();
    fill(&group, 1, 100, 1000);
    let (done, told) = completion();
    group.purge(log_id(1, 49), done);
    wait(&told).unwrap();
    assert!(matches!(group.read_entries(49..60, 1), Err(ReadError::Purged { .. })));
    assert_eq!(group.read_entries(50..60, 1).unwrap().len(), 1);
    assert_eq!(headers(&read_all(&group, Offset(0))).len(), 100);
    // Again, and less: nothing changes.
    group.purge(log_id(1, 10), nobody());
    assert_eq!(group.bounds().purged, Some(log_id(1, 49)));
    drop((store, group));
    let store = open(directory.path());
    let group = store.group(GROUP).unwrap();
    assert_eq!(group.bounds().purged, Some(log_id(1, 49)));
    assert_eq!(group.bounds().log_start_offset, Offset(0));
    assert_eq!(headers(&read_all(&group, Offset(0))).len(), 100);
}

#[test]
fn segments_go_from_the_front_by_size_and_their_files_two_checkpoints_later() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, small_segments()).unwrap();
    fill(&group, 1, 300, 1000);
    store.checkpoint_now();
    store.checkpoint_now();
    let files = segment_files(directory.path());
    let outcome = group.retain(&BY_SIZE, 0, group.bounds().log_end_offset);
    assert!(outcome.segments > 3 && outcome.bytes > 100 * 1024);
    let start = group.bounds().log_start_offset;
    assert_eq!(start, outcome.log_start_offset);
    assert!(start > Offset(0));
    // What went cannot be read from the moment of the call.
    let before = group.read(&mut group.cursor(Offset(0)), start, 1);
    assert!(matches!(before, Err(ReadError::BeforeStart { log_start, .. }) if log_start == start));
    assert_eq!(group.retain(&BY_SIZE, 0, group.bounds().log_end_offset).segments, 0);
    let rest = headers(&read_all(&group, start));
    assert_eq!(rest.first().unwrap().base_offset, start);
    assert_eq!(segment_files(directory.path()), files);
    store.checkpoint_now();
    assert_eq!(segment_files(directory.path()), files, "the older checkpoint still names them");
    store.checkpoint_now();
    assert_eq!(segment_files(directory.path()), files - outcome.segments as usize);
    drop((store, group));

    let store = open(directory.path());
    let group = store.group(GROUP).unwrap();
    assert_eq!(group.bounds().log_start_offset, start);
    assert_eq!(headers(&read_all(&group, start)), rest);
    assert!(group.bounds().purged.is_some());
}

#[test]
fn nothing_goes_that_is_not_committed_or_not_applied() {
    let directory = tempfile::tempdir().unwrap();
    // Where appends are placed, the first segment ends where the first placement begins: wherever the
    // journal thread happens to be, and at times before offset 10.
    let store = try_open(directory.path(), journaling_config(), Driver::Threads).unwrap();
    let group = store.create_group(GROUP, small_segments()).unwrap();
    for index in 0..200 {
        group.append(vec![records(1, index, 2, 1000)], nobody()).unwrap();
    }
    append(&group, vec![]);
    store.checkpoint_now();
    assert_eq!(group.retain(&BY_SIZE, 0, Offset(400)).segments, 0, "nothing was applied");
    group.applied(log_id(1, 199));
    assert_eq!(group.retain(&BY_SIZE, 0, Offset(10)).segments, 0, "nothing was committed");
    let outcome = group.retain(&BY_SIZE, 0, Offset(100));
    assert!(outcome.segments > 0 && outcome.log_start_offset <= Offset(100));
}

#[test]
fn entries_without_records_stay_behind_the_last_that_may_go() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, small_segments()).unwrap();
    // 100 records each, then what has no offsets of its own.
    fill(&group, 1, 100, 1000);
    for index in 100..400 {
        let body = Bytes::from(vec![7; 1000]);
        append(&group, vec![LogEntry::new(EntryKind::Control, log_id(1, index), body)]);
    }
    group.applied(log_id(1, 399));
    store.checkpoint_now();
    let all = Retention { max_age_ms: None, max_bytes: Some(0) };
    let limit = RetainLimit { offset: group.bounds().log_end_offset, last: LogIndex(250) };
    assert!(group.retain(&all, 0, limit).segments > 0);
    let kept = group.first_kept_index();
    assert!(kept > LogIndex(100) && kept <= LogIndex(251), "{kept:?}");
    assert_eq!(group.read_entries(kept.0..400, 1 << 30).unwrap().len() as u64, 400 - kept.0);
    assert_eq!(group.retain(&all, 0, limit).segments, 0);
}

/// Entries without records carry no time. A closed segment of only those never grew old, and kept all behind it.
#[test]
fn closed_segments_without_records_do_not_keep_what_is_behind_them() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, small_segments()).unwrap();
    for index in 0..200 {
        let body = Bytes::from(vec![7; 1000]);
        append(&group, vec![LogEntry::new(EntryKind::Control, log_id(1, index), body)]);
    }
    fill(&group, 2, 100, 1000);
    store.checkpoint_now();
    let policy = Retention { max_age_ms: Some(1000), max_bytes: None };
    let limit = RetainLimit { offset: group.bounds().log_end_offset, last: LogIndex(50) };
    group.retain(&policy, 0, limit);
    assert!(group.first_kept_index() <= LogIndex(51), "the limit holds for them, too");
    // Records were appended at 1_000_000 + index.
    let outcome = group.retain(&policy, 1_001_250, group.bounds().log_end_offset);
    assert!(outcome.log_start_offset > Offset(0), "{outcome:?}");
    assert!(outcome.log_start_offset < group.bounds().log_end_offset, "what is young stays");
}

#[test]
fn an_expired_log_goes_in_full_and_offsets_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, small_segments()).unwrap();
    fill(&group, 1, 50, 1000);
    store.checkpoint_now();
    let policy = Retention { max_age_ms: Some(1000), max_bytes: None };
    // Entries were appended at 1_000_000 + index.
    let some = group.retain(&policy, 1_001_040, Offset(100));
    assert!(some.segments > 0 && some.log_start_offset < Offset(100));
    let all = group.retain(&policy, 2_000_000, Offset(100));
    assert_eq!(all.log_start_offset, Offset(100));
    assert_eq!(group.bounds().log_end_offset, Offset(100));
    fill(&group, 2, 1, 10);
    assert_eq!(headers(&read_all(&group, Offset(100)))[0].base_offset, Offset(100));
    drop((store, group));
    let store = open(directory.path());
    let bounds = store.group(GROUP).unwrap().bounds();
    assert_eq!((bounds.log_start_offset, bounds.log_end_offset), (Offset(100), Offset(102)));
    assert_eq!(bounds.last, Some(log_id(2, 50)));
}

#[test]
fn a_reader_may_finish_what_it_holds_of_a_segment_that_went() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, small_segments()).unwrap();
    fill(&group, 1, 200, 1000);
    store.checkpoint_now();
    let held = group.read_entries(0..10, 1 << 20).unwrap();
    group.retain(&BY_SIZE, 0, group.bounds().log_end_offset);
    for _ in 0..3 {
        store.checkpoint_now();
    }
    for entry in held {
        assert!(entry.header.check_body_crc(&entry.body));
    }
}

#[test]
fn a_reset_log_goes_on_after_what_it_was_told() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, small_segments()).unwrap();
    fill(&group, 1, 20, 100);
    let (done, told) = completion();
    group.reset_to(log_id(4, 99), Offset(1000), done);
    wait(&told).unwrap();
    let bounds = group.bounds();
    assert_eq!((bounds.purged, bounds.last), (Some(log_id(4, 99)), Some(log_id(4, 99))));
    assert_eq!((bounds.log_start_offset, bounds.log_end_offset), (Offset(1000), Offset(1000)));
    append(&group, vec![records(4, 100, 1, 10)]);
    assert_eq!(headers(&read_all(&group, Offset(1000)))[0].base_offset, Offset(1000));
    drop((store, group));
    let store = open(directory.path());
    let group = store.group(GROUP).unwrap();
    assert_eq!(group.bounds().last, Some(log_id(4, 100)));
    assert_eq!(group.bounds().log_start_offset, Offset(1000));
    assert_eq!(entries(&group, 100).len(), 1);
}

#[test]
fn files_of_a_deleted_group_go_and_its_number_is_not_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, small_segments()).unwrap();
    fill(&group, 1, 100, 1000);
    store.checkpoint_now();
    let (done, told) = completion();
    store.delete_group(GROUP, done);
    assert!(store.group(GROUP).is_none());
    wait(&told).unwrap();
    assert!(group.is_deleted());
    assert!(group.append(vec![records(1, 100, 1, 1)], nobody()).is_err());
    assert!(store.create_group(GROUP, small_segments()).is_err());
    store.checkpoint_now();
    assert!(segment_files(directory.path()) > 0);
    drop((store, group));
    let store = open(directory.path());
    assert_eq!(store.groups(), []);
    assert!(store.create_group(GROUP, small_segments()).is_err(), "its files are still there");
    store.checkpoint_now();
    store.checkpoint_now();
    assert_eq!(segment_files(directory.path()), 0);
}

/// What was applied was counted from nothing after each start, so that retention took nothing of a
/// group until it was woken.
#[test]
fn a_group_that_nobody_woke_since_the_start_is_retained_up_to_its_state() {
    for state_bytes in [10, 10_000] {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let group = store.create_group(GROUP, small_segments()).unwrap();
        fill(&group, 1, 200, 1000);
        group.put_state(log_id(1, 99), vec![7; state_bytes].into());
        store.close();
        drop((store, group));
        let store = open(directory.path());
        let group = store.group(GROUP).unwrap();
        let everything = Retention { max_age_ms: None, max_bytes: Some(0) };
        assert!(group.retain(&everything, 0, group.bounds().log_end_offset).segments > 0);
        let first = group.first_kept_index().0;
        assert!((50..=100).contains(&first), "never past what is folded: {first}");
    }
}
