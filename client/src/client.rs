//! The entry: a client holds one connection per node and hands out producers, consumers and the
//! admin.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use plimsoll_protocol::api::{DescribeTopicRequest, ListQueuesRequest, QueueOverflow, TopicInfo};
use plimsoll_protocol::ids::{PartitionIndex, TopicName};
use tokio::sync::OnceCell;

use crate::admin::Admin;
use crate::backoff::Backoff;
use crate::cluster::{Cluster, ClusterView};
use crate::config::ClientConfig;
use crate::consumer::ConsumerBuilder;
use crate::error::{ConnectError, RequestError};
use crate::group::GroupConsumerBuilder;
use crate::kv::Kv;
use crate::link::Dialer;
use crate::links::Links;
use crate::lock::{BootClock, LeaseClock};
use crate::metadata::Metadata;
use crate::partitioner::{SplitMix64, random_seed};
use crate::producer::ProducerBuilder;
use crate::queue::QueueConsumerBuilder;
use crate::requests::Repeat;
use crate::wall_clock::unix_ms;

/// Connections to a Plimsoll cluster. Cloning is cheap; the connections end with the last clone,
/// producer and consumer.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

/// What a client, its producers and consumers have in common.
pub(crate) struct Shared {
    dialer: Arc<Dialer>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) links: Arc<Links>,
    pub(crate) metadata: Metadata,
    /// The topic that groups are in, and its number of partitions, which never changes.
    pub(crate) groups: OnceCell<(TopicName, u32)>,
    random: Mutex<SplitMix64>,
}

impl Client {
    /// Connects to the first node that answers.
    ///
    /// # Errors
    /// When the configuration cannot be used, nobody answers, the certificate is not trusted, or
    /// the node refuses.
    pub async fn connect(config: ClientConfig) -> Result<Self, ConnectError> {
        if config.addresses.is_empty() {
            return Err(ConnectError::Config("no address of a node is given".to_owned()));
        }
        let shortest = config.suspicion.ask_after.min(config.suspicion.ask_idle_after);
        if shortest < Duration::from_millis(10) {
            let reason = "suspicion: a node is given less than 10 ms for its answers";
            return Err(ConnectError::Config(reason.to_owned()));
        }
        let seed = config.seed.unwrap_or_else(random_seed);
        let cluster = Cluster::new();
        let dialer = Arc::new(Dialer::new(config, Arc::clone(&cluster))?);
        let shared = Arc::new(Shared {
            links: Arc::new(Links::new(Arc::clone(&dialer), Arc::clone(&cluster))),
            dialer,
            cluster,
            metadata: Metadata::default(),
            groups: OnceCell::new(),
            random: Mutex::new(SplitMix64(seed)),
        });
        shared.links.any(None).await?;
        shared.learn_nodes().await;
        Ok(Self { shared })
    }

    /// A producer for a topic, to be configured and built.
    pub fn producer(&self, topic: impl Into<String>) -> ProducerBuilder {
        ProducerBuilder::new(Arc::clone(&self.shared), topic.into())
    }

    /// A consumer of a topic, to be configured and built.
    pub fn consumer(&self, topic: impl Into<String>) -> ConsumerBuilder {
        ConsumerBuilder::new(Arc::clone(&self.shared), topic.into())
    }

    /// A consumer of a queue, to be configured and built. Messages are sent to a queue by a producer.
    pub fn queue_consumer(&self, topic: impl Into<String>) -> QueueConsumerBuilder {
        QueueConsumerBuilder::new(Arc::clone(&self.shared), topic.into())
    }

    /// A member of a consumer group, to be configured and built: the group's members share the partitions of
    /// their topics, and go on where the group has come.
    pub fn group_consumer(&self, group: impl Into<String>) -> GroupConsumerBuilder {
        GroupConsumerBuilder::new(Arc::clone(&self.shared), group.into())
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// A compacted topic as a map of keys and values. Nothing is asked of the cluster before it is used. Make one
    /// and clone it: each of its own has producer ids of its own.
    pub fn kv(&self, topic: impl Into<String>) -> Kv {
        Kv::new(Arc::clone(&self.shared), topic.into())
    }

    /// Topics, offsets, status.
    pub fn admin(&self) -> Admin {
        Admin::new(Arc::clone(&self.shared))
    }

    /// Ends the connections and waits, for at most a second, until the nodes were told. Close
    /// producers first. A client that is only dropped leaves its nodes to find out by themselves.
    pub async fn close(self) {
        self.shared.links.close().await;
    }

    /// Name of the cluster that the nodes belong to.
    ///
    /// # Errors
    /// When the connection was lost and cannot be made again.
    pub async fn cluster_id(&self) -> Result<String, ConnectError> {
        Ok(self.shared.links.any(None).await?.hello().cluster_id.clone())
    }

    /// What this client knows of the cluster, without asking: nodes and leaders are known while a
    /// producer or consumer is open.
    pub fn cluster(&self) -> Arc<ClusterView> {
        self.shared.cluster.view()
    }
}

impl Shared {
    pub(crate) fn config(&self) -> &ClientConfig {
        self.dialer.config()
    }

    /// The clock of leases.
    pub(crate) fn lease_clock(&self) -> Arc<dyn LeaseClock> {
        self.config().lease_clock.clone().unwrap_or_else(|| Arc::new(BootClock))
    }

    /// What time it is, in milliseconds since 1970 (UTC).
    pub(crate) fn unix_ms(&self) -> i64 {
        self.config().wall_clock.as_ref().map_or_else(unix_ms, |clock| clock.unix_ms())
    }

    /// A seed for something random.
    pub(crate) fn seed(&self) -> u64 {
        self.random.lock().expect("no code panics while it holds this lock").next()
    }

    /// A number that nobody else has.
    pub(crate) fn unique(&self) -> u128 {
        let low = if self.config().seed.is_some() { self.seed() } else { random_seed() };
        u128::from(self.seed()) << 64 | u128::from(low)
    }

    /// Pauses between attempts.
    pub(crate) fn backoff(&self) -> Backoff {
        Backoff::new(self.config().reconnect_pause, self.seed())
    }

    /// A topic without its partitions.
    pub(crate) async fn topic(&self, topic: &TopicName) -> Result<TopicInfo, RequestError> {
        let request = DescribeTopicRequest {
            topic: topic.clone(),
            first_partition: PartitionIndex(0),
            partitions_max: 0,
        };
        Ok(self.request(request, Repeat::Freely).await?.topic)
    }

    /// Whether the topic is a queue that takes so many messages and refuses more. `false` also where that is not
    /// known.
    pub(crate) async fn is_bounded_queue(&self, topic: &TopicName) -> bool {
        let request = ListQueuesRequest { prefix: Some(topic.to_string()), after: None };
        let Ok(page) = self.request(request, Repeat::Freely).await else { return false };
        // By name: the topic itself comes first, and of it the queue.
        page.queues.first().is_some_and(|queue| {
            let settings = &queue.settings;
            queue.topic == *topic
                && queue.subscription.is_empty()
                && settings.overflow == QueueOverflow::Reject
                && (settings.length_max.is_some() || settings.bytes_max.is_some())
        })
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("address", &self.shared.config().address()).finish()
    }
}
