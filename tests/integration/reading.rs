//! From an offset, from a time, to an end, pushed as it comes, slowly.

use plimsoll_client::{ConsumeError, ErrorCode, Offset, Record, StartPosition};
use plimsoll_tests::{Random, TRANSPORTS, TestNode, within};
use plimsoll_transport::TransportKind;

use crate::{numbered, produce, stored, take};

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_consumer_is_pushed_each_record() {
    let node = TestNode::start().await;
    for transport in TRANSPORTS {
        let topic = transport.name();
        node.create_topic(topic, 1, &[]).await;
        let client = node.client(transport).await;
        let producer = within("build", client.producer(topic).build()).await.expect("a producer");
        let build = client.consumer(topic).from(StartPosition::Earliest).build();
        let mut consumer = within("subscribe", build).await.expect("a consumer");
        for value in numbered(0..50) {
            produce(&producer, [value.clone()]).await;
            assert_eq!(take(&mut consumer, 1).await, [value]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bounded_consumer_ends_where_the_log_ended() {
    let node = TestNode::start().await;
    node.create_topic("t", 3, &[]).await;
    let client = node.client(TransportKind::Quic).await;
    assert!(stored(&client, "t").await.is_empty());
    let producer = within("build", client.producer("t").build()).await.expect("a producer");
    produce(&producer, numbered(0..10)).await;
    assert!(stored(&client, "t").await.into_iter().eq(numbered(0..10)));
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_begins_at_the_offset_in_the_middle_of_a_batch() {
    let node = TestNode::start().await;
    node.create_topic("t", 1, &[]).await;
    for transport in TRANSPORTS {
        let client = node.client(transport).await;
        if transport == TRANSPORTS[0] {
            let producer = within("build", client.producer("t").build()).await.expect("one");
            produce(&producer, numbered(0..100)).await;
        }
        for from in [0, 1, 57, 99, 100] {
            let start = StartPosition::Offset(Offset(from));
            let build = client.consumer("t").from(start).bounded().build();
            let mut consumer = within("subscribe", build).await.expect("a consumer");
            let left = 100 - from as usize;
            let found = take(&mut consumer, left).await;
            assert!(found.into_iter().eq(numbered(from..100)), "{transport}, from {from}");
            assert!(within("the end", consumer.next()).await.is_none());
        }
        let beyond = StartPosition::Offset(Offset(101));
        let build = client.consumer("t").from(beyond).build();
        let mut consumer = within("subscribe", build).await.expect("a consumer");
        let told = within("a refusal", consumer.next()).await.expect("an error");
        let Err(ConsumeError::Refused { source, .. }) = told else { panic!("{told:?}") };
        assert_eq!(source.code, ErrorCode::OffsetOutOfRange, "{source}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_begins_at_a_time() {
    let node = TestNode::start().await;
    node.create_topic("t", 1, &[]).await;
    let client = node.client(TransportKind::Quic).await;
    let producer = within("build", client.producer("t").build()).await.expect("a producer");
    for number in 0..200 {
        // One batch each: a time finds the batch.
        let record = Record::new(format!("value {number}")).with_timestamp_ms(1_000 + number * 10);
        within("an ack", producer.send(record)).await.expect("it is acknowledged");
    }
    let admin = client.admin();
    for (time, expected) in [(0, 0), (1_000, 0), (1_001, 1), (2_000, 100), (2_990, 199)] {
        let position = vec![StartPosition::Time(time)];
        let found = within("offsets", admin.offsets("t", 0, position)).await.expect("an answer");
        assert_eq!(found, [Offset(expected)], "time {time}");
        let build = client.consumer("t").from(StartPosition::Time(time)).bounded().build();
        let mut consumer = within("subscribe", build).await.expect("a consumer");
        let count = 200 - expected as usize;
        let values = take(&mut consumer, count).await;
        assert!(values.into_iter().eq(numbered(expected..200)), "time {time}");
    }
    let later = vec![StartPosition::Time(3_000), StartPosition::Latest, StartPosition::Earliest];
    let found = within("offsets", admin.offsets("t", 0, later)).await.expect("an answer");
    assert_eq!(found, [Offset(200), Offset(200), Offset(0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_returns_batches_and_where_to_go_on() {
    let node = TestNode::start().await;
    node.create_topic("t", 1, &[]).await;
    for transport in TRANSPORTS {
        let client = node.client(transport).await;
        let producer = within("build", client.producer("t").build()).await.expect("a producer");
        produce(&producer, numbered(0..300)).await;
        let admin = client.admin();
        let (mut next, mut records) = (Offset(0), 0);
        loop {
            let fetch = admin.fetch("t", 0, next, 2_000, 0);
            let fetched = within("fetch", fetch).await.expect("an answer");
            if fetched.batches.is_empty() {
                assert_eq!(fetched.high_watermark, next);
                break;
            }
            records += fetched.batches.iter().map(|batch| batch.header.record_count).sum::<u32>();
            assert!(fetched.next_offset > next);
            next = fetched.next_offset;
        }
        assert_eq!(u64::from(records), next.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_consumer_holds_up_nobody_and_misses_nothing() {
    const RECORDS: u64 = 60;
    let node = TestNode::start().await;
    node.create_topic("t", 1, &[]).await;
    let mut random = Random::seeded(2);
    let filler = String::from_utf8(vec![b'x'; 500_000]).expect("ASCII");
    let value = |number: u64| format!("{number} {filler}");
    for transport in TRANSPORTS {
        let client = node.client(transport).await;
        let producer = within("build", client.producer("t").build()).await.expect("a producer");
        let first = stored(&client, "t").await.len() as u64;
        let start = StartPosition::Offset(Offset(first));
        let build = client.consumer("t").from(start).buffer_bytes(1 << 20).build();
        let mut slow = within("subscribe", build).await.expect("a consumer");
        // 30 MB wait for a consumer that takes none of it; the producer is not held up, nor is
        // another consumer on the same connection.
        produce(&producer, (0..RECORDS).map(&value)).await;
        let build = client.consumer("t").from(start).build();
        let mut quick = within("subscribe", build).await.expect("a consumer");
        let seen = take(&mut quick, RECORDS as usize).await;
        assert!(seen.into_iter().eq((0..RECORDS).map(&value)), "{transport}");
        // Now it reads, with pauses in which others run.
        for number in 0..RECORDS {
            if random.once_in(5) {
                tokio::task::yield_now().await;
            }
            assert_eq!(take(&mut slow, 1).await, [value(number)], "{transport}");
        }
    }
}
