//! `tx`: what waits for its commit.

use plimsoll_amqp::methods::*;
use plimsoll_amqp::properties::Properties;
use plimsoll_amqp::table::{FieldValue, TableBuilder};

use crate::client::*;

async fn in_transaction(node: &Node) -> Client {
    let mut client = node.channel().await;
    client.declare_named("q").await;
    client.publish(1, "q", "old").await;
    assert_eq!(client.ask(1, TxSelect {}).await, TxSelectOk {}.into());
    client
}

#[tokio::test(start_paused = true)]
async fn commit_publishes_and_settles() {
    let node = Node::new();
    let mut client = in_transaction(&node).await;
    let (got, _) = client.get("q", false).await.unwrap();
    client.publish(1, "q", "new").await;
    client.ack(1, got.tag, false).await;
    client.settled(1).await;
    assert_eq!((node.memory.held("q"), node.memory.ready("q").len()), (1, 0));
    assert_eq!(client.ask(1, TxCommit {}).await, TxCommitOk {}.into());
    assert_eq!((node.memory.held("q"), node.memory.ready("q")), (0, vec!["new".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn commit_is_answered_once_its_publishes_are_stored() {
    let node = Node::new();
    let mut client = in_transaction(&node).await;
    let (got, _) = client.get("q", false).await.unwrap();
    node.memory.hold_back();
    client.publish(1, "q", "new").await;
    client.ack(1, got.tag, false).await;
    client.say(1, TxCommit {}).await;
    until(|| node.memory.held_back() == 1).await;
    assert_eq!(node.memory.held("q"), 1, "acks are behind what was published");
    node.memory.let_go(1);
    client.expect(1, TxCommitOk {}).await;
    assert_eq!(node.memory.held("q"), 0);
}

#[tokio::test(start_paused = true)]
async fn rollback_forgets_publishes_and_settlements() {
    let node = Node::new();
    let mut client = in_transaction(&node).await;
    let (got, _) = client.get("q", false).await.unwrap();
    client.publish(1, "q", "new").await;
    client.ack(1, got.tag, false).await;
    assert_eq!(client.ask(1, TxRollback {}).await, TxRollbackOk {}.into());
    assert_eq!(client.ask(1, TxCommit {}).await, TxCommitOk {}.into());
    assert_eq!((node.memory.held("q"), node.memory.ready("q").len()), (1, 0));
    client.ack(1, got.tag, false).await;
    assert_eq!(client.ask(1, TxCommit {}).await, TxCommitOk {}.into());
    assert_eq!(node.memory.held("q"), 0);
}

#[tokio::test(start_paused = true)]
async fn commit_that_a_queue_refuses_in_part_ends_the_channel_and_settles_nothing() {
    let node = Node::new();
    let mut client = in_transaction(&node).await;
    let arguments = TableBuilder::new()
        .field("x-max-length", FieldValue::I32(0))
        .text("x-overflow", "reject-publish")
        .build()
        .unwrap();
    client.declare(QueueDeclare { queue: s("full"), arguments, ..Default::default() }).await;
    let (got, _) = client.get("q", false).await.unwrap();
    client.publish(1, "full", "new").await;
    client.ack(1, got.tag, false).await;
    let text = "PRECONDITION_FAILED - partial tx completion";
    assert_eq!(client.is_refused(1, TxCommit {}).await, (406, text.to_owned()));
    assert_eq!(node.memory.ready("q"), ["old"]);
}

#[tokio::test(start_paused = true)]
async fn publish_to_a_missing_exchange_fails_at_once() {
    let node = Node::new();
    let mut client = in_transaction(&node).await;
    client.publish_with(1, "none", "", &Properties::default(), b"x").await;
    assert_eq!(client.channel_ends(1).await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn exchange_that_goes_before_the_commit_fails_it() {
    let node = Node::new();
    let mut client = in_transaction(&node).await;
    let exchange = s("ex");
    let declare = ExchangeDeclare { exchange, kind: s("fanout"), ..Default::default() };
    client.ask(1, declare).await;
    let (got, _) = client.get("q", false).await.unwrap();
    client.publish_with(1, "ex", "", &Properties::default(), b"x").await;
    client.ack(1, got.tag, false).await;
    client.ask(1, ExchangeDelete { exchange: s("ex"), ..Default::default() }).await;
    assert_eq!(client.is_refused(1, TxCommit {}).await.0, 404);
    assert_eq!(node.memory.ready("q"), ["old"]);
}
