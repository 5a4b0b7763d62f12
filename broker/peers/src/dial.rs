//! How a connection to another node comes about.

use std::io;
use std::net::SocketAddr;
use std::sync::{PoisonError, RwLock};

use futures_util::future::BoxFuture;
use plimsoll_protocol::ids::NodeId;
use plimsoll_transport::{
    ClientTls, Connection, NodeTls, TlsConfigError, TransportConfig, TransportKind,
};
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
    /// The TLS library refuses this node's certificate.
    #[error("this node's certificate cannot be used: {0}")]
    Identity(#[from] TlsConfigError),
    /// No connection came about.
    #[error(transparent)]
    Connect(#[from] plimsoll_transport::DialError),
}

/// What stands for a host's name in the handshake: certificates of nodes name nodes, not hosts.
const SERVER_NAME: &str = "node.plimsoll";

/// Dials by real sockets.
#[derive(Debug)]
pub struct SocketDial {
    identity: RwLock<NodeTls>,
    config: TransportConfig,
}

impl SocketDial {
    /// Shows `identity` to other nodes.
    #[must_use]
    pub fn new(identity: NodeTls, config: TransportConfig) -> Self {
        Self { identity: RwLock::new(identity), config }
    }

    /// Shows another certificate from the next connection on: a renewed one.
    pub fn set_identity(&self, identity: NodeTls) {
        *self.identity.write().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    async fn connect(
        &self,
        address: &str,
        to: NodeId,
        kind: TransportKind,
    ) -> Result<Connection, DialError> {
        let tls = {
            let identity = self.identity.read().unwrap_or_else(PoisonError::into_inner);
            ClientTls::to_node(&identity, to)?
        };
        let unresolved = |source| DialError::Resolve { address: address.to_owned(), source };
        let addresses: Vec<SocketAddr> =
            tokio::net::lookup_host(address).await.map_err(unresolved)?.collect();
        let mut outcome = Err(unresolved(io::ErrorKind::NotFound.into()));
        for address in addresses {
            let dialed =
                Connection::dial(kind, address, SERVER_NAME, Some(&tls), &self.config).await;
            match dialed {
                Ok(connection) => return Ok(connection),
                Err(error) => outcome = Err(error.into()),
            }
        }
        outcome
    }
}

impl Dial for SocketDial {
    fn dial<'a>(
        &'a self,
        address: &'a str,
        to: NodeId,
        kind: TransportKind,
    ) -> BoxFuture<'a, Result<Connection, DialError>> {
        Box::pin(self.connect(address, to, kind))
    }
}
