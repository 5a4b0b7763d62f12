//! More partitions than a QUIC connection has streams.

use plimsoll_client::{Client, Record};
use plimsoll_tests::{TestNode, within};
use plimsoll_transport::TransportKind;

use crate::{stored, take};

/// Sends one record to each partition, reads them back from the start, and then one more of each as
/// it comes.
async fn go_round(client: &Client, topic: &str, partitions: u32) {
    let producer = within("build", client.producer(topic).build()).await.expect("a producer");
    let send_to_each = async |text: &str| {
        let mut acks = Vec::new();
        for partition in 0..partitions {
            let record = Record::new(format!("{text} {partition:05}"));
            acks.push(producer.enqueue_to(partition, &record).await.expect("it is taken"));
        }
        for ack in acks {
            within("an acknowledgement", ack).await.expect("it is acknowledged");
        }
    };
    let expected = |text: &str| -> Vec<String> {
        (0..partitions).map(|partition| format!("{text} {partition:05}")).collect()
    };
    send_to_each("first").await;
    assert_eq!(stored(client, topic).await, expected("first"));
    let mut consumer = within("build", client.consumer(topic).build()).await.expect("a consumer");
    let mut found = take(&mut consumer, partitions as usize).await;
    found.sort();
    assert_eq!(found, expected("first"));
    send_to_each("second").await;
    let mut found = take(&mut consumer, partitions as usize).await;
    found.sort();
    assert_eq!(found, expected("second"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_3000_partitions_reads_them_over_one_quic_connection() {
    let node = TestNode::start().await;
    node.create_topic("wide", 3000, &[]).await;
    let client = node.client(TransportKind::Quic).await;
    go_round(&client, "wide", 3000).await;
    let status = within("status", client.admin().node_status()).await.expect("it answers");
    let open = status.counters.iter().find(|counter| counter.name == "connections_open");
    assert!(open.is_some_and(|open| open.value <= 2), "{open:?}");
}

/// A consumer of more partitions than the node allows streams used to wait for streams that never
/// came, and its producer too, until they timed out.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_allows_few_streams_serves_many_partitions_all_the_same() {
    for streams in [2, 24] {
        let node = TestNode::start_with(|config| config.streams_per_connection_max = streams).await;
        node.create_topic("t", 100, &[]).await;
        go_round(&node.client(TransportKind::Quic).await, "t", 100).await;
    }
}

/// Large frames that began on many streams at once once kept each other from their end: those without
/// room filled the window that the rest of those with room needed.
#[tokio::test(flavor = "multi_thread")]
async fn large_frames_on_many_streams_of_a_connection_are_all_acknowledged() {
    const PARTITIONS: u32 = 7;
    let node = TestNode::start_with(|config| {
        config.set("connection_receiving_bytes_max", "4 MiB", "test").unwrap();
    })
    .await;
    node.create_topic("t", PARTITIONS, &[]).await;
    let client = node.client(TransportKind::Quic).await;
    let producer = within("build", client.producer("t").build()).await.expect("a producer");
    let mut acks = Vec::new();
    for partition in 0..PARTITIONS {
        let record = Record::new(vec![7; 4 << 20]);
        acks.push(producer.enqueue_to(partition, &record).await.expect("it is taken"));
    }
    for ack in acks {
        within("an acknowledgement", ack).await.expect("it is acknowledged");
    }
    let broken = node.node().broker().counters().connections_broken.value();
    assert_eq!(broken, 0, "no connection had to be ended for it");
}
