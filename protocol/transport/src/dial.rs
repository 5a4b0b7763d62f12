//! Connecting to a node.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::closing::ENDPOINT_LOST;
use crate::config::{TransportConfig, TransportKind};
use crate::connection::Connection;
use crate::peer_facts::PeerFacts;
use crate::protocol::Protocol;
use crate::quic::{self, QuicDialError};
use crate::read_ahead::ReadAhead;
use crate::shared_tcp::SharedTcp;
use crate::tls::ClientTls;

/// Plaintext that rustls holds before a writer has to wait; also the size of its writes.
pub(crate) const TLS_BUFFER_BYTES: usize = 256 << 10;

/// Why a connection could not be made.
#[derive(Debug, Error)]
pub enum DialError {
    /// No local socket could be made.
    #[error("cannot open a local socket: {0}")]
    LocalSocket(#[source] io::Error),
    /// Nobody listens there.
    #[error("{address} refused the connection: is the node running and listening there?")]
    Refused {
        /// Where.
        address: SocketAddr,
    },
    /// The network does not lead there.
    #[error("cannot reach {address}: {source}")]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// No answer in time.
    #[error(
        "{address} did not answer over {kind} within {after:?}: check the address, and that a \
         firewall lets {kind} through"
    )]
    TimedOut {
        /// Where.
        address: SocketAddr,
        /// By which carrier.
        kind: TransportKind,
        /// How long it was waited for.
        after: Duration,
    },
    /// TLS was asked for without saying whom to trust.
    #[error("transport {0} needs an authority or a fingerprint to trust")]
    TrustRequired(TransportKind),
    /// The name to verify is neither a DNS name nor an IP address.
    #[error("{0:?} is neither a DNS name nor an IP address, so no certificate can match it")]
    ServerName(String),
    /// The node's certificate is not trusted.
    #[error(
        "the certificate of {address} is not trusted ({reason}): give the authority of that node \
         (its CA file or sha256 fingerprint) and a server name that the certificate holds"
    )]
    Certificate {
        /// Where.
        address: SocketAddr,
        /// What was wrong with it.
        reason: String,
    },
    /// It answers, and not with TLS.
    #[error("{address} does not speak TLS: use transport tcp if it is the plaintext port")]
    NotTls {
        /// Where.
        address: SocketAddr,
    },
    /// It speaks TLS, and not this protocol.
    #[error("{address} speaks TLS but not {protocol}: is it a Plimsoll node of this generation?")]
    WrongProtocol {
        /// Where.
        address: SocketAddr,
        /// What it should speak.
        protocol: Protocol,
    },
    /// The handshake failed otherwise.
    #[error("the handshake with {address} failed: {reason}")]
    Handshake {
        /// Where.
        address: SocketAddr,
        /// What was said.
        reason: String,
    },
}

impl Connection {
    /// Connects to `address`. `server_name` (a DNS name or an IP address) is what the certificate
    /// must hold; `tls` says whom to trust and is not used for plain TCP.
    ///
    /// # Errors
    /// [`DialError`] by cause; within `handshake_timeout` in any case.
    pub async fn dial(
        kind: TransportKind,
        address: SocketAddr,
        server_name: &str,
        tls: Option<&ClientTls>,
        config: &TransportConfig,
    ) -> Result<Connection, DialError> {
        let attempt = async {
            match kind {
                TransportKind::Tcp => dial_tcp(address, config).await,
                TransportKind::Tls => {
                    let tls = tls.ok_or(DialError::TrustRequired(kind))?;
                    dial_tls(address, server_name, tls, config).await
                }
                TransportKind::Quic => {
                    let tls = tls.ok_or(DialError::TrustRequired(kind))?;
                    dial_quic(address, server_name, tls, config).await
                }
            }
        };
        let after = config.handshake_timeout;
        match timeout(after, attempt).await {
            Ok(done) => done,
            Err(_) => Err(DialError::TimedOut { address, kind, after }),
        }
    }
}

async fn connect(address: SocketAddr, config: &TransportConfig) -> Result<SharedTcp, DialError> {
    let stream = TcpStream::connect(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::ConnectionRefused => DialError::Refused { address },
        _ => DialError::Unreachable { address, source },
    })?;
    tune(&stream, config);
    Ok(SharedTcp::new(stream))
}

/// No Nagle delay, and a dead peer is noticed within the idle timeout.
pub(crate) fn tune(stream: &TcpStream, config: &TransportConfig) {
    // An option that the system refuses costs speed or patience, not correctness.
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    let keep_alive = config.keep_alive.unwrap_or(config.idle_timeout);
    let probes = TcpKeepalive::new().with_time(keep_alive).with_interval(keep_alive);
    let _ = socket.set_tcp_keepalive(&probes);
    let _ = socket.set_tcp_user_timeout(Some(config.idle_timeout));
}

async fn dial_tcp(address: SocketAddr, config: &TransportConfig) -> Result<Connection, DialError> {
    let socket = connect(address, config).await?;
    Ok(Connection::tcp(socket, address, config))
}

async fn dial_tls(
    address: SocketAddr,
    server_name: &str,
    tls: &ClientTls,
    config: &TransportConfig,
) -> Result<Connection, DialError> {
    let name = ServerName::try_from(server_name.to_owned())
        .map_err(|_| DialError::ServerName(server_name.to_owned()))?;
    let socket = connect(address, config).await?;
    let connector = TlsConnector::from(std::sync::Arc::clone(&tls.stream));
    let mut stream = connector
        .connect(name, ReadAhead::new(socket))
        .await
        .map_err(|error| tls_failure(address, tls.protocol, &error))?;
    let session = stream.get_mut().1;
    let facts = PeerFacts::of_stream(session);
    let Some(facts) = facts.filter(|facts| facts.protocol == tls.protocol) else {
        return Err(DialError::WrongProtocol { address, protocol: tls.protocol });
    };
    session.set_buffer_limit(Some(TLS_BUFFER_BYTES));
    Ok(Connection::tls(stream.into(), address, facts, config))
}

fn tls_failure(address: SocketAddr, protocol: Protocol, error: &io::Error) -> DialError {
    use rustls::Error as E;
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<E>());
    match tls {
        Some(E::InvalidCertificate(reason)) => {
            DialError::Certificate { address, reason: reason.to_string() }
        }
        Some(E::InvalidMessage(_)) => DialError::NotTls { address },
        Some(E::AlertReceived(rustls::AlertDescription::NoApplicationProtocol)) => {
            DialError::WrongProtocol { address, protocol }
        }
        _ => match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => DialError::Handshake {
                address,
                reason: "it closed the connection; is this port TLS at all?".to_owned(),
            },
            _ => DialError::Handshake { address, reason: error.to_string() },
        },
    }
}

async fn dial_quic(
    address: SocketAddr,
    server_name: &str,
    tls: &ClientTls,
    config: &TransportConfig,
) -> Result<Connection, DialError> {
    let (endpoint, connecting) =
        quic::dial(address, server_name, config, tls).map_err(|error| match error {
            QuicDialError::Socket(source) if source.kind() == io::ErrorKind::NetworkUnreachable => {
                DialError::Unreachable { address, source }
            }
            QuicDialError::Socket(source) => DialError::LocalSocket(source),
            QuicDialError::Connect(quinn::ConnectError::InvalidServerName(name)) => {
                DialError::ServerName(name)
            }
            QuicDialError::Connect(other) => {
                DialError::Handshake { address, reason: other.to_string() }
            }
        })?;
    let connection =
        connecting.await.map_err(|error| quic_failure(address, tls.protocol, &error, config))?;
    let Some(facts) = PeerFacts::of_quic(&connection) else {
        return Err(DialError::WrongProtocol { address, protocol: tls.protocol });
    };
    Ok(Connection::quic(connection, Some(endpoint), facts, config))
}

/// TLS alerts arrive as QUIC error codes 0x100 + alert (RFC 9001, 4.8).
fn quic_failure(
    address: SocketAddr,
    protocol: Protocol,
    error: &quinn::ConnectionError,
    config: &TransportConfig,
) -> DialError {
    use quinn::ConnectionError as E;
    const NO_APPLICATION_PROTOCOL: u64 = 0x100 + 120;
    let (code, reason) = match error {
        E::TimedOut => {
            let after = config.idle_timeout;
            return DialError::TimedOut { address, kind: TransportKind::Quic, after };
        }
        E::TransportError(error) if error.reason == ENDPOINT_LOST => {
            return DialError::Refused { address };
        }
        // Nobody here closes a connection that is being made but the endpoint that has ended.
        E::LocallyClosed => return DialError::Refused { address },
        E::TransportError(error) => (u64::from(error.code), error.reason.clone()),
        E::ConnectionClosed(close) => {
            (u64::from(close.error_code), String::from_utf8_lossy(&close.reason).into_owned())
        }
        E::ApplicationClosed(close) => (0, String::from_utf8_lossy(&close.reason).into_owned()),
        other => (0, other.to_string()),
    };
    match code {
        NO_APPLICATION_PROTOCOL => DialError::WrongProtocol { address, protocol },
        0x100..=0x1ff if reason.contains("ertificate") => {
            DialError::Certificate { address, reason }
        }
        _ if reason.is_empty() => DialError::Handshake { address, reason: error.to_string() },
        _ => DialError::Handshake { address, reason },
    }
}
