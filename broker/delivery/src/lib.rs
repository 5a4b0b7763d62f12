//! Queues: what is settled, folded from the partition's log, and who is given what next. Pure: no I/O,
//! no clock, no thread, no random source (`clippy.toml` holds that).
//!
//! ```text
//!  A. replicated: the same on every replica, folded from committed entries, in snapshots
//!     command    what control entries say          config   how a queue behaves
//!     state      the fold: settled, attempts, delays, dead letters; all queues of a partition
//!     settled    floor and what is settled above it
//!
//!  B. the leader's alone: in memory, gone with it
//!     dispatch   consumers, leases, priorities, keys, delays: who gets what, and what to write
//!
//!     offsets    sets of offsets in bounded memory, for both        time   the two kinds of it
//! ```
//!
//! A decides nothing: it notes what a leader has decided and refuses what cannot be. B decides, and
//! nothing that it decides is so until A has folded it, but for leases. The arrow points from B to A.
//!
//! Invariants: a message is settled, or it is available, delayed, held or a dead letter to be copied;
//! nothing else. No decoder panics on any input, nor allocates more than a small multiple of it.
//!
//! `broker/delivery/QUEUES.md` has the way of one message, the failure cases and the decisions.

mod codec;
pub mod command;
pub mod config;
pub mod dispatch;
pub mod offsets;
pub mod settled;
pub mod state;
pub mod time;

pub use codec::DecodeQueueError;
