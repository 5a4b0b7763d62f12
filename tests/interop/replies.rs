//! Direct reply-to: answers without a queue.

use lapin::options::{BasicConsumeOptions, BasicPublishOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Consumer};

use crate::client::{body, case, code, next, nothing, publish, try_consume};
use crate::server::is_rabbitmq_before;

const REPLY_TO: &str = "amq.rabbitmq.reply-to";

async fn replies(channel: &Channel) -> Consumer {
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    try_consume(channel, REPLY_TO, "", options, FieldTable::default()).await.expect("a consumer")
}

/// Asks on the channel that has the replies.
async fn ask(channel: &Channel, queue: &str, question: &str) {
    let properties = BasicProperties::default()
        .with_reply_to(REPLY_TO.into())
        .with_correlation_id(question.into());
    let (queue, options) = (queue.into(), BasicPublishOptions::default());
    let asked = channel.basic_publish("".into(), queue, options, question.as_bytes(), properties);
    asked.await.expect("it is sent");
}

#[test]
fn answer_comes_to_who_asked() {
    case(async |client| {
        let (queue, server) = (client.queue().await, client.other().await);
        let mut answers = replies(&client.channel).await;
        let mut questions = client.open_consumer(&queue).await;
        ask(&client.channel, &queue, "why").await;
        let question = next(&mut questions).await;
        let address = question.properties.reply_to().as_ref().unwrap().to_string();
        assert!(address.starts_with("amq.rabbitmq.reply-to."), "{address}");
        let properties = BasicProperties::default().with_correlation_id("why".into());
        let told = server.send("", &address, b"because", properties).await.unwrap();
        // An answer that must be routed counts as routed since RabbitMQ 4.2.
        assert!(told.is_ack() && (told.take_message().is_none() || is_rabbitmq_before(4, 2)));
        let answer = next(&mut answers).await;
        assert_eq!(body(&answer), "because");
        assert_eq!(answer.properties.correlation_id().as_ref().unwrap().as_str(), "why");
    });
}

#[test]
fn answers_of_channels_are_apart() {
    case(async |client| {
        let (queue, other) = (client.queue().await, client.open().await);
        let (mut first, mut second) = (replies(&client.channel).await, replies(&other).await);
        let mut questions = client.open_consumer(&queue).await;
        ask(&other, &queue, "second").await;
        let question = next(&mut questions).await;
        let address = question.properties.reply_to().as_ref().unwrap().to_string();
        client.send("", &address, b"answer", BasicProperties::default()).await.unwrap();
        assert_eq!(body(&next(&mut second).await), "answer");
        nothing(&mut first).await;
    });
}

#[test]
fn consumer_of_replies_takes_no_acknowledgements() {
    case(async |client| {
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        assert_eq!(code(try_consume(&client.channel, REPLY_TO, "", options, none).await), 406);
    });
}

#[test]
fn second_consumer_of_replies_is_406() {
    case(async |client| {
        let _first = replies(&client.channel).await;
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let second = try_consume(&client.channel, REPLY_TO, "", options, FieldTable::default());
        assert_eq!(code(second.await), 406);
    });
}

#[test]
fn question_without_a_consumer_of_replies_is_406() {
    case(async |client| {
        let (queue, channel) = (client.queue().await, client.confirming().await);
        let properties = BasicProperties::default().with_reply_to(REPLY_TO.into());
        assert_eq!(code(publish(&channel, "", &queue, b"", properties).await), 406);
    });
}

#[test]
fn answer_to_who_has_gone_comes_back() {
    case(async |client| {
        let (queue, asker) = (client.queue().await, client.open().await);
        let answers = replies(&asker).await;
        let mut questions = client.open_consumer(&queue).await;
        ask(&asker, &queue, "x").await;
        let question = next(&mut questions).await;
        let address = question.properties.reply_to().as_ref().unwrap().to_string();
        drop(answers);
        asker.close(200, "done".into()).await.unwrap();
        let told = client.send("", &address, b"late", BasicProperties::default()).await.unwrap();
        assert_eq!(told.take_message().map(|back| back.reply_code), Some(312));
    });
}

#[test]
fn address_of_who_waits_can_be_looked_for() {
    case(async |client| {
        let (queue, asker) = (client.queue().await, client.open().await);
        let _answers = replies(&asker).await;
        let mut questions = client.open_consumer(&queue).await;
        ask(&asker, &queue, "x").await;
        let question = next(&mut questions).await;
        let address = question.properties.reply_to().as_ref().unwrap().to_string();
        assert!(crate::client::is_there(client, &address).await);
        // RabbitMQ 3.10 fails at an address that it never gave out (541).
        if !is_rabbitmq_before(4, 0) {
            assert!(!crate::client::is_there(client, &format!("{REPLY_TO}.nobody.here")).await);
        }
    });
}

#[test]
fn large_answer_comes_whole() {
    case(async |client| {
        let queue = client.queue().await;
        let mut answers = replies(&client.channel).await;
        let mut questions = client.open_consumer(&queue).await;
        ask(&client.channel, &queue, "much").await;
        let question = next(&mut questions).await;
        let address = question.properties.reply_to().as_ref().unwrap().to_string();
        let answer = vec![5; 500_000];
        client.send("", &address, &answer, BasicProperties::default()).await.unwrap();
        assert!(next(&mut answers).await.data == answer);
    });
}
