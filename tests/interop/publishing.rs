//! Publishes: confirms, returns, copies, checks of what the sender says of itself.

use futures_util::future::join_all;
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldArray};
use lapin::{BasicProperties, Channel, Confirmation, ExchangeKind};

use crate::client::{
    body, case, code, ends, fresh, header, headers, int, next, publish, text, until,
};
use crate::server::is_rabbitmq_before;

async fn send(channel: &Channel, queue: &str, body: &str, mandatory: bool) {
    let options = BasicPublishOptions { mandatory, ..Default::default() };
    let properties = BasicProperties::default();
    let (queue, body) = (queue.into(), body.as_bytes());
    channel.basic_publish("".into(), queue, options, body, properties).await.expect("it is sent");
}

#[test]
fn message_without_confirms_arrives() {
    case(async |client| {
        let queue = client.queue().await;
        send(&client.channel, &queue, "x", false).await;
        // What the channel published before is seen by what it asks then.
        assert_eq!(client.drain(&queue).await, ["x"]);
    });
}

#[test]
fn stored_message_is_confirmed() {
    case(async |client| {
        let queue = client.queue().await;
        let told = client.send("", &queue, b"x", BasicProperties::default()).await.unwrap();
        assert_eq!(told, Confirmation::Ack(None));
    });
}

#[test]
fn confirmed_message_is_counted() {
    case(async |client| {
        let queue = client.queue().await;
        for count in 1..=5 {
            client.put(&queue, "x").await;
            assert_eq!(client.ready(&queue).await, count);
        }
    });
}

#[test]
fn thousand_publishes_at_once_are_confirmed_and_stay_in_order() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, client.confirming().await);
        let mut confirms = Vec::new();
        for number in 0..1000_u32 {
            let (options, properties) =
                (BasicPublishOptions::default(), BasicProperties::default());
            let body = number.to_string();
            let (queue, body) = ((&*queue).into(), body.as_bytes());
            let sent = channel.basic_publish("".into(), queue, options, body, properties).await;
            confirms.push(sent.unwrap());
        }
        let told = join_all(confirms).await;
        assert!(told.iter().all(|told| told.as_ref().is_ok_and(Confirmation::is_ack)));
        let came = client.drain(&queue).await;
        assert!(came.iter().map(|body| body.parse::<u32>().unwrap()).eq(0..1000), "{}", came.len());
    });
}

#[test]
fn publishes_to_many_queues_are_confirmed() {
    case(async |client| {
        let exchange = client.exchange(ExchangeKind::Fanout).await;
        let mut queues = Vec::new();
        for _ in 0..10 {
            let queue = client.queue().await;
            client.bind(&queue, &exchange, "").await;
            queues.push(queue);
        }
        let properties = || BasicProperties::default();
        let sent = join_all((0..20).map(|_| client.send(&exchange, "", b"x", properties()))).await;
        assert!(sent.iter().all(|told| told.as_ref().is_ok_and(Confirmation::is_ack)));
        for queue in &queues {
            assert_eq!(client.ready(queue).await, 20);
        }
    });
}

#[test]
fn wait_for_confirms_ends() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, client.confirming().await);
        for _ in 0..20 {
            send(&channel, &queue, "x", false).await;
        }
        assert!(channel.wait_for_confirms().await.unwrap().is_empty());
        assert_eq!(client.ready(&queue).await, 20);
    });
}

#[test]
fn confirms_may_be_asked_for_twice() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, client.confirming().await);
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let told = publish(&channel, "", &queue, b"x", BasicProperties::default()).await.unwrap();
        assert!(told.is_ack());
    });
}

#[test]
fn confirms_do_not_go_with_transactions() {
    case(async |client| {
        let channel = client.confirming().await;
        assert_eq!(code(channel.tx_select().await), 406);
        client.channel.tx_select().await.unwrap();
        let select = client.channel.confirm_select(ConfirmSelectOptions::default()).await;
        assert_eq!(code(select), 406);
    });
}

fn returned(told: Confirmation) -> BasicReturnMessage {
    assert!(told.is_ack(), "{told:?}");
    told.take_message().expect("it comes back")
}

#[test]
fn mandatory_message_without_a_queue_comes_back_before_its_confirm() {
    case(async |client| {
        let missing = fresh("missing");
        let properties = BasicProperties::default().with_message_id("7".into());
        let back = returned(client.send("", &missing, b"lost", properties).await.unwrap());
        assert_eq!((back.reply_code, back.reply_text.as_str()), (312, "NO_ROUTE"));
        assert_eq!(back.exchange.as_str(), "");
        assert_eq!(back.routing_key.as_str(), missing);
        assert_eq!(back.data, b"lost");
        assert_eq!(back.properties.message_id().as_ref().unwrap().as_str(), "7");
    });
}

#[test]
fn mandatory_message_of_an_exchange_without_bindings_comes_back() {
    case(async |client| {
        let exchange = client.exchange(ExchangeKind::Direct).await;
        let told = client.send(&exchange, "key", b"", BasicProperties::default()).await.unwrap();
        assert_eq!(returned(told).exchange.as_str(), exchange);
    });
}

#[test]
fn large_message_comes_back_whole() {
    case(async |client| {
        let body = vec![7; 300_000];
        let told = client.send("", &fresh("missing"), &body, BasicProperties::default()).await;
        assert_eq!(returned(told.unwrap()).data, body);
    });
}

#[test]
fn copies_go_to_the_keys_of_cc() {
    case(async |client| {
        let (one, other) = (client.queue().await, client.queue().await);
        let copies = AMQPValue::FieldArray(FieldArray::from(vec![text(&other)]));
        client.put_with(&one, "x", headers([("CC", copies.clone())])).await;
        let (one, other) = (client.get(&one).await.unwrap(), client.get(&other).await.unwrap());
        assert_eq!(header(&one, "CC"), Some(&copies));
        assert_eq!((body(&other), header(&other, "CC")), ("x".to_owned(), Some(&copies)));
    });
}

#[test]
fn copies_go_to_the_keys_of_bcc_which_nobody_sees() {
    case(async |client| {
        let (one, other) = (client.queue().await, client.queue().await);
        let copies = AMQPValue::FieldArray(FieldArray::from(vec![text(&other)]));
        client.put_with(&one, "x", headers([("BCC", copies), ("kept", int(1))])).await;
        for queue in [&one, &other] {
            let message = client.get(queue).await.unwrap();
            assert_eq!(header(&message, "BCC"), None);
            assert_eq!(header(&message, "kept"), Some(&int(1)));
        }
    });
}

#[test]
fn queue_that_is_key_and_copy_gets_one() {
    case(async |client| {
        let queue = client.queue().await;
        let copies = AMQPValue::FieldArray(FieldArray::from(vec![text(&queue)]));
        client.put_with(&queue, "x", headers([("CC", copies)])).await;
        assert_eq!(client.drain(&queue).await, ["x"]);
    });
}

#[test]
fn copies_that_are_no_list_are_406() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, client.confirming().await);
        let told = publish(&channel, "", &queue, b"", headers([("CC", text("key"))])).await;
        assert_eq!(code(told), 406);
    });
}

#[test]
fn own_name_as_sender_is_taken() {
    case(async |client| {
        let queue = client.queue().await;
        let properties = BasicProperties::default().with_user_id("guest".into());
        client.put_with(&queue, "x", properties).await;
        let message = client.get(&queue).await.unwrap();
        assert_eq!(message.properties.user_id().as_ref().unwrap().as_str(), "guest");
    });
}

#[test]
fn other_name_as_sender_is_406() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, client.confirming().await);
        let properties = BasicProperties::default().with_user_id("somebody".into());
        assert_eq!(code(publish(&channel, "", &queue, b"", properties).await), 406);
        assert!(client.drain(&queue).await.is_empty());
    });
}

macro_rules! bad_expiration {
    ($($name:ident: $expiration:literal;)*) => {$(
        #[test]
        fn $name() {
            case(async |client| {
                let (queue, channel) = (client.queue().await, client.confirming().await);
                let properties = BasicProperties::default().with_expiration($expiration.into());
                assert_eq!(code(publish(&channel, "", &queue, b"", properties).await), 406);
            });
        }
    )*};
}

bad_expiration! {
    expiration_that_is_no_number_is_406: "soon";
    expiration_that_is_negative_is_406: "-1";
    expiration_that_is_empty_is_406: "";
}

#[test]
fn publish_that_fails_ends_its_channel_without_confirms_too() {
    case(async |client| {
        let mut consumer = client.consume(&client.queue().await).await;
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let exchange = (&*fresh("missing")).into();
        let sent = client.channel.basic_publish(exchange, "".into(), options, b"", properties);
        sent.await.unwrap();
        assert_eq!(ends(&mut consumer).await, 404);
    });
}

#[test]
fn message_larger_than_allowed_is_406() {
    // RabbitMQ 4 takes 16 MiB as well, RabbitMQ 3 takes 128 MiB.
    if is_rabbitmq_before(4, 0) {
        return;
    }
    case(async |client| {
        let (queue, channel) = (client.queue().await, client.confirming().await);
        let body = vec![0; (16 << 20) + 1];
        let told = publish(&channel, "", &queue, &body, BasicProperties::default()).await;
        assert_eq!(code(told), 406);
    });
}

#[test]
fn publisher_does_not_wait_for_consumers_of_its_connection() {
    case(async |client| {
        let queue = client.queue().await;
        let mut consumer = client.consume(&queue).await;
        for number in 0..50 {
            client.put(&queue, &number.to_string()).await;
        }
        for number in 0..50 {
            assert_eq!(body(&next(&mut consumer).await), number.to_string());
        }
    });
}

#[test]
fn queue_that_goes_while_it_is_published_to_loses_no_confirm() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, client.confirming().await);
        let mut confirms = Vec::new();
        for _ in 0..100 {
            let (options, properties) =
                (BasicPublishOptions::default(), BasicProperties::default());
            let sent =
                channel.basic_publish("".into(), (&*queue).into(), options, b"x", properties).await;
            confirms.push(sent.unwrap());
        }
        client.channel.queue_delete((&*queue).into(), Default::default()).await.unwrap();
        assert!(join_all(confirms).await.iter().all(Result::is_ok));
        until("the channel is well", async || channel.status().connected()).await;
    });
}
