//! Links between the nodes of a cluster: one per pair, with requests, append sessions, transfers of
//! segments, streams on which one node is a client of the other, and signs of life.
//!
//! ```text
//!  peers      the links of a node, and what others call
//!  config     limits and patience
//!  dial       how a connection comes about
//!  handler    what a node does with what others send
//!  session    append sessions, the sending end; incoming: the receiving end
//!  liveness   who is alive: the rules, pure, and the view that others see
//!  node       what the tasks share; slot: which link stands, whose life is known
//!  dialer     dialing and answering; handshake: what is said first
//!  link       one link: requests, credit, its end; link_task holds its streams together
//!  streams    reading and writing them; outbox: what waits to be written
//! ```
//!
//! Invariant: this crate knows sockets, links and nodes; it does not know what a term, an entry or a
//! catalog means.

mod config;
mod dial;
mod dialer;
mod error;
mod handler;
mod handshake;
mod incoming;
mod latch;
mod link;
mod link_task;
pub mod liveness;
mod node;
mod outbox;
mod peers;
mod session;
mod slot;
mod streams;

pub use config::{LivenessConfig, PeerLimits, PeersConfig, RandomSource, WallClock};
pub use dial::{Dial, DialError, SocketDial};
pub use error::PeerError;
pub use futures_util::future::BoxFuture;
pub use handler::Handler;
pub use incoming::{AppendAnswers, IncomingAppends, IncomingSession};
pub use liveness::{LivenessEvent, View};
pub use peers::{PeerAddr, PeerStatus, Peers};
pub use session::{Session, SessionReceiver, SessionSender};
