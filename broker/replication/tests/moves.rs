//! Replicas that are moved to another node while producers write: nothing is lost, the old replica is gone,
//! and whoever drives the moves may die at any time.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod harness;

use std::collections::BTreeSet;
use std::time::Duration;

use harness::cluster::{Cluster, numbered};
use harness::{Producer, values};
use plimsoll_protocol::ids::{GroupId, NodeId, Offset, Term};
use plimsoll_protocol::peer::{RaftVote, Vote};
use plimsoll_state::catalog::{CatalogCommand, CatalogReply, planning};
use tokio::time::Instant;

/// How long a move may take, in virtual time.
const PATIENCE: Duration = Duration::from_secs(180);

struct Topic {
    group: GroupId,
    producer: Producer,
    stored: u64,
}

impl Topic {
    async fn produce(&mut self, cluster: &Cluster, count: usize) {
        for batch in numbered(&mut self.producer, count) {
            let produced = cluster.produce(self.group, &batch).await;
            assert_eq!(produced.base_offset, Offset(self.stored));
            self.stored += 1;
        }
    }
}

async fn topics(cluster: &Cluster, count: u64) -> Vec<Topic> {
    let mut topics = Vec::new();
    for number in 0..count {
        let group = cluster.topic(&format!("t{number}"), 3).await;
        let mut topic = Topic { group, producer: Producer::new(number + 1), stored: 0 };
        topic.produce(cluster, 20).await;
        topics.push(topic);
    }
    topics
}

fn wanted(cluster: &Cluster, group: GroupId) -> BTreeSet<u64> {
    let member = cluster.members.values().next().unwrap();
    let catalog = member.catalog.catalog();
    let wanted = &catalog.replica_set(group).unwrap().wanted;
    wanted.iter().map(|node| node.0).collect()
}

/// Produces until every group lies where the catalog wants it, and some on `node`.
async fn produce_until_moved(cluster: &Cluster, topics: &mut [Topic], node: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for topic in topics.iter_mut() {
            topic.produce(cluster, 1).await;
        }
        let is_moved =
            topics.iter().all(|topic| cluster.holders(topic.group) == wanted(cluster, topic.group));
        let is_used = topics.iter().any(|topic| wanted(cluster, topic.group).contains(&node));
        if is_moved && is_used {
            return;
        }
        let places: Vec<_> = topics
            .iter()
            .map(|topic| (topic.group, cluster.holders(topic.group), wanted(cluster, topic.group)))
            .collect();
        assert!(Instant::now() < deadline, "not moved: {places:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn expect_everything(cluster: &Cluster, topics: &[Topic]) {
    for topic in topics {
        let expected: Vec<String> = (0..topic.stored).map(|value| value.to_string()).collect();
        for node in wanted(cluster, topic.group) {
            cluster.caught_up(node, topic.group, Offset(topic.stored)).await;
            assert_eq!(values(&cluster.group(node, topic.group)), expected, "on node {node}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn node_that_joins_gets_its_share_while_producers_write() {
    let mut cluster = Cluster::new(3).await;
    let mut topics = topics(&cluster, 4).await;
    let node = cluster.join().await;
    produce_until_moved(&cluster, &mut topics, node).await;
    for topic in &mut topics {
        topic.produce(&cluster, 5).await;
    }
    expect_everything(&cluster, &topics).await;
    // The old replicas' files are gone once no checkpoint names them.
    let mut moved = 0;
    for topic in &topics {
        let wanted = wanted(&cluster, topic.group);
        let name = format!("segments/{:016x}-", topic.group.0);
        for (node, member) in cluster.members.iter().filter(|(node, _)| !wanted.contains(node)) {
            moved += usize::from(*node != 4);
            for _ in 0..3 {
                member.host.store().checkpoint_now();
            }
            let files = member.disk.files();
            let left: Vec<_> = files.iter().filter(|(path, _)| path.starts_with(&name)).collect();
            assert!(left.is_empty(), "node {node} still has {left:?}");
        }
    }
    assert!(moved > 0, "a replica was moved away from somewhere");
}

/// Its first node left a vote behind, and no log: woken before the log is back it must not begin anew.
#[tokio::test(start_paused = true)]
async fn only_replica_goes_away_and_comes_back_with_everything() {
    let cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 1).await;
    let mut topic = Topic { group, producer: Producer::new(1), stored: 0 };
    topic.produce(&cluster, 20).await;
    let home = cluster.leader(group).await;
    let other = home % 3 + 1;
    for there in [other, home] {
        cluster.place(group, &[there]).await;
        let deadline = Instant::now() + PATIENCE;
        while cluster.holders(group) != BTreeSet::from([there]) {
            // As somebody would who believes the catalog. It is refused, or leads nobody.
            let _ = cluster.group(there, group).wake().await;
            topic.produce(&cluster, 1).await;
            assert!(Instant::now() < deadline, "not moved to node {there}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        topic.produce(&cluster, 5).await;
        expect_everything(&cluster, std::slice::from_ref(&topic)).await;
    }
}

/// It acknowledged entries that it does not know any more: a member that was removed before it, and has not
/// heard of that, would win with its vote under a membership that has both.
#[tokio::test(start_paused = true)]
async fn dropped_replica_votes_for_nobody() {
    let cluster = Cluster::new(4).await;
    let group = cluster.topic("t", 3).await;
    let mut topic = Topic { group, producer: Producer::new(1), stored: 0 };
    topic.produce(&cluster, 5).await;
    let before = wanted(&cluster, group);
    let leader = cluster.leader(group).await;
    let gone = *before.iter().find(|node| **node != leader).unwrap();
    let after: Vec<u64> = (1..=4).filter(|node| *node != gone).collect();
    let early = cluster.host(gone).store().group(group).unwrap().bounds().last;
    topic.produce(&cluster, 5).await;
    cluster.place(group, &after).await;
    cluster.until("the replica is dropped", || !cluster.holders(group).contains(&gone)).await;
    let from = after[0];
    let vote = RaftVote { term: Term(1000), node: NodeId(from), committed: false };
    for transfer in [false, true] {
        let asked = Vote { group, epoch: 0, vote, last: early, transfer };
        let reply = cluster.members[&from].peers.request(NodeId(gone), asked).await.unwrap();
        assert!(!reply.granted, "{reply:?}");
        assert!(reply.vote.term < vote.term, "its vote is not changed either: {reply:?}");
    }
    topic.produce(&cluster, 5).await;
    expect_everything(&cluster, &[topic]).await;
}

#[tokio::test(start_paused = true)]
async fn drained_node_is_emptied_and_leads_nothing_any_more() {
    let cluster = Cluster::new(4).await;
    let mut topics = topics(&cluster, 4).await;
    // The one that leads the catalog is the hardest to do without.
    let leaving = cluster.leader(GroupId::CATALOG).await;
    let host = cluster.host(leaving);
    let drain = CatalogCommand::DrainNode { node: NodeId(leaving), on: true };
    assert_eq!(host.command(&drain).await.unwrap(), CatalogReply::Done);
    let plan = planning::rebalance(&host.held(GroupId::CATALOG).unwrap().catalog()).unwrap();
    assert_eq!(host.command(&plan.command()).await.unwrap(), CatalogReply::Done);
    let deadline = Instant::now() + PATIENCE;
    loop {
        for topic in &mut topics {
            topic.produce(&cluster, 1).await;
        }
        let held = topics.iter().filter(|topic| cluster.holders(topic.group).contains(&leaving));
        if held.count() == 0 && cluster.leader(GroupId::CATALOG).await != leaving {
            break;
        }
        assert!(Instant::now() < deadline, "node {leaving} is not emptied");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let other = cluster.leader(GroupId::CATALOG).await;
    let remove = CatalogCommand::RemoveNode { node: NodeId(leaving), force: false };
    assert_eq!(cluster.host(other).command(&remove).await.unwrap(), CatalogReply::Done);
    expect_everything(&cluster, &topics).await;
}

/// Whether no node sees anything on its way.
async fn is_settled(cluster: &Cluster) -> bool {
    for member in cluster.members.values() {
        if !member.host.moves(&member.catalog.catalog()).await.is_empty() {
            return false;
        }
    }
    true
}

#[tokio::test(start_paused = true)]
async fn moves_are_seen_from_every_node_while_they_last() {
    let mut cluster = Cluster::new(3).await;
    let mut topics = topics(&cluster, 4).await;
    assert!(is_settled(&cluster).await);
    let node = cluster.join().await;
    let deadline = Instant::now() + PATIENCE;
    for own in cluster.members.keys() {
        let member = &cluster.members[own];
        loop {
            let moving = member.host.moves(&member.catalog.catalog()).await;
            if let Some(one) = moving.iter().find(|one| one.wanted.contains(&NodeId(node))) {
                assert_eq!(one.voters.len(), 3, "node {own} sees {one:?}");
                break;
            }
            assert!(Instant::now() < deadline, "node {own} sees nothing on its way");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    produce_until_moved(&cluster, &mut topics, node).await;
    while !is_settled(&cluster).await {
        assert!(Instant::now() < deadline, "something is still on its way");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn driver_that_dies_in_the_middle_of_a_move_is_followed_by_another() {
    let mut cluster = Cluster::new(3).await;
    let mut topics = topics(&cluster, 4).await;
    let node = cluster.join().await;
    let deadline = Instant::now() + PATIENCE;
    // A move has begun: the new node holds something, and nothing is finished.
    while !topics.iter().any(|topic| cluster.holders(topic.group).contains(&node)) {
        assert!(Instant::now() < deadline, "no move begins");
        for topic in &mut topics {
            topic.produce(&cluster, 1).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let driver = cluster.leader(GroupId::CATALOG).await;
    let disk = cluster.kill(driver).await;
    for topic in &mut topics {
        topic.produce(&cluster, 5).await;
    }
    let next = cluster.leader(GroupId::CATALOG).await;
    assert_ne!(next, driver);
    cluster.start(driver, disk).await;
    produce_until_moved(&cluster, &mut topics, node).await;
    expect_everything(&cluster, &topics).await;
    assert_eq!(cluster.members.len(), 4);
    assert!(cluster.members.contains_key(&NodeId(node).0));
}
