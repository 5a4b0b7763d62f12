//! Facts about compacted batches: what is kept is read at its offset, and a gap lies only where it may.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::batch::tests::{build, mended, some_compression, some_record};
use crate::batch::{
    BatchError, BatchLimits, DeliveredRecord, GapError, Record, RecordError, RecordIter,
    validate_produced,
};
use crate::ids::{LogIndex, Term};

const NO_LIMIT: usize = usize::MAX;
const BASE: Offset = Offset(1000);
const FROM: CompactedFrom = CompactedFrom {
    last: LogId { term: Term(3), index: LogIndex(41) },
    append_time_ms: 1_750_000_000_500,
    max_timestamp_ms: 9_000,
    tombstone_horizon_ms: 1_750_086_400_000,
};

/// A record of three bytes: the smallest there is.
const SMALLEST: [u8; 3] = [2, 0, 0];

fn keep_all(kept: &[(Offset, Record)], end: Offset, compression: Compression) -> RecordBatch {
    let mut builder = CompactedBatchBuilder::new(BASE);
    for (offset, record) in kept {
        builder.keep(*offset, record);
    }
    builder.covers_to(end);
    let bytes = builder.bytes();
    let batch = builder.finish(FROM, compression);
    assert_eq!(BATCH_HEADER_BYTES + batch.header.records_bytes as usize, bytes);
    batch
}

/// The batch as it comes out of its own bytes.
fn through_bytes(batch: &RecordBatch) -> RecordBatch {
    let bytes = Bytes::from([&batch.header.to_bytes()[..], &batch.body].concat());
    let (read, rest) = RecordBatch::parse(bytes).unwrap();
    assert!(rest.is_empty());
    read.check_body_crc().unwrap();
    read
}

/// A batch whose plain section is these bytes.
fn of_section(section: &[u8], record_count: u32, compacted: bool) -> RecordBatch {
    let mut header = BatchHeader {
        batch_length: (BATCH_HEADER_BYTES + section.len()) as u32,
        compacted,
        base_offset: BASE,
        record_count,
        records_bytes: section.len() as u32,
        ..BatchHeader::default()
    };
    header.body_crc = header.compute_body_crc(section);
    RecordBatch { header, body: Bytes::copy_from_slice(section) }
}

fn read(batch: &RecordBatch) -> Result<Vec<DeliveredRecord>, BatchError> {
    batch.records(NO_LIMIT)?.collect()
}

fn offsets(batch: &RecordBatch) -> Vec<u64> {
    read(batch).unwrap().iter().map(|delivered| delivered.offset.0).collect()
}

/// Reads by way of views and places, and compares each with the record that `next` gives.
fn check_all_ways(records: &RecordIter, base_timestamp_ms: i64) {
    let (mut views, mut placed) = (records.clone(), records.clone());
    let mut owned = records.clone();
    loop {
        let (_, most) = owned.size_hint();
        let Some(next) = owned.next() else { break };
        assert!(most.unwrap() > 0, "a size hint that the walk exceeds");
        let (next, view) = (next.unwrap(), views.next_view().unwrap().unwrap());
        assert_eq!((view.0, &view.1.to_record()), (next.offset, &next.record));
        let section = placed.section().clone();
        let (offset, place, view) = placed.next_placed().unwrap().unwrap();
        assert_eq!((offset, &view.to_record()), (next.offset, &next.record));
        let mut at = place.start;
        assert_eq!(Record::decode(&section, &mut at, base_timestamp_ms).unwrap(), next.record);
        assert_eq!(at, place.end);
    }
    assert!(views.next_view().is_none());
    assert!(placed.next_placed().is_none());
}

#[test]
fn header_tells_what_the_batch_stands_for() {
    let tombstone = Record { value: None, ..Record::default() };
    let record = Record::new("late").with_timestamp_ms(7_000);
    let kept = [(Offset(1003), tombstone.with_timestamp_ms(5_000)), (Offset(1004), record)];
    let header = through_bytes(&keep_all(&kept, Offset(1010), Compression::None)).header;
    assert!(header.compacted);
    assert_eq!((header.base_offset, header.end_offset()), (BASE, Offset(1010)));
    assert_eq!((header.log_id(), header.append_time_ms), (FROM.last, FROM.append_time_ms));
    assert_eq!((header.producer_id, header.producer_epoch), (ProducerId::NONE, 0));
    assert_eq!((header.base_timestamp_ms, header.max_timestamp_ms), (5_000, 9_000));
    assert_eq!(header.tombstone_horizon_ms(), Some(FROM.tombstone_horizon_ms));
}

#[test]
fn horizon_is_there_for_tombstones_only() {
    let kept = [(Offset(1000), Record::new("no tombstone"))];
    let batch = keep_all(&kept, Offset(1001), Compression::None);
    assert_eq!((batch.header.base_sequence, batch.header.tombstone_horizon_ms()), (0, None));
    let mut builder = CompactedBatchBuilder::new(BASE);
    builder.keep(BASE, &Record::default());
    assert!(builder.has_tombstone());
    let passed = CompactedFrom { tombstone_horizon_ms: -5, ..FROM };
    let header = builder.finish(passed, Compression::None).header;
    assert_eq!(header.tombstone_horizon_ms(), Some(1));
}

#[test]
fn batch_without_a_record_is_one_gap() {
    let batch = through_bytes(&keep_all(&[], Offset(1300), Compression::Zstd));
    assert_eq!(&batch.body[..], [0, 0xac, 2]);
    assert_eq!((batch.header.record_count, batch.header.max_timestamp_ms), (300, 9_000));
    assert_eq!(batch.header.end_offset(), Offset(1300));
    assert_eq!(read(&batch), Ok(vec![]));
    let mut records = batch.records(0).unwrap();
    records.skip_to(Offset(1299)).unwrap();
    assert!(records.next().is_none());
}

#[test]
fn skipping_into_a_gap_lands_behind_it() {
    let kept = [1002, 1005, 1006].map(|offset| (Offset(offset), Record::new(offset.to_string())));
    let batch = keep_all(&kept, Offset(1010), Compression::None);
    let first_from = |offset: u64| {
        let mut records = batch.records(0).unwrap();
        records.skip_to(Offset(offset)).unwrap();
        records.next().map(|delivered| delivered.unwrap().offset.0)
    };
    let found: Vec<_> = (999..1011).map(first_from).collect();
    let expected: Vec<_> = (999..1011u64)
        .map(|from| [1002, 1005, 1006].into_iter().find(|offset| *offset >= from))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn several_covers_make_one_gap() {
    let mut builder = CompactedBatchBuilder::new(BASE);
    for end in [1002, 1002, 1004] {
        builder.covers_to(Offset(end));
        assert_eq!(builder.end_offset(), Offset(end));
    }
    builder.keep(Offset(1006), RecordView::new(b""));
    builder.covers_to(Offset(1007));
    assert_eq!((builder.kept(), builder.bytes()), (1, BATCH_HEADER_BYTES + 5));
    let batch = builder.finish(FROM, Compression::None);
    assert_eq!(&batch.body[..], [0, 6, 2, 0, 0]);
    assert_eq!(offsets(&batch), [1006]);
}

#[test]
#[should_panic(expected = "in the order of their offsets")]
fn record_below_the_covered_end_is_a_bug() {
    let mut builder = CompactedBatchBuilder::new(BASE);
    builder.covers_to(Offset(1005));
    builder.keep(Offset(1004), RecordView::new(b""));
}

#[test]
#[should_panic(expected = "at least one offset")]
fn batch_of_no_offsets_is_a_bug() {
    let _ = CompactedBatchBuilder::new(BASE).finish(FROM, Compression::None);
}

#[test]
fn gap_is_refused_in_a_batch_that_is_not_compacted() {
    let section = [&SMALLEST[..], &[0, 2], &SMALLEST].concat();
    assert_eq!(offsets(&of_section(&section, 4, true)), [1000, 1003]);
    let refused = Err(BatchError::Gap { position: 1, source: GapError::NotCompacted });
    assert_eq!(read(&of_section(&section, 4, false)), refused);
    assert_eq!(read(&of_section(&section, 2, false)), refused);
}

#[test]
fn gaps_lie_only_where_they_may() {
    let wrong: [(&[u8], u32, u32, GapError); 6] = [
        (&[0, 1, 0, 1], 2, 1, GapError::AfterGap),
        (&[0, 0], 1, 0, GapError::Empty),
        (&[0, 4], 3, 0, GapError::TooLong { offsets: 4, left: 3 }),
        (&[2, 0, 0, 0, 3], 3, 1, GapError::TooLong { offsets: 3, left: 2 }),
        (
            &[0, 0xff, 0xff, 0xff, 0xff, 0x0f],
            3,
            0,
            GapError::TooLong { offsets: u32::MAX, left: 3 },
        ),
        (&[0, 0x81, 0], 1, 0, GapError::Number(crate::varint::VarintError::OutOfRange)),
    ];
    for (section, record_count, position, source) in wrong {
        let refused = BatchError::Gap { position, source };
        let mut records = of_section(section, record_count, true).records(0).unwrap();
        let mut skipping = records.clone();
        let error = records.find_map(Result::err);
        assert_eq!(error, Some(refused.clone()), "{section:?}");
        assert!(records.next().is_none() && records.next_view().is_none());
        assert_eq!(skipping.skip_to(Offset(u64::MAX)), Err(refused), "{section:?}");
        assert!(skipping.next_placed().is_none());
    }
}

#[test]
fn section_covers_exactly_its_count() {
    let count = |stored, actual, more| Err(BatchError::RecordCount { stored, actual, more });
    assert_eq!(read(&of_section(&[0, 4], 5, true)), count(5, 4, false));
    let more = [&[0, 4][..], &SMALLEST].concat();
    assert_eq!(read(&of_section(&more, 4, true)), count(4, 4, true));
    assert_eq!(read(&of_section(&[2, 0, 0, 0, 1], 1, true)), count(1, 1, true));
    assert_eq!(offsets(&of_section(&more, 5, true)), [1004]);
    let widest = of_section(&[0, 0xff, 0xff, 0xff, 0xff, 0x0f], u32::MAX, true);
    assert_eq!(read(&widest), Ok(vec![]));
}

#[test]
fn record_behind_a_gap_is_placed_where_it_begins() {
    let batch = of_section(&[0, 4, 2, 0, 0], 5, true);
    let mut records = batch.records(0).unwrap();
    let (offset, place, _) = records.next_placed().unwrap().unwrap();
    assert_eq!((offset, place), (Offset(1004), 2..5));
    assert!(Record::decode(&batch.body, &mut 0, 0).is_err(), "a gap is not a record");
}

#[test]
fn damaged_record_is_named_by_its_place_among_the_offsets() {
    assert_eq!(
        read(&of_section(&[0, 4, 2, 0x80, 0], 5, true)),
        Err(BatchError::Record { position: 4, source: RecordError::ReservedFlag })
    );
}

#[test]
fn producer_cannot_smuggle_a_gap() {
    let limits = BatchLimits::default();
    for compacted in [false, true] {
        let batch = of_section(&[2, 0, 0, 0, 2], 3, compacted);
        let bytes = [&batch.header.to_bytes()[..], &batch.body].concat();
        assert_eq!(
            validate_produced(&bytes, &limits),
            Err(BatchError::Gap { position: 1, source: GapError::NotCompacted })
        );
        let batch = of_section(&SMALLEST, 1, compacted);
        let bytes = [&batch.header.to_bytes()[..], &batch.body].concat();
        let taken = validate_produced(&bytes, &limits).expect("the broker's part is ignored");
        assert!(!taken.compacted, "a producer's flag is not taken over");
    }
}

/// Records, each with how many offsets before it have none.
fn some_kept() -> impl Strategy<Value = Vec<(u32, Record)>> {
    let hole = prop_oneof![3 => Just(0), 3 => 1u32..200, 1 => 0u32..100_000_000];
    prop::collection::vec((hole, some_record()), 0..12)
}

/// The records with their offsets, and the end of the batch.
fn placed(kept: Vec<(u32, Record)>, tail: u32) -> (Vec<(Offset, Record)>, Offset) {
    let mut next = BASE.0;
    let mut all = Vec::new();
    for (hole, record) in kept {
        next += u64::from(hole);
        all.push((Offset(next), record));
        next += 1;
    }
    let end = next + u64::from(tail);
    (all, Offset(end.max(BASE.0 + 1)))
}

proptest! {
    #[test]
    fn what_is_kept_is_read_at_its_offset(
        kept in some_kept(),
        tail in prop_oneof![Just(0), 1u32..1_000_000],
        from in 0u64..1000,
        compression in some_compression(),
    ) {
        let (kept, end) = placed(kept, tail);
        let batch = through_bytes(&keep_all(&kept, end, compression));
        prop_assert_eq!(batch.header.end_offset(), end);
        for (_, record) in &kept {
            prop_assert!(record.timestamp_ms <= batch.header.max_timestamp_ms);
        }
        let read: Vec<_> = read(&batch).unwrap().into_iter().map(|r| (r.offset, r.record)).collect();
        prop_assert_eq!(&read, &kept);
        let mut records = batch.records(NO_LIMIT).unwrap();
        check_all_ways(&records, batch.header.base_timestamp_ms);
        let from = Offset(BASE.0 + from * (end.0 - BASE.0) / 1000);
        records.skip_to(from).unwrap();
        check_all_ways(&records, batch.header.base_timestamp_ms);
        let rest: Vec<_> = records.map(|r| r.unwrap().offset).collect();
        let expected: Vec<_> =
            kept.iter().map(|(offset, _)| *offset).filter(|offset| *offset >= from).collect();
        prop_assert_eq!(rest, expected);
    }

    #[test]
    fn what_is_left_of_one_entry_never_takes_more_bytes(
        records in prop::collection::vec((any::<bool>(), some_record()), 1..12),
    ) {
        let all: Vec<_> = records.iter().map(|(_, record)| record.clone()).collect();
        let (entry, _) = RecordBatch::parse(build(&all, Compression::None)).unwrap();
        let base_timestamp_ms = entry.header.base_timestamp_ms;
        let mut builder =
            CompactedBatchBuilder::new(Offset(0)).with_base_timestamp_ms(base_timestamp_ms);
        for (offset, (stays, record)) in (0..).map(Offset).zip(&records) {
            if *stays {
                builder.keep(offset, record);
            }
        }
        builder.covers_to(entry.header.end_offset());
        prop_assert!(builder.bytes() <= entry.header.batch_length as usize);
        if records.iter().all(|(stays, _)| *stays) {
            prop_assert_eq!(builder.finish(FROM, Compression::None).body, entry.body);
        }
    }

    /// Whatever bytes lie in a section: no panic, offsets that grow within the batch, and what is
    /// read in full has no second encoding.
    #[test]
    fn any_bytes_are_refused_or_the_only_form(
        section in prop::collection::vec(
            prop_oneof![4 => 0u8..5, 1 => any::<u8>()], 1..24
        ),
        record_count in 1u32..12,
    ) {
        let batch = of_section(&section, record_count, true);
        let mut last = None;
        for delivered in batch.records(0).unwrap() {
            let Ok(DeliveredRecord { offset, .. }) = delivered else { break };
            prop_assert!(offset >= BASE && offset < batch.header.end_offset());
            prop_assert!(last < Some(offset));
            last = Some(offset);
        }
        let Ok(read) = read(&batch) else { return Ok(()) };
        let mut builder = CompactedBatchBuilder::new(BASE).with_base_timestamp_ms(0);
        for delivered in &read {
            builder.keep(delivered.offset, &delivered.record);
        }
        builder.covers_to(batch.header.end_offset());
        prop_assert_eq!(&builder.finish(FROM, Compression::None).body[..], &section[..]);
    }

    /// A flipped byte is caught by the checksum; with the checksum mended, the batch is refused or
    /// read in full, within its offsets.
    #[test]
    fn damage_is_refused_or_harmless(
        kept in some_kept(),
        tail in 0u32..300,
        compression in some_compression(),
        at in any::<prop::sample::Index>(),
        flip in 1u8..,
    ) {
        let (kept, end) = placed(kept, tail);
        let batch = keep_all(&kept, end, compression);
        let mut body = BytesMut::from(&batch.body[..]);
        let at = at.index(body.len());
        body[at] ^= flip;
        let damaged = RecordBatch { header: batch.header, body: body.freeze() };
        prop_assert!(damaged.check_body_crc().is_err());
        let bytes = Bytes::from([&damaged.header.to_bytes()[..], &damaged.body].concat());
        let damaged = through_bytes(&RecordBatch::parse(mended(&bytes, |_| ())).unwrap().0);
        if let Ok(records) = damaged.records(1 << 20) {
            for delivered in records.flatten() {
                prop_assert!(delivered.offset >= BASE && delivered.offset < end);
            }
        }
    }
}
