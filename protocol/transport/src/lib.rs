//! Connections that carry Plimsoll frames: QUIC, TCP with TLS 1.3, and plain TCP.
//!
//! A node has a [`Listener`]; [`Listener::accept`] gives an [`Incoming`], whose address can be
//! looked at before [`Incoming::handshake`] makes it a [`Connection`]. A client gets its
//! `Connection` by [`Connection::dial`]. Either way [`Connection::open`] and
//! [`Connection::accept`] give streams as a [`FrameSender`] and a [`FrameReceiver`]: as many as
//! wanted over QUIC, one over TCP and TLS.
//!
//! In this order on the accepting side: `handshake`, `accept` the first stream, set the small
//! frame limit, receive and check Hello, then [`Connection::admit`] (before it a QUIC peer has 16
//! streams and a window of 64 KiB) and the full frame limit.
//!
//! Invariant: a frame larger than the limit is refused by its header, and memory is set aside by
//! the bytes that arrived, never by a length field. This crate does not know what an API key means.
//!
//! # Congestion control and datagram sizes
//! QUIC uses quinn's Cubic. To a loopback address datagrams grow by MTU discovery up to the 64 KiB
//! that the interface carries, elsewhere to 1,452 bytes unless configured otherwise
//! ([`MtuUpperBound`]).

mod closing;
mod config;
mod connection;
mod dial;
mod dialed_socket;
mod fingerprint;
mod frame_parser;
mod listener;
mod quic;
mod read_ahead;
mod receiver;
mod sender;
mod shared_tcp;
mod tls;

pub use closing::{CloseReason, ClosedBy};
pub use config::{MtuUpperBound, TransportConfig, TransportKind, UnknownTransport};
pub use connection::{Connection, OpenError, PathInfo, QuicConnection, StreamConnection};
pub use dial::DialError;
pub use fingerprint::{Fingerprint, InvalidFingerprint};
pub use listener::{BindError, HandshakeError, Incoming, Listener};
pub use receiver::{FrameReceiver, RecvError};
pub use sender::{FrameSender, SendError};
pub use tls::{ALPN, ClientTls, ServerTls, TlsConfigError};
