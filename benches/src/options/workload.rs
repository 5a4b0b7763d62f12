//! The names of the workloads, and what is said of each.

use std::fmt;
use std::str::FromStr;

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
    /// Resident memory of a node that does nothing, with and without sleeping partitions; of a
    /// cluster also its load of the processors.
    Idle,
    /// How long a partition takes no record, or hands no lock over, when its leader's node ends.
    Failover,
    /// A node joins under load: what moves, and what producers notice.
    Rebalance,
    /// Messages sent to queues, received and settled one by one, at the same time.
    Queue,
    /// Many messages that wait for their time: how late they are delivered.
    Delay,
    /// Messages published to AMQP queues with confirms, and consumed with acknowledgements.
    Amqp,
    /// A member joins a consumer group under load: how long partitions that stay have no record.
    Group,
    /// Locks that are taken and given back, or handed from one waiter to the next.
    Lock,
    /// Many updates of few keys in a compacted topic: the disk that is left, and what appends notice.
    Compaction,
}

impl Workload {
    /// Every workload, in the order in which `--help` names them.
    pub const ALL: [Self; 17] = [
        Self::Produce,
        Self::Consume,
        Self::EndToEnd,
        Self::Latency,
        Self::Partitions,
        Self::Restart,
        Self::Transport,
        Self::Singles,
        Self::Idle,
        Self::Failover,
        Self::Rebalance,
        Self::Queue,
        Self::Delay,
        Self::Amqp,
        Self::Group,
        Self::Lock,
        Self::Compaction,
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
            Self::Failover => "failover",
            Self::Rebalance => "rebalance",
            Self::Queue => "queue",
            Self::Delay => "delay",
            Self::Amqp => "amqp",
            Self::Group => "group",
            Self::Lock => "lock",
            Self::Compaction => "compaction",
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
            Self::Idle => {
                "memory (of a cluster also CPU) of idle nodes, without and with partitions"
            }
            Self::Failover => {
                "longest gap between acknowledgements when a leader's node ends; or of --locks"
            }
            Self::Rebalance => {
                "a node joins a cluster under load: what moves, what producers notice"
            }
            Self::Queue => "send, receive and settle messages of queues, one by one",
            Self::Delay => "many messages that wait for their time: how late they are delivered",
            Self::Amqp => "publish with confirms, consume with acks by AMQP; also at any --url",
            Self::Group => "a member joins a consumer group under load: gaps of those that stay",
            Self::Lock => "acquire and release locks, or --handover to waiters; also of any --etcd",
            Self::Compaction => {
                "update few keys often: disk per live data, appends beside plain ones"
            }
        }
    }

    /// What the workload's latency is the latency of; `None` where it has none.
    pub fn latency_of(self) -> Option<&'static str> {
        match self {
            Self::Produce | Self::Partitions | Self::Compaction => {
                Some("a batch, from handing it to the client to its acknowledgement")
            }
            Self::Consume => Some("a consumer's wait for its next batch"),
            Self::EndToEnd => Some("a record, from its send to its delivery"),
            Self::Latency | Self::Rebalance => {
                Some("a record, from when it was due to its acknowledgement")
            }
            Self::Singles => Some("a window, from its first send to its last acknowledgement"),
            Self::Queue => Some("a message, from its send to its delivery"),
            Self::Delay => Some("a message, from its time to its delivery"),
            Self::Amqp => Some("a message, from its publish to its delivery"),
            Self::Lock => Some("an acquire and its release"),
            Self::Restart | Self::Transport | Self::Idle | Self::Failover | Self::Group => None,
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
