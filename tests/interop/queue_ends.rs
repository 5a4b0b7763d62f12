//! Queues that are emptied or deleted, by hand or with their last consumer.

use lapin::Channel;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};

use crate::client::{cancelled, case, code, fresh, is_there, until};
use crate::queues::{EXCLUSIVE, declare, delete};

#[test]
fn purge_counts_what_it_takes() {
    case(async |client| {
        let queue = client.queue().await;
        for body in ["1", "2", "3"] {
            client.put(&queue, body).await;
        }
        let purge = async || client.channel.queue_purge((&*queue).into(), Default::default()).await;
        assert_eq!(purge().await.unwrap(), 3);
        assert_eq!(client.ready(&queue).await, 0);
        assert_eq!(purge().await.unwrap(), 0);
        client.put(&queue, "4").await;
        assert_eq!(client.drain(&queue).await, ["4"]);
    });
}

#[test]
fn purge_leaves_what_is_held() {
    case(async |client| {
        let queue = client.queue().await;
        client.put(&queue, "held").await;
        client.put(&queue, "ready").await;
        let held = client.get(&queue).await.unwrap();
        let purged = client.channel.queue_purge((&*queue).into(), Default::default()).await;
        assert_eq!(purged.unwrap(), 1);
        held.nack(lapin::options::BasicNackOptions { requeue: true, ..Default::default() })
            .await
            .unwrap();
        until("it is back", async || client.ready(&queue).await == 1).await;
        assert_eq!(client.drain(&queue).await, ["held"]);
    });
}

#[test]
fn purge_of_a_missing_queue_is_404() {
    case(async |client| {
        let missing = fresh("missing");
        let purged = client.channel.queue_purge((&*missing).into(), Default::default()).await;
        assert_eq!(code(purged), 404);
    });
}

#[test]
fn delete_counts_what_was_there() {
    case(async |client| {
        let queue = client.queue().await;
        client.put(&queue, "1").await;
        client.put(&queue, "2").await;
        assert_eq!(delete(&client.channel, &queue, Default::default()).await.unwrap(), 2);
        assert!(!is_there(client, &queue).await);
    });
}

#[test]
fn deleting_what_is_not_there_is_done() {
    case(async |client| {
        let deleted = delete(&client.channel, &fresh("missing"), Default::default()).await;
        assert_eq!(deleted.unwrap(), 0);
    });
}

#[test]
fn queue_with_messages_is_kept_where_asked() {
    case(async |client| {
        let queue = client.queue().await;
        client.put(&queue, "1").await;
        let if_empty = QueueDeleteOptions { if_empty: true, ..Default::default() };
        assert_eq!(code(delete(&client.open().await, &queue, if_empty).await), 406);
        client.drain(&queue).await;
        delete(&client.channel, &queue, if_empty).await.unwrap();
        assert!(!is_there(client, &queue).await);
    });
}

#[test]
fn queue_with_a_consumer_is_kept_where_asked() {
    case(async |client| {
        let queue = client.queue().await;
        let consumer = client.consume(&queue).await;
        let if_unused = QueueDeleteOptions { if_unused: true, ..Default::default() };
        assert_eq!(code(delete(&client.open().await, &queue, if_unused).await), 406);
        client.channel.basic_cancel(consumer.tag(), Default::default()).await.unwrap();
        delete(&client.channel, &queue, if_unused).await.unwrap();
        assert!(!is_there(client, &queue).await);
    });
}

#[test]
fn auto_delete_queue_goes_with_its_last_consumer() {
    case(async |client| {
        let name = fresh("queue");
        declare(&client.channel, &name, QueueDeclareOptions { auto_delete: true, ..EXCLUSIVE })
            .await
            .unwrap();
        let (one, other) = (client.consume(&name).await, client.consume(&name).await);
        client.channel.basic_cancel(one.tag(), Default::default()).await.unwrap();
        assert!(is_there(client, &name).await);
        client.channel.basic_cancel(other.tag(), Default::default()).await.unwrap();
        until("the queue is gone", async || !is_there(client, &name).await).await;
    });
}

#[test]
fn auto_delete_queue_goes_with_the_channel_of_its_consumer() {
    case(async |client| {
        let (name, channel) = (fresh("queue"), client.open().await);
        declare(&channel, &name, QueueDeclareOptions { auto_delete: true, ..EXCLUSIVE })
            .await
            .unwrap();
        channel_consume_and_close(&channel, &name).await;
        until("the queue is gone", async || !is_there(client, &name).await).await;
    });
}

async fn channel_consume_and_close(channel: &Channel, name: &str) {
    let _consumer = crate::client::consume(channel, name, Default::default()).await;
    channel.close(200, "done".into()).await.expect("it is closed");
}

#[test]
fn auto_delete_queue_stays_that_nobody_consumed() {
    case(async |client| {
        let name = fresh("queue");
        declare(&client.channel, &name, QueueDeclareOptions { auto_delete: true, ..EXCLUSIVE })
            .await
            .unwrap();
        client.put(&name, "x").await;
        assert_eq!(client.drain(&name).await, ["x"]);
        assert!(is_there(client, &name).await);
    });
}

#[test]
fn consumer_hears_of_the_end_of_its_queue() {
    case(async |client| {
        let queue = client.queue().await;
        let mut consumer = client.consume(&queue).await;
        let channel = client.open().await;
        delete(&channel, &queue, Default::default()).await.unwrap();
        cancelled(&mut consumer).await;
        // The channel goes on.
        client.channel.basic_qos(1, Default::default()).await.unwrap();
    });
}
