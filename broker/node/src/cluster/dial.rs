//! How this node dials others: by sockets, showing its certificate and checking theirs.

use std::io;

use futures_util::FutureExt as _;
use plimsoll_peers::{BoxFuture, Dial, DialError};
use plimsoll_protocol::ids::NodeId;
use plimsoll_transport::{ClientTls, Connection, NodeTls, TransportConfig, TransportKind};

/// Sent as the server's name, which nodes do not look at: they know each other by number.
const SERVER_NAME: &str = "localhost";

/// See the module.
pub(crate) struct SocketDial {
    pub(crate) tls: NodeTls,
    pub(crate) transport: TransportConfig,
}

impl Dial for SocketDial {
    fn dial<'a>(
        &'a self,
        address: &'a str,
        to: NodeId,
        kind: TransportKind,
    ) -> BoxFuture<'a, Result<Connection, DialError>> {
        let dialing = async move {
            let resolve = |source| DialError::Resolve { address: address.to_owned(), source };
            let mut resolved = tokio::net::lookup_host(address).await.map_err(resolve)?;
            let nowhere = || resolve(io::Error::new(io::ErrorKind::NotFound, "it has no address"));
            let socket = resolved.next().ok_or_else(nowhere)?;
            let tls = ClientTls::to_node(&self.tls, to).map_err(|error| {
                plimsoll_transport::DialError::Handshake {
                    address: socket,
                    reason: error.to_string(),
                }
            })?;
            let config = &self.transport;
            Ok(Connection::dial(kind, socket, SERVER_NAME, Some(&tls), config).await?)
        };
        dialing.boxed()
    }
}
