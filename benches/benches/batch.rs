//! The batch format's hot functions: building, validating, walking, checksums.
//!
//! `cargo bench -p plimsoll-bench --bench batch`; `-- --list` names them, a word filters.

use bytes::Bytes;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use plimsoll_bench::values::{Values, push};
use plimsoll_protocol::batch::{
    BATCH_HEADER_BYTES, BODY_CRC_FROM, BatchBuilder, BatchHeader, BatchLimits, Compression,
    RecordBatch, body_crc, validate_produced,
};
use plimsoll_protocol::ids::ProducerId;

fn main() {
    divan::main();
}

/// Shapes of a batch: records in it, bytes of one value.
const SHAPES: [(u32, u32); 4] = [(1, 100), (1_000, 100), (1_000, 1_000), (100, 10_000)];

fn finished((records, bytes): (u32, u32), compression: Compression) -> Bytes {
    let mut batch = BatchBuilder::new(BatchLimits::default());
    Values::new(bytes, 7).fill(&mut batch, records).expect("the shapes fit a batch");
    batch.finish(ProducerId(1), 0, 0, compression)
}

fn counters((records, bytes): (u32, u32)) -> (ItemsCount, BytesCount) {
    (ItemsCount::new(records), BytesCount::new(u64::from(records) * u64::from(bytes)))
}

#[divan::bench(args = SHAPES)]
fn build(bencher: Bencher<'_, '_>, shape: (u32, u32)) {
    let (items, bytes) = counters(shape);
    let mut values = Values::new(shape.1, 7);
    let limits = BatchLimits::default();
    bencher.counter(items).counter(bytes).bench_local(|| {
        let mut batch = BatchBuilder::with_capacity(limits.clone(), values.batch_bytes(shape.0));
        values.fill(&mut batch, shape.0).expect("the shapes fit a batch");
        batch.finish(ProducerId(1), 0, 0, Compression::None)
    });
}

#[divan::bench(args = SHAPES)]
fn validate(bencher: Bencher<'_, '_>, shape: (u32, u32)) {
    let (items, bytes) = counters(shape);
    let batch = finished(shape, Compression::None);
    let limits = BatchLimits::default();
    bencher
        .counter(items)
        .counter(bytes)
        .bench(|| validate_produced(black_box(&batch), &limits).expect("just built"));
}

#[divan::bench(args = [Compression::Lz4, Compression::Zstd])]
fn validate_compressed(bencher: Bencher<'_, '_>, compression: Compression) {
    let (items, bytes) = counters((1_000, 1_000));
    let mut batch = BatchBuilder::new(BatchLimits::default());
    for number in 0..1_000 {
        let value = format!("record {number} of a thousand; ").repeat(40);
        push(&mut batch, &value.as_bytes()[..1_000], 0).expect("it fits");
    }
    let batch = batch.finish(ProducerId(1), 0, 0, compression);
    let limits = BatchLimits::default();
    bencher
        .counter(items)
        .counter(bytes)
        .bench(|| validate_produced(black_box(&batch), &limits).expect("just built"));
}

#[divan::bench(args = SHAPES)]
fn walk_records(bencher: Bencher<'_, '_>, shape: (u32, u32)) {
    let (items, bytes) = counters(shape);
    let (batch, _) = RecordBatch::parse(finished(shape, Compression::None)).expect("just built");
    bencher.counter(items).counter(bytes).bench(|| {
        let records = black_box(&batch).records(usize::MAX).expect("not compressed");
        records.map(|record| record.expect("just built").offset.0).sum::<u64>()
    });
}

#[divan::bench(args = [1_000, 100_000, 1_000_000])]
fn checksum(bencher: Bencher<'_, '_>, length: usize) {
    let body = Values::new(u32::try_from(length).expect("small"), 7).next_value().to_vec();
    let head = [0; BATCH_HEADER_BYTES - BODY_CRC_FROM];
    bencher.counter(BytesCount::new(length)).bench(|| body_crc(&head, black_box(&body)));
}

#[divan::bench]
fn parse_and_seal_header(bencher: Bencher<'_, '_>) {
    let batch = finished((1, 100), Compression::None);
    bencher.bench(|| {
        let mut header = BatchHeader::parse(black_box(&batch)).expect("just built");
        header.seal(0x5EED);
        header.to_bytes()
    });
}
