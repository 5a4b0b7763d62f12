//! Becoming a member of a cluster: who asks, and who answers.

mod gate;
mod joiner;

pub(crate) use gate::Gate;
pub use joiner::JoinError;
pub(crate) use joiner::{join, members};
