//! What ends by itself: messages whose time is over, queues that are too long or unused, priorities.

use std::time::{Duration, Instant};

use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Confirmation};

use crate::client::{
    Client, bodies, body, case, header, int, is_there, next, nothing, table, text, until,
};

async fn told(client: &Client, queue: &str, body: &[u8]) -> Confirmation {
    client.send("", queue, body, BasicProperties::default()).await.expect("a confirm")
}

fn for_ms(ms: u32) -> BasicProperties {
    BasicProperties::default().with_expiration(ms.to_string().into())
}

#[test]
fn message_ends_with_its_own_time() {
    case(async |client| {
        let queue = client.queue().await;
        client.put_with(&queue, "short", for_ms(30)).await;
        until("it is over", async || client.ready(&queue).await == 0).await;
        assert!(client.get(&queue).await.is_none());
    });
}

#[test]
fn message_ends_with_the_time_of_its_queue() {
    case(async |client| {
        let queue = client.queue_with(table([("x-message-ttl", int(30))])).await;
        client.put(&queue, "short").await;
        until("it is over", async || client.ready(&queue).await == 0).await;
        assert!(client.get(&queue).await.is_none());
    });
}

#[test]
fn shorter_time_of_message_and_queue_counts() {
    case(async |client| {
        let long = client.queue_with(table([("x-message-ttl", int(600_000))])).await;
        let short = client.queue_with(table([("x-message-ttl", int(30))])).await;
        client.put_with(&long, "short", for_ms(30)).await;
        client.put_with(&short, "long", for_ms(600_000)).await;
        for queue in [&long, &short] {
            until("it is over", async || client.ready(queue).await == 0).await;
        }
    });
}

#[test]
fn message_with_time_left_is_delivered() {
    case(async |client| {
        let queue = client.queue_with(table([("x-message-ttl", int(60_000))])).await;
        client.put_with(&queue, "x", for_ms(60_000)).await;
        let message = client.get(&queue).await.unwrap();
        assert_eq!(message.properties.expiration().as_ref().unwrap().as_str(), "60000");
    });
}

#[test]
fn message_that_is_held_does_not_end() {
    case(async |client| {
        let queue = client.queue_with(table([("x-message-ttl", int(150))])).await;
        client.put(&queue, "held").await;
        let mut consumer = client.consume(&queue).await;
        let held = next(&mut consumer).await;
        client.put(&queue, "other").await;
        next(&mut consumer).await;
        held.ack(Default::default()).await.unwrap();
        nothing(&mut consumer).await;
    });
}

#[test]
fn message_without_time_is_delivered_at_once_or_never() {
    case(async |client| {
        let queue = client.queue().await;
        let mut consumer = client.consume(&queue).await;
        client.put_with(&queue, "now", for_ms(0)).await;
        client.put(&queue, "then").await;
        // RabbitMQ gives it to a consumer that waits; here it is never delivered (GATEWAY.md).
        let mut came = body(&next(&mut consumer).await);
        if came == "now" {
            came = body(&next(&mut consumer).await);
        }
        assert_eq!(came, "then");
        assert_eq!(client.ready(&queue).await, 0);
    });
}

#[test]
fn unused_queue_ends_with_its_time() {
    case(async |client| {
        let queue = client.queue_with(table([("x-expires", int(100))])).await;
        // Each passive declaration is a use in RabbitMQ, so it is not asked too often.
        let mut unused = tokio::time::interval(Duration::from_millis(300));
        unused.tick().await;
        until("the queue is over", async || {
            unused.tick().await;
            !is_there(client, &queue).await
        })
        .await;
    });
}

/// Whether the queue takes messages, which is no use of it.
async fn takes(client: &Client, queue: &str) -> bool {
    match told(client, queue, b"x").await {
        Confirmation::Ack(returned) => returned.is_none(),
        // It ended after the message had been routed to it.
        Confirmation::Nack(_) => false,
        other => panic!("{other:?}"),
    }
}

/// A queue that ends soon, but not while a case runs that is as slow as machines are.
async fn expiring(client: &Client) -> String {
    client.queue_with(table([("x-expires", int(1500))])).await
}

/// Uses the queue for longer than it may be unused, then no more.
async fn used_until_it_is_not(client: &Client, queue: &str, uses: impl AsyncFn()) {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        uses().await;
        assert!(takes(client, queue).await, "it is used");
    }
    until("it is over", async || !takes(client, queue).await).await;
}

#[test]
fn queue_that_is_published_to_is_unused() {
    case(async |client| {
        let queue = client.queue_with(table([("x-expires", int(200))])).await;
        until("it is over", async || !takes(client, &queue).await).await;
        assert!(!is_there(client, &queue).await);
    });
}

#[test]
fn declaring_again_is_a_use() {
    case(async |client| {
        let queue = expiring(client).await;
        used_until_it_is_not(client, &queue, async || {
            client.ready(&queue).await;
        })
        .await;
    });
}

#[test]
fn getting_is_a_use() {
    case(async |client| {
        let queue = expiring(client).await;
        used_until_it_is_not(client, &queue, async || {
            client.get(&queue).await;
        })
        .await;
    });
}

#[test]
fn queue_is_unused_when_its_last_consumer_has_gone() {
    case(async |client| {
        let queue = client.queue_with(table([("x-expires", int(200))])).await;
        let consumer = client.consume(&queue).await;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(1) {
            assert!(takes(client, &queue).await, "it has a consumer");
        }
        let tag = consumer.tag();
        client.channel.basic_cancel(tag, Default::default()).await.unwrap();
        until("it is over", async || !takes(client, &queue).await).await;
    });
}

#[test]
fn queue_of_the_same_name_has_a_life_of_its_own() {
    case(async |client| {
        let queue = client.queue_with(table([("x-expires", int(200))])).await;
        until("it is over", async || !takes(client, &queue).await).await;
        let again = client.channel.queue_declare(
            (&*queue).into(),
            lapin::options::QueueDeclareOptions::exclusive(),
            FieldTable::default(),
        );
        again.await.unwrap();
        assert!(takes(client, &queue).await);
        assert_eq!(client.ready(&queue).await, 1);
    });
}

#[test]
fn used_queue_does_not_end() {
    case(async |client| {
        let queue = client.queue_with(table([("x-expires", int(50))])).await;
        let mut consumer = client.consume(&queue).await;
        nothing(&mut consumer).await;
        client.put(&queue, "x").await;
        assert_eq!(body(&next(&mut consumer).await), "x");
    });
}

#[test]
fn full_queue_drops_its_oldest() {
    case(async |client| {
        let queue = client.queue_with(table([("x-max-length", int(3))])).await;
        for number in 1..=5 {
            client.put(&queue, &number.to_string()).await;
        }
        until("the oldest are dropped", async || client.ready(&queue).await == 3).await;
        assert_eq!(client.drain(&queue).await, ["3", "4", "5"]);
    });
}

#[test]
fn queue_of_no_length_keeps_nothing() {
    case(async |client| {
        let queue = client.queue_with(table([("x-max-length", int(0))])).await;
        client.put(&queue, "x").await;
        until("it is dropped", async || client.ready(&queue).await == 0).await;
    });
}

/// Publishes five messages of 1000 bytes to a queue of 3000: two or three of the newest stay. What counts
/// as bytes differs: bodies in RabbitMQ, a little of the headers here.
async fn fill(client: &Client, queue: &str) {
    for number in 0..5_u8 {
        told(client, queue, &[b'0' + number; 1000]).await;
    }
    until("the oldest are dropped", async || client.ready(queue).await <= 3).await;
    let left = client.drain(queue).await;
    assert!(left.last().is_some_and(|last| last.starts_with('4')), "the newest stays");
    assert!(left.len() >= 2, "{}", left.len());
}

#[test]
fn queue_full_of_bytes_drops_its_oldest() {
    case(async |client| {
        let queue = client.queue_with(table([("x-max-length-bytes", int(3000))])).await;
        fill(client, &queue).await;
    });
}

#[test]
fn queue_full_of_bytes_drops_its_oldest_again() {
    case(async |client| {
        let queue = client.queue_with(table([("x-max-length-bytes", int(3000))])).await;
        // It was looked at before anything is published.
        assert_eq!(client.ready(&queue).await, 0);
        fill(client, &queue).await;
        fill(client, &queue).await;
    });
}

#[test]
fn queue_full_of_bytes_refuses_where_asked() {
    case(async |client| {
        let of = table([("x-max-length-bytes", int(2500)), ("x-overflow", text("reject-publish"))]);
        let queue = client.queue_with(of).await;
        let mut taken = 0;
        // RabbitMQ takes three: it looks before it takes. Here bytes are those of the last look, so a few
        // more may come in before the next.
        while told(client, &queue, &[b'x'; 1000]).await.is_ack() {
            taken += 1;
            assert!(taken <= 30, "it takes more and more");
        }
        assert!(taken >= 2, "{taken}");
        assert_eq!(client.drain(&queue).await.len(), taken);
    });
}

#[test]
fn held_messages_do_not_count_as_length() {
    case(async |client| {
        let queue = client.queue_with(table([("x-max-length", int(1))])).await;
        client.put(&queue, "held").await;
        let held = client.get(&queue).await.unwrap();
        client.put(&queue, "ready").await;
        assert_eq!(client.ready(&queue).await, 1);
        held.ack(Default::default()).await.unwrap();
        assert_eq!(client.drain(&queue).await, ["ready"]);
    });
}

fn refusing(length: i32) -> FieldTable {
    table([("x-max-length", int(length)), ("x-overflow", text("reject-publish"))])
}

#[test]
fn full_queue_refuses_where_asked() {
    case(async |client| {
        let queue = client.queue_with(refusing(2)).await;
        assert!(told(client, &queue, b"1").await.is_ack());
        assert!(told(client, &queue, b"2").await.is_ack());
        assert!(told(client, &queue, b"3").await.is_nack());
        assert_eq!(client.drain(&queue).await, ["1", "2"]);
    });
}

#[test]
fn queue_with_room_again_takes_again() {
    case(async |client| {
        let queue = client.queue_with(refusing(1)).await;
        assert!(told(client, &queue, b"1").await.is_ack());
        assert!(told(client, &queue, b"2").await.is_nack());
        assert_eq!(client.drain(&queue).await, ["1"]);
        until("it takes", async || told(client, &queue, b"3").await.is_ack()).await;
        assert_eq!(client.drain(&queue).await, ["3"]);
    });
}

#[test]
fn refusal_of_one_queue_is_the_refusal_of_the_message() {
    case(async |client| {
        let exchange = client.exchange(lapin::ExchangeKind::Fanout).await;
        let (full, free) = (client.queue_with(refusing(1)).await, client.queue().await);
        client.bind(&full, &exchange, "").await;
        client.bind(&free, &exchange, "").await;
        let send = async |body: &[u8]| {
            client.send(&exchange, "", body, BasicProperties::default()).await.unwrap()
        };
        assert!(send(b"1").await.is_ack());
        assert!(send(b"2").await.is_nack());
        assert_eq!(client.drain(&full).await, ["1"]);
        assert_eq!(client.drain(&free).await, ["1", "2"]);
    });
}

fn priority(priority: u8) -> BasicProperties {
    BasicProperties::default().with_priority(priority)
}

#[test]
fn higher_priority_comes_first() {
    case(async |client| {
        let queue = client.queue_with(table([("x-max-priority", int(5))])).await;
        for level in [1, 5, 3, 0, 4] {
            client.put_with(&queue, &level.to_string(), priority(level)).await;
        }
        assert_eq!(client.drain(&queue).await, ["5", "4", "3", "1", "0"]);
    });
}

#[test]
fn same_priority_stays_in_order() {
    case(async |client| {
        let queue = client.queue_with(table([("x-max-priority", int(2))])).await;
        for (body, level) in [("a", 1), ("b", 2), ("c", 1), ("d", 2)] {
            client.put_with(&queue, body, priority(level)).await;
        }
        assert_eq!(client.drain(&queue).await, ["b", "d", "a", "c"]);
    });
}

#[test]
fn priority_beyond_the_highest_is_the_highest() {
    case(async |client| {
        let queue = client.queue_with(table([("x-max-priority", int(2))])).await;
        for (body, level) in [("a", 2), ("b", 200), ("c", 1)] {
            client.put_with(&queue, body, priority(level)).await;
        }
        assert_eq!(client.drain(&queue).await, ["a", "b", "c"]);
    });
}

#[test]
fn no_priority_is_the_lowest() {
    case(async |client| {
        let queue = client.queue_with(table([("x-max-priority", int(2))])).await;
        client.put(&queue, "none").await;
        client.put_with(&queue, "one", priority(1)).await;
        assert_eq!(client.drain(&queue).await, ["one", "none"]);
    });
}

#[test]
fn priority_means_nothing_without_levels() {
    case(async |client| {
        let queue = client.queue().await;
        for (body, level) in [("a", 0), ("b", 9)] {
            client.put_with(&queue, body, priority(level)).await;
        }
        assert_eq!(client.drain(&queue).await, ["a", "b"]);
    });
}

#[test]
fn higher_priority_comes_first_to_consumers() {
    case(async |client| {
        let queue = client.queue_with(table([("x-max-priority", int(9))])).await;
        for level in [1, 9, 5] {
            client.put_with(&queue, &level.to_string(), priority(level)).await;
        }
        let mut consumer = client.consume(&queue).await;
        assert_eq!(bodies(&mut consumer, 3).await, ["9", "5", "1"]);
    });
}

#[test]
fn no_count_of_deliveries_at_the_first() {
    case(async |client| {
        let queue = client.queue().await;
        client.put(&queue, "x").await;
        let message = client.get(&queue).await.unwrap();
        let count = header(&message, "x-delivery-count").cloned();
        assert!(matches!(count, None | Some(AMQPValue::LongLongInt(0))), "{count:?}");
    });
}
