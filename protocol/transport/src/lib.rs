//! Connections that carry Plimsoll frames: QUIC, TCP with TLS 1.3, and plain TCP; and a network in
//! memory for the simulation, with the manners of QUIC.
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
//! ```no_run
//! use bytes::BytesMut;
//! use plimsoll_transport::{ClientTls, Connection, Listener, ServerTls};
//! use plimsoll_transport::{TransportConfig, TransportKind};
//!
//! async fn node(tls: ServerTls) -> Result<(), Box<dyn std::error::Error>> {
//!     let config = TransportConfig::default();
//!     let listener = Listener::bind("127.0.0.1:7420".parse()?, &tls, config)?;
//!     while let Some(incoming) = listener.accept().await {
//!         tokio::spawn(async move {
//!             let connection = incoming.handshake().await?;
//!             while let Some((mut sender, mut receiver)) = connection.accept().await? {
//!                 receiver.set_max_frame_bytes(4096);
//!                 while let Some(frame) = receiver.recv().await? {
//!                     // Here Hello is checked; a peer that is welcome gets its full limits.
//!                     connection.admit();
//!                     let mut head = [0; plimsoll_protocol::frame::FRAME_HEADER_BYTES];
//!                     frame.header.write_to(&mut head);
//!                     let mut answer = BytesMut::from(&head[..]);
//!                     answer.extend_from_slice(&frame.body);
//!                     sender.send(answer.freeze(), &[frame.payload]).await?;
//!                 }
//!             }
//!             Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
//!         });
//!     }
//!     Ok(())
//! }
//!
//! async fn client(authority_pem: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
//!     let tls = ClientTls::trusting_pem(authority_pem)?;
//!     let config = TransportConfig::default();
//!     let address = "127.0.0.1:7420".parse()?;
//!     let connection =
//!         Connection::dial(TransportKind::Quic, address, "localhost", Some(&tls), &config).await?;
//!     let (sender, receiver) = connection.open().await?;
//!     drop((sender, receiver));
//!     connection.close(0, "done");
//!     connection.drained().await;
//!     Ok(())
//! }
//! ```
//!
//! # Nodes
//! One listener serves clients, nodes and joining nodes, told apart by the protocol that they name
//! in the handshake ([`Protocol`]): [`ServerTls::with_nodes`]. Who speaks [`Protocol::Node`] has shown
//! a certificate of the cluster's authority when [`Incoming::handshake`] returns, and
//! [`Connection::peer_node`] says which node it is; the dialing side ([`ClientTls::to_node`]) has
//! checked the same.
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
mod frame_room;
mod listener;
mod node_identity;
mod node_tls;
mod peer_facts;
mod protocol;
mod quic;
mod read_ahead;
mod receiver;
mod sender;
mod shared_tcp;
mod simulated;
mod tls;

pub use closing::{CloseReason, ClosedBy};
pub use config::{MtuUpperBound, TransportConfig, TransportKind, UnknownTransport};
pub use connection::{Connection, OpenError, PathInfo, QuicConnection, StreamConnection};
pub use dial::DialError;
pub use fingerprint::{Fingerprint, InvalidFingerprint};
pub use frame_room::{ConnectionFrameRoom, FrameRoom, HeldRoom, Stalled};
pub use listener::{BindError, HandshakeError, Incoming, Listener};
pub use node_identity::{NodeIdentity, NodeIdentityError};
pub use node_tls::NodeTls;
pub use protocol::{ALPN, ALPN_JOIN, ALPN_NODE, Protocol};
pub use receiver::{FrameReceiver, RecvError};
pub use sender::{FrameSender, SendError};
pub use simulated::{
    ConnectionId, Fabric, Packet, SimulatedConnection, SimulatedHost, SimulatedNetwork,
};
pub use tls::{ClientTls, ServerTls, TlsConfigError};
