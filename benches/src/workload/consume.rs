//! `consume`: a filled topic, read from its beginning by subscriptions.
//!
//! A consumer takes whole batches, whose checksums the client has checked, and walks every record:
//! its offset must be the next one, its value as long as it was written.

use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use plimsoll_client::{Client, Consumer, StartPosition};
use plimsoll_protocol::batch::BatchLimits;
use tokio::task::JoinSet;

use crate::bed::{Bed, mean};
use crate::load::{Load, Stamp, partitions_of};
use crate::percentiles::Latencies;
use crate::raw_stream::Direction;
use crate::report::{Report, Throughput};
use crate::warm_memory::touch_for;
use crate::workload::TOPIC;
use crate::{Event, Screen};

/// Latency is how long a consumer waited for its next batch.
pub(super) async fn measure(bed: &Bed<'_>, screen: Screen<'_>) -> anyhow::Result<Report> {
    screen(Event::Step("touching the memory that the load will need"));
    touch_for(bed.plan.value_bytes());
    screen(Event::Step("filling the topic"));
    bed.create_topic(TOPIC).await?;
    let (mut load, touched) = Load::prepare(bed, TOPIC).await?;
    load.send(bed.plan.records, Stamp::None).await?;
    load.close().await?;
    let stored = bed.plan.records + touched;
    bed.ensure_stored(TOPIC, stored).await?;

    screen(Event::Step("warming up with the same load"));
    consume_all(bed, stored).await?;
    bed.warm_up_stream(Direction::FromNode).await?;
    screen(Event::Step("measuring the raw stream"));
    let before = bed.limit(Direction::FromNode).await?;
    screen(Event::Step("measuring the broker"));
    let (throughput, latencies) = consume_all(bed, stored).await?;
    screen(Event::Step("measuring the raw stream again"));
    let after = bed.limit(Direction::FromNode).await?;
    bed.delete_topic(TOPIC).await?;

    let mut report = Report::new(bed.plan).with_throughput(throughput, mean(before, after));
    report.latency_us = latencies.percentiles();
    Ok(report)
}

async fn consume_all(bed: &Bed<'_>, stored: u64) -> anyhow::Result<(Throughput, Latencies)> {
    let plan = bed.plan;
    // More consumers than partitions would read the same records twice.
    let consumers = plan.producers.min(plan.partitions);
    let mut clients = Vec::new();
    for _ in 0..consumers {
        clients.push(bed.client().await?);
    }
    let value_bytes = plan.record_bytes as usize;
    let began = Instant::now();
    let mut reading = JoinSet::new();
    for (index, client) in (0..).zip(clients) {
        let partitions = partitions_of(index, consumers, plan.partitions);
        reading.spawn(read_to_end(client, partitions, value_bytes));
    }
    let (mut records, mut all) = (0, Latencies::new());
    while let Some(done) = reading.join_next().await {
        let (read, latencies) = done??;
        records += read;
        all.merge(&latencies);
    }
    let seconds = began.elapsed().as_secs_f64();
    ensure!(records == stored, "{stored} records are stored, {records} were delivered");
    let bytes = records * u64::from(plan.record_bytes);
    Ok((Throughput { records, bytes, seconds }, all))
}

async fn read_to_end(
    client: Client,
    partitions: Vec<u32>,
    value_bytes: usize,
) -> anyhow::Result<(u64, Latencies)> {
    let mut consumer = client
        .consumer(TOPIC)
        .from(StartPosition::Earliest)
        .partitions(partitions.iter().copied())
        .bounded()
        .build()
        .await?;
    let mut check = OrderCheck::new(value_bytes);
    let mut latencies = Latencies::new();
    loop {
        let asked = Instant::now();
        if !check.next_batch(&mut consumer, |_| {}).await? {
            return Ok((check.records, latencies));
        }
        latencies.record(asked.elapsed());
    }
}

/// Sees to it that each partition's records come complete and in order.
pub(super) struct OrderCheck {
    /// By partition: the offset that must come next.
    next: Vec<u64>,
    value_bytes: usize,
    /// Records seen.
    pub(super) records: u64,
}

impl OrderCheck {
    pub(super) fn new(value_bytes: usize) -> Self {
        Self { next: Vec::new(), value_bytes, records: 0 }
    }

    /// Takes a batch and shows each value to `look`. False at the end.
    pub(super) async fn next_batch(
        &mut self,
        consumer: &mut Consumer,
        mut look: impl FnMut(&[u8]),
    ) -> anyhow::Result<bool> {
        let Some(consumed) = consumer.next_batch().await else { return Ok(false) };
        let consumed = consumed?;
        let partition = consumed.partition as usize;
        if self.next.len() <= partition {
            self.next.resize(partition + 1, 0);
        }
        let next = &mut self.next[partition];
        let limit = BatchLimits::default().records_bytes_max as usize;
        let mut records = consumed.batch.records(limit)?;
        while let Some(record) = records.next_view() {
            let (offset, view) = record?;
            if offset.0 != *next {
                bail!("partition {partition}: offset {offset} came where {next} was due");
            }
            *next += 1;
            self.records += 1;
            let value = view.value.context("a record without a value")?;
            ensure!(value.len() == self.value_bytes, "a value of {} bytes", value.len());
            look(value);
        }
        Ok(true)
    }
}
