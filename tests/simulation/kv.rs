//! A map beside the topic: clients that put, compare, delete and read a few keys at once.

use std::collections::BTreeMap;
use std::time::Duration;

use plimsoll_client::{Client, Kv, KvError, NewTopic, Revision, TopicConfig};
use plimsoll_linearizability::kv::{KvOp, KvRet};
use plimsoll_linearizability::{Call, Outcome};
use plimsoll_log::disk::sim::SplitMix;
use plimsoll_protocol::api::{Cleanup, TopicRules};
use plimsoll_transport::SimulatedHost;
use tokio::time::sleep;

use crate::clock::SimClock;
use crate::history::History;
use crate::judged::{Round, Rounds};
use crate::workload::{Work, connect_by};

/// The topic that is the map.
pub const KEYS: &str = "k";

/// Longest time between two operations of a client, in milliseconds.
const PAUSE_MS_MAX: u64 = 30;
/// Nothing is compacted in a run: the observer reads whole logs.
const LAG_MS: u64 = 7 * 24 * 3_600_000;

/// What is to be done with the map of a world.
#[derive(Debug, Clone, Copy)]
pub struct KeyWork {
    /// Clients, each in a process of its own.
    pub clients: u32,
    /// Keys in use at once.
    pub places: u64,
    /// Partitions of the topic.
    pub partitions: u32,
}

/// What was asked of keys and answered.
#[derive(Debug, Default)]
pub struct KeyRecords {
    /// The operations.
    pub rounds: Rounds<KvOp<u64>, KvRet<u64>>,
    /// Values so far: each is written by one operation.
    values: u64,
    /// The last revision that any client was told of.
    seen: BTreeMap<Round, u64>,
}

/// An operation that is under way.
#[derive(Debug, Clone, Copy)]
struct Asked {
    round: Round,
    call: Call,
}

impl History {
    fn ask_key(&self, client: u32, round: Round, op: KvOp<u64>) -> Asked {
        let mut state = self.lock();
        let now_ms = state.now_ms;
        let call = state.keys.rounds.of(round).invoke(client, now_ms, op);
        Asked { round, call }
    }

    fn answer_key(&self, Asked { round, call }: Asked, outcome: Outcome<KvRet<u64>>) {
        let mut state = self.lock();
        let now_ms = state.now_ms;
        if let Outcome::Ok(
            KvRet::Found { revision, .. }
            | KvRet::Written { revision }
            | KvRet::Conflict { actual: Some(revision) },
        ) = outcome
        {
            state.keys.seen.insert(round, revision);
        }
        state.keys.rounds.of(round).complete(call, now_ms, outcome);
    }

    /// A value that nobody else writes.
    fn new_value(&self) -> u64 {
        let mut state = self.lock();
        state.keys.values += 1;
        state.keys.values
    }
}

/// Makes a compacted topic, however long it takes.
pub(crate) async fn make_map(client: &Client, name: &str, partitions: u32, work: &Work) {
    let rules = TopicRules {
        cleanup: Cleanup::Compact,
        compaction_lag_ms: LAG_MS,
        ..TopicRules::default()
    };
    loop {
        let mut topic = NewTopic::new(name);
        topic.partitions = partitions;
        topic.replicas = work.replicas;
        topic.config = TopicConfig { rules: rules.clone(), ..TopicConfig::default() };
        topic.if_not_exists = true;
        match client.admin().create_topic(topic).await {
            Ok(_) => return,
            Err(error) => tracing::debug!(%error, "a map cannot be made"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Works with keys until the history is over.
pub async fn work_with_keys(
    host: SimulatedHost,
    history: History,
    seed: u64,
    clock: SimClock,
    (work, keys): (Work, KeyWork),
) {
    let mut random = SplitMix::new(seed);
    let client = connect_by(&host, random.number(), &work, Some(clock)).await;
    make_map(&client, KEYS, keys.partitions, &work).await;
    let (kv, number) = (client.kv(KEYS), history.begin_client());
    while !history.lock().is_over {
        let round = history.lock().keys.rounds.current(random.below(keys.places));
        let key = format!("key {round}");
        match random.below(100) {
            0..35 => get(&kv, &history, (number, round), &key).await,
            choice => change(&kv, &history, (number, round), &key, choice).await,
        }
        sleep(Duration::from_millis(random.below(PAUSE_MS_MAX))).await;
    }
    history.lock().ended += 1;
}

async fn get(kv: &Kv, history: &History, (client, round): (u32, Round), key: &str) {
    let asked = history.ask_key(client, round, KvOp::Get);
    let outcome = match kv.get(key).await {
        Ok(None) => Outcome::Ok(KvRet::Absent),
        Ok(Some(entry)) => {
            let value = std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse().ok());
            match value {
                Some(value) => Outcome::Ok(KvRet::Found { value, revision: entry.revision.0 }),
                None => {
                    history.complain(format!("{key} has a value that nobody put: {entry:?}"));
                    Outcome::Failed
                }
            }
        }
        // It changed nothing, and says nothing.
        Err(error) => {
            tracing::debug!(%error, "a key was not read");
            Outcome::Failed
        }
    };
    history.answer_key(asked, outcome);
}

async fn change(kv: &Kv, history: &History, (client, round): (u32, Round), key: &str, choice: u64) {
    let value = history.new_value();
    let seen = history.lock().keys.seen.get(&round).copied();
    let (text, expected) = (value.to_string(), seen.unwrap_or(0));
    let op = match choice {
        ..55 => KvOp::Put(value),
        55..67 => KvOp::PutIfAbsent(value),
        67..87 => KvOp::Cas { expected, value },
        87..92 => KvOp::Delete,
        _ => KvOp::DeleteIf { expected },
    };
    let asked = history.ask_key(client, round, op.clone());
    let written = |revision: Revision| KvRet::Written { revision: revision.0 };
    let told = match op {
        KvOp::Put(_) => kv.put(key, text).await.map(written),
        KvOp::PutIfAbsent(_) => kv.put_if_absent(key, text).await.map(written),
        KvOp::Cas { .. } => kv.compare_and_set(key, text, Revision(expected)).await.map(written),
        KvOp::Delete => kv.delete(key).await.map(|deleted| written(deleted.revision)),
        _ => kv.delete_if(key, Revision(expected)).await.map(written),
    };
    let outcome = match told {
        Ok(ret) => Outcome::Ok(ret),
        Err(KvError::Conflict { revision }) => {
            Outcome::Ok(KvRet::Conflict { actual: revision.map(|revision| revision.0) })
        }
        Err(error) => {
            tracing::debug!(%error, "a key was not changed, or is not known to be");
            if error.is_definite() { Outcome::Failed } else { Outcome::Unknown }
        }
    };
    history.answer_key(asked, outcome);
}
