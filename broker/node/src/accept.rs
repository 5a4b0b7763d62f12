//! Taking connections in: clients, other nodes, nodes that want to join, on one listener.

use std::sync::Arc;

use plimsoll_gateways::{Broker, StrangerPlace, native};
use plimsoll_peers::Peers;
use plimsoll_transport::{Connection, Incoming, Listener, Protocol};
use tokio::task::JoinSet;

use crate::join::Gate;

/// Whom connections are handed to.
#[derive(Clone)]
pub(crate) struct Reception {
    pub(crate) broker: Arc<Broker>,
    pub(crate) peers: Peers,
    /// None in a simulation, where nodes are given their places.
    pub(crate) gate: Option<Gate>,
}

/// Takes connections in; each is served by a task of its own, which ends with this one. An error says
/// that the listener has ended by itself.
pub(crate) async fn accept(
    listener: Arc<Listener>,
    reception: Reception,
) -> Result<(), &'static str> {
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            incoming = listener.accept() => match incoming {
                Some(incoming) => {
                    let received = receive(incoming, &reception.broker);
                    let Some((incoming, stranger)) = received else { continue };
                    let reception = reception.clone();
                    sessions.spawn(async move {
                        match incoming.handshake().await {
                            Ok(connection) => reception.serve(connection, stranger).await,
                            Err(error) => tracing::debug!(%error, "no connection"),
                        }
                    });
                }
                None if listener.is_closed() => break,
                None => return Err("the UDP socket failed"),
            },
            Some(_) = sessions.join_next() => {}
        }
    }
    while sessions.join_next().await.is_some() {}
    Ok(())
}

impl Reception {
    async fn serve(self, connection: Connection, stranger: StrangerPlace) {
        match connection.protocol() {
            Protocol::Client => native::serve(connection, self.broker, stranger).await,
            // The links count and bound their own.
            Protocol::Node => match connection.peer_node() {
                Some(node) => self.peers.serve(connection, node),
                None => tracing::debug!("a certificate names no node"),
            },
            Protocol::Join => {
                if let Some(gate) = self.gate {
                    gate.serve(&connection, stranger).await;
                }
            }
        }
    }
}

/// Finds a place for a peer before anything is spent on it; `None` where it was sent away.
fn receive(incoming: Incoming, broker: &Broker) -> Option<(Incoming, StrangerPlace)> {
    let address = incoming.remote_addr().ip();
    let incoming = match broker.wants_proof_of(address) {
        true => incoming.prove_address().err()?,
        false => incoming,
    };
    match broker.take_stranger(address) {
        Some(stranger) => Some((incoming, stranger)),
        None => {
            incoming.refuse();
            None
        }
    }
}
