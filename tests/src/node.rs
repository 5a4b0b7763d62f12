//! A node in this process, on free ports, in a temporary directory.

use std::net::SocketAddr;

use plimsoll_bench::serve_process::free_address;
use plimsoll_client::{Client, ClientConfig, NewTopic, TopicConfig, Trust};
use plimsoll_node::config::NodeConfig;
use plimsoll_node::{Node, StartError};
use plimsoll_transport::{BindError, TransportKind};
use tempfile::TempDir;

use crate::wait::{eventually, within};

/// The three ways to reach a node.
pub const TRANSPORTS: [TransportKind; 3] =
    [TransportKind::Quic, TransportKind::Tls, TransportKind::Tcp];

/// A node and its directory, which is gone when this is dropped.
#[derive(Debug)]
pub struct TestNode {
    node: Option<Node>,
    config: NodeConfig,
    directory: TempDir,
}

impl TestNode {
    /// Starts a node with the default settings.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts a node with some settings changed.
    pub async fn start_with(change: impl FnOnce(&mut NodeConfig)) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut config = NodeConfig {
            data: directory.path().join("data"),
            listen: free_address().expect("a free port"),
            listen_plaintext: Some(free_address().expect("a free port")),
            ..NodeConfig::default()
        };
        change(&mut config);
        let mut test_node = Self { node: None, config, directory };
        test_node.start_again().await;
        test_node
    }

    /// Starts it again on the same directory and ports.
    pub async fn start_again(&mut self) {
        assert!(self.node.is_none(), "it runs");
        let node = eventually("the ports are free again", async || {
            match Node::start(self.config.clone()).await {
                Ok(node) => Some(node),
                // QUIC connections of its last life, in this same process, still say goodbye.
                Err(StartError::Bind(BindError::InUse { .. })) => None,
                Err(error) => panic!("it does not start: {error}"),
            }
        });
        self.node = Some(node.await);
    }

    /// Ends it in order.
    pub async fn shut_down(&mut self) {
        let node = self.node.take().expect("it runs");
        within("shutdown", node.shutdown()).await;
    }

    /// Ends it as `kill -9` would.
    pub async fn abort(&mut self) {
        let node = self.node.take().expect("it runs");
        within("abort", node.abort()).await;
    }

    /// The node.
    pub fn node(&self) -> &Node {
        self.node.as_ref().expect("it runs")
    }

    /// Its directory, in which `data` is its data directory.
    pub fn directory(&self) -> &TempDir {
        &self.directory
    }

    /// The settings it was started with.
    pub fn config(&self) -> &NodeConfig {
        &self.config
    }

    /// Where it listens for a transport.
    pub fn address(&self, transport: TransportKind) -> SocketAddr {
        match transport {
            TransportKind::Tcp => self.node().tcp_addr().expect("plaintext was asked for"),
            TransportKind::Quic | TransportKind::Tls => self.node().addr(),
        }
    }

    /// How to reach it over a transport.
    pub fn client_config(&self, transport: TransportKind) -> ClientConfig {
        let address = self.address(transport).to_string();
        let authority = self.node().ca_pem().expect("its authority is its own");
        ClientConfig { transport, ..ClientConfig::new(address, Trust::CaPem(authority.to_owned())) }
    }

    /// A client over a transport.
    pub async fn client(&self, transport: TransportKind) -> Client {
        let connect = Client::connect(self.client_config(transport));
        within("connect", connect).await.expect("it answers")
    }

    /// Makes a topic.
    pub async fn create_topic(&self, name: &str, partitions: u32, settings: &[&str]) {
        let config = TopicConfig::from_pairs(settings.iter().copied()).expect("valid settings");
        let topic = NewTopic::new(name).partitions(partitions).config(config);
        let admin = self.client(TransportKind::Quic).await.admin();
        within("create topic", admin.create_topic(topic)).await.expect("it is made");
    }
}
