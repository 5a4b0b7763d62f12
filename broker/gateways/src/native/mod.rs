//! The native gateway: sessions that speak the frames of `plimsoll-protocol`.
//!
//! ```text
//!  serve      one connection: a place, Hello, then its streams until one side ends it
//!  stream     one stream: reads frames, hands requests out; replies leave by the outbox
//!  outbox     the way out: gathers ready frames into one write
//!  produce · read · subscribe · topics · queues · attach · access    what the requests do
//! ```
//! A QUIC connection has many streams, each with tasks of its own; a TCP or TLS connection has one.
//! Nothing else differs.
//!
//! Invariant: whatever a peer sends, at most its own connection ends.

mod access;
mod attach;
mod cluster;
mod groups;
mod locks;
mod metadata;
mod outbox;
mod produce;
mod progress;
mod queues;
mod read;
mod session;
mod stream;
mod subscribe;
mod topics;

pub(crate) use read::{Chunk, fetch_here, offsets_here, step};
pub use session::{serve, serve_node};
pub(crate) use stream::{Answer, done};
