//! Compacted topics as maps: what keys have, who wins a change of one, what is refused.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use bytes::Bytes;
use futures_util::future::join_all;
use plimsoll_protocol::api::{
    AlterTopicRequest, ConfigChange, Done, Isolation, KvCondition, KvGetRequest, KvGetResponse,
    KvPutRequest, KvPutResponse, KvScanRequest, KvScanResponse, ProducerIdentity, StartPosition,
    SubscribeRequest,
};
use plimsoll_protocol::batch::{Compression, Record};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::{Offset, PartitionIndex};
use support::{
    Client, NOBODY, TestNode, assert_code, build, eventually, records, subscribe_request, topic,
};

const ALWAYS: KvCondition = KvCondition::Always(Done {});
const ABSENT: KvCondition = KvCondition::Absent(Done {});

fn revision(offset: u64) -> KvCondition {
    KvCondition::Revision(Offset(offset))
}

fn keyed(key: &str, value: &str) -> Record {
    Record::new(value.to_owned()).with_key(key.to_owned())
}

fn one(record: &Record, producer: &ProducerIdentity, sequence: u64) -> Bytes {
    build(std::slice::from_ref(record), producer, sequence, Compression::None)
}

fn put_request(condition: KvCondition) -> KvPutRequest {
    let (topic, partition) = (topic("t"), PartitionIndex(0));
    KvPutRequest { topic, partition, condition, fence: None }
}

fn get_request(key: &str, isolation: Isolation, any_replica: bool) -> KvGetRequest {
    KvGetRequest {
        topic: topic("t"),
        partition: PartitionIndex(0),
        key: Bytes::copy_from_slice(key.as_bytes()),
        isolation,
        any_replica,
    }
}

async fn create(client: &mut Client) {
    client.create_with("t", 1, &["cleanup=compact"]).await.unwrap();
}

async fn put_record(
    client: &mut Client,
    record: &Record,
    condition: KvCondition,
) -> Result<KvPutResponse, ErrorResponse> {
    client.call(&put_request(condition), one(record, &NOBODY, 0)).await
}

async fn put(
    client: &mut Client,
    key: &str,
    value: &str,
    condition: KvCondition,
) -> Result<KvPutResponse, ErrorResponse> {
    put_record(client, &keyed(key, value), condition).await
}

async fn delete(
    client: &mut Client,
    key: &str,
    condition: KvCondition,
) -> Result<KvPutResponse, ErrorResponse> {
    put_record(client, &Record { value: None, ..keyed(key, "") }, condition).await
}

/// Value and revision, read linearizably.
async fn get(client: &mut Client, key: &str) -> Option<(String, u64)> {
    let request = get_request(key, Isolation::Linearizable, false);
    let (response, value) = client.exchange(&request, Bytes::new()).await.unwrap();
    let meta = response.found?;
    Some((String::from_utf8(value.to_vec()).unwrap(), meta.revision.0))
}

async fn scan(
    client: &mut Client,
    prefix: &str,
    after: Option<&str>,
    count_max: u32,
) -> KvScanResponse {
    let request = KvScanRequest {
        topic: topic("t"),
        partition: PartitionIndex(0),
        prefix: Bytes::copy_from_slice(prefix.as_bytes()),
        after: after.map(|key| Bytes::copy_from_slice(key.as_bytes())),
        count_max,
        keys_only: false,
        isolation: Isolation::Linearizable,
        any_replica: false,
    };
    client.call(&request, Bytes::new()).await.unwrap()
}

fn pairs(page: &KvScanResponse) -> Vec<(String, String)> {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    page.entries.iter().map(|entry| (text(&entry.key), text(&entry.value))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_what_was_put_last_and_nothing_once_it_is_deleted() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    create(&mut client).await;
    assert_eq!(get(&mut client, "a").await, None);
    let first = put(&mut client, "a", "1", ALWAYS).await.unwrap();
    assert_eq!((first.revision, first.before, first.duplicate), (Offset(0), None, false));
    let second = put(&mut client, "a", "2", ALWAYS).await.unwrap();
    assert_eq!((second.revision, second.before), (Offset(1), Some(Offset(0))));
    assert_eq!(get(&mut client, "a").await, Some(("2".into(), 1)));
    assert_eq!(get(&mut client, "b").await, None);
    let gone = delete(&mut client, "a", ALWAYS).await.unwrap();
    assert_eq!((gone.revision, gone.before), (Offset(2), Some(Offset(1))));
    assert_eq!(get(&mut client, "a").await, None);
    // An empty value is one.
    put(&mut client, "a", "", ABSENT).await.unwrap();
    assert_eq!(get(&mut client, "a").await, Some((String::new(), 3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_condition_does_not_hold_changes_nothing_and_tells_what_is() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    create(&mut client).await;
    let present = KvCondition::Present(Done {});
    assert_code(put(&mut client, "a", "1", present.clone()).await, ErrorCode::RevisionConflict);
    put(&mut client, "a", "1", ABSENT).await.unwrap();
    put(&mut client, "a", "2", present).await.unwrap();
    let taken = put(&mut client, "a", "3", ABSENT).await.unwrap_err();
    assert_eq!((taken.code, taken.offset), (ErrorCode::RevisionConflict, Some(1)));
    assert!(taken.message.contains("\"a\"") && taken.message.contains("revision 1"), "{taken}");
    let stale = put(&mut client, "a", "3", revision(0)).await.unwrap_err();
    assert_eq!(stale.offset, Some(1));
    put(&mut client, "a", "3", revision(1)).await.unwrap();
    delete(&mut client, "a", revision(2)).await.unwrap();
    let gone = put(&mut client, "a", "4", revision(2)).await.unwrap_err();
    assert_eq!((gone.code, gone.offset), (ErrorCode::RevisionConflict, None));
    // What ordinary producers write counts, too.
    client.produce("t", 0, one(&keyed("a", "5"), &NOBODY, 0)).await.unwrap();
    assert_code(put(&mut client, "a", "6", ABSENT).await, ErrorCode::RevisionConflict);
    put(&mut client, "a", "6", revision(4)).await.unwrap();
    assert_eq!(get(&mut client, "a").await, Some(("6".into(), 5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_listed_in_their_order_page_by_page() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    create(&mut client).await;
    for key in ["b/2", "a/1", "b/1", "c", "b/3"] {
        put(&mut client, key, &format!("old {key}"), ALWAYS).await.unwrap();
        put(&mut client, key, &format!("new {key}"), ALWAYS).await.unwrap();
    }
    delete(&mut client, "c", ALWAYS).await.unwrap();
    let all = scan(&mut client, "", None, 0).await;
    let expected = ["a/1", "b/1", "b/2", "b/3"].map(|key| (key.to_owned(), format!("new {key}")));
    assert_eq!((pairs(&all), all.has_more, all.upto), (expected.to_vec(), false, Offset(11)));
    let first = scan(&mut client, "b/", None, 2).await;
    assert_eq!((pairs(&first), first.has_more), (expected[1..3].to_vec(), true));
    let second = scan(&mut client, "b/", Some("b/2"), 2).await;
    assert_eq!((pairs(&second), second.has_more), (expected[3..].to_vec(), false));
    // A page of large values ends before its count.
    let large = "x".repeat(150 << 10);
    for key in ["z/1", "z/2", "z/3"] {
        put(&mut client, key, &large, ALWAYS).await.unwrap();
    }
    let page = scan(&mut client, "z/", None, 0).await;
    assert_eq!((page.entries.len(), page.has_more), (1, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_whose_time_is_over_is_gone_and_a_tombstone_tells_watchers() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    create(&mut client).await;
    // The producer's clock is years behind: only the difference counts.
    let mortal = |life_ms: i64| Record {
        timestamp_ms: 1000,
        expires_at_ms: Some(1000 + life_ms),
        ..keyed("a", "1")
    };
    put_record(&mut client, &mortal(3_600_000), ALWAYS).await.unwrap();
    let request = get_request("a", Isolation::Committed, false);
    let found = client.call(&request, Bytes::new()).await.unwrap().found.unwrap();
    let left = found.ttl_left_ms.unwrap();
    assert!((3_500_000..=3_600_000).contains(&left), "{left}");
    put_record(&mut client, &mortal(1), ALWAYS).await.unwrap();
    eventually("the key is gone", async || get(&mut client, "a").await.is_none().then_some(()))
        .await;
    let tombstone = eventually("a tombstone", async || {
        let (_, payload) = client.fetch("t", 0, 0).await.unwrap();
        records(payload).into_iter().find(|found| found.offset == Offset(2))
    });
    let tombstone = tombstone.await.record;
    assert_eq!((tombstone.key, tombstone.value), (Some(Bytes::from("a")), None));
    put(&mut client, "a", "2", ABSENT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_only_watches_is_told_that_a_time_is_over_also_after_a_restart() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    create(&mut client).await;
    let mortal = Record { timestamp_ms: 0, expires_at_ms: Some(1_500), ..keyed("a", "1") };
    put_record(&mut client, &mortal, ALWAYS).await.unwrap();
    let node = node.crash().await;
    let mut client = node.quic().await;
    let all = subscribe_request("t", StartPosition::Earliest, 0);
    let watch = SubscribeRequest { whole: true, ..all };
    let mut reader = node.quic().await;
    client.send(&watch, Bytes::new()).await;
    let told = eventually("a tombstone", async || {
        let (_, payload) = reader.fetch("t", 0, 0).await.unwrap();
        records(payload).into_iter().find(|found| found.record.value.is_none())
    });
    assert_eq!(told.await.record.key, Some(Bytes::from("a")));
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_see_what_was_acknowledged_whoever_is_asked_and_how() {
    let node = TestNode::start().await;
    let (mut writer, mut reader) = (node.quic().await, node.quic().await);
    create(&mut writer).await;
    for number in 0..50_u64 {
        put(&mut writer, "a", &number.to_string(), ALWAYS).await.unwrap();
        assert_eq!(get(&mut reader, "a").await, Some((number.to_string(), number)));
        let request = get_request("a", Isolation::Committed, true);
        let stale: KvGetResponse = reader.call(&request, Bytes::new()).await.unwrap();
        assert_eq!(stale.found.unwrap().revision, Offset(number), "one voter: never behind");
        assert_eq!(stale.upto, Offset(number + 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_answered_as_the_first_time_though_its_condition_holds_no_longer() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    create(&mut client).await;
    let producer = client.producer().await;
    let batch = one(&keyed("a", "1"), &producer, 0);
    let first = client.call(&put_request(ABSENT), batch.clone()).await.unwrap();
    let again = client.call(&put_request(ABSENT), batch.clone()).await.unwrap();
    assert_eq!(again, KvPutResponse { duplicate: true, ..first });
    // A refused change uses no sequence.
    let refused = client.call(&put_request(ABSENT), one(&keyed("a", "2"), &producer, 1)).await;
    assert_code(refused, ErrorCode::RevisionConflict);
    client.call(&put_request(revision(0)), one(&keyed("a", "2"), &producer, 1)).await.unwrap();
    let node = node.crash().await;
    let mut client = node.quic().await;
    let again = client.call(&put_request(ABSENT), batch).await.unwrap();
    assert_eq!(again, KvPutResponse { duplicate: true, ..first });
}

/// Counts up a key by its revision, with others: gives the revisions that it won, with what it read.
async fn count_up(mut client: Client, times: usize) -> Vec<(u64, u64)> {
    let mut won = Vec::new();
    while won.len() < times {
        let now = get(&mut client, "a").await;
        let (value, condition) = match &now {
            Some((value, at)) => (value.parse::<u64>().unwrap(), revision(*at)),
            None => (0, ABSENT),
        };
        match put(&mut client, "a", &(value + 1).to_string(), condition).await {
            Ok(stored) => won.push((stored.revision.0, now.map_or(u64::MAX, |(_, at)| at))),
            Err(error) if error.code == ErrorCode::RevisionConflict => {}
            Err(error) if error.code.is_retriable() => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    won
}

#[tokio::test(flavor = "multi_thread")]
async fn one_change_wins_each_revision_also_while_others_produce() {
    const EACH: usize = 25;
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    create(&mut client).await;
    let counting = {
        let mut clients = Vec::new();
        for _ in 0..6 {
            clients.push(node.quic().await);
        }
        join_all(clients.into_iter().map(|client| tokio::spawn(count_up(client, EACH))))
    };
    // An ordinary producer sets the same key back now and then, without a condition.
    let mut producer = node.quic().await;
    let resetting = async {
        let mut set = Vec::new();
        for _ in 0..40 {
            let records = [keyed("b", "noise"), keyed("a", "1000")];
            let batch = build(&records, &NOBODY, 0, Compression::None);
            set.push(producer.produce("t", 0, batch).await.unwrap().base_offset.0 + 1);
        }
        set
    };
    let (won, set) = tokio::join!(counting, resetting);
    let mut won: Vec<_> = won.into_iter().flat_map(Result::unwrap).collect();
    won.sort_unstable();
    assert_eq!(won.len(), 6 * EACH);
    // Each winner changed the very revision before it, of all records of the key.
    let mut writes: Vec<u64> = won.iter().map(|(at, _)| *at).chain(set.iter().copied()).collect();
    writes.sort_unstable();
    for (revision, read) in &won {
        let before = writes.iter().rev().find(|at| *at < revision);
        assert_eq!(before.copied().unwrap_or(u64::MAX), *read, "revision {revision}");
    }
    // The value is the count since the last reset.
    let last_set = *set.iter().max().unwrap();
    let since = won.iter().filter(|(at, _)| *at > last_set).count() as u64;
    let (value, at) = get(&mut client, "a").await.unwrap();
    assert_eq!((value, at), ((1000 + since).to_string(), *writes.last().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_many_keys_are_under_way_at_once() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    create(&mut client).await;
    for number in 0..200 {
        let batch = one(&keyed(&number.to_string(), "1"), &NOBODY, 0);
        client.send(&put_request(ABSENT), batch).await;
    }
    let mut revisions = Vec::new();
    for _ in 0..200 {
        let frame = client.frame().await;
        revisions.push(frame.decode_response::<KvPutRequest>().unwrap().revision.0);
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (0..200).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_and_a_crash_keep_everything() {
    let mut node = TestNode::start().await;
    let mut client = node.quic().await;
    create(&mut client).await;
    for number in 0..20 {
        put(&mut client, &format!("k/{number:02}"), "v", ALWAYS).await.unwrap();
    }
    delete(&mut client, "k/07", ALWAYS).await.unwrap();
    let before = pairs(&scan(&mut client, "", None, 0).await);
    assert_eq!(before.len(), 19);
    for crashes in [false, true] {
        node = if crashes { node.crash().await } else { node.restart().await };
        let mut client = node.quic().await;
        assert_eq!(pairs(&scan(&mut client, "", None, 0).await), before);
        assert_code(put(&mut client, "k/00", "w", revision(1)).await, ErrorCode::RevisionConflict);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_without_a_key_and_batches_of_several_are_refused() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    create(&mut client).await;
    let keyless = Record::new("1");
    let mixed = build(&[keyed("a", "1"), keyless.clone()], &NOBODY, 0, Compression::Lz4);
    assert_code(client.produce("t", 0, mixed).await, ErrorCode::KeyRequired);
    assert_code(put_record(&mut client, &keyless, ALWAYS).await, ErrorCode::KeyRequired);
    let two = build(&[keyed("a", "1"), keyed("a", "2")], &NOBODY, 0, Compression::None);
    let refused = client.call(&put_request(ALWAYS), two.clone()).await;
    assert_code(refused, ErrorCode::InvalidArgument);
    client.produce("t", 0, two).await.unwrap();
    assert_eq!(get(&mut client, "a").await, Some(("2".into(), 1)));
    let long = keyed(&"k".repeat(33 << 10), "1");
    assert_code(put_record(&mut client, &long, ALWAYS).await, ErrorCode::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_not_compacted_is_no_map_until_it_is() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    client.create("t", 1).await.unwrap();
    client.produce("t", 0, one(&Record::new("keyless"), &NOBODY, 0)).await.unwrap();
    client.produce("t", 0, one(&keyed("a", "1"), &NOBODY, 0)).await.unwrap();
    let refused = put(&mut client, "a", "2", ALWAYS).await;
    assert!(refused.as_ref().unwrap_err().message.contains("cleanup=compact"));
    assert_code(refused, ErrorCode::NotCompacted);
    let request = get_request("a", Isolation::Committed, false);
    assert_code(client.call(&request, Bytes::new()).await, ErrorCode::NotCompacted);
    let change = |value: &str| AlterTopicRequest {
        topic: topic("t"),
        partitions: None,
        changes: vec![ConfigChange { key: "cleanup".to_owned(), value: Some(value.to_owned()) }],
    };
    client.call(&change("compact"), Bytes::new()).await.unwrap();
    assert_eq!(get(&mut client, "a").await, Some(("1".into(), 1)));
    client.call(&change("delete"), Bytes::new()).await.unwrap();
    assert_code(client.call(&request, Bytes::new()).await, ErrorCode::NotCompacted);
}
