//! How to reach a node, whom to trust, how long to wait.

use std::path::PathBuf;
use std::time::Duration;

use plimsoll_transport::{Fingerprint, TransportConfig, TransportKind};

use crate::context::{self, Context, ContextError};

/// Settings of a [`crate::Client`].
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// `HOST:PORT` of any node. For [`TransportKind::Tcp`] the node's plaintext address.
    pub address: String,
    /// What carries the frames. Default QUIC.
    pub transport: TransportKind,
    /// Whom to take for the node. Not used by plaintext TCP.
    pub trust: Trust,
    /// Name that the node's certificate must carry. Default: the host of `address`.
    pub server_name: Option<String>,
    /// Name of this program, shown by the node. Default `plimsoll-client`. At most 255 bytes.
    pub client_name: String,
    /// Time for dialing, handshake and the first answer. Default 10 s.
    pub connect_timeout: Duration,
    /// Time for the answer of one request. Default 30 s. Shorter notices a dead node sooner,
    /// longer bears a node that recovers.
    pub request_timeout: Duration,
    /// First pause before a reconnection; it doubles up to 32 times this, with jitter. Default
    /// 20 ms.
    pub reconnect_pause: Duration,
    /// Limits and tuning of the connections.
    pub connection: TransportConfig,
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

impl ClientConfig {
    /// Settings for a node at `address`, all else by default.
    pub fn new(address: impl Into<String>, trust: Trust) -> Self {
        Self {
            address: address.into(),
            transport: TransportKind::Quic,
            trust,
            server_name: None,
            client_name: "plimsoll-client".to_owned(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            reconnect_pause: Duration::from_millis(20),
            connection: TransportConfig::default(),
        }
    }

    /// Settings for plaintext TCP to `address`: for a trusted network only.
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
