//! Retention takes records, never what a group needs to find its state again.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod harness;

use std::time::Duration;

use harness::simulated::SimNode;
use harness::{Node, PARTITION, Producer, produce, read_all};
use plimsoll_log::disk::sim::{CrashPlan, SplitMix};
use plimsoll_log::{Durability, GroupOptions, Retention};
use plimsoll_protocol::ids::{LogIndex, Offset};

const SMALL_SEGMENTS: GroupOptions =
    GroupOptions { durability: Durability::Durable, segment_bytes: 16 << 10 };
const IDLE: Duration = Duration::from_secs(30);
const LITTLE: Retention = Retention { max_age_ms: None, max_bytes: Some(40 << 10) };

#[tokio::test]
async fn nothing_goes_before_every_kept_checkpoint_has_the_state() {
    let node = Node::new();
    let group = node.group(PARTITION, SMALL_SEGMENTS).await;
    let mut producer = Producer::new(7);
    let value = "x".repeat(4000);
    for _ in 0..60 {
        produce(&group, &producer.batch(&[&value])).await.unwrap();
    }
    node.host.store().checkpoint_now();
    let first = node.host.retain(PARTITION, &LITTLE, 0).unwrap();
    assert_eq!((first.segments, first.log_start_offset), (0, Offset(0)));
    let before = node.host.store().stats().checkpoints;
    let mut calls = Vec::new();
    while node.host.store().stats().checkpoints < before + 4 {
        produce(&group, &producer.batch(&[&value])).await.unwrap();
        node.host.store().checkpoint_now();
        let outcome = node.host.retain(PARTITION, &LITTLE, 0).unwrap();
        calls.push(outcome.segments);
    }
    let took = calls.iter().position(|segments| *segments > 0).expect("retention works at last");
    assert!(took >= 2, "it waited for the checkpoints: {calls:?}");
    let start = group.log().bounds().log_start_offset;
    assert!(start > Offset(0));
    let kept = read_all(&group, start);
    assert_eq!(kept.len() as u64, group.high_watermark().borrow().0 - start.0);
}

/// Every mixture of producing, sleeping, checkpoints and retention, then a power failure, at times
/// with the newest checkpoint damaged: what was not dropped is there, and the group finds its state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn group_wakes_after_any_crash_between_retentions() {
    let mut dropped = 0;
    for seed in 0..16 {
        let mut random = SplitMix::new(seed);
        let mut node = SimNode::new(seed);
        let mut producer = Producer::new(7);
        let value = "x".repeat(4000);
        let mut end = 0;
        for round in 0..6 {
            let at = format!("seed {seed}, round {round}");
            let mut group = node.group(PARTITION, SMALL_SEGMENTS).await;
            for _ in 0..25 {
                match random.below(4) {
                    0 => {
                        node.clock.advance(IDLE);
                        node.host.sleep_idle(IDLE).await;
                    }
                    1 => node.host.store().checkpoint_now(),
                    2 => {
                        let outcome = node.host.retain(PARTITION, &LITTLE, 0).unwrap();
                        dropped += outcome.segments;
                    }
                    _ => {
                        for _ in 0..6 {
                            let produced = produce(&group, &producer.batch(&[&value])).await;
                            assert_eq!(produced.unwrap().base_offset, Offset(end), "{at}");
                            end += 1;
                        }
                    }
                }
            }
            drop(group);
            let damage_newest = random.chance(50);
            node = node
                .power_failure_with(&CrashPlan::NOTHING, |disk| {
                    let mut checkpoints = disk.files();
                    checkpoints.retain(|(path, _)| path.ends_with(".checkpoint"));
                    checkpoints.sort_unstable();
                    if let [.., _older, (newest, bytes)] = &checkpoints[..]
                        && damage_newest
                    {
                        disk.flip_bit(newest, 8 * (bytes / 2)).unwrap();
                    }
                })
                .await;
            group = node.group(PARTITION, SMALL_SEGMENTS).await;
            assert_eq!(*group.high_watermark().borrow(), Offset(end), "{at}");
            let start = group.log().bounds().log_start_offset;
            assert_eq!(read_all(&group, start).len() as u64, end - start.0, "{at}");
        }
    }
    assert!(dropped > 50, "retention did too little to mean anything: {dropped}");
}

#[tokio::test]
async fn sleeping_group_lets_raft_forget_what_is_folded() {
    let node = Node::new();
    let mut producer = Producer::new(7);
    let none = Retention { max_age_ms: None, max_bytes: None };
    for round in 0..30_u64 {
        let group = node.group(PARTITION, SMALL_SEGMENTS).await;
        assert_eq!(
            produce(&group, &producer.batch(&["x"])).await.unwrap().base_offset,
            Offset(round)
        );
        drop(group);
        node.clock.advance(IDLE);
        assert_eq!(node.host.sleep_idle(IDLE).await, 1);
        node.host.store().checkpoint_now();
        node.host.retain(PARTITION, &none, 0).unwrap();
    }
    let log = node.host.store().group(PARTITION).unwrap();
    let purged = log.bounds().purged.map_or(LogIndex(0), |id| id.index);
    assert!(purged > LogIndex(20), "every waking adds a term, and they are forgotten: {purged}");
    drop(log);
    let node = node.kill().await;
    let group = node.group(PARTITION, SMALL_SEGMENTS).await;
    assert_eq!(read_all(&group, Offset(0)).len(), 30, "the records stay");
}

/// A power failure took the end of the log of a group in memory, but not the state behind it. Retention
/// then purged up to the state: the log began anew behind it, at the offset where the lost records
/// should have been, and the next records got offsets that had been given before.
#[tokio::test]
async fn log_that_ends_before_its_state_is_left_to_the_waking_of_its_group() {
    const IN_MEMORY: GroupOptions =
        GroupOptions { durability: Durability::Memory, ..SMALL_SEGMENTS };
    let node = Node::new();
    let mut producer = Producer::new(7);
    let group = node.group(PARTITION, IN_MEMORY).await;
    for _ in 0..5 {
        produce(&group, &producer.batch(&["x"])).await.unwrap();
    }
    drop(group);
    node.clock.advance(IDLE);
    assert_eq!(node.host.sleep_idle(IDLE).await, 1);
    let log = node.host.store().group(PARTITION).unwrap();
    let last = log.bounds().last.unwrap();
    log.truncate_after(Some(LogIndex(last.index.0 - 2)), Box::new(|_| {})).unwrap();
    let bounds = log.bounds();
    assert!(bounds.log_end_offset < Offset(5));
    for _ in 0..6 {
        node.host.retain(PARTITION, &LITTLE, 0).unwrap();
        node.host.store().checkpoint_now();
    }
    assert_eq!(log.bounds().last, bounds.last);
    drop(log);
    let group = node.group(PARTITION, IN_MEMORY).await;
    let next = produce(&group, &producer.batch(&["y"])).await.unwrap();
    assert_eq!(next.base_offset, Offset(5));
}
