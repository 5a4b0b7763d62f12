//! Acknowledged, refused, taken back: what becomes of a delivery.

use lapin::options::{
    BasicAckOptions, BasicNackOptions, BasicQosOptions, BasicRecoverAsyncOptions,
    BasicRecoverOptions, BasicRejectOptions,
};
use lapin::types::FieldTable;

use crate::client::{
    bodies, body, case, code, ends_with, header, int, next, nothing, number, table, until,
};

const ONE: BasicAckOptions = BasicAckOptions { multiple: false };
const ALL: BasicAckOptions = BasicAckOptions { multiple: true };
const BACK: BasicNackOptions = BasicNackOptions { multiple: false, requeue: true };
const AWAY: BasicNackOptions = BasicNackOptions { multiple: false, requeue: false };

#[test]
fn acknowledged_message_is_gone() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, client.open().await);
        client.put(&queue, "x").await;
        let message = channel.basic_get((&*queue).into(), Default::default()).await;
        message.unwrap().unwrap().ack(ONE).await.unwrap();
        channel.close(200, "done".into()).await.unwrap();
        assert_eq!(client.ready(&queue).await, 0);
    });
}

#[test]
fn acknowledgement_of_several_takes_those_before() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, client.open().await);
        for body in ["1", "2", "3", "4"] {
            client.put(&queue, body).await;
        }
        for _ in 0..4 {
            channel.basic_get((&*queue).into(), Default::default()).await.unwrap().unwrap();
        }
        channel.basic_ack(3, ALL).await.unwrap();
        channel.close(200, "done".into()).await.unwrap();
        until("the rest is ready", async || client.ready(&queue).await == 1).await;
        assert_eq!(client.drain(&queue).await, ["4"]);
    });
}

#[test]
fn acknowledgement_of_zero_is_of_all() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, client.open().await);
        for body in ["1", "2", "3"] {
            client.put(&queue, body).await;
            channel.basic_get((&*queue).into(), Default::default()).await.unwrap().unwrap();
        }
        channel.basic_ack(0, ALL).await.unwrap();
        channel.close(200, "done".into()).await.unwrap();
        assert_eq!(client.ready(&queue).await, 0);
    });
}

#[test]
fn acknowledgement_of_several_on_consumers_of_a_channel() {
    case(async |client| {
        let (one, other) = (client.queue().await, client.queue().await);
        let channel = client.open().await;
        let mut first = crate::client::consume(&channel, &one, Default::default()).await;
        let mut second = crate::client::consume(&channel, &other, Default::default()).await;
        client.put(&one, "1").await;
        next(&mut first).await;
        client.put(&other, "2").await;
        let last = next(&mut second).await;
        last.ack(ALL).await.unwrap();
        channel.close(200, "done".into()).await.unwrap();
        assert_eq!((client.ready(&one).await, client.ready(&other).await), (0, 0));
    });
}

macro_rules! unknown_tag {
    ($($name:ident: $settle:expr;)*) => {$(
        #[test]
        fn $name() {
            case(async |client| {
                let channel = client.open().await;
                let settle: fn(&lapin::Channel) -> futures_util::future::LocalBoxFuture<'_, _> =
                    $settle;
                let settled: futures_util::future::LocalBoxFuture<'_, lapin::Result<()>> =
                    settle(&channel);
                assert_eq!(ends_with(&channel, settled).await, 406);
            });
        }
    )*};
}

unknown_tag! {
    acknowledgement_of_an_unknown_tag_is_406: |channel| Box::pin(channel.basic_ack(9, ONE));
    acknowledgement_of_several_to_an_unknown_tag_is_406: |channel| {
        Box::pin(channel.basic_ack(9, ALL))
    };
    nack_of_an_unknown_tag_is_406: |channel| Box::pin(channel.basic_nack(9, BACK));
    reject_of_an_unknown_tag_is_406: |channel| {
        Box::pin(channel.basic_reject(9, BasicRejectOptions { requeue: true }))
    };
}

#[test]
fn second_acknowledgement_is_406() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, client.open().await);
        client.put(&queue, "x").await;
        channel.basic_get((&*queue).into(), Default::default()).await.unwrap().unwrap();
        channel.basic_ack(1, ONE).await.unwrap();
        assert_eq!(ends_with(&channel, channel.basic_ack(1, ONE)).await, 406);
    });
}

#[test]
fn acknowledgement_on_another_channel_is_406() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, client.open().await);
        client.put(&queue, "x").await;
        let _held = client.get(&queue).await.unwrap();
        assert_eq!(ends_with(&channel, channel.basic_ack(1, ONE)).await, 406);
    });
}

#[test]
fn acknowledgement_of_what_was_sent_without_is_406() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, client.open().await);
        client.put(&queue, "x").await;
        let options = lapin::options::BasicGetOptions { no_ack: true };
        channel.basic_get((&*queue).into(), options).await.unwrap().unwrap();
        assert_eq!(ends_with(&channel, channel.basic_ack(1, ONE)).await, 406);
    });
}

#[test]
fn nack_with_requeue_brings_it_back_as_redelivered() {
    case(async |client| {
        let queue = client.queue().await;
        let mut consumer = client.consume(&queue).await;
        client.put(&queue, "x").await;
        let first = next(&mut consumer).await;
        assert!(!first.redelivered);
        first.nack(BACK).await.unwrap();
        let again = next(&mut consumer).await;
        assert_eq!((body(&again), again.redelivered, again.delivery_tag), ("x".into(), true, 2));
        again.ack(ONE).await.unwrap();
    });
}

#[test]
fn nack_without_requeue_throws_away() {
    case(async |client| {
        let queue = client.queue().await;
        client.put(&queue, "1").await;
        client.put(&queue, "2").await;
        client.get(&queue).await.unwrap().nack(AWAY).await.unwrap();
        assert_eq!(client.drain(&queue).await, ["2"]);
    });
}

#[test]
fn nack_of_several_brings_all_back_in_order() {
    case(async |client| {
        let queue = client.queue().await;
        for body in ["1", "2", "3"] {
            client.put(&queue, body).await;
        }
        let mut last = None;
        for _ in 0..3 {
            last = client.get(&queue).await;
        }
        let options = BasicNackOptions { multiple: true, requeue: true };
        last.unwrap().nack(options).await.unwrap();
        until("they are back", async || client.ready(&queue).await == 3).await;
        assert_eq!(client.drain(&queue).await, ["1", "2", "3"]);
    });
}

#[test]
fn reject_with_requeue_brings_it_back() {
    case(async |client| {
        let queue = client.queue().await;
        client.put(&queue, "x").await;
        let message = client.get(&queue).await.unwrap();
        message.reject(BasicRejectOptions { requeue: true }).await.unwrap();
        until("it is back", async || client.ready(&queue).await == 1).await;
        assert!(client.get(&queue).await.unwrap().redelivered);
    });
}

#[test]
fn reject_without_requeue_throws_away() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, client.open().await);
        client.put(&queue, "x").await;
        let message = channel.basic_get((&*queue).into(), Default::default()).await;
        let message = message.unwrap().unwrap();
        message.reject(BasicRejectOptions { requeue: false }).await.unwrap();
        channel.close(200, "done".into()).await.unwrap();
        assert_eq!(client.ready(&queue).await, 0);
    });
}

#[test]
fn message_that_comes_back_keeps_its_place() {
    case(async |client| {
        let queue = client.queue().await;
        for body in ["1", "2", "3"] {
            client.put(&queue, body).await;
        }
        client.get(&queue).await.unwrap().nack(BACK).await.unwrap();
        until("it is back", async || client.ready(&queue).await == 3).await;
        assert_eq!(client.drain(&queue).await, ["1", "2", "3"]);
    });
}

#[test]
fn message_of_a_consumer_goes_to_another() {
    case(async |client| {
        let (queue, first) = (client.queue().await, client.open().await);
        let mut one = crate::client::consume(&first, &queue, Default::default()).await;
        client.put(&queue, "x").await;
        next(&mut one).await;
        let mut other = client.consume(&queue).await;
        nothing(&mut other).await;
        first.close(200, "done".into()).await.unwrap();
        let again = next(&mut other).await;
        assert_eq!((body(&again), again.redelivered), ("x".to_owned(), true));
    });
}

#[test]
fn deliveries_before_this_one_are_counted() {
    case(async |client| {
        // RabbitMQ counts in quorum queues only, so that is what is asked for.
        let queue = client.quorum_queue(FieldTable::default()).await;
        let mut consumer = client.consume(&queue).await;
        client.put(&queue, "x").await;
        for before in 0..4 {
            let delivery = next(&mut consumer).await;
            let count = number(header(&delivery, "x-delivery-count"));
            assert_eq!(count.unwrap_or(0), before);
            assert_eq!(delivery.redelivered, before > 0);
            delivery.nack(BACK).await.unwrap();
        }
        client.channel.queue_delete((&*queue).into(), Default::default()).await.unwrap();
    });
}

#[test]
fn message_delivered_too_often_is_dropped() {
    case(async |client| {
        let queue = client.quorum_queue(table([("x-delivery-limit", int(2))])).await;
        let mut consumer = client.consume(&queue).await;
        client.put(&queue, "x").await;
        for _ in 0..3 {
            next(&mut consumer).await.nack(BACK).await.unwrap();
        }
        nothing(&mut consumer).await;
        assert_eq!(client.ready(&queue).await, 0);
        client.channel.queue_delete((&*queue).into(), Default::default()).await.unwrap();
    });
}

#[test]
fn recover_brings_back_what_is_held() {
    case(async |client| {
        let queue = client.queue().await;
        let mut consumer = client.consume(&queue).await;
        client.put(&queue, "1").await;
        client.put(&queue, "2").await;
        bodies(&mut consumer, 2).await;
        client.channel.basic_recover(BasicRecoverOptions { requeue: true }).await.unwrap();
        for expected in ["1", "2"] {
            let again = next(&mut consumer).await;
            assert_eq!((body(&again).as_str(), again.redelivered), (expected, true));
        }
    });
}

#[test]
fn recover_without_an_answer_brings_back_what_is_held() {
    case(async |client| {
        let queue = client.queue().await;
        let mut consumer = client.consume(&queue).await;
        client.put(&queue, "1").await;
        next(&mut consumer).await;
        let options = BasicRecoverAsyncOptions { requeue: true };
        client.channel.basic_recover_async(options).await.unwrap();
        assert!(next(&mut consumer).await.redelivered);
    });
}

#[test]
fn recover_without_requeue_is_540() {
    case(async |client| {
        let told = client.channel.basic_recover(BasicRecoverOptions { requeue: false }).await;
        assert_eq!(code(told), 540);
    });
}

#[test]
fn acknowledgements_make_room_one_by_one() {
    case(async |client| {
        let queue = client.queue().await;
        client.channel.basic_qos(1, BasicQosOptions::default()).await.unwrap();
        let mut consumer = client.consume(&queue).await;
        for number in 0..30 {
            client.put(&queue, &number.to_string()).await;
        }
        for number in 0..30 {
            let delivery = next(&mut consumer).await;
            assert_eq!(body(&delivery), number.to_string());
            delivery.ack(ONE).await.unwrap();
        }
        assert_eq!(client.ready(&queue).await, 0);
    });
}

#[test]
fn acknowledgements_of_thousand_at_once() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, client.open().await);
        futures_util::future::join_all((0..1000).map(|_| client.put(&queue, "x"))).await;
        let mut consumer = crate::client::consume(&channel, &queue, Default::default()).await;
        bodies(&mut consumer, 999).await;
        next(&mut consumer).await.ack(ALL).await.unwrap();
        channel.close(200, "done".into()).await.unwrap();
        assert_eq!(client.ready(&queue).await, 0);
    });
}
