//! Deliveries, and what consumers say of them.

use std::time::Duration;

use bytes::Bytes;
use plimsoll_amqp::methods::*;
use plimsoll_amqp::properties::Properties;
use plimsoll_amqp::table::{FieldValue, TableBuilder};
use plimsoll_amqp_gateway::GatewayConfig;
use plimsoll_amqp_gateway::backend::Record;

use crate::client::*;

/// A channel, a queue `q`, and so many messages in it: `0`, `1`, ...
async fn with_messages(node: &Node, count: usize) -> Client {
    let mut client = node.channel().await;
    client.declare_named("q").await;
    for number in 0..count {
        client.publish(1, "q", &number.to_string()).await;
    }
    assert_eq!(client.counts("q").await.0 as usize, count);
    client
}

#[tokio::test(start_paused = true)]
async fn what_is_acked_is_gone_and_the_rest_comes_back() {
    let node = Node::new();
    let mut client = with_messages(&node, 4).await;
    client.consume(1, "q").await;
    assert_eq!(client.bodies(4).await, ["0", "1", "2", "3"]);
    client.ack(1, 2, true).await;
    client.ack(1, 4, false).await;
    client.say(1, ChannelClose::default()).await;
    client.expect(1, ChannelCloseOk {}).await;
    assert_eq!(node.memory.ready("q"), ["2"]);
    client.open_channel(1).await;
    let (got, left) = client.get("q", false).await.unwrap();
    assert!(got.redelivered);
    assert_eq!((&*got.body, left), ("2", 0));
    let headers = got.properties.headers.unwrap();
    assert_eq!(headers.find("x-delivery-count"), Some(FieldValue::I64(1)));
}

#[tokio::test(start_paused = true)]
async fn requeued_message_comes_again_in_its_place() {
    let node = Node::new();
    let mut client = with_messages(&node, 2).await;
    let (got, left) = client.get("q", false).await.unwrap();
    assert_eq!((&*got.body, left, got.redelivered), ("0", 1, false));
    client.say(1, BasicReject { delivery_tag: got.tag, requeue: true }).await;
    let (got, _) = client.get("q", false).await.unwrap();
    assert_eq!((&*got.body, got.redelivered), ("0", true));
    let nack = BasicNack { delivery_tag: 0, multiple: true, requeue: true };
    client.say(1, nack).await;
    client.settled(1).await;
    assert_eq!(node.memory.ready("q"), ["0", "1"]);
}

#[tokio::test(start_paused = true)]
async fn recover_delivers_again_what_is_not_settled() {
    let node = Node::new();
    let mut client = with_messages(&node, 2).await;
    client.consume(1, "q").await;
    client.bodies(2).await;
    client.say(1, BasicRecover { requeue: true }).await;
    client.expect(1, BasicRecoverOk {}).await;
    let again = [client.delivery().await, client.delivery().await];
    assert!(again.iter().all(|got| got.redelivered));
    assert_eq!(again.map(|got| got.tag), [3, 4]);
}

#[tokio::test(start_paused = true)]
async fn rejected_message_goes_to_the_dead_letter_exchange() {
    let node = Node::new();
    let mut client = node.channel().await;
    client.declare_named("dead").await;
    client.bind("dead", "amq.fanout", "").await;
    let arguments = table(&[("x-dead-letter-exchange", "amq.fanout")]);
    client.declare(QueueDeclare { queue: s("q"), arguments, ..Default::default() }).await;
    client.publish(1, "q", "bad").await;
    let (got, _) = client.get("q", false).await.unwrap();
    client.say(1, BasicReject { delivery_tag: got.tag, requeue: false }).await;
    client.settled(1).await;
    let (got, _) = client.get("dead", true).await.unwrap();
    assert_eq!((&*got.exchange, &*got.key, &*got.body), ("amq.fanout", "q", "bad"));
    let headers = got.properties.headers.unwrap();
    let Some(FieldValue::Array(deaths)) = headers.find("x-death") else { panic!("{headers:?}") };
    let Some(FieldValue::Table(death)) = deaths.iter().next() else { panic!("a death") };
    assert_eq!(death.find("reason"), Some(FieldValue::LongStr(b"rejected")));
    assert_eq!(death.find("queue"), Some(FieldValue::LongStr(b"q")));
    assert!(node.memory.ready("q").is_empty() && node.memory.held("q") == 0);
}

#[tokio::test(start_paused = true)]
async fn consumer_has_its_window_and_no_more() {
    let node = Node::new();
    let mut client = with_messages(&node, 5).await;
    client.qos(1, 2, false).await;
    client.consume(1, "q").await;
    assert_eq!(client.bodies(2).await, ["0", "1"]);
    client.hears_nothing(1).await;
    assert_eq!(node.memory.ready("q"), ["2", "3", "4"]);
    client.ack(1, 1, false).await;
    assert_eq!(client.bodies(1).await, ["2"]);
    client.ack(1, 3, true).await;
    assert_eq!(client.bodies(2).await, ["3", "4"]);
}

#[tokio::test(start_paused = true)]
async fn window_of_the_channel_leaves_messages_to_others() {
    let node = Node::new();
    let mut client = with_messages(&node, 0).await;
    client.qos(1, 1, true).await;
    client.consume(1, "q").await;
    client.consume(1, "q").await;
    for body in ["0", "1", "2", "3"] {
        client.publish(1, "q", body).await;
    }
    assert_eq!(client.bodies(1).await, ["0"]);
    client.hears_nothing(1).await;
    // Each of its two consumers may have one at hand.
    assert_eq!(node.memory.held("q"), 2);
    let mut other = node.channel().await;
    assert_eq!(other.get("q", true).await.unwrap().0.body, "2");
    client.ack(1, 1, false).await;
    assert_eq!(client.bodies(1).await, ["1"]);
}

#[tokio::test(start_paused = true)]
async fn messages_without_acks_are_settled_as_they_are_sent() {
    let node = Node::new();
    let mut client = with_messages(&node, 100).await;
    let consume = BasicConsume { queue: s("q"), no_ack: true, ..Default::default() };
    client.consume_with(1, consume).await;
    client.bodies(100).await;
    client.settled(1).await;
    assert_eq!((node.memory.held("q"), node.memory.ready("q").len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn client_that_does_not_read_is_not_given_more() {
    let session =
        plimsoll_amqp::session::SessionConfig { output_bytes_max: 100_000, ..Default::default() };
    let consumer_bytes_max = 50_000;
    let config = GatewayConfig { session, consumer_bytes_max, ..GatewayConfig::default() };
    let node = Node::with(config);
    let mut client = with_messages(&node, 0).await;
    let body = "x".repeat(10_000);
    let mut publisher = node.channel().await;
    for _ in 0..100 {
        publisher.publish(1, "q", &body).await;
    }
    assert_eq!(publisher.counts("q").await.0, 100);
    let consume = BasicConsume { queue: s("q"), no_ack: true, ..Default::default() };
    client.say(1, consume).await;
    until(|| node.memory.held("q") > 0 && node.memory.ready("q").is_empty()).await;
    // What is settled was sent, or waits to be: about the pipe and twice the output.
    let unsettled = || node.memory.held("q");
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(unsettled() > 50, "{}", unsettled());
    assert!(matches!(client.hears(1).await, Method::BasicConsumeOk(_)));
    client.bodies(100).await;
    until(|| unsettled() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn cancelled_consumer_gets_nothing_and_may_settle_what_it_has() {
    let node = Node::new();
    let mut client = with_messages(&node, 3).await;
    client.qos(1, 2, false).await;
    let tag = client.consume(1, "q").await;
    client.bodies(2).await;
    let cancel = BasicCancel { consumer_tag: tag.clone(), no_wait: false };
    client.say(1, cancel.clone()).await;
    client.expect(1, BasicCancelOk { consumer_tag: tag.clone() }).await;
    assert_eq!(client.counts("q").await, (1, 0));
    client.ack(1, 1, false).await;
    client.settled(1).await;
    assert_eq!(node.memory.held("q"), 1);
    client.say(1, BasicReject { delivery_tag: 2, requeue: true }).await;
    client.settled(1).await;
    assert_eq!(node.memory.ready("q"), ["1", "2"]);
    // Who is not there is cancelled.
    client.say(1, cancel).await;
    client.expect(1, BasicCancelOk { consumer_tag: tag }).await;
}

/// The channel's window leaves the consumer more than the client takes.
#[tokio::test(start_paused = true)]
async fn what_a_cancelled_consumer_did_not_pass_on_is_ready_at_once() {
    let node = Node::new();
    let mut client = with_messages(&node, 0).await;
    client.qos(1, 2, true).await;
    let tag = client.consume(1, "q").await;
    client.qos(1, 1, true).await;
    for body in ["0", "1", "2"] {
        client.publish(1, "q", body).await;
    }
    assert_eq!(client.bodies(1).await, ["0"]);
    assert_eq!(client.counts("q").await, (1, 1));
    client.ask(1, BasicCancel { consumer_tag: tag, no_wait: false }).await;
    assert_eq!(node.memory.ready("q"), ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn get_sees_what_its_channel_published_before() {
    let node = Node::new();
    let mut client = with_messages(&node, 0).await;
    assert!(client.get("q", true).await.is_none());
    node.memory.hold_back();
    client.publish(1, "q", "x").await;
    client.say(1, BasicGet { queue: s("q"), no_ack: true, ..Default::default() }).await;
    until(|| node.memory.held_back() == 1).await;
    node.memory.let_go(1);
    let Heard::Content(1, Method::BasicGetOk(_), _, body) = client.next().await else {
        panic!("a message")
    };
    assert_eq!(&body[..], b"x");
    assert_eq!(client.counts("q").await, (0, 0), "who gets is no consumer");
    assert_eq!(node.memory.held("q"), 0);
}

#[tokio::test(start_paused = true)]
async fn client_may_look_into_many_queues() {
    let node = Node::new();
    let mut client = node.channel().await;
    for number in 0..200 {
        let queue = format!("q{number}");
        client.declare_named(&queue).await;
        client.publish(1, &queue, "x").await;
        // What is held keeps its place, the others are given up.
        let no_ack = number % 50 != 0;
        assert!(client.get(&queue, no_ack).await.is_some());
    }
    assert!(node.memory.attached() < 70, "{}", node.memory.attached());
    client.ack(1, 0, true).await;
    client.settled(1).await;
    assert!((0..200).all(|number| node.memory.held(&format!("q{number}")) == 0));
    assert!((0..200).all(|number| node.memory.ready(&format!("q{number}")).is_empty()));
}

#[tokio::test(start_paused = true)]
async fn purge_drops_what_is_ready() {
    let node = Node::new();
    let mut client = with_messages(&node, 3).await;
    let (got, _) = client.get("q", false).await.unwrap();
    let purge = QueuePurge { queue: s("q"), ..Default::default() };
    assert_eq!(client.ask(1, purge).await, QueuePurgeOk { message_count: 2 }.into());
    client.say(1, BasicReject { delivery_tag: got.tag, requeue: true }).await;
    client.settled(1).await;
    assert_eq!(node.memory.ready("q"), ["0"]);
}

#[tokio::test(start_paused = true)]
async fn exclusive_consumer_is_alone() {
    let node = Node::new();
    let mut client = with_messages(&node, 0).await;
    let mut other = node.channel().await;
    let exclusive = BasicConsume { queue: s("q"), exclusive: true, ..Default::default() };
    let consume = BasicConsume { queue: s("q"), ..Default::default() };
    let tag = client.consume_with(1, exclusive.clone()).await;
    let text = "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use";
    for attempt in [&exclusive, &consume] {
        assert_eq!(other.is_refused(1, attempt.clone()).await, (403, text.to_owned()));
    }
    client.ask(1, BasicCancel { consumer_tag: s(&tag), no_wait: false }).await;
    other.consume_with(1, consume).await;
    assert_eq!(client.is_refused(1, exclusive).await.0, 403);
}

#[tokio::test(start_paused = true)]
async fn single_active_consumer_is_followed_by_the_next() {
    let node = Node::new();
    let mut client = node.channel().await;
    let arguments = TableBuilder::new()
        .field("x-single-active-consumer", FieldValue::Bool(true))
        .build()
        .unwrap();
    client.declare(QueueDeclare { queue: s("q"), arguments, ..Default::default() }).await;
    let tag = client.consume(1, "q").await;
    let mut next = node.channel().await;
    next.consume(1, "q").await;
    for body in ["a", "b"] {
        client.publish(1, "q", body).await;
        assert_eq!(client.delivery().await.body, body);
    }
    client.ack(1, 0, true).await;
    client.ask(1, BasicCancel { consumer_tag: tag, no_wait: false }).await;
    client.publish(1, "q", "c").await;
    assert_eq!(next.delivery().await.body, "c");
}

#[tokio::test(start_paused = true)]
async fn higher_priority_is_served_first() {
    let node = Node::new();
    let mut client = with_messages(&node, 0).await;
    let priority = |value| TableBuilder::new().field("x-priority", value).build().unwrap();
    let consume = |value, tag: &str| BasicConsume {
        queue: s("q"),
        consumer_tag: s(tag),
        arguments: priority(value),
        ..Default::default()
    };
    let text = client.is_refused(1, consume(FieldValue::LongStr(b"high"), "x")).await;
    assert_eq!(text.0, 406);
    client.qos(1, 1, false).await;
    client.consume_with(1, consume(FieldValue::I32(-1), "low")).await;
    client.consume_with(1, consume(FieldValue::U8(10), "high")).await;
    client.publish(1, "q", "a").await;
    let Heard::Content(1, Method::BasicDeliver(to), ..) = client.next().await else {
        panic!("a delivery")
    };
    assert_eq!(&*to.consumer_tag, "high");
}

#[tokio::test(start_paused = true)]
async fn record_of_a_native_client_is_delivered() {
    let node = Node::new();
    let mut client = with_messages(&node, 0).await;
    client.consume(1, "q").await;
    let record = Record {
        value: Bytes::from_static(b"native"),
        headers: vec![(Bytes::from_static(b"ship"), Bytes::from_static(b"Titanic"))],
        timestamp_ms: 1_700_000_000_999,
        ..Record::default()
    };
    node.memory.append("q", record);
    let got = client.delivery().await;
    assert_eq!((&*got.exchange, &*got.key, &*got.body), ("", "q", "native"));
    let expected = Properties {
        headers: Some(table(&[("ship", "Titanic")])),
        delivery_mode: Some(2),
        timestamp: Some(1_700_000_000),
        ..Default::default()
    };
    assert_eq!(got.properties, expected);
}

#[tokio::test(start_paused = true)]
async fn channels_do_not_wait_for_each_other() {
    let node = Node::new();
    let mut client = with_messages(&node, 0).await;
    client.open_channel(2).await;
    node.memory.hold_back();
    client.publish(1, "q", "x").await;
    client.say(1, BasicGet { queue: s("q"), no_ack: true, ..Default::default() }).await;
    client.settled(2).await;
    tokio::time::advance(Duration::from_millis(1)).await;
    node.memory.let_go(1);
    assert!(matches!(client.next().await, Heard::Content(1, Method::BasicGetOk(_), _, _)));
}
