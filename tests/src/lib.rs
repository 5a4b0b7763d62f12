//! What tests of whole nodes share: nodes and clusters on free ports and in temporary directories, the
//! real binary, conditions to wait for, seeded random numbers, what was sent and what became of it.
//!
//! ```text
//!  integration/   node and client over all three transports, in one process
//!  crash/         kill -9 of a real process, again and again, under load
//!  hostile/       malformed frames against a real process
//!  cluster/       three real processes: what a user of a cluster relies on
//!  chaos/         three real processes under load, killed, stopped, cut off, slowed down
//! ```
//! `PLIMSOLL_LONG=1` runs the long form of `crash`, `hostile` and `chaos` (the last for
//! `PLIMSOLL_SECONDS`, 1800), `PLIMSOLL_SEED=N` repeats a run's choices.

mod binary;
mod cluster;
mod history;
mod network;
mod node;
mod numbered;
mod random;
mod reader;
mod wait;
mod writer;

pub use binary::plimsoll_binary;
pub use cluster::TestCluster;
pub use history::{History, Outcome, Stream, Totals};
pub use network::{Network, NotAllowed, Slows};
pub use node::{TRANSPORTS, TestNode};
pub use numbered::{numbered_value, read_numbered};
pub use random::Random;
pub use reader::{Log, Place, Reader, read_log};
pub use wait::{PATIENCE, eventually, within};
pub use writer::{Pace, Writer};

/// Whether the long form of a test was asked for (`PLIMSOLL_LONG=1`).
pub fn is_long() -> bool {
    std::env::var_os("PLIMSOLL_LONG").is_some_and(|value| value == "1")
}
