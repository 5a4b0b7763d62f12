//! Peers that do not belong here: clear errors, on both sides, and only for that connection.

use std::sync::Arc;

use bytes::Bytes;
use plimsoll_transport::{
    BindError, ClientTls, Connection, DialError, Fingerprint, HandshakeError, Listener, RecvError,
    TransportConfig, TransportKind,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::pair::{KINDS, PATIENCE, frame, head, identity, listen, pair, pattern, stream};

const SECURE: [TransportKind; 2] = [TransportKind::Quic, TransportKind::Tls];

#[tokio::test]
async fn an_oversize_frame_is_refused_by_its_header() {
    for kind in KINDS {
        let pair = pair(kind, &TransportConfig::default()).await;
        let [(mut sender, _back), (_forth, mut receiver)] = stream(&pair).await;
        receiver.set_max_frame_bytes(4096);
        sender.send(frame(1, b"", &pattern(4096 - 16, 1)), &[]).await.unwrap();
        assert_eq!(receiver.recv().await.unwrap().unwrap().payload.len(), 4096 - 16);
        // Only the head is sent: nobody waits for what it announces.
        sender.send(head(2, b"", 4096 - 15), &[]).await.unwrap();
        let error = timeout(PATIENCE, receiver.recv()).await.unwrap().unwrap_err();
        assert!(matches!(error, RecvError::Frame(_)), "{kind}: {error:?}");
    }
}

#[tokio::test]
async fn garbage_is_an_error_and_no_panic() {
    for kind in KINDS {
        for seed in 0..20 {
            let pair = pair(kind, &TransportConfig::default()).await;
            let [(mut sender, _back), (_forth, mut receiver)] = stream(&pair).await;
            receiver.set_max_frame_bytes(1 << 20);
            let garbage = pattern(2 << 20, seed);
            let sending = async {
                // The receiver may be gone before everything is written.
                let _ = sender.send_raw(garbage).await;
                let _ = sender.finish().await;
            };
            let receiving = async {
                loop {
                    match receiver.recv().await {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(error) => {
                            assert!(!error.to_string().is_empty());
                            break;
                        }
                    }
                }
                pair.accepted.close(1, "garbage");
            };
            timeout(PATIENCE, async { tokio::join!(sending, receiving) }).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_stream_that_ends_inside_a_frame_is_truncated() {
    for kind in KINDS {
        for cut in [1, 15, 16, 20, 300_000] {
            let pair = pair(kind, &TransportConfig::default()).await;
            let [(mut sender, _back), (_forth, mut receiver)] = stream(&pair).await;
            let whole = frame(1, b"body", &pattern(400_000, 1));
            let sending = async {
                sender.send_raw(whole.slice(..cut)).await.unwrap();
                sender.finish().await.unwrap();
            };
            let ((), outcome) = tokio::join!(sending, timeout(PATIENCE, receiver.recv()));
            let error = outcome.unwrap().unwrap_err();
            assert!(
                matches!(error, RecvError::Truncated { received } if received == cut),
                "{kind}, cut at {cut}: {error:?}"
            );
        }
    }
}

#[tokio::test]
async fn an_untrusted_certificate_is_named_as_the_cause() {
    for kind in SECURE {
        let ours = identity();
        let stranger = identity();
        let config = TransportConfig::default();
        let listener = listen(kind, &ours, &config);
        let wrong = [
            stranger.client.clone(),
            ClientTls::trusting_fingerprint(Fingerprint([7; 32])).unwrap(),
        ];
        for trust in &wrong {
            let dial =
                Connection::dial(kind, listener.local_addr(), "localhost", Some(trust), &config);
            let accept = async { listener.accept().await.unwrap().handshake().await };
            let (dialed, accepted) =
                timeout(PATIENCE, async { tokio::join!(dial, accept) }).await.unwrap();
            let error = dialed.unwrap_err();
            assert!(matches!(error, DialError::Certificate { .. }), "{kind}: {error:?}");
            assert!(error.to_string().contains("fingerprint"), "{error}");
            // TLS 1.3 tells the server after its own side is done, or while.
            if let Err(error) = accepted {
                assert!(matches!(error, HandshakeError::Failed { .. }), "{kind}: {error:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_name_that_the_certificate_does_not_hold_is_refused() {
    for kind in SECURE {
        let ours = identity();
        let config = TransportConfig::default();
        let listener = listen(kind, &ours, &config);
        let dial = Connection::dial(
            kind,
            listener.local_addr(),
            "elsewhere.example",
            Some(&ours.client),
            &config,
        );
        let accept = async { listener.accept().await.unwrap().handshake().await };
        let (dialed, _) = timeout(PATIENCE, async { tokio::join!(dial, accept) }).await.unwrap();
        let error = dialed.unwrap_err();
        assert!(matches!(error, DialError::Certificate { .. }), "{kind}: {error:?}");

        let dial = Connection::dial(
            kind,
            listener.local_addr(),
            "not a name",
            Some(&ours.client),
            &config,
        );
        assert!(matches!(dial.await.unwrap_err(), DialError::ServerName(_)));
        let dial = Connection::dial(kind, listener.local_addr(), "localhost", None, &config).await;
        assert!(matches!(dial.unwrap_err(), DialError::TrustRequired(_)));
    }
}

#[tokio::test]
async fn a_fingerprint_is_enough_to_trust() {
    for kind in SECURE {
        let ours = identity();
        let config = TransportConfig::default();
        let listener = listen(kind, &ours, &config);
        let fingerprint = Fingerprint::of_der(&ours.certificate_der);
        assert_eq!(fingerprint.to_string().parse::<Fingerprint>().unwrap(), fingerprint);
        let trust = ClientTls::trusting_fingerprint(fingerprint).unwrap();
        let dial = Connection::dial(
            kind,
            listener.local_addr(),
            "whatever.example",
            Some(&trust),
            &config,
        );
        let accept = async { listener.accept().await.unwrap().handshake().await };
        let (dialed, accepted) = tokio::join!(dial, accept);
        dialed.unwrap();
        accepted.unwrap();
    }
}

#[tokio::test]
async fn the_fingerprint_of_an_authority_in_the_chain_is_enough_too() {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(params, authority_key);
    let key = KeyPair::generate().unwrap();
    let node = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let chain = format!("{}{}", node.pem(), authority.pem());
    let server =
        plimsoll_transport::ServerTls::from_pem(chain.as_bytes(), key.serialize_pem().as_bytes())
            .unwrap();
    let config = TransportConfig::default();
    let listener = Listener::bind(crate::pair::loopback(), &server, config.clone()).unwrap();
    let fingerprint = Fingerprint::of_pem(authority.pem().as_bytes()).unwrap();
    let trust = ClientTls::trusting_fingerprint(fingerprint).unwrap();
    for (name, accepted) in [("localhost", true), ("elsewhere.example", false)] {
        let dial = Connection::dial(
            TransportKind::Quic,
            listener.local_addr(),
            name,
            Some(&trust),
            &config,
        );
        let accept = async { listener.accept().await.unwrap().handshake().await };
        let (dialed, _accepted) = tokio::join!(dial, accept);
        assert_eq!(dialed.is_ok(), accepted, "{name}: {:?}", dialed.err());
    }
}

/// A TLS client that trusts the certificate and offers another protocol, or none.
fn foreign_client(certificate: &[u8], alpn: &[&[u8]]) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.to_vec().into()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

#[tokio::test]
async fn a_peer_without_the_protocol_name_is_refused() {
    let ours = identity();
    let config = TransportConfig::default();
    let listener = listen(TransportKind::Tls, &ours, &config);
    for alpn in [&[][..], &[b"h3".as_slice()][..]] {
        let client = foreign_client(&ours.certificate_der, alpn);
        let dial = async {
            let stream = TcpStream::connect(listener.local_addr()).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(Arc::new(client.clone()));
            let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await?;
            stream.read_u8().await
        };
        let accept = async { listener.accept().await.unwrap().handshake().await };
        let (dialed, accepted) =
            timeout(PATIENCE, async { tokio::join!(dial, accept) }).await.unwrap();
        assert!(dialed.is_err());
        let error = accepted.unwrap_err();
        let expected = if alpn.is_empty() { "plimsoll/1" } else { "protocol" };
        assert!(error.to_string().contains(expected), "{error}");
    }

    let client = foreign_client(&ours.certificate_der, &[b"h3"]);
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(client).unwrap();
    let mut endpoint = quinn::Endpoint::client(crate::pair::loopback()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    let dial = endpoint.connect(listener.local_addr(), "localhost").unwrap();
    let accept = async { listener.accept().await.unwrap().handshake().await };
    let (dialed, accepted) = timeout(PATIENCE, async { tokio::join!(dial, accept) }).await.unwrap();
    assert!(dialed.is_err());
    assert!(accepted.is_err());
}

/// A server of another protocol on the other end.
#[tokio::test]
async fn a_node_without_the_protocol_name_is_refused() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let trust = ClientTls::trusting_pem(made.cert.pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let accept = async { acceptor.accept(tcp.accept().await.unwrap().0).await };
    let config = TransportConfig::default();
    let dial = Connection::dial(TransportKind::Tls, address, "localhost", Some(&trust), &config);
    let (dialed, _) = timeout(PATIENCE, async { tokio::join!(dial, accept) }).await.unwrap();
    assert!(matches!(dialed.unwrap_err(), DialError::WrongProtocol { .. }));
}

#[tokio::test]
async fn plaintext_on_the_tls_port_is_told_on_both_sides() {
    let ours = identity();
    let config = TransportConfig::default();
    let listener = listen(TransportKind::Tls, &ours, &config);
    let accept = async { listener.accept().await.unwrap().handshake().await };
    let talk = async {
        let connection =
            Connection::dial(TransportKind::Tcp, listener.local_addr(), "localhost", None, &config)
                .await
                .unwrap();
        let (mut sender, mut receiver) = connection.open().await.unwrap();
        sender.send(frame(1, b"hello", b""), &[]).await.unwrap();
        receiver.recv().await
    };
    let (accepted, answer) = timeout(PATIENCE, async { tokio::join!(accept, talk) }).await.unwrap();
    assert!(matches!(accepted.unwrap_err(), HandshakeError::NotTls { .. }));
    let error = answer.unwrap_err();
    assert!(matches!(error, RecvError::PeerSpeaksTls), "{error:?}");
    assert!(error.to_string().contains("transport tls"), "{error}");
}

#[tokio::test]
async fn tls_on_the_plaintext_port_is_told_on_both_sides() {
    let ours = identity();
    let config = TransportConfig::default();
    let listener = listen(TransportKind::Tcp, &ours, &config);
    let serve = async {
        let connection = listener.accept().await.unwrap().handshake().await.unwrap();
        let (mut sender, mut receiver) = connection.accept().await.unwrap().unwrap();
        let error = receiver.recv().await.unwrap_err();
        sender.send(frame(1, b"this is a plaintext port", b""), &[]).await.unwrap();
        sender.finish().await.unwrap();
        error
    };
    let dial = Connection::dial(
        TransportKind::Tls,
        listener.local_addr(),
        "localhost",
        Some(&ours.client),
        &config,
    );
    let (error, dialed) = timeout(PATIENCE, async { tokio::join!(serve, dial) }).await.unwrap();
    assert!(matches!(error, RecvError::PeerSpeaksTls), "{error:?}");
    assert!(matches!(dialed.unwrap_err(), DialError::NotTls { .. }));
}

#[tokio::test]
async fn a_silent_peer_loses_its_slot_in_time() {
    let ours = identity();
    let config = TransportConfig {
        handshake_timeout: std::time::Duration::from_millis(30),
        handshakes_max: 1,
        ..TransportConfig::default()
    };
    let listener = listen(TransportKind::Tls, &ours, &config);
    let mut silent = TcpStream::connect(listener.local_addr()).await.unwrap();
    let error = listener.accept().await.unwrap().handshake().await.unwrap_err();
    assert!(matches!(error, HandshakeError::TimedOut { .. }), "{error:?}");
    // The only slot is free again: the next peer is accepted, though this one is still there.
    silent.write_all(b"x").await.ok();
    let _second = TcpStream::connect(listener.local_addr()).await.unwrap();
    timeout(PATIENCE, listener.accept()).await.unwrap().unwrap().refuse();
}

#[tokio::test]
async fn a_crowded_listener_asks_for_proof_of_address_and_still_serves() {
    let ours = identity();
    let config = TransportConfig { handshakes_max: 4, ..TransportConfig::default() };
    let listener = listen(TransportKind::Quic, &ours, &config);
    // Three that have begun and go no further leave one slot.
    let mut begun = Vec::new();
    for _ in 0..3 {
        begun.push(TcpStream::connect(listener.local_addr()).await.unwrap());
    }
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(timeout(PATIENCE, listener.accept()).await.unwrap().unwrap());
    }
    let dial = Connection::dial(
        TransportKind::Quic,
        listener.local_addr(),
        "localhost",
        Some(&ours.client),
        &config,
    );
    let accept = async { listener.accept().await.unwrap().handshake().await };
    let (dialed, accepted) = timeout(PATIENCE, async { tokio::join!(dial, accept) }).await.unwrap();
    dialed.unwrap();
    accepted.unwrap();
}

#[tokio::test]
async fn a_port_in_use_is_told_with_its_address() {
    let ours = identity();
    let config = TransportConfig::default();
    let listener = listen(TransportKind::Quic, &ours, &config);
    let address = listener.local_addr();
    let error = Listener::bind(address, &ours.server, config.clone()).unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error:?}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");

    // Of a port that nobody else has for TCP.
    let (_held, address) = loop {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = udp.local_addr().unwrap();
        if std::net::TcpListener::bind(address).is_ok() {
            break (udp, address);
        }
    };
    let error = Listener::bind(address, &ours.server, config.clone()).unwrap_err();
    assert!(matches!(error, BindError::InUse { protocol: "UDP", .. }), "{error:?}");

    let absent = "203.0.113.7:7420".parse().unwrap();
    let error = Listener::bind(absent, &ours.server, config).unwrap_err();
    assert!(matches!(error, BindError::NoSuchAddress { .. }), "{error:?}");
}

#[tokio::test]
async fn noise_on_the_udp_port_disturbs_nobody() {
    let ours = identity();
    let config = TransportConfig::default();
    let listener = listen(TransportKind::Quic, &ours, &config);
    let noise = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for seed in 0..200 {
        let bytes: Bytes = pattern(1 + (seed as usize * 37) % 2000, seed);
        noise.send_to(&bytes, listener.local_addr()).await.unwrap();
    }
    let dial = Connection::dial(
        TransportKind::Quic,
        listener.local_addr(),
        "localhost",
        Some(&ours.client),
        &config,
    );
    let accept = async {
        loop {
            if let Ok(connection) = listener.accept().await.unwrap().handshake().await {
                break connection;
            }
        }
    };
    let (dialed, accepted) = timeout(PATIENCE, async { tokio::join!(dial, accept) }).await.unwrap();
    dialed.unwrap();
    drop(accepted);
}
