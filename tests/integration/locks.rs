//! Locks of one node: grants, waits, leases, fences, over restarts.

use std::time::Duration;

use plimsoll_client::{
    Client, ConfigChange, ErrorCode, Fence, GrantFilter, LockError, LockEventKind, LockGuard,
    NewLockNamespace, NewQueue, NewTopic, Producer, Record, SendError,
};
use plimsoll_tests::{TRANSPORTS, TestNode, eventually, within};
use plimsoll_transport::TransportKind;

const NAMESPACE: &str = "jobs";

async fn create(client: &Client) {
    let admin = client.admin();
    within("create", admin.create_lock_namespace(NewLockNamespace::new(NAMESPACE)))
        .await
        .expect("a namespace");
}

async fn topic(client: &Client, name: &str) {
    let made = NewTopic { partitions: 3, ..NewTopic::new(name) };
    within("create", client.admin().create_topic(made)).await.expect("a topic");
}

async fn acquire(client: &Client, lock: &str) -> LockGuard {
    let acquiring = client.lock(NAMESPACE, lock).acquire();
    within("a grant", acquiring).await.expect("it is granted")
}

async fn release(guard: LockGuard) {
    within("a release", guard.release()).await.expect("it is released");
}

async fn fenced(client: &Client, topic: &str, fence: Fence) -> Producer {
    let building = client.producer(topic).fence(fence).build();
    within("build", building).await.expect("a producer")
}

async fn send(producer: &Producer, key: &str) -> Result<(), SendError> {
    within("a send", producer.send(Record::new("x").with_key(key.to_owned()))).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_has_one_holder_and_tokens_rise_over_every_transport_and_a_restart() {
    let mut node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    create(&client).await;
    let mut last = 0;
    for transport in TRANSPORTS {
        let (one, other) = (node.client(transport).await, node.client(transport).await);
        let guard = acquire(&one, "db").await;
        assert!(guard.token() > last && guard.is_held());
        last = guard.token();
        let refused = within("an answer", other.lock(NAMESPACE, "db").try_acquire()).await;
        assert!(
            matches!(refused, Err(LockError::Taken { token: Some(token), .. }) if token == last)
        );
        let waiting = tokio::spawn(async move { acquire(&other, "db").await });
        let admin = one.admin().locks(NAMESPACE);
        eventually("somebody waits", async || {
            let found = within("a look", admin.describe("db")).await.expect("it is there");
            (found.waiters.len() == 1).then_some(())
        })
        .await;
        release(guard).await;
        let guard = within("a hand-over", waiting).await.expect("it does not panic");
        assert!(guard.token() > last);
        last = guard.token();
        release(guard).await;
    }
    node.shut_down().await;
    node.start_again().await;
    let client = node.client(TransportKind::Quic).await;
    let guard = acquire(&client, "db").await;
    assert!(guard.token() > last);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_lock_survives_a_restart_of_the_node() {
    let mut node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    create(&client).await;
    let guard = acquire(&client, "db").await;
    node.shut_down().await;
    node.start_again().await;
    let other = node.client(TransportKind::Quic).await;
    let refused = within("an answer", other.lock(NAMESPACE, "db").try_acquire()).await;
    assert!(matches!(refused, Err(LockError::Taken { .. })), "{refused:?}");
    assert!(guard.is_held());
    release(guard).await;
    drop(acquire(&other, "db").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_session_loses_its_locks_and_its_handle_says_so() {
    let node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    create(&client).await;
    let other = node.client(TransportKind::Quic).await;
    let locks = client.locks(NAMESPACE).lease(Duration::from_secs(1));
    let guard = within("a grant", locks.lock("db").acquire()).await.expect("it is granted");
    let lost = guard.lost();
    let admin = other.admin().locks(NAMESPACE);
    within("force", admin.force_release("db", GrantFilter::default(), "ann"))
        .await
        .expect("it is released");
    let loss = within("the loss", lost).await;
    assert!(!guard.is_held(), "{loss}");
    let next = acquire(&other, "db").await;
    assert!(next.token() > guard.token());
    let released = within("a release", guard.release()).await;
    assert!(released.is_err(), "{released:?}");
    assert!(next.is_held());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_former_holder_cannot_write_even_once_into_a_guarded_topic() {
    let node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    create(&client).await;
    topic(&client, "reports").await;
    let first = client.lock(NAMESPACE, "nightly").guards(["reports"]).acquire();
    let first = within("a grant", first).await.expect("it is granted");
    let writer = fenced(&client, "reports", first.fence()).await;
    for key in ["a", "b", "c", "d", "e"] {
        send(&writer, key).await.expect("it holds the lock");
    }
    release(first).await;
    let other = node.client(TransportKind::Tcp).await;
    let second = other.lock(NAMESPACE, "nightly").guards(["reports"]).acquire();
    let second = within("a grant", second).await.expect("it is granted");
    // Nothing was written under the second token yet, in any partition.
    for key in ["a", "b", "c", "d", "e"] {
        let refused = send(&writer, key).await;
        assert!(
            matches!(refused, Err(SendError::StaleFence { highest }) if highest >= second.token()),
            "{refused:?}"
        );
    }
    let writer = fenced(&other, "reports", second.fence()).await;
    send(&writer, "a").await.expect("it holds the lock");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unguarded_topic_refuses_a_token_behind_a_later_one() {
    let node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    create(&client).await;
    topic(&client, "orders").await;
    let first = acquire(&client, "db").await;
    let old = fenced(&client, "orders", first.fence()).await;
    send(&old, "k").await.expect("it holds the lock");
    let fence = first.fence();
    release(first).await;
    let second = acquire(&client, "db").await;
    let new = fenced(&client, "orders", second.fence()).await;
    send(&new, "k").await.expect("it holds the lock");
    assert!(matches!(send(&old, "k").await, Err(SendError::StaleFence { .. })));
    // Of the future, and of no lock at all.
    let future = Fence { token: second.token() + 1_000_000, ..fence.clone() };
    let unknown = fenced(&client, "orders", future).await;
    let refused = send(&unknown, "k").await;
    assert!(refused.is_err(), "{refused:?}");
    send(&new, "k").await.expect("the state is untouched");
    let nowhere = Fence { namespace: "nowhere".to_owned(), ..fence };
    let refused = send(&fenced(&client, "orders", nowhere).await, "k").await;
    assert!(refused.is_err(), "{refused:?}");
}

/// The chaos test was told that the lock was granted again with token 0.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_over_and_was_not_seen_before_is_refused_with_itself() {
    let node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    create(&client).await;
    topic(&client, "orders").await;
    let guard = acquire(&client, "db").await;
    let token = guard.token();
    let writer = fenced(&client, "orders", guard.fence()).await;
    release(guard).await;
    let refused = send(&writer, "k").await;
    assert!(
        matches!(refused, Err(SendError::StaleFence { highest }) if highest == token),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_requires_a_fence_takes_nothing_without() {
    let node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    create(&client).await;
    topic(&client, "orders").await;
    let change = ConfigChange { key: "require-fence".into(), value: Some("true".into()) };
    within("alter", client.admin().alter_topic("orders", None, vec![change])).await.unwrap();
    let bare = within("build", client.producer("orders").build()).await.unwrap();
    let refused = send(&bare, "k").await;
    assert!(refused.is_err(), "{refused:?}");
    let guard = acquire(&client, "db").await;
    let writer = fenced(&client, "orders", guard.fence()).await;
    send(&writer, "k").await.expect("it shows a fence");
}

#[tokio::test(flavor = "multi_thread")]
async fn settlements_under_a_lost_lock_are_refused() {
    let node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    create(&client).await;
    within("create", client.admin().create_queue(NewQueue::new("tasks"))).await.expect("a queue");
    let sender = within("build", client.producer("tasks").build()).await.unwrap();
    send(&sender, "k").await.unwrap();
    let first = client.lock(NAMESPACE, "worker").guards(["tasks"]).acquire();
    let first = within("a grant", first).await.expect("it is granted");
    let building = client.queue_consumer("tasks").fence(first.fence()).build();
    let mut consumer = within("build", building).await.expect("a consumer");
    let message = within("a message", consumer.next()).await.unwrap().unwrap();
    release(first).await;
    let second = client.lock(NAMESPACE, "worker").guards(["tasks"]).acquire();
    let second = within("a grant", second).await.expect("it is granted");
    let settled = within("a settlement", message.accept()).await;
    assert!(settled.is_err(), "{settled:?}");
    drop(consumer);
    let building = client.queue_consumer("tasks").fence(second.fence()).build();
    let mut consumer = within("build", building).await.expect("a consumer");
    let message = within("a message", consumer.next()).await.unwrap().unwrap();
    within("a settlement", message.accept()).await.expect("it holds the lock");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_to_a_lock_can_be_read_and_watched() {
    let node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    create(&client).await;
    let locks = client.locks(NAMESPACE).label("worker 7");
    let mut watch = within("watch", locks.watch("db")).await.expect("a watch");
    for _ in 0..3 {
        let guard = within("a grant", locks.lock("db").acquire()).await.expect("it is granted");
        for kind in [LockEventKind::Granted, LockEventKind::Released] {
            let token = guard.token();
            if kind == LockEventKind::Released {
                release(guard).await;
                let event = within("news", watch.next()).await.unwrap().unwrap();
                assert_eq!((event.what, event.token), (kind, Some(token)));
                break;
            }
            let event = within("news", watch.next()).await.unwrap().unwrap();
            assert_eq!((event.what, event.token), (kind, Some(token)));
            assert_eq!(event.label.as_deref(), Some("worker 7"));
        }
    }
    let history = within("history", client.admin().locks(NAMESPACE).history("db")).await;
    let mut history = history.expect("a history");
    let mut seen = 0;
    while let Some(event) = within("an event", history.next()).await {
        event.expect("it can be read");
        seen += 1;
    }
    assert_eq!(seen, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_share_writers_wait_and_permits_are_counted() {
    let node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    create(&client).await;
    let (one, two) = (client.locks(NAMESPACE), client.locks(NAMESPACE));
    let reader = within("a grant", one.lock("rw").read().acquire()).await.expect("granted");
    let other = within("a grant", two.lock("rw").read().acquire()).await.expect("granted");
    assert_eq!(reader.token(), other.token(), "readers of one phase share its token");
    let writer = within("an answer", one.lock("rw2").write().acquire()).await.expect("granted");
    let refused = within("an answer", two.lock("rw2").read().try_acquire()).await;
    assert!(matches!(refused, Err(LockError::Taken { .. })));
    release(reader).await;
    release(other).await;
    release(writer).await;
    let mut permits = Vec::new();
    let sessions: Vec<_> = (0..4).map(|_| client.locks(NAMESPACE)).collect();
    for session in &sessions[..3] {
        let permit = session.lock("gpu").permit_of(3).acquire();
        permits.push(within("a permit", permit).await.expect("granted"));
    }
    let slots: std::collections::BTreeSet<_> = permits.iter().map(LockGuard::slot).collect();
    assert_eq!(slots.len(), 3);
    let refused = within("an answer", sessions[3].lock("gpu").permit_of(3).try_acquire()).await;
    assert!(matches!(refused, Err(LockError::Taken { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_wrongly_is_refused_and_changes_nothing() {
    let node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    let nowhere = within("an answer", client.lock("nowhere", "db").acquire()).await;
    assert!(matches!(nowhere, Err(LockError::UnknownNamespace { .. })), "{nowhere:?}");
    create(&client).await;
    topic(&client, "reports").await;
    for lease in [Duration::ZERO, Duration::from_secs(10 * 365 * 86_400)] {
        let refused = client.locks(NAMESPACE).lease(lease).lock("db").acquire();
        let refused = within("an answer", refused).await;
        assert!(matches!(refused, Err(LockError::Input(_))), "{refused:?}");
    }
    let long = within("an answer", client.lock(NAMESPACE, "x".repeat(1 << 20)).acquire()).await;
    assert!(matches!(long, Err(LockError::Input(_))), "{long:?}");
    let guard = client.lock(NAMESPACE, "db").guards(["reports"]).acquire();
    let guard = within("a grant", guard).await.expect("granted");
    let namespaces = client.admin();
    let refused = within("an answer", namespaces.delete_lock_namespace(NAMESPACE, false))
        .await
        .expect_err("it guards a topic");
    assert_eq!(refused.code(), Some(ErrorCode::NamespaceInUse), "{refused}");
    assert!(guard.is_held());
    let admin = client.admin().locks(NAMESPACE);
    let refused =
        within("an answer", admin.delete("db", false, "ann")).await.expect_err("it is held");
    assert_eq!(refused.code(), Some(ErrorCode::LockInUse), "{refused}");
    release(guard).await;
    within("delete", admin.delete("db", false, "ann")).await.expect("it is free");
    within("delete", namespaces.delete_lock_namespace(NAMESPACE, false))
        .await
        .expect("nothing uses it");
}
