//! No decoder allocates more than a small multiple of the bytes at hand, or of what a compressed
//! section has produced. One test, so that nothing else allocates meanwhile.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use bytes::Bytes;
use peak_alloc::PeakAlloc;
use plimsoll_protocol::api::{DescribeTopicResponse, HelloRequest, ListOffsetsRequest};
use plimsoll_protocol::batch::{
    BATCH_HEADER_BYTES, BatchBuilder, BatchHeader, BatchLimits, Compression, PushOutcome,
    RecordBatch, RecordView, validate_produced,
};
use plimsoll_protocol::ids::ProducerId;
use plimsoll_protocol::wire::decode_all;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// What the harness around the test may allocate at the same time.
const SLACK: usize = 16 * 1024;

/// Largest growth of the heap while `f` ran.
fn peak_of<T>(f: impl FnOnce() -> T) -> (usize, T) {
    HEAP.reset_peak_usage();
    let before = HEAP.current_usage();
    let value = f();
    (HEAP.peak_usage().saturating_sub(before), value)
}

fn built(records: usize, value: &[u8], compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(BatchLimits::default());
    let headers: [(&str, &[u8]); 2] = [("name", b"value"), ("other", b"")];
    for _ in 0..records {
        let mut view = RecordView::new(value);
        view.headers = plimsoll_protocol::batch::HeadersView::Pairs(&headers);
        assert_eq!(builder.push(view), Ok(PushOutcome::Added));
    }
    builder.finish(ProducerId(1), 0, 0, compression)
}

/// The same body under a header that claims another size, with a right checksum.
fn claiming(batch: &Bytes, records_bytes: u32, body: &[u8]) -> Vec<u8> {
    let mut header = BatchHeader::parse(batch).expect("a batch that was just built");
    header.batch_length = (BATCH_HEADER_BYTES + body.len()) as u32;
    header.records_bytes = records_bytes;
    header.body_crc = header.compute_body_crc(body);
    [&header.to_bytes()[..], body].concat()
}

#[test]
fn heap_follows_the_bytes_at_hand() {
    let limits = BatchLimits::default();

    // A check of a plain batch allocates nothing at all, whatever the number of records.
    let plain = built(2000, &[7; 100], Compression::None);
    let (peak, checked) = peak_of(|| validate_produced(&plain, &limits));
    checked.unwrap();
    assert!(peak <= SLACK, "checking a plain batch allocated {peak} bytes");

    // Reading it allocates for one record at a time.
    let (batch, _) = RecordBatch::parse(plain).unwrap();
    let (peak, read) = peak_of(|| batch.records(0).unwrap().filter(Result::is_ok).count());
    assert_eq!(read, 2000);
    assert!(peak <= SLACK, "reading a plain batch allocated {peak} bytes");

    for compression in [Compression::Lz4, Compression::Zstd] {
        // An honest section takes one buffer of its size, and less than twice that while it grows.
        let honest = built(20, &[7; 200_000], compression);
        let section_bytes = BatchHeader::parse(&honest).unwrap().records_bytes as usize;
        let (peak, checked) = peak_of(|| validate_produced(&honest, &limits));
        checked.unwrap();
        assert!(peak <= section_bytes + SLACK, "{compression:?}: {peak} for {section_bytes}");

        // A claim of 64 MiB without bytes behind it gets the first small buffer at most.
        let small = built(20, &[7; 20], compression);
        let body = &small[BATCH_HEADER_BYTES..];
        let lie = claiming(&small, 64 << 20, body);
        let (peak, checked) = peak_of(|| validate_produced(&lie, &limits));
        checked.unwrap_err();
        assert!(peak <= 64 * 1024 + SLACK, "{compression:?}: a claim allocated {peak} bytes");

        // So does garbage under the same claim.
        let garbage = claiming(&small, 64 << 20, &[0xf5; 300]);
        let (peak, checked) = peak_of(|| validate_produced(&garbage, &limits));
        checked.unwrap_err();
        assert!(peak <= 64 * 1024 + SLACK, "{compression:?}: garbage allocated {peak} bytes");

        // A bomb under a small claim stops at the claim.
        let bomb = claiming(&small, 1000, &honest[BATCH_HEADER_BYTES..]);
        let (peak, checked) = peak_of(|| validate_produced(&bomb, &limits));
        checked.unwrap_err();
        assert!(peak <= 64 * 1024 + SLACK, "{compression:?}: a bomb allocated {peak} bytes");
    }

    // A record that announces 65,535 headers in a few bytes.
    let mut section = vec![14, 2, 0, 0xff, 0xff, 3];
    section.resize(15, 0);
    let lie = claiming(&built(1, b"x", Compression::None), 15, &section);
    let (peak, records) =
        peak_of(|| RecordBatch::parse(Bytes::from(lie)).unwrap().0.records(0).unwrap().count());
    assert_eq!(records, 1);
    assert!(peak <= SLACK, "announced headers allocated {peak} bytes");

    // Lists in bodies: counts that the bytes do not carry, and the densest that they do.
    let mut body = vec![1, 0, b't', 0, 0, 0, 0];
    body.extend_from_slice(&u32::MAX.to_le_bytes());
    let (peak, decoded) = peak_of(|| decode_all::<ListOffsetsRequest>(&body));
    decoded.unwrap_err();
    assert!(peak <= SLACK, "a list's count allocated {peak} bytes");
    body.truncate(7);
    body.extend_from_slice(&4000u32.to_le_bytes());
    body.resize(body.len() + 4000, 0);
    let (peak, decoded) = peak_of(|| decode_all::<ListOffsetsRequest>(&body));
    assert_eq!(decoded.unwrap().positions.len(), 4000);
    assert!(peak <= 16 * body.len() + SLACK, "{peak} bytes for a body of {}", body.len());

    let noise: Vec<u8> =
        (0..4096u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for from in 0..64 {
        let (peak, _) = peak_of(|| decode_all::<HelloRequest>(&noise[from..]).is_ok());
        assert!(peak <= 16 * noise.len() + SLACK);
        let (peak, _) = peak_of(|| decode_all::<DescribeTopicResponse>(&noise[from..]).is_ok());
        assert!(peak <= 16 * noise.len() + SLACK);
    }
}
