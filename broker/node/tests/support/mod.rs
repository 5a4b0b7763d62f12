//! A node in a temporary directory, and a client that speaks bare frames: what a test needs to see
//! exactly what a node answers.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use plimsoll_node::Node;
use plimsoll_node::config::NodeConfig;
use plimsoll_protocol::api::{
    AckLevel, CreateTopicRequest, Delivery, FetchRequest, FetchResponse, HelloRequest,
    HelloResponse, InitProducerRequest, Isolation, PROTOCOL_MAX, PROTOCOL_MIN, ProduceRequest,
    ProduceResponse, ProducerIdentity, Request, StartPosition, SubscribeRequest, TopicConfig,
    TopicInfo,
};
use plimsoll_protocol::batch::{
    BatchBuilder, BatchLimits, Compression, DeliveredRecord, PushOutcome, Record, iterate_batches,
};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::frame::{Frame, ResponseError, encode_request};
use plimsoll_protocol::ids::{CorrelationId, Offset, PartitionIndex, ProducerId, TopicName};
use plimsoll_transport::{
    ClientTls, Connection, FrameReceiver, FrameSender, TransportConfig, TransportKind,
};
use tempfile::TempDir;
use tokio::time::timeout;

/// Far above what anything here takes, even on a loaded machine; reached only by a hang.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A node and the directory it lives in.
pub struct TestNode {
    pub node: Node,
    pub directory: TempDir,
}

impl TestNode {
    /// A node with small files on free ports.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A node whose configuration was changed by `change`.
    pub async fn start_with(change: impl FnOnce(&mut NodeConfig)) -> Self {
        let directory = TempDir::new().unwrap();
        let mut config = small_config(&directory);
        change(&mut config);
        let node = Node::start(config).await.unwrap();
        Self { node, directory }
    }

    /// Ends in order and starts again on the same directory.
    pub async fn restart(self) -> Self {
        let Self { node, directory } = self;
        node.shutdown().await;
        let node = Node::start(small_config(&directory)).await.unwrap();
        Self { node, directory }
    }

    /// Ends as if killed and starts again on the same directory.
    pub async fn crash(self) -> Self {
        let Self { node, directory } = self;
        node.abort().await;
        let node = Node::start(small_config(&directory)).await.unwrap();
        Self { node, directory }
    }

    /// A connection that has not said Hello.
    pub async fn dial(&self, kind: TransportKind) -> Connection {
        let tls = ClientTls::trusting_pem(self.node.ca_pem().unwrap().as_bytes()).unwrap();
        let address = match kind {
            TransportKind::Tcp => self.node.tcp_addr().unwrap(),
            _ => self.node.addr(),
        };
        let config = TransportConfig::default();
        Connection::dial(kind, address, "localhost", Some(&tls), &config).await.unwrap()
    }

    /// A client that has said Hello.
    pub async fn client(&self, kind: TransportKind) -> Client {
        let mut client = Client::new(self.dial(kind).await).await;
        client.call(&hello(), Bytes::new()).await.unwrap();
        client
    }

    /// A client over QUIC.
    pub async fn quic(&self) -> Client {
        self.client(TransportKind::Quic).await
    }

    /// A node answers: the proof that nothing was harmed.
    pub async fn assert_serves(&self) {
        let mut client = self.quic().await;
        let name = format!("proof-{}", self.node.broker().catalog().len());
        client.create(&name, 1).await.unwrap();
        let stored = client.produce(&name, 0, batch(0..3)).await.unwrap();
        assert_eq!(stored.base_offset, Offset(0));
        assert_eq!(client.fetch_values(&name, 0).await, ["0", "1", "2"]);
        assert_eq!(self.node.broker().counters().panics.value(), 0, "nothing panicked");
    }
}

/// Settings for a node on `directory` that fits beside many others.
pub fn small_config(directory: &TempDir) -> NodeConfig {
    let mut config = NodeConfig {
        data: directory.path().join("data"),
        listen: ([127, 0, 0, 1], 0).into(),
        listen_plaintext: Some(([127, 0, 0, 1], 0).into()),
        ..NodeConfig::default()
    };
    for (key, value) in [
        ("batch_bytes_max", "1 MiB"),
        ("journal_file_bytes", "4 MiB"),
        ("journal_bytes_max", "16 MiB"),
        ("checkpoint_bytes", "4 MiB"),
        ("free_bytes_min", "1 MiB"),
    ] {
        config.set(key, value, "test").unwrap();
    }
    config
}

/// The first request of every client.
pub fn hello() -> HelloRequest {
    HelloRequest {
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        client_name: "test".to_owned(),
        client_version: "0".to_owned(),
        cluster_id: None,
    }
}

/// One stream of bare frames.
pub struct Client {
    pub connection: Connection,
    pub sender: FrameSender,
    pub receiver: FrameReceiver,
    next: u32,
}

impl Client {
    /// A client on a new stream of `connection`; no Hello is said.
    pub async fn new(connection: Connection) -> Self {
        let (sender, receiver) = connection.open().await.unwrap();
        Self { connection, sender, receiver, next: 1 }
    }

    /// Another stream of the same QUIC connection.
    pub async fn stream(&self) -> Self {
        Self::new(self.connection.clone()).await
    }

    /// Sends a request without waiting; gives its correlation id.
    pub async fn send<R: Request>(&mut self, request: &R, payload: Bytes) -> CorrelationId {
        let correlation = CorrelationId(self.next);
        self.next += 1;
        let head = encode_request(correlation, request, payload.len());
        self.sender.send(head.freeze(), &[payload]).await.unwrap();
        correlation
    }

    /// The next frame; `None` when the node has ended the stream or the connection.
    pub async fn receive(&mut self) -> Option<Frame> {
        let received = timeout(PATIENCE, self.receiver.recv()).await.expect("an answer");
        received.ok().flatten()
    }

    /// The next frame, which must be there.
    pub async fn frame(&mut self) -> Frame {
        self.receive().await.expect("the node ended the stream")
    }

    /// Sends a request and reads its answer.
    pub async fn call<R: Request>(
        &mut self,
        request: &R,
        payload: Bytes,
    ) -> Result<R::Response, ErrorResponse> {
        self.exchange(request, payload).await.map(|(response, _)| response)
    }

    /// As [`Client::call`], with the payload of the answer.
    pub async fn exchange<R: Request>(
        &mut self,
        request: &R,
        payload: Bytes,
    ) -> Result<(R::Response, Bytes), ErrorResponse> {
        let correlation = self.send(request, payload).await;
        let frame = self.frame().await;
        assert_eq!(frame.header.correlation, correlation);
        match frame.decode_response::<R>() {
            Ok(response) => Ok((response, frame.payload)),
            Err(ResponseError::Refused(error)) => Err(*error),
            Err(error) => panic!("an answer that cannot be read: {error}"),
        }
    }

    /// Creates a topic with defaults.
    pub async fn create(
        &mut self,
        name: &str,
        partitions: u32,
    ) -> Result<TopicInfo, ErrorResponse> {
        self.create_with(name, partitions, &[]).await
    }

    /// Creates a topic with `key=value` settings.
    pub async fn create_with(
        &mut self,
        name: &str,
        partitions: u32,
        settings: &[&str],
    ) -> Result<TopicInfo, ErrorResponse> {
        let request = CreateTopicRequest {
            topic: topic(name),
            partitions,
            replicas: 1,
            config: TopicConfig::from_pairs(settings.iter().copied()).unwrap(),
            if_not_exists: false,
        };
        self.call(&request, Bytes::new()).await
    }

    /// Stores a batch, acknowledged by a quorum.
    pub async fn produce(
        &mut self,
        name: &str,
        partition: u32,
        batch: Bytes,
    ) -> Result<ProduceResponse, ErrorResponse> {
        self.call(&produce_request(name, partition), batch).await
    }

    /// A new producer id.
    pub async fn producer(&mut self) -> ProducerIdentity {
        self.call(&InitProducerRequest { existing: None }, Bytes::new()).await.unwrap()
    }

    /// Reads once from an offset, without waiting.
    pub async fn fetch(
        &mut self,
        name: &str,
        partition: u32,
        from: u64,
    ) -> Result<(FetchResponse, Bytes), ErrorResponse> {
        let request = FetchRequest {
            topic: topic(name),
            partition: PartitionIndex(partition),
            from: Offset(from),
            max_bytes: 0,
            max_wait_ms: 0,
            isolation: Isolation::Committed,
            max_staleness_ms: None,
            any_replica: false,
        };
        self.exchange(&request, Bytes::new()).await
    }

    /// Every value from the log start to the high watermark.
    pub async fn fetch_values(&mut self, name: &str, partition: u32) -> Vec<String> {
        let (mut from, mut found) = (0, Vec::new());
        loop {
            let (ends, payload) = self.fetch(name, partition, from).await.unwrap();
            found.extend(values(payload));
            if ends.next_offset >= ends.high_watermark {
                return found;
            }
            from = ends.next_offset.0;
        }
    }

    /// Subscribes; the answer is read.
    pub async fn subscribe(
        &mut self,
        name: &str,
        start: StartPosition,
        credit_bytes: u64,
    ) -> Result<CorrelationId, ErrorResponse> {
        let request = subscribe_request(name, start, credit_bytes);
        let correlation = self.send(&request, Bytes::new()).await;
        match self.frame().await.decode_response::<SubscribeRequest>() {
            Ok(_) => Ok(correlation),
            Err(ResponseError::Refused(error)) => Err(*error),
            Err(error) => panic!("an answer that cannot be read: {error}"),
        }
    }

    /// The next pushed frame: records and where it goes on; or why the subscription broke.
    pub async fn pushed(&mut self) -> Result<(Delivery, Bytes), ErrorResponse> {
        let frame = self.frame().await;
        assert!(frame.header.flags.is_push(), "{frame:?}");
        if frame.header.flags.is_error() {
            return Err(frame.decode_body().unwrap());
        }
        Ok((frame.decode_body().unwrap(), frame.payload))
    }

    /// Pushed records until `count` have come.
    pub async fn pushed_values(&mut self, count: usize) -> Vec<String> {
        let mut found = Vec::new();
        while found.len() < count {
            found.extend(values(self.pushed().await.unwrap().1));
        }
        found
    }

    /// The next frame, which must be an error that ends the connection.
    pub async fn refused(&mut self) -> ErrorResponse {
        let frame = self.frame().await;
        assert!(frame.header.flags.is_error(), "{frame:?}");
        frame.decode_body().unwrap()
    }

    /// Waits until the connection is closed.
    pub async fn closed(&mut self) {
        while self.receive().await.is_some() {}
    }
}

/// A topic's name.
pub fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

/// A request to store a batch, acknowledged by a quorum.
pub fn produce_request(name: &str, partition: u32) -> ProduceRequest {
    ProduceRequest {
        topic: topic(name),
        partition: PartitionIndex(partition),
        acks: AckLevel::Quorum,
        fence: None,
    }
}

/// A request to subscribe to partition 0.
pub fn subscribe_request(name: &str, start: StartPosition, credit_bytes: u64) -> SubscribeRequest {
    SubscribeRequest {
        topic: topic(name),
        partition: PartitionIndex(0),
        start,
        max_frame_bytes: 0,
        credit_bytes,
        isolation: Isolation::Committed,
        max_staleness_ms: None,
        any_replica: false,
        whole: false,
    }
}

/// No producer: such batches are not told apart from their repetitions.
pub const NOBODY: ProducerIdentity = ProducerIdentity { producer_id: ProducerId::NONE, epoch: 0 };

/// A batch of one record with a value of so many bytes.
pub fn large(bytes: usize) -> Bytes {
    build(&[record(vec![7; bytes])], &NOBODY, 0, Compression::None)
}

/// A batch whose records are the numbers of a range, without a producer.
pub fn batch(numbers: std::ops::Range<u64>) -> Bytes {
    sequenced(numbers, &NOBODY, 0)
}

/// A batch of a producer; its first record has this sequence.
pub fn sequenced(
    numbers: std::ops::Range<u64>,
    producer: &ProducerIdentity,
    base_sequence: u64,
) -> Bytes {
    let records = numbers.map(|number| record(number.to_string().into_bytes())).collect::<Vec<_>>();
    build(&records, producer, base_sequence, Compression::None)
}

/// A batch of these records.
pub fn build(
    records: &[Record],
    producer: &ProducerIdentity,
    base_sequence: u64,
    compression: Compression,
) -> Bytes {
    let mut builder = BatchBuilder::new(BatchLimits::default());
    for record in records {
        assert_eq!(builder.push(record).unwrap(), PushOutcome::Added);
    }
    builder.finish(producer.producer_id, producer.epoch, base_sequence, compression)
}

/// A record with a value and nothing else.
pub fn record(value: Vec<u8>) -> Record {
    Record::new(value).with_timestamp_ms(1_700_000_000_000)
}

/// The records of a payload, checked.
pub fn records(payload: Bytes) -> Vec<DeliveredRecord> {
    iterate_batches(payload)
        .flat_map(|batch| {
            let batch = batch.unwrap();
            batch.check_body_crc().unwrap();
            batch.records(usize::MAX).unwrap().map(Result::unwrap).collect::<Vec<_>>()
        })
        .collect()
}

/// The values of a payload's records, as text.
pub fn values(payload: Bytes) -> Vec<String> {
    records(payload)
        .into_iter()
        .map(|delivered| String::from_utf8(delivered.record.value.unwrap().to_vec()).unwrap())
        .collect()
}

/// Asserts the code, and that the message helps.
pub fn assert_code<T: std::fmt::Debug>(outcome: Result<T, ErrorResponse>, code: ErrorCode) {
    let error = outcome.expect_err("a refusal");
    assert_eq!(error.code, code, "{error:?}");
    assert!(error.message.len() > 20, "{error:?}");
}

/// Looks again and again until there is something to be seen.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let mut pauses = tokio::time::interval(Duration::from_millis(1));
    let looking = async {
        loop {
            pauses.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    };
    timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("never happened: {what}"))
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    eventually(what, async || holds().then_some(())).await;
}

/// An answer to Hello, as bytes that a test can take apart.
pub fn hello_frame() -> BytesMut {
    encode_request(CorrelationId(1), &hello(), 0)
}

/// Only so that the type is named in one place.
pub type Greeting = HelloResponse;
