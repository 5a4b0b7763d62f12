//! What listeners hand connections to.

use std::net::SocketAddr;
use std::sync::Arc;

use plimsoll_amqp_gateway::{Gateway, GatewayConfig};
use tokio::io::{AsyncRead, AsyncWrite};

use super::backend::AmqpBroker;
use crate::broker::Broker;

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

    /// Serves one connection until it has ended.
    pub async fn serve<S>(&self, stream: S, peer: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        if let Some(end) = self.gateway.serve(stream, peer, self.stopping()).await {
            tracing::debug!(%peer, ?end, "a connection of AMQP has ended");
        }
    }
}
