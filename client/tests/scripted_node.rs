//! The producer against a node of one partition that fails on a script: whatever happens, what was
//! acknowledged is stored once and in order, and what was reported as not stored is not stored.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use plimsoll_client::{AckLevel, Client, ClientConfig, Durability, Record, SendError, TopicConfig};
use plimsoll_protocol::api::{
    ApiKey, DescribeTopicRequest, DescribeTopicResponse, HelloRequest, HelloResponse,
    InitProducerRequest, PROTOCOL_MAX, ProduceRequest, ProduceResponse, ProducerIdentity, Request,
    TopicInfo, supported_apis,
};
use plimsoll_protocol::batch::{BatchLimits, RecordBatch, validate_produced};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::frame::{Frame, encode_error, encode_response};
use plimsoll_protocol::ids::{NodeId, Offset, ProducerId};
use plimsoll_transport::{FrameSender, Listener, TransportConfig};
use tokio::time::timeout;

/// What the node does with one produce attempt.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Act {
    Store,
    /// Stores, then the connection breaks before the answer.
    StoreAndBreak,
    /// The connection breaks before anything is stored.
    Break,
    /// Answers with an error and stores nothing.
    Refuse(ErrorCode),
    /// Forgets all producers, as after an eviction, then handles the attempt.
    ForgetProducers,
    /// Reads nothing more on this connection and keeps it open.
    StopReading,
}

#[derive(Default)]
struct Log {
    /// Values in offset order.
    values: Vec<Bytes>,
    /// Per producer: epoch, next sequence, and where each batch was stored.
    producers: HashMap<u64, (u32, u64, HashMap<u64, u64>)>,
    attempts: usize,
    next_producer: u64,
}

#[derive(Clone)]
struct Node {
    log: Arc<Mutex<Log>>,
    script: Arc<dyn Fn(usize) -> Act + Send + Sync>,
}

impl Node {
    async fn start(script: impl Fn(usize) -> Act + Send + Sync + 'static) -> (Self, String) {
        let address = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind_plaintext(address, TransportConfig::default()).unwrap();
        let address = listener.local_addr().to_string();
        let node = Self { log: Arc::default(), script: Arc::new(script) };
        let accepting = node.clone();
        tokio::spawn(async move {
            while let Some(incoming) = listener.accept().await {
                let node = accepting.clone();
                tokio::spawn(async move {
                    let connection = incoming.handshake().await.unwrap();
                    let (mut sender, mut receiver) = connection.accept().await.unwrap().unwrap();
                    while let Ok(Some(frame)) = receiver.recv().await {
                        if !node.answer(&frame, &mut sender).await {
                            connection.close(0, "scripted break");
                            return;
                        }
                    }
                });
            }
        });
        (node, address)
    }

    /// Whether the connection goes on.
    async fn answer(&self, frame: &Frame, sender: &mut FrameSender) -> bool {
        match ApiKey::from_number(frame.header.api).unwrap() {
            ApiKey::Hello => {
                let hello = HelloResponse {
                    protocol: PROTOCOL_MAX,
                    node_id: NodeId(1),
                    cluster_id: "scripted".to_owned(),
                    server_version: "0".to_owned(),
                    max_frame_bytes: 16 << 20,
                    batch_bytes_max: 8 << 20,
                    apis: supported_apis(),
                };
                reply::<HelloRequest>(frame, &hello, sender).await;
            }
            ApiKey::DescribeTopic => {
                let topic = TopicInfo {
                    name: "t".parse().unwrap(),
                    topic_id: 1,
                    partitions: 1,
                    replicas: 1,
                    config: TopicConfig::default(),
                    created_ms: 0,
                };
                let described = DescribeTopicResponse { topic, partitions: Vec::new() };
                reply::<DescribeTopicRequest>(frame, &described, sender).await;
            }
            ApiKey::InitProducer => {
                let asked: InitProducerRequest = frame.decode_body().unwrap();
                let identity = match asked.existing {
                    Some(identity) => ProducerIdentity { epoch: identity.epoch + 1, ..identity },
                    None => {
                        let mut log = self.log.lock().unwrap();
                        log.next_producer += 1;
                        ProducerIdentity { producer_id: ProducerId(log.next_producer), epoch: 0 }
                    }
                };
                reply::<InitProducerRequest>(frame, &identity, sender).await;
            }
            ApiKey::Produce => return self.produce(frame, sender).await,
            // As a node that is older than clusters, and queues.
            ApiKey::Metadata | ApiKey::WatchMetadata | ApiKey::ListQueues => {
                let error = ErrorResponse::new(ErrorCode::UnknownApi, "scripted");
                let head = encode_error(&frame.header, &error).freeze();
                let _ = sender.send(head, &[]).await;
            }
            other => panic!("unexpected {other}"),
        }
        true
    }

    async fn produce(&self, frame: &Frame, sender: &mut FrameSender) -> bool {
        let act = {
            let mut log = self.log.lock().unwrap();
            log.attempts += 1;
            (self.script)(log.attempts)
        };
        let outcome = match act {
            Act::Break => return false,
            Act::StopReading => std::future::pending().await,
            Act::Refuse(code) => Err(code),
            Act::ForgetProducers => {
                self.log.lock().unwrap().producers.clear();
                self.store(&frame.payload)
            }
            Act::Store | Act::StoreAndBreak => self.store(&frame.payload),
        };
        if act == Act::StoreAndBreak {
            return false;
        }
        match outcome {
            Ok((base_offset, duplicate)) => {
                let stored = ProduceResponse {
                    base_offset: Offset(base_offset),
                    reached: AckLevel::Quorum,
                    durability: Durability::Durable,
                    duplicate,
                    append_time_ms: 0,
                };
                reply::<ProduceRequest>(frame, &stored, sender).await;
            }
            Err(code) => {
                let error = ErrorResponse::new(code, "scripted");
                let head = encode_error(&frame.header, &error).freeze();
                sender.send(head, &[]).await.unwrap();
            }
        }
        true
    }

    /// The broker's rules of de-duplication, written as plainly as possible.
    fn store(&self, payload: &Bytes) -> Result<(u64, bool), ErrorCode> {
        let header = validate_produced(payload, &BatchLimits::default()).unwrap();
        let mut log = self.log.lock().unwrap();
        let end = log.values.len() as u64;
        let known = log.producers.get(&header.producer_id.0);
        if known.is_none() && header.base_sequence != 0 {
            return Err(ErrorCode::UnknownProducer);
        }
        let (epoch, next, _) = known.cloned().unwrap_or((header.producer_epoch, 0, HashMap::new()));
        if header.producer_epoch < epoch {
            return Err(ErrorCode::StaleProducerEpoch);
        }
        let next = if header.producer_epoch > epoch { 0 } else { next };
        if header.base_sequence < next {
            let known = &log.producers[&header.producer_id.0].2;
            return Ok((known[&header.base_sequence], true));
        }
        if header.base_sequence > next {
            return Err(ErrorCode::OutOfOrderSequence);
        }
        let (batch, _) = RecordBatch::parse(payload.clone()).unwrap();
        for record in batch.records(1 << 20).unwrap() {
            log.values.push(record.unwrap().record.value.unwrap());
        }
        let entry = log.producers.entry(header.producer_id.0).or_default();
        if header.producer_epoch > epoch {
            entry.2.clear();
        }
        entry.0 = header.producer_epoch;
        entry.1 = header.end_sequence();
        entry.2.insert(header.base_sequence, end);
        Ok((end, false))
    }

    fn values(&self) -> Vec<Bytes> {
        self.log.lock().unwrap().values.clone()
    }
}

async fn reply<R: Request>(frame: &Frame, response: &R::Response, sender: &mut FrameSender) {
    let head = encode_response::<R>(frame.header.correlation, response, 0).freeze();
    // A client that is gone needs no answer.
    let _ = sender.send(head, &[]).await;
}

/// Sends `count` numbered records, three to a batch, and checks every outcome against the log.
async fn check(script: impl Fn(usize) -> Act + Send + Sync + 'static, count: usize) -> Vec<bool> {
    let (node, address) = Node::start(script).await;
    let mut config = ClientConfig::plaintext(address);
    config.reconnect_pause = Duration::from_millis(1);
    let client = Client::connect(config).await.unwrap();
    let producer = client.producer("t").batch_records(3).build().await.unwrap();
    let mut futures = Vec::new();
    for number in 0..count {
        futures.push(producer.enqueue(Record::new(format!("{number}"))).await.unwrap());
    }
    let mut outcomes = Vec::new();
    for future in futures {
        outcomes.push(future.await);
    }
    // Failures were looked at above; flush reports the first of them again.
    let _ = producer.close().await;
    let values = node.values();
    let mut acknowledged = Vec::new();
    for (number, outcome) in outcomes.iter().enumerate() {
        let value = Bytes::from(format!("{number}"));
        let copies = values.iter().filter(|stored| **stored == value).count();
        match outcome {
            Ok(ack) => {
                assert_eq!(copies, 1, "record {number} was acknowledged and has {copies} copies");
                if let Some(offset) = ack.offset {
                    assert_eq!(values[offset.0 as usize], value, "record {number} at {offset}");
                }
            }
            Err(error) if error.is_definite() => {
                assert_eq!(copies, 0, "record {number} is stored, but: {error}");
            }
            Err(_) => assert!(copies <= 1, "record {number} has {copies} copies"),
        }
        acknowledged.push(outcome.is_ok());
    }
    let order: Vec<usize> =
        values.iter().map(|value| std::str::from_utf8(value).unwrap().parse().unwrap()).collect();
    assert!(order.is_sorted(), "records changed their order: {order:?}");
    acknowledged
}

#[tokio::test]
async fn a_quiet_node_stores_everything_in_order() {
    assert!(check(|_| Act::Store, 100).await.into_iter().all(|stored| stored));
}

#[tokio::test]
async fn a_lost_answer_is_sent_again_and_stored_once() {
    let script = |attempt| if attempt % 5 == 2 { Act::StoreAndBreak } else { Act::Store };
    assert!(check(script, 100).await.into_iter().all(|stored| stored));
}

#[tokio::test]
async fn a_broken_connection_is_made_again() {
    let script = |attempt| if attempt % 4 == 1 { Act::Break } else { Act::Store };
    assert!(check(script, 100).await.into_iter().all(|stored| stored));
}

#[tokio::test]
async fn a_passing_refusal_is_tried_again_in_order() {
    let script = |attempt| match attempt % 6 {
        2 => Act::Refuse(ErrorCode::LowDiskSpace),
        4 => Act::Refuse(ErrorCode::Timeout),
        5 => Act::Refuse(ErrorCode::NotReady),
        _ => Act::Store,
    };
    assert!(check(script, 100).await.into_iter().all(|stored| stored));
}

#[tokio::test]
async fn a_refused_batch_fails_alone() {
    let script = |attempt| match attempt {
        3 => Act::Refuse(ErrorCode::CorruptBatch),
        _ => Act::Store,
    };
    let acknowledged = check(script, 60).await;
    let failed = acknowledged.iter().filter(|stored| !**stored).count();
    assert!((1..=3).contains(&failed), "{failed} records failed");
}

#[tokio::test]
async fn a_node_that_forgot_the_producer_gets_a_new_epoch() {
    let script = |attempt| if attempt == 4 { Act::ForgetProducers } else { Act::Store };
    assert!(check(script, 60).await.into_iter().all(|stored| stored));
}

#[tokio::test]
async fn any_mix_of_faults_keeps_the_rules() {
    for seed in 0..40_u64 {
        let script = move |attempt: usize| {
            let mut z = (attempt as u64 + seed * 1000).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            match (z >> 32) % 14 {
                0 => Act::Break,
                1 => Act::StoreAndBreak,
                2 => Act::Refuse(ErrorCode::NotReady),
                3 => Act::Refuse(ErrorCode::BatchTooLarge),
                4 if attempt.is_multiple_of(3) => Act::Refuse(ErrorCode::Timeout),
                _ => Act::Store,
            }
        };
        eprintln!("seed {seed}");
        check(script, 60).await;
    }
}

/// A send that the node did not take once waited for ever, whatever the record's own limit.
#[tokio::test]
async fn records_are_given_up_when_the_node_takes_no_more_of_a_frame() {
    const RECORDS: usize = 8;
    let (node, address) = Node::start(|_| Act::StopReading).await;
    let mut config = ClientConfig::plaintext(address);
    config.reconnect_pause = Duration::from_millis(1);
    let client = Client::connect(config).await.unwrap();
    let options = plimsoll_client::ProducerOptions {
        delivery_timeout: Duration::from_secs(1),
        ..Default::default()
    };
    let producer = client.producer("t").options(options).build().await.unwrap();
    let mut futures = Vec::new();
    for _ in 0..RECORDS {
        // More than any socket keeps.
        futures.push(producer.enqueue(Record::new(vec![7; 4 << 20])).await.unwrap());
    }
    for future in futures {
        let outcome = timeout(Duration::from_secs(60), future).await.expect("it is given up");
        let error = outcome.expect_err("nothing is ever stored");
        assert!(
            matches!(error, SendError::OutcomeUnknown { .. } | SendError::NotSent { .. }),
            "{error:?}"
        );
    }
    assert!(node.values().is_empty());
}

/// The same for a write that gets on by nothing for as long as an answer may take: another connection
/// is tried.
#[tokio::test]
async fn a_stream_that_is_stuck_is_left_for_another() {
    let script = |attempt| if attempt == 1 { Act::StopReading } else { Act::Store };
    let (node, address) = Node::start(script).await;
    let mut config = ClientConfig::plaintext(address);
    config.reconnect_pause = Duration::from_millis(1);
    config.request_timeout = Duration::from_secs(1);
    let client = Client::connect(config).await.unwrap();
    let producer = client.producer("t").build().await.unwrap();
    let mut futures = Vec::new();
    for _ in 0..8 {
        futures.push(producer.enqueue(Record::new(vec![7; 4 << 20])).await.unwrap());
    }
    for future in futures {
        timeout(Duration::from_secs(60), future).await.expect("it is sent again").unwrap();
    }
    assert_eq!(node.values().len(), 8);
}

#[tokio::test]
async fn a_fenced_producer_says_so_and_refuses_more() {
    let script = |_| Act::Refuse(ErrorCode::StaleProducerEpoch);
    let (_node, address) = Node::start(script).await;
    let client = Client::connect(ClientConfig::plaintext(address)).await.unwrap();
    let producer = client.producer("t").build().await.unwrap();
    let first = producer.send(Record::new("a")).await;
    assert!(matches!(first, Err(SendError::Fenced)), "{first:?}");
    let second = producer.send(Record::new("b")).await;
    assert!(matches!(second, Err(SendError::Fenced)), "{second:?}");
}

#[tokio::test]
async fn a_full_buffer_is_an_error_for_who_does_not_wait() {
    // Nothing is ever answered: the first attempt waits for ever on the other side.
    let (_node, address) = Node::start(|_| Act::Refuse(ErrorCode::NotReady)).await;
    let client = Client::connect(ClientConfig::plaintext(address)).await.unwrap();
    let options = plimsoll_client::ProducerOptions {
        buffer_bytes: 64 << 10,
        delivery_timeout: Duration::from_millis(200),
        ..Default::default()
    };
    let producer = client.producer("t").options(options).build().await.unwrap();
    let record = Record::new(vec![0; 40_000]);
    let first = producer.try_enqueue(&record).unwrap();
    assert!(matches!(producer.try_enqueue(&record), Err(SendError::BufferFull { .. })));
    let given_up = first.await.unwrap_err();
    assert!(given_up.is_definite(), "{given_up}");
    // Its room is free again.
    let _again = producer.try_enqueue(&record).unwrap();
}

/// A node whose disk was full refused each attempt with that reason, and whoever waited two minutes
/// was told that there was no acknowledgement.
#[tokio::test]
async fn a_record_that_is_given_up_says_what_the_node_said_last() {
    let (_node, address) = Node::start(|_| Act::Refuse(ErrorCode::LowDiskSpace)).await;
    let client = Client::connect(ClientConfig::plaintext(address)).await.unwrap();
    let options = plimsoll_client::ProducerOptions {
        delivery_timeout: Duration::from_millis(200),
        ..Default::default()
    };
    let producer = client.producer("t").options(options).build().await.unwrap();
    let given_up = producer.send(Record::new("a")).await.unwrap_err();
    assert!(given_up.is_definite(), "{given_up}");
    assert!(given_up.to_string().contains("LowDiskSpace"), "{given_up}");
}
