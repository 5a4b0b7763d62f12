//! Where messages go, and what their senders hear.

use bytes::BytesMut;
use plimsoll_amqp::methods::*;
use plimsoll_amqp::properties::Properties;
use plimsoll_amqp::table::{ArrayBuilder, FieldTable, FieldValue, TableBuilder};
use plimsoll_amqp_gateway::GatewayConfig;

use crate::client::*;

async fn confirming(node: &Node) -> Client {
    let mut client = node.channel().await;
    client.declare_named("q").await;
    assert_eq!(client.ask(1, ConfirmSelect::default()).await, ConfirmSelectOk {}.into());
    client
}

#[tokio::test(start_paused = true)]
async fn publish_is_confirmed_once_all_its_queues_have_it() {
    let node = Node::new();
    let mut client = confirming(&node).await;
    client.declare_named("p").await;
    for queue in ["q", "p"] {
        client.bind(queue, "amq.fanout", "").await;
    }
    node.memory.hold_back();
    client.publish_with(1, "amq.fanout", "", &Properties::default(), b"x").await;
    until(|| node.memory.held_back() == 2).await;
    node.memory.let_go(1);
    client.hears_nothing(1).await;
    node.memory.let_go(1);
    client.expect(1, BasicAck { delivery_tag: 1, multiple: false }).await;
}

#[tokio::test(start_paused = true)]
async fn many_confirms_are_one_frame() {
    let node = Node::new();
    let mut client = confirming(&node).await;
    node.memory.hold_back();
    for number in 0..100 {
        client.publish(1, "q", &number.to_string()).await;
    }
    until(|| node.memory.held_back() == 100).await;
    node.memory.let_go(100);
    client.expect(1, BasicAck { delivery_tag: 100, multiple: true }).await;
    let bodies: Vec<_> = (0..100).map(|number| number.to_string()).collect();
    assert_eq!(node.memory.ready("q"), bodies);
}

#[tokio::test(start_paused = true)]
async fn full_queue_refuses_and_the_sender_hears_it() {
    let node = Node::new();
    let mut client = confirming(&node).await;
    let arguments = TableBuilder::new()
        .field("x-max-length", FieldValue::I32(1))
        .text("x-overflow", "reject-publish")
        .build()
        .unwrap();
    client.declare(QueueDeclare { queue: s("full"), arguments, ..Default::default() }).await;
    client.publish(1, "full", "1").await;
    client.expect(1, BasicAck { delivery_tag: 1, multiple: false }).await;
    client.publish(1, "full", "2").await;
    client.expect(1, BasicNack { delivery_tag: 2, multiple: false, requeue: false }).await;
    assert_eq!(node.memory.ready("full"), ["1"]);
}

#[tokio::test(start_paused = true)]
async fn mandatory_message_comes_back_before_it_is_confirmed() {
    let node = Node::new();
    let mut client = confirming(&node).await;
    let publish = BasicPublish {
        exchange: s("amq.topic"),
        routing_key: s("nowhere"),
        mandatory: true,
        ..Default::default()
    };
    let properties = Properties { message_id: Some(s("m1")), ..Default::default() };
    client.bytes(&frames(1, publish, &properties, b"body")).await;
    let Heard::Content(1, Method::BasicReturn(returned), told, body) = client.next().await else {
        panic!("a return")
    };
    assert_eq!((returned.reply_code, &*returned.reply_text), (312, "NO_ROUTE"));
    assert_eq!((&*returned.exchange, &*returned.routing_key), ("amq.topic", "nowhere"));
    assert_eq!((*told, &body[..]), (properties, &b"body"[..]));
    client.expect(1, BasicAck { delivery_tag: 1, multiple: false }).await;
    // One that is not mandatory is gone, and confirmed.
    client.publish(1, "nowhere", "x").await;
    client.expect(1, BasicAck { delivery_tag: 2, multiple: false }).await;
}

#[tokio::test(start_paused = true)]
async fn exchange_that_is_missing_ends_the_channel() {
    let node = Node::new();
    let mut client = node.channel().await;
    client.publish_with(1, "none", "", &Properties::default(), b"x").await;
    let text = "NOT_FOUND - no exchange 'none' in vhost '/'";
    assert_eq!(client.channel_ends(1).await, (404, text.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn alternate_exchange_takes_what_has_no_way() {
    let node = Node::new();
    let mut client = node.channel().await;
    client.declare_named("lost").await;
    client.bind("lost", "amq.fanout", "").await;
    let arguments = table(&[("alternate-exchange", "amq.fanout")]);
    let exchange = s("ex");
    let declare = ExchangeDeclare { exchange, kind: s("direct"), arguments, ..Default::default() };
    client.ask(1, declare).await;
    client.publish_with(1, "ex", "nowhere", &Properties::default(), b"x").await;
    assert_eq!(client.get("lost", true).await.unwrap().0.exchange, "ex");
}

fn copies(name: &str, keys: &[&str]) -> Properties {
    let mut array = ArrayBuilder::default();
    keys.iter().for_each(|key| array.push(FieldValue::LongStr(key.as_bytes())));
    let headers = TableBuilder::new().field(name, array.as_value()).build().unwrap();
    Properties { headers: Some(headers), ..Default::default() }
}

#[tokio::test(start_paused = true)]
async fn senders_copies_go_to_their_queues_and_blind_ones_are_not_seen() {
    let node = Node::new();
    let mut client = node.channel().await;
    for queue in ["to", "cc", "bcc"] {
        client.declare_named(queue).await;
    }
    // The route of the key alone is known before.
    client.publish(1, "to", "first").await;
    client.publish_with(1, "", "to", &copies("CC", &["cc"]), b"x").await;
    client.publish_with(1, "", "to", &copies("BCC", &["bcc"]), b"y").await;
    let (got, _) = client.get("cc", true).await.unwrap();
    assert!(got.properties.headers.unwrap().find("CC").is_some());
    let (got, _) = client.get("bcc", true).await.unwrap();
    assert!(got.properties.headers.unwrap_or_default().find("BCC").is_none());
    assert_eq!(client.counts("to").await.0, 3);
}

#[tokio::test(start_paused = true)]
async fn headers_decide_each_time_even_behind_another_exchange() {
    let node = Node::new();
    let mut client = node.channel().await;
    client.declare_named("red").await;
    let bind = QueueBind {
        queue: s("red"),
        exchange: s("amq.headers"),
        arguments: table(&[("colour", "red")]),
        ..Default::default()
    };
    client.ask(1, bind).await;
    let between = ExchangeBind {
        source: s("amq.fanout"),
        destination: s("amq.headers"),
        ..Default::default()
    };
    client.ask(1, between).await;
    for exchange in ["amq.headers", "amq.fanout"] {
        for colour in ["blue", "red", "blue", "red"] {
            let headers = Some(table(&[("colour", colour)]));
            let properties = Properties { headers, ..Default::default() };
            client.publish_with(1, exchange, "k", &properties, colour.as_bytes()).await;
        }
    }
    assert_eq!(client.counts("red").await.0, 4);
    assert_eq!(node.memory.ready("red"), ["red"; 4]);
}

#[tokio::test(start_paused = true)]
async fn routes_follow_the_bindings() {
    let node = Node::new();
    let (mut client, mut other) = (node.channel().await, node.channel().await);
    client.declare_named("q").await;
    client.declare_named("p").await;
    client.bind("q", "amq.direct", "k").await;
    let publish =
        BasicPublish { exchange: s("amq.direct"), routing_key: s("k"), ..Default::default() };
    let bytes = frames(1, publish, &Properties::default(), b"x");
    other.bytes(&bytes).await;
    other.settled(1).await;
    client.bind("p", "amq.direct", "k").await;
    other.bytes(&bytes).await;
    other.settled(1).await;
    let delete = QueueDelete { queue: s("q"), ..Default::default() };
    client.ask(1, delete).await;
    other.bytes(&bytes).await;
    other.settled(1).await;
    assert_eq!(client.counts("p").await.0, 2);
}

#[tokio::test(start_paused = true)]
async fn properties_and_body_arrive_as_they_were() {
    let node = Node::new();
    let mut client = node.channel().await;
    client.declare_named("q").await;
    let properties = Properties {
        content_type: Some(s("text/plain")),
        headers: Some(table(&[("ship", "Titanic")])),
        delivery_mode: Some(2),
        timestamp: Some(1_700_000_000),
        correlation_id: Some(s("c")),
        ..Default::default()
    };
    let body = vec![b'x'; 300_000];
    client.publish_with(1, "", "q", &properties, &body).await;
    client.consume(1, "q").await;
    let got = client.delivery().await;
    assert_eq!((got.properties, got.body.as_bytes()), (properties, &body[..]));
    assert_eq!((&*got.exchange, &*got.key, got.redelivered), ("", "q", false));
}

#[tokio::test(start_paused = true)]
async fn priority_expiration_and_delay_are_the_queues() {
    let node = Node::new();
    let mut client = node.channel().await;
    let arguments = TableBuilder::new().field("x-max-priority", FieldValue::U8(5)).build().unwrap();
    client.declare(QueueDeclare { queue: s("q"), arguments, ..Default::default() }).await;
    for priority in [1, 9, 3] {
        let properties = Properties { priority: Some(priority), ..Default::default() };
        client.publish_with(1, "", "q", &properties, priority.to_string().as_bytes()).await;
    }
    let expiration = Some(s("60"));
    client.publish_with(1, "", "q", &Properties { expiration, ..Default::default() }, b"old").await;
    client.settled(1).await;
    assert_eq!(node.memory.ready("q"), ["9", "3", "1", "old"]);
    node.memory.pass_ms(59);
    assert_eq!(client.counts("q").await.0, 4);
    node.memory.pass_ms(1);
    assert_eq!(client.counts("q").await.0, 3);

    let arguments = table(&[("x-delayed-type", "direct")]);
    let kind = s("x-delayed-message");
    let declare = ExchangeDeclare { exchange: s("later"), kind, arguments, ..Default::default() };
    client.ask(1, declare).await;
    client.bind("q", "later", "k").await;
    let headers = TableBuilder::new().field("x-delay", FieldValue::I32(500)).build().unwrap();
    let expiration = Some(s("60"));
    let properties = Properties { headers: Some(headers), expiration, ..Default::default() };
    client.publish_with(1, "later", "k", &properties, b"late").await;
    client.settled(1).await;
    node.memory.pass_ms(499);
    assert_eq!(client.counts("q").await.0, 3);
    // Its life begins with the end of its delay.
    node.memory.pass_ms(1);
    assert_eq!(client.counts("q").await.0, 4);
    node.memory.pass_ms(60);
    assert_eq!(client.counts("q").await.0, 3);
}

#[tokio::test(start_paused = true)]
async fn publisher_waits_for_what_is_not_stored() {
    let node = Node::with(GatewayConfig { publishes_max: 50, ..GatewayConfig::default() });
    let client = confirming(&node).await;
    node.memory.hold_back();
    let mut bytes = BytesMut::new();
    for number in 0..1000 {
        let publish = BasicPublish { routing_key: s("q"), ..Default::default() };
        let body = format!("{number:0>1000}");
        bytes.extend_from_slice(&frames(1, publish, &Properties::default(), body.as_bytes()));
    }
    let (mut reader, mut writer) = tokio::io::split(client.stream);
    let writing = tokio::spawn(async move {
        tokio::io::AsyncWriteExt::write_all(&mut writer, &bytes).await.unwrap();
        writer
    });
    until(|| node.memory.held_back() > 50).await;
    // One read beyond the limit at most: that of 64 KiB.
    assert!(node.memory.held_back() < 50 + 70, "{}", node.memory.held_back());
    assert!(!writing.is_finished());
    let storing = async {
        loop {
            node.memory.let_go(10);
            tokio::task::yield_now().await;
        }
    };
    let hearing = async {
        let (mut input, mut confirmed) = (BytesMut::new(), 0);
        while confirmed < 1000 {
            tokio::io::AsyncReadExt::read_buf(&mut reader, &mut input).await.unwrap();
            while let Some(frame) = plimsoll_amqp::frame::Frame::take(&mut input, 1 << 20).unwrap()
            {
                let Method::BasicAck(ack) = Method::read(&frame.payload).unwrap() else {
                    panic!("an ack")
                };
                assert!(ack.delivery_tag > confirmed);
                assert!(ack.multiple || ack.delivery_tag == confirmed + 1);
                confirmed = ack.delivery_tag;
            }
        }
    };
    tokio::select! {
        biased;
        () = hearing => {}
        () = storing => {}
    }
    writing.await.unwrap();
    assert_eq!(node.memory.ready("q").len(), 1000);
}

#[tokio::test(start_paused = true)]
async fn request_is_answered_without_a_queue() {
    let node = Node::new();
    let (mut asker, mut answerer) = (node.channel().await, node.channel().await);
    asker.declare_named("work").await;
    let consume =
        BasicConsume { queue: s("amq.rabbitmq.reply-to"), no_ack: true, ..Default::default() };
    asker.consume_with(1, consume).await;
    let reply_to = Some(s("amq.rabbitmq.reply-to"));
    let properties = Properties { reply_to, ..Default::default() };
    asker.publish_with(1, "", "work", &properties, b"how deep?").await;
    asker.settled(1).await;
    let (got, _) = answerer.get("work", true).await.unwrap();
    let address = got.properties.reply_to.unwrap();
    assert!(address.starts_with("amq.rabbitmq.reply-to."), "{address}");
    assert_eq!(answerer.counts(&address).await, (0, 1));
    let correlation_id = Some(s("c"));
    let properties = Properties { correlation_id, ..Default::default() };
    answerer.publish_with(1, "", &address, &properties, b"11 m").await;
    let got = asker.delivery().await;
    assert_eq!((&*got.body, &*got.key, got.properties), ("11 m", &*address, properties));
    // Nobody is there any more: it comes back, and the address is none.
    asker.close().await;
    let publish =
        BasicPublish { routing_key: address.clone(), mandatory: true, ..Default::default() };
    answerer.bytes(&frames(1, publish, &Properties::default(), b"late")).await;
    assert!(matches!(answerer.next().await, Heard::Content(1, Method::BasicReturn(_), _, _)));
    let ask = QueueDeclare { queue: address, passive: true, ..Default::default() };
    assert_eq!(answerer.is_refused(1, ask).await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn empty_tables_are_no_headers() {
    let node = Node::new();
    let mut client = node.channel().await;
    client.declare_named("q").await;
    let properties = Properties { headers: Some(FieldTable::default()), ..Default::default() };
    client.publish_with(1, "", "q", &properties, b"").await;
    let (got, left) = client.get("q", true).await.unwrap();
    assert_eq!((got.properties, got.body.len(), left), (properties, 0, 0));
}
