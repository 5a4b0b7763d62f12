//! `latency`: one record at a time, each acknowledged before the next, on a fixed schedule.
//!
//! The schedule does not wait: a record that is late because the one before it was slow counts its
//! latency from when it was due, so a stall counts once for every record that it delayed. Slices of
//! the load alternate with slices of raw journal writes on the same schedule, and beside a cluster
//! with the same load of one node in a process of its own, so that all see the same disk.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use plimsoll_client::{Producer, Record};
use tokio::runtime::Handle;

use crate::bed::Bed;
use crate::journal_write::JournalProbe;
use crate::pacer::Pacer;
use crate::percentiles::Latencies;
use crate::report::{Report, Throughput, rounded};
use crate::values::Values;
use crate::workload::TOPIC;
use crate::{Event, Screen};

/// Slices of each, alternating.
const SLICES: u64 = 5;
/// Records that come before, uncounted.
const WARM_UP_RECORDS: u64 = 1_000;

/// `local` is the directory of the measured node, where there is one on this machine; `one_node` what
/// a cluster is compared with.
pub(super) async fn measure(
    bed: &Bed<'_>,
    one_node: Option<&Bed<'_>>,
    local: Option<&Path>,
    screen: Screen<'_>,
) -> anyhow::Result<Report> {
    let plan = bed.plan;
    let rate = plan.rate.context("a plan of latency has a rate")?;
    let mut probe = local.map(JournalProbe::new).transpose()?;
    screen(Event::Step("warming up"));
    let mut measured = Side::prepare(bed, rate).await?;
    let mut beside = match one_node {
        Some(bed) => Some(Side::prepare(bed, rate).await?),
        None => None,
    };
    screen(Event::Step(match beside {
        Some(_) => "measuring journal writes, one node and the cluster in turns",
        None => "measuring journal writes and the broker in turns",
    }));
    for slice in 0..SLICES {
        let records = plan.records / SLICES + u64::from(slice < plan.records % SLICES);
        if let Some(idle) = probe.take() {
            probe = Some(write_slice(idle, records.max(1), rate).await?);
        }
        if let Some(side) = beside.take() {
            beside = Some(side.send(records, rate).await?);
        }
        measured = measured.send(records, rate).await?;
    }

    let bytes = plan.records * u64::from(plan.record_bytes);
    let seconds = measured.took.as_secs_f64();
    let throughput = Throughput { records: plan.records, bytes, seconds };
    let mut report = Report::new(plan).with_throughput(throughput, None);
    report.latency_us = measured.latencies.percentiles();
    report.one_node_us = beside.as_ref().and_then(|side| side.latencies.percentiles());
    report.ratio_to_one_node = report
        .latency_us
        .zip(report.one_node_us)
        .map(|(found, one_node)| rounded(found.p50 / one_node.p50, 3));
    report.journal_write_us = Some(probe.and_then(|probe| probe.figures()));
    measured.end(bed).await?;
    if let (Some(side), Some(bed)) = (beside, one_node) {
        side.end(bed).await?;
    }
    Ok(report)
}

/// A producer, and what was counted of it.
struct Side {
    producer: Producer,
    values: Values,
    latencies: Latencies,
    took: Duration,
}

impl Side {
    /// Makes the topic and sends what is not counted.
    async fn prepare(bed: &Bed<'_>, rate: NonZeroU32) -> anyhow::Result<Self> {
        bed.create_topic(TOPIC).await?;
        let producer = bed.client().await?.producer(TOPIC).build().await?;
        let values = Values::new(bed.plan.record_bytes, 1);
        let side = Self { producer, values, latencies: Latencies::new(), took: Duration::ZERO };
        let warm = side.send(WARM_UP_RECORDS, rate).await?;
        Ok(Self { latencies: Latencies::new(), took: Duration::ZERO, ..warm })
    }

    /// The schedule is kept by a thread of its own, which no other task can delay.
    async fn send(mut self, records: u64, rate: NonZeroU32) -> anyhow::Result<Self> {
        let runtime = Handle::current();
        let sending = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let pacer = Pacer::new(rate);
            for index in 0..records {
                let record = Record::new(Bytes::copy_from_slice(self.values.next_value()));
                let due = pacer.wait(index);
                runtime.block_on(self.producer.send(record))?;
                self.latencies.record(due.elapsed());
            }
            self.took += began.elapsed();
            anyhow::Ok(self)
        });
        sending.await?
    }

    async fn end(self, bed: &Bed<'_>) -> anyhow::Result<()> {
        self.producer.close().await?;
        bed.delete_topic(TOPIC).await
    }
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
