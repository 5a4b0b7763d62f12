//! Groups that nobody writes to sleep, and wake as they were.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod harness;

use std::time::Duration;

use futures_util::FutureExt as _;
use harness::{DURABLE, Node, PARTITION, Producer, produce, values};
use plimsoll_protocol::ids::{GroupId, NodeId, Offset};
use plimsoll_replication::{GroupKind, OpenGroupError, Placed, Placements, ProduceError};

const IDLE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn idle_group_sleeps_and_wakes_with_its_state() {
    let node = Node::new();
    let mut producer = Producer::new(7);
    let mut terms = Vec::new();
    for round in 0..5_u64 {
        let group = node.partition().await;
        terms.push(group.status().await.term);
        let text = round.to_string();
        assert_eq!(
            produce(&group, &producer.batch(&[&text])).await.unwrap().base_offset,
            Offset(round)
        );
        drop(group);
        assert_eq!(node.host.sleep_idle(IDLE).await, 0, "it was just used");
        node.clock.advance(IDLE);
        assert_eq!(node.host.sleep_idle(IDLE).await, 1);
        assert_eq!(node.host.held_count(), 0);
        assert_eq!(node.host.committed_offset(PARTITION).unwrap(), Some(Offset(round + 1)));
    }
    assert!(terms.is_sorted_by(|a, b| a < b), "each waking is a term: {terms:?}");
    assert_eq!(values(&*node.partition().await).len(), 5);
}

#[tokio::test]
async fn reader_holds_on_over_a_sleep() {
    let node = Node::new();
    let group = node.partition().await;
    let mut producer = Producer::new(7);
    produce(&group, &producer.batch(&["a"])).await.unwrap();
    let mut offsets = group.high_watermark();
    node.clock.advance(IDLE);
    assert_eq!(node.host.sleep_idle(IDLE).await, 1);
    assert!(!group.status().await.awake);
    assert_eq!(*offsets.borrow_and_update(), Offset(1), "readers still see the high watermark");
    // The group that the reader holds is the one that the next producer wakes.
    let again = node.partition().await;
    produce(&again, &producer.batch(&["b"])).await.unwrap();
    offsets.changed().await.unwrap();
    assert_eq!(*offsets.borrow(), Offset(2));
    assert_eq!(values(&group), ["a", "b"]);
}

#[tokio::test]
async fn produce_wakes_a_group_that_fell_asleep_under_it() {
    let node = Node::new();
    let group = node.partition().await;
    let mut producer = Producer::new(7);
    for i in 0..4 {
        assert_eq!(produce(&group, &producer.batch(&["x"])).await.unwrap().base_offset, Offset(i));
        node.clock.advance(IDLE);
        assert_eq!(node.host.sleep_idle(IDLE).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wake_a_group_together_share_one_waking() {
    let node = std::sync::Arc::new(Node::new());
    let wakers: Vec<_> = (0..32)
        .map(|_| {
            let node = node.clone();
            tokio::spawn(async move { node.partition().await.status().await.term })
        })
        .collect();
    let mut terms = std::collections::BTreeSet::new();
    for waker in wakers {
        terms.insert(waker.await.unwrap());
    }
    assert_eq!(terms.len(), 1, "{terms:?}");
}

#[tokio::test]
async fn waker_that_goes_away_does_not_stop_the_waking() {
    let node = Node::new();
    let group = node.host.open(PARTITION, GroupKind::Partition, DURABLE).unwrap();
    for _ in 0..20 {
        let task = tokio::spawn({
            let group = group.clone();
            async move { group.wake().await }
        });
        tokio::task::yield_now().await;
        task.abort();
        let _ = task.await;
        group.wake().await.unwrap();
        node.clock.advance(IDLE);
        node.host.sleep_idle(IDLE).await;
    }
    assert_eq!(
        produce(&group, &Producer::new(1).batch(&["a"])).await.unwrap().base_offset,
        Offset(0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousand_groups_work_and_sleep() {
    const GROUPS: u64 = 1000;
    let node = std::sync::Arc::new(Node::new());
    for round in 0..2_u64 {
        let tasks: Vec<_> = (1..=GROUPS)
            .map(|id| {
                let node = node.clone();
                tokio::spawn(async move {
                    let group = node.group(GroupId(id), DURABLE).await;
                    let mut producer = Producer { next: round, ..Producer::new(id) };
                    produce(&group, &producer.batch(&["x"])).await.unwrap().base_offset
                })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.unwrap(), Offset(round));
        }
        node.clock.advance(IDLE);
        assert_eq!(node.host.sleep_idle(IDLE).await, GROUPS as usize);
        assert_eq!(node.host.held_count(), 0);
    }
}

#[tokio::test]
async fn deleted_group_refuses_and_its_number_starts_empty_again() {
    let node = Node::new();
    let group = node.partition().await;
    produce(&group, &Producer::new(1).batch(&["a"])).await.unwrap();
    node.host.delete(PARTITION).await.unwrap();
    let refused = produce(&group, &Producer::new(2).batch(&["b"])).await.unwrap_err();
    assert!(
        matches!(refused, ProduceError::Group(OpenGroupError::Deleted { group: PARTITION })),
        "{refused}"
    );
    drop(group);
    let node = node.restart().await;
    assert!(node.host.store().group(PARTITION).is_none());
}

/// A session that had looked its topic up before the deletion opened the group after it: on a log that
/// was being given up a second Raft instance woke, and a group that was never used came back to life.
#[tokio::test]
async fn deleted_group_is_not_opened_again() {
    let node = Node::new();
    let unused = GroupId(77);
    node.host.delete(unused).await.unwrap();
    let refused = node.host.open(unused, GroupKind::Partition, DURABLE).unwrap_err();
    assert!(matches!(refused, OpenGroupError::Deleted { group } if group == unused), "{refused}");
    assert!(node.host.store().group(unused).is_none());

    let group = node.partition().await;
    produce(&group, &Producer::new(1).batch(&["a"])).await.unwrap();
    let mut deleting = std::pin::pin!(node.host.delete(PARTITION));
    assert!(deleting.as_mut().now_or_never().is_none(), "the journal has not answered yet");
    let refused = node.host.open(PARTITION, GroupKind::Partition, DURABLE).unwrap_err();
    assert!(matches!(refused, OpenGroupError::Deleted { .. }), "{refused}");
    deleting.await.unwrap();
    let refused = node.host.open(PARTITION, GroupKind::Partition, DURABLE).unwrap_err();
    assert!(matches!(refused, OpenGroupError::Deleted { .. }), "{refused}");
}

#[tokio::test]
async fn nothing_wakes_after_the_shutdown() {
    let node = Node::new();
    let group = node.partition().await;
    let pending = harness::propose(&group, &Producer::new(1).batch(&["a"])).await.unwrap();
    node.host.shutdown().await;
    assert_eq!(pending.await.unwrap().base_offset, Offset(0), "what was in flight was waited for");
    let refused = produce(&group, &Producer::new(2).batch(&["b"])).await.unwrap_err();
    assert!(matches!(refused, ProduceError::Group(OpenGroupError::ShuttingDown)), "{refused}");
    assert!(node.host.group(PARTITION, GroupKind::Partition, DURABLE).await.is_err());
}

/// This node's replica is the only one of every group.
struct Everything;

impl Placements for Everything {
    fn placed(&self, _group: GroupId) -> Option<Placed> {
        Some(Placed { options: DURABLE, wanted: [NodeId(1)].into(), birth: None })
    }

    fn epoch(&self) -> u64 {
        0
    }
}

/// Groups that are new here wait for the catalog, to be born by it. While so many of them waited as may
/// wake at a time, no other group woke, and the catalog did not either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_that_wait_for_the_catalog_keep_no_other_from_waking() {
    let node = Node::new();
    produce(&node.partition().await, &Producer::new(1).batch(&["a"])).await.unwrap();
    let node = node.restart().await;
    node.host.set_placements(std::sync::Arc::new(Everything));
    let waiting: Vec<_> = (1_000..1_100)
        .map(|id| {
            let group = node.host.open(GroupId(id), GroupKind::Partition, DURABLE).unwrap();
            tokio::spawn(async move { group.wake().await })
        })
        .collect();
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    assert_eq!(values(&*node.partition().await), ["a"]);
    let catalog = node.host.open(GroupId::CATALOG, GroupKind::Catalog, DURABLE).unwrap();
    catalog.wake().await.unwrap();
    for waker in waiting {
        waker.abort();
    }
}
