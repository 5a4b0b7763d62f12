//! Replicas go where the catalog wants them, while producers go on, and over the death of whoever
//! drives.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod harness;

use std::collections::BTreeSet;
use std::sync::Arc;

use harness::cluster::{Cluster, numbered};
use harness::{Producer, values};
use plimsoll_protocol::ids::{GroupId, NodeId, Offset};
use plimsoll_replication::Role;
use plimsoll_state::catalog::{CatalogCommand, CatalogReply, PlacementChange};

fn counted(count: u64) -> Vec<String> {
    (0..count).map(|i| i.to_string()).collect()
}

/// Wants the group on these nodes, the first of them as its leader.
async fn want(cluster: &Cluster, group: GroupId, nodes: &[u64]) {
    let member = cluster.members.values().next().unwrap();
    loop {
        let catalog = member.catalog.catalog();
        let wanted: Arc<[NodeId]> = nodes.iter().copied().map(NodeId).collect();
        let changes = vec![PlacementChange { group, wanted }];
        let command = CatalogCommand::SetPlacement { base: catalog.placement_epoch(), changes };
        match member.host.command(&command).await.unwrap() {
            CatalogReply::Done => return,
            refused => panic!("{refused:?}"),
        }
    }
}

async fn is_as_wanted(cluster: &Cluster, group: GroupId, nodes: &[u64]) {
    let wanted: BTreeSet<NodeId> = nodes.iter().copied().map(NodeId).collect();
    cluster
        .until("the members are as wanted", || {
            cluster.members.iter().any(|(node, member)| {
                cluster.role(*node, group).led_term().is_some()
                    && member.host.voters(group) == wanted
            })
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn replica_moves_while_batches_are_produced_and_leaves_nothing_behind() {
    let cluster = Cluster::new(4).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    for batch in numbered(&mut producer, 20) {
        cluster.produce(group, &batch).await;
    }
    let leader = cluster.leader(group).await;
    let before: Vec<u64> = (1..=4).filter(|n| cluster.role(*n, group) != Role::Asleep).collect();
    let new = (1..=4).find(|node| !before.contains(node)).unwrap();
    // The leader itself goes.
    let after: Vec<u64> = before.iter().copied().filter(|node| *node != leader).chain([new]).collect();
    want(&cluster, group, &after).await;
    for batch in numbered(&mut producer, 20) {
        cluster.produce(group, &batch).await;
    }
    is_as_wanted(&cluster, group, &after).await;
    for batch in numbered(&mut producer, 5) {
        cluster.produce(group, &batch).await;
    }
    for node in &after {
        cluster.caught_up(*node, group, Offset(45)).await;
        assert_eq!(values(&cluster.group(*node, group)), counted(45), "node {node}");
    }
    cluster
        .until("the old replica is dropped", || {
            let log = cluster.host(leader).store().group(group);
            log.is_none_or(|log| log.bounds().last.is_none())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn moves_go_on_after_their_driver_died() {
    let mut cluster = Cluster::new(4).await;
    let mut groups = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let group = cluster.topic(name, 2).await;
        let mut producer = Producer::new(7);
        for batch in numbered(&mut producer, 3) {
            cluster.produce(group, &batch).await;
        }
        groups.push(group);
    }
    let driver = cluster.leader(GroupId::CATALOG).await;
    let rest: Vec<u64> = (1..=4).filter(|node| *node != driver).collect();
    for (i, group) in groups.iter().enumerate() {
        want(&cluster, *group, &[rest[i % 3], rest[(i + 1) % 3]]).await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let disk = cluster.kill(driver).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    cluster.start(driver, disk).await;
    for (i, group) in groups.iter().enumerate() {
        is_as_wanted(&cluster, *group, &[rest[i % 3], rest[(i + 1) % 3]]).await;
        let leader = cluster.leader(*group).await;
        cluster.caught_up(leader, *group, Offset(3)).await;
        assert_eq!(values(&cluster.group(leader, *group)), counted(3));
    }
}
