//! A member that was away while retention dropped what it lacks gets whole segments when it is back.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod harness;

use std::time::Duration;

use harness::cluster::Cluster;
use harness::{Producer, read_all};
use plimsoll_log::Retention;
use plimsoll_protocol::ids::{GroupId, Offset};
use tokio::time::Instant;

/// How long anything may take, in virtual time.
const PATIENCE: Duration = Duration::from_secs(120);
/// Segments of the harness have 1 MiB.
const LITTLE: Retention = Retention { max_age_ms: None, max_bytes: Some(1 << 20) };
const BATCHES: usize = 150;

async fn fill(cluster: &Cluster, group: GroupId, producer: &mut Producer) {
    for _ in 0..BATCHES {
        let value = format!("{} {}", producer.next, "x".repeat(32 << 10));
        cluster.produce(group, &producer.batch(&[&value])).await;
    }
}

/// Retains on every node until the leader has dropped something. There has to be something new for
/// each checkpoint.
async fn retain(cluster: &Cluster, group: GroupId, producer: &mut Producer) -> Offset {
    let deadline = Instant::now() + PATIENCE;
    loop {
        cluster.produce(group, &producer.batch(&["new"])).await;
        for member in cluster.members.values() {
            member.host.retain(group, &LITTLE, 0).unwrap();
            member.host.store().checkpoint_now();
        }
        let leader = cluster.leader(group).await;
        let start = cluster.group(leader, group).log().bounds().log_start_offset;
        if start > Offset(0) {
            return start;
        }
        assert!(Instant::now() < deadline, "nothing is dropped");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn expect_equal(cluster: &Cluster, group: GroupId, producer: &Producer) {
    let end = Offset(producer.next);
    let leader = cluster.leader(group).await;
    let at_leader = cluster.group(leader, group);
    let start = at_leader.log().bounds().log_start_offset;
    let expected = read_all(&at_leader, start);
    assert_eq!(expected.len() as u64, end.0 - start.0);
    for node in cluster.members.keys() {
        cluster.caught_up(*node, group, end).await;
        let found = read_all(&cluster.group(*node, group), start);
        assert!(found == expected, "node {node} has other records");
    }
}

/// Three nodes and one record that all of them have.
async fn one_record_everywhere() -> (Cluster, GroupId, Producer) {
    let cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    cluster.produce(group, &producer.batch(&["first"])).await;
    for node in 1..=3 {
        cluster.caught_up(node, group, Offset(1)).await;
    }
    (cluster, group, producer)
}

#[tokio::test(start_paused = true)]
async fn voter_that_was_away_is_seeded_with_what_is_left() {
    let (mut cluster, group, mut producer) = one_record_everywhere().await;
    let leader = cluster.leader(group).await;
    let away = (1..=3).find(|node| *node != leader).unwrap();
    let disk = cluster.kill(away).await;
    fill(&cluster, group, &mut producer).await;
    let start = retain(&cluster, group, &mut producer).await;
    assert!(start > Offset(1), "the one that is away is not waited for");
    cluster.start(away, disk).await;
    cluster.produce(group, &producer.batch(&["last"])).await;
    expect_equal(&cluster, group, &producer).await;
    let log = cluster.group(away, group);
    assert!(log.log().bounds().log_start_offset > Offset(1), "it was seeded");
}

#[tokio::test(start_paused = true)]
async fn leader_that_began_anew_seeds_a_voter_that_was_away() {
    let mut cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    cluster.produce(group, &producer.batch(&["first"])).await;
    let leader = cluster.leader(group).await;
    let away = (1..=3).find(|node| *node != leader).unwrap();
    let absent = cluster.kill(away).await;
    fill(&cluster, group, &mut producer).await;
    retain(&cluster, group, &mut producer).await;
    // Whoever leads then knows only what its log says.
    for node in (1..=3).filter(|node| *node != away) {
        let disk = cluster.kill(node).await;
        cluster.start(node, disk).await;
    }
    cluster.start(away, absent).await;
    cluster.produce(group, &producer.batch(&["last"])).await;
    expect_equal(&cluster, group, &producer).await;
}

#[tokio::test(start_paused = true)]
async fn live_follower_is_waited_for() {
    let cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    fill(&cluster, group, &mut producer).await;
    retain(&cluster, group, &mut producer).await;
    fill(&cluster, group, &mut producer).await;
    expect_equal(&cluster, group, &producer).await;
}

/// A follower dropped what a node that was away lacked, and Raft did not know. When it led later it looked
/// for the entries, and its instance ended for it: a majority that was there served nobody.
#[tokio::test(start_paused = true)]
async fn follower_that_dropped_entries_leads_later_and_seeds_whoever_lacks_them() {
    let (mut cluster, group, mut producer) = one_record_everywhere().await;
    let leader = cluster.leader(group).await;
    let away = (1..=3).find(|node| *node != leader).unwrap();
    let absent = cluster.kill(away).await;
    fill(&cluster, group, &mut producer).await;
    let follower = (1..=3).find(|node| ![leader, away].contains(node)).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while cluster.group(follower, group).log().bounds().log_start_offset == Offset(0) {
        retain(&cluster, group, &mut producer).await;
        assert!(Instant::now() < deadline, "the follower drops nothing");
    }
    assert_eq!(cluster.leader(group).await, leader);
    cluster.kill(leader).await;
    cluster.start(away, absent).await;
    cluster.produce(group, &producer.batch(&["last"])).await;
    assert_eq!(cluster.leader(group).await, follower, "the other one has less");
    expect_equal(&cluster, group, &producer).await;
}
