//! The figures of one workload: the object that `--json` prints, one line each.

use std::time::Duration;

use plimsoll_protocol::api::Durability;
use plimsoll_transport::TransportKind;
use serde::{Serialize, Serializer};

use crate::journal_write::JournalWrite;
use crate::options::{Plan, Workload};
use crate::percentiles::Percentiles;

/// What was measured, with the settings that it holds for. A figure that a workload does not have
/// is `null`; a figure that only some workloads have is left out of the others.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What was measured.
    #[serde(serialize_with = "workload")]
    pub workload: Workload,
    /// How bytes travelled.
    #[serde(serialize_with = "transport")]
    pub transport: TransportKind,
    /// What the acknowledgements meant; `null` for the raw stream.
    #[serde(serialize_with = "durability")]
    pub durability: Option<Durability>,
    /// Bytes of one record's value.
    pub record_bytes: u32,
    /// Records in one batch.
    pub batch_records: u32,
    /// Producers, and consumers.
    pub producers: u32,
    /// Partitions.
    pub partitions: u32,
    /// Records that were counted.
    pub records: u64,
    /// Time that they took; for `restart` and `idle` the time to the first acknowledged produce.
    pub seconds: f64,
    /// Records per second; `null` where there is no load.
    pub records_per_s: Option<f64>,
    /// Millions of bytes of values per second.
    pub mb_per_s: Option<f64>,
    /// Latency of the workload's unit: see its module.
    pub latency_us: Option<Percentiles>,
    /// The raw stream of the same kind, measured before and after in the same run; the mean.
    pub limit_mb_per_s: Option<f64>,
    /// `mb_per_s / limit_mb_per_s`.
    pub ratio_to_limit: Option<f64>,
    /// Durable `produce` and `partitions`: what the node's disk takes when nothing else is done, in
    /// direct writes of 4 MiB, measured before and after in the same run; the mean. Left out
    /// against a node whose disk is not here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_mb_per_s: Option<f64>,
    /// `latency` and `lock`: one 4 KiB journal write, measured in turns with it in the same run. `null`
    /// against a node whose disk is not here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub journal_write_us: Option<Option<JournalWrite>>,
    /// `restart` and `idle`: from the start of the process to the first acknowledged produce.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_s: Option<f64>,
    /// `idle`: memory of the node's process; of a cluster it is `resident_mb`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ProcessMemory>,
    /// Nodes of the cluster; left out where one node was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<u32>,
    /// Replicas of each partition; left out where one node was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// `latency` of a cluster: the same of one node, in turns with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_node_us: Option<Percentiles>,
    /// `latency_us.p50 / one_node_us.p50`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_to_one_node: Option<f64>,
    /// `queue` and `amqp`: messages that were sent, received and settled, per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_per_s: Option<f64>,
    /// `delay`: from the time of a message to its delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lateness_us: Option<Percentiles>,
    /// What only `amqp` has.
    #[serde(flatten)]
    pub amqp: Option<AmqpFigures>,
    /// What only the workloads of a cluster have.
    #[serde(flatten)]
    pub cluster: ClusterFigures,
    /// What only `group` has.
    #[serde(flatten)]
    pub group: GroupFigures,
    /// What only `lock` and `failover --locks` have.
    #[serde(flatten)]
    pub lock: LockFigures,
    /// What only `compaction` has.
    #[serde(flatten)]
    pub compaction: Option<CompactionFigures>,
}

/// Figures of `lock` and `failover --locks`; each is left out elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LockFigures {
    /// Clients, each with a session and a lock of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clients: Option<u32>,
    /// Over how many connections, of one for each client and one for all: whichever was the faster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Locks that were taken and given back, per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairs_per_s: Option<f64>,
    /// `latency_us.p50 / (2 * journal_write_us.p50)`: a pair is two entries of the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_to_two_writes: Option<f64>,
    /// The same load on etcd's locks, in turns with ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd: Option<EtcdFigures>,
    /// `pairs_per_s / etcd.pairs_per_s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_to_etcd: Option<f64>,
    /// Who waited for the one lock, all the time; of `failover`, for each of the two locks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiters: Option<u32>,
    /// From the begin of the holder's release to the grant of the next who waits, both in this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handover_us: Option<Percentiles>,
    /// One durable produce, at the same pace, before and after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub produce_us: Option<Percentiles>,
    /// `handover_us.p99 / produce_us.p50`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_to_produce: Option<f64>,
    /// `failover --locks`: from the kill until the holder's release was answered and the first who waited had
    /// the lock, as their clients saw it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failover_ms: Option<Unavailable>,
}

/// What etcd did with the load of `lock`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EtcdFigures {
    /// Its version, as it says itself.
    pub version: String,
    /// How its locks were taken: `transaction` or `lock-service`, whichever was faster before.
    pub way: &'static str,
    /// Connections of its clients: one each or one for all, whichever was faster before.
    pub connections: u32,
    /// Locks that were taken and given back, per second.
    pub pairs_per_s: f64,
    /// An acquire and its release.
    pub latency_us: Option<Percentiles>,
}

/// What only `compaction` has.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CompactionFigures {
    /// Keys that were updated.
    pub keys: u32,
    /// `disk_bytes / live_bytes`.
    pub disk_ratio: f64,
    /// `mb_per_s / uncompacted_mb_per_s`.
    pub append_ratio: f64,
    /// The same load into a topic that is not compacted: the mean of before and after.
    pub uncompacted_mb_per_s: f64,
    /// The last records of all keys, as they are encoded in a batch.
    pub live_bytes: u64,
    /// The segments of the compacted topic, when nothing changes any more; of a cluster on one node.
    pub disk_bytes: u64,
    /// The same when the last append was acknowledged.
    pub disk_bytes_before: u64,
    /// From the last acknowledgement until the last change.
    pub settled_s: f64,
}

/// Figures of `group`; each is left out elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct GroupFigures {
    /// Members before one more joined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub members: Option<u32>,
    /// Of each partition that kept its member while another joined: the longest time between the arrivals
    /// of two of its records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap_ms: Option<Gaps>,
    /// The same of all partitions while nobody joined, in the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap_before_ms: Option<Gaps>,
    /// The same of each partition that kept its member while the newcomer left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap_leave_ms: Option<Gaps>,
    /// Partitions that went to the newcomer, or elsewhere: in the round with the most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved: Option<u32>,
    /// From the begin of the join until every partition was owned as it should be: of the longest round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settled_ms: Option<f64>,
}

/// Longest gaps of partitions, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Gaps {
    /// Of half of the partitions at most this.
    pub p50: f64,
    /// Of 99 of 100.
    pub p99: f64,
    /// Of all.
    pub max: f64,
}

impl Gaps {
    /// Of all gaps; `None` without one.
    pub fn of(mut gaps: Vec<Duration>) -> Option<Self> {
        gaps.sort();
        let last = gaps.len().checked_sub(1)?;
        let at = |share: f64| {
            let place = (share * gaps.len() as f64).ceil() as usize;
            rounded(gaps[place.clamp(1, last + 1) - 1].as_secs_f64() * 1e3, 1)
        };
        Some(Self { p50: at(0.5), p99: at(0.99), max: at(1.0) })
    }
}

/// What `amqp` says beside its figures, which are those of the broker at the URL where one is given.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AmqpFigures {
    /// The broker that the report's figures are of: its URL, or `embedded`.
    pub broker: String,
    /// Queues.
    pub queues: u32,
    /// Who published to each of them.
    pub senders: u32,
    /// Who consumed from each of them.
    pub receivers: u32,
    /// The same load on embedded nodes, after it; left out where only one broker was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedded: Option<EmbeddedFigures>,
    /// `embedded.messages_per_s / messages_per_s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

/// What embedded nodes did with the load of `amqp`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct EmbeddedFigures {
    /// Messages per second.
    pub messages_per_s: f64,
    /// From publish to delivery.
    pub latency_us: Option<Percentiles>,
}

/// Figures of `failover`, `rebalance`, and `idle` with several nodes; each is left out elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ClusterFigures {
    /// `failover`: how the nodes were ended, `kill` or `stop`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<&'static str>,
    /// `failover`: how often.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounds: Option<u32>,
    /// `failover`: the longest gap between two acknowledgements around the end of a node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unavailable_ms: Option<Unavailable>,
    /// `failover`, `rebalance`: records that were given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<u64>,
    /// `rebalance`: replicas that the join moved, of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved_ratio: Option<f64>,
    /// `rebalance`: replicas that the ring gives the new node, of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ring_ratio: Option<f64>,
    /// `rebalance`: 99 of 100 records were acknowledged within this, before the join.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_before_us: Option<f64>,
    /// `rebalance`: the same from the start of the new node until the last replica had moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_during_us: Option<f64>,
    /// `idle`: share of one core that each node uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<Vec<f64>>,
    /// `idle`: memory of each node, without page cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resident_mb: Option<Vec<f64>>,
}

/// How long nothing was acknowledged, or no lock handed over, over all rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Unavailable {
    /// In half of the rounds at most this, in milliseconds.
    pub p50: f64,
    /// In all of them.
    pub max: f64,
}

impl Unavailable {
    /// Of the gaps of all rounds; `None` without a round. The median of an even number of rounds is
    /// the mean of the two in the middle.
    pub fn of(mut gaps: Vec<Duration>) -> Option<Self> {
        gaps.sort();
        let max = gaps.last()?;
        let middle = (gaps[(gaps.len() - 1) / 2] + gaps[gaps.len() / 2]) / 2;
        let milliseconds = |gap: Duration| rounded(gap.as_secs_f64() * 1e3, 1);
        Some(Self { p50: milliseconds(middle), max: milliseconds(*max) })
    }
}

/// Memory of a process in millions of bytes, from `/proc/PID/status`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ProcessMemory {
    /// What no file stands behind: `RssAnon + RssShmem`. The figure that counts.
    pub resident_mb: f64,
    /// With the mapped files, which are page cache and can be dropped at any time: `VmRSS`.
    pub resident_with_files_mb: f64,
}

/// The load that was counted: what it carried and how long it took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Throughput {
    /// Records.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Wall time.
    pub seconds: f64,
}

impl Throughput {
    /// Millions of bytes per second.
    pub fn mb_per_s(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.seconds
    }

    /// Records per second.
    pub fn records_per_s(&self) -> f64 {
        self.records as f64 / self.seconds
    }
}

impl Report {
    /// A report with the plan's settings and no figures yet.
    pub fn new(plan: &Plan) -> Self {
        let broker = plan.workload != Workload::Transport;
        let several = plan.nodes > 1;
        Self {
            workload: plan.workload,
            transport: plan.transport,
            durability: broker.then_some(plan.durability),
            record_bytes: plan.record_bytes,
            batch_records: plan.batch_records,
            producers: plan.producers,
            partitions: plan.partitions,
            records: 0,
            seconds: 0.0,
            records_per_s: None,
            mb_per_s: None,
            latency_us: None,
            limit_mb_per_s: None,
            ratio_to_limit: None,
            disk_mb_per_s: None,
            journal_write_us: None,
            restart_s: None,
            memory: None,
            nodes: several.then_some(plan.nodes),
            replicas: several.then_some(plan.replicas),
            one_node_us: None,
            ratio_to_one_node: None,
            messages_per_s: None,
            lateness_us: None,
            amqp: None,
            cluster: ClusterFigures::default(),
            group: GroupFigures::default(),
            lock: LockFigures::default(),
            compaction: None,
        }
    }

    /// Puts in the throughput, and the limit where one was measured.
    pub fn with_throughput(mut self, found: Throughput, limit_mb_per_s: Option<f64>) -> Self {
        self.records = found.records;
        self.seconds = rounded(found.seconds, 6);
        self.records_per_s = Some(rounded(found.records_per_s(), 1));
        self.mb_per_s = Some(rounded(found.mb_per_s(), 3));
        self.limit_mb_per_s = limit_mb_per_s.map(|limit| rounded(limit, 3));
        self.ratio_to_limit = limit_mb_per_s.map(|limit| rounded(found.mb_per_s() / limit, 4));
        self
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers, words and options always serialize")
    }
}

/// `figure` with so many decimals: a file of figures is read by people too.
pub(crate) fn rounded(figure: f64, decimals: i32) -> f64 {
    let scale = 10f64.powi(decimals);
    (figure * scale).round() / scale
}

fn workload<S: Serializer>(workload: &Workload, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(workload.name())
}

fn transport<S: Serializer>(kind: &TransportKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.name())
}

fn durability<S: Serializer>(found: &Option<Durability>, serializer: S) -> Result<S::Ok, S::Error> {
    found.map(Durability::as_str).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    const NAMED_BY_THE_ISSUE: [&str; 14] = [
        "workload",
        "transport",
        "durability",
        "record_bytes",
        "batch_records",
        "producers",
        "partitions",
        "records",
        "seconds",
        "records_per_s",
        "mb_per_s",
        "latency_us",
        "limit_mb_per_s",
        "ratio_to_limit",
    ];

    fn report(workload: Workload) -> Report {
        Report::new(&Options::default().plans(workload)[0])
    }

    fn fields(report: &Report) -> Vec<String> {
        let value: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        value.as_object().unwrap().keys().cloned().collect()
    }

    #[test]
    fn every_object_has_every_field() {
        let mut expected = NAMED_BY_THE_ISSUE.map(str::to_owned);
        expected.sort();
        for workload in Workload::ALL {
            let mut found = fields(&report(workload));
            if matches!(workload, Workload::Failover | Workload::Rebalance) {
                found.retain(|name| name != "nodes" && name != "replicas");
            }
            found.sort();
            assert_eq!(found, expected, "{workload}");
        }
    }

    #[test]
    fn the_figures_of_a_cluster_stand_beside_the_others() {
        let mut failover = report(Workload::Failover);
        failover.cluster = ClusterFigures {
            fault: Some("kill"),
            rounds: Some(2),
            unavailable_ms: Unavailable::of(vec![Duration::from_millis(700); 2]),
            failed: Some(0),
            ..ClusterFigures::default()
        };
        let text = failover.to_json();
        let expected = r#""nodes":3,"replicas":3,"fault":"kill","rounds":2,"unavailable_ms":{"p50":700.0,"max":700.0},"failed":0}"#;
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn the_figures_of_locks_that_fail_over_stand_beside_the_rounds() {
        let mut failover = report(Workload::Failover);
        failover.cluster.rounds = Some(2);
        failover.lock.waiters = Some(5);
        failover.lock.failover_ms = Unavailable::of(vec![Duration::from_millis(600); 2]);
        let text = failover.to_json();
        let expected = r#""rounds":2,"waiters":5,"failover_ms":{"p50":600.0,"max":600.0}}"#;
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn the_figures_of_two_brokers_stand_side_by_side() {
        let mut amqp = report(Workload::Amqp);
        amqp.messages_per_s = Some(20_000.0);
        amqp.amqp = Some(AmqpFigures {
            broker: "amqp://127.0.0.1".to_owned(),
            queues: 1,
            senders: 4,
            receivers: 4,
            embedded: Some(EmbeddedFigures { messages_per_s: 50_000.0, latency_us: None }),
            ratio: Some(2.5),
        });
        let text = amqp.to_json();
        let expected = r#""messages_per_s":20000.0,"broker":"amqp://127.0.0.1","queues":1,"senders":4,"receivers":4,"embedded":{"messages_per_s":50000.0,"latency_us":null},"ratio":2.5}"#;
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn the_figures_of_locks_stand_beside_those_of_etcd() {
        let mut lock = report(Workload::Lock);
        lock.journal_write_us = Some(Some(JournalWrite { p50: 50.0, p99: 80.0 }));
        lock.lock = LockFigures {
            clients: Some(1),
            pairs_per_s: Some(5_000.0),
            ratio_to_two_writes: Some(2.0),
            etcd: Some(EtcdFigures {
                version: "3.4.23".to_owned(),
                way: "transaction",
                connections: 1,
                pairs_per_s: 1_000.0,
                latency_us: None,
            }),
            ratio_to_etcd: Some(5.0),
            ..LockFigures::default()
        };
        let text = lock.to_json();
        let expected = r#""journal_write_us":{"p50":50.0,"p99":80.0},"clients":1,"pairs_per_s":5000.0,"ratio_to_two_writes":2.0,"etcd":{"version":"3.4.23","way":"transaction","connections":1,"pairs_per_s":1000.0,"latency_us":null},"ratio_to_etcd":5.0}"#;
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn the_figures_of_a_compaction_are_one_level_deep() {
        let mut compaction = report(Workload::Compaction);
        compaction.compaction = Some(CompactionFigures {
            keys: 10,
            disk_ratio: 1.25,
            append_ratio: 0.9,
            uncompacted_mb_per_s: 100.0,
            live_bytes: 1_000,
            disk_bytes: 1_250,
            disk_bytes_before: 9_000,
            settled_s: 1.5,
        });
        let text = compaction.to_json();
        let expected = r#""keys":10,"disk_ratio":1.25,"append_ratio":0.9,"uncompacted_mb_per_s":100.0,"live_bytes":1000,"disk_bytes":1250,"disk_bytes_before":9000,"settled_s":1.5}"#;
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn unavailability_is_that_of_the_median_and_the_worst_round() {
        let gaps = |milliseconds: &[u64]| {
            Unavailable::of(milliseconds.iter().copied().map(Duration::from_millis).collect())
        };
        assert_eq!(gaps(&[]), None);
        assert_eq!(gaps(&[900, 100, 500]), Some(Unavailable { p50: 500.0, max: 900.0 }));
        assert_eq!(gaps(&[900, 100, 500, 700]), Some(Unavailable { p50: 600.0, max: 900.0 }));
    }

    #[test]
    fn gaps_are_those_of_the_partition_in_the_middle_and_of_the_worst() {
        assert_eq!(Gaps::of(Vec::new()), None);
        let gaps = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(Gaps::of(gaps), Some(Gaps { p50: 100.0, p99: 198.0, max: 200.0 }));
        let one = Gaps { p50: 7.0, p99: 7.0, max: 7.0 };
        assert_eq!(Gaps::of(vec![Duration::from_millis(7)]), Some(one));
    }

    #[test]
    fn a_journal_write_that_could_not_be_measured_is_null() {
        let mut latency = report(Workload::Latency);
        latency.journal_write_us = Some(None);
        assert!(latency.to_json().contains(r#""journal_write_us":null"#));
    }

    #[test]
    fn ratio_is_throughput_over_limit() {
        let found = Throughput { records: 1_000, bytes: 1_000_000, seconds: 0.5 };
        let report = report(Workload::Produce).with_throughput(found, Some(4.0));
        assert_eq!((report.mb_per_s, report.ratio_to_limit), (Some(2.0), Some(0.5)));
        assert_eq!(report.records_per_s, Some(2_000.0));
    }
}
