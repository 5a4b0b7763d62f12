//! Frames worth sending to a node: valid ones of every kind, and what can be done to them.

use bytes::Bytes;
use plimsoll_protocol::api::{
    AckLevel, AlterTopicRequest, CreditRequest, DescribeTopicRequest, FetchRequest, HelloRequest,
    InitProducerRequest, Isolation, ListOffsetsRequest, NodeStatusRequest, ProduceRequest, Request,
    StartPosition, SubscribeRequest, UnsubscribeRequest,
};
use plimsoll_protocol::batch::{
    BATCH_HEADER_BYTES, BatchBuilder, BatchHeader, BatchLimits, Compression, RecordView,
};
use plimsoll_protocol::frame::{FRAME_HEADER_BYTES, encode_request};
use plimsoll_protocol::fuzzing;
use plimsoll_protocol::ids::{CorrelationId, Offset, PartitionIndex, ProducerId, TopicName};
use plimsoll_tests::Random;

/// A topic that exists and that valid frames are about.
pub(crate) const TOPIC: &str = "the-target";

/// Numbers that break arithmetic.
const EXTREMES: [u32; 9] =
    [0, 1, 15, 16, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFF0, 0xFFFF_FFFF, 16 << 20];

/// What a connection must begin with to be listened to.
pub(crate) fn hello() -> Vec<u8> {
    request(&HelloRequest {
        protocol_min: 1,
        protocol_max: 1,
        client_name: "attacker".to_owned(),
        client_version: "0".to_owned(),
        cluster_id: None,
    })
}

/// Valid frames: one of every kind there is, and requests about a topic that exists.
pub(crate) fn valid() -> Vec<Vec<u8>> {
    let target = fuzzing::TARGETS.iter().find(|target| target.name == "frame");
    let mut frames = (target.expect("the fuzzer knows frames").seeds)();
    let topic = TopicName::new(TOPIC).expect("a valid name");
    let partition = PartitionIndex(1);
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let acks = AckLevel::Leader;
        let produce = ProduceRequest { topic: topic.clone(), partition, acks, fence: None };
        frames.push(request_with(&produce, &batch(compression)));
    }
    frames.extend([
        hello(),
        request(&InitProducerRequest { existing: None }),
        request(&DescribeTopicRequest {
            topic: topic.clone(),
            first_partition: PartitionIndex(0),
            partitions_max: 100,
        }),
        request(&FetchRequest {
            topic: topic.clone(),
            partition,
            from: Offset(0),
            max_bytes: 1 << 20,
            max_wait_ms: 60_000,
            isolation: Isolation::Committed,
            max_staleness_ms: None,
            any_replica: false,
        }),
        request(&SubscribeRequest {
            topic: topic.clone(),
            partition,
            start: StartPosition::Earliest,
            max_frame_bytes: 1 << 16,
            credit_bytes: 1 << 16,
            isolation: Isolation::Committed,
            max_staleness_ms: None,
            any_replica: false,
            whole: false,
        }),
        request(&CreditRequest { subscription: CorrelationId(7), bytes: u64::MAX }),
        request(&UnsubscribeRequest { subscription: CorrelationId(7) }),
        request(&ListOffsetsRequest {
            topic: topic.clone(),
            partition,
            positions: vec![StartPosition::Time(0); 100],
        }),
        request(&AlterTopicRequest { topic, partitions: Some(3), changes: Vec::new() }),
        request(&NodeStatusRequest {}),
    ]);
    frames
}

/// One of `valid`, damaged in a random way.
pub(crate) fn damaged(valid: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut frame = random.choose(valid).clone();
    match random.within(0..8) {
        0 => flip_bytes(&mut frame, random),
        1 => frame.truncate(random.within(0..frame.len() as u64) as usize),
        2 => overwrite(&mut frame, 0, random),
        3 => overwrite(&mut frame, 4, random),
        4 => {
            let places = frame.len().saturating_sub(4) as u64;
            overwrite(&mut frame, random.within(0..places.max(1)) as usize, random);
        }
        5 => {
            let length = random.within(1..2_000) as usize;
            frame = random.bytes(length);
        }
        6 => lie_in_the_batch(&mut frame, random),
        // A valid frame where it may not belong.
        _ => {}
    }
    frame
}

fn flip_bytes(frame: &mut [u8], random: &mut Random) {
    for _ in 0..random.within(1..8) {
        let place = random.within(0..frame.len() as u64) as usize;
        frame[place] ^= 1 << random.within(0..8);
    }
}

fn overwrite(frame: &mut [u8], place: usize, random: &mut Random) {
    let number = *random.choose(&EXTREMES);
    if let Some(field) = frame.get_mut(place..place + 4) {
        field.copy_from_slice(&number.to_le_bytes());
    }
}

/// Damages the batch of a produce request and mends its checksum, as an attacker would.
fn lie_in_the_batch(frame: &mut [u8], random: &mut Random) {
    let Some(body) = frame.get(4..8).and_then(|field| field.try_into().ok()) else { return };
    let start = FRAME_HEADER_BYTES + u32::from_le_bytes(body) as usize;
    let Some(batch) = frame.get_mut(start..) else { return };
    if batch.len() <= BATCH_HEADER_BYTES {
        return flip_bytes(frame, random);
    }
    flip_bytes(&mut batch[48..], random);
    if let Ok(mut header) = BatchHeader::parse(batch) {
        header.body_crc = header.compute_body_crc(&batch[BATCH_HEADER_BYTES..]);
        batch[..BATCH_HEADER_BYTES].copy_from_slice(&header.to_bytes());
    }
}

fn batch(compression: Compression) -> Bytes {
    let mut batch = BatchBuilder::new(BatchLimits::default());
    for number in 0..50 {
        let value = format!("record {number} of fifty");
        let outcome = batch.push(RecordView::new(value.as_bytes()));
        assert_eq!(outcome, Ok(plimsoll_protocol::batch::PushOutcome::Added));
    }
    batch.finish(ProducerId::NONE, 0, 0, compression)
}

fn request<R: Request>(request: &R) -> Vec<u8> {
    request_with(request, &[])
}

fn request_with<R: Request>(request: &R, payload: &[u8]) -> Vec<u8> {
    let mut frame = encode_request(CorrelationId(7), request, payload.len()).to_vec();
    frame.extend_from_slice(payload);
    frame
}
