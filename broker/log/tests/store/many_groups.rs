//! A thousand groups: few blocks, few open files, and a reopening that opens none.

use plimsoll_log::{Driver, GroupOptions, StoreConfig};
use plimsoll_protocol::ids::GroupId;

use crate::support::*;

const GROUPS: u64 = 1000;

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn config() -> StoreConfig {
    StoreConfig {
        open_segments_max: 64,
        segment_step_bytes_min: 8192,
        journal_file_bytes: 1 << 20,
        journal_bytes_max: 8 << 20,
        checkpoint_after_bytes: 2 << 20,
        ..small_config()
    }
}

#[test]
fn a_thousand_groups_share_the_journal_and_keep_few_files_open() {
    let directory = tempfile::tempdir().unwrap();
    let store = try_open(directory.path(), config(), Driver::Threads).unwrap();
    let options = GroupOptions::default();
    let groups: Vec<_> =
        (0..GROUPS).map(|id| store.create_group(GroupId(id), options).unwrap()).collect();
    for index in 0..3 {
        for group in &groups {
            group.append(vec![records(1, index, 1, 100)], nobody()).unwrap();
        }
    }
    for group in &groups {
        append(group, vec![]);
        group.applied(log_id(1, 2));
    }
    store.checkpoint_now();
    assert!(store.stats().open_segments <= 64);
    drop((store, groups));

    let store = try_open(directory.path(), config(), Driver::Threads).unwrap();
    assert_eq!(store.groups().len() as u64, GROUPS);
    store.checkpoint_now();
    store.close();
    drop(store);
    let before = open_files();
    let store = try_open(directory.path(), config(), Driver::Manual).unwrap();
    assert_eq!(store.stats().open_segments, 0, "a group that nobody touches opens nothing");
    for id in 0..200 {
        assert_eq!(entries(&store.group(GroupId(id)).unwrap(), 0).len(), 3);
    }
    assert!(store.stats().open_segments <= 64);
    // Other tests of this process open files too; an eighth of the groups read would show.
    assert!(open_files() < before + 64 + 100, "{before} before, {} now", open_files());
}

#[test]
fn an_idle_group_takes_little_memory() {
    // What one takes beside its allocations is its own size; nothing is cached, nothing is open.
    let bytes = size_of::<plimsoll_log::GroupLog>();
    assert!(bytes <= 736, "{bytes} bytes");
}
