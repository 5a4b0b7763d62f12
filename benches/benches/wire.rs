//! What is done once per request or record on the way in and out: frame headers, request bodies,
//! the partition of a key.
//!
//! `cargo bench -p plimsoll-bench --bench wire`

use divan::{Bencher, black_box};
use plimsoll_client::partition_of_key;
use plimsoll_protocol::api::{AckLevel, ProduceRequest};
use plimsoll_protocol::frame::{FRAME_HEADER_BYTES, Frame, FrameHeader, encode_request};
use plimsoll_protocol::ids::{CorrelationId, PartitionIndex, TopicName};

fn main() {
    divan::main();
}

fn produce() -> ProduceRequest {
    let topic = TopicName::new("orders.europe").expect("a valid name");
    ProduceRequest { topic, partition: PartitionIndex(7), acks: AckLevel::Quorum, fence: None }
}

#[divan::bench]
fn encode_produce_request(bencher: Bencher<'_, '_>) {
    let request = produce();
    bencher.bench(|| encode_request(CorrelationId(1), black_box(&request), 1 << 20));
}

#[divan::bench]
fn parse_produce_request(bencher: Bencher<'_, '_>) {
    let bytes = encode_request(CorrelationId(1), &produce(), 0).freeze();
    bencher.bench(|| {
        let head = black_box(&bytes).first_chunk::<FRAME_HEADER_BYTES>().expect("a whole frame");
        let header = FrameHeader::parse(head, 16 << 20).expect("a valid frame");
        let frame = Frame::from_content(header, bytes.slice(FRAME_HEADER_BYTES..));
        frame.decode_body::<ProduceRequest>().expect("a valid body")
    });
}

#[divan::bench(args = [8, 36, 200])]
fn partition_of_a_key(bencher: Bencher<'_, '_>, key_bytes: usize) {
    let key: Vec<u8> = (0..key_bytes).map(|at| at as u8).collect();
    bencher.bench(|| partition_of_key(black_box(&key), 12));
}
