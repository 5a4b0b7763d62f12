//! Cursors, cold ranges, searching by time.

use plimsoll_log::{ReadError, ReadStep};
use plimsoll_protocol::ids::{LogIndex, Offset, Term};

use crate::support::*;

#[test]
fn the_tail_is_read_from_memory_and_the_rest_from_segments() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, small_segments()).unwrap();
    fill(&group, 1, 100, 500);
    store.checkpoint_now();
    // Not applied, so in the cache.
    for index in 100..110 {
        group.append(vec![records(1, index, 2, 500)], nobody()).unwrap();
    }
    assert!(group.cached_bytes() > 0);
    let mut cursor = group.cursor(Offset(200));
    let step = group.read(&mut cursor, Offset(220), 1 << 20).unwrap();
    let ReadStep::Batches { chunks, next_offset } = step else { panic!("{step:?}") };
    assert_eq!((chunks.len(), next_offset), (20, Offset(220)), "header and body of ten entries");
    assert_eq!(headers(&read_all(&group, Offset(0))).len(), 110);
    group.applied(log_id(1, 109));
    store.checkpoint_now();
    assert_eq!(group.cached_bytes(), 0);
    assert_eq!(headers(&read_all(&group, Offset(0))).len(), 110);
}

#[test]
fn a_read_is_bounded_by_the_high_watermark_and_by_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, small_segments()).unwrap();
    fill(&group, 1, 100, 500);
    store.checkpoint_now();
    let mut cursor = group.cursor(Offset(0));
    let mut reads = 0;
    loop {
        match group.read(&mut cursor, Offset(51), 2000).unwrap() {
            ReadStep::Cold(range) => range.load().unwrap(),
            ReadStep::CaughtUp => break,
            ReadStep::Batches { chunks, .. } => {
                let bytes: usize = chunks.iter().map(|chunk| chunk.len()).sum();
                assert!(bytes <= 2000);
                assert_eq!(chunks.len(), 1, "adjacent batches are one piece of the map");
                reads += 1;
            }
        }
    }
    // Batches have two records: the one that reaches past 51 is left out.
    assert_eq!(cursor.next_offset(), Offset(50));
    assert!(reads > 5);
    // One batch is given even where it is larger than the limit.
    let mut cursor = group.cursor(Offset(10));
    let ReadStep::Cold(range) = group.read(&mut cursor, Offset(60), 1).unwrap() else { panic!() };
    range.load().unwrap();
    let step = group.read(&mut cursor, Offset(60), 1).unwrap();
    assert!(matches!(step, ReadStep::Batches { next_offset: Offset(12), .. }), "{step:?}");
}

#[test]
fn entries_without_records_are_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, small_segments()).unwrap();
    let mut all = Vec::new();
    for index in 0..60 {
        all.push(if index % 3 == 0 { blank(1, index) } else { records(1, index, 1, 800) });
    }
    append(&group, all);
    for _ in 0..2 {
        let read = headers(&read_all(&group, Offset(0)));
        assert_eq!(read.len(), 40);
        assert!(read.windows(2).all(|pair| pair[0].end_offset() == pair[1].base_offset));
        group.applied(log_id(1, 59));
        store.checkpoint_now();
    }
    let read = headers(&read_all(&group, Offset(17)));
    assert_eq!(read[0].base_offset, Offset(17));
}

#[test]
fn an_offset_inside_a_batch_gives_that_batch() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, small_segments()).unwrap();
    append(&group, (0..50).map(|index| records(1, index, 10, 900)).collect());
    for _ in 0..2 {
        let read = headers(&read_all(&group, Offset(255)));
        assert_eq!(read[0].base_offset, Offset(250));
        assert_eq!(read.len(), 25);
        group.applied(log_id(1, 49));
        store.checkpoint_now();
    }
}

#[test]
fn a_reader_follows_a_growing_log() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, small_segments()).unwrap();
    let mut cursor = group.cursor(Offset(0));
    let mut read = 0;
    for round in 0..30 {
        fill(&group, 1, 10, 700);
        if round % 3 == 0 {
            store.checkpoint_now();
        }
        loop {
            match group.read(&mut cursor, group.bounds().log_end_offset, 5000).unwrap() {
                ReadStep::Cold(range) => range.load().unwrap(),
                ReadStep::CaughtUp => break,
                ReadStep::Batches { chunks, .. } => {
                    let bytes: Vec<u8> = chunks.iter().flatten().copied().collect();
                    read += headers(&bytes).len();
                }
            }
        }
    }
    assert_eq!(read, 300);
}

#[test]
fn offsets_are_found_by_time() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, small_segments()).unwrap();
    fill(&group, 1, 200, 900);
    store.checkpoint_now();
    append(&group, (200..210).map(|index| records(1, index, 2, 10)).collect());
    // Records of entry i have the time 1_000_000 + i.
    let found = |ms| group.offset_for_time(ms).unwrap();
    assert_eq!(found(0), Some(Offset(0)));
    assert_eq!(found(1_000_000), Some(Offset(0)));
    assert_eq!(found(1_000_077), Some(Offset(154)));
    assert_eq!(found(1_000_199), Some(Offset(398)));
    assert_eq!(found(1_000_205), Some(Offset(410)));
    assert_eq!(found(1_000_210), None);
}

#[test]
fn a_range_of_entries_is_bounded_and_never_empty() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, small_segments()).unwrap();
    fill(&group, 1, 100, 900);
    store.checkpoint_now();
    assert_eq!(group.read_entries(10..90, 1).unwrap().len(), 1);
    assert_eq!(group.read_entries(10..12, 1 << 20).unwrap().len(), 2);
    assert_eq!(group.read_entries(95..200, 1 << 20).unwrap().len(), 5);
    assert_eq!(group.read_entries(100..200, 1).unwrap().len(), 0);
    assert_eq!(group.term_at(LogIndex(50)), Some(Term(1)));
    assert_eq!(group.term_at(LogIndex(100)), None);
    let gap = group.append(vec![records(1, 101, 1, 1)], nobody()).unwrap_err();
    assert!(gap.to_string().contains("entry 100 comes next"), "{gap}");
}

#[test]
fn a_cursor_before_the_start_is_told_where_the_log_starts() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, small_segments()).unwrap();
    group.reset_to(log_id(1, 4), Offset(40), nobody());
    let error = group.read(&mut group.cursor(Offset(39)), Offset(50), 1).unwrap_err();
    assert!(matches!(error, ReadError::BeforeStart { log_start: Offset(40), .. }), "{error}");
    let past = group.read(&mut group.cursor(Offset(41)), Offset(50), 1).unwrap();
    assert!(matches!(past, ReadStep::CaughtUp), "{past:?}");
}
