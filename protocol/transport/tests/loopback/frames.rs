//! What is sent arrives: every size, many at once, both directions.

use bytes::Bytes;
use plimsoll_transport::TransportConfig;
use tokio::time::timeout;

use crate::pair::{KINDS, PATIENCE, frame, head, pair, pattern, stream};

/// Around every boundary of the reader: header, slices, block, growth steps.
const SIZES: [usize; 22] = [
    0, 1, 3, 15, 16, 17, 1000, 1452, 4095, 4096, 16_367, 16_368, 16_369, 65_519, 65_520, 65_521,
    65_536, 262_144, 262_145, 1_000_000, 1_048_576, 5_000_001,
];

#[tokio::test]
async fn frames_of_many_sizes_arrive_as_sent() {
    for kind in KINDS {
        let pair = pair(kind, &TransportConfig::default()).await;
        let [near, mut far] = stream(&pair).await;
        let (mut sender, mut back) = near;
        let sending = async move {
            for (index, size) in SIZES.into_iter().enumerate() {
                let correlation = u32::try_from(index).unwrap();
                let payload = pattern(size, index as u64);
                let (first, second) = payload.split_at(size / 3);
                let pieces = [Bytes::copy_from_slice(first), Bytes::copy_from_slice(second)];
                let body = pattern(index * 7, 99);
                sender.send(head(correlation, &body, size), &pieces).await.unwrap();
            }
            sender.finish().await.unwrap();
            sender
        };
        let echoing = async move {
            for (index, size) in SIZES.into_iter().enumerate() {
                let got = far.1.recv().await.unwrap().unwrap();
                assert_eq!(got.body, pattern(index * 7, 99), "{kind}, body of frame {index}");
                assert!(got.payload == pattern(size, index as u64), "{kind}, {size} bytes");
                let answer = head(u32::try_from(index).unwrap(), b"", got.payload.len());
                far.0.send(answer, &[got.payload]).await.unwrap();
            }
            assert!(far.1.recv().await.unwrap().is_none(), "{kind}: the end after a whole frame");
            far
        };
        let reading = async move {
            for (index, size) in SIZES.into_iter().enumerate() {
                let got = back.recv().await.unwrap().unwrap();
                assert!(got.payload == pattern(size, index as u64), "{kind}, {size} bytes back");
            }
            back
        };
        let all = async { tokio::join!(sending, echoing, reading) };
        timeout(PATIENCE, all).await.unwrap_or_else(|_| panic!("{kind} hangs"));
    }
}

#[tokio::test]
async fn thousands_of_small_frames_keep_their_order() {
    const COUNT: u32 = 20_000;
    for kind in KINDS {
        let pair = pair(kind, &TransportConfig::default()).await;
        let [(mut sender, _back), (_forth, mut receiver)] = stream(&pair).await;
        let sending = async {
            for index in 0..COUNT {
                sender.feed(frame(index, &index.to_le_bytes(), b"payload"), &[]);
                if index % 97 == 0 {
                    sender.flush().await.unwrap();
                }
            }
            sender.flush().await.unwrap();
            assert_eq!(sender.queued_bytes(), 0);
        };
        let receiving = async {
            for index in 0..COUNT {
                let got = receiver.recv().await.unwrap().unwrap();
                assert_eq!(got.body[..], index.to_le_bytes(), "{kind}");
                assert_eq!(&got.payload[..], b"payload", "{kind}");
            }
            assert!(!receiver.has_buffered_frame(), "{kind}");
        };
        timeout(PATIENCE, async { tokio::join!(sending, receiving) }).await.unwrap();
    }
}

#[tokio::test]
async fn frames_may_trickle_in_byte_by_byte() {
    for kind in KINDS {
        let pair = pair(kind, &TransportConfig::default()).await;
        let [(mut sender, _back), (_forth, mut receiver)] = stream(&pair).await;
        let mut bytes = Vec::new();
        for index in 0..5 {
            bytes.extend_from_slice(&frame(index, b"trickle", &pattern(40, 1)));
        }
        let sending = async {
            for byte in bytes {
                sender.send_raw(Bytes::copy_from_slice(&[byte])).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let receiving = async {
            for _ in 0..5 {
                let got = receiver.recv().await.unwrap().unwrap();
                assert_eq!(&got.body[..], b"trickle");
                assert_eq!(got.payload, pattern(40, 1));
            }
        };
        timeout(PATIENCE, async { tokio::join!(sending, receiving) }).await.unwrap();
    }
}

#[tokio::test]
async fn a_cancelled_receive_loses_nothing() {
    for kind in KINDS {
        let pair = pair(kind, &TransportConfig::default()).await;
        let [(mut sender, _back), (_forth, mut receiver)] = stream(&pair).await;
        let payload = pattern(3_000_000, 5);
        let sending = async {
            for piece in frame(1, b"big", &payload).chunks(50_000) {
                sender.send_raw(Bytes::copy_from_slice(piece)).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let receiving = async {
            let mut cancelled = 0;
            loop {
                tokio::select! {
                    biased;
                    got = receiver.recv() => break (got.unwrap().unwrap(), cancelled),
                    () = tokio::task::yield_now() => cancelled += 1,
                }
            }
        };
        let ((), (got, cancelled)) =
            timeout(PATIENCE, async { tokio::join!(sending, receiving) }).await.unwrap();
        assert!(got.payload == payload, "{kind}");
        assert!(cancelled > 0, "{kind}: nothing was cancelled");
    }
}

#[tokio::test]
async fn raw_bytes_arrive() {
    for kind in KINDS {
        let pair = pair(kind, &TransportConfig::default()).await;
        let [(mut sender, _back), (_forth, mut receiver)] = stream(&pair).await;
        let bytes = pattern(2_000_000, 3);
        let sending = async {
            sender.send_raw(bytes.clone()).await.unwrap();
            sender.finish().await.unwrap();
        };
        let receiving = async {
            let mut buffer = bytes::BytesMut::new();
            while receiver.recv_raw(&mut buffer).await.unwrap() > 0 {}
            buffer
        };
        let ((), buffer) =
            timeout(PATIENCE, async { tokio::join!(sending, receiving) }).await.unwrap();
        assert!(buffer == bytes, "{kind}");
    }
}
