//! How fast a bare stream of frames is on this machine: `raw_stream KIND [MTU] [FRAME_BYTES] [MB] [CONNECTIONS]`.
//!
//! Both ends in one process on the loopback interface; MTU 0 leaves the default. Prints MB/s of all
//! connections together, then the round trip of a small frame on the first.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a tool to be read at a terminal")]

use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use plimsoll_transport::{
    ClientTls, Connection, Listener, MtuUpperBound, ServerTls, TransportConfig, TransportKind,
};

fn head(payload_bytes: usize) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u32_le(12 + u32::try_from(payload_bytes).unwrap());
    bytes.put_slice(&[0, 0, 0, 0, 8, 0, 1, 0, 0, 0, 0, 0]);
    bytes.freeze()
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: usize| {
        arguments.get(index).and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let kind: TransportKind = arguments.first().map_or("quic", String::as_str).parse().unwrap();
    let mtu = match number(1, 0) {
        0 => MtuUpperBound::Auto,
        bytes => MtuUpperBound::Bytes(u16::try_from(bytes).unwrap()),
    };
    let frame_bytes = number(2, 1_000_000);
    let frames = number(3, 2000) * 1_000_000 / frame_bytes;

    let config = TransportConfig { mtu_upper_bound: mtu, ..TransportConfig::default() };
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let server = ServerTls::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
    let client = ClientTls::trusting_pem(certificate.as_bytes()).unwrap();
    let address = "127.0.0.1:0".parse().unwrap();
    let listener = match kind {
        TransportKind::Tcp => Listener::bind_plaintext(address, config.clone()).unwrap(),
        _ => Listener::bind(address, &server, config.clone()).unwrap(),
    };
    let address = listener.local_addr();
    let connections = number(4, 1);
    let serving = tokio::spawn(async move {
        let mut serving = Vec::new();
        for _ in 0..connections {
            let connection = listener.accept().await.unwrap().handshake().await.unwrap();
            connection.admit();
            serving.push(tokio::spawn(serve(connection, frames, frame_bytes)));
        }
        for served in serving {
            served.await.unwrap();
        }
    });

    let mut streams = Vec::new();
    for _ in 0..connections {
        let connection =
            Connection::dial(kind, address, "localhost", Some(&client), &config).await.unwrap();
        let (sender, receiver) = connection.open().await.unwrap();
        streams.push((connection, sender, receiver));
    }
    let payload = Bytes::from(vec![7; frame_bytes]);
    let began = Instant::now();
    let mut sending = Vec::new();
    for (connection, mut sender, mut receiver) in streams {
        let payload = payload.clone();
        sending.push(tokio::spawn(async move {
            for _ in 0..frames {
                let pieces = std::slice::from_ref(&payload);
                sender.send(head(frame_bytes), pieces).await.unwrap();
            }
            receiver.recv().await.unwrap().unwrap();
            (connection, sender, receiver)
        }));
    }
    let mut streams = Vec::new();
    for sent in sending {
        streams.push(sent.await.unwrap());
    }
    let seconds = began.elapsed().as_secs_f64();
    let megabytes = (connections * frames * frame_bytes) as f64 / 1e6;
    println!("{kind} {mtu:?} frames of {frame_bytes}: {:.0} MB/s", megabytes / seconds);
    for (connection, ..) in &streams {
        println!("{:?}", connection.path());
    }
    let (_connection, mut sender, mut receiver) = streams.swap_remove(0);
    drop(streams);

    let mut trips = Vec::new();
    for _ in 0..5000 {
        let began = Instant::now();
        sender.send(head(0), &[]).await.unwrap();
        receiver.recv().await.unwrap().unwrap();
        trips.push(began.elapsed());
    }
    trips.sort_unstable();
    println!("round trip p50 {:?} p99 {:?}", trips[2500], trips[4950]);
    sender.finish().await.unwrap();
    drop((sender, receiver));
    serving.await.unwrap();
}

async fn serve(connection: Connection, frames: usize, frame_bytes: usize) {
    let (mut sender, mut receiver) = connection.accept().await.unwrap().unwrap();
    for _ in 0..frames {
        let frame = receiver.recv().await.unwrap().unwrap();
        assert_eq!(frame.payload.len(), frame_bytes);
    }
    sender.send(head(0), &[]).await.unwrap();
    // Answers until the client is done; how it goes does not matter.
    while let Ok(Some(_frame)) = receiver.recv().await {
        if sender.send(head(0), &[]).await.is_err() {
            break;
        }
    }
}
