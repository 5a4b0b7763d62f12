//! A node of one topic that is a map, with the broker's rules written as plainly as possible, and faults on a
//! script.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Bytes, BytesMut};
use plimsoll_client::{AckLevel, Client, ClientConfig, Durability, TopicConfig};
use plimsoll_protocol::api::{
    ApiKey, Delivery, DescribeTopicRequest, DescribeTopicResponse, Done, HelloRequest,
    HelloResponse, InitProducerRequest, KvCondition, KvEntry, KvGetRequest, KvGetResponse, KvMeta,
    KvPutRequest, KvPutResponse, KvScanRequest, KvScanResponse, PROTOCOL_MAX, PingRequest,
    ProduceRequest, ProduceResponse, ProducerIdentity, Request, StartPosition, SubscribeRequest,
    SubscribeResponse, TopicInfo, UnsubscribeRequest, supported_apis,
};
use plimsoll_protocol::batch::{
    BATCH_HEADER_BYTES, BatchHeader, BatchLimits, Record, RecordBatch, validate_produced,
};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::frame::{
    Frame, FrameFlags, FrameHeader, encode_error, encode_frame, encode_response,
};
use plimsoll_protocol::ids::{NodeId, Offset, ProducerId};
use plimsoll_transport::{Connection, FrameSender, Listener, TransportConfig};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Entries of a page of a scan: few, so that there are several.
const PAGE: usize = 2;

/// What the node does with one change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Act {
    Store,
    /// Stores, then the connection breaks before the answer.
    StoreAndBreak,
    /// The connection breaks before anything is stored.
    Break,
    /// Answers with an error and stores nothing.
    Refuse(ErrorCode),
}

/// One partition.
#[derive(Default)]
pub(crate) struct Log {
    /// Whole batches with the offset behind each.
    pub(crate) batches: Vec<(Bytes, u64)>,
    pub(crate) end: u64,
    map: BTreeMap<Bytes, (Bytes, u64)>,
    /// Per producer: epoch, next sequence, and the offset of the last change.
    producers: HashMap<u64, (u32, u64, u64)>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) logs: Vec<Log>,
    pub(crate) acts: Vec<Act>,
    /// Changes that were asked for.
    pub(crate) attempts: usize,
    pub(crate) gets: usize,
    pub(crate) scans: usize,
    /// Tokens below this are stale.
    pub(crate) token_min: u64,
    /// Watches from below this offset are refused.
    pub(crate) compacted_to: u64,
    /// Keys that somebody gives a value between the first page of a scan and the next.
    pub(crate) between_pages: Vec<(&'static str, &'static str)>,
    next_producer: u64,
}

#[derive(Clone)]
pub(crate) struct Node {
    state: Arc<Mutex<State>>,
    changes: watch::Sender<u64>,
    /// Counts breaks: every connection ends.
    breaks: watch::Sender<u64>,
}

type Out = Arc<tokio::sync::Mutex<FrameSender>>;

impl Node {
    pub(crate) async fn start(partitions: usize) -> (Self, Client) {
        let address = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind_plaintext(address, TransportConfig::default()).unwrap();
        let address = listener.local_addr().to_string();
        let mut state = State::default();
        state.logs.resize_with(partitions, Log::default);
        let node = Self {
            state: Arc::new(Mutex::new(state)),
            changes: watch::Sender::new(0),
            breaks: watch::Sender::new(0),
        };
        let accepting = node.clone();
        tokio::spawn(async move {
            while let Some(incoming) = listener.accept().await {
                let node = accepting.clone();
                tokio::spawn(async move {
                    let connection = incoming.handshake().await.unwrap();
                    node.converse(connection).await;
                });
            }
        });
        let mut config = ClientConfig::plaintext(address);
        config.reconnect_pause = std::time::Duration::from_millis(1);
        config.request_timeout = std::time::Duration::from_secs(3);
        (node, Client::connect(config).await.unwrap())
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Ends all connections.
    pub(crate) fn break_all(&self) {
        self.breaks.send_modify(|count| *count += 1);
    }

    /// Somebody else gives a key a value, or takes it away.
    pub(crate) fn write(&self, key: &str, value: Option<&str>) -> u64 {
        let stored = write(&mut self.state(), key, value);
        self.changes.send_modify(|count| *count += 1);
        stored
    }

    async fn converse(&self, connection: Connection) {
        let mut breaks = self.breaks.subscribe();
        let mut streams = JoinSet::new();
        loop {
            tokio::select! {
                _ = breaks.changed() => break,
                accepted = connection.accept() => {
                    let Ok(Some((sender, mut receiver))) = accepted else { break };
                    let node = self.clone();
                    streams.spawn(async move {
                        let out = Arc::new(tokio::sync::Mutex::new(sender));
                        let mut pushing = JoinSet::new();
                        while let Ok(Some(frame)) = receiver.recv().await {
                            if frame.header.api == ApiKey::Subscribe.number() {
                                let (node, out) = (node.clone(), Arc::clone(&out));
                                pushing.spawn(async move { node.subscribe(&frame, &out).await });
                            } else if !node.answer(&frame, &out).await {
                                node.break_all();
                            }
                        }
                    });
                }
            }
        }
        connection.close(0, "scripted break");
    }

    /// Whether the connection goes on.
    async fn answer(&self, frame: &Frame, out: &Out) -> bool {
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
                reply::<HelloRequest>(frame, &hello, &[], out).await;
            }
            ApiKey::Ping => reply::<PingRequest>(frame, &Done {}, &[], out).await,
            ApiKey::Credit => {}
            ApiKey::Unsubscribe => reply::<UnsubscribeRequest>(frame, &Done {}, &[], out).await,
            ApiKey::DescribeTopic => {
                let topic = TopicInfo {
                    name: "t".parse().unwrap(),
                    topic_id: 1,
                    partitions: u32::try_from(self.state().logs.len()).unwrap(),
                    replicas: 1,
                    config: TopicConfig::default(),
                    created_ms: 0,
                };
                let described = DescribeTopicResponse { topic, partitions: Vec::new() };
                reply::<DescribeTopicRequest>(frame, &described, &[], out).await;
            }
            ApiKey::InitProducer => {
                let asked: InitProducerRequest = frame.decode_body().unwrap();
                let identity = match asked.existing {
                    Some(identity) => ProducerIdentity { epoch: identity.epoch + 1, ..identity },
                    None => {
                        let mut state = self.state();
                        state.next_producer += 1;
                        ProducerIdentity { producer_id: ProducerId(state.next_producer), epoch: 0 }
                    }
                };
                reply::<InitProducerRequest>(frame, &identity, &[], out).await;
            }
            ApiKey::KvGet => self.get(frame, out).await,
            ApiKey::KvScan => self.scan(frame, out).await,
            ApiKey::KvPut => return self.put(frame, out).await,
            ApiKey::Produce => self.produce(frame, out).await,
            // As a node that is older than clusters, and queues.
            ApiKey::Metadata | ApiKey::WatchMetadata | ApiKey::ListQueues => {
                refuse(frame, &ErrorResponse::new(ErrorCode::UnknownApi, "scripted"), out).await;
            }
            other => panic!("unexpected {other}"),
        }
        true
    }

    async fn get(&self, frame: &Frame, out: &Out) {
        let asked: KvGetRequest = frame.decode_body().unwrap();
        let (answer, value) = {
            let mut state = self.state();
            state.gets += 1;
            let log = &state.logs[asked.partition.0 as usize];
            let found = log.map.get(&asked.key).cloned();
            let value = found.as_ref().map(|(value, _)| value.clone()).unwrap_or_default();
            let found = found.map(|(_, revision)| meta(revision));
            (KvGetResponse { found, upto: Offset(log.end) }, value)
        };
        reply::<KvGetRequest>(frame, &answer, &[value], out).await;
    }

    async fn scan(&self, frame: &Frame, out: &Out) {
        let asked: KvScanRequest = frame.decode_body().unwrap();
        let answer = {
            let mut state = self.state();
            state.scans += 1;
            let log = &state.logs[asked.partition.0 as usize];
            let wanted = log.map.iter().filter(|(key, _)| {
                key.starts_with(&asked.prefix)
                    && asked.after.as_ref().is_none_or(|after| *key > after)
            });
            let mut entries: Vec<KvEntry> = wanted
                .map(|(key, (value, revision))| KvEntry {
                    key: key.clone(),
                    value: if asked.keys_only { Bytes::new() } else { value.clone() },
                    meta: meta(*revision),
                })
                .collect();
            let has_more = entries.len() > PAGE;
            entries.truncate(PAGE);
            let answer = KvScanResponse { entries, has_more, upto: Offset(log.end) };
            for (key, value) in std::mem::take(&mut state.between_pages) {
                write(&mut state, key, Some(value));
            }
            answer
        };
        reply::<KvScanRequest>(frame, &answer, &[], out).await;
    }

    async fn put(&self, frame: &Frame, out: &Out) -> bool {
        let asked: KvPutRequest = frame.decode_body().unwrap();
        let (act, outcome) = {
            let mut state = self.state();
            state.attempts += 1;
            let act = match state.acts.is_empty() {
                true => Act::Store,
                false => state.acts.remove(0),
            };
            let outcome = match act {
                Act::Break => return false,
                Act::Refuse(code) => Err(ErrorResponse::new(code, "scripted")),
                Act::Store | Act::StoreAndBreak => change(&mut state, &asked, &frame.payload),
            };
            (act, outcome)
        };
        self.changes.send_modify(|count| *count += 1);
        if act == Act::StoreAndBreak {
            return false;
        }
        match outcome {
            Ok(stored) => reply::<KvPutRequest>(frame, &stored, &[], out).await,
            Err(error) => refuse(frame, &error, out).await,
        }
        true
    }

    async fn produce(&self, frame: &Frame, out: &Out) {
        let asked: ProduceRequest = frame.decode_body().unwrap();
        let outcome = {
            let mut state = self.state();
            state.attempts += 1;
            match asked.fence.filter(|fence| fence.token < state.token_min) {
                Some(_) => Err(stale(&state)),
                None => Ok(append(&mut state.logs[asked.partition.0 as usize], &frame.payload)),
            }
        };
        match outcome {
            Ok(base_offset) => {
                let stored = ProduceResponse {
                    base_offset: Offset(base_offset),
                    reached: AckLevel::Quorum,
                    durability: Durability::Durable,
                    duplicate: false,
                    append_time_ms: 0,
                };
                reply::<ProduceRequest>(frame, &stored, &[], out).await;
            }
            Err(error) => refuse(frame, &error, out).await,
        }
    }

    async fn subscribe(&self, frame: &Frame, out: &Out) {
        let asked: SubscribeRequest = frame.decode_body().unwrap();
        let partition = asked.partition.0 as usize;
        let mut changes = self.changes.subscribe();
        let begun =
            {
                let state = self.state();
                let end = state.logs[partition].end;
                let start = match asked.start {
                    StartPosition::Offset(offset) => offset.0,
                    StartPosition::Latest => end,
                    _ => 0,
                };
                match asked.whole && start < state.compacted_to {
                    true => Err(ErrorResponse::new(ErrorCode::OffsetCompacted, "scripted")
                        .with_offset(start)),
                    false => Ok((start, end)),
                }
            };
        let (mut next, end) = match begun {
            Ok(begun) => begun,
            Err(error) => return refuse(frame, &error, out).await,
        };
        let greeting = SubscribeResponse {
            start_offset: Offset(next),
            high_watermark: Offset(end),
            log_start_offset: Offset(0),
        };
        reply::<SubscribeRequest>(frame, &greeting, &[], out).await;
        loop {
            changes.mark_unchanged();
            let found = {
                let state = self.state();
                let log = &state.logs[partition];
                let batch = log.batches.iter().find(|(_, end)| *end > next).cloned();
                batch.map(|(batch, behind)| (batch, behind, log.end))
            };
            match found {
                Some((batch, behind, end)) => {
                    next = behind;
                    let delivery =
                        Delivery { high_watermark: Offset(end), next_offset: Offset(next) };
                    let head = push(&frame.header, &delivery, batch.len());
                    let _ = out.lock().await.send(head.freeze(), &[batch]).await;
                }
                None if changes.changed().await.is_err() => return,
                None => {}
            }
        }
    }
}

fn meta(revision: u64) -> KvMeta {
    KvMeta { revision: Offset(revision), written_ms: 0, ttl_left_ms: None }
}

fn stale(state: &State) -> ErrorResponse {
    ErrorResponse::new(ErrorCode::StaleFence, "scripted").with_offset(state.token_min)
}

fn write(state: &mut State, key: &str, value: Option<&str>) -> u64 {
    let partitions = u32::try_from(state.logs.len()).unwrap();
    let partition = plimsoll_client::partition_of_key(key.as_bytes(), partitions);
    let record = Record {
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
        ..Record::default()
    };
    let mut builder = plimsoll_client::BatchBuilder::new(BatchLimits::default());
    assert_eq!(builder.push(&record).unwrap(), plimsoll_client::PushOutcome::Added);
    let none = plimsoll_client::Compression::None;
    let batch = builder.finish(ProducerId::NONE, 0, 0, none);
    append(&mut state.logs[partition as usize], &batch)
}

/// The broker's rules: what is stored already, then the fence, then the condition.
fn change(
    state: &mut State,
    asked: &KvPutRequest,
    payload: &Bytes,
) -> Result<KvPutResponse, ErrorResponse> {
    let refused = |code| ErrorResponse::new(code, "scripted");
    let header = validate_produced(payload, &BatchLimits::default()).unwrap();
    let fence_is_stale = asked.fence.as_ref().is_some_and(|fence| fence.token < state.token_min);
    let stale = stale(state);
    let log = &mut state.logs[asked.partition.0 as usize];
    let known = log.producers.get(&header.producer_id.0).copied();
    let next = match known {
        Some((epoch, ..)) if header.producer_epoch < epoch => {
            return Err(refused(ErrorCode::StaleProducerEpoch));
        }
        Some((epoch, next, _)) if header.producer_epoch == epoch => next,
        _ => 0,
    };
    if let Some((_, _, offset)) = known.filter(|_| header.base_sequence + 1 == next) {
        return Ok(KvPutResponse { revision: Offset(offset), before: None, duplicate: true });
    }
    if header.base_sequence != next {
        return Err(refused(ErrorCode::OutOfOrderSequence));
    }
    if fence_is_stale {
        return Err(stale);
    }
    let (batch, _) = RecordBatch::parse(payload.clone()).unwrap();
    let record = batch.records(1 << 20).unwrap().next().unwrap().unwrap().record;
    let before = log.map.get(&record.key.unwrap()).map(|(_, revision)| *revision);
    let holds = match asked.condition {
        KvCondition::Always(_) => true,
        KvCondition::Absent(_) => before.is_none(),
        KvCondition::Present(_) => before.is_some(),
        KvCondition::Revision(expected) => before == Some(expected.0),
    };
    if !holds {
        let refusal = refused(ErrorCode::RevisionConflict);
        return Err(ErrorResponse { offset: before, ..refusal });
    }
    let revision = append(log, payload);
    let entry = (header.producer_epoch, header.base_sequence + 1, revision);
    log.producers.insert(header.producer_id.0, entry);
    let before = before.map(Offset);
    Ok(KvPutResponse { revision: Offset(revision), before, duplicate: false })
}

/// Stores a batch; the offset of its first record.
fn append(log: &mut Log, payload: &Bytes) -> u64 {
    let mut header = BatchHeader::parse(payload).unwrap();
    let base = log.end;
    header.base_offset = Offset(base);
    let mut batch = BytesMut::from(payload.as_ref());
    batch[..BATCH_HEADER_BYTES].copy_from_slice(&header.to_bytes());
    let batch = batch.freeze();
    let (parsed, _) = RecordBatch::parse(batch.clone()).unwrap();
    for delivered in parsed.records(1 << 20).unwrap() {
        let delivered = delivered.unwrap();
        let Some(key) = delivered.record.key else { continue };
        match delivered.record.value {
            Some(value) => drop(log.map.insert(key, (value, delivered.offset.0))),
            None => drop(log.map.remove(&key)),
        }
    }
    log.end = header.end_offset().0;
    log.batches.push((batch, log.end));
    base
}

fn push(header: &FrameHeader, body: &Delivery, payload_bytes: usize) -> BytesMut {
    let (api, version) = (ApiKey::Subscribe, SubscribeRequest::VERSION);
    encode_frame(api, version, FrameFlags::PUSH, header.correlation, body, payload_bytes)
}

async fn refuse(frame: &Frame, error: &ErrorResponse, out: &Out) {
    let head = encode_error(&frame.header, error).freeze();
    let _ = out.lock().await.send(head, &[]).await;
}

async fn reply<R: Request>(frame: &Frame, response: &R::Response, payload: &[Bytes], out: &Out) {
    let bytes = payload.iter().map(Bytes::len).sum();
    let head = encode_response::<R>(frame.header.correlation, response, bytes).freeze();
    // A client that is gone needs no answer.
    let _ = out.lock().await.send(head, payload).await;
}
