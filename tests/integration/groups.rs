//! Consumer groups through the client: partitions are shared, nothing is left out, commits hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use plimsoll_client::{
    Client, ClientConfig, CommitError, ErrorCode, GroupConsumer, GroupConsumerBuilder, GroupError,
    GroupPhase, GroupRecord, Offset, OffsetCommit, OffsetReset, PartitionIndex, Producer, Record,
    StartPosition,
};
use plimsoll_tests::{TRANSPORTS, TestNode, eventually, within};
use plimsoll_transport::TransportKind;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const GROUP: &str = "billing";
const TOPIC: &str = "orders";

/// Partition and offset of what members were given.
type Seen = Arc<Mutex<BTreeMap<(u32, u64), u32>>>;

fn builder(client: &Client) -> GroupConsumerBuilder {
    client.group_consumer(GROUP).topics([TOPIC]).session_timeout(Duration::from_secs(2))
}

async fn build(builder: GroupConsumerBuilder) -> GroupConsumer {
    within("join", builder.build()).await.expect("a member")
}

async fn next(consumer: &mut GroupConsumer) -> GroupRecord {
    within("a record", consumer.next()).await.expect("there is more").expect("it can be read")
}

async fn send_to(producer: &Producer, partition: u32, value: &str) -> Offset {
    let record = Record::new(value.to_owned());
    let queued = producer.enqueue_to(partition, &record);
    let ack = within("room", queued).await.expect("it is taken");
    within("an ack", ack).await.expect("it is stored").offset.expect("with an offset")
}

/// Sends `count` records to each of the partitions.
async fn fill(client: &Client, partitions: u32, count: u64) {
    let producer = within("build", client.producer(TOPIC).build()).await.expect("a producer");
    let mut acks = Vec::new();
    for number in 0..count {
        for partition in 0..partitions {
            let record = Record::new(number.to_string());
            let ack = producer.enqueue_to(partition, &record);
            acks.push(within("room", ack).await.expect("it is taken"));
        }
    }
    for ack in acks {
        within("an ack", ack).await.expect("it is stored");
    }
}

async fn committed(client: &Client) -> BTreeMap<u32, u64> {
    let group = client.admin().group(GROUP);
    let offsets = within("offsets", group.offsets()).await.expect("offsets");
    offsets.into_iter().map(|at| (at.partition.0, at.offset.0)).collect()
}

fn owned(consumer: &GroupConsumer) -> Vec<u32> {
    consumer.assignment().into_iter().map(|(_, partition)| partition).collect()
}

async fn owns(what: &str, consumer: &GroupConsumer, count: usize) {
    eventually(what, async || (owned(consumer).len() == count).then_some(())).await;
}

/// A member that works off what it gets, in a task of its own.
struct Worker {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), CommitError>>,
}

impl Worker {
    fn start(mut consumer: GroupConsumer, seen: &Seen) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let seen = Arc::clone(seen);
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    _ = &mut stopped => return consumer.leave().await,
                    record = consumer.next() => {
                        let record = record.expect("it goes on").expect("it can be read");
                        let place = (record.partition, record.offset.0);
                        *seen.lock().unwrap().entry(place).or_default() += 1;
                    }
                }
            }
        });
        Self { stop, task }
    }

    async fn leave(self) {
        let _ = self.stop.send(());
        within("leave", self.task).await.expect("it ends").expect("it leaves");
    }
}

/// A process of its own, as far as its end is concerned: everything in it ends at once.
struct Process(tokio::runtime::Runtime);

impl Process {
    fn start() -> Self {
        Self(
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap(),
        )
    }

    async fn join(&self, config: ClientConfig, seen: &Seen) {
        let seen = Arc::clone(seen);
        let joining = self.0.spawn(async move {
            let client = Client::connect(config).await.expect("a client");
            let consumer = build(builder(&client)).await;
            (Worker::start(consumer, &seen), client)
        });
        let worker = within("join", joining).await.expect("a member");
        // They live as long as the process does.
        self.0.spawn(async move {
            let _held = worker;
            std::future::pending::<()>().await;
        });
    }

    fn kill(self) {
        self.0.shutdown_background();
    }
}

/// Waits until so many members own everything, each its share.
async fn settled(client: &Client, members: usize, partitions: usize) {
    let group = client.admin().group(GROUP);
    eventually(&format!("{members} members settle"), async || {
        let described = within("describe", group.describe()).await.ok()?;
        let shares: Vec<usize> = described
            .members
            .iter()
            .map(|member| member.owns.iter().map(|topic| topic.partitions.len()).sum())
            .collect();
        let is_even = shares.iter().all(|share| share.abs_diff(partitions / members) <= 1);
        let is_whole = shares.iter().sum::<usize>() == partitions && shares.len() == members;
        (is_even && is_whole && described.info.phase == GroupPhase::Settled).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_arrives_while_members_come_and_go_and_die() {
    let node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    node.create_topic(TOPIC, 8, &[]).await;
    let (stop, mut stopped) = oneshot::channel::<()>();
    let writing = {
        let client = client.clone();
        tokio::spawn(async move {
            let producer = client.producer(TOPIC).build().await.expect("a producer");
            let mut stored = BTreeSet::new();
            let mut every = tokio::time::interval(Duration::from_millis(5));
            while stopped.try_recv().is_err() {
                every.tick().await;
                for partition in 0..8 {
                    let offset = send_to(&producer, partition, "x").await;
                    stored.insert((partition, offset.0));
                }
            }
            stored
        })
    };
    let seen = Seen::default();
    let first = Worker::start(build(builder(&client)).await, &seen);
    let doomed = Process::start();
    doomed.join(node.client_config(TransportKind::Quic), &seen).await;
    settled(&client, 2, 8).await;
    let third = Worker::start(build(builder(&client)).await, &seen);
    settled(&client, 3, 8).await;
    first.leave().await;
    settled(&client, 2, 8).await;
    doomed.kill();
    settled(&client, 1, 8).await;
    let fourth = Worker::start(build(builder(&client)).await, &seen);
    settled(&client, 2, 8).await;
    stop.send(()).expect("the writer writes");
    let stored = within("the writer's end", writing).await.expect("it ends");
    eventually("everything has arrived", async || {
        let seen = seen.lock().unwrap();
        stored.iter().all(|place| seen.contains_key(place)).then_some(())
    })
    .await;
    third.leave().await;
    fourth.leave().await;

    // What is committed is exactly what there is: whoever is next begins behind it.
    let ends: BTreeMap<u32, u64> = stored.iter().map(|(at, offset)| (*at, offset + 1)).collect();
    assert_eq!(committed(&client).await, ends);
    let mut later = build(builder(&client)).await;
    let producer = within("build", client.producer(TOPIC).build()).await.expect("a producer");
    for partition in 0..8 {
        let offset = send_to(&producer, partition, "later").await;
        let record = next(&mut later).await;
        assert_eq!((record.partition, record.offset), (partition, offset));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_work_over_every_transport_and_each_partition_stays_in_order() {
    let node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    node.create_topic(TOPIC, 4, &[]).await;
    fill(&client, 4, 500).await;
    for transport in TRANSPORTS {
        let client = node.client(transport).await;
        let group = format!("by-{transport}");
        let mut consumer = build(client.group_consumer(&group).topics([TOPIC])).await;
        let mut at = BTreeMap::<u32, u64>::new();
        for _ in 0..2_000 {
            let record = next(&mut consumer).await;
            let expected = at.entry(record.partition).or_default();
            assert_eq!(record.offset, Offset(*expected), "{transport}");
            *expected += 1;
        }
        within("leave", consumer.leave()).await.expect("it leaves");
        let offsets = within("offsets", client.admin().group(&group).offsets()).await.unwrap();
        assert!(offsets.len() == 4 && offsets.iter().all(|at| at.offset == Offset(500)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn member_with_an_instance_name_is_back_before_anybody_notices() {
    let node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    node.create_topic(TOPIC, 8, &[]).await;
    let long =
        |name: &str| builder(&client).session_timeout(Duration::from_secs(60)).instance(name);
    let one = build(long("one")).await;
    let other = build(long("other")).await;
    owns("each has half", &one, 4).await;
    owns("each has half", &other, 4).await;
    let (of_one, of_other) = (owned(&one), owned(&other));
    within("close", one.close()).await.expect("it closes");
    fill(&client, 8, 1).await;
    let mut again = build(long("one")).await;
    eventually("it has its partitions", async || (owned(&again) == of_one).then_some(())).await;
    let mut seen = BTreeSet::new();
    for _ in 0..4 {
        seen.insert(next(&mut again).await.partition);
    }
    assert_eq!(seen, of_one.iter().copied().collect());
    assert_eq!(owned(&other), of_other);
    let described = within("describe", client.admin().group(GROUP).describe()).await.unwrap();
    assert_eq!((described.members.len(), described.info.phase), (2, GroupPhase::Settled));
}

#[tokio::test(flavor = "multi_thread")]
async fn second_process_of_an_instance_ends_the_first() {
    let node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    node.create_topic(TOPIC, 2, &[]).await;
    let mut first = build(builder(&client).instance("one")).await;
    owns("it has all", &first, 2).await;
    let second = build(builder(&client).instance("one")).await;
    match within("an end", first.next()).await {
        Some(Err(GroupError::FencedInstance { group, instance })) => {
            assert_eq!((group.as_str(), instance.as_str()), (GROUP, "one"));
        }
        other => panic!("{other:?}"),
    }
    assert!(within("the end", first.next()).await.is_none());
    assert!(matches!(within("a commit", first.commit()).await, Err(CommitError::Ended)));
    owns("the other has all", &second, 2).await;
}

/// A process that hangs for longer than its session, with a record in its hands.
#[tokio::test(flavor = "multi_thread")]
async fn commit_of_a_member_that_was_away_counts_for_nothing() {
    let node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    node.create_topic(TOPIC, 1, &[]).await;
    fill(&client, 1, 10).await;
    let config = node.client_config(TransportKind::Quic);
    let (taken, took) = oneshot::channel();
    let (wake, woken) = mpsc::channel::<()>();
    let hanging = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = Client::connect(config).await.expect("a client");
            let short = Duration::from_secs(1);
            let building = builder(&client).session_timeout(short).manual_commit();
            let mut consumer = build(building).await;
            let first = next(&mut consumer).await.offset;
            taken.send(first).expect("the test waits");
            // The whole runtime hangs.
            woken.recv().expect("the test goes on");
            let late = within("a late commit", consumer.commit()).await;
            (late.map_err(|error| error.to_string()), consumer.leave().await.is_ok())
        })
    });
    assert_eq!(within("a record", took).await.expect("it is taken"), Offset(0));
    let mut heir = build(builder(&client)).await;
    for offset in 0..10 {
        assert_eq!(next(&mut heir).await.offset, Offset(offset), "nothing was committed");
    }
    within("a commit", heir.commit()).await.expect("it is the owner");
    wake.send(()).expect("the thread hangs");
    let (late, _) = tokio::task::spawn_blocking(|| hanging.join()).await.unwrap().unwrap();
    late.expect_err("it is too late");
    assert_eq!(committed(&client).await, BTreeMap::from([(0, 10)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_there_when_the_node_was_killed() {
    let mut node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    node.create_topic(TOPIC, 1, &[]).await;
    fill(&client, 1, 100).await;
    let long = || builder(&client).session_timeout(Duration::from_secs(45)).manual_commit();
    let mut consumer = build(long()).await;
    for _ in 0..40 {
        next(&mut consumer).await;
    }
    within("a commit", consumer.commit()).await.expect("it is stored");
    next(&mut consumer).await;
    node.abort().await;
    node.start_again().await;
    // The member is one still, and goes on where it was.
    for offset in 41..60 {
        assert_eq!(next(&mut consumer).await.offset, Offset(offset));
    }
    let metadata = OffsetCommit {
        topic: TOPIC.parse().unwrap(),
        topic_id: None,
        partition: PartitionIndex(0),
        offset: Offset(50),
        metadata: Some("half".to_owned()),
    };
    within("a commit", consumer.commit_offsets(vec![metadata])).await.expect("it is stored");
    within("leave", consumer.leave()).await.expect("it leaves");
    let offsets = within("offsets", client.admin().group(GROUP).offsets()).await.unwrap();
    assert_eq!((offsets[0].offset, offsets[0].metadata.as_deref()), (Offset(50), Some("half")));
    let mut again = build(long()).await;
    assert_eq!(next(&mut again).await.offset, Offset(50), "leaving committed nothing by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_reset_and_groups_deleted_only_without_members_unless_forced() {
    let node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    node.create_topic(TOPIC, 1, &[]).await;
    fill(&client, 1, 10).await;
    let mut consumer = build(builder(&client)).await;
    for _ in 0..10 {
        next(&mut consumer).await;
    }
    let group = client.admin().group(GROUP);
    let to = |offset: u64| {
        let (topic, partition) = (TOPIC.parse().unwrap(), PartitionIndex(0));
        vec![OffsetReset { topic, partition, offset: Some(Offset(offset)) }]
    };
    let refused = within("reset", group.reset(to(3), false)).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::GroupInUse));
    let refused = within("delete", group.delete(false)).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::GroupInUse));
    within("reset", group.reset(to(3), true)).await.expect("it is forced");
    assert_eq!(committed(&client).await, BTreeMap::from([(0, 3)]));
    within("leave", consumer.leave()).await.expect("it leaves");
    assert_eq!(committed(&client).await, BTreeMap::from([(0, 10)]), "it committed over it");
    within("reset", group.reset(to(7), false)).await.expect("nobody is there");
    let mut consumer = build(builder(&client)).await;
    assert_eq!(next(&mut consumer).await.offset, Offset(7));
    within("delete", group.delete(true)).await.expect("it is forced");
    // The member joins a new group of the name.
    eventually("it begins anew", async || {
        let record = next(&mut consumer).await;
        (record.offset == Offset(0)).then_some(())
    })
    .await;
    let listed = within("list", client.admin().list_groups()).await.expect("groups");
    assert_eq!(listed.iter().map(|info| info.group.as_str()).collect::<Vec<_>>(), [GROUP]);
    within("leave", consumer.leave()).await.expect("it leaves");
    within("delete", group.delete(false)).await.expect("nobody is there");
    let unknown = within("describe", group.describe()).await.unwrap_err();
    assert_eq!(unknown.code(), Some(ErrorCode::UnknownGroup));
}

#[tokio::test(flavor = "multi_thread")]
async fn group_that_has_come_nowhere_or_too_far_begins_where_it_is_told_to() {
    let node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    node.create_topic(TOPIC, 1, &[]).await;
    fill(&client, 1, 10).await;
    let too_far = OffsetCommit {
        topic: TOPIC.parse().unwrap(),
        topic_id: None,
        partition: PartitionIndex(0),
        offset: Offset(1_000),
        metadata: None,
    };
    let group = client.admin().group(GROUP);
    within("commit", group.commit(vec![too_far])).await.expect("nobody is there");
    let mut consumer = build(builder(&client)).await;
    assert_eq!(next(&mut consumer).await.offset, Offset(0));
    within("leave", consumer.leave()).await.expect("it leaves");

    let latest = client.group_consumer("audit").topics([TOPIC]).from(StartPosition::Latest);
    let mut consumer = build(latest.session_timeout(Duration::from_secs(2))).await;
    let producer = within("build", client.producer(TOPIC).build()).await.expect("a producer");
    // Sent until the member, which may begin after the first of them, is given one.
    let record = tokio::select! {
        record = next(&mut consumer) => record,
        () = async {
            loop {
                send_to(&producer, 0, "new").await;
            }
        } => unreachable!("it sends for ever"),
    };
    assert!(record.offset >= Offset(10), "{record:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn member_goes_on_when_a_topic_is_deleted_and_reads_it_when_it_is_made_anew() {
    let node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    node.create_topic(TOPIC, 2, &[]).await;
    node.create_topic("clicks", 2, &[]).await;
    let joining = builder(&client).topics([TOPIC, "clicks"]);
    let mut consumer = build(joining).await;
    owns("it has all", &consumer, 4).await;
    within("delete", client.admin().delete_topic(TOPIC)).await.expect("it is deleted");
    owns("it has the rest", &consumer, 2).await;
    let clicks = within("build", client.producer("clicks").build()).await.expect("a producer");
    send_to(&clicks, 1, "still").await;
    assert_eq!(next(&mut consumer).await.topic.as_str(), "clicks");
    node.create_topic(TOPIC, 3, &[]).await;
    fill(&client, 3, 1).await;
    let mut seen = BTreeSet::new();
    while seen.len() < 3 {
        let record = next(&mut consumer).await;
        if record.topic.as_str() == TOPIC {
            seen.insert(record.partition);
        }
    }
    within("leave", consumer.leave()).await.expect("it leaves");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_member_is_told_at_once() {
    let node = TestNode::start().await;
    let client = node.client(TransportKind::Quic).await;
    let unknown = within("join", builder(&client).build()).await.unwrap_err();
    assert!(unknown.to_string().contains(TOPIC), "{unknown}");
    node.create_topic(TOPIC, 1, &[]).await;
    let short = builder(&client).session_timeout(Duration::from_millis(999));
    for wrong in [
        short,
        builder(&client).topics(Vec::<String>::new()),
        builder(&client).instance(""),
        builder(&client).buffer_bytes(1),
        client.group_consumer("").topics([TOPIC]),
        builder(&client).from(StartPosition::Offset(Offset(3))),
    ] {
        within("join", wrong.build()).await.expect_err("it is out of bounds");
    }
}
