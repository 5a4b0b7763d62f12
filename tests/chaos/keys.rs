//! Clients of a map: they read and change few keys at once, and note what they were told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use plimsoll_client::{Client, ClientConfig, Entry, Kv, KvError, Revision};
use plimsoll_linearizability::Outcome;
use plimsoll_linearizability::kv::{KvOp, KvRet};
use plimsoll_tests::{Random, within};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::rounds::{Clock, Named, Rounds, Turn};

/// The topic, with its settings: small segments, so that it is compacted meanwhile.
pub(crate) const MAP: (&str, &[&str]) =
    ("map", &["cleanup=compact", "segment-bytes=64KiB", "tombstone-ms=1s"]);
const CLIENTS: u32 = 5;
const KEYS_AT_ONCE: usize = 3;
const TURNS: usize = 24;
/// Between two operations of a client, at least.
const PACE: Duration = Duration::from_millis(20);
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(50);
/// Bytes of a value besides its number, so that segments fill.
const FILLER: usize = 400;
/// How long an operation is tried: an outage that lasts longer leaves one of unknown outcome per client.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);

/// What was asked of a key, and answered.
pub(crate) type KeyHistory = Named<KvOp<u64>, KvRet<u64>>;
type KeyRounds = Rounds<KvOp<u64>, KvRet<u64>>;
type Told = Outcome<KvRet<u64>>;

/// The clients.
#[derive(Debug)]
pub(crate) struct KeyClients {
    rounds: Arc<KeyRounds>,
    stop: watch::Sender<bool>,
    running: JoinSet<()>,
}

struct KeyClient {
    number: u32,
    config: ClientConfig,
    rounds: Arc<KeyRounds>,
    random: Random,
    /// Of each slot: the name it had, and the revision that was told last.
    seen: BTreeMap<usize, (String, Revision)>,
    values: u64,
}

impl KeyClients {
    /// Begins.
    pub(crate) fn start(config: &ClientConfig, clock: Clock, random: &mut Random) -> Self {
        let rounds = Arc::new(Rounds::new(clock, "key", KEYS_AT_ONCE, TURNS));
        let (stop, stopped) = watch::channel(false);
        let config = ClientConfig { request_timeout: REQUEST_TIMEOUT, ..config.clone() };
        let mut running = JoinSet::new();
        for number in 0..CLIENTS {
            let client = KeyClient {
                number,
                config: config.clone(),
                rounds: Arc::clone(&rounds),
                random: Random::seeded(random.next_u64()),
                seen: BTreeMap::new(),
                values: 0,
            };
            running.spawn(client.run(stopped.clone()));
        }
        Self { rounds, stop, running }
    }

    /// Ends it when every operation has its outcome; all histories.
    pub(crate) async fn finish(self) -> Vec<KeyHistory> {
        self.stop.send_replace(true);
        within("the last changes of keys", self.running.join_all()).await;
        self.rounds.take()
    }
}

impl KeyClient {
    async fn run(mut self, stopped: watch::Receiver<bool>) {
        let mut attempts = tokio::time::interval(BETWEEN_ATTEMPTS);
        let client = loop {
            attempts.tick().await;
            if let Ok(client) = Client::connect(self.config.clone()).await {
                break client;
            }
        };
        let kv = client.kv(MAP.0);
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !*stopped.borrow() {
            pace.tick().await;
            self.operate(&kv).await;
        }
    }

    async fn operate(&mut self, kv: &Kv) {
        let slot = self.random.within(0..KEYS_AT_ONCE as u64) as usize;
        let turn = self.rounds.turn(slot);
        let known = self.seen.get(&slot).filter(|(name, _)| *name == turn.name);
        let known = known.map(|(_, revision)| *revision);
        let told = match (self.random.within(0..12), known) {
            (0..=1, _) => self.put(kv, &turn).await,
            (2..=3, _) => self.put_if_absent(kv, &turn).await,
            (4..=6, Some(revision)) => self.compare_and_set(kv, &turn, revision).await,
            (7, Some(revision)) => self.delete_if(kv, &turn, revision).await,
            (8, _) => self.delete(kv, &turn).await,
            _ => self.get(kv, &turn).await,
        };
        if let Some(revision) = told {
            self.seen.insert(slot, (turn.name, revision));
        }
    }

    /// A value that nobody else writes.
    fn value(&mut self) -> (u64, Bytes) {
        let number = u64::from(self.number) << 32 | self.values;
        self.values += 1;
        let mut value = number.to_le_bytes().to_vec();
        value.resize(size_of::<u64>() + FILLER, self.number as u8);
        (number, value.into())
    }

    async fn get(&mut self, kv: &Kv, turn: &Turn) -> Option<Revision> {
        let invoked = self.rounds.clock().now();
        let outcome = match kv.get(&turn.name).await {
            Ok(Some(entry)) => Outcome::Ok(found(entry)),
            Ok(None) => Outcome::Ok(KvRet::Absent),
            // A read has no effect.
            Err(_) => Outcome::Failed,
        };
        self.note(turn, invoked, KvOp::Get, outcome)
    }

    async fn put(&mut self, kv: &Kv, turn: &Turn) -> Option<Revision> {
        let (number, value) = self.value();
        let invoked = self.rounds.clock().now();
        let outcome = written(kv.put(&turn.name, value).await);
        self.note(turn, invoked, KvOp::Put(number), outcome)
    }

    async fn put_if_absent(&mut self, kv: &Kv, turn: &Turn) -> Option<Revision> {
        let (number, value) = self.value();
        let invoked = self.rounds.clock().now();
        let outcome = written(kv.put_if_absent(&turn.name, value).await);
        self.note(turn, invoked, KvOp::PutIfAbsent(number), outcome)
    }

    async fn compare_and_set(
        &mut self,
        kv: &Kv,
        turn: &Turn,
        expected: Revision,
    ) -> Option<Revision> {
        let (number, value) = self.value();
        let invoked = self.rounds.clock().now();
        let outcome = written(kv.compare_and_set(&turn.name, value, expected).await);
        self.note(turn, invoked, KvOp::Cas { expected: expected.0, value: number }, outcome)
    }

    async fn delete_if(&mut self, kv: &Kv, turn: &Turn, expected: Revision) -> Option<Revision> {
        let invoked = self.rounds.clock().now();
        let outcome = written(kv.delete_if(&turn.name, expected).await);
        self.note(turn, invoked, KvOp::DeleteIf { expected: expected.0 }, outcome)
    }

    async fn delete(&mut self, kv: &Kv, turn: &Turn) -> Option<Revision> {
        let invoked = self.rounds.clock().now();
        let deleted = kv.delete(&turn.name).await;
        let outcome = written(deleted.map(|deleted| deleted.revision));
        self.note(turn, invoked, KvOp::Delete, outcome)
    }

    /// Notes an operation; the revision that its answer tells.
    fn note(&self, turn: &Turn, invoked: u64, op: KvOp<u64>, outcome: Told) -> Option<Revision> {
        let told = match &outcome {
            Outcome::Ok(KvRet::Found { revision, .. } | KvRet::Written { revision }) => {
                Some(*revision)
            }
            Outcome::Ok(KvRet::Conflict { actual }) => *actual,
            _ => None,
        };
        self.rounds.note(turn, self.number, invoked, op, outcome);
        told.map(Revision)
    }
}

fn found(entry: Entry) -> KvRet<u64> {
    let mut value = entry.value;
    let number = value.try_get_u64_le().expect("a number was written");
    assert_eq!(value.len(), FILLER, "value {number} was cut");
    KvRet::Found { value: number, revision: entry.revision.0 }
}

fn written(outcome: Result<Revision, KvError>) -> Told {
    match outcome {
        Ok(revision) => Outcome::Ok(KvRet::Written { revision: revision.0 }),
        Err(KvError::Conflict { revision }) => {
            Outcome::Ok(KvRet::Conflict { actual: revision.map(|revision| revision.0) })
        }
        Err(error) => not_done(&error),
    }
}

fn not_done(error: &KvError) -> Told {
    if error.is_definite() { Outcome::Failed } else { Outcome::Unknown }
}
