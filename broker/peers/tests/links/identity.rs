//! Nodes that do not belong: other clusters, copied directories, removed members.

use std::collections::BTreeSet;
use std::time::Duration;

use plimsoll_peers::LivenessConfig;
use plimsoll_protocol::ids::NodeId;
use plimsoll_protocol::peer::PeerRefusal;
use plimsoll_transport::TransportKind;

use crate::cluster::{Authority, CLUSTER, KINDS, Options, TestNode, statuses};

#[tokio::test]
async fn another_cluster_is_refused() {
    for kind in KINDS {
        let authority = Authority::new();
        let options = Options::new(kind);
        let first = TestNode::start(&authority, 1, &options);
        let stray = Options { cluster_id: *b"another-cluster!", ..options };
        let mut stray = TestNode::start(&authority, 2, &stray);
        stray.know(&[&first]);
        let refusal = stray.next_refusal().await;
        assert_eq!(refusal, (NodeId(1), PeerRefusal::WrongCluster(CLUSTER)), "{kind}");
        let status = &statuses(&stray)[&NodeId(1)];
        assert!(!status.linked);
        let error = status.last_error.clone().unwrap_or_default();
        assert!(error.contains("another cluster"), "{kind}: {error}");
    }
}

/// Waits until node 1 has told both of them that there are two.
async fn both_are_told(copy: &mut TestNode, original: &mut TestNode, kind: TransportKind) {
    for node in [copy, original] {
        let (by, refusal) = node.next_refusal().await;
        assert_eq!(by, NodeId(1));
        assert!(matches!(refusal, PeerRefusal::DuplicateNode(_)), "{kind}: {refusal}");
    }
}

#[tokio::test]
async fn a_copied_directory_is_refused_with_the_original() {
    for kind in KINDS {
        let authority = Authority::new();
        let options = Options::new(kind);
        let first = TestNode::start(&authority, 1, &options);
        let mut original = TestNode::start(&authority, 2, &options);
        original.know(&[&first]);
        first.until_reaches(&[NodeId(2)]).await;
        let copy = Options { boot_nonce: 8, ..options };
        let mut copy = TestNode::start(&authority, 2, &copy);
        copy.know(&[&first]);
        both_are_told(&mut copy, &mut original, kind).await;
        assert!(!statuses(&first)[&NodeId(2)].linked, "{kind}: neither is linked any more");
    }
}

/// `cp -a` of a running node's directory, and a start of the copy: it counts one start more.
#[tokio::test]
async fn a_later_copy_does_not_take_the_place_of_a_node_that_lives() {
    for kind in KINDS {
        let authority = Authority::new();
        let liveness =
            LivenessConfig { interval: Duration::from_millis(50), timeout: Duration::from_secs(2) };
        let options = Options { liveness, ..Options::new(kind) };
        let mut first = TestNode::start(&authority, 1, &options);
        let mut original = TestNode::start(&authority, 2, &options);
        original.know(&[&first]);
        first.until_reaches(&[NodeId(2)]).await;
        first.next_linked(NodeId(2)).await;
        let copy = Options { incarnation: 2, boot_nonce: 8, ..options };
        let mut copy = TestNode::start(&authority, 2, &copy);
        copy.know(&[&first]);
        both_are_told(&mut copy, &mut original, kind).await;
        first.next_unlinked(NodeId(2)).await;
        assert!(!statuses(&first)[&NodeId(2)].linked, "{kind}: neither is linked any more");
    }
}

#[tokio::test]
async fn an_earlier_life_is_refused() {
    let authority = Authority::new();
    let options = Options { incarnation: 5, ..Options::new(KINDS[0]) };
    let first = TestNode::start(&authority, 1, &options);
    let present = TestNode::start(&authority, 2, &options);
    present.know(&[&first]);
    first.until_reaches(&[NodeId(2)]).await;
    let earlier = Options { incarnation: 4, boot_nonce: 3, ..options };
    let mut earlier = TestNode::start(&authority, 2, &earlier);
    earlier.know(&[&first]);
    let (_, refusal) = earlier.next_refusal().await;
    assert!(matches!(refusal, PeerRefusal::DuplicateNode(_)), "{refusal}");
    assert!(statuses(&first)[&NodeId(2)].linked, "which says nothing against the present one");
}

#[tokio::test]
async fn a_removed_node_is_told_so() {
    let authority = Authority::new();
    let options = Options::new(KINDS[0]);
    let first = TestNode::start(&authority, 1, &options);
    let mut second = TestNode::start(&authority, 2, &options);
    second.know(&[&first]);
    first.until_reaches(&[NodeId(2)]).await;
    first.peers.set_removed(BTreeSet::from([NodeId(2)]));
    let refusal = second.next_refusal().await;
    assert_eq!(refusal, (NodeId(1), PeerRefusal::Removed(NodeId(2))));
    assert!(!statuses(&first)[&NodeId(2)].linked);
}

#[tokio::test]
async fn a_certificate_of_another_node_is_no_use() {
    // It is dialed as node 3 and is node 2: the handshake of TLS fails, and no link comes about.
    let authority = Authority::new();
    let options = Options::new(KINDS[0]);
    let first = TestNode::start(&authority, 1, &options);
    let second = TestNode::start(&authority, 2, &options);
    let mut address = second.addr();
    address.node = NodeId(3);
    first.peers.set_peers(vec![address]);
    let error = loop {
        let status = statuses(&first).remove(&NodeId(3)).unwrap();
        assert!(!status.linked);
        if let Some(error) = status.last_error {
            break error;
        }
        tokio::task::yield_now().await;
    };
    assert!(error.contains("not trusted"), "{error}");
}
