//! Does to the nodes what the schedule says, heals it, and says whether it took effect.

use std::time::Duration;

use plimsoll_client::Client;
use plimsoll_tests::{Network, TestCluster};
use tokio::time::{Instant, interval, sleep_until};

use crate::TOPICS;
use crate::rounds::{Clock, Span};
use crate::schedule::{Fault, Kind, Target};

/// How often a cut is looked for in what the nodes say.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Whoever ends, stops and cuts.
pub(crate) struct Faults<'a> {
    cluster: &'a mut TestCluster,
    network: Option<&'a Network>,
    client: Client,
    clock: Clock,
    /// What took effect, from before it was done until it was undone.
    happened: Vec<(Kind, Span)>,
}

impl<'a> Faults<'a> {
    pub(crate) async fn new(
        cluster: &'a mut TestCluster,
        network: Option<&'a Network>,
        clock: Clock,
    ) -> Self {
        let client = cluster.client().await;
        Self { cluster, network, client, clock, happened: Vec::new() }
    }

    /// What took effect, and when.
    pub(crate) fn happened(&self) -> &[(Kind, Span)] {
        &self.happened
    }

    /// Waits until all nodes run, are members, and no partition lacks anything.
    pub(crate) async fn wait_until_well(&mut self) {
        let well = self.cluster.nodes.wait_until_well(&self.client).await;
        well.expect("the cluster recovers when nothing is done to it");
    }

    /// Does it and undoes it. When this returns all nodes run and hear each other, as far as it was
    /// for this fault.
    ///
    /// # Panics
    /// When a node ended by itself, or otherwise than in order after SIGTERM.
    pub(crate) async fn carry_out(&mut self, fault: &Fault) {
        let node = self.resolve(fault.target).await;
        let others: Vec<_> = (0..self.cluster.nodes.len()).filter(|other| *other != node).collect();
        let other = others[fault.other % others.len()];
        let until = Instant::now() + fault.lasts;
        println!("{} of node {node} (other {other}) for {:?}", fault.kind, fault.lasts);
        let from = self.clock.now();
        let effective = match fault.kind {
            Kind::Kill => self.kill(&[node], until).await,
            Kind::KillMajority => self.kill(&[node, other], until).await,
            Kind::KillAll => {
                let all: Vec<_> = (0..self.cluster.nodes.len()).collect();
                self.kill(&all, until).await
            }
            Kind::Stop => self.stop(node, until).await,
            Kind::Pause => self.pause(node, until).await,
            Kind::Cut => self.cut(&[(node, other), (other, node)], until).await,
            Kind::OneWay => self.cut(&[(node, other)], until).await,
            Kind::Isolate => {
                let both = others.iter().flat_map(|&other| [(node, other), (other, node)]);
                self.cut(&both.collect::<Vec<_>>(), until).await
            }
            Kind::Slow => self.slow_down(node, until).await,
        };
        let until = self.clock.now();
        self.cluster.nodes.check_alive().expect("no node ends by itself");
        if effective {
            self.happened.push((fault.kind, Span { from, until }));
        }
    }

    async fn resolve(&self, target: Target) -> usize {
        match target {
            Target::Node(node) => node,
            Target::LeaderOf(partition) => {
                let leader = self.cluster.nodes.leader(&self.client, TOPICS[0].0, partition).await;
                // While nobody leads it, anybody is as good.
                leader.ok().flatten().unwrap_or(partition as usize % self.cluster.nodes.len())
            }
        }
    }

    async fn kill(&mut self, nodes: &[usize], until: Instant) -> bool {
        for &node in nodes {
            self.cluster.nodes.kill(node).expect("it was running");
        }
        // A random time by intent, here and below, not a wait for something.
        sleep_until(until).await;
        for &node in nodes {
            self.cluster.nodes.restart(node).expect("it starts");
        }
        true
    }

    async fn stop(&mut self, node: usize, until: Instant) -> bool {
        self.cluster.nodes.stop(node).await.expect("it ends in order");
        sleep_until(until).await;
        self.cluster.nodes.restart(node).expect("it starts");
        true
    }

    async fn pause(&mut self, node: usize, until: Instant) -> bool {
        let process = self.cluster.nodes.process(node);
        process.pause().expect("it runs");
        sleep_until(until).await;
        let paused = process.is_paused().expect("it is there");
        process.resume().expect("it is there");
        paused
    }

    /// Effective if a node said of another that it does not hear it.
    async fn cut(&mut self, ways: &[(usize, usize)], until: Instant) -> bool {
        let network = self.network.expect("cuts are only drawn where there is a network");
        let mut clients = Vec::new();
        for &(from, to) in ways {
            network.cut(from, to).expect("it could be cut before");
            clients.push((to, self.cluster.nodes.client_of(to).await));
        }
        let mut noticed = false;
        let mut looks = interval(LOOK_EVERY);
        while Instant::now() < until {
            looks.tick().await;
            for (_, client) in
                clients.iter().filter_map(|(to, client)| Some((to, client.as_ref().ok()?)))
            {
                let asked = tokio::time::timeout(LOOK_EVERY, client.admin().cluster_status()).await;
                if let Ok(Ok(status)) = asked {
                    noticed |= status.nodes.iter().any(|node| !node.up);
                }
            }
        }
        for &(from, to) in ways {
            network.heal(from, to).expect("it was cut");
        }
        noticed
    }

    async fn slow_down(&mut self, node: usize, until: Instant) -> bool {
        let network = self.network.expect("links are only slowed down where there is a network");
        network.slow_down(node).expect("it could be slowed down before");
        sleep_until(until).await;
        network.restore_speed(node).expect("it was slowed down");
        true
    }
}
