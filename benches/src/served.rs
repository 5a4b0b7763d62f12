//! A node in a process of its own, with clients of it: the ground of `restart` and `idle`.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use plimsoll_client::{Client, ClientConfig, NewTopic, Record, TopicConfig, Trust};
use plimsoll_transport::TransportKind;

use crate::bed::connect;
use crate::options::{Options, Plan};
use crate::runtimes::Runtimes;
use crate::serve_process::{ServeCommand, ServeProcess};

/// A dial that is not answered by then is begun anew: the node was not yet there.
const DIAL: Duration = Duration::from_millis(100);
/// A node that does not answer by then never will.
const START: Duration = Duration::from_secs(120);

/// How to start the node, and to reach it.
pub(crate) struct Served<'a> {
    plan: &'a Plan,
    runtimes: &'a Runtimes,
    command: ServeCommand,
}

impl<'a> Served<'a> {
    pub(crate) fn new(
        plan: &'a Plan,
        options: &Options,
        runtimes: &'a Runtimes,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        ensure!(
            options.connect.is_none(),
            "{} starts and kills a node of its own; leave --connect out",
            plan.workload
        );
        let binary = options.binary.as_deref().context("the path of the plimsoll binary")?;
        Ok(Self { plan, runtimes, command: ServeCommand::new(binary, directory)? })
    }

    /// Starts the node and returns how long it took until a produce was acknowledged, or until a
    /// connection stood where there is no topic to produce to.
    pub(crate) async fn start(
        &self,
        topic: Option<&str>,
    ) -> anyhow::Result<(ServeProcess, Duration)> {
        let began = Instant::now();
        let mut process = self.command.start()?;
        loop {
            process.check_alive()?;
            match self.first_answer(topic).await {
                Ok(()) => return Ok((process, began.elapsed())),
                Err(error) if began.elapsed() > START => {
                    return Err(error.context(process.output()));
                }
                Err(_) => {}
            }
        }
    }

    async fn first_answer(&self, topic: Option<&str>) -> anyhow::Result<()> {
        let config = ClientConfig { connect_timeout: DIAL, ..self.client_config()? };
        let client = connect(self.runtimes, config).await?;
        let Some(topic) = topic.map(str::to_owned) else { return Ok(()) };
        let first = async move {
            let producer = client.producer(topic).build().await?;
            producer.send_to(0, Record::new("the first after the restart")).await?;
            anyhow::Ok(producer.close().await?)
        };
        self.runtimes.clients().spawn(first).await?
    }

    /// A client of the running node.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        connect(self.runtimes, self.client_config()?).await
    }

    /// How to reach the node, which has made its authority by then.
    pub(crate) fn client_config(&self) -> anyhow::Result<ClientConfig> {
        Ok(match self.plan.transport {
            TransportKind::Tcp => {
                ClientConfig::plaintext(self.command.plaintext_address().to_string())
            }
            transport => {
                let authority = self.command.data_directory().join("tls").join("ca.pem");
                let pem = std::fs::read_to_string(authority)?;
                let address = self.command.address().to_string();
                ClientConfig { transport, ..ClientConfig::new(address, Trust::CaPem(pem)) }
            }
        })
    }

    /// Makes a topic with the plan's partitions and durability.
    pub(crate) async fn create_topic(&self, topic: &str) -> anyhow::Result<()> {
        let config = TopicConfig { durability: self.plan.durability, ..TopicConfig::default() };
        let topic = NewTopic::new(topic).partitions(self.plan.partitions).config(config);
        self.client().await?.admin().create_topic(topic).await?;
        Ok(())
    }
}
