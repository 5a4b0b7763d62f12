//! A network in memory, for the deterministic simulation: the same connections, streams and frames as
//! over QUIC, without sockets, encryption, threads or a clock of its own.
//!
//! ```text
//!  SimulatedHost::dial ─► End ── Packet ──► Fabric::carry ──(later)──► Packet::deliver ──► End
//!                          │                 delay, hold, break                             │
//!            FrameSender ─► StreamEnd                                        StreamEnd ─► FrameReceiver
//! ```
//! Every message between the two ends of a connection is a [`Packet`] that the [`Fabric`] delivers when
//! it likes. It owes two things: packets of one stream keep their order, and a packet that is dropped
//! breaks its connection, as a peer that stays unreachable does. Streams of one connection may overtake
//! each other. Flow control is QUIC's: a window per stream and one per connection, 16 streams and 64 KiB
//! before [`Connection::admit`](crate::Connection::admit).
//!
//! A process on a host is a [`SimulatedHost`]; [`SimulatedNetwork::kill`] ends it without a word to its
//! peers, who learn it from a reset (somebody answers at that address, and knows no such connection) or
//! not at all, until the fabric breaks the connection.

mod end;
mod stream;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use plimsoll_protocol::ids::NodeId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::closing::Closing;
use crate::config::{TransportConfig, TransportKind};
use crate::connection::Connection;
use crate::dial::DialError;
use crate::listener::{BindError, Listener};
use crate::peer_facts::PeerFacts;

pub(crate) use self::end::{End, SimulatedIncoming};
pub(crate) use self::stream::{ReceivingHalf, SendingHalf};

/// Ports of dialing processes are numbered from here.
const FIRST_DIALING_PORT: u16 = 40_000;

/// Decides what becomes of packets. Called without any lock of this module held, by whoever sends: it
/// may deliver at once.
pub trait Fabric: Send + Sync + 'static {
    /// A packet sets out. It arrives when [`Packet::deliver`] is called; dropping it breaks its
    /// connection at both ends. Packets of one stream must be delivered in the order they came.
    fn carry(&self, packet: Packet);
}

/// One connection of a network, in the order of their dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// What travels between the two ends of a connection.
#[derive(Debug)]
pub(crate) enum Message {
    /// The first packet of a connection: of this node, or of a client.
    Open {
        node: Option<NodeId>,
    },
    /// The peer takes the connection.
    Accepted,
    /// Nobody listens there, or nobody wants it.
    Refused,
    Data {
        stream: u64,
        pieces: Vec<Bytes>,
    },
    Finish {
        stream: u64,
    },
    /// Everything up to the end of a stream has arrived.
    Received {
        stream: u64,
    },
    Reset {
        stream: u64,
        code: u64,
    },
    Stop {
        stream: u64,
        code: u64,
    },
    /// So many bytes of a stream were read.
    StreamCredit {
        stream: u64,
        bytes: usize,
    },
    /// So many bytes of all streams were read.
    Credit {
        bytes: usize,
    },
    /// So many more streams may be opened.
    MoreStreams {
        count: usize,
    },
    Close {
        code: u64,
        text: String,
    },
    /// The process that had the other end is gone.
    Unknown,
}

impl Message {
    fn kind(&self) -> &'static str {
        match self {
            Message::Open { .. } => "open",
            Message::Accepted => "accepted",
            Message::Refused => "refused",
            Message::Data { .. } => "data",
            Message::Finish { .. } => "finish",
            Message::Received { .. } => "received",
            Message::Reset { .. } => "reset",
            Message::Stop { .. } => "stop",
            Message::StreamCredit { .. } => "stream credit",
            Message::Credit { .. } => "credit",
            Message::MoreStreams { .. } => "more streams",
            Message::Close { .. } => "close",
            Message::Unknown => "unknown",
        }
    }

    fn stream(&self) -> Option<u64> {
        match self {
            Message::Data { stream, .. }
            | Message::Finish { stream }
            | Message::Received { stream }
            | Message::Reset { stream, .. }
            | Message::Stop { stream, .. }
            | Message::StreamCredit { stream, .. } => Some(*stream),
            _ => None,
        }
    }
}

/// One message on its way; see [`Fabric`].
#[derive(Debug)]
pub struct Packet {
    network: SimulatedNetwork,
    connection: ConnectionId,
    from: Place,
    to: Place,
    /// Taken when it is delivered.
    message: Option<Message>,
}

/// One end of a connection: whose, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    side: Side,
    address: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Dialing,
    Accepting,
}

impl Side {
    fn other(self) -> Side {
        match self {
            Side::Dialing => Side::Accepting,
            Side::Accepting => Side::Dialing,
        }
    }
}

impl Packet {
    /// Who sent it.
    #[must_use]
    pub fn from(&self) -> SocketAddr {
        self.from.address
    }

    /// To whom.
    #[must_use]
    pub fn to(&self) -> SocketAddr {
        self.to.address
    }

    /// Of which connection.
    #[must_use]
    pub fn connection(&self) -> ConnectionId {
        self.connection
    }

    /// Of which stream, if it belongs to one: what the order is kept within.
    #[must_use]
    pub fn stream(&self) -> Option<u64> {
        self.message.as_ref().and_then(Message::stream)
    }

    /// What it is, in a word.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.message.as_ref().map_or("delivered", Message::kind)
    }

    /// The bytes of frames that it carries, in pieces.
    #[must_use]
    pub fn pieces(&self) -> &[Bytes] {
        match &self.message {
            Some(Message::Data { pieces, .. }) => pieces,
            _ => &[],
        }
    }

    /// It arrives. Where the process that it was for is gone, but its host answers, the sender is told
    /// so by another packet; where nobody answers, nothing happens.
    pub fn deliver(mut self) {
        let message = self.message.take().expect("a packet is delivered once");
        self.network.deliver(self.connection, self.from, self.to, message);
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        if self.message.take().is_some() {
            self.network.break_connection(self.connection, "the network lost it");
        }
    }
}

/// A network in memory; clones are handles to the same one.
#[derive(Clone)]
pub struct SimulatedNetwork {
    inner: Arc<Inner>,
}

struct Inner {
    fabric: Box<dyn Fabric>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    hosts: BTreeMap<IpAddr, HostState>,
    connections: BTreeMap<ConnectionId, Ends>,
    next_connection: u64,
}

#[derive(Default)]
struct HostState {
    /// Counts the processes that there were; the present one has this number.
    life: u64,
    is_up: bool,
    listeners: BTreeMap<u16, mpsc::UnboundedSender<SimulatedIncoming>>,
    next_port: u16,
}

#[derive(Default)]
struct Ends {
    dialing: Option<Weak<End>>,
    accepting: Option<Weak<End>>,
}

impl Ends {
    fn of(&self, side: Side) -> Option<Arc<End>> {
        let end = match side {
            Side::Dialing => &self.dialing,
            Side::Accepting => &self.accepting,
        };
        end.as_ref().and_then(Weak::upgrade)
    }
}

impl std::fmt::Debug for SimulatedNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimulatedNetwork").finish_non_exhaustive()
    }
}

impl SimulatedNetwork {
    /// A network without hosts.
    pub fn new(fabric: impl Fabric) -> SimulatedNetwork {
        let inner = Inner { fabric: Box::new(fabric), state: Mutex::default() };
        SimulatedNetwork { inner: Arc::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a process on the host of this address; one that runs there is killed.
    #[must_use]
    pub fn start_host(&self, ip: IpAddr) -> SimulatedHost {
        self.kill(ip);
        let mut state = self.lock();
        let host = state.hosts.entry(ip).or_default();
        host.is_up = true;
        SimulatedHost { network: self.clone(), ip, life: host.life }
    }

    /// The process on a host ends at once: its connections say nothing more, what is under way to them
    /// is lost, and nobody answers at the address until a process is started there again.
    pub fn kill(&self, ip: IpAddr) {
        let mut state = self.lock();
        let host = state.hosts.entry(ip).or_default();
        host.life += 1;
        host.is_up = false;
        host.listeners.clear();
    }

    /// Live connections with an end at this address that belongs to a process that runs, or ran, there.
    #[must_use]
    pub fn connections_of(&self, ip: IpAddr) -> Vec<ConnectionId> {
        let state = self.lock();
        let is_there = |end: Option<Arc<End>>| {
            end.is_some_and(|end| {
                (end.local().ip() == ip || end.remote().ip() == ip) && !end.is_closed()
            })
        };
        let connections = state.connections.iter();
        let found = connections.filter(|(_, ends)| {
            is_there(ends.of(Side::Dialing)) || is_there(ends.of(Side::Accepting))
        });
        found.map(|(id, _)| *id).collect()
    }

    /// Both ends of a connection learn that it is lost.
    pub fn break_connection(&self, connection: ConnectionId, reason: &str) {
        let ends = {
            let state = self.lock();
            let Some(ends) = state.connections.get(&connection) else { return };
            [ends.of(Side::Dialing), ends.of(Side::Accepting)]
        };
        for end in ends.into_iter().flatten() {
            end.fail(reason);
        }
    }

    /// Whether the process that an end belongs to still runs.
    fn is_alive(&self, ip: IpAddr, life: u64) -> bool {
        self.lock().hosts.get(&ip).is_some_and(|host| host.is_up && host.life == life)
    }

    fn send(&self, connection: ConnectionId, from: Place, to: Place, message: Message) {
        let message = Some(message);
        self.inner.fabric.carry(Packet { network: self.clone(), connection, from, to, message });
    }

    fn deliver(&self, connection: ConnectionId, from: Place, to: Place, message: Message) {
        if let Message::Open { node } = message {
            return self.deliver_open(connection, from, to, node);
        }
        let (end, is_up) = {
            let state = self.lock();
            let ends = state.connections.get(&connection);
            let is_up = state.hosts.get(&to.address.ip()).is_some_and(|host| host.is_up);
            (ends.and_then(|ends| ends.of(to.side)), is_up)
        };
        match end.filter(|end| self.is_alive(end.local().ip(), end.life())) {
            Some(end) => end.receive(message),
            // A dead connection is not answered with another one.
            None if matches!(message, Message::Unknown | Message::Close { .. }) => {}
            None if is_up => self.send(connection, to, from, Message::Unknown),
            None => {}
        }
    }

    /// The first packet of a connection reaches the host that was dialed.
    fn deliver_open(&self, connection: ConnectionId, from: Place, to: Place, node: Option<NodeId>) {
        let refused = {
            let mut state = self.lock();
            let Some(host) = state.hosts.get(&to.address.ip()).filter(|host| host.is_up) else {
                return;
            };
            let life = host.life;
            match host.listeners.get(&to.address.port()).cloned() {
                None => true,
                Some(listener) => {
                    let facts = PeerFacts::simulated(node);
                    let end = End::new(self.clone(), connection, to, from, life, facts);
                    let ends = state.connections.entry(connection).or_default();
                    ends.accepting = Some(Arc::downgrade(&end));
                    drop(state);
                    // One that nobody takes any more is closed by being dropped.
                    let _ = listener.send(SimulatedIncoming(end));
                    false
                }
            }
        };
        if refused {
            self.send(connection, to, from, Message::Refused);
        }
    }

    fn forget(&self, connection: ConnectionId, side: Side) {
        let mut state = self.lock();
        if let Some(ends) = state.connections.get_mut(&connection) {
            match side {
                Side::Dialing => ends.dialing = None,
                Side::Accepting => ends.accepting = None,
            }
            if ends.of(side.other()).is_none() {
                state.connections.remove(&connection);
            }
        }
    }
}

/// A process on a host of a simulated network: what it listens and dials with. Clones are the same
/// process.
#[derive(Clone, Debug)]
pub struct SimulatedHost {
    network: SimulatedNetwork,
    ip: IpAddr,
    life: u64,
}

impl SimulatedHost {
    /// The host's address.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Takes connections in at a port of this host.
    ///
    /// # Errors
    /// [`BindError::InUse`] where this process listens there already, and [`BindError::NoSuchAddress`]
    /// where it was killed.
    pub fn listen(&self, port: u16, config: TransportConfig) -> Result<Listener, BindError> {
        let address = SocketAddr::new(self.ip, port);
        let mut state = self.network.lock();
        let host =
            state.hosts.get_mut(&self.ip).filter(|host| host.is_up && host.life == self.life);
        let host = host.ok_or(BindError::NoSuchAddress { address })?;
        let protocol = "simulated";
        if host.listeners.get(&port).is_some_and(|listener| !listener.is_closed()) {
            return Err(BindError::InUse { address, protocol });
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        host.listeners.insert(port, sender);
        Ok(Listener::simulated(receiver, address, config))
    }

    /// Connects to `address`.
    ///
    /// # Errors
    /// [`DialError::Refused`] where a host answers and nobody listens; [`DialError::TimedOut`] after
    /// `handshake_timeout` of the configuration.
    pub async fn dial(
        &self,
        address: SocketAddr,
        config: &TransportConfig,
    ) -> Result<Connection, DialError> {
        self.dial_as(address, None, config).await
    }

    /// Connects to the node `to` at `address` as the node `from`. Nothing is proven here: that the
    /// nodes are who they say is for tests with certificates.
    ///
    /// # Errors
    /// As [`SimulatedHost::dial`].
    pub async fn dial_node(
        &self,
        address: SocketAddr,
        from: NodeId,
        to: NodeId,
        config: &TransportConfig,
    ) -> Result<Connection, DialError> {
        self.dial_as(address, Some((from, to)), config).await
    }

    async fn dial_as(
        &self,
        address: SocketAddr,
        nodes: Option<(NodeId, NodeId)>,
        config: &TransportConfig,
    ) -> Result<Connection, DialError> {
        let after = config.handshake_timeout;
        let timed_out = DialError::TimedOut { address, kind: TransportKind::Quic, after };
        let (established, outcome) = oneshot::channel();
        let end = {
            let mut state = self.network.lock();
            let host = state.hosts.get_mut(&self.ip);
            let Some(host) = host.filter(|host| host.is_up && host.life == self.life) else {
                return Err(timed_out);
            };
            let port = FIRST_DIALING_PORT + host.next_port;
            host.next_port = (host.next_port + 1) % 20_000;
            let id = ConnectionId(state.next_connection);
            state.next_connection += 1;
            let from = Place { side: Side::Dialing, address: SocketAddr::new(self.ip, port) };
            let to = Place { side: Side::Accepting, address };
            let facts = PeerFacts::simulated(nodes.map(|(_, peer)| peer));
            let end = End::new(self.network.clone(), id, from, to, self.life, facts);
            end.configure(config);
            end.await_acceptance(established);
            let ends = Ends { dialing: Some(Arc::downgrade(&end)), accepting: None };
            state.connections.insert(id, ends);
            end
        };
        end.send(Message::Open { node: nodes.map(|(own, _)| own) });
        match timeout(after, outcome).await {
            Err(_) => Err(timed_out),
            Ok(Ok(true)) => Ok(Connection::simulated(end, config)),
            Ok(Ok(false) | Err(_)) => Err(DialError::Refused { address }),
        }
    }
}

/// A connection over a simulated network.
#[derive(Clone, Debug)]
pub struct SimulatedConnection {
    end: Arc<End>,
    closing: Arc<Closing>,
    max_frame_bytes: u32,
}

impl SimulatedConnection {
    pub(crate) fn new(end: Arc<End>, config: &TransportConfig) -> Self {
        let closing = Arc::new(Closing::Simulated(Arc::clone(&end)));
        Self { end, closing, max_frame_bytes: config.max_frame_bytes }
    }

    pub(crate) fn end(&self) -> &Arc<End> {
        &self.end
    }

    pub(crate) fn facts(&self) -> &PeerFacts {
        self.end.facts()
    }

    pub(crate) fn closing(&self) -> &Arc<Closing> {
        &self.closing
    }

    pub(crate) fn max_frame_bytes(&self) -> u32 {
        self.max_frame_bytes
    }

    /// Which connection of the network it is.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.end.id()
    }
}

#[cfg(test)]
mod tests;
