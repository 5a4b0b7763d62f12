//! The journal's files: used again, bounded, and never cut where something is wrong.

use std::io::{Read, Seek, SeekFrom, Write};

use plimsoll_log::{Driver, OpenError, ReplayError, StoreConfig};
use plimsoll_protocol::ids::GroupId;

use crate::support::*;

fn journal_files(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(directory.join("journal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    found.sort();
    found
}

#[test]
fn files_are_used_again_and_stay_within_the_limit() {
    let directory = tempfile::tempdir().unwrap();
    let store = try_open(directory.path(), journaling_config(), Driver::Threads).unwrap();
    let group = store.create_group(GROUP, small_segments()).unwrap();
    for _ in 0..12 {
        fill(&group, 1, 500, 1000);
    }
    let stats = store.stats();
    let limit = journaling_config().journal_bytes_max;
    assert!(stats.journaled_bytes > 2 * limit, "{stats:?}");
    assert!(stats.journal_file_bytes <= limit, "{stats:?}");
    drop((store, group));
    let store = open(directory.path());
    assert_eq!(entries(&store.group(GROUP).unwrap(), 0).len(), 6000);
}

#[test]
fn many_appends_share_a_block() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let groups: Vec<_> =
        (0..20).map(|id| store.create_group(GroupId(id), small_segments()).unwrap()).collect();
    for index in 0..50 {
        for group in &groups {
            group.append(vec![records(1, index, 1, 50)], nobody()).unwrap();
        }
    }
    for group in &groups {
        append(group, vec![]);
    }
    assert!(store.stats().blocks < 500, "1000 appends took {} blocks", store.stats().blocks);
}

#[test]
fn entries_larger_than_a_block_and_appends_larger_than_a_file_are_written() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, small_segments()).unwrap();
    // A block gathers 64 KiB here, a file has 256 KiB.
    append(&group, vec![records(1, 0, 1, 200_000)]);
    append(&group, (1..31).map(|index| records(1, index, 1, 30_000)).collect());
    let refused = group.append(vec![records(1, 31, 1, 250_000)], nobody()).unwrap_err();
    assert!(refused.to_string().contains("take at most"), "{refused}");
    drop((store, group));
    let store = open(directory.path());
    let read = entries(&store.group(GROUP).unwrap(), 0);
    assert_eq!(read.len(), 31);
    assert!(read.iter().all(|entry| entry.header.check_body_crc(&entry.body)));
}

/// A store whose journal was never checkpointed, with blocks of known places.
fn written_store(directory: &std::path::Path) {
    let config = StoreConfig { checkpoint_after_bytes: 1 << 40, ..journaling_config() };
    let store = try_open(directory, config, Driver::Manual).unwrap();
    let group = store.create_group(GROUP, small_segments()).unwrap();
    for index in 0..10 {
        group.append(vec![records(1, index, 1, 3000)], nobody()).unwrap();
        while store.step() {}
    }
}

fn flip(path: &std::path::Path, at: u64) {
    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    byte[0] ^= 0x10;
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&byte).unwrap();
}

#[test]
fn damage_before_a_durable_block_ends_the_opening_and_is_named_exactly() {
    let directory = tempfile::tempdir().unwrap();
    written_store(directory.path());
    let file = journal_files(directory.path())[0].clone();
    // The third block; each takes a page behind the header's.
    flip(&file, 4096 * 3 + 100);
    let error = try_open(directory.path(), journaling_config(), Driver::Manual).unwrap_err();
    match &error {
        OpenError::Replay(ReplayError::Damaged { path, position, block, .. }) => {
            assert!(file.ends_with(path), "{path}");
            assert_eq!((*position, *block), (4096 * 3, 3));
        }
        other => panic!("{other}"),
    }
    // Nothing was changed: with the bit back, everything is there.
    flip(&file, 4096 * 3 + 100);
    let store = try_open(directory.path(), journaling_config(), Driver::Manual).unwrap();
    assert_eq!(entries(&store.group(GROUP).unwrap(), 0).len(), 10);
}

#[test]
fn a_torn_last_block_is_cut_and_what_comes_then_stays() {
    let directory = tempfile::tempdir().unwrap();
    written_store(directory.path());
    let file = journal_files(directory.path())[0].clone();
    flip(&file, 4096 * 10 + 100);
    for reopened in 0..3 {
        let store = try_open(directory.path(), journaling_config(), Driver::Manual).unwrap();
        let group = store.group(GROUP).unwrap();
        let next = 9 + reopened;
        assert_eq!(group.bounds().last, Some(log_id(1, next - 1)));
        group.append(vec![records(1, next, 1, 100)], nobody()).unwrap();
        while store.step() {}
    }
}

#[test]
fn a_missing_or_foreign_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    written_store(directory.path());
    let file = journal_files(directory.path())[0].clone();
    flip(&file, 20);
    let error =
        try_open(directory.path(), journaling_config(), Driver::Manual).unwrap_err().to_string();
    assert!(error.contains("0000000000000001.journal cannot be used"), "{error}");
}
