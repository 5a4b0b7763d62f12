//! `kill -9` of a real node at random moments under load: nothing acknowledged is lost, stored
//! twice or out of order.
//!
//! ```text
//!  main     the rounds: load, a kill at a random moment, restart on the same directory, check
//!  writer   a producer that numbers its records; some outlive the kills, some die with the node
//!  ledger   what was sent and what was acknowledged
//!  checker  reads everything back and compares it with the ledger
//! ```
//! 20 rounds; 200 with `PLIMSOLL_LONG=1`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod checker;
mod ledger;
mod writer;

use std::sync::Arc;
use std::time::{Duration, Instant};

use plimsoll_bench::serve_process::{ServeCommand, ServeProcess};
use plimsoll_client::{Durability, NewTopic, TopicConfig};
use plimsoll_tests::{PATIENCE, Random, TRANSPORTS, is_long, plimsoll_binary, within};
use plimsoll_transport::TransportKind;

use crate::checker::Checker;
use crate::ledger::Ledger;
use crate::writer::Writer;

const TOPICS: [(&str, Durability); 2] =
    [("durable", Durability::Durable), ("memory", Durability::Memory)];
const PARTITIONS: u32 = 3;
/// Records that may be sent between two kills, and how many of them are acknowledged by the second,
/// at most: what is left is what one writer that dies may hold.
const RECORDS: usize = 5_000;
const ACKS_MAX: u64 = 4_000;
/// A start takes about this long; a kill within it hits recovery.
const START: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_loses_no_acknowledged_record_and_stores_none_twice() {
    let rounds = if is_long() { 200 } else { 20 };
    let mut random = Random::for_test();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let node = ServeCommand::new(plimsoll_binary(), directory.path()).expect("free ports");
    let mut process = node.start().expect("it starts");
    create_topics(&node, &mut process).await;

    let ledger = Arc::new(Ledger::default());
    // These outlive every kill: their clients reconnect and send again what was not acknowledged.
    let mut lasting = Vec::new();
    for transport in TRANSPORTS {
        for (topic, _) in TOPICS {
            lasting.push(Writer::start(&node, transport, topic, &ledger, random.next_u64()).await);
        }
    }
    let mut checker = Checker::new(Arc::clone(&ledger));
    for round in 1..=rounds {
        let transport = *random.choose(&TRANSPORTS);
        let (topic, _) = *random.choose(&TOPICS);
        let brief = Writer::start(&node, transport, topic, &ledger, random.next_u64()).await;
        ledger.allow(RECORDS);
        ledger.wait_for_acks(random.within(0..ACKS_MAX)).await;
        println!("round {round}: {} records acknowledged, kill", ledger.acked_in_all());
        process = kill_and_start(&node, process, &mut random).await;
        brief.forsake().await;
        checker.check_new(&node, &mut process).await;
        if round % 10 == 0 {
            checker.check_all(&node, &mut process).await;
        }
    }
    ledger.stop();
    for writer in lasting {
        writer.finish().await;
    }
    checker.check_all(&node, &mut process).await;
    process.check_alive().expect("it still serves");
    let status = within("shutdown", async { process.terminate() }).await.expect("it ends");
    assert!(status.success(), "a graceful end after all this: {status}");
}

async fn create_topics(node: &ServeCommand, process: &mut ServeProcess) {
    let client = node.connect(process, TransportKind::Quic).await.expect("it answers");
    for (name, durability) in TOPICS {
        // Small segments, so that kills hit the change from one to the next.
        let config = TopicConfig { durability, segment_bytes: 1 << 20, ..TopicConfig::default() };
        let topic = NewTopic::new(name).partitions(PARTITIONS).config(config);
        client.admin().create_topic(topic).await.expect("it is made");
    }
}

/// Kills the node, and some of the starts after it too: recovery must bear that as well.
async fn kill_and_start(
    node: &ServeCommand,
    process: ServeProcess,
    random: &mut Random,
) -> ServeProcess {
    let mut process = process;
    loop {
        process.kill().expect("it was running");
        process = node.start().expect("it starts");
        if !random.once_in(4) {
            return process;
        }
        // A random moment is a time by intent, not a wait for something.
        let lifetime = START.mul_f64(random.within(0..1_000) as f64 / 1_000.0);
        let end = Instant::now() + lifetime;
        assert!(lifetime < PATIENCE);
        tokio::time::sleep_until(end.into()).await;
    }
}
