//! Consumer groups: who owns which partition and how far each group has come, folded from the log, and
//! the coordinator that decides who gets what. Pure: no I/O, no clock, no thread, no random source
//! (`clippy.toml` holds that).
//!
//! ```text
//!  A. replicated: the same on every replica, folded from committed entries, in snapshots
//!     command      what control entries say       ids     names and numbers, with their bounds
//!     state        the fold: members, who owns which partition since when, committed offsets
//!
//!  B. the leader's alone: in memory, gone with it
//!     coordinator  sessions, who should own what, what may be taken and given: what to write
//! ```
//!
//! A decides nothing but this: a partition that has an owner is granted to nobody else, and a commit
//! counts only for what the committer owns. B decides the rest, and nothing of it is so until A has
//! folded it. The arrow points from B to A.
//!
//! Invariants: a partition has one owner at most; the log, not the leader, says who. No decoder panics
//! on any input, nor allocates more than a small multiple of it.
//!
//! `broker/groups/GROUPS.md` has the way of a commit, the failure cases and the decisions.

mod codec;
pub mod command;
pub mod coordinator;
pub mod ids;
pub mod state;

pub use codec::DecodeGroupsError;
/// The two kinds of time that a coordinator is told: the same as a queue's.
pub use plimsoll_delivery::time;
