//! Keys and values against a scripted node: whatever fails, a change is stored once or said to be in doubt, a
//! watch misses nothing and tells nothing twice, and a cache knows when it is stale.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod node;

use std::time::Duration;

use bytes::Bytes;
use plimsoll_client::{
    ErrorCode, Fence, Freshness, Kv, KvError, KvEvent, NearCacheOptions, Offset, Record, Revision,
    SendError, StartPosition, Watch, WatchFrom, WhenStale,
};
use plimsoll_protocol::batch::{CompactedBatchBuilder, CompactedFrom, Compression};
use plimsoll_protocol::ids::{LogId, LogIndex, Term};
use tokio::time::timeout;

use node::{Act, Node};

const LONG: Duration = Duration::from_secs(60);

async fn map(partitions: usize) -> (Node, Kv) {
    let (node, client) = Node::start(partitions).await;
    let kv = client.kv("t");
    (node, kv)
}

async fn next(watch: &mut Watch) -> Result<KvEvent, KvError> {
    timeout(LONG, watch.next()).await.expect("a change").expect("the watch goes on")
}

async fn told(watch: &mut Watch) -> (String, Option<String>) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let event = next(watch).await.unwrap();
    (text(&event.key), event.value.as_deref().map(text))
}

fn value(key: &str, value: &str) -> (String, Option<String>) {
    (key.to_owned(), Some(value.to_owned()))
}

#[tokio::test]
async fn a_key_has_what_it_was_given_last() {
    let (_node, kv) = map(4).await;
    assert_eq!(kv.get("a").await.unwrap(), None);
    let first = kv.put("a", "1").await.unwrap();
    let entry = kv.get("a").await.unwrap().unwrap();
    assert_eq!((&entry.value[..], entry.revision), (&b"1"[..], first));
    let second = kv.compare_and_set("a", "2", first).await.unwrap();
    assert!(second > first);
    let lost = kv.compare_and_set("a", "3", first).await.unwrap_err();
    assert!(matches!(lost, KvError::Conflict { revision: Some(has) } if has == second), "{lost}");
    assert!(kv.put_if_absent("a", "3").await.is_err());
    let deleted = kv.stale().delete("a").await.unwrap();
    assert_eq!(deleted.before, Some(second));
    assert!(deleted.revision > second);
    assert_eq!(kv.delete("a").await.unwrap().before, None);
    let gone = kv.delete_if("a", second).await.unwrap_err();
    assert!(matches!(gone, KvError::Conflict { revision: None }), "{gone}");
    kv.put_if_absent("a", "4").await.unwrap();
}

#[tokio::test]
async fn a_change_whose_answer_is_lost_is_sent_again_and_stored_once() {
    let (node, kv) = map(1).await;
    node.state().acts = vec![Act::StoreAndBreak, Act::Store, Act::Break, Act::StoreAndBreak];
    // Sent again its condition would not hold: the node knows it.
    assert_eq!(kv.put_if_absent("a", "1").await.unwrap(), Revision(0));
    assert_eq!(kv.compare_and_set("a", "2", Revision(0)).await.unwrap(), Revision(1));
    assert_eq!(kv.put("a", "3").await.unwrap(), Revision(2));
    assert_eq!(node.state().logs[0].end, 3);
}

#[tokio::test]
async fn a_passing_refusal_is_tried_again_and_a_lasting_doubt_is_told() {
    let (node, kv) = map(1).await;
    node.state().acts =
        vec![Act::Refuse(ErrorCode::NotReady), Act::Refuse(ErrorCode::UnknownProducer)];
    kv.put("a", "1").await.unwrap();
    assert_eq!(node.state().attempts, 3);
    node.state().acts = vec![Act::Refuse(ErrorCode::Timeout); 10_000];
    let unknown = kv.put("a", "2").await.unwrap_err();
    assert!(matches!(unknown, KvError::Unknown { .. }) && !unknown.is_definite(), "{unknown}");
    node.state().acts.clear();
    // Not taken for the one before, of which an attempt that was given up may be stored still.
    let revision = kv.put("a", "3").await.unwrap();
    assert!([Revision(1), Revision(2)].contains(&revision), "{revision:?}");
    let entry = kv.get("a").await.unwrap().unwrap();
    assert_eq!((&entry.value[..], entry.revision), (&b"3"[..], revision));
}

/// Whoever was told of a conflict took the change for refused; the attempt that was lost on its way to a former
/// leader was carried out there later, once the key was absent again.
#[tokio::test]
async fn a_conflict_behind_a_lost_attempt_is_told_as_unknown_unless_the_attempt_comes_too_late() {
    let (node, kv) = map(1).await;
    let first = Revision(node.write("a", Some("1")));
    let sure = kv.put_if_absent("a", "mine").await.unwrap_err();
    assert!(matches!(sure, KvError::Conflict { revision: Some(has) } if has == first), "{sure}");
    node.state().acts = vec![Act::Break];
    let doubted = kv.put_if_absent("a", "mine").await.unwrap_err();
    assert!(matches!(doubted, KvError::Unknown { .. }) && !doubted.is_definite(), "{doubted}");
    // The first revision never comes back.
    let second = Revision(node.write("a", Some("2")));
    node.state().acts = vec![Act::Break];
    let late = kv.compare_and_set("a", "mine", first).await.unwrap_err();
    assert!(matches!(late, KvError::Conflict { revision: Some(has) } if has == second), "{late}");
    node.write("a", None);
    node.state().acts = vec![Act::Break];
    let doubted = kv.put_if_present("a", "mine").await.unwrap_err();
    assert!(matches!(doubted, KvError::Unknown { .. }), "{doubted}");
    // Not taken for one of those before.
    let stored = kv.put_if_absent("a", "3").await.unwrap();
    assert_eq!(kv.get("a").await.unwrap().unwrap().revision, stored);
}

#[tokio::test]
async fn a_change_that_was_dropped_half_way_is_not_taken_for_the_next() {
    let (node, kv) = map(1).await;
    kv.put("a", "1").await.unwrap();
    for _ in 0..20 {
        let dropped = timeout(Duration::from_micros(300), kv.put("a", "lost")).await;
        let kept = kv.put("a", "kept").await.unwrap();
        let entry = kv.get("a").await.unwrap().unwrap();
        assert!(entry.revision >= kept, "{dropped:?}");
        if entry.revision == kept {
            assert_eq!(&entry.value[..], b"kept");
        }
    }
    assert!(node.state().logs[0].end >= 21);
}

#[tokio::test]
async fn changes_at_once_are_all_stored_once() {
    let (node, kv) = map(2).await;
    node.state().acts = vec![Act::Store, Act::StoreAndBreak, Act::Store, Act::Break];
    let putting = (0..100).map(|number| {
        let kv = kv.clone();
        async move { kv.put(format!("k{number}"), "v").await.unwrap() }
    });
    futures_util::future::join_all(putting).await;
    let stored: u64 = node.state().logs.iter().map(|log| log.end).sum();
    assert_eq!(stored, 100);
}

#[tokio::test]
async fn a_stale_fence_is_told_with_the_highest_token_and_not_tried_again() {
    let (node, client) = Node::start(1).await;
    let fence: Fence = "jobs/nightly/7".parse().unwrap();
    let kv = client.kv("t").with_fence(fence.clone());
    kv.put("a", "1").await.unwrap();
    let producer = client.producer("t").fence(fence).build().await.unwrap();
    producer.send(Record::new("v").with_key("b")).await.unwrap();
    node.state().token_min = 9;
    let attempts = node.state().attempts;
    let stale = kv.put("a", "2").await.unwrap_err();
    assert!(matches!(stale, KvError::StaleFence { highest: 9 }), "{stale}");
    let stale = producer.send(Record::new("v").with_key("b")).await.unwrap_err();
    assert!(
        matches!(stale, SendError::StaleFence { highest: 9 }) && stale.is_definite(),
        "{stale}"
    );
    assert_eq!(node.state().attempts, attempts + 2);
    node.state().token_min = 0;
    let stays = producer.send(Record::new("v").with_key("b")).await.unwrap_err();
    assert!(matches!(stays, SendError::StaleFence { highest: 9 }), "{stays}");
}

#[tokio::test]
async fn a_scan_has_the_keys_of_all_partitions_in_their_order() {
    let (node, kv) = map(3).await;
    for number in 0..40 {
        node.write(&format!("k{number:02}"), Some("v"));
    }
    node.write("other", Some("v"));
    let mut scan = kv.scan("k").keys_only();
    for number in 0..40 {
        let entry = scan.next().await.unwrap().unwrap();
        assert_eq!(entry.key, format!("k{number:02}"));
        assert!(entry.value.is_empty());
    }
    assert!(scan.next().await.is_none());
    assert!(node.state().scans > 15, "there were pages");
}

#[tokio::test]
async fn a_watch_behind_a_scan_misses_nothing_and_tells_nothing_twice() {
    let (node, kv) = map(1).await;
    for key in ["a", "b", "c", "d"] {
        node.write(key, Some("1"));
    }
    // The first page has a and b, and its watch would tell d again, which the second page has seen.
    node.state().between_pages = vec![("a", "2"), ("d", "2")];
    let mut watch = kv.watch("", WatchFrom::Present).await.unwrap();
    let expected =
        [value("a", "1"), value("b", "1"), value("c", "1"), value("d", "2"), value("a", "2")];
    for expected in expected {
        assert_eq!(told(&mut watch).await, expected);
    }
    node.write("c", None);
    assert_eq!(told(&mut watch).await, ("c".to_owned(), None));
    node.break_all();
    node.write("e", Some("1"));
    assert_eq!(told(&mut watch).await, value("e", "1"));
    let behind = watch.positions();
    drop(watch);
    node.write("f", Some("1"));
    let mut on = kv.watch("", WatchFrom::Positions(behind)).await.unwrap();
    assert_eq!(told(&mut on).await, value("f", "1"));
}

#[tokio::test]
async fn a_watch_from_what_is_compacted_says_so() {
    let (node, kv) = map(1).await;
    for _ in 0..5 {
        node.write("a", Some("1"));
    }
    node.state().compacted_to = 3;
    let mut watch = kv.watch_key("a", WatchFrom::Revision(Revision(2))).await.unwrap();
    let error = next(&mut watch).await.unwrap_err();
    let (wanted, first) = (Some(Revision(2)), None);
    assert!(
        matches!(&error, KvError::Compacted { partition: 0, wanted: w, first: f } if (*w, *f) == (wanted, first)),
        "{error}"
    );
    assert!(error.to_string().contains("from revision 2 on"), "{error}");
    assert!(watch.next().await.is_none(), "it has ended");
    let mut watch = kv.watch_key("a", WatchFrom::Revision(Revision(3))).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap().revision, Revision(3));
}

#[tokio::test]
async fn the_history_of_a_key_is_what_the_topic_keeps_of_it() {
    let (node, kv) = map(2).await;
    node.write("a", Some("1"));
    node.write("b", Some("x"));
    node.write("a", None);
    let kept = kv.history("a").await.unwrap();
    let values: Vec<_> = kept.iter().map(|event| event.value.as_deref()).collect();
    assert_eq!(values, [Some(&b"1"[..]), None]);
}

#[tokio::test]
async fn a_cache_answers_from_memory_what_the_watch_keeps_fresh() {
    let (node, kv) = map(2).await;
    node.write("k1", Some("1"));
    let options = NearCacheOptions {
        stale_after: Duration::from_millis(400),
        when_stale: WhenStale::Serve,
        ..NearCacheOptions::default()
    };
    let cache = kv.near_cache_with("k", options);
    timeout(LONG, cache.loaded()).await.unwrap();
    let (node, cache) = (&node, &cache);
    let sees = |key: &'static str, expected: Option<&'static str>| async move {
        let seen = async {
            loop {
                let cached = cache.get(key).await.unwrap();
                let value = cached.entry.map(|entry| entry.value);
                if value.as_deref() == expected.map(str::as_bytes)
                    && matches!(cached.freshness, Freshness::Live { .. })
                {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, seen).await.expect("it is seen");
    };
    sees("k1", Some("1")).await;
    sees("k2", None).await;
    node.write("k2", Some("2"));
    sees("k2", Some("2")).await;
    let gets = node.state().gets;
    sees("k1", Some("1")).await;
    assert_eq!(node.state().gets, gets, "the node was not asked");
    let asked = cache.get("elsewhere").await.unwrap();
    assert_eq!((asked.entry, asked.freshness), (None, Freshness::Asked));
    // It is found again, and a watch that missed something loads anew.
    node.break_all();
    node.write("k1", Some("3"));
    sees("k1", Some("3")).await;
    node.state().compacted_to = 1_000;
    node.break_all();
    let reloads = async {
        while !cache.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, reloads).await.expect("it has nothing");
    assert!(matches!(cache.freshness(), Freshness::Stale { .. }));
    node.write("k1", None);
    node.state().compacted_to = 0;
    sees("k1", None).await;
}

/// A consumer stood behind the last record that was left, and was never caught up.
#[tokio::test]
async fn a_position_passes_offsets_that_were_compacted_at_the_end_of_a_batch() {
    let (node, client) = Node::start(1).await;
    let mut builder = CompactedBatchBuilder::new(Offset(0));
    builder.keep(Offset(2), &Record::new("v").with_key("k"));
    builder.covers_to(Offset(7));
    let from = CompactedFrom {
        last: LogId { term: Term(1), index: LogIndex(7) },
        append_time_ms: 0,
        max_timestamp_ms: 0,
        tombstone_horizon_ms: 0,
    };
    let built = builder.finish(from, Compression::None);
    let batch = Bytes::from([&built.header.to_bytes()[..], &built.body[..]].concat());
    {
        let mut state = node.state();
        (state.logs[0].end, state.logs[0].batches) = (7, vec![(batch, 7)]);
    }
    let building = client.consumer("t").from(StartPosition::Earliest).bounded().build();
    let mut consumer = building.await.unwrap();
    let record = timeout(LONG, consumer.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(record.offset, Offset(2));
    assert!(timeout(LONG, consumer.next()).await.unwrap().is_none());
    assert_eq!(consumer.progress()[0].position, Some(Offset(7)));
    assert!(consumer.is_caught_up());
}
