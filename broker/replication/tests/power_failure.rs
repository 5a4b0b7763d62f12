//! What a power failure leaves of a group, with and without durability.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod harness;

use harness::simulated::SimNode;
use harness::{DURABLE, MEMORY, Node, PARTITION, Producer, produce, propose, values};
use plimsoll_log::Vote;
use plimsoll_log::disk::sim::{CrashPlan, Effect, Fault, Operation};
use plimsoll_protocol::ids::{GroupId, NodeId, Offset, Term};
use plimsoll_replication::ProduceError;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_records_survive_any_power_failure() {
    for seed in 0..30 {
        let plan = if seed == 0 { CrashPlan::NOTHING } else { CrashPlan::random(seed) };
        let mut node = SimNode::new(seed);
        let mut producer = Producer::new(7);
        let mut expected = Vec::new();
        for life in 0..4 {
            let group = node.group(PARTITION, DURABLE).await;
            assert_eq!(values(&group), expected, "seed {seed}, life {life}");
            for i in 0..5 {
                let text = format!("{life}/{i}");
                let batch = producer.batch(&[&text]);
                let offset = produce(&group, &batch).await.unwrap().base_offset;
                assert_eq!(offset, Offset(expected.len() as u64), "seed {seed}, life {life}");
                assert!(produce(&group, &batch).await.unwrap().duplicate);
                expected.push(text);
            }
            if life == 1 {
                node.host.store().checkpoint_now();
            }
            drop(group);
            node = node.power_failure(&plan).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_group_goes_on_after_what_the_checkpoint_kept() {
    let node = SimNode::new(1);
    let mut producer = Producer::new(7);
    let group = node.group(PARTITION, MEMORY).await;
    for i in 0..10 {
        produce(&group, &producer.batch(&[&i.to_string()])).await.unwrap();
    }
    node.host.store().checkpoint_now();
    let kept = producer.clone();
    for i in 10..20 {
        produce(&group, &producer.batch(&[&i.to_string()])).await.unwrap();
    }
    drop(group);
    let node = node.power_failure(&CrashPlan::NOTHING).await;
    let group = node.group(PARTITION, MEMORY).await;
    assert_eq!(values(&group).len(), 10);
    // The producer learns that records are missing, instead of leaving a gap.
    let refused = produce(&group, &producer.batch(&["20"])).await.unwrap_err();
    assert!(matches!(refused, ProduceError::OutOfOrderSequence { expected: 10 }), "{refused}");
    let mut producer = kept;
    assert_eq!(produce(&group, &producer.batch(&["x"])).await.unwrap().base_offset, Offset(10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_group_that_lost_everything_begins_anew_in_a_new_term() {
    let mut node = SimNode::new(2);
    let mut terms = Vec::new();
    for life in 0..4 {
        let group = node.group(PARTITION, MEMORY).await;
        terms.push(group.status().await.term);
        assert!(values(&group).is_empty(), "life {life}");
        let produced = produce(&group, &Producer::new(life + 1).batch(&["a", "b"])).await.unwrap();
        assert_eq!(produced.base_offset, Offset(0), "life {life}");
        assert_eq!(values(&group), ["a", "b"]);
        drop(group);
        node = node.power_failure(&CrashPlan::NOTHING).await;
    }
    assert!(terms.is_sorted_by(|a, b| a < b), "a node never votes twice in a term: {terms:?}");
}

/// A node that joined and lost its power between its vote and its first entry once began the metadata
/// group anew, as if it were alone, and led it beside the others (the simulation found it).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_group_with_a_vote_and_no_entry_waits_for_the_others() {
    let node = SimNode::new(4);
    let log = node.host.store().create_group(GroupId::CATALOG, DURABLE).unwrap();
    let (sender, voted) = tokio::sync::oneshot::channel();
    let vote = Vote { term: Term(3), voted_for: NodeId(2), committed: true };
    log.save_vote(vote, Box::new(|outcome| drop(sender.send(outcome))));
    voted.await.unwrap().unwrap();
    drop(log);
    let group = node.group(GroupId::CATALOG, DURABLE).await;
    let bounds = group.log().bounds();
    assert_eq!((bounds.purged, bounds.last), (None, None));
}

#[tokio::test]
async fn log_that_ends_before_its_state_goes_on_behind_it() {
    // A state of 20 records, as a checkpoint may hold it, and a log that kept only 10 of them.
    let (ahead, behind) = (Node::new(), Node::new());
    let mut producer = Producer::new(7);
    let full = ahead.group(GroupId(1), MEMORY).await;
    let short = behind.group(GroupId(1), MEMORY).await;
    for i in 0..20 {
        let batch = producer.batch(&[&i.to_string()]);
        produce(&full, &batch).await.unwrap();
        if i < 10 {
            produce(&short, &batch).await.unwrap();
        }
    }
    ahead.host.shutdown().await;
    behind.host.shutdown().await;
    let (applied, state) = full.log().state().unwrap().unwrap();
    short.log().put_state(applied, state);
    drop((full, short));
    let behind = behind.restart().await;
    let group = behind.group(GroupId(1), MEMORY).await;
    assert_eq!(*group.high_watermark().borrow(), Offset(20));
    assert_eq!(
        group.log().bounds().log_start_offset,
        Offset(20),
        "what is lost is said to be gone"
    );
    assert_eq!(produce(&group, &producer.batch(&["20"])).await.unwrap().base_offset, Offset(20));
    drop(group);
    let behind = behind.kill().await;
    let group = behind.group(GroupId(1), MEMORY).await;
    assert_eq!(harness::read_all(&group, Offset(20)).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_journal_acknowledges_nothing_more() {
    let node = SimNode::new(3);
    let group = node.group(PARTITION, DURABLE).await;
    let mut producer = Producer::new(7);
    produce(&group, &producer.batch(&["a"])).await.unwrap();
    node.disk.inject(Fault::new(Operation::Write, 1, Effect::Eio));
    let first = propose(&group, &producer.batch(&["b"])).await;
    let outcome = match first {
        Ok(pending) => pending.await,
        Err(refused) => Err(refused),
    };
    assert!(matches!(outcome, Err(ProduceError::Unknown | ProduceError::Group(_))), "{outcome:?}");
    for _ in 0..3 {
        let later = produce(&group, &producer.batch(&["c"])).await;
        assert!(matches!(later, Err(ProduceError::Unknown | ProduceError::Group(_))), "{later:?}");
    }
    assert_eq!(values(&group), ["a"]);
    drop(group);
    let node = node.power_failure(&CrashPlan::EVERYTHING).await;
    let group = node.group(PARTITION, DURABLE).await;
    assert_eq!(values(&group)[0], "a");
}
