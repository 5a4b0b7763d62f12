//! Node and client together, over QUIC, TLS and TCP: what a user of the crates relies on.
//!
//! ```text
//!  access     virtual hosts, users and permissions of AMQP
//!  full_disk  what is taken and what is not while there is no room, over AMQP and natively
//!  groups     partitions shared among members, commits, members that die
//!  queues     settled one by one: order, delays, limits, dead letters, over restarts
//!  records    every shape of record arrives as it was sent, on the partition that was chosen
//!  reading    from an offset, from a time, to an end, pushed as it comes, slowly
//!  restarts   clients that outlive their node, in order or not
//!  streams    more partitions than a connection has streams
//!  topics     made, changed, deleted; many partitions; retention
//!  trust      by fingerprint
//!  refusals   what a client is told when something cannot be
//! ```
//! What a client would never send is tested in `broker/node/tests` and in `tests/hostile`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod access;
mod full_disk;
mod groups;
mod locks;
mod queues;
mod reading;
mod records;
mod refusals;
mod restarts;
mod streams;
mod topics;
mod trust;

use plimsoll_client::{Client, Consumer, Producer, Record, StartPosition};
use plimsoll_tests::within;

/// Sends values to partition 0 and waits for all acknowledgements.
async fn produce(producer: &Producer, values: impl IntoIterator<Item = String>) {
    let mut acks = Vec::new();
    for value in values {
        let record = Record::new(value);
        acks.push(within("room", producer.enqueue_to(0, &record)).await.expect("it is taken"));
    }
    for ack in acks {
        within("an acknowledgement", ack).await.expect("it is acknowledged");
    }
}

/// The values of all records that are stored now, by partition and offset.
async fn stored(client: &Client, topic: &str) -> Vec<String> {
    let builder = client.consumer(topic).from(StartPosition::Earliest).bounded();
    let mut consumer = within("subscribe", builder.build()).await.expect("a consumer");
    let mut found = Vec::new();
    while let Some(record) = within("a record", consumer.next()).await {
        let record = record.expect("it can be read");
        found.push((record.partition, record.offset, text(record.record.value)));
    }
    found.sort();
    found.into_iter().map(|(_, _, value)| value).collect()
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

fn text(value: Option<bytes::Bytes>) -> String {
    String::from_utf8(value.expect("a value").to_vec()).expect("text was sent")
}

fn numbered(range: std::ops::Range<u64>) -> impl Iterator<Item = String> {
    range.map(|number| format!("value {number}"))
}
