//! A listener with a certificate of its own, and both ends of a connection to it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use plimsoll_transport::{
    ClientTls, Connection, FrameReceiver, FrameSender, Listener, ServerTls, TransportConfig,
    TransportKind,
};

pub(crate) const KINDS: [TransportKind; 3] =
    [TransportKind::Quic, TransportKind::Tls, TransportKind::Tcp];

/// Far above what any step takes; only a hang gets there.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A self-signed certificate for `localhost`.
pub(crate) struct Identity {
    pub(crate) server: ServerTls,
    pub(crate) client: ClientTls,
    pub(crate) certificate_der: Vec<u8>,
}

pub(crate) fn identity() -> Identity {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let certificate = made.cert.pem();
    let key = made.signing_key.serialize_pem();
    Identity {
        server: ServerTls::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap(),
        client: ClientTls::trusting_pem(certificate.as_bytes()).unwrap(),
        certificate_der: made.cert.der().to_vec(),
    }
}

pub(crate) fn listen(
    kind: TransportKind,
    identity: &Identity,
    config: &TransportConfig,
) -> Listener {
    match kind {
        TransportKind::Tcp => Listener::bind_plaintext(loopback(), config.clone()).unwrap(),
        _ => Listener::bind(loopback(), &identity.server, config.clone()).unwrap(),
    }
}

pub(crate) struct Pair {
    pub(crate) dialed: Connection,
    pub(crate) accepted: Connection,
    _listener: Listener,
}

pub(crate) async fn pair(kind: TransportKind, config: &TransportConfig) -> Pair {
    let identity = identity();
    let listener = listen(kind, &identity, config);
    let (dialed, accepted) = tokio::join!(
        Connection::dial(kind, listener.local_addr(), "localhost", Some(&identity.client), config),
        async { listener.accept().await.unwrap().handshake().await },
    );
    let accepted = accepted.unwrap();
    accepted.admit();
    Pair { dialed: dialed.unwrap(), accepted, _listener: listener }
}

/// A stream with both its ends. QUIC shows a stream to the peer with its first frame only, so one
/// frame is exchanged.
pub(crate) async fn stream(pair: &Pair) -> [(FrameSender, FrameReceiver); 2] {
    let mut near = pair.dialed.open().await.unwrap();
    near.0.send(frame(0, b"open", b""), &[]).await.unwrap();
    let mut far = pair.accepted.accept().await.unwrap().unwrap();
    assert_eq!(&far.1.recv().await.unwrap().unwrap().body[..], b"open");
    [near, far]
}

/// A frame's bytes, written out by hand so that the drawing in FORMAT.md is tested too.
pub(crate) fn frame(correlation: u32, body: &[u8], payload: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u32_le(u32::try_from(12 + body.len() + payload.len()).unwrap());
    bytes.put_u32_le(u32::try_from(body.len()).unwrap());
    bytes.put_u16_le(1);
    bytes.put_u8(1);
    bytes.put_u8(0);
    bytes.put_u32_le(correlation);
    bytes.put_slice(body);
    bytes.put_slice(payload);
    bytes.freeze()
}

/// The head of a frame whose payload follows separately.
pub(crate) fn head(correlation: u32, body: &[u8], payload_bytes: usize) -> Bytes {
    let mut bytes = BytesMut::from(&frame(correlation, body, b"")[..]);
    let length = u32::try_from(12 + body.len() + payload_bytes).unwrap();
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes.freeze()
}

/// Bytes that differ from place to place, so that a shifted copy is noticed.
pub(crate) fn pattern(length: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut bytes = BytesMut::with_capacity(length + 8);
    while bytes.len() < length {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.put_u64_le(state);
    }
    bytes.truncate(length);
    bytes.freeze()
}
