//! A client that says and hears frames, over a pipe to a gateway.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use plimsoll_amqp::frame::{Frame, PROTOCOL_HEADER, put_method};
use plimsoll_amqp::methods::*;
use plimsoll_amqp::properties::{ContentHeader, Properties};
use plimsoll_amqp::shortstr::ShortStr;
use plimsoll_amqp::table::{FieldTable, FieldValue, TableBuilder};
use plimsoll_amqp_gateway::{Gateway, GatewayConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::oneshot;

use crate::memory::Memory;

pub fn s(text: &str) -> ShortStr {
    ShortStr::cut(text)
}

/// A table of texts.
pub fn table(fields: &[(&str, &str)]) -> FieldTable {
    let table =
        fields.iter().fold(TableBuilder::new(), |table, (name, text)| table.text(name, text));
    table.build().unwrap()
}

/// A gateway in front of a broker in memory.
pub struct Node {
    pub memory: Arc<Memory>,
    pub gateway: Arc<Gateway>,
}

impl Node {
    pub fn new() -> Self {
        Self::with(GatewayConfig::default())
    }

    pub fn with(config: GatewayConfig) -> Self {
        let memory = Memory::new();
        let gateway = Gateway::new(Arc::clone(&memory) as _, config);
        Self { memory, gateway }
    }

    /// A connection that has said nothing.
    pub fn connect_from(&self, peer: &str) -> Client {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let (gateway, peer) = (Arc::clone(&self.gateway), peer.parse::<SocketAddr>().unwrap());
        let (stop, stopping) = oneshot::channel::<()>();
        let (told, opened) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let stopping = async {
                // Without a word it goes on for ever.
                if stopping.await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            gateway.serve(theirs, peer, || told.send(()).unwrap_or_default(), stopping).await;
        });
        Client { stream: ours, input: BytesMut::new(), task, stop: Some(stop), opened, tag: 0 }
    }

    pub async fn log_in(&self, user: &str, password: &str, vhost: &str) -> Client {
        let mut client = self.connect_from("127.0.0.1:5000");
        client.greet(user, password).await;
        let Method::ConnectionTune(tune) = client.hears(0).await else { panic!("a tune") };
        let ConnectionTune { channel_max, frame_max, heartbeat } = tune;
        client.say(0, ConnectionTuneOk { channel_max, frame_max, heartbeat }).await;
        client.say(0, ConnectionOpen { virtual_host: s(vhost), ..Default::default() }).await;
        client
    }

    /// Logged in, the virtual host open.
    pub async fn open(&self) -> Client {
        let mut client = self.log_in("guest", "guest", "/").await;
        client.expect(0, ConnectionOpenOk::default()).await;
        client
    }

    /// The same with channel 1.
    pub async fn channel(&self) -> Client {
        let mut client = self.open().await;
        client.open_channel(1).await;
        client
    }
}

/// What a client hears.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    Method(u16, Method),
    Content(u16, Method, Box<Properties>, Bytes),
    Heartbeat,
    End,
}

/// A message as a consumer has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Got {
    pub tag: u64,
    pub redelivered: bool,
    pub exchange: String,
    pub key: String,
    pub properties: Properties,
    pub body: String,
}

pub struct Client {
    pub stream: DuplexStream,
    input: BytesMut,
    pub task: tokio::task::JoinHandle<()>,
    pub stop: Option<oneshot::Sender<()>>,
    /// Told when the gateway says that it is open.
    pub opened: oneshot::Receiver<()>,
    tag: u64,
}

pub fn frames(
    channel: u16,
    publish: BasicPublish,
    properties: &Properties,
    body: &[u8],
) -> BytesMut {
    let mut out = BytesMut::new();
    put_method(&mut out, channel, &publish.into());
    let mut header = BytesMut::new();
    ContentHeader::write(&mut header, body.len(), &properties.to_bytes());
    put_raw(&mut out, 2, channel, &header);
    for piece in body.chunks(100_000) {
        put_raw(&mut out, 3, channel, piece);
    }
    out
}

pub fn put_raw(out: &mut BytesMut, kind: u8, channel: u16, payload: &[u8]) {
    out.put_u8(kind);
    out.put_u16(channel);
    out.put_u32(payload.len() as u32);
    out.put_slice(payload);
    out.put_u8(0xce);
}

impl Client {
    pub async fn bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub async fn greet(&mut self, user: &str, password: &str) {
        self.bytes(&PROTOCOL_HEADER).await;
        assert!(matches!(self.hears(0).await, Method::ConnectionStart(_)));
        let yes = FieldValue::Bool(true);
        let told = TableBuilder::new()
            .field("consumer_cancel_notify", yes)
            .field("connection.blocked", yes)
            .field("authentication_failure_close", yes)
            .build()
            .unwrap();
        let properties =
            TableBuilder::new().field("capabilities", FieldValue::Table(told.fields()));
        let start_ok = ConnectionStartOk {
            client_properties: properties.build().unwrap(),
            mechanism: s("PLAIN"),
            response: format!("\0{user}\0{password}").into(),
            locale: s("en_US"),
        };
        self.say(0, start_ok).await;
    }

    pub async fn say(&mut self, channel: u16, method: impl Into<Method>) {
        let mut out = BytesMut::new();
        put_method(&mut out, channel, &method.into());
        self.bytes(&out).await;
    }

    pub async fn publish_with(
        &mut self,
        channel: u16,
        exchange: &str,
        key: &str,
        properties: &Properties,
        body: &[u8],
    ) {
        let publish =
            BasicPublish { exchange: s(exchange), routing_key: s(key), ..Default::default() };
        self.bytes(&frames(channel, publish, properties, body)).await;
    }

    /// To the default exchange.
    pub async fn publish(&mut self, channel: u16, key: &str, body: &str) {
        self.publish_with(channel, "", key, &Properties::default(), body.as_bytes()).await;
    }

    async fn frame(&mut self) -> Option<Frame> {
        let wait = async {
            loop {
                if let Some(frame) = Frame::take(&mut self.input, 1 << 20).unwrap() {
                    return Some(frame);
                }
                if self.stream.read_buf(&mut self.input).await.unwrap() == 0 {
                    return None;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(600), wait).await.expect("something is heard")
    }

    /// The next that is heard, whatever the channel.
    pub async fn next(&mut self) -> Heard {
        let Some(frame) = self.frame().await else { return Heard::End };
        if frame.kind == 8 {
            return Heard::Heartbeat;
        }
        let method = Method::read(&frame.payload).unwrap();
        let number = frame.channel;
        if !method.spec().has_content {
            return Heard::Method(number, method);
        }
        let header = self.frame().await.unwrap();
        let header = ContentHeader::read(&header.payload).unwrap();
        let properties = Properties::read(&header.properties).unwrap();
        let mut body = BytesMut::new();
        while (body.len() as u64) < header.body_bytes {
            body.extend_from_slice(&self.frame().await.unwrap().payload);
        }
        Heard::Content(number, method, Box::new(properties), body.freeze())
    }

    /// The next method, which has no content.
    pub async fn hears(&mut self, channel: u16) -> Method {
        match self.next().await {
            Heard::Method(number, method) if number == channel => method,
            other => panic!("a method on channel {channel}, not {other:?}"),
        }
    }

    pub async fn expect(&mut self, channel: u16, method: impl Into<Method>) {
        assert_eq!(self.hears(channel).await, method.into());
    }

    /// Says something and hears the answer.
    pub async fn ask(&mut self, channel: u16, method: impl Into<Method>) -> Method {
        self.say(channel, method).await;
        self.hears(channel).await
    }

    pub async fn open_channel(&mut self, channel: u16) {
        self.say(channel, ChannelOpen::default()).await;
        self.expect(channel, ChannelOpenOk::default()).await;
    }

    /// Says what ends the channel, hears code and text, agrees, and opens the channel again.
    pub async fn is_refused(&mut self, channel: u16, method: impl Into<Method>) -> (u16, String) {
        self.say(channel, method).await;
        self.channel_ends(channel).await
    }

    pub async fn channel_ends(&mut self, channel: u16) -> (u16, String) {
        let Method::ChannelClose(close) = self.hears(channel).await else { panic!("a close") };
        self.say(channel, ChannelCloseOk {}).await;
        self.open_channel(channel).await;
        (close.reply_code, close.reply_text.to_string())
    }

    pub async fn connection_ends(&mut self) -> (u16, String) {
        let Method::ConnectionClose(close) = self.hears(0).await else { panic!("a close") };
        self.say(0, ConnectionCloseOk {}).await;
        assert_eq!(self.next().await, Heard::End);
        (close.reply_code, close.reply_text.to_string())
    }

    /// Declares a queue; its name.
    pub async fn declare(&mut self, queue: QueueDeclare) -> String {
        match self.ask(1, queue).await {
            Method::QueueDeclareOk(ok) => ok.queue.to_string(),
            other => panic!("{other:?}"),
        }
    }

    pub async fn declare_named(&mut self, queue: &str) {
        self.declare(QueueDeclare { queue: s(queue), ..Default::default() }).await;
    }

    /// Messages and consumers of a queue.
    pub async fn counts(&mut self, queue: &str) -> (u32, u32) {
        let declare = QueueDeclare { queue: s(queue), passive: true, ..Default::default() };
        match self.ask(1, declare).await {
            Method::QueueDeclareOk(ok) => (ok.message_count, ok.consumer_count),
            other => panic!("{other:?}"),
        }
    }

    pub async fn bind(&mut self, queue: &str, exchange: &str, key: &str) {
        let bind = QueueBind {
            queue: s(queue),
            exchange: s(exchange),
            routing_key: s(key),
            ..Default::default()
        };
        assert_eq!(self.ask(1, bind).await, QueueBindOk {}.into());
    }

    pub async fn consume_with(&mut self, channel: u16, consume: BasicConsume) -> String {
        match self.ask(channel, consume).await {
            Method::BasicConsumeOk(ok) => ok.consumer_tag.to_string(),
            other => panic!("{other:?}"),
        }
    }

    /// Consumes with a tag of its own.
    pub async fn consume(&mut self, channel: u16, queue: &str) -> ShortStr {
        self.tag += 1;
        let tag = s(&format!("c{}", self.tag));
        let consume =
            BasicConsume { queue: s(queue), consumer_tag: tag.clone(), ..Default::default() };
        self.consume_with(channel, consume).await;
        tag
    }

    pub async fn qos(&mut self, channel: u16, prefetch_count: u16, global: bool) {
        let qos = BasicQos { prefetch_count, global, ..Default::default() };
        assert_eq!(self.ask(channel, qos).await, BasicQosOk {}.into());
    }

    /// The next delivery.
    pub async fn delivery(&mut self) -> Got {
        match self.next().await {
            Heard::Content(_, Method::BasicDeliver(to), properties, body) => Got {
                tag: to.delivery_tag,
                redelivered: to.redelivered,
                exchange: to.exchange.to_string(),
                key: to.routing_key.to_string(),
                properties: *properties,
                body: String::from_utf8(body.to_vec()).unwrap(),
            },
            other => panic!("a delivery, not {other:?}"),
        }
    }

    pub async fn bodies(&mut self, count: usize) -> Vec<String> {
        let mut bodies = Vec::new();
        for _ in 0..count {
            bodies.push(self.delivery().await.body);
        }
        bodies
    }

    pub async fn get(&mut self, queue: &str, no_ack: bool) -> Option<(Got, u32)> {
        self.say(1, BasicGet { queue: s(queue), no_ack, ..Default::default() }).await;
        match self.next().await {
            Heard::Method(1, Method::BasicGetEmpty(_)) => None,
            Heard::Content(1, Method::BasicGetOk(ok), properties, body) => {
                let got = Got {
                    tag: ok.delivery_tag,
                    redelivered: ok.redelivered,
                    exchange: ok.exchange.to_string(),
                    key: ok.routing_key.to_string(),
                    properties: *properties,
                    body: String::from_utf8(body.to_vec()).unwrap(),
                };
                Some((got, ok.message_count))
            }
            other => panic!("{other:?}"),
        }
    }

    pub async fn ack(&mut self, channel: u16, delivery_tag: u64, multiple: bool) {
        self.say(channel, BasicAck { delivery_tag, multiple }).await;
    }

    /// Whatever was said before is carried out: an answer that comes after it was heard.
    pub async fn settled(&mut self, channel: u16) {
        self.say(channel, ChannelFlow { active: true }).await;
        self.expect(channel, ChannelFlowOk { active: true }).await;
    }

    /// Nothing is heard before the answer to what is said now.
    pub async fn hears_nothing(&mut self, channel: u16) {
        self.settled(channel).await;
    }

    pub async fn close(mut self) {
        self.say(0, ConnectionClose { reply_code: 200, ..Default::default() }).await;
        self.expect(0, ConnectionCloseOk {}).await;
        assert_eq!(self.next().await, Heard::End);
        self.task.await.unwrap();
    }
}

/// Waits until something is so, for as long as the other tasks have anything to do.
pub async fn until(what: impl Fn() -> bool) {
    let wait = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("it becomes so");
}
