//! Every shape of record arrives as it was sent, on the partition that was chosen.

use bytes::Bytes;
use plimsoll_client::{
    AckLevel, Compression, Durability, Offset, Partitioner, Record, StartPosition, TypedConsumer,
    TypedProducer, partition_of_key,
};
use plimsoll_tests::{Random, TRANSPORTS, TestNode, within};
use plimsoll_transport::TransportKind;
use serde::{Deserialize, Serialize};

use crate::{numbered, produce, stored};

const COMPRESSIONS: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];

fn shapes() -> Vec<Record> {
    let mut random = Random::seeded(1);
    let full = Record {
        key: Some("key".into()),
        value: Some("value".into()),
        headers: Record::new("").with_header("trace", "1-2-3").with_header("", "").headers,
        timestamp_ms: 1_700_000_000_000,
        deliver_at_ms: Some(1_700_000_060_000),
        expires_at_ms: Some(1_600_000_000_000),
        priority: Some(9),
        group_key: Some("group".into()),
    };
    let tombstone = Record { value: None, timestamp_ms: 5, ..Record::new("").with_key("gone") };
    let empty = Record::new("").with_key("").with_timestamp_ms(1);
    let large = Record::new(random.bytes(3 << 20)).with_timestamp_ms(2);
    let text = Record::new("the same again; ".repeat(10_000)).with_timestamp_ms(3);
    vec![full, tombstone, empty, large, text]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shape_of_record_survives_every_transport_and_compression() {
    let node = TestNode::start().await;
    for transport in TRANSPORTS {
        for compression in COMPRESSIONS {
            let topic = format!("{transport}-{compression:?}");
            node.create_topic(&topic, 1, &[]).await;
            let client = node.client(transport).await;
            let builder = client.producer(&topic).compression(compression);
            let producer = within("build", builder.build()).await.expect("a producer");
            let mut acks = Vec::new();
            for record in shapes() {
                acks.push(producer.enqueue(record).await.expect("it is taken"));
            }
            for (offset, ack) in (0..).zip(acks) {
                let ack = within("an acknowledgement", ack).await.expect("it is acknowledged");
                assert_eq!((ack.partition, ack.offset), (0, Some(Offset(offset))));
                assert_eq!((ack.reached, ack.duplicate), (AckLevel::Quorum, false));
            }
            let builder = client.consumer(&topic).from(StartPosition::Earliest).bounded();
            let mut consumer = within("subscribe", builder.build()).await.expect("a consumer");
            for (offset, sent) in (0..).zip(shapes()) {
                let found = within("a record", consumer.next()).await.expect("there is more");
                let found = found.expect("it can be read");
                assert_eq!(found.offset, Offset(offset));
                assert_eq!(found.record, sent, "{topic}");
                assert!(found.append_time_ms > 1_700_000_000_000);
            }
            assert!(within("the end", consumer.next()).await.is_none());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn single_records_of_many_tasks_are_all_stored_once() {
    let node = TestNode::start().await;
    node.create_topic("t", 3, &[]).await;
    for transport in TRANSPORTS {
        let client = node.client(transport).await;
        let producer = within("build", client.producer("t").build()).await.expect("a producer");
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..16 {
            let producer = producer.clone();
            tasks.spawn(async move {
                for number in 0..100 {
                    let record = Record::new(format!("{transport} {task} {number}"));
                    within("an ack", producer.send(record)).await.expect("it is acknowledged");
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.expect("no task panics");
        }
    }
    let mut found = stored(&node.client(TransportKind::Quic).await, "t").await;
    found.sort();
    let before = found.len();
    found.dedup();
    assert_eq!((before, found.len()), (3 * 16 * 100, 3 * 16 * 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_key_share_a_partition_and_keep_their_order() {
    let node = TestNode::start().await;
    node.create_topic("t", 8, &[]).await;
    let client = node.client(TransportKind::Quic).await;
    let builder = client.producer("t").partitioner(Partitioner::Hash);
    let producer = within("build", builder.build()).await.expect("a producer");
    let key = |number: u64| format!("key {}", number % 20);
    for number in 0..400 {
        let record = Record::new(format!("{number}")).with_key(key(number));
        drop(producer.enqueue(record).await.expect("it is taken"));
    }
    within("flush", producer.flush()).await.expect("all are acknowledged");

    let builder = client.consumer("t").from(StartPosition::Earliest).bounded();
    let mut consumer = within("subscribe", builder.build()).await.expect("a consumer");
    let mut last = std::collections::HashMap::new();
    let mut count = 0;
    while let Some(found) = within("a record", consumer.next()).await {
        let found = found.expect("it can be read");
        let key: Bytes = found.record.key.expect("a key was sent");
        assert_eq!(found.partition, partition_of_key(&key, 8));
        let number: u64 = crate::text(found.record.value).parse().expect("a number was sent");
        assert!(last.insert(key, number).is_none_or(|before| before < number));
        count += 1;
    }
    assert_eq!((count, last.len()), (400, 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_says_what_was_reached() {
    let node = TestNode::start().await;
    node.create_topic("durable", 1, &[]).await;
    node.create_topic("memory", 1, &["durability=memory"]).await;
    for transport in TRANSPORTS {
        let client = node.client(transport).await;
        for (topic, durability) in
            [("durable", Durability::Durable), ("memory", Durability::Memory)]
        {
            for acks in [AckLevel::None, AckLevel::Leader, AckLevel::Quorum] {
                let build = client.producer(topic).acks(acks).build();
                let producer = within("build", build).await.expect("a producer");
                let send = producer.send(Record::new("value"));
                let ack = within("an ack", send).await.expect("it is acknowledged");
                assert_eq!((ack.reached >= acks, ack.durability), (true, durability), "{ack:?}");
                assert_eq!(ack.offset.is_some(), acks != AckLevel::None, "{ack:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_producers_and_a_reader_share_a_partition() {
    let node = TestNode::start().await;
    node.create_topic("t", 1, &[]).await;
    let client = node.client(TransportKind::Quic).await;
    let first = within("build", client.producer("t").build()).await.expect("a producer");
    let second = within("build", client.producer("t").build()).await.expect("a producer");
    tokio::join!(produce(&first, numbered(0..500)), produce(&second, numbered(500..1_000)));
    let found = stored(&client, "t").await;
    let of = |range: std::ops::Range<u64>| {
        let own: Vec<_> = numbered(range).collect();
        found.iter().filter(|value| own.contains(value)).cloned().collect::<Vec<_>>()
    };
    assert!(of(0..500).into_iter().eq(numbered(0..500)));
    assert!(of(500..1_000).into_iter().eq(numbered(500..1_000)));
    assert_eq!(found.len(), 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn typed_values_arrive_as_values() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Order {
        customer: u64,
        pieces: Vec<String>,
    }
    let node = TestNode::start().await;
    node.create_topic("orders", 1, &[]).await;
    let client = node.client(TransportKind::Tls).await;
    let producer = within("build", client.producer("orders").build()).await.expect("a producer");
    let orders: TypedProducer<Order> = TypedProducer::new(producer);
    let order = Order { customer: 7, pieces: vec!["blue".to_owned(), "grün".to_owned()] };
    within("send", orders.send(Some("7".into()), &order)).await.expect("it is acknowledged");
    let queued = within("room", orders.enqueue(None, &order)).await.expect("it is taken");
    within("an acknowledgement", queued).await.expect("it is acknowledged");
    let consumer = within("build", client.consumer("orders").build()).await.expect("a consumer");
    let mut orders: TypedConsumer<Order> = TypedConsumer::new(consumer);
    for _ in 0..2 {
        let next = within("a value", orders.next()).await;
        let found = next.expect("there is one").expect("an order");
        assert_eq!(found.value.as_ref(), Some(&order));
    }
}
