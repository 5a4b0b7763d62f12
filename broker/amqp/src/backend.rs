//! All that the gateway asks of the broker. Object-safe: calls of the hot path (`publish`, `settle`) do
//! not wait and answer through the connection's [inbox](crate::inbox), the rare ones give a boxed future.
//!
//! What an implementation promises beside what each method says:
//! * Calls for one queue take effect in the order in which one connection made them: a settlement before
//!   a `pull` counts for it, a record published first lies first.
//! * When the future of a [`Backend::change`] is done, the snapshot that [`Backend::host`] shows on this
//!   node contains the change.
//! * Futures may be dropped before they are done; what they began may then happen or not.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use plimsoll_amqp::error::Fault;
use plimsoll_amqp::routing::StreamStart;
use plimsoll_amqp::shortstr::ShortStr;
use thiserror::Error;
use tokio::sync::watch;

use crate::catalog::{Change, Changed, ConnectionId, HostSnapshot, QueueEntry, User};
use crate::gateway::Reply;
use crate::inbox::{ConsumerPort, Receipt};
use crate::message::Stored;

/// A future on the heap, for methods of a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Given back when it is dropped.
pub type Place = Box<dyn Send + Sync>;

/// The broker, as the gateway needs it.
pub trait Backend: Send + Sync + 'static {
    /// Milliseconds since 1970.
    fn unix_ms(&self) -> i64;

    /// 128 random bits, for names that nobody guesses.
    fn random(&self) -> u128;

    /// A number for a new connection.
    fn connection_id(&self) -> ConnectionId;

    /// A place among the connections that this node serves, which a connection has from when its virtual host
    /// is opened until it ends.
    ///
    /// # Errors
    /// Why there is none, in words for the client.
    fn take_place(&self, peer: IpAddr) -> Result<Place, String>;

    /// The user of this name.
    fn user(&self, name: &str) -> Option<Arc<User>>;

    /// The virtual host of this name, now and as it changes. The sender goes when the host is deleted:
    /// its connections are closed then.
    fn host(&self, vhost: &str) -> Option<watch::Receiver<Arc<HostSnapshot>>>;

    /// Grows when a user or a permission has changed, or a virtual host was deleted: connections look then
    /// whether that was theirs. It grows after [`Backend::user`] and [`Backend::host`] show the change.
    fn access(&self) -> watch::Receiver<u64>;

    /// Why publishes are not taken for now, for example `low on disk`; none: they are.
    fn blocked(&self) -> watch::Receiver<Option<Arc<str>>>;

    /// Changes the catalog. Done once it is certain.
    fn change(&self, vhost: ShortStr, change: Change) -> BoxFuture<'_, Result<Changed, Refusal>>;

    /// Appends a record to a queue. The receipt is told once it is stored as safely as the queue asks
    /// for, or why not; a receipt that is dropped says that it is not known.
    fn publish(&self, queue: &Arc<QueueEntry>, record: Record, receipt: Receipt);

    /// Begins a consumer, or a reader of a stream, once the queue has a leader; how long that is waited for is the broker's to
    /// say. Deliveries go into the port, from now on: also before this is done.
    ///
    /// # Errors
    /// [`AttachError`]; the port is to be dropped then.
    fn attach(
        &self,
        queue: Arc<QueueEntry>,
        spec: ConsumerSpec,
        port: ConsumerPort,
    ) -> BoxFuture<'_, Result<Arc<dyn Attachment>, AttachError>>;

    /// How many messages are ready, and how many consumers there are (of streams: none). Asked for who declares a queue that is
    /// there: it is a use of the queue.
    ///
    /// # Errors
    /// [`QueueError`].
    fn counts(&self, queue: Arc<QueueEntry>) -> BoxFuture<'_, Result<Counts, QueueError>>;

    /// Drops all messages that are ready; how many that were. Not asked of streams.
    ///
    /// # Errors
    /// [`QueueError`].
    fn purge(&self, queue: Arc<QueueEntry>) -> BoxFuture<'_, Result<u64, QueueError>>;

    /// The task of a connection ended without a word, by a panic or because it was dropped, and may
    /// have left exclusive queues: they are to be deleted ([`Change::ForgetOwner`]).
    fn abandoned(&self, vhost: ShortStr, connection: ConnectionId);

    /// The number of this node, to find the way back of direct replies; 0 where there is one node only.
    fn node(&self) -> u64 {
        0
    }

    /// Carries a direct reply to another node, to be given there to
    /// [`Gateway::take_reply`](crate::Gateway::take_reply); false where it cannot be.
    fn forward_reply(&self, _node: u64, _reply: Reply) -> bool {
        false
    }
}

/// A consumer, or who takes messages one by one, at its queue. When the last reference goes, it is
/// detached. Each future comes to an end also where the queue or its leader is gone: channels wait for it
/// when they close.
pub trait Attachment: Send + Sync + 'static {
    /// Says what became of deliveries. What is not held (any more) is ignored.
    fn settle(&self, settled: Vec<Settled>);

    /// The same, done once it is certain, or once the attachment has ended, so that it cannot be.
    fn settle_durably(&self, settled: Vec<Settled>) -> BoxFuture<'_, ()>;

    /// Takes the next message out of turn, where there is one; it is held like a delivery.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] also where this attachment has ended: another attach may help.
    fn pull(&self) -> BoxFuture<'_, Result<Option<Pulled>, QueueError>>;

    /// It takes no more, and is no consumer any more for counts, exclusiveness, single active consumers
    /// and auto-delete; what it holds it holds until it is settled or detached. Gives the number of the
    /// queue's consumers then.
    fn retire(&self) -> BoxFuture<'_, u32>;

    /// It is gone, and what it held is ready again. Gives the number of the queue's consumers then, which
    /// is looked at of queues that go with their last one.
    fn detach(&self) -> BoxFuture<'_, u32>;
}

/// What a consumer asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumerSpec {
    /// Most messages that it holds at a time; 0: only what it pulls, and it is no consumer for counts,
    /// exclusiveness, single active consumers and auto-delete.
    pub prefetch_count: u32,
    /// Larger comes first.
    pub priority: i32,
    /// Whether it must be the only one.
    pub exclusive: bool,
    /// Of a stream, where it begins. It gets every message from there on, in order, whatever becomes of
    /// them; it does not end while the stream is there, and goes on by itself at another replica.
    pub start: Option<StreamStart>,
}

/// Why a consumer cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AttachError {
    /// It, or another one, must be alone.
    #[error("the queue is in exclusive use")]
    InUse,
    /// See [`QueueError`].
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// Why a queue cannot be worked with.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QueueError {
    /// It was deleted.
    #[error("the queue was deleted")]
    Deleted,
    /// Its leader does not answer.
    #[error("the queue is not available: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

/// Why the catalog does not change.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Refusal {
    /// It may not be: this is told to the client.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The catalog does not answer.
    #[error("the catalog is not available: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

/// What a queue has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Messages that are ready.
    pub messages: u64,
    /// Consumers.
    pub consumers: u32,
}

/// A record to append. Its parts may be slices of a larger buffer: who keeps a small one for long copies
/// it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// The body.
    pub value: Bytes,
    /// Names and values.
    pub headers: Vec<(Bytes, Bytes)>,
    /// When it was published, in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Larger is sooner; at most the queue's highest. None where the queue has no priorities.
    pub priority: Option<u8>,
    /// Not to be delivered before, in milliseconds since 1970.
    pub deliver_at_ms: Option<i64>,
    /// Not to be delivered after, in milliseconds since 1970. The time to live of the queue is the
    /// queue's own.
    pub expires_at_ms: Option<i64>,
    /// The lock that it is published under, as the publisher wrote it: `namespace/lock/token`. Not stored.
    pub fence: Option<Arc<str>>,
}

/// A message for a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Which.
    pub offset: u64,
    /// For the how manieth time, from 1.
    pub attempt: u32,
    /// What was stored.
    pub record: Stored,
}

/// A message that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// It.
    pub delivery: Delivery,
    /// Messages that are ready still.
    pub messages_left: u64,
}

/// What is to become of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done: it goes.
    Accept,
    /// Back into the queue, at once.
    Release,
    /// Never again: a dead letter, or dropped.
    Reject,
}

/// A delivery that was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Which.
    pub offset: u64,
    /// Which attempt of it.
    pub attempt: u32,
    /// What is to become of it.
    pub outcome: Outcome,
}

/// Why a consumer ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsumerEnd {
    /// Its queue was deleted.
    Deleted,
    /// Its queue has moved, or its leader is gone: what it held is delivered again, and attaching again
    /// may help.
    Moved,
}
