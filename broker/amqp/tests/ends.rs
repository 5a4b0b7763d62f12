//! What becomes of consumers when queues go or move, and of channels and queues that end.

use std::time::Duration;

use plimsoll_amqp::methods::*;

use crate::client::*;

#[tokio::test(start_paused = true)]
async fn consumer_is_told_that_its_queue_is_deleted() {
    let node = Node::new();
    let (mut client, mut other) = (node.channel().await, node.channel().await);
    client.declare_named("q").await;
    let tag = client.consume(1, "q").await;
    client.publish(1, "q", "a").await;
    let got = client.delivery().await;
    let delete = QueueDelete { queue: s("q"), ..Default::default() };
    other.ask(1, delete).await;
    client.expect(1, BasicCancel { consumer_tag: tag.clone(), no_wait: true }).await;
    // What it had is settled into nothing, and its tag is free.
    client.ack(1, got.tag, false).await;
    client.declare_named("q").await;
    let consume = BasicConsume { queue: s("q"), consumer_tag: tag, ..Default::default() };
    client.consume_with(1, consume).await;
    client.publish(1, "q", "b").await;
    assert_eq!(client.delivery().await.body, "b");
}

#[tokio::test(start_paused = true)]
async fn consumer_follows_a_queue_that_moves() {
    let node = Node::new();
    let mut client = node.channel().await;
    client.declare_named("q").await;
    client.consume(1, "q").await;
    client.publish(1, "q", "a").await;
    let before = client.delivery().await;
    node.memory.move_queue("q");
    let again = client.delivery().await;
    assert_eq!((&*again.body, again.redelivered), ("a", true));
    // What is said of the delivery before is not heard.
    client.ack(1, before.tag, false).await;
    client.settled(1).await;
    assert_eq!(node.memory.held("q"), 1);
    client.ack(1, again.tag, false).await;
    client.settled(1).await;
    assert_eq!(node.memory.held("q"), 0);
    assert_eq!(client.counts("q").await, (0, 1));
}

#[tokio::test(start_paused = true)]
async fn consumer_may_be_cancelled_while_its_queue_moves() {
    let node = Node::new();
    let mut client = node.channel().await;
    client.declare_named("q").await;
    let consumer_tag = client.consume(1, "q").await;
    node.memory.move_queue("q");
    client.ask(1, BasicCancel { consumer_tag, no_wait: false }).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(client.counts("q").await, (0, 0));
    client.publish(1, "q", "a").await;
    client.settled(1).await;
    assert_eq!(node.memory.ready("q"), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn get_follows_a_queue_that_moves_or_is_declared_anew() {
    let node = Node::new();
    let mut client = node.channel().await;
    client.declare_named("q").await;
    client.publish(1, "q", "a").await;
    let (before, _) = client.get("q", false).await.unwrap();
    node.memory.move_queue("q");
    let (again, _) = client.get("q", false).await.unwrap();
    assert!(again.redelivered);
    client.ack(1, before.tag, false).await;
    client.settled(1).await;
    assert_eq!(node.memory.held("q"), 1);
    client.ask(1, QueueDelete { queue: s("q"), ..Default::default() }).await;
    client.declare_named("q").await;
    assert!(client.get("q", false).await.is_none());
    client.publish(1, "q", "b").await;
    assert_eq!(client.get("q", true).await.unwrap().0.body, "b");
}

#[tokio::test(start_paused = true)]
async fn auto_delete_queue_goes_with_its_last_consumer() {
    let node = Node::new();
    let mut client = node.channel().await;
    let auto =
        |name: &str| QueueDeclare { queue: s(name), auto_delete: true, ..Default::default() };
    client.declare(auto("q")).await;
    client.declare(auto("p")).await;
    let one = client.consume(1, "q").await;
    let other = client.consume(1, "q").await;
    client.ask(1, BasicCancel { consumer_tag: one, no_wait: false }).await;
    assert_eq!(node.memory.queue_names("/"), ["q", "p"]);
    // Also where it holds a message still.
    client.publish(1, "q", "a").await;
    client.delivery().await;
    client.ask(1, BasicCancel { consumer_tag: other, no_wait: false }).await;
    assert_eq!(node.memory.queue_names("/"), ["p"]);
    // And with the channel.
    client.open_channel(2).await;
    client.consume(2, "p").await;
    client.say(2, ChannelClose::default()).await;
    client.expect(2, ChannelCloseOk {}).await;
    assert!(node.memory.queue_names("/").is_empty());
}

#[tokio::test(start_paused = true)]
async fn channel_that_fails_gives_back_what_it_had() {
    let node = Node::new();
    let mut client = node.channel().await;
    client.declare_named("q").await;
    client.publish(1, "q", "a").await;
    client.publish(1, "q", "b").await;
    client.qos(1, 1, false).await;
    client.consume(1, "q").await;
    client.delivery().await;
    let (got, _) = client.get("q", false).await.unwrap();
    let ack = BasicAck { delivery_tag: got.tag + 7, multiple: false };
    let text = "PRECONDITION_FAILED - unknown delivery tag 9";
    assert_eq!(client.is_refused(1, ack).await, (406, text.to_owned()));
    until(|| node.memory.ready("q") == ["a", "b"]).await;
    assert_eq!(client.counts("q").await, (2, 0));
}

#[tokio::test(start_paused = true)]
async fn publishes_before_a_failure_count_and_those_behind_do_not() {
    let node = Node::new();
    let mut client = node.channel().await;
    client.declare_named("q").await;
    let mut bytes = bytes::BytesMut::new();
    for (exchange, body) in [("", "before"), ("none", "lost"), ("", "behind")] {
        let publish =
            BasicPublish { exchange: s(exchange), routing_key: s("q"), ..Default::default() };
        bytes.extend_from_slice(&frames(1, publish, &Default::default(), body.as_bytes()));
    }
    client.bytes(&bytes).await;
    assert_eq!(client.channel_ends(1).await.0, 404);
    assert_eq!(node.memory.ready("q"), ["before"]);
}

#[tokio::test(start_paused = true)]
async fn consumer_of_a_missing_queue_ends_the_channel() {
    let node = Node::new();
    let mut client = node.channel().await;
    let consume = BasicConsume { queue: s("q"), ..Default::default() };
    let text = "NOT_FOUND - no queue 'q' in vhost '/'";
    assert_eq!(client.is_refused(1, consume).await, (404, text.to_owned()));
}
