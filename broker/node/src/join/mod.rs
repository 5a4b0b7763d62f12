//! Becoming a member of a cluster: what allows it, who asks, who answers.

mod gate;
mod joiner;
mod token;

pub(crate) use gate::Gate;
pub use joiner::JoinError;
pub(crate) use joiner::{join, members};
pub use token::{InvalidJoinToken, JoinToken};
