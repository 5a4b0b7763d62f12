//! Three real nodes under producers and consumers, and clients of locks and keys, killed, stopped, paused, cut
//! off and slowed down: nothing acknowledged is lost, stored twice or out of order, every consumer sees the log as
//! it is, each key and each lock answers as one that does one thing at a time, and no former holder of a lock
//! writes behind the next.
//!
//! ```text
//!  main      the run: load, faults, healing, the checks at the end
//!  schedule  which fault, on whom, how long: drawn from a seed
//!  faults    does it, undoes it, and says whether it took effect
//!  keys      clients of a map                    ┐ what they saw goes to
//!  locks     clients of locks, fenced writes     ┘ `plimsoll-linearizability`
//!  rounds    their histories: short ones, of names that change
//!  judging   has them judged, and counts them
//! ```
//! Each node is in a network namespace of its own where this user may make them; elsewhere the faults
//! of the network are reported as not run. About a minute; with `PLIMSOLL_LONG=1` for
//! `PLIMSOLL_SECONDS` (default 1800). A run in which a kind of fault never took effect, or under half
//! of the records were acknowledged, is rejected.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::print_stdout, reason = "a test that fails says what it did before")]

mod faults;
mod judging;
mod keys;
mod locks;
mod rounds;
mod schedule;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plimsoll_client::ConsumerBuilder;
use plimsoll_linearizability::kv::check_key;
use plimsoll_linearizability::lock::check_lock;
use plimsoll_tests::{
    History, Log, Network, NotAllowed, Pace, Place, Random, Reader, TestCluster, Writer, is_long,
    plimsoll_binary, read_log,
};

use crate::faults::Faults;
use crate::judging::{Judged, judge};
use crate::keys::{KeyClients, KeyHistory};
use crate::locks::{LockClients, Seen};
use crate::rounds::{Clock, Span};
use crate::schedule::{Kind, Schedule};

/// Topics with their settings. Small segments, so that faults hit the change from one to the next.
const TOPICS: [(&str, &[&str]); 2] = [
    ("durable", &["segment-bytes=1MiB"]),
    ("memory", &["segment-bytes=1MiB", "durability=memory"]),
];
const PARTITIONS: u32 = 3;
const NODES: usize = 3;
/// Acknowledgements that show the cluster to serve again after each fault.
const SERVES: u64 = 200;
/// How long the short form does something to the nodes, at least; each kind comes once anyway.
const SHORT: Duration = Duration::from_secs(30);
const LONG_SECONDS: u64 = 1_800;
/// A run of so many seconds must yield so many histories with a fault during them.
const HISTORIES_AFTER_SECONDS: u64 = 300;
const HISTORIES_WITH_FAULT: usize = 1_000;

#[test]
fn acknowledged_records_survive_whatever_happens_to_a_minority_and_then_to_all() {
    let binary = plimsoll_binary();
    let network = match Network::enter(NODES) {
        Ok(network) => Some(network),
        Err(NotAllowed(why)) => {
            println!("cuts and slow links are not run: needs CAP_NET_ADMIN ({why})");
            None
        }
    };
    if let Some(network) = &network {
        println!("{} in a namespace each; slowed down by {:?}", binary.display(), network.slows());
    }
    // Made here, after this thread is in the network: what it starts is there too.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(run(network.as_ref()));
}

async fn run(network: Option<&Network>) {
    let (length, lasts_max) = if is_long() {
        let given = std::env::var("PLIMSOLL_SECONDS").ok().map(|text| text.parse().unwrap());
        (Duration::from_secs(given.unwrap_or(LONG_SECONDS)), Duration::from_secs(10))
    } else {
        (SHORT, Duration::from_secs(3))
    };
    let mut kinds = Kind::OF_PROCESSES.to_vec();
    if network.is_some() {
        kinds.extend(Kind::OF_NETWORKS);
    }
    let mut random = Random::for_test();
    let mut cluster = TestCluster::start_with(NODES as u32, |index, command| match network {
        None => command,
        Some(network) => {
            let (address, plaintext) = network.addresses(index);
            command.listening(address, plaintext).launched_by(network.launcher(index))
        }
    })
    .await;
    for (name, settings) in TOPICS {
        cluster.create_topic(name, PARTITIONS, settings).await;
    }
    cluster.create_topic(keys::MAP.0, PARTITIONS, keys::MAP.1).await;
    cluster.create_topic(locks::GUARDED.0, locks::GUARDED_PARTITIONS, locks::GUARDED.1).await;
    locks::create_namespace(&cluster.client().await).await;
    cluster.wait_until_well().await;

    let history = Arc::new(History::default());
    let config = cluster.nodes.client_config().unwrap();
    let topics = TOPICS.map(|(name, _)| (name, PARTITIONS));
    let pace = Pace { per_second: 100, window: 500 };
    let mut writers = Vec::new();
    for topic in [topics[0], topics[0], topics[1]] {
        let seed = random.next_u64();
        writers.push(Writer::start(config.clone(), topic, pace, &history, seed));
    }
    let readers = vec![Reader::start(&config, &topics, from_leader)];
    let clock = Clock::start();
    let key_clients = KeyClients::start(&config, clock, &mut random);
    let lock_clients = LockClients::start(&config, clock, &mut random);
    history.wait_for_acks(SERVES).await;

    let (began, required) = (Instant::now(), kinds.len());
    let mut schedule = Schedule::new(random, kinds.clone(), NODES, PARTITIONS, lasts_max);
    let mut faults = Faults::new(&mut cluster, network, clock).await;
    let mut done = 0;
    while done < required || began.elapsed() < length {
        let fault = schedule.next().expect("it never ends");
        faults.carry_out(&fault).await;
        // The cluster serves again before all is repaired, and sometimes the next fault comes before.
        history.wait_for_acks(SERVES).await;
        tokio::time::sleep(fault.calm).await;
        done += 1;
        if done % 3 == 0 {
            faults.wait_until_well().await;
        }
    }
    faults.wait_until_well().await;
    let happened = faults.happened().to_vec();
    let (keys, locks) = (key_clients.finish().await, lock_clients.finish().await);
    for writer in writers {
        writer.finish().await;
    }
    let logs = check_logs(&cluster, &history).await;
    for reader in readers {
        println!("consumers that ended and went on: {}", reader.errors().len());
        reader.finish(&logs).await;
    }
    let took = began.elapsed();
    check_histories(&cluster, keys, &locks, &happened, took).await;
    report(&history, &happened, &kinds, took);
}

/// Has all histories of keys and locks judged, and rejects a run with too few of them.
async fn check_histories(
    cluster: &TestCluster,
    keys: Vec<KeyHistory>,
    locks: &Seen,
    happened: &[(Kind, Span)],
    took: Duration,
) {
    println!("locks: {}", locks.check(&cluster.client().await).await);
    let leases = locks.leases();
    let keys = judge(keys, happened, |history| check_key(history.clone()));
    let locks = judge(locks.histories(), happened, |history| check_lock(history.clone(), &leases));
    println!("keys: {keys}");
    println!("locks: {locks}");
    for (what, Judged { with_fault, operations, unknown, .. }) in
        [("keys", &keys), ("locks", &locks)]
    {
        assert!(*with_fault > 0, "rejected: no history of {what} had a fault during it");
        assert!(unknown * 2 < *operations, "rejected: few operations of {what} were answered");
    }
    let with_fault = keys.with_fault + locks.with_fault;
    println!("{with_fault} histories with a fault during them were judged, 0 were too hard");
    let is_full = took.as_secs() >= HISTORIES_AFTER_SECONDS;
    assert!(
        !is_full || with_fault >= HISTORIES_WITH_FAULT,
        "rejected: {HISTORIES_WITH_FAULT} histories with faults were to be had"
    );
}

fn from_leader(builder: ConsumerBuilder) -> ConsumerBuilder {
    builder
}

/// Reads every partition and compares it with what was sent.
async fn check_logs(cluster: &TestCluster, history: &History) -> BTreeMap<Place, Log> {
    let client = cluster.client().await;
    let mut logs = BTreeMap::new();
    for (topic, _) in TOPICS {
        for partition in 0..PARTITIONS {
            let place = (topic, partition);
            let log = read_log(&client, place, from_leader).await;
            if let Err(broken) = history.check(topic, partition, &log) {
                panic!("{broken}; the nodes said:\n{}", cluster.nodes.output());
            }
            logs.insert(place, log);
        }
    }
    logs
}

/// Prints what the run was worth, and rejects one that was worth nothing.
fn report(history: &History, happened: &[(Kind, Span)], kinds: &[Kind], took: Duration) {
    let totals = history.totals();
    let times = |kind: Kind| happened.iter().filter(|(happened, _)| *happened == kind).count();
    println!("{} s of faults: {totals:?}", took.as_secs());
    println!("longest time without an acknowledgement: {:?}", history.longest_gap());
    for kind in kinds {
        println!("  {:<11} {}", kind.to_string(), times(*kind));
    }
    for failure in history.failures().iter().take(10) {
        println!("  given up: {failure}");
    }
    for kind in kinds {
        assert!(times(*kind) > 0, "rejected: the fault `{kind}` never took effect");
    }
    assert!(
        totals.acked * 2 >= totals.sent,
        "rejected: only {} of {} records were acknowledged",
        totals.acked,
        totals.sent
    );
}
