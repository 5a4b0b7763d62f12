//! One live connection to one node: dialed, greeted, shared by everybody who talks to that node.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_protocol::api::{HelloRequest, HelloResponse, PROTOCOL_MAX, PROTOCOL_MIN};
use plimsoll_transport::{ClientTls, Connection, FrameReceiver, FrameSender, TransportKind};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::channel::{Channel, Turns};
use crate::config::{ClientConfig, Trust};
use crate::error::{ConnectError, RequestError};

/// Largest frame that a node may send, whatever it is configured with. Memory is taken only for
/// bytes that arrived.
const FRAME_BYTES_MAX: u32 = 256 << 20;

/// QUIC streams of one connection that serve a single producer's partition or subscription each.
/// Whoever comes later shares: a stream costs both ends tasks and buffers, and a node allows only
/// so many (`streams_per_connection_max`), which a consumer of all partitions of a wide topic would
/// wait for in vain.
const OWN_STREAMS_MAX: usize = 1024;
/// QUIC streams that are shared, for producers and for subscriptions each.
const SHARED_STREAMS: usize = 16;
/// How long a stream may take to open, which needs no answer of the node, before it is taken that
/// the node allows no more.
const STREAM_WAIT: Duration = Duration::from_millis(250);

/// See the module.
pub(crate) struct Link {
    connection: Connection,
    kind: TransportKind,
    control: Arc<Channel>,
    hello: HelloResponse,
    turns: Turns,
    stuck_after: Duration,
    /// A permit per stream that may still be opened for a single user. Closed when the node allows
    /// no more streams.
    own_streams: Arc<Semaphore>,
    /// Apart from each other, so that acknowledgements do not wait behind records that are pushed.
    produce_pool: Mutex<Pool>,
    subscription_pool: Mutex<Pool>,
}

/// Holds one of the streams that a connection may open for single users.
pub(crate) type StreamPlace = OwnedSemaphorePermit;

/// What carries a subscription.
pub(crate) enum SubscriptionCarrier {
    /// A QUIC stream of its own.
    Own(Box<(FrameSender, FrameReceiver)>, StreamPlace),
    /// A stream that others use too.
    Shared(Arc<Channel>),
}

/// Streams that are shared, each opened when it is first needed.
#[derive(Default)]
struct Pool {
    channels: Vec<Arc<Channel>>,
    /// Whose turn it is.
    next: usize,
}

/// What a dial needs beside the address; made once per client.
pub(crate) struct Dialer {
    config: ClientConfig,
    tls: Option<ClientTls>,
}

impl Dialer {
    pub(crate) fn new(config: ClientConfig) -> Result<Self, ConnectError> {
        let unusable = |reason: String| ConnectError::Config(reason);
        let tls = match &config.trust {
            Trust::CaPem(pem) => ClientTls::trusting_pem(pem.as_bytes())
                .map(Some)
                .map_err(|error| unusable(format!("the authority cannot be used: {error}")))?,
            Trust::CaFile(path) => {
                let pem = std::fs::read(path).map_err(|error| {
                    unusable(format!(
                        "cannot read the authority's file {}: {error}; it is DIR/tls/ca.pem of the \
                         node's data directory",
                        path.display()
                    ))
                })?;
                ClientTls::trusting_pem(&pem)
                    .map(Some)
                    .map_err(|error| unusable(format!("{}: {error}", path.display())))?
            }
            Trust::Fingerprint(fingerprint) => ClientTls::trusting_fingerprint(*fingerprint)
                .map(Some)
                .map_err(|error| unusable(error.to_string()))?,
            Trust::Nobody if config.transport == TransportKind::Tcp => None,
            Trust::Nobody => {
                return Err(unusable(
                    "TLS needs an authority or a fingerprint to trust: give --ca FILE".to_owned(),
                ));
            }
        };
        Ok(Self { config, tls })
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// Dials `address` and exchanges the first frames.
    pub(crate) async fn dial(&self, address: &str) -> Result<Link, ConnectError> {
        let after = self.config.connect_timeout;
        match timeout(after, self.dial_unbounded(address)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ConnectError::Timeout { address: address.to_owned(), after }),
        }
    }

    async fn dial_unbounded(&self, address: &str) -> Result<Link, ConnectError> {
        let resolve =
            |reason: String| ConnectError::Resolve { address: address.to_owned(), reason };
        let mut candidates = tokio::net::lookup_host(address)
            .await
            .map_err(|error| resolve(error.to_string()))?
            .peekable();
        if candidates.peek().is_none() {
            return Err(resolve("no address has this name".to_owned()));
        }
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let server_name = self.config.server_name.as_deref().unwrap_or(host);
        let server_name = server_name.trim_start_matches('[').trim_end_matches(']');
        let mut last = None;
        for candidate in candidates {
            let dialed = Connection::dial(
                self.config.transport,
                candidate,
                server_name,
                self.tls.as_ref(),
                &self.config.connection,
            );
            match dialed.await {
                Ok(connection) => return self.greet(address, connection).await,
                Err(error) => last = Some(error),
            }
        }
        let reason = last.map_or_else(String::new, |error| error.to_string());
        Err(ConnectError::Dial { address: address.to_owned(), reason })
    }

    async fn greet(&self, address: &str, connection: Connection) -> Result<Link, ConnectError> {
        let not_a_node =
            |reason: String| ConnectError::NotANode { address: address.to_owned(), reason };
        let (sender, mut receiver) =
            connection.open().await.map_err(|error| not_a_node(error.to_string()))?;
        receiver.set_max_frame_bytes(FRAME_BYTES_MAX);
        let (turns, stuck_after) = (Turns::new(), self.config.request_timeout);
        let control = Channel::start(sender, receiver, turns.clone(), stuck_after, None);
        let hello = HelloRequest {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            client_name: self.config.client_name.clone(),
            client_version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: None,
        };
        let (hello, _) = control.request(hello).await.map_err(|error| match error {
            RequestError::Refused(source) => {
                ConnectError::Refused { address: address.to_owned(), source }
            }
            // A greeting has no effect that could be unknown.
            RequestError::ConnectionLost { reason } => not_a_node(reason.to_string()),
            other => not_a_node(other.to_string()),
        })?;
        let own_streams = Arc::new(Semaphore::new(OWN_STREAMS_MAX));
        let (produce_pool, subscription_pool) = (Mutex::default(), Mutex::default());
        let kind = self.config.transport;
        Ok(Link {
            connection,
            kind,
            control,
            hello,
            turns,
            stuck_after,
            own_streams,
            produce_pool,
            subscription_pool,
        })
    }
}

impl Link {
    /// What the node said of itself.
    pub(crate) fn hello(&self) -> &HelloResponse {
        &self.hello
    }

    /// The stream of single requests.
    pub(crate) fn control(&self) -> &Arc<Channel> {
        &self.control
    }

    /// Whether the connection has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.control.is_closed()
    }

    /// A channel for one producer's partition: a stream of its own where streams are cheap.
    pub(crate) async fn produce_channel(&self) -> Result<Arc<Channel>, RequestError> {
        match self.own_stream().await? {
            Some((halves, place)) => Ok(self.start(halves, Some(place))),
            None => self.shared_channel(&self.produce_pool).await,
        }
    }

    fn start(
        &self,
        (sender, receiver): (FrameSender, FrameReceiver),
        place: Option<StreamPlace>,
    ) -> Arc<Channel> {
        Channel::start(sender, receiver, self.turns.clone(), self.stuck_after, place)
    }

    /// What carries one subscription: a stream of its own where streams are cheap.
    pub(crate) async fn subscription_carrier(&self) -> Result<SubscriptionCarrier, RequestError> {
        match self.own_stream().await? {
            Some((halves, place)) => Ok(SubscriptionCarrier::Own(Box::new(halves), place)),
            None => {
                self.shared_channel(&self.subscription_pool).await.map(SubscriptionCarrier::Shared)
            }
        }
    }

    /// A stream for a single user; `None` where it has to share.
    async fn own_stream(
        &self,
    ) -> Result<Option<((FrameSender, FrameReceiver), StreamPlace)>, RequestError> {
        if self.kind != TransportKind::Quic {
            return Ok(None);
        }
        let Ok(place) = Arc::clone(&self.own_streams).try_acquire_owned() else { return Ok(None) };
        Ok(self.open().await?.map(|halves| (halves, place)))
    }

    /// One of the shared streams, in turn; the control stream where there is no other.
    async fn shared_channel(&self, pool: &Mutex<Pool>) -> Result<Arc<Channel>, RequestError> {
        if self.kind != TransportKind::Quic {
            return Ok(Arc::clone(&self.control));
        }
        let mut pool = pool.lock().await;
        pool.channels.retain(|channel| !channel.is_closed());
        // A node that has refused a stream is not asked again for each user.
        let more = pool.channels.len() < SHARED_STREAMS && !self.own_streams.is_closed();
        if more && let Some(halves) = self.open().await? {
            let channel = self.start(halves, None);
            pool.channels.push(Arc::clone(&channel));
            return Ok(channel);
        }
        pool.next = pool.next.wrapping_add(1);
        let turn = pool.next.checked_rem(pool.channels.len());
        Ok(Arc::clone(turn.map_or(&self.control, |turn| &pool.channels[turn])))
    }

    /// Opens a stream; `None` where the node allows no more.
    async fn open(&self) -> Result<Option<(FrameSender, FrameReceiver)>, RequestError> {
        let Ok(opened) = timeout(STREAM_WAIT, self.connection.open()).await else {
            self.own_streams.close();
            return Ok(None);
        };
        let (sender, mut receiver) = opened.map_err(|error| {
            // Streams fail only with their connection: the control channel must not outlive it.
            self.control.close(&error.to_string());
            RequestError::ConnectionLost { reason: error.to_string().into() }
        })?;
        receiver.set_max_frame_bytes(FRAME_BYTES_MAX);
        Ok(Some((sender, receiver)))
    }

    /// Waits until the other side was told that the connection has ended.
    pub(crate) async fn drained(&self) {
        self.connection.drained().await;
    }

    /// Ends the connection.
    pub(crate) fn close(&self, reason: &str) {
        self.control.close(reason);
        self.connection.close(0, reason);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.close("the client is done");
    }
}

/// Pauses between attempts: doubling from `first` up to 32 times it, with jitter of half.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    attempts: u32,
    random: crate::partitioner::SplitMix64,
}

impl Backoff {
    pub(crate) fn new(first: Duration) -> Self {
        let random = crate::partitioner::SplitMix64(crate::partitioner::random_seed());
        Self { first, attempts: 0, random }
    }

    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }

    pub(crate) fn next_pause(&mut self) -> Duration {
        let whole = self.first * (1 << self.attempts.min(5));
        self.attempts = self.attempts.saturating_add(1);
        let half = whole / 2;
        half + half.mul_f64(self.random.below(1024) as f64 / 1024.0)
    }
}
