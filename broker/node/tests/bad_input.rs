//! What hostile or broken clients send: each is answered with a stable code and a message that helps,
//! ends at most its own connection, and harms nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use bytes::{BufMut, Bytes, BytesMut};
use plimsoll_protocol::api::{
    CreateTopicRequest, Done, FetchRequest, HelloRequest, Isolation, PingRequest, Request as _,
    StartPosition,
};
use plimsoll_protocol::batch::{BATCH_HEADER_BYTES, BODY_CRC_FROM, Compression, body_crc};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::frame::{FrameFlags, encode_frame, encode_request};
use plimsoll_protocol::ids::{CorrelationId, Offset, PartitionIndex};
use plimsoll_protocol::wire::Encode;
use plimsoll_transport::TransportKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use support::{
    Client, NOBODY, TestNode, assert_code, batch, build, hello, hello_frame, large,
    produce_request, record, sequenced, subscribe_request, topic, until,
};

const ALL: [TransportKind; 3] = [TransportKind::Quic, TransportKind::Tls, TransportKind::Tcp];

async fn raw(client: &mut Client, bytes: impl Into<Bytes>) {
    client.sender.send_raw(bytes.into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_before_hello_is_answered_and_the_connection_closed() {
    let node = TestNode::start().await;
    for kind in ALL {
        let mut client = Client::new(node.dial(kind).await).await;
        assert_code(client.call(&PingRequest {}, Bytes::new()).await, ErrorCode::HelloRequired);
        client.closed().await;
    }
    node.assert_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_place_of_a_frame_closes_only_its_own_connection() {
    let node = TestNode::start().await;
    for kind in ALL {
        let mut bystander = node.client(kind).await;
        for garbage in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0xff; 64], &[0; 64]] {
            let mut client = Client::new(node.dial(kind).await).await;
            raw(&mut client, garbage.to_vec()).await;
            let error = client.refused().await;
            assert!(
                matches!(error.code, ErrorCode::FrameTooLarge | ErrorCode::MalformedFrame),
                "{error:?}"
            );
            client.closed().await;
        }
        bystander.call(&PingRequest {}, Bytes::new()).await.unwrap();
    }
    node.assert_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_above_the_limit_is_refused_by_its_header() {
    let node = TestNode::start().await;
    for kind in ALL {
        // Before Hello 4 KiB are allowed.
        let mut client = Client::new(node.dial(kind).await).await;
        let mut long = hello();
        long.client_name = "x".repeat(5000);
        assert_code(client.call(&long, Bytes::new()).await, ErrorCode::FrameTooLarge);
        client.closed().await;
        // After it 16 MiB; the header says 1 GiB, and not one more byte comes.
        let mut client = node.client(kind).await;
        let mut header = BytesMut::new();
        header.put_u32_le(1 << 30);
        header.put_u32_le(10);
        header.put_u16_le(8);
        header.put_u8(1);
        header.put_u8(0);
        header.put_u32_le(77);
        raw(&mut client, header).await;
        let frame = client.frame().await;
        assert_eq!(frame.header.correlation, CorrelationId(77), "the request is named");
        let error: ErrorResponse = frame.decode_body().unwrap();
        assert_eq!(error.code, ErrorCode::FrameTooLarge);
        client.closed().await;
    }
    node.assert_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_whose_lengths_contradict_each_other_closes_the_connection() {
    let node = TestNode::start().await;
    for (length, body) in [(0_u32, 0_u32), (11, 0), (12, 1), (100, 89), (100, u32::MAX)] {
        let mut client = node.quic().await;
        let mut header = BytesMut::new();
        header.put_u32_le(length);
        header.put_u32_le(body);
        header.put_bytes(0, 120);
        raw(&mut client, header).await;
        assert_eq!(client.refused().await.code, ErrorCode::MalformedFrame, "{length} {body}");
        client.closed().await;
    }
    node.assert_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_ends_early_is_nobodys_trouble() {
    let node = TestNode::start().await;
    for kind in ALL {
        for cut in [1, 4, 15, 16, 17, 30] {
            let mut client = Client::new(node.dial(kind).await).await;
            raw(&mut client, hello_frame().freeze().slice(..cut)).await;
            client.sender.finish().await.unwrap();
            client.closed().await;
        }
    }
    node.assert_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_says_nothing_is_closed_at_its_deadline() {
    let node = TestNode::start_with(|config| {
        config.set("hello_timeout", "100ms", "test").unwrap();
    })
    .await;
    for kind in ALL {
        let connection = node.dial(kind).await;
        let mut client = Client::new(connection).await;
        raw(&mut client, vec![0x40]).await;
        client.closed().await;
    }
    node.assert_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_apis_and_versions_are_answered_and_the_connection_stays() {
    let node = TestNode::start().await;
    for kind in ALL {
        let mut client = node.client(kind).await;
        for (api, version, code) in [
            (999_u16, 1, ErrorCode::UnknownApi),
            (8, 0, ErrorCode::UnsupportedVersion),
            (8, 9, ErrorCode::UnsupportedVersion),
        ] {
            let head =
                encode_frame(api, version, FrameFlags::REQUEST, CorrelationId(5), &Done {}, 0);
            raw(&mut client, head).await;
            let frame = client.frame().await;
            assert_eq!((frame.header.api, frame.header.version), (api, version));
            assert_eq!(frame.decode_body::<ErrorResponse>().unwrap().code, code);
        }
        client.call(&PingRequest {}, Bytes::new()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protocol_that_nobody_speaks_and_a_wrong_cluster_are_named() {
    let node = TestNode::start().await;
    let future = HelloRequest { protocol_min: 7, protocol_max: 9, ..hello() };
    let mut client = Client::new(node.dial(TransportKind::Quic).await).await;
    assert_code(client.call(&future, Bytes::new()).await, ErrorCode::UnsupportedVersion);
    client.closed().await;
    let stray = HelloRequest { cluster_id: Some("elsewhere".to_owned()), ..hello() };
    let mut client = Client::new(node.dial(TransportKind::Quic).await).await;
    assert_code(client.call(&stray, Bytes::new()).await, ErrorCode::WrongCluster);
    client.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_sent_by_a_client_closes_its_connection() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    let head = encode_frame(1_u16, 1, FrameFlags::RESPONSE, CorrelationId(1), &Done {}, 0);
    raw(&mut client, head).await;
    client.closed().await;
    node.assert_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_cut_at_every_byte_is_answered_and_the_connection_stays() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    client.create("t", 1).await.unwrap();
    let fetch = FetchRequest {
        topic: topic("t"),
        partition: PartitionIndex(0),
        from: Offset(0),
        max_bytes: 0,
        max_wait_ms: 0,
        isolation: Isolation::Committed,
        max_staleness_ms: None,
        any_replica: false,
    };
    let mut bodies: Vec<(u16, BytesMut)> = Vec::new();
    let mut add = |api: u16, body: &dyn Fn(&mut BytesMut)| {
        let mut bytes = BytesMut::new();
        body(&mut bytes);
        bodies.push((api, bytes));
    };
    add(FetchRequest::API.number(), &|out| fetch.encode(out));
    add(8, &|out| produce_request("t", 0).encode(out));
    add(10, &|out| subscribe_request("t", StartPosition::Earliest, 0).encode(out));
    for (api, body) in bodies {
        for cut in 0..body.len() {
            let part = RawBody(body[..cut].to_vec());
            let head = encode_frame(api, 1, FrameFlags::REQUEST, CorrelationId(9), &part, 0);
            raw(&mut client, head).await;
            let error = client.refused().await;
            assert_eq!(error.code, ErrorCode::MalformedFrame, "api {api} cut at {cut}: {error:?}");
        }
    }
    client.call(&PingRequest {}, Bytes::new()).await.unwrap();
}

struct RawBody(Vec<u8>);

impl Encode for RawBody {
    fn encode(&self, out: &mut BytesMut) {
        out.put_slice(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_with_slashes_dots_or_control_characters_are_refused() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    let long = "x".repeat(256);
    for name in ["", ".", "..", "../../etc/passwd", "a/b", "a\0b", "a\nb", "a b", "ü", "__x", &long]
    {
        let mut body = BytesMut::new();
        body.put_u16_le(u16::try_from(name.len()).unwrap());
        body.put_slice(name.as_bytes());
        // The rest of CreateTopic, as it is written for a good name.
        let good = CreateTopicRequest {
            topic: topic("t"),
            partitions: 1,
            replicas: 1,
            config: Default::default(),
            if_not_exists: false,
        };
        let mut rest = BytesMut::new();
        good.encode(&mut rest);
        body.put_slice(&rest[3..]);
        let head = encode_frame(
            4_u16,
            1,
            FrameFlags::REQUEST,
            CorrelationId(3),
            &RawBody(body.to_vec()),
            0,
        );
        raw(&mut client, head).await;
        let error = client.refused().await;
        assert_eq!(error.code, ErrorCode::InvalidTopicName, "{name:?}: {error:?}");
    }
    assert!(node.node.broker().catalog().is_empty());
    node.assert_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_lie_or_are_damaged_are_refused_and_nothing_is_stored() {
    let node = TestNode::start().await;
    for kind in ALL {
        let mut client = node.client(kind).await;
        let name = format!("t-{kind}");
        client.create(&name, 1).await.unwrap();
        let good = batch(0..10);
        let at = |at: usize, bytes: &[u8], seal: bool| {
            let mut batch = BytesMut::from(&good[..]);
            batch[at..at + bytes.len()].copy_from_slice(bytes);
            if seal {
                let crc = body_crc(
                    &batch[BODY_CRC_FROM..BATCH_HEADER_BYTES],
                    &batch[BATCH_HEADER_BYTES..],
                );
                batch[44..48].copy_from_slice(&crc.to_le_bytes());
            }
            batch.freeze()
        };
        let damaged = [
            ("an empty payload", Bytes::new()),
            ("half a header", good.slice(..50)),
            ("cut off", good.slice(..good.len() - 1)),
            ("two batches", [&good[..], &good[..]].concat().into()),
            ("a flipped byte", at(120, &[0xff], false)),
            ("too many records said", at(68, &11_u32.to_le_bytes(), true)),
            ("too few records said", at(68, &9_u32.to_le_bytes(), true)),
            ("no record said", at(68, &0_u32.to_le_bytes(), true)),
            ("a wrong latest time", at(80, &1_i64.to_le_bytes(), true)),
            ("a wrong size of the records", at(88, &1_u32.to_le_bytes(), true)),
            ("a length beyond the payload", at(0, &u32::MAX.to_le_bytes(), true)),
            ("an entry of the broker's own", at(5, &[2], true)),
            ("an unknown format", at(4, &[9], true)),
            ("reserved bits", at(94, &[1, 0], true)),
            ("sequences that overflow", at(56, &u64::MAX.to_le_bytes(), true)),
        ];
        for (what, batch) in damaged {
            let error = client.produce(&name, 0, batch).await.expect_err(what);
            assert_eq!(error.code, ErrorCode::CorruptBatch, "{what}: {error:?}");
        }
        let unknown = at(92, &[7, 0], true);
        assert_code(client.produce(&name, 0, unknown).await, ErrorCode::UnsupportedCompression);
        let (ends, _) = client.fetch(&name, 0, 0).await.unwrap();
        assert_eq!(ends.high_watermark, Offset(0), "nothing was stored");
        client.produce(&name, 0, good.clone()).await.unwrap();
    }
    node.assert_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_batch_that_grows_beyond_the_limit_is_refused() {
    let node = TestNode::start_with(|config| {
        config.set("records_bytes_max", "1 MiB", "test").unwrap();
    })
    .await;
    let mut client = node.quic().await;
    client.create("t", 1).await.unwrap();
    for compression in [Compression::Lz4, Compression::Zstd] {
        let bomb = build(&[record(vec![0; 4 << 20])], &NOBODY, 0, compression);
        assert!(bomb.len() < 1 << 20);
        assert_code(client.produce("t", 0, bomb).await, ErrorCode::BatchTooLarge);
        let fine = build(&[record(vec![0; 1 << 19])], &NOBODY, 0, compression);
        client.produce("t", 0, fine).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_above_the_topics_limit_is_refused() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    client.create_with("t", 1, &["batch-bytes-max=1KiB"]).await.unwrap();
    assert_code(client.produce("t", 0, batch(0..1000)).await, ErrorCode::BatchTooLarge);
    client.produce("t", 0, batch(0..3)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sequences_out_of_order_and_stale_epochs_have_their_codes() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    client.create("t", 1).await.unwrap();
    let producer = client.producer().await;
    client.produce("t", 0, sequenced(0..5, &producer, 0)).await.unwrap();
    let gap = client.produce("t", 0, sequenced(9..10, &producer, 9)).await.unwrap_err();
    assert_eq!((gap.code, gap.offset), (ErrorCode::OutOfOrderSequence, Some(5)));
    let stranger = client.producer().await;
    let outcome = client.produce("t", 0, sequenced(0..1, &stranger, 7)).await;
    assert_code(outcome, ErrorCode::UnknownProducer);
    let existing = Some(producer.clone());
    let init = plimsoll_protocol::api::InitProducerRequest { existing };
    let next = client.call(&init, Bytes::new()).await.unwrap();
    assert_eq!((next.producer_id, next.epoch), (producer.producer_id, producer.epoch + 1));
    client.produce("t", 0, sequenced(5..6, &next, 0)).await.unwrap();
    let outcome = client.produce("t", 0, sequenced(5..6, &producer, 5)).await;
    assert_code(outcome, ErrorCode::StaleProducerEpoch);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_named() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    assert_code(client.produce("absent", 0, batch(0..1)).await, ErrorCode::UnknownTopic);
    assert_code(client.fetch("absent", 0, 0).await, ErrorCode::UnknownTopic);
    let outcome = client.subscribe("absent", StartPosition::Earliest, 0).await;
    assert_code(outcome, ErrorCode::UnknownTopic);
    client.create("t", 2).await.unwrap();
    assert_code(client.create("t", 2).await, ErrorCode::TopicExists);
    assert_code(client.produce("t", 2, batch(0..1)).await, ErrorCode::UnknownPartition);
    let above = client.fetch("t", 0, 1).await;
    assert_code(above, ErrorCode::OffsetOutOfRange);
    assert_code(client.create("none", 0).await, ErrorCode::InvalidArgument);
    assert_code(client.create("many", 100_001).await, ErrorCode::TooManyPartitions);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_claims_four_billion_items_costs_nothing() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    let mut body = BytesMut::new();
    body.put_u16_le(1);
    body.put_slice(b"t");
    body.put_u32_le(0);
    body.put_u32_le(u32::MAX);
    let head =
        encode_frame(13_u16, 1, FrameFlags::REQUEST, CorrelationId(3), &RawBody(body.to_vec()), 0);
    raw(&mut client, head).await;
    assert_eq!(client.refused().await.code, ErrorCode::MalformedFrame);
    client.call(&PingRequest {}, Bytes::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_connections_are_told_so() {
    let node = TestNode::start_with(|config| {
        config.set("connections_per_address_max", "2", "test").unwrap();
    })
    .await;
    for kind in ALL {
        let first = node.client(kind).await;
        let second = node.client(kind).await;
        let mut third = Client::new(node.dial(kind).await).await;
        assert_code(third.call(&hello(), Bytes::new()).await, ErrorCode::TooManyConnections);
        third.closed().await;
        first.connection.close(0, "done");
        second.connection.close(0, "done");
        drop((first, second));
        until("places are given back", || {
            node.node.broker().counters().connections_open.value() == 0
        })
        .await;
    }
    node.assert_serves().await;
}

/// Frames that were announced, begun and not sent to their end once were kept without a bound.
#[tokio::test(flavor = "multi_thread")]
async fn peers_that_stall_in_large_frames_take_bounded_room_and_give_way() {
    const STALLING: usize = 6;
    let node = TestNode::start_with(|config| {
        config.set("receiving_bytes_max", "4 MiB", "test").unwrap();
        config.set("connection_receiving_bytes_max", "2 MiB", "test").unwrap();
        config.set("receive_stall_timeout", "200ms", "test").unwrap();
    })
    .await;
    for kind in ALL {
        let mut client = node.client(kind).await;
        let name = format!("t-{kind}");
        client.create(&name, 1).await.unwrap();
        let batch = large(900 << 10);
        let head = encode_request(CorrelationId(9), &produce_request(&name, 0), batch.len());
        let mut stalling = Vec::new();
        for _ in 0..STALLING {
            let mut peer = node.client(kind).await;
            // 15 MiB are announced, and a part of them comes.
            let head = encode_request(CorrelationId(9), &produce_request(&name, 0), 15 << 20);
            raw(&mut peer, head).await;
            raw(&mut peer, vec![7; 100 << 10]).await;
            stalling.push(peer);
        }
        until("somebody waits for room", || counter(&node, "frames_waiting_for_room") > 0).await;
        assert!(counter(&node, "receiving_bytes") <= 4 << 20);
        // Small frames need none of it, and large ones get it from those who do not use it.
        client.produce(&name, 0, support::batch(0..1)).await.unwrap();
        raw(&mut client, head).await;
        raw(&mut client, batch.slice(..10_000)).await;
        raw(&mut client, batch.slice(10_000..)).await;
        let frame = client.frame().await;
        frame.decode_response::<plimsoll_protocol::api::ProduceRequest>().unwrap();
        let mut cut = stalling.remove(0);
        let error = cut.refused().await;
        assert_eq!((error.code, error.message.contains("room")), (ErrorCode::Timeout, true));
        cut.closed().await;
        drop((cut, stalling));
        until("all room is given back", || counter(&node, "receiving_bytes") == 0).await;
    }
    node.assert_serves().await;
}

/// A connection whose frames wait for what its own frames have was once never ended: not all that
/// waits can be read, and what is unread may be all that flow control allows.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_waits_for_itself_and_does_not_get_on_is_ended() {
    let node = TestNode::start_with(|config| {
        config.set("connection_receiving_bytes_max", "2 MiB", "test").unwrap();
        config.set("receive_stall_timeout", "200ms", "test").unwrap();
    })
    .await;
    let mut client = node.client(TransportKind::Quic).await;
    let mut streams = Vec::new();
    for _ in 0..7 {
        let mut stream = client.stream().await;
        let head = encode_request(CorrelationId(9), &produce_request("t", 0), 15 << 20);
        raw(&mut stream, head).await;
        raw(&mut stream, vec![7; 100 << 10]).await;
        streams.push(stream);
    }
    client.closed().await;
    let reason = client.connection.closed().await;
    assert_eq!(reason.code, u64::from(ErrorCode::Timeout.number()), "{reason:?}");
    until("all room is given back", || counter(&node, "receiving_bytes") == 0).await;
    node.assert_serves().await;
}

/// Peers that read no answers once kept the room of the frames that waited behind those, from all
/// others and for ever.
#[tokio::test(flavor = "multi_thread")]
async fn peers_that_read_no_answers_give_way_to_those_who_wait_for_room() {
    let node = TestNode::start_with(|config| {
        config.set("receiving_bytes_max", "1 MiB", "test").unwrap();
        config.set("connection_in_flight_bytes_max", "1 MiB", "test").unwrap();
        config.set("receive_stall_timeout", "200ms", "test").unwrap();
    })
    .await;
    let batch = large(900 << 10);
    for kind in ALL {
        let mut client = node.client(kind).await;
        let name = format!("t-{kind}");
        client.create(&name, 1).await.unwrap();
        let head = encode_request(CorrelationId(9), &produce_request(&name, 0), batch.len());
        let head = head.freeze();
        client.produce(&name, 0, batch.clone()).await.unwrap();
        let mut deaf = node.client(kind).await;
        // More than any socket or window keeps.
        let request = FetchRequest {
            topic: topic(&name),
            partition: PartitionIndex(0),
            from: Offset(0),
            max_bytes: 0,
            max_wait_ms: 0,
            isolation: Isolation::Committed,
            max_staleness_ms: None,
            any_replica: false,
        };
        for _ in 0..64 {
            deaf.send(&request, Bytes::new()).await;
        }
        let (deaf_head, deaf_batch) = (head.clone(), batch.clone());
        let deaf = tokio::spawn(async move {
            // Until the answers to the first ones cannot be written, and then until it is ended.
            let pieces = [deaf_head, deaf_batch.slice(..10_000), deaf_batch.slice(10_000..)];
            for piece in pieces.iter().cycle() {
                if deaf.sender.send_raw(piece.clone()).await.is_err() {
                    return;
                }
            }
        });
        let mut batches = 0;
        while !deaf.is_finished() {
            batches += 1;
            assert!(batches < 3_000, "a peer by {kind} that reads no answers is let be");
            raw(&mut client, head.clone()).await;
            raw(&mut client, batch.slice(..10_000)).await;
            raw(&mut client, batch.slice(10_000..)).await;
            let frame = client.frame().await;
            frame.decode_response::<plimsoll_protocol::api::ProduceRequest>().unwrap();
        }
        until("all room is given back", || counter(&node, "receiving_bytes") == 0).await;
    }
    node.assert_serves().await;
}

fn counter(node: &TestNode, name: &str) -> u64 {
    let counters = node.node.broker().status_counters();
    counters.into_iter().find(|(found, _)| *found == name).expect("there is such a counter").1
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_batches_wait_for_each_other_where_room_to_check_them_is_short() {
    let node = TestNode::start_with(|config| {
        config.set("checking_bytes_max", "1 MiB", "test").unwrap();
    })
    .await;
    let mut client = node.client(TransportKind::Tcp).await;
    client.create("t", 1).await.unwrap();
    // Each alone is more than there is room for: it is checked when it has all of it.
    let batch = build(&[record(vec![0; 4 << 20])], &NOBODY, 0, Compression::Zstd);
    let mut tasks = tokio::task::JoinSet::new();
    for kind in ALL {
        let mut client = node.client(kind).await;
        let batch = batch.clone();
        tasks.spawn(async move {
            for _ in 0..4 {
                client.send(&produce_request("t", 0), batch.clone()).await;
            }
            for _ in 0..4 {
                let frame = client.frame().await;
                frame.decode_response::<plimsoll_protocol::api::ProduceRequest>().unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let (ends, _) = client.fetch("t", 0, 12).await.unwrap();
    assert_eq!(ends.high_watermark, Offset(12));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_huge_body_is_refused_and_the_connection_stays() {
    let node = TestNode::start().await;
    for kind in ALL {
        let mut client = node.client(kind).await;
        for api in [1_u16, 5, 8, 13] {
            let body = RawBody(vec![1; 1 << 20]);
            let head = encode_frame(api, 1, FrameFlags::REQUEST, CorrelationId(9), &body, 0);
            raw(&mut client, head).await;
            assert_eq!(client.refused().await.code, ErrorCode::FrameTooLarge);
        }
        client.call(&PingRequest {}, Bytes::new()).await.unwrap();
    }
}

/// Peers that say nothing, or not enough, once had no bound but the one on handshakes, which one
/// address could take from all others.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_bounded_per_address_and_others_are_served() {
    const STRANGERS_MAX: usize = 4;
    let node = TestNode::start_with(|config| {
        config.set("unauthenticated_per_address_max", "4", "test").unwrap();
        config.set("handshake_timeout", "1m", "test").unwrap();
        config.set("hello_timeout", "1m", "test").unwrap();
    })
    .await;
    let known = node.client(TransportKind::Tcp).await;
    let counters = node.node.broker().counters();
    let plain = node.node.tcp_addr().unwrap();
    for address in [node.node.addr(), plain] {
        let before = counters.strangers_refused.value();
        let mut silent = Vec::new();
        for _ in 0..STRANGERS_MAX {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut refused = TcpStream::connect(address).await.unwrap();
        // Closed by the node without a word: the end of the stream, or a reset.
        assert_eq!(refused.read(&mut [0]).await.unwrap_or(0), 0);
        // Also one of the silent may have been: who was let in last may leave its place a moment later.
        until("the refusal is counted", || counters.strangers_refused.value() > before).await;
        let other = TcpSocket::new_v4().unwrap();
        other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut other = other.connect(plain).await.unwrap();
        other.write_all(&hello_frame()).await.unwrap();
        assert!(other.read(&mut [0; 64]).await.unwrap() > 16, "another address is answered");
        drop(silent);
        let places_are_back = async {
            loop {
                let mut again = TcpStream::connect(plain).await.unwrap();
                let _ = again.write_all(&hello_frame()).await;
                if again.read(&mut [0; 64]).await.unwrap_or(0) > 16 {
                    break;
                }
            }
        };
        tokio::time::timeout(support::PATIENCE, places_are_back).await.unwrap();
    }
    drop(known);
    node.assert_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_are_told_that_there_is_no_place_are_bounded_too() {
    let node = TestNode::start_with(|config| {
        config.set("connections_per_address_max", "1", "test").unwrap();
    })
    .await;
    let known = node.client(TransportKind::Tcp).await;
    let counters = node.node.broker().counters();
    // They say nothing, so each is waited for until the node has no more patience.
    let mut silent = Vec::new();
    let crowd = async {
        while counters.connections_dropped.value() == 0 {
            silent.push(TcpStream::connect(node.node.tcp_addr().unwrap()).await.unwrap());
        }
    };
    tokio::time::timeout(support::PATIENCE, crowd).await.expect("some are not told");
    drop((known, silent));
    until("places are given back", || counters.connections_open.value() == 0).await;
    node.assert_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_subscriptions_are_told_so_and_places_come_back() {
    let node = TestNode::start_with(|config| {
        config.set("subscriptions_per_connection_max", "1", "test").unwrap();
    })
    .await;
    let mut client = node.client(TransportKind::Tcp).await;
    client.create("t", 1).await.unwrap();
    let first = client.subscribe("t", StartPosition::Latest, 0).await.unwrap();
    client.pushed().await.unwrap();
    let second = client.subscribe("t", StartPosition::Latest, 0).await;
    assert_code(second, ErrorCode::TooManySubscriptions);
    let end = plimsoll_protocol::api::UnsubscribeRequest { subscription: first };
    client.call(&end, Bytes::new()).await.unwrap();
    client.subscribe("t", StartPosition::Latest, 0).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn seeded_garbage_after_hello_never_harms_the_node() {
    let node = TestNode::start().await;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for round in 0..300 {
        let kind = ALL[round % ALL.len()];
        let mut client = node.client(kind).await;
        // A good request with some bytes changed, so that it gets past the first checks.
        let mut frame = BytesMut::new();
        frame.put_slice(&encode_request(CorrelationId(1), &produce_request("t", 0), 200));
        frame.put_slice(&batch(0..30)[..200]);
        for _ in 0..=next() % 4 {
            let at = (next() % frame.len() as u64) as usize;
            frame[at] = next() as u8;
        }
        raw(&mut client, frame).await;
        let _ = client.sender.finish().await;
        client.closed().await;
    }
    node.assert_serves().await;
}
