//! Becoming a member of a cluster.

mod token;

pub use token::{InvalidJoinToken, JoinToken};
