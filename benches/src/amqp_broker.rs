//! A broker under the load of `amqp`: nodes of this binary, or whatever speaks AMQP at a URL.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};
use plimsoll_client::Client;

use crate::bed::binary;
use crate::options::{Options, Plan};
use crate::serve_cluster::{ServeCluster, commands};
use crate::serve_process::free_address;

/// What takes longer than this will not come.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A queue that nobody uses goes by itself after this: should this process be killed, nothing is left on
/// a broker of somebody else's.
const EXPIRES: Duration = Duration::from_secs(600);
/// What the topics of AMQP's queues are called, before what tells them apart.
const TOPIC_PREFIX: &str = "__amqp.";

/// A broker, with a connection to each of its nodes to declare and delete by.
pub(crate) struct AmqpBroker {
    nodes: Vec<Node>,
    /// The processes, where they are this one's.
    own: Option<OwnNodes>,
}

struct Node {
    url: String,
    connection: Connection,
    channel: Channel,
}

struct OwnNodes {
    cluster: ServeCluster,
    client: Client,
}

/// A queue, and the node where its clients connect.
pub(crate) struct AmqpQueue {
    /// Its name.
    pub(crate) name: String,
    node: usize,
}

/// Connects to a broker.
///
/// # Errors
/// When nobody answers, or the login is refused.
pub(crate) async fn connect(url: &str) -> anyhow::Result<Connection> {
    let properties =
        ConnectionProperties::default().with_connection_name("plimsoll bench amqp".into());
    Ok(Connection::connect(url, properties).await?)
}

impl Node {
    async fn new(url: String) -> anyhow::Result<Self> {
        let connection = connect(&url).await?;
        let channel = connection.create_channel().await?;
        Ok(Self { url, connection, channel })
    }

    /// As [`Node::new`], of a node that is starting: it listens before it can declare.
    async fn once_it_declares(address: SocketAddr) -> anyhow::Result<Self> {
        let began = Instant::now();
        loop {
            match Self::declaring(format!("amqp://guest:guest@{address}/%2f")).await {
                Err(_) if began.elapsed() < PATIENCE => tokio::time::sleep(LOOK_EVERY).await,
                node => return node.with_context(|| format!("no AMQP at {address}")),
            }
        }
    }

    async fn declaring(url: String) -> anyhow::Result<Self> {
        let node = Self::new(url).await?;
        let (options, none) = (QueueDeclareOptions::exclusive(), FieldTable::default());
        let probe = node.channel.queue_declare("".into(), options, none).await?;
        node.channel.queue_delete(probe.name().clone(), QueueDeleteOptions::default()).await?;
        Ok(node)
    }
}

impl AmqpBroker {
    /// Starts the plan's nodes, a process each, with their data in `directory`.
    pub(crate) async fn serve(
        plan: &Plan,
        options: &Options,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let mut addresses = Vec::new();
        let mut all = Vec::new();
        for command in commands(binary(options)?, directory, plan.nodes, &plan.node_settings)? {
            let address = free_address()?;
            addresses.push(address);
            all.push(command.argument("--listen-amqp").argument(address.to_string()));
        }
        let cluster = ServeCluster::start(all, plan.transport).await?;
        let client = cluster.client().await?;
        let mut nodes = Vec::new();
        for address in addresses {
            nodes.push(Node::once_it_declares(address).await?);
        }
        Ok(Self { nodes, own: Some(OwnNodes { cluster, client }) })
    }

    /// The broker at a URL, which somebody else runs.
    pub(crate) async fn elsewhere(url: &str) -> anyhow::Result<Self> {
        let node = Node::new(url.to_owned()).await.context("no AMQP at the URL")?;
        Ok(Self { nodes: vec![node], own: None })
    }

    /// Declares so many durable quorum queues with names of their own. Those that were declared before one
    /// failed expire.
    pub(crate) async fn declare(&self, queues: u32) -> anyhow::Result<Vec<AmqpQueue>> {
        // Nobody else's: the keys of the hash are random.
        let run = RandomState::new().hash_one(std::process::id());
        let mut declared = Vec::new();
        for index in 0..queues {
            let name = format!("plimsoll-bench-{run:016x}-{index}");
            let mut arguments = FieldTable::default();
            arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
            let expires_ms = i32::try_from(EXPIRES.as_millis())?;
            arguments.insert("x-expires".into(), AMQPValue::LongInt(expires_ms));
            let channel = &self.nodes[0].channel;
            let options = QueueDeclareOptions::durable();
            channel.queue_declare((&*name).into(), options, arguments).await?;
            declared.push(AmqpQueue { name, node: 0 });
        }
        match &self.own {
            Some(own) if self.nodes.len() > 1 => own.find_leaders(&mut declared).await?,
            _ => {}
        }
        Ok(declared)
    }

    /// Where the clients of a queue connect: its leader, where that is known.
    pub(crate) fn url_of(&self, queue: &AmqpQueue) -> &str {
        &self.nodes[queue.node].url
    }

    /// Waits until a queue has no message that is ready.
    ///
    /// # Errors
    /// When some are left after a minute: what was received was not settled.
    pub(crate) async fn wait_until_empty(&self, queue: &AmqpQueue) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
            let (channel, none) = (&self.nodes[queue.node].channel, FieldTable::default());
            let found = channel.queue_declare((&*queue.name).into(), passive, none).await?;
            let left = found.message_count();
            if left == 0 {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                bail!("{left} messages of {} are left", queue.name);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Deletes queues with what is in them.
    ///
    /// # Errors
    /// The first failure, when all were tried.
    pub(crate) async fn delete(&self, queues: Vec<AmqpQueue>) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        for queue in queues {
            let channel = &self.nodes[queue.node].channel;
            let deleted = channel
                .queue_delete((&*queue.name).into(), QueueDeleteOptions::default())
                .await
                .with_context(|| format!("queue {} was not deleted", queue.name));
            outcome = outcome.and(deleted.map(drop));
        }
        outcome
    }

    /// Fails when a node has ended by itself; kills those that are this process's own.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        for node in self.nodes {
            // Before its node ends: the client would take it for a failure, and say so. A node that has
            // ended is told below.
            let _ = node.connection.close(200, "done".into()).await;
        }
        match self.own {
            Some(mut own) => own.cluster.check_alive(),
            None => Ok(()),
        }
    }
}

impl OwnNodes {
    /// AMQP does not say who leads a queue: the topics that hold them do, and they are numbered in the order
    /// of declaration.
    async fn find_leaders(&self, queues: &mut [AmqpQueue]) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut topics = loop {
            // Whoever answers may not have heard of all yet.
            let topics = self.client.admin().list_topics(Some(TOPIC_PREFIX)).await?;
            if topics.len() >= queues.len() {
                break topics;
            }
            if began.elapsed() > PATIENCE {
                bail!("{} queues were declared, {} are there", queues.len(), topics.len());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        topics.sort_by_key(|topic| topic.topic_id);
        let newest = topics.len() - queues.len();
        for (queue, topic) in queues.iter_mut().zip(&topics[newest..]) {
            let name = topic.name.as_str();
            queue.node = self.cluster.wait_for_leader(&self.client, name, 0).await?;
        }
        Ok(())
    }
}
