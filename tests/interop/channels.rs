//! Channels: open, closed, in error, many.

use futures_util::future::join_all;
use lapin::options::{AccessRequestOptions, BasicAckOptions, BasicQosOptions, ChannelFlowOptions};
use lapin::types::FieldTable;

use crate::client::{body, case, code, connect, ends_with, next, run, until};
use crate::server::server;

#[test]
fn number_of_a_closed_channel_is_used_again() {
    run(async {
        let connection = connect(&format!("{}?channel_max=1", server().url)).await.unwrap();
        for _ in 0..10 {
            let mut channel = None;
            // The client itself takes a moment to see that the number is free.
            until("the number is free", async || {
                channel = connection.create_channel().await.ok();
                channel.is_some()
            })
            .await;
            let channel = channel.unwrap();
            assert_eq!(channel.id(), 1);
            channel.basic_qos(1, BasicQosOptions::default()).await.unwrap();
            channel.close(200, "done".into()).await.unwrap();
        }
    });
}

#[test]
fn error_ends_its_channel_only() {
    case(async |client| {
        let (broken, whole) = (client.open().await, client.open().await);
        let unknown = broken.queue_bind(
            "missing".into(),
            "amq.direct".into(),
            "".into(),
            Default::default(),
            FieldTable::default(),
        );
        assert_eq!(code(unknown.await), 404);
        whole.basic_qos(1, BasicQosOptions::default()).await.unwrap();
        broken.basic_qos(1, BasicQosOptions::default()).await.unwrap_err();
        assert!(client.connection.status().connected());
    });
}

#[test]
fn channels_in_error_are_many() {
    case(async |client| {
        for _ in 0..30 {
            let channel = client.open().await;
            let ack = channel.basic_ack(77, BasicAckOptions::default());
            assert_eq!(ends_with(&channel, ack).await, 406);
        }
        client.channel.basic_qos(1, BasicQosOptions::default()).await.unwrap();
    });
}

#[test]
fn channels_are_many_at_once() {
    case(async |client| {
        let channels = join_all((0..300).map(|_| client.open())).await;
        let answers = channels.iter().map(|channel| channel.basic_qos(1, Default::default()));
        assert!(join_all(answers).await.iter().all(Result::is_ok));
        let closed = channels.iter().map(|channel| channel.close(200, "done".into()));
        assert!(join_all(closed).await.iter().all(Result::is_ok));
    });
}

#[test]
fn closed_channel_gives_back_what_it_held() {
    case(async |client| {
        let queue = client.queue().await;
        client.put(&queue, "held").await;
        let channel = client.open().await;
        channel.basic_get((&*queue).into(), Default::default()).await.unwrap().unwrap();
        assert_eq!(client.ready(&queue).await, 0);
        channel.close(200, "done".into()).await.unwrap();
        until("it is ready again", async || client.ready(&queue).await == 1).await;
        let again = client.get(&queue).await.unwrap();
        assert!(again.redelivered);
        assert_eq!(body(&again), "held");
    });
}

#[test]
fn channel_in_error_gives_back_what_it_held() {
    case(async |client| {
        let queue = client.queue().await;
        client.put(&queue, "held").await;
        let channel = client.open().await;
        channel.basic_get((&*queue).into(), Default::default()).await.unwrap().unwrap();
        let ack = channel.basic_ack(77, BasicAckOptions::default());
        assert_eq!(ends_with(&channel, ack).await, 406);
        until("it is ready again", async || client.ready(&queue).await == 1).await;
    });
}

#[test]
fn consumers_go_with_their_channel() {
    case(async |client| {
        let queue = client.queue().await;
        let channel = client.open().await;
        let _consumer = crate::client::consume(&channel, &queue, Default::default()).await;
        assert_eq!(client.standing(&queue).await, (0, 1));
        channel.close(200, "done".into()).await.unwrap();
        until("it has no consumer", async || client.standing(&queue).await == (0, 0)).await;
    });
}

#[test]
fn deliveries_of_channels_are_apart() {
    case(async |client| {
        let (first, second) = (client.queue().await, client.queue().await);
        let channel = client.open().await;
        let mut one = client.consume(&first).await;
        let mut other = crate::client::consume(&channel, &second, Default::default()).await;
        client.put(&first, "first").await;
        client.put(&second, "second").await;
        let (one, other) = (next(&mut one).await, next(&mut other).await);
        assert_eq!((body(&one), one.delivery_tag), ("first".to_owned(), 1));
        assert_eq!((body(&other), other.delivery_tag), ("second".to_owned(), 1));
    });
}

#[test]
fn flow_that_is_on_is_said_to_be_on() {
    case(async |client| {
        let active = client.channel.channel_flow(ChannelFlowOptions { active: true }).await;
        assert!(active.unwrap());
    });
}

#[test]
fn flow_is_not_switched_off() {
    case(async |client| {
        let refused = client.channel.channel_flow(ChannelFlowOptions { active: false }).await;
        assert_eq!(code(refused), 540);
    });
}

#[test]
fn access_is_granted_to_who_still_asks() {
    case(async |client| {
        let options = AccessRequestOptions { active: true, read: true, ..Default::default() };
        client.channel.access_request("/data".into(), options).await.unwrap();
    });
}
