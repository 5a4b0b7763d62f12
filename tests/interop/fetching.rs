//! Messages that are fetched one by one.

use lapin::options::{BasicGetOptions, BasicQosOptions};

use crate::client::{body, case, code, fresh, next};

const OF_CHANNEL: BasicQosOptions = BasicQosOptions { global: true };

#[test]
fn fetched_messages_count_in_no_window() {
    case(async |client| {
        let queue = client.queue().await;
        client.channel.basic_qos(1, OF_CHANNEL).await.unwrap();
        for body in ["1", "2", "3"] {
            client.put(&queue, body).await;
        }
        for expected in ["1", "2", "3"] {
            assert_eq!(body(&client.get(&queue).await.unwrap()), expected);
        }
    });
}

#[test]
fn fetching_from_an_empty_queue_gives_nothing() {
    case(async |client| {
        let queue = client.queue().await;
        assert!(client.get(&queue).await.is_none());
    });
}

#[test]
fn fetching_counts_what_is_left() {
    case(async |client| {
        let queue = client.queue().await;
        for body in ["1", "2", "3"] {
            client.put(&queue, body).await;
        }
        for (expected, left) in [("1", 2), ("2", 1), ("3", 0)] {
            let message = client.get(&queue).await.unwrap();
            assert_eq!((body(&message).as_str(), message.message_count), (expected, left));
        }
    });
}

#[test]
fn fetching_from_a_missing_queue_is_404() {
    case(async |client| {
        let missing = fresh("missing");
        let got = client.channel.basic_get((&*missing).into(), BasicGetOptions::default()).await;
        assert_eq!(code(got), 404);
    });
}

#[test]
fn fetching_without_acknowledgement_takes_the_message() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, client.open().await);
        client.put(&queue, "x").await;
        let options = BasicGetOptions { no_ack: true };
        assert!(channel.basic_get((&*queue).into(), options).await.unwrap().is_some());
        channel.close(200, "done".into()).await.unwrap();
        assert_eq!(client.ready(&queue).await, 0);
    });
}

#[test]
fn fetching_is_no_consumer() {
    case(async |client| {
        let queue = client.queue().await;
        client.put(&queue, "x").await;
        let _held = client.get(&queue).await.unwrap();
        assert_eq!(client.standing(&queue).await, (0, 0));
    });
}

#[test]
fn tags_of_fetched_and_delivered_messages_are_one_row() {
    case(async |client| {
        let queue = client.queue().await;
        client.put(&queue, "1").await;
        assert_eq!(client.get(&queue).await.unwrap().delivery_tag, 1);
        let mut consumer = client.consume(&queue).await;
        client.put(&queue, "2").await;
        assert_eq!(next(&mut consumer).await.delivery_tag, 2);
    });
}
