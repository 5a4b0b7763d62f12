//! `restart` with several nodes: a large log, `kill -9` of one node under load, and the time from the
//! start of its process until it says itself that no partition lacks anything.
//!
//! The others go on meanwhile, so the node has to be fed what it missed. Each round kills another
//! node; the slowest is the figure.

use std::path::Path;
use std::time::Duration;

use anyhow::bail;

use crate::bed::{Bed, binary};
use crate::load::{Load, Stamp};
use crate::options::{Options, Plan};
use crate::report::{Report, rounded};
use crate::runtimes::Runtimes;
use crate::serve_cluster::{ServeCluster, commands};
use crate::workload::restart::{LOAD, ROUNDS};
use crate::workload::{TOPIC, refuse_connect};
use crate::{Event, Screen};

pub(super) async fn measure(
    plan: &Plan,
    options: &Options,
    runtimes: &Runtimes,
    directory: &Path,
    screen: Screen<'_>,
) -> anyhow::Result<Report> {
    refuse_connect(plan, options)?;
    crate::load::check(plan)?;
    let commands = commands(binary(options)?, directory, plan.nodes, &plan.node_settings)?;
    let mut cluster = ServeCluster::start(commands, plan.transport).await?;
    let bed = Bed::connected(plan, runtimes, &cluster.client_config()?, directory)?;
    bed.create_topic(TOPIC).await?;
    screen(Event::Step(&format!("filling {} MB", plan.value_bytes() / 1_000_000)));
    let (mut load, _) = Load::prepare(&bed, TOPIC).await?;
    load.send(plan.records, Stamp::None).await?;
    load.close().await?;
    let mut slowest = Duration::ZERO;
    for round in 1..=ROUNDS {
        let killed = (round - 1) % cluster.len();
        screen(Event::Step(&format!("kill -9 under load and restart, {round} of {ROUNDS}")));
        let (mut load, _) = Load::prepare(&bed, TOPIC).await?;
        let killing = async {
            tokio::time::sleep(LOAD).await;
            cluster.kill(killed)?;
            // The others serve on: what comes now is what the node will have missed.
            tokio::time::sleep(LOAD).await;
            anyhow::Ok(())
        };
        tokio::select! {
            ended = load.send(u64::MAX, Stamp::None) => {
                ended?;
                bail!("a load without end has ended");
            }
            killed = killing => killed?,
        }
        drop(load);
        let took = cluster.time_to_serve(killed).await?;
        screen(Event::Note(&format!(
            "restart {round}: node {killed}, {:.3} s",
            took.as_secs_f64()
        )));
        slowest = slowest.max(took);
    }

    let seconds = rounded(slowest.as_secs_f64(), 6);
    let mut report = Report::new(plan);
    report.records = plan.records;
    report.seconds = seconds;
    report.restart_s = Some(seconds);
    Ok(report)
}
