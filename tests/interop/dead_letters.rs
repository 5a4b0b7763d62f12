//! Dead letters: why, where to, and what their headers say.

use lapin::message::Delivery;
use lapin::options::{BasicNackOptions, BasicRejectOptions};
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use lapin::{BasicProperties, ExchangeKind};

use crate::client::{
    Client, body, case, fresh, header, headers, int, next, nothing, number, table, text, until,
};
use crate::server::is_rabbitmq_before;

const AWAY: BasicNackOptions = BasicNackOptions { multiple: false, requeue: false };
const BACK: BasicNackOptions = BasicNackOptions { multiple: false, requeue: true };

/// A queue whose dead letters go to another by the default exchange; both.
async fn pair<const N: usize>(client: &Client, more: [(&str, AMQPValue); N]) -> [String; 2] {
    let dead = client.queue().await;
    let mut arguments = table(more);
    arguments.insert("x-dead-letter-exchange".into(), text(""));
    arguments.insert("x-dead-letter-routing-key".into(), text(&dead));
    [client.queue_with(arguments).await, dead]
}

fn string(value: Option<&AMQPValue>) -> String {
    value.and_then(AMQPValue::as_long_string).map(ToString::to_string).unwrap_or_default()
}

/// The entries of `x-death`, the latest first.
fn deaths(delivery: &Delivery) -> Vec<FieldTable> {
    let list = header(delivery, "x-death").and_then(AMQPValue::as_array);
    let list = list.map(FieldArray::as_slice).unwrap_or_default();
    list.iter().map(|death| death.as_field_table().expect("a table").clone()).collect()
}

/// The only entry of `x-death`, with reason, queue and count as they should be.
fn died_once(delivery: &Delivery, queue: &str, reason: &str) -> FieldTable {
    let [death] = &deaths(delivery)[..] else { panic!("{:?}", delivery.properties) };
    let field = |name: &str| death.inner().get(name);
    assert_eq!(string(field("reason")), reason);
    assert_eq!(string(field("queue")), queue);
    assert_eq!(number(field("count")), Some(1));
    assert!(matches!(field("time"), Some(AMQPValue::Timestamp(1_700_000_000..))));
    for when in ["first", "last"] {
        if when == "last" && is_rabbitmq_before(3, 13) {
            continue;
        }
        let said = |what: &str| string(header(delivery, &format!("x-{when}-death-{what}")));
        assert_eq!(said("reason"), reason);
        assert_eq!(said("queue"), queue);
        assert_eq!(said("exchange"), string(field("exchange")));
    }
    death.clone()
}

#[test]
fn rejected_message_goes_to_the_exchange() {
    case(async |client| {
        let [queue, dead] = pair(client, []).await;
        let mut letters = client.consume(&dead).await;
        client.put(&queue, "x").await;
        let message = client.get(&queue).await.unwrap();
        message.reject(BasicRejectOptions { requeue: false }).await.unwrap();
        let letter = next(&mut letters).await;
        assert_eq!((body(&letter), letter.routing_key.as_str()), ("x".to_owned(), &*dead));
        assert!(!letter.redelivered);
        let death = died_once(&letter, &queue, "rejected");
        assert_eq!(string(death.inner().get("exchange")), "");
        let keys = death.inner().get("routing-keys").and_then(AMQPValue::as_array).unwrap();
        assert_eq!(keys.as_slice(), [text(&queue)]);
        assert_eq!(client.ready(&queue).await, 0);
    });
}

#[test]
fn nacked_messages_go_to_the_exchange() {
    case(async |client| {
        let [queue, dead] = pair(client, []).await;
        let mut letters = client.consume(&dead).await;
        for body in ["1", "2", "3"] {
            client.put(&queue, body).await;
        }
        let mut last = None;
        for _ in 0..3 {
            last = client.get(&queue).await;
        }
        let all = BasicNackOptions { multiple: true, requeue: false };
        last.unwrap().nack(all).await.unwrap();
        let mut came = crate::client::bodies(&mut letters, 3).await;
        came.sort();
        assert_eq!(came, ["1", "2", "3"]);
    });
}

#[test]
fn message_that_comes_back_is_no_dead_letter() {
    case(async |client| {
        let [queue, dead] = pair(client, []).await;
        let mut letters = client.consume(&dead).await;
        client.put(&queue, "x").await;
        client.get(&queue).await.unwrap().nack(BACK).await.unwrap();
        until("it is back", async || client.ready(&queue).await == 1).await;
        nothing(&mut letters).await;
    });
}

#[test]
fn expired_message_goes_to_the_exchange_without_its_time() {
    case(async |client| {
        let [queue, dead] = pair(client, []).await;
        let mut letters = client.consume(&dead).await;
        let properties = BasicProperties::default().with_expiration("20".into());
        client.put_with(&queue, "x", properties).await;
        let letter = next(&mut letters).await;
        let death = died_once(&letter, &queue, "expired");
        assert_eq!(string(death.inner().get("original-expiration")), "20");
        assert_eq!(letter.properties.expiration(), &None);
    });
}

#[test]
fn message_that_a_queue_lets_expire_goes_to_the_exchange() {
    case(async |client| {
        let [queue, dead] = pair(client, [("x-message-ttl", int(20))]).await;
        let mut letters = client.consume(&dead).await;
        client.put(&queue, "x").await;
        let letter = next(&mut letters).await;
        let death = died_once(&letter, &queue, "expired");
        assert_eq!(death.inner().get("original-expiration"), None);
    });
}

#[test]
fn message_that_is_too_many_goes_to_the_exchange() {
    case(async |client| {
        let [queue, dead] = pair(client, [("x-max-length", int(1))]).await;
        let mut letters = client.consume(&dead).await;
        client.put(&queue, "old").await;
        client.put(&queue, "new").await;
        let letter = next(&mut letters).await;
        assert_eq!(body(&letter), "old");
        died_once(&letter, &queue, "maxlen");
        assert_eq!(client.drain(&queue).await, ["new"]);
    });
}

#[test]
fn message_that_is_refused_goes_to_the_exchange_where_asked() {
    case(async |client| {
        let more = [("x-max-length", int(1)), ("x-overflow", text("reject-publish-dlx"))];
        let [queue, dead] = pair(client, more).await;
        let mut letters = client.consume(&dead).await;
        client.put(&queue, "old").await;
        let told = client.send("", &queue, b"new", BasicProperties::default()).await.unwrap();
        assert!(told.is_nack());
        let letter = next(&mut letters).await;
        assert_eq!(body(&letter), "new");
        died_once(&letter, &queue, "maxlen");
    });
}

#[test]
fn message_delivered_too_often_goes_to_the_exchange() {
    case(async |client| {
        let dead = client.queue().await;
        let of = table([
            ("x-delivery-limit", int(1)),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(&dead)),
        ]);
        let queue = client.quorum_queue(of).await;
        let mut letters = client.consume(&dead).await;
        client.put(&queue, "x").await;
        for _ in 0..2 {
            let mut message = None;
            until("it is there", async || {
                message = client.get(&queue).await;
                message.is_some()
            })
            .await;
            message.unwrap().nack(BACK).await.unwrap();
        }
        let letter = next(&mut letters).await;
        died_once(&letter, &queue, "delivery_limit");
        client.channel.queue_delete((&*queue).into(), Default::default()).await.unwrap();
    });
}

#[test]
fn dead_letter_keeps_its_key_where_none_is_given() {
    case(async |client| {
        let dlx = client.exchange(ExchangeKind::Topic).await;
        let (dead, source) = (client.queue().await, client.exchange(ExchangeKind::Topic).await);
        client.bind(&dead, &dlx, "a.*").await;
        let queue = client.queue_with(table([("x-dead-letter-exchange", text(&dlx))])).await;
        client.bind(&queue, &source, "#").await;
        let mut letters = client.consume(&dead).await;
        client.send(&source, "a.b", b"x", BasicProperties::default()).await.unwrap();
        client.get(&queue).await.unwrap().nack(AWAY).await.unwrap();
        let letter = next(&mut letters).await;
        assert_eq!((letter.exchange.as_str(), letter.routing_key.as_str()), (&*dlx, "a.b"));
        let death = died_once(&letter, &queue, "rejected");
        assert_eq!(string(death.inner().get("exchange")), source);
    });
}

#[test]
fn dead_letter_of_a_missing_exchange_is_dropped() {
    case(async |client| {
        let of = table([("x-dead-letter-exchange", text(&fresh("missing")))]);
        let queue = client.queue_with(of).await;
        client.put(&queue, "1").await;
        client.put(&queue, "2").await;
        client.get(&queue).await.unwrap().nack(AWAY).await.unwrap();
        assert_eq!(client.drain(&queue).await, ["2"]);
    });
}

#[test]
fn dead_letter_goes_to_every_queue_of_the_exchange() {
    case(async |client| {
        let dlx = client.exchange(ExchangeKind::Fanout).await;
        let (one, other) = (client.queue().await, client.queue().await);
        client.bind(&one, &dlx, "").await;
        client.bind(&other, &dlx, "").await;
        let queue = client.queue_with(table([("x-dead-letter-exchange", text(&dlx))])).await;
        client.put(&queue, "x").await;
        client.get(&queue).await.unwrap().nack(AWAY).await.unwrap();
        for queue in [&one, &other] {
            let mut letters = client.consume(queue).await;
            assert_eq!(body(&next(&mut letters).await), "x");
        }
    });
}

#[test]
fn dead_letter_keeps_properties_and_headers() {
    case(async |client| {
        let [queue, dead] = pair(client, []).await;
        let mut letters = client.consume(&dead).await;
        let properties = headers([("mine", text("kept"))])
            .with_content_type("text/plain".into())
            .with_correlation_id("7".into())
            .with_delivery_mode(2);
        client.put_with(&queue, "x", properties).await;
        client.get(&queue).await.unwrap().nack(AWAY).await.unwrap();
        let letter = next(&mut letters).await;
        assert_eq!(header(&letter, "mine"), Some(&text("kept")));
        let properties = &letter.properties;
        assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "text/plain");
        assert_eq!(properties.correlation_id().as_ref().unwrap().as_str(), "7");
        assert_eq!(properties.delivery_mode(), &Some(2));
    });
}

#[test]
fn second_death_of_a_kind_is_counted() {
    case(async |client| {
        let [queue, dead] = pair(client, []).await;
        let mut letters = client.consume(&dead).await;
        client.put(&queue, "x").await;
        client.get(&queue).await.unwrap().nack(AWAY).await.unwrap();
        let letter = next(&mut letters).await;
        // The client sends it again with what it got.
        client.put_with(&queue, "x", letter.properties.clone()).await;
        client.get(&queue).await.unwrap().nack(AWAY).await.unwrap();
        let letter = next(&mut letters).await;
        let [death] = &deaths(&letter)[..] else { panic!("{:?}", letter.properties) };
        // RabbitMQ counts on in 3.x; 4.x takes headers that a client sends for what they are.
        let count = number(death.inner().get("count"));
        assert!(matches!(count, Some(1 | 2)), "{count:?}");
    });
}

#[test]
fn letter_that_dies_elsewhere_tells_of_both() {
    case(async |client| {
        let last = client.queue().await;
        let of = |to: &str| {
            table([("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text(to))])
        };
        let middle = client.queue_with(of(&last)).await;
        let first = client.queue_with(of(&middle)).await;
        let mut letters = client.consume(&last).await;
        let mut halfway = client.consume(&middle).await;
        client.put(&first, "x").await;
        client.get(&first).await.unwrap().nack(AWAY).await.unwrap();
        next(&mut halfway).await.nack(AWAY).await.unwrap();
        let letter = next(&mut letters).await;
        let queues: Vec<String> =
            deaths(&letter).iter().map(|death| string(death.inner().get("queue"))).collect();
        assert_eq!(queues, [middle.clone(), first.clone()]);
        assert_eq!(string(header(&letter, "x-first-death-queue")), first);
        if !is_rabbitmq_before(3, 13) {
            assert_eq!(string(header(&letter, "x-last-death-queue")), middle);
        }
    });
}

#[test]
fn letters_go_round_where_somebody_rejects_them() {
    case(async |client| {
        let (work, wait) = (fresh("work"), fresh("wait"));
        let declare = async |name: &str, to: &str, more: Option<i32>| {
            let mut of = table([
                ("x-dead-letter-exchange", text("")),
                ("x-dead-letter-routing-key", text(to)),
            ]);
            if let Some(ttl) = more {
                of.insert("x-message-ttl".into(), int(ttl));
            }
            let options = lapin::options::QueueDeclareOptions::exclusive();
            client.channel.queue_declare(name.into(), options, of).await.unwrap();
        };
        declare(&work, &wait, None).await;
        declare(&wait, &work, Some(20)).await;
        let mut consumer = client.consume(&work).await;
        client.put(&work, "x").await;
        for round in 0..3 {
            let delivery = next(&mut consumer).await;
            let count = deaths(&delivery)
                .iter()
                .find(|death| string(death.inner().get("queue")) == work)
                .and_then(|death| number(death.inner().get("count")));
            assert_eq!(count.unwrap_or(0), round);
            delivery.nack(AWAY).await.unwrap();
        }
    });
}

#[test]
fn letters_do_not_go_round_by_themselves() {
    case(async |client| {
        let name = fresh("circle");
        let of = table([
            ("x-message-ttl", int(20)),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(&name)),
        ]);
        let options = lapin::options::QueueDeclareOptions::exclusive();
        client.channel.queue_declare((&*name).into(), options, of).await.unwrap();
        client.put(&name, "x").await;
        until("it is dropped", async || client.ready(&name).await == 0).await;
        let mut consumer = client.consume(&name).await;
        nothing(&mut consumer).await;
    });
}

#[test]
fn purged_messages_are_no_dead_letters() {
    case(async |client| {
        let [queue, dead] = pair(client, []).await;
        let mut letters = client.consume(&dead).await;
        client.put(&queue, "x").await;
        client.channel.queue_purge((&*queue).into(), Default::default()).await.unwrap();
        nothing(&mut letters).await;
    });
}

#[test]
fn messages_of_a_deleted_queue_are_no_dead_letters() {
    case(async |client| {
        let [queue, dead] = pair(client, []).await;
        let mut letters = client.consume(&dead).await;
        client.put(&queue, "x").await;
        client.channel.queue_delete((&*queue).into(), Default::default()).await.unwrap();
        nothing(&mut letters).await;
    });
}

#[test]
fn large_dead_letter_comes_whole() {
    case(async |client| {
        let [queue, dead] = pair(client, []).await;
        let mut letters = client.consume(&dead).await;
        let body = vec![3; 1 << 20];
        client.send("", &queue, &body, BasicProperties::default()).await.unwrap();
        client.get(&queue).await.unwrap().nack(AWAY).await.unwrap();
        assert!(next(&mut letters).await.data == body);
    });
}
