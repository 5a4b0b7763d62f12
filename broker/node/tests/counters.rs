//! Counters of single namespaces of locks and compacted topics, as the status of a node shows them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use bytes::Bytes;
use plimsoll_protocol::api::{
    AcquireLockRequest, CreateNamespaceRequest, DeleteNamespaceRequest, Fence,
    ForceReleaseLockRequest, LockMode, NodeStatusRequest, OpenLockSessionRequest, ProduceRequest,
    ReleaseLockRequest,
};
use plimsoll_protocol::batch::{Compression, Record};
use plimsoll_protocol::error::ErrorCode;
use support::{Client, NOBODY, TestNode, assert_code, batch, build, eventually, produce_request};

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

fn acquire(session: u128, lock: &str) -> AcquireLockRequest {
    AcquireLockRequest {
        namespace: NAMESPACE.into(),
        session,
        request: 1,
        lock: lock.into(),
        mode: LockMode::Exclusive,
        permits: 0,
        value: Bytes::new(),
        guards: Vec::new(),
        wait_ms: None,
    }
}

/// What the node shows under this name, if anything.
async fn shown(client: &mut Client, name: &str) -> Option<u64> {
    let status = client.call(&NodeStatusRequest {}, Bytes::new()).await.unwrap();
    let found = status.counters.iter().find(|counter| counter.name == name);
    found.map(|counter| counter.value)
}

async fn of_jobs(client: &mut Client, what: &str) -> Option<u64> {
    shown(client, &format!("{what}{{namespace=\"{NAMESPACE}\"}}")).await
}

async fn of_map(client: &mut Client, what: &str) -> Option<u64> {
    shown(client, &format!("{what}{{topic=\"map\"}}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_namespace_holds_and_what_was_done_in_it_is_counted() {
    let node = TestNode::start().await;
    let (mut client, mut other) = (node.quic().await, node.quic().await);
    client.create("t", 1).await.unwrap();
    assert_eq!(of_jobs(&mut client, "lock_sessions_open").await, None);
    create(&mut client).await;

    client.call(&open(1, 600_000), Bytes::new()).await.unwrap();
    other.call(&open(2, 600_000), Bytes::new()).await.unwrap();
    let first = client.call(&acquire(1, "db"), Bytes::new()).await.unwrap();
    other.send(&acquire(2, "db"), Bytes::new()).await;
    eventually("it waits", async || {
        (of_jobs(&mut client, "lock_waiters").await == Some(1)).then_some(())
    })
    .await;
    for (what, value) in [
        ("lock_sessions_open", 2),
        ("locks_held", 1),
        ("lock_grants", 1),
        ("lock_releases", 0),
        ("lock_forced_releases", 0),
        ("lock_sessions_expired", 0),
        ("stale_fences_refused", 0),
    ] {
        assert_eq!(of_jobs(&mut client, what).await, Some(value), "{what}");
    }

    let (namespace, lock) = (NAMESPACE.into(), "db".into());
    let release =
        ReleaseLockRequest { namespace, session: 1, request: 1, lock, token: first.token };
    client.call(&release, Bytes::new()).await.unwrap();
    let second = other.frame().await.decode_response::<AcquireLockRequest>().unwrap();
    // The same again releases nothing.
    client.call(&release, Bytes::new()).await.unwrap();
    for (what, value) in
        [("locks_held", 1), ("lock_waiters", 0), ("lock_grants", 2), ("lock_releases", 1)]
    {
        assert_eq!(of_jobs(&mut client, what).await, Some(value), "{what}");
    }

    // The partition learns of the second holder, and refuses the first.
    let fence = |token| Some(Fence { namespace: NAMESPACE.into(), lock: "db".into(), token });
    let produce = |token| ProduceRequest { fence: fence(token), ..produce_request("t", 0) };
    other.call(&produce(second.token), batch(0..1)).await.unwrap();
    for number in 1..4 {
        let refused = client.call(&produce(first.token), batch(number..number + 1)).await;
        assert_code(refused, ErrorCode::StaleFence);
    }
    assert_eq!(of_jobs(&mut client, "stale_fences_refused").await, Some(3));

    let force = ForceReleaseLockRequest {
        namespace: NAMESPACE.into(),
        lock: "db".into(),
        token: None,
        session: None,
        by: "test".into(),
    };
    client.call(&force, Bytes::new()).await.unwrap();
    assert_eq!(of_jobs(&mut client, "lock_forced_releases").await, Some(1));
    assert_eq!(of_jobs(&mut client, "locks_held").await, Some(0));

    // One that is silent.
    other.call(&open(3, 1_000), Bytes::new()).await.unwrap();
    assert_eq!(of_jobs(&mut client, "lock_sessions_open").await, Some(3));
    eventually("it expires", async || {
        (of_jobs(&mut client, "lock_sessions_expired").await == Some(1)).then_some(())
    })
    .await;
    assert_eq!(of_jobs(&mut client, "lock_sessions_open").await, Some(2));

    // With the namespace go its counters.
    let delete = DeleteNamespaceRequest { namespace: NAMESPACE.into(), forced: true };
    client.call(&delete, Bytes::new()).await.unwrap();
    assert_eq!(of_jobs(&mut client, "lock_grants").await, None);
    create(&mut client).await;
    client.call(&open(1, 600_000), Bytes::new()).await.unwrap();
    assert_eq!(of_jobs(&mut client, "lock_sessions_open").await, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_was_stored_before_its_fence_was_stale_is_no_refusal() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    create(&mut client).await;
    client.create("t", 1).await.unwrap();
    let producer = client.producer().await;
    client.call(&open(1, 600_000), Bytes::new()).await.unwrap();
    let first = client.call(&acquire(1, "db"), Bytes::new()).await.unwrap();
    let fence = |token| Some(Fence { namespace: NAMESPACE.into(), lock: "db".into(), token });
    let produce = |token| ProduceRequest { fence: fence(token), ..produce_request("t", 0) };
    let stored = support::sequenced(0..3, &producer, 0);
    client.call(&produce(first.token), stored.clone()).await.unwrap();
    let (namespace, lock) = (NAMESPACE.into(), "db".into());
    let release =
        ReleaseLockRequest { namespace, session: 1, request: 1, lock, token: first.token };
    client.call(&release, Bytes::new()).await.unwrap();
    client.call(&open(2, 600_000), Bytes::new()).await.unwrap();
    let second = client.call(&acquire(2, "db"), Bytes::new()).await.unwrap();
    client.call(&produce(second.token), batch(7..8)).await.unwrap();
    assert!(client.call(&produce(first.token), stored).await.unwrap().duplicate);
    assert_eq!(of_jobs(&mut client, "stale_fences_refused").await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_compaction_keeps_and_removes_is_counted() {
    let node = TestNode::start_with(|config| {
        config.set("retention_interval", "100ms", "test").unwrap();
    })
    .await;
    let mut client = node.quic().await;
    client.create_with("map", 1, &["cleanup=compact", "segment-bytes=64KiB"]).await.unwrap();
    client.create("t", 1).await.unwrap();
    assert_eq!(of_map(&mut client, "compaction_runs").await, None);
    let records: Vec<_> = (0..100)
        .map(|number| {
            let key = format!("key {}", number % 10);
            Record::new(vec![b'x'; 100]).with_key(key).with_timestamp_ms(1_700_000_000_000)
        })
        .collect();
    eventually("it is compacted", async || {
        let batch = build(&records, &NOBODY, 0, Compression::None);
        client.produce("map", 0, batch).await.unwrap();
        of_map(&mut client, "compaction_runs").await
    })
    .await;
    for what in [
        "compaction_runs",
        "compaction_records_kept",
        "compaction_records_removed",
        "compaction_kept_bytes",
        "compaction_removed_bytes",
    ] {
        assert!(of_map(&mut client, what).await.unwrap() > 0, "{what}");
    }
    assert_eq!(shown(&mut client, "compaction_runs{topic=\"t\"}").await, None);
}
