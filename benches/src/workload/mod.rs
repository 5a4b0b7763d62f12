//! The workloads, one file each.

mod consume;
mod end_to_end;
mod idle;
mod latency;
mod produce;
mod restart;
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
    match plan.workload {
        Workload::Transport => return transport::measure(plan, runtimes, directory).await,
        Workload::Restart => {
            return restart::measure(plan, options, runtimes, directory, screen).await;
        }
        Workload::Idle => return idle::measure(plan, options, directory, screen).await,
        _ => load::check(plan)?,
    }
    screen(Event::Step("starting the node"));
    let bed = match &options.connect {
        None => Bed::embedded(plan, runtimes, directory).await?,
        Some(config) => Bed::connected(plan, runtimes, config, directory)?,
    };
    let local = options.connect.is_none().then_some(directory);
    let report = match plan.workload {
        Workload::Consume => consume::measure(&bed, screen).await,
        Workload::EndToEnd => end_to_end::measure(&bed, screen).await,
        Workload::Latency => latency::measure(&bed, local, screen).await,
        Workload::Singles => singles::measure(&bed, screen).await,
        _ => produce::measure(&bed, local, screen).await,
    };
    bed.stop().await?;
    report
}
