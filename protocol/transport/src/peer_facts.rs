//! What the handshake has settled about the other side.

use bytes::Bytes;
use plimsoll_protocol::ids::NodeId;
use rustls::pki_types::CertificateDer;

use crate::node_identity::NodeIdentity;
use crate::protocol::Protocol;

/// What the handshake has settled about the other side.
#[derive(Clone, Debug)]
pub(crate) struct PeerFacts {
    pub(crate) protocol: Protocol,
    /// Its own certificate in DER, where it showed one.
    pub(crate) certificate: Option<Bytes>,
    /// In a simulation, which has no certificates: the node that the other side is.
    pub(crate) simulated: Option<NodeId>,
}

impl PeerFacts {
    /// Nothing is known: plain TCP.
    pub(crate) const fn unknown() -> PeerFacts {
        PeerFacts { protocol: Protocol::Client, certificate: None, simulated: None }
    }

    /// `None`: no protocol was agreed on.
    pub(crate) fn of_stream(session: &rustls::CommonState) -> Option<PeerFacts> {
        let protocol = Protocol::from_alpn(session.alpn_protocol())?;
        Some(Self::new(protocol, session.peer_certificates()))
    }

    /// `None`: no protocol was agreed on.
    pub(crate) fn of_quic(connection: &quinn::Connection) -> Option<PeerFacts> {
        let data = connection.handshake_data()?;
        let data = data.downcast::<quinn::crypto::rustls::HandshakeData>().ok()?;
        let protocol = Protocol::from_alpn(data.protocol.as_deref())?;
        let chain = connection.peer_identity();
        let chain = chain.and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
        Some(Self::new(protocol, chain.as_ref().map(|chain| &chain[..])))
    }

    fn new(protocol: Protocol, chain: Option<&[CertificateDer<'_>]>) -> PeerFacts {
        let own = chain.and_then(|chain| chain.first());
        let certificate = own.map(|certificate| Bytes::copy_from_slice(certificate));
        PeerFacts { protocol, certificate, simulated: None }
    }

    /// Of a connection in a simulation: of `node`, or of a client.
    pub(crate) fn simulated(node: Option<NodeId>) -> PeerFacts {
        let protocol = if node.is_some() { Protocol::Node } else { Protocol::Client };
        PeerFacts { protocol, certificate: None, simulated: node }
    }

    /// The node that a certificate of [`Protocol::Node`] names: both sides have checked it.
    pub(crate) fn node(&self) -> Option<NodeId> {
        if self.protocol != Protocol::Node {
            return None;
        }
        if self.simulated.is_some() {
            return self.simulated;
        }
        let certificate = self.certificate.as_ref()?;
        NodeIdentity::of_certificate(certificate).ok().map(|identity| identity.node)
    }
}
