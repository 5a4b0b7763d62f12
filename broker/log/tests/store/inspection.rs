//! Looking at a store offline.

use std::sync::Arc;

use plimsoll_log::Driver;
use plimsoll_log::disk::Disk;
use plimsoll_log::disk::real::{OpenOptions, RealDisk};
use plimsoll_log::inspect::{InspectError, Inspector, Verdict};
use plimsoll_protocol::ids::{GroupId, Offset};

use crate::support::*;

fn inspector(directory: &std::path::Path) -> Inspector {
    let disk: Arc<dyn Disk> =
        Arc::new(RealDisk::open(directory, OpenOptions::read_only()).unwrap());
    Inspector::open(disk).unwrap()
}

/// Nothing is placed: where a placing begins a segment depends on where the journal thread happens to be,
/// and damage is looked for at exact bytes.
fn written(directory: &std::path::Path, close: bool) {
    let store = try_open(directory, journaling_config(), Driver::Threads).unwrap();
    let group = store.create_group(GROUP, small_segments()).unwrap();
    fill(&group, 1, 100, 1000);
    store.checkpoint_now();
    fill(&group, 2, 20, 1000);
    if close {
        store.close();
    }
}

#[test]
fn a_report_shows_what_an_opening_would_find() {
    for close in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        written(directory.path(), close);
        let inspector = inspector(directory.path());
        let report = inspector.report();
        let group = &report.groups[&GROUP];
        assert_eq!(group.last, Some(log_id(2, 119)));
        assert_eq!(group.log_end_offset, Offset(240));
        assert_eq!(group.replayed_entries, if close { 0 } else { 20 });
        assert_eq!(report.checkpoints[0].closed, close);
        assert!(report.damaged.is_empty(), "{:?}", report.damaged);
        assert!(report.journal.iter().any(|file| file.blocks > 0));
        let mut batches = 0;
        inspector
            .batches(GROUP, &mut |batch| {
                assert_eq!(batch.verdict, Verdict::Right);
                assert_eq!(batch.header.unwrap().index.0, batches);
                batches += 1;
            })
            .unwrap();
        assert_eq!(batches, if close { 120 } else { 100 });
        let mut blocks = Vec::new();
        inspector.blocks(&mut |block| blocks.push(block.block)).unwrap();
        assert!(blocks.windows(2).all(|pair| pair[1] > pair[0]), "{blocks:?}");
        let mut told = 0;
        let found = inspector.verify(&mut |progress| told = progress.segments).unwrap();
        assert_eq!(found.damaged, []);
        assert_eq!((found.batches, found.segments), (batches, told));
        assert!(matches!(
            inspector.batches(GroupId(99), &mut |_| {}),
            Err(InspectError::UnknownGroup(_))
        ));
    }
}

#[test]
fn every_damaged_place_is_named_exactly() {
    let directory = tempfile::tempdir().unwrap();
    written(directory.path(), true);
    let segments = directory.path().join("segments");
    let path = |segment: u64| segments.join(format!("{:016x}-{segment:016x}.segment", GROUP.0));
    let flip = |path: &std::path::Path, at: usize| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[at] ^= 4;
        std::fs::write(path, bytes).unwrap();
    };
    flip(&path(0), 4096 + 200);
    flip(&path(0), 4096 + 3 * 1096 + 1000);
    flip(&path(1), 4096 + 2 * 1096 + 20);
    flip(&path(2), 30);
    std::fs::remove_file(path(3)).unwrap();
    let found = inspector(directory.path()).verify(&mut |_| {}).unwrap();
    let places: Vec<_> =
        found.damaged.iter().map(|place| (place.path.clone(), place.position)).collect();
    let name = |segment: u64| format!("segments/{:016x}-{segment:016x}.segment", GROUP.0);
    assert_eq!(
        places,
        [
            (name(0), Some(4096)),
            (name(0), Some(4096 + 3 * 1096)),
            (name(1), Some(4096 + 2 * 1096)),
            (name(2), Some(0)),
            (name(3), Some(0)),
        ]
    );
}

#[test]
fn damage_of_the_journal_and_of_a_checkpoint_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    written(directory.path(), false);
    let newest = |kind: &str| {
        let names = std::fs::read_dir(directory.path().join(kind)).unwrap();
        names.map(|name| name.unwrap().path()).max().unwrap()
    };
    let checkpoint = newest("checkpoint");
    let mut bytes = std::fs::read(&checkpoint).unwrap();
    bytes[4200] ^= 1;
    std::fs::write(&checkpoint, bytes).unwrap();
    let report = inspector(directory.path());
    let damaged = &report.report().damaged;
    assert_eq!(damaged.len(), 1);
    assert!(checkpoint.ends_with(&damaged[0].path));
    assert!(report.report().checkpoints[0].damage.is_some());
}

#[test]
fn what_is_no_data_directory_is_said_to_be_none() {
    let directory = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> =
        Arc::new(RealDisk::open(directory.path(), OpenOptions::read_only()).unwrap());
    assert!(matches!(Inspector::open(disk), Err(InspectError::NoIdentity { .. })));
}
