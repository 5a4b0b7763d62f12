//! `produce` and `partitions`: batches from all producers, as fast as they are acknowledged.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use plimsoll_protocol::api::Durability;

use crate::bed::{Bed, mean};
use crate::journal_write::disk_mb_per_s;
use crate::load::{Load, Stamp};
use crate::raw_stream::Direction;
use crate::report::{Report, rounded};
use crate::warm_memory::touch_for;
use crate::workload::{TOPIC, WARM_UP_TOPIC};
use crate::{Event, Screen};

/// The files of the warm-up are removed by a later checkpoint, or two.
const GONE_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Latency is that of a batch: from handing it to the client to its acknowledgement. `local` is the
/// directory of the measured node, where there is one on this machine.
pub(super) async fn measure(
    bed: &Bed<'_>,
    local: Option<&Path>,
    screen: Screen<'_>,
) -> anyhow::Result<Report> {
    let records = bed.plan.records;
    screen(Event::Step("touching the memory that the load will need"));
    touch_for(bed.plan.value_bytes());
    screen(Event::Step("warming up with the same load"));
    bed.create_topic(WARM_UP_TOPIC).await?;
    let (mut load, _) = Load::prepare(bed, WARM_UP_TOPIC).await?;
    load.send(records, Stamp::None).await?;
    load.close().await?;
    bed.delete_topic(WARM_UP_TOPIC).await?;
    let disk = local.filter(|_| bed.plan.durability == Durability::Durable).map(Path::to_owned);
    if local.is_some() {
        screen(Event::Step("waiting until the disk is at rest"));
        rest(&bed.segments(), bed.plan.value_bytes()).await?;
    }
    let disk_before = disk_rate(disk.clone()).await?;
    bed.warm_up_stream(Direction::ToNode).await?;

    bed.create_topic(TOPIC).await?;
    let (mut load, touched) = Load::prepare(bed, TOPIC).await?;
    screen(Event::Step("measuring the raw stream"));
    let before = bed.limit(Direction::ToNode).await?;
    screen(Event::Step("measuring the broker"));
    let (throughput, latencies) = load.send(records, Stamp::None).await?;
    screen(Event::Step("measuring the raw stream again"));
    let after = bed.limit(Direction::ToNode).await?;
    load.close().await?;
    let disk_after = disk_rate(disk).await?;
    bed.ensure_stored(TOPIC, records + touched).await?;
    bed.delete_topic(TOPIC).await?;

    let mut report = Report::new(bed.plan).with_throughput(throughput, mean(before, after));
    report.latency_us = latencies.percentiles();
    report.disk_mb_per_s = mean(disk_before, disk_after).map(|found| rounded(found, 3));
    Ok(report)
}

async fn disk_rate(directory: Option<PathBuf>) -> anyhow::Result<Option<f64>> {
    let Some(directory) = directory else { return Ok(None) };
    Ok(Some(tokio::task::spawn_blocking(move || disk_mb_per_s(&directory)).await??))
}

/// Waits until the files of the warm-up are gone and what it left in the page cache is written:
/// removing and writing them would be measured beside the load.
async fn rest(segments: &[PathBuf], warm_up_bytes: u64) -> anyhow::Result<()> {
    let began = Instant::now();
    for directory in segments {
        while bytes_in(directory)? > warm_up_bytes / 10 && began.elapsed() < GONE_WITHIN {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    Ok(tokio::task::spawn_blocking(rustix::fs::sync).await?)
}

fn bytes_in(directory: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        // A file that is gone by now counts nothing.
        bytes += entry?.metadata().map_or(0, |found| found.len());
    }
    Ok(bytes)
}
