//! Two ends of a connection in one process, over the loopback interface, in all three kinds.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod backpressure;
mod frames;
mod lifecycle;
mod nodes;
mod pair;
mod refusals;
