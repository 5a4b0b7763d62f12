//! What the cases share: a connection each, queues and exchanges of its own, and short forms of the
//! client's calls.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use lapin::message::{BasicGetMessage, Delivery};
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions,
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ErrorKind,
    ExchangeKind, Result,
};
use tokio::time::timeout;

use crate::server::server;

/// How long a case may take.
const CASE_MAX: Duration = Duration::from_secs(30);
/// How long something that must come is waited for.
const COMES_MAX: Duration = Duration::from_secs(10);
/// How long something that must not come is waited for, where nothing else shows it.
const STAYS_AWAY: Duration = Duration::from_millis(200);

/// Runs one case with a connection of its own.
pub(crate) fn case(body: impl AsyncFnOnce(&Client)) {
    let url = &server().url;
    run(async {
        let client = Client::connect(url).await;
        body(&client).await;
        // A case may have ended it.
        let _ = client.connection.close(200, "done".into()).await;
    });
}

/// Runs one case that connects by itself.
pub(crate) fn run<F: Future<Output = ()>>(body: F) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().expect("a runtime");
    runtime.block_on(async {
        timeout(CASE_MAX, Box::pin(body)).await.expect("the case is done in time");
    });
}

/// A connection, a channel for what the case does, and one with confirms for what it publishes.
pub(crate) struct Client {
    pub(crate) connection: Connection,
    pub(crate) channel: Channel,
    publisher: Channel,
}

/// A name that nobody else has.
pub(crate) fn fresh(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("interop-{}-{number}-{what}", std::process::id())
}

/// A connection with another URL than usual.
pub(crate) async fn connect(url: &str) -> Result<Connection> {
    Connection::connect(url, ConnectionProperties::default()).await
}

impl Client {
    pub(crate) async fn connect(url: &str) -> Self {
        Self::over(connect(url).await.expect("a login")).await
    }

    pub(crate) async fn over(connection: Connection) -> Self {
        let channel = connection.create_channel().await.expect("a channel");
        let publisher = connection.create_channel().await.expect("a channel");
        publisher.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        Self { connection, channel, publisher }
    }

    /// A connection beside the case's.
    pub(crate) async fn other(&self) -> Self {
        Self::connect(&server().url).await
    }

    /// One more channel.
    pub(crate) async fn open(&self) -> Channel {
        self.connection.create_channel().await.expect("a channel")
    }

    /// One more channel, with confirms.
    pub(crate) async fn confirming(&self) -> Channel {
        let channel = self.open().await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        channel
    }

    /// A queue of this connection.
    pub(crate) async fn queue(&self) -> String {
        self.queue_with(FieldTable::default()).await
    }

    /// A queue of this connection with arguments.
    pub(crate) async fn queue_with(&self, arguments: FieldTable) -> String {
        let (name, exclusive) = (fresh("queue"), QueueDeclareOptions::exclusive());
        self.channel.queue_declare((&*name).into(), exclusive, arguments).await.expect("a queue");
        name
    }

    /// A quorum queue; RabbitMQ has those durable and shared only. The case deletes it.
    pub(crate) async fn quorum_queue(&self, arguments: FieldTable) -> String {
        let (name, durable) = (fresh("quorum"), QueueDeclareOptions::durable());
        let mut arguments = arguments;
        arguments.insert("x-queue-type".into(), text("quorum"));
        self.channel.queue_declare((&*name).into(), durable, arguments).await.expect("a queue");
        name
    }

    /// An exchange that goes with its last binding.
    pub(crate) async fn exchange(&self, kind: ExchangeKind) -> String {
        self.exchange_with(kind, FieldTable::default()).await
    }

    /// The same with arguments.
    pub(crate) async fn exchange_with(&self, kind: ExchangeKind, arguments: FieldTable) -> String {
        let name = fresh("exchange");
        let options = ExchangeDeclareOptions { auto_delete: true, ..Default::default() };
        let declared = self.channel.exchange_declare((&*name).into(), kind, options, arguments);
        declared.await.expect("an exchange");
        name
    }

    pub(crate) async fn bind(&self, queue: &str, exchange: &str, key: &str) {
        self.bind_with(queue, exchange, key, FieldTable::default()).await;
    }

    pub(crate) async fn bind_with(&self, queue: &str, exchange: &str, key: &str, of: FieldTable) {
        let options = QueueBindOptions::default();
        let bound = self.channel.queue_bind(queue.into(), exchange.into(), key.into(), options, of);
        bound.await.expect("a binding");
    }

    /// Publishes, and waits for the confirm.
    pub(crate) async fn send(
        &self,
        exchange: &str,
        key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<Confirmation> {
        publish(&self.publisher, exchange, key, body, properties).await
    }

    /// Puts a message into a queue.
    pub(crate) async fn put(&self, queue: &str, body: &str) {
        self.put_with(queue, body, BasicProperties::default()).await;
    }

    /// The same with properties.
    pub(crate) async fn put_with(&self, queue: &str, body: &str, properties: BasicProperties) {
        let told = self.send("", queue, body.as_bytes(), properties).await;
        assert!(told.as_ref().is_ok_and(Confirmation::is_ack), "{told:?}");
    }

    /// The next message of a queue, to be settled.
    pub(crate) async fn get(&self, queue: &str) -> Option<BasicGetMessage> {
        let options = BasicGetOptions::default();
        self.channel.basic_get(queue.into(), options).await.expect("an answer")
    }

    /// Takes all messages that are there; gives their bodies.
    pub(crate) async fn drain(&self, queue: &str) -> Vec<String> {
        let mut bodies = Vec::new();
        let options = BasicGetOptions { no_ack: true };
        while let Some(message) = self.channel.basic_get(queue.into(), options).await.expect("it") {
            bodies.push(body(&message));
        }
        bodies
    }

    /// A consumer on the case's channel.
    pub(crate) async fn consume(&self, queue: &str) -> Consumer {
        consume(&self.channel, queue, BasicConsumeOptions::default()).await
    }

    /// A consumer on a channel of its own.
    pub(crate) async fn open_consumer(&self, queue: &str) -> Consumer {
        consume(&self.open().await, queue, BasicConsumeOptions::default()).await
    }

    /// What a passive declaration says: messages that are ready, and consumers.
    pub(crate) async fn standing(&self, queue: &str) -> (u32, u32) {
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let declared =
            self.channel.queue_declare(queue.into(), passive, FieldTable::default()).await;
        let declared = declared.expect("the queue is there");
        (declared.message_count(), declared.consumer_count())
    }

    /// Messages that are ready.
    pub(crate) async fn ready(&self, queue: &str) -> u32 {
        self.standing(queue).await.0
    }
}

/// Publishes on a channel with confirms, and waits for the confirm. What goes nowhere comes back.
pub(crate) async fn publish(
    channel: &Channel,
    exchange: &str,
    key: &str,
    body: &[u8],
    properties: BasicProperties,
) -> Result<Confirmation> {
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    channel.basic_publish(exchange.into(), key.into(), options, body, properties).await?.await
}

/// A consumer with a tag of the server.
pub(crate) async fn consume(
    channel: &Channel,
    queue: &str,
    options: BasicConsumeOptions,
) -> Consumer {
    try_consume(channel, queue, "", options, FieldTable::default()).await.expect("a consumer")
}

/// A consumer, or why it cannot be.
pub(crate) async fn try_consume(
    channel: &Channel,
    queue: &str,
    tag: &str,
    options: BasicConsumeOptions,
    arguments: FieldTable,
) -> Result<Consumer> {
    channel.basic_consume(queue.into(), tag.into(), options, arguments).await
}

/// Whether a passive declaration finds the queue, asked on a channel of its own.
pub(crate) async fn is_there(client: &Client, queue: &str) -> bool {
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    let channel = client.open().await;
    match channel.queue_declare(queue.into(), passive, FieldTable::default()).await {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(code(Err::<(), _>(error)), 404);
            false
        }
    }
}

/// The next delivery.
pub(crate) async fn next(consumer: &mut Consumer) -> Delivery {
    let next = timeout(COMES_MAX, consumer.next()).await.expect("a delivery comes in time");
    next.expect("the consumer goes on").expect("a delivery")
}

/// The bodies of the next deliveries.
pub(crate) async fn bodies(consumer: &mut Consumer, count: usize) -> Vec<String> {
    let mut bodies = Vec::new();
    while bodies.len() < count {
        bodies.push(body(&next(consumer).await));
    }
    bodies
}

/// Waits a moment, in which nothing comes.
pub(crate) async fn nothing(consumer: &mut Consumer) {
    if let Ok(delivery) = timeout(STAYS_AWAY, consumer.next()).await {
        panic!("nothing was to come: {delivery:?}");
    }
}

/// Waits until the server has cancelled the consumer.
pub(crate) async fn cancelled(consumer: &mut Consumer) {
    let next = timeout(COMES_MAX, consumer.next()).await.expect("the end comes in time");
    assert!(next.is_none(), "{next:?}");
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < COMES_MAX, "not so in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The code of the refusal that was expected.
pub(crate) fn code<T>(result: Result<T>) -> u16 {
    match result.map(drop).expect_err("it is refused").kind() {
        ErrorKind::ProtocolError(error) => error.get_id(),
        other => panic!("another error than the server's: {other:?}"),
    }
}

/// The text of the refusal that was expected.
pub(crate) fn reason<T>(result: Result<T>) -> String {
    result.map(drop).expect_err("it is refused").to_string()
}

/// The code with which the channel ends after something that has no answer itself: what has one, and is
/// carried out in its turn, is sent right behind it. Not for publishes: the client sends those last.
pub(crate) async fn ends_with<T>(
    channel: &Channel,
    without_answer: impl Future<Output = T>,
) -> u16 {
    let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
    let (kind, none) = (ExchangeKind::Direct, FieldTable::default());
    let behind = channel.exchange_declare("amq.direct".into(), kind, options, none);
    let (_, behind) = tokio::join!(biased; without_answer, behind);
    code(behind)
}

/// The code with which the channel of a consumer ends.
pub(crate) async fn ends(consumer: &mut Consumer) -> u16 {
    let next = timeout(COMES_MAX, consumer.next()).await.expect("the end comes in time");
    code(next.expect("the consumer hears why"))
}

/// The words with which the channel of a consumer ends.
pub(crate) async fn ends_because(consumer: &mut Consumer) -> String {
    let next = timeout(COMES_MAX, consumer.next()).await.expect("the end comes in time");
    reason(next.expect("the consumer hears why"))
}

/// A body as text.
pub(crate) fn body(delivery: &Delivery) -> String {
    String::from_utf8(delivery.data.clone()).expect("a text")
}

pub(crate) fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

pub(crate) fn int(number: i32) -> AMQPValue {
    AMQPValue::LongInt(number)
}

/// A table of arguments or headers.
pub(crate) fn table<const N: usize>(fields: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in fields {
        table.insert(name.into(), value);
    }
    table
}

/// Properties with headers only.
pub(crate) fn headers<const N: usize>(fields: [(&str, AMQPValue); N]) -> BasicProperties {
    BasicProperties::default().with_headers(table(fields))
}

/// A header of a message.
pub(crate) fn header<'a>(delivery: &'a Delivery, name: &str) -> Option<&'a AMQPValue> {
    delivery.properties.headers().as_ref()?.inner().get(name)
}

/// A number of a header, whatever its width.
pub(crate) fn number(value: Option<&AMQPValue>) -> Option<i64> {
    value?.as_long_long_int().or_else(|| value?.as_long_int().map(i64::from))
}
