use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::super::{AlignedBuffer, BLOCK_BYTES, Mapping as _};
use super::*;

fn disk() -> (TempDir, RealDisk) {
    let directory = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(directory.path(), OpenOptions::default()).unwrap();
    (directory, disk)
}

fn block(byte: u8) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::new(BLOCK_BYTES);
    buffer.as_mut_slice().fill(byte);
    buffer
}

#[test]
fn written_parts_are_read_back_in_order() {
    let (_directory, disk) = disk();
    let file = disk.create("a", Mode::Buffered).unwrap();
    // More parts than one system call takes, some of them empty.
    let parts: Vec<Vec<u8>> = (0..2500).map(|n: usize| vec![n as u8; n % 7]).collect();
    let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    file.write_at(3, &slices).unwrap();
    let all = parts.concat();
    assert_eq!(file.len().unwrap(), 3 + all.len() as u64);
    let mut read = vec![0xff; all.len() + 3];
    disk.open("a", Mode::Buffered).unwrap().read_at(0, &mut read).unwrap();
    assert_eq!(read[..3], [0, 0, 0]);
    assert_eq!(read[3..], all);
}

#[test]
fn write_of_nothing_changes_nothing() {
    let (_directory, disk) = disk();
    let file = disk.create("a", Mode::Buffered).unwrap();
    file.write_at(10, &[]).unwrap();
    file.write_at(10, &[&[]]).unwrap();
    file.write_at(10, &[&[], &[]]).unwrap();
    assert!(file.is_empty().unwrap());
}

#[test]
fn read_past_the_end_is_an_error() {
    let (_directory, disk) = disk();
    let file = disk.create("a", Mode::Buffered).unwrap();
    file.write_at(0, &[b"abc"]).unwrap();
    let error = file.read_at(1, &mut [0; 3]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    let file = disk.create("b", Mode::Direct).unwrap();
    file.write_at(0, &[block(1).as_slice()]).unwrap();
    let mut buffer = AlignedBuffer::new(2 * BLOCK_BYTES);
    let error = file.read_at(0, buffer.as_mut_slice()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
}

/// With and without direct access, which the machine's file systems decide.
fn check_direct_writes(disk: &RealDisk) {
    let file = disk.create("a", Mode::Direct).unwrap();
    file.allocate(4 * BLOCK_BYTES as u64).unwrap();
    let (one, two) = (block(1), block(2));
    file.write_at(BLOCK_BYTES as u64, &[one.as_slice(), two.as_slice()]).unwrap();
    let mut read = AlignedBuffer::new(4 * BLOCK_BYTES);
    file.read_at(0, read.as_mut_slice()).unwrap();
    let bytes: Vec<u8> = read.as_slice().chunks(BLOCK_BYTES).map(|block| block[17]).collect();
    assert_eq!(bytes, [0, 1, 2, 0]);
    for (offset, part) in [(1, one.as_slice()), (0, &one.as_slice()[..512])] {
        let error = file.write_at(offset, &[part]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    let error = file.read_at(512, read.as_mut_slice()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    file.sync().unwrap();
}

#[test]
fn direct_writes_take_whole_blocks() {
    let (_directory, disk) = disk();
    check_direct_writes(&disk);
}

#[test]
fn direct_writes_work_without_direct_access() {
    let directory = tempfile::tempdir().unwrap();
    let options = OpenOptions { direct_access: false, ..OpenOptions::default() };
    let disk = RealDisk::open(directory.path(), options).unwrap();
    assert!(!disk.has_direct_access());
    check_direct_writes(&disk);
}

#[test]
fn file_system_in_memory_is_usable() {
    let Ok(directory) = tempfile::tempdir_in("/dev/shm") else {
        println!("not run: no /dev/shm here");
        return;
    };
    let disk = RealDisk::open(directory.path(), OpenOptions::default()).unwrap();
    check_direct_writes(&disk);
    assert_eq!(disk.list("").unwrap(), ["LOCK", "a"], "the probe leaves nothing behind");
}

#[test]
fn allocated_space_reads_as_zero_and_never_shrinks() {
    let (_directory, disk) = disk();
    let file = disk.create("a", Mode::Buffered).unwrap();
    file.write_at(0, &[b"abc"]).unwrap();
    file.allocate(10_000).unwrap();
    file.allocate(5).unwrap();
    file.allocate(0).unwrap();
    assert_eq!(file.len().unwrap(), 10_000);
    let mut read = vec![0xff; 10_000];
    file.read_at(0, &mut read).unwrap();
    assert_eq!(&read[..4], b"abc\0");
    assert!(read[4..].iter().all(|&byte| byte == 0));
}

#[test]
fn space_is_taken_where_it_cannot_be_reserved() {
    let (directory, _disk) = disk();
    let std = fs::File::create_new(directory.path().join("a")).unwrap();
    let file = RealFile::new(std.into(), Mode::Buffered, false);
    file.write_at(0, &[b"abc"]).unwrap();
    file.allocate_by_writing(3 << 20).unwrap();
    file.allocate_by_writing(1 << 20).unwrap();
    assert_eq!(file.len().unwrap(), 3 << 20);
    use std::os::unix::fs::MetadataExt;
    let taken = fs::metadata(directory.path().join("a")).unwrap().blocks() * 512;
    assert!(taken >= 3 << 20, "{taken} bytes taken");
}

#[test]
fn name_is_created_once() {
    let (_directory, disk) = disk();
    disk.create("a", Mode::Buffered).unwrap();
    let error = disk.create("a", Mode::Buffered).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(disk.open("b", Mode::Buffered).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(disk.remove("b").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn names_are_listed_renamed_and_removed() {
    let (_directory, disk) = disk();
    disk.create_dir_all("x/y").unwrap();
    disk.create_dir_all("x/y").unwrap();
    disk.create("x/y/b.tmp", Mode::Buffered).unwrap().write_at(0, &[b"b"]).unwrap();
    disk.create("x/y/a", Mode::Buffered).unwrap();
    disk.rename("x/y/b.tmp", "x/y/a").unwrap();
    disk.sync_dir("x/y").unwrap();
    disk.sync_dir("").unwrap();
    assert_eq!(disk.list("x/y").unwrap(), ["a"]);
    assert_eq!(disk.list("x").unwrap(), ["y"]);
    assert_eq!(disk.list("").unwrap(), ["LOCK", "x"]);
    assert!(disk.exists("x/y/a").unwrap() && !disk.exists("x/y/b.tmp").unwrap());
    assert!(!disk.exists("x/y/a/z").unwrap());
    assert_eq!(disk.open("x/y/a", Mode::Buffered).unwrap().len().unwrap(), 1);
    disk.remove("x/y/a").unwrap();
    assert!(disk.list("x/y").unwrap().is_empty());
    assert_eq!(disk.list("z").unwrap_err().kind(), ErrorKind::NotFound);
    assert!(disk.free_bytes().unwrap() > 0);
}

#[test]
fn path_out_of_the_directory_is_refused() {
    let (_directory, disk) = disk();
    for path in ["../a", "x/../../a", "/tmp/a", "a\0b"] {
        let error = disk.create(path, Mode::Buffered).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{path:?}");
        assert_eq!(disk.exists(path).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}

#[test]
fn map_shows_later_writes_and_outlives_file_and_disk() {
    let (directory, disk) = disk();
    let file = disk.create("a", Mode::Buffered).unwrap();
    file.allocate(100_000).unwrap();
    let map = file.map(90_000).unwrap();
    assert_eq!(map.len(), 90_000);
    file.write_at(50_000, &[b"hello"]).unwrap();
    map.populate(0..90_000).unwrap();
    map.populate(7..7).unwrap();
    let slice = map.slice(50_000..50_005);
    disk.remove("a").unwrap();
    drop((file, disk, directory));
    assert_eq!(&slice[..], b"hello");
}

#[test]
fn map_of_an_empty_file_has_no_bytes() {
    let (_directory, disk) = disk();
    let map = disk.create("a", Mode::Buffered).unwrap().map(0).unwrap();
    assert!(map.is_empty() && map.slice(0..0).is_empty());
}

#[test]
fn map_past_the_end_is_refused() {
    let (_directory, disk) = disk();
    let file = disk.create("a", Mode::Buffered).unwrap();
    file.allocate(4096).unwrap();
    assert_eq!(file.map(4097).unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn populate_works_on_kernels_that_cannot() {
    let (directory, _disk) = disk();
    fs::write(directory.path().join("a"), vec![7; 700_000]).unwrap();
    let file = Arc::new(fs::File::open(directory.path().join("a")).unwrap());
    let map = map::RealMapping::new(Arc::clone(&file), 700_000).unwrap();
    map.read_through_file(1..700_000).unwrap();
    assert!(Arc::new(map).slice(699_000..700_000).iter().all(|&byte| byte == 7));
}

#[test]
fn second_owner_is_refused_with_the_first_ones_process_id() {
    let (directory, disk) = disk();
    let refused = RealDisk::open(directory.path(), OpenOptions::default()).unwrap_err();
    let OpenDiskError::Locked(locked) = &refused else { panic!("{refused:?}") };
    assert_eq!(locked.pid, Some(std::process::id()));
    let text = refused.to_string();
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    assert!(text.contains("stop that process"), "{text}");
    drop(disk);
    RealDisk::open(directory.path(), OpenOptions::default()).unwrap();
}

#[test]
fn read_only_disk_needs_no_lock_and_changes_nothing() {
    let (directory, owner) = disk();
    owner.create("a", Mode::Direct).unwrap().write_at(0, &[block(9).as_slice()]).unwrap();
    let disk = RealDisk::open(directory.path(), OpenOptions::read_only()).unwrap();
    let mut read = AlignedBuffer::new(BLOCK_BYTES);
    let file = disk.open("a", Mode::Direct).unwrap();
    file.read_at(0, read.as_mut_slice()).unwrap();
    assert_eq!(read.as_slice()[0], 9);
    assert!(file.write_at(0, &[read.as_slice()]).is_err());
    for refused in [
        disk.create("b", Mode::Buffered).map(drop),
        disk.rename("a", "b"),
        disk.remove("a"),
        disk.create_dir_all("x"),
        disk.sync_dir(""),
    ] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    }
    assert_eq!(owner.list("").unwrap(), ["LOCK", "a"]);
}

#[test]
fn read_only_disk_leaves_an_unlocked_directory_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(directory.path(), OpenOptions::read_only()).unwrap();
    assert!(disk.list("").unwrap().is_empty());
    let missing = directory.path().join("missing");
    let error = RealDisk::open(&missing, OpenOptions::read_only()).unwrap_err();
    assert!(matches!(error, OpenDiskError::Missing { .. }), "{error:?}");
    assert!(!missing.exists());
}

#[test]
fn directory_and_its_parents_are_made() {
    let directory = tempfile::tempdir().unwrap();
    let deep = directory.path().join("x/y/z");
    let disk = RealDisk::open(&deep, OpenOptions::default()).unwrap();
    assert_eq!(disk.path(), deep);
    assert_eq!(disk.list("").unwrap(), ["LOCK"]);
}

#[test]
fn file_in_place_of_the_directory_is_refused_with_a_reason() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, b"").unwrap();
    for path in [path.clone(), path.join("below")] {
        let error = RealDisk::open(&path, OpenOptions::default()).unwrap_err();
        assert!(matches!(error, OpenDiskError::Create { .. }), "{error:?}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
}

const SIGBUS_CHILD: &str = "PLIMSOLL_TEST_SIGBUS_CHILD";

/// Not a test by itself: the process that the next test starts and that dies.
#[test]
fn sigbus_child() {
    let Some(root) = std::env::var_os(SIGBUS_CHILD) else { return };
    install_sigbus_handler().unwrap();
    let disk = RealDisk::open(&root, OpenOptions::default()).unwrap();
    let file = disk.create("a", Mode::Buffered).unwrap();
    file.allocate(8192).unwrap();
    let slice = file.map(8192).unwrap().slice(0..8192);
    // Against rule 3, as somebody from outside might.
    fs::File::options().write(true).open(Path::new(&root).join("a")).unwrap().set_len(0).unwrap();
    panic!("read {} where a page is missing", slice[5000]);
}

#[test]
fn sigbus_prints_one_line_and_aborts() {
    let directory = tempfile::tempdir().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "disk::real::tests::sigbus_child", "--nocapture"])
        .env(SIGBUS_CHILD, directory.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&child.stderr);
    assert_eq!(child.status.signal(), Some(libc::SIGABRT), "{child:?}");
    assert!(stderr.contains("SIGBUS: a mapped page could not be read at address 0x"), "{stderr}");
}

#[test]
fn boot_id_is_read_and_stays_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(directory.path(), OpenOptions::default()).unwrap();
    assert_eq!(disk.boot_id().unwrap(), disk.boot_id().unwrap());
    let text = "6d1b1e60-3c5c-4d43-9d0e-0f6ad5a8a001\n";
    assert_eq!(parse_boot_id(text).unwrap()[..4], [0x6d, 0x1b, 0x1e, 0x60]);
    assert_eq!(parse_boot_id("6d1b1e60\n"), None);
    assert_eq!(parse_boot_id("no uuid at all, of a length that is"), None);
}
