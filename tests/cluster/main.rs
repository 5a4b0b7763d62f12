//! Three nodes, each a real process: what a user of a cluster relies on.
//!
//! ```text
//!  expiry    queues of AMQP that nobody uses
//!  routing   any node will do; leaders are found and followed; replicas are read
//!  failing   a killed leader, a lost majority, a rolling restart
//!  groups    members keep what they own when their coordinator dies
//!  joining   who is let in, and what the others are told
//!  kv        keys and values through any node, over leaders that die, under locks
//!  locks     what is held stays held, and who waits keeps its place, when the leader dies
//!  moving    replicas on their way, under load
//!  placing   replicas and nodes: how many there can be, and when one can go
//!  queues    settlements outlive their leader
//!  amqp      queues of AMQP through any node, over leaders that move and die
//! ```
//! What is done to nodes at random is in `tests/chaos`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod amqp;
mod expiry;
mod failing;
mod groups;
mod joining;
mod kv;
mod locks;
mod moving;
mod placing;
mod queues;
mod routing;

use plimsoll_client::{Client, Consumer, ConsumerBuilder, Producer, Record, StartPosition};
use plimsoll_tests::within;

/// Sends values to a partition and waits for all acknowledgements.
async fn produce(producer: &Producer, partition: u32, values: impl IntoIterator<Item = String>) {
    let mut acks = Vec::new();
    for value in values {
        let record = Record::new(value);
        acks.push(within("room", producer.enqueue_to(partition, &record)).await.expect("taken"));
    }
    for ack in acks {
        within("an acknowledgement", ack).await.expect("it is acknowledged");
    }
}

async fn producer(client: &Client, topic: &str) -> Producer {
    within("build", client.producer(topic).build()).await.expect("a producer")
}

/// The values of a partition that are stored now.
async fn stored(
    client: &Client,
    topic: &str,
    partition: u32,
    shape: fn(ConsumerBuilder) -> ConsumerBuilder,
) -> Vec<String> {
    let builder = client.consumer(topic).partitions([partition]).from(StartPosition::Earliest);
    let built = within("subscribe", shape(builder).bounded().build()).await;
    let mut consumer = built.expect("a consumer");
    let mut values = Vec::new();
    while let Some(record) = within("a record", consumer.next()).await {
        values.push(text(record.expect("it can be read").record.value));
    }
    values
}

/// The next `count` values that a consumer is given.
async fn take(consumer: &mut Consumer, count: usize) -> Vec<String> {
    let mut values = Vec::new();
    while values.len() < count {
        let record = within("a record", consumer.next()).await.expect("there is more");
        values.push(text(record.expect("it can be read").record.value));
    }
    values
}

fn from_leader(builder: ConsumerBuilder) -> ConsumerBuilder {
    builder
}

fn text(value: Option<bytes::Bytes>) -> String {
    String::from_utf8(value.expect("a value").to_vec()).expect("text was sent")
}

fn numbered(range: std::ops::Range<u64>) -> impl Iterator<Item = String> {
    range.map(|number| format!("value {number}"))
}
