//! Replicas that move while producers and consumers are at work: to a node that joins, away from one
//! that is drained, and on when whoever drives the moves dies.

use std::collections::BTreeMap;
use std::sync::Arc;

use plimsoll_client::{ClientConfig, ErrorCode, NewTopic, RequestError};
use plimsoll_protocol::ids::NodeId;
use plimsoll_tests::{History, Pace, Reader, TestCluster, Writer, eventually, read_log, within};

use crate::{from_leader, numbered, produce, producer, stored};

const PACE: Pace = Pace { per_second: 200, window: 200 };
const PARTITIONS: u32 = 6;
const TOPIC: (&str, u32) = ("t", PARTITIONS);

/// Producers and a consumer, and what they saw.
struct Load {
    history: Arc<History>,
    writers: Vec<Writer>,
    reader: Reader,
}

impl Load {
    async fn start(config: &ClientConfig) -> Self {
        let history = Arc::new(History::default());
        let write = |seed| Writer::start(config.clone(), TOPIC, PACE, &history, seed);
        let writers = (0..2).map(write).collect();
        let reader = Reader::start(config, &[TOPIC], from_leader);
        history.wait_for_acks(200).await;
        Self { history, writers, reader }
    }

    /// Ends it; everything that was acknowledged is there once and in order, and was consumed.
    async fn finish(self, cluster: &TestCluster) {
        self.history.wait_for_acks(200).await;
        for writer in self.writers {
            writer.finish().await;
        }
        assert_eq!(self.history.failures(), Vec::<String>::new());
        let client = cluster.client().await;
        let mut logs = BTreeMap::new();
        for partition in 0..PARTITIONS {
            let log = read_log(&client, ("t", partition), from_leader).await;
            assert_eq!(self.history.check("t", partition, &log), Ok(()), "partition {partition}");
            logs.insert(("t", partition), log);
        }
        assert_eq!(self.reader.errors(), Vec::<String>::new());
        self.reader.finish(&logs).await;
    }
}

async fn join(cluster: &mut TestCluster, name: &str) -> NodeId {
    let another = cluster.another(name);
    cluster.nodes.add(another).unwrap();
    let client = cluster.client_of(0).await;
    cluster.nodes.wait_until_members(&client).await.expect("it joins");
    cluster.id_of(cluster.nodes.len() - 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_is_killed_in_mid_move_is_followed_by_another() {
    let slow = |_, command: plimsoll_bench::serve_process::ServeCommand| {
        command.argument("--set").argument("moves_max=1")
    };
    let mut cluster = TestCluster::start_with(3, slow).await;
    cluster.create_topic("t", PARTITIONS, &[]).await;
    let load = Load::start(&cluster.nodes.client_config().unwrap()).await;
    let newcomer = join(&mut cluster, "node-4").await;
    let admin = cluster.client().await.admin();
    within("rebalance", admin.rebalance()).await.expect("it is planned");
    // Some have moved or are about to, others have not begun.
    let driver = eventually("replicas move", async || {
        let status = admin.cluster_status().await.ok()?;
        let moves = status.moves.iter().any(|one| one.step != "waits for its turn");
        status.controller.filter(|_| moves)
    })
    .await;
    let index = cluster.nodes.index_of(&cluster.status().await, driver).unwrap();
    cluster.nodes.kill(index).unwrap();
    eventually("another node drives", async || {
        let status = admin.cluster_status().await.ok()?;
        status.controller.filter(|node| *node != driver)
    })
    .await;
    cluster.nodes.restart(index).unwrap();
    cluster.wait_until_well().await;
    let described = within("describe", admin.describe_topic("t")).await.unwrap();
    let moved = described.partitions.iter().filter(|found| found.replicas.contains(&newcomer));
    assert!(moved.count() > 0, "the new node has replicas");
    load.finish(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_is_emptied_under_load_and_can_go() {
    let mut cluster = TestCluster::start_with(4, |_, command| command).await;
    cluster.create_topic("t", PARTITIONS, &[]).await;
    let load = Load::start(&cluster.nodes.client_config().unwrap()).await;
    let described = cluster.client().await.admin().describe_topic("t").await.unwrap();
    // The one that leads the catalog is the hardest to do without.
    let leaving = cluster.status().await.controller.expect("somebody leads");
    let index = cluster.nodes.index_of(&cluster.status().await, leaving).unwrap();
    let held = described.partitions.iter().filter(|found| found.replicas.contains(&leaving));
    assert!(held.count() > 0, "it has replicas");
    // Not by the node that goes: it ends as soon as it is removed, perhaps before it has answered.
    let rest = (0..4).find(|other| *other != index).unwrap();
    let client = cluster.client_of(rest).await;
    let admin = client.admin();
    within("drain", admin.drain_node(leaving, true)).await.expect("it is planned");
    eventually("the node is empty", async || {
        let status = admin.cluster_status().await.ok()?;
        let node = status.nodes.iter().find(|node| node.node == leaving)?;
        let gone = status.controller.is_some_and(|node| node != leaving);
        (node.replicas == 0 && node.leaders == 0 && status.moves_total == 0 && gone).then_some(())
    })
    .await;
    eventually("it can go", async || match admin.remove_node(leaving, false).await {
        Ok(_) => Some(()),
        // A busy machine: whether it was heard is seen in who is left.
        Err(RequestError::ConnectionLost { .. }) => {
            let status = admin.cluster_status().await.ok()?;
            status.nodes.iter().all(|node| node.node != leaving).then_some(())
        }
        Err(error) => panic!("it can go: {error}"),
    })
    .await;
    cluster.nodes.kill(index).unwrap();
    cluster.nodes.wait_until_well(&client).await.expect("nothing lacks");
    load.finish(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_is_removed_and_its_replicas_are_made_anew() {
    let mut cluster = TestCluster::start_with(4, |_, command| command).await;
    cluster.create_topic("t", PARTITIONS, &[]).await;
    let load = Load::start(&cluster.nodes.client_config().unwrap()).await;
    let dead = cluster.id_of(3).await;
    cluster.nodes.kill(3).unwrap();
    let client = cluster.client_of(0).await;
    eventually("the others miss it", async || {
        let status = client.admin().cluster_status().await.ok()?;
        status.nodes.iter().any(|node| node.node == dead && !node.up).then_some(())
    })
    .await;
    within("remove", client.admin().remove_node(dead, false)).await.expect("it can go");
    cluster.nodes.wait_until_well(&client).await.expect("its replicas are made anew");
    let described = within("describe", client.admin().describe_topic("t")).await.unwrap();
    for partition in described.partitions {
        assert_eq!(partition.replicas.len(), 3);
        assert!(!partition.replicas.contains(&dead), "{:?}", partition.replicas);
        assert!(partition.log_end_offset.0 > 0 && partition.leader.is_some(), "{partition:?}");
    }
    load.finish(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_that_may_have_the_only_replica_is_not_removed() {
    let mut cluster = TestCluster::start().await;
    let client = cluster.client_of(0).await;
    let admin = client.admin();
    let one = NewTopic::new("one").partitions(6).replicas(1);
    within("create", admin.create_topic(one)).await.expect("it is made");
    let sending = producer(&client, "one").await;
    for partition in 0..6 {
        produce(&sending, partition, numbered(0..10)).await;
    }
    let dead = cluster.id_of(2).await;
    cluster.nodes.kill(2).unwrap();
    eventually("it is seen to be dead", async || {
        let status = admin.cluster_status().await.ok()?;
        status.nodes.iter().any(|node| node.node == dead && !node.up).then_some(())
    })
    .await;
    // It can be drained, but not be emptied.
    eventually("it is drained", async || admin.drain_node(dead, true).await.ok()).await;
    for _ in 0..3 {
        let refused = within("remove", admin.remove_node(dead, false)).await.unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::RemovalLosesQuorum), "{refused}");
    }
    let status = within("status", admin.cluster_status()).await.unwrap();
    assert!(status.unwell_total > 0, "what it has is nowhere else");
    cluster.nodes.restart(2).unwrap();
    eventually("it can go", async || {
        admin.remove_node(dead, false).await.ok().filter(|removed| removed.removed)
    })
    .await;
    for partition in 0..6 {
        let found = stored(&client, "one", partition, from_leader).await;
        assert!(found.into_iter().eq(numbered(0..10)), "partition {partition}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_an_operator_chose_is_the_preferred_one() {
    let cluster = TestCluster::start().await;
    cluster.create_topic("t", 1, &[]).await;
    let admin = cluster.client().await.admin();
    for index in [1, 2, 0] {
        let to = cluster.id_of(index).await;
        eventually("it leads", async || {
            admin.transfer_leader("t", 0, Some(to)).await.ok().filter(|made| made.leader == to)
        })
        .await;
        let described = within("describe", admin.describe_topic("t")).await.unwrap();
        assert_eq!(described.partitions[0].replicas[0], to);
        assert_eq!(described.partitions[0].replicas.len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_replica_is_made_anew_from_the_others() {
    const RECORDS: u64 = 4_000;
    let mut cluster = TestCluster::start().await;
    cluster.create_topic("t", 1, &["segment-bytes=64KiB"]).await;
    let client = cluster.client().await;
    produce(&producer(&client, "t").await, 0, numbered(0..RECORDS)).await;
    let leader = cluster.leader("t", 0).await;
    let victim = (leader + 1) % 3;
    cluster.nodes.stop(victim).await.unwrap();
    let segments = cluster.nodes.command(victim).data_directory().join("segments");
    let mut files: Vec<_> = std::fs::read_dir(&segments)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with("0000000000000001-") && name.ends_with(".segment")
        })
        .collect();
    files.sort();
    let mut bytes = std::fs::read(&files[0]).unwrap();
    let middle = 20_000;
    assert!(bytes[middle..middle + 64].iter().any(|byte| *byte != 0), "there are records");
    bytes[middle] ^= 0xff;
    std::fs::write(&files[0], bytes).unwrap();
    cluster.nodes.restart(victim).unwrap();
    cluster.wait_until_well().await;

    // Whoever leads serves from its own replica: the damage is found.
    let (id, admin) = (cluster.id_of(victim).await, client.admin());
    eventually("it leads", async || {
        admin.transfer_leader("t", 0, Some(id)).await.ok().filter(|made| made.leader == id)
    })
    .await;
    let found = stored(&client, "t", 0, from_leader).await;
    assert!(found.into_iter().eq(numbered(0..RECORDS)), "others serve");
    eventually("the damage is noticed", async || {
        cluster.nodes.process(victim).output().contains("group quarantined").then_some(())
    })
    .await;
    eventually("it is made anew", async || {
        let status = admin.cluster_status().await.ok()?;
        (status.unwell_total == 0 && status.moves_total == 0).then_some(())
    })
    .await;
    eventually("it leads again", async || {
        let leads = cluster.leader("t", 0).await == victim;
        let _ = if leads { None } else { admin.transfer_leader("t", 0, Some(id)).await.ok() };
        leads.then_some(())
    })
    .await;
    let found = stored(&client, "t", 0, from_leader).await;
    assert!(found.into_iter().eq(numbered(0..RECORDS)));
    assert_eq!(cluster.leader("t", 0).await, victim, "it serves from what it was given");
}
