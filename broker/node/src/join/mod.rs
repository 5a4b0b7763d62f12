//! Becoming a member of a cluster: what allows it, who asks, who answers.

mod joiner;
mod token;

pub use joiner::JoinError;
pub(crate) use joiner::{join, members};
pub use token::{InvalidJoinToken, JoinToken};
