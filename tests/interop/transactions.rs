//! Transactions: publishes and acknowledgements that wait for a commit.

use lapin::options::{BasicAckOptions, BasicNackOptions, BasicPublishOptions};
use lapin::{BasicProperties, Channel, Result};

use crate::client::{
    Client, body, case, code, ends, ends_with, fresh, int, next, table, text, until,
};

async fn transacted(client: &Client) -> Channel {
    let channel = client.open().await;
    channel.tx_select().await.expect("a transaction");
    channel
}

async fn send(channel: &Channel, queue: &str, body: &str) -> Result<()> {
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    let (queue, body) = (queue.into(), body.as_bytes());
    channel.basic_publish("".into(), queue, options, body, properties).await.map(drop)
}

#[test]
fn committed_publishes_are_there_in_order() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, transacted(client).await);
        for body in ["1", "2", "3"] {
            send(&channel, &queue, body).await.unwrap();
        }
        assert_eq!(client.ready(&queue).await, 0);
        channel.tx_commit().await.unwrap();
        assert_eq!(client.drain(&queue).await, ["1", "2", "3"]);
    });
}

#[test]
fn publishes_that_are_rolled_back_never_were() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, transacted(client).await);
        send(&channel, &queue, "never").await.unwrap();
        channel.tx_rollback().await.unwrap();
        send(&channel, &queue, "then").await.unwrap();
        channel.tx_commit().await.unwrap();
        assert_eq!(client.drain(&queue).await, ["then"]);
    });
}

#[test]
fn publishes_of_a_closed_channel_never_were() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, transacted(client).await);
        send(&channel, &queue, "never").await.unwrap();
        channel.close(200, "done".into()).await.unwrap();
        assert_eq!(client.ready(&queue).await, 0);
    });
}

#[test]
fn transaction_goes_on_after_its_commit() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, transacted(client).await);
        for body in ["1", "2"] {
            send(&channel, &queue, body).await.unwrap();
            channel.tx_commit().await.unwrap();
        }
        send(&channel, &queue, "3").await.unwrap();
        // The answer to a question of the same channel comes behind the publish.
        channel.basic_qos(1, Default::default()).await.unwrap();
        assert_eq!(client.drain(&queue).await, ["1", "2"]);
    });
}

#[test]
fn empty_transaction_is_committed() {
    case(async |client| {
        let channel = transacted(client).await;
        channel.tx_commit().await.unwrap();
        channel.tx_rollback().await.unwrap();
        channel.tx_select().await.unwrap();
    });
}

#[test]
fn commit_without_a_transaction_is_406() {
    case(async |client| assert_eq!(code(client.channel.tx_commit().await), 406));
}

#[test]
fn rollback_without_a_transaction_is_406() {
    case(async |client| assert_eq!(code(client.channel.tx_rollback().await), 406));
}

#[test]
fn committed_acknowledgement_takes_the_message() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, transacted(client).await);
        client.put(&queue, "x").await;
        let message = channel.basic_get((&*queue).into(), Default::default()).await.unwrap();
        message.unwrap().ack(BasicAckOptions::default()).await.unwrap();
        channel.tx_commit().await.unwrap();
        channel.close(200, "done".into()).await.unwrap();
        assert_eq!(client.ready(&queue).await, 0);
    });
}

#[test]
fn acknowledgement_without_commit_does_not_count() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, transacted(client).await);
        client.put(&queue, "x").await;
        let message = channel.basic_get((&*queue).into(), Default::default()).await.unwrap();
        message.unwrap().ack(BasicAckOptions::default()).await.unwrap();
        channel.close(200, "done".into()).await.unwrap();
        until("it is ready again", async || client.ready(&queue).await == 1).await;
    });
}

#[test]
fn acknowledgement_that_is_rolled_back_may_be_given_again() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, transacted(client).await);
        client.put(&queue, "x").await;
        channel.basic_get((&*queue).into(), Default::default()).await.unwrap().unwrap();
        channel.basic_ack(1, BasicAckOptions::default()).await.unwrap();
        channel.tx_rollback().await.unwrap();
        channel.basic_ack(1, BasicAckOptions::default()).await.unwrap();
        channel.tx_commit().await.unwrap();
        channel.close(200, "done".into()).await.unwrap();
        assert_eq!(client.ready(&queue).await, 0);
    });
}

#[test]
fn committed_rejection_is_a_dead_letter() {
    case(async |client| {
        let (dead, channel) = (client.queue().await, transacted(client).await);
        let of = table([
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(&dead)),
        ]);
        let queue = client.queue_with(of).await;
        let mut letters = client.consume(&dead).await;
        client.put(&queue, "x").await;
        channel.basic_get((&*queue).into(), Default::default()).await.unwrap().unwrap();
        channel.basic_nack(1, BasicNackOptions::default()).await.unwrap();
        channel.tx_commit().await.unwrap();
        assert_eq!(body(&next(&mut letters).await), "x");
    });
}

#[test]
fn message_is_taken_and_another_sent_in_one() {
    case(async |client| {
        let (from, to) = (client.queue().await, client.queue().await);
        let channel = transacted(client).await;
        client.put(&from, "in").await;
        channel.basic_get((&*from).into(), Default::default()).await.unwrap().unwrap();
        send(&channel, &to, "out").await.unwrap();
        channel.basic_ack(1, BasicAckOptions::default()).await.unwrap();
        channel.tx_commit().await.unwrap();
        channel.close(200, "done".into()).await.unwrap();
        assert_eq!(client.ready(&from).await, 0);
        assert_eq!(client.drain(&to).await, ["out"]);
    });
}

#[test]
fn publish_to_a_missing_exchange_ends_the_transaction() {
    case(async |client| {
        client.channel.tx_select().await.unwrap();
        let mut consumer = client.consume(&client.queue().await).await;
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let exchange = (&*fresh("missing")).into();
        let sent = client.channel.basic_publish(exchange, "".into(), options, b"", properties);
        sent.await.unwrap();
        assert_eq!(ends(&mut consumer).await, 404);
    });
}

#[test]
fn acknowledgement_of_an_unknown_tag_ends_the_transaction() {
    case(async |client| {
        let channel = transacted(client).await;
        let ack = channel.basic_ack(9, BasicAckOptions::default());
        assert_eq!(ends_with(&channel, ack).await, 406);
    });
}

#[test]
fn commit_to_a_full_queue_is_406() {
    case(async |client| {
        let of = table([("x-max-length", int(1)), ("x-overflow", text("reject-publish"))]);
        let (queue, channel) = (client.queue_with(of).await, transacted(client).await);
        client.put(&queue, "1").await;
        send(&channel, &queue, "2").await.unwrap();
        assert_eq!(code(channel.tx_commit().await), 406);
        assert_eq!(client.drain(&queue).await, ["1"]);
    });
}

#[test]
fn transactions_of_channels_are_apart() {
    case(async |client| {
        let queue = client.queue().await;
        let (one, other) = (transacted(client).await, transacted(client).await);
        send(&one, &queue, "one").await.unwrap();
        send(&other, &queue, "other").await.unwrap();
        other.tx_commit().await.unwrap();
        one.tx_rollback().await.unwrap();
        assert_eq!(client.drain(&queue).await, ["other"]);
    });
}

#[test]
fn large_transaction_is_committed() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, transacted(client).await);
        for number in 0..500 {
            send(&channel, &queue, &number.to_string()).await.unwrap();
        }
        channel.tx_commit().await.unwrap();
        assert_eq!(client.ready(&queue).await, 500);
        let mut consumer = client.consume(&queue).await;
        assert_eq!(body(&next(&mut consumer).await), "0");
    });
}
