//! `transport`: the raw stream alone. What no broker over this socket code can pass.

use std::path::Path;

use crate::options::Plan;
use crate::raw_stream::{Direction, RawStreams, Shape};
use crate::report::{Report, Throughput};
use crate::runtimes::Runtimes;

/// The mean of both directions, each after a shorter run that does not count.
pub(super) async fn measure(
    plan: &Plan,
    runtimes: &Runtimes,
    directory: &Path,
) -> anyhow::Result<Report> {
    let raw = RawStreams::new(directory, runtimes.node())?;
    let (mut bytes, mut seconds) = (0, 0.0);
    for direction in [Direction::ToNode, Direction::FromNode] {
        let shape = Shape::of(plan, direction);
        raw.measure(shape.shortened()).await?;
        let found = raw.measure(shape).await?;
        bytes += found.bytes;
        seconds += found.seconds;
    }
    let records = bytes / u64::from(plan.record_bytes);
    let found = Throughput { records, bytes, seconds };
    Ok(Report::new(plan).with_throughput(found, Some(found.mb_per_s())))
}
