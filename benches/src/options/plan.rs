//! One workload with every setting decided, and the command that repeats it.

use std::num::NonZeroU32;

use plimsoll_protocol::api::Durability;
use plimsoll_transport::TransportKind;

use crate::options::{Fault, Layout, Workload};

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
    /// Nodes; more than one are processes of their own.
    pub nodes: u32,
    /// Replicas of the topics.
    pub replicas: u32,
    /// Queues of `queue`, `delay` and `amqp`; 0 elsewhere.
    pub queues: u32,
    /// Who sends to each of them.
    pub senders: u32,
    /// Who receives from each of them.
    pub receivers: u32,
    /// Members of the group of `group`; 0 elsewhere.
    pub members: u32,
    /// Clients of `lock`, each with a lock of its own; 0 elsewhere, and where locks are handed over.
    pub clients: u32,
    /// `failover`: whether locks are held and waited for, in place of records.
    pub locks: bool,
    /// Who waits for the one lock that `lock` hands over, or for those of `failover`; 0 elsewhere.
    pub waiters: u32,
    /// Keys of `compaction`; 0 elsewhere.
    pub keys: u32,
    /// Rounds of `failover`; 0 elsewhere.
    pub rounds: u32,
    /// How `failover` ends nodes; `None` elsewhere.
    pub fault: Option<Fault>,
    /// Settings of the nodes that are processes of their own.
    pub node_settings: Vec<String>,
    /// `amqp`: the broker to compare with, without its user and password.
    pub url: Option<String>,
    /// `amqp`: whether that is all that is measured.
    pub url_only: bool,
    /// `lock`: the etcd to compare with.
    pub etcd: Option<String>,
}

impl Plan {
    /// Bytes of all records' values.
    pub fn value_bytes(&self) -> u64 {
        self.records.saturating_mul(u64::from(self.record_bytes))
    }

    /// The command that measures the same again.
    pub fn command(&self) -> String {
        let mut words = vec![format!("plimsoll bench {}", self.workload)];
        let amqp = self.workload == Workload::Amqp;
        if !amqp {
            words.push(format!("--transport {}", self.transport));
        }
        let broker = self.workload != Workload::Transport;
        if broker && !amqp {
            words.push(format!("--durability {}", self.durability));
        }
        if self.queues > 0 {
            let (queues, senders, receivers) = (self.queues, self.senders, self.receivers);
            words.push(format!("--queues {queues} --senders {senders} --receivers {receivers}"));
        } else if self.members > 0 {
            words.push(format!("--members {}", self.members));
        } else if self.locks {
            words.push(format!("--locks --waiters {}", self.waiters));
        } else if self.waiters > 0 {
            words.push(format!("--handover --waiters {}", self.waiters));
        } else if self.clients > 0 {
            words.push(format!("--clients {}", self.clients));
        } else {
            words.push(format!("--producers {}", self.producers));
        }
        // Locks have neither partitions nor batches.
        let lock = self.workload == Workload::Lock || self.locks;
        if broker && self.queues == 0 && !lock {
            words.push(format!("--partitions {}", self.partitions));
        }
        if self.keys > 0 {
            words.push(format!("--keys {}", self.keys));
        }
        // Those who hand a lock over are compared with a record.
        if self.clients == 0 && !self.locks {
            words.push(format!("--record-bytes {}", self.record_bytes));
        }
        if self.queues == 0 && self.members == 0 && !lock {
            words.push(format!("--batch-records {}", self.batch_records));
        }
        if !matches!(self.workload, Workload::Idle | Workload::Failover | Workload::Group) {
            words.push(format!("--records {}", self.records));
        }
        if let Some(rate) = self.rate {
            words.push(format!("--rate {rate}"));
        }
        if self.workload == Workload::Singles {
            words.push(format!("--tasks {} --window {}", self.tasks, self.window));
        }
        if !amqp {
            words.push(format!("--layout {}", self.layout.name()));
        }
        if self.nodes > 1 {
            words.push(format!("--nodes {}", self.nodes));
        }
        if !amqp && (self.nodes > 1 || self.replicas > 1) {
            words.push(format!("--replicas {}", self.replicas));
        }
        words.extend(self.node_settings.iter().map(|setting| format!("--set {setting}")));
        words.extend(self.url.iter().map(|url| format!("--url {url}")));
        if self.url_only {
            words.push("--url-only".to_owned());
        }
        words.extend(self.etcd.iter().map(|etcd| format!("--etcd {etcd}")));
        if let Some(fault) = self.fault {
            words.push(format!("--rounds {} --fault {}", self.rounds, fault.name()));
        }
        words.join(" ")
    }
}
