//! A connection of any of the three kinds, and the streams on it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use plimsoll_protocol::ids::NodeId;
use thiserror::Error;
use tokio_rustls::TlsStream;

use crate::closing::{CloseReason, ClosedBy, Closing};
use crate::config::{TransportConfig, TransportKind};
use crate::peer_facts::PeerFacts;
use crate::protocol::Protocol;
use crate::read_ahead::ReadAhead;
use crate::receiver::FrameReceiver;
use crate::sender::FrameSender;
use crate::shared_tcp::SharedTcp;
use crate::simulated::{End, ReceivingHalf, SendingHalf, SimulatedConnection};

/// A connection; clones are handles to the same one. Streams stay usable while any handle or any
/// half of a stream is held.
#[derive(Clone, Debug)]
pub enum Connection {
    /// Many streams over QUIC.
    Quic(QuicConnection),
    /// One stream over TCP, with or without TLS.
    Stream(StreamConnection),
    /// Many streams over a network in memory, for the simulation.
    Simulated(SimulatedConnection),
}

/// A QUIC connection.
#[derive(Clone, Debug)]
pub struct QuicConnection {
    connection: quinn::Connection,
    /// Of a dialed connection, which has an endpoint of its own.
    endpoint: Option<quinn::Endpoint>,
    limits: Limits,
    facts: PeerFacts,
    closing: Arc<Closing>,
}

/// A TCP or TLS connection.
#[derive(Clone, Debug)]
pub struct StreamConnection {
    kind: TransportKind,
    peer: SocketAddr,
    facts: PeerFacts,
    halves: Arc<Mutex<Option<Halves>>>,
    closing: Arc<Closing>,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    max_frame_bytes: u32,
    connection_window_bytes: u32,
    streams_max: u32,
}

type Halves = (FrameSender, FrameReceiver);

/// Why no stream could be opened or accepted.
#[derive(Debug, Error)]
pub enum OpenError {
    /// TCP and TLS carry one stream, and it has been handed out.
    #[error("a {0} connection has one stream, which is already in use")]
    SingleStream(TransportKind),
    /// The connection is gone.
    #[error("the connection is closed: {0}")]
    Closed(CloseReason),
}

/// What is known of the network path.
#[derive(Clone, Copy, Debug, Default)]
pub struct PathInfo {
    /// Smoothed round-trip time; `None` on TCP and TLS.
    pub round_trip: Option<Duration>,
    /// Largest UDP payload in use; 0 on TCP and TLS.
    pub mtu_bytes: u16,
    /// QUIC packets sent on this connection.
    pub packets_sent: u64,
    /// QUIC packets held for lost.
    pub packets_lost: u64,
    /// Times that congestion control has cut its window.
    pub congestion_events: u64,
}

impl Connection {
    pub(crate) fn quic(
        connection: quinn::Connection,
        endpoint: Option<quinn::Endpoint>,
        facts: PeerFacts,
        config: &TransportConfig,
    ) -> Connection {
        let limits = Limits {
            max_frame_bytes: config.max_frame_bytes,
            connection_window_bytes: config.connection_window_bytes,
            streams_max: config.streams_max,
        };
        let closing = Arc::new(Closing::Quic(connection.clone()));
        Connection::Quic(QuicConnection { connection, endpoint, limits, facts, closing })
    }

    pub(crate) fn tcp(socket: SharedTcp, peer: SocketAddr, config: &TransportConfig) -> Connection {
        let closing = Arc::new(Closing::stream(socket.clone()));
        let sender = FrameSender::tcp(socket.clone(), Arc::clone(&closing));
        let receiver = FrameReceiver::tcp(socket, config.max_frame_bytes, Arc::clone(&closing));
        Self::stream(TransportKind::Tcp, peer, PeerFacts::unknown(), (sender, receiver), closing)
    }

    pub(crate) fn tls(
        stream: TlsStream<ReadAhead>,
        peer: SocketAddr,
        facts: PeerFacts,
        config: &TransportConfig,
    ) -> Connection {
        let closing = Arc::new(Closing::stream(stream.get_ref().0.socket().clone()));
        let (read, write) = tokio::io::split(stream);
        let sender = FrameSender::tls(write, Arc::clone(&closing));
        let receiver = FrameReceiver::tls(read, config.max_frame_bytes, Arc::clone(&closing));
        Self::stream(TransportKind::Tls, peer, facts, (sender, receiver), closing)
    }

    pub(crate) fn simulated(end: Arc<End>, config: &TransportConfig) -> Connection {
        Connection::Simulated(SimulatedConnection::new(end, config))
    }

    fn stream(
        kind: TransportKind,
        peer: SocketAddr,
        facts: PeerFacts,
        halves: Halves,
        closing: Arc<Closing>,
    ) -> Connection {
        Connection::Stream(StreamConnection {
            kind,
            peer,
            facts,
            halves: Arc::new(Mutex::new(Some(halves))),
            closing,
        })
    }

    /// The peer's address.
    #[must_use]
    pub fn remote_addr(&self) -> SocketAddr {
        match self {
            Connection::Quic(quic) => quic.connection.remote_address(),
            Connection::Stream(stream) => stream.peer,
            Connection::Simulated(simulated) => simulated.end().remote(),
        }
    }

    /// Which carrier this is.
    #[must_use]
    pub fn kind(&self) -> TransportKind {
        match self {
            Connection::Quic(_) | Connection::Simulated(_) => TransportKind::Quic,
            Connection::Stream(stream) => stream.kind,
        }
    }

    /// What is spoken on it, as agreed in the handshake.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.facts().protocol
    }

    /// The other side's certificate in DER, where it showed one.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<Bytes> {
        self.facts().certificate.clone()
    }

    /// The node at the other end, of the same cluster, as its certificate proves; `None` unless
    /// [`Protocol::Node`] is spoken.
    #[must_use]
    pub fn peer_node(&self) -> Option<NodeId> {
        self.facts().node()
    }

    fn facts(&self) -> &PeerFacts {
        match self {
            Connection::Quic(quic) => &quic.facts,
            Connection::Stream(stream) => &stream.facts,
            Connection::Simulated(simulated) => simulated.facts(),
        }
    }

    /// Whether more than one stream can be opened, with flow control of its own for each.
    #[must_use]
    pub fn has_many_streams(&self) -> bool {
        matches!(self, Connection::Quic(_) | Connection::Simulated(_))
    }

    /// Opens a bidirectional stream. QUIC: a new one, which the peer sees with its first frame;
    /// waits while the peer's limit of streams is reached. TCP and TLS: the one stream.
    ///
    /// # Errors
    /// [`OpenError::Closed`], and on TCP and TLS [`OpenError::SingleStream`] the second time.
    pub async fn open(&self) -> Result<(FrameSender, FrameReceiver), OpenError> {
        match self {
            Connection::Quic(quic) => match quic.connection.open_bi().await {
                Ok(halves) => Ok(quic.halves(halves)),
                Err(_) => Err(self.closed_error()),
            },
            Connection::Stream(stream) => stream.take().ok_or(OpenError::SingleStream(stream.kind)),
            Connection::Simulated(simulated) => match simulated.end().open().await {
                Some(halves) => Ok(simulated_halves(simulated, halves)),
                None => Err(self.closed_error()),
            },
        }
    }

    /// The next stream that the peer has opened. TCP and TLS: the one stream, then nothing until
    /// the connection ends. `None`: the peer or this side closed the connection. May be cancelled.
    ///
    /// # Errors
    /// [`OpenError::Closed`] when the connection failed.
    pub async fn accept(&self) -> Result<Option<(FrameSender, FrameReceiver)>, OpenError> {
        match self {
            Connection::Quic(quic) => match quic.connection.accept_bi().await {
                Ok(halves) => Ok(Some(quic.halves(halves))),
                Err(
                    quinn::ConnectionError::ApplicationClosed(_)
                    | quinn::ConnectionError::LocallyClosed,
                ) => Ok(None),
                Err(_) => Err(self.closed_error()),
            },
            Connection::Stream(stream) => {
                if let Some(halves) = stream.take() {
                    return Ok(Some(halves));
                }
                stream.closing.closed().await;
                Ok(None)
            }
            Connection::Simulated(simulated) => match simulated.end().accept().await {
                Some(halves) => Ok(Some(simulated_halves(simulated, halves))),
                None => match simulated.closing().known_reason() {
                    Some(reason) if reason.by == ClosedBy::Failure => Err(self.closed_error()),
                    _ => Ok(None),
                },
            },
        }
    }

    fn closed_error(&self) -> OpenError {
        let reason = self.closing().known_reason();
        OpenError::Closed(reason.unwrap_or_else(|| CloseReason {
            by: ClosedBy::Failure,
            code: 0,
            text: "connection lost".to_owned(),
        }))
    }

    /// Gives an accepted connection the configured number of streams and receive window. Until
    /// then the peer has 16 streams and 64 KiB: what a stranger may make a node keep. To be called
    /// once the peer has said Hello. No effect on TCP, TLS and dialed connections.
    pub fn admit(&self) {
        if let Connection::Simulated(simulated) = self {
            simulated.end().admit();
        }
        if let Connection::Quic(quic) = self {
            let streams = quinn::VarInt::from_u32(quic.limits.streams_max);
            quic.connection.set_max_concurrent_bi_streams(streams);
            let window = quinn::VarInt::from_u32(quic.limits.connection_window_bytes);
            quic.connection.set_receive_window(window);
        }
    }

    /// Ends the connection with all its streams. The peer of a QUIC connection is told the code
    /// and the reason; on TCP and TLS say it in a frame before. What was not yet sent is dropped.
    pub fn close(&self, code: u32, reason: &str) {
        self.closing().close(code, reason);
    }

    /// Waits for the end of the connection, whoever brings it about. On TCP and TLS the end is
    /// seen by whoever reads or writes.
    pub async fn closed(&self) -> CloseReason {
        self.closing().closed().await
    }

    /// Why the connection has ended; `None` while it has not.
    #[must_use]
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.closing().known_reason()
    }

    /// After `close` on a dialed connection: waits until the peer was told. For the end of a
    /// process.
    pub async fn drained(&self) {
        if let Connection::Quic(QuicConnection { endpoint: Some(endpoint), .. }) = self {
            endpoint.wait_idle().await;
        }
    }

    /// Round trip, MTU and losses, for diagnosis.
    #[must_use]
    pub fn path(&self) -> PathInfo {
        match self {
            Connection::Quic(quic) => {
                let path = quic.connection.stats().path;
                PathInfo {
                    round_trip: Some(path.rtt),
                    mtu_bytes: path.current_mtu,
                    packets_sent: path.sent_packets,
                    packets_lost: path.lost_packets,
                    congestion_events: path.congestion_events,
                }
            }
            Connection::Stream(_) | Connection::Simulated(_) => PathInfo::default(),
        }
    }

    fn closing(&self) -> &Closing {
        match self {
            Connection::Quic(quic) => &quic.closing,
            Connection::Stream(stream) => &stream.closing,
            Connection::Simulated(simulated) => simulated.closing(),
        }
    }
}

fn simulated_halves(
    connection: &SimulatedConnection,
    (sending, receiving): (SendingHalf, ReceivingHalf),
) -> Halves {
    let closing = connection.closing();
    let sender = FrameSender::simulated(sending, Arc::clone(closing));
    let max_frame_bytes = connection.max_frame_bytes();
    let receiver = FrameReceiver::simulated(receiving, max_frame_bytes, Arc::clone(closing));
    (sender, receiver)
}

impl QuicConnection {
    fn halves(&self, (send, recv): (quinn::SendStream, quinn::RecvStream)) -> Halves {
        let sender = FrameSender::quic(send, Arc::clone(&self.closing));
        let receiver =
            FrameReceiver::quic(recv, self.limits.max_frame_bytes, Arc::clone(&self.closing));
        (sender, receiver)
    }
}

impl StreamConnection {
    fn take(&self) -> Option<Halves> {
        self.halves.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
