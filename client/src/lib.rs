//! The async Rust client of Plimsoll: producer, consumer, admin, and typed values over them.
//!
//! # Send and receive
//! ```no_run
//! use plimsoll_client::{Client, ClientConfig, NewTopic, Record, StartPosition};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // The context that `plimsoll serve` left in ~/.config/plimsoll; or ClientConfig::new(address, trust).
//! let client = Client::connect(ClientConfig::from_context()?).await?;
//! let mut orders = NewTopic::new("orders").partitions(12);
//! orders.if_not_exists = true;
//! client.admin().create_topic(orders).await?;
//!
//! let producer = client.producer("orders").build().await?;
//! // Returns when the record is on stable storage of a majority.
//! let ack = producer.send(Record::new("two of the blue").with_key("customer-7")).await?;
//! println!("partition {} offset {:?}", ack.partition, ack.offset);
//!
//! // Many at once: queue them, then await them together.
//! let mut acks = Vec::new();
//! for n in 0..1000 {
//!     acks.push(producer.enqueue(Record::new(format!("order {n}"))).await?);
//! }
//! for ack in acks {
//!     if let Err(error) = ack.await {
//!         // is_definite(): certainly not stored. Otherwise it may be: a timeout is not a failure.
//!         eprintln!("{error} (certain: {})", error.is_definite());
//!     }
//! }
//! producer.close().await?;
//!
//! let mut consumer = client.consumer("orders").from(StartPosition::Earliest).build().await?;
//! while let Some(record) = consumer.next().await {
//!     let record = record?;
//!     println!("{}/{}: {:?}", record.partition, record.offset, record.record.value);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Queues
//! ```no_run
//! use plimsoll_client::{Client, NewQueue, QueueSettings, Record};
//!
//! # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
//! let mut jobs = NewQueue::new("jobs");
//! jobs.settings = QueueSettings::from_pairs(["attempts=5", "backoff=1s", "dead-letter=jobs.dead"])?;
//! client.admin().create_queue(jobs).await?;
//! client.producer("jobs").build().await?.send(Record::new("resize 17")).await?;
//!
//! let mut consumer = client.queue_consumer("jobs").prefetch(50).build().await?;
//! while let Some(message) = consumer.next().await {
//!     let message = message?;
//!     match work(&message.record) {
//!         // Stored when this returns: the message is never delivered again.
//!         Ok(()) => message.accept().await?,
//!         Err(_) => message.release(None).await?,
//!     }
//! }
//! # Ok(())
//! # }
//! # fn work(_: &Record) -> Result<(), ()> { Ok(()) }
//! ```
//!
//! # Consumer groups
//! ```no_run
//! use plimsoll_client::Client;
//!
//! # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
//! // As many processes as there is work for: each reads its share of the partitions.
//! let mut consumer = client.group_consumer("billing").topics(["orders"]).build().await?;
//! while let Some(record) = consumer.next().await {
//!     let record = record?;
//!     // Asking for the next one says that this one is processed: how far the group has come is
//!     // committed every five seconds, and when a partition goes to another member.
//!     println!("{}/{}/{}", record.topic, record.partition, record.offset);
//! }
//! consumer.leave().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Locks
//! ```no_run
//! use plimsoll_client::Client;
//!
//! # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
//! let guard = client.lock("jobs", "nightly").guards(["reports"]).acquire().await?;
//! // Whoever writes with this fence after another holder came is refused; `guard.lost()` tells of it.
//! nightly(guard.fence()).await?;
//! guard.release().await?;
//!
//! // Many locks of one session; permits, readers and writers, elections.
//! let locks = client.locks("jobs").label("worker 7");
//! let permit = locks.lock("gpu").permit_of(4).acquire().await?;
//! let leader = locks.lock("primary").lead("10.0.0.7:80").acquire().await?;
//! # drop((permit, leader));
//! # Ok(())
//! # }
//! # async fn nightly(_: plimsoll_client::Fence) -> Result<(), std::io::Error> { Ok(()) }
//! ```
//!
//! # Keys and values
//! ```no_run
//! use plimsoll_client::{Client, Kv, KvError, WatchFrom};
//!
//! # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
//! // A topic made with cleanup=compact: the last record of each key is its value.
//! let settings: Kv = client.kv("settings");
//! let revision = settings.put("colour", "blue").await?;
//! // Only where nobody was faster.
//! match settings.compare_and_set("colour", "red", revision).await {
//!     Ok(_) => {}
//!     Err(KvError::Conflict { revision }) => println!("it has {revision:?} now"),
//!     Err(error) => return Err(error.into()),
//! }
//! if let Some(entry) = settings.get("colour").await? {
//!     println!("{:?}, revision {}", entry.value, entry.revision);
//! }
//! // What is there, and then every change.
//! let mut watch = settings.watch("", WatchFrom::Present).await?;
//! while let Some(event) = watch.next().await {
//!     let event = event?;
//!     println!("{:?} is {:?}", event.key, event.value);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Values of your own types
//! ```no_run
//! use plimsoll_client::{Client, TypedConsumer, TypedProducer};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Order {
//!     customer: u64,
//!     pieces: u32,
//! }
//!
//! # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
//! let orders: TypedProducer<Order> = TypedProducer::new(client.producer("orders").build().await?);
//! let order = Order { customer: 7, pieces: 2 };
//! orders.send(Some("7".into()), &order).await?;
//! // Or many at once: enqueue them, then await them together.
//! let first = orders.enqueue(None, &order).await?;
//! let second = orders.enqueue(None, &order).await?;
//! (first.await?, second.await?);
//!
//! let mut orders: TypedConsumer<Order> =
//!     TypedConsumer::new(client.consumer("orders").build().await?);
//! while let Some(order) = orders.next().await {
//!     if let Some(order) = order?.value {
//!         println!("{} pieces for {}", order.pieces, order.customer);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//! - A record whose future gave an `Ack` of level `Quorum` is as durable as its topic says.
//! - A batch that is sent again is stored once; records of one producer to one partition keep their
//!   order.
//! - Memory is bounded by `buffer_bytes` of each producer and consumer.
//! - An error says whether the record is certainly not stored, or whether that is unknown.
//! - A lock is a lease: its guard ends by the client's own clock before others can have the lock. What must not
//!   be done twice shows the guard's [`Fence`].
//!
//! # When a node fails
//! A client of a cluster is given the addresses of one or more nodes and learns of the others. It
//! talks to each partition's leader, and follows when another node leads:
//! - A leader that hands over, or is restarted in order, names its successor: the client goes there at
//!   once.
//! - A leader that dies or falls silent is given up after half a second ([`Suspicion`]) and the new one
//!   is asked for, again and again while there is none. Nothing is given up before
//!   `delivery_timeout`.
//! - Nothing that was acknowledged with level `Quorum` is lost by that, and nothing is stored twice:
//!   what was on its way is sent to the new leader with its old sequence, and a batch that the old one
//!   had stored is acknowledged as [`Ack::duplicate`]. With level `Leader` or `None` the last
//!   records before the failure may be gone although they were acknowledged.
//! - Records of one producer to one partition keep their order over any number of leaders. Between
//!   partitions there is no order, as without failures.
//! - A producer that could not find out within `delivery_timeout` what became of a record says so
//!   ([`SendError::OutcomeUnknown`]). Sending such a record again is a new record.
//! - A consumer goes on at its next offset: each record comes once and in order, from whichever
//!   replica. Only committed records are handed out, so none of them is taken back by a new leader.
//!   How far it is is kept in this process only; of a member of a group, by the cluster.
//! - A member of a group keeps its partitions while another node begins to lead the group, and reads on
//!   meanwhile. A record is processed at least once: twice where its member died, or was not heard for its
//!   session, before it was committed.
//! - Requests of [`Admin`] are asked of another node where asking twice does no harm. A topic that is
//!   being created or deleted while its node dies is reported as unknown
//!   ([`RequestError::ConnectionLost`]); `if_not_exists` makes the first one safe to repeat.

mod admin;
mod amqp_admin;
mod backoff;
mod channel;
mod client;
mod cluster;
mod cluster_admin;
mod config;
mod consumer;
pub mod context;
mod dial;
mod error;
mod fence;
mod group;
mod kv;
mod link;
mod links;
mod lock;
mod metadata;
mod partitioner;
mod producer;
mod pulse;
mod queue;
mod requests;
mod route;
mod trouble;
mod typed;
mod wall_clock;

pub use admin::{Admin, Fetched, NewTopic};
pub use amqp_admin::{AmqpPassword, AmqpUserChange};
pub use client::Client;
pub use cluster::{ClusterView, PartitionView};
pub use config::{ClientConfig, Suspicion, Trust};
pub use consumer::{ConsumedBatch, ConsumedRecord, Consumer, ConsumerBuilder, Progress};
pub use dial::{AddressSource, Dial};
pub use error::{BuildError, ConnectError, ConsumeError, RequestError, SendError, ServerError};
pub use fence::Fence;
pub use group::{
    CommitError, GroupAdmin, GroupConsumer, GroupConsumerBuilder, GroupError, GroupRecord,
};
pub use kv::{
    Cached, Deleted, Entry, Freshness, Kv, KvError, KvEvent, NearCache, NearCacheOptions, Revision,
    Scan, Watch, WatchFrom, WatchItem, WhenStale,
};
pub use lock::{
    ElectionLeader, ElectionObserver, GrantFilter, LeaseClock, LeaseTime, Lock, LockAdmin,
    LockError, LockEvent, LockEventError, LockEventHolder, LockEventKind, LockGuard,
    LockInputError, LockLost, LockWatch, Locks, LossCause, NewLockNamespace,
};
pub use partitioner::{Partitioner, PartitionerError, partition_of_key};
pub use plimsoll_protocol::api::{
    AckLevel, AmqpGrant, AmqpGrantName, AmqpPermissions, AmqpQueueInfo, AmqpQueueName,
    AmqpUserInfo, CompactionInfo, ConfigChange, Durability, FenceError, Isolation,
    MessageExplanation, MessageStanding, NodeInfo, NodeState, PartitionInfo, QueueConfigError,
    QueueInfo, QueueMode, QueueOverflow, QueueSettings, QueueStanding, StartPosition, TopicConfig,
    TopicInfo, VhostInfo,
};
pub use plimsoll_protocol::api::{
    AssignedPartitions, GroupDescription, GroupInfo, GroupMember, GroupOffset, GroupPhase,
    OffsetCommit, OffsetReset,
};
pub use plimsoll_protocol::api::{
    ClusterNode, ClusterPlanResponse, ClusterStatusResponse, JoinTokenResponse, MoveProgress,
    PlannedChange, PlannedLoad, RemoveNodeResponse, TransferLeaderResponse, UnwellPartition,
};
pub use plimsoll_protocol::api::{
    LockDescription, LockHolder, LockInfo, LockKind, LockMode, LockSessionInfo, LockWaiter,
    NamespaceInfo,
};
pub use plimsoll_protocol::batch::{BatchBuilder, Compression, PushOutcome, Record, RecordView};
pub use plimsoll_protocol::error::ErrorCode;
pub use plimsoll_protocol::ids::{NodeId, Offset, PartitionIndex, TopicName};
pub use plimsoll_transport::{Fingerprint, TransportConfig, TransportKind};
pub use producer::{Ack, AckFuture, Producer, ProducerBuilder, ProducerOptions};
pub use queue::{
    Message, MessageId, NewQueue, Peeked, QueueAdmin, QueueConsumer, QueueConsumerBuilder, Redrive,
    RedriveError, Redriven, SettleError, Settlement,
};
pub use typed::{
    Codec, Json, Typed, TypedConsumeError, TypedConsumer, TypedProducer, TypedSendError,
};
pub use wall_clock::WallClock;
