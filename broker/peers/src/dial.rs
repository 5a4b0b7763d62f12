//! How a connection to another node comes about.

use std::io;

use futures_util::future::BoxFuture;
use plimsoll_protocol::ids::NodeId;
use plimsoll_transport::{Connection, TransportKind};
use thiserror::Error;

/// Makes connections to other nodes: by sockets in the product, by its fabric in a simulation.
pub trait Dial: Send + Sync + 'static {
    /// Connects to `to` at `address` (`host:port`), proves that this side is who it is, and that the
    /// other side is `to` of the same cluster.
    ///
    /// # Errors
    /// [`DialError`] by cause; the link is dialed again after a pause.
    fn dial<'a>(
        &'a self,
        address: &'a str,
        to: NodeId,
        kind: TransportKind,
    ) -> BoxFuture<'a, Result<Connection, DialError>>;
}

/// Why a node could not be dialed.
#[derive(Debug, Error)]
pub enum DialError {
    /// The address leads nowhere.
    #[error("cannot resolve {address}: {source}")]
    Resolve {
        /// The address as it was given.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// No connection came about.
    #[error(transparent)]
    Connect(#[from] plimsoll_transport::DialError),
}
