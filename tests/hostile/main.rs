//! Malformed and hostile bytes against a real node: it goes on serving others, answers or closes
//! every connection, and keeps its memory bounded.
//!
//! ```text
//!  main      the attacks, and what must be true afterwards
//!  frames    frames worth sending: valid ones of every kind, damaged in many ways
//!  attacker  how they get to the node: plain TCP, TLS, QUIC, bare datagrams
//!  amqp      the same for AMQP 0-9-1, and very many connections
//! ```
//! 20,000 damaged frames of each protocol; 1,000,000 with `PLIMSOLL_LONG=1`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod amqp;
mod attacker;
mod frames;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use plimsoll_bench::serve_process::{ServeCommand, ServeProcess};
use plimsoll_client::{Client, NewTopic, Record, StartPosition};
use plimsoll_tests::{Random, eventually, is_long, plimsoll_binary, within};
use plimsoll_transport::TransportKind;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::attacker::Attacker;

/// Connections that attack at the same time.
const ATTACKERS: u64 = 8;
/// Topic of those who behave; no damaged frame has its name.
const QUIET: &str = "the-quiet-ones";
/// What the node may hold beside page cache after everything, in MB. An idle node has about 30.
const MEMORY_MB_MAX: f64 = 250.0;

struct Target {
    node: ServeCommand,
    process: ServeProcess,
    client: Client,
    _directory: TempDir,
}

impl Target {
    async fn start() -> Self {
        Self::start_with(|command| command).await
    }

    /// A node that is started with more than the usual.
    async fn start_with(change: impl FnOnce(ServeCommand) -> ServeCommand) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let node = ServeCommand::new(plimsoll_binary(), directory.path())
            .expect("free ports")
            // What strangers may make is bounded by configuration, and with it the node's memory.
            .argument("--set=topics_max=64")
            .argument("--set=partitions_per_topic_max=64")
            .argument("--set=hello_timeout=2s")
            .argument("--set=sleep_after=1s");
        let node = change(node);
        let mut process = node.start().expect("it starts");
        let client = node.connect(&mut process, TransportKind::Quic).await.expect("it answers");
        let topic = NewTopic::new(QUIET).partitions(2);
        within("create", client.admin().create_topic(topic)).await.expect("it is made");
        let topic = NewTopic::new(frames::TOPIC).partitions(2);
        within("create", client.admin().create_topic(topic)).await.expect("it is made");
        Self { node, process, client, _directory: directory }
    }

    async fn counter(&self, name: &str) -> u64 {
        let status = within("status", self.client.admin().node_status()).await.expect("an answer");
        let counter = status.counters.iter().find(|counter| counter.name == name);
        counter.unwrap_or_else(|| panic!("no counter {name}")).value
    }

    /// What must hold after every attack, whatever it was.
    async fn check(&mut self) {
        self.process.check_alive().expect("the node lives");
        eventually("no connection of an attacker is left", async || {
            (self.counter("connections_open").await == 1).then_some(())
        })
        .await;
        eventually("no subscription of an attacker is left", async || {
            (self.counter("subscriptions_open").await == 0).then_some(())
        })
        .await;
        assert_eq!(self.counter("panics").await, 0, "{}", self.process.output());
        let told = self.process.output();
        assert!(!told.contains("panicked"), "{told}");
        let memory = self.process.memory().expect("it lives");
        assert!(memory.resident_mb < MEMORY_MB_MAX, "{memory:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn damaged_frames_harm_nobody_but_their_sender() {
    let frames_in_all = if is_long() { 1_000_000 } else { 20_000 };
    let mut random = Random::for_test();
    let mut target = Target::start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let quiet = tokio::spawn(produce_quietly(target.client.clone(), Arc::clone(&stop)));
    let mut attackers = JoinSet::new();
    for _ in 0..ATTACKERS {
        let attacker = Attacker::new(&target.node, Random::seeded(random.next_u64()));
        attackers.spawn(attacker.send_damaged_frames(frames_in_all / ATTACKERS));
    }
    while let Some(done) = attackers.join_next().await {
        done.expect("no attacker fails");
    }
    stop.store(true, Ordering::Relaxed);
    let produced = within("the last acks", quiet).await.expect("others are served meanwhile");
    target.check().await;
    assert_eq!(consume_quietly(&target.client).await, produced);
    println!("{produced} records of others were acknowledged meanwhile");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn frames_that_never_come_cost_little_and_silence_is_ended() {
    const CONNECTIONS: usize = 200;
    let mut target = Target::start().await;
    let before = target.process.memory().expect("it lives").resident_mb;
    let mut attacker = Attacker::new(&target.node, Random::for_test());
    // Each claims the largest frame, sends its first KiB, and waits.
    let mut claims = Vec::new();
    for _ in 0..CONNECTIONS {
        claims.push(attacker.claim_a_large_frame().await);
    }
    let connections = CONNECTIONS as u64 + 1;
    eventually("all are connected", async || {
        (target.counter("connections_open").await == connections).then_some(())
    })
    .await;
    let during = target.process.memory().expect("it lives").resident_mb;
    assert!(during < before + 60.0, "{before} MB before, {during} MB with {CONNECTIONS} claims");
    drop(claims);
    // Those that say nothing at all are closed by the node.
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS {
        silent.push(attacker.say_nothing().await);
    }
    for connection in silent {
        within("the node closes it", attacker::wait_for_the_end(connection)).await;
    }
    target.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bytes_that_are_no_protocol_at_all_are_ignored() {
    let rounds = if is_long() { 20_000 } else { 1_000 };
    let mut target = Target::start().await;
    let mut attacker = Attacker::new(&target.node, Random::for_test());
    attacker.send_datagrams(rounds * 5).await;
    for _ in 0..rounds {
        attacker.send_garbage_to_the_tls_port().await;
    }
    target.check().await;
    let fresh = within("connect", async {
        target.node.connect(&mut target.process, TransportKind::Tls).await
    });
    within("ping", fresh.await.expect("it answers").admin().ping()).await.expect("it serves");
}

/// Sends and awaits records until told to stop; returns how many.
async fn produce_quietly(client: Client, stop: Arc<AtomicBool>) -> u64 {
    let producer = within("build", client.producer(QUIET).build()).await.expect("a producer");
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let record = Record::new(format!("{sent}"));
        let send = producer.send_to((sent % 2) as u32, record);
        let ack = within("an acknowledgement", send).await.expect("it is acknowledged");
        assert_eq!(ack.offset.map(|offset| offset.0), Some(sent / 2));
        sent += 1;
    }
    sent
}

async fn consume_quietly(client: &Client) -> u64 {
    let build = client.consumer(QUIET).from(StartPosition::Earliest).bounded().build();
    let mut consumer = within("subscribe", build).await.expect("a consumer");
    let mut found = 0;
    while let Some(record) = within("a record", consumer.next()).await {
        let record = record.expect("it can be read");
        let number = record.offset.0 * 2 + u64::from(record.partition);
        assert_eq!(record.record.value, Some(number.to_string().into()));
        found += 1;
    }
    found
}
