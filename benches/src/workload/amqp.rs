//! `amqp`: senders and receivers of AMQP queues at the same time, through a client library that is not ours;
//! with a URL the same load on another broker first, in the same run.
//!
//! What both brokers are asked for: durable quorum queues, persistent messages, each confirmed, a window of
//! 1,000 per sender; 1,000 messages held by each receiver, acknowledged 100 at a time, the rest at the end.
//! Each sender and each receiver has a connection with one channel.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, Consumer};
use plimsoll_protocol::api::Durability;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::refuse_connect;
use crate::amqp_broker::{AmqpBroker, AmqpQueue, connect};
use crate::load::STAMP_BYTES;
use crate::options::{Options, Plan};
use crate::percentiles::Latencies;
use crate::report::{AmqpFigures, EmbeddedFigures, Report, Throughput, rounded};
use crate::values::Values;
use crate::{Event, Screen};

/// Publishes of a sender that are not confirmed, and deliveries of a receiver that are not acknowledged.
const WINDOW: u16 = 1_000;
/// Deliveries that one acknowledgement is for.
const ACK_EVERY: u16 = 100;
/// Part of the load that comes before, uncounted.
const WARM_UP: u64 = 10;
/// `delivery-mode` of a message that is to survive.
const PERSISTENT: u8 = 2;

/// Latency is that of a message: from its publish to its delivery in the same process.
pub(super) async fn measure(
    plan: &Plan,
    options: &Options,
    directory: &Path,
    screen: Screen<'_>,
) -> anyhow::Result<Report> {
    refuse_connect(plan, options)?;
    let needs = STAMP_BYTES as u32;
    ensure!(plan.record_bytes >= needs, "amqp needs --record-bytes of at least {needs}");
    ensure!(plan.durability == Durability::Durable, "amqp publishes persistent messages only");
    let other = match &options.url {
        Some(url) => Some(of_broker(plan, AmqpBroker::elsewhere(url).await?, "URL", screen).await?),
        None => None,
    };
    let embedded = if options.url_only {
        None
    } else {
        screen(Event::Step("starting the nodes"));
        let broker = AmqpBroker::serve(plan, options, directory).await?;
        Some(of_broker(plan, broker, "embedded", screen).await?)
    };
    let measured = other.as_ref().or(embedded.as_ref()).context("--url-only needs --url")?;
    let mut report = Report::new(plan).with_throughput(measured.throughput, None);
    report.messages_per_s = Some(messages_per_s(measured));
    report.latency_us = measured.latencies.percentiles();
    report.producers = plan.queues * plan.senders;
    report.partitions = plan.queues;
    let beside = other.as_ref().zip(embedded.as_ref());
    report.amqp = Some(AmqpFigures {
        broker: plan.url.clone().unwrap_or_else(|| "embedded".to_owned()),
        queues: plan.queues,
        senders: plan.senders,
        receivers: plan.receivers,
        embedded: beside.map(|(_, embedded)| EmbeddedFigures {
            messages_per_s: messages_per_s(embedded),
            latency_us: embedded.latencies.percentiles(),
        }),
        ratio: beside.map(|(other, embedded)| {
            let of = |measured: &Measured| measured.throughput.records_per_s();
            rounded(of(embedded) / of(other), 3)
        }),
    });
    Ok(report)
}

/// What one broker did.
struct Measured {
    throughput: Throughput,
    latencies: Latencies,
}

fn messages_per_s(measured: &Measured) -> f64 {
    rounded(measured.throughput.records_per_s(), 1)
}

async fn of_broker(
    plan: &Plan,
    broker: AmqpBroker,
    name: &str,
    screen: Screen<'_>,
) -> anyhow::Result<Measured> {
    screen(Event::Step(&format!("{name}: warming up with a tenth of the load")));
    round(plan, &broker, (plan.records / WARM_UP).max(1)).await?;
    screen(Event::Step(&format!("{name}: publishing, consuming and acknowledging")));
    let measured = round(plan, &broker, plan.records).await?;
    broker.stop().await?;
    Ok(measured)
}

/// One load over queues of its own, which are deleted also where it fails.
async fn round(plan: &Plan, broker: &AmqpBroker, messages: u64) -> anyhow::Result<Measured> {
    let queues = broker.declare(plan.queues).await?;
    let outcome = load(plan, broker, &queues, messages).await;
    let deleted = broker.delete(queues).await;
    let measured = outcome?;
    deleted?;
    Ok(measured)
}

async fn load(
    plan: &Plan,
    broker: &AmqpBroker,
    queues: &[AmqpQueue],
    messages: u64,
) -> anyhow::Result<Measured> {
    let senders = u64::from(plan.queues * plan.senders);
    let (begin, begun) = watch::channel(None);
    let mut working = JoinSet::new();
    let mut index = 0;
    for queue in queues {
        let url = broker.url_of(queue);
        let mut of_queue = 0;
        for _ in 0..plan.senders {
            let share = messages / senders + u64::from(index < messages % senders);
            (of_queue, index) = (of_queue + share, index + 1);
            let values = Values::new(plan.record_bytes, index);
            let sender = Sender::connect(url, queue.name.clone(), values).await?;
            working.spawn(sender.run(share, begun.clone()));
        }
        let progress = Arc::new(Progress::new(of_queue));
        for _ in 0..plan.receivers {
            let receiver = Receiver::connect(url, &queue.name, Arc::clone(&progress)).await?;
            working.spawn(receiver.run(begun.clone()));
        }
    }
    let began = Instant::now();
    begin.send_replace(Some(began));
    let mut latencies = Latencies::new();
    let mut connections = Vec::new();
    while let Some(done) = working.join_next().await {
        let (of_one, connection) = done??;
        latencies.merge(&of_one);
        connections.push(connection);
    }
    let seconds = began.elapsed().as_secs_f64();
    for connection in connections {
        // All is confirmed and acknowledged: how it ends is no matter.
        let _ = connection.close(200, "done".into()).await;
    }
    let received = latencies.samples();
    ensure!(received >= messages, "{messages} were published, {received} delivered");
    for queue in queues {
        broker.wait_until_empty(queue).await?;
    }
    let bytes = messages * u64::from(plan.record_bytes);
    Ok(Measured { throughput: Throughput { records: messages, bytes, seconds }, latencies })
}

/// When the load began, once it has: stamps count from there.
type Begun = watch::Receiver<Option<Instant>>;

async fn beginning(mut begun: Begun) -> anyhow::Result<Instant> {
    let began = *begun.wait_for(Option::is_some).await?;
    began.context("it was waited for")
}

struct Sender {
    connection: Connection,
    channel: Channel,
    queue: String,
    values: Values,
}

impl Sender {
    async fn connect(url: &str, queue: String, values: Values) -> anyhow::Result<Self> {
        let connection = connect(url).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { connection, channel, queue, values })
    }

    /// Publishes and awaits the confirms. No latencies are its own.
    async fn run(mut self, messages: u64, begun: Begun) -> anyhow::Result<(Latencies, Connection)> {
        let epoch = beginning(begun).await?;
        let mut window = FuturesUnordered::new();
        for _ in 0..messages {
            if window.len() == usize::from(WINDOW) {
                window.next().await.context("the window is full")??;
            }
            let body = self.values.next_value().to_vec();
            window.push(publish(&self.channel, &self.queue, body, epoch));
            // What was pushed is begun by asking for what is done. Each is written when the next are begun
            // already: the client would write every message by itself otherwise.
            while let Some(done) = window.next().now_or_never().flatten() {
                done?;
            }
        }
        while let Some(done) = window.next().await {
            done?;
        }
        drop(window);
        Ok((Latencies::new(), self.connection))
    }
}

async fn publish(
    channel: &Channel,
    queue: &str,
    mut body: Vec<u8>,
    epoch: Instant,
) -> anyhow::Result<()> {
    let stamp = u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
    body[..STAMP_BYTES].copy_from_slice(&stamp.to_le_bytes());
    let (options, properties) =
        (BasicPublishOptions::default(), BasicProperties::default().with_delivery_mode(PERSISTENT));
    let published = channel.basic_publish("".into(), queue.into(), options, &body, properties);
    let confirmation = published.await?.await?;
    ensure!(confirmation.is_ack(), "a message was not taken: {confirmation:?}");
    Ok(())
}

/// What the receivers of one queue have received together.
struct Progress {
    received: AtomicU64,
    wanted: u64,
    done: watch::Sender<bool>,
}

impl Progress {
    fn new(wanted: u64) -> Self {
        let (done, _) = watch::channel(wanted == 0);
        Self { received: AtomicU64::new(0), wanted, done }
    }

    fn received_one(&self) {
        if self.received.fetch_add(1, Ordering::Relaxed) + 1 == self.wanted {
            self.done.send_replace(true);
        }
    }
}

struct Receiver {
    connection: Connection,
    channel: Channel,
    consumer: Consumer,
    progress: Arc<Progress>,
}

impl Receiver {
    async fn connect(url: &str, queue: &str, progress: Arc<Progress>) -> anyhow::Result<Self> {
        let connection = connect(url).await?;
        let channel = connection.create_channel().await?;
        channel.basic_qos(WINDOW, BasicQosOptions::default()).await?;
        let (tag, options) = ("plimsoll-bench", BasicConsumeOptions::default());
        let none = FieldTable::default();
        let consumer = channel.basic_consume(queue.into(), tag.into(), options, none).await?;
        Ok(Self { connection, channel, consumer, progress })
    }

    /// Receives and acknowledges until all receivers of the queue together have received what was
    /// published.
    async fn run(mut self, begun: Begun) -> anyhow::Result<(Latencies, Connection)> {
        let epoch = beginning(begun).await?;
        let mut latencies = Latencies::new();
        let mut done = self.progress.done.subscribe();
        let mut last = None;
        let mut unacknowledged = 0;
        loop {
            let delivery = tokio::select! {
                biased;
                delivery = self.consumer.next() => delivery,
                all = done.wait_for(|done| *done) => {
                    all?;
                    break;
                }
            };
            let Some(delivery) = delivery else { bail!("the broker has cancelled a consumer") };
            let delivery = delivery?;
            let stamp = delivery.data.first_chunk().context("a message without its stamp")?;
            let stamp = Duration::from_nanos(u64::from_le_bytes(*stamp));
            latencies.record(epoch.elapsed().saturating_sub(stamp));
            last = Some(delivery.delivery_tag);
            unacknowledged += 1;
            if unacknowledged == ACK_EVERY {
                self.acknowledge(last.take()).await?;
                unacknowledged = 0;
            }
            self.progress.received_one();
        }
        self.acknowledge(last).await?;
        // The answer comes behind the acknowledgements.
        let tag = self.consumer.tag();
        self.channel.basic_cancel(tag, BasicCancelOptions::default()).await?;
        Ok((latencies, self.connection))
    }

    /// Acknowledges all up to a delivery.
    async fn acknowledge(&self, up_to: Option<u64>) -> anyhow::Result<()> {
        if let Some(tag) = up_to {
            self.channel.basic_ack(tag, BasicAckOptions { multiple: true }).await?;
        }
        Ok(())
    }
}
