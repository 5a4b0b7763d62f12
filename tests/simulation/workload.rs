//! What clients do: producers that number their records, consumers that read from the beginning.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use plimsoll_client::{
    AddressSource, Client, ClientConfig, ConnectError, Consumer, Dial, LeaseClock, NewTopic,
    ProducerOptions, Record, SendError, TransportConfig, Trust, WallClock,
};
use plimsoll_log::disk::sim::SplitMix;
use plimsoll_transport::{Connection, SimulatedHost};
use tokio::time::{sleep, timeout};

use crate::clock::SimClock;
use crate::history::{History, Outcome, RecordName, Seen};
use crate::node::{PORT, node_ip};

/// The topic that everybody works with.
pub const TOPIC: &str = "t";
/// How long clients wait for an answer.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// What the clients of a world are told.
#[derive(Debug, Clone)]
pub struct Work {
    /// Nodes that can be dialed at the start.
    pub nodes: u64,
    /// Partitions of the topic.
    pub partitions: u32,
    /// Replicas of each.
    pub replicas: u16,
    /// Longest padding of a record, in bytes.
    pub padding_max: u64,
    /// Longest pause of a producer between two bursts, in milliseconds.
    pub pause_ms_max: u64,
}

/// The address of a client process's host.
#[must_use]
pub fn client_ip(number: u64) -> IpAddr {
    let last = u8::try_from(number).unwrap_or(u8::MAX);
    IpAddr::V4(Ipv4Addr::new(10, 0, 1, last))
}

/// Dials over the simulated network.
#[derive(Debug)]
struct SimDial {
    host: SimulatedHost,
    config: TransportConfig,
}

impl Dial for SimDial {
    fn dial<'a>(
        &'a self,
        address: &'a str,
        _source: AddressSource,
    ) -> BoxFuture<'a, Result<Connection, ConnectError>> {
        async move {
            let socket: SocketAddr = address.parse().map_err(|error| ConnectError::Resolve {
                address: address.to_owned(),
                reason: format!("{error}"),
            })?;
            let dialed = self.host.dial(socket, &self.config).await;
            dialed.map_err(|error| ConnectError::Dial {
                address: address.to_owned(),
                reason: error.to_string(),
            })
        }
        .boxed()
    }
}

fn config(host: &SimulatedHost, seed: u64, nodes: u64) -> ClientConfig {
    let addresses: Vec<String> =
        (1..=nodes).map(|number| format!("{}:{PORT}", node_ip(number))).collect();
    let transport = TransportConfig::default();
    ClientConfig {
        dial: Some(Arc::new(SimDial { host: host.clone(), config: transport })),
        seed: Some(seed),
        connect_timeout: Duration::from_secs(2),
        request_timeout: REQUEST_TIMEOUT,
        ..ClientConfig::new(addresses.join(","), Trust::Nobody)
    }
}

pub(crate) async fn connect(host: &SimulatedHost, seed: u64, work: &Work) -> Client {
    connect_by(host, seed, work, None).await
}

/// Connects a client that takes the time from this clock.
pub(crate) async fn connect_by(
    host: &SimulatedHost,
    seed: u64,
    work: &Work,
    clock: Option<SimClock>,
) -> Client {
    loop {
        let config = ClientConfig {
            lease_clock: clock.clone().map(|clock| Arc::new(clock) as Arc<dyn LeaseClock>),
            wall_clock: clock.clone().map(|clock| Arc::new(clock) as Arc<dyn WallClock>),
            ..config(host, seed, work.nodes)
        };
        match Client::connect(config).await {
            Ok(client) => return client,
            Err(error) => {
                tracing::debug!(%error, "a client cannot connect");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Makes the topic, however long it takes.
pub(crate) async fn make_topic(client: &Client, work: &Work) {
    loop {
        let mut topic = NewTopic::new(TOPIC);
        topic.partitions = work.partitions;
        topic.replicas = work.replicas;
        topic.if_not_exists = true;
        match client.admin().create_topic(topic).await {
            Ok(_) => return,
            Err(error) => tracing::debug!(%error, "the topic cannot be made"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Sends numbered records until the history is over.
pub async fn produce(host: SimulatedHost, history: History, producer: u32, seed: u64, work: Work) {
    let mut random = SplitMix::new(seed);
    let client = connect(&host, random.number(), &work).await;
    make_topic(&client, &work).await;
    let mut next = 0;
    while !history.lock().is_over {
        let options = ProducerOptions {
            linger: Duration::from_millis(random.below(3)),
            batch_records: 1 + u32::try_from(random.below(20)).unwrap_or(0),
            delivery_timeout: Duration::from_millis(500 + random.below(20_000)),
            ..ProducerOptions::default()
        };
        let sending = match client.producer(TOPIC).options(options).build().await {
            Ok(sending) => sending,
            Err(error) => {
                tracing::debug!(%error, "a producer cannot be made");
                sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        for _ in 0..20 + random.below(200) {
            if history.lock().is_over {
                break;
            }
            let mut waiting = Vec::new();
            for _ in 0..1 + random.below(8) {
                let name = RecordName { producer, number: next };
                let partition =
                    u32::try_from(random.below(u64::from(work.partitions))).unwrap_or(0);
                next += 1;
                history.sending(name, partition);
                let padding = usize::try_from(random.below(work.padding_max + 1)).unwrap_or(0);
                let record = Record::new(name.value(padding)).with_timestamp_ms(1);
                match sending.enqueue_to(partition, &record).await {
                    Ok(future) => waiting.push((name, future)),
                    Err(error) => told(&history, name, Err(error)),
                }
            }
            for (name, future) in waiting {
                told(&history, name, future.await.map(|ack| ack.offset.map(|offset| offset.0)));
            }
            sleep(Duration::from_millis(random.below(work.pause_ms_max + 1))).await;
        }
        if random.chance(50) {
            // What was sent is settled already.
            drop(sending.close().await);
        }
    }
    history.lock().ended += 1;
}

fn told(history: &History, name: RecordName, outcome: Result<Option<u64>, SendError>) {
    history.told(name, outcome_of(outcome));
}

/// What a sender knows of what it was told.
pub(crate) fn outcome_of(told: Result<Option<u64>, SendError>) -> Outcome {
    match told {
        Ok(offset) => Outcome::Acked { offset },
        Err(error) if error.is_definite() => Outcome::Refused,
        Err(_) => Outcome::Unknown,
    }
}

/// Reads all partitions from the beginning until the history is over, now and then anew.
pub async fn consume(host: SimulatedHost, history: History, consumer: u32, seed: u64, work: Work) {
    let mut random = SplitMix::new(seed);
    let client = connect(&host, random.number(), &work).await;
    make_topic(&client, &work).await;
    let mut generation = 0;
    while !history.lock().is_over {
        let reading = match client.consumer(TOPIC).build().await {
            Ok(reading) => reading,
            Err(error) => {
                tracing::debug!(%error, "a consumer cannot be made");
                sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        generation += 1;
        let until = Duration::from_millis(500 + random.below(5000));
        // At its end the consumer is left where it is, and another one begins.
        let _ = timeout(until, read(reading, &history, (consumer, generation))).await;
    }
    history.lock().ended += 1;
}

/// Notes what a consumer gets until it ends; returns the offset after the last record.
pub(crate) async fn read(mut reading: Consumer, history: &History, consumer: (u32, u32)) -> u64 {
    let mut next = 0;
    while let Some(got) = reading.next().await {
        let got = match got {
            Ok(got) => got,
            Err(error) => {
                history.complain(format!("a consumer cannot go on: {error}"));
                break;
            }
        };
        let (partition, offset) = (got.partition, got.offset.0);
        let value = got.record.value.as_deref().unwrap_or_default();
        match RecordName::parse(value) {
            Some(record) => history.got(Seen { consumer, partition, offset, record }),
            None => {
                history.complain(format!("offset {offset} of {partition} holds nobody's record"));
            }
        }
        next = offset + 1;
    }
    next
}

/// Reads everything that there is, once.
pub async fn audit(host: SimulatedHost, history: History) {
    let work = Work { nodes: 1, partitions: 1, replicas: 1, padding_max: 0, pause_ms_max: 1 };
    let client = connect(&host, 1, &work).await;
    loop {
        match client.consumer(TOPIC).bounded().build().await {
            Ok(reading) => {
                read(reading, &history, (u32::MAX, 0)).await;
                break;
            }
            Err(error) => {
                tracing::debug!(%error, "the last reader cannot begin");
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
    history.lock().ended += 1;
}
