//! Links that are lost, doubled, refused, and come back.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use plimsoll_peers::{PeerAddr, PeerError};
use plimsoll_protocol::ids::{GroupId, NodeId};
use plimsoll_protocol::peer::Forward;
use tokio::time::timeout;

use crate::cluster::{KINDS, Options, PATIENCE, append, cluster, statuses};

fn forward(command: &'static [u8]) -> Forward {
    Forward { request_id: 1, command: Bytes::from_static(command) }
}

#[tokio::test]
async fn a_lost_link_ends_what_is_under_way_and_comes_back() {
    for kind in KINDS {
        let mut nodes = cluster(2, &Options::new(kind)).await;
        let lost = PeerError::Lost { node: NodeId(2) };
        let peers = nodes[0].peers.clone();
        let request = tokio::spawn({
            let peers = peers.clone();
            async move { peers.request(NodeId(2), forward(b"wait")).await }
        });
        let mut session = peers.session(NodeId(2), GroupId(1)).unwrap();
        session.send(append(GroupId(1), 0, 10)).await.unwrap();
        let (_, _, mut incoming) = nodes[1].next_session().await;
        timeout(PATIENCE, incoming.recv()).await.unwrap().unwrap();
        nodes[0].next_linked(NodeId(2)).await;

        for node in &nodes {
            node.cutter.cut();
        }
        let outcome = timeout(PATIENCE, request).await.unwrap().unwrap();
        assert_eq!(outcome.unwrap_err(), lost);
        assert_eq!(timeout(PATIENCE, session.recv()).await.unwrap().unwrap_err(), lost);
        let sent = timeout(PATIENCE, session.send(append(GroupId(1), 1, 10))).await.unwrap();
        assert_eq!(sent.unwrap_err(), lost);
        assert!(timeout(PATIENCE, incoming.recv()).await.unwrap().is_none());
        assert!(incoming.send(plimsoll_protocol::peer::Appended::Ok(None)).is_err());

        nodes[0].next_unlinked(NodeId(2)).await;
        nodes[0].next_linked(NodeId(2)).await;
        nodes[1].gate.send_replace(true);
        let reply = nodes[0].peers.request(NodeId(2), forward(b"wait")).await.unwrap();
        assert_eq!(&reply.reply[..], b"wait");
        for node in nodes {
            node.stop().await;
        }
    }
}

#[tokio::test]
async fn both_sides_may_dial_at_once() {
    for kind in KINDS {
        for _ in 0..5 {
            let options = Options::new(kind);
            let nodes = cluster(2, &options).await;
            // However it began: after a while both have the same link, and it works both ways.
            for (node, other) in [(0, NodeId(2)), (1, NodeId(1))] {
                let reply = timeout(PATIENCE, async {
                    loop {
                        match nodes[node].peers.request(other, forward(b"echo")).await {
                            Err(PeerError::Unreachable { .. } | PeerError::Lost { .. }) => {
                                tokio::task::yield_now().await;
                            }
                            done => return done,
                        }
                    }
                });
                assert_eq!(&reply.await.unwrap().unwrap().reply[..], b"echo");
            }
        }
    }
}

#[tokio::test]
async fn a_node_that_stops_is_told_and_comes_back_in_a_new_life() {
    for kind in KINDS {
        let authority = crate::cluster::Authority::new();
        let options = Options::new(kind);
        let start =
            |id, options: &Options| crate::cluster::TestNode::start(&authority, id, options);
        let mut first = start(1, &options);
        let second = start(2, &options);
        first.know(&[&second]);
        second.know(&[&first]);
        first.until_reaches(&[NodeId(2)]).await;
        first.next_linked(NodeId(2)).await;
        second.stop().await;
        first.next_unlinked(NodeId(2)).await;
        assert!(!statuses(&first)[&NodeId(2)].linked);

        let mut events = first.peers.events();
        let later = Options { incarnation: 2, boot_nonce: 8, ..options.clone() };
        let second = start(2, &later);
        // It dials, as nobody knows its new address.
        second.know(&[&first]);
        first.next_linked(NodeId(2)).await;
        let restarted = plimsoll_peers::LivenessEvent::Restarted(NodeId(2));
        timeout(PATIENCE, async { while events.recv().await.unwrap() != restarted {} })
            .await
            .unwrap();
        first.until_reaches(&[NodeId(2)]).await;
        assert_eq!(statuses(&first)[&NodeId(2)].incarnation, Some(2));
    }
}

#[tokio::test]
async fn a_node_that_is_no_longer_listed_loses_its_link() {
    let mut nodes = cluster(3, &Options::new(KINDS[0])).await;
    let others = [&nodes[1]];
    nodes[0].know(&others);
    nodes[0].next_unlinked(NodeId(3)).await;
    nodes[0].until_view(|view| !view.hears(NodeId(3)) || view.hears(NodeId(2))).await;
    assert!(nodes[0].peers.view().hears(NodeId(2)));
    nodes[1].peers.shutdown().await;
    assert!(nodes[1].peers.status().iter().all(|status| !status.linked));
    let error = nodes[1].peers.request(NodeId(1), forward(b"echo")).await.unwrap_err();
    assert_eq!(error, PeerError::Unreachable { node: NodeId(1) });
}

#[tokio::test]
async fn a_member_whose_address_was_taken_from_it_keeps_its_link() {
    let nodes = cluster(2, &Options::new(KINDS[0])).await;
    let nowhere = PeerAddr { address: String::new(), ..nodes[1].addr() };
    nodes[0].peers.set_peers(vec![nowhere]);
    let reply = nodes[0].peers.request(NodeId(2), forward(b"echo")).await.unwrap();
    assert_eq!(&reply.reply[..], b"echo");
    let status = &statuses(&nodes[0])[&NodeId(2)];
    assert!(status.linked && status.up);
    assert_eq!(status.address, None);
}

/// The handler panics when it is told of the first link.
#[tokio::test]
async fn a_panic_of_the_handler_leaves_the_place_free_for_the_next_link() {
    let authority = crate::cluster::Authority::new();
    let options = Options::new(KINDS[0]);
    let mut first = crate::cluster::TestNode::start(&authority, 1, &options);
    let second = crate::cluster::TestNode::start(&authority, 2, &options);
    first.panics.store(true, Ordering::Relaxed);
    first.know(&[&second]);
    first.next_unlinked(NodeId(2)).await;
    first.next_linked(NodeId(2)).await;
    first.until_reaches(&[NodeId(2)]).await;
    let failed = second.peers.request(NodeId(1), forward(b"panic")).await.unwrap_err();
    assert!(matches!(failed, PeerError::Failed { .. }), "{failed}");
    timeout(PATIENCE, first.stop()).await.unwrap();
}
