//! The deterministic simulation: whole nodes and real clients in one process, on virtual time, over
//! disks and a network in memory, with faults that a seed determines.
//!
//! ```text
//!  World ─ step of 1 ms ─┬─ Weather    what is due on the network arrives
//!                        ├─ Nemesis    crashes, pauses, cuts, slow and full disks, clocks
//!                        ├─ processes  in an order drawn anew: storage work that is due, then a
//!                        │             tokio runtime of its own for 1 ms of its own clock
//!                        └─ Observer   invariants, on the nodes' real logs and on the history
//! ```
//! The code of nodes and clients is the product's. Its seams: [`plimsoll_node::Surroundings`],
//! [`plimsoll_transport::SimulatedNetwork`], [`plimsoll_log::disk::sim::SimDisk`],
//! [`plimsoll_log::Driver::Manual`], `ClientConfig::dial`.
//!
//! Invariant: nothing here or beneath reads a clock, a random source, or the order of a hash map; the
//! trace of a seed is the same each time it is run, and a test holds that.

pub mod checks;
pub mod clock;
pub mod equality;
pub mod group;
pub mod history;
pub mod invariants;
pub mod judged;
pub mod kv;
pub mod lock;
pub mod messages;
pub mod nemesis;
pub mod node;
pub mod operate;
mod panics;
pub mod process;
pub mod queue;
pub mod reads;
pub mod run;
pub mod trace;
pub mod weather;
pub mod workload;
pub mod world;
