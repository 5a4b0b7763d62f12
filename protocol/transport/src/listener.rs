//! Accepting connections: QUIC and TLS on one port number, or plain TCP on a port of its own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::closing::quic_reason;
use crate::config::{TransportConfig, TransportKind};
use crate::connection::Connection;
use crate::dial::{TLS_BUFFER_BYTES, tune};
use crate::node_identity::{NodeIdentity, NodeIdentityError};
use crate::peer_facts::PeerFacts;
use crate::protocol::Protocol;
use crate::quic::{self, ServerConfigs};
use crate::read_ahead::ReadAhead;
use crate::shared_tcp::SharedTcp;
use crate::simulated::SimulatedIncoming;
use crate::tls::ServerTls;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;
/// Tries to find a port number that is free for both TCP and UDP when port 0 was asked for.
const PORT_TRIES: usize = 32;
/// A fatal TLS alert "unexpected message": what a peer that spoke plaintext is answered.
const UNEXPECTED_MESSAGE_ALERT: &[u8] = &[0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x0a];

/// Why an address could not be listened on.
#[derive(Debug, Error)]
pub enum BindError {
    /// Somebody else listens there.
    #[error(
        "{protocol} port {address} is already in use: stop the other process or choose another \
         address"
    )]
    InUse {
        /// Where.
        address: SocketAddr,
        /// `TCP` or `UDP`.
        protocol: &'static str,
    },
    /// This user may not listen there.
    #[error("no permission to listen on {protocol} {address}: ports below 1024 need a privilege")]
    Permission {
        /// Where.
        address: SocketAddr,
        /// `TCP` or `UDP`.
        protocol: &'static str,
    },
    /// The machine does not have this address.
    #[error("this machine has no address {address}: choose one that it has, or 0.0.0.0 for all")]
    NoSuchAddress {
        /// Where.
        address: SocketAddr,
    },
    /// The system refused otherwise.
    #[error("cannot listen on {protocol} {address}: {source}")]
    Other {
        /// Where.
        address: SocketAddr,
        /// `TCP` or `UDP`.
        protocol: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl BindError {
    fn new(address: SocketAddr, protocol: &'static str, source: io::Error) -> BindError {
        match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { address, protocol },
            io::ErrorKind::PermissionDenied => BindError::Permission { address, protocol },
            io::ErrorKind::AddrNotAvailable => BindError::NoSuchAddress { address },
            _ => BindError::Other { address, protocol, source },
        }
    }
}

/// Why a connection that began did not come about. It concerns that peer alone.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// The peer took too long.
    #[error("{peer} did not finish its {kind} handshake within {after:?}")]
    TimedOut {
        /// Who.
        peer: SocketAddr,
        /// By which carrier.
        kind: TransportKind,
        /// How long it was waited for.
        after: Duration,
    },
    /// The peer does not speak TLS on the TLS port.
    #[error("{peer} speaks no TLS on the TLS port (plaintext client, or a scan)")]
    NotTls {
        /// Who.
        peer: SocketAddr,
    },
    /// The peer did not offer the protocol.
    #[error("{peer} did not offer the protocol plimsoll/1, nor that of nodes (ALPN)")]
    WrongProtocol {
        /// Who.
        peer: SocketAddr,
    },
    /// The peer wants to speak as a node and shows no certificate.
    #[error("{peer} speaks plimsoll-node/1 and shows no certificate")]
    NoCertificate {
        /// Who.
        peer: SocketAddr,
    },
    /// The peer's certificate is the authority's and does not say which node it belongs to.
    #[error("{peer} speaks plimsoll-node/1: {problem}")]
    NotANode {
        /// Who.
        peer: SocketAddr,
        /// What is wrong with the certificate.
        problem: NodeIdentityError,
    },
    /// The peer's certificate is that of a node of another cluster.
    #[error("{peer} is a node of another cluster: its certificate is {is}")]
    WrongCluster {
        /// Who.
        peer: SocketAddr,
        /// What its certificate says.
        is: NodeIdentity,
    },
    /// The handshake failed otherwise; most often the peer does not trust this certificate.
    #[error("handshake with {peer} failed: {reason}")]
    Failed {
        /// Who.
        peer: SocketAddr,
        /// What was said.
        reason: String,
    },
}

/// Accepts connections. To be shared in an `Arc` where several tasks need it.
#[derive(Debug)]
pub struct Listener {
    sockets: Sockets,
    config: TransportConfig,
    local: SocketAddr,
    handshakes_max: usize,
    handshakes: Arc<Semaphore>,
    closed: watch::Sender<bool>,
}

enum Sockets {
    /// QUIC on UDP and TLS on TCP, with the same port number.
    Secure {
        endpoint: quinn::Endpoint,
        servers: ServerConfigs,
        tcp: TcpListener,
        tls: TlsAcceptor,
        /// Of the nodes that may connect; `None` where none may.
        cluster_id: Option<[u8; 16]>,
    },
    /// Plain TCP.
    Plaintext { tcp: TcpListener },
    /// What arrives at a port of a simulated host.
    Simulated { arrivals: Mutex<mpsc::UnboundedReceiver<SimulatedIncoming>> },
}

impl std::fmt::Debug for Sockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Sockets::Secure { .. } => "Secure",
            Sockets::Plaintext { .. } => "Plaintext",
            Sockets::Simulated { .. } => "Simulated",
        })
    }
}

impl Listener {
    /// Listens for QUIC (UDP) and TLS (TCP) on one address. With port 0 both get the same free
    /// port number. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`] by cause.
    pub fn bind(
        address: SocketAddr,
        tls: &ServerTls,
        config: TransportConfig,
    ) -> Result<Listener, BindError> {
        let servers = ServerConfigs::new(&config, tls);
        let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
        loop {
            tries -= 1;
            let tcp = tcp_listener(address)?;
            let local = tcp.local_addr().map_err(|error| BindError::new(address, "TCP", error))?;
            match quic::listen(local, &config, tls, &servers) {
                Ok(endpoint) => {
                    let cluster_id = tls.nodes.as_ref().map(|nodes| nodes.identity().cluster_id);
                    let tls = TlsAcceptor::from(Arc::clone(&tls.stream));
                    let sockets = Sockets::Secure { endpoint, servers, tcp, tls, cluster_id };
                    return Ok(Self::new(sockets, local, config));
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
                Err(error) => return Err(BindError::new(local, "UDP", error)),
            }
        }
    }

    /// Listens for plain TCP: no encryption, no proof of identity. Only where the user asked for
    /// it by name. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`] by cause.
    pub fn bind_plaintext(
        address: SocketAddr,
        config: TransportConfig,
    ) -> Result<Listener, BindError> {
        let tcp = tcp_listener(address)?;
        let local = tcp.local_addr().map_err(|error| BindError::new(address, "TCP", error))?;
        Ok(Self::new(Sockets::Plaintext { tcp }, local, config))
    }

    pub(crate) fn simulated(
        arrivals: mpsc::UnboundedReceiver<SimulatedIncoming>,
        local: SocketAddr,
        config: TransportConfig,
    ) -> Listener {
        Self::new(Sockets::Simulated { arrivals: Mutex::new(arrivals) }, local, config)
    }

    fn new(sockets: Sockets, local: SocketAddr, config: TransportConfig) -> Listener {
        let handshakes_max = config.handshakes_max.clamp(1, 65_536);
        let handshakes = Arc::new(Semaphore::new(handshakes_max));
        let closed = watch::channel(false).0;
        Listener { sockets, config, local, handshakes_max, handshakes, closed }
    }

    /// The address listened on, with the port that was given for port 0.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The next connection that begins; `None` after [`Self::close`]. Waits while as many
    /// handshakes are going on as are allowed. May be cancelled.
    pub async fn accept(&self) -> Option<Incoming> {
        let mut closed = self.closed.subscribe();
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => {
                self.refuse_simulated();
                None
            }
            incoming = self.next_incoming() => incoming,
        }
    }

    /// What waits at a simulated port, and whoever dials it from now on, is refused.
    fn refuse_simulated(&self) {
        // Where it is locked, an `accept` is at it, and comes here itself.
        if let Sockets::Simulated { arrivals } = &self.sockets
            && let Ok(mut arrivals) = arrivals.try_lock()
        {
            arrivals.close();
            while arrivals.try_recv().is_ok() {}
        }
    }

    async fn next_incoming(&self) -> Option<Incoming> {
        let permit = Arc::clone(&self.handshakes).acquire_owned().await.ok()?;
        let (endpoint, servers, tcp, tls) = match &self.sockets {
            Sockets::Plaintext { tcp } => {
                let (stream, peer) = accept_tcp(tcp).await;
                return Some(self.incoming(Begun::Tcp(stream), peer, permit));
            }
            Sockets::Simulated { arrivals } => {
                let incoming = arrivals.lock().await.recv().await?;
                let peer = incoming.remote();
                return Some(self.incoming(Begun::Simulated(incoming), peer, permit));
            }
            Sockets::Secure { endpoint, servers, tcp, tls, .. } => (endpoint, servers, tcp, tls),
        };
        loop {
            tokio::select! {
                incoming = endpoint.accept() => {
                    let incoming = incoming?;
                    if self.is_crowded() && incoming.may_retry() {
                        // An error would say that it has proven its address, which was excluded.
                        let _ = incoming.retry();
                        continue;
                    }
                    let peer = incoming.remote_address();
                    let server = servers.for_peer(peer);
                    let incoming = Box::new(incoming);
                    return Some(self.incoming(Begun::Quic { incoming, server }, peer, permit));
                }
                (stream, peer) = accept_tcp(tcp) => {
                    return Some(self.incoming(Begun::Tls(stream, tls.clone()), peer, permit));
                }
            }
        }
    }

    /// With half of the slots for handshakes taken, a QUIC peer has to prove its address (one more
    /// round trip) before it gets one: a flood with invented addresses then takes none.
    fn is_crowded(&self) -> bool {
        self.handshakes.available_permits() < self.handshakes_max / 2
    }

    fn incoming(&self, begun: Begun, peer: SocketAddr, permit: OwnedSemaphorePermit) -> Incoming {
        let cluster_id = match &self.sockets {
            Sockets::Secure { cluster_id, .. } => *cluster_id,
            Sockets::Plaintext { .. } | Sockets::Simulated { .. } => None,
        };
        Incoming { begun, peer, cluster_id, config: self.config.clone(), _permit: permit }
    }

    /// Takes no further connections; those that are open go on.
    pub fn close(&self) {
        self.closed.send_replace(true);
        self.refuse_simulated();
        if let Sockets::Secure { endpoint, .. } = &self.sockets {
            endpoint.set_server_config(None);
        }
    }

    /// Whether [`Self::close`] was called. Where it was not, the end of [`Self::accept`] says that the
    /// UDP socket failed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Ends every QUIC connection of this listener and waits until the peers were told. TCP and
    /// TLS connections belong to whoever holds them.
    pub async fn shut_down(&self, code: u32, reason: &str) {
        self.close();
        if let Sockets::Secure { endpoint, .. } = &self.sockets {
            endpoint.close(quinn::VarInt::from_u32(code), reason.as_bytes());
            endpoint.wait_idle().await;
        }
    }
}

fn tcp_listener(address: SocketAddr) -> Result<TcpListener, BindError> {
    let bind = || -> io::Result<TcpListener> {
        let socket =
            Socket::new(Domain::for_address(address), Type::STREAM, Some(socket2::Protocol::TCP))?;
        if address.is_ipv6() {
            // Not every system has dual-stack sockets; one that has not serves IPv6 alone.
            let _ = socket.set_only_v6(false);
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    bind().map_err(|error| BindError::new(address, "TCP", error))
}

/// Errors of `accept` concern the connection that failed, or a lack of file handles that passes.
async fn accept_tcp(tcp: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match tcp.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a TCP connection");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// A connection that has begun and that nobody has looked at yet. Holds one of the listener's
/// slots for handshakes. Dropping it refuses it.
#[derive(Debug)]
pub struct Incoming {
    begun: Begun,
    peer: SocketAddr,
    cluster_id: Option<[u8; 16]>,
    config: TransportConfig,
    _permit: OwnedSemaphorePermit,
}

enum Begun {
    Quic { incoming: Box<quinn::Incoming>, server: Arc<quinn::ServerConfig> },
    Tls(TcpStream, TlsAcceptor),
    Tcp(TcpStream),
    Simulated(SimulatedIncoming),
}

impl std::fmt::Debug for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Begun::Quic { .. } => "Quic",
            Begun::Tls(..) => "Tls",
            Begun::Tcp(_) => "Tcp",
            Begun::Simulated(_) => "Simulated",
        })
    }
}

impl Incoming {
    /// Who it is from: for limits per address. A QUIC address is unproven until the handshake is
    /// done.
    #[must_use]
    pub fn remote_addr(&self) -> SocketAddr {
        self.peer
    }

    /// By which carrier.
    #[must_use]
    pub fn kind(&self) -> TransportKind {
        match self.begun {
            Begun::Quic { .. } | Begun::Simulated(_) => TransportKind::Quic,
            Begun::Tls(..) => TransportKind::Tls,
            Begun::Tcp(_) => TransportKind::Tcp,
        }
    }

    /// Turns the peer away without a handshake.
    pub fn refuse(self) {
        if let Begun::Quic { incoming, .. } = self.begun {
            incoming.refuse();
        }
    }

    /// Has a QUIC peer prove that it is where it says, at the cost of a round trip: it comes again as
    /// another `Incoming`. To be used where places of one address run short.
    ///
    /// # Errors
    /// Gives it back where that is proven already, as it always is over TCP.
    #[expect(clippy::result_large_err, reason = "the error is the value itself, not a failure")]
    pub fn prove_address(self) -> Result<(), Incoming> {
        match self {
            Incoming { begun: Begun::Quic { incoming, .. }, .. } if incoming.may_retry() => {
                // An error would say that it has proven its address, which was excluded.
                let _ = incoming.retry();
                Ok(())
            }
            proven => Err(proven),
        }
    }

    /// Does the handshake. To be run in a task of its own.
    ///
    /// # Errors
    /// [`HandshakeError`] by cause; within `handshake_timeout` in any case.
    pub async fn handshake(self) -> Result<Connection, HandshakeError> {
        let Incoming { begun, peer, cluster_id, config, _permit } = self;
        let after = config.handshake_timeout;
        let (kind, outcome) = match begun {
            Begun::Tcp(stream) => {
                tune(&stream, &config);
                return Ok(Connection::tcp(SharedTcp::new(stream), peer, &config));
            }
            Begun::Simulated(incoming) => {
                return Ok(Connection::simulated(incoming.accept(&config), &config));
            }
            Begun::Tls(stream, acceptor) => {
                let handshake = handshake_tls(stream, peer, &acceptor, &config);
                (TransportKind::Tls, timeout(after, handshake).await)
            }
            Begun::Quic { incoming, server } => {
                let handshake = handshake_quic(*incoming, server, peer, &config);
                (TransportKind::Quic, timeout(after, handshake).await)
            }
        };
        let connection = outcome.unwrap_or(Err(HandshakeError::TimedOut { peer, kind, after }))?;
        if connection.protocol() == Protocol::Node {
            // Whoever shows a certificate at all shows one of the authority: TLS has seen to it.
            check_node(&connection, peer, cluster_id).inspect_err(|error| {
                connection.close(NOT_A_NODE, &error.to_string());
            })?;
        }
        Ok(connection)
    }
}

/// The code with which a connection is closed that is no node's.
const NOT_A_NODE: u32 = 403;

fn check_node(
    connection: &Connection,
    peer: SocketAddr,
    cluster_id: Option<[u8; 16]>,
) -> Result<(), HandshakeError> {
    let certificate =
        connection.peer_certificate().ok_or(HandshakeError::NoCertificate { peer })?;
    let is = NodeIdentity::of_certificate(&certificate)
        .map_err(|problem| HandshakeError::NotANode { peer, problem })?;
    if Some(is.cluster_id) != cluster_id {
        return Err(HandshakeError::WrongCluster { peer, is });
    }
    Ok(())
}

async fn handshake_quic(
    incoming: quinn::Incoming,
    server: Arc<quinn::ServerConfig>,
    peer: SocketAddr,
    config: &TransportConfig,
) -> Result<Connection, HandshakeError> {
    let failed = |error: quinn::ConnectionError| HandshakeError::Failed {
        peer,
        reason: quic_reason(&error).text,
    };
    let connection = incoming.accept_with(server).map_err(failed)?.await.map_err(failed)?;
    let facts = PeerFacts::of_quic(&connection).ok_or(HandshakeError::WrongProtocol { peer })?;
    Ok(Connection::quic(connection, None, facts, config))
}

async fn handshake_tls(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: &TlsAcceptor,
    config: &TransportConfig,
) -> Result<Connection, HandshakeError> {
    let failed = |error: io::Error| HandshakeError::Failed { peer, reason: error.to_string() };
    tune(&stream, config);
    let mut first = [0];
    let count = stream.peek(&mut first).await.map_err(failed)?;
    // Every TLS connection begins with a handshake record.
    if count > 0 && first != [0x16] {
        // Best effort: the peer is told in the language of this port. What it has sent is read
        // first, because closing a socket with unread bytes discards what was written to it.
        let _ = stream.try_read(&mut [0; 4096]);
        let _ = stream.try_write(UNEXPECTED_MESSAGE_ALERT);
        return Err(HandshakeError::NotTls { peer });
    }
    let mut stream =
        acceptor.accept(ReadAhead::new(SharedTcp::new(stream))).await.map_err(failed)?;
    let session = stream.get_mut().1;
    let facts = PeerFacts::of_stream(session).ok_or(HandshakeError::WrongProtocol { peer })?;
    session.set_buffer_limit(Some(TLS_BUFFER_BYTES));
    Ok(Connection::tls(stream.into(), peer, facts, config))
}
