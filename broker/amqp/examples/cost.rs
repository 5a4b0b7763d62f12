//! What the gateway itself costs per message: one connection publishes persistent messages with a window
//! of 1000 confirms, or consumes with a prefetch of 1000, over a pipe and a broker that does nothing.
//! The figure contains the client of this file, which writes and reads raw frames.
//!
//! `cargo run --release -p plimsoll-amqp-gateway --example cost`
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement")]

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use plimsoll_amqp::frame::{Frame, PROTOCOL_HEADER, put_method};
use plimsoll_amqp::methods::*;
use plimsoll_amqp::properties::{ContentHeader, Properties};
use plimsoll_amqp::routing::{Binding, Destination, QueueShape};
use plimsoll_amqp::shortstr::ShortStr;
use plimsoll_amqp::table::FieldTable;
use plimsoll_amqp_gateway::backend::*;
use plimsoll_amqp_gateway::catalog::*;
use plimsoll_amqp_gateway::fold::Folded;
use plimsoll_amqp_gateway::inbox::{ConsumerPort, Receipt};
use plimsoll_amqp_gateway::message::Stored;
use plimsoll_amqp_gateway::passwords::PasswordHash;
use plimsoll_amqp_gateway::{Gateway, GatewayConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{Semaphore, watch};

const MESSAGES: u64 = 300_000;
const WINDOW: u64 = 1000;
const BODY_BYTES: usize = 100;

/// Stores nothing at once, and delivers the same message without end.
struct Nothing {
    host: watch::Sender<Arc<HostSnapshot>>,
    blocked: watch::Sender<Option<Arc<str>>>,
    ids: AtomicU64,
}

struct Window(Arc<Semaphore>);

impl Attachment for Window {
    fn settle(&self, settled: Vec<Settled>) {
        self.0.add_permits(settled.len());
    }

    fn settle_durably(&self, settled: Vec<Settled>) -> BoxFuture<'_, ()> {
        self.settle(settled);
        Box::pin(std::future::ready(()))
    }

    fn pull(&self) -> BoxFuture<'_, Result<Option<Pulled>, QueueError>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn retire(&self) -> BoxFuture<'_, u32> {
        self.detach()
    }

    fn detach(&self) -> BoxFuture<'_, u32> {
        self.0.close();
        Box::pin(std::future::ready(0))
    }
}

impl Backend for Nothing {
    fn unix_ms(&self) -> i64 {
        0
    }

    fn random(&self) -> u128 {
        self.ids.fetch_add(1, Ordering::Relaxed).into()
    }

    fn take_place(&self, _peer: IpAddr) -> Result<Place, String> {
        Ok(Box::new(()))
    }

    fn connection_id(&self) -> ConnectionId {
        ConnectionId(self.ids.fetch_add(1, Ordering::Relaxed))
    }

    fn user(&self, name: &str) -> Option<Arc<User>> {
        let password = Some(PasswordHash::of(b"guest", [0; 4]));
        Some(Arc::new(User { name: name.to_owned(), password, tags: Vec::new() }))
    }

    fn host(&self, _: &str) -> Option<watch::Receiver<Arc<HostSnapshot>>> {
        Some(self.host.subscribe())
    }

    fn access(&self) -> watch::Receiver<u64> {
        watch::Sender::new(0).subscribe()
    }

    fn blocked(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.blocked.subscribe()
    }

    fn change(&self, _: ShortStr, _: Change) -> BoxFuture<'_, Result<Changed, Refusal>> {
        Box::pin(std::future::ready(Ok(Changed::AsItWas)))
    }

    fn publish(&self, _: &Arc<QueueEntry>, _: Record, receipt: Receipt) {
        receipt.stored();
    }

    fn attach(
        &self,
        _: Arc<QueueEntry>,
        spec: ConsumerSpec,
        port: ConsumerPort,
    ) -> BoxFuture<'_, Result<Arc<dyn Attachment>, AttachError>> {
        let window = Arc::new(Semaphore::new(spec.prefetch_count as usize));
        let attachment = Arc::new(Window(Arc::clone(&window)));
        tokio::spawn(async move {
            let headers = || {
                [
                    ("amqp-exchange", Bytes::from_static(b"ex")),
                    ("amqp-routing-key", Bytes::from_static(b"q")),
                    ("amqp-properties", properties().to_bytes()),
                ]
            };
            let record = Stored::new(Bytes::from(vec![b'x'; BODY_BYTES]), 0, headers());
            for offset in 0.. {
                let Ok(permit) = window.acquire().await else { return };
                permit.forget();
                let delivery = Delivery { offset, attempt: 1, record: record.clone() };
                if port.send(delivery).await.is_err() {
                    return;
                }
            }
        });
        Box::pin(std::future::ready(Ok(attachment as Arc<dyn Attachment>)))
    }

    fn counts(&self, _: Arc<QueueEntry>) -> BoxFuture<'_, Result<Counts, QueueError>> {
        Box::pin(std::future::ready(Ok(Counts::default())))
    }

    fn purge(&self, _: Arc<QueueEntry>) -> BoxFuture<'_, Result<u64, QueueError>> {
        Box::pin(std::future::ready(Ok(0)))
    }

    fn abandoned(&self, _: ShortStr, _: ConnectionId) {}
}

fn s(text: &str) -> ShortStr {
    ShortStr::cut(text)
}

fn properties() -> Properties {
    Properties { delivery_mode: Some(2), content_type: Some(s("text/plain")), ..Default::default() }
}

fn snapshot(queues: u64) -> HostSnapshot {
    let entry = |number: u64| {
        let name = if number == 0 { s("q") } else { s(&format!("queue-{number}")) };
        let topic = Arc::from(format!("topic-{number}"));
        Arc::new(QueueEntry::new(name, QueueShape::default(), None, topic, number).unwrap())
    };
    let queues: Vec<_> = (0..queues).map(entry).collect();
    let bind = |queue: &Arc<QueueEntry>| BindingEntry {
        source: s("amq.topic"),
        binding: Binding {
            destination: Destination::Queue(queue.name.clone()),
            key: s(&format!("ship.{}.#", queue.name)),
            arguments: FieldTable::default(),
        },
    };
    let all = PermissionPatterns {
        configure: ".*".to_owned(),
        write: ".*".to_owned(),
        read: ".*".to_owned(),
    };
    HostSnapshot {
        generation: 1,
        exchanges: Vec::new(),
        bindings: queues.iter().map(bind).collect(),
        queues,
        permissions: vec![("guest".to_owned(), all)],
    }
}

struct Client {
    stream: DuplexStream,
    input: BytesMut,
}

impl Client {
    async fn say(&mut self, channel: u16, method: impl Into<Method>) {
        let mut out = BytesMut::new();
        put_method(&mut out, channel, &method.into());
        self.stream.write_all(&out).await.unwrap();
    }

    async fn frame(&mut self) -> Frame {
        loop {
            if let Some(frame) = Frame::take(&mut self.input, 1 << 20).unwrap() {
                return frame;
            }
            assert!(self.stream.read_buf(&mut self.input).await.unwrap() > 0, "it is open");
        }
    }

    async fn open(gateway: &Arc<Gateway>) -> Self {
        let (ours, theirs) = tokio::io::duplex(256 << 10);
        let (gateway, peer) = (Arc::clone(gateway), "127.0.0.1:1".parse().unwrap());
        tokio::spawn(
            async move { gateway.serve(theirs, peer, || (), std::future::pending()).await },
        );
        let mut client = Self { stream: ours, input: BytesMut::new() };
        client.stream.write_all(&PROTOCOL_HEADER).await.unwrap();
        let start_ok = ConnectionStartOk {
            mechanism: s("PLAIN"),
            response: Bytes::from_static(b"\0guest\0guest"),
            ..Default::default()
        };
        client.say(0, start_ok).await;
        let tune = ConnectionTuneOk { channel_max: 2047, frame_max: 131_072, heartbeat: 60 };
        client.say(0, tune).await;
        client.say(0, ConnectionOpen::default()).await;
        client.say(1, ChannelOpen::default()).await;
        for _ in 0..4 {
            client.frame().await;
        }
        client
    }
}

async fn publish(gateway: &Arc<Gateway>) -> Duration {
    let mut client = Client::open(gateway).await;
    client.say(1, ConfirmSelect::default()).await;
    client.frame().await;
    let mut one = BytesMut::new();
    let publish = BasicPublish { routing_key: s("q"), ..Default::default() };
    put_method(&mut one, 1, &publish.into());
    let mut header = BytesMut::new();
    ContentHeader::write(&mut header, BODY_BYTES, &properties().to_bytes());
    for (kind, payload) in [(2, &header[..]), (3, &[b'x'; BODY_BYTES][..])] {
        one.put_u8(kind);
        one.put_u16(1);
        one.put_u32(payload.len() as u32);
        one.put_slice(payload);
        one.put_u8(0xce);
    }
    let batch = one.repeat(100);
    let began = Instant::now();
    let (mut sent, mut confirmed) = (0, 0);
    while confirmed < MESSAGES {
        while sent < MESSAGES && sent - confirmed <= WINDOW - 100 {
            client.stream.write_all(&batch).await.unwrap();
            sent += 100;
        }
        if let Method::BasicAck(ack) = Method::read(&client.frame().await.payload).unwrap() {
            confirmed = ack.delivery_tag;
        }
    }
    began.elapsed()
}

async fn consume(gateway: &Arc<Gateway>) -> Duration {
    let mut client = Client::open(gateway).await;
    client.say(1, BasicQos { prefetch_count: WINDOW as u16, ..Default::default() }).await;
    client.say(1, BasicConsume { queue: s("q"), ..Default::default() }).await;
    client.frame().await;
    client.frame().await;
    let began = Instant::now();
    for delivery_tag in 1..=MESSAGES {
        for _ in 0..3 {
            client.frame().await;
        }
        if delivery_tag % 100 == 0 {
            client.say(1, BasicAck { delivery_tag, multiple: true }).await;
        }
    }
    began.elapsed()
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let backend = Arc::new(Nothing {
        host: watch::Sender::new(Arc::new(snapshot(1))),
        blocked: watch::Sender::new(None),
        ids: AtomicU64::new(1),
    });
    let gateway = Gateway::new(backend, GatewayConfig::default());
    let each = |took: Duration| took.as_secs_f64() * 1e6 / MESSAGES as f64;
    println!("{BODY_BYTES} bytes, window {WINDOW}, one thread for client, gateway and broker");
    println!("publish and confirm: {:.2} us per message", each(publish(&gateway).await));
    println!("deliver and ack:     {:.2} us per message", each(consume(&gateway).await));
    for queues in [100, 1_000, 10_000] {
        let before = Arc::new(snapshot(queues - 1));
        let after = Arc::new(HostSnapshot { generation: 2, ..snapshot(queues) });
        let began = Instant::now();
        let mut folded = Folded::new(&s("/"), before);
        let whole = began.elapsed().as_secs_f64() * 1e3;
        let began = Instant::now();
        folded.update(after);
        let one = began.elapsed().as_secs_f64() * 1e3;
        println!("{queues} bound queues: folded in {whole:.2} ms, one more in {one:.2} ms");
    }
}
