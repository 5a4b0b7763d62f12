//! The ground of one measurement: nodes to load, clients of them, and the raw stream to compare with.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use plimsoll_client::{
    Client, ClientConfig, NewLockNamespace, NewQueue, NewTopic, StartPosition, TopicConfig, Trust,
};
use plimsoll_node::Node;
use plimsoll_node::config::NodeConfig;
use plimsoll_protocol::api::TopicRules;
use plimsoll_transport::TransportKind;

use crate::options::{Options, Plan, Workload};
use crate::raw_stream::{Direction, RawStreams, Shape};
use crate::runtimes::Runtimes;
use crate::serve_cluster::{ServeCluster, commands};

/// A node or a cluster under load. [`Bed::stop`] ends it.
pub(crate) struct Bed<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) runtimes: &'a Runtimes,
    config: ClientConfig,
    ground: Ground,
    replicas: u32,
    /// `None` where the node is on another machine: no stream here could be its limit.
    raw: Option<RawStreams>,
}

/// How often an embedded node looks whether a compaction is due, where that is measured: by default it would look
/// once during a load of a minute, and settle five looks later. So more of it falls into the load.
const LOOKS_FOR_COMPACTION: Duration = Duration::from_secs(2);

/// What serves.
enum Ground {
    /// A node within this process, and its data directory.
    Embedded(Box<Node>, PathBuf),
    /// Nodes that are processes of this one.
    Cluster(ServeCluster),
    /// Nodes that somebody else started.
    Elsewhere,
}

/// The binary that processes of nodes are started from.
///
/// # Errors
/// When the caller did not say.
pub(crate) fn binary(options: &Options) -> anyhow::Result<&Path> {
    options.binary.as_deref().context("the path of the plimsoll binary")
}

impl<'a> Bed<'a> {
    /// Starts a node with its data in `directory`.
    pub(crate) async fn embedded(
        plan: &'a Plan,
        runtimes: &'a Runtimes,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let loopback = ([127, 0, 0, 1], 0).into();
        let data = directory.join("data");
        let retention_interval = match plan.workload {
            Workload::Compaction => LOOKS_FOR_COMPACTION,
            _ => NodeConfig::default().retention_interval,
        };
        let node_config = NodeConfig {
            data: data.clone(),
            retention_interval,
            listen: loopback,
            listen_plaintext: (plan.transport == TransportKind::Tcp).then_some(loopback),
            ..NodeConfig::default()
        };
        let node = runtimes.node().spawn(Node::start(node_config)).await??;
        let config = match plan.transport {
            TransportKind::Tcp => {
                let address = node.tcp_addr().context("plaintext was asked for")?;
                ClientConfig::plaintext(address.to_string())
            }
            transport => {
                let authority = node.ca_pem().context("the authority is self-made")?;
                let trust = Trust::CaPem(authority.to_owned());
                ClientConfig { transport, ..ClientConfig::new(node.addr().to_string(), trust) }
            }
        };
        let raw = RawStreams::new(directory, runtimes.node())?;
        let ground = Ground::Embedded(Box::new(node), data);
        Ok(Self { plan, runtimes, config, ground, replicas: 1, raw: Some(raw) })
    }

    /// Starts `nodes` processes with their data in `directory`.
    pub(crate) async fn cluster(
        plan: &'a Plan,
        runtimes: &'a Runtimes,
        options: &Options,
        directory: &Path,
        nodes: u32,
    ) -> anyhow::Result<Self> {
        let commands = commands(binary(options)?, directory, nodes, &plan.node_settings)?;
        let cluster = ServeCluster::start(commands, plan.transport).await?;
        let config = cluster.client_config()?;
        let raw = RawStreams::new(directory, runtimes.node())?;
        let (ground, replicas) = (Ground::Cluster(cluster), plan.replicas.min(nodes));
        Ok(Self { plan, runtimes, config, ground, replicas, raw: Some(raw) })
    }

    /// Uses a running node. The raw stream is measured between two ends in this process, and only
    /// where the node is on this machine too.
    pub(crate) fn connected(
        plan: &'a Plan,
        runtimes: &'a Runtimes,
        config: &ClientConfig,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let raw = config
            .addresses
            .iter()
            .all(|address| is_local(address))
            .then(|| RawStreams::new(directory, runtimes.node()))
            .transpose()?;
        let (ground, replicas) = (Ground::Elsewhere, plan.replicas);
        Ok(Self { plan, runtimes, config: config.clone(), ground, replicas, raw })
    }

    /// A client with a connection of its own.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(self.config.clone()).await?)
    }

    /// Makes a topic with the plan's partitions and durability.
    pub(crate) async fn create_topic(&self, name: &str) -> anyhow::Result<()> {
        self.create_topic_with(name, TopicRules::default()).await
    }

    /// As [`Bed::create_topic`], of other than the default rules.
    pub(crate) async fn create_topic_with(
        &self,
        name: &str,
        rules: TopicRules,
    ) -> anyhow::Result<()> {
        let durability = self.plan.durability;
        let config = TopicConfig { durability, rules, ..TopicConfig::default() };
        let replicas = u16::try_from(self.replicas).context("--replicas is above 65,535")?;
        let topic = NewTopic { replicas, ..NewTopic::new(name) };
        let topic = topic.partitions(self.plan.partitions).config(config);
        self.client().await?.admin().create_topic(topic).await?;
        Ok(())
    }

    /// Makes a queue with the plan's durability.
    pub(crate) async fn create_queue(&self, name: &str) -> anyhow::Result<()> {
        let config = TopicConfig { durability: self.plan.durability, ..TopicConfig::default() };
        let replicas = u16::try_from(self.replicas).context("--replicas is above 65,535")?;
        let queue = NewQueue { replicas, config, ..NewQueue::new(name) };
        self.client().await?.admin().create_queue(queue).await?;
        Ok(())
    }

    /// Makes a namespace of locks.
    pub(crate) async fn create_lock_namespace(&self, name: &str) -> anyhow::Result<()> {
        let replicas = u16::try_from(self.replicas).context("--replicas is above 65,535")?;
        let namespace = NewLockNamespace { replicas, ..NewLockNamespace::new(name) };
        self.client().await?.admin().create_lock_namespace(namespace).await?;
        Ok(())
    }

    /// Removes a namespace of locks, with its locks.
    pub(crate) async fn delete_lock_namespace(&self, name: &str) -> anyhow::Result<()> {
        Ok(self.client().await?.admin().delete_lock_namespace(name, true).await?)
    }

    /// Removes a topic.
    pub(crate) async fn delete_topic(&self, name: &str) -> anyhow::Result<()> {
        Ok(self.client().await?.admin().delete_topic(name).await?)
    }

    /// Fails unless the topic holds exactly so many records: a load that was acknowledged and is
    /// not there, or is there twice, has no figure.
    pub(crate) async fn ensure_stored(&self, topic: &str, records: u64) -> anyhow::Result<()> {
        let admin = self.client().await?.admin();
        let mut stored = 0;
        for partition in 0..self.plan.partitions {
            let ends = admin.offsets(topic, partition, vec![StartPosition::Latest]).await?;
            stored += ends.first().context("one position asked, none answered")?.0;
        }
        ensure!(stored == records, "{records} records were acknowledged, {stored} are stored");
        Ok(())
    }

    /// The raw stream of the load's shape, in millions of bytes per second.
    pub(crate) async fn limit(&self, direction: Direction) -> anyhow::Result<Option<f64>> {
        let Some(raw) = &self.raw else { return Ok(None) };
        let found = raw.measure(Shape::of(self.plan, direction)).await?;
        Ok(Some(found.mb_per_s()))
    }

    /// As [`Bed::limit`], shorter and with no figure: so that neither side is measured cold.
    pub(crate) async fn warm_up_stream(&self, direction: Direction) -> anyhow::Result<()> {
        if let Some(raw) = &self.raw {
            raw.measure(Shape::of(self.plan, direction).shortened()).await?;
        }
        Ok(())
    }

    /// The directories of segments of the nodes that are this bed's own.
    pub(crate) fn segments(&self) -> Vec<PathBuf> {
        let data = match &self.ground {
            Ground::Embedded(_, data) => vec![data.clone()],
            Ground::Cluster(cluster) => {
                (0..cluster.len()).map(|index| cluster.command(index).data_directory()).collect()
            }
            Ground::Elsewhere => Vec::new(),
        };
        data.into_iter().map(|data| data.join("segments")).collect()
    }

    /// Ends the nodes, if they are this bed's own. Those that are processes are killed: what they
    /// hold goes with the measurement.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        match self.ground {
            Ground::Embedded(node, _) => self.runtimes.node().spawn(node.shutdown()).await?,
            Ground::Cluster(mut cluster) => cluster.check_alive()?,
            Ground::Elsewhere => {}
        }
        Ok(())
    }
}

/// The mean of the limit before and after; `None` where there is none.
pub(crate) fn mean(before: Option<f64>, after: Option<f64>) -> Option<f64> {
    Some((before? + after?) / 2.0)
}

fn is_local(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_addresses_are_local() {
        for local in ["localhost:7420", "127.0.0.1:1", "127.3.2.1:1", "[::1]:7420"] {
            assert!(is_local(local), "{local}");
        }
        for other in ["broker.example:7420", "10.0.0.1:1", "[2001:db8::1]:7420"] {
            assert!(!is_local(other), "{other}");
        }
    }

    #[test]
    fn a_limit_that_was_measured_once_is_none() {
        assert_eq!(mean(Some(1.0), Some(3.0)), Some(2.0));
        assert_eq!(mean(Some(1.0), None), None);
    }
}
