//! `latency`: one record at a time, each acknowledged before the next, on a fixed schedule.
//!
//! The schedule does not wait: a record that is late because the one before it was slow counts its
//! latency from when it was due, so a stall counts once for every record that it delayed. Slices of
//! the load alternate with slices of raw journal writes on the same schedule, so that both see the
//! same disk.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use bytes::Bytes;
use plimsoll_client::{Producer, Record};
use tokio::runtime::Handle;

use crate::bed::Bed;
use crate::journal_write::JournalProbe;
use crate::pacer::Pacer;
use crate::percentiles::Latencies;
use crate::report::{Report, Throughput};
use crate::values::Values;
use crate::workload::TOPIC;
use crate::{Event, Screen};

/// Slices of each, alternating.
const SLICES: u64 = 5;
/// Records that come before, uncounted.
const WARM_UP_RECORDS: u64 = 1_000;

/// `local` is the directory of the measured node, where there is one on this machine.
pub(super) async fn measure(
    bed: &Bed<'_>,
    local: Option<&Path>,
    screen: Screen<'_>,
) -> anyhow::Result<Report> {
    let plan = bed.plan;
    let rate = plan.rate.context("a plan of latency has a rate")?;
    bed.create_topic(TOPIC).await?;
    let producer = bed.client().await?.producer(TOPIC).build().await?;
    let mut probe = local.map(JournalProbe::new).transpose()?;
    let mut values = Values::new(plan.record_bytes, 1);

    screen(Event::Step("warming up"));
    (values, _) = send_slice(&producer, values, WARM_UP_RECORDS, rate).await?;
    screen(Event::Step("measuring journal writes and the broker in turns"));
    let mut all = Latencies::new();
    let mut seconds = 0.0;
    for slice in 0..SLICES {
        let records = plan.records / SLICES + u64::from(slice < plan.records % SLICES);
        if let Some(idle) = probe.take() {
            probe = Some(write_slice(idle, records.max(1), rate).await?);
        }
        let began = Instant::now();
        let latencies;
        (values, latencies) = send_slice(&producer, values, records, rate).await?;
        seconds += began.elapsed().as_secs_f64();
        all.merge(&latencies);
    }
    producer.close().await?;
    bed.delete_topic(TOPIC).await?;

    let bytes = plan.records * u64::from(plan.record_bytes);
    let throughput = Throughput { records: plan.records, bytes, seconds };
    let mut report = Report::new(plan).with_throughput(throughput, None);
    report.latency_us = all.percentiles();
    report.journal_write_us = Some(probe.and_then(|probe| probe.figures()));
    Ok(report)
}

/// The schedule is kept by a thread of its own, which no other task can delay.
async fn send_slice(
    producer: &Producer,
    mut values: Values,
    records: u64,
    rate: NonZeroU32,
) -> anyhow::Result<(Values, Latencies)> {
    let (producer, runtime) = (producer.clone(), Handle::current());
    let sending = tokio::task::spawn_blocking(move || {
        let mut latencies = Latencies::new();
        let pacer = Pacer::new(rate);
        for index in 0..records {
            let record = Record::new(Bytes::copy_from_slice(values.next_value()));
            let due = pacer.wait(index);
            runtime.block_on(producer.send(record))?;
            latencies.record(due.elapsed());
        }
        anyhow::Ok((values, latencies))
    });
    sending.await?
}

async fn write_slice(
    mut probe: JournalProbe,
    writes: u64,
    rate: NonZeroU32,
) -> anyhow::Result<JournalProbe> {
    let writing = tokio::task::spawn_blocking(move || {
        probe.measure(writes, rate)?;
        anyhow::Ok(probe)
    });
    writing.await?
}
