//! `restart`: a large log, `kill -9` under load, and the time from the start of the process to the
//! first acknowledged produce.
//!
//! The node is a process of its own. It is killed and started several times; the slowest start is
//! the figure. The page cache is warm, as it is after a crash of the process.

use std::path::Path;
use std::time::Duration;

use anyhow::bail;

use crate::bed::Bed;
use crate::load::{Load, Stamp};
use crate::options::{Options, Plan};
use crate::report::{Report, rounded};
use crate::runtimes::Runtimes;
use crate::served::Served;
use crate::workload::TOPIC;
use crate::{Event, Screen};

pub(super) const ROUNDS: usize = 3;
/// Load before each kill: enough for the journal to be well behind the last checkpoint.
pub(super) const LOAD: Duration = Duration::from_secs(3);

pub(super) async fn measure(
    plan: &Plan,
    options: &Options,
    runtimes: &Runtimes,
    directory: &Path,
    screen: Screen<'_>,
) -> anyhow::Result<Report> {
    crate::load::check(plan)?;
    let served = Served::new(plan, options, directory)?;
    let (mut process, _) = served.start(None).await?;
    served.create_topic(TOPIC).await?;
    screen(Event::Step(&format!("filling {} MB", plan.value_bytes() / 1_000_000)));
    let config = served.client_config()?;
    let bed = Bed::connected(plan, runtimes, &config, directory)?;
    let (mut load, _) = Load::prepare(&bed, TOPIC).await?;
    load.send(plan.records, Stamp::None).await?;
    load.close().await?;
    let mut slowest = Duration::ZERO;
    for round in 1..=ROUNDS {
        screen(Event::Step(&format!("kill -9 under load and restart, {round} of {ROUNDS}")));
        let (mut load, _) = Load::prepare(&bed, TOPIC).await?;
        let killed = async {
            tokio::time::sleep(LOAD).await;
            process.kill()
        };
        tokio::select! {
            ended = load.send(u64::MAX, Stamp::None) => {
                ended?;
                bail!("a load without end has ended");
            }
            killed = killed => killed?,
        }
        let took;
        (process, took) = served.start(Some(TOPIC)).await?;
        screen(Event::Note(&format!("restart {round}: {:.3} s", took.as_secs_f64())));
        slowest = slowest.max(took);
    }
    process.kill()?;

    let seconds = rounded(slowest.as_secs_f64(), 6);
    let mut report = Report::new(plan);
    report.records = plan.records;
    report.seconds = seconds;
    report.restart_s = Some(seconds);
    Ok(report)
}
