//! Exchanges of the type `x-delayed-message`. A server without it has nothing to do here.

use std::time::Instant;

use lapin::options::ExchangeDeclareOptions;
use lapin::types::AMQPValue;
use lapin::{BasicProperties, ErrorKind, ExchangeKind};

use crate::client::{
    Client, bodies, body, case, code, fresh, headers, int, next, nothing, table, text,
};

const OPTIONS: ExchangeDeclareOptions = ExchangeDeclareOptions {
    passive: false,
    durable: false,
    auto_delete: true,
    internal: false,
    nowait: false,
};

fn delayed() -> ExchangeKind {
    ExchangeKind::Custom("x-delayed-message".into())
}

/// An exchange that delays; none where the server (RabbitMQ without the plugin) has no such type.
async fn exchange(client: &Client, kind: &str) -> Option<String> {
    let (name, of) = (fresh("delayed"), table([("x-delayed-type", text(kind))]));
    let channel = client.open().await;
    match channel.exchange_declare((&*name).into(), delayed(), OPTIONS, of).await {
        Ok(()) => Some(name),
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::ProtocolError(_)), "{error}");
            assert!(error.to_string().contains("x-delayed-message"), "{error}");
            None
        }
    }
}

fn after(ms: i32) -> BasicProperties {
    headers([("x-delay", int(ms))])
}

#[test]
fn message_comes_after_its_delay() {
    case(async |client| {
        let Some(exchange) = exchange(client, "direct").await else { return };
        let queue = client.queue().await;
        client.bind(&queue, &exchange, "key").await;
        let mut consumer = client.consume(&queue).await;
        let sent = Instant::now();
        client.send(&exchange, "key", b"late", after(300)).await.unwrap();
        nothing(&mut consumer).await;
        assert_eq!(body(&next(&mut consumer).await), "late");
        assert!(sent.elapsed().as_millis() >= 290, "{:?}", sent.elapsed());
    });
}

#[test]
fn shorter_delay_comes_first() {
    case(async |client| {
        let Some(exchange) = exchange(client, "fanout").await else { return };
        let queue = client.queue().await;
        client.bind(&queue, &exchange, "").await;
        let mut consumer = client.consume(&queue).await;
        client.send(&exchange, "", b"slow", after(400)).await.unwrap();
        client.send(&exchange, "", b"fast", after(100)).await.unwrap();
        assert_eq!(bodies(&mut consumer, 2).await, ["fast", "slow"]);
    });
}

#[test]
fn message_without_a_delay_comes_at_once() {
    case(async |client| {
        let Some(exchange) = exchange(client, "topic").await else { return };
        let queue = client.queue().await;
        client.bind(&queue, &exchange, "a.*").await;
        let mut consumer = client.consume(&queue).await;
        client.send(&exchange, "a.b", b"x", BasicProperties::default()).await.unwrap();
        assert_eq!(body(&next(&mut consumer).await), "x");
    });
}

#[test]
fn delayed_exchange_routes_as_its_inner_type() {
    case(async |client| {
        let Some(exchange) = exchange(client, "direct").await else { return };
        let (queue, other) = (client.queue().await, client.queue().await);
        client.bind(&queue, &exchange, "key").await;
        client.bind(&other, &exchange, "other").await;
        client.send(&exchange, "key", b"x", after(0)).await.unwrap();
        let mut consumer = client.consume(&queue).await;
        assert_eq!(body(&next(&mut consumer).await), "x");
        assert_eq!(client.ready(&other).await, 0);
    });
}

#[test]
fn delayed_exchange_wants_an_inner_type() {
    case(async |client| {
        if exchange(client, "direct").await.is_none() {
            return;
        }
        let of = table([("x-delayed-type", AMQPValue::LongString("magic".into()))]);
        let (name, channel) = (fresh("delayed"), client.open().await);
        let refused = channel.exchange_declare((&*name).into(), delayed(), OPTIONS, of).await;
        assert_eq!(code(refused), 406);
    });
}
