//! Compaction under Raft: what it takes is purged first, and a member gets over that; what it leaves alone is
//! purged for nobody.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod harness;

use std::collections::BTreeSet;
use std::time::Duration;

use harness::cluster::Cluster;
use harness::{Node, PARTITION, Producer, produce, read_all};
use plimsoll_log::{CompactionPolicy, CompactionRun, Durability, GroupOptions, Retention};
use plimsoll_protocol::ids::{GroupId, Offset};
use plimsoll_replication::Host;
use tokio::time::Instant;

/// How long anything may take, in virtual time.
const PATIENCE: Duration = Duration::from_secs(180);
/// Later than any append.
const NOW_MS: i64 = 1_000_000_000;
const POLICY: CompactionPolicy = CompactionPolicy {
    min_age_ms: 0,
    tombstone_ms: 1_000_000,
    dirty_percent_min: 25,
    roll_after_ms: None,
    map_entries_max: 100_000,
};
const KEYS: u64 = 200;
/// So much that all but the last records of each key may go.
const MANY: usize = 500;
const SMALL_SEGMENTS: GroupOptions =
    GroupOptions { durability: Durability::Durable, segment_bytes: 64 << 10 };
/// For so long what a member lacks is left to it.
const MISSED_FOR: Duration = Duration::from_secs(600);

/// A record of one of the keys; some thirty fill a segment.
fn update(producer: &mut Producer) -> bytes::Bytes {
    let key = format!("key {}", producer.next % KEYS);
    let value = format!("{} {}", producer.next, "x".repeat(2 << 10));
    producer.keyed(&key, &value)
}

async fn fill(cluster: &Cluster, group: GroupId, producer: &mut Producer, batches: usize) {
    for _ in 0..batches {
        cluster.produce(group, &update(producer)).await;
    }
}

/// A look at the group as maintenance takes it, the compaction that is due included.
fn tidy(host: &Host, group: GroupId) -> Option<CompactionRun> {
    let tidied = host.tidy(group, &Retention::default(), Some(&POLICY), NOW_MS).unwrap();
    let run = tidied.compaction.map(|mut compaction| {
        while !compaction.step(u64::MAX, NOW_MS).unwrap().done {}
        compaction.so_far()
    });
    host.store().checkpoint_now();
    run
}

/// Looks at it on every node until each replica was compacted. There has to be something new for each
/// checkpoint.
async fn compact(cluster: &Cluster, group: GroupId, producer: &mut Producer) {
    let deadline = Instant::now() + PATIENCE;
    let mut left = cluster.holders(group);
    while !left.is_empty() {
        cluster.produce(group, &update(producer)).await;
        for (node, member) in &cluster.members {
            if tidy(&member.host, group).is_some_and(|run| run.records_removed > 0) {
                left.remove(node);
            }
        }
        assert!(Instant::now() < deadline, "not compacted on {left:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The replicas are the same in what counts: the last record of each key, and where the log ends.
async fn expect_equal(cluster: &Cluster, group: GroupId, producer: &Producer) {
    let end = Offset(producer.next);
    for node in cluster.holders(group) {
        cluster.caught_up(node, group, end).await;
        let at = cluster.group(node, group);
        assert_eq!(at.log().bounds().log_end_offset, end);
        let found = read_all(&at, Offset(0));
        for offset in end.0 - KEYS..end.0 {
            let value = found.get(&offset).unwrap_or_else(|| panic!("{offset} on node {node}"));
            assert!(value.starts_with(&format!("{offset} ")));
        }
    }
}

/// What is compacted counts as purged where it was written, and did not where it was sent: the Raft instance
/// of a new replica looked for the first entry of its log in a compacted segment, and was never built.
#[tokio::test(start_paused = true)]
async fn new_replica_of_a_compacted_group_wakes_and_takes_what_comes() {
    let mut cluster = Cluster::with_options(4, SMALL_SEGMENTS).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    fill(&cluster, group, &mut producer, MANY).await;
    compact(&cluster, group, &mut producer).await;
    let leader = cluster.leader(group).await;
    let before = cluster.holders(group);
    let new = (1..=4).find(|node| !before.contains(node)).unwrap();
    let gone = *before.iter().find(|node| **node != leader).unwrap();
    let wanted: Vec<u64> = (1..=4).filter(|node| *node != gone).collect();
    cluster.place(group, &wanted).await;
    let deadline = Instant::now() + PATIENCE;
    while cluster.holders(group) != wanted.iter().copied().collect::<BTreeSet<_>>() {
        fill(&cluster, group, &mut producer, 1).await;
        assert!(Instant::now() < deadline, "the replica is not moved");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let log = cluster.group(new, group).log().clone();
    assert!(log.compaction_status().compacted_upto > Offset(0), "it got compacted segments");
    fill(&cluster, group, &mut producer, 5).await;
    expect_equal(&cluster, group, &producer).await;
    drop(log);
    // Its next life begins with what its checkpoint and its journal say.
    let disk = cluster.kill(new).await;
    cluster.start(new, disk).await;
    fill(&cluster, group, &mut producer, 5).await;
    expect_equal(&cluster, group, &producer).await;
}

/// Looks at the group on every node some times, with something new each time; how many were compacted.
async fn look(cluster: &Cluster, group: GroupId, producer: &mut Producer) -> usize {
    let mut runs = 0;
    for _ in 0..15 {
        fill(cluster, group, producer, 1).await;
        for member in cluster.members.values() {
            runs += usize::from(tidy(&member.host, group).is_some());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    runs
}

/// Three nodes with a compacted group, one of which goes away.
async fn one_goes_away() -> (Cluster, GroupId, Producer, u64) {
    let cluster = Cluster::with_options(3, SMALL_SEGMENTS).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    fill(&cluster, group, &mut producer, MANY).await;
    compact(&cluster, group, &mut producer).await;
    while look(&cluster, group, &mut producer).await > 0 {}
    for node in 1..=3 {
        cluster.caught_up(node, group, Offset(producer.next)).await;
    }
    let leader = cluster.leader(group).await;
    let away = (1..=3).find(|node| *node != leader).unwrap();
    (cluster, group, producer, away)
}

fn purged(cluster: &Cluster, group: GroupId) -> Vec<Option<plimsoll_protocol::ids::LogId>> {
    let log = |node: &u64| cluster.members[node].host.store().group(group).unwrap();
    cluster.members.keys().map(|node| log(node).bounds().purged).collect()
}

/// Every compacted group was purged at each look, due or not: a node that was away for a moment was sent the
/// whole log.
#[tokio::test(start_paused = true)]
async fn what_is_not_due_is_purged_for_nobody() {
    let (mut cluster, group, mut producer, away) = one_goes_away().await;
    let branch = cluster.group(away, group).log().branch();
    let disk = cluster.kill(away).await;
    // Nobody waits for it any more: only that nothing is due keeps what it lacks.
    tokio::time::sleep(MISSED_FOR + PATIENCE).await;
    let before = purged(&cluster, group);
    let runs = look(&cluster, group, &mut producer).await;
    assert_eq!((runs, purged(&cluster, group)), (0, before), "15 records are too few");
    cluster.start(away, disk).await;
    fill(&cluster, group, &mut producer, 1).await;
    expect_equal(&cluster, group, &producer).await;
    assert_eq!(cluster.group(away, group).log().branch(), branch, "it got entries, no other log");
}

#[tokio::test(start_paused = true)]
async fn member_that_is_away_for_a_short_time_is_left_what_it_lacks() {
    let (mut cluster, group, mut producer, away) = one_goes_away().await;
    let branch = cluster.group(away, group).log().branch();
    let disk = cluster.kill(away).await;
    fill(&cluster, group, &mut producer, MANY).await;
    let before = purged(&cluster, group);
    let runs = look(&cluster, group, &mut producer).await;
    assert_eq!((runs, purged(&cluster, group)), (0, before));
    cluster.start(away, disk).await;
    fill(&cluster, group, &mut producer, 1).await;
    expect_equal(&cluster, group, &producer).await;
    assert_eq!(cluster.group(away, group).log().branch(), branch, "it got entries, no other log");
    // It is there again, so it goes on.
    compact(&cluster, group, &mut producer).await;
    expect_equal(&cluster, group, &producer).await;
}

#[tokio::test(start_paused = true)]
async fn member_that_is_away_for_long_is_not_waited_for() {
    let (mut cluster, group, mut producer, away) = one_goes_away().await;
    let disk = cluster.kill(away).await;
    fill(&cluster, group, &mut producer, MANY).await;
    tokio::time::sleep(MISSED_FOR + PATIENCE).await;
    compact(&cluster, group, &mut producer).await;
    cluster.start(away, disk).await;
    fill(&cluster, group, &mut producer, 1).await;
    expect_equal(&cluster, group, &producer).await;
}

/// A sole replica was purged only while it slept, so one that is written to all the time was never compacted.
#[tokio::test]
async fn sole_replica_in_steady_use_is_compacted() {
    let node = Node::new();
    let group = node.group(PARTITION, SMALL_SEGMENTS).await;
    let mut producer = Producer::new(7);
    let compacted = async {
        loop {
            for _ in 0..10 {
                produce(&group, &update(&mut producer)).await.unwrap();
            }
            assert!(group.status().await.awake);
            if tidy(&node.host, PARTITION).is_some_and(|run| run.records_removed > 0) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), compacted).await.expect("it is compacted");
    produce(&group, &update(&mut producer)).await.unwrap();
    let end = producer.next;
    drop(group);
    let node = node.kill().await;
    let group = node.group(PARTITION, SMALL_SEGMENTS).await;
    let found = read_all(&group, Offset(0));
    assert!((found.len() as u64) < end);
    assert!((end - KEYS..end).all(|offset| found.contains_key(&offset)));
    assert_eq!(produce(&group, &update(&mut producer)).await.unwrap().base_offset, Offset(end));
}
