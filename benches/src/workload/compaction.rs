//! `compaction`: many updates of few keys, appended to a topic that is compacted meanwhile: how fast, beside a
//! topic that is not, and how much of the disk is left to it when it is done.
//!
//! The uncompacted topic is measured before and after, when nothing is compacted; the mean is taken.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use plimsoll_client::{Admin, PartitionInfo};
use plimsoll_protocol::api::{Cleanup, CompactionInfo, TopicRules};

use crate::bed::Bed;
use crate::load::{self, Load, Stamp};
use crate::options::Plan;
use crate::percentiles::Latencies;
use crate::report::{CompactionFigures, Report, Throughput, rounded};
use crate::table::grouped;
use crate::warm_memory::touch_for;
use crate::workload::{TOPIC, WARM_UP_TOPIC};
use crate::{Event, Screen};

/// Of the load that comes before, uncounted.
const WARM_UP: u64 = 10;
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A node compacts a partition while at least so many percent of its bytes wait for it, those of the open segment
/// included, which is closed for it at an age of 30 s. What is less stays as it is, so a partition at rest takes
/// at most 1.33 times what the last run left of it.
const DUE_PERCENT: u64 = 25;
/// The state must lie in both kept checkpoints, the open segment must be closed, named by two checkpoints and
/// purged, and all is read twice: each of it takes a look of the node's, one in 30 s by default.
const SETTLED_WITHIN: Duration = Duration::from_secs(15 * 60);

/// The settings that the workload cannot do without.
pub(super) fn check(plan: &Plan) -> anyhow::Result<()> {
    load::check(plan)?;
    ensure!(plan.keys >= plan.partitions, "compaction needs a key for each partition at least");
    // The last record of a key is known where one producer sends them all.
    ensure!(plan.producers <= plan.partitions, "compaction needs a partition for each producer");
    // The disk is that of the node that answers.
    let replicas_are_everywhere = plan.replicas >= plan.nodes;
    ensure!(replicas_are_everywhere, "compaction needs a replica of each partition on each node");
    Ok(())
}

/// Latency is that of a batch, as in `produce`.
pub(super) async fn measure(bed: &Bed<'_>, screen: Screen<'_>) -> anyhow::Result<Report> {
    let plan = bed.plan;
    screen(Event::Step("touching the memory that the load will need"));
    touch_for(plan.value_bytes());
    screen(Event::Step("warming up with a tenth of the load"));
    plain(bed, plan.records.div_ceil(WARM_UP)).await?;
    screen(Event::Step("appending to a topic that is not compacted"));
    let before = plain(bed, plan.records).await?;
    screen(Event::Step("appending to a compacted topic"));
    let compacted = compact(bed, screen).await?;
    screen(Event::Step("appending to a topic that is not compacted, again"));
    let after = plain(bed, plan.records).await?;

    let uncompacted_mb_per_s = (before + after) / 2.0;
    let disk_ratio = compacted.disk_bytes as f64 / compacted.live_bytes as f64;
    let append_ratio = compacted.throughput.mb_per_s() / uncompacted_mb_per_s;
    let mut report = Report::new(plan).with_throughput(compacted.throughput, None);
    report.latency_us = compacted.latencies.percentiles();
    report.compaction = Some(CompactionFigures {
        keys: plan.keys,
        disk_ratio: rounded(disk_ratio, 4),
        append_ratio: rounded(append_ratio, 4),
        uncompacted_mb_per_s: rounded(uncompacted_mb_per_s, 3),
        live_bytes: compacted.live_bytes,
        disk_bytes: compacted.disk_bytes,
        disk_bytes_before: compacted.disk_bytes_before,
        settled_s: rounded(compacted.settled.as_secs_f64(), 3),
    });
    Ok(report)
}

/// Millions of bytes of values per second into a topic of its own that is not compacted.
async fn plain(bed: &Bed<'_>, records: u64) -> anyhow::Result<f64> {
    bed.create_topic(WARM_UP_TOPIC).await?;
    let (mut load, touched) = Load::prepare_keyed(bed, WARM_UP_TOPIC).await?;
    let (throughput, _) = load.send(records, Stamp::None).await?;
    load.close().await?;
    bed.ensure_stored(WARM_UP_TOPIC, records + touched).await?;
    bed.delete_topic(WARM_UP_TOPIC).await?;
    Ok(throughput.mb_per_s())
}

/// What the compacted topic came to.
struct Compacted {
    throughput: Throughput,
    latencies: Latencies,
    live_bytes: u64,
    disk_bytes_before: u64,
    disk_bytes: u64,
    settled: Duration,
}

async fn compact(bed: &Bed<'_>, screen: Screen<'_>) -> anyhow::Result<Compacted> {
    let records = bed.plan.records;
    let rules = TopicRules { cleanup: Cleanup::Compact, ..TopicRules::default() };
    bed.create_topic_with(TOPIC, rules).await?;
    let (mut load, touched) = Load::prepare_keyed(bed, TOPIC).await?;
    let (throughput, latencies) = load.send(records, Stamp::None).await?;
    let live_bytes = load.live_bytes();
    load.close().await?;
    let admin = bed.client().await?.admin();
    let disk_bytes_before = Standing::of(&admin).await?.disk_bytes;
    screen(Event::Step("waiting until nothing is left to compact"));
    let (settled, standing) = settle(&admin).await?;
    screen(Event::Note(&format!(
        "{} MB of {} MB are left on the disk, for {} MB of last records; {} MB of it wait",
        grouped(standing.disk_bytes / 1_000_000),
        grouped(disk_bytes_before / 1_000_000),
        grouped(live_bytes / 1_000_000),
        grouped(standing.waiting_bytes / 1_000_000),
    )));
    // No offset is given twice, whatever was compacted.
    bed.ensure_stored(TOPIC, records + touched).await?;
    bed.delete_topic(TOPIC).await?;
    let disk_bytes = standing.disk_bytes;
    Ok(Compacted { throughput, latencies, live_bytes, disk_bytes_before, disk_bytes, settled })
}

/// How far the topic is compacted, over its partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standing {
    disk_bytes: u64,
    waiting_bytes: u64,
    /// Of each partition something was compacted, nothing is at work, and nothing is due.
    is_settled: bool,
}

impl Standing {
    async fn of(admin: &Admin) -> anyhow::Result<Self> {
        let described = admin.describe_topic(TOPIC).await?;
        let none = Self { disk_bytes: 0, waiting_bytes: 0, is_settled: true };
        described.partitions.iter().try_fold(none, Self::plus)
    }

    fn plus(self, partition: &PartitionInfo) -> anyhow::Result<Self> {
        let compaction = partition.compaction.as_ref();
        let compaction = compaction.context("the node does not say how far it has compacted")?;
        Ok(Self {
            disk_bytes: self.disk_bytes + partition.bytes,
            waiting_bytes: self.waiting_bytes + compaction.waiting_bytes,
            is_settled: self.is_settled && is_settled(compaction),
        })
    }
}

/// Whether a partition at rest stays as it is. To compare what waits with what is live would not do: a log that
/// was never compacted and one that is done may both stand still for long.
fn is_settled(compaction: &CompactionInfo) -> bool {
    let waiting = compaction.waiting_bytes;
    let is_due = waiting * 100 >= DUE_PERCENT * (waiting + compaction.compacted_bytes);
    compaction.last_ms.is_some() && !compaction.running && !is_due
}

/// Waits until nothing is left that is due; how long that was, and where the topic stands then.
async fn settle(admin: &Admin) -> anyhow::Result<(Duration, Standing)> {
    let began = Instant::now();
    loop {
        let now = Standing::of(admin).await?;
        if now.is_settled {
            return Ok((began.elapsed(), now));
        }
        ensure!(
            began.elapsed() < SETTLED_WITHIN,
            "{} of {} bytes still wait to be compacted after {SETTLED_WITHIN:?}",
            now.waiting_bytes,
            now.disk_bytes
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Options, Workload};
    use plimsoll_protocol::ids::Offset;
    use std::num::NonZeroU32;

    #[test]
    fn a_partition_is_settled_once_it_was_compacted_and_nothing_is_due() {
        let at = |waiting_bytes, last_ms| CompactionInfo {
            compacted_to: Offset(0),
            compacted_bytes: 750,
            waiting_bytes,
            last_ms,
            last_bytes_before: 0,
            last_bytes_after: 0,
            running: false,
        };
        assert!(is_settled(&at(249, Some(1))));
        assert!(!is_settled(&at(250, Some(1))), "a quarter waits");
        assert!(!is_settled(&at(0, None)), "it was never compacted");
        assert!(!is_settled(&CompactionInfo { running: true, ..at(0, Some(1)) }));
    }

    #[test]
    fn loads_whose_last_records_are_not_known_are_refused() {
        let refused = |options: Options| check(&options.plans(Workload::Compaction)[0]).is_err();
        assert!(!refused(Options::default()));
        assert!(refused(Options { producers: NonZeroU32::new(3), ..Options::default() }));
        assert!(refused(Options { keys: NonZeroU32::new(1), ..Options::default() }));
        let nodes = NonZeroU32::new(3);
        let replicas = NonZeroU32::new(1);
        assert!(!refused(Options { nodes, ..Options::default() }));
        assert!(refused(Options { nodes, replicas, ..Options::default() }));
    }
}
