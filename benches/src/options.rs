//! What a run of `plimsoll bench` was asked to do, and the defaults of each workload.
//!
//! [`Options`] is what the user said; [`Plan`] is one workload with every blank filled in. A plan
//! can print the command that repeats it ([`Plan::command`]), so that no figure stands without it.

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;

use plimsoll_client::ClientConfig;
use plimsoll_protocol::api::Durability;
use plimsoll_transport::TransportKind;
use thiserror::Error;

/// One thing that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Workload {
    /// Batches from all producers to all partitions, as fast as they are acknowledged.
    Produce,
    /// A filled topic read from its beginning by as many consumers as there are producers.
    Consume,
    /// Producers and consumers at the same time; latency from the send to the delivery.
    EndToEnd,
    /// One record at a time, acknowledged, on a fixed schedule.
    Latency,
    /// The load of `produce`, over 1, 10, 100 and 1,000 partitions.
    Partitions,
    /// Time from the start of a killed node to its first acknowledged produce.
    Restart,
    /// The raw stream through the same socket code, with no broker: the limit.
    Transport,
    /// Single records, many tasks, each awaiting a window of them together.
    Singles,
    /// Resident memory of a node that does nothing, with and without sleeping partitions.
    Idle,
}

impl Workload {
    /// Every workload, in the order in which `--help` names them.
    pub const ALL: [Self; 9] = [
        Self::Produce,
        Self::Consume,
        Self::EndToEnd,
        Self::Latency,
        Self::Partitions,
        Self::Restart,
        Self::Transport,
        Self::Singles,
        Self::Idle,
    ];

    /// The word on the command line and in the JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Consume => "consume",
            Self::EndToEnd => "end-to-end",
            Self::Latency => "latency",
            Self::Partitions => "partitions",
            Self::Restart => "restart",
            Self::Transport => "transport",
            Self::Singles => "singles",
            Self::Idle => "idle",
        }
    }

    /// What `--help` says of it.
    pub fn summary(self) -> &'static str {
        match self {
            Self::Produce => "durable (or memory) produce of whole batches, beside the raw stream",
            Self::Consume => "read a filled topic through subscriptions, beside the raw stream",
            Self::EndToEnd => "produce and consume at once; latency from send to delivery",
            Self::Latency => "one record at a time, acknowledged, beside a 4 KiB journal write",
            Self::Partitions => "the same durable load over 1, 10, 100, 1000 partitions",
            Self::Restart => "kill -9 under load, start to first acknowledged produce",
            Self::Transport => "the raw QUIC, TLS and TCP streams with no broker: the limit",
            Self::Singles => "single records, awaited together by many tasks",
            Self::Idle => "resident memory of an idle node, without and with partitions",
        }
    }

    /// What the workload's latency is the latency of; `None` where it has none.
    pub fn latency_of(self) -> Option<&'static str> {
        match self {
            Self::Produce | Self::Partitions => {
                Some("a batch, from handing it to the client to its acknowledgement")
            }
            Self::Consume => Some("a consumer's wait for its next batch"),
            Self::EndToEnd => Some("a record, from its send to its delivery"),
            Self::Latency => Some("a record, from when it was due to its acknowledgement"),
            Self::Singles => Some("a window, from its first send to its last acknowledgement"),
            Self::Restart | Self::Transport | Self::Idle => None,
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no [`Workload`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no workload is called {word:?}; there are {}", Workload::ALL.map(Workload::name).join(", "))]
pub struct UnknownWorkload {
    /// The word.
    pub word: String,
}

impl FromStr for Workload {
    type Err = UnknownWorkload;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|workload| workload.name() == word)
            .ok_or_else(|| UnknownWorkload { word: word.to_owned() })
    }
}

/// Where the embedded node's tasks run, beside the client's. The raw stream that a figure is
/// compared with has the same layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Node and client share one runtime with a worker per core.
    Shared,
    /// Node and client have a runtime each, with a worker per core.
    Split,
}

impl Layout {
    /// The word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Split => "split",
        }
    }
}

/// What the user asked for. A field that is `None` takes the workload's default.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How bytes travel. `None`: QUIC; the `transport` workload then measures all three.
    pub transport: Option<TransportKind>,
    /// What an acknowledgement of the topics means.
    pub durability: Option<Durability>,
    /// Producers (and consumers), each with a connection of its own.
    pub producers: Option<NonZeroU32>,
    /// Partitions; several counts for the workload `partitions`.
    pub partitions: Vec<u32>,
    /// Bytes of one record's value.
    pub record_bytes: Option<NonZeroU32>,
    /// Records in one batch.
    pub batch_records: Option<NonZeroU32>,
    /// Records in total.
    pub records: Option<u64>,
    /// Bytes with which `restart` fills its topic.
    pub bytes: Option<u64>,
    /// Records per second of `latency` (default 1,000) and `end-to-end` (default: no limit).
    pub rate: Option<NonZeroU32>,
    /// Tasks of `singles`.
    pub tasks: Option<NonZeroU32>,
    /// Records that a task of `singles` awaits together.
    pub window: Option<NonZeroU32>,
    /// Measure this running node instead of an embedded one. Its transport and trust are those of
    /// the configuration.
    pub connect: Option<ClientConfig>,
    /// Directory in which the embedded node's temporary directory is made.
    pub data_dir: Option<PathBuf>,
    /// Where the embedded node's tasks run.
    pub layout: Option<Layout>,
    /// The `plimsoll` binary, for the workloads that need a node in a process of its own.
    pub binary: Option<PathBuf>,
}

/// One workload with every setting decided.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What is measured.
    pub workload: Workload,
    /// How bytes travel.
    pub transport: TransportKind,
    /// What an acknowledgement of the topics means.
    pub durability: Durability,
    /// Producers, and consumers.
    pub producers: u32,
    /// Partitions of the topic; 0 only for `transport` and `idle`.
    pub partitions: u32,
    /// Bytes of one record's value.
    pub record_bytes: u32,
    /// Records in one batch.
    pub batch_records: u32,
    /// Records in total.
    pub records: u64,
    /// Records per second; `None` sends as fast as acknowledgements come.
    pub rate: Option<NonZeroU32>,
    /// Tasks of `singles`; 1 elsewhere.
    pub tasks: u32,
    /// Records that a task awaits together; 1 elsewhere.
    pub window: u32,
    /// Where the embedded node's tasks run.
    pub layout: Layout,
}

/// The defaults that differ between workloads.
struct Defaults {
    producers: u32,
    partitions: &'static [u32],
    record_bytes: u32,
    batch_records: u32,
    records: u64,
}

const RESTART_BYTES: u64 = 10_000_000_000;
const LATENCY_RATE: NonZeroU32 = NonZeroU32::new(1_000).expect("1,000 is not zero");

fn defaults(workload: Workload) -> Defaults {
    let whole_batches = Defaults {
        producers: 2,
        partitions: &[2],
        record_bytes: 1_000,
        batch_records: 1_000,
        records: 2_000_000,
    };
    match workload {
        Workload::Produce | Workload::Consume | Workload::EndToEnd => whole_batches,
        // Smaller batches, so that each of 1,000 partitions gets several.
        Workload::Partitions => Defaults {
            partitions: &[1, 10, 100, 1_000],
            batch_records: 100,
            records: 1_000_000,
            ..whole_batches
        },
        Workload::Transport => Defaults { partitions: &[0], ..whole_batches },
        Workload::Restart => Defaults { partitions: &[100], ..whole_batches },
        Workload::Latency => Defaults {
            producers: 1,
            partitions: &[1],
            record_bytes: 100,
            batch_records: 1,
            records: 10_000,
        },
        Workload::Singles => Defaults {
            producers: 1,
            partitions: &[1],
            record_bytes: 100,
            batch_records: 1,
            records: 3_000_000,
        },
        Workload::Idle => Defaults {
            producers: 1,
            partitions: &[0, 10_000],
            record_bytes: 100,
            batch_records: 1,
            records: 0,
        },
    }
}

impl Options {
    /// The plans of one workload: one, or one for each transport (`transport`) or for each
    /// count of partitions (`partitions`, `idle`).
    pub fn plans(&self, workload: Workload) -> Vec<Plan> {
        let transports = match (self.transport, workload) {
            (Some(kind), _) => vec![kind],
            (None, Workload::Transport) => {
                vec![TransportKind::Quic, TransportKind::Tls, TransportKind::Tcp]
            }
            (None, _) => vec![TransportKind::Quic],
        };
        let counts = if self.partitions.is_empty() || workload == Workload::Transport {
            defaults(workload).partitions.to_vec()
        } else {
            self.partitions.clone()
        };
        let mut plans = Vec::new();
        for transport in transports {
            plans.extend(
                counts.iter().map(|&partitions| self.plan(workload, transport, partitions)),
            );
        }
        plans
    }

    fn plan(&self, workload: Workload, transport: TransportKind, partitions: u32) -> Plan {
        let defaults = defaults(workload);
        let or = |given: Option<NonZeroU32>, default| given.map_or(default, NonZeroU32::get);
        let record_bytes = or(self.record_bytes, defaults.record_bytes);
        let records = match workload {
            Workload::Restart => {
                let bytes = self.bytes.unwrap_or(RESTART_BYTES);
                self.records.unwrap_or(bytes.div_ceil(u64::from(record_bytes)))
            }
            Workload::Idle => u64::from(partitions),
            _ => self.records.unwrap_or(defaults.records),
        };
        let single = workload == Workload::Singles;
        Plan {
            workload,
            transport,
            durability: self.durability.unwrap_or(Durability::Durable),
            producers: or(self.producers, defaults.producers),
            partitions,
            record_bytes,
            batch_records: or(self.batch_records, defaults.batch_records),
            records,
            rate: match workload {
                Workload::Latency => Some(self.rate.unwrap_or(LATENCY_RATE)),
                Workload::EndToEnd => self.rate,
                _ => None,
            },
            tasks: if single { or(self.tasks, 64) } else { 1 },
            window: if single { or(self.window, 16) } else { 1 },
            layout: self.layout.unwrap_or(Layout::Shared),
        }
    }
}

impl Plan {
    /// Bytes of all records' values.
    pub fn value_bytes(&self) -> u64 {
        self.records.saturating_mul(u64::from(self.record_bytes))
    }

    /// The command that measures the same again.
    pub fn command(&self) -> String {
        let mut words = vec![format!("plimsoll bench {}", self.workload)];
        words.push(format!("--transport {}", self.transport));
        let broker = self.workload != Workload::Transport;
        if broker {
            words.push(format!("--durability {}", self.durability));
        }
        words.push(format!("--producers {}", self.producers));
        if broker {
            words.push(format!("--partitions {}", self.partitions));
        }
        words.push(format!("--record-bytes {}", self.record_bytes));
        words.push(format!("--batch-records {}", self.batch_records));
        if self.workload != Workload::Idle {
            words.push(format!("--records {}", self.records));
        }
        if let Some(rate) = self.rate {
            words.push(format!("--rate {rate}"));
        }
        if self.workload == Workload::Singles {
            words.push(format!("--tasks {} --window {}", self.tasks, self.window));
        }
        words.push(format!("--layout {}", self.layout.name()));
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_is_found_by_its_name() {
        for workload in Workload::ALL {
            assert_eq!(workload.name().parse(), Ok(workload));
        }
        let refused = "throughput".parse::<Workload>().unwrap_err();
        assert!(refused.to_string().contains("end-to-end"), "{refused}");
    }

    #[test]
    fn partitions_without_counts_means_1_to_1000() {
        let plans = Options::default().plans(Workload::Partitions);
        let counts: Vec<_> = plans.iter().map(|plan| plan.partitions).collect();
        assert_eq!(counts, [1, 10, 100, 1_000]);
        assert!(plans.iter().all(|plan| plan.records == plans[0].records));
    }

    #[test]
    fn transport_without_a_kind_means_all_three() {
        assert_eq!(Options::default().plans(Workload::Transport).len(), 3);
        let one = Options { transport: Some(TransportKind::Tcp), ..Options::default() };
        assert_eq!(one.plans(Workload::Transport).len(), 1);
    }

    #[test]
    fn restart_fills_bytes() {
        let options = Options { bytes: Some(5_000), ..Options::default() };
        assert_eq!(options.plans(Workload::Restart)[0].records, 5);
    }

    #[test]
    fn command_repeats_the_settings() {
        let options = Options { durability: Some(Durability::Memory), ..Options::default() };
        let command = options.plans(Workload::Produce)[0].command();
        assert_eq!(
            command,
            "plimsoll bench produce --transport quic --durability memory --producers 2 \
             --partitions 2 --record-bytes 1000 --batch-records 1000 --records 2000000 \
             --layout shared"
        );
    }
}
