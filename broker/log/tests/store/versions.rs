//! A directory of format version 1 is read, and goes on in version 2.

use std::fs;
use std::path::Path;

use plimsoll_log::Driver;
use plimsoll_log::FORMAT_VERSION;

use crate::support::*;

/// Writes version 1 into the header of every file.
fn make_old(directory: &Path) -> usize {
    let mut changed = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            changed += make_old(&path);
            continue;
        }
        let mut bytes = fs::read(&path).unwrap();
        if !bytes.starts_with(b"PLM") {
            continue;
        }
        let length = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
        bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..length]);
        bytes[length..length + 4].copy_from_slice(&crc.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        changed += 1;
    }
    changed
}

#[test]
fn directory_of_version_1_is_read() {
    assert_eq!(FORMAT_VERSION, 3);
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, small_segments()).unwrap();
    fill(&group, 1, 30, 2000);
    store.checkpoint_now();
    fill(&group, 1, 10, 500);
    let expected = entries(&group, 0);
    // Killed: the journal is replayed.
    drop((group, store));
    fs::remove_file(directory.path().join("plimsoll.boot")).unwrap();
    assert!(make_old(directory.path()) > 4);
    let store = try_open(directory.path(), small_config(), Driver::Threads).unwrap();
    let group = store.group(GROUP).unwrap();
    assert_same(&entries(&group, 0), &expected);
    fill(&group, 1, 5, 100);
    store.close();
    drop((group, store));
    assert_eq!(entries(&open(directory.path()).group(GROUP).unwrap(), 0).len(), 45);
}
