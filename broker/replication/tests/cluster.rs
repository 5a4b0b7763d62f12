//! Three nodes: what was acknowledged survives the loss of any one of them, and nobody leads beside
//! a leader that can be believed.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod harness;

use std::time::Duration;

use harness::cluster::{Cluster, numbered};
use harness::{Producer, propose, values};
use plimsoll_protocol::ids::{GroupId, NodeId, Offset};
use plimsoll_replication::{ProduceError, Role};
use tokio::time::Instant;

fn counted(count: u64) -> Vec<String> {
    (0..count).map(|i| i.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn batch_is_on_every_replica_and_acknowledged_by_a_majority() {
    let cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    for batch in numbered(&mut producer, 20) {
        cluster.produce(group, &batch).await;
    }
    for node in 1..=3 {
        cluster.caught_up(node, group, Offset(20)).await;
        assert_eq!(values(&cluster.group(node, group)), counted(20));
    }
    // One replica less changes nothing.
    let leader = cluster.leader(group).await;
    let follower = (1..=3).find(|node| *node != leader).unwrap();
    cluster.cuts.isolate(follower, (1..=3).filter(|node| *node != follower));
    for batch in numbered(&mut producer, 5) {
        cluster.produce(group, &batch).await;
    }
    assert_eq!(values(&cluster.group(leader, group)), counted(25));
}

#[tokio::test(start_paused = true)]
async fn another_leads_after_the_leader_died_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    let mut batches = numbered(&mut producer, 10);
    for batch in &batches {
        cluster.produce(group, batch).await;
    }
    let died = cluster.leader(group).await;
    let disk = cluster.kill(died).await;
    let killed_at = Instant::now();
    // The retry of an acknowledged batch is recognised by the new leader.
    let again = cluster.produce(group, &batches[9]).await;
    assert!(again.duplicate && again.base_offset == Offset(9));
    assert!(killed_at.elapsed() < Duration::from_secs(5), "{:?}", killed_at.elapsed());
    batches = numbered(&mut producer, 10);
    for batch in &batches {
        cluster.produce(group, batch).await;
    }
    let leader = cluster.leader(group).await;
    assert_ne!(leader, died);
    cluster.start(died, disk).await;
    cluster.caught_up(died, group, Offset(20)).await;
    for node in 1..=3 {
        assert_eq!(values(&cluster.group(node, group)), counted(20));
    }
}

#[tokio::test(start_paused = true)]
async fn leader_in_a_minority_refuses_and_follows_when_it_is_back() {
    let cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    for batch in numbered(&mut producer, 3) {
        cluster.produce(group, &batch).await;
    }
    let alone = cluster.leader(group).await;
    cluster.cuts.isolate(alone, (1..=3).filter(|node| *node != alone));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let lost = harness::batch_of(plimsoll_protocol::ids::ProducerId(9), 0, 0, &["lost"]);
    let refused = propose(&cluster.group(alone, group), &lost).await.unwrap_err();
    assert!(matches!(refused, ProduceError::NoQuorum(_)), "{refused}");
    let others: Vec<u64> = (1..=3).filter(|node| *node != alone).collect();
    cluster
        .until("one of the others leads", || {
            others.iter().any(|node| cluster.role(*node, group).led_term().is_some())
        })
        .await;
    cluster.cuts.heal();
    for batch in numbered(&mut producer, 3) {
        cluster.produce(group, &batch).await;
    }
    for node in 1..=3 {
        cluster.caught_up(node, group, Offset(6)).await;
        assert_eq!(values(&cluster.group(node, group)), counted(6));
    }
    assert!(matches!(cluster.role(alone, group), Role::Follower { .. }));
}

/// A follower that hears nothing of its leader, while the other one does, changes nothing: it is
/// refused without a change of term.
#[tokio::test(start_paused = true)]
async fn one_broken_way_does_not_depose_a_leader_that_reaches_a_majority() {
    let cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    for batch in numbered(&mut producer, 3) {
        cluster.produce(group, &batch).await;
    }
    let leader = cluster.leader(group).await;
    let term = cluster.role(leader, group).led_term().unwrap();
    let deaf = (1..=3).find(|node| *node != leader).unwrap();
    cluster.cuts.one_way(leader, deaf);
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(cluster.role(leader, group).led_term(), Some(term), "it leads on");
        for batch in numbered(&mut producer, 1) {
            cluster.produce(group, &batch).await;
        }
    }
    cluster.cuts.heal();
    cluster.caught_up(deaf, group, Offset(8)).await;
    assert_eq!(cluster.role(leader, group).led_term(), Some(term));
}

/// Two leaders of one term there are never, and of two terms only one can propose.
#[tokio::test(start_paused = true)]
async fn no_term_has_two_leaders() {
    let mut cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    let mut leaders = std::collections::BTreeMap::new();
    for round in 0..6 {
        for batch in numbered(&mut producer, 2) {
            cluster.produce(group, &batch).await;
        }
        for node in cluster.members.keys() {
            if let Some(term) = cluster.role(*node, group).led_term() {
                let other = leaders.insert(term, *node);
                assert!(other.is_none_or(|other| other == *node), "term {term}");
            }
        }
        let leader = cluster.leader(group).await;
        let disk = if round % 2 == 0 {
            cluster.kill(leader).await
        } else {
            cluster.power_failure(leader).await
        };
        cluster.start(leader, disk).await;
    }
    for node in 1..=3 {
        cluster.caught_up(node, group, Offset(12)).await;
        assert_eq!(values(&cluster.group(node, group)), counted(12));
    }
}

#[tokio::test(start_paused = true)]
async fn metadata_group_has_every_node_and_answers_on_each() {
    let mut cluster = Cluster::new(3).await;
    cluster
        .until("three nodes vote", || {
            let leader = cluster.host(1).leader(GroupId::CATALOG);
            leader.is_some() && cluster.members[&1].host.metadata_voters().len() == 3
        })
        .await;
    for (node, name) in [(1, "a"), (2, "b"), (3, "c")] {
        let only = cluster.host(node);
        let catalog = cluster.members[&node].catalog.clone();
        let ids = plimsoll_state::catalog::CatalogCommand::AllocateProducerIds { count: 10 };
        only.command(&ids).await.unwrap();
        assert!(catalog.catalog().is_empty(), "{name}");
    }
    let leader = cluster.host(1).leader(GroupId::CATALOG).unwrap().0;
    cluster.kill(leader.0).await;
    let group = cluster.topic("after", 2).await;
    assert_ne!(cluster.leader(GroupId::CATALOG).await, leader.0);
    let placed = cluster.members.values().next().unwrap().catalog.catalog();
    assert!(!placed.replica_set(group).unwrap().wanted.is_empty());
    assert_ne!(leader, NodeId(0));
}
