//! Requests, answers and messages.

use bytes::Bytes;
use plimsoll_peers::PeerError;
use plimsoll_protocol::ids::{GroupId, NodeId};
use plimsoll_protocol::peer::{AnyPeerMessage, CommitOf, Forward, PeerFailureCode, Wake};
use tokio::time::timeout;

use crate::cluster::{KINDS, Options, PATIENCE, Seen, cluster, statuses};

fn forward(command: &'static [u8]) -> Forward {
    Forward { request_id: 1, command: Bytes::from_static(command) }
}

#[tokio::test]
async fn three_nodes_reach_each_other_and_answer() {
    for kind in KINDS {
        let nodes = cluster(3, &Options::new(kind)).await;
        for node in &nodes {
            for other in nodes.iter().filter(|other| other.id != node.id) {
                let reply = node.peers.request(other.id, forward(b"echo")).await.unwrap();
                assert_eq!(&reply.reply[..], b"echo");
            }
            let statuses = statuses(node);
            assert_eq!(statuses.len(), 2);
            for status in statuses.values() {
                assert!(status.linked && status.up, "{kind}: {status:?}");
                assert_eq!(status.transport, Some(kind));
                assert_eq!(status.version.as_deref(), Some("0.1.0-test"));
                assert_eq!(status.clock_offset_ms, Some(0));
                assert!(status.bytes_sent > 0 && status.bytes_received > 0);
                assert!(status.round_trip.is_some());
            }
        }
        for node in nodes {
            node.stop().await;
        }
    }
}

#[tokio::test]
async fn a_refusal_is_told_as_it_is() {
    let nodes = cluster(2, &Options::new(KINDS[0])).await;
    let asked = CommitOf { epoch: 0, groups: vec![GroupId(1)] };
    let error = nodes[0].peers.request(NodeId(2), asked).await.unwrap_err();
    let PeerError::Failed { node: NodeId(2), failure } = error else { panic!("{error}") };
    assert_eq!(failure.code, PeerFailureCode::Refused);
    assert_eq!(failure.message, "node 1 asked for something else");
}

#[tokio::test]
async fn answers_come_out_of_order() {
    for kind in KINDS {
        let nodes = cluster(2, &Options::new(kind)).await;
        let peers = &nodes[0].peers;
        let slow = peers.request(NodeId(2), forward(b"wait"));
        tokio::pin!(slow);
        let quick = tokio::select! {
            biased;
            _ = &mut slow => panic!("it waits for the gate"),
            quick = peers.request(NodeId(2), forward(b"quick")) => quick,
        };
        assert_eq!(&quick.unwrap().reply[..], b"quick");
        nodes[1].gate.send_replace(true);
        let slow = timeout(PATIENCE, slow).await.unwrap();
        assert_eq!(&slow.unwrap().reply[..], b"wait");
    }
}

#[tokio::test]
async fn messages_keep_their_order() {
    for kind in KINDS {
        let mut nodes = cluster(2, &Options::new(kind)).await;
        for epoch in 0..1000 {
            nodes[0].peers.push(NodeId(2), Wake { epoch, groups: vec![] }).unwrap();
        }
        let mut expected = 0;
        while expected < 1000 {
            if let Seen::Message(from, AnyPeerMessage::Wake(wake)) = nodes[1].next().await {
                assert_eq!((from, wake.epoch), (NodeId(1), expected));
                expected += 1;
            }
        }
    }
}

#[tokio::test]
async fn what_cannot_be_reached_fails_at_once() {
    let nodes = cluster(2, &Options::new(KINDS[0])).await;
    let peers = &nodes[0].peers;
    let unreachable = PeerError::Unreachable { node: NodeId(9) };
    assert_eq!(peers.request(NodeId(9), forward(b"echo")).await.unwrap_err(), unreachable);
    let wake = Wake { epoch: 0, groups: vec![] };
    assert_eq!(peers.push(NodeId(9), wake).unwrap_err(), unreachable);
    assert_eq!(peers.session(NodeId(9), GroupId(1)).unwrap_err(), unreachable);
    assert_eq!(peers.open_seed(NodeId(9)).await.unwrap_err(), unreachable);
    // Nor does a node link to itself.
    let own = PeerError::Unreachable { node: NodeId(1) };
    assert_eq!(peers.request(NodeId(1), forward(b"echo")).await.unwrap_err(), own);
}

#[tokio::test]
async fn too_much_is_refused_and_not_kept() {
    let nodes = cluster(2, &Options::new(KINDS[0])).await;
    let huge = Forward { request_id: 1, command: Bytes::from(vec![0; 33 << 20]) };
    let error = nodes[0].peers.request(NodeId(2), huge).await.unwrap_err();
    assert!(matches!(error, PeerError::TooLarge { .. }), "{error}");
    // Nothing is read meanwhile: this thread runs the other node too.
    let wake = Wake { epoch: 0, groups: vec![GroupId(1); 1 << 17] };
    let outcome = (0..32).try_for_each(|_| nodes[0].peers.push(NodeId(2), wake.clone()));
    assert_eq!(outcome.unwrap_err(), PeerError::Full { node: NodeId(2) });
    // What was taken arrives, and then there is room again.
    let reply = timeout(PATIENCE, async {
        loop {
            match nodes[0].peers.request(NodeId(2), forward(b"echo")).await {
                Err(PeerError::Full { .. }) => tokio::task::yield_now().await,
                done => return done,
            }
        }
    });
    assert_eq!(&reply.await.unwrap().unwrap().reply[..], b"echo");
}

#[tokio::test]
async fn a_seed_stream_carries_frames_both_ways() {
    use plimsoll_protocol::frame::{FrameFlags, encode_frame};
    use plimsoll_protocol::ids::CorrelationId;
    use plimsoll_protocol::peer::{PeerApi, SeedPiece, SeedTaken};

    for kind in KINDS {
        let mut nodes = cluster(2, &Options::new(kind)).await;
        // Either side may open one, whoever dialed.
        for (from, to) in [(0, 1), (1, 0)] {
            let (source, target) = (nodes[from].id, nodes[to].id);
            let (mut sender, mut receiver) = nodes[from].peers.open_seed(target).await.unwrap();
            let piece = Bytes::from(vec![5; 1 << 20]);
            let (api, flags) = (PeerApi::SeedPiece, FrameFlags::REQUEST);
            let body = SeedPiece { segment: 0, at: 0, crc: 0 };
            let head = encode_frame(api, 1, flags, CorrelationId(1), &body, piece.len());
            sender.send(head.freeze(), std::slice::from_ref(&piece)).await.unwrap();
            let (mut back, mut forth) = loop {
                if let Seen::Seed(by, halves) = nodes[to].next().await {
                    assert_eq!(by, source);
                    break *halves;
                }
            };
            let frame = timeout(PATIENCE, forth.recv()).await.unwrap().unwrap().unwrap();
            assert_eq!(frame.payload, piece);
            let taken = SeedTaken { bytes: 1 << 20 };
            let flags = FrameFlags::RESPONSE;
            let head = encode_frame(api, 1, flags, frame.header.correlation, &taken, 0);
            back.send(head.freeze(), &[]).await.unwrap();
            let answer = timeout(PATIENCE, receiver.recv()).await.unwrap().unwrap().unwrap();
            assert_eq!(answer.decode_body::<SeedTaken>().unwrap(), taken);
        }
    }
}

#[tokio::test]
async fn a_client_stream_carries_what_clients_say_and_ends_with_its_link() {
    use plimsoll_protocol::api::{ApiKey, Done, PingRequest};
    use plimsoll_protocol::frame::{encode_request, encode_response};
    use plimsoll_protocol::ids::CorrelationId;

    for kind in KINDS {
        let mut nodes = cluster(2, &Options::new(kind)).await;
        for (from, to) in [(0, 1), (1, 0)] {
            let (asking, asked) = (nodes[from].id, nodes[to].id);
            let (mut sender, mut receiver) = nodes[from].peers.open_client(asked).await.unwrap();
            let ask = encode_request(CorrelationId(7), &PingRequest {}, 0);
            sender.send(ask.freeze(), &[]).await.unwrap();
            let (mut back, mut forth) = loop {
                if let Seen::Client(by, halves) = nodes[to].next().await {
                    assert_eq!(by, asking);
                    break *halves;
                }
            };
            let frame = timeout(PATIENCE, forth.recv()).await.unwrap().unwrap().unwrap();
            assert_eq!(ApiKey::from_number(frame.header.api), Some(ApiKey::Ping));
            let answer = encode_response::<PingRequest>(frame.header.correlation, &Done {}, 0);
            back.send(answer.freeze(), &[]).await.unwrap();
            let answer = timeout(PATIENCE, receiver.recv()).await.unwrap().unwrap().unwrap();
            assert_eq!(answer.header.correlation, CorrelationId(7));
            nodes[from].peers.unlink(asked, "as the test asked for");
            let ended = timeout(PATIENCE, receiver.recv()).await.unwrap();
            assert!(!matches!(ended, Ok(Some(_))), "{ended:?}");
            let ended = timeout(PATIENCE, forth.recv()).await.unwrap();
            assert!(!matches!(ended, Ok(Some(_))), "{ended:?}");
            // Another link is made, for the next round.
            for (one, other) in [(from, to), (to, from)] {
                let other = nodes[other].id;
                while nodes[one].peers.request(other, forward(b"echo")).await.is_err() {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}
