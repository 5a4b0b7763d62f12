//! A cluster of nodes in processes of their own, all on this machine.
//!
//! The first command founds the cluster; the others join it with the token that it left in its data
//! directory. Nodes are counted from 0 in the order of their commands; their ids are the cluster's
//! business. All are killed when this is dropped.

mod lack;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use plimsoll_client::{Client, ClientConfig};
use plimsoll_protocol::api::ClusterStatusResponse;
use plimsoll_protocol::ids::NodeId;
use plimsoll_transport::TransportKind;

use crate::serve_process::{ServeCommand, ServeProcess};

pub use lack::{lack, lack_of_members};

/// What takes longer than this on one machine has gone wrong.
const PATIENCE: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// For a request to a node that may be about to end.
const ANSWER: Duration = Duration::from_secs(5);

/// What a status lacks of nodes at these addresses, in words.
type Lacks = fn(&ClusterStatusResponse, &[String]) -> Option<String>;

/// Nodes, each running or not.
#[derive(Debug)]
pub struct ServeCluster {
    nodes: Vec<ServedNode>,
    transport: TransportKind,
}

#[derive(Debug)]
struct ServedNode {
    command: ServeCommand,
    process: Option<ServeProcess>,
}

/// Commands for `nodes` nodes, each with a directory `node-K` of its own within `directory`.
///
/// # Errors
/// When a directory cannot be made or no port is free.
pub fn commands(
    binary: &Path,
    directory: &Path,
    nodes: u32,
    settings: &[String],
) -> std::io::Result<Vec<ServeCommand>> {
    let command = |index| {
        let directory = directory.join(format!("node-{index}"));
        std::fs::create_dir_all(&directory)?;
        let command = ServeCommand::new(binary, &directory)?;
        Ok(settings
            .iter()
            .fold(command, |command, setting| command.argument("--set").argument(setting.as_str())))
    };
    (1..=nodes).map(command).collect()
}

impl ServeCluster {
    /// Starts the first of `commands`, waits until it serves, lets the others join it and waits until
    /// all are active members.
    ///
    /// # Errors
    /// When a node ends, or not all are members within three minutes.
    ///
    /// # Panics
    /// Without a command.
    pub async fn start(
        commands: Vec<ServeCommand>,
        transport: TransportKind,
    ) -> anyhow::Result<Self> {
        let mut commands = commands.into_iter();
        let founder = commands.next().expect("a cluster has at least one node");
        let mut process = founder.start()?;
        let client = founder.connect(&mut process, transport).await?;
        let mut cluster = Self {
            nodes: vec![ServedNode { command: founder, process: Some(process) }],
            transport,
        };
        cluster.wait_for_token().await?;
        for command in commands {
            // One after the other, so that they get their ids in this order.
            cluster.add(command)?;
            cluster.wait_until_well(&client).await?;
        }
        Ok(cluster)
    }

    /// The first node answers clients a moment before it has left the token.
    async fn wait_for_token(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let token = self.join_token();
            if token.as_ref().is_ok_and(|token| !token.is_empty()) || began.elapsed() > PATIENCE {
                return token.map(drop);
            }
            self.check_alive()?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Starts a node that joins through the first one, and does not wait for it.
    ///
    /// # Errors
    /// When the first node left no token, or the binary cannot be started.
    pub fn add(&mut self, command: ServeCommand) -> anyhow::Result<()> {
        let command = command.joining(self.nodes[0].command.address(), self.join_token()?);
        let process = command.start()?;
        self.nodes.push(ServedNode { command, process: Some(process) });
        Ok(())
    }

    /// What a node needs to join, as the first node left it.
    ///
    /// # Errors
    /// When it left none.
    pub fn join_token(&self) -> anyhow::Result<String> {
        let file = self.nodes[0].command.data_directory().join("join.token");
        let token = std::fs::read_to_string(&file)
            .with_context(|| format!("the first node left no token in {}", file.display()))?;
        Ok(token.trim().to_owned())
    }

    /// Number of nodes, running or not.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never: the first node is there from the start.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// How a node is started.
    pub fn command(&self, index: usize) -> &ServeCommand {
        &self.nodes[index].command
    }

    /// A node's process.
    ///
    /// # Panics
    /// When it does not run.
    pub fn process(&self, index: usize) -> &ServeProcess {
        self.nodes[index].process.as_ref().expect("the node runs")
    }

    /// Whether a node was started and not ended. A paused node runs.
    pub fn is_running(&self, index: usize) -> bool {
        self.nodes[index].process.is_some()
    }

    /// The nodes that run.
    pub fn running(&self) -> Vec<usize> {
        (0..self.len()).filter(|index| self.is_running(*index)).collect()
    }

    /// `kill -9`. Nothing if it does not run.
    pub fn kill(&mut self, index: usize) -> anyhow::Result<()> {
        match self.nodes[index].process.take() {
            Some(process) => Ok(process.kill()?),
            None => Ok(()),
        }
    }

    /// Asks a node to end (SIGTERM) and waits until it has ended.
    ///
    /// # Errors
    /// When it ended otherwise than in order; with what it printed.
    pub async fn stop(&mut self, index: usize) -> anyhow::Result<()> {
        let Some(process) = self.nodes[index].process.take() else { return Ok(()) };
        let log = self.nodes[index].command.clone();
        let ending = tokio::task::spawn_blocking(move || process.terminate());
        let status = ending.await??;
        if !status.success() {
            bail!("node {index} ended with {status}; it said:\n{}", log.output());
        }
        Ok(())
    }

    /// Starts a node that does not run, and does not wait for it.
    pub fn restart(&mut self, index: usize) -> anyhow::Result<()> {
        let node = &mut self.nodes[index];
        if node.process.is_none() {
            node.process = Some(node.command.start()?);
        }
        Ok(())
    }

    /// How to reach the cluster: all its nodes, running or not.
    ///
    /// # Errors
    /// Before the first start there is no authority to trust.
    pub fn client_config(&self) -> std::io::Result<ClientConfig> {
        let commands: Vec<_> = self.nodes.iter().map(|node| &node.command).collect();
        client_config(&commands, self.transport)
    }

    /// A client that knows all nodes.
    pub async fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(self.client_config()?).await?)
    }

    /// A client that was told of one node only.
    pub async fn client_of(&self, index: usize) -> anyhow::Result<Client> {
        let config = client_config(&[self.command(index)], self.transport)?;
        Ok(Client::connect(config).await?)
    }

    /// Waits until all nodes that run are active members that hear each other, and no partition lacks
    /// anything: as whoever answers `client` says, and each of these nodes itself.
    ///
    /// # Errors
    /// When a node ends by itself, or it takes longer than three minutes.
    pub async fn wait_until_well(&mut self, client: &Client) -> anyhow::Result<()> {
        self.wait_until(client, lack).await
    }

    /// Waits until all nodes that run are active members that hear each other.
    ///
    /// # Errors
    /// As [`ServeCluster::wait_until_well`].
    pub async fn wait_until_members(&mut self, client: &Client) -> anyhow::Result<()> {
        self.wait_until(client, lack_of_members).await
    }

    async fn wait_until(&mut self, client: &Client, lacks: Lacks) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            self.check_alive()?;
            let Some(problem) = self.problem(client, lacks).await else { return Ok(()) };
            if began.elapsed() > PATIENCE {
                bail!("not well after {PATIENCE:?}: {problem}; the nodes said:\n{}", self.output());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// What the cluster lacks in the eyes of whoever answers the client, and then of each node that
    /// runs: one that was killed and started again a moment ago is missed by itself only.
    async fn problem(&self, client: &Client, lacks: Lacks) -> Option<String> {
        let running = self.running();
        let addresses: Vec<_> =
            running.iter().map(|index| self.nodes[*index].command.address().to_string()).collect();
        let judge = async |client: &Client| match tokio::time::timeout(
            ANSWER,
            client.admin().cluster_status(),
        )
        .await
        {
            Ok(Ok(status)) => lacks(&status, &addresses),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {ANSWER:?}")),
        };
        if let Some(problem) = judge(client).await {
            return Some(problem);
        }
        for index in running {
            let problem = match tokio::time::timeout(ANSWER, self.client_of(index)).await {
                Ok(Ok(client)) => judge(&client).await,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("node {index} took no connection within {ANSWER:?}")),
            };
            if problem.is_some() {
                return problem;
            }
        }
        None
    }

    /// Starts a node that does not run and returns how long it took until that node itself says that
    /// all members are there and no partition lacks anything.
    ///
    /// # Errors
    /// As [`ServeCluster::wait_until_well`].
    pub async fn time_to_serve(&mut self, index: usize) -> anyhow::Result<Duration> {
        let began = Instant::now();
        self.restart(index)?;
        let node = &mut self.nodes[index];
        let process = node.process.as_mut().expect("it was just started");
        let client = node.command.connect(process, self.transport).await?;
        self.wait_until_well(&client).await?;
        Ok(began.elapsed())
    }

    /// Which node leads a partition, as the cluster says now. `None` while nobody does, or while the
    /// one named does not run.
    ///
    /// # Errors
    /// An unknown topic; no answer.
    pub async fn leader(
        &self,
        client: &Client,
        topic: &str,
        partition: u32,
    ) -> anyhow::Result<Option<usize>> {
        let described = client.admin().describe_topic(topic).await?;
        let found = described.partitions.iter().find(|found| found.partition.0 == partition);
        let Some(leader) = found.and_then(|found| found.leader) else { return Ok(None) };
        let index = self.index_of(&client.admin().cluster_status().await?, leader);
        Ok(index.filter(|index| self.is_running(*index)))
    }

    /// Waits until a node that runs leads a partition, and returns it.
    ///
    /// # Errors
    /// When none does for three minutes.
    pub async fn wait_for_leader(
        &self,
        client: &Client,
        topic: &str,
        partition: u32,
    ) -> anyhow::Result<usize> {
        let began = Instant::now();
        loop {
            if let Ok(Some(index)) = self.leader(client, topic, partition).await {
                return Ok(index);
            }
            if began.elapsed() > PATIENCE {
                bail!("nobody leads {topic}/{partition} for {PATIENCE:?}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The node with an id, found by its address.
    pub fn index_of(&self, status: &ClusterStatusResponse, node: NodeId) -> Option<usize> {
        let address = &status.nodes.iter().find(|found| found.node == node)?.address;
        self.nodes.iter().position(|found| found.command.address().to_string() == *address)
    }

    /// The id of a node, found by its address.
    pub fn id_of(&self, status: &ClusterStatusResponse, index: usize) -> Option<NodeId> {
        let address = self.command(index).address().to_string();
        Some(status.nodes.iter().find(|found| found.address == address)?.node)
    }

    /// Fails when a node that should run has ended by itself; with what it printed.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        for (index, node) in self.nodes.iter_mut().enumerate() {
            if let Some(process) = &mut node.process {
                process.check_alive().with_context(|| format!("node {index}"))?;
            }
        }
        Ok(())
    }

    /// What all nodes printed.
    pub fn output(&self) -> String {
        let mut text = String::new();
        for (index, node) in self.nodes.iter().enumerate() {
            text.push_str(&format!("node {index}:\n{}\n", node.command.output()));
        }
        text
    }
}

fn client_config(
    commands: &[&ServeCommand],
    transport: TransportKind,
) -> std::io::Result<ClientConfig> {
    let addresses: Vec<_> = commands
        .iter()
        .map(|command| match transport {
            TransportKind::Tcp => command.plaintext_address().to_string(),
            TransportKind::Quic | TransportKind::Tls => command.address().to_string(),
        })
        .collect();
    let of_first = commands[0].client_config(transport)?;
    let config = ClientConfig::new(addresses.join(","), of_first.trust.clone());
    Ok(ClientConfig { transport, ..config })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_of_a_cluster_knows_all_addresses() {
        let directory = tempfile::tempdir().unwrap();
        let commands = commands(Path::new("plimsoll"), directory.path(), 3, &[]).unwrap();
        let nodes = commands.into_iter().map(|command| ServedNode { command, process: None });
        let cluster = ServeCluster { nodes: nodes.collect(), transport: TransportKind::Tcp };
        let config = cluster.client_config().unwrap();
        let addresses = (0..3).map(|index| cluster.command(index).plaintext_address().to_string());
        assert_eq!(config.addresses, addresses.collect::<Vec<_>>());
        assert!(cluster.running().is_empty());
    }
}
