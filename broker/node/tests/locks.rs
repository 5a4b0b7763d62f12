//! Locks by frames: what a client of our own would not say, and stale writes by the hundred.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use bytes::Bytes;
use plimsoll_protocol::api::{
    AcquireLockRequest, CheckFenceRequest, CloseLockSessionRequest, CreateNamespaceRequest, Fence,
    KeepLockSessionRequest, LockGrant, LockMode, OpenLockSessionRequest, ProduceRequest,
    RaiseFloorRequest, ReleaseLockRequest,
};
use plimsoll_protocol::batch::{Compression, Record};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::{PartitionIndex, TopicName};
use support::{
    Client, NOBODY, TestNode, assert_code, batch, build, produce_request, sequenced, topic,
};

const NAMESPACE: &str = "jobs";

async fn create(client: &mut Client) {
    let request = CreateNamespaceRequest {
        namespace: NAMESPACE.into(),
        replicas: 0,
        history_ms: 60_000,
        if_not_exists: false,
    };
    client.call(&request, Bytes::new()).await.unwrap();
}

fn open(session: u128, lease_ms: u32) -> OpenLockSessionRequest {
    let (namespace, label) = (NAMESPACE.into(), format!("session {session}"));
    OpenLockSessionRequest { namespace, session, lease_ms, label }
}

fn acquire(session: u128, request: u64, wait_ms: Option<u64>) -> AcquireLockRequest {
    AcquireLockRequest {
        namespace: NAMESPACE.into(),
        session,
        request,
        lock: "db".into(),
        mode: LockMode::Exclusive,
        permits: 0,
        value: Bytes::new(),
        guards: vec![topic("t")],
        wait_ms,
    }
}

fn release(session: u128, request: u64, token: u64) -> ReleaseLockRequest {
    let (namespace, lock) = (NAMESPACE.into(), "db".into());
    ReleaseLockRequest { namespace, session, request, lock, token }
}

fn fence(token: u64) -> Option<Fence> {
    Some(Fence { namespace: NAMESPACE.into(), lock: "db".into(), token })
}

fn produce(token: u64) -> ProduceRequest {
    ProduceRequest { fence: fence(token), ..produce_request("t", 0) }
}

async fn held(client: &mut Client, session: u128) -> LockGrant {
    client.call(&open(session, 600_000), Bytes::new()).await.unwrap();
    client.call(&acquire(session, 1, None), Bytes::new()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_holder_whose_lease_ended_a_hundred_of_a_hundred_writes_are_refused() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    create(&mut client).await;
    client.create("t", 1).await.unwrap();
    // It says nothing any more, as a process that is stopped.
    client.call(&open(1, 1_000), Bytes::new()).await.unwrap();
    let paused = client.call(&acquire(1, 1, Some(0)), Bytes::new()).await.unwrap();
    client.call(&produce(paused.token), batch(0..1)).await.unwrap();
    let mut other = node.quic().await;
    let next = held(&mut other, 2).await;
    assert!(next.token > paused.token);
    for number in 0..100 {
        let refused = client.call(&produce(paused.token), batch(number..number + 1)).await;
        let error = refused.unwrap_err();
        assert_eq!((error.code, error.offset), (ErrorCode::StaleFence, Some(next.token)));
        // Fifty before the new holder's first write, fifty behind it.
        if number == 49 {
            other.call(&produce(next.token), batch(7..8)).await.unwrap();
        }
    }
    assert_eq!(client.fetch_values("t", 0).await.len(), 2);
    let gone = client.call(&acquire(1, 2, Some(0)), Bytes::new()).await;
    assert_code(gone, ErrorCode::SessionGone);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_was_stored_under_a_lock_is_known_after_the_lock_is_lost() {
    let mut node = TestNode::start().await;
    let mut client = node.quic().await;
    create(&mut client).await;
    client.create("t", 1).await.unwrap();
    let producer = client.producer().await;
    let first = held(&mut client, 1).await;
    let stored = sequenced(0..3, &producer, 0);
    let before = client.call(&produce(first.token), stored.clone()).await.unwrap();
    client.call(&release(1, 1, first.token), Bytes::new()).await.unwrap();
    let second = held(&mut client, 2).await;
    let again = client.call(&produce(first.token), stored.clone()).await.unwrap();
    assert!(again.duplicate);
    assert_eq!(again.base_offset, before.base_offset);
    // Also where nothing is folded yet.
    drop(client);
    node = node.restart().await;
    let mut client = node.quic().await;
    let again = client.call(&produce(first.token), stored).await.unwrap();
    assert!(again.duplicate);
    // What comes next was never stored, and nothing before it makes it pass.
    let next = client.call(&produce(first.token), sequenced(3..4, &producer, 3)).await;
    assert_code(next, ErrorCode::StaleFence);
    let beyond = client.call(&produce(first.token), sequenced(9..10, &producer, 9)).await;
    assert_code(beyond, ErrorCode::StaleFence);
    client.call(&produce(second.token), sequenced(3..4, &producer, 3)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_acquire_and_the_same_release_have_the_same_answers() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    create(&mut client).await;
    client.create("t", 1).await.unwrap();
    let grant = held(&mut client, 1).await;
    let again = client.call(&acquire(1, 1, None), Bytes::new()).await.unwrap();
    assert_eq!(again, grant);
    for _ in 0..2 {
        client.call(&release(1, 1, grant.token), Bytes::new()).await.unwrap();
    }
    let other = held(&mut client, 2).await;
    assert!(other.token > grant.token);
    let refused = client.call(&release(1, 7, other.token), Bytes::new()).await;
    assert_code(refused, ErrorCode::NotLockHolder);
    let taken: Result<LockGrant, ErrorResponse> =
        client.call(&acquire(1, 2, Some(0)), Bytes::new()).await;
    assert_eq!(taken.unwrap_err().offset, Some(other.token));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_out_of_bounds_or_of_another_is_refused_and_changes_nothing() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    create(&mut client).await;
    client.create("t", 1).await.unwrap();
    for lease_ms in [0, 999, 600_001, u32::MAX] {
        let refused = client.call(&open(1, lease_ms), Bytes::new()).await;
        assert_code(refused, ErrorCode::InvalidArgument);
    }
    let keep = KeepLockSessionRequest { namespace: NAMESPACE.into(), session: 1 };
    assert_code(client.call(&keep, Bytes::new()).await, ErrorCode::SessionGone);
    let grant = held(&mut client, 1).await;
    for lock in ["", "a#1", "x y", &"x".repeat(256)] {
        let request = AcquireLockRequest { lock: lock.into(), ..acquire(1, 9, Some(0)) };
        let refused = client.call(&request, Bytes::new()).await;
        assert_code(refused, ErrorCode::InvalidArgument);
    }
    assert_code(client.call(&produce(u64::MAX), batch(0..1)).await, ErrorCode::UnknownFence);
    let nowhere = Fence { namespace: "nowhere".into(), lock: "db".into(), token: grant.token };
    let request = ProduceRequest { fence: Some(nowhere), ..produce_request("t", 0) };
    assert_code(client.call(&request, batch(0..1)).await, ErrorCode::UnknownNamespace);
    // Between nodes only: a client could shut out whoever holds the lock.
    let raise = RaiseFloorRequest {
        topic: topic("t"),
        partition: PartitionIndex(0),
        namespace_id: 1,
        lock: "db".into(),
        token: Some(u64::MAX),
    };
    assert_code(client.call(&raise, Bytes::new()).await, ErrorCode::InvalidArgument);
    let check = CheckFenceRequest { fence: fence(grant.token).unwrap() };
    assert_code(client.call(&check, Bytes::new()).await, ErrorCode::InvalidArgument);
    // What happened to locks only their keeper writes.
    let internal = TopicName::internal("__locks.jobs").unwrap();
    let request = ProduceRequest { topic: internal, ..produce_request("t", 0) };
    let keyed = Record::new("x").with_key("db");
    let keyed = build(std::slice::from_ref(&keyed), &NOBODY, 0, Compression::None);
    assert_code(client.call(&request, keyed).await, ErrorCode::InvalidTopicName);
    client.call(&produce(grant.token), batch(0..1)).await.unwrap();
    let close = CloseLockSessionRequest { namespace: NAMESPACE.into(), session: 1 };
    client.call(&close, Bytes::new()).await.unwrap();
    assert_code(client.call(&acquire(1, 3, Some(0)), Bytes::new()).await, ErrorCode::SessionGone);
}
