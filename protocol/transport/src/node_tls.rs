//! Trust among nodes: each shows a certificate of the cluster's authority that says which node it
//! is, and each checks the other's.

use std::sync::Arc;

use plimsoll_protocol::ids::NodeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::fingerprint::Fingerprint;
use crate::node_identity::{NodeIdentity, NodeIdentityError};
use crate::tls::{TlsConfigError, certificates, certified_key, provider};

/// What a node proves itself with to other nodes, and the authority whose certificates it takes from
/// them. Cheap to clone.
#[derive(Clone)]
pub struct NodeTls {
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) authority: Arc<RootCertStore>,
    identity: NodeIdentity,
}

impl std::fmt::Debug for NodeTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeTls({})", self.identity)
    }
}

impl NodeTls {
    /// From the node's certificate (with its authority behind it, which a joining node needs), its
    /// key and the cluster's authority, all PEM text. The certificate must be good for servers and
    /// clients, and name the node by the URI of [`NodeIdentity`].
    ///
    /// # Errors
    /// When a text cannot be read, the certificate and key do not belong together, or it names no
    /// node.
    pub fn from_pem(chain: &[u8], key: &[u8], authority: &[u8]) -> Result<NodeTls, TlsConfigError> {
        let key = certified_key(chain, key)?;
        let identity = NodeIdentity::of_certificate(&key.cert[0])?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(authority)? {
            roots.add(certificate)?;
        }
        Ok(NodeTls { key, authority: Arc::new(roots), identity })
    }

    /// Who this side is.
    #[must_use]
    pub fn identity(&self) -> NodeIdentity {
        self.identity
    }

    /// Checks certificates of clients that show one; only nodes have to, which is looked at when the
    /// protocol is known.
    pub(crate) fn client_verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, TlsConfigError> {
        let roots = Arc::clone(&self.authority);
        WebPkiClientVerifier::builder_with_provider(roots, provider())
            .allow_unauthenticated()
            .clear_root_hint_subjects()
            .build()
            .map_err(|error| TlsConfigError::Rejected(rustls::Error::General(error.to_string())))
    }

    pub(crate) fn verifier_of(&self, node: NodeId) -> NodeVerifier {
        NodeVerifier {
            trust: NodeTrust::Authority(Arc::clone(&self.authority)),
            expected: Some(NodeIdentity { node, ..self.identity }),
            provider: provider(),
        }
    }
}

impl From<NodeIdentityError> for TlsConfigError {
    fn from(error: NodeIdentityError) -> Self {
        TlsConfigError::Identity(error)
    }
}

/// Accepts the certificate of a node, whatever name was dialed: node names are not those of hosts.
#[derive(Debug)]
pub(crate) struct NodeVerifier {
    trust: NodeTrust,
    /// Which node; any of the authority's while this one is not yet a member.
    expected: Option<NodeIdentity>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum NodeTrust {
    Authority(Arc<RootCertStore>),
    /// The node sends its authority along.
    Fingerprint(Fingerprint),
}

impl NodeVerifier {
    /// For a node that is not yet a member and knows the authority's fingerprint.
    pub(crate) fn joining(authority: Fingerprint) -> NodeVerifier {
        let trust = NodeTrust::Fingerprint(authority);
        NodeVerifier { trust, expected: None, provider: provider() }
    }
}

fn wrong_certificate(reason: impl std::error::Error + Send + Sync + 'static) -> rustls::Error {
    let reason = rustls::OtherError(Arc::new(reason));
    rustls::Error::InvalidCertificate(CertificateError::Other(reason))
}

/// The node that answers is not the one that was dialed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("certificate of {is}, where {expected} was dialed")]
struct WrongNode {
    is: NodeIdentity,
    expected: NodeIdentity,
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let roots = match &self.trust {
            NodeTrust::Authority(roots) => Arc::clone(roots),
            NodeTrust::Fingerprint(fingerprint) => {
                let authority = intermediates
                    .iter()
                    .find(|certificate| Fingerprint::of_der(certificate) == *fingerprint)
                    .ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
                let mut roots = RootCertStore::empty();
                roots.add(authority.clone().into_owned())?;
                Arc::new(roots)
            }
        };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &roots,
            intermediates,
            now,
            algorithms,
        )?;
        let is = NodeIdentity::of_certificate(end_entity).map_err(wrong_certificate)?;
        match self.expected {
            Some(expected) if expected != is => Err(wrong_certificate(WrongNode { is, expected })),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
