//! Facts about whole batches: built, checked, read, damaged.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::error::ErrorCode;
use crate::ids::{Offset, ProducerId};

const NO_LIMIT: usize = usize::MAX;

fn full_record() -> Record {
    Record {
        key: Some(Bytes::from_static(b"key")),
        value: Some(Bytes::from_static(b"value")),
        headers: vec![
            Header { name: "trace".into(), value: Bytes::from_static(b"1") },
            Header { name: "".into(), value: Bytes::new() },
        ],
        timestamp_ms: 1_700_000_000_000,
        deliver_at_ms: Some(1_700_000_060_000),
        expires_at_ms: Some(1_600_000_000_000),
        priority: Some(9),
        group_key: Some(Bytes::from_static(b"group")),
    }
}

pub(super) fn build(records: &[Record], compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(BatchLimits::default());
    for record in records {
        assert_eq!(builder.push(record), Ok(PushOutcome::Added));
    }
    builder.finish(ProducerId(7), 2, 100, compression)
}

fn read(batch: &Bytes) -> Result<Vec<DeliveredRecord>, BatchError> {
    let (batch, rest) = RecordBatch::parse(batch.clone())?;
    assert!(rest.is_empty());
    batch.records(NO_LIMIT)?.collect()
}

pub(super) fn mended(batch: &Bytes, change: impl FnOnce(&mut BatchHeader)) -> Bytes {
    let mut bytes = BytesMut::from(&batch[..]);
    let mut header = BatchHeader::parse(&bytes).unwrap();
    change(&mut header);
    header.body_crc = header.compute_body_crc(&bytes[BATCH_HEADER_BYTES..]);
    bytes[..BATCH_HEADER_BYTES].copy_from_slice(&header.to_bytes());
    bytes.freeze()
}

#[test]
fn what_is_pushed_is_read() {
    let records = [
        full_record(),
        Record::new("plain"),
        Record::default(),
        Record::new(Bytes::new()),
        Record { timestamp_ms: i64::MIN, deliver_at_ms: Some(i64::MAX), ..full_record() },
    ];
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let batch = build(&records, compression);
        let header = validate_produced(&batch, &BatchLimits::default()).unwrap();
        assert_eq!(header.record_count, 5);
        assert_eq!(header.end_sequence(), 105);
        assert_eq!(header.max_timestamp_ms, 1_700_000_000_000);
        let read = read(&batch).unwrap();
        assert!(read.iter().map(|r| r.offset.0).eq(0..5));
        assert!(read.iter().map(|r| &r.record).eq(&records));
    }
}

#[test]
fn uncompressed_records_are_slices_of_the_batch() {
    let batch = build(&[Record::new(vec![7; 1000])], Compression::None);
    let value = read(&batch).unwrap().remove(0).record.value.unwrap();
    assert!(batch.as_ptr_range().contains(&value.as_ptr()));
}

#[test]
fn builder_stops_at_its_limits_and_keeps_the_batch_valid() {
    let limits =
        BatchLimits { batch_bytes_max: 300, record_count_max: 3, ..BatchLimits::default() };
    let push =
        |builder: &mut BatchBuilder, bytes: usize| builder.push(RecordView::new(&vec![1; bytes]));
    let mut builder = BatchBuilder::new(limits.clone());
    assert_eq!(push(&mut builder, 100), Ok(PushOutcome::Added));
    assert_eq!(push(&mut builder, 100), Ok(PushOutcome::Full));
    assert_eq!(push(&mut builder, 90), Ok(PushOutcome::Added));
    assert_eq!(push(&mut builder, 1), Ok(PushOutcome::Added));
    assert_eq!(push(&mut builder, 1), Ok(PushOutcome::Full));
    assert!(matches!(push(&mut builder, 300), Err(PushError::RecordTooLarge { limit: 300, .. })));
    assert_eq!((builder.record_count(), builder.is_empty()), (3, false));
    let bytes = builder.bytes();
    let batch = builder.finish(ProducerId::NONE, 0, 0, Compression::None);
    assert_eq!(batch.len(), bytes);
    validate_produced(&batch, &limits).unwrap();
}

#[test]
fn too_many_headers_are_refused_by_builder_and_broker() {
    let mut record = Record::new("x");
    for _ in 0..257 {
        record = record.with_header("h", "v");
    }
    let mut builder = BatchBuilder::new(BatchLimits::default());
    assert!(matches!(builder.push(&record), Err(PushError::TooManyHeaders { count: 257, .. })));
    let wide = BatchLimits { headers_per_record_max: 1000, ..BatchLimits::default() };
    let mut builder = BatchBuilder::new(wide);
    assert_eq!(builder.push(&record), Ok(PushOutcome::Added));
    let batch = builder.finish(ProducerId::NONE, 0, 0, Compression::None);
    assert!(matches!(
        validate_produced(&batch, &BatchLimits::default()),
        Err(BatchError::Record {
            position: 0,
            source: RecordError::TooManyHeaders { count: 257, limit: 256 }
        })
    ));
}

#[test]
fn lies_are_refused() {
    let limits = BatchLimits::default();
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let records: Vec<_> = (0..50).map(|n| full_record().with_timestamp_ms(n)).collect();
        let good = build(&records, compression);
        assert_eq!(validate_produced(&good, &limits).unwrap().compression, compression);
        type Change = fn(&mut BatchHeader);
        let lies: [(&str, Change); 8] = [
            ("fewer records", |h| h.record_count -= 1),
            ("more records", |h| h.record_count += 1),
            ("no records", |h| h.record_count = 0),
            ("later maximum", |h| h.max_timestamp_ms += 1),
            ("earlier base", |h| h.base_timestamp_ms -= 1),
            ("larger section", |h| h.records_bytes += 1),
            ("smaller section", |h| h.records_bytes -= 1),
            ("sequence at the end", |h| h.base_sequence = u64::MAX - 3),
        ];
        for (name, lie) in lies {
            let error = validate_produced(&mended(&good, lie), &limits).expect_err(name);
            assert_eq!(error.code(), ErrorCode::CorruptBatch, "{name}: {error}");
        }
        let huge = mended(&good, |h| h.records_bytes = u32::MAX);
        assert!(validate_produced(&huge, &limits).is_err());
    }
}

#[test]
fn sizes_and_kinds_are_checked() {
    let limits = BatchLimits::default();
    let good = build(&[full_record()], Compression::None);
    let code = |batch: &[u8], limits: &BatchLimits| {
        validate_produced(batch, limits).expect_err("refused").code()
    };
    let small = BatchLimits { batch_bytes_max: 100, ..limits.clone() };
    assert_eq!(code(&good, &small), ErrorCode::BatchTooLarge);
    let section = BatchLimits { records_bytes_max: 10, ..limits.clone() };
    assert_eq!(code(&good, &section), ErrorCode::BatchTooLarge);
    let mut longer = good.to_vec();
    longer.push(0);
    assert_eq!(code(&longer, &limits), ErrorCode::CorruptBatch);
    assert_eq!(code(&good[..good.len() - 1], &limits), ErrorCode::CorruptBatch);
    assert_eq!(code(&[], &limits), ErrorCode::CorruptBatch);
    let mut control = good.to_vec();
    control[5] = EntryKind::Control as u8;
    assert_eq!(code(&control, &limits), ErrorCode::CorruptBatch);
    let mut unknown = good.to_vec();
    unknown[92] = 5;
    assert_eq!(code(&unknown, &limits), ErrorCode::UnsupportedCompression);
}

#[test]
fn producer_can_be_set_anew() {
    let batch = build(&[full_record()], Compression::Lz4);
    let mut moved = batch.to_vec();
    set_producer(&mut moved, ProducerId(8), 5, 900).unwrap();
    let header = validate_produced(&moved, &BatchLimits::default()).unwrap();
    assert_eq!(
        (header.producer_id, header.producer_epoch, header.base_sequence),
        (ProducerId(8), 5, 900)
    );
    set_producer(&mut moved, ProducerId(7), 2, 100).unwrap();
    assert_eq!(moved, batch);
    assert!(set_producer(&mut moved[..200.min(batch.len() - 1)], ProducerId(8), 5, 900).is_err());
}

#[test]
fn batches_of_a_payload_come_in_order_up_to_the_first_damage() {
    let one = build(&[Record::new("1")], Compression::None);
    let two = build(&[Record::new("2"), Record::new("3")], Compression::None);
    let mut payload = BytesMut::new();
    for part in [&one[..], &two, &one[..50]] {
        payload.extend_from_slice(part);
    }
    let found: Vec<_> = iterate_batches(payload.freeze()).collect();
    assert_eq!(found.len(), 3);
    assert_eq!(found[0].as_ref().unwrap().header.record_count, 1);
    found[1].as_ref().unwrap().check_body_crc().unwrap();
    assert!(matches!(found[2], Err(BatchError::Truncated { .. })));
}

#[test]
fn skipping_lands_on_the_offset() {
    let records: Vec<_> = (0..10).map(|n| Record::new(format!("{n}"))).collect();
    let batch = mended(&build(&records, Compression::None), |h| h.base_offset = Offset(1000));
    let (batch, _) = RecordBatch::parse(batch).unwrap();
    let mut iter = batch.records(0).unwrap();
    iter.skip_to(Offset(1007)).unwrap();
    let (offset, view) = iter.next_view().unwrap().unwrap();
    assert_eq!((offset, view.value), (Offset(1007), Some(&b"7"[..])));
    iter.skip_to(Offset(5000)).unwrap();
    assert!(iter.next().is_none());
}

#[test]
fn views_show_what_records_hold() {
    let record = full_record();
    let batch = build(std::slice::from_ref(&record), Compression::None);
    let (batch, _) = RecordBatch::parse(batch).unwrap();
    let mut iter = batch.records(0).unwrap();
    assert_eq!(iter.next_view().unwrap().unwrap().1.to_record(), record);
    let pairs: [(&str, &[u8]); 2] = [("trace", b"1"), ("", b"")];
    let view = RecordView { headers: HeadersView::Pairs(&pairs), ..RecordView::from(&record) };
    assert_eq!(view.to_record(), record);
}

#[test]
fn batch_of_another_kind_has_no_records() {
    let body = Bytes::from_static(b"membership");
    let header = BatchHeader::for_entry(EntryKind::Membership, &body);
    let batch = RecordBatch { header, body };
    batch.check_body_crc().unwrap();
    assert_eq!(batch.records(0).unwrap().count(), 0);
}

fn some_bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

pub(super) fn some_record() -> impl Strategy<Value = Record> {
    let header = (".{0,12}", some_bytes())
        .prop_map(|(name, value)| Header { name: HeaderName::from(name), value });
    (
        prop::option::of(some_bytes()),
        prop::option::of(some_bytes()),
        prop::collection::vec(header, 0..4),
        any::<i64>(),
        prop::option::of(any::<i64>()),
        prop::option::of(any::<i64>()),
        prop::option::of(any::<u8>()),
        prop::option::of(some_bytes()),
    )
        .prop_map(
            |(
                key,
                value,
                headers,
                timestamp_ms,
                deliver_at_ms,
                expires_at_ms,
                priority,
                group_key,
            )| {
                Record {
                    key,
                    value,
                    headers,
                    timestamp_ms,
                    deliver_at_ms,
                    expires_at_ms,
                    priority,
                    group_key,
                }
            },
        )
}

pub(super) fn some_compression() -> impl Strategy<Value = Compression> {
    prop::sample::select(vec![Compression::None, Compression::Lz4, Compression::Zstd])
}

proptest! {
    #[test]
    fn batches_survive(
        records in prop::collection::vec(some_record(), 1..20),
        compression in some_compression(),
    ) {
        let batch = build(&records, compression);
        validate_produced(&batch, &BatchLimits::default()).unwrap();
        let read = read(&batch).unwrap();
        prop_assert!(read.into_iter().map(|r| r.record).eq(records));
    }

    /// A flipped byte is caught by the checksum; with the checksum mended as an attacker would, the
    /// batch is refused or whole.
    #[test]
    fn damage_is_refused_or_harmless(
        records in prop::collection::vec(some_record(), 1..6),
        compression in some_compression(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let limits = BatchLimits { records_bytes_max: 1 << 20, ..BatchLimits::default() };
        let good = build(&records, compression);
        let mut bytes = good.to_vec();
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
            prop_assert!(validate_produced(&bytes, &limits).is_err());
            prop_assert!(RecordBatch::parse(Bytes::from(bytes)).is_err());
            return Ok(());
        }
        for (at, flip) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        let producer_part_changed = bytes[44..] != good[44..];
        if let Ok(header) = validate_produced(&bytes, &limits) {
            prop_assert_eq!(header.batch_length as usize, bytes.len());
            prop_assert!(!producer_part_changed);
        }
        if let Ok(header) = BatchHeader::parse(&bytes) {
            let mut header = header;
            header.body_crc = header.compute_body_crc(&bytes[BATCH_HEADER_BYTES..]);
            bytes[..BATCH_HEADER_BYTES].copy_from_slice(&header.to_bytes());
            if let Ok(header) = validate_produced(&bytes, &limits) {
                let batch = RecordBatch::parse(Bytes::from(bytes)).unwrap().0;
                if let Ok(records) = batch.records(1 << 20) {
                    let read: Result<Vec<_>, _> = records.collect();
                    prop_assert_eq!(read.unwrap().len(), header.record_count as usize);
                }
            }
        }
    }
}
