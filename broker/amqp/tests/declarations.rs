//! Exchanges, queues and bindings: what may be declared by whom, and what fits what is there.

use plimsoll_amqp::methods::*;
use plimsoll_amqp::table::{FieldValue, TableBuilder};

use crate::client::*;

fn queue(name: &str) -> QueueDeclare {
    QueueDeclare { queue: s(name), ..Default::default() }
}

fn exchange(name: &str, kind: &str) -> ExchangeDeclare {
    ExchangeDeclare { exchange: s(name), kind: s(kind), ..Default::default() }
}

#[tokio::test(start_paused = true)]
async fn queue_is_declared_once_and_again_as_it_was() {
    let node = Node::new();
    let mut client = node.channel().await;
    let durable = QueueDeclare { durable: true, ..queue("q") };
    assert_eq!(client.declare(durable.clone()).await, "q");
    assert_eq!(client.declare(durable.clone()).await, "q");
    let text = "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received \
                'false' but current is 'true'";
    assert_eq!(client.is_refused(1, queue("q")).await, (406, text.to_owned()));
    let arguments = TableBuilder::new().field("x-max-length", FieldValue::I32(5)).build().unwrap();
    let (code, text) = client.is_refused(1, QueueDeclare { arguments, ..durable }).await;
    assert_eq!(code, 406);
    assert!(text.contains("inequivalent arg 'x-max-length'"), "{text}");
    assert_eq!(node.memory.queue_names("/"), ["q"]);
}

#[tokio::test(start_paused = true)]
async fn passive_declaration_asks_only() {
    let node = Node::new();
    let mut client = node.channel().await;
    let passive = QueueDeclare { passive: true, ..queue("q") };
    let text = "NOT_FOUND - no queue 'q' in vhost '/'";
    assert_eq!(client.is_refused(1, passive.clone()).await, (404, text.to_owned()));
    client.declare(QueueDeclare { durable: true, ..queue("q") }).await;
    // Of its properties nothing is compared.
    client.declare(passive).await;
    let passive = ExchangeDeclare { passive: true, ..exchange("ex", "topic") };
    assert_eq!(client.is_refused(1, passive.clone()).await.0, 404);
    assert_eq!(client.ask(1, exchange("ex", "direct")).await, ExchangeDeclareOk {}.into());
    assert_eq!(client.ask(1, passive).await, ExchangeDeclareOk {}.into());
}

#[tokio::test(start_paused = true)]
async fn server_finds_names_that_differ() {
    let node = Node::new();
    let mut client = node.channel().await;
    let one = client.declare(queue("")).await;
    let other = client.declare(queue("")).await;
    assert!(one.starts_with("amq.gen-") && one.len() == 30 && one != other, "{one} {other}");
    // An empty name is the last one from then on.
    client.publish(1, &other, "x").await;
    let (got, _) = client.get("", true).await.unwrap();
    assert_eq!(got.key, other);
}

#[tokio::test(start_paused = true)]
async fn exclusive_queue_is_its_connections_alone_and_goes_with_it() {
    let node = Node::new();
    let (mut owner, mut other) = (node.channel().await, node.channel().await);
    let exclusive = QueueDeclare { exclusive: true, ..queue("mine") };
    owner.declare(exclusive.clone()).await;
    owner.declare(exclusive.clone()).await;
    let attempts: [Method; 8] = [
        exclusive.into(),
        queue("mine").into(),
        QueueDeclare { passive: true, ..queue("mine") }.into(),
        BasicConsume { queue: s("mine"), ..Default::default() }.into(),
        BasicGet { queue: s("mine"), ..Default::default() }.into(),
        QueuePurge { queue: s("mine"), ..Default::default() }.into(),
        QueueDelete { queue: s("mine"), ..Default::default() }.into(),
        QueueBind { queue: s("mine"), exchange: s("amq.direct"), ..Default::default() }.into(),
    ];
    for method in attempts {
        let name = method.spec().name;
        let (code, text) = other.is_refused(1, method).await;
        assert_eq!(code, 405, "{name}: {text}");
        let begin = "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'mine'";
        assert!(text.starts_with(begin), "{text}");
    }
    // But anybody may send to it.
    other.publish(1, "mine", "hello").await;
    other.settled(1).await;
    assert_eq!(owner.get("mine", true).await.unwrap().0.body, "hello");
    owner.close().await;
    other.declare(queue("mine")).await;
}

#[tokio::test(start_paused = true)]
async fn exchange_is_declared_once_and_again_as_it_was() {
    let node = Node::new();
    let mut client = node.channel().await;
    assert_eq!(client.ask(1, exchange("ex", "topic")).await, ExchangeDeclareOk {}.into());
    assert_eq!(client.ask(1, exchange("ex", "topic")).await, ExchangeDeclareOk {}.into());
    let text = "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'ex' in vhost '/': received \
                'direct' but current is 'topic'";
    assert_eq!(client.is_refused(1, exchange("ex", "direct")).await, (406, text.to_owned()));
    let text = "PRECONDITION_FAILED - unknown exchange type 'odd'";
    assert_eq!(client.is_refused(1, exchange("odd", "odd")).await, (406, text.to_owned()));
    assert_eq!(client.is_refused(1, exchange("amq.mine", "direct")).await.0, 403);
    // Those that are there from the beginning may be declared as they are.
    let amq = ExchangeDeclare { durable: true, ..exchange("amq.topic", "topic") };
    assert_eq!(client.ask(1, amq).await, ExchangeDeclareOk {}.into());
    let delete = ExchangeDelete { exchange: s("ex"), ..Default::default() };
    assert_eq!(client.ask(1, delete.clone()).await, ExchangeDeleteOk {}.into());
    assert_eq!(client.ask(1, delete).await, ExchangeDeleteOk {}.into());
    assert!(node.memory.exchange_names("/").is_empty());
}

#[tokio::test(start_paused = true)]
async fn exchange_in_use_stays_and_auto_delete_goes_with_its_last_binding() {
    let node = Node::new();
    let mut client = node.channel().await;
    client.declare_named("q").await;
    let auto = ExchangeDeclare { auto_delete: true, ..exchange("ex", "fanout") };
    client.ask(1, auto).await;
    client.bind("q", "ex", "").await;
    let delete = ExchangeDelete { exchange: s("ex"), if_unused: true, ..Default::default() };
    let text = "PRECONDITION_FAILED - exchange 'ex' in vhost '/' in use";
    assert_eq!(client.is_refused(1, delete).await, (406, text.to_owned()));
    let unbind = QueueUnbind { queue: s("q"), exchange: s("ex"), ..Default::default() };
    assert_eq!(client.ask(1, unbind.clone()).await, QueueUnbindOk {}.into());
    assert!(node.memory.exchange_names("/").is_empty());
    // What is not bound is unbound.
    assert_eq!(client.ask(1, unbind).await, QueueUnbindOk {}.into());
}

#[tokio::test(start_paused = true)]
async fn both_ends_of_a_binding_must_be_there() {
    let node = Node::new();
    let mut client = node.channel().await;
    client.declare_named("q").await;
    let bind = |queue: &str, exchange: &str| QueueBind {
        queue: s(queue),
        exchange: s(exchange),
        ..Default::default()
    };
    let text = "NOT_FOUND - no exchange 'ex' in vhost '/'";
    assert_eq!(client.is_refused(1, bind("q", "ex")).await, (404, text.to_owned()));
    let text = "NOT_FOUND - no queue 'p' in vhost '/'";
    assert_eq!(client.is_refused(1, bind("p", "amq.topic")).await, (404, text.to_owned()));
    let between =
        ExchangeBind { source: s("amq.topic"), destination: s("amq.fanout"), ..Default::default() };
    assert_eq!(client.ask(1, between).await, ExchangeBindOk {}.into());
}

#[tokio::test(start_paused = true)]
async fn queue_is_deleted_unless_it_is_used_or_full() {
    let node = Node::new();
    let mut client = node.channel().await;
    client.declare_named("q").await;
    client.publish(1, "q", "a").await;
    let delete = QueueDelete { queue: s("q"), ..Default::default() };
    let text = "PRECONDITION_FAILED - queue 'q' in vhost '/' not empty";
    let if_empty = QueueDelete { if_empty: true, ..delete.clone() };
    assert_eq!(client.is_refused(1, if_empty).await, (406, text.to_owned()));
    client.open_channel(2).await;
    client.consume(2, "q").await;
    assert_eq!(client.delivery().await.body, "a");
    let text = "PRECONDITION_FAILED - queue 'q' in vhost '/' in use";
    let if_unused = QueueDelete { if_unused: true, ..delete.clone() };
    assert_eq!(client.is_refused(1, if_unused).await, (406, text.to_owned()));
    client.say(2, ChannelClose::default()).await;
    client.expect(2, ChannelCloseOk {}).await;
    assert_eq!(client.ask(1, delete.clone()).await, QueueDeleteOk { message_count: 1 }.into());
    assert_eq!(client.ask(1, delete).await, QueueDeleteOk { message_count: 0 }.into());
}

#[tokio::test(start_paused = true)]
async fn kinds_are_told_apart_and_arguments_that_make_no_sense_are_refused() {
    let node = Node::new();
    let mut client = node.channel().await;
    for kind in ["classic", "quorum", "stream"] {
        let arguments = table(&[("x-queue-type", kind)]);
        client.declare(QueueDeclare { durable: true, arguments, ..queue(kind) }).await;
    }
    for arguments in [
        table(&[("x-queue-type", "odd")]),
        table(&[("x-message-ttl", "soon")]),
        table(&[("x-overflow", "spill")]),
    ] {
        let declare = QueueDeclare { durable: true, arguments, ..queue("q") };
        let (code, text) = client.is_refused(1, declare).await;
        assert_eq!(code, 406, "{text}");
    }
}

/// What may be done with names that begin with `a`: everything; with `c`, `w`, `r`: one thing only.
#[tokio::test(start_paused = true)]
async fn each_method_asks_for_its_permissions() {
    let node = Node::new();
    let mut guest = node.channel().await;
    for name in ["a", "c", "w", "r"] {
        guest.declare_named(name).await;
        guest.ask(1, exchange(name, "fanout")).await;
    }
    node.memory.add_user("ann", "ann", &[]);
    node.memory.allow("ann", "/", "^[ac]", "^[aw]", "^[ar]");
    let mut client = node.log_in("ann", "ann", "/").await;
    client.expect(0, ConnectionOpenOk::default()).await;
    client.open_channel(1).await;

    let bind = |queue: &str, exchange: &str| QueueBind {
        queue: s(queue),
        exchange: s(exchange),
        ..Default::default()
    };
    let between = |destination: &str, source: &str| ExchangeBind {
        destination: s(destination),
        source: s(source),
        ..Default::default()
    };
    let dead = |name: &str, to: &str| QueueDeclare {
        arguments: table(&[("x-dead-letter-exchange", to)]),
        ..queue(name)
    };
    let alternate = |name: &str, to: &str| ExchangeDeclare {
        arguments: table(&[("alternate-exchange", to)]),
        ..exchange(name, "fanout")
    };
    let consume = |name: &str| BasicConsume { queue: s(name), ..Default::default() };
    let get = |name: &str| BasicGet { queue: s(name), no_ack: true, ..Default::default() };
    let purge = |name: &str| QueuePurge { queue: s(name), ..Default::default() };
    let delete = |name: &str| QueueDelete { queue: s(name), ..Default::default() };
    let publish = |name: &str| BasicPublish { exchange: s(name), ..Default::default() };
    let cases: Vec<(Method, Option<&str>)> = vec![
        (queue("c").into(), None),
        (queue("w").into(), Some("configure access to queue 'w'")),
        (queue("x").into(), Some("configure access to queue 'x'")),
        (queue("").into(), None),
        (QueueDeclare { passive: true, ..queue("w") }.into(), None),
        (dead("a1", "w").into(), None),
        (dead("a2", "r").into(), Some("write access to exchange 'r'")),
        (dead("c1", "w").into(), Some("read access to queue 'c1'")),
        (exchange("c", "fanout").into(), None),
        (exchange("r", "fanout").into(), Some("configure access to exchange 'r'")),
        (alternate("a3", "w").into(), None),
        (alternate("a4", "c").into(), Some("write access to exchange 'c'")),
        (alternate("c4", "w").into(), Some("read access to exchange 'c4'")),
        (bind("w", "r").into(), None),
        (bind("r", "r").into(), Some("write access to queue 'r'")),
        (bind("w", "w").into(), Some("read access to exchange 'w'")),
        (between("w", "r").into(), None),
        (between("c", "r").into(), Some("write access to exchange 'c'")),
        (consume("r").into(), None),
        (consume("w").into(), Some("read access to queue 'w'")),
        (get("r").into(), None),
        (get("c").into(), Some("read access to queue 'c'")),
        (purge("r").into(), None),
        (purge("w").into(), Some("read access to queue 'w'")),
        (delete("c").into(), None),
        (delete("r").into(), Some("configure access to queue 'r'")),
        (delete("none").into(), Some("configure access to queue 'none'")),
        (publish("w").into(), None),
        (publish("r").into(), Some("write access to exchange 'r'")),
        (publish("").into(), None),
    ];
    for (method, refused) in cases {
        let shown = format!("{method:?}");
        if let Method::BasicPublish(publish) = method {
            client.bytes(&frames(1, publish, &Default::default(), b"x")).await;
        } else {
            // No server-named queue passes a pattern that wants an `a` at the front but this one.
            client.say(1, method).await;
        }
        match refused {
            None if shown.starts_with("BasicPublish") => client.settled(1).await,
            None => {
                let heard = client.hears(1).await;
                assert!(!matches!(heard, Method::ChannelClose(_)), "{shown}: {heard:?}");
            }
            Some(what) => {
                let text = format!("ACCESS_REFUSED - {what} in vhost '/' refused for user 'ann'");
                assert_eq!(client.channel_ends(1).await, (403, text), "{shown}");
            }
        }
    }
    node.memory.allow("ann", "/", "", "^$", "");
    client.publish(1, "q", "x").await;
    let text = "ACCESS_REFUSED - write access to exchange 'amq.default' in vhost '/' refused for user \
                'ann'";
    assert_eq!(client.channel_ends(1).await, (403, text.to_owned()));
}
