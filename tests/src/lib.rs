//! What tests of whole nodes share: nodes on free ports and in temporary directories, the real
//! binary, conditions to wait for, seeded random numbers.
//!
//! ```text
//!  integration/   node and client over all three transports, in one process
//!  crash/         kill -9 of a real process, again and again, under load
//!  hostile/       malformed frames against a real process
//! ```
//! `PLIMSOLL_LONG=1` runs the long form of the last two, `PLIMSOLL_SEED=N` repeats a run's choices.

mod binary;
mod node;
mod random;
mod wait;

pub use binary::plimsoll_binary;
pub use node::{TRANSPORTS, TestNode};
pub use random::Random;
pub use wait::{PATIENCE, eventually, within};

/// Whether the long form of a test was asked for (`PLIMSOLL_LONG=1`).
pub fn is_long() -> bool {
    std::env::var_os("PLIMSOLL_LONG").is_some_and(|value| value == "1")
}
