//! A damaged segment is noticed, named and quarantined; damaged metadata is put aside.

use std::fs;
use std::path::PathBuf;

use plimsoll_log::{AppendError, Driver, OpenError, ReadError, Retention};
use plimsoll_protocol::ids::Offset;

use crate::support::*;

fn files(directory: &std::path::Path, kind: &str, ending: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(directory.join(kind))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    found.sort();
    found
}

fn flip(path: &std::path::Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x08;
    fs::write(path, bytes).unwrap();
}

/// Segments that begin where the tests expect it: placing depends on how fast the journal thread is.
fn closed_store(directory: &std::path::Path) {
    let store = try_open(directory, journaling_config(), Driver::Threads).unwrap();
    let group = store.create_group(GROUP, small_segments()).unwrap();
    fill(&group, 1, 100, 1000);
    store.close();
}

#[test]
fn a_flipped_bit_in_a_body_quarantines_the_group() {
    let directory = tempfile::tempdir().unwrap();
    closed_store(directory.path());
    let segment = files(directory.path(), "segments", ".segment")[1].clone();
    // The second batch of the second segment.
    let at = 4096 + 1096 + 500;
    flip(&segment, at);
    let store = open(directory.path());
    let group = store.group(GROUP).unwrap();
    let mut cursor = group.cursor(Offset(54));
    let error = loop {
        match group.read(&mut cursor, Offset(200), 1 << 20) {
            Ok(plimsoll_log::ReadStep::Cold(range)) => {
                if let Err(error) = range.load() {
                    break error;
                }
            }
            other => panic!("{other:?}"),
        }
    };
    let ReadError::Damaged(damage) = &error else { panic!("{error}") };
    assert!(segment.ends_with(&damage.path));
    assert_eq!(damage.position, 4096 + 1096);
    let reason = group.is_quarantined().unwrap().reason;
    assert!(reason.contains("byte 5192"), "{reason}");
    // It neither serves nor changes nor deletes anything.
    assert!(matches!(
        group.read(&mut group.cursor(Offset(0)), Offset(200), 1),
        Err(ReadError::Quarantined(_))
    ));
    assert!(matches!(
        group.append(vec![records(1, 100, 1, 1)], nobody()),
        Err(AppendError::Quarantined(_))
    ));
    let policy = Retention { max_age_ms: Some(0), max_bytes: Some(0) };
    assert_eq!(group.retain(&policy, i64::MAX, Offset(200)).segments, 0);
    // Other groups are not concerned.
    let other = store.create_group(plimsoll_protocol::ids::GroupId(8), small_segments()).unwrap();
    fill(&other, 1, 10, 10);
}

#[test]
fn a_damaged_or_missing_index_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    closed_store(directory.path());
    let indexes = files(directory.path(), "segments", ".index");
    assert!(indexes.len() >= 3);
    flip(&indexes[0], 4100);
    fs::remove_file(&indexes[1]).unwrap();
    fs::write(&indexes[2], b"").unwrap();
    let store = open(directory.path());
    let group = store.group(GROUP).unwrap();
    assert_eq!(headers(&read_all(&group, Offset(0))).len(), 100);
    for index in [0, 30, 55, 80, 99] {
        assert_eq!(group.read_entries(index..index + 1, 1).unwrap()[0].header.index.0, index);
        assert_eq!(
            group.offset_for_time(1_000_000 + index as i64).unwrap(),
            Some(Offset(index * 2))
        );
    }
}

#[test]
fn a_damaged_checkpoint_is_put_aside_and_the_older_one_serves() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, small_segments()).unwrap();
    fill(&group, 1, 50, 1000);
    store.checkpoint_now();
    fill(&group, 1, 50, 1000);
    store.checkpoint_now();
    drop((store, group));
    let newest = files(directory.path(), "checkpoint", ".checkpoint").pop().unwrap();
    flip(&newest, 4096 + 30);
    let store = open(directory.path());
    assert_eq!(entries(&store.group(GROUP).unwrap(), 0).len(), 100);
    let aside = files(directory.path(), "checkpoint", ".quarantine");
    assert_eq!(aside.len(), 1);
    assert!(!newest.exists());
    store.checkpoint_now();
    store.close();
    assert_eq!(files(directory.path(), "checkpoint", ".quarantine").len(), 1, "never deleted");
}

#[test]
fn without_any_checkpoint_nothing_is_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, small_segments()).unwrap();
    // So much that the journal no longer reaches back to the beginning.
    for _ in 0..8 {
        fill(&group, 1, 500, 1000);
    }
    store.close();
    drop((store, group));
    let segments = files(directory.path(), "segments", ".segment").len();
    for checkpoint in files(directory.path(), "checkpoint", ".checkpoint") {
        flip(&checkpoint, 4100);
    }
    let error = try_open(directory.path(), small_config(), Driver::Manual).unwrap_err();
    assert!(error.to_string().contains(".quarantine"), "{error}");
    assert_eq!(files(directory.path(), "segments", ".segment").len(), segments);
}

#[test]
fn a_directory_of_a_newer_release_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    closed_store(directory.path());
    let meta = directory.path().join("plimsoll.meta");
    let mut bytes = fs::read(&meta).unwrap();
    bytes[8] = 9;
    fs::write(&meta, &bytes).unwrap();
    let error = try_open(directory.path(), small_config(), Driver::Manual).unwrap_err().to_string();
    assert!(error.contains("format version 9") && error.contains("newer"), "{error}");
    bytes[8] = 1;
    bytes[20] ^= 1;
    fs::write(&meta, &bytes).unwrap();
    assert!(matches!(
        try_open(directory.path(), small_config(), Driver::Manual),
        Err(OpenError::Identity { .. })
    ));
    fs::remove_file(&meta).unwrap();
    assert!(matches!(
        try_open(directory.path(), small_config(), Driver::Manual),
        Err(OpenError::IdentityMissing { .. })
    ));
}

#[test]
fn a_missing_segment_is_named() {
    let directory = tempfile::tempdir().unwrap();
    closed_store(directory.path());
    let segment = files(directory.path(), "segments", ".segment")[0].clone();
    fs::remove_file(&segment).unwrap();
    let store = open(directory.path());
    let group = store.group(GROUP).unwrap();
    let error = group.read_entries(0..1, 1).unwrap_err().to_string();
    assert!(error.contains("missing") && error.contains("-0000000000000000.segment"), "{error}");
    assert!(group.is_quarantined().is_some());
}
