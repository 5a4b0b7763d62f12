//! Keys and values of a map with a replica on each node: through every node, over leaders that die, and under
//! locks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use plimsoll_client::{Client, Kv, KvError, KvEvent, NewLockNamespace, Revision, Watch, WatchFrom};
use plimsoll_tests::{TestCluster, eventually, within};

use crate::text;

const MAP: &str = "map";
const COMPACTED: &[&str] = &["cleanup=compact"];

async fn put(kv: &Kv, key: &str, value: &str) -> Revision {
    within("a put", kv.put(key, value.to_owned())).await.expect("it is stored")
}

/// Value and revision of a key.
async fn get(kv: &Kv, key: &str) -> Option<(String, Revision)> {
    let entry = within("a get", kv.get(key)).await.expect("it is read")?;
    Some((text(Some(entry.value)), entry.revision))
}

async fn next(watch: &mut Watch) -> KvEvent {
    within("a change", watch.next()).await.expect("the watch goes on").expect("it can be read")
}

/// Kills the node that leads a key's partition, and has it back once another leads.
async fn kill_the_leader(cluster: &mut TestCluster, kv: &Kv, key: &str) {
    let partition = within("a look", kv.partition_of(key)).await.expect("it is known");
    let leader = cluster.leader(MAP, partition).await;
    cluster.nodes.kill(leader).unwrap();
    eventually("another leader", async || kv.get(key).await.ok()).await;
    cluster.nodes.restart(leader).unwrap();
    cluster.wait_until_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_read_and_changed_through_every_node() {
    let cluster = TestCluster::start().await;
    cluster.create_topic(MAP, 3, COMPACTED).await;
    let mut maps = Vec::new();
    for index in 0..3 {
        maps.push(cluster.client_of(index).await.kv(MAP));
    }
    // Enough of them for each partition to have some, and so each node to lead some.
    for key in (0..12).map(|number| format!("key {number}")) {
        let mut last = within("a put", maps[0].put_if_absent(&key, "0")).await.expect("it is new");
        for round in 1..=3 {
            let (one, other) = (&maps[round % 3], &maps[(round + 1) % 3]);
            let taken = within("a put", one.put_if_absent(&key, "x")).await;
            assert!(
                matches!(taken, Err(KvError::Conflict { revision: Some(has) }) if has == last),
                "{taken:?}"
            );
            let value = round.to_string();
            let changing = one.compare_and_set(&key, value.clone(), last);
            let stale = last;
            last = within("a change", changing).await.expect("nobody else changes it");
            assert_eq!(get(other, &key).await, Some((value, last)));
            let lost = within("a change", other.compare_and_set(&key, "x", stale)).await;
            assert!(
                matches!(lost, Err(KvError::Conflict { revision: Some(has) }) if has == last),
                "{lost:?}"
            );
        }
        let deleted = within("a delete", maps[1].delete(&key)).await.expect("it is gone");
        assert_eq!(deleted.before, Some(last));
        for kv in &maps {
            assert_eq!(get(kv, &key).await, None);
            eventually("any replica knows", async || {
                kv.stale().get(&key).await.expect("some replica answers").is_none().then_some(())
            })
            .await;
        }
    }
}

/// Changes a key that nobody else changes, until it is told to end: so a conflict is never true. What it was told
/// of last, and how many outcomes were unknown.
async fn change_alone(kv: Kv, key: String, stopped: Arc<AtomicBool>) -> (u64, u32) {
    let (mut value, mut last, mut unknown) = (0_u64, None, 0);
    while !stopped.load(Ordering::Relaxed) {
        let new = (value + 1).to_string();
        let outcome = match last {
            None => within("a put", kv.put_if_absent(&key, new)).await,
            Some(last) => within("a change", kv.compare_and_set(&key, new, last)).await,
        };
        match outcome {
            Ok(revision) => (value, last) = (value + 1, Some(revision)),
            Err(KvError::Unknown { .. }) => {
                unknown += 1;
                let entry = loop {
                    if let Ok(entry) = within("a look", kv.get(&key)).await {
                        break entry;
                    }
                };
                let found = entry.map(|entry| (text(Some(entry.value)), entry.revision));
                let is = found.as_ref().map_or(0, |(text, _)| text.parse().unwrap());
                assert!(is == value || is == value + 1, "{key}: {is} after {value}");
                (value, last) = (is, found.map(|(_, revision)| revision));
            }
            Err(error) if error.is_definite() && !matches!(error, KvError::Conflict { .. }) => {}
            Err(error) => panic!("{key}: {value} at {last:?}: {error}"),
        }
    }
    (value, unknown)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_leader_is_killed_before_it_answers_is_stored_once_or_told_as_unknown() {
    const KEYS: usize = 6;
    let mut cluster = TestCluster::start().await;
    cluster.create_topic(MAP, 1, COMPACTED).await;
    let client = cluster.client().await;
    let kv = client.kv(MAP);
    let stopped = Arc::<AtomicBool>::default();
    let mut changing = Vec::new();
    for number in 0..KEYS {
        let kv = cluster.client().await.kv(MAP);
        changing.push(tokio::spawn(change_alone(kv, format!("k{number}"), Arc::clone(&stopped))));
    }
    for _ in 0..3 {
        let before = get(&kv, "k0").await;
        eventually("it is changed", async || (get(&kv, "k0").await != before).then_some(())).await;
        kill_the_leader(&mut cluster, &kv, "k0").await;
    }
    stopped.store(true, Ordering::Relaxed);
    let (mut stored, mut unknown) = (0, 0);
    for (number, task) in changing.into_iter().enumerate() {
        let (value, unknowns) = within("the last change", task).await.expect("no conflict is told");
        let (found, _) = get(&kv, &format!("k{number}")).await.expect("it was put");
        assert_eq!(found, value.to_string(), "key {number}");
        (stored, unknown) = (stored + value, unknown + unknowns);
    }
    // Each value of each key is in the log once: what was sent again was known.
    let mut watch = within("watch", kv.watch("k", WatchFrom::Revision(Revision(0)))).await.unwrap();
    let mut values = [0_u64; KEYS];
    for _ in 0..stored {
        let event = next(&mut watch).await;
        let number: usize = text(Some(event.key)).trim_start_matches('k').parse().unwrap();
        values[number] += 1;
        assert_eq!(text(event.value), values[number].to_string(), "key {number}");
    }
    assert!(unknown <= 6 * 3, "{unknown} outcomes were unknown after three kills");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_from_its_revision_over_leaders_that_die() {
    let mut cluster = TestCluster::start().await;
    cluster.create_topic(MAP, 1, COMPACTED).await;
    let kv = cluster.client().await.kv(MAP);
    let mut revisions = Vec::new();
    for number in 0..10 {
        revisions.push(put(&kv, "a", &number.to_string()).await);
        put(&kv, "b", "noise").await;
    }
    let from = WatchFrom::Revision(revisions[5]);
    let mut watch = within("watch", kv.watch_key("a", from.clone())).await.expect("a watch");
    for number in 5..8 {
        assert_eq!(text(next(&mut watch).await.value), number.to_string());
    }
    for round in 1..=2 {
        kill_the_leader(&mut cluster, &kv, "a").await;
        for number in round * 10..round * 10 + 10 {
            revisions.push(put(&kv, "a", &number.to_string()).await);
        }
    }
    for (number, revision) in (0..30).zip(&revisions).skip(8) {
        let event = next(&mut watch).await;
        assert_eq!((text(event.value), event.revision), (number.to_string(), *revision));
    }
    // Another one from the same revision is told the same by another leader.
    let other = cluster.client_of(cluster.leader(MAP, 0).await).await.kv(MAP);
    let mut again = within("watch", other.watch_key("a", from)).await.expect("a watch");
    for revision in &revisions[5..] {
        assert_eq!(next(&mut again).await.revision, *revision);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_under_a_lock_is_refused_once_another_holds_it_whoever_leads() {
    let mut cluster = TestCluster::start().await;
    cluster.create_topic(MAP, 1, COMPACTED).await;
    let client = cluster.client().await;
    let admin = client.admin();
    within("create", admin.create_lock_namespace(NewLockNamespace::new("jobs")))
        .await
        .expect("a namespace");
    let kv = client.kv(MAP);
    let acquire = async |client: &Client| {
        let locks = client.locks("jobs").lease(Duration::from_secs(30));
        within("a grant", locks.lock("db").guards([MAP]).acquire()).await.expect("it is granted")
    };
    let first = acquire(&client).await;
    let former = kv.with_fence(first.fence());
    let stored = put(&former, "a", "first").await;
    kill_the_leader(&mut cluster, &kv, "a").await;
    let changing = former.compare_and_set("a", "first, again", stored);
    within("a change", changing).await.expect("it holds the lock");
    within("a release", first.release()).await.expect("it is released");
    let second = acquire(&cluster.client_of(1).await).await;
    let is_stale = |refused: &Result<Revision, KvError>| matches!(refused, Err(KvError::StaleFence { highest }) if *highest == second.token());
    // Before the new holder has written anything, and whatever the key has.
    let refused = within("a put", former.put("a", "late")).await;
    assert!(is_stale(&refused), "{refused:?}");
    kill_the_leader(&mut cluster, &kv, "a").await;
    let refused = within("a put", former.put_if_absent("b", "late")).await;
    assert!(is_stale(&refused), "{refused:?}");
    let current = kv.with_fence(second.fence());
    let stored = put(&current, "a", "second").await;
    let refused = within("a delete", former.delete_if("a", stored)).await;
    assert!(is_stale(&refused), "{refused:?}");
    assert_eq!(get(&kv, "a").await, Some(("second".to_owned(), stored)));
    assert_eq!(get(&kv, "b").await, None);
    within("a release", second.release()).await.expect("it is released");
}
