//! `failover`: how long a partition takes no record when the node of its leader ends.
//!
//! Single records are sent on a steady schedule. Each round ends the node that leads: `kill -9`, of
//! which nobody is told, or SIGTERM, upon which it hands over. Unavailable is the longest gap between
//! two acknowledgements around it, the client's own search for the new leader included. The node is
//! started again and has caught up before the next round. `--locks` is another measurement:
//! `lock/failover.rs`.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, ensure};

use crate::bed::{Bed, binary};
use crate::options::{Fault, Options, Plan};
use crate::report::{ClusterFigures, Report, Unavailable, rounded};
use crate::runtimes::Runtimes;
use crate::serve_cluster::{ServeCluster, commands};
use crate::steady::Steady;
use crate::values::Values;
use crate::workload::{TOPIC, refuse_connect};
use crate::{Event, Screen};

/// Acknowledged records that show the load to be steady before a node is ended, and to be steady
/// again after it.
const STEADY_ACKS: u64 = 250;

pub(super) async fn measure(
    plan: &Plan,
    options: &Options,
    runtimes: &Runtimes,
    directory: &Path,
    screen: Screen<'_>,
) -> anyhow::Result<Report> {
    refuse_connect(plan, options)?;
    ensure!(
        plan.nodes >= 3 && plan.replicas >= 3,
        "failover needs a majority that survives: at least --nodes 3 with --replicas 3"
    );
    let fault = plan.fault.context("a plan of failover has a fault")?;
    let rate = plan.rate.context("a plan of failover has a rate")?;
    screen(Event::Step("starting the nodes"));
    let commands = commands(binary(options)?, directory, plan.nodes, &plan.node_settings)?;
    let mut cluster = ServeCluster::start(commands, plan.transport).await?;
    let config = cluster.client_config()?;
    Bed::connected(plan, runtimes, &config, directory)?.create_topic(TOPIC).await?;
    let admin = cluster.client().await?;
    let producer = cluster.client().await?.producer(TOPIC).build().await?;

    let began = Instant::now();
    let load = Steady::start(producer, plan.partitions, Values::new(plan.record_bytes, 1), rate);
    let mut gaps = Vec::new();
    for round in 1..=plan.rounds {
        screen(Event::Step(&format!(
            "{} of a leader's node, {round} of {}",
            fault.name(),
            plan.rounds
        )));
        cluster.wait_until_well(&admin).await?;
        load.mark();
        load.longest_gap(STEADY_ACKS).await?;
        let leader = cluster.wait_for_leader(&admin, TOPIC, 0).await?;
        load.mark();
        match fault {
            Fault::Kill => cluster.kill(leader)?,
            Fault::Stop => cluster.stop(leader).await?,
        }
        // The node is gone: what is sent from here on needs another leader.
        let to_come = load.sent_after_mark() + STEADY_ACKS;
        let gap = load.longest_gap(to_come).await?;
        let milliseconds = gap.as_secs_f64() * 1e3;
        screen(Event::Note(&format!(
            "{} {round}: node {leader}, {milliseconds:.1} ms",
            fault.name()
        )));
        gaps.push(gap);
        cluster.restart(leader)?;
    }
    let seen = load.end().await?;
    cluster.check_alive()?;
    if let Some(failure) = &seen.failure {
        screen(Event::Note(&format!(
            "{} records were given up; the first: {failure}",
            seen.failed
        )));
    }

    let mut report = Report::new(plan);
    report.records = seen.acked;
    report.seconds = rounded(began.elapsed().as_secs_f64(), 6);
    report.cluster = ClusterFigures {
        fault: Some(fault.name()),
        rounds: Some(plan.rounds),
        unavailable_ms: Unavailable::of(gaps),
        failed: Some(seen.failed),
        ..ClusterFigures::default()
    };
    Ok(report)
}
