//! The calls of the gateway, and a task that follows the catalog for it.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use plimsoll_amqp::shortstr::ShortStr;
use plimsoll_amqp_gateway::Backend;
use plimsoll_amqp_gateway::backend::{
    AttachError, Attachment, BoxFuture, ConsumerSpec, Counts, Place, QueueError, Record, Refusal,
};
use plimsoll_amqp_gateway::catalog::{
    Change, Changed, ConnectionId, HostSnapshot, QueueEntry, User,
};
use plimsoll_amqp_gateway::inbox::{ConsumerPort, Receipt};
use plimsoll_amqp_gateway::passwords::PasswordHash;
use plimsoll_log::SpaceState;
use plimsoll_protocol::error::ErrorResponse;
use plimsoll_protocol::ids::{PartitionIndex, TopicName};
use plimsoll_state::catalog::amqp::{self as stored, AmqpCommand};
use tokio::sync::{OnceCell, watch};
use tokio::time::{MissedTickBehavior, timeout};

use super::changes::is_deleted;
use super::consumer;
use super::hosts::Hosts;
use super::publisher::Publishers;
use super::stream;
use crate::broker::Broker;
use crate::places::ConnectionPlace;
use crate::queues::{AnyQueue, QueueName};

/// How often it is looked whether there is room on the disk.
const SPACE_EVERY: Duration = Duration::from_secs(1);
/// How long a declaration waits for the catalog of a node that was just started.
const CONFIRMED_WAIT: Duration = Duration::from_secs(10);
/// Numbers of connections begin anew with each life of the node, above those of the last.
const CONNECTIONS_PER_MS: u64 = 1 << 16;

/// A connection with a virtual host, while it lasts.
struct Open {
    broker: Arc<Broker>,
    _place: ConnectionPlace,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.broker.counters().amqp_connections_open.subtract(1);
    }
}

/// The broker as AMQP's gateway needs it.
pub struct AmqpBroker {
    broker: Arc<Broker>,
    publishers: Publishers,
    connections: AtomicU64,
    blocked: watch::Sender<Option<Arc<str>>>,
    random: RandomState,
    drawn: AtomicU64,
    /// Set when what the last life of this node left is gone.
    forgotten: OnceCell<()>,
}

impl AmqpBroker {
    /// The broker of this node. [`follow`] must run beside it.
    #[must_use]
    pub fn new(broker: Arc<Broker>) -> Arc<Self> {
        let now = u64::try_from(broker.host().clock().unix_ms()).unwrap_or(0);
        Arc::new(Self {
            broker,
            publishers: Publishers::default(),
            connections: AtomicU64::new(now.saturating_mul(CONNECTIONS_PER_MS)),
            blocked: watch::channel(None).0,
            random: RandomState::new(),
            drawn: AtomicU64::new(0),
            forgotten: OnceCell::new(),
        })
    }

    pub(super) fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    pub(super) fn hosts(&self) -> &Hosts {
        self.broker.letters().hosts()
    }

    /// Bits that nobody guesses: of a hash with a key of this process.
    pub(super) fn random_bits(&self) -> u128 {
        let draw = || self.random.hash_one(self.drawn.fetch_add(1, Ordering::Relaxed));
        u128::from(draw()) << 64 | u128::from(draw())
    }

    /// Ends the queues of connections that the last life of this node had. Before the first queue of this life
    /// is declared: the command takes all transient queues of the node, those of this life too.
    ///
    /// # Errors
    /// When it cannot be done now; the next call tries again.
    pub(super) async fn forget_last_life(&self) -> Result<(), Refusal> {
        let forget = || async {
            // A copy that is behind may lack what was declared last.
            let mut confirmed = self.broker.host().catalog_confirmed();
            let known = timeout(CONFIRMED_WAIT, confirmed.wait_for(|confirmed| *confirmed)).await;
            if !known.is_ok_and(|known| known.is_ok()) {
                let reason = "this node does not know yet whether its catalog is up to date".into();
                return Err(Refusal::Unavailable { reason });
            }
            let catalog = self.broker.catalog();
            let node = self.broker.identity().node_id;
            let is_left =
                |queue: &stored::Queue| queue.spec.node == node && queue.spec.is_transient();
            let mut queues = catalog.amqp().vhosts().flat_map(|(_, vhost)| vhost.queues());
            if !queues.any(|(_, queue)| is_left(queue)) {
                return Ok(());
            }
            self.propose(AmqpCommand::ForgetTransient { node, exchanges: false }).await.map(drop)
        };
        self.forgotten.get_or_try_init(forget).await.map(drop)
    }

    /// Asks a queue, at whichever node leads it.
    async fn ask<T, F>(
        &self,
        entry: &QueueEntry,
        ask: impl Fn(AnyQueue) -> F + Send + Sync,
    ) -> Result<T, QueueError>
    where
        T: Send,
        F: Future<Output = Result<T, ErrorResponse>> + Send,
    {
        let asked = self.broker.at_queue(&name_of(entry)?, ask).await;
        asked.map_err(|error| queue_error(&error))
    }
}

/// The topic that holds a queue.
pub(super) fn topic_of(entry: &QueueEntry) -> Result<TopicName, QueueError> {
    TopicName::internal(&entry.topic).map_err(|_| QueueError::Deleted)
}

/// The queue's name among those of all gateways.
pub(super) fn name_of(entry: &QueueEntry) -> Result<QueueName, QueueError> {
    let (partition, subscription) = (PartitionIndex(0), String::new());
    Ok(QueueName { topic: topic_of(entry)?, partition, subscription })
}

pub(super) fn queue_error(error: &ErrorResponse) -> QueueError {
    match is_deleted(error) {
        true => QueueError::Deleted,
        false => QueueError::Unavailable { reason: error.message.clone() },
    }
}

impl Backend for AmqpBroker {
    fn unix_ms(&self) -> i64 {
        self.broker.host().clock().unix_ms()
    }

    fn random(&self) -> u128 {
        self.random_bits()
    }

    fn connection_id(&self) -> ConnectionId {
        ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed))
    }

    fn take_place(&self, peer: IpAddr) -> Result<Place, String> {
        let counters = self.broker.counters();
        let place = self.broker.places().take(peer).map_err(|full| {
            counters.connections_refused.add(1);
            full.to_string()
        })?;
        counters.connections_accepted.add(1);
        counters.amqp_connections_open.add(1);
        Ok(Box::new(Open { broker: Arc::clone(&self.broker), _place: place }))
    }

    fn user(&self, name: &str) -> Option<Arc<User>> {
        let catalog = self.broker.catalog();
        let user = catalog.amqp().user(name)?;
        let password = match user.password.algorithm.as_str() {
            stored::PasswordHash::GUEST => Some(PasswordHash::of(b"guest", [0; 4])),
            _ => PasswordHash::try_from(&user.password.hash[..]).ok(),
        };
        let tags = user.tags.iter().map(|tag| tag.as_str().to_owned()).collect();
        Some(Arc::new(User { name: name.to_owned(), password, tags }))
    }

    fn host(&self, vhost: &str) -> Option<watch::Receiver<Arc<HostSnapshot>>> {
        self.hosts().watch(|| self.broker.catalog(), vhost)
    }

    fn access(&self) -> watch::Receiver<u64> {
        self.hosts().access()
    }

    fn blocked(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.blocked.subscribe()
    }

    fn change(&self, vhost: ShortStr, change: Change) -> BoxFuture<'_, Result<Changed, Refusal>> {
        Box::pin(async move { self.carry_out(&vhost, change).await })
    }

    fn publish(&self, queue: &Arc<QueueEntry>, record: Record, receipt: Receipt) {
        self.publishers.publish(&self.broker, queue, record, receipt);
    }

    fn attach(
        &self,
        queue: Arc<QueueEntry>,
        spec: ConsumerSpec,
        port: ConsumerPort,
    ) -> BoxFuture<'_, Result<Arc<dyn Attachment>, AttachError>> {
        Box::pin(async move {
            let broker = Arc::clone(&self.broker);
            match spec.start {
                Some(start) => stream::attach(broker, &queue, start, port).await,
                None => consumer::attach(broker, &queue, spec, port).await,
            }
        })
    }

    fn counts(&self, queue: Arc<QueueEntry>) -> BoxFuture<'_, Result<Counts, QueueError>> {
        Box::pin(async move {
            if queue.is_stream() {
                let messages = stream::length(&self.broker, &queue).await?;
                return Ok(Counts { messages, consumers: 0 });
            }
            let declared = self.ask(&queue, |queue| async move { queue.declare().await });
            let standing = declared.await?;
            Ok(Counts { messages: standing.ready, consumers: standing.consumers })
        })
    }

    fn purge(&self, queue: Arc<QueueEntry>) -> BoxFuture<'_, Result<u64, QueueError>> {
        Box::pin(async move { self.ask(&queue, |queue| async move { queue.purge().await }).await })
    }

    fn abandoned(&self, _vhost: ShortStr, connection: ConnectionId) {
        let broker = Arc::clone(&self.broker);
        tokio::spawn(async move {
            let node = broker.identity().node_id;
            let command = AmqpCommand::ForgetOwner { node, connection: connection.0 };
            let command = plimsoll_state::catalog::CatalogCommand::Amqp { command };
            if let Err(error) = broker.command(command).await {
                tracing::warn!(%error, "exclusive queues of a lost connection are still there");
            }
        });
    }

    fn node(&self) -> u64 {
        self.broker.identity().node_id.0
    }
}

/// Follows the catalog and the disk for the gateway, until the broker stops. Begins with the end of what the
/// last life of this node left: queues of connections that are no more.
pub async fn follow(amqp: Arc<AmqpBroker>) {
    let broker = Arc::clone(amqp.broker());
    let mut stopping = broker.stopping();
    let mut changes = broker.catalog_changes();
    let mut space = tokio::time::interval(SPACE_EVERY);
    space.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut has_forgotten = false;
    loop {
        tokio::select! {
            biased;
            () = stopping.wait() => return,
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                let catalog = changes.borrow_and_update().clone();
                amqp.hosts().refresh(&catalog);
            }
            _ = space.tick() => {
                let blocked = match broker.store().space() {
                    SpaceState::Ok => None,
                    SpaceState::Low { .. } => Some(Arc::from("low on disk")),
                };
                amqp.blocked.send_if_modified(|now| {
                    let differs = *now != blocked;
                    now.clone_from(&blocked);
                    differs
                });
                if !has_forgotten && *broker.host().catalog_confirmed().borrow() {
                    has_forgotten = amqp.forget_last_life().await.is_ok();
                }
            }
        }
    }
}
