//! Producers and consumers against a cluster of scripted nodes on a simulated network and a paused
//! clock: leaders move, nodes fall silent, die and come back elsewhere. Whatever happens, what was
//! acknowledged is stored once and in order, a consumer sees each record once, and nobody is asked
//! without end.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod cluster;
mod node;

use std::time::Duration;

use bytes::Bytes;
use plimsoll_client::{
    AckFuture, Client, ConsumedRecord, ErrorCode, Offset, Producer, ProducerOptions, Record,
    StartPosition,
};
use plimsoll_protocol::api::ApiKey;
use tokio::time::{Instant, sleep, timeout};

use cluster::{Cluster, Leader};

const LONG: Duration = Duration::from_secs(600);

async fn producer(client: &Client) -> Producer {
    client.producer("t").batch_records(3).build().await.unwrap()
}

/// Queues so many records that carry their number.
async fn enqueue(producer: &Producer, numbers: std::ops::Range<usize>) -> Vec<AckFuture> {
    let mut futures = Vec::new();
    for number in numbers {
        futures.push(producer.enqueue_to(0, &Record::new(format!("{number}"))).await.unwrap());
    }
    futures
}

/// Awaits so many acknowledgements, and that the log has these records once, where it was said, in
/// order.
async fn all_stored(cluster: &Cluster, futures: Vec<AckFuture>) {
    let count = futures.len();
    for (number, future) in futures.into_iter().enumerate() {
        let ack = timeout(LONG, future).await.expect("an outcome").unwrap();
        if let Some(offset) = ack.offset {
            let stored = &cluster.values(0)[offset.0 as usize];
            assert_eq!(*stored, Bytes::from(format!("{number}")), "at {offset}");
        }
    }
    let expected: Vec<Bytes> = (0..count).map(|number| Bytes::from(format!("{number}"))).collect();
    assert_eq!(cluster.values(0), expected);
}

/// Reads so many records, and that each comes once and in order.
async fn all_read(consumer: &mut plimsoll_client::Consumer, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let record = timeout(LONG, consumer.next()).await.expect("a record").unwrap().unwrap();
        let ConsumedRecord { offset, record, .. } = record;
        assert_eq!(offset.0, number);
        assert_eq!(record.value.unwrap(), Bytes::from(format!("{number}")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_producer_follows_a_hint_at_once() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let producer = producer(&client).await;
    let mut futures = enqueue(&producer, 0..10).await;
    for leader in [2, 3, 1, 3] {
        producer.flush().await.unwrap();
        cluster.lead(0, leader, &[1, 2, 3]);
        let began = Instant::now();
        let next = futures.len()..futures.len() + 10;
        futures.extend(enqueue(&producer, next).await);
        producer.flush().await.unwrap();
        assert!(began.elapsed() < Duration::from_millis(5), "it paused: {:?}", began.elapsed());
    }
    all_stored(&cluster, futures).await;
    assert!(cluster.seen_by_all(ApiKey::Metadata) < 5, "hints need no questions");
}

/// Of several batches on their way the first is answered with the new leader and the others with less.
#[tokio::test(start_paused = true)]
async fn a_hint_of_a_node_that_goes_down_outlives_its_other_answers() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let producer = producer(&client).await;
    let mut futures = enqueue(&producer, 0..10).await;
    producer.flush().await.unwrap();
    cluster.plan(1, |plan| plan.leaves = true);
    cluster.lead(0, 2, &[1, 2, 3]);
    let (began, asked) = (Instant::now(), cluster.seen_by_all(ApiKey::Metadata));
    futures.extend(enqueue(&producer, 10..20).await);
    producer.flush().await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(5), "it paused: {:?}", began.elapsed());
    assert_eq!(cluster.seen_by_all(ApiKey::Metadata), asked, "the hint needs no question");
    all_stored(&cluster, futures).await;
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_gets_no_hint_asks_another_node() {
    let cluster = Cluster::start(1);
    for node in 1..=3 {
        cluster.plan(node, |plan| plan.hints = false);
    }
    let client = cluster.client().await;
    let producer = producer(&client).await;
    let mut futures = enqueue(&producer, 0..10).await;
    for leader in [2, 3, 1, 3] {
        producer.flush().await.unwrap();
        cluster.lead(0, leader, &[1, 2, 3]);
        let next = futures.len()..futures.len() + 10;
        futures.extend(enqueue(&producer, next).await);
    }
    all_stored(&cluster, futures).await;
}

#[tokio::test(start_paused = true)]
async fn the_others_take_over_from_a_silent_leader_within_a_second() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let producer = producer(&client).await;
    let mut consumer = client.consumer("t").build().await.unwrap();
    let mut futures = enqueue(&producer, 0..10).await;
    producer.flush().await.unwrap();
    all_read(&mut consumer, 0..10).await;
    let began = Instant::now();
    cluster.silence(1);
    futures.extend(enqueue(&producer, 10..40).await);
    // The election takes its time, too.
    sleep(Duration::from_millis(600)).await;
    cluster.lead(0, 2, &[2, 3]);
    producer.flush().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    all_read(&mut consumer, 10..40).await;
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    // It comes back, and what was kept for it arrives: nothing of that is stored again.
    cluster.wake(1);
    cluster.tell_all();
    futures.extend(enqueue(&producer, 40..50).await);
    all_stored(&cluster, futures).await;
    all_read(&mut consumer, 40..50).await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_a_dying_leader_stored_is_stored_once() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let producer = producer(&client).await;
    let mut futures = enqueue(&producer, 0..10).await;
    producer.flush().await.unwrap();
    cluster.plan(1, |plan| plan.dies_storing = true);
    futures.extend(enqueue(&producer, 10..20).await);
    sleep(Duration::from_millis(600)).await;
    cluster.lead(0, 3, &[2, 3]);
    all_stored(&cluster, futures).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_back_at_another_port_is_found() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let producer = producer(&client).await;
    let mut consumer = client.consumer("t").build().await.unwrap();
    let mut futures = enqueue(&producer, 0..10).await;
    producer.flush().await.unwrap();
    for round in 1..=5 {
        cluster.kill(1);
        let next = round * 10..round * 10 + 10;
        futures.extend(enqueue(&producer, next).await);
        sleep(Duration::from_millis(300)).await;
        cluster.start_node(1);
    }
    all_stored(&cluster, futures).await;
    all_read(&mut consumer, 0..60).await;
}

/// A partition that slept when its leader died has no leader until somebody asks for one.
#[tokio::test(start_paused = true)]
async fn the_node_that_is_named_without_a_term_is_asked_to_lead() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let producer = producer(&client).await;
    let mut futures = enqueue(&producer, 0..10).await;
    producer.flush().await.unwrap();
    cluster.kill(1);
    {
        let mut state = cluster.state();
        state.leaders[0].node = None;
        for node in [2, 3] {
            let plan = state.nodes.get_mut(&node).unwrap();
            plan.believes[0] = Leader { node: Some(3), term: 0 };
        }
    }
    let began = Instant::now();
    futures.extend(enqueue(&producer, 10..20).await);
    producer.flush().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    all_stored(&cluster, futures).await;
}

/// Two nodes that name each other, and no leader.
#[tokio::test(start_paused = true)]
async fn nodes_that_name_each_other_make_nobody_busy() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let options =
        ProducerOptions { delivery_timeout: Duration::from_secs(10), ..Default::default() };
    let producer = client.producer("t").options(options).build().await.unwrap();
    {
        let mut state = cluster.state();
        state.leaders[0].node = None;
        for (node, named) in [(1, 2), (2, 1), (3, 1)] {
            state.nodes.get_mut(&node).unwrap().believes[0].node = Some(named);
        }
    }
    let mut consumer = client.consumer("t").build().await.unwrap();
    let waiting = tokio::spawn(async move { consumer.next().await });
    let given_up = producer.send(Record::new("a")).await.unwrap_err();
    assert!(given_up.is_definite(), "{given_up}");
    assert!(given_up.to_string().contains("NotLeader"), "{given_up}");
    waiting.abort();
    // Ten seconds of pauses that grow to between 250 and 500 ms, two attempts for each.
    for api in [ApiKey::Produce, ApiKey::Subscribe, ApiKey::Metadata] {
        let count = cluster.seen_by_all(api);
        assert!(count <= 2 * 46, "{count} requests of {api:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_without_a_majority_is_asked_at_a_measured_pace_until_it_has_one() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let producer = producer(&client).await;
    cluster.plan(1, |plan| plan.refuses = Some(ErrorCode::NoQuorum));
    let futures = enqueue(&producer, 0..3).await;
    sleep(Duration::from_secs(10)).await;
    assert!(cluster.values(0).is_empty());
    let count = cluster.seen_by_all(ApiKey::Produce) + cluster.seen_by_all(ApiKey::Metadata);
    assert!(count <= 2 * 90, "{count} requests");
    cluster.plan(1, |plan| plan.refuses = None);
    all_stored(&cluster, futures).await;
}

/// What the old leader was asked may be stored there, whatever the new one says.
#[tokio::test(start_paused = true)]
async fn a_record_that_a_deposed_leader_may_have_stored_is_never_reported_as_lost() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let options =
        ProducerOptions { delivery_timeout: Duration::from_secs(10), ..Default::default() };
    let producer = client.producer("t").options(options).build().await.unwrap();
    cluster.plan(1, |plan| plan.withholds = true);
    let waiting = enqueue(&producer, 0..1).await.pop().unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(cluster.values(0).len(), 1);
    cluster.plan(2, |plan| plan.refuses = Some(ErrorCode::NoQuorum));
    cluster.lead(0, 2, &[1, 2, 3]);
    // Another user of the topic brings the news; the answer of the old leader is waited for no more.
    let _consumer = client.consumer("t").build().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert!(cluster.seen(2, ApiKey::Produce) > 0);
    let error = waiting.await.unwrap_err();
    assert!(!error.is_definite(), "{error}");
}

/// It got a batch into its log before it noticed that nobody else hears it, and refuses the next: of
/// the one it never says anything.
#[tokio::test(start_paused = true)]
async fn a_producer_leaves_a_leader_that_is_cut_off_and_still_owes_it_an_answer() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let producer = producer(&client).await;
    let mut futures = enqueue(&producer, 0..3).await;
    producer.flush().await.unwrap();
    cluster.plan(1, |plan| plan.withholds = true);
    futures.extend(enqueue(&producer, 3..6).await);
    sleep(Duration::from_millis(10)).await;
    cluster.plan(1, |plan| plan.refuses = Some(ErrorCode::NoQuorum));
    futures.extend(enqueue(&producer, 6..9).await);
    sleep(Duration::from_millis(600)).await;
    cluster.lead(0, 2, &[2, 3]);
    let stored = all_stored(&cluster, futures);
    timeout(Duration::from_secs(1), stored).await.expect("the others are asked");
}

#[tokio::test(start_paused = true)]
async fn a_producer_leaves_a_leader_that_is_cut_off_and_refuses_nothing() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let producer = producer(&client).await;
    cluster.plan(1, |plan| plan.withholds = true);
    let futures = enqueue(&producer, 0..9).await;
    sleep(Duration::from_millis(600)).await;
    cluster.lead(0, 2, &[2, 3]);
    let stored = all_stored(&cluster, futures);
    timeout(Duration::from_secs(2), stored).await.expect("the others are asked");
}

/// The news of another leader and new records come in one moment, while the old one owes answers: what
/// is new must not go to the new leader before what it follows.
#[tokio::test(start_paused = true)]
async fn a_busy_producer_leaves_the_old_leader_with_all_that_it_was_asked() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let producer = producer(&client).await;
    cluster.plan(1, |plan| plan.withholds = true);
    let mut futures = enqueue(&producer, 0..3).await;
    sleep(Duration::from_millis(10)).await;
    cluster.forget(0);
    cluster.lead(0, 2, &[1, 2, 3]);
    // The last that it does is to bring the news.
    let _consumer = client.consumer("t").build().await.unwrap();
    futures.extend(enqueue(&producer, 3..6).await);
    let stored = all_stored(&cluster, futures);
    timeout(Duration::from_secs(1), stored).await.expect("nothing waits for the old leader");
}

/// An answer that takes long is no sign of death where pings are answered.
#[tokio::test(start_paused = true)]
async fn a_slow_leader_that_answers_pings_keeps_its_connection() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let producer = producer(&client).await;
    cluster.plan(1, |plan| plan.withholds = true);
    let futures = enqueue(&producer, 0..3).await;
    let greeted = cluster.seen(1, ApiKey::Hello);
    sleep(Duration::from_secs(20)).await;
    assert_eq!(cluster.seen(1, ApiKey::Hello), greeted);
    assert_eq!(cluster.seen(1, ApiKey::Produce), 1, "nothing is sent again before its time");
    assert!(cluster.seen(1, ApiKey::Ping) >= 50);
    // The request's own time ends it, and the next attempt is answered.
    cluster.plan(1, |plan| plan.withholds = false);
    all_stored(&cluster, futures).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_nothing_to_wait_for_asks_nothing() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    client.admin().ping().await.unwrap();
    let before = cluster.state().seen.clone();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(cluster.state().seen, before);
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn an_idle_producer_and_consumer_cost_two_pings_a_second_per_connection() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let producer = producer(&client).await;
    let _consumer = client.consumer("t").build().await.unwrap();
    enqueue(&producer, 0..1).await.pop().unwrap().await.unwrap();
    let before: usize = cluster.state().seen.values().sum();
    sleep(Duration::from_secs(60)).await;
    let after: usize = cluster.state().seen.values().sum();
    assert!(after - before <= 3 * 2 * 60, "{} requests", after - before);
}

#[tokio::test(start_paused = true)]
async fn a_client_connects_by_whichever_address_answers() {
    let cluster = Cluster::start(1);
    cluster.kill(1);
    cluster.silence(2);
    cluster.lead(0, 3, &[3]);
    let client = cluster.client().await;
    let futures = enqueue(&producer(&client).await, 0..5).await;
    all_stored(&cluster, futures).await;
    cluster.kill(3);
    let mut config = cluster.config(&[1, 3]);
    config.connect_timeout = Duration::from_secs(2);
    let nobody = Client::connect(config).await.unwrap_err().to_string();
    assert!(nobody.contains("none of 2 addresses"), "{nobody}");
}

#[tokio::test(start_paused = true)]
async fn a_question_to_a_node_that_falls_silent_is_asked_of_another() {
    let cluster = Cluster::start(1);
    let client = Client::connect(cluster.config(&[1])).await.unwrap();
    for silent in [1, 2] {
        cluster.silence(silent);
        let topics = timeout(Duration::from_secs(3), client.admin().list_topics(None)).await;
        assert_eq!(topics.expect("it is answered").unwrap().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_consumer_reads_from_its_rack_and_goes_on_elsewhere_without_loss_or_repetition() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let producer = producer(&client).await;
    let nearest = client.consumer("t").prefer_nearest(Some("r3".to_owned()));
    let mut consumer = nearest.build().await.unwrap();
    let mut futures = enqueue(&producer, 0..30).await;
    all_read(&mut consumer, 0..30).await;
    assert_eq!(cluster.seen(3, ApiKey::Subscribe), 1);
    assert_eq!(cluster.seen(1, ApiKey::Subscribe) + cluster.seen(2, ApiKey::Subscribe), 0);
    // The next one is behind what was read here: it is not taken for the end of the log.
    cluster.plan(1, |plan| plan.shows = 12);
    cluster.plan(2, |plan| plan.shows = 12);
    cluster.kill(3);
    futures.extend(enqueue(&producer, 30..40).await);
    sleep(Duration::from_secs(3)).await;
    cluster.plan(1, |plan| plan.shows = u64::MAX);
    all_read(&mut consumer, 30..40).await;
    all_stored(&cluster, futures).await;
}

/// An application that keeps its own offsets begins where it was; the nearest replica is not there yet.
#[tokio::test(start_paused = true)]
async fn a_replica_that_is_behind_the_offset_of_the_caller_is_waited_for() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let producer = producer(&client).await;
    let futures = enqueue(&producer, 0..30).await;
    all_stored(&cluster, futures).await;
    for node in 1..=3 {
        cluster.plan(node, |plan| plan.shows = 12);
    }
    let nearest = client.consumer("t").prefer_nearest(Some("r3".to_owned()));
    let mut consumer = nearest.from(StartPosition::Offset(Offset(15))).build().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    for node in 1..=3 {
        cluster.plan(node, |plan| plan.shows = u64::MAX);
    }
    all_read(&mut consumer, 15..30).await;
}

/// No link to it stands, and nothing says that it is gone.
#[tokio::test(start_paused = true)]
async fn a_question_to_a_leader_that_cannot_be_dialed_is_asked_of_another_soon() {
    let cluster = Cluster::start(1);
    let client = Client::connect(cluster.config(&[2])).await.unwrap();
    let _producer = producer(&client).await;
    cluster.silence(1);
    cluster.lead(0, 2, &[2]);
    let admin = client.admin();
    let asked = admin.offsets("t", 0, vec![StartPosition::Latest]);
    let offsets = timeout(Duration::from_secs(2), asked).await.expect("it is answered");
    assert_eq!(offsets.unwrap(), [Offset(0)]);
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_nobody_uses_any_more_is_forgotten() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let consumer = client.consumer("t").build().await.unwrap();
    assert!(client.cluster().partition("t", 0).is_some());
    drop(consumer);
    sleep(Duration::from_secs(1)).await;
    assert!(client.cluster().partition("t", 0).is_none());
}

/// Every fault there is, by chance; each seed is one course of events.
#[tokio::test(start_paused = true)]
async fn any_course_of_events_keeps_the_rules() {
    for seed in 0..40 {
        eprintln!("seed {seed}");
        course(seed).await;
    }
}

async fn course(seed: u64) {
    const RECORDS: usize = 300;
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let producer = producer(&client).await;
    let mut consumer = client.consumer("t").build().await.unwrap();
    let mut nearest = client.consumer("t").prefer_nearest(None).build().await.unwrap();
    let reading = tokio::spawn(async move {
        all_read(&mut consumer, 0..RECORDS as u64).await;
        all_read(&mut nearest, 0..RECORDS as u64).await;
    });
    let mut random = Random(seed);
    let mut futures = Vec::new();
    while futures.len() < RECORDS {
        let next = futures.len()..(futures.len() + 10).min(RECORDS);
        futures.extend(enqueue(&producer, next).await);
        fault(&cluster, &mut random).await;
        sleep(Duration::from_millis(random.below(400))).await;
    }
    all_stored(&cluster, futures).await;
    timeout(LONG, reading).await.expect("everything is read").unwrap();
    let requests: usize = cluster.state().seen.values().sum();
    assert!(requests < 60 * RECORDS, "{requests} requests");
}

/// One fault and its end; one node is down at a time, as a cluster of three bears it.
async fn fault(cluster: &Cluster, random: &mut Random) {
    let node = 1 + random.below(3);
    let others: Vec<u64> = (1..=3).filter(|other| *other != node).collect();
    let heir = others[random.below(2) as usize];
    let down = Duration::from_millis(random.below(1500));
    let was_leader = cluster.state().leaders[0].node == Some(node);
    match random.below(6) {
        0 => cluster.lead(0, node, &[1, 2, 3]),
        // Some learn of it late.
        1 => cluster.lead(0, node, &[node]),
        2 => cluster.plan(node, |plan| plan.hints = !plan.hints),
        3 => {
            cluster.silence(node);
            if was_leader {
                sleep(Duration::from_millis(500)).await;
                cluster.lead(0, heir, &others);
            }
            sleep(down).await;
            cluster.wake(node);
        }
        4 => {
            cluster.plan(node, |plan| plan.dies_storing = true);
            sleep(Duration::from_millis(100)).await;
            cluster.kill(node);
            if was_leader {
                sleep(Duration::from_millis(500)).await;
                cluster.lead(0, heir, &others);
            }
            sleep(down).await;
            cluster.start_node(node);
        }
        _ => {
            cluster.plan(node, |plan| plan.refuses = Some(ErrorCode::NoQuorum));
            sleep(down).await;
            cluster.plan(node, |plan| plan.refuses = None);
        }
    }
    sleep(Duration::from_millis(random.below(200))).await;
    cluster.tell_all();
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}
