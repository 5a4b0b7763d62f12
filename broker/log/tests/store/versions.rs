//! A directory of an earlier format version is read, and goes on in version 3.

use std::fs;
use std::path::Path;

use plimsoll_log::Driver;
use plimsoll_log::FORMAT_VERSION;

use crate::support::*;

/// Writes an earlier version into the header of every file.
fn make_old(directory: &Path, version: u32) -> usize {
    let mut changed = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            changed += make_old(&path, version);
            continue;
        }
        let mut bytes = fs::read(&path).unwrap();
        if !bytes.starts_with(b"PLM") {
            continue;
        }
        let length = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..length]);
        bytes[length..length + 4].copy_from_slice(&crc.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        changed += 1;
    }
    changed
}

#[test]
fn directory_of_an_earlier_version_is_read() {
    assert_eq!(FORMAT_VERSION, 3);
    (1..FORMAT_VERSION).for_each(read_version);
}

fn read_version(version: u32) {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, small_segments()).unwrap();
    fill(&group, 1, 30, 2000);
    store.checkpoint_now();
    fill(&group, 1, 10, 500);
    let expected = entries(&group, 0);
    // Killed: the journal is replayed.
    drop((group, store));
    if version == 1 {
        fs::remove_file(directory.path().join("plimsoll.boot")).unwrap();
    }
    assert!(make_old(directory.path(), version) > 4);
    let store = try_open(directory.path(), small_config(), Driver::Threads).unwrap();
    let group = store.group(GROUP).unwrap();
    assert_same(&entries(&group, 0), &expected);
    fill(&group, 1, 5, 100);
    store.close();
    drop((group, store));
    assert_eq!(entries(&open(directory.path()).group(GROUP).unwrap(), 0).len(), 45);
}
