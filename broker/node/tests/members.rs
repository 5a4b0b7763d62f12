//! Nodes of one cluster in one process: how one joins, what one knows of what another did, and what
//! ends one that is not wanted any more.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::path::Path;

use bytes::Bytes;
use plimsoll_node::config::{NodeConfig, PeerTransport};
use plimsoll_node::{Node, NodeFailed};
use plimsoll_protocol::api::{DescribeTopicRequest, RemoveNodeRequest};
use plimsoll_protocol::error::ErrorCode;
use plimsoll_protocol::ids::{NodeId, PartitionIndex};
use plimsoll_transport::TransportKind;
use support::{PATIENCE, TestNode, small_config, topic};
use tempfile::TempDir;
use tokio::time::timeout;

const SECOND: NodeId = NodeId(2);

/// A node that has joined and whose copy of the catalog knows it.
async fn join(first: &TestNode, change: impl FnOnce(&mut NodeConfig)) -> TestNode {
    let token = first.node.join_token().await.unwrap();
    let joined = TestNode::start_with(|config| {
        // The first address of the name may be one where nobody listens.
        config.join = Some(format!("localhost:{}", first.node.addr().port()));
        config.join_token = Some(token.to_string());
        change(config);
    });
    let joined = joined.await;
    let mut catalog = joined.node.broker().catalog_changes();
    let known = catalog.wait_for(|catalog| catalog.node(SECOND).is_some());
    timeout(PATIENCE, known).await.unwrap().unwrap();
    joined
}

#[tokio::test]
async fn a_node_joins_by_a_name_over_either_transport() {
    for transport in [PeerTransport::Quic, PeerTransport::Tls] {
        let first = TestNode::start().await;
        let second = join(&first, |config| config.peer_transport = transport).await;
        second.node.shutdown().await;
        first.node.shutdown().await;
    }
}

/// The copy of the catalog may be a moment behind; that is no reason to deny what exists.
#[tokio::test]
async fn a_topic_that_was_created_through_another_node_is_known_at_once() {
    let first = TestNode::start().await;
    let second = join(&first, |_| {}).await;
    let mut creates = first.client(TransportKind::Quic).await;
    let mut asks = second.client(TransportKind::Quic).await;
    for number in 0..50 {
        let name = format!("t{number}");
        creates.create(&name, 1).await.unwrap();
        let request = DescribeTopicRequest {
            topic: topic(&name),
            first_partition: PartitionIndex(0),
            partitions_max: 0,
        };
        asks.call(&request, Bytes::new()).await.unwrap();
    }
    second.node.shutdown().await;
    first.node.shutdown().await;
}

/// Nobody links with it any more, so the catalog never tells it.
#[tokio::test]
async fn a_node_that_was_removed_while_it_was_down_ends_when_it_is_started() {
    let first = TestNode::start().await;
    let TestNode { node, directory } = join(&first, |_| {}).await;
    node.shutdown().await;
    let mut client = first.client(TransportKind::Quic).await;
    let request = RemoveNodeRequest { node: SECOND, force: true };
    let removed = client.call(&request, Bytes::new()).await.unwrap();
    assert!(removed.removed);
    let node = Node::start(small_config(&directory)).await.unwrap();
    let failed = timeout(PATIENCE, node.failed()).await.unwrap();
    assert!(matches!(failed, NodeFailed::Removed), "{failed}");
    node.shutdown().await;
    first.node.shutdown().await;
}

/// It ended before it had answered, and whoever had asked it was told that the connection was lost.
#[tokio::test]
async fn a_node_that_is_to_remove_itself_names_another_that_does() {
    let first = TestNode::start().await;
    let second = join(&first, |_| {}).await;
    let mut client = second.client(TransportKind::Quic).await;
    let request = RemoveNodeRequest { node: SECOND, force: false };
    let refused = client.call(&request, Bytes::new()).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::NotLeader, "{refused}");
    let other = refused.leader.unwrap();
    assert_eq!(other.node, NodeId(1));
    assert_eq!(other.address.rsplit(':').next(), Some(&*first.node.addr().port().to_string()));
    let mut client = first.client(TransportKind::Quic).await;
    let removed = client.call(&request, Bytes::new()).await.unwrap();
    assert!(removed.removed);
    let failed = timeout(PATIENCE, second.node.failed()).await.unwrap();
    assert!(matches!(failed, NodeFailed::Removed), "{failed}");
    second.node.shutdown().await;
    first.node.shutdown().await;
}

/// `cp -a` of a directory whose node runs, and a start of the copy.
#[tokio::test]
async fn a_node_and_the_copy_of_its_directory_both_end_with_advice() {
    let first = TestNode::start().await;
    let original = join(&first, |_| {}).await;
    let directory = TempDir::new().unwrap();
    copy(&original.directory.path().join("data"), &directory.path().join("data"));
    let copied = Node::start(small_config(&directory)).await.unwrap();
    for node in [&copied, &original.node] {
        let failed = timeout(PATIENCE, node.failed()).await.unwrap();
        assert!(matches!(failed, NodeFailed::Refused { by: NodeId(1), .. }), "{failed}");
        assert!(failed.advice().contains("copy"));
    }
    copied.shutdown().await;
    original.node.shutdown().await;
    first.node.shutdown().await;
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type().unwrap().is_dir() {
            true => copy(&from, &to),
            // A file may go while the directory is read.
            false => drop(std::fs::copy(from, to)),
        }
    }
}
