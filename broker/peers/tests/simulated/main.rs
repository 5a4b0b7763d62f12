//! Links over a simulated network under a paused clock: cuts, kills and restarts in virtual time, and
//! the same course twice from the same seed.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod fabric;
mod world;

use std::time::Duration;

use plimsoll_peers::{LivenessEvent, PeerError};
use plimsoll_protocol::ids::{GroupId, NodeId};
use plimsoll_protocol::peer::{Appended, GroupStatus};

use crate::world::World;

/// Down is noticed within a timeout and an interval, and what a packet takes.
const NOTICED: Duration = Duration::from_millis(620);
/// A handshake that went into nothing, the longest pause, and a handshake that works.
const BACK: Duration = Duration::from_millis(3000 + 1000 + 500);

#[tokio::test(start_paused = true)]
async fn nodes_find_each_other() {
    let mut world = World::new(3, 1);
    world.pass(Duration::from_millis(500)).await;
    world.assert_all_reached();
}

#[tokio::test(start_paused = true)]
async fn a_killed_node_is_down_in_time_and_back_in_a_later_life() {
    let mut world = World::new(3, 2);
    world.pass(Duration::from_secs(1)).await;
    world.kill(1);
    world.pass(NOTICED).await;
    for node in [2, 3] {
        assert!(world.events(node).contains(&LivenessEvent::Down(NodeId(1))));
        assert!(world.peers(node).view().hears(NodeId(5 - node)));
        let request = GroupStatus { epoch: 0, groups: vec![] };
        let error = world.peers(node).request(NodeId(1), request).await.unwrap_err();
        assert_eq!(error, PeerError::Unreachable { node: NodeId(1) });
    }
    world.start(1);
    world.pass(BACK).await;
    world.assert_all_reached();
    assert!(world.events(2).contains(&LivenessEvent::Restarted(NodeId(1))));
}

#[tokio::test(start_paused = true)]
async fn a_restart_within_the_timeout_is_noticed_at_once() {
    let mut world = World::new(3, 3);
    world.pass(Duration::from_secs(1)).await;
    world.kill(1);
    world.start(1);
    world.pass(Duration::from_millis(400)).await;
    for node in [2, 3] {
        let events = world.events(node);
        assert!(events.contains(&LivenessEvent::Restarted(NodeId(1))), "{events:?}");
        assert!(!events.contains(&LivenessEvent::Down(NodeId(1))), "{events:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_in_one_direction_is_noticed_at_both_ends_and_mended() {
    let mut world = World::new(3, 4);
    world.pass(Duration::from_secs(1)).await;
    world.fabric.cut(1, 2);
    world.pass(NOTICED).await;
    assert!(!world.peers(2).view().hears(NodeId(1)));
    world.pass(NOTICED).await;
    assert!(!world.peers(1).view().reaches(NodeId(2)));
    let all = [(1..=3).map(NodeId).collect()];
    for node in 1..=3 {
        assert!(world.peers(node).view().hears(NodeId(if node == 3 { 1 } else { 3 })));
    }
    assert!(world.peers(3).view().shields(NodeId(1), &all), "the third reaches both");
    world.fabric.heal();
    world.pass(BACK).await;
    world.assert_all_reached();
}

#[tokio::test(start_paused = true)]
async fn sessions_end_with_a_cut_and_a_new_one_works_after_it() {
    let mut world = World::new(2, 5);
    world.pass(Duration::from_secs(1)).await;
    let mut session = world.peers(1).session(NodeId(2), GroupId(1)).unwrap();
    session.send(world::append(0)).await.unwrap();
    assert_eq!(session.recv().await, Ok(Appended::Ok(None)));
    world.fabric.cut(1, 2);
    world.fabric.cut(2, 1);
    session.send(world::append(1)).await.unwrap();
    assert_eq!(session.recv().await, Err(PeerError::Lost { node: NodeId(2) }));
    world.fabric.heal();
    world.pass(BACK).await;
    let mut session = world.peers(1).session(NodeId(2), GroupId(1)).unwrap();
    session.send(world::append(1)).await.unwrap();
    assert_eq!(session.recv().await, Ok(Appended::Ok(None)));
}

/// Kills, restarts and cuts at random, then calm: everybody reaches everybody, and messages flow.
async fn course(seed: u64) -> Vec<String> {
    let mut world = World::new(4, seed);
    let mut random = fabric::Random::new(seed);
    for _ in 0..30 {
        world.pass(Duration::from_millis(random.below(400))).await;
        let (one, other) = (1 + random.below(4), 1 + random.below(4));
        match random.below(6) {
            0 => world.kill(one),
            1 => world.start(one),
            2 => world.fabric.heal(),
            _ if one != other => world.fabric.cut(one, other),
            _ => {}
        }
        // Something is always under way.
        if let Some(peers) = world.running(one)
            && let Ok(mut session) = peers.session(NodeId(other), GroupId(one))
        {
            tokio::spawn(async move {
                for index in 0..100 {
                    if session.send(world::append(index)).await.is_err() {
                        return;
                    }
                }
                while session.recv().await.is_ok() {}
            });
        }
    }
    world.fabric.heal();
    for node in 1..=4 {
        world.start(node);
    }
    world.pass(BACK * 2).await;
    world.assert_all_reached();
    for (node, other) in [(1, 2), (2, 1), (3, 4), (4, 2)] {
        let mut session = world.peers(node).session(NodeId(other), GroupId(9)).unwrap();
        session.send(world::append(1)).await.unwrap();
        assert_eq!(session.recv().await, Ok(Appended::Ok(None)), "seed {seed}");
    }
    world.take_trace()
}

#[test]
fn every_course_ends_well_and_runs_the_same_way_twice() {
    for seed in 0..60 {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(course(seed))
        };
        let first = run();
        assert!(first.len() > 20);
        assert_eq!(first, run(), "seed {seed}");
    }
}
