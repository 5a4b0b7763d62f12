//! `delay`: many messages that wait for their time, then so many per second whose time comes: how late they
//! are delivered.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use plimsoll_client::Record;

use super::queue::WINDOW;
use crate::bed::Bed;
use crate::percentiles::Latencies;
use crate::report::{Report, Throughput, rounded};
use crate::serve_process::own_memory;
use crate::values::Values;
use crate::{Event, Screen};

const QUEUE: &str = "plimsoll-bench-delay";
/// Messages are stored at this rate at least: what takes longer is refused, as the first would be due.
const FILL_PER_S: u64 = 20_000;
/// Between the last message that is stored and the first that is due.
const REST: Duration = Duration::from_secs(2);

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Lateness is that of a message: from its time to its delivery, by the wall clock of this machine, in
/// whole milliseconds. The memory is that of this process, in which an embedded node is, while all wait.
pub(super) async fn measure(bed: &Bed<'_>, screen: Screen<'_>) -> anyhow::Result<Report> {
    let plan = bed.plan;
    let rate = u64::from(plan.rate.context("a plan of delay has a rate")?.get());
    bed.create_queue(QUEUE).await?;
    let client = bed.client().await?;
    let producer = client.producer(QUEUE).build().await?;
    let mut values = Values::new(plan.record_bytes, 1);
    let fill = Duration::from_secs(plan.records.div_ceil(FILL_PER_S)) + REST;
    let first_ms = now_ms() + i64::try_from(fill.as_millis())?;
    screen(Event::Step(&format!("storing {} messages", plan.records)));
    let mut acks = std::collections::VecDeque::new();
    for index in 0..plan.records {
        if acks.len() == WINDOW * 10 {
            let ack: plimsoll_client::AckFuture = acks.pop_front().context("the window is full")?;
            ack.await?;
        }
        let due_ms = first_ms + i64::try_from(index * 1000 / rate)?;
        let value = Bytes::copy_from_slice(values.next_value());
        let record = Record { deliver_at_ms: Some(due_ms), ..Record::new(value) };
        acks.push_back(producer.enqueue(record).await?);
    }
    for ack in acks {
        ack.await?;
    }
    ensure!(now_ms() < first_ms, "storing took longer than {fill:?}: the first messages are due");
    producer.close().await?;
    let memory = own_memory()?;
    screen(Event::Step("waiting for their time"));
    let mut consumer = client.queue_consumer(QUEUE).prefetch(10_000).build().await?;
    let mut latencies = Latencies::new();
    let (mut early, mut seen) = (0_u64, 0);
    let mut last = None;
    while seen < plan.records {
        let message = consumer.next().await.context("the queue ended before all was there")??;
        let due_ms = message.record.deliver_at_ms.context("each message has its time")?;
        let late_ms = now_ms() - due_ms;
        early += u64::from(late_ms < 0);
        latencies.record(Duration::from_millis(u64::try_from(late_ms).unwrap_or(0)));
        seen += 1;
        last = Some(message.accept());
    }
    if let Some(last) = last {
        last.await?;
    }
    ensure!(early == 0, "{early} messages came before their time");
    let seconds = seen as f64 / rate as f64;
    let bytes = seen * u64::from(plan.record_bytes);
    let mut report =
        Report::new(plan).with_throughput(Throughput { records: seen, bytes, seconds }, None);
    report.messages_per_s = Some(rounded(rate as f64, 1));
    report.lateness_us = latencies.percentiles();
    report.memory = Some(memory);
    bed.delete_topic(QUEUE).await?;
    Ok(report)
}
