//! Queues of one node: settlements, order, delays, limits, dead letters, over restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use plimsoll_client::{
    Client, ConfigChange, ErrorCode, Message, MessageId, MessageStanding, NewQueue, Offset,
    Producer, QueueConsumer, QueueSettings, QueueStanding, Record, SendError, SettleError,
};
use plimsoll_tests::{TRANSPORTS, TestNode, eventually, within};
use plimsoll_transport::TransportKind;

async fn create(client: &Client, name: &str, settings: &[&str]) {
    let settings = QueueSettings::from_pairs(settings.iter().copied()).unwrap();
    let queue = NewQueue { settings, ..NewQueue::new(name) };
    within("create", client.admin().create_queue(queue)).await.expect("a queue");
}

async fn producer(client: &Client, queue: &str) -> Producer {
    within("build", client.producer(queue).build()).await.expect("a producer")
}

async fn send(producer: &Producer, record: Record) -> u64 {
    let ack = within("a send", producer.send(record)).await.expect("it is stored");
    ack.offset.expect("it was stored with an offset").0
}

async fn consumer(client: &Client, queue: &str, prefetch: u32) -> QueueConsumer {
    let building = client.queue_consumer(queue).prefetch(prefetch).build();
    within("build", building).await.expect("a consumer")
}

async fn next(consumer: &mut QueueConsumer) -> Message {
    let message = within("a message", consumer.next()).await.expect("the queue goes on");
    message.expect("it can be read")
}

fn value(message: &Message) -> String {
    String::from_utf8(message.record.value.clone().unwrap_or_default().to_vec()).unwrap()
}

async fn accept(message: &Message) {
    within("a settlement", message.accept()).await.expect("it is settled");
}

async fn standing(client: &Client, queue: &str) -> QueueStanding {
    let admin = client.admin().queue(queue, "");
    within("a look", admin.standing(0)).await.expect("it stands")
}

fn id(offset: u64) -> MessageId {
    MessageId { partition: 0, offset: Offset(offset) }
}

fn in_ms(ms: i64) -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap() + ms
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_sent_received_and_settled_over_every_transport() {
    let node = TestNode::start().await;
    for transport in TRANSPORTS {
        let client = node.client(transport).await;
        let queue = format!("jobs-{transport}");
        create(&client, &queue, &[]).await;
        let producer = producer(&client, &queue).await;
        for number in 0..200 {
            send(&producer, Record::new(number.to_string()).with_key("k")).await;
        }
        let mut consumer = consumer(&client, &queue, 50).await;
        for number in 0..200 {
            let message = next(&mut consumer).await;
            assert_eq!((value(&message), message.attempt), (number.to_string(), 1));
            assert_eq!(message.record.key.as_deref(), Some(&b"k"[..]));
            accept(&message).await;
        }
        let found = standing(&client, &queue).await;
        assert_eq!((found.unsettled, found.floor, found.end), (0, Offset(200), Offset(200)));
        assert_eq!(found.consumers, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settled_messages_stay_settled_and_others_come_again_when_the_node_was_killed() {
    let mut node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    create(&client, "jobs", &[]).await;
    let sending = producer(&client, "jobs").await;
    for number in 0..100_u32 {
        send(&sending, Record::new(number.to_string())).await;
    }
    let mut receiving = consumer(&client, "jobs", 100).await;
    let mut left = BTreeSet::new();
    for number in 0..100_u64 {
        let message = next(&mut receiving).await;
        if number % 3 == 0 {
            left.insert(message.offset.0);
        } else {
            accept(&message).await;
        }
    }
    for ending in ["killed", "in order"] {
        match ending {
            "killed" => node.abort().await,
            _ => node.shut_down().await,
        }
        node.start_again().await;
        let client = node.client(TransportKind::Quic).await;
        let found = standing(&client, "jobs").await;
        assert_eq!(found.unsettled, left.len() as u64, "{ending}");
        let mut again = BTreeSet::new();
        // The consumer of before attaches again as well: both together get each once.
        drop(std::mem::replace(&mut receiving, consumer(&client, "jobs", 100).await));
        while again.len() < left.len() {
            let message = next(&mut receiving).await;
            assert!(message.attempt > 1, "attempts are counted over the end of the node: {ending}");
            again.insert(message.offset.0);
        }
        assert_eq!(again, left, "{ending}");
    }
    drop(receiving);
    let client = node.client(TransportKind::Quic).await;
    let mut last = consumer(&client, "jobs", 100).await;
    for _ in 0..left.len() {
        accept(&next(&mut last).await).await;
    }
    assert_eq!(standing(&client, "jobs").await.unsettled, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn competing_consumers_get_each_message_once_and_what_a_lost_one_held() {
    let node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    create(&client, "jobs", &[]).await;
    let producer = producer(&client, "jobs").await;
    let lost_client = node.client(TransportKind::Quic).await;
    let mut lost = consumer(&lost_client, "jobs", 10).await;
    for number in 0..200_u32 {
        send(&producer, Record::new(number.to_string())).await;
    }
    let mut held = BTreeSet::new();
    while held.len() < 10 {
        held.insert(next(&mut lost).await.offset.0);
    }
    let mut consumers = [consumer(&client, "jobs", 20).await, consumer(&client, "jobs", 20).await];
    let mut seen: BTreeMap<u64, u32> = BTreeMap::new();
    while seen.len() < 190 {
        for consumer in &mut consumers {
            if let Ok(message) =
                tokio::time::timeout(Duration::from_millis(1), consumer.next()).await
            {
                let message = message.expect("it goes on").expect("it can be read");
                assert_eq!(message.attempt, 1);
                *seen.entry(message.offset.0).or_default() += 1;
                accept(&message).await;
            }
        }
    }
    assert!(seen.values().all(|times| *times == 1));
    assert!(held.iter().all(|offset| !seen.contains_key(offset)));
    // Its client is gone without a word of its own.
    drop(lost);
    lost_client.close().await;
    let mut again = BTreeSet::new();
    while again != held {
        for consumer in &mut consumers {
            if let Ok(message) =
                tokio::time::timeout(Duration::from_millis(1), consumer.next()).await
            {
                let message = message.expect("it goes on").expect("it can be read");
                assert_eq!(message.attempt, 2);
                again.insert(message.offset.0);
                accept(&message).await;
            }
        }
    }
    assert_eq!(standing(&client, "jobs").await.unsettled, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_key_blocks_only_itself() {
    let node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    create(&client, "orders", &["mode=key-shared", "attempts=0"]).await;
    let producer = producer(&client, "orders").await;
    for number in 0..60_u32 {
        let key = format!("key-{}", number % 3);
        send(&producer, Record::new(number.to_string()).with_key(key)).await;
    }
    let mut consumer = consumer(&client, "orders", 10).await;
    let mut last: BTreeMap<String, u32> = BTreeMap::new();
    let mut failures = 0;
    while last.values().filter(|number| **number >= 57).count() < 2 {
        let message = next(&mut consumer).await;
        let key = String::from_utf8(message.record.key.clone().unwrap().to_vec()).unwrap();
        let number: u32 = value(&message).parse().unwrap();
        if key == "key-1" {
            assert_eq!(number, 1, "nothing of a key overtakes its failing message");
            failures += 1;
            let delay = Some(Duration::from_millis(1));
            within("a release", message.release(delay)).await.expect("it is released");
            continue;
        }
        let expected = last.get(&key).map_or(number % 3, |last| last + 3);
        assert_eq!(number, expected, "{key} in order");
        last.insert(key, number);
        accept(&message).await;
    }
    assert!(failures > 1);
    let told = within("why", client.admin().queue("orders", "").explain(id(4))).await.unwrap();
    assert_eq!((told.standing, told.behind), (MessageStanding::BehindKey, Some(Offset(1))));
}

#[tokio::test(flavor = "multi_thread")]
async fn higher_priorities_go_first_also_when_the_node_was_restarted() {
    let mut node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    create(&client, "jobs", &["priorities=10"]).await;
    let sending = producer(&client, "jobs").await;
    for number in 0..100_u8 {
        let record = Record::new(number.to_string());
        send(&sending, Record { priority: Some(number % 10), ..record }).await;
    }
    node.abort().await;
    node.start_again().await;
    let client = node.client(TransportKind::Quic).await;
    // What is unsettled is read once by a new leader; what is not read yet cannot go first.
    eventually("all is read", async || {
        (standing(&client, "jobs").await.ready == 100).then_some(())
    })
    .await;
    let mut consumer = consumer(&client, "jobs", 1).await;
    let mut expected: Vec<u32> = (0..100).collect();
    expected.sort_by_key(|number| (std::cmp::Reverse(number % 10), *number));
    for number in expected {
        let message = next(&mut consumer).await;
        assert_eq!(value(&message), number.to_string());
        accept(&message).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn delayed_messages_come_at_their_time_and_can_be_cancelled() {
    let mut node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    create(&client, "jobs", &[]).await;
    let sending = producer(&client, "jobs").await;
    let due = in_ms(1_500);
    let late = Record { deliver_at_ms: Some(due), ..Record::new("late") };
    let never = Record { deliver_at_ms: Some(due), ..Record::new("never") };
    send(&sending, late).await;
    let cancelled = send(&sending, never).await;
    send(&sending, Record::new("now")).await;
    let queue = client.admin().queue("jobs", "");
    let told = within("why", queue.explain(id(0))).await.unwrap();
    assert_eq!((told.standing, told.at_ms), (MessageStanding::Delayed, Some(due)));
    assert!(within("cancel", queue.cancel(id(cancelled))).await.unwrap());
    assert!(!within("cancel", queue.cancel(id(cancelled))).await.unwrap(), "it is gone already");
    // A new leader knows of them too.
    node.abort().await;
    node.start_again().await;
    let client = node.client(TransportKind::Quic).await;
    let mut consumer = consumer(&client, "jobs", 10).await;
    let first = next(&mut consumer).await;
    assert_eq!(value(&first), "now");
    accept(&first).await;
    let second = next(&mut consumer).await;
    assert_eq!(value(&second), "late");
    assert!(in_ms(0) >= due, "not before its time");
    accept(&second).await;
    assert_eq!(standing(&client, "jobs").await.unsettled, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rejected_given_up_expired_or_pushed_out_goes_where_dead_letters_go() {
    let node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    let settings =
        ["attempts=2", "dead-letter=dead", "length-max=3", "overflow=drop-head", "lease=1m"];
    create(&client, "jobs", &settings).await;
    let sending = producer(&client, "jobs").await;
    // Nobody consumes: the oldest of four is pushed out, and one outlives its time.
    send(&sending, Record::new("pushed-out").with_header("trace", "1")).await;
    send(&sending, Record { expires_at_ms: Some(in_ms(1)), ..Record::new("expired") }).await;
    send(&sending, Record::new("rejected")).await;
    send(&sending, Record::new("given-up")).await;
    let mut letters = consumer(&client, "dead", 10).await;
    let mut reasons = BTreeMap::new();
    let mut take = async |letters: &mut QueueConsumer| {
        let letter = next(letters).await;
        let header = |name: &str| {
            let found = letter.record.headers.iter().find(|header| header.name.as_str() == name);
            found.map(|header| String::from_utf8(header.value.to_vec()).unwrap())
        };
        let reason = header("dead-letter-reason").expect("it says why");
        let source = header("dead-letter-source").expect("it says from where");
        assert!(source.starts_with("jobs/0/"), "{source}");
        accept(&letter).await;
        reasons.insert(value(&letter), (reason, header("dead-letter-attempts").unwrap()));
    };
    take(&mut letters).await;
    take(&mut letters).await;
    let mut receiving = consumer(&client, "jobs", 10).await;
    for _ in 0..3 {
        let message = next(&mut receiving).await;
        match value(&message).as_str() {
            "rejected" => within("reject", message.reject()).await.expect("it is rejected"),
            "given-up" => within("release", message.release(None)).await.expect("it is released"),
            other => panic!("{other} is no more"),
        }
    }
    take(&mut letters).await;
    take(&mut letters).await;
    let found = |value: &str, reason: &str, attempts: &str| {
        assert_eq!(reasons[value], (reason.to_owned(), attempts.to_owned()), "{value}");
    };
    found("pushed-out", "length-exceeded", "0");
    found("expired", "expired", "0");
    found("rejected", "rejected", "1");
    found("given-up", "attempts-exhausted", "2");
    eventually("originals are settled", async || {
        (standing(&client, "jobs").await.unsettled == 0).then_some(())
    })
    .await;
    for (offset, reason) in ["length-exceeded", "expired", "rejected"].iter().enumerate() {
        let jobs = client.admin().queue("jobs", "");
        let told = within("why", jobs.explain(id(offset as u64))).await.expect("an answer");
        assert_eq!(told.standing, MessageStanding::DeadLettered, "{told:?}");
        assert_eq!(told.reason.as_deref(), Some(*reason));
        assert!(told.text.ends_with("its copy went to dead"), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_exactly_what_is_too_much_and_takes_more_when_there_is_room() {
    let node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    create(&client, "jobs", &["length-max=5"]).await;
    let sending = producer(&client, "jobs").await;
    for number in 0..5 {
        send(&sending, Record::new(number.to_string())).await;
    }
    let refused = within("a send", sending.send(Record::new("too much"))).await.unwrap_err();
    match refused {
        SendError::Refused(error) => assert_eq!(error.code, ErrorCode::QueueFull, "{error}"),
        other => panic!("{other}"),
    }
    let mut receiving = consumer(&client, "jobs", 1).await;
    accept(&next(&mut receiving).await).await;
    let again = producer(&client, "jobs").await;
    eventually("there is room", async || again.send(Record::new("5")).await.ok()).await;
    let purged = within("purge", client.admin().queue("jobs", "").purge(0)).await.unwrap();
    assert!((4..=5).contains(&purged), "{purged}: one may be with the consumer");
}

#[tokio::test(flavor = "multi_thread")]
async fn lease_that_is_over_gives_the_message_to_another_and_the_first_has_no_say() {
    let node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    create(&client, "jobs", &["lease=100ms"]).await;
    let sending = producer(&client, "jobs").await;
    send(&sending, Record::new("x")).await;
    let mut slow = consumer(&client, "jobs", 1).await;
    let held = next(&mut slow).await;
    assert_eq!(held.lease(), Duration::from_millis(100));
    within("extend", held.extend(Some(Duration::from_secs(60)))).await.expect("it is held on");
    let told = within("why", client.admin().queue("jobs", "").explain(id(0))).await.unwrap();
    assert_eq!(told.standing, MessageStanding::Held, "{}", told.text);
    within("extend", held.extend(Some(Duration::from_millis(50)))).await.expect("for less");
    let again = next(&mut slow).await;
    assert_eq!((again.offset, again.attempt), (held.offset, 2));
    let stale = within("accept", held.accept()).await;
    assert!(matches!(stale, Err(SettleError::NotHeld)), "{stale:?}");
    let answer = within("accept", again.accept()).await;
    // Its own lease may have ended meanwhile; then there is a third attempt.
    if answer.is_err() {
        let third = next(&mut slow).await;
        within("extend", third.extend(Some(Duration::from_secs(60)))).await.expect("held on");
        accept(&third).await;
    }
    assert_eq!(standing(&client, "jobs").await.unsettled, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_of_a_topic_settle_each_by_itself_beside_its_readers() {
    let node = TestNode::start().await;
    node.create_topic("orders", 1, &[]).await;
    let client = node.client(TransportKind::Quic).await;
    let sending = producer(&client, "orders").await;
    send(&sending, Record::new("before")).await;
    let admin = client.admin();
    within("put", admin.queue("orders", "all").put(Vec::new(), false)).await.expect("made");
    within("put", admin.queue("orders", "new").put(Vec::new(), true)).await.expect("made");
    let attach = async |name: &str| {
        let building = client.queue_consumer("orders").subscription(name).build();
        within("build", building).await.expect("a consumer")
    };
    let (mut all, mut new) = (attach("all").await, attach("new").await);
    let first = next(&mut all).await;
    assert_eq!(value(&first), "before");
    accept(&first).await;
    send(&sending, Record::new("after")).await;
    for subscription in [&mut all, &mut new] {
        let message = next(subscription).await;
        assert_eq!(value(&message), "after");
        accept(&message).await;
    }
    let read = crate::stored(&client, "orders").await;
    assert_eq!(read, ["before", "after"], "readers see what is settled as well");
    let change = ConfigChange { key: "attempts".into(), value: Some("3".into()) };
    let changed = within("put", admin.queue("orders", "all").put(vec![change], false)).await;
    assert_eq!(changed.expect("changed").settings.attempts_max, 3);
    within("delete", admin.queue("orders", "all").delete()).await.expect("ended");
    let ended = within("its end", all.next()).await.expect("it says so").unwrap_err();
    assert!(ended.to_string().contains("subscription"), "{ended}");
    let unknown = within("build", client.queue_consumer("orders").build()).await;
    let told = within("the refusal", unknown.expect("topics exist").next()).await;
    assert!(told.expect("it says so").unwrap_err().to_string().contains("not a queue"));
}

#[tokio::test(flavor = "multi_thread")]
async fn exclusive_and_single_active_consumers_are_alone() {
    let node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    create(&client, "alone", &[]).await;
    create(&client, "active", &["single-active=true"]).await;
    let sending = producer(&client, "alone").await;
    send(&sending, Record::new("x")).await;
    let building = client.queue_consumer("alone").exclusive().build();
    let mut first = within("build", building).await.expect("a consumer");
    accept(&next(&mut first).await).await;
    let mut second = consumer(&client, "alone", 1).await;
    let refused = within("the refusal", second.next()).await.expect("it says so").unwrap_err();
    assert!(refused.to_string().contains("exclusive"), "{refused}");
    let sending = producer(&client, "active").await;
    let mut first = consumer(&client, "active", 10).await;
    send(&sending, Record::new("0")).await;
    accept(&next(&mut first).await).await;
    let mut second = consumer(&client, "active", 10).await;
    eventually("it is there", async || {
        (standing(&client, "active").await.consumers == 2).then_some(())
    })
    .await;
    for number in 1..20 {
        send(&sending, Record::new(number.to_string())).await;
        let message = next(&mut first).await;
        assert_eq!(value(&message), number.to_string());
        accept(&message).await;
    }
    drop(first);
    send(&sending, Record::new("20")).await;
    let message = next(&mut second).await;
    assert_eq!(value(&message), "20");
    accept(&message).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_fills_a_queue_to_what_it_may_hold_and_no_further() {
    let node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    create(&client, "jobs", &["length-max=5"]).await;
    let sending = producer(&client, "jobs").await;
    let mut acks = Vec::new();
    for number in 0..20 {
        let ack = within("room", sending.enqueue(Record::new(number.to_string()))).await;
        acks.push(ack.expect("it is taken"));
    }
    let mut stored = 0;
    for ack in acks {
        match within("an outcome", ack).await {
            Ok(_) => stored += 1,
            Err(SendError::Refused(error)) => {
                assert_eq!(error.code, ErrorCode::QueueFull, "{error}");
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((stored, standing(&client, "jobs").await.ready), (5, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_retires_before_the_last_settlement_uses_up_no_attempt_of_what_it_never_sees() {
    let node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    create(&client, "jobs", &["attempts=1", "dead-letter=dead"]).await;
    let sending = producer(&client, "jobs").await;
    for value in ["a", "b", "c"] {
        send(&sending, Record::new(value)).await;
    }
    for expected in ["a", "b", "c"] {
        let mut receiving = consumer(&client, "jobs", 1).await;
        let message = next(&mut receiving).await;
        assert_eq!((value(&message).as_str(), message.attempt), (expected, 1));
        within("the retirement", receiving.retire()).await;
        accept(&message).await;
    }
    assert_eq!(standing(&client, "jobs").await.unsettled, 0);
}
