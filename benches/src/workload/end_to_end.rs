//! `end-to-end`: producers and consumers at the same time, each record carrying the moment of its
//! send.
//!
//! Without `--rate` the producers send as fast as they are acknowledged, and the latency is mostly
//! that of full buffers; with it, latency is counted from the moment that a batch was due.

use std::time::{Duration, Instant};

use anyhow::ensure;
use plimsoll_client::{Client, StartPosition};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::bed::{Bed, mean};
use crate::load::{Load, STAMP_BYTES, Stamp, partitions_of};
use crate::percentiles::Latencies;
use crate::raw_stream::Direction;
use crate::report::{Report, Throughput};
use crate::workload::consume::OrderCheck;
use crate::workload::{TOPIC, WARM_UP_TOPIC};
use crate::{Event, Screen};

/// Latency is that of a record: from its send to its delivery in the same process.
pub(super) async fn measure(bed: &Bed<'_>, screen: Screen<'_>) -> anyhow::Result<Report> {
    ensure!(
        bed.plan.record_bytes as usize >= STAMP_BYTES,
        "end-to-end needs --record-bytes of at least {STAMP_BYTES}, for the time of the send"
    );
    screen(Event::Step("warming up with the same load"));
    round(bed, WARM_UP_TOPIC).await?;
    bed.warm_up_stream(Direction::ToNode).await?;
    screen(Event::Step("measuring the raw stream"));
    let before = bed.limit(Direction::ToNode).await?;
    screen(Event::Step("measuring the broker"));
    let (throughput, latencies) = round(bed, TOPIC).await?;
    screen(Event::Step("measuring the raw stream again"));
    let after = bed.limit(Direction::ToNode).await?;

    let mut report = Report::new(bed.plan).with_throughput(throughput, mean(before, after));
    report.latency_us = latencies.percentiles();
    Ok(report)
}

async fn round(bed: &Bed<'_>, topic: &'static str) -> anyhow::Result<(Throughput, Latencies)> {
    let plan = bed.plan;
    bed.create_topic(topic).await?;
    let (mut load, touched) = Load::prepare(bed, topic).await?;
    let epoch = Instant::now();
    let (seen, mut total) = watch::channel(0);
    let consumers = plan.producers.min(plan.partitions);
    let mut reading = JoinSet::new();
    for index in 0..consumers {
        let reader = Reader {
            client: bed.client().await?,
            topic,
            partitions: partitions_of(index, consumers, plan.partitions),
            value_bytes: plan.record_bytes as usize,
            epoch,
            seen: seen.clone(),
            touched,
            wanted: plan.records + touched,
        };
        reading.spawn(reader.read());
    }
    // The records that woke the partitions must not be in the figures.
    total.wait_for(|total| *total == touched).await?;
    let began = Instant::now();
    load.send(plan.records, Stamp::SentAfter(epoch)).await?;
    let mut all = Latencies::new();
    while let Some(done) = reading.join_next().await {
        all.merge(&done??);
    }
    let seconds = began.elapsed().as_secs_f64();
    load.close().await?;
    bed.delete_topic(topic).await?;
    let bytes = plan.records * u64::from(plan.record_bytes);
    Ok((Throughput { records: plan.records, bytes, seconds }, all))
}

struct Reader {
    client: Client,
    topic: &'static str,
    partitions: Vec<u32>,
    value_bytes: usize,
    epoch: Instant,
    /// Records seen by all readers.
    seen: watch::Sender<u64>,
    /// Records without a stamp; they come first.
    touched: u64,
    wanted: u64,
}

impl Reader {
    /// Reads until all readers together have seen everything.
    async fn read(self) -> anyhow::Result<Latencies> {
        let mut consumer = self
            .client
            .consumer(self.topic)
            .from(StartPosition::Earliest)
            .partitions(self.partitions.iter().copied())
            .build()
            .await?;
        let mut check = OrderCheck::new(self.value_bytes);
        let mut latencies = Latencies::new();
        let mut total = self.seen.subscribe();
        loop {
            let before = check.records;
            {
                let mut stamped = None;
                let next = check.next_batch(&mut consumer, |value| {
                    if *stamped.get_or_insert_with(|| *self.seen.borrow() >= self.touched) {
                        latencies.record(age(value, self.epoch));
                    }
                });
                tokio::select! {
                    more = next => ensure!(more?, "the subscription ended before all was there"),
                    _ = total.wait_for(|total| *total >= self.wanted) => return Ok(latencies),
                }
            }
            self.seen.send_modify(|total| *total += check.records - before);
        }
    }
}

fn age(value: &[u8], epoch: Instant) -> Duration {
    let stamp = value.first_chunk::<STAMP_BYTES>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    epoch.elapsed().saturating_sub(Duration::from_nanos(stamp))
}
