//! `queue`: senders and receivers of queues at the same time; each message is sent, received and settled by
//! itself, and each send and settlement is awaited until it is as durable as the queue.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use plimsoll_client::{AckFuture, Client, Record, Settlement};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::bed::Bed;
use crate::load::STAMP_BYTES;
use crate::percentiles::Latencies;
use crate::report::{Report, Throughput, rounded};
use crate::values::Values;
use crate::{Event, Screen};

/// Messages that a sender, and a receiver, has on their way at once.
pub(super) const WINDOW: usize = 1_000;
/// Of the load that comes before, uncounted.
const WARM_UP: u64 = 10;

/// Latency is that of a message: from its send to its delivery in the same process.
pub(super) async fn measure(bed: &Bed<'_>, screen: Screen<'_>) -> anyhow::Result<Report> {
    let plan = bed.plan;
    let needs = STAMP_BYTES as u32;
    ensure!(plan.record_bytes >= needs, "queue needs --record-bytes of at least {needs}");
    screen(Event::Step("warming up with a tenth of the load"));
    round(bed, "plimsoll-bench-warm-up", plan.records / WARM_UP).await?;
    screen(Event::Step("sending, receiving and settling"));
    let (throughput, latencies) = round(bed, "plimsoll-bench", plan.records).await?;
    let mut report = Report::new(plan).with_throughput(throughput, None);
    report.messages_per_s = Some(rounded(throughput.records_per_s(), 1));
    report.latency_us = latencies.percentiles();
    Ok(report)
}

async fn round(
    bed: &Bed<'_>,
    prefix: &str,
    messages: u64,
) -> anyhow::Result<(Throughput, Latencies)> {
    let plan = bed.plan;
    let queues: Vec<String> = (0..plan.queues).map(|queue| format!("{prefix}-{queue}")).collect();
    for queue in &queues {
        bed.create_queue(queue).await?;
    }
    let epoch = Instant::now();
    let senders = u64::from(plan.queues * plan.senders);
    // What senders and receivers come to: a receiver's latencies.
    let mut working: JoinSet<anyhow::Result<Option<Latencies>>> = JoinSet::new();
    let (begin, begun) = watch::channel(false);
    for (at, queue) in queues.iter().enumerate() {
        let mut of_queue = 0;
        for sender in 0..plan.senders {
            let index = at as u64 * u64::from(plan.senders) + u64::from(sender);
            let share = messages / senders + u64::from(index < messages % senders);
            of_queue += share;
            let client = bed.client().await?;
            let producer = client.producer(queue.as_str()).build().await?;
            let values = Values::new(plan.record_bytes, index + 1);
            let begun = begun.clone();
            let sending = send(producer, values, share, epoch, begun);
            working.spawn(async move { sending.await.map(|()| None) });
        }
        let (settled, _) = watch::channel(0_u64);
        for _ in 0..plan.receivers {
            let client = bed.client().await?;
            let receiving = receive(client, queue.clone(), settled.clone(), of_queue, epoch);
            working.spawn(async move { receiving.await.map(Some) });
        }
    }
    let began = Instant::now();
    begin.send_replace(true);
    let mut all = Latencies::new();
    let mut seconds = 0.0;
    // The first that fails ends all: receivers would wait for what a sender did not send.
    while let Some(done) = working.join_next().await {
        if let Some(of_one) = done?? {
            all.merge(&of_one);
            seconds = began.elapsed().as_secs_f64();
        }
    }
    ensure!(all.samples() >= messages, "{messages} were sent, {} received", all.samples());
    for queue in &queues {
        let standing = bed.client().await?.admin().queue(queue.as_str(), "").standing(0).await?;
        ensure!(standing.unsettled == 0, "{} messages of {queue} are left", standing.unsettled);
        bed.delete_topic(queue).await?;
    }
    let bytes = messages * u64::from(plan.record_bytes);
    Ok((Throughput { records: messages, bytes, seconds }, all))
}

async fn send(
    producer: plimsoll_client::Producer,
    mut values: Values,
    messages: u64,
    epoch: Instant,
    mut begun: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    begun.wait_for(|begun| *begun).await?;
    let mut window: VecDeque<AckFuture> = VecDeque::with_capacity(WINDOW);
    for _ in 0..messages {
        if window.len() == WINDOW {
            window.pop_front().context("the window is full")?.await?;
        }
        let mut value = values.next_value().to_vec();
        let stamp = u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
        value[..STAMP_BYTES].copy_from_slice(&stamp.to_le_bytes());
        window.push_back(producer.enqueue(Record::new(Bytes::from(value))).await?);
    }
    for ack in window {
        ack.await?;
    }
    producer.close().await?;
    Ok(())
}

/// Receives until all receivers of the queue together have settled `wanted`.
async fn receive(
    client: Client,
    queue: String,
    settled: watch::Sender<u64>,
    wanted: u64,
    epoch: Instant,
) -> anyhow::Result<Latencies> {
    let mut consumer = client.queue_consumer(queue).prefetch(WINDOW as u32).build().await?;
    let mut latencies = Latencies::new();
    let mut window: VecDeque<Settlement> = VecDeque::with_capacity(WINDOW);
    let mut all = settled.subscribe();
    loop {
        let front = async {
            match window.front_mut() {
                Some(settlement) => settlement.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            outcome = front => {
                outcome?;
                window.pop_front();
                settled.send_modify(|settled| *settled += 1);
            }
            message = consumer.next() => {
                let message = message.context("the queue ended before all was there")??;
                let value = message.record.value.as_deref().unwrap_or_default();
                let stamp = value.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
                latencies.record(epoch.elapsed().saturating_sub(Duration::from_nanos(stamp)));
                window.push_back(message.accept());
            }
            done = all.wait_for(|settled| *settled >= wanted) => {
                done?;
                return Ok(latencies);
            }
        }
    }
}
