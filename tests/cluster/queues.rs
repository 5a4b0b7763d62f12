//! A queue whose leader dies under load: what was settled never comes again, everything else does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plimsoll_client::{Client, NewQueue, QueueSettings, Record, SettleError};
use plimsoll_tests::{TestCluster, within};

/// What is known of one message.
#[derive(Debug, Default, Clone)]
struct Seen {
    attempts: BTreeSet<u32>,
    /// A settlement was answered.
    settled: bool,
    /// A settlement was said, and its outcome is not known.
    doubtful: bool,
}

async fn receive(client: Client, seen: Arc<Mutex<BTreeMap<String, Seen>>>, wanted: usize) {
    let building = client.queue_consumer("jobs").prefetch(20).build();
    let mut consumer = within("build", building).await.expect("a consumer");
    let mut silent = 0;
    loop {
        // Another receiver may end the last one while this one waits: it looks again every second.
        let Ok(message) = tokio::time::timeout(Duration::from_secs(1), consumer.next()).await
        else {
            let seen = seen.lock().unwrap();
            if seen.len() == wanted && seen.values().all(|one| one.settled || one.doubtful) {
                return;
            }
            silent += 1;
            let open: Vec<_> =
                seen.iter().filter(|(_, one)| !one.settled && !one.doubtful).take(5).collect();
            assert!(silent < 60, "{} of {wanted} messages came, open: {open:?}", seen.len());
            continue;
        };
        silent = 0;
        let message = message.expect("it goes on").expect("it can be read");
        let value = String::from_utf8(message.record.value.clone().unwrap().to_vec()).unwrap();
        {
            let mut seen = seen.lock().unwrap();
            let one = seen.entry(value.clone()).or_default();
            assert!(!one.settled, "{value} came again after its settlement was answered");
            one.attempts.insert(message.attempt);
        }
        match within("a settlement", message.accept()).await {
            Ok(()) => seen.lock().unwrap().get_mut(&value).unwrap().settled = true,
            // It was lost with the leader, or was stored there: both may be.
            Err(SettleError::Unknown | SettleError::NotHeld) => {
                seen.lock().unwrap().get_mut(&value).unwrap().doubtful = true;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_keeps_settlements_and_everything_else_comes_again() {
    const ROUNDS: usize = 3;
    const MESSAGES: usize = 100;
    let mut cluster = TestCluster::start().await;
    let client = cluster.client().await;
    let settings = QueueSettings { attempts_max: 0, ..QueueSettings::default() };
    let queue = NewQueue { replicas: 3, settings, ..NewQueue::new("jobs") };
    within("create", client.admin().create_queue(queue)).await.expect("a queue");
    let seen = Arc::new(Mutex::new(BTreeMap::new()));
    let receivers: Vec<_> = (0..2)
        .map(|_| {
            let receiving = receive(client.clone(), Arc::clone(&seen), ROUNDS * MESSAGES);
            tokio::spawn(receiving)
        })
        .collect();
    let producer = within("build", client.producer("jobs").build()).await.expect("a producer");
    for round in 0..ROUNDS {
        let mut acks = Vec::new();
        for number in 0..MESSAGES {
            let value = (round * MESSAGES + number).to_string();
            acks.push(within("room", producer.enqueue(Record::new(value))).await.expect("taken"));
            if number == MESSAGES / 2 {
                let leader = cluster.leader("jobs", 0).await;
                cluster.nodes.kill(leader).unwrap();
                cluster.nodes.restart(leader).unwrap();
            }
        }
        for ack in acks {
            within("an acknowledgement", ack).await.expect("it is stored");
        }
        cluster.wait_until_well().await;
    }
    for receiver in receivers {
        within("all messages", receiver).await.expect("nothing is lost, nothing comes again");
    }
    let standing = within("a look", client.admin().queue("jobs", "").standing(0)).await.unwrap();
    assert_eq!(standing.unsettled, 0);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), ROUNDS * MESSAGES);
    // What was on its way when its node died was an attempt, if that was written: one for each death.
    let lost_most = u32::try_from(ROUNDS).unwrap();
    let first = seen.values().filter_map(|one| one.attempts.first()).max().unwrap();
    assert!(*first <= 1 + lost_most, "attempt {first} of a message that nobody had before");
}
