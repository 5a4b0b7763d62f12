//! One live connection to one node: dialed, greeted, shared by everybody who talks to that node.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use plimsoll_protocol::api::{
    HelloRequest, HelloResponse, PROTOCOL_MAX, PROTOCOL_MIN, PingRequest,
};
use plimsoll_protocol::ids::NodeId;
use plimsoll_transport::{Connection, FrameReceiver, FrameSender};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::channel::{Channel, Turns};
use crate::cluster::Cluster;
use crate::config::ClientConfig;
use crate::dial::{AddressSource, Dial, SocketDial};
use crate::error::{ConnectError, RequestError};
use crate::pulse::{self, Patient, Pulse};

/// Largest frame that a node may send, whatever it is configured with. Memory is taken only for
/// bytes that arrived.
const FRAME_BYTES_MAX: u32 = 256 << 20;

/// The control stream's share of the way out, before all others.
const CONTROL_PRIORITY: i32 = 10;

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
    dialer: Arc<Dialer>,
    address: String,
    source: AddressSource,
    connection: Connection,
    control: Arc<Channel>,
    pulse: Arc<Pulse>,
    hello: HelloResponse,
    /// What the greeting took: no less than the way there and back.
    round_trip: Duration,
    turns: Turns,
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
#[derive(Debug)]
pub(crate) struct Dialer {
    config: ClientConfig,
    dial: Arc<dyn Dial>,
    cluster: Arc<Cluster>,
}

/// A connection whose node has said who it is.
struct Greeted {
    connection: Connection,
    control: Arc<Channel>,
    pulse: Arc<Pulse>,
    turns: Turns,
    hello: HelloResponse,
    round_trip: Duration,
}

impl Dialer {
    pub(crate) fn new(config: ClientConfig, cluster: Arc<Cluster>) -> Result<Self, ConnectError> {
        let dial: Arc<dyn Dial> = match &config.dial {
            Some(dial) => Arc::clone(dial),
            None => Arc::new(SocketDial::new(&config)?),
        };
        Ok(Self { config, dial, cluster })
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// Dials `address` and exchanges the first frames, within `after`.
    pub(crate) async fn dial(
        self: &Arc<Self>,
        address: &str,
        source: AddressSource,
        after: Duration,
    ) -> Result<Arc<Link>, ConnectError> {
        let greeted = match timeout(after, self.greet(address, source)).await {
            Ok(outcome) => outcome?,
            Err(_) => return Err(ConnectError::Timeout { address: address.to_owned(), after }),
        };
        let Greeted { connection, control, pulse, turns, hello, round_trip } = greeted;
        let link = Arc::new(Link {
            dialer: Arc::clone(self),
            address: address.to_owned(),
            source,
            connection,
            control,
            pulse: Arc::clone(&pulse),
            hello,
            round_trip,
            turns,
            own_streams: Arc::new(Semaphore::new(OWN_STREAMS_MAX)),
            produce_pool: Mutex::default(),
            subscription_pool: Mutex::default(),
        });
        tokio::spawn(pulse::watch(pulse, Arc::downgrade(&link), self.config.suspicion));
        Ok(link)
    }

    async fn greet(&self, address: &str, source: AddressSource) -> Result<Greeted, ConnectError> {
        let connection = self.dial.dial(address, source).await?;
        let not_a_node =
            |reason: String| ConnectError::NotANode { address: address.to_owned(), reason };
        let (mut sender, mut receiver) =
            connection.open().await.map_err(|error| not_a_node(error.to_string()))?;
        // A sign of life must not wait behind records.
        sender.set_priority(CONTROL_PRIORITY);
        receiver.set_max_frame_bytes(FRAME_BYTES_MAX);
        let (turns, stuck_after) = (Turns::new(), self.config.request_timeout);
        let pulse = Pulse::new();
        let control =
            Channel::start(sender, receiver, turns.clone(), stuck_after, Arc::clone(&pulse), None);
        let hello = HelloRequest {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            client_name: self.config.client_name.clone(),
            client_version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: None,
        };
        let asked = Instant::now();
        let (hello, _) = control.request(hello).await.map_err(|error| match error {
            RequestError::Refused(source) => {
                ConnectError::Refused { address: address.to_owned(), source }
            }
            // A greeting has no effect that could be unknown.
            RequestError::ConnectionLost { reason } => not_a_node(reason.to_string()),
            other => not_a_node(other.to_string()),
        })?;
        let round_trip = asked.elapsed();
        Ok(Greeted { connection, control, pulse, turns, hello, round_trip })
    }
}

impl Patient for Link {
    fn has_choice(&self) -> bool {
        self.dialer.cluster.view().nodes().len() > 1
    }

    fn patience(&self) -> Duration {
        self.dialer.config.suspicion.give_up_after.max(self.round_trip() * 4)
    }

    fn probe_after(&self) -> Duration {
        if self.connection.has_many_streams() { self.patience() / 2 } else { Duration::ZERO }
    }

    fn ping(&self) -> BoxFuture<'static, ()> {
        let control = Arc::clone(&self.control);
        async move {
            if control.request(PingRequest {}).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        .boxed()
    }

    fn probe(&self) -> BoxFuture<'static, bool> {
        let (dialer, node) = (Arc::clone(&self.dialer), self.node());
        let (address, source) = (self.address.clone(), self.source);
        async move {
            match dialer.greet(&address, source).await {
                Ok(greeted) => {
                    greeted.connection.close(0, "seen to be alive");
                    greeted.hello.node_id == node
                }
                Err(ConnectError::Refused { .. }) => true,
                Err(_) => false,
            }
        }
        .boxed()
    }

    fn give_up(&self, silent_for: Duration) {
        if self.is_closed() {
            return;
        }
        let node = self.node();
        tracing::warn!(%node, address = self.address, ?silent_for,
            "no sign of life, turning to other nodes");
        self.dialer.cluster.suspect(node);
        self.close("no sign of life from the node");
    }
}

impl Link {
    /// What the node said of itself.
    pub(crate) fn hello(&self) -> &HelloResponse {
        &self.hello
    }

    /// The node at the other end.
    pub(crate) fn node(&self) -> NodeId {
        self.hello.node_id
    }

    /// Where it was dialed.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// What a frame takes there and back, about.
    pub(crate) fn round_trip(&self) -> Duration {
        self.connection.path().round_trip.unwrap_or(self.round_trip)
    }

    /// The signs of life of this link.
    pub(crate) fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
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

    /// A channel for one consumer of a queue's partition: a stream of its own where streams are cheap.
    pub(crate) async fn queue_channel(&self) -> Result<Arc<Channel>, RequestError> {
        match self.own_stream().await? {
            Some((halves, place)) => Ok(self.start(halves, Some(place))),
            None => self.shared_channel(&self.subscription_pool).await,
        }
    }

    fn start(
        &self,
        (sender, receiver): (FrameSender, FrameReceiver),
        place: Option<StreamPlace>,
    ) -> Arc<Channel> {
        let (turns, pulse) = (self.turns.clone(), Arc::clone(&self.pulse));
        let stuck_after = self.dialer.config.request_timeout;
        Channel::start(sender, receiver, turns, stuck_after, pulse, place)
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
        if !self.connection.has_many_streams() {
            return Ok(None);
        }
        let Ok(place) = Arc::clone(&self.own_streams).try_acquire_owned() else { return Ok(None) };
        Ok(self.open().await?.map(|halves| (halves, place)))
    }

    /// One of the shared streams, in turn; the control stream where there is no other.
    async fn shared_channel(&self, pool: &Mutex<Pool>) -> Result<Arc<Channel>, RequestError> {
        if !self.connection.has_many_streams() {
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
        self.pulse.end();
        self.control.close(reason);
        self.connection.close(0, reason);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.close("the client is done");
    }
}
