//! `rebalance`: a node joins a filled cluster under a steady load of single records.
//!
//! Latencies are counted apart for the time before, and for the time from the start of the new node
//! until the last replica has moved. The ratio of the ring is what the cluster's own plan says when the
//! node is an active member; the ratio moved is counted from where the replicas are before and after.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use plimsoll_client::Client;
use plimsoll_protocol::ids::NodeId;

use crate::bed::{Bed, binary};
use crate::load::{self, Load, Stamp};
use crate::options::{Options, Plan};
use crate::percentiles::Latencies;
use crate::report::{ClusterFigures, Report, Throughput, rounded};
use crate::runtimes::Runtimes;
use crate::serve_cluster::{ServeCluster, commands};
use crate::steady::Steady;
use crate::values::Values;
use crate::workload::{TOPIC, refuse_connect};
use crate::{Event, Screen};

/// How long the load is measured before the node joins.
const BEFORE: Duration = Duration::from_secs(15);
/// The load runs this long before that, uncounted.
const WARM_UP: Duration = Duration::from_secs(3);

const COPIED_WITHIN: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Where the replicas of each partition belong.
type Placement = Vec<BTreeSet<NodeId>>;

pub(super) async fn measure(
    plan: &Plan,
    options: &Options,
    runtimes: &Runtimes,
    directory: &Path,
    screen: Screen<'_>,
) -> anyhow::Result<Report> {
    refuse_connect(plan, options)?;
    load::check(plan)?;
    let rate = plan.rate.context("a plan of rebalance has a rate")?;
    screen(Event::Step("starting the nodes"));
    let mut all = commands(binary(options)?, directory, plan.nodes + 1, &plan.node_settings)?;
    let newcomer = all.pop().context("at least the new node")?;
    let mut cluster = ServeCluster::start(all, plan.transport).await?;
    let config = cluster.client_config()?;
    // The rate is that of the measured load; the log is filled as fast as it can be.
    let filled = Plan { rate: None, ..plan.clone() };
    let bed = Bed::connected(&filled, runtimes, &config, directory)?;
    bed.create_topic(TOPIC).await?;
    screen(Event::Step(&format!("filling {} MB", plan.value_bytes() / 1_000_000)));
    let (mut filling, _) = Load::prepare(&bed, TOPIC).await?;
    filling.send(plan.records, Stamp::None).await?;
    filling.close().await?;
    let admin = cluster.client().await?;
    cluster.wait_until_well(&admin).await?;
    let before = placement(&admin).await?;

    let began = Instant::now();
    let producer = cluster.client().await?.producer(TOPIC).build().await?;
    let values = Values::new(plan.record_bytes, 1);
    let load = Steady::start(producer, plan.partitions, values, rate);
    screen(Event::Step("measuring the load before"));
    tokio::time::sleep(WARM_UP).await;
    load.take_latencies();
    tokio::time::sleep(BEFORE).await;
    let latencies_before = load.take_latencies();

    screen(Event::Step("a node joins"));
    let join = Instant::now();
    cluster.add(newcomer)?;
    cluster.wait_until_members(&admin).await?;
    let joined = join.elapsed();
    let planned = admin.admin().rebalance().await?;
    screen(Event::Step("replicas move"));
    cluster.wait_until_well(&admin).await?;
    let segments = cluster.command(cluster.len() - 1).data_directory().join("segments");
    wait_for_copies(&segments, planned.replicas_moved).await?;
    let moved = join.elapsed() - joined;
    let latencies_during = load.take_latencies();
    let seen = load.end().await?;
    let after = placement(&admin).await?;

    screen(Event::Note(&format!(
        "joined within {:.1} s, {} of {} replicas planned to move, moved within {:.1} s",
        joined.as_secs_f64(),
        planned.replicas_moved,
        planned.replicas_total,
        moved.as_secs_f64()
    )));
    if let Some(failure) = &seen.failure {
        screen(Event::Note(&format!(
            "{} records were given up; the first: {failure}",
            seen.failed
        )));
    }
    ensure!(planned.replicas_total > 0, "the plan of the rebalance knows of no replica");
    let bytes = seen.acked * u64::from(plan.record_bytes);
    let seconds = began.elapsed().as_secs_f64();
    let throughput = Throughput { records: seen.acked, bytes, seconds };
    let mut report = Report::new(plan).with_throughput(throughput, None);
    let ring = f64::from(planned.replicas_moved) / f64::from(planned.replicas_total);
    report.cluster = ClusterFigures {
        moved_ratio: Some(rounded(moved_ratio(&before, &after), 4)),
        ring_ratio: Some(rounded(ring, 4)),
        failed: Some(seen.failed),
        p99_before_us: p99(&latencies_before),
        p99_during_us: p99(&latencies_during),
        ..ClusterFigures::default()
    };
    let mut all = latencies_before;
    all.merge(&latencies_during);
    report.latency_us = all.percentiles();
    Ok(report)
}

/// Waits until the new node holds as many segments as replicas were to move: each of them holds records,
/// so a cluster that only says that all is done is not believed.
async fn wait_for_copies(segments: &Path, replicas: u32) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let held = std::fs::read_dir(segments)?.count();
        if held >= replicas as usize {
            return Ok(());
        }
        ensure!(
            began.elapsed() < COPIED_WITHIN,
            "{replicas} replicas were to move, and the new node holds {held} segments after \
             {COPIED_WITHIN:?}"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn p99(latencies: &Latencies) -> Option<f64> {
    latencies.percentiles().map(|found| found.p99)
}

async fn placement(client: &Client) -> anyhow::Result<Placement> {
    let described = client.admin().describe_topic(TOPIC).await?;
    Ok(described.partitions.into_iter().map(|found| found.replicas.into_iter().collect()).collect())
}

/// Replicas that are where none of their partition was, of all.
fn moved_ratio(before: &Placement, after: &Placement) -> f64 {
    let new =
        |(before, after): (&BTreeSet<NodeId>, &BTreeSet<NodeId>)| after.difference(before).count();
    let moved: usize = before.iter().zip(after).map(new).sum();
    let total: usize = after.iter().map(BTreeSet::len).sum();
    moved as f64 / total as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_replicas_on_another_node_have_moved() {
        let set = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
        let before = vec![set(&[1, 2, 3]), set(&[1, 2, 3])];
        let after = vec![set(&[3, 1, 2]), set(&[1, 4, 3])];
        assert!((moved_ratio(&before, &after) - 1.0 / 6.0).abs() < 1e-9);
        assert!(moved_ratio(&before, &before).abs() < 1e-9);
    }
}
