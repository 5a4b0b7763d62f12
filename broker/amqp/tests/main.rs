//! The gateway over a broker in memory: clients in frames, time that does not pass by itself.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a test")]

mod chaos;
mod client;
mod connections;
mod consumers;
mod declarations;
mod ends;
mod folds;
mod memory;
mod publishes;
mod transactions;
