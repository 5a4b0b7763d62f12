//! Reads what is stored and compares it with the ledger.

use std::collections::BTreeMap;
use std::sync::Arc;

use plimsoll_bench::serve_process::{ServeCommand, ServeProcess};
use plimsoll_client::{Client, Offset, StartPosition};
use plimsoll_tests::{read_numbered, within};
use plimsoll_transport::TransportKind;

use crate::ledger::{Ledger, Stream};
use crate::{PARTITIONS, TOPICS};

/// Knows how far it has read.
#[derive(Debug)]
pub(crate) struct Checker {
    ledger: Arc<Ledger>,
    /// By partition: the next offset, and of each stream the next number.
    seen: BTreeMap<(&'static str, u32), Seen>,
}

#[derive(Debug, Clone, Default)]
struct Seen {
    offset: u64,
    next: BTreeMap<Stream, u64>,
}

impl Checker {
    pub(crate) fn new(ledger: Arc<Ledger>) -> Self {
        Self { ledger, seen: BTreeMap::new() }
    }

    /// Reads on where the last check ended.
    pub(crate) async fn check_new(&mut self, node: &ServeCommand, process: &mut ServeProcess) {
        let client = node.connect(process, TransportKind::Quic).await.expect("it answers");
        for (topic, _) in TOPICS {
            for partition in 0..PARTITIONS {
                let seen = self.seen.remove(&(topic, partition)).unwrap_or_default();
                let seen = check(&client, &self.ledger, topic, partition, seen).await;
                self.seen.insert((topic, partition), seen);
            }
        }
    }

    /// Reads everything again from the beginning.
    pub(crate) async fn check_all(&mut self, node: &ServeCommand, process: &mut ServeProcess) {
        self.seen.clear();
        self.check_new(node, process).await;
    }
}

async fn check(
    client: &Client,
    ledger: &Ledger,
    topic: &'static str,
    partition: u32,
    mut seen: Seen,
) -> Seen {
    // Before the reading begins: what is acknowledged later may come too late for it.
    let before = ledger.snapshot(topic);
    let consumer = client
        .consumer(topic)
        .partitions([partition])
        .from(StartPosition::Offset(Offset(seen.offset)))
        .bounded()
        .build();
    let mut consumer = within("subscribe", consumer).await.expect("a consumer");
    while let Some(found) = within("the next record", consumer.next()).await {
        let found = found.expect("what is stored can be read");
        assert_eq!(found.offset.0, seen.offset, "{topic}/{partition}: a hole between offsets");
        seen.offset += 1;
        let value = found.record.value.expect("every record has a value");
        let Some((writer, sequence)) = read_numbered(partition, &value) else {
            panic!("{topic}/{partition}, offset {}: not what was sent", found.offset);
        };
        let stream = Stream { topic, partition, writer };
        let next = seen.next.entry(stream).or_default();
        assert_eq!(
            sequence, *next,
            "{stream:?}, offset {}: lost, twice, or out of order",
            found.offset
        );
        *next += 1;
    }
    let after = ledger.snapshot(topic);
    for (stream, progress) in before.iter().filter(|(stream, _)| stream.partition == partition) {
        let stored = seen.next.get(stream).copied().unwrap_or_default();
        assert!(
            stored >= progress.acked,
            "{stream:?}: {} records were acknowledged, {stored} are stored",
            progress.acked
        );
    }
    for (stream, stored) in &seen.next {
        let sent = after.get(stream).map_or(0, |progress| progress.sent);
        assert!(*stored <= sent, "{stream:?}: {sent} records were sent, {stored} are stored");
    }
    seen
}
