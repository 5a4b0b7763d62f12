//! Retention where several nodes hold a group: whoever is away is fed when it is back, by whoever leads
//! then.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod harness;

use harness::Producer;
use harness::cluster::{Cluster, store};
use plimsoll_log::Retention;
use plimsoll_protocol::ids::{GroupId, NodeId, Offset};

/// All but the last segment goes.
const LITTLE: Retention = Retention { max_age_ms: None, max_bytes: Some(1) };

/// Retention as the node does it, often enough for a state that was given first to be in every kept
/// checkpoint. Returns where the log then begins.
async fn retain(cluster: &Cluster, node: u64, group: GroupId) -> Offset {
    let host = cluster.host(node);
    let mut start = Offset(0);
    for _ in 0..12 {
        host.store().checkpoint_now();
        start = host.retain(group, &LITTLE, 0).unwrap().log_start_offset;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    start
}

/// A follower dropped what a node that was away lacked. When it led, it could not feed that node: its
/// Raft instance ended, again and again, and a majority that was there served nobody.
#[tokio::test(start_paused = true)]
async fn follower_drops_nothing_that_a_node_that_is_away_lacks() {
    let mut cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    store(&cluster, group, &mut producer, 1).await;
    let leader = cluster.leader(group).await;
    let followers: Vec<u64> = (1..=3).filter(|node| *node != leader).collect();
    let [away, follower] = followers[..] else { panic!("two follow") };
    cluster.caught_up(away, group, Offset(1)).await;
    let disk = cluster.kill(away).await;
    let large = "x".repeat(60_000);
    for _ in 0..40 {
        cluster.produce(group, &producer.batch(&[&large])).await;
    }
    cluster.caught_up(follower, group, Offset(41)).await;
    cluster
        .until("the node is seen to be away", || {
            !cluster.members[&follower].peers.view().hears(NodeId(away))
        })
        .await;
    assert_eq!(retain(&cluster, follower, group).await, Offset(0));
    // Its leader is gone, too, when the node is back: the follower feeds it.
    let old_leader = cluster.kill(leader).await;
    cluster.start(away, disk).await;
    store(&cluster, group, &mut producer, 1).await;
    cluster.caught_up(away, group, Offset(42)).await;
    assert_eq!(cluster.group(away, group).log().bounds().log_start_offset, Offset(0));
    // With everybody there it drops.
    cluster.start(leader, old_leader).await;
    cluster.caught_up(leader, group, Offset(42)).await;
    let now_leads = cluster.leader(group).await;
    let follower = (1..=3).find(|node| *node != now_leads).unwrap();
    cluster
        .until("they reach each other", || {
            (1..=3).all(|node| cluster.members[&follower].peers.view().reaches(NodeId(node)))
        })
        .await;
    assert!(retain(&cluster, follower, group).await > Offset(0));
}
