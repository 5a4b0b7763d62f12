//! How quinn is set up: sockets, windows, MTU, congestion control, reset key.
//!
//! **Loopback** is told by the peer's address and treated apart: large datagrams instead of
//! segmentation offload, and a short first guess of the round trip.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TokioRuntime, VarInt};
use ring::hmac;
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::{
    MtuUpperBound, STREAMS_BEFORE_ADMISSION, TransportConfig, WINDOW_BEFORE_ADMISSION,
};
use crate::dialed_socket::DialedSocket;
use crate::tls::{ClientTls, ServerTls};

/// Largest UDP payload on a loopback interface of 65,536 bytes over IPv6.
const LOOPBACK_PAYLOAD_BYTES_MAX: u16 = 65_488;
/// Ethernet's 1,500 less the headers of IPv6 and UDP.
const ETHERNET_PAYLOAD_BYTES_MAX: u16 = 1_452;
/// What a sender may have in flight to a peer on loopback. All connections of a node share one UDP
/// socket, whose buffer (8 MiB as the kernel counts it) overflows under several senders with more:
/// with 8 MiB each, 4 connections lost 1.5-2.4% of their packets and 16 lost 10% and more, up to
/// losing the large datagrams to black hole detection; with 1 MiB 4 lost none and 16 still 6-7%.
/// One connection is not slower for it, the round trip being far below a millisecond.
const LOOPBACK_SEND_WINDOW_BYTES: u32 = 1 << 20;
/// quinn hands at most 10 segments to one `sendmsg`, which the kernel bounds by 65,507 bytes.
const OFFLOAD_PAYLOAD_BYTES_MAX: u16 = 6_500;

/// Payload sizes are told to the peer in the handshake, before it is known who it is.
fn largest_payload_bytes(config: &TransportConfig) -> u16 {
    match config.mtu_upper_bound {
        MtuUpperBound::Auto => LOOPBACK_PAYLOAD_BYTES_MAX,
        MtuUpperBound::Bytes(bytes) => bytes.clamp(1_472, LOOPBACK_PAYLOAD_BYTES_MAX),
    }
}

fn upper_bound(config: &TransportConfig, peer: SocketAddr) -> u16 {
    match config.mtu_upper_bound {
        MtuUpperBound::Bytes(bytes) => bytes.clamp(1_200, LOOPBACK_PAYLOAD_BYTES_MAX),
        MtuUpperBound::Auto if is_loopback(peer) => LOOPBACK_PAYLOAD_BYTES_MAX,
        MtuUpperBound::Auto => ETHERNET_PAYLOAD_BYTES_MAX,
    }
}

fn is_loopback(peer: SocketAddr) -> bool {
    peer.ip().to_canonical().is_loopback()
}

/// Whether the streams of this side are bounded at once or only after [`crate::Connection::admit`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Dialing,
    Accepting,
}

fn transport(config: &TransportConfig, peer: SocketAddr, side: Side) -> quinn::TransportConfig {
    let mut transport = quinn::TransportConfig::default();
    let upper_bound = upper_bound(config, peer);
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(upper_bound);
    // Halving the range is enough: the last step is worth little, each costs a round trip.
    discovery.minimum_change(20.max(upper_bound / 64));
    transport.mtu_discovery_config(Some(discovery));
    transport.enable_segmentation_offload(upper_bound <= OFFLOAD_PAYLOAD_BYTES_MAX);

    // Lost first packets are sent again after three of these: quinn's default of 333 ms makes a
    // node that is just starting look a second slower than it is.
    let first_guess = if is_loopback(peer) { 5 } else { 100 };
    transport.initial_rtt(Duration::from_millis(first_guess));

    transport.stream_receive_window(VarInt::from_u32(config.stream_window_bytes));
    let in_flight = if is_loopback(peer) { LOOPBACK_SEND_WINDOW_BYTES } else { u32::MAX };
    transport.send_window(u64::from(config.send_window_bytes.min(in_flight)));
    let (streams, window) = match side {
        // The side that dials bounds each stream and, by credit, all its subscriptions. A bound on
        // the whole connection would let a consumer that pauses stop the answers to a producer.
        Side::Dialing => (config.streams_max, VarInt::MAX),
        Side::Accepting => (STREAMS_BEFORE_ADMISSION, VarInt::from_u32(WINDOW_BEFORE_ADMISSION)),
    };
    transport.max_concurrent_bidi_streams(VarInt::from_u32(streams));
    transport.receive_window(window);
    transport.max_concurrent_uni_streams(VarInt::from_u32(0));
    transport.datagram_receive_buffer_size(None);
    // Streams take turns. Without it a stream that always has more to send (a consumer that
    // catches up) would keep acknowledgements on other streams waiting for as long as it lasts.
    transport.send_fairness(true);
    // Congestion control stays quinn's Cubic and acknowledgements every second packet: BBR, a
    // window without bound and one acknowledgement in ten packets were no faster beyond the noise
    // (CPU per byte is AES and the kernel's copies), and Cubic is the one that other networks know.
    transport.max_idle_timeout(IdleTimeout::try_from(config.idle_timeout).ok());
    if side == Side::Dialing {
        transport.keep_alive_interval(config.keep_alive);
    }
    transport
}

/// Binds a UDP socket with large buffers, as far as the kernel gives them.
fn udp_socket(address: SocketAddr, config: &TransportConfig) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // Not every system has dual-stack sockets; one that has not serves IPv6 alone.
        let _ = socket.set_only_v6(false);
    }
    socket.set_nonblocking(true)?;
    // Refused sizes leave the system's default in place, which works, only slower.
    let _ = socket.set_recv_buffer_size(config.udp_buffer_bytes);
    let _ = socket.set_send_buffer_size(config.udp_buffer_bytes);
    socket.bind(&address.into())?;
    tracing::debug!(
        %address,
        asked = config.udp_buffer_bytes,
        receive = socket.recv_buffer_size().unwrap_or(0),
        send = socket.send_buffer_size().unwrap_or(0),
        "UDP socket buffers"
    );
    Ok(socket)
}

fn endpoint_config(config: &TransportConfig, reset_key: &[u8]) -> EndpointConfig {
    let mut endpoint = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, reset_key)));
    endpoint
        .max_udp_payload_size(largest_payload_bytes(config))
        .expect("the largest payload lies between 1,200 and 65,527");
    endpoint
}

/// One server configuration for peers on loopback, one for all others.
#[derive(Clone)]
pub(crate) struct ServerConfigs {
    loopback: Arc<quinn::ServerConfig>,
    network: Arc<quinn::ServerConfig>,
}

impl ServerConfigs {
    pub(crate) fn new(config: &TransportConfig, tls: &ServerTls) -> ServerConfigs {
        let build = |peer: SocketAddr| {
            let token_key = ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, b"plimsoll retry")
                .extract(&tls.reset_seed);
            let mut server = quinn::ServerConfig::new(
                Arc::clone(&tls.quic) as Arc<dyn quinn::crypto::ServerConfig>,
                Arc::new(token_key),
            );
            server.transport_config(Arc::new(transport(config, peer, Side::Accepting)));
            // What strangers may make the endpoint keep before anybody has looked at them.
            server.max_incoming(config.handshakes_max.max(1) * 2);
            server.incoming_buffer_size(64 << 10);
            server.incoming_buffer_size_total(8 << 20);
            Arc::new(server)
        };
        ServerConfigs {
            loopback: build((Ipv4Addr::LOCALHOST, 0).into()),
            network: build((Ipv4Addr::UNSPECIFIED, 0).into()),
        }
    }

    pub(crate) fn for_peer(&self, peer: SocketAddr) -> Arc<quinn::ServerConfig> {
        Arc::clone(if is_loopback(peer) { &self.loopback } else { &self.network })
    }
}

/// Binds the endpoint of a listener.
pub(crate) fn listen(
    address: SocketAddr,
    config: &TransportConfig,
    tls: &ServerTls,
    servers: &ServerConfigs,
) -> io::Result<quinn::Endpoint> {
    let mut endpoint = endpoint_config(config, &tls.reset_seed);
    endpoint.cid_generator(|| Box::new(RandomCids));
    let server = Some((*servers.network).clone());
    let socket = udp_socket(address, config)?;
    quinn::Endpoint::new(endpoint, server, UdpSocket::from(socket), Arc::new(TokioRuntime))
}

/// Connection ids of 8 random bytes. None is ever called invalid, so that packets for a connection
/// of an earlier life are answered by a stateless reset (at most one in 20 ms).
struct RandomCids;

impl quinn::ConnectionIdGenerator for RandomCids {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        let random = ring::rand::generate::<[u8; 8]>(&ring::rand::SystemRandom::new())
            .expect("the system gives random numbers");
        quinn::ConnectionId::new(&random.expose())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Makes an endpoint for one connection to `peer` and begins the handshake.
///
/// A peer whose port is closed is noticed at once, while dialing and later: [`DialedSocket`].
pub(crate) fn dial(
    peer: SocketAddr,
    server_name: &str,
    config: &TransportConfig,
    tls: &ClientTls,
) -> Result<(quinn::Endpoint, quinn::Connecting), QuicDialError> {
    let local: SocketAddr = match peer {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = udp_socket(local, config).map_err(QuicDialError::Socket)?;
    socket.connect(&peer.into()).map_err(QuicDialError::Socket)?;
    let reset_key = ring::rand::generate::<[u8; 64]>(&ring::rand::SystemRandom::new())
        .map_err(|_| QuicDialError::Socket(io::Error::other("no random numbers")))?
        .expose();
    let socket = DialedSocket::new(socket.into()).map_err(QuicDialError::Socket)?;
    let endpoint = quinn::Endpoint::new_with_abstract_socket(
        endpoint_config(config, &reset_key),
        None,
        Arc::new(socket),
        Arc::new(TokioRuntime),
    )
    .map_err(QuicDialError::Socket)?;
    let mut client =
        quinn::ClientConfig::new(Arc::clone(&tls.quic) as Arc<dyn quinn::crypto::ClientConfig>);
    client.transport_config(Arc::new(transport(config, peer, Side::Dialing)));
    let connecting =
        endpoint.connect_with(client, peer, server_name).map_err(QuicDialError::Connect)?;
    Ok((endpoint, connecting))
}

/// Why a dial could not even begin.
pub(crate) enum QuicDialError {
    Socket(io::Error),
    Connect(quinn::ConnectError),
}
