//! Who is let into a cluster, and what the others are told.

use plimsoll_client::NewTopic;
use plimsoll_tests::{TestCluster, eventually};

use crate::{from_leader, numbered, produce, producer, stored};

/// Runs a start that must fail and returns what it printed.
fn refused(command: &plimsoll_bench::serve_process::ServeCommand) -> String {
    let output = command.run().expect("the binary can be started");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "it was let in: {text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_and_one_of_another_cluster_are_refused() {
    let cluster = TestCluster::start_with(1, |_, command| command).await;
    let other = TestCluster::start_with(1, |_, command| command).await;
    let (address, token) =
        (cluster.nodes.command(0).address(), cluster.nodes.join_token().unwrap());

    let (rest, secret) = token.rsplit_once('-').expect("PLM1-fingerprint-secret");
    let wrong: String = secret.chars().rev().collect();
    assert_ne!(wrong, secret);
    let text =
        refused(&cluster.another("wrong-secret").joining(address, format!("{rest}-{wrong}")));
    assert!(text.contains("does not know the join token"), "{text}");

    let foreign = other.nodes.join_token().unwrap();
    let text = refused(&cluster.another("other-cluster").joining(address, foreign));
    assert!(text.contains("certificate") && text.contains(&address.to_string()), "{text}");

    let text = refused(&cluster.another("no-token").joining(address, "hello"));
    assert!(text.contains("PLM1"), "it says what a token looks like: {text}");
    assert_eq!(cluster.status().await.nodes.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_directory_is_refused() {
    let cluster = TestCluster::start().await;
    let (original, copy) = (cluster.nodes.command(2), cluster.another("twin"));
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(original.data_directory())
        .arg(copy.data_directory())
        .status();
    assert!(copied.unwrap().success());
    let (address, token) =
        (cluster.nodes.command(0).address(), cluster.nodes.join_token().unwrap());
    let process = copy.joining(address, token).start().unwrap();
    eventually("one of the two is told that there are two", async || {
        let said = process.output() + &original.output();
        said.contains("is a copy").then_some(())
    })
    .await;
    // Whoever goes on, the majority does.
    let client = cluster.client_of(0).await;
    eventually("the cluster serves", async || client.admin().cluster_status().await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_disk_joins_as_a_new_one() {
    let mut cluster = TestCluster::start().await;
    cluster.create_topic("t", 1, &[]).await;
    let client = cluster.client_of(0).await;
    produce(&producer(&client, "t").await, 0, numbered(0..100)).await;
    let before: Vec<_> = cluster.status().await.nodes.iter().map(|node| node.node).collect();
    cluster.nodes.kill(2).unwrap();
    // Its address is that of a member still, so it comes with another one.
    let another = cluster.another("new-disk");
    cluster.nodes.add(another).unwrap();
    cluster.nodes.wait_until_members(&client).await.expect("it is let in");
    let after = cluster.id_of(3).await;
    assert!(!before.contains(&after), "an id is never used again");
    let found = stored(&client, "t", 0, from_leader).await;
    assert!(found.into_iter().eq(numbered(0..100)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_started_again_with_its_token_joins_once() {
    let mut cluster = TestCluster::start().await;
    let before = cluster.id_of(1).await;
    for _ in 0..3 {
        cluster.nodes.kill(1).unwrap();
        cluster.nodes.restart(1).unwrap();
        cluster.wait_until_well().await;
    }
    assert_eq!(cluster.id_of(1).await, before);
    assert_eq!(cluster.status().await.nodes.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_on_one_node_gets_its_replicas_when_others_join() {
    let mut cluster = TestCluster::start_with(1, |_, command| command).await;
    let client = cluster.client_of(0).await;
    let made = client.admin().create_topic(NewTopic::new("t")).await.unwrap();
    assert_eq!(made.replicas, 1, "there is one node");
    produce(&producer(&client, "t").await, 0, numbered(0..100)).await;
    for name in ["second", "third"] {
        let another = cluster.another(name);
        cluster.nodes.add(another).unwrap();
    }
    cluster.nodes.wait_until_members(&client).await.expect("they are let in");
    let admin = client.admin();
    eventually("three replicas", async || {
        let described = admin.describe_topic("t").await.ok()?;
        let status = admin.cluster_status().await.ok()?;
        let all = described.partitions[0].replicas.len() == 3 && status.moves_total == 0;
        (all && described.topic.replicas == 3).then_some(())
    })
    .await;
    // It survives the loss of the node that had it alone.
    let rest = cluster.client_of(1).await;
    cluster.nodes.kill(0).unwrap();
    let found = stored(&rest, "t", 0, from_leader).await;
    assert!(found.into_iter().eq(numbered(0..100)));
}
