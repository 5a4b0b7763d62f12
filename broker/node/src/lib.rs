//! The node process: configuration, certificates, sockets, maintenance, shutdown.
//!
//! ```no_run
//! # async fn run() -> Result<(), plimsoll_node::StartError> {
//! use plimsoll_node::{Node, config::NodeConfig};
//!
//! let config = NodeConfig { data: "data".into(), ..NodeConfig::default() };
//! let node = Node::start(config).await?;
//! println!("listening on {}", node.addr());
//! node.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod accept;
mod amqp;
pub mod certificates;
mod cluster;
pub mod config;
mod error;
mod files;
mod join;
mod node;
mod open;
mod origin;
mod parts;
mod surroundings;

pub use amqp::AmqpAddresses;
pub use error::{NodeFailed, StartError};
pub use files::raise_file_limit;
pub use join::JoinError;
pub use node::Node;
pub use plimsoll_gateways::{InvalidJoinToken, JoinToken};
pub use surroundings::{Simulated, Surroundings};
