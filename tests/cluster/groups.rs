//! A consumer group whose coordinator dies under load: members keep what they own, and nothing is left out.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plimsoll_client::{Client, CommitError, Record};
use plimsoll_protocol::api::{GROUPS_TOPIC, group_home};
use plimsoll_tests::{TestCluster, eventually, within};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const GROUP: &str = "billing";
const PARTITIONS: u32 = 6;
const ROUNDS: u64 = 2;

/// What a member was given, and what it owned when.
#[derive(Default)]
struct Seen {
    places: BTreeSet<(u32, u64)>,
    assignments: Vec<Vec<u32>>,
}

struct Worker {
    seen: Arc<Mutex<Seen>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), CommitError>>,
}

impl Worker {
    async fn start(client: Client) -> Self {
        let joining = client
            .group_consumer(GROUP)
            .topics(["orders"])
            .session_timeout(Duration::from_secs(20))
            .auto_commit(Duration::from_millis(100))
            .build();
        let mut consumer = within("join", joining).await.expect("a member");
        let seen = Arc::<Mutex<Seen>>::default();
        let (stop, mut stopped) = oneshot::channel();
        let noted = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let record = tokio::select! {
                    biased;
                    _ = &mut stopped => return consumer.leave().await,
                    record = consumer.next() => record,
                };
                let record = record.expect("it goes on").expect("it can be read");
                let owned = consumer.assignment().into_iter().map(|(_, partition)| partition);
                let owned: Vec<u32> = owned.collect();
                let mut seen = noted.lock().unwrap();
                seen.places.insert((record.partition, record.offset.0));
                if seen.assignments.last() != Some(&owned) {
                    seen.assignments.push(owned);
                }
            }
        });
        Self { seen, stop, task }
    }

    fn assignments(&self) -> Vec<Vec<u32>> {
        self.seen.lock().unwrap().assignments.clone()
    }

    fn share(&self) -> usize {
        self.assignments().last().map_or(0, Vec::len)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_coordinator_loses_no_record_and_moves_no_partition() {
    let mut cluster = TestCluster::start().await;
    cluster.create_topic("orders", PARTITIONS, &[]).await;
    let client = cluster.client().await;
    let (stop, mut stopped) = oneshot::channel::<()>();
    let producer = within("build", client.producer("orders").build()).await.expect("a producer");
    let writing = tokio::spawn(async move {
        let mut stored = BTreeSet::new();
        let mut every = tokio::time::interval(Duration::from_millis(10));
        while stopped.try_recv().is_err() {
            every.tick().await;
            for partition in 0..PARTITIONS {
                let record = Record::new("x");
                let queued = producer.enqueue_to(partition, &record);
                let ack = within("room", queued).await.expect("it is taken");
                let ack = within("an acknowledgement", ack).await.expect("it is stored");
                stored.insert((partition, ack.offset.expect("with an offset").0));
            }
        }
        stored
    });
    let watching = cluster.client().await;
    let workers =
        [Worker::start(watching.clone()).await, Worker::start(cluster.client().await).await];
    eventually("each has half", async || {
        workers.iter().all(|worker| worker.share() == PARTITIONS as usize / 2).then_some(())
    })
    .await;
    let settled: Vec<_> = workers.iter().map(Worker::assignments).collect();
    for _ in 0..ROUNDS {
        let leader = eventually("a coordinator", async || {
            let home = group_home(GROUP, 16);
            watching.cluster().partition(GROUPS_TOPIC, home.0)?.leader
        })
        .await;
        let status = cluster.status().await;
        let index = (0..3).find(|index| cluster.nodes.id_of(&status, *index) == Some(leader));
        let index = index.expect("the coordinator is one of three");
        cluster.nodes.kill(index).unwrap();
        let group = client.admin().group(GROUP);
        eventually("another coordinator", async || group.describe().await.ok()).await;
        cluster.nodes.restart(index).unwrap();
        cluster.wait_until_well().await;
    }
    stop.send(()).expect("the writer writes");
    let stored = within("the writer's end", writing).await.expect("it ends");
    eventually("everything has arrived", async || {
        let mut seen = BTreeSet::new();
        for worker in &workers {
            seen.extend(worker.seen.lock().unwrap().places.iter().copied());
        }
        stored.is_subset(&seen).then_some(())
    })
    .await;
    let after: Vec<_> = workers.iter().map(Worker::assignments).collect();
    assert_eq!(after, settled, "members keep what they own");
    for worker in workers {
        let _ = worker.stop.send(());
        within("leave", worker.task).await.expect("it ends").expect("it leaves");
    }
    let offsets = within("offsets", client.admin().group(GROUP).offsets()).await.unwrap();
    for at in offsets {
        let end = stored.range((at.partition.0, 0)..(at.partition.0 + 1, 0)).next_back().unwrap().1;
        assert_eq!(at.offset.0, end + 1, "partition {}", at.partition);
    }
}
