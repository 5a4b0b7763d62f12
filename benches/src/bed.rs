//! The ground of one measurement: a node to load, clients of it, and the raw stream to compare with.

use std::path::Path;

use anyhow::{Context as _, ensure};
use plimsoll_client::{Client, ClientConfig, NewTopic, StartPosition, TopicConfig, Trust};
use plimsoll_node::Node;
use plimsoll_node::config::NodeConfig;
use plimsoll_transport::TransportKind;

use crate::options::Plan;
use crate::raw_stream::{Direction, RawStreams, Shape};
use crate::runtimes::Runtimes;

/// A node under load. [`Bed::stop`] ends it.
pub(crate) struct Bed<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) runtimes: &'a Runtimes,
    config: ClientConfig,
    node: Option<Node>,
    /// `None` where the node is on another machine: no stream here could be its limit.
    raw: Option<RawStreams>,
}

impl<'a> Bed<'a> {
    /// Starts a node with its data in `directory`.
    pub(crate) async fn embedded(
        plan: &'a Plan,
        runtimes: &'a Runtimes,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let loopback = ([127, 0, 0, 1], 0).into();
        let node_config = NodeConfig {
            data: directory.join("data"),
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
        Ok(Self { plan, runtimes, config, node: Some(node), raw: Some(raw) })
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
        Ok(Self { plan, runtimes, config: config.clone(), node: None, raw })
    }

    /// A client with a connection of its own.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(self.config.clone()).await?)
    }

    /// Makes a topic with the plan's partitions and durability.
    pub(crate) async fn create_topic(&self, name: &str) -> anyhow::Result<()> {
        let config = TopicConfig { durability: self.plan.durability, ..TopicConfig::default() };
        let topic = NewTopic::new(name).partitions(self.plan.partitions).config(config);
        self.client().await?.admin().create_topic(topic).await?;
        Ok(())
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

    /// Ends the node, if it is this bed's own.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        if let Some(node) = self.node {
            self.runtimes.node().spawn(node.shutdown()).await?;
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
