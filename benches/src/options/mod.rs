//! What a run of `plimsoll bench` was asked to do, and the defaults of each workload.
//!
//! [`Options`] is what the user said; [`Plan`] is one workload with every blank filled in. A plan
//! can print the command that repeats it ([`Plan::command`]), so that no figure stands without it.

mod plan;
mod workload;

use std::num::NonZeroU32;
use std::path::PathBuf;

use plimsoll_client::ClientConfig;
use plimsoll_protocol::api::Durability;
use plimsoll_transport::TransportKind;

pub use plan::Plan;
pub use workload::{UnknownWorkload, Workload};

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

/// How a node of `failover` is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9`: nobody is told.
    Kill,
    /// SIGTERM: it hands over what it leads, then ends.
    Stop,
}

impl Fault {
    /// Both, in the order in which they are measured.
    pub const ALL: [Self; 2] = [Self::Kill, Self::Stop];

    /// The word on the command line and in the JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
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
    /// Records per second of `latency` (default 1,000, of a cluster 500), `rebalance` and `failover`
    /// (500), `delay` (10,000), `group` (8,000) and `end-to-end` (no limit).
    pub rate: Option<NonZeroU32>,
    /// Tasks of `singles`.
    pub tasks: Option<NonZeroU32>,
    /// Records that a task of `singles` awaits together.
    pub window: Option<NonZeroU32>,
    /// Queues of `queue`, `delay` and `amqp`. Default 1.
    pub queues: Option<NonZeroU32>,
    /// Who sends to each queue, each with a connection of its own. Default 4; of several queues of `amqp` 1.
    pub senders: Option<NonZeroU32>,
    /// Who receives from each queue. Default as `senders`.
    pub receivers: Option<NonZeroU32>,
    /// Members of the group of `group`, before one more joins. Default 8.
    pub members: Option<NonZeroU32>,
    /// Clients of `lock`, each with a lock of its own. Default 1.
    pub clients: Option<NonZeroU32>,
    /// `lock`: one lock that goes from waiter to waiter, in place of many that nobody waits for.
    pub handover: bool,
    /// `failover`: locks that are held and waited for, in place of records.
    pub locks: bool,
    /// Who waits for the lock that `lock` hands over (default 1,000), or for those of `failover` (5).
    pub waiters: Option<NonZeroU32>,
    /// The etcd that `lock` measures beside ours, as `http://HOST:PORT`.
    pub etcd: Option<String>,
    /// Keys of `compaction`. Default 100,000.
    pub keys: Option<NonZeroU32>,
    /// The AMQP broker that `amqp` measures too, before the embedded one.
    pub url: Option<String>,
    /// `amqp`: measure that one only.
    pub url_only: bool,
    /// Nodes of the cluster that is measured. 1: one node within this process (`restart` and
    /// `idle`: one process). More: a process each. `failover` and `rebalance` have 3 by default.
    pub nodes: Option<NonZeroU32>,
    /// Replicas of the topics. `None`: 3, or as many as there are nodes; 1 of a running node.
    pub replicas: Option<NonZeroU32>,
    /// Rounds of `failover`. `None`: 20.
    pub rounds: Option<NonZeroU32>,
    /// How `failover` ends nodes. `None`: each way, one after the other; of locks only `kill`.
    pub fault: Option<Fault>,
    /// Settings (`key=value`) of the nodes that are processes of their own.
    pub node_settings: Vec<String>,
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
/// Three nodes and what they are compared with share the processors of one machine. On two cores such a
/// cluster has no room left at 1,000 records per second, one after the other: what would be measured
/// is the queue before it.
const CLUSTER_RATE: NonZeroU32 = NonZeroU32::new(500).expect("500 is not zero");
/// Messages per second whose time has come.
const DELAY_RATE: NonZeroU32 = NonZeroU32::new(10_000).expect("10,000 is not zero");
/// Records per second of `group`: each of 64 partitions has one every eight milliseconds, and a node and its
/// clients on two cores have a little time left.
const GROUP_RATE: NonZeroU32 = NonZeroU32::new(8_000).expect("8,000 is not zero");
const GROUP_MEMBERS: u32 = 8;
/// The issue of locks names these three.
const LOCK_WAITERS: u32 = 1_000;
/// Who waits for locks whose leader is killed: enough for an order to be seen.
const FAILOVER_WAITERS: u32 = 5;
const COMPACTION_KEYS: u32 = 100_000;
const COMPACTION_RECORDS: u64 = 10_000_000;
/// Pairs of acquire and release: some seconds of one client.
const LOCK_PAIRS: u64 = 10_000;
/// A lock that is handed over is held for a moment each time.
const LOCK_HANDOVERS: u64 = 5_000;
const FAILOVER_ROUNDS: u32 = 20;
/// Replicas of a topic, where there are nodes enough.
const REPLICAS: u32 = 3;
/// What a cluster takes by default for `idle`: what the issue of the cluster names.
const IDLE_PARTITIONS_OF_A_CLUSTER: &[u32] = &[1_000];

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
        Workload::Failover => Defaults {
            producers: 1,
            partitions: &[1],
            record_bytes: 100,
            batch_records: 1,
            records: 0,
        },
        // 200 MB to copy from, in enough partitions for a ring to be even.
        Workload::Rebalance => Defaults {
            producers: 2,
            partitions: &[48],
            record_bytes: 1_000,
            batch_records: 100,
            records: 200_000,
        },
        Workload::Queue => Defaults { partitions: &[1], records: 1_000_000, ..whole_batches },
        Workload::Amqp => Defaults { partitions: &[1], records: 500_000, ..whole_batches },
        // 100 bytes: what is measured is the time, not the disk.
        Workload::Delay => {
            Defaults { partitions: &[1], record_bytes: 100, records: 1_000_000, ..whole_batches }
        }
        // It lasts as long as the changes of the group do.
        Workload::Group => Defaults {
            producers: 1,
            partitions: &[64],
            record_bytes: 100,
            batch_records: 1,
            records: 0,
        },
        // A namespace of locks is one partition, and so is the topic that hand-overs are compared with.
        Workload::Lock => Defaults {
            producers: 1,
            partitions: &[1],
            record_bytes: 100,
            batch_records: 1,
            records: LOCK_PAIRS,
        },
        // 100 bytes: what is measured is the work for each record, not the disk.
        Workload::Compaction => {
            Defaults { record_bytes: 100, records: COMPACTION_RECORDS, ..whole_batches }
        }
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
    /// The plans of one workload: one, or one for each transport (`transport`), for each count of
    /// partitions (`partitions`, `idle`), or for each way to end a node (`failover`).
    pub fn plans(&self, workload: Workload) -> Vec<Plan> {
        let transports = match (self.transport, workload) {
            // AMQP's own, without encryption.
            (_, Workload::Amqp) => vec![TransportKind::Tcp],
            (Some(kind), _) => vec![kind],
            (None, Workload::Transport) => {
                vec![TransportKind::Quic, TransportKind::Tls, TransportKind::Tcp]
            }
            (None, _) => vec![TransportKind::Quic],
        };
        let is_given = !self.partitions.is_empty()
            && !matches!(workload, Workload::Transport | Workload::Lock);
        let counts = if is_given {
            self.partitions.clone()
        } else if workload == Workload::Idle && self.nodes(workload) > 1 {
            IDLE_PARTITIONS_OF_A_CLUSTER.to_vec()
        } else {
            defaults(workload).partitions.to_vec()
        };
        let faults = match (workload, self.fault) {
            (Workload::Failover, None) if self.locks => vec![Some(Fault::Kill)],
            (Workload::Failover, None) => Fault::ALL.map(Some).to_vec(),
            (Workload::Failover, one) => vec![one],
            _ => vec![None],
        };
        let mut plans = Vec::new();
        for transport in transports {
            for &partitions in &counts {
                for &fault in &faults {
                    plans.push(self.plan(workload, transport, partitions, fault));
                }
            }
        }
        plans
    }

    fn plan(
        &self,
        workload: Workload,
        transport: TransportKind,
        partitions: u32,
        fault: Option<Fault>,
    ) -> Plan {
        let defaults = defaults(workload);
        let or = |given: Option<NonZeroU32>, default| given.map_or(default, NonZeroU32::get);
        let record_bytes = or(self.record_bytes, defaults.record_bytes);
        let records = match workload {
            Workload::Restart => {
                let bytes = self.bytes.unwrap_or(RESTART_BYTES);
                self.records.unwrap_or(bytes.div_ceil(u64::from(record_bytes)))
            }
            Workload::Idle => u64::from(partitions),
            Workload::Failover | Workload::Group => 0,
            Workload::Lock if self.handover => self.records.unwrap_or(LOCK_HANDOVERS),
            _ => self.records.unwrap_or(defaults.records),
        };
        let single = workload == Workload::Singles;
        let amqp = workload == Workload::Amqp;
        let settles = amqp || matches!(workload, Workload::Queue | Workload::Delay);
        let queues = if settles { or(self.queues, 1) } else { 0 };
        // A hundred queues have clients enough with one each: a client has a thread per connection.
        let of_each_queue = if amqp && queues > 1 { 1 } else { 4 };
        let lock = workload == Workload::Lock;
        let locks = workload == Workload::Failover && self.locks;
        let nodes = self.nodes(workload);
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
                Workload::Failover if locks => None,
                Workload::Failover => Some(self.rate.unwrap_or(CLUSTER_RATE)),
                Workload::Latency | Workload::Rebalance => {
                    let default = if nodes > 1 { CLUSTER_RATE } else { LATENCY_RATE };
                    Some(self.rate.unwrap_or(default))
                }
                Workload::Delay => Some(self.rate.unwrap_or(DELAY_RATE)),
                Workload::Group => Some(self.rate.unwrap_or(GROUP_RATE)),
                Workload::EndToEnd => self.rate,
                _ => None,
            },
            tasks: if single { or(self.tasks, 64) } else { 1 },
            window: if single { or(self.window, 16) } else { 1 },
            queues,
            senders: if settles { or(self.senders, of_each_queue) } else { 0 },
            receivers: if settles { or(self.receivers, of_each_queue) } else { 0 },
            members: if workload == Workload::Group { or(self.members, GROUP_MEMBERS) } else { 0 },
            clients: if lock && !self.handover { or(self.clients, 1) } else { 0 },
            locks,
            waiters: match workload {
                Workload::Lock if self.handover => or(self.waiters, LOCK_WAITERS),
                Workload::Failover if locks => or(self.waiters, FAILOVER_WAITERS),
                _ => 0,
            },
            keys: if workload == Workload::Compaction { or(self.keys, COMPACTION_KEYS) } else { 0 },
            layout: self.layout.unwrap_or(Layout::Shared),
            nodes,
            replicas: or(self.replicas, nodes.min(REPLICAS)),
            rounds: if fault.is_some() { or(self.rounds, FAILOVER_ROUNDS) } else { 0 },
            fault,
            node_settings: self.node_settings.clone(),
            url: if amqp { self.url.as_deref().map(without_user) } else { None },
            url_only: amqp && self.url_only,
            etcd: self.etcd.clone().filter(|_| lock && !self.handover),
        }
    }

    fn nodes(&self, workload: Workload) -> u32 {
        match (self.nodes, workload) {
            // There is no node in it.
            (_, Workload::Transport) => 1,
            (Some(nodes), _) => nodes.get(),
            (None, Workload::Failover | Workload::Rebalance) => REPLICAS,
            (None, _) => 1,
        }
    }
}

/// A URL as it may be shown: without user and password.
fn without_user(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.to_owned(),
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

    #[test]
    fn a_cluster_has_three_replicas_or_as_many_as_nodes() {
        let of = |nodes| {
            let options = Options { nodes: NonZeroU32::new(nodes), ..Options::default() };
            options.plans(Workload::Produce)[0].replicas
        };
        assert_eq!([1, 2, 3, 5].map(of), [1, 2, 3, 3]);
        let one = Options {
            nodes: NonZeroU32::new(3),
            replicas: NonZeroU32::new(1),
            ..Options::default()
        };
        assert_eq!(one.plans(Workload::Produce)[0].replicas, 1);
    }

    #[test]
    fn cluster_is_asked_for_what_it_can_keep_up_with() {
        let rate = |options: Options| options.plans(Workload::Latency)[0].rate.map(NonZeroU32::get);
        assert_eq!(rate(Options::default()), Some(1_000));
        let cluster = Options { nodes: NonZeroU32::new(3), ..Options::default() };
        assert_eq!(rate(cluster.clone()), Some(500));
        assert_eq!(rate(Options { rate: NonZeroU32::new(700), ..cluster }), Some(700));
    }

    #[test]
    fn a_url_is_shown_without_its_password() {
        for (url, shown) in [
            ("amqp://user:secret@host:5672/%2f", "amqp://host:5672/%2f"),
            ("amqp://user:se@cret@host", "amqp://host"),
            ("amqp://host/a@b", "amqp://host/a@b"),
        ] {
            assert_eq!(without_user(url), shown);
            let options = Options { url: Some(url.to_owned()), ..Options::default() };
            let plan = &options.plans(Workload::Amqp)[0];
            assert_eq!(
                plan.command(),
                format!(
                    "plimsoll bench amqp --queues 1 --senders 4 --receivers 4 --record-bytes 1000 \
                     --records 500000 --url {shown}"
                )
            );
            assert_eq!(options.plans(Workload::Queue)[0].url, None);
        }
    }

    #[test]
    fn many_amqp_queues_have_a_client_of_each_kind() {
        let options = Options { queues: NonZeroU32::new(100), ..Options::default() };
        let plan = &options.plans(Workload::Amqp)[0];
        assert_eq!((plan.queues, plan.senders, plan.receivers), (100, 1, 1));
        assert_eq!(options.plans(Workload::Queue)[0].senders, 4);
    }

    #[test]
    fn failover_is_measured_for_each_fault_on_three_nodes() {
        let plans = Options::default().plans(Workload::Failover);
        let faults: Vec<_> = plans.iter().map(|plan| plan.fault).collect();
        assert_eq!(faults, [Some(Fault::Kill), Some(Fault::Stop)]);
        assert!(plans.iter().all(|plan| (plan.nodes, plan.rounds) == (3, 20)));
    }

    #[test]
    fn failover_of_locks_kills_and_has_no_load() {
        let options = Options { locks: true, ..Options::default() };
        let plans = options.plans(Workload::Failover);
        assert_eq!(plans.len(), 1);
        assert_eq!(
            plans[0].command(),
            "plimsoll bench failover --transport quic --durability durable --locks --waiters 5 \
             --layout shared --nodes 3 --replicas 3 --rounds 20 --fault kill"
        );
        let produce = &options.plans(Workload::Produce)[0];
        assert_eq!((produce.locks, produce.waiters), (false, 0));
    }

    #[test]
    fn command_repeats_the_group() {
        let options = Options { members: NonZeroU32::new(3), ..Options::default() };
        let command = options.plans(Workload::Group)[0].command();
        assert_eq!(
            command,
            "plimsoll bench group --transport quic --durability durable --members 3 \
             --partitions 64 --record-bytes 100 --rate 8000 --layout shared"
        );
    }

    #[test]
    fn command_repeats_the_locks() {
        let options = Options {
            clients: NonZeroU32::new(50),
            nodes: NonZeroU32::new(3),
            etcd: Some("http://127.0.0.1:2379".to_owned()),
            ..Options::default()
        };
        assert_eq!(
            options.plans(Workload::Lock)[0].command(),
            "plimsoll bench lock --transport quic --durability durable --clients 50 \
             --records 10000 --layout shared --nodes 3 --replicas 3 --etcd http://127.0.0.1:2379"
        );
        assert_eq!(options.plans(Workload::Produce)[0].etcd, None);
        let handover = Options { handover: true, ..Options::default() };
        assert_eq!(
            handover.plans(Workload::Lock)[0].command(),
            "plimsoll bench lock --transport quic --durability durable --handover --waiters 1000 \
             --record-bytes 100 --records 5000 --layout shared"
        );
    }

    #[test]
    fn command_repeats_the_compaction() {
        assert_eq!(
            Options::default().plans(Workload::Compaction)[0].command(),
            "plimsoll bench compaction --transport quic --durability durable --producers 2 \
             --partitions 2 --keys 100000 --record-bytes 100 --batch-records 1000 \
             --records 10000000 --layout shared"
        );
    }

    #[test]
    fn command_repeats_the_cluster() {
        let options = Options {
            nodes: NonZeroU32::new(3),
            node_settings: vec!["peer_transport=tls".to_owned()],
            fault: Some(Fault::Stop),
            ..Options::default()
        };
        let command = options.plans(Workload::Failover)[0].command();
        assert_eq!(
            command,
            "plimsoll bench failover --transport quic --durability durable --producers 1 \
             --partitions 1 --record-bytes 100 --batch-records 1 --rate 500 --layout shared \
             --nodes 3 --replicas 3 --set peer_transport=tls --rounds 20 --fault stop"
        );
    }
}
