//! `idle` with several nodes: what each uses of memory and processor when nobody asks it for anything,
//! and how soon a restarted one serves again.
//!
//! Every partition was used once and sleeps on all nodes. Memory is counted as of one node; processor
//! time over half a minute. Then one node is killed and started again; it serves when it says itself
//! that all members are there and no partition lacks anything. After that every partition must
//! acknowledge a record.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use crate::bed::{Bed, binary};
use crate::options::{Options, Plan};
use crate::report::{ClusterFigures, Report, rounded};
use crate::runtimes::Runtimes;
use crate::serve_cluster::{ServeCluster, commands};
use crate::workload::idle::{LOOK_EVERY, SETTLE_WITHIN, SETTLED_MB, touch, wait_for_sleep};
use crate::workload::{TOPIC, refuse_connect};
use crate::{Event, Screen};

/// How long the processor time is counted.
const COUNTED: Duration = Duration::from_secs(30);

pub(super) async fn measure(
    plan: &Plan,
    options: &Options,
    runtimes: &Runtimes,
    directory: &Path,
    screen: Screen<'_>,
) -> anyhow::Result<Report> {
    refuse_connect(plan, options)?;
    screen(Event::Step("starting the nodes"));
    let commands = commands(binary(options)?, directory, plan.nodes, &plan.node_settings)?;
    let mut cluster = ServeCluster::start(commands, plan.transport).await?;
    let config = cluster.client_config()?;
    if plan.partitions > 0 {
        screen(Event::Step(&format!("touching {} partitions", plan.partitions)));
        Bed::connected(plan, runtimes, &config, directory)?.create_topic(TOPIC).await?;
        touch(&config, plan).await?;
        screen(Event::Step("waiting until all partitions sleep on all nodes"));
        for index in 0..cluster.len() {
            wait_for_sleep(&cluster.client_of(index).await?).await?;
        }
    }
    screen(Event::Step("waiting until memory has settled"));
    let resident_mb = settled(&mut cluster).await?;
    screen(Event::Step("counting processor time"));
    let cpu_percent = cpu_percent(&cluster).await?;
    screen(Event::Step("kill -9 of one node and restart"));
    let last = cluster.len() - 1;
    cluster.kill(last)?;
    let took = cluster.time_to_serve(last).await?;
    if plan.partitions > 0 {
        screen(Event::Step("asking every partition for an acknowledgement"));
        touch(&config, plan).await?;
    }
    cluster.check_alive()?;

    let mut report = Report::new(plan);
    report.records = plan.records;
    report.seconds = rounded(took.as_secs_f64(), 6);
    report.restart_s = Some(report.seconds);
    report.cluster = ClusterFigures {
        cpu_percent: Some(cpu_percent),
        resident_mb: Some(resident_mb.into_iter().map(|found| rounded(found, 3)).collect()),
        ..ClusterFigures::default()
    };
    Ok(report)
}

/// Resident memory of each node, when it has stopped falling on all of them.
async fn settled(cluster: &mut ServeCluster) -> anyhow::Result<Vec<f64>> {
    let began = Instant::now();
    let mut last = resident(cluster)?;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        cluster.check_alive()?;
        let now = resident(cluster)?;
        let falls = now.iter().zip(&last).any(|(now, last)| *now <= last - SETTLED_MB);
        if !falls && began.elapsed() > 5 * LOOK_EVERY {
            return Ok(now);
        }
        if began.elapsed() > SETTLE_WITHIN {
            bail!("memory still changes after {SETTLE_WITHIN:?}: {now:?} MB");
        }
        last = now;
    }
}

fn resident(cluster: &ServeCluster) -> anyhow::Result<Vec<f64>> {
    (0..cluster.len()).map(|index| Ok(cluster.process(index).memory()?.resident_mb)).collect()
}

/// Share of one core that each node used.
async fn cpu_percent(cluster: &ServeCluster) -> anyhow::Result<Vec<f64>> {
    let used = || -> anyhow::Result<Vec<Duration>> {
        (0..cluster.len()).map(|index| cluster.process(index).cpu_time()).collect()
    };
    let (began, before) = (Instant::now(), used()?);
    tokio::time::sleep(COUNTED).await;
    let (seconds, after) = (began.elapsed().as_secs_f64(), used()?);
    ensure!(before.len() == after.len(), "nodes came or went");
    let percent = |(after, before): (Duration, Duration)| {
        rounded((after - before).as_secs_f64() / seconds * 100.0, 2)
    };
    Ok(after.into_iter().zip(before).map(percent).collect())
}
