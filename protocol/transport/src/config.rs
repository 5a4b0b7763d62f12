//! What a connection may cost: sizes, windows, deadlines, each with its default and its bounds.

use std::time::Duration;

/// Which of the three carriers a connection uses. All carry the same frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransportKind {
    /// QUIC over UDP: many streams, each with its own flow control. The native one.
    Quic,
    /// TCP with TLS 1.3: one stream, for networks that block UDP.
    Tls,
    /// Plain TCP: no encryption and no proof of identity; only where it is asked for by name.
    Tcp,
}

impl TransportKind {
    /// The name used in options and messages: `quic`, `tls` or `tcp`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            TransportKind::Quic => "quic",
            TransportKind::Tls => "tls",
            TransportKind::Tcp => "tcp",
        }
    }
}

impl std::fmt::Display for TransportKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A transport name that is none of `quic`, `tls`, `tcp`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown transport {0:?}: use quic, tls or tcp")]
pub struct UnknownTransport(pub String);

impl std::str::FromStr for TransportKind {
    type Err = UnknownTransport;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "quic" => Ok(TransportKind::Quic),
            "tls" => Ok(TransportKind::Tls),
            "tcp" => Ok(TransportKind::Tcp),
            other => Err(UnknownTransport(other.to_owned())),
        }
    }
}

/// How large a UDP payload MTU discovery may try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MtuUpperBound {
    /// 1,452 bytes (Ethernet with IPv6), and as much as the loopback interface carries when the
    /// peer's address is a loopback address.
    Auto,
    /// This many bytes whatever the peer, 1,200..=65,488. Above 6,500 segmentation offload is
    /// switched off, because ten segments of that size no longer fit one datagram of the kernel.
    Bytes(u16),
}

/// Limits and tuning of every connection of a listener or a dialer.
///
/// Memory per QUIC connection is bounded by `connection_window_bytes` received and not yet read
/// plus `send_window_bytes` sent and not yet acknowledged; per TCP or TLS connection by the socket
/// buffers and one frame in each direction.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    /// Largest frame that a receiver takes, length field included, in bytes.
    /// Default 16 MiB. Receivers start with it; see `FrameReceiver::set_max_frame_bytes`.
    pub max_frame_bytes: u32,
    /// Deadline of the TLS or QUIC handshake, from the first packet. Default 5 s. Longer helps
    /// very slow links, shorter frees the slots that a stalling peer holds.
    pub handshake_timeout: Duration,
    /// Handshakes that a listener carries on at once, 1..=65,536. Default 256. At the limit new
    /// connections wait in the kernel's queue.
    pub handshakes_max: usize,
    /// A connection on which nothing arrives for this long is closed. Default 30 s. On TCP it is
    /// `TCP_USER_TIMEOUT` and keep-alive.
    pub idle_timeout: Duration,
    /// How often the dialing side shows that it is alive when it has nothing to say. Default
    /// 10 s. `None`: never. Must be below `idle_timeout` of both ends.
    pub keep_alive: Option<Duration>,
    /// QUIC: unread bytes per stream before the sender must wait. Default 4 MiB. Below
    /// bandwidth times round trip it limits the throughput of a stream.
    pub stream_window_bytes: u32,
    /// QUIC: unread bytes on all streams of a connection together. Default 16 MiB.
    pub connection_window_bytes: u32,
    /// QUIC: bytes sent and not yet acknowledged that are kept per connection. Default 8 MiB; at
    /// most 1 MiB to a loopback address, where more only overflows the peer's socket.
    pub send_window_bytes: u32,
    /// QUIC: streams that the peer may have open at once, 1..=100,000. Default 4,096.
    pub streams_max: u32,
    /// QUIC: what MTU discovery may try. Default [`MtuUpperBound::Auto`].
    pub mtu_upper_bound: MtuUpperBound,
    /// QUIC: send and receive buffer asked of the kernel for the UDP socket, in bytes. Default
    /// 4 MiB; what was given is logged. On Linux raise `net.core.rmem_max` if it is less.
    pub udp_buffer_bytes: usize,
}

/// Streams that a peer may open before [`crate::Connection::admit`].
pub(crate) const STREAMS_BEFORE_ADMISSION: u32 = 16;
/// Unread bytes that a peer may send on all streams before [`crate::Connection::admit`].
pub(crate) const WINDOW_BEFORE_ADMISSION: u32 = 64 * 1024;

impl Default for TransportConfig {
    fn default() -> Self {
        TransportConfig {
            max_frame_bytes: 16 << 20,
            handshake_timeout: Duration::from_secs(5),
            handshakes_max: 256,
            idle_timeout: Duration::from_secs(30),
            keep_alive: Some(Duration::from_secs(10)),
            stream_window_bytes: 4 << 20,
            connection_window_bytes: 16 << 20,
            send_window_bytes: 8 << 20,
            streams_max: 4096,
            mtu_upper_bound: MtuUpperBound::Auto,
            udp_buffer_bytes: 4 << 20,
        }
    }
}
