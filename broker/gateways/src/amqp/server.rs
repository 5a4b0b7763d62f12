//! What listeners hand connections to.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use plimsoll_amqp_gateway::{Gateway, GatewayConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::backend::AmqpBroker;
use crate::broker::{Broker, StrangerPlace};

/// How long a connection waits at most for a node that was just started for the first time: until then there
/// is no place for a queue. Below what clients wait for the first answer.
const SET_UP_WAIT: Duration = Duration::from_secs(5);

/// The AMQP gateway of a node. Cheap to clone.
#[derive(Clone)]
pub struct AmqpServer {
    broker: Arc<AmqpBroker>,
    gateway: Arc<Gateway>,
}

impl AmqpServer {
    /// The gateway in front of this broker. [`super::follow`] must run beside it.
    #[must_use]
    pub fn new(broker: Arc<Broker>) -> Self {
        let broker = AmqpBroker::new(broker);
        let backend: Arc<dyn plimsoll_amqp_gateway::Backend> = broker.clone();
        let gateway = Gateway::new(backend, GatewayConfig::default());
        Self { broker, gateway }
    }

    /// What the gateway asks.
    #[must_use]
    pub fn broker(&self) -> &Arc<AmqpBroker> {
        &self.broker
    }

    /// Waits until connections are to end.
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stopping = self.broker.broker().stopping();
        async move { stopping.wait().await }
    }

    /// A place for a peer that begins a connection; `None`: there are too many, refuse it.
    pub fn take_stranger(&self, peer: SocketAddr) -> Option<StrangerPlace> {
        self.broker.broker().take_stranger(peer.ip())
    }

    /// Waits until this node is known in its cluster, which in its first life takes a moment.
    async fn set_up(&self) {
        let broker = self.broker.broker();
        let (me, mut catalog) = (broker.identity().node_id, broker.catalog_changes());
        let known = catalog.wait_for(|catalog| catalog.is_set_up() && catalog.node(me).is_some());
        if timeout(SET_UP_WAIT, known).await.is_err() {
            tracing::debug!("a connection of AMQP is served although the node is not set up");
        }
    }

    /// Serves one connection until it has ended. Never panics. The place is given back when it is let in.
    pub async fn serve<S>(&self, stream: S, peer: SocketAddr, stranger: StrangerPlace)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        tokio::select! {
            biased;
            () = self.stopping() => return,
            () = self.set_up() => {}
        }
        let serving = self.gateway.serve(stream, peer, move || drop(stranger), self.stopping());
        match AssertUnwindSafe(serving).catch_unwind().await {
            Ok(Some(end)) => tracing::debug!(%peer, ?end, "a connection of AMQP has ended"),
            Ok(None) => {}
            Err(_) => {
                self.broker.broker().counters().panics.add(1);
                tracing::error!(%peer, "a connection task panicked; the connection is closed");
            }
        }
    }
}
