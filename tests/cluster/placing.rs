//! Replicas and nodes: how many there can be, where they go, and when a node can leave.

use plimsoll_client::{ErrorCode, NewTopic};
use plimsoll_tests::{TestCluster, eventually, within};

use crate::{from_leader, numbered, produce, producer, stored};

#[tokio::test(flavor = "multi_thread")]
async fn more_replicas_than_nodes_are_refused_with_both_numbers() {
    let cluster = TestCluster::start().await;
    let admin = cluster.client().await.admin();
    let wide = NewTopic { replicas: 4, ..NewTopic::new("wide") };
    let refused = within("create", admin.create_topic(wide)).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::NotEnoughNodes), "{refused}");
    let text = refused.to_string();
    assert!(text.contains('4') && text.contains('3'), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_of_a_partition_are_on_different_nodes() {
    let cluster = TestCluster::start().await;
    cluster.create_topic("t", 12, &[]).await;
    let described = within("describe", cluster.client().await.admin().describe_topic("t")).await;
    for partition in described.unwrap().partitions {
        let mut replicas = partition.replicas.clone();
        replicas.sort();
        replicas.dedup();
        assert_eq!(replicas.len(), 3, "{:?}", partition.replicas);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_would_lose_a_quorum_is_refused() {
    let mut cluster = TestCluster::start().await;
    cluster.create_topic("t", 3, &[]).await;
    let client = cluster.client_of(0).await;
    produce(&producer(&client, "t").await, 0, numbered(0..10)).await;
    let gone = [cluster.id_of(1).await, cluster.id_of(2).await];
    for force in [false, true] {
        let refused = within("remove", client.admin().remove_node(gone[0], force)).await;
        let refused = refused.expect_err("it lives, and holds replicas");
        assert_eq!(refused.code(), Some(ErrorCode::NodeInUse), "{refused}");
    }
    for index in [1, 2] {
        cluster.nodes.kill(index).unwrap();
    }
    eventually("the one that is left misses them", async || {
        let status = client.admin().cluster_status().await.ok()?;
        let missed = status.nodes.iter().filter(|node| gone.contains(&node.node) && !node.up);
        (missed.count() == gone.len()).then_some(())
    })
    .await;
    for force in [false, true] {
        let refused = within("remove", client.admin().remove_node(gone[0], force)).await;
        let refused = refused.expect_err("one of three is no majority");
        assert_eq!(refused.code(), Some(ErrorCode::RemovalLosesQuorum), "{refused}");
    }
    for index in [1, 2] {
        cluster.nodes.restart(index).unwrap();
    }
    cluster.wait_until_well().await;
    let found = stored(&client, "t", 0, from_leader).await;
    assert!(found.into_iter().eq(numbered(0..10)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_joins_gets_its_share_and_a_drained_one_can_go() {
    let mut cluster = TestCluster::start().await;
    cluster.create_topic("t", 12, &[]).await;
    let client = cluster.client_of(0).await;
    for partition in 0..12 {
        produce(&producer(&client, "t").await, partition, numbered(0..100)).await;
    }
    let fourth = cluster.another("node-4");
    cluster.nodes.add(fourth).unwrap();
    cluster.nodes.wait_until_members(&client).await.expect("it joins");
    within("rebalance", client.admin().rebalance()).await.expect("it is planned");
    cluster.nodes.wait_until_well(&client).await.expect("the replicas move");
    let newcomer = cluster.id_of(3).await;
    let described = client.admin().describe_topic("t").await.unwrap();
    let moved = described.partitions.iter().filter(|found| found.replicas.contains(&newcomer));
    assert!(moved.count() > 0, "the new node has replicas");

    within("drain", client.admin().drain_node(newcomer, true)).await.expect("it is planned");
    eventually("the node is empty", async || {
        let status = client.admin().cluster_status().await.ok()?;
        let node = status.nodes.iter().find(|node| node.node == newcomer)?;
        (node.replicas == 0 && status.moves_total == 0).then_some(())
    })
    .await;
    within("remove", client.admin().remove_node(newcomer, false)).await.expect("it can go");
    cluster.nodes.kill(3).unwrap();
    cluster.nodes.wait_until_well(&client).await.expect("nothing lacks");
    for partition in 0..12 {
        let found = stored(&client, "t", partition, from_leader).await;
        assert!(found.into_iter().eq(numbered(0..100)), "partition {partition}");
    }
}
