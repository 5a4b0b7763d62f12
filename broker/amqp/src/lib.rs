//! The AMQP 0-9-1 gateway without the broker: connections in, calls of a [`Backend`] out.
//!
//! ```text
//!  gateway      what a node has once: configuration, virtual hosts, direct replies; one call per connection
//!  connection   one task per connection: socket <-> session <-> backend
//!  backend      all that is asked of the broker
//!  catalog      what the broker knows of a virtual host, as plain values
//!  fold         those values folded for routing and permissions
//!  host         the fold of a virtual host that its connections share
//!  inbox        how the broker answers publishes and delivers: one queue of events per connection
//!  message      AMQP messages as records, and records as AMQP messages
//!  dead_letters messages that died: `x-death`, where they go, cycles
//!  permissions, passwords, logins    who may do what, who is who, and how often one may guess
//! ```
//!
//! The protocol itself is `plimsoll-amqp`: this crate drives its sessions and decides what RabbitMQ
//! decides in the broker: permissions, equivalence, exclusive owners, auto-delete, confirms.
//!
//! Invariants: a publish is confirmed only when every queue that it was routed to has stored it; what a
//! client did not settle goes back when its channel ends; a message is not held by the gateway beyond
//! the consumer's window and [`GatewayConfig::consumer_bytes_max`]; what one client does ends its own
//! connection at most. No task is spawned, and no lock is held over an `await`.

pub mod backend;
pub mod catalog;
mod config;
mod connection;
pub mod dead_letters;
pub mod fold;
mod gateway;
mod host;
pub mod inbox;
mod logins;
pub mod message;
pub mod passwords;
pub mod permissions;

pub use backend::Backend;
pub use config::GatewayConfig;
pub use gateway::{Gateway, Reply};
