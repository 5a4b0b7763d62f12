//! Bytes that were once written stay readable: each file in `tests/golden` is decoded and compared
//! with the value that it was made from. A committed file is never changed; a new version of a body
//! or of the batch format adds files.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use bytes::Bytes;
use plimsoll_protocol::batch::{
    BatchHeader, BatchLimits, Compression, EntryKind, RecordBatch, validate_produced,
};
use plimsoll_protocol::frame::{FRAME_HEADER_BYTES, Frame, FrameHeader};
use plimsoll_protocol::fuzzing::{
    named_frames, sample_compacted_batch, sample_compacted_records, samples,
};
use plimsoll_protocol::ids::{LogIndex, Offset, ProducerId, Term};

/// The committed batches, as hex text: 32 bytes a line.
const BATCHES: [(&str, &str, Compression); 3] = [
    ("batch-none", include_str!("golden/batch-none.hex"), Compression::None),
    ("batch-lz4", include_str!("golden/batch-lz4.hex"), Compression::Lz4),
    ("batch-zstd", include_str!("golden/batch-zstd.hex"), Compression::Zstd),
];

/// A control entry as it lies in a file with the salt 0x5eed.
const ENTRY: &str = include_str!("golden/entry-control.hex");

/// A compacted batch as it lies in a file with the salt 0x5eed.
const COMPACTED: &str = include_str!("golden/batch-compacted.hex");

/// One frame of each kind: a line with its name, then its bytes.
const FRAMES: &str = include_str!("golden/frames.hex");

fn bytes(hex: &str) -> Bytes {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| {
            std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok())
        })
        .collect::<Option<_>>()
        .expect("pairs of hex digits")
}

fn hex(bytes: &[u8]) -> String {
    let line = |line: &[u8]| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    bytes.chunks(32).map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn old_batches_are_readable() {
    for (name, text, compression) in BATCHES {
        let batch = bytes(text);
        let header = validate_produced(&batch, &BatchLimits::default()).expect(name);
        assert_eq!(header.compression, compression, "{name}");
        assert_eq!(header.producer_id, ProducerId(77));
        assert_eq!((header.producer_epoch, header.base_sequence), (4, 1_000_000));
        let (batch, rest) = RecordBatch::parse(batch).expect(name);
        assert!(rest.is_empty());
        let records: Result<Vec<_>, _> = batch.records(1 << 20).expect(name).collect();
        let records: Vec<_> = records.expect(name).into_iter().map(|r| r.record).collect();
        assert_eq!(records, samples::records(), "{name}");
    }
}

#[test]
fn plain_batch_is_written_as_ever() {
    let now = plimsoll_protocol::fuzzing::sample_batch(Compression::None);
    assert_eq!(hex(&now), BATCHES[0].1.trim(), "the encoding of a batch has changed");
}

#[test]
fn old_compacted_batch_is_readable_and_written_as_ever() {
    let mut now = sample_compacted_batch(Compression::None);
    now.header.seal(0x5eed);
    let written = [&now.header.to_bytes()[..], &now.body].concat();
    assert_eq!(hex(&written), COMPACTED.trim(), "the encoding of a compacted batch has changed");
    let (batch, rest) = RecordBatch::parse(bytes(COMPACTED)).unwrap();
    assert!(rest.is_empty());
    assert!(batch.header.check_header_crc(0x5eed));
    batch.check_body_crc().unwrap();
    assert!(batch.header.compacted);
    assert_eq!((batch.header.base_offset, batch.header.end_offset()), (Offset(1000), Offset(1300)));
    let records: Result<Vec<_>, _> = batch.records(0).unwrap().collect();
    let records: Vec<_> = records.unwrap().into_iter().map(|r| (r.offset, r.record)).collect();
    assert_eq!(records, sample_compacted_records());
}

#[test]
fn old_entry_is_readable_and_written_as_ever() {
    let entry = bytes(ENTRY);
    let (entry_read, rest) = RecordBatch::parse(entry.clone()).unwrap();
    assert!(rest.is_empty());
    assert!(entry_read.header.check_header_crc(0x5eed));
    entry_read.check_body_crc().unwrap();
    assert_eq!(&entry_read.body[..], b"control payload");
    let mut header = BatchHeader::for_entry(EntryKind::Control, b"control payload");
    header.term = Term(3);
    header.index = LogIndex(41);
    header.base_offset = Offset(1000);
    header.append_time_ms = 1_750_000_000_123;
    header.seal(0x5eed);
    assert_eq!(entry_read.header, header);
    assert_eq!(&entry[..96], &header.to_bytes());
}

#[test]
fn old_frames_are_readable_and_written_as_ever() {
    let committed: Vec<(&str, Bytes)> = FRAMES
        .split("\n\n")
        .map(|frame| {
            let (name, text) = frame.trim().split_once('\n').expect("a name and bytes");
            (name, bytes(text))
        })
        .collect();
    let now = named_frames();
    let text: Vec<_> =
        now.iter().map(|(name, frame)| format!("{name}\n{}\n", hex(frame))).collect();
    assert_eq!(committed.len(), now.len(), "frames.hex should be\n{}", text.join("\n"));
    for ((name, frame), (name_now, frame_now)) in committed.iter().zip(&now) {
        assert_eq!(name, name_now);
        assert_eq!(frame, frame_now, "{name} should be\n{}", hex(frame_now));
        let header = FrameHeader::parse(frame.first_chunk().unwrap(), 1 << 20).expect(name);
        let frame = Frame::from_content(header, frame.slice(FRAME_HEADER_BYTES..));
        assert_eq!(frame.body.len() + frame.payload.len(), header.content_bytes());
    }
}
