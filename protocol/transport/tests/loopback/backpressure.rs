//! A peer that reads slowly slows the sender, and memory stays bounded.

use bytes::Bytes;
use plimsoll_transport::{TransportConfig, TransportKind};
use tokio::time::timeout;

use crate::pair::{KINDS, PATIENCE, head, pair, pattern, stream};

const FRAME_BYTES: usize = 64 << 10;

#[tokio::test]
async fn a_sender_waits_for_a_peer_that_does_not_read() {
    for kind in KINDS {
        let config = TransportConfig {
            stream_window_bytes: 1 << 20,
            send_window_bytes: 1 << 20,
            ..TransportConfig::default()
        };
        let pair = pair(kind, &config).await;
        let [(mut sender, _back), (_forth, mut receiver)] = stream(&pair).await;
        let payload = pattern(FRAME_BYTES, 1);
        let mut sent = 0u32;
        // Everything between two processes of one machine holds far less than this.
        let limit = 64 << 20;
        let full = loop {
            let pieces = [payload.clone()];
            let sending = sender.send(head(sent, b"", FRAME_BYTES), &pieces);
            match timeout(std::time::Duration::from_millis(300), sending).await {
                Ok(done) => done.unwrap(),
                Err(_) => break true,
            }
            sent += 1;
            if sent as usize * FRAME_BYTES > limit {
                break false;
            }
        };
        assert!(full, "{kind}: the sender never had to wait");
        // What was cut off in the middle goes on where it stopped.
        let rest = async {
            sender.flush().await.unwrap();
            sender.finish().await.unwrap();
        };
        let reading = async {
            let mut received = 0;
            while let Some(got) = receiver.recv().await.unwrap() {
                assert!(got.payload == payload, "{kind}");
                received += 1;
            }
            received
        };
        let ((), received) =
            timeout(PATIENCE, async { tokio::join!(rest, reading) }).await.unwrap();
        assert_eq!(received, sent + 1, "{kind}: the interrupted frame arrives once");
    }
}

#[tokio::test]
async fn one_blocked_stream_does_not_block_another() {
    let config = TransportConfig { stream_window_bytes: 256 << 10, ..TransportConfig::default() };
    let pair = pair(TransportKind::Quic, &config).await;
    let [(mut blocked, _back), (_forth, _unread)] = stream(&pair).await;
    let flood = Bytes::from(vec![0; 4 << 20]);
    let waiting = timeout(std::time::Duration::from_millis(100), blocked.send_raw(flood)).await;
    // Either QUIC keeps the rest for later or the sender waits; the stream is full all the same.
    drop(waiting);
    let [(mut sender, _back2), (_forth2, mut receiver)] = stream(&pair).await;
    let exchange = async {
        for index in 0..100 {
            sender.send(head(index, b"", 3), &[Bytes::from_static(b"abc")]).await.unwrap();
            assert_eq!(&receiver.recv().await.unwrap().unwrap().payload[..], b"abc");
        }
    };
    timeout(PATIENCE, exchange).await.unwrap();
}
