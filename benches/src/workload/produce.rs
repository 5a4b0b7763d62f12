//! `produce` and `partitions`: batches from all producers, as fast as they are acknowledged.

use crate::bed::{Bed, mean};
use crate::load::{Load, Stamp};
use crate::raw_stream::Direction;
use crate::report::Report;
use crate::warm_memory::touch_for;
use crate::workload::{TOPIC, WARM_UP_TOPIC};
use crate::{Event, Screen};

/// Latency is that of a batch: from handing it to the client to its acknowledgement.
pub(super) async fn measure(bed: &Bed<'_>, screen: Screen<'_>) -> anyhow::Result<Report> {
    let records = bed.plan.records;
    screen(Event::Step("touching the memory that the load will need"));
    touch_for(bed.plan.value_bytes());
    screen(Event::Step("warming up with the same load"));
    bed.create_topic(WARM_UP_TOPIC).await?;
    let (mut load, _) = Load::prepare(bed, WARM_UP_TOPIC).await?;
    load.send(records, Stamp::None).await?;
    load.close().await?;
    bed.delete_topic(WARM_UP_TOPIC).await?;
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
    bed.ensure_stored(TOPIC, records + touched).await?;
    bed.delete_topic(TOPIC).await?;

    let mut report = Report::new(bed.plan).with_throughput(throughput, mean(before, after));
    report.latency_us = latencies.percentiles();
    Ok(report)
}
