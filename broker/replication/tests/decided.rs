//! Batches that are stored only where something holds of every record before them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod harness;

use std::future::ready;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use harness::{Node, Producer, batch_of, propose, values};
use plimsoll_protocol::batch::BatchHeader;
use plimsoll_protocol::ids::{Offset, ProducerId};
use plimsoll_replication::{DecidedError, Group, Produced, Tip};

/// Hands a batch in and says yes; gives what was told, too.
async fn accepted(group: &Arc<Group>, batch: &Bytes) -> (Produced, Option<Tip>) {
    let told = Mutex::new(None);
    let decide = |tip| {
        *told.lock().unwrap() = Some(tip);
        ready(Ok::<_, ()>(()))
    };
    let header = BatchHeader::parse(batch).unwrap();
    let pending = group.produce_decided(batch.clone(), header, None, decide).await.unwrap();
    let produced = pending.await.unwrap();
    (produced, told.into_inner().unwrap())
}

fn anonymous(values: &[&str]) -> Bytes {
    batch_of(ProducerId::NONE, 0, 0, values)
}

#[tokio::test]
async fn the_tip_counts_what_is_in_flight_and_is_where_the_batch_comes_to_lie() {
    let node = Node::new();
    let group = node.partition().await;
    let mut in_flight = Vec::new();
    for _ in 0..50 {
        in_flight.push(propose(&group, &anonymous(&["a", "b"])).await.unwrap());
    }
    let (produced, tip) = accepted(&group, &anonymous(&["c"])).await;
    assert_eq!(tip.unwrap().end, Offset(100));
    assert_eq!(produced.base_offset, Offset(100));
    for pending in in_flight {
        pending.await.unwrap();
    }
    let (_, next) = accepted(&group, &anonymous(&["d"])).await;
    assert_eq!(next.unwrap(), Tip { end: Offset(101), ..tip.unwrap() });
}

#[tokio::test]
async fn what_was_proposed_before_is_applied_while_a_batch_is_decided() {
    let node = Node::new();
    let group = node.partition().await;
    let earlier = propose(&group, &anonymous(&["a", "b", "c"])).await.unwrap();
    let batch = anonymous(&["d"]);
    let header = BatchHeader::parse(&batch).unwrap();
    let decide = |tip: Tip| {
        let mut watermark = group.high_watermark();
        async move {
            watermark.wait_for(|offset| *offset >= tip.end).await.unwrap();
            Ok::<_, ()>(())
        }
    };
    let pending = group.produce_decided(batch, header, None, decide).await.unwrap();
    assert_eq!(pending.await.unwrap().base_offset, Offset(3));
    earlier.await.unwrap();
}

#[tokio::test]
async fn what_is_decided_against_is_not_stored_and_uses_no_sequence() {
    let node = Node::new();
    let group = node.partition().await;
    let mut producer = Producer::new(7);
    let again = producer.clone();
    let batch = producer.batch(&["a"]);
    let header = BatchHeader::parse(&batch).unwrap();
    let outcome = group.produce_decided(batch, header, None, |_| ready(Err("no"))).await;
    assert!(matches!(outcome, Err(DecidedError::Decided("no"))), "{outcome:?}");
    assert!(values(&group).is_empty());
    let (produced, _) = accepted(&group, &again.clone().batch(&["b"])).await;
    assert_eq!(produced.base_offset, Offset(0));
}

#[tokio::test]
async fn a_retry_is_answered_as_the_first_time_and_not_decided_again() {
    let mut node = Node::new();
    let batch = Producer::new(7).batch(&["a"]);
    let group = node.partition().await;
    let (first, tip) = accepted(&group, &batch).await;
    assert!(tip.is_some());
    for _ in 0..2 {
        let group = node.partition().await;
        let header = BatchHeader::parse(&batch).unwrap();
        let pending = group.produce_decided(batch.clone(), header, None, |_| ready(Err(()))).await;
        assert_eq!(pending.unwrap().await.unwrap(), Produced { duplicate: true, ..first });
        drop(group);
        node = node.restart().await;
    }
}

#[tokio::test]
async fn another_term_is_another_run() {
    let node = Node::new();
    let group = node.partition().await;
    let (_, first) = accepted(&group, &anonymous(&["a"])).await;
    node.clock.advance(std::time::Duration::from_secs(3600));
    node.host.sleep_idle(std::time::Duration::from_secs(60)).await;
    let (_, second) = accepted(&group, &anonymous(&["b"])).await;
    assert_eq!(second.unwrap().end, Offset(1));
    assert_ne!(second.unwrap().run, first.unwrap().run);
}
