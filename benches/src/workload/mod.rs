//! The workloads, one file each.

mod amqp;
mod compaction;
mod consume;
mod delay;
mod end_to_end;
mod failover;
mod group;
mod idle;
mod idle_cluster;
mod latency;
mod lock;
mod produce;
mod queue;
mod rebalance;
mod restart;
mod restart_cluster;
mod singles;
mod transport;

use std::path::Path;

use crate::bed::Bed;
use crate::load;
use crate::options::{Options, Plan, Workload};
use crate::report::Report;
use crate::runtimes::Runtimes;
use crate::{Event, Screen};

/// Topic that is measured.
const TOPIC: &str = "plimsoll-bench";
/// Topic of the same load that comes before, uncounted.
const WARM_UP_TOPIC: &str = "plimsoll-bench-warm-up";

/// Measures one plan with everything temporary in `directory`.
pub(crate) async fn measure(
    plan: &Plan,
    options: &Options,
    runtimes: &Runtimes,
    directory: &Path,
    screen: Screen<'_>,
) -> anyhow::Result<Report> {
    let several = plan.nodes > 1;
    match plan.workload {
        Workload::Transport => return transport::measure(plan, runtimes, directory).await,
        Workload::Restart if several => {
            return restart_cluster::measure(plan, options, runtimes, directory, screen).await;
        }
        Workload::Restart => {
            return restart::measure(plan, options, runtimes, directory, screen).await;
        }
        Workload::Idle if several => {
            return idle_cluster::measure(plan, options, runtimes, directory, screen).await;
        }
        Workload::Idle => return idle::measure(plan, options, directory, screen).await,
        Workload::Failover if plan.locks => {
            return lock::failover::measure(plan, options, runtimes, directory, screen).await;
        }
        Workload::Failover => {
            return failover::measure(plan, options, runtimes, directory, screen).await;
        }
        Workload::Rebalance => {
            return rebalance::measure(plan, options, runtimes, directory, screen).await;
        }
        Workload::Amqp => return amqp::measure(plan, options, directory, screen).await,
        Workload::Queue | Workload::Delay | Workload::Group => {}
        Workload::Lock => lock::check(plan)?,
        Workload::Compaction => compaction::check(plan)?,
        _ => load::check(plan)?,
    }
    let bed = match &options.connect {
        Some(config) => Bed::connected(plan, runtimes, config, directory)?,
        None if several => {
            screen(Event::Step("starting the nodes"));
            Bed::cluster(plan, runtimes, options, directory, plan.nodes).await?
        }
        None => {
            screen(Event::Step("starting the node"));
            Bed::embedded(plan, runtimes, directory).await?
        }
    };
    let local = options.connect.is_none().then_some(directory);
    let report = match plan.workload {
        Workload::Consume => consume::measure(&bed, screen).await,
        Workload::EndToEnd => end_to_end::measure(&bed, screen).await,
        Workload::Latency if several && options.connect.is_none() => {
            let beside = directory.join("one");
            std::fs::create_dir(&beside)?;
            let one_node = Bed::cluster(plan, runtimes, options, &beside, 1).await?;
            let report = latency::measure(&bed, Some(&one_node), local, screen).await;
            one_node.stop().await?;
            report
        }
        Workload::Latency => latency::measure(&bed, None, local, screen).await,
        Workload::Singles => singles::measure(&bed, screen).await,
        Workload::Queue => queue::measure(&bed, screen).await,
        Workload::Delay => delay::measure(&bed, screen).await,
        Workload::Group => group::measure(&bed, screen).await,
        Workload::Lock if plan.waiters > 0 => lock::handover::measure(&bed, screen).await,
        Workload::Lock => lock::pairs::measure(&bed, local, screen).await,
        Workload::Compaction => compaction::measure(&bed, screen).await,
        _ => produce::measure(&bed, local, screen).await,
    };
    bed.stop().await?;
    report
}

/// Some workloads start and end nodes of their own.
fn refuse_connect(plan: &Plan, options: &Options) -> anyhow::Result<()> {
    anyhow::ensure!(
        options.connect.is_none(),
        "{} starts and ends nodes of its own; leave --connect out",
        plan.workload
    );
    Ok(())
}
