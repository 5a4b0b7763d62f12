//! What a person reads: the figures in columns, and the command that repeats each.

use std::fmt::Write as _;

use crate::options::Plan;
use crate::report::{EmbeddedFigures, EtcdFigures, Report};

/// A column: its heading, and its cell of a report (`None` where there is nothing to say).
type Column = (&'static str, fn(&Report) -> Option<String>);

const COLUMNS: [Column; 71] = [
    ("workload", |report| Some(report.workload.name().to_owned())),
    ("transport", |report| Some(report.transport.to_string())),
    ("durability", |report| report.durability.map(|found| found.to_string())),
    ("nodes", |report| report.nodes.map(|found| found.to_string())),
    ("replicas", |report| report.replicas.map(|found| found.to_string())),
    ("partitions", |report| report.durability.map(|_| grouped(u64::from(report.partitions)))),
    ("records", |report| (report.records > 0).then(|| grouped(report.records))),
    ("seconds", |report| Some(format!("{:.3}", report.seconds))),
    ("records/s", |report| report.records_per_s.map(|found| grouped(found.round() as u64))),
    ("MB/s", |report| report.mb_per_s.map(|found| format!("{found:.1}"))),
    ("of broker", |report| report.amqp.as_ref().map(|found| found.broker.clone())),
    ("limit MB/s", |report| report.limit_mb_per_s.map(|found| format!("{found:.1}"))),
    ("of limit", |report| report.ratio_to_limit.map(|found| format!("{found:.2}"))),
    ("disk MB/s", |report| report.disk_mb_per_s.map(|found| format!("{found:.1}"))),
    ("p50 us", |report| report.latency_us.map(|found| tenths(found.p50))),
    ("p99 us", |report| report.latency_us.map(|found| tenths(found.p99))),
    ("p99.9 us", |report| report.latency_us.map(|found| tenths(found.p999))),
    ("max us", |report| report.latency_us.map(|found| tenths(found.max))),
    ("embedded/s", |report| {
        embedded(report).map(|found| grouped(found.messages_per_s.round() as u64))
    }),
    ("embedded p50 us", |report| embedded(report)?.latency_us.map(|found| tenths(found.p50))),
    ("ratio", |report| report.amqp.as_ref()?.ratio.map(|found| format!("{found:.2}"))),
    ("journal p50 us", |report| report.journal_write_us.flatten().map(|found| tenths(found.p50))),
    ("journal p99 us", |report| report.journal_write_us.flatten().map(|found| tenths(found.p99))),
    ("one node p50 us", |report| report.one_node_us.map(|found| tenths(found.p50))),
    ("one node p99 us", |report| report.one_node_us.map(|found| tenths(found.p99))),
    ("of one node", |report| report.ratio_to_one_node.map(|found| format!("{found:.2}"))),
    ("restart s", |report| report.restart_s.map(|found| format!("{found:.3}"))),
    ("resident MB", |report| report.memory.map(|found| tenths(found.resident_mb))),
    ("with files MB", |report| report.memory.map(|found| tenths(found.resident_with_files_mb))),
    ("CPU %", |report| report.cluster.cpu_percent.as_deref().map(of_nodes)),
    ("resident MB each", |report| report.cluster.resident_mb.as_deref().map(of_nodes)),
    ("fault", |report| report.cluster.fault.map(str::to_owned)),
    ("rounds", |report| report.cluster.rounds.map(|found| found.to_string())),
    ("gap p50 ms", |report| report.cluster.unavailable_ms.map(|found| tenths(found.p50))),
    ("gap max ms", |report| report.cluster.unavailable_ms.map(|found| tenths(found.max))),
    ("moved", |report| report.cluster.moved_ratio.map(|found| format!("{found:.3}"))),
    ("by ring", |report| report.cluster.ring_ratio.map(|found| format!("{found:.3}"))),
    ("p99 before us", |report| report.cluster.p99_before_us.map(tenths)),
    ("p99 during us", |report| report.cluster.p99_during_us.map(tenths)),
    ("failed", |report| report.cluster.failed.map(grouped)),
    ("members", |report| report.group.members.map(|found| found.to_string())),
    ("gap p50 ms", |report| report.group.gap_ms.map(|found| tenths(found.p50))),
    ("gap p99 ms", |report| report.group.gap_ms.map(|found| tenths(found.p99))),
    ("gap max ms", |report| report.group.gap_ms.map(|found| tenths(found.max))),
    ("before max ms", |report| report.group.gap_before_ms.map(|found| tenths(found.max))),
    ("leave max ms", |report| report.group.gap_leave_ms.map(|found| tenths(found.max))),
    ("moved", |report| report.group.moved.map(|found| found.to_string())),
    ("settled ms", |report| report.group.settled_ms.map(tenths)),
    ("clients", |report| report.lock.clients.map(|found| found.to_string())),
    ("pairs/s", |report| report.lock.pairs_per_s.map(tenths)),
    ("of two writes", |report| report.lock.ratio_to_two_writes.map(hundredths)),
    ("connections", |report| report.lock.connections.map(|count| count.to_string())),
    ("etcd", |report| etcd(report).map(|found| found.version.clone())),
    ("by", |report| etcd(report).map(|found| found.way.to_owned())),
    ("etcd connections", |report| etcd(report).map(|found| found.connections.to_string())),
    ("etcd pairs/s", |report| etcd(report).map(|found| tenths(found.pairs_per_s))),
    ("etcd p50 us", |report| etcd(report)?.latency_us.map(|found| tenths(found.p50))),
    ("etcd p99 us", |report| etcd(report)?.latency_us.map(|found| tenths(found.p99))),
    ("of etcd", |report| report.lock.ratio_to_etcd.map(hundredths)),
    ("waiters", |report| report.lock.waiters.map(|found| found.to_string())),
    ("hand-over p50 us", |report| report.lock.handover_us.map(|found| tenths(found.p50))),
    ("hand-over p99 us", |report| report.lock.handover_us.map(|found| tenths(found.p99))),
    ("produce p50 us", |report| report.lock.produce_us.map(|found| tenths(found.p50))),
    ("produce p99 us", |report| report.lock.produce_us.map(|found| tenths(found.p99))),
    ("of produce", |report| report.lock.ratio_to_produce.map(hundredths)),
    ("failover p50 ms", |report| report.lock.failover_ms.map(|found| tenths(found.p50))),
    ("failover max ms", |report| report.lock.failover_ms.map(|found| tenths(found.max))),
    ("plain MB/s", |report| report.compaction.map(|found| tenths(found.uncompacted_mb_per_s))),
    ("of plain", |report| report.compaction.map(|found| hundredths(found.append_ratio))),
    ("disk of live", |report| report.compaction.map(|found| hundredths(found.disk_ratio))),
    ("settled s", |report| report.compaction.map(|found| tenths(found.settled_s))),
];

fn etcd(report: &Report) -> Option<&EtcdFigures> {
    report.lock.etcd.as_ref()
}

fn embedded(report: &Report) -> Option<&EmbeddedFigures> {
    report.amqp.as_ref()?.embedded.as_ref()
}

/// The lines below the figures of one workload: what its latency is, and the command that repeats
/// each row.
pub fn footing(plans: &[Plan]) -> String {
    let mut text = String::new();
    if let Some(latency) = plans.first().and_then(|plan| plan.workload.latency_of()) {
        let _ = writeln!(text, "latency of {latency}");
    }
    for plan in plans {
        let _ = writeln!(text, "repeat: {}", plan.command());
    }
    text
}

/// The figures in columns. A column that is empty in all reports is left out.
pub fn figures(reports: &[Report]) -> String {
    let columns: Vec<Vec<String>> = COLUMNS
        .iter()
        .filter_map(|(heading, cell)| {
            let cells: Vec<_> = reports.iter().map(cell).collect();
            cells.iter().any(Option::is_some).then(|| {
                let blank = || "-".to_owned();
                let cells = cells.into_iter().map(|cell| cell.unwrap_or_else(blank));
                std::iter::once((*heading).to_owned()).chain(cells).collect()
            })
        })
        .collect();
    let mut text = String::new();
    for row in 0..=reports.len() {
        let mut line = String::new();
        for (index, column) in columns.iter().enumerate() {
            let width = column.iter().map(String::len).max().unwrap_or(0);
            let cell = &column[row];
            // Words to the left, figures to the right.
            let _ = if index < 3 {
                write!(line, "{cell:<width$}  ")
            } else {
                write!(line, "{cell:>width$}  ")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `1234567` as `1,234,567`.
pub fn grouped(figure: u64) -> String {
    let digits = figure.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// One figure of each node.
fn of_nodes(figures: &[f64]) -> String {
    figures.iter().copied().map(tenths).collect::<Vec<_>>().join(" / ")
}

fn tenths(figure: f64) -> String {
    format!("{figure:.1}")
}

fn hundredths(figure: f64) -> String {
    format!("{figure:.2}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Options, Workload};
    use crate::report::Throughput;

    #[test]
    fn thousands_are_grouped() {
        let texts: Vec<_> = [0, 999, 1_000, 1_234_567].map(grouped).into();
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn columns_line_up_and_empty_ones_are_left_out() {
        let plan = Options::default().plans(Workload::Produce).remove(0);
        let found = Throughput { records: 2_000_000, bytes: 2_000_000_000, seconds: 4.0 };
        let reports = [
            Report::new(&plan).with_throughput(found, Some(1_000.0)),
            Report::new(&plan).with_throughput(Throughput { seconds: 40.0, ..found }, None),
        ];
        let text = figures(&reports);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].ends_with("of limit"), "{text}");
        assert!(lines[1].ends_with("0.50") && lines[2].ends_with('-'), "{text}");
        assert_eq!(lines[0].len(), lines[1].len(), "{text}");
    }
}
