use std::io::ErrorKind;

use proptest::prelude::*;

use super::super::AlignedBuffer;
use super::super::real::{OpenOptions, RealDisk};
use super::pages::SECTOR;
use super::*;

fn synced(disk: &SimDisk, path: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.create(path, Mode::Buffered).unwrap();
    file.write_at(0, &[bytes]).unwrap();
    file.sync().unwrap();
    disk.sync_dir(parent(path)).unwrap();
    file
}

fn blocks(count: usize, byte: u8) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::new(count * 4096);
    buffer.as_mut_slice().fill(byte);
    buffer
}

fn plan(data: SurvivingData) -> CrashPlan {
    CrashPlan { data, ..CrashPlan::NOTHING }
}

#[test]
fn unsynced_write_is_lost_and_synced_one_stays() {
    let disk = SimDisk::new(1);
    let file = synced(&disk, "a", b"kept....");
    file.write_at(4, &[b"lost"]).unwrap();
    assert_eq!(disk.content("a").unwrap(), "keptlost");
    assert_eq!(disk.crash(&CrashPlan::NOTHING).content("a").unwrap(), "kept....");
    assert_eq!(disk.crash(&CrashPlan::EVERYTHING).content("a").unwrap(), "keptlost");
    file.sync().unwrap();
    assert_eq!(disk.crash(&CrashPlan::NOTHING).content("a").unwrap(), "keptlost");
}

#[test]
fn direct_write_is_durable_when_it_returns() {
    let disk = SimDisk::new(1);
    let file = disk.create("a", Mode::Direct).unwrap();
    disk.sync_dir("").unwrap();
    file.write_at(4096, &[blocks(1, 7).as_slice()]).unwrap();
    let after = disk.crash(&CrashPlan::NOTHING).content("a").unwrap();
    assert_eq!(after.len(), 8192);
    assert!(after[..4096].iter().all(|&byte| byte == 0) && after[4096..].iter().all(|&b| b == 7));
}

#[test]
fn direct_access_refuses_what_is_not_aligned() {
    let disk = SimDisk::new(1);
    let file = disk.create("a", Mode::Direct).unwrap();
    let block = blocks(1, 1);
    for (offset, part) in [(512, block.as_slice()), (0, &block.as_slice()[..512])] {
        let error = file.write_at(offset, &[part]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}

#[test]
fn file_without_synced_name_is_gone() {
    let disk = SimDisk::new(1);
    let file = disk.create("a", Mode::Buffered).unwrap();
    file.write_at(0, &[b"x"]).unwrap();
    file.sync().unwrap();
    assert!(disk.crash(&CrashPlan::NOTHING).files().is_empty());
    disk.sync_dir("").unwrap();
    assert_eq!(disk.crash(&CrashPlan::NOTHING).files(), [("a".to_owned(), 1)]);
}

#[test]
fn directory_without_synced_name_takes_its_files_along() {
    let disk = SimDisk::new(1);
    disk.create_dir_all("x/y").unwrap();
    synced(&disk, "x/y/a", b"1");
    disk.sync_dir("x").unwrap();
    assert!(disk.crash(&CrashPlan::NOTHING).files().is_empty());
    disk.sync_dir("").unwrap();
    assert_eq!(disk.crash(&CrashPlan::NOTHING).files(), [("x/y/a".to_owned(), 1)]);
}

#[test]
fn rename_is_whole_or_absent() {
    let disk = SimDisk::new(1);
    synced(&disk, "a", b"old");
    synced(&disk, "a.tmp", b"new");
    disk.rename("a.tmp", "a").unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let names = SurvivingNames::Subset(seed);
        let after = disk.crash(&CrashPlan { names, ..CrashPlan::NOTHING });
        seen.insert((after.files().len(), after.content("a").unwrap()));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(1, "new".into()), (2, "old".into())]);
    disk.sync_dir("").unwrap();
    assert_eq!(disk.crash(&CrashPlan::NOTHING).content("a").unwrap(), "new");
}

#[test]
fn removed_name_may_come_back_until_the_directory_is_synced() {
    let disk = SimDisk::new(1);
    let file = synced(&disk, "a", b"x");
    disk.remove("a").unwrap();
    assert!(!disk.exists("a").unwrap());
    let mut read = [0];
    file.read_at(0, &mut read).unwrap();
    assert_eq!(&read, b"x", "an open file stays readable");
    drop(file);
    assert_eq!(disk.crash(&CrashPlan::NOTHING).content("a").unwrap(), "x");
    disk.sync_dir("").unwrap();
    assert!(disk.crash(&CrashPlan::NOTHING).files().is_empty());
}

#[test]
fn allocated_length_survives_by_itself_or_not() {
    let disk = SimDisk::new(1);
    let file = synced(&disk, "a", b"x");
    file.allocate(10_000).unwrap();
    assert_eq!(disk.crash(&CrashPlan::NOTHING).files()[0].1, 1);
    let names = SurvivingNames::Everything;
    let after = disk.crash(&CrashPlan { names, ..CrashPlan::NOTHING });
    assert_eq!(after.files()[0].1, 10_000);
    file.sync().unwrap();
    assert_eq!(disk.crash(&CrashPlan::NOTHING).files()[0].1, 10_000);
}

#[test]
fn one_pending_write_can_survive_or_be_lost_alone() {
    let disk = SimDisk::new(1);
    let file = synced(&disk, "a", &[0; 2048]);
    for number in 0..4_u8 {
        file.write_at(u64::from(number) * 512, &[&[number + 1; 512]]).unwrap();
    }
    let sectors = |data| {
        let content = disk.crash(&plan(data)).content("a").unwrap();
        content.chunks(SECTOR).map(|sector| sector[5]).collect::<Vec<_>>()
    };
    assert_eq!(sectors(SurvivingData::Only(2)), [0, 0, 3, 0]);
    assert_eq!(sectors(SurvivingData::AllBut(2)), [1, 2, 0, 4]);
    assert_eq!(sectors(SurvivingData::First(2)), [1, 2, 0, 0]);
    assert_eq!(sectors(SurvivingData::First(9)), [1, 2, 3, 4]);
    let replayed: std::collections::BTreeSet<_> =
        (0..200).map(|seed| sectors(SurvivingData::Sectors(seed))).collect();
    assert_eq!(replayed.len(), 16, "every subset comes about");
    let pages = (0..50).map(|seed| sectors(SurvivingData::Pages(seed)));
    assert!(pages.into_iter().any(|page| page == [1, 2, 0, 0]), "a page's older version");
}

#[test]
fn failed_sync_that_heals_has_lost_the_bytes() {
    let disk = SimDisk::new(1);
    let file = synced(&disk, "a", b"old");
    disk.inject(Fault::new(Operation::Sync, 1, Effect::Eio).once());
    file.write_at(0, &[b"new"]).unwrap();
    assert!(file.sync().is_err());
    file.sync().unwrap();
    assert_eq!(disk.content("a").unwrap(), "new", "still in the cache");
    assert_eq!(disk.crash(&CrashPlan::EVERYTHING).content("a").unwrap(), "old");
    disk.drop_cache();
    assert_eq!(disk.content("a").unwrap(), "old");
}

#[test]
fn failed_direct_write_leaves_a_part_of_its_sectors() {
    let disk = SimDisk::new(3);
    let file = disk.create("a", Mode::Direct).unwrap();
    file.write_at(0, &[blocks(4, 1).as_slice()]).unwrap();
    disk.inject(Fault::new(Operation::Write, 1, Effect::Eio).once());
    assert!(file.write_at(0, &[blocks(4, 2).as_slice()]).is_err());
    let content = disk.content("a").unwrap();
    let new = content.chunks(SECTOR).filter(|sector| sector[0] == 2).count();
    assert!(content.chunks(SECTOR).all(|sector| sector.iter().all(|&byte| byte == sector[0])));
    assert!((1..32).contains(&new), "{new} sectors");
    file.write_at(0, &[blocks(4, 3).as_slice()]).unwrap();
}

#[test]
fn faults_hit_the_nth_call_on_their_path() {
    let disk = SimDisk::new(1);
    let (a, b) =
        (disk.create("a", Mode::Buffered).unwrap(), disk.create("b", Mode::Buffered).unwrap());
    disk.inject(Fault::new(Operation::Write, 2, Effect::Enospc).on("a").once());
    let mut failed = Vec::new();
    for number in 0..4 {
        b.write_at(0, &[b"x"]).unwrap();
        if let Err(error) = a.write_at(0, &[b"x"]) {
            assert_eq!(error.kind(), ErrorKind::StorageFull);
            failed.push(number);
        }
    }
    assert_eq!(failed, [1]);
    disk.inject(Fault::new(Operation::Write, 1, Effect::Eio));
    assert!(a.write_at(0, &[b"x"]).is_err() && b.write_at(0, &[b"x"]).is_err());
    disk.heal();
    a.write_at(0, &[b"x"]).unwrap();
    disk.inject(Fault::new(Operation::Sync, 1, Effect::Slow(Duration::from_millis(500))));
    a.sync().unwrap();
    b.sync().unwrap();
    assert_eq!(disk.slow_time(), Duration::from_secs(1));
}

#[test]
fn full_disk_refuses_and_recovers() {
    let disk = SimDisk::new(1);
    disk.set_capacity(64 << 10);
    let a = disk.create("a", Mode::Buffered).unwrap();
    a.allocate(40 << 10).unwrap();
    let b = disk.create("b", Mode::Buffered).unwrap();
    assert_eq!(b.allocate(32 << 10).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(b.len().unwrap(), 0);
    a.write_at(0, &[&[1; 40 << 10]]).unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 24 << 10);
    let error = a.write_at(40 << 10, &[&[1; 32 << 10]]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    disk.remove("a").unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 24 << 10, "still open");
    drop(a);
    assert_eq!(disk.free_bytes().unwrap(), 64 << 10);
    b.allocate(64 << 10).unwrap();
    disk.set_capacity(1 << 10);
    assert_eq!(disk.create("c", Mode::Buffered).unwrap_err().kind(), ErrorKind::StorageFull);
}

#[test]
fn unreadable_place_fails_reads_and_populate() {
    let disk = SimDisk::new(1);
    let file = synced(&disk, "a", &[1; 10_000]);
    let map = file.map(10_000).unwrap();
    disk.make_unreadable("a", 5000..5001).unwrap();
    file.read_at(0, &mut [0; 5000]).unwrap();
    assert!(file.read_at(4999, &mut [0; 2]).is_err());
    map.populate(0..4096).unwrap();
    assert!(map.populate(4096..8192).is_err());
    disk.heal();
    map.populate(4096..8192).unwrap();
}

#[test]
fn slices_of_pages_that_nobody_brought_in_are_counted() {
    let disk = SimDisk::new(1);
    synced(&disk, "a", &[1; 10_000]);
    let disk = disk.crash(&CrashPlan::NOTHING);
    let file = disk.open("a", Mode::Buffered).unwrap();
    let map = file.map(10_000).unwrap();
    map.populate(0..4096).unwrap();
    file.write_at(8192, &[b"x"]).unwrap();
    assert_eq!(Arc::clone(&map).slice(0..4096).len(), 4096);
    assert_eq!(map.slice(0..10_000)[8192], b'x');
    assert_eq!(disk.stats().cold_touches, 1);
}

#[test]
fn flipped_bit_is_on_the_medium_and_in_the_cache() {
    let disk = SimDisk::new(1);
    synced(&disk, "a", &[0; 100]);
    disk.flip_bit("a", 83).unwrap();
    for disk in [disk.clone(), disk.crash(&CrashPlan::NOTHING)] {
        assert_eq!(disk.content("a").unwrap()[10], 8);
    }
    assert!(disk.flip_bit("a", 800).is_err() && disk.flip_bit("b", 0).is_err());
}

#[test]
fn direct_write_without_direct_access_is_a_write_and_a_sync() {
    let disk = SimDisk::new(1).without_direct_access();
    let file = disk.create("a", Mode::Direct).unwrap();
    disk.sync_dir("").unwrap();
    file.write_at(0, &[blocks(1, 1).as_slice()]).unwrap();
    assert_eq!(disk.crash(&CrashPlan::NOTHING).content("a").unwrap()[0], 1);
    assert_eq!(disk.calls(Operation::Sync), 1);
    disk.inject(Fault::new(Operation::Sync, 1, Effect::Eio).once());
    assert!(file.write_at(0, &[blocks(1, 2).as_slice()]).is_err());
    assert_eq!(disk.kill_process().content("a").unwrap()[0], 2, "the cache shows it");
    assert_eq!(disk.crash(&CrashPlan::EVERYTHING).content("a").unwrap()[0], 1, "and it is lost");
}

#[test]
fn killed_process_loses_nothing_until_the_power_fails() {
    let disk = SimDisk::new(1);
    let file = synced(&disk, "a", b"old");
    file.write_at(0, &[b"new"]).unwrap();
    let next = disk.kill_process();
    disk.power_off();
    assert!(file.sync().is_err());
    assert_eq!(next.content("a").unwrap(), "new");
    assert_eq!(next.crash(&CrashPlan::NOTHING).content("a").unwrap(), "old");
}

#[test]
fn direct_write_under_way_is_torn_at_sectors() {
    let disk = SimDisk::new(1);
    let file = disk.create("a", Mode::Direct).unwrap();
    file.write_at(0, &[blocks(1, 1).as_slice()]).unwrap();
    disk.sync_dir("").unwrap();
    let recording = disk.record();
    file.write_at(0, &[blocks(1, 2).as_slice()]).unwrap();
    let record = recording.finish();
    let image = |in_flight| {
        let content =
            record.image(0, &CrashPlan { in_flight, ..CrashPlan::NOTHING }).content("a").unwrap();
        content.chunks(SECTOR).map(|sector| sector[511]).collect::<Vec<_>>()
    };
    assert_eq!(image(InFlight::Nothing), [1; 8]);
    assert_eq!(image(InFlight::Head(3)), [2, 2, 2, 1, 1, 1, 1, 1]);
    assert_eq!(image(InFlight::Tail(3)), [1, 1, 1, 2, 2, 2, 2, 2]);
    let some = image(InFlight::Sectors(5));
    assert!(some.contains(&1) && some.contains(&2));
}

#[test]
fn marks_keep_their_place_among_the_operations() {
    let disk = SimDisk::new(1);
    let recording = disk.record();
    let file = disk.create("a", Mode::Buffered).unwrap();
    disk.mark(7);
    file.write_at(0, &[b"x"]).unwrap();
    assert_eq!(recording.position(), 3);
    disk.mark(8);
    let record = recording.finish();
    assert_eq!(record.marks().collect::<Vec<_>>(), [(2, 7), (4, 8)]);
    let texts: Vec<String> = record.ops().iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        ["create a as file 0", "mark 7", "write of 1 bytes at 0 of file 0", "mark 8"]
    );
}

/// A step of a random workload on a few files.
#[derive(Debug, Clone)]
enum Step {
    Create(u8, bool),
    Write(u8, u64, Vec<u8>),
    Allocate(u8, u64),
    Sync(u8),
    SyncDir,
    Rename(u8, u8),
    Remove(u8),
    Read(u8, u64, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = || 0_u8..4;
    let step = prop_oneof![
        (name(), any::<bool>()).prop_map(|(name, direct)| Step::Create(name, direct)),
        (name(), 0_u64..6000, prop::collection::vec(any::<u8>(), 0..3000))
            .prop_map(|(name, offset, bytes)| Step::Write(name, offset, bytes)),
        (name(), 0_u64..12_000).prop_map(|(name, bytes)| Step::Allocate(name, bytes)),
        name().prop_map(Step::Sync),
        Just(Step::SyncDir),
        (name(), name()).prop_map(|(from, to)| Step::Rename(from, to)),
        name().prop_map(Step::Remove),
        (name(), 0_u64..6000, 0_usize..3000)
            .prop_map(|(name, at, bytes)| Step::Read(name, at, bytes)),
    ];
    prop::collection::vec(step, 1..30)
}

/// Carries a step out and says what a process sees of it.
fn carry_out(disk: &dyn Disk, step: &Step) -> Result<Vec<u8>, ErrorKind> {
    let path = |name: &u8| format!("f{name}");
    let done = match step {
        Step::Create(name, direct) => {
            let mode = if *direct { Mode::Direct } else { Mode::Buffered };
            disk.create(&path(name), mode).map(|_| Vec::new())
        }
        Step::Write(name, offset, bytes) => {
            let (one, two) = bytes.split_at(bytes.len() / 3);
            disk.open(&path(name), Mode::Buffered)
                .and_then(|file| file.write_at(*offset, &[one, two]).map(|()| Vec::new()))
        }
        Step::Allocate(name, bytes) => disk.open(&path(name), Mode::Buffered).and_then(|file| {
            file.allocate(*bytes)?;
            Ok(file.len()?.to_le_bytes().to_vec())
        }),
        Step::Sync(name) => {
            disk.open(&path(name), Mode::Buffered).and_then(|file| file.sync().map(|()| Vec::new()))
        }
        Step::SyncDir => disk.sync_dir("").map(|()| Vec::new()),
        Step::Rename(from, to) => disk.rename(&path(from), &path(to)).map(|()| Vec::new()),
        Step::Remove(name) => disk.remove(&path(name)).map(|()| Vec::new()),
        Step::Read(name, offset, bytes) => {
            disk.open(&path(name), Mode::Buffered).and_then(|file| {
                let mut buffer = vec![0; *bytes];
                file.read_at(*offset, &mut buffer).map(|()| buffer)
            })
        }
    };
    done.map_err(|error| error.kind())
}

fn names_of(disk: &dyn Disk) -> Vec<String> {
    let mut names = disk.list("").unwrap();
    names.retain(|name| name != "LOCK");
    names
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn real_and_simulated_disk_answer_alike(steps in steps()) {
        let directory = tempfile::tempdir().unwrap();
        let real = RealDisk::open(directory.path(), OpenOptions::default()).unwrap();
        let sim = SimDisk::new(0);
        for step in &steps {
            prop_assert_eq!(carry_out(&real, step), carry_out(&sim, step), "{:?}", step);
        }
        prop_assert_eq!(names_of(&real), names_of(&sim));
    }

    #[test]
    fn replayed_operations_give_the_same_disk(steps in steps(), seed in any::<u64>()) {
        let sim = SimDisk::new(0);
        let recording = sim.record();
        let mut positions = Vec::new();
        for step in &steps {
            let _ = carry_out(&sim, step);
            positions.push((recording.position(), sim.kill_process()));
        }
        let record = recording.finish();
        let mut replay = record.replay();
        for (position, then) in positions {
            while replay.position() < position {
                replay.advance();
            }
            prop_assert!(replay.image_after_kill().same_content(&then));
            let plan = CrashPlan { in_flight: InFlight::Nothing, ..CrashPlan::random(seed) };
            prop_assert!(replay.image(&plan).same_content(&then.crash(&plan)));
        }
    }

    /// The naive twin of the crash: every version that each sector ever had since the last sync.
    #[test]
    fn each_sector_holds_one_of_its_versions(
        writes in prop::collection::vec(
            (0_u64..6000, 1_usize..3000, any::<bool>()), 1..12),
        seed in any::<u64>(),
    ) {
        let sim = SimDisk::new(0);
        let file = synced(&sim, "a", &[0xee; 9000]);
        let mut now = vec![0xee; 9000];
        let mut versions = vec![now.clone()];
        for (number, (offset, length, sync)) in writes.iter().enumerate() {
            let byte = number as u8 + 1;
            file.write_at(*offset, &[&vec![byte; *length]]).unwrap();
            now[*offset as usize..*offset as usize + *length].fill(byte);
            versions.push(now.clone());
            if *sync {
                file.sync().unwrap();
                versions = vec![now.clone()];
            }
        }
        let after = sim.crash(&CrashPlan { in_flight: InFlight::Nothing, ..CrashPlan::random(seed) });
        let after = after.content("a").unwrap();
        prop_assert_eq!(after.len(), 9000);
        for start in (0..9000).step_by(SECTOR) {
            let sector = start..(start + SECTOR).min(9000);
            prop_assert!(
                versions.iter().any(|version| version[sector.clone()] == after[sector.clone()]),
                "sector at {}", start
            );
        }
    }
}
