//! What committed entries mean: pure folds over the entries of a Raft group's log.
//!
//! ```text
//!  producers   what a partition remembers of each producer, for de-duplication
//!  partition   the state of a partition: progress, membership, producers
//!  catalog     the state of group 0: nodes, topics, their groups and places, ids; plans of places;
//!              the objects of AMQP
//!  admission   the leader's check of a batch before it is proposed
//! ```
//!
//! Invariants: the same entries give the same bytes on every replica. Nothing here reads a clock, a
//! random source, a file or a socket, or iterates in an order that depends on the process
//! (`clippy.toml` holds that). A command that cannot be carried out is answered with a refusal, which
//! is a result like any other; applying never fails.

pub mod admission;
pub mod catalog;
mod decode;
pub mod partition;
pub mod producers;

pub use decode::DecodeStateError;
