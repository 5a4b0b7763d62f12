//! Identity and trust: certificates from PEM, TLS 1.3 only, ALPN required, no early data.
//!
//! The same two values serve QUIC and TLS over TCP. What nodes show to each other is a [`NodeTls`].

use std::sync::Arc;

use plimsoll_protocol::ids::NodeId;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use ring::digest;
use rustls::RootCertStore;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use thiserror::Error;

use crate::fingerprint::{Fingerprint, FingerprintVerifier};
use crate::node_identity::NodeIdentityError;
use crate::node_tls::{NodeTls, NodeVerifier};
use crate::protocol::Protocol;

/// Why certificates or keys could not be used.
#[derive(Debug, Error)]
pub enum TlsConfigError {
    /// The text holds no certificate.
    #[error("no certificate in the PEM text: expected a BEGIN CERTIFICATE block")]
    NoCertificate,
    /// The text holds no private key.
    #[error("no private key in the PEM text: expected a BEGIN PRIVATE KEY block")]
    NoPrivateKey,
    /// The PEM text is damaged.
    #[error("the PEM text cannot be read: {0}")]
    Pem(String),
    /// The certificate does not say which node it belongs to.
    #[error("the certificate cannot be used among nodes: {0}")]
    Identity(#[source] NodeIdentityError),
    /// The certificate or key is refused by the TLS library.
    #[error("the certificate or key cannot be used: {0}")]
    Rejected(#[from] rustls::Error),
}

/// AES-128-GCM first: the least CPU per byte of the suites of TLS 1.3 where AES is in hardware.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    use rustls::crypto::ring::{cipher_suite, default_provider};
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..default_provider()
    })
}

pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsConfigError::Pem(error.to_string()))?;
    if chain.is_empty() {
        return Err(TlsConfigError::NoCertificate);
    }
    Ok(chain)
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsConfigError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => TlsConfigError::NoPrivateKey,
        other => TlsConfigError::Pem(other.to_string()),
    })
}

/// A certificate chain and its key from PEM text, which belong together.
pub(crate) fn certified_key(chain: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, TlsConfigError> {
    Ok(Arc::new(CertifiedKey::from_der(certificates(chain)?, private_key(key)?, &provider())?))
}

/// What a listener proves itself with.
#[derive(Clone)]
pub struct ServerTls {
    pub(crate) stream: Arc<rustls::ServerConfig>,
    pub(crate) quic: Arc<QuicServerConfig>,
    /// Derived from the private key, so that it is the same after a restart: peers of the life
    /// before then learn by a stateless reset that their connection is gone.
    pub(crate) reset_seed: [u8; 32],
    /// With it nodes and joining nodes are served too.
    pub(crate) nodes: Option<NodeTls>,
    clients: Arc<CertifiedKey>,
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerTls")
    }
}

impl ServerTls {
    /// From a certificate chain (the node's own first, its authority may follow) and its key, both
    /// PEM text. It serves clients only; see [`Self::with_nodes`].
    ///
    /// # Errors
    /// When either text holds none, cannot be read, or the two do not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<ServerTls, TlsConfigError> {
        Self::from_der(certificates(chain)?, private_key(key)?)
    }

    /// From a certificate chain and a PKCS #8 key in DER, as rcgen makes them.
    ///
    /// # Errors
    /// When the certificate and the key do not belong together or cannot be read.
    pub fn from_pkcs8(
        chain: Vec<Vec<u8>>,
        key_pkcs8: Vec<u8>,
    ) -> Result<ServerTls, TlsConfigError> {
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        Self::from_der(chain, PrivatePkcs8KeyDer::from(key_pkcs8).into())
    }

    fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<ServerTls, TlsConfigError> {
        let mut seed = digest::Context::new(&digest::SHA256);
        seed.update(b"plimsoll quic stateless reset");
        seed.update(key.secret_der());
        let mut reset_seed = [0; 32];
        reset_seed.copy_from_slice(seed.finish().as_ref());
        let clients = Arc::new(CertifiedKey::from_der(chain, key, &provider())?);
        Self::build(clients, None, reset_seed)
    }

    /// The same for clients, and nodes and joining nodes are served too, with the cluster's own
    /// certificate: who speaks `plimsoll-node/1` must show one of the same authority and cluster.
    ///
    /// # Errors
    /// When the authority cannot be used.
    pub fn with_nodes(&self, nodes: NodeTls) -> Result<ServerTls, TlsConfigError> {
        Self::build(Arc::clone(&self.clients), Some(nodes), self.reset_seed)
    }

    fn build(
        clients: Arc<CertifiedKey>,
        nodes: Option<NodeTls>,
        reset_seed: [u8; 32],
    ) -> Result<ServerTls, TlsConfigError> {
        let builder = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?;
        let builder = match &nodes {
            Some(nodes) => builder.with_client_cert_verifier(nodes.client_verifier()?),
            None => builder.with_no_client_auth(),
        };
        let own = nodes.as_ref().map(|nodes| Arc::clone(&nodes.key));
        let resolver = ByProtocol { clients: Arc::clone(&clients), nodes: own };
        let mut config = builder.with_cert_resolver(Arc::new(resolver));
        let spoken = if nodes.is_some() { Protocol::ALL } else { &[Protocol::Client] };
        config.alpn_protocols = spoken.iter().map(|protocol| protocol.alpn().to_vec()).collect();
        // No early data, and no tickets that would allow to resume: a reconnect is rare and must
        // see the present certificate.
        config.max_early_data_size = 0;
        config.send_tls13_tickets = 0;
        let stream = Arc::new(config);
        let quic = QuicServerConfig::try_from(Arc::clone(&stream))
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(ServerTls { stream, quic: Arc::new(quic), reset_seed, nodes, clients })
    }
}

/// The operator's certificate for clients, the cluster's own for nodes and those that join.
#[derive(Debug)]
struct ByProtocol {
    clients: Arc<CertifiedKey>,
    nodes: Option<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for ByProtocol {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // A peer without a common protocol gets its alert from the library.
        let offered = hello
            .alpn()
            .and_then(|mut names| names.find_map(|name| Protocol::from_alpn(Some(name))));
        let key = match (offered, &self.nodes) {
            (Some(Protocol::Node | Protocol::Join), Some(nodes)) => nodes,
            _ => &self.clients,
        };
        Some(Arc::clone(key))
    }
}

/// Whom a dialer trusts, what it shows of itself, and which protocol it asks for.
#[derive(Clone)]
pub struct ClientTls {
    pub(crate) stream: Arc<rustls::ClientConfig>,
    pub(crate) quic: Arc<QuicClientConfig>,
    pub(crate) protocol: Protocol,
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClientTls({})", self.protocol)
    }
}

impl ClientTls {
    /// Trusts what the authorities in this PEM text have signed for the name that is dialed.
    ///
    /// # Errors
    /// When the text holds no certificate or one that cannot be an authority.
    pub fn trusting_pem(authorities: &[u8]) -> Result<ClientTls, TlsConfigError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(authorities)? {
            roots.add(certificate)?;
        }
        let config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self::from_config(config, Protocol::Client)
    }

    /// Trusts the node whose own certificate has this SHA-256 fingerprint, whatever name was
    /// dialed, or a certificate for the dialed name that is signed by an authority which has this
    /// fingerprint and which the node sends along.
    ///
    /// # Errors
    /// When the TLS library refuses the configuration.
    pub fn trusting_fingerprint(fingerprint: Fingerprint) -> Result<ClientTls, TlsConfigError> {
        let verifier = FingerprintVerifier::new(fingerprint, provider());
        Self::verifying(Arc::new(verifier), None, Protocol::Client)
    }

    /// Speaks `plimsoll-node/1`: shows this node's certificate, and trusts `to` of the same cluster
    /// alone, whatever name was dialed.
    ///
    /// # Errors
    /// When the TLS library refuses the configuration.
    pub fn to_node(own: &NodeTls, to: NodeId) -> Result<ClientTls, TlsConfigError> {
        let key = Some(Arc::clone(&own.key));
        Self::verifying(Arc::new(own.verifier_of(to)), key, Protocol::Node)
    }

    /// Speaks `plimsoll-join/1`: trusts any node whose certificate is signed by the authority which
    /// has this fingerprint and which the node sends along, whatever name was dialed.
    ///
    /// # Errors
    /// When the TLS library refuses the configuration.
    pub fn joining(authority: Fingerprint) -> Result<ClientTls, TlsConfigError> {
        Self::verifying(Arc::new(NodeVerifier::joining(authority)), None, Protocol::Join)
    }

    fn verifying(
        verifier: Arc<dyn ServerCertVerifier>,
        key: Option<Arc<CertifiedKey>>,
        protocol: Protocol,
    ) -> Result<ClientTls, TlsConfigError> {
        let builder = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let config = match key {
            Some(key) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from((*key).clone())))
            }
            None => builder.with_no_client_auth(),
        };
        Self::from_config(config, protocol)
    }

    fn from_config(
        mut config: rustls::ClientConfig,
        protocol: Protocol,
    ) -> Result<ClientTls, TlsConfigError> {
        config.alpn_protocols = vec![protocol.alpn().to_vec()];
        config.enable_early_data = false;
        config.resumption = rustls::client::Resumption::disabled();
        let stream = Arc::new(config);
        let quic = QuicClientConfig::try_from(Arc::clone(&stream))
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(ClientTls { stream, quic: Arc::new(quic), protocol })
    }
}
