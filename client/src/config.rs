//! How to reach a node, whom to trust, how long to wait.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_transport::{Fingerprint, TransportConfig, TransportKind};

use crate::context::{self, Context, ContextError};
use crate::dial::Dial;
use crate::lock::LeaseClock;
use crate::wall_clock::WallClock;

/// Settings of a [`crate::Client`].
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// `HOST:PORT` of nodes of one cluster, at least one; the first that answers says where the others
    /// are. More than one lets a client connect while the first is down. For [`TransportKind::Tcp`]
    /// the nodes' plaintext addresses: all of them, as the cluster tells only the others.
    pub addresses: Vec<String>,
    /// What carries the frames. Default QUIC.
    pub transport: TransportKind,
    /// Whom to take for the node. Not used by plaintext TCP.
    pub trust: Trust,
    /// Name that the nodes' certificates must carry. Default: the host of the address that is dialed.
    /// A node that the cluster named may carry that host in its place.
    pub server_name: Option<String>,
    /// Name of this program, shown by the node. Default `plimsoll-client`. At most 255 bytes.
    pub client_name: String,
    /// Time for dialing, handshake and the first answer. Default 10 s.
    pub connect_timeout: Duration,
    /// Time for the answer of one request. Default 30 s. Shorter notices a dead node sooner,
    /// longer bears a node that recovers.
    pub request_timeout: Duration,
    /// First pause before another attempt to connect, send or read; it doubles up to 500 ms, with
    /// jitter. Default 20 ms. Above 500 ms it stays as it is.
    pub reconnect_pause: Duration,
    /// When a node of several is taken for dead.
    pub suspicion: Suspicion,
    /// Limits and tuning of the connections.
    pub connection: TransportConfig,
    /// What opens connections. Default `None`: sockets, by `transport`, `trust`, `server_name` and
    /// `connection`, which another one need not look at.
    pub dial: Option<Arc<dyn Dial>>,
    /// Seed of everything random: jitter, and partitioners. Default `None`: from the system. For
    /// simulations, which repeat a run.
    pub seed: Option<u64>,
    /// By which clock the leases of locks are counted. Default `None`: the system's, which counts the time that
    /// the machine is suspended. For simulations.
    pub lease_clock: Option<Arc<dyn LeaseClock>>,
    /// What time records are given that name none, and when values with a time to live begin to live. Default
    /// `None`: the system's. For simulations.
    pub wall_clock: Option<Arc<dyn WallClock>>,
}

/// When a node is given up that does not answer and whose connection does not break, as one that was
/// stopped or whose machine is gone. Its requests are then tried at other nodes.
///
/// Not in force while the client knows of one node only: there is nobody else to ask. Shorter moves
/// on sooner and takes a busy node for a dead one sooner, which costs a reconnection and loses nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspicion {
    /// No frame for so long while a request is unanswered: the node is asked for a sign of life.
    /// Default 250 ms, at least 10 ms.
    pub ask_after: Duration,
    /// The same while the client only listens: to a subscription that has nothing new. Default 500 ms.
    /// A quarter of it costs four times the requests of an idle client.
    pub ask_idle_after: Duration,
    /// No sign of life for so long after it was asked for: the connection is given up. Default 250 ms,
    /// and never less than four round trips.
    pub give_up_after: Duration,
}

impl Default for Suspicion {
    fn default() -> Self {
        Self {
            ask_after: Duration::from_millis(250),
            ask_idle_after: Duration::from_millis(500),
            give_up_after: Duration::from_millis(250),
        }
    }
}

/// Whom to take for the node.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Certificates signed by the authority in this PEM text.
    CaPem(String),
    /// Certificates signed by the authority in this PEM file.
    CaFile(PathBuf),
    /// The certificate, or one signed by the authority, with this SHA-256 fingerprint.
    Fingerprint(Fingerprint),
    /// Nobody: for plaintext TCP.
    Nobody,
}

/// The addresses of a text that has commas between them.
pub(crate) fn addresses_of(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|one| !one.is_empty())
}

impl ClientConfig {
    /// Settings for a node at `address`, or nodes at several with commas between, all else by default.
    pub fn new(address: impl Into<String>, trust: Trust) -> Self {
        Self {
            addresses: addresses_of(&address.into()).map(str::to_owned).collect(),
            transport: TransportKind::Quic,
            trust,
            server_name: None,
            client_name: "plimsoll-client".to_owned(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            reconnect_pause: Duration::from_millis(20),
            suspicion: Suspicion::default(),
            connection: TransportConfig::default(),
            dial: None,
            seed: None,
            lease_clock: None,
            wall_clock: None,
        }
    }

    /// The addresses as one text, for messages.
    #[must_use]
    pub fn address(&self) -> String {
        self.addresses.join(",")
    }

    /// Settings for plaintext TCP to `address` (or several, as in [`ClientConfig::new`]): for a trusted
    /// network only.
    pub fn plaintext(address: impl Into<String>) -> Self {
        Self { transport: TransportKind::Tcp, ..Self::new(address, Trust::Nobody) }
    }

    /// Settings of the current saved context, which `plimsoll serve` leaves behind.
    ///
    /// # Errors
    /// When there is no context, or it cannot be used.
    pub fn from_context() -> Result<Self, ContextError> {
        Self::from_saved(&context::load(&context::config_dir()?, None)?)
    }

    /// Settings of a saved context.
    ///
    /// # Errors
    /// When the context names an unknown transport or a malformed fingerprint, or nobody to trust.
    pub fn from_saved(saved: &Context) -> Result<Self, ContextError> {
        let unusable = |reason: String| ContextError::Unusable { reason };
        let transport: TransportKind =
            saved.transport.parse().map_err(|error| unusable(format!("{error}")))?;
        let trust = match (&saved.ca_pem, &saved.fingerprint) {
            (Some(pem), _) => Trust::CaPem(pem.clone()),
            (None, Some(fingerprint)) => Trust::Fingerprint(
                fingerprint.parse().map_err(|error| unusable(format!("{error}")))?,
            ),
            (None, None) if transport == TransportKind::Tcp => Trust::Nobody,
            (None, None) => {
                return Err(unusable("it has neither ca_pem nor fingerprint".to_owned()));
            }
        };
        let mut config = Self::new(saved.address.clone(), trust);
        config.transport = transport;
        config.server_name.clone_from(&saved.server_name);
        Ok(config)
    }
}
