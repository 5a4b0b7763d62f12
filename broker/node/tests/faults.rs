//! What a node does when its medium fails or is full. The disk is simulated: it fails on command.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use plimsoll_log::disk::sim::{Effect, Fault, Operation, SimDisk};
use plimsoll_node::Node;
use plimsoll_protocol::api::{DeleteTopicRequest, NodeStatusRequest, PingRequest};
use plimsoll_protocol::error::ErrorCode;
use plimsoll_protocol::ids::Offset;
use plimsoll_replication::SystemClock;
use support::{
    Client, PATIENCE, TestNode, assert_code, batch, eventually, large, small_config, topic,
};
use tempfile::TempDir;
use tokio::time::timeout;

async fn start(disk: &SimDisk) -> TestNode {
    let directory = TempDir::new().unwrap();
    let config = small_config(&directory);
    let clock = Arc::new(SystemClock::new());
    let node = Node::start_on(config, Arc::new(disk.clone()), clock).await.unwrap();
    TestNode { node, directory }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_journal_write_ends_the_node_and_acknowledges_nothing_more() {
    let disk = SimDisk::new(1);
    let node = start(&disk).await;
    let mut client = node.quic().await;
    client.create("t", 1).await.unwrap();
    client.produce("t", 0, batch(0..5)).await.unwrap();
    // One write fails, then the medium is well again: nothing may be retried as if it had been.
    disk.inject(Fault::new(Operation::Write, 1, Effect::Eio).once().on("journal"));
    let refused = client.produce("t", 0, batch(5..6)).await.unwrap_err();
    assert!(
        matches!(refused.code, ErrorCode::StorageFailed | ErrorCode::Timeout),
        "never told to be stored: {refused:?}"
    );
    let failed = timeout(PATIENCE, node.node.failed()).await.unwrap();
    assert!(failed.to_string().contains("journal"), "{failed}");
    assert!(client.produce("t", 0, batch(6..7)).await.is_err(), "nor anything after it");
    node.node.abort().await;
    // What was acknowledged is there; what was not is nowhere or whole.
    let again = start(&disk.kill_process()).await;
    let mut client = again.quic().await;
    let stored = client.fetch_values("t", 0).await;
    assert_eq!(stored[..5], ["0", "1", "2", "3", "4"]);
    assert!(stored.len() <= 7, "{stored:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_produce_and_nothing_else_and_recovers_by_itself() {
    let disk = SimDisk::new(2);
    let node = start(&disk).await;
    let mut client = node.quic().await;
    client.create_with("t", 1, &["segment-bytes=64KiB"]).await.unwrap();
    client.create("other", 1).await.unwrap();
    client.produce("other", 0, batch(0..3)).await.unwrap();
    // Room for a few batches.
    disk.set_capacity(disk.used_bytes() + (4 << 20));
    let mut stored = 0;
    // The store looks at the disk each second, and before it needs more.
    let refused = eventually("the disk is full", async || {
        match client.produce("t", 0, large(256 << 10)).await {
            Ok(_) => stored += 1,
            Err(error) => return Some(error),
        }
        assert!(stored < 1000, "the disk should be full");
        None
    })
    .await;
    assert_eq!(refused.code, ErrorCode::LowDiskSpace, "{refused:?}");
    assert!(refused.message.contains("free_bytes_min"), "{refused:?}");
    // Reading, asking and deleting go on.
    assert_eq!(client.fetch_values("other", 0).await, ["0", "1", "2"]);
    client.call(&PingRequest {}, Bytes::new()).await.unwrap();
    client.call(&NodeStatusRequest {}, Bytes::new()).await.unwrap();
    let (ends, _) = client.fetch("t", 0, 0).await.unwrap();
    assert_eq!(ends.high_watermark, Offset(stored));
    client.call(&DeleteTopicRequest { topic: topic("t") }, Bytes::new()).await.unwrap();
    // The operator gives it more room: produce works again, without a restart.
    disk.set_capacity(1 << 40);
    produce_at_last(&mut client).await;
    node.node.shutdown().await;
}

async fn produce_at_last(client: &mut Client) {
    eventually("a batch is stored again", async || {
        match client.produce("other", 0, batch(3..4)).await {
            Ok(_) => Some(()),
            Err(error) => {
                assert_eq!(error.code, ErrorCode::LowDiskSpace, "{error:?}");
                None
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_partition_is_shut_off_and_the_others_go_on() {
    let disk = SimDisk::new(3);
    let node = start(&disk).await;
    let mut client = node.quic().await;
    client.create("hurt", 1).await.unwrap();
    client.create("well", 1).await.unwrap();
    client.produce("hurt", 0, large(100 << 10)).await.unwrap();
    client.produce("well", 0, batch(0..3)).await.unwrap();
    node.node.shutdown().await;
    let (path, _) = disk
        .files()
        .into_iter()
        .find(|(path, _)| path.contains("segments/0000000000000001-") && path.ends_with(".segment"))
        .expect("the first group after the catalog is the topic's");
    // In the middle of the record.
    disk.flip_bit(&path, 8 * (50 << 10)).unwrap();
    disk.drop_cache();
    let node = start(&disk).await;
    let mut client = node.quic().await;
    assert_code(client.fetch("hurt", 0, 0).await, ErrorCode::Quarantined);
    assert_code(client.produce("hurt", 0, batch(0..1)).await, ErrorCode::Quarantined);
    assert_eq!(client.fetch_values("well", 0).await, ["0", "1", "2"]);
    client.produce("well", 0, batch(3..4)).await.unwrap();
    assert!(disk.files().iter().any(|(file, _)| *file == path), "nothing is deleted for damage");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_failure_loses_nothing_that_was_acknowledged() {
    let mut disk = SimDisk::new(4);
    let mut next = 0;
    for round in 0..6 {
        let node = start(&disk).await;
        let mut client = node.quic().await;
        if round == 0 {
            client.create("t", 1).await.unwrap();
        }
        for _ in 0..20 {
            client.produce("t", 0, batch(next..next + 3)).await.unwrap();
            next += 3;
        }
        let after = disk.crash(&plimsoll_log::disk::sim::CrashPlan::random(round));
        disk.power_off();
        node.node.abort().await;
        disk = after;
        let node = start(&disk).await;
        let mut client = node.quic().await;
        let expected: Vec<_> = (0..next).map(|number| number.to_string()).collect();
        assert_eq!(client.fetch_values("t", 0).await, expected, "round {round}");
        node.node.abort().await;
    }
}
