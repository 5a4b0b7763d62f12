//! Consumers: begun, limited, alone, cancelled, and messages that are fetched one by one.

use futures_util::StreamExt as _;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;

use crate::client::{
    bodies, body, cancelled, case, code, consume, fresh, int, next, nothing, table, text,
    try_consume, until,
};

const PLAIN: BasicConsumeOptions =
    BasicConsumeOptions { no_local: false, no_ack: false, exclusive: false, nowait: false };
const NO_ACK: BasicConsumeOptions = BasicConsumeOptions { no_ack: true, ..PLAIN };
const EXCLUSIVE: BasicConsumeOptions = BasicConsumeOptions { exclusive: true, ..PLAIN };
const OF_CONSUMER: BasicQosOptions = BasicQosOptions { global: false };
const OF_CHANNEL: BasicQosOptions = BasicQosOptions { global: true };

#[test]
fn messages_that_are_there_are_delivered_in_order() {
    case(async |client| {
        let queue = client.queue().await;
        for number in 0..20 {
            client.put(&queue, &number.to_string()).await;
        }
        let mut consumer = client.consume(&queue).await;
        for number in 0..20_u64 {
            let delivery = next(&mut consumer).await;
            assert_eq!((body(&delivery), delivery.delivery_tag), (number.to_string(), number + 1));
            assert!(!delivery.redelivered);
        }
    });
}

#[test]
fn messages_that_come_are_delivered() {
    case(async |client| {
        let queue = client.queue().await;
        let mut consumer = client.consume(&queue).await;
        nothing(&mut consumer).await;
        client.put(&queue, "x").await;
        assert_eq!(body(&next(&mut consumer).await), "x");
    });
}

#[test]
fn consumer_of_a_missing_queue_is_404() {
    case(async |client| {
        let (missing, none) = (fresh("missing"), FieldTable::default());
        assert_eq!(code(try_consume(&client.channel, &missing, "", PLAIN, none).await), 404);
    });
}

#[test]
fn server_finds_a_tag() {
    case(async |client| {
        let queue = client.queue().await;
        let (one, other) = (client.consume(&queue).await, client.consume(&queue).await);
        assert!(one.tag().as_str().starts_with("amq.ctag-"), "{}", one.tag());
        assert_ne!(one.tag(), other.tag());
    });
}

#[test]
fn tag_of_the_client_is_kept() {
    case(async |client| {
        let (queue, none) = (client.queue().await, FieldTable::default());
        let consumer = try_consume(&client.channel, &queue, "mine", PLAIN, none).await.unwrap();
        assert_eq!(consumer.tag().as_str(), "mine");
    });
}

#[test]
fn tag_twice_on_a_channel_is_530() {
    case(async |client| {
        let (queue, none) = (client.queue().await, || FieldTable::default());
        let _one = try_consume(&client.channel, &queue, "mine", PLAIN, none()).await.unwrap();
        assert_eq!(code(try_consume(&client.channel, &queue, "mine", PLAIN, none()).await), 530);
    });
}

#[test]
fn tag_on_two_channels_is_two_consumers() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, client.open().await);
        let none = || FieldTable::default();
        let _one = try_consume(&client.channel, &queue, "mine", PLAIN, none()).await.unwrap();
        let _other = try_consume(&channel, &queue, "mine", PLAIN, none()).await.unwrap();
        assert_eq!(client.standing(&queue).await, (0, 2));
    });
}

#[test]
fn cancelled_tag_may_be_used_again() {
    case(async |client| {
        let (queue, none) = (client.queue().await, || FieldTable::default());
        for _ in 0..3 {
            let one = try_consume(&client.channel, &queue, "mine", PLAIN, none()).await.unwrap();
            client.channel.basic_cancel("mine".into(), Default::default()).await.unwrap();
            drop(one);
        }
        assert_eq!(client.standing(&queue).await, (0, 0));
    });
}

#[test]
fn cancel_of_an_unknown_tag_is_answered() {
    case(async |client| {
        client.channel.basic_cancel("nobody".into(), BasicCancelOptions::default()).await.unwrap();
    });
}

#[test]
fn cancelled_consumer_gets_nothing_and_keeps_what_it_holds() {
    case(async |client| {
        let queue = client.queue().await;
        let mut consumer = client.consume(&queue).await;
        client.put(&queue, "held").await;
        let held = next(&mut consumer).await;
        client.channel.basic_cancel(consumer.tag(), Default::default()).await.unwrap();
        client.put(&queue, "ready").await;
        assert_eq!(client.standing(&queue).await, (1, 0));
        assert!(consumer.next().await.is_none(), "it has ended");
        held.ack(Default::default()).await.unwrap();
        assert_eq!(client.drain(&queue).await, ["ready"]);
        // The acknowledgement was heard: nothing is there when the channel has gone.
        client.channel.close(200, "done".into()).await.unwrap();
        let channel = client.open().await;
        let mut consumer = consume(&channel, &queue, PLAIN).await;
        nothing(&mut consumer).await;
    });
}

#[test]
fn without_acknowledgements_a_message_is_gone_when_it_is_delivered() {
    case(async |client| {
        let queue = client.queue().await;
        let channel = client.open().await;
        let mut consumer = consume(&channel, &queue, NO_ACK).await;
        client.put(&queue, "x").await;
        assert_eq!(body(&next(&mut consumer).await), "x");
        channel.close(200, "done".into()).await.unwrap();
        until("no consumer", async || client.standing(&queue).await.1 == 0).await;
        assert_eq!(client.ready(&queue).await, 0);
    });
}

#[test]
fn without_acknowledgements_the_window_does_not_count() {
    case(async |client| {
        let queue = client.queue().await;
        client.channel.basic_qos(1, OF_CONSUMER).await.unwrap();
        let mut consumer = consume(&client.channel, &queue, NO_ACK).await;
        for number in 0..10 {
            client.put(&queue, &number.to_string()).await;
        }
        assert_eq!(bodies(&mut consumer, 10).await.len(), 10);
    });
}

#[test]
fn many_messages_without_acknowledgements_come() {
    case(async |client| {
        let queue = client.queue().await;
        let mut consumer = consume(&client.channel, &queue, NO_ACK).await;
        let send = (0..3000).map(|_| client.put(&queue, "x"));
        let (came, _) =
            tokio::join!(bodies(&mut consumer, 3000), futures_util::future::join_all(send));
        assert_eq!(came.len(), 3000);
    });
}

#[test]
fn window_of_a_consumer_is_kept() {
    case(async |client| {
        let queue = client.queue().await;
        client.channel.basic_qos(2, OF_CONSUMER).await.unwrap();
        let mut consumer = client.consume(&queue).await;
        for body in ["1", "2", "3"] {
            client.put(&queue, body).await;
        }
        let (one, two) = (next(&mut consumer).await, next(&mut consumer).await);
        nothing(&mut consumer).await;
        one.ack(Default::default()).await.unwrap();
        assert_eq!(body(&next(&mut consumer).await), "3");
        nothing(&mut consumer).await;
        two.ack(Default::default()).await.unwrap();
    });
}

#[test]
fn windows_of_consumers_are_apart() {
    case(async |client| {
        let (one, other) = (client.queue().await, client.queue().await);
        client.channel.basic_qos(1, OF_CONSUMER).await.unwrap();
        let mut consumers = [client.consume(&one).await, client.consume(&other).await];
        for queue in [&one, &other] {
            client.put(queue, "1").await;
            client.put(queue, "2").await;
        }
        for consumer in &mut consumers {
            assert_eq!(body(&next(consumer).await), "1");
            nothing(consumer).await;
        }
    });
}

#[test]
fn window_is_of_consumers_that_begin_then() {
    case(async |client| {
        let (one, other) = (client.queue().await, client.queue().await);
        client.channel.basic_qos(1, OF_CONSUMER).await.unwrap();
        let mut narrow = client.consume(&one).await;
        client.channel.basic_qos(3, OF_CONSUMER).await.unwrap();
        let mut wide = client.consume(&other).await;
        for body in ["1", "2", "3"] {
            client.put(&one, body).await;
            client.put(&other, body).await;
        }
        assert_eq!(bodies(&mut wide, 3).await, ["1", "2", "3"]);
        assert_eq!(bodies(&mut narrow, 1).await, ["1"]);
        nothing(&mut narrow).await;
    });
}

#[test]
fn window_of_the_channel_is_shared() {
    case(async |client| {
        let (one, other) = (client.queue().await, client.queue().await);
        client.channel.basic_qos(1, OF_CHANNEL).await.unwrap();
        let mut first = client.consume(&one).await;
        let mut second = client.consume(&other).await;
        client.put(&one, "1").await;
        let held = next(&mut first).await;
        client.put(&other, "2").await;
        nothing(&mut second).await;
        held.ack(Default::default()).await.unwrap();
        assert_eq!(body(&next(&mut second).await), "2");
    });
}

#[test]
fn window_of_zero_is_no_window() {
    case(async |client| {
        let queue = client.queue().await;
        client.channel.basic_qos(0, OF_CONSUMER).await.unwrap();
        let mut consumer = client.consume(&queue).await;
        for _ in 0..100 {
            client.put(&queue, "x").await;
        }
        assert_eq!(bodies(&mut consumer, 100).await.len(), 100);
    });
}

#[test]
fn exclusive_consumer_is_alone() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, client.open().await);
        let _alone = consume(&client.channel, &queue, EXCLUSIVE).await;
        let refused = try_consume(&channel, &queue, "", PLAIN, FieldTable::default()).await;
        assert_eq!(code(refused), 403);
    });
}

#[test]
fn exclusive_consumer_is_not_where_others_are() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, client.open().await);
        let _first = client.consume(&queue).await;
        let refused = try_consume(&channel, &queue, "", EXCLUSIVE, FieldTable::default()).await;
        assert_eq!(code(refused), 403);
    });
}

#[test]
fn exclusive_consumer_leaves_the_queue_to_others() {
    case(async |client| {
        let queue = client.queue().await;
        let alone = consume(&client.channel, &queue, EXCLUSIVE).await;
        client.channel.basic_cancel(alone.tag(), Default::default()).await.unwrap();
        let mut next_one = client.consume(&queue).await;
        client.put(&queue, "x").await;
        assert_eq!(body(&next(&mut next_one).await), "x");
    });
}

#[test]
fn consumers_share_a_queue_in_turn() {
    case(async |client| {
        let queue = client.queue().await;
        client.channel.basic_qos(5, OF_CONSUMER).await.unwrap();
        let mut one = client.consume(&queue).await;
        let mut other = client.consume(&queue).await;
        for number in 0..10 {
            client.put(&queue, &number.to_string()).await;
        }
        let mut came = bodies(&mut one, 5).await;
        came.extend(bodies(&mut other, 5).await);
        came.sort();
        assert!(came.iter().map(|body| body.parse::<i32>().unwrap()).eq(0..10), "{came:?}");
    });
}

#[test]
fn consumer_of_higher_priority_is_served_first() {
    case(async |client| {
        let queue = client.queue().await;
        client.channel.basic_qos(2, OF_CONSUMER).await.unwrap();
        let of = |priority| table([("x-priority", int(priority))]);
        let mut low = try_consume(&client.channel, &queue, "", PLAIN, of(-1)).await.unwrap();
        let mut high = try_consume(&client.channel, &queue, "", PLAIN, of(5)).await.unwrap();
        for number in 0..3 {
            client.put(&queue, &number.to_string()).await;
        }
        assert_eq!(bodies(&mut high, 2).await, ["0", "1"]);
        assert_eq!(bodies(&mut low, 1).await, ["2"], "the other has no room");
    });
}

#[test]
fn priority_of_a_consumer_is_a_number() {
    case(async |client| {
        let (queue, of) = (client.queue().await, table([("x-priority", text("high"))]));
        assert_eq!(code(try_consume(&client.channel, &queue, "", PLAIN, of).await), 406);
    });
}

#[test]
fn single_active_consumer_is_served_alone() {
    case(async |client| {
        let of = table([("x-single-active-consumer", lapin::types::AMQPValue::Boolean(true))]);
        let queue = client.queue_with(of).await;
        let mut one = client.consume(&queue).await;
        let mut other = client.consume(&queue).await;
        for body in ["1", "2"] {
            client.put(&queue, body).await;
        }
        for expected in ["1", "2"] {
            let delivery = next(&mut one).await;
            assert_eq!(body(&delivery), expected);
            delivery.ack(Default::default()).await.unwrap();
        }
        nothing(&mut other).await;
        client.channel.basic_cancel(one.tag(), Default::default()).await.unwrap();
        client.put(&queue, "3").await;
        assert_eq!(body(&next(&mut other).await), "3");
    });
}

#[test]
fn consumer_hears_of_the_end_of_a_queue_it_holds_messages_of() {
    case(async |client| {
        let queue = client.queue().await;
        let mut consumer = client.consume(&queue).await;
        client.put(&queue, "held").await;
        let held = next(&mut consumer).await;
        client.channel.queue_delete((&*queue).into(), Default::default()).await.unwrap();
        cancelled(&mut consumer).await;
        // An acknowledgement of what went with its queue is no error.
        held.ack(Default::default()).await.unwrap();
        client.channel.basic_qos(1, OF_CONSUMER).await.unwrap();
    });
}

#[test]
fn consumer_without_an_answer_is_begun() {
    case(async |client| {
        let (queue, none) = (client.queue().await, FieldTable::default());
        let options = BasicConsumeOptions { nowait: true, ..PLAIN };
        let mut consumer =
            try_consume(&client.channel, &queue, "quiet", options, none).await.unwrap();
        client.put(&queue, "x").await;
        assert_eq!(body(&next(&mut consumer).await), "x");
    });
}

#[test]
fn consumers_are_many_on_a_queue() {
    case(async |client| {
        let queue = client.queue().await;
        let mut consumers = Vec::new();
        for _ in 0..50 {
            consumers.push(client.consume(&queue).await);
        }
        assert_eq!(client.standing(&queue).await, (0, 50));
    });
}
