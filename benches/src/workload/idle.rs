//! `idle`: what a node holds in memory when nobody asks it for anything, alone or with many
//! partitions that each were used once.
//!
//! The node is a process of its own. Resident memory is counted without page cache (`RssAnon +
//! RssShmem`), when every partition sleeps and the figure has stopped falling. Then the node is
//! killed and started again: with many partitions, the time until it acknowledges.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use futures_util::future::try_join_all;
use plimsoll_client::{Client, ClientConfig, Record};
use plimsoll_protocol::api::PartitionCondition;

use crate::options::{Options, Plan};
use crate::report::{ProcessMemory, Report, rounded};
use crate::serve_process::ServeProcess;
use crate::served::Served;
use crate::values::Values;
use crate::workload::TOPIC;
use crate::{Event, Screen};

/// Partitions that one client touches before it is gone: its streams go with it.
const PARTITIONS_PER_CLIENT: u32 = 500;
/// Leaders of many partitions that were made at once go home a few at a time, and wake them for it.
const SLEEP_WITHIN: Duration = Duration::from_secs(15 * 60);
pub(super) const SETTLE_WITHIN: Duration = Duration::from_secs(30);
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A figure that fell by less than this has stopped falling.
pub(super) const SETTLED_MB: f64 = 0.1;

pub(super) async fn measure(
    plan: &Plan,
    options: &Options,
    directory: &Path,
    screen: Screen<'_>,
) -> anyhow::Result<Report> {
    let served = Served::new(plan, options, directory)?;
    let (mut process, mut took) = served.start(None).await?;
    let topic = (plan.partitions > 0).then_some(TOPIC);
    if topic.is_some() {
        screen(Event::Step(&format!("touching {} partitions", plan.partitions)));
        served.create_topic(TOPIC).await?;
        touch(&served.client_config()?, plan).await?;
        screen(Event::Step("waiting until all partitions sleep"));
        wait_for_sleep(&served.client().await?).await?;
    }
    screen(Event::Step("waiting until memory has settled"));
    let memory = settled(&mut process).await?;
    if topic.is_some() {
        process.kill()?;
        (process, took) = served.start(topic).await?;
    }
    process.kill()?;

    let mut report = Report::new(plan);
    report.records = plan.records;
    report.seconds = rounded(took.as_secs_f64(), 6);
    report.restart_s = Some(report.seconds);
    report.memory = Some(memory);
    Ok(report)
}

/// One record into each partition.
pub(super) async fn touch(config: &ClientConfig, plan: &Plan) -> anyhow::Result<()> {
    let value = Values::new(plan.record_bytes, 1).next_value().to_vec();
    for first in (0..plan.partitions).step_by(PARTITIONS_PER_CLIENT as usize) {
        let partitions = first..(first + PARTITIONS_PER_CLIENT).min(plan.partitions);
        let producer = Client::connect(config.clone()).await?.producer(TOPIC).build().await?;
        let sends =
            partitions.map(|partition| producer.send_to(partition, Record::new(value.clone())));
        try_join_all(sends).await?;
        producer.close().await?;
    }
    Ok(())
}

/// Waits until the node that `client` asks says of every partition that it sleeps.
pub(super) async fn wait_for_sleep(client: &Client) -> anyhow::Result<()> {
    let admin = client.admin();
    let began = Instant::now();
    loop {
        let described = admin.describe_topic(TOPIC).await?;
        let asleep = |found: &PartitionCondition| *found == PartitionCondition::Asleep;
        let awake = described.partitions.iter().filter(|found| !asleep(&found.condition)).count();
        if awake == 0 {
            return Ok(());
        }
        ensure!(
            began.elapsed() < SLEEP_WITHIN,
            "{awake} partitions are awake after {SLEEP_WITHIN:?}"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn settled(process: &mut ServeProcess) -> anyhow::Result<ProcessMemory> {
    let began = Instant::now();
    let mut last = process.memory()?;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        process.check_alive()?;
        let now = process.memory()?;
        if now.resident_mb > last.resident_mb - SETTLED_MB && began.elapsed() > 5 * LOOK_EVERY {
            return Ok(now);
        }
        if began.elapsed() > SETTLE_WITHIN {
            bail!("memory still changes after {SETTLE_WITHIN:?}: {now:?}");
        }
        last = now;
    }
}
