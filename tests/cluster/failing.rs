//! Nodes that end, in order or not, and what a client sees of it.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_client::{Client, ClientConfig, ErrorCode, NewTopic, ProducerOptions, Record};
use plimsoll_tests::{History, Pace, Reader, TestCluster, Writer, eventually, read_log, within};

use crate::{from_leader, numbered, produce, producer, stored};

const PACE: Pace = Pace { per_second: 200, window: 200 };

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced_and_nothing_is_lost_or_doubled() {
    let mut cluster = TestCluster::start().await;
    cluster.create_topic("t", 1, &[]).await;
    let client = cluster.client().await;
    let producer = producer(&client, "t").await;
    for round in 0..3 {
        let begin = round * 200;
        produce(&producer, 0, numbered(begin..begin + 100)).await;
        // The rest is on its way, acknowledged or not, when the node ends.
        let rest = tokio::spawn({
            let producer = producer.clone();
            async move { produce(&producer, 0, numbered(begin + 100..begin + 200)).await }
        });
        let leader = cluster.leader("t", 0).await;
        cluster.nodes.kill(leader).unwrap();
        within("the rest", rest).await.expect("all is acknowledged");
        cluster.nodes.restart(leader).unwrap();
        cluster.wait_until_well().await;
    }
    let found = stored(&client, "t", 0, from_leader).await;
    assert!(found.into_iter().eq(numbered(0..600)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_under_load_fails_no_operation() {
    let mut cluster = TestCluster::start().await;
    cluster.create_topic("t", 3, &[]).await;
    let topic = ("t", 3);
    let history = Arc::new(History::default());
    let config = cluster.nodes.client_config().unwrap();
    let writers: Vec<_> =
        (0..2).map(|seed| Writer::start(config.clone(), topic, PACE, &history, seed)).collect();
    let reader = Reader::start(&config, &[topic], from_leader);
    history.wait_for_acks(100).await;
    let admin = cluster.client().await.admin();
    for index in 0..3 {
        let asking = async {
            loop {
                let described = admin.describe_topic("t").await;
                assert_eq!(described.expect("some node answers").partitions.len(), 3);
            }
        };
        let restarting = async {
            cluster.nodes.stop(index).await.expect("it ends in order");
            history.wait_for_acks(200).await;
            cluster.nodes.restart(index).expect("it starts");
            let client = cluster.nodes.client().await.expect("another node answers");
            cluster.nodes.wait_until_well(&client).await.expect("it catches up");
            history.wait_for_acks(100).await;
        };
        tokio::select! {
            biased;
            () = asking => unreachable!("it asks for ever"),
            () = restarting => {}
        }
    }
    for writer in writers {
        writer.finish().await;
    }
    assert_eq!(history.failures(), Vec::<String>::new());
    let client = cluster.client().await;
    let mut logs = std::collections::BTreeMap::new();
    for partition in 0..3 {
        let log = read_log(&client, ("t", partition), from_leader).await;
        assert_eq!(history.check("t", partition, &log), Ok(()));
        logs.insert(("t", partition), log);
    }
    assert_eq!(reader.errors(), Vec::<String>::new());
    reader.finish(&logs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_writes_are_refused_and_nothing_is_lost() {
    let mut cluster = TestCluster::start().await;
    cluster.create_topic("t", 1, &[]).await;
    let client = cluster.client().await;
    produce(&producer(&client, "t").await, 0, numbered(0..10)).await;
    let options =
        ProducerOptions { delivery_timeout: Duration::from_secs(2), ..ProducerOptions::default() };
    let built = within("build", client.producer("t").options(options).build()).await;
    let hasty = built.expect("a producer");
    let survivor = cluster.leader("t", 0).await;
    let others: Vec<_> = (0..3).filter(|index| *index != survivor).collect();
    for &other in &others {
        cluster.nodes.kill(other).unwrap();
    }
    let impatient = ClientConfig {
        request_timeout: Duration::from_secs(2),
        ..cluster.nodes.client_config().unwrap()
    };
    let alone = within("connect", Client::connect(impatient)).await.expect("one node answers");
    // Until the node has found out that it is alone the outcome is unknown. Whether it led the catalog
    // or does not know who does: nobody can change it now, and the answer says so.
    eventually("a new topic is refused for want of a majority", async || {
        let refused = alone.admin().create_topic(NewTopic::new("other")).await.unwrap_err();
        let codes = [ErrorCode::NoQuorum, ErrorCode::NotLeader];
        refused.code().is_some_and(|code| codes.contains(&code)).then_some(())
    })
    .await;
    // The one that leads says why, as soon as it has found out.
    eventually("a record is refused for want of a majority", async || {
        let given_up = within("send", hasty.send(Record::new("not stored"))).await.unwrap_err();
        given_up.to_string().contains("majority").then_some(())
    })
    .await;

    for &other in &others {
        cluster.nodes.restart(other).unwrap();
    }
    cluster.wait_until_well().await;
    produce(&producer(&client, "t").await, 0, numbered(10..20)).await;
    let found = stored(&client, "t", 0, from_leader).await;
    let found = found.into_iter().filter(|value| value != "not stored");
    assert!(found.eq(numbered(0..20)));
}
