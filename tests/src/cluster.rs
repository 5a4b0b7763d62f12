//! A cluster of real processes, in a temporary directory that goes with it.

use plimsoll_bench::serve_cluster::{ServeCluster, commands};
use plimsoll_bench::serve_process::ServeCommand;
use plimsoll_client::{Client, NewTopic, TopicConfig};
use plimsoll_protocol::api::ClusterStatusResponse;
use plimsoll_protocol::ids::NodeId;
use plimsoll_transport::TransportKind;
use tempfile::TempDir;

use crate::binary::plimsoll_binary;
use crate::wait::{eventually, within};

/// Nodes and their directory.
#[derive(Debug)]
pub struct TestCluster {
    /// The nodes.
    pub nodes: ServeCluster,
    directory: TempDir,
}

impl TestCluster {
    /// Starts three nodes on free ports of 127.0.0.1 and waits until all are members.
    pub async fn start() -> Self {
        Self::start_with(3, |_, command| command).await
    }

    /// Starts some nodes, each as `shape` makes of its number and command.
    pub async fn start_with(
        nodes: u32,
        shape: impl Fn(usize, ServeCommand) -> ServeCommand,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let commands = commands(plimsoll_binary(), directory.path(), nodes, &[]);
        let commands = commands.expect("free ports").into_iter().enumerate();
        let shaped = commands.map(|(index, command)| shape(index, command)).collect();
        let nodes = ServeCluster::start(shaped, TransportKind::Quic).await;
        Self { nodes: nodes.expect("the nodes start and join"), directory }
    }

    /// A command for one more node, in a directory of its own.
    pub fn another(&self, name: &str) -> ServeCommand {
        let directory = self.directory.path().join(name);
        std::fs::create_dir(&directory).expect("a new directory");
        ServeCommand::new(plimsoll_binary(), &directory).expect("free ports")
    }

    /// The directory in which each node has one.
    pub fn directory(&self) -> &TempDir {
        &self.directory
    }

    /// A client that knows all nodes.
    pub async fn client(&self) -> Client {
        within("connect", self.nodes.client()).await.expect("one of the nodes answers")
    }

    /// A client that was told of one node only.
    pub async fn client_of(&self, index: usize) -> Client {
        within("connect", self.nodes.client_of(index)).await.expect("the node answers")
    }

    /// Makes a topic with a replica on each of three nodes.
    pub async fn create_topic(&self, name: &str, partitions: u32, settings: &[&str]) {
        let config = TopicConfig::from_pairs(settings.iter().copied()).expect("valid settings");
        let topic = NewTopic { replicas: 3, ..NewTopic::new(name) };
        let topic = topic.partitions(partitions).config(config);
        let admin = self.client().await.admin();
        within("create topic", admin.create_topic(topic)).await.expect("it is made");
    }

    /// Waits until the nodes that run are all members and no partition lacks anything.
    pub async fn wait_until_well(&mut self) {
        let client = self.client().await;
        self.nodes.wait_until_well(&client).await.expect("the cluster recovers");
    }

    /// The node that leads a partition; waits until one does.
    pub async fn leader(&self, topic: &str, partition: u32) -> usize {
        let client = self.client().await;
        let leader = self.nodes.wait_for_leader(&client, topic, partition).await;
        leader.expect("somebody leads")
    }

    /// How the cluster is, as somebody in it says.
    pub async fn status(&self) -> ClusterStatusResponse {
        let admin = self.client().await.admin();
        eventually("a status", async || admin.cluster_status().await.ok()).await
    }

    /// The id of a node.
    pub async fn id_of(&self, index: usize) -> NodeId {
        let status = self.status().await;
        self.nodes.id_of(&status, index).expect("it is a member")
    }
}
