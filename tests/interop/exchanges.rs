//! Exchanges: declared, bound, deleted, with alternates, and what is refused.

use lapin::options::{
    BasicPublishOptions, ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions,
    QueueBindOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, ExchangeKind, Result};

use crate::client::{Client, case, code, fresh, publish, reason, table, text};

pub(crate) const PLAIN: ExchangeDeclareOptions = ExchangeDeclareOptions {
    passive: false,
    durable: false,
    auto_delete: true,
    internal: false,
    nowait: false,
};
const PASSIVE: ExchangeDeclareOptions = ExchangeDeclareOptions { passive: true, ..PLAIN };

pub(crate) async fn declare(
    channel: &Channel,
    name: &str,
    kind: ExchangeKind,
    options: ExchangeDeclareOptions,
) -> Result<()> {
    channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await
}

async fn delete(channel: &Channel, name: &str, if_unused: bool) -> Result<()> {
    let options = ExchangeDeleteOptions { if_unused, ..Default::default() };
    channel.exchange_delete(name.into(), options).await
}

pub(crate) async fn bind(
    channel: &Channel,
    destination: &str,
    source: &str,
    key: &str,
) -> Result<()> {
    let (options, none) = (ExchangeBindOptions::default(), FieldTable::default());
    channel.exchange_bind(destination.into(), source.into(), key.into(), options, none).await
}

pub(crate) async fn is_there(client: &Client, name: &str) -> bool {
    let channel = client.open().await;
    match declare(&channel, name, ExchangeKind::Direct, PASSIVE).await {
        Ok(()) => true,
        refused => {
            assert_eq!(code(refused), 404);
            false
        }
    }
}

pub(crate) async fn send(client: &Client, exchange: &str, key: &str, body: &str) -> bool {
    let properties = BasicProperties::default();
    let told = client.send(exchange, key, body.as_bytes(), properties).await.expect("a confirm");
    told.take_message().is_none()
}

macro_rules! there_from_the_beginning {
    ($($name:ident: $exchange:literal;)*) => {$(
        #[test]
        fn $name() {
            case(async |client| {
                let passive = declare(&client.channel, $exchange, ExchangeKind::Direct, PASSIVE);
                passive.await.unwrap();
            });
        }
    )*};
}

there_from_the_beginning! {
    amq_direct_is_there: "amq.direct";
    amq_fanout_is_there: "amq.fanout";
    amq_topic_is_there: "amq.topic";
    amq_headers_is_there: "amq.headers";
    amq_match_is_there: "amq.match";
}

#[test]
fn amq_direct_may_be_declared_as_it_is() {
    case(async |client| {
        let options = ExchangeDeclareOptions { durable: true, auto_delete: false, ..PLAIN };
        declare(&client.channel, "amq.direct", ExchangeKind::Direct, options).await.unwrap();
    });
}

#[test]
fn amq_topic_routes() {
    case(async |client| {
        let (queue, key) = (client.queue().await, fresh("key"));
        client.bind(&queue, "amq.topic", &format!("{key}.*")).await;
        assert!(send(client, "amq.topic", &format!("{key}.a"), "x").await);
        assert_eq!(client.drain(&queue).await, ["x"]);
    });
}

#[test]
fn default_exchange_leads_to_the_queue_of_the_key() {
    case(async |client| {
        let (queue, other) = (client.queue().await, client.queue().await);
        assert!(send(client, "", &queue, "x").await);
        assert_eq!(client.drain(&queue).await, ["x"]);
        assert!(client.drain(&other).await.is_empty());
    });
}

macro_rules! refused {
    ($($name:ident: $code:literal, $what:expr;)*) => {$(
        #[test]
        fn $name() {
            case(async |client| {
                let what: fn(&Client) -> futures_util::future::LocalBoxFuture<'_, Result<()>> = $what;
                assert_eq!(code(what(client).await), $code);
                assert!(client.connection.status().connected());
            });
        }
    )*};
}

refused! {
    default_exchange_is_not_bound_to_queues: 403, |client| Box::pin(async move {
        let queue = client.queue().await;
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        client.channel.queue_bind((&*queue).into(), "".into(), "k".into(), options, none).await
    });
    default_exchange_is_not_unbound: 403, |client| Box::pin(async move {
        let (queue, none) = (client.queue().await, FieldTable::default());
        client.channel.queue_unbind((&*queue).into(), "".into(), (&*queue).into(), none).await
    });
    default_exchange_is_not_bound_to_exchanges: 403, |client| Box::pin(async move {
        bind(&client.channel, "amq.direct", "", "k").await
    });
    default_exchange_is_not_declared: 403, |client| Box::pin(async move {
        declare(&client.channel, "", ExchangeKind::Direct, PLAIN).await
    });
    default_exchange_is_not_deleted: 403, |client| Box::pin(async move {
        delete(&client.channel, "", false).await
    });
    reserved_name_is_not_declared: 403, |client| Box::pin(async move {
        declare(&client.channel, "amq.mine", ExchangeKind::Direct, PLAIN).await
    });
    reserved_exchange_is_not_deleted: 403, |client| Box::pin(async move {
        delete(&client.channel, "amq.direct", false).await
    });
    reserved_exchange_is_not_another_type: 406, |client| Box::pin(async move {
        let options = ExchangeDeclareOptions { durable: true, auto_delete: false, ..PLAIN };
        declare(&client.channel, "amq.direct", ExchangeKind::Fanout, options).await
    });
    missing_exchange_is_not_found_passively: 404, |client| Box::pin(async move {
        declare(&client.channel, &fresh("missing"), ExchangeKind::Direct, PASSIVE).await
    });
    queue_is_not_bound_to_a_missing_exchange: 404, |client| Box::pin(async move {
        let (queue, missing) = (client.queue().await, fresh("missing"));
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        let (queue, missing) = ((&*queue).into(), (&*missing).into());
        client.channel.queue_bind(queue, missing, "".into(), options, none).await
    });
    exchange_is_not_bound_to_a_missing_source: 404, |client| Box::pin(async move {
        bind(&client.channel, "amq.direct", &fresh("missing"), "").await
    });
    exchange_is_not_bound_to_a_missing_destination: 404, |client| Box::pin(async move {
        bind(&client.channel, &fresh("missing"), "amq.direct", "").await
    });
    binding_of_headers_wants_a_known_match: 406, |client| Box::pin(async move {
        let (queue, of) = (client.queue().await, table([("x-match", text("some"))]));
        let options = QueueBindOptions::default();
        client.channel.queue_bind((&*queue).into(), "amq.headers".into(), "".into(), options, of).await
    });
    exchange_is_not_declared_as_another_type: 406, |client| Box::pin(async move {
        let name = client.exchange(ExchangeKind::Direct).await;
        declare(&client.channel, &name, ExchangeKind::Topic, PLAIN).await
    });
    exchange_is_not_declared_durable_afterwards: 406, |client| Box::pin(async move {
        let name = client.exchange(ExchangeKind::Direct).await;
        let options = ExchangeDeclareOptions { durable: true, ..PLAIN };
        declare(&client.channel, &name, ExchangeKind::Direct, options).await
    });
    exchange_is_not_declared_lasting_afterwards: 406, |client| Box::pin(async move {
        let name = client.exchange(ExchangeKind::Direct).await;
        let options = ExchangeDeclareOptions { auto_delete: false, ..PLAIN };
        declare(&client.channel, &name, ExchangeKind::Direct, options).await
    });
    exchange_is_not_declared_internal_afterwards: 406, |client| Box::pin(async move {
        let name = client.exchange(ExchangeKind::Direct).await;
        let options = ExchangeDeclareOptions { internal: true, ..PLAIN };
        declare(&client.channel, &name, ExchangeKind::Direct, options).await
    });
    exchange_is_not_given_an_alternate_afterwards: 406, |client| Box::pin(async move {
        let name = client.exchange(ExchangeKind::Direct).await;
        let of = table([("alternate-exchange", text("amq.fanout"))]);
        client.channel.exchange_declare((&*name).into(), ExchangeKind::Direct, PLAIN, of).await
    });
    exchange_in_use_is_kept_where_asked: 406, |client| Box::pin(async move {
        let (queue, name) = (client.queue().await, client.exchange(ExchangeKind::Direct).await);
        client.bind(&queue, &name, "key").await;
        delete(&client.channel, &name, true).await
    });
    publish_to_a_missing_exchange_is_404: 404, |client| Box::pin(async move {
        let channel = client.confirming().await;
        publish(&channel, &fresh("missing"), "", b"", BasicProperties::default()).await.map(drop)
    });
    publish_to_an_internal_exchange_is_403: 403, |client| Box::pin(async move {
        let (channel, name) = (client.confirming().await, fresh("internal"));
        let options = ExchangeDeclareOptions { internal: true, ..PLAIN };
        declare(&channel, &name, ExchangeKind::Fanout, options).await.unwrap();
        publish(&channel, &name, "", b"", BasicProperties::default()).await.map(drop)
    });
}

#[test]
fn unknown_type_is_refused() {
    case(async |client| {
        let kind = ExchangeKind::Custom("x-unheard-of".into());
        let refused = declare(&client.channel, &fresh("exchange"), kind, PLAIN).await;
        // 503 ends the connection in RabbitMQ up to 3.x; 4.x says 406 on the channel.
        let code = code(refused);
        assert!([503, 406].contains(&code), "{code}");
    });
}

#[test]
fn difference_is_said_in_words_of_rabbitmq() {
    case(async |client| {
        let name = client.exchange(ExchangeKind::Direct).await;
        let text = reason(declare(&client.channel, &name, ExchangeKind::Topic, PLAIN).await);
        assert!(text.contains("inequivalent arg 'type' for exchange"), "{text}");
        assert!(text.contains("received 'topic' but current is 'direct'"), "{text}");
    });
}

#[test]
fn same_declaration_again_is_taken() {
    case(async |client| {
        let name = client.exchange(ExchangeKind::Topic).await;
        declare(&client.channel, &name, ExchangeKind::Topic, PLAIN).await.unwrap();
        declare(&client.channel, &name, ExchangeKind::Topic, PASSIVE).await.unwrap();
    });
}

#[test]
fn declaration_without_an_answer_is_carried_out_in_order() {
    case(async |client| {
        let (queue, name) = (client.queue().await, fresh("exchange"));
        let options = ExchangeDeclareOptions { nowait: true, ..PLAIN };
        declare(&client.channel, &name, ExchangeKind::Fanout, options).await.unwrap();
        client.bind(&queue, &name, "").await;
        assert!(send(client, &name, "", "x").await);
    });
}

#[test]
fn deleting_what_is_not_there_is_done() {
    case(async |client| {
        delete(&client.channel, &fresh("missing"), false).await.unwrap();
        delete(&client.channel, &fresh("missing"), true).await.unwrap();
    });
}

#[test]
fn deleted_exchange_is_gone() {
    case(async |client| {
        let (queue, name) = (client.queue().await, client.exchange(ExchangeKind::Fanout).await);
        client.bind(&queue, &name, "").await;
        delete(&client.channel, &name, false).await.unwrap();
        assert!(!is_there(client, &name).await);
    });
}

#[test]
fn unused_exchange_is_deleted_where_asked() {
    case(async |client| {
        let name = client.exchange(ExchangeKind::Direct).await;
        delete(&client.channel, &name, true).await.unwrap();
        assert!(!is_there(client, &name).await);
    });
}

#[test]
fn message_that_goes_nowhere_and_is_not_mandatory_is_confirmed() {
    case(async |client| {
        let (channel, exchange) =
            (client.confirming().await, client.exchange(ExchangeKind::Direct).await);
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let published =
            channel.basic_publish((&*exchange).into(), "no".into(), options, b"x", properties);
        let told = published.await.unwrap().await.unwrap();
        assert!(told.is_ack());
        assert!(told.take_message().is_none());
    });
}
