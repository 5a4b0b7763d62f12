//! Nodes among themselves: who may speak `plimsoll-node/1`, and with which certificate.

use std::net::SocketAddr;

use plimsoll_protocol::ids::NodeId;
use plimsoll_transport::{
    ClientTls, Connection, DialError, Fingerprint, HandshakeError, Listener, NodeIdentity, NodeTls,
    Protocol, ServerTls, TransportConfig, TransportKind,
};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use tokio::time::timeout;

use crate::pair::{PATIENCE, frame, identity, loopback};

const SECURE: [TransportKind; 2] = [TransportKind::Quic, TransportKind::Tls];
const CLUSTER: [u8; 16] = *b"cluster-of-three";

/// Signs certificates of nodes.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { params, key, pem }
    }

    /// The chain and the key, PEM, after `adjust` had its way.
    fn sign(&self, uri: &str, adjust: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        adjust(&mut params);
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();
        (format!("{certificate}\n{}", self.pem), key.serialize_pem())
    }

    fn node_of(&self, cluster_id: [u8; 16], node: u64) -> NodeTls {
        let uri = NodeIdentity { cluster_id, node: NodeId(node) }.uri();
        let (chain, key) = self.sign(&uri, |_| {});
        NodeTls::from_pem(chain.as_bytes(), key.as_bytes(), self.pem.as_bytes()).unwrap()
    }

    fn node(&self, node: u64) -> NodeTls {
        self.node_of(CLUSTER, node)
    }
}

fn listen(nodes: NodeTls) -> (Listener, crate::pair::Identity) {
    let clients = identity();
    let server = clients.server.with_nodes(nodes).unwrap();
    (Listener::bind(loopback(), &server, TransportConfig::default()).unwrap(), clients)
}

async fn dial(
    kind: TransportKind,
    address: SocketAddr,
    tls: &ClientTls,
) -> Result<Connection, DialError> {
    let config = TransportConfig::default();
    Connection::dial(kind, address, "localhost", Some(tls), &config).await
}

/// Both ends, as far as they came.
async fn meet(
    kind: TransportKind,
    listener: &Listener,
    tls: &ClientTls,
) -> (Result<Connection, DialError>, Result<Connection, HandshakeError>) {
    let address = listener.local_addr();
    let both = async {
        tokio::join!(dial(kind, address, tls), async {
            listener.accept().await.unwrap().handshake().await
        })
    };
    timeout(PATIENCE, both).await.unwrap()
}

/// That a dialed connection is of no use, which may show only when it is used: in TLS 1.3 the client
/// is done before the server has looked at its certificate.
async fn assert_useless(dialed: Result<Connection, DialError>) {
    let Ok(connection) = dialed else { return };
    let outcome = async {
        let (mut sender, mut receiver) = connection.open().await.ok()?;
        sender.send(frame(1, b"", b""), &[]).await.ok()?;
        receiver.recv().await.ok()?
    };
    assert_eq!(timeout(PATIENCE, outcome).await.unwrap(), None);
}

#[tokio::test]
async fn nodes_know_each_other_and_frames_flow() {
    let authority = Authority::new();
    let (listener, _) = listen(authority.node(1));
    let tls = ClientTls::to_node(&authority.node(2), NodeId(1)).unwrap();
    for kind in SECURE {
        let (dialed, accepted) = meet(kind, &listener, &tls).await;
        let (dialed, accepted) = (dialed.unwrap(), accepted.unwrap());
        assert_eq!(accepted.protocol(), Protocol::Node);
        assert_eq!(dialed.protocol(), Protocol::Node);
        assert_eq!(accepted.peer_node(), Some(NodeId(2)));
        assert_eq!(dialed.peer_node(), Some(NodeId(1)));
        let certificate = accepted.peer_certificate().unwrap();
        let is = NodeIdentity::of_certificate(&certificate).unwrap();
        assert_eq!(is, NodeIdentity { cluster_id: CLUSTER, node: NodeId(2) });
        let (mut sender, _receiver) = dialed.open().await.unwrap();
        sender.send(frame(1, b"hello", b""), &[]).await.unwrap();
        let (_, mut receiver) = accepted.accept().await.unwrap().unwrap();
        assert_eq!(&receiver.recv().await.unwrap().unwrap().body[..], b"hello");
    }
}

#[tokio::test]
async fn clients_are_not_asked_and_see_their_own_certificate() {
    let authority = Authority::new();
    let (listener, clients) = listen(authority.node(1));
    for kind in SECURE {
        let (dialed, accepted) = meet(kind, &listener, &clients.client).await;
        let (dialed, accepted) = (dialed.unwrap(), accepted.unwrap());
        assert_eq!(accepted.protocol(), Protocol::Client);
        assert_eq!(accepted.peer_certificate(), None);
        assert_eq!(accepted.peer_node(), None);
        assert_eq!(dialed.peer_certificate().unwrap()[..], clients.certificate_der[..]);
        assert_eq!(dialed.peer_node(), None);
    }
}

#[tokio::test]
async fn a_node_without_a_certificate_is_refused() {
    // Speaks the protocol of nodes and shows nothing: a joining node's trust under another name is
    // the nearest that this crate offers, so the listener is asked by a bare client of the library.
    let authority = Authority::new();
    let (listener, _) = listen(authority.node(1));
    let address = listener.local_addr();
    let mut roots = rustls::RootCertStore::empty();
    use rustls::pki_types::pem::PemObject as _;
    let der = rustls::pki_types::CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap();
    roots.add(der).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(std::sync::Arc::new(AnyServer))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"plimsoll-node/1".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let dialing = async {
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        connector.connect(name, socket).await
    };
    let accepting = async { listener.accept().await.unwrap().handshake().await };
    let both = async { tokio::join!(dialing, accepting) };
    let (_dialed, accepted) = timeout(PATIENCE, both).await.unwrap();
    let error = accepted.unwrap_err();
    assert!(matches!(error, HandshakeError::NoCertificate { .. }), "{error}");
}

/// Takes every certificate.
#[derive(Debug)]
struct AnyServer;

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &rustls::pki_types::CertificateDer<'_>,
        _intermediates: &[rustls::pki_types::CertificateDer<'_>],
        _server_name: &rustls::pki_types::ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &rustls::pki_types::CertificateDer<'_>,
        _signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &rustls::pki_types::CertificateDer<'_>,
        _signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[tokio::test]
async fn a_foreign_authority_is_refused_by_both_sides() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (listener, _) = listen(ours.node(1));
    for kind in SECURE {
        // The dialing node does not trust the listener.
        let tls = ClientTls::to_node(&theirs.node(2), NodeId(1)).unwrap();
        let (dialed, accepted) = meet(kind, &listener, &tls).await;
        let error = dialed.unwrap_err();
        assert!(matches!(error, DialError::Certificate { .. }), "{kind}: {error}");
        assert!(accepted.is_err());

        // The listener does not trust the dialing node, which trusts it.
        let uri = NodeIdentity { cluster_id: CLUSTER, node: NodeId(2) }.uri();
        let (chain, key) = theirs.sign(&uri, |_| {});
        let impostor =
            NodeTls::from_pem(chain.as_bytes(), key.as_bytes(), ours.pem.as_bytes()).unwrap();
        let tls = ClientTls::to_node(&impostor, NodeId(1)).unwrap();
        let (dialed, accepted) = meet(kind, &listener, &tls).await;
        let error = accepted.unwrap_err();
        assert!(matches!(error, HandshakeError::Failed { .. }), "{kind}: {error}");
        assert_useless(dialed).await;
    }
}

#[tokio::test]
async fn an_expired_certificate_is_refused_by_both_sides() {
    let authority = Authority::new();
    let expired = |node| {
        let uri = NodeIdentity { cluster_id: CLUSTER, node: NodeId(node) }.uri();
        let (chain, key) = authority.sign(&uri, |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        });
        NodeTls::from_pem(chain.as_bytes(), key.as_bytes(), authority.pem.as_bytes()).unwrap()
    };
    for kind in SECURE {
        let (listener, _) = listen(authority.node(1));
        let tls = ClientTls::to_node(&expired(2), NodeId(1)).unwrap();
        let (dialed, accepted) = meet(kind, &listener, &tls).await;
        let error = accepted.unwrap_err();
        assert!(error.to_string().to_lowercase().contains("expired"), "{kind}: {error}");
        assert_useless(dialed).await;

        let (listener, _) = listen(expired(1));
        let tls = ClientTls::to_node(&authority.node(2), NodeId(1)).unwrap();
        let (dialed, _accepted) = meet(kind, &listener, &tls).await;
        let error = dialed.unwrap_err();
        assert!(matches!(error, DialError::Certificate { .. }), "{kind}: {error}");
    }
}

#[tokio::test]
async fn another_node_or_another_cluster_than_dialed_is_refused() {
    let authority = Authority::new();
    for kind in SECURE {
        let (listener, _) = listen(authority.node(1));
        let tls = ClientTls::to_node(&authority.node(2), NodeId(3)).unwrap();
        let (dialed, _accepted) = meet(kind, &listener, &tls).await;
        let error = dialed.unwrap_err();
        assert!(matches!(error, DialError::Certificate { .. }), "{kind}: {error}");

        // Two clusters under one authority: the dialing side notices.
        let other = *b"cluster-of-other";
        let tls = ClientTls::to_node(&authority.node_of(other, 2), NodeId(1)).unwrap();
        let (dialed, _accepted) = meet(kind, &listener, &tls).await;
        let error = dialed.unwrap_err();
        assert!(matches!(error, DialError::Certificate { .. }), "{kind}: {error}");
    }
}

#[tokio::test]
async fn a_joining_node_trusts_the_authority_by_its_fingerprint() {
    let authority = Authority::new();
    let (listener, _) = listen(authority.node(1));
    let fingerprint = Fingerprint::of_pem(authority.pem.as_bytes()).unwrap();
    for kind in SECURE {
        let tls = ClientTls::joining(fingerprint).unwrap();
        let (dialed, accepted) = meet(kind, &listener, &tls).await;
        dialed.unwrap();
        let accepted = accepted.unwrap();
        assert_eq!(accepted.protocol(), Protocol::Join);
        assert_eq!(accepted.peer_node(), None);

        let tls = ClientTls::joining(Fingerprint([7; 32])).unwrap();
        let (dialed, _accepted) = meet(kind, &listener, &tls).await;
        let error = dialed.unwrap_err();
        assert!(matches!(error, DialError::Certificate { .. }), "{kind}: {error}");
    }
}

#[tokio::test]
async fn a_listener_without_nodes_speaks_to_clients_only() {
    let authority = Authority::new();
    let clients = identity();
    let server: &ServerTls = &clients.server;
    let listener = Listener::bind(loopback(), server, TransportConfig::default()).unwrap();
    for kind in SECURE {
        let tls = ClientTls::to_node(&authority.node(2), NodeId(1)).unwrap();
        let (dialed, accepted) = meet(kind, &listener, &tls).await;
        let error = dialed.unwrap_err();
        assert!(matches!(error, DialError::WrongProtocol { .. }), "{kind}: {error}");
        assert!(accepted.is_err());
    }
}

#[test]
fn a_certificate_without_a_node_is_no_identity() {
    let authority = Authority::new();
    let (chain, key) = authority.sign("https://example.org", |_| {});
    let error =
        NodeTls::from_pem(chain.as_bytes(), key.as_bytes(), authority.pem.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("names no node"), "{error}");
}
