//! `singles`: many tasks that each send single records and await a window of them together, by the
//! client's ordinary path: what a service with many small events does.

use std::time::Instant;

use bytes::Bytes;
use plimsoll_client::{Producer, Record};
use tokio::task::JoinSet;

use crate::bed::Bed;
use crate::percentiles::Latencies;
use crate::report::{Report, Throughput};
use crate::values::Values;
use crate::workload::{TOPIC, WARM_UP_TOPIC};
use crate::{Event, Screen};

/// Latency is that of a window: from its first send to its last acknowledgement.
pub(super) async fn measure(bed: &Bed<'_>, screen: Screen<'_>) -> anyhow::Result<Report> {
    screen(Event::Step("warming up with the same load"));
    round(bed, WARM_UP_TOPIC).await?;
    screen(Event::Step("measuring the broker"));
    let (throughput, latencies) = round(bed, TOPIC).await?;
    let mut report = Report::new(bed.plan).with_throughput(throughput, None);
    report.latency_us = latencies.percentiles();
    Ok(report)
}

async fn round(bed: &Bed<'_>, topic: &str) -> anyhow::Result<(Throughput, Latencies)> {
    let plan = bed.plan;
    bed.create_topic(topic).await?;
    let mut producers = Vec::new();
    for _ in 0..plan.producers {
        producers.push(bed.client().await?.producer(topic).build().await?);
    }
    let mut values = Values::new(plan.record_bytes, 1);
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for (index, producer) in (0..plan.tasks).zip(producers.iter().cycle()) {
        let tasks_in_all = u64::from(plan.tasks);
        let records =
            plan.records / tasks_in_all + u64::from(u64::from(index) < plan.records % tasks_in_all);
        let value = Bytes::copy_from_slice(values.next_value());
        tasks.spawn(send_windows(producer.clone(), value, records, plan.window));
    }
    let mut all = Latencies::new();
    while let Some(done) = tasks.join_next().await {
        all.merge(&done??);
    }
    let seconds = began.elapsed().as_secs_f64();
    for producer in producers {
        producer.close().await?;
    }
    bed.ensure_stored(topic, plan.records).await?;
    bed.delete_topic(topic).await?;
    let bytes = plan.records * u64::from(plan.record_bytes);
    Ok((Throughput { records: plan.records, bytes, seconds }, all))
}

async fn send_windows(
    producer: Producer,
    value: Bytes,
    records: u64,
    window: u32,
) -> anyhow::Result<Latencies> {
    let mut latencies = Latencies::new();
    let mut acks = Vec::with_capacity(window as usize);
    let mut left = records;
    while left > 0 {
        let began = Instant::now();
        for _ in 0..left.min(u64::from(window)) {
            acks.push(producer.enqueue(Record::new(value.clone())).await?);
        }
        let count = acks.len() as u64;
        for ack in acks.drain(..) {
            ack.await?;
        }
        latencies.record_many(began.elapsed(), count);
        left -= count;
    }
    Ok(latencies)
}
