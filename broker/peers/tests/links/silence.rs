//! Who is heard: silence of a node whose connection stands.

use std::collections::BTreeSet;
use std::time::Duration;

use plimsoll_peers::{LivenessConfig, LivenessEvent};
use plimsoll_protocol::ids::NodeId;
use plimsoll_protocol::peer::Condition;
use tokio::time::timeout;

use crate::cluster::{Authority, KINDS, Options, PATIENCE, TestNode, cluster};

#[tokio::test]
async fn conditions_and_reach_are_told() {
    for kind in KINDS {
        let nodes = cluster(3, &Options::new(kind)).await;
        let all = BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)]);
        for node in &nodes {
            node.until_view(|view| view.reach.values().filter(|reach| **reach == all).count() == 3)
                .await;
            let view = node.peers.view();
            assert!(view.shields(NodeId(2), std::slice::from_ref(&all)));
            assert!(!view.shields(NodeId(4), std::slice::from_ref(&all)));
        }
        nodes[0].peers.set_condition(Condition::Draining);
        nodes[1]
            .until_view(|view| view.conditions.get(&NodeId(1)) == Some(&Condition::Draining))
            .await;
        assert_eq!(nodes[1].peers.condition_of(NodeId(1)), Some(Condition::Draining));
        assert!(!nodes[1].peers.view().serves(NodeId(1)));
    }
}

#[expect(clippy::disallowed_methods, reason = "a node that can be stopped has a thread")]
/// The other node is a runtime on a thread of its own that is stopped and goes on, as SIGSTOP does.
#[tokio::test]
async fn a_silent_node_is_down_and_comes_back() {
    for kind in KINDS {
        let authority = Authority::new();
        let liveness = LivenessConfig {
            interval: Duration::from_millis(50),
            timeout: Duration::from_millis(1500),
        };
        let options = Options { liveness, ..Options::new(kind) };
        let first = TestNode::start(&authority, 1, &options);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (second, mut stalls) = {
            let _in = runtime.enter();
            let second = TestNode::start(&authority, 2, &options);
            second.know(&[&first]);
            let stalls = second.peers.events();
            (second, stalls)
        };
        first.know(&[&second]);
        let (pause, paused) = std::sync::mpsc::channel::<()>();
        let (resume, resumed) = tokio::sync::oneshot::channel::<()>();
        let stopped = std::sync::Arc::new(tokio::sync::Notify::new());
        let stop = std::sync::Arc::clone(&stopped);
        let thread = std::thread::spawn(move || {
            runtime.block_on(stop.notified());
            // Nothing of it runs now.
            paused.recv().unwrap();
            let until_end = async {
                let stalled = async {
                    loop {
                        match stalls.recv().await.unwrap() {
                            LivenessEvent::SelfStalled(pause) => return pause,
                            LivenessEvent::Down(node) => panic!("it suspects node {node}"),
                            _ => {}
                        }
                    }
                };
                let stalled = timeout(PATIENCE, stalled).await.unwrap();
                assert!(stalled > Duration::from_millis(750));
                resumed.await.unwrap();
                second.stop().await;
            };
            runtime.block_on(until_end);
        });
        first.until_reaches(&[NodeId(2)]).await;
        let mut events = first.peers.events();
        stopped.notify_one();
        let down =
            async { while events.recv().await.unwrap() != LivenessEvent::Down(NodeId(2)) {} };
        timeout(PATIENCE, down).await.unwrap();
        assert!(!first.peers.view().hears(NodeId(2)));
        let wake = plimsoll_protocol::peer::Wake { epoch: 0, groups: vec![] };
        assert!(first.peers.push(NodeId(2), wake).is_err(), "its link is gone");
        pause.send(()).unwrap();
        first.until_reaches(&[NodeId(2)]).await;
        resume.send(()).unwrap();
        tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
    }
}
