//! One live connection to one node: dialed, greeted, shared by everybody who talks to that node.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_protocol::api::{HelloRequest, HelloResponse, PROTOCOL_MAX, PROTOCOL_MIN};
use plimsoll_transport::{ClientTls, Connection, FrameReceiver, FrameSender, TransportKind};
use tokio::time::timeout;

use crate::channel::Channel;
use crate::config::{ClientConfig, Trust};
use crate::error::{ConnectError, RequestError};

/// Largest frame that a node may send, whatever it is configured with. Memory is taken only for
/// bytes that arrived.
const FRAME_BYTES_MAX: u32 = 256 << 20;

/// See the module.
pub(crate) struct Link {
    connection: Connection,
    kind: TransportKind,
    control: Arc<Channel>,
    hello: HelloResponse,
}

/// What a dial needs beside the address; made once per client.
pub(crate) struct Dialer {
    config: ClientConfig,
    tls: Option<ClientTls>,
}

impl Dialer {
    pub(crate) fn new(config: ClientConfig) -> Result<Self, ConnectError> {
        let unusable = |reason: String| ConnectError::Config(reason);
        let tls = match &config.trust {
            Trust::CaPem(pem) => ClientTls::trusting_pem(pem.as_bytes())
                .map(Some)
                .map_err(|error| unusable(format!("the authority cannot be used: {error}")))?,
            Trust::CaFile(path) => {
                let pem = std::fs::read(path).map_err(|error| {
                    unusable(format!(
                        "cannot read the authority's file {}: {error}; it is DIR/tls/ca.pem of the \
                         node's data directory",
                        path.display()
                    ))
                })?;
                ClientTls::trusting_pem(&pem)
                    .map(Some)
                    .map_err(|error| unusable(format!("{}: {error}", path.display())))?
            }
            Trust::Fingerprint(fingerprint) => ClientTls::trusting_fingerprint(*fingerprint)
                .map(Some)
                .map_err(|error| unusable(error.to_string()))?,
            Trust::Nobody if config.transport == TransportKind::Tcp => None,
            Trust::Nobody => {
                return Err(unusable(
                    "TLS needs an authority or a fingerprint to trust: give --ca FILE".to_owned(),
                ));
            }
        };
        Ok(Self { config, tls })
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// Dials `address` and exchanges the first frames.
    pub(crate) async fn dial(&self, address: &str) -> Result<Link, ConnectError> {
        let after = self.config.connect_timeout;
        match timeout(after, self.dial_unbounded(address)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ConnectError::Timeout { address: address.to_owned(), after }),
        }
    }

    async fn dial_unbounded(&self, address: &str) -> Result<Link, ConnectError> {
        let resolve =
            |reason: String| ConnectError::Resolve { address: address.to_owned(), reason };
        let mut candidates = tokio::net::lookup_host(address)
            .await
            .map_err(|error| resolve(error.to_string()))?
            .peekable();
        if candidates.peek().is_none() {
            return Err(resolve("no address has this name".to_owned()));
        }
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let server_name = self.config.server_name.as_deref().unwrap_or(host);
        let server_name = server_name.trim_start_matches('[').trim_end_matches(']');
        let mut last = None;
        for candidate in candidates {
            let dialed = Connection::dial(
                self.config.transport,
                candidate,
                server_name,
                self.tls.as_ref(),
                &self.config.connection,
            );
            match dialed.await {
                Ok(connection) => return self.greet(address, connection).await,
                Err(error) => last = Some(error),
            }
        }
        let reason = last.map_or_else(String::new, |error| error.to_string());
        Err(ConnectError::Dial { address: address.to_owned(), reason })
    }

    async fn greet(&self, address: &str, connection: Connection) -> Result<Link, ConnectError> {
        let not_a_node =
            |reason: String| ConnectError::NotANode { address: address.to_owned(), reason };
        let (sender, mut receiver) =
            connection.open().await.map_err(|error| not_a_node(error.to_string()))?;
        receiver.set_max_frame_bytes(FRAME_BYTES_MAX);
        let control = Channel::start(sender, receiver);
        let hello = HelloRequest {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            client_name: self.config.client_name.clone(),
            client_version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: None,
        };
        let (hello, _) = control.request(hello).await.map_err(|error| match error {
            RequestError::Refused(source) => {
                ConnectError::Refused { address: address.to_owned(), source }
            }
            other => not_a_node(other.to_string()),
        })?;
        Ok(Link { connection, kind: self.config.transport, control, hello })
    }
}

impl Link {
    /// What the node said of itself.
    pub(crate) fn hello(&self) -> &HelloResponse {
        &self.hello
    }

    /// The stream of single requests.
    pub(crate) fn control(&self) -> &Arc<Channel> {
        &self.control
    }

    /// Whether the connection has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.control.is_closed()
    }

    /// A channel for one producer's partition: a stream of its own where streams are cheap.
    pub(crate) async fn produce_channel(&self) -> Result<Arc<Channel>, RequestError> {
        match self.kind {
            TransportKind::Quic => {
                let (sender, receiver) = self.open().await?;
                Ok(Channel::start(sender, receiver))
            }
            TransportKind::Tls | TransportKind::Tcp => Ok(Arc::clone(&self.control)),
        }
    }

    /// A stream of its own for a subscription, where streams are cheap.
    pub(crate) async fn subscription_stream(
        &self,
    ) -> Result<Option<(FrameSender, FrameReceiver)>, RequestError> {
        match self.kind {
            TransportKind::Quic => Ok(Some(self.open().await?)),
            TransportKind::Tls | TransportKind::Tcp => Ok(None),
        }
    }

    async fn open(&self) -> Result<(FrameSender, FrameReceiver), RequestError> {
        let (sender, mut receiver) = self.connection.open().await.map_err(|error| {
            // Streams fail only with their connection: the control channel must not outlive it.
            self.control.close(&error.to_string());
            RequestError::ConnectionLost { reason: error.to_string().into() }
        })?;
        receiver.set_max_frame_bytes(FRAME_BYTES_MAX);
        Ok((sender, receiver))
    }

    /// Waits until the other side was told that the connection has ended.
    pub(crate) async fn drained(&self) {
        self.connection.drained().await;
    }

    /// Ends the connection.
    pub(crate) fn close(&self, reason: &str) {
        self.control.close(reason);
        self.connection.close(0, reason);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.close("the client is done");
    }
}

/// Pauses between attempts: doubling from `first` up to 32 times it, with jitter of half.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    attempts: u32,
    random: crate::partitioner::SplitMix64,
}

impl Backoff {
    pub(crate) fn new(first: Duration) -> Self {
        let random = crate::partitioner::SplitMix64(crate::partitioner::random_seed());
        Self { first, attempts: 0, random }
    }

    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }

    pub(crate) fn next_pause(&mut self) -> Duration {
        let whole = self.first * (1 << self.attempts.min(5));
        self.attempts = self.attempts.saturating_add(1);
        let half = whole / 2;
        half + half.mul_f64(self.random.below(1024) as f64 / 1024.0)
    }
}
