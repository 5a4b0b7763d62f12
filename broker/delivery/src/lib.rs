//! Queues.

mod codec;
pub mod command;
pub mod config;
pub mod offsets;
pub mod settled;
pub mod state;
pub mod time;

pub use codec::DecodeQueueError;
