//! Streams and connections that end: half-close, close with a reason, a dead peer, many streams.

use std::net::SocketAddr;
use std::time::Duration;

use plimsoll_transport::{
    ClosedBy, Connection, DialError, Listener, OpenError, RecvError, SendError, TransportConfig,
    TransportKind,
};
use tokio::time::timeout;

use crate::pair::{Identity, KINDS, PATIENCE, frame, identity, listen, pair, stream};

#[tokio::test]
async fn half_close_leaves_the_other_direction_open() {
    for kind in KINDS {
        let pair = pair(kind, &TransportConfig::default()).await;
        let [(mut to_far, mut from_far), (mut to_near, mut from_near)] = stream(&pair).await;
        to_far.send(frame(1, b"last words", b""), &[]).await.unwrap();
        to_far.finish().await.unwrap();
        assert_eq!(&from_near.recv().await.unwrap().unwrap().body[..], b"last words");
        assert!(from_near.recv().await.unwrap().is_none(), "{kind}");
        to_near.send(frame(2, b"still here", b""), &[]).await.unwrap();
        let got = timeout(PATIENCE, from_far.recv()).await.unwrap().unwrap().unwrap();
        assert_eq!(&got.body[..], b"still here", "{kind}");
    }
}

#[tokio::test]
async fn close_ends_both_sides() {
    for kind in KINDS {
        let pair = pair(kind, &TransportConfig::default()).await;
        let [(mut sender, mut receiver), (_far_sender, mut far)] = stream(&pair).await;
        assert!(pair.dialed.close_reason().is_none());
        pair.dialed.close(7, "enough");
        assert_eq!(pair.dialed.closed().await.by, ClosedBy::Here, "{kind}");
        let far_end = timeout(PATIENCE, far.recv()).await.unwrap();
        assert!(!matches!(far_end, Ok(Some(_))), "{kind}: {far_end:?}");
        let reason = timeout(PATIENCE, pair.accepted.closed()).await.unwrap();
        assert_eq!(reason.by, ClosedBy::Peer, "{kind}: {reason:?}");
        if kind == TransportKind::Quic {
            assert_eq!(reason.code, 7);
            assert!(reason.text.contains("enough"), "{reason}");
        }
        assert!(!matches!(receiver.recv().await, Ok(Some(_))), "{kind}");
        assert!(sender.send(frame(1, b"", b""), &[]).await.is_err(), "{kind}");
        assert!(pair.dialed.open().await.is_err(), "{kind}");
    }
}

#[tokio::test]
async fn a_quic_connection_has_many_streams_and_the_others_one() {
    for kind in KINDS {
        let pair = pair(kind, &TransportConfig::default()).await;
        let [_near, _far] = stream(&pair).await;
        let second = pair.dialed.open().await;
        assert_eq!(pair.dialed.has_many_streams(), kind == TransportKind::Quic);
        if kind != TransportKind::Quic {
            assert!(matches!(second, Err(OpenError::SingleStream(_))));
            continue;
        }
        let mut streams = vec![second.unwrap()];
        for _ in 0..999 {
            streams.push(timeout(PATIENCE, pair.dialed.open()).await.unwrap().unwrap());
        }
        for (index, (sender, _)) in (0u32..).zip(&mut streams) {
            sender.send(frame(index, &index.to_le_bytes(), b""), &[]).await.unwrap();
        }
        for index in 0u32..1000 {
            let next = timeout(PATIENCE, pair.accepted.accept()).await.unwrap();
            let (_sender, mut receiver) = next.unwrap().unwrap();
            let got = receiver.recv().await.unwrap().unwrap();
            assert_eq!(got.body[..], index.to_le_bytes());
        }
    }
}

#[tokio::test]
async fn before_admission_a_peer_has_few_streams() {
    let config = TransportConfig::default();
    let identity = identity();
    let listener = listen(TransportKind::Quic, &identity, &config);
    let address = listener.local_addr();
    let dial = Connection::dial(
        TransportKind::Quic,
        address,
        "localhost",
        Some(&identity.client),
        &config,
    );
    let (dialed, accepted) =
        tokio::join!(dial, async { listener.accept().await.unwrap().handshake().await });
    let (dialed, accepted) = (dialed.unwrap(), accepted.unwrap());
    let mut streams = Vec::new();
    for _ in 0..16 {
        streams.push(dialed.open().await.unwrap());
    }
    let waited = timeout(Duration::from_millis(50), dialed.open()).await;
    assert!(waited.is_err(), "the seventeenth stream has to wait");
    accepted.admit();
    timeout(PATIENCE, dialed.open()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_reset_stream_says_its_code_and_leaves_the_connection() {
    let pair = pair(TransportKind::Quic, &TransportConfig::default()).await;
    let [(mut sender, _back), (mut answers, mut receiver)] = stream(&pair).await;
    sender.reset(42);
    let error = timeout(PATIENCE, receiver.recv()).await.unwrap().unwrap_err();
    assert!(matches!(error, RecvError::Reset { code: 42 }), "{error:?}");
    answers.send(frame(1, b"", b""), &[]).await.unwrap();

    let [(mut sender, _back), (_answers, mut receiver)] = stream(&pair).await;
    receiver.stop(9);
    let error = loop {
        if let Err(error) = sender.send(frame(1, b"", b""), &[]).await {
            break error;
        }
        tokio::task::yield_now().await;
    };
    assert!(matches!(error, SendError::Stopped { code: 9 }), "{error:?}");
}

#[tokio::test]
async fn dialing_a_closed_port_is_refused_at_once() {
    let identity = identity();
    // Bound for a moment, so that the number is free and nobody listens.
    let address = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for kind in KINDS {
        let config = TransportConfig { handshake_timeout: PATIENCE, ..TransportConfig::default() };
        let dial = Connection::dial(kind, address, "localhost", Some(&identity.client), &config);
        let error = timeout(PATIENCE, dial).await.unwrap().unwrap_err();
        assert!(matches!(error, DialError::Refused { .. }), "{kind}: {error}");
    }
}

#[tokio::test]
async fn a_listener_that_is_closed_accepts_nobody() {
    for kind in KINDS {
        let identity = identity();
        let listener = listen(kind, &identity, &TransportConfig::default());
        let (none, ()) = tokio::join!(listener.accept(), async { listener.close() });
        assert!(none.is_none(), "{kind}");
    }
}

#[tokio::test]
async fn quic_and_tls_share_one_port_number() {
    let identity = identity();
    let config = TransportConfig::default();
    let listener = listen(TransportKind::Quic, &identity, &config);
    for kind in [TransportKind::Quic, TransportKind::Tls] {
        let dial = Connection::dial(
            kind,
            listener.local_addr(),
            "localhost",
            Some(&identity.client),
            &config,
        );
        let accept = async {
            let incoming = listener.accept().await.unwrap();
            assert_eq!(incoming.kind(), kind);
            assert!(incoming.remote_addr().ip().is_loopback());
            incoming.handshake().await
        };
        let (dialed, accepted) = tokio::join!(dial, accept);
        assert_eq!(dialed.unwrap().kind(), kind);
        assert_eq!(accepted.unwrap().kind(), kind);
    }
}

/// A node that stops without a word, as a killed process: its runtime is gone, and its sockets.
async fn killed_node() -> (Identity, SocketAddr, Connection) {
    let identity = identity();
    let config =
        TransportConfig { keep_alive: Some(Duration::from_millis(50)), ..Default::default() };
    let life = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let listener = {
        let _inside = life.enter();
        listen(TransportKind::Quic, &identity, &config)
    };
    let address = listener.local_addr();
    let accepting = life.spawn(async move {
        let connection = listener.accept().await.unwrap().handshake().await.unwrap();
        let (mut sender, mut receiver) = connection.accept().await.unwrap().unwrap();
        receiver.recv().await.unwrap().unwrap();
        sender.send(frame(1, b"hello", b""), &[]).await.unwrap();
        receiver.recv().await
    });
    let dial = Connection::dial(
        TransportKind::Quic,
        address,
        "localhost",
        Some(&identity.client),
        &config,
    );
    let dialed = dial.await.unwrap();
    // Both sides are done with the handshake before the node goes.
    let (mut sender, mut receiver) = dialed.open().await.unwrap();
    sender.send(frame(1, b"hello", b""), &[]).await.unwrap();
    receiver.recv().await.unwrap().unwrap();
    assert!(!accepting.is_finished());
    life.shutdown_background();
    (identity, address, dialed)
}

#[tokio::test]
async fn a_killed_node_is_noticed_by_its_closed_port() {
    let (_identity, _address, dialed) = killed_node().await;
    let reason = timeout(Duration::from_secs(10), dialed.closed()).await.unwrap();
    assert_eq!(reason.by, ClosedBy::Failure, "{reason:?}");
}

#[tokio::test]
async fn a_restarted_node_ends_the_connections_of_its_former_life() {
    let (identity, address, dialed) = killed_node().await;
    let config = TransportConfig::default();
    let second = timeout(PATIENCE, async {
        loop {
            match Listener::bind(address, &identity.server, config.clone()) {
                Ok(listener) => break listener,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    });
    let _second = second.await.unwrap();
    let reason = timeout(Duration::from_secs(10), dialed.closed()).await.unwrap();
    assert_eq!(reason.by, ClosedBy::Failure, "{reason:?}");
}
