//! A node in a process of its own, with clients of it: the ground of `restart` and `idle`.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use plimsoll_client::{Client, ClientConfig, NewTopic, Record, TopicConfig};

use crate::options::{Options, Plan};
use crate::serve_process::{ServeCommand, ServeProcess};

/// How to start the node, and to reach it.
pub(crate) struct Served<'a> {
    plan: &'a Plan,
    command: ServeCommand,
}

impl<'a> Served<'a> {
    pub(crate) fn new(plan: &'a Plan, options: &Options, directory: &Path) -> anyhow::Result<Self> {
        ensure!(
            options.connect.is_none(),
            "{} starts and kills a node of its own; leave --connect out",
            plan.workload
        );
        let binary = options.binary.as_deref().context("the path of the plimsoll binary")?;
        Ok(Self { plan, command: ServeCommand::new(binary, directory)? })
    }

    /// Starts the node and returns how long it took until a produce to `topic` was acknowledged,
    /// or, without a topic, until the node answered.
    pub(crate) async fn start(
        &self,
        topic: Option<&str>,
    ) -> anyhow::Result<(ServeProcess, Duration)> {
        let began = Instant::now();
        let mut process = self.command.start()?;
        let client = self.command.connect(&mut process, self.plan.transport).await?;
        if let Some(topic) = topic {
            let producer = client.producer(topic).build().await?;
            producer.send_to(0, Record::new("the first after the start")).await?;
        }
        Ok((process, began.elapsed()))
    }

    /// A client of the running node.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(self.client_config()?).await?)
    }

    /// How to reach the running node.
    pub(crate) fn client_config(&self) -> anyhow::Result<ClientConfig> {
        Ok(self.command.client_config(self.plan.transport)?)
    }

    /// Makes a topic with the plan's partitions and durability.
    pub(crate) async fn create_topic(&self, topic: &str) -> anyhow::Result<()> {
        let config = TopicConfig { durability: self.plan.durability, ..TopicConfig::default() };
        let topic = NewTopic::new(topic).partitions(self.plan.partitions).config(config);
        self.client().await?.admin().create_topic(topic).await?;
        Ok(())
    }
}
