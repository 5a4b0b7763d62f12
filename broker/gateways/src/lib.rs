//! Protocol sessions of a node: the native protocol, and what AMQP's gateway asks of the broker.
//!
//! ```text
//!  broker        what all sessions share: groups, catalog, limits, counters
//!  per_name      counters of single namespaces of locks and compacted topics
//!  limits        what clients may use; beyond it is backpressure or a typed error
//!  places        connections and subscriptions, counted
//!  producer_ids  blocks of them, taken from the catalog
//!  maintenance   sleep of idle groups, retention, what is left of deleted topics
//!  led           what the tasks of led partitions have in common
//!  queues        queues and subscriptions that settle message by message, where this node leads them
//!  groups        coordinators of consumer groups, where this node leads their home
//!  kv            compacted topics as maps of keys and values
//!  native        the native protocol, one session per connection
//!  amqp          what the gateway of AMQP 0-9-1 (`plimsoll-amqp-gateway`) asks for
//! ```
//!
//! Invariants: whatever a peer does ends at most its own connection; nothing that a peer sends makes
//! the node keep more than a limit says; a record's bytes are not copied on their way from the log to
//! the transport.

pub mod amqp;
mod broker;
mod compaction;
mod counters;
mod groups;
mod join_token;
mod kv;
mod led;
mod limits;
mod locks;
mod maintenance;
mod memory;
pub mod native;
mod per_name;
mod placements;
mod places;
mod producer_ids;
pub mod queues;
mod refusals;
mod routing;
mod standing;

pub use broker::{Broker, NodeIdentity, StrangerPlace};
pub use counters::{Counter, Counters};
pub use join_token::{InvalidJoinToken, JoinToken};
pub use limits::Limits;
pub use maintenance::{MaintenanceConfig, maintain};
