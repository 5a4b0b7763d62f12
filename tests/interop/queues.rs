//! Queues: declared, found, purged, deleted, and what is refused.

use lapin::options::{BasicGetOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Queue, Result};

use crate::client::{body, case, code, fresh, int, reason, table, text};

pub(crate) const EXCLUSIVE: QueueDeclareOptions = QueueDeclareOptions {
    passive: false,
    durable: false,
    exclusive: true,
    auto_delete: false,
    nowait: false,
};
const DURABLE: QueueDeclareOptions =
    QueueDeclareOptions { durable: true, exclusive: false, ..EXCLUSIVE };
const PASSIVE: QueueDeclareOptions =
    QueueDeclareOptions { passive: true, exclusive: false, ..EXCLUSIVE };

pub(crate) async fn declare(
    channel: &Channel,
    name: &str,
    options: QueueDeclareOptions,
) -> Result<Queue> {
    channel.queue_declare(name.into(), options, FieldTable::default()).await
}

pub(crate) async fn delete(
    channel: &Channel,
    name: &str,
    options: QueueDeleteOptions,
) -> Result<u32> {
    channel.queue_delete(name.into(), options).await
}

#[test]
fn new_queue_is_empty() {
    case(async |client| {
        let (name, none) = (fresh("queue"), FieldTable::default());
        let queue = client.channel.queue_declare((&*name).into(), EXCLUSIVE, none).await.unwrap();
        assert_eq!(queue.name().as_str(), name);
        assert_eq!((queue.message_count(), queue.consumer_count()), (0, 0));
    });
}

#[test]
fn declaration_again_counts_messages_and_consumers() {
    case(async |client| {
        let name = client.queue().await;
        client.put(&name, "1").await;
        client.put(&name, "2").await;
        let again = declare(&client.channel, &name, EXCLUSIVE).await.unwrap();
        assert_eq!((again.message_count(), again.consumer_count()), (2, 0));
        client.drain(&name).await;
        let _consumer = client.consume(&name).await;
        assert_eq!(client.standing(&name).await, (0, 1));
    });
}

#[test]
fn server_finds_a_name() {
    case(async |client| {
        let one = declare(&client.channel, "", EXCLUSIVE).await.unwrap();
        let other = declare(&client.channel, "", EXCLUSIVE).await.unwrap();
        assert!(one.name().as_str().starts_with("amq.gen-"), "{one:?}");
        assert_ne!(one.name(), other.name());
        client.put(one.name().as_str(), "x").await;
        assert_eq!(client.drain(one.name().as_str()).await, ["x"]);
    });
}

#[test]
fn empty_name_is_the_last_queue_of_the_channel() {
    case(async |client| {
        let queue = client.queue().await;
        client.put(&queue, "x").await;
        let none = FieldTable::default();
        let exchange = "amq.direct".into();
        client
            .channel
            .queue_bind("".into(), exchange, "".into(), Default::default(), none)
            .await
            .unwrap();
        let message = client.channel.basic_get("".into(), BasicGetOptions::default()).await;
        assert_eq!(body(&message.unwrap().unwrap()), "x");
    });
}

#[test]
fn empty_name_without_a_queue_is_refused() {
    case(async |client| {
        let channel = client.open().await;
        let refused = channel.queue_purge("".into(), QueuePurgeOptions::default()).await;
        // RabbitMQ: 404 "no previously declared queue".
        assert_eq!(code(refused), 404);
    });
}

#[test]
fn passive_declaration_of_a_missing_queue_is_404() {
    case(async |client| {
        let name = fresh("missing");
        let refused = declare(&client.channel, &name, PASSIVE).await;
        assert!(reason(refused.clone()).contains("no queue"), "{refused:?}");
        assert_eq!(code(refused), 404);
    });
}

#[test]
fn reserved_name_is_403() {
    case(async |client| {
        assert_eq!(code(declare(&client.channel, "amq.mine", EXCLUSIVE).await), 403);
    });
}

#[test]
fn exclusive_queue_is_locked_for_others() {
    case(async |client| {
        let (queue, other) = (client.queue().await, client.other().await);
        let name = || (&*queue).into();
        let channel = other.open().await;
        assert_eq!(code(declare(&channel, &queue, PASSIVE).await), 405);
        let channel = other.open().await;
        assert_eq!(code(declare(&channel, &queue, EXCLUSIVE).await), 405);
        let channel = other.open().await;
        assert_eq!(code(channel.basic_get(name(), Default::default()).await), 405);
        let channel = other.open().await;
        assert_eq!(code(channel.queue_purge(name(), Default::default()).await), 405);
        let channel = other.open().await;
        assert_eq!(code(channel.queue_delete(name(), Default::default()).await), 405);
        let consumer = channel_consume(&other.open().await, &queue).await;
        assert_eq!(code(consumer), 405);
    });
}

async fn channel_consume(channel: &Channel, queue: &str) -> Result<()> {
    let (options, none) = (Default::default(), FieldTable::default());
    channel.basic_consume(queue.into(), "".into(), options, none).await.map(drop)
}

#[test]
fn others_may_publish_to_an_exclusive_queue() {
    case(async |client| {
        let (queue, other) = (client.queue().await, client.other().await);
        other.put(&queue, "x").await;
        assert_eq!(client.drain(&queue).await, ["x"]);
    });
}

#[test]
fn queue_is_not_declared_durable_afterwards() {
    case(async |client| {
        let name = fresh("lasting");
        declare(&client.channel, &name, DURABLE).await.unwrap();
        let channel = client.open().await;
        let options = QueueDeclareOptions { auto_delete: true, ..DURABLE };
        let text = reason(declare(&channel, &name, options).await);
        assert!(text.contains("inequivalent arg 'auto_delete' for queue"), "{text}");
        let channel = client.open().await;
        let options = QueueDeclareOptions { durable: false, ..DURABLE };
        assert_eq!(code(declare(&channel, &name, options).await), 406);
        delete(&client.channel, &name, QueueDeleteOptions::default()).await.unwrap();
    });
}

#[test]
fn shared_queue_is_not_declared_exclusive_afterwards() {
    case(async |client| {
        let name = fresh("lasting");
        declare(&client.channel, &name, DURABLE).await.unwrap();
        let channel = client.open().await;
        assert_eq!(code(declare(&channel, &name, EXCLUSIVE).await), 405);
        delete(&client.channel, &name, QueueDeleteOptions::default()).await.unwrap();
    });
}

macro_rules! other_argument {
    ($($name:ident: $argument:literal, $first:expr, $then:expr => $same:literal;)*) => {$(
        #[test]
        fn $name() {
            case(async |client| {
                let queue = client.queue_with(table([($argument, $first)])).await;
                let of = table([($argument, $then)]);
                let again = client.channel.queue_declare((&*queue).into(), EXCLUSIVE, of).await;
                match $same {
                    true => drop(again.unwrap()),
                    false => assert_eq!(code(again), 406),
                }
            });
        }
    )*};
}

other_argument! {
    other_ttl_is_406: "x-message-ttl", int(60_000), int(60_001) => false;
    other_length_is_406: "x-max-length", int(5), int(6) => false;
    other_overflow_is_406: "x-overflow", text("drop-head"), text("reject-publish") => false;
    other_priorities_are_406: "x-max-priority", int(5), int(6) => false;
    other_dead_letter_exchange_is_406: "x-dead-letter-exchange", text("a"), text("b") => false;
    width_of_a_number_does_not_matter: "x-max-length", int(5), AMQPValue::LongLongInt(5) => true;
    argument_that_nobody_knows_may_differ: "x-unheard-of", int(1), int(2) => true;
}

macro_rules! bad_argument {
    ($($name:ident: $argument:literal, $value:expr;)*) => {$(
        #[test]
        fn $name() {
            case(async |client| {
                let (name, of) = (fresh("queue"), table([($argument, $value)]));
                let refused = client.channel.queue_declare((&*name).into(), EXCLUSIVE, of).await;
                assert_eq!(code(refused), 406);
            });
        }
    )*};
}

bad_argument! {
    negative_ttl_is_406: "x-message-ttl", int(-1);
    ttl_that_is_text_is_406: "x-message-ttl", text("soon");
    expiry_of_zero_is_406: "x-expires", int(0);
    negative_length_is_406: "x-max-length", int(-1);
    priorities_beyond_255_are_406: "x-max-priority", int(256);
    unknown_overflow_is_406: "x-overflow", text("explode");
    unknown_type_of_queue_is_406: "x-queue-type", text("magic");
    dead_letter_exchange_that_is_a_number_is_406: "x-dead-letter-exchange", int(1);
    dead_letter_key_without_exchange_is_406: "x-dead-letter-routing-key", text("key");
    single_active_that_is_text_is_406: "x-single-active-consumer", text("yes");
}

#[test]
fn name_of_a_deleted_queue_is_a_new_queue() {
    case(async |client| {
        let queue = client.queue().await;
        client.put(&queue, "old").await;
        delete(&client.channel, &queue, Default::default()).await.unwrap();
        let of = table([("x-max-length", int(3))]);
        client.channel.queue_declare((&*queue).into(), EXCLUSIVE, of).await.unwrap();
        assert_eq!(client.ready(&queue).await, 0);
        client.put(&queue, "new").await;
        assert_eq!(client.drain(&queue).await, ["new"]);
    });
}

#[test]
fn declaration_without_an_answer_is_carried_out_in_order() {
    case(async |client| {
        let name = fresh("queue");
        let options = QueueDeclareOptions { nowait: true, ..EXCLUSIVE };
        declare(&client.channel, &name, options).await.unwrap();
        assert_eq!(client.ready(&name).await, 0);
    });
}

#[test]
fn name_may_have_any_characters() {
    case(async |client| {
        let name = fresh("Größe/ 1%\u{1F980}#*");
        declare(&client.channel, &name, EXCLUSIVE).await.unwrap();
        client.put(&name, "x").await;
        assert_eq!(client.drain(&name).await, ["x"]);
    });
}

#[test]
fn name_may_have_255_bytes() {
    case(async |client| {
        let name = format!("{:x<255}", fresh("long"));
        declare(&client.channel, &name, EXCLUSIVE).await.unwrap();
        client.put(&name, "x").await;
        assert_eq!(client.drain(&name).await, ["x"]);
    });
}

#[test]
fn queues_are_many() {
    case(async |client| {
        let mut queues = Vec::new();
        for _ in 0..30 {
            queues.push(client.queue().await);
        }
        for queue in &queues {
            client.put(queue, queue).await;
        }
        for queue in &queues {
            assert_eq!(&client.drain(queue).await[..], std::slice::from_ref(queue));
        }
    });
}
