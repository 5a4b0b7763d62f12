//! What a producer sees: offsets, retries, refusals, also over restarts.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod harness;

use harness::{MEMORY, Node, PARTITION, Producer, batch_of, produce, propose, values};
use plimsoll_protocol::api::AckLevel;
use plimsoll_protocol::ids::{GroupId, Offset, ProducerId};
use plimsoll_replication::{ProduceError, Produced};

#[tokio::test]
async fn batches_get_consecutive_offsets_and_can_be_read() {
    let node = Node::new();
    let group = node.partition().await;
    let mut producer = Producer::new(7);
    let first = produce(&group, &producer.batch(&["a", "b"])).await.unwrap();
    let second = produce(&group, &producer.batch(&["c"])).await.unwrap();
    assert_eq!((first.base_offset, second.base_offset), (Offset(0), Offset(2)));
    assert!(!first.duplicate && first.reached == AckLevel::Quorum);
    assert!(second.append_time_ms > first.append_time_ms);
    assert_eq!(*group.high_watermark().borrow(), Offset(3));
    assert_eq!(values(&group), ["a", "b", "c"]);
}

#[tokio::test]
async fn retried_batch_is_stored_once_also_after_a_restart() {
    let mut node = Node::new();
    let mut producer = Producer::new(7);
    let batch = producer.batch(&["a", "b"]);
    let group = node.partition().await;
    let first = produce(&group, &batch).await.unwrap();
    let duplicate = Produced { duplicate: true, ..first };
    assert_eq!(produce(&group, &batch).await.unwrap(), duplicate);
    drop(group);
    for killed in [false, true, true, false] {
        node = if killed { node.kill().await } else { node.restart().await };
        let group = node.partition().await;
        assert_eq!(produce(&group, &batch).await.unwrap(), duplicate, "killed: {killed}");
        assert_eq!(values(&group), ["a", "b"]);
    }
    let group = node.partition().await;
    assert_eq!(produce(&group, &producer.batch(&["c"])).await.unwrap().base_offset, Offset(2));
}

#[tokio::test]
async fn retry_that_races_its_original_shares_the_outcome() {
    let node = Node::new();
    let group = node.partition().await;
    let mut producer = Producer::new(7);
    for round in 0..50 {
        let text = round.to_string();
        let batch = producer.batch(&[&text]);
        // Both are handed in before either outcome is known.
        let original = propose(&group, &batch).await.unwrap();
        let retry = propose(&group, &batch).await.unwrap();
        let (original, retry) = tokio::join!(original, retry);
        let original = original.unwrap();
        assert_eq!(retry.unwrap(), Produced { duplicate: true, ..original });
    }
    assert_eq!(values(&group).len(), 50);
}

#[tokio::test]
async fn pipelined_batches_keep_their_order() {
    let node = Node::new();
    let group = node.partition().await;
    let mut producer = Producer::new(7);
    let texts: Vec<_> = (0..200).map(|i| i.to_string()).collect();
    let mut outcomes = Vec::new();
    for text in &texts {
        outcomes.push(propose(&group, &producer.batch(&[text])).await.unwrap());
    }
    for (i, outcome) in outcomes.into_iter().enumerate() {
        assert_eq!(outcome.await.unwrap().base_offset, Offset(i as u64));
    }
    assert_eq!(values(&group), texts);
}

#[tokio::test]
async fn gap_overlap_and_old_epoch_are_refused() {
    let node = Node::new();
    let group = node.partition().await;
    let id = ProducerId(7);
    produce(&group, &batch_of(id, 1, 0, &["a", "b"])).await.unwrap();
    let gap = produce(&group, &batch_of(id, 1, 3, &["d"])).await.unwrap_err();
    assert!(matches!(gap, ProduceError::OutOfOrderSequence { expected: 2 }), "{gap}");
    let overlap = produce(&group, &batch_of(id, 1, 1, &["b", "c"])).await.unwrap_err();
    assert!(matches!(overlap, ProduceError::OutOfOrderSequence { expected: 2 }), "{overlap}");
    let old = produce(&group, &batch_of(id, 0, 2, &["c"])).await.unwrap_err();
    assert!(matches!(old, ProduceError::StaleProducerEpoch { current: 1 }), "{old}");
    let unknown = produce(&group, &batch_of(ProducerId(8), 0, 2, &["c"])).await.unwrap_err();
    assert!(matches!(unknown, ProduceError::UnknownProducer), "{unknown}");
    produce(&group, &batch_of(id, 2, 0, &["c"])).await.unwrap();
    assert_eq!(values(&group), ["a", "b", "c"]);
}

#[tokio::test]
async fn producer_that_goes_away_loses_nothing_and_leaves_no_doubt() {
    let node = Node::new();
    let group = node.partition().await;
    let mut producer = Producer::new(7);
    for round in 0..100 {
        let text = round.to_string();
        let batch = producer.batch(&[&text]);
        let task = tokio::spawn({
            let (group, batch) = (group.clone(), batch.clone());
            async move { produce(&group, &batch).await.map(drop) }
        });
        if round % 3 == 0 {
            tokio::task::yield_now().await;
        }
        task.abort();
        let _ = task.await;
        // Whatever became of it, the retry settles it.
        assert_eq!(produce(&group, &batch).await.unwrap().base_offset, Offset(round));
    }
    assert_eq!(values(&group).len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producers_in_parallel_get_disjoint_offsets() {
    let node = Node::new();
    let group = node.partition().await;
    let tasks: Vec<_> = (1..9)
        .map(|id| {
            let group = group.clone();
            tokio::spawn(async move {
                let mut producer = Producer::new(id);
                let mut offsets = Vec::new();
                for i in 0..40 {
                    let text = format!("{id}/{i}");
                    let produced = produce(&group, &producer.batch(&[&text])).await.unwrap();
                    offsets.push((produced.base_offset.0, text));
                }
                offsets
            })
        })
        .collect();
    let mut all = std::collections::BTreeMap::new();
    for task in tasks {
        let offsets = task.await.unwrap();
        assert!(offsets.is_sorted(), "a producer's batches keep their order");
        all.extend(offsets);
    }
    assert_eq!(all.len(), 8 * 40);
    assert_eq!(harness::read_all(&group, Offset(0)), all);
}

#[tokio::test]
async fn killed_node_keeps_what_it_acknowledged() {
    let mut node = Node::new();
    let mut producers = [Producer::new(1), Producer::new(2)];
    let mut expected = Vec::new();
    for round in 0..6 {
        let group = node.partition().await;
        let memory = node.group(GroupId(2), MEMORY).await;
        for i in 0..20 {
            let text = format!("{round}/{i}");
            produce(&group, &producers[0].batch(&[&text])).await.unwrap();
            produce(&memory, &producers[1].batch(&[&text])).await.unwrap();
            expected.push(text);
        }
        if round == 3 {
            node.host.store().checkpoint_now();
        }
        drop((group, memory));
        node = node.kill().await;
        assert_eq!(values(&*node.partition().await), expected, "round {round}");
        assert_eq!(values(&*node.group(GroupId(2), MEMORY).await), expected, "round {round}");
    }
}

#[tokio::test]
async fn batch_without_a_producer_is_stored_each_time() {
    let node = Node::new();
    let group = node.group(PARTITION, harness::DURABLE).await;
    let batch = batch_of(ProducerId::NONE, 0, 0, &["x"]);
    for i in 0..3 {
        let produced = produce(&group, &batch).await.unwrap();
        assert_eq!((produced.base_offset, produced.duplicate), (Offset(i), false));
    }
}
