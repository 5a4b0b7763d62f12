//! Any node will do: leaders are found and followed, replicas are read, what is deleted is gone
//! everywhere.

use std::time::Duration;

use plimsoll_client::{ErrorCode, Isolation, StartPosition};
use plimsoll_protocol::ids::NodeId;
use plimsoll_tests::{TestCluster, eventually, within};

use crate::{from_leader, numbered, produce, producer, stored, take};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_any_node_reaches_every_partition() {
    let cluster = TestCluster::start().await;
    cluster.create_topic("t", 6, &[]).await;
    for index in 0..3 {
        let client = cluster.client_of(index).await;
        let producer = producer(&client, "t").await;
        let begin = index as u64 * 10;
        for partition in 0..6 {
            produce(&producer, partition, numbered(begin..begin + 10)).await;
        }
    }
    for index in 0..3 {
        let client = cluster.client_of(index).await;
        for partition in 0..6 {
            let found = stored(&client, "t", partition, from_leader).await;
            assert!(found.into_iter().eq(numbered(0..30)), "node {index}, partition {partition}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn producer_and_consumer_follow_the_leader_where_it_goes() {
    let cluster = TestCluster::start().await;
    cluster.create_topic("t", 1, &[]).await;
    let client = cluster.client().await;
    let producer = producer(&client, "t").await;
    let build = client.consumer("t").from(StartPosition::Earliest).build();
    let mut consumer = within("subscribe", build).await.expect("a consumer");
    produce(&producer, 0, numbered(0..10)).await;
    assert!(take(&mut consumer, 10).await.into_iter().eq(numbered(0..10)));
    for round in 1..=4 {
        let before = cluster.leader("t", 0).await;
        let to: NodeId = cluster.id_of((before + 1) % 3).await;
        let admin = client.admin();
        let moved = admin.transfer_leader("t", 0, Some(to));
        let moved = within("transfer", moved).await.expect("it is handed over");
        assert_eq!(moved.leader, to);
        let (begin, end) = (round * 10, round * 10 + 10);
        produce(&producer, 0, numbered(begin..end)).await;
        assert!(take(&mut consumer, 10).await.into_iter().eq(numbered(begin..end)));
    }
    let found = stored(&client, "t", 0, from_leader).await;
    assert!(found.into_iter().eq(numbered(0..50)));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_replica_can_be_read() {
    let racks = ["rack=a", "rack=b", "rack=c"];
    let cluster = TestCluster::start_with(3, |index, command| {
        command.argument("--set").argument(racks[index])
    })
    .await;
    cluster.create_topic("t", 2, &[]).await;
    let client = cluster.client().await;
    let producer = producer(&client, "t").await;
    for partition in 0..2 {
        produce(&producer, partition, numbered(0..100)).await;
    }
    let nearest: [fn(plimsoll_client::ConsumerBuilder) -> plimsoll_client::ConsumerBuilder; 3] = [
        |builder| builder.prefer_nearest(Some("a".to_owned())),
        |builder| builder.prefer_nearest(Some("b".to_owned())),
        |builder| builder.prefer_nearest(Some("c".to_owned())),
    ];
    for shape in nearest {
        for partition in 0..2 {
            // A follower shows what it knows to be committed, which may be a moment later.
            eventually("the replica shows everything", async || {
                let found = stored(&client, "t", partition, shape).await;
                assert!(found.iter().cloned().eq(numbered(0..found.len() as u64)));
                (found.len() == 100).then_some(())
            })
            .await;
        }
    }
    let bounded = stored(&client, "t", 0, |builder| {
        builder.prefer_nearest(None).max_staleness(Duration::from_secs(5))
    });
    assert_eq!(bounded.await.len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_linearizable_read_shows_what_was_acknowledged_before_it() {
    let cluster = TestCluster::start().await;
    cluster.create_topic("t", 1, &[]).await;
    let client = cluster.client().await;
    let producer = producer(&client, "t").await;
    for end in 1..=20 {
        produce(&producer, 0, numbered(end - 1..end)).await;
        let other = cluster.client_of(end as usize % 3).await;
        let linearizable =
            |builder: plimsoll_client::ConsumerBuilder| builder.isolation(Isolation::Linearizable);
        assert_eq!(stored(&other, "t", 0, linearizable).await.len() as u64, end);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_topic_is_gone_on_all_nodes_and_a_new_one_of_its_name_is_empty() {
    let cluster = TestCluster::start().await;
    cluster.create_topic("t", 3, &[]).await;
    let client = cluster.client().await;
    for partition in 0..3 {
        produce(&producer(&client, "t").await, partition, numbered(0..50)).await;
    }
    within("delete", client.admin().delete_topic("t")).await.expect("it is deleted");
    for index in 0..3 {
        let admin = cluster.client_of(index).await.admin();
        eventually("the node knows no such topic", async || {
            let asked = admin.describe_topic("t").await;
            matches!(asked, Err(error) if error.code() == Some(ErrorCode::UnknownTopic))
                .then_some(())
        })
        .await;
        let segments = cluster.nodes.command(index).data_directory().join("segments");
        eventually("its files are gone", async || {
            let count = std::fs::read_dir(&segments).ok()?.count();
            // What belongs to the catalog and to the cluster stays.
            (count <= 2).then_some(())
        })
        .await;
    }
    cluster.create_topic("t", 1, &[]).await;
    assert!(stored(&client, "t", 0, from_leader).await.is_empty());
}
