//! What a node does for clients that behave: storing, reading, pushing, topics; over each transport.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use bytes::Bytes;
use plimsoll_protocol::api::{
    AckLevel, AlterTopicRequest, ConfigChange, CreditRequest, DeleteTopicRequest,
    DescribeTopicRequest, Durability, FetchRequest, InitProducerRequest, Isolation,
    ListOffsetsRequest, ListTopicsRequest, NodeStatusRequest, PartitionCondition, PingRequest,
    ProduceRequest, StartPosition, UnsubscribeRequest,
};
use plimsoll_protocol::batch::Compression;
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::{Offset, PartitionIndex};
use plimsoll_transport::TransportKind;
use support::{
    NOBODY, PATIENCE, TestNode, assert_code, batch, build, eventually, large, produce_request,
    record, sequenced, topic, until, values,
};

const ALL: [TransportKind; 3] = [TransportKind::Quic, TransportKind::Tls, TransportKind::Tcp];

fn describe_request(name: &str) -> DescribeTopicRequest {
    DescribeTopicRequest {
        topic: topic(name),
        first_partition: PartitionIndex(0),
        partitions_max: u32::MAX,
    }
}

fn numbers(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_produced_is_fetched_over_every_transport() {
    let node = TestNode::start().await;
    for kind in ALL {
        let mut client = node.client(kind).await;
        let name = format!("t-{kind}");
        client.create(&name, 3).await.unwrap();
        let first = client.produce(&name, 1, batch(0..10)).await.unwrap();
        assert_eq!((first.base_offset, first.duplicate), (Offset(0), false));
        assert_eq!(first.reached, AckLevel::Quorum);
        assert_eq!(first.durability, Durability::Durable);
        assert!(first.append_time_ms > 1_700_000_000_000);
        let second = client.produce(&name, 1, batch(10..15)).await.unwrap();
        assert_eq!(second.base_offset, Offset(10));
        assert_eq!(client.fetch_values(&name, 1).await, numbers(0..15));
        let (ends, _) = client.fetch(&name, 1, 10).await.unwrap();
        assert_eq!((ends.next_offset, ends.high_watermark), (Offset(15), Offset(15)));
        let (ends, payload) = client.fetch(&name, 0, 0).await.unwrap();
        assert!(payload.is_empty());
        assert_eq!(ends.high_watermark, Offset(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_records_survive_a_crash_and_a_retry_is_stored_once() {
    let mut node = TestNode::start().await;
    let producer = {
        let mut client = node.quic().await;
        client.create("t", 1).await.unwrap();
        let producer = client.producer().await;
        client.produce("t", 0, sequenced(0..5, &producer, 0)).await.unwrap();
        client.produce("t", 0, sequenced(5..9, &producer, 5)).await.unwrap();
        producer
    };
    for life in 0..3 {
        node = if life == 1 { node.restart().await } else { node.crash().await };
        let mut client = node.quic().await;
        let again = client.produce("t", 0, sequenced(5..9, &producer, 5)).await.unwrap();
        assert_eq!((again.base_offset, again.duplicate), (Offset(5), true));
        assert_eq!(client.fetch_values("t", 0).await, numbers(0..9));
    }
    let mut client = node.quic().await;
    let other = client.producer().await;
    assert!(other.producer_id > producer.producer_id, "ids are not given out twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_batches_are_stored_in_order() {
    let node = TestNode::start().await;
    for kind in ALL {
        let mut client = node.client(kind).await;
        let name = format!("t-{kind}");
        client.create(&name, 1).await.unwrap();
        let producer = client.producer().await;
        let request = produce_request(&name, 0);
        for number in 0..200 {
            client.send(&request, sequenced(number..number + 1, &producer, number)).await;
        }
        for _ in 0..200 {
            let frame = client.frame().await;
            frame.decode_response::<ProduceRequest>().unwrap();
        }
        assert_eq!(client.fetch_values(&name, 0).await, numbers(0..200));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn acks_none_is_answered_at_admission_and_stored() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    client.create("t", 1).await.unwrap();
    let request = ProduceRequest { acks: AckLevel::None, ..produce_request("t", 0) };
    let reply = client.call(&request, batch(0..3)).await.unwrap();
    assert_eq!(reply.reached, AckLevel::None);
    // The next one is behind it in the log.
    client.produce("t", 0, batch(3..4)).await.unwrap();
    assert_eq!(client.fetch_values("t", 0).await, numbers(0..4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_pushes_what_is_there_and_what_comes() {
    let node = TestNode::start().await;
    for kind in ALL {
        let mut client = node.client(kind).await;
        let name = format!("t-{kind}");
        client.create(&name, 1).await.unwrap();
        client.produce(&name, 0, batch(0..5)).await.unwrap();
        let mut consumer = node.client(kind).await;
        consumer.subscribe(&name, StartPosition::Earliest, 0).await.unwrap();
        assert_eq!(consumer.pushed_values(5).await, numbers(0..5));
        let mut at_end = node.client(kind).await;
        at_end.subscribe(&name, StartPosition::Latest, 0).await.unwrap();
        let (marker, payload) = at_end.pushed().await.unwrap();
        assert!(payload.is_empty(), "nothing to push, and that is told");
        assert_eq!((marker.next_offset, marker.high_watermark), (Offset(5), Offset(5)));
        for number in 5..20 {
            client.produce(&name, 0, batch(number..number + 1)).await.unwrap();
        }
        assert_eq!(consumer.pushed_values(15).await, numbers(5..20));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_begin_where_they_were_asked_to() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    client.create("t", 1).await.unwrap();
    for (number, time) in [(0, 1_000), (1, 2_000), (2, 3_000)] {
        let timed = record(number.to_string().into_bytes()).with_timestamp_ms(time);
        client.produce("t", 0, build(&[timed], &NOBODY, 0, Compression::None)).await.unwrap();
    }
    for (start, first) in [
        (StartPosition::Earliest, "0"),
        (StartPosition::Offset(Offset(1)), "1"),
        (StartPosition::Time(2_500), "2"),
        (StartPosition::Time(0), "0"),
    ] {
        let mut consumer = node.quic().await;
        consumer.subscribe("t", start, 0).await.unwrap();
        assert_eq!(consumer.pushed_values(1).await[0], first, "{start:?}");
    }
    let positions = vec![
        StartPosition::Earliest,
        StartPosition::Latest,
        StartPosition::Offset(Offset(2)),
        StartPosition::Time(2_000),
        StartPosition::Time(9_000),
    ];
    let request = ListOffsetsRequest { topic: topic("t"), partition: PartitionIndex(0), positions };
    let found = client.call(&request, Bytes::new()).await.unwrap();
    assert_eq!(found.offsets, [0, 3, 2, 1, 3].map(Offset));
    let mut latest = node.quic().await;
    latest.subscribe("t", StartPosition::Latest, 0).await.unwrap();
    client.produce("t", 0, batch(7..8)).await.unwrap();
    assert_eq!(latest.pushed_values(1).await, ["7"]);
    let mut above = node.quic().await;
    let outcome = above.subscribe("t", StartPosition::Offset(Offset(99)), 0).await;
    assert_code(outcome, ErrorCode::OffsetOutOfRange);
}

#[tokio::test(flavor = "multi_thread")]
async fn credit_holds_a_subscription_back_and_others_go_on() {
    let node = TestNode::start().await;
    let mut client = node.client(TransportKind::Tcp).await;
    client.create("slow", 1).await.unwrap();
    client.create("fast", 1).await.unwrap();
    for number in 0..50 {
        client.produce("slow", 0, batch(number..number + 1)).await.unwrap();
        client.produce("fast", 0, batch(number..number + 1)).await.unwrap();
    }
    let mut consumer = node.client(TransportKind::Tcp).await;
    let slow = consumer.subscribe("slow", StartPosition::Earliest, 1).await.unwrap();
    assert_eq!(consumer.pushed_values(1).await, ["0"], "one batch overdraws the credit");
    let fast = consumer.subscribe("fast", StartPosition::Earliest, 0).await.unwrap();
    assert_eq!(consumer.pushed_values(50).await, numbers(0..50), "{fast:?}");
    // Nothing more comes but what credit allows.
    consumer.call(&PingRequest {}, Bytes::new()).await.unwrap();
    consumer.send(&CreditRequest { subscription: slow, bytes: 1 << 20 }, Bytes::new()).await;
    assert_eq!(consumer.pushed_values(49).await, numbers(1..50));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_frame_of_a_subscription_follows_the_answer_to_unsubscribe() {
    let node = TestNode::start().await;
    let mut client = node.client(TransportKind::Tcp).await;
    client.create("t", 1).await.unwrap();
    client.produce("t", 0, batch(0..1)).await.unwrap();
    let subscription = client.subscribe("t", StartPosition::Earliest, 0).await.unwrap();
    let end = client.send(&UnsubscribeRequest { subscription }, Bytes::new()).await;
    loop {
        let frame = client.frame().await;
        if frame.header.correlation == end {
            break;
        }
        assert!(frame.header.flags.is_push());
    }
    client.produce("t", 0, batch(1..2)).await.unwrap();
    client.call(&PingRequest {}, Bytes::new()).await.unwrap();
    until("its place is given back", || {
        node.node.broker().counters().subscriptions_open.value() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_waits_for_records_as_long_as_it_was_asked_to() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    client.create("t", 1).await.unwrap();
    let mut waiting = client.stream().await;
    let fetch = FetchRequest {
        topic: topic("t"),
        partition: PartitionIndex(0),
        from: Offset(0),
        max_bytes: 0,
        max_wait_ms: 60_000,
        isolation: Isolation::Committed,
        max_staleness_ms: None,
        any_replica: false,
    };
    waiting.send(&fetch, Bytes::new()).await;
    client.produce("t", 0, batch(0..2)).await.unwrap();
    assert_eq!(values(waiting.frame().await.payload), numbers(0..2));
    let none = FetchRequest { from: Offset(2), max_wait_ms: 10, ..fetch };
    let (ends, payload) = client.exchange(&none, Bytes::new()).await.unwrap();
    assert!(payload.is_empty());
    assert_eq!(ends.next_offset, Offset(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_listed_described_changed_and_deleted() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    client.create_with("orders", 2, &["retention-ms=1h"]).await.unwrap();
    client.create_with("orders-memory", 1, &["durability=memory"]).await.unwrap();
    client.create("other", 1).await.unwrap();
    let list = ListTopicsRequest { prefix: Some("orders".to_owned()), after: None };
    let listed = client.call(&list, Bytes::new()).await.unwrap();
    let names: Vec<_> = listed.topics.iter().map(|topic| topic.name.as_str()).collect();
    assert_eq!(names, ["orders", "orders-memory"]);
    client.produce("orders", 1, batch(0..4)).await.unwrap();
    let describe = describe_request("orders");
    let described = client.call(&describe, Bytes::new()).await.unwrap();
    assert_eq!(described.partitions.len(), 2);
    assert_eq!(described.partitions[0].condition, PartitionCondition::Asleep, "never used");
    assert_eq!(described.partitions[1].condition, PartitionCondition::Awake);
    assert_eq!(described.partitions[1].high_watermark, Offset(4));
    assert_eq!(described.partitions[1].leader, Some(node.node.broker().identity().node_id));
    let memory = client.produce("orders-memory", 0, batch(0..1)).await.unwrap();
    assert_eq!(memory.durability, Durability::Memory);
    let change = |key: &str, value: &str| AlterTopicRequest {
        topic: topic("orders"),
        partitions: Some(4),
        changes: vec![ConfigChange { key: key.to_owned(), value: Some(value.to_owned()) }],
    };
    let altered = client.call(&change("retention-ms", "2h"), Bytes::new()).await.unwrap();
    assert_eq!((altered.partitions, altered.config.retention_ms), (4, Some(7_200_000)));
    client.produce("orders", 3, batch(0..1)).await.unwrap();
    let outcome = client.call(&change("colour", "red"), Bytes::new()).await;
    assert_code(outcome, ErrorCode::InvalidConfig);
    let mut consumer = node.quic().await;
    consumer.subscribe("orders", StartPosition::Latest, 0).await.unwrap();
    assert!(consumer.pushed().await.unwrap().1.is_empty());
    let delete = DeleteTopicRequest { topic: topic("orders") };
    client.call(&delete, Bytes::new()).await.unwrap();
    assert_code(consumer.pushed().await, ErrorCode::UnknownTopic);
    assert_code(client.produce("orders", 0, batch(0..1)).await, ErrorCode::UnknownTopic);
    // Of the same name, and another topic: nothing of the old one is in it.
    client.create("orders", 1).await.unwrap();
    let stored = client.produce("orders", 0, batch(9..10)).await.unwrap();
    assert_eq!(stored.base_offset, Offset(0));
}

/// What is listed and described once had to fit one frame, and a client could not read more.
#[tokio::test(flavor = "multi_thread")]
async fn large_catalogs_are_listed_and_described_in_pages() {
    const TOPICS: usize = 300;
    const PARTITIONS: u32 = 100_000;
    let node = TestNode::start_with(|config| {
        config.set("frame_bytes_max", "128 KiB", "test").unwrap();
        config.set("batch_bytes_max", "32 KiB", "test").unwrap();
        config.set("delivery_bytes", "32 KiB", "test").unwrap();
    })
    .await;
    let mut client = node.client(TransportKind::Tcp).await;
    client.receiver.set_max_frame_bytes(128 << 10);
    let name = |number: usize| format!("{}-{number:05}", "x".repeat(200));
    for number in 0..TOPICS {
        client.create(&name(number), 1).await.unwrap();
    }
    client.create("y", 1).await.unwrap();
    let mut listed = Vec::new();
    let mut list = ListTopicsRequest { prefix: Some("x".to_owned()), after: None };
    let mut pages = 0;
    loop {
        let page = client.call(&list, Bytes::new()).await.unwrap();
        listed.extend(page.topics.into_iter().map(|topic| topic.name));
        list.after = listed.last().cloned();
        pages += 1;
        if !page.has_more {
            break;
        }
    }
    let expected: Vec<_> = (0..TOPICS).map(|number| topic(&name(number))).collect();
    assert_eq!(listed, expected, "each once, in order, and no other");
    assert!(pages > 1);
    client.create("wide", PARTITIONS).await.unwrap();
    let mut describe = describe_request("wide");
    let mut described = 0;
    while described < PARTITIONS {
        describe.first_partition = PartitionIndex(described);
        let page = client.call(&describe, Bytes::new()).await.unwrap();
        assert_eq!(page.topic.partitions, PARTITIONS);
        assert!(!page.partitions.is_empty());
        for shown in page.partitions {
            assert_eq!(shown.partition, PartitionIndex(described));
            described += 1;
        }
    }
    describe.first_partition = PartitionIndex(PARTITIONS);
    assert!(client.call(&describe, Bytes::new()).await.unwrap().partitions.is_empty());
    let only_the_topic = DescribeTopicRequest { partitions_max: 0, ..describe_request("wide") };
    let page = client.call(&only_the_topic, Bytes::new()).await.unwrap();
    assert!(page.partitions.is_empty());
}

/// A topic that was deleted after a subscription had found it, and before the subscription had begun
/// to watch the catalog, once left it waiting for ever: its group was never woken again.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_deleted_while_its_partition_wakes_ends_whoever_waits_for_its_records() {
    let node = TestNode::start().await;
    let mut client = node.client(TransportKind::Tcp).await;
    let fetch = FetchRequest {
        topic: topic("t"),
        partition: PartitionIndex(0),
        from: Offset(0),
        max_bytes: 0,
        max_wait_ms: 60_000,
        isolation: Isolation::Committed,
        max_staleness_ms: None,
        any_replica: false,
    };
    for round in 0..30 {
        client.create("t", 1).await.unwrap();
        // Waking a partition that was never used takes two journal writes, deleting its topic one.
        let subscribe = support::subscribe_request("t", StartPosition::Earliest, 0);
        let mut waiting = vec![
            client.send(&subscribe, Bytes::new()).await,
            client.send(&fetch, Bytes::new()).await,
        ];
        let delete = client.send(&DeleteTopicRequest { topic: topic("t") }, Bytes::new()).await;
        let mut deleted = false;
        while !(deleted && waiting.is_empty()) {
            let frame = client.frame().await;
            let correlation = frame.header.correlation;
            if correlation == delete {
                frame.decode_response::<DeleteTopicRequest>().unwrap();
                deleted = true;
            } else if frame.header.flags.is_error() {
                let error: ErrorResponse = frame.decode_body().unwrap();
                assert_eq!(error.code, ErrorCode::UnknownTopic, "round {round}: {error:?}");
                waiting.retain(|other| *other != correlation);
            } else {
                assert_eq!(correlation, waiting[0], "round {round}: only what is pushed is no end");
            }
        }
    }
}

/// The deletion once ran in the task of its request, which ended with its connection: what was left
/// of the topic stayed on the disk until the next start.
#[tokio::test(flavor = "multi_thread")]
async fn a_topics_files_go_even_when_the_peer_or_the_node_goes_before_they_are_gone() {
    const PARTITIONS: u32 = 64;
    let mut node = TestNode::start().await;
    for crash in [false, true] {
        // Over QUIC a node learns at once that its peer is gone.
        let mut client = node.quic().await;
        client.create("t", PARTITIONS).await.unwrap();
        for partition in 0..PARTITIONS {
            client.produce("t", partition, batch(0..1)).await.unwrap();
        }
        let stored = || node.node.broker().store().groups().len();
        assert_eq!(stored(), 1 + PARTITIONS as usize, "the catalog's and the topic's groups");
        client.send(&DeleteTopicRequest { topic: topic("t") }, Bytes::new()).await;
        until("the deletion is decided", || node.node.broker().catalog().is_empty()).await;
        if crash {
            node = node.crash().await;
        } else {
            client.connection.close(0, "gone");
            drop(client);
        }
        until("its groups are gone", || node.node.broker().store().groups().len() == 1).await;
    }
    node.assert_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_sleep_when_idle_and_wake_for_producers_and_their_consumers() {
    let node = TestNode::start_with(|config| {
        config.set("sleep_after", "100ms", "test").unwrap();
    })
    .await;
    let mut client = node.quic().await;
    client.create("t", 1).await.unwrap();
    client.produce("t", 0, batch(0..2)).await.unwrap();
    let mut consumer = node.quic().await;
    consumer.subscribe("t", StartPosition::Earliest, 0).await.unwrap();
    assert_eq!(consumer.pushed_values(2).await, numbers(0..2));
    let describe = describe_request("t");
    let high_watermark = eventually("the partition sleeps", async || {
        let described = client.call(&describe, Bytes::new()).await.unwrap();
        let found = &described.partitions[0];
        (found.condition == PartitionCondition::Asleep).then_some(found.high_watermark)
    })
    .await;
    assert_eq!(high_watermark, Offset(2));
    client.produce("t", 0, batch(2..3)).await.unwrap();
    assert_eq!(consumer.pushed_values(1).await, ["2"], "subscriptions outlive the sleep");
    assert_eq!(client.fetch_values("t", 0).await, numbers(0..3));
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_drops_the_front_and_tells_those_who_ask_for_it() {
    let node = TestNode::start_with(|config| {
        config.set("retention_interval", "100ms", "test").unwrap();
    })
    .await;
    let mut client = node.quic().await;
    let settings = ["segment-bytes=64KiB", "retention-bytes=128KiB"];
    client.create_with("t", 1, &settings).await.unwrap();
    for _ in 0..40 {
        let batch = large(16 << 10);
        client.produce("t", 0, batch).await.unwrap();
    }
    let describe = describe_request("t");
    let start = eventually("the front is dropped", async || {
        let described = client.call(&describe, Bytes::new()).await.unwrap();
        Some(described.partitions[0].log_start_offset).filter(|start| *start > Offset(0))
    })
    .await;
    let error = client.fetch("t", 0, 0).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::OffsetOutOfRange);
    assert!(error.offset >= Some(start.0), "the log start is told: {error:?}");
    let mut consumer = node.quic().await;
    consumer.subscribe("t", StartPosition::Earliest, 0).await.unwrap();
    consumer.pushed().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_consumer_is_told_when_retention_has_passed_it() {
    let node = TestNode::start_with(|config| {
        config.set("retention_interval", "100ms", "test").unwrap();
    })
    .await;
    let mut client = node.client(TransportKind::Tcp).await;
    let settings = ["segment-bytes=64KiB", "retention-bytes=128KiB"];
    client.create_with("t", 1, &settings).await.unwrap();
    client.produce("t", 0, batch(0..1)).await.unwrap();
    let mut consumer = node.client(TransportKind::Tcp).await;
    let slow = consumer.subscribe("t", StartPosition::Earliest, 1).await.unwrap();
    assert_eq!(consumer.pushed_values(1).await, ["0"]);
    let describe = describe_request("t");
    loop {
        for _ in 0..10 {
            client.produce("t", 0, large(16 << 10)).await.unwrap();
        }
        let described = client.call(&describe, Bytes::new()).await.unwrap();
        if described.partitions[0].log_start_offset > Offset(1) {
            break;
        }
    }
    consumer.send(&CreditRequest { subscription: slow, bytes: 1 << 20 }, Bytes::new()).await;
    let error = consumer.pushed().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::OffsetOutOfRange);
    assert!(error.offset > Some(1), "the log start is told: {error:?}");
    // Its connection goes on, and it can go on from there.
    let start = StartPosition::Offset(Offset(error.offset.unwrap()));
    match consumer.subscribe("t", start, 0).await {
        Ok(_) => assert!(!consumer.pushed().await.unwrap().1.is_empty()),
        Err(passed_again) => assert_eq!(passed_again.code, ErrorCode::OffsetOutOfRange),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_shutdown_answers_what_it_has_and_says_why_it_ends() {
    let node = TestNode::start().await;
    for kind in ALL {
        let mut client = node.client(kind).await;
        client.create(&format!("t-{kind}"), 1).await.unwrap();
    }
    let mut producer = node.quic().await;
    let mut consumer = node.client(TransportKind::Tls).await;
    consumer.subscribe("t-tls", StartPosition::Latest, 0).await.unwrap();
    assert!(consumer.pushed().await.unwrap().1.is_empty());
    for number in 0..20 {
        producer.send(&produce_request("t-quic", 0), batch(number..number + 1)).await;
    }
    // Once one is answered the node has begun with them.
    let mut acknowledged = 0;
    producer.frame().await.decode_response::<ProduceRequest>().unwrap();
    acknowledged += 1;
    let node = tokio::spawn(node.restart());
    assert_code(consumer.pushed().await, ErrorCode::ShuttingDown);
    while let Some(frame) = producer.receive().await {
        if frame.decode_response::<ProduceRequest>().is_ok() {
            acknowledged += 1;
        }
    }
    let node = node.await.unwrap();
    let mut client = node.quic().await;
    let stored = client.fetch_values("t-quic", 0).await;
    assert!(stored.len() >= acknowledged, "{acknowledged} acknowledged, {} stored", stored.len());
    assert_eq!(stored, numbers(0..stored.len() as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_does_not_read_holds_up_nobody_else() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    client.create("t", 1).await.unwrap();
    for _ in 0..48 {
        let batch = large(512 << 10);
        client.produce("t", 0, batch).await.unwrap();
    }
    let mut stuck = Vec::new();
    for kind in ALL {
        let mut consumer = node.client(kind).await;
        consumer.subscribe("t", StartPosition::Earliest, 0).await.unwrap();
        // 24 MiB are more than all windows and buffers take; nothing of it is read for now.
        stuck.push(consumer);
    }
    let mut other = node.quic().await;
    other.subscribe("t", StartPosition::Earliest, 0).await.unwrap();
    let mut bytes = 0;
    while bytes < 24 << 20 {
        bytes += other.pushed().await.unwrap().1.len();
    }
    client.produce("t", 0, batch(0..1)).await.unwrap();
    for mut consumer in stuck {
        let mut bytes = 0;
        while bytes < 24 << 20 {
            bytes += consumer.pushed().await.unwrap().1.len();
        }
    }
}

/// A producer that never read its acknowledgements once kept the bytes it had in flight from
/// everybody else, for as long as it liked.
#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_does_not_read_its_answers_holds_up_nobody_else() {
    let node = TestNode::start_with(|config| {
        config.set("in_flight_bytes_max", "1 MiB", "test").unwrap();
        config.set("connection_in_flight_bytes_max", "1 MiB", "test").unwrap();
    })
    .await;
    let mut client = node.client(TransportKind::Tcp).await;
    client.create("t", 1).await.unwrap();
    client.produce("t", 0, large(512 << 10)).await.unwrap();
    for kind in ALL {
        let mut deaf = node.client(kind).await;
        // Answers of half a MiB that nobody reads fill the way back.
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
        for _ in 0..100 {
            deaf.send(&fetch, Bytes::new()).await;
        }
        for _ in 0..3 {
            deaf.send(&produce_request("t", 0), large(300 << 10)).await;
        }
        for _ in 0..20 {
            client.produce("t", 0, large(200 << 10)).await.unwrap();
        }
        drop(deaf);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_does_not_wait_for_those_who_take_nothing() {
    let node = TestNode::start_with(|config| {
        config.set("shutdown_timeout", "10m", "test").unwrap();
    })
    .await;
    let mut client = node.quic().await;
    client.create("t", 1).await.unwrap();
    for _ in 0..48 {
        client.produce("t", 0, large(512 << 10)).await.unwrap();
    }
    let mut stuck = Vec::new();
    for kind in ALL {
        let mut consumer = node.client(kind).await;
        consumer.subscribe("t", StartPosition::Earliest, 0).await.unwrap();
        let mut starved = node.client(kind).await;
        starved.subscribe("t", StartPosition::Earliest, 1).await.unwrap();
        stuck.push((consumer, starved));
    }
    let node = tokio::time::timeout(PATIENCE, node.restart()).await.expect("it ends by itself");
    drop(stuck);
    node.assert_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_flight_bytes_bound_producers_without_losing_anything() {
    let node = TestNode::start_with(|config| {
        config.set("in_flight_bytes_max", "1 MiB", "test").unwrap();
        config.set("connection_in_flight_bytes_max", "1 MiB", "test").unwrap();
    })
    .await;
    let mut client = node.quic().await;
    client.create("t", 1).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let mut client = node.quic().await;
        tasks.spawn(async move {
            for _ in 0..8 {
                let batch = large(600 << 10);
                client.send(&produce_request("t", 0), batch).await;
            }
            for _ in 0..8 {
                client.frame().await.decode_response::<ProduceRequest>().unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let (ends, _) = client.fetch("t", 0, 0).await.unwrap();
    assert_eq!(ends.high_watermark, Offset(32));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_counts_what_was_done() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    client.create("t", 1).await.unwrap();
    client.produce("t", 0, batch(0..5)).await.unwrap();
    let status = client.call(&NodeStatusRequest {}, Bytes::new()).await.unwrap();
    let value = |name: &str| {
        let counter = status.counters.iter().find(|counter| counter.name == name);
        counter.unwrap_or_else(|| panic!("no counter {name}")).value
    };
    assert_eq!(value("records_produced"), 5);
    assert_eq!(value("batches_produced"), 1);
    assert_eq!(value("connections_open"), 1);
    assert_eq!(value("panics"), 0);
    assert_eq!(status.cluster_id.len(), 32);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_live_in_one_process() {
    let (first, second) = (TestNode::start().await, TestNode::start().await);
    let mut client = first.quic().await;
    client.create("only-here", 1).await.unwrap();
    assert!(second.node.broker().catalog().is_empty());
    first.assert_serves().await;
    second.assert_serves().await;
    let existing = Some(client.producer().await);
    client.call(&InitProducerRequest { existing }, Bytes::new()).await.unwrap();
}
