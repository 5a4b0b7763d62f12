//! Locks whose leader dies: what is held stays held, who waits keeps its place, no token comes twice, and a
//! former holder cannot write.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use plimsoll_client::{Client, LockGuard, Locks, NewLockNamespace, Record, SendError};
use plimsoll_tests::{TestCluster, eventually, within};

const NAMESPACE: &str = "jobs";
const TOPIC: &str = "__locks.jobs";
const WAITERS: usize = 5;
const ROUNDS: usize = 2;

async fn acquire(locks: &Locks, guards: &[&str]) -> LockGuard {
    let acquiring = locks.lock("db").guards(guards.iter().copied()).acquire();
    within("a grant", acquiring).await.expect("it is granted")
}

async fn waiting(client: &Client) -> u32 {
    let admin = client.admin().locks(NAMESPACE);
    eventually("the lock", async || admin.describe("db").await.ok()).await.info.waiters
}

/// Kills the node that leads the namespace, and has it back once another leads.
async fn kill_the_leader(cluster: &mut TestCluster, client: &Client) {
    let leader = cluster.leader(TOPIC, 0).await;
    cluster.nodes.kill(leader).unwrap();
    let admin = client.admin().locks(NAMESPACE);
    eventually("another leader", async || admin.list("").await.ok()).await;
    cluster.nodes.restart(leader).unwrap();
    cluster.wait_until_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_whose_leader_is_killed_stays_held_and_its_waiters_keep_their_order() {
    let mut cluster = TestCluster::start().await;
    let client = cluster.client().await;
    cluster.create_topic("reports", 3, &[]).await;
    let admin = client.admin();
    within("create", admin.create_lock_namespace(NewLockNamespace::new(NAMESPACE)))
        .await
        .expect("a namespace");
    let lease = Duration::from_secs(30);
    let first = acquire(&client.locks(NAMESPACE).lease(lease), &["reports"]).await;
    let order = Arc::<Mutex<Vec<(usize, u64)>>>::default();
    let mut waiters = Vec::new();
    for number in 0..WAITERS {
        let (locks, order) = (client.locks(NAMESPACE).lease(lease), Arc::clone(&order));
        waiters.push(tokio::spawn(async move {
            let guard = acquire(&locks, &[]).await;
            order.lock().unwrap().push((number, guard.token()));
            within("a release", guard.release()).await.expect("it is released");
        }));
        eventually("it waits", async || {
            (waiting(&client).await as usize == number + 1).then_some(())
        })
        .await;
    }
    let writer = client.producer("reports").fence(first.fence()).build();
    let writer = within("build", writer).await.expect("a producer");
    for _ in 0..ROUNDS {
        kill_the_leader(&mut cluster, &client).await;
        assert!(first.is_held());
        assert!(order.lock().unwrap().is_empty(), "somebody was granted a lock that is held");
        within("a send", writer.send(Record::new("x"))).await.expect("it holds the lock");
    }
    let token = first.token();
    within("a release", first.release()).await.expect("it is released");
    for waiter in waiters {
        within("a waiter", waiter).await.expect("it had its turn");
    }
    let order = order.lock().unwrap().clone();
    let numbers: Vec<_> = order.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (0..WAITERS).collect::<Vec<_>>());
    assert!(order[0].1 > token && order.is_sorted_by(|a, b| a.1 < b.1), "{order:?}");
    let refused = within("a send", writer.send(Record::new("x"))).await;
    assert!(matches!(refused, Err(SendError::StaleFence { .. })), "{refused:?}");
    kill_the_leader(&mut cluster, &client).await;
    let last = acquire(&client.locks(NAMESPACE), &[]).await;
    assert!(last.token() > order[WAITERS - 1].1);
}
