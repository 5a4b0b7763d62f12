//! Three nodes: what was acknowledged survives the loss of any one of them, and nobody leads beside
//! a leader that can be believed.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod harness;

use std::time::Duration;

use harness::cluster::{Cluster, numbered, store};
use harness::{MEMORY, Producer, propose, values};
use plimsoll_log::disk::sim::{Effect, Fault, Operation};
use plimsoll_protocol::ids::{GroupId, NodeId, Offset};
use plimsoll_replication::{ProduceError, Role};
use tokio::time::Instant;

fn counted(count: u64) -> Vec<String> {
    (0..count).map(|i| i.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn batch_is_on_every_replica_and_acknowledged_by_a_majority() {
    let cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    store(&cluster, group, &mut producer, 20).await;
    for node in 1..=3 {
        cluster.caught_up(node, group, Offset(20)).await;
        assert_eq!(values(&cluster.group(node, group)), counted(20));
    }
    // One replica less changes nothing.
    let leader = cluster.leader(group).await;
    let follower = (1..=3).find(|node| *node != leader).unwrap();
    cluster.cuts.isolate(follower, (1..=3).filter(|node| *node != follower));
    store(&cluster, group, &mut producer, 5).await;
    assert_eq!(values(&cluster.group(leader, group)), counted(25));
}

#[tokio::test(start_paused = true)]
async fn another_leads_after_the_leader_died_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    let mut batches = numbered(&mut producer, 10);
    for batch in &batches {
        cluster.produce(group, batch).await;
    }
    let died = cluster.leader(group).await;
    let disk = cluster.kill(died).await;
    let killed_at = Instant::now();
    // The retry of an acknowledged batch is recognised by the new leader.
    let again = cluster.produce(group, &batches[9]).await;
    assert!(again.duplicate && again.base_offset == Offset(9));
    assert!(killed_at.elapsed() < Duration::from_secs(5), "{:?}", killed_at.elapsed());
    batches = numbered(&mut producer, 10);
    for batch in &batches {
        cluster.produce(group, batch).await;
    }
    let leader = cluster.leader(group).await;
    assert_ne!(leader, died);
    cluster.start(died, disk).await;
    cluster.caught_up(died, group, Offset(20)).await;
    for node in 1..=3 {
        assert_eq!(values(&cluster.group(node, group)), counted(20));
    }
}

/// Clients were sent back to a node that was going down, until its claim was taken back.
#[tokio::test(start_paused = true)]
async fn old_leader_is_not_named_by_whom_it_handed_over_to() {
    let cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    store(&cluster, group, &mut Producer::new(7), 3).await;
    let old = cluster.leader(group).await;
    let new = cluster.group(old, group).transfer_leader(None).await.unwrap();
    let hint = cluster.host(new.0).leader_hint(group);
    assert!(hint.is_none_or(|(node, _)| node != NodeId(old)), "{hint:?}");
}

/// A follower whose storage had failed once woke the group anew, and told the leader that it had
/// journaled what was in its memory only: acknowledged records were lost (the simulation found it).
#[tokio::test(start_paused = true)]
async fn follower_whose_storage_failed_counts_for_nothing() {
    let cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    store(&cluster, group, &mut producer, 3).await;
    let leader = cluster.leader(group).await;
    let others: Vec<u64> = (1..=3).filter(|node| *node != leader).collect();
    cluster.cuts.isolate(others[0], [leader, others[1]]);
    let failing = Fault::new(Operation::Write, 1, Effect::Eio).once();
    cluster.members[&others[1]].disk.inject(failing);
    let batch = numbered(&mut producer, 1).remove(0);
    let pending = propose(&cluster.group(leader, group), &batch).await.unwrap();
    let outcome = tokio::time::timeout(Duration::from_secs(10), pending).await;
    assert!(!matches!(outcome, Ok(Ok(_))), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn leader_in_a_minority_refuses_and_follows_when_it_is_back() {
    let cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    store(&cluster, group, &mut producer, 3).await;
    let alone = cluster.leader(group).await;
    cluster.cuts.isolate(alone, (1..=3).filter(|node| *node != alone));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let lost = harness::batch_of(plimsoll_protocol::ids::ProducerId(9), 0, 0, &["lost"]);
    let refused = propose(&cluster.group(alone, group), &lost).await.unwrap_err();
    assert!(matches!(refused, ProduceError::NoQuorum(_)), "{refused}");
    let others: Vec<u64> = (1..=3).filter(|node| *node != alone).collect();
    cluster
        .until("one of the others leads", || {
            others.iter().any(|node| cluster.role(*node, group).led_term().is_some())
        })
        .await;
    cluster.cuts.heal();
    store(&cluster, group, &mut producer, 3).await;
    for node in 1..=3 {
        cluster.caught_up(node, group, Offset(6)).await;
        assert_eq!(values(&cluster.group(node, group)), counted(6));
    }
    assert!(matches!(cluster.role(alone, group), Role::Follower { .. }));
}

/// A follower that hears nothing of its leader, while the other one does, changes nothing: it is
/// refused without a change of term.
#[tokio::test(start_paused = true)]
async fn one_broken_way_does_not_depose_a_leader_that_reaches_a_majority() {
    let cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    store(&cluster, group, &mut producer, 3).await;
    let leader = cluster.leader(group).await;
    let term = cluster.role(leader, group).led_term().unwrap();
    let deaf = (1..=3).find(|node| *node != leader).unwrap();
    cluster.cuts.one_way(leader, deaf);
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(cluster.role(leader, group).led_term(), Some(term), "it leads on");
        store(&cluster, group, &mut producer, 1).await;
    }
    cluster.cuts.heal();
    cluster.caught_up(deaf, group, Offset(8)).await;
    assert_eq!(cluster.role(leader, group).led_term(), Some(term));
}

/// Two leaders of one term there are never, and of two terms only one can propose.
#[tokio::test(start_paused = true)]
async fn no_term_has_two_leaders() {
    let mut cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    let mut leaders = std::collections::BTreeMap::new();
    for round in 0..6 {
        store(&cluster, group, &mut producer, 2).await;
        for node in cluster.members.keys() {
            if let Some(term) = cluster.role(*node, group).led_term() {
                let other = leaders.insert(term, *node);
                assert!(other.is_none_or(|other| other == *node), "term {term}");
            }
        }
        let leader = cluster.leader(group).await;
        let disk = if round % 2 == 0 {
            cluster.kill(leader).await
        } else {
            cluster.power_failure(leader).await
        };
        cluster.start(leader, disk).await;
    }
    for node in 1..=3 {
        cluster.caught_up(node, group, Offset(12)).await;
        assert_eq!(values(&cluster.group(node, group)), counted(12));
    }
}

#[tokio::test(start_paused = true)]
async fn metadata_group_has_every_node_and_answers_on_each() {
    let mut cluster = Cluster::new(3).await;
    cluster
        .until("three nodes vote", || {
            let leader = cluster.host(1).leader(GroupId::CATALOG);
            leader.is_some() && cluster.members[&1].host.voters(GroupId::CATALOG).len() == 3
        })
        .await;
    for (node, name) in [(1, "a"), (2, "b"), (3, "c")] {
        let only = cluster.host(node);
        let catalog = cluster.members[&node].catalog.clone();
        let ids = plimsoll_state::catalog::CatalogCommand::AllocateProducerIds { count: 10 };
        only.command(&ids).await.unwrap();
        assert!(catalog.catalog().is_empty(), "{name}");
    }
    let leader = cluster.host(1).leader(GroupId::CATALOG).unwrap().0;
    cluster.kill(leader.0).await;
    let group = cluster.topic("after", 2).await;
    assert_ne!(cluster.leader(GroupId::CATALOG).await, leader.0);
    let placed = cluster.members.values().next().unwrap().catalog.catalog();
    assert!(!placed.replica_set(group).unwrap().wanted.is_empty());
    assert_ne!(leader, NodeId(0));
}

#[tokio::test(start_paused = true)]
async fn leadership_is_handed_over_without_a_refused_batch() {
    let cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    store(&cluster, group, &mut producer, 3).await;
    for _ in 0..3 {
        let leader = cluster.leader(group).await;
        let to = (1..=3).find(|node| *node != leader).unwrap();
        let before = Instant::now();
        let led = cluster.group(leader, group).transfer_leader(Some(NodeId(to))).await.unwrap();
        assert_eq!(led, NodeId(to));
        assert!(before.elapsed() < Duration::from_millis(100), "{:?}", before.elapsed());
        let follows = cluster.role(leader, group);
        assert!(matches!(follows, Role::Follower { leader, .. } if leader == led), "{follows:?}");
        store(&cluster, group, &mut producer, 2).await;
    }
    assert_eq!(values(&cluster.group(cluster.leader(group).await, group)), counted(9));
}

/// A transfer that does not arrive leaves openraft's leader mute: its instance ends, and the group
/// is led again.
#[tokio::test(start_paused = true)]
async fn group_is_led_again_after_a_transfer_that_was_lost() {
    let cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    store(&cluster, group, &mut producer, 3).await;
    let leader = cluster.leader(group).await;
    let to = (1..=3).find(|node| *node != leader).unwrap();
    cluster.caught_up(to, group, Offset(3)).await;
    cluster.cuts.one_way(leader, to);
    let refused = cluster.group(leader, group).transfer_leader(Some(NodeId(to))).await;
    assert!(refused.is_err(), "{refused:?}");
    store(&cluster, group, &mut producer, 3).await;
    cluster.cuts.heal();
    for node in 1..=3 {
        cluster.caught_up(node, group, Offset(6)).await;
        assert_eq!(values(&cluster.group(node, group)), counted(6));
    }
}

#[tokio::test(start_paused = true)]
async fn node_that_shuts_down_leaves_its_groups_led() {
    let mut cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    store(&cluster, group, &mut producer, 3).await;
    let leader = cluster.leader(group).await;
    let host = cluster.host(leader);
    let before = Instant::now();
    host.shutdown().await;
    assert!(before.elapsed() < Duration::from_millis(500), "{:?}", before.elapsed());
    let others: Vec<u64> = (1..=3).filter(|node| *node != leader).collect();
    let leads = |node: &u64| cluster.role(*node, group).led_term().is_some();
    cluster.until("another leads", || others.iter().any(leads)).await;
    assert!(before.elapsed() < Duration::from_millis(500), "{:?}", before.elapsed());
    cluster.kill(leader).await;
    store(&cluster, group, &mut producer, 3).await;
    let next = cluster.leader(group).await;
    assert_eq!(values(&cluster.group(next, group)), counted(6));
}

const IDLE: Duration = Duration::from_secs(30);

async fn all_sleep(cluster: &Cluster, group: GroupId) {
    let leader = cluster.leader(group).await;
    cluster.members[&leader].clock.advance(IDLE);
    assert_eq!(cluster.host(leader).sleep_idle(IDLE).await, 1);
    for node in cluster.members.keys() {
        assert_eq!(cluster.role(*node, group), Role::Asleep, "node {node}");
    }
}

#[tokio::test(start_paused = true)]
async fn group_sleeps_on_every_node_together_and_wakes_where_it_was_led() {
    let cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    for round in 1..4 {
        store(&cluster, group, &mut producer, 3).await;
        let leader = cluster.leader(group).await;
        for node in 1..=3 {
            cluster.caught_up(node, group, Offset(3 * round)).await;
        }
        all_sleep(&cluster, group).await;
        for node in 1..=3 {
            let hint = cluster.host(node).leader_hint(group).unwrap();
            assert_eq!(hint.0, NodeId(leader), "asleep it is led as before");
            let committed = cluster.host(node).committed_offset(group).unwrap();
            assert_eq!(committed, Some(Offset(3 * round)));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn sleeping_group_is_led_by_another_when_its_leader_is_gone() {
    let mut cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    store(&cluster, group, &mut producer, 3).await;
    for node in 1..=3 {
        cluster.caught_up(node, group, Offset(3)).await;
    }
    let leader = cluster.leader(group).await;
    all_sleep(&cluster, group).await;
    let disk = cluster.kill(leader).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    for node in cluster.members.keys() {
        assert_eq!(cluster.role(*node, group), Role::Asleep, "nobody needs it");
    }
    store(&cluster, group, &mut producer, 3).await;
    let next = cluster.leader(group).await;
    cluster.caught_up(next, group, Offset(6)).await;
    // It sleeps without the dead one, which is repaired when it is back.
    for node in cluster.members.keys() {
        cluster.caught_up(*node, group, Offset(6)).await;
    }
    all_sleep(&cluster, group).await;
    cluster.start(leader, disk).await;
    cluster.caught_up(leader, group, Offset(6)).await;
    assert_eq!(values(&cluster.group(leader, group)), counted(6));
}

#[tokio::test(start_paused = true)]
async fn linearizable_read_sees_what_was_acknowledged_before_on_every_replica() {
    let cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    for round in 1..10_u64 {
        store(&cluster, group, &mut producer, 1).await;
        let reads = (1..=3).map(|node| {
            let at = cluster.group(node, group);
            async move { (at.linearizable().await, at.linearizable().await) }
        });
        for (first, second) in futures_util::future::join_all(reads).await {
            assert!(first.unwrap() >= Offset(round) && second.unwrap() >= Offset(round));
        }
    }
    // A deposed leader that nobody told confirms nothing.
    let leader = cluster.leader(group).await;
    cluster.cuts.isolate(leader, (1..=3).filter(|node| *node != leader));
    let refused = cluster.group(leader, group).linearizable().await;
    assert!(refused.is_err(), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn bounded_read_is_refused_where_the_replica_may_be_too_old() {
    let cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    store(&cluster, group, &mut producer, 3).await;
    let allowed = Duration::from_millis(300);
    for node in 1..=3 {
        let offset = cluster.group(node, group).fresh_within(allowed).await.unwrap();
        assert_eq!(offset, Offset(3), "node {node}");
    }
    let leader = cluster.leader(group).await;
    let follower = (1..=3).find(|node| *node != leader).unwrap();
    cluster.cuts.isolate(follower, (1..=3).filter(|node| *node != follower));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let refused = cluster.group(follower, group).fresh_within(allowed).await;
    assert!(refused.is_err(), "{refused:?}");
    let old = cluster.group(follower, group).fresh_within(Duration::from_secs(3)).await;
    assert_eq!(old.unwrap(), Offset(3), "what it knew a second ago is fresh enough");
}

/// Whether batches are stored and acknowledged by what the followers hold, not by what was sent to
/// them: with the power of two nodes gone at once nothing acknowledged is missing.
#[tokio::test(start_paused = true)]
async fn acknowledged_batches_survive_a_power_failure_of_every_node() {
    let mut cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    for round in 1..5 {
        store(&cluster, group, &mut producer, 5).await;
        let mut disks = Vec::new();
        for node in 1..=3 {
            disks.push(cluster.power_failure(node).await);
        }
        for (node, disk) in (1..=3).zip(disks) {
            cluster.start(node, disk).await;
        }
        let again =
            harness::batch_of(producer.id, 0, 5 * round - 1, &[&(5 * round - 1).to_string()]);
        let duplicate = cluster.produce(group, &again).await;
        assert!(duplicate.duplicate && duplicate.base_offset == Offset(5 * round - 1));
        let leader = cluster.leader(group).await;
        assert_eq!(values(&cluster.group(leader, group)), counted(5 * round));
    }
}

/// A leader whose replica showed damage went on leading, with nobody able to read, until somebody wrote.
#[tokio::test(start_paused = true)]
async fn damaged_replica_neither_leads_nor_follows() {
    let cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    store(&cluster, group, &mut producer, 3).await;
    let damaged = cluster.leader(group).await;
    let at = cluster.group(damaged, group);
    at.log().set_quarantined("a test says so");
    cluster
        .until("another node leads", || {
            (1..=3).any(|node| node != damaged && cluster.role(node, group).led_term().is_some())
        })
        .await;
    let shown = cluster.role(damaged, group);
    assert!(matches!(shown, Role::Searching { .. }), "it is no answer to a reader: {shown:?}");
    let refused = propose(&at, &numbered(&mut producer, 1)[0]).await.unwrap_err();
    assert!(matches!(refused, ProduceError::NotLeader(_)), "others are whole: {refused}");
}

/// openraft's leader does not step down for that, so its role tells those who read from it nothing.
#[tokio::test(start_paused = true)]
async fn leader_that_hears_no_majority_says_that_it_is_cut_off() {
    let cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    store(&cluster, group, &mut producer, 3).await;
    let leader = cluster.leader(group).await;
    let (held, limit) = (cluster.group(leader, group), Duration::from_secs(1));
    let well = tokio::time::timeout(limit * 3, held.cut_off(limit)).await;
    assert!(well.is_err(), "it reaches all of them");
    cluster.cuts.isolate(leader, (1..=3).filter(|node| *node != leader));
    tokio::time::timeout(limit * 5, held.cut_off(limit)).await.expect("it hears nobody");
}

/// A topic was made while a node was down, and its group slept when that node came back: with no log of
/// it there, nobody noticed that a third replica was missing until somebody wrote.
#[tokio::test(start_paused = true)]
async fn replica_that_was_never_fed_is_fed_while_its_group_sleeps() {
    let mut cluster = Cluster::new(3).await;
    let away = 3;
    let disk = cluster.kill(away).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    store(&cluster, group, &mut producer, 3).await;
    for node in 1..=2 {
        cluster.caught_up(node, group, Offset(3)).await;
    }
    cluster
        .until("the node is seen to be away", || {
            (1..=2).all(|node| !cluster.members[&node].peers.view().hears(NodeId(away)))
        })
        .await;
    all_sleep(&cluster, group).await;
    cluster.start(away, disk).await;
    cluster
        .until("the replica is there", || {
            let log = cluster.host(away).store().group(group);
            log.is_some_and(|log| log.bounds().log_end_offset == Offset(3))
        })
        .await;
}

/// Three replicas without durability of eight records, of which the last five are in no checkpoint.
async fn not_all_written() -> (Cluster, GroupId, Producer) {
    let cluster = Cluster::with_options(3, MEMORY).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    store(&cluster, group, &mut producer, 3).await;
    for node in 1..=3 {
        cluster.caught_up(node, group, Offset(3)).await;
        cluster.host(node).store().checkpoint_now();
    }
    store(&cluster, group, &mut producer, 5).await;
    for node in 1..=3 {
        cluster.caught_up(node, group, Offset(8)).await;
    }
    (cluster, group, producer)
}

/// Two of three replicas without durability lost what they had not written yet, and one of them led: the
/// third, which had applied more, kept its own history, or failed at every entry: openraft takes every entry
/// below its own committed one for one that it has, so it neither compares nor truncates.
#[tokio::test(start_paused = true)]
async fn replica_in_memory_that_has_more_than_its_leader_begins_anew() {
    let (mut cluster, group, _) = not_all_written().await;
    let ahead = 1;
    cluster.cuts.isolate(ahead, [2, 3]);
    let disks = [cluster.power_failure(2).await, cluster.power_failure(3).await];
    for (node, disk) in (2..=3).zip(disks) {
        cluster.start(node, disk).await;
    }
    let mut another = Producer::new(8);
    let batches = numbered(&mut another, 2);
    for node in 2..=3 {
        cluster.group(node, group).wake().await.unwrap();
    }
    cluster
        .until("one that has less leads", || {
            (2..=3).any(|node| cluster.role(node, group).led_term().is_some())
        })
        .await;
    cluster.cuts.heal();
    for batch in &batches {
        cluster.produce(group, batch).await;
    }
    let leader = cluster.leader(group).await;
    assert_ne!(leader, ahead);
    let kept = values(&cluster.group(leader, group));
    assert!(kept.len() < 8, "the power failure took nothing: {kept:?}");
    cluster
        .until("all are alike", || (1..=3).all(|node| values(&cluster.group(node, group)) == kept))
        .await;
}

/// Whoever asked for a transfer went away between the request and its end: the leader stayed mute, and its
/// claim kept every other replica from standing for election.
#[tokio::test(start_paused = true)]
async fn group_is_led_again_after_a_transfer_that_nobody_waited_for() {
    let cluster = Cluster::new(3).await;
    let group = cluster.topic("t", 3).await;
    let mut producer = Producer::new(7);
    store(&cluster, group, &mut producer, 3).await;
    let leader = cluster.leader(group).await;
    let to = (1..=3).find(|node| *node != leader).unwrap();
    cluster.caught_up(to, group, Offset(3)).await;
    cluster.cuts.one_way(leader, to);
    let at = cluster.group(leader, group);
    let transfer = at.transfer_leader(Some(NodeId(to)));
    tokio::time::timeout(Duration::from_millis(100), transfer).await.unwrap_err();
    store(&cluster, group, &mut producer, 3).await;
    assert_eq!(values(&cluster.group(cluster.leader(group).await, group)), counted(6));
}

/// Those that may have lost something voted for nobody, so the one that had everything had to wait until
/// they stood for election themselves, and one of them could win.
#[tokio::test(start_paused = true)]
async fn replica_that_kept_everything_leads_those_in_memory_that_lost_their_power() {
    let (mut cluster, group, mut producer) = not_all_written().await;
    // The last one in the order in which they stand.
    let catalog = cluster.members[&1].catalog.catalog();
    let order: Vec<u64> = catalog.replica_set(group).unwrap().wanted.iter().map(|n| n.0).collect();
    let leader = cluster.leader(group).await;
    let survivor = *order.iter().rfind(|node| **node != leader).unwrap();
    let others: Vec<u64> = order.into_iter().filter(|node| *node != survivor).collect();
    let mut disks = Vec::new();
    for node in &others {
        disks.push(cluster.power_failure(*node).await);
    }
    for (node, disk) in others.into_iter().zip(disks) {
        cluster.start(node, disk).await;
    }
    store(&cluster, group, &mut producer, 1).await;
    for node in 1..=3 {
        cluster.caught_up(node, group, Offset(9)).await;
        assert_eq!(values(&cluster.group(node, group)), counted(9));
    }
}
