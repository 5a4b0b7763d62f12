//! Topics: made, changed, deleted; many partitions; retention.

use plimsoll_client::{
    ConfigChange, ConsumeError, ErrorCode, NewTopic, Offset, Record, StartPosition,
};
use plimsoll_protocol::api::PartitionCondition;
use plimsoll_tests::{TestNode, eventually, within};
use plimsoll_transport::TransportKind;

use crate::{numbered, produce, stored};

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_made_listed_changed_and_deleted() {
    let mut node = TestNode::start().await;
    let client = node.client(TransportKind::Tls).await;
    let admin = client.admin();
    for name in ["orders.eu", "orders.us", "stock"] {
        let made = within("create", admin.create_topic(NewTopic::new(name).partitions(4))).await;
        assert_eq!(made.expect("it is made").partitions, 4);
    }
    let again = within("create", admin.create_topic(NewTopic::new("stock"))).await;
    assert_eq!(again.unwrap_err().code(), Some(ErrorCode::TopicExists));
    let mut fine = NewTopic::new("stock");
    fine.if_not_exists = true;
    let found = within("create", admin.create_topic(fine)).await.expect("it exists");
    assert_eq!(found.partitions, 4);

    let longer = ConfigChange { key: "retention-ms".into(), value: Some("30d".into()) };
    let alter = admin.alter_topic("stock", Some(6), vec![longer]);
    let altered = within("alter", alter).await.expect("it is changed");
    assert_eq!((altered.partitions, altered.config.retention_ms), (6, Some(30 * 86_400_000)));
    let fewer = within("alter", admin.alter_topic("stock", Some(5), vec![])).await;
    assert!(fewer.is_err(), "partitions never become fewer");

    within("delete", admin.delete_topic("orders.us")).await.expect("it is deleted");
    node.abort().await;
    node.start_again().await;
    let client = node.client(TransportKind::Tls).await;
    let listed = within("list", client.admin().list_topics(Some("orders"))).await.expect("a list");
    assert_eq!(listed.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["orders.eu"]);
    let stock = within("describe", client.admin().describe_topic("stock")).await.expect("it is");
    assert_eq!(stock.topic.config.retention_ms, Some(30 * 86_400_000));
    assert_eq!(stock.partitions.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_topic_ends_its_consumers_and_a_new_one_of_its_name_is_empty() {
    let node = TestNode::start().await;
    node.create_topic("t", 2, &[]).await;
    let client = node.client(TransportKind::Quic).await;
    let producer = within("build", client.producer("t").build()).await.expect("a producer");
    produce(&producer, numbered(0..10)).await;
    let mut consumer = within("build", client.consumer("t").build()).await.expect("a consumer");
    within("delete", client.admin().delete_topic("t")).await.expect("it is deleted");
    let mut ended = 0;
    while let Some(next) = within("the end", consumer.next()).await {
        match next {
            Ok(_) => {}
            Err(ConsumeError::Refused { source, .. }) => {
                assert_eq!(source.code, ErrorCode::UnknownTopic);
                ended += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(ended, 2, "each partition says why it ended");
    node.create_topic("t", 1, &[]).await;
    assert!(stored(&client, "t").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_partitions_work_sleep_and_wake() {
    const PARTITIONS: u32 = 300;
    let mut node = TestNode::start_with(|config| {
        config.set("sleep-after", "200ms", "test").expect("a valid setting");
    })
    .await;
    node.create_topic("wide", PARTITIONS, &[]).await;
    for round in 0..3 {
        let client = node.client(TransportKind::Quic).await;
        let producer = within("build", client.producer("wide").build()).await.expect("a producer");
        let mut acks = Vec::new();
        for partition in 0..PARTITIONS {
            let record = Record::new(format!("{partition} {round}"));
            acks.push(producer.enqueue_to(partition, &record).await.expect("it is taken"));
        }
        for ack in acks {
            let ack = within("an acknowledgement", ack).await.expect("it is acknowledged");
            assert_eq!(ack.offset, Some(Offset(round)));
        }
        eventually("all partitions sleep", async || {
            let described = client.admin().describe_topic("wide").await.ok()?;
            let mut conditions = described.partitions.iter().map(|found| found.condition);
            conditions.all(|found| found == PartitionCondition::Asleep).then_some(())
        })
        .await;
        if round == 1 {
            node.abort().await;
            node.start_again().await;
        }
        let client = node.client(TransportKind::Quic).await;
        assert_eq!(stored(&client, "wide").await.len() as u64, u64::from(PARTITIONS) * (round + 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_by_size_moves_the_start_and_tells_who_was_passed() {
    let node = TestNode::start_with(|config| {
        config.set("retention-interval", "100ms", "test").expect("a valid setting");
    })
    .await;
    node.create_topic("t", 1, &["segment-bytes=64KiB", "retention-bytes=128KiB"]).await;
    let client = node.client(TransportKind::Quic).await;
    let producer = within("build", client.producer("t").build()).await.expect("a producer");
    let filler = "x".repeat(10_000);
    let mut sent = 0;
    let start = eventually("the log start moves", async || {
        produce(&producer, (0..10).map(|number| format!("{} {filler}", sent + number))).await;
        sent += 10;
        let offsets = client.admin().offsets("t", 0, vec![StartPosition::Earliest]).await.ok()?;
        offsets.first().copied().filter(|offset| *offset > Offset(0))
    })
    .await;
    let build = client.consumer("t").from(StartPosition::Offset(Offset(0))).build();
    let mut consumer = within("subscribe", build).await.expect("a consumer");
    match within("an error", consumer.next()).await {
        Some(Err(ConsumeError::OffsetOutOfRange { wanted: Offset(0), log_start, .. })) => {
            assert!(log_start >= start);
        }
        other => panic!("{other:?}"),
    }
    let kept = stored(&client, "t").await;
    let last = format!("{} {filler}", sent - 1);
    assert_eq!(kept.last(), Some(&last), "the newest records stay");
}
