//! Clients that outlive their node, whether it ended in order or not.

use plimsoll_client::StartPosition;
use plimsoll_tests::{Random, TRANSPORTS, TestNode, within};
use plimsoll_transport::TransportKind;

use crate::{numbered, produce, stored, take};

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_topics_records_and_offsets() {
    let mut node = TestNode::start().await;
    node.create_topic("durable", 2, &["retention-ms=1h"]).await;
    node.create_topic("memory", 1, &["durability=memory"]).await;
    let mut expected = 0;
    for ending in ["in order", "killed", "in order", "killed"] {
        let client = node.client(TransportKind::Quic).await;
        for topic in ["durable", "memory"] {
            let build = client.producer(topic).build();
            let producer = within("build", build).await.expect("a producer");
            produce(&producer, numbered(expected..expected + 200)).await;
        }
        expected += 200;
        match ending {
            "killed" => node.abort().await,
            _ => node.shut_down().await,
        }
        node.start_again().await;
        let client = node.client(TransportKind::Quic).await;
        for topic in ["durable", "memory"] {
            let found = stored(&client, topic).await;
            assert!(found.into_iter().eq(numbered(0..expected)), "{topic} after {ending}");
        }
        let described = client.admin().describe_topic("durable").await.expect("it is there");
        assert_eq!(described.topic.partitions, 2);
        assert_eq!(described.topic.config.retention_ms, Some(3_600_000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_go_on_after_a_restart_and_nothing_is_lost_or_doubled() {
    const ROUNDS: u64 = 4;
    const RECORDS: u64 = 300;
    let mut random = Random::for_test();
    for transport in TRANSPORTS {
        let mut node = TestNode::start().await;
        node.create_topic("t", 1, &[]).await;
        let client = node.client(transport).await;
        let producer = within("build", client.producer("t").build()).await.expect("a producer");
        let build = client.consumer("t").from(StartPosition::Earliest).build();
        let mut consumer = within("subscribe", build).await.expect("a consumer");
        for round in 0..ROUNDS {
            let begin = round * RECORDS;
            let before = random.within(0..RECORDS);
            produce(&producer, numbered(begin..begin + before)).await;
            // The rest is on its way, acknowledged or not, when the node ends.
            let rest = tokio::spawn({
                let producer = producer.clone();
                async move { produce(&producer, numbered(begin + before..begin + RECORDS)).await }
            });
            if round % 2 == 0 {
                node.abort().await;
            } else {
                node.shut_down().await;
            }
            node.start_again().await;
            within("the rest", rest).await.expect("all is acknowledged");
            let seen = take(&mut consumer, RECORDS as usize).await;
            assert!(seen.into_iter().eq(numbered(begin..begin + RECORDS)), "{transport}");
        }
        let found = stored(&client, "t").await;
        assert!(found.into_iter().eq(numbered(0..ROUNDS * RECORDS)), "{transport}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_made_before_a_restart_is_still_known_after_it() {
    let mut node = TestNode::start().await;
    node.create_topic("t", 1, &[]).await;
    let client = node.client(TransportKind::Quic).await;
    let producer = within("build", client.producer("t").build()).await.expect("a producer");
    for round in 0..5 {
        produce(&producer, numbered(round * 10..round * 10 + 10)).await;
        node.abort().await;
        node.start_again().await;
    }
    let other = node.client(TransportKind::Tcp).await;
    let fresh = within("build", other.producer("t").build()).await.expect("a producer");
    produce(&fresh, numbered(50..60)).await;
    assert!(stored(&other, "t").await.into_iter().eq(numbered(0..60)));
}
