//! What a write shows to be under a lock.

pub use plimsoll_protocol::api::Fence;
