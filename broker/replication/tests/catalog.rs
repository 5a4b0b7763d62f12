//! The catalog group: commands, their answers, and what readers see, over restarts.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod harness;

use std::time::Duration;

use harness::{DURABLE, Node};
use plimsoll_protocol::api::TopicConfig;
use plimsoll_protocol::ids::{GroupId, ProducerId, TopicName};
use plimsoll_state::catalog::{CatalogCommand, CatalogRefusal, CatalogReply};
use tokio::time::timeout;

fn create(name: &str) -> CatalogCommand {
    CatalogCommand::CreateTopic {
        topic: TopicName::new(name).expect("a name"),
        partitions: 3,
        replicas: 1,
        config: TopicConfig::default(),
        if_not_exists: false,
        placement: None,
    }
}

#[tokio::test]
async fn command_is_answered_and_seen() {
    let node = Node::new();
    let catalog = node.group(GroupId::CATALOG, DURABLE).await;
    let mut seen = catalog.watch_catalog();
    assert!(seen.borrow_and_update().is_empty());
    let reply = catalog.command(create("a")).await.unwrap();
    let CatalogReply::Created { topic, existed: false } = reply else { panic!("{reply:?}") };
    assert_eq!(topic.partitions, [GroupId(1), GroupId(2), GroupId(3)]);
    // Seen before the answer came.
    assert!(seen.has_changed().unwrap());
    assert_eq!(catalog.catalog().len(), 1);
    let refused = catalog.command(create("a")).await.unwrap();
    assert!(matches!(refused, CatalogReply::Refused(CatalogRefusal::TopicExists { .. })));
}

#[tokio::test]
async fn catalog_is_the_same_after_a_restart_and_a_kill() {
    let mut node = Node::new();
    let ids = |count| CatalogCommand::AllocateProducerIds { count };
    let mut expected_id = 1;
    for round in 0..6_u32 {
        let catalog = node.group(GroupId::CATALOG, DURABLE).await;
        assert_eq!(catalog.catalog().len(), round as usize);
        catalog.command(create(&format!("topic-{round}"))).await.unwrap();
        let block = catalog.command(ids(1000)).await.unwrap();
        let first = ProducerId(expected_id);
        assert_eq!(block, CatalogReply::ProducerIds { first, count: 1000 });
        expected_id += 1000;
        drop(catalog);
        node = if round % 2 == 0 { node.kill().await } else { node.restart().await };
    }
}

/// Whoever had asked for it kept the host and its store, and tried again for ten seconds: a node that was to stop
/// waited for that.
#[tokio::test]
async fn command_of_unknown_outcome_ends_with_the_host() {
    let node = Node::new();
    let catalog = node.group(GroupId::CATALOG, DURABLE).await;
    let before = catalog.log().bounds().last;
    let host = node.host.clone();
    let asked = tokio::spawn(async move { host.command(&create("a")).await });
    while catalog.log().bounds().last == before {
        tokio::task::yield_now().await;
    }
    // It is in the log, and perhaps not durable yet.
    node.host.abort().await;
    // Whatever became of it.
    let _ = timeout(Duration::from_secs(2), asked).await.expect("nobody can answer any more");
}
