//! Queues of type `stream`: messages stay, and each reader says where it begins.
//!
//! Source: RabbitMQ, "Streams and Super Streams".

use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions,
    BasicQosOptions, BasicRejectOptions, QueueDeclareOptions, QueueDeleteOptions,
    QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Consumer, ExchangeKind};

use crate::client::{
    Client, bodies, body, cancelled, case, code, ends, fresh, header, int, next, nothing, number,
    table, text, try_consume,
};
use crate::server::is_rabbitmq_before;

const WINDOW: u16 = 100;
const OF_CHANNEL: BasicQosOptions = BasicQosOptions { global: true };

/// A stream with the messages `0`, `1` and so on. The case deletes it.
async fn stream_of(client: &Client, messages: usize) -> String {
    let name = fresh("stream");
    declare(client, &name, &[]).await.expect("a stream");
    for message in 0..messages {
        client.put(&name, &message.to_string()).await;
    }
    name
}

async fn declare(
    client: &Client,
    name: &str,
    more: &[(&str, AMQPValue)],
) -> lapin::Result<lapin::Queue> {
    let mut arguments = table([("x-queue-type", text("stream"))]);
    for (name, value) in more {
        arguments.insert((*name).into(), value.clone());
    }
    client.channel.queue_declare(name.into(), QueueDeclareOptions::durable(), arguments).await
}

async fn delete(client: &Client, name: &str) {
    let deleted =
        client.open().await.queue_delete(name.into(), QueueDeleteOptions::default()).await;
    deleted.expect("it is deleted");
}

async fn channel(client: &Client, window: u16) -> Channel {
    let channel = client.open().await;
    channel.basic_qos(window, BasicQosOptions::default()).await.expect("a window");
    channel
}

async fn read_on(channel: &Channel, stream: &str, arguments: FieldTable) -> Consumer {
    let options = BasicConsumeOptions::default();
    try_consume(channel, stream, "", options, arguments).await.expect("a reader")
}

async fn read_from(client: &Client, stream: &str, start: AMQPValue) -> Consumer {
    let arguments = table([("x-stream-offset", start)]);
    read_on(&channel(client, WINDOW).await, stream, arguments).await
}

#[test]
fn each_reader_gets_every_message_and_none_is_taken() {
    case(async |client| {
        let stream = stream_of(client, 3).await;
        for _ in 0..2 {
            let mut reader = read_from(client, &stream, text("first")).await;
            for offset in 0..3 {
                let message = next(&mut reader).await;
                assert_eq!(body(&message), offset.to_string());
                assert_eq!(number(header(&message, "x-stream-offset")), Some(offset));
                assert_eq!((&*message.exchange.to_string(), message.redelivered), ("", false));
                assert_eq!(message.routing_key.as_str(), stream);
                message.acker.ack(BasicAckOptions::default()).await.unwrap();
            }
            nothing(&mut reader).await;
        }
        delete(client, &stream).await;
    });
}

#[test]
fn messages_that_are_not_settled_come_again_to_nobody() {
    case(async |client| {
        let stream = stream_of(client, 3).await;
        let mut reader = read_from(client, &stream, text("first")).await;
        assert_eq!(bodies(&mut reader, 3).await, ["0", "1", "2"]);
        let mut other = read_from(client, &stream, text("next")).await;
        drop(reader);
        client.put(&stream, "3").await;
        let message = next(&mut other).await;
        assert_eq!((body(&message).as_str(), message.redelivered), ("3", false));
        delete(client, &stream).await;
    });
}

macro_rules! starts {
    ($($name:ident: $start:expr => $expected:expr;)+) => {$(
        #[test]
        fn $name() {
            case(async |client| {
                let stream = stream_of(client, 5).await;
                let mut reader = read_from(client, &stream, $start).await;
                client.put(&stream, "new").await;
                let expected: &[&str] = &$expected;
                assert_eq!(bodies(&mut reader, expected.len()).await, expected);
                nothing(&mut reader).await;
                delete(client, &stream).await;
            });
        }
    )+};
}

starts! {
    reader_begins_with_the_first: text("first") => ["0", "1", "2", "3", "4", "new"];
    reader_begins_with_the_last: text("last") => ["4", "new"];
    reader_begins_with_the_next: text("next") => ["new"];
    reader_begins_at_an_offset: int(3) => ["3", "4", "new"];
    reader_begins_at_a_wide_offset: AMQPValue::LongLongInt(4) => ["4", "new"];
    reader_begins_after_a_time: AMQPValue::Timestamp(1) => ["0", "1", "2", "3", "4", "new"];
    reader_begins_an_hour_ago: text("1h") => ["0", "1", "2", "3", "4", "new"];
}

#[test]
fn reader_that_says_nothing_begins_with_the_next() {
    case(async |client| {
        let stream = stream_of(client, 2).await;
        let channel = channel(client, WINDOW).await;
        let mut reader = read_on(&channel, &stream, FieldTable::default()).await;
        client.put(&stream, "new").await;
        assert_eq!(bodies(&mut reader, 1).await, ["new"]);
        delete(client, &stream).await;
    });
}

#[test]
fn reader_has_so_many_unsettled_and_no_more() {
    case(async |client| {
        let stream = stream_of(client, 5).await;
        let channel = channel(client, 2).await;
        let first = || table([("x-stream-offset", text("first"))]);
        let mut reader = read_on(&channel, &stream, first()).await;
        let one = next(&mut reader).await;
        let two = next(&mut reader).await;
        assert_eq!((body(&one), body(&two)), ("0".to_owned(), "1".to_owned()));
        nothing(&mut reader).await;
        two.acker.ack(BasicAckOptions { multiple: true }).await.unwrap();
        assert_eq!(bodies(&mut reader, 2).await, ["2", "3"]);
        nothing(&mut reader).await;
        delete(client, &stream).await;
    });
}

#[test]
fn reader_keeps_up_with_many_messages() {
    case(async |client| {
        let stream = stream_of(client, 0).await;
        let mut reader = read_from(client, &stream, text("first")).await;
        let publisher = client.confirming().await;
        let mut told = Vec::new();
        for number in 0..2_000 {
            let options = lapin::options::BasicPublishOptions::default();
            let body = number.to_string();
            let (exchange, properties) = ("".into(), BasicProperties::default());
            let sent = publisher.basic_publish(
                exchange,
                (&*stream).into(),
                options,
                body.as_bytes(),
                properties,
            );
            told.push(sent.await.unwrap());
        }
        for confirm in told {
            assert!(confirm.await.unwrap().is_ack());
        }
        for number in 0..2_000 {
            let message = next(&mut reader).await;
            assert_eq!(body(&message), number.to_string());
            message.acker.ack(BasicAckOptions::default()).await.unwrap();
        }
        delete(client, &stream).await;
    });
}

#[test]
fn stream_is_routed_to_as_a_queue_is() {
    case(async |client| {
        let stream = stream_of(client, 0).await;
        let exchange = client.exchange(ExchangeKind::Topic).await;
        client.bind(&stream, &exchange, "order.*").await;
        let properties = BasicProperties::default().with_message_id("m".into());
        client.send(&exchange, "order.new", b"x", properties).await.unwrap();
        let mut reader = read_from(client, &stream, text("first")).await;
        let message = next(&mut reader).await;
        assert_eq!(message.routing_key.as_str(), "order.new");
        assert_eq!(message.exchange.as_str(), exchange);
        assert_eq!(message.properties.message_id().as_ref().unwrap().as_str(), "m");
        delete(client, &stream).await;
    });
}

#[test]
fn dead_letters_lie_in_a_stream() {
    if is_rabbitmq_before(4, 0) {
        // 3.10.8 loses them.
        return;
    }
    case(async |client| {
        let stream = stream_of(client, 0).await;
        let queue = client
            .queue_with(table([
                ("x-dead-letter-exchange", text("")),
                ("x-dead-letter-routing-key", text(&stream)),
            ]))
            .await;
        client.put(&queue, "dead").await;
        let message = client.get(&queue).await.unwrap();
        message.acker.reject(BasicRejectOptions { requeue: false }).await.unwrap();
        let mut reader = read_from(client, &stream, text("first")).await;
        let letter = next(&mut reader).await;
        assert_eq!(body(&letter), "dead");
        assert!(header(&letter, "x-death").is_some());
        delete(client, &stream).await;
    });
}

#[test]
fn reader_that_is_cancelled_gets_no_more() {
    case(async |client| {
        let stream = stream_of(client, 1).await;
        let channel = channel(client, WINDOW).await;
        let first = table([("x-stream-offset", text("first"))]);
        let mut reader = read_on(&channel, &stream, first).await;
        let message = next(&mut reader).await;
        let tag = reader.tag().as_str().to_owned();
        channel.basic_cancel((&*tag).into(), BasicCancelOptions::default()).await.unwrap();
        client.put(&stream, "1").await;
        cancelled(&mut reader).await;
        message.acker.ack(BasicAckOptions::default()).await.unwrap();
        let mut again = read_from(client, &stream, int(1)).await;
        assert_eq!(bodies(&mut again, 1).await, ["1"]);
        delete(client, &stream).await;
    });
}

#[test]
fn readers_hear_that_their_stream_is_deleted() {
    case(async |client| {
        let stream = stream_of(client, 1).await;
        let mut reader = read_from(client, &stream, text("next")).await;
        delete(client, &stream).await;
        cancelled(&mut reader).await;
    });
}

#[test]
fn reader_without_a_window_is_406() {
    case(async |client| {
        let stream = stream_of(client, 0).await;
        let options = BasicConsumeOptions::default();
        let none = FieldTable::default();
        let begun = try_consume(&client.open().await, &stream, "", options, none).await;
        assert_eq!(code(begun), 406);
        delete(client, &stream).await;
    });
}

#[test]
fn reader_without_acknowledgements_is_540() {
    case(async |client| {
        let stream = stream_of(client, 0).await;
        let other = client.other().await;
        let channel = channel(&other, WINDOW).await;
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let begun = try_consume(&channel, &stream, "", options, FieldTable::default()).await;
        assert_eq!(code(begun), 540);
        delete(client, &stream).await;
    });
}

#[test]
fn window_of_a_channel_is_540_for_a_stream() {
    case(async |client| {
        let stream = stream_of(client, 0).await;
        let other = client.other().await;
        let channel = channel(&other, WINDOW).await;
        channel.basic_qos(WINDOW, OF_CHANNEL).await.unwrap();
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let begun = try_consume(&channel, &stream, "", options, none).await;
        assert_eq!(code(begun), 540);
        delete(client, &stream).await;
    });
}

#[test]
fn fetching_from_a_stream_is_540() {
    case(async |client| {
        let stream = stream_of(client, 1).await;
        let other = client.other().await;
        let got = other.channel.basic_get((&*stream).into(), BasicGetOptions::default()).await;
        assert_eq!(code(got), 540);
        delete(client, &stream).await;
    });
}

#[test]
fn purging_a_stream_is_540() {
    case(async |client| {
        let stream = stream_of(client, 1).await;
        let other = client.other().await;
        let purged = other.channel.queue_purge((&*stream).into(), QueuePurgeOptions::default());
        assert_eq!(code(purged.await), 540);
        delete(client, &stream).await;
    });
}

#[test]
fn putting_a_message_back_into_a_stream_is_540() {
    case(async |client| {
        let stream = stream_of(client, 1).await;
        let other = client.other().await;
        let mut reader = read_from(&other, &stream, text("first")).await;
        let message = next(&mut reader).await;
        message.acker.nack(BasicNackOptions { requeue: true, ..Default::default() }).await.unwrap();
        assert_eq!(ends(&mut reader).await, 540);
        delete(client, &stream).await;
    });
}

#[test]
fn replicated_queue_that_goes_with_something_is_406() {
    case(async |client| {
        for kind in ["stream", "quorum"] {
            for options in [
                QueueDeclareOptions { durable: true, auto_delete: true, ..Default::default() },
                QueueDeclareOptions { durable: true, exclusive: true, ..Default::default() },
                QueueDeclareOptions::default(),
            ] {
                let (name, arguments) = (fresh(kind), table([("x-queue-type", text(kind))]));
                let channel = client.open().await;
                let declared = channel.queue_declare((&*name).into(), options, arguments).await;
                assert_eq!(code(declared), 406, "{kind}: {options:?}");
            }
        }
    });
}

#[test]
fn arguments_of_queues_are_406_for_a_stream() {
    case(async |client| {
        for (argument, value) in [
            ("x-message-ttl", int(1)),
            ("x-dead-letter-exchange", text("amq.direct")),
            ("x-max-priority", int(5)),
            ("x-single-active-consumer", AMQPValue::Boolean(true)),
        ] {
            let other = client.other().await;
            let declared = declare(&other, &fresh("stream"), &[(argument, value)]).await;
            assert_eq!(code(declared), 406, "{argument}");
        }
    });
}

#[test]
fn stream_is_declared_again_as_it_is() {
    case(async |client| {
        let name = fresh("stream");
        let arguments = [
            ("x-max-age", text("7D")),
            ("x-max-length-bytes", int(10_000_000)),
            ("x-stream-max-segment-size-bytes", int(1_000_000)),
            ("x-initial-cluster-size", int(1)),
        ];
        for _ in 0..2 {
            declare(client, &name, &arguments).await.unwrap();
        }
        let other = [("x-max-age", text("8D"))];
        assert_eq!(code(declare(&client.other().await, &name, &other).await), 406);
        delete(client, &name).await;
    });
}
