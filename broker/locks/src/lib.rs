//! Locks: leases with fencing tokens, folded from the log of a namespace's partition; the keeper that
//! holds the leases; and the floors with which other partitions refuse stale tokens. Pure: no I/O, no
//! clock, no thread, no random source (`clippy.toml` holds that).
//!
//! ```text
//!  A. replicated: the same on every replica, folded from committed entries, in snapshots
//!     command   what control entries say        ids     names and numbers, with their bounds
//!     state     sessions, who holds and who waits for what, events to publish
//!     fence     what any partition keeps: the highest token seen per lock; its own control entries
//!
//!  B. the leader's alone: in memory, gone with it
//!     keeper    leases by monotonic time, who waits for an answer: what to write
//!
//!  C. the holder's
//!     lease     when it has to stop, without asking anybody
//! ```
//!
//! A decides everything: who is granted what, and whether a session is over. B decides only when to ask
//! A. The arrow points from B to A; `state` and `fence` do not know each other.
//!
//! Invariants: the token of a grant is the log index of the entry that granted it, so it grows across
//! expiry, failover, restart and snapshots; no decoder panics on any input, nor allocates more than a
//! small multiple of it.
//!
//! `broker/locks/LOCKS.md` has the rules, the argument about time, and what is promised.

mod codec;
pub mod command;
pub mod fence;
pub mod ids;
pub mod keeper;
pub mod lease;
#[cfg(feature = "planted")]
pub mod planted;
pub mod state;

pub use codec::DecodeLocksError;
/// The two kinds of time that a keeper is told: the same as a queue's.
pub use plimsoll_delivery::time;
