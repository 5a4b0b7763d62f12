//! Topics, offsets, status: one request, one answer each. The cluster's own are beside this file.

use std::sync::Arc;

use plimsoll_protocol::api::{
    AlterTopicRequest, ConfigChange, CreateTopicRequest, DeleteTopicRequest, DescribeTopicRequest,
    DescribeTopicResponse, FetchRequest, Isolation, ListOffsetsRequest, ListTopicsRequest,
    NodeStatusRequest, NodeStatusResponse, PingRequest, StartPosition, TopicConfig, TopicInfo,
};
use plimsoll_protocol::batch::RecordBatch;
use plimsoll_protocol::error::ErrorCode;
use plimsoll_protocol::ids::{Offset, PartitionIndex, TopicName, TopicNameError};

use crate::client::Shared;
use crate::error::{RequestError, ServerError};
use crate::pulse::Owed;
use crate::requests::Repeat;

/// Manages topics and asks for offsets and status.
#[derive(Clone)]
pub struct Admin {
    pub(crate) shared: Arc<Shared>,
}

/// A topic to be created.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTopic {
    /// Its name: 1 to 255 bytes of `A-Z a-z 0-9 . _ -`.
    pub name: String,
    /// Number of partitions, at least 1. Default 1. It can be raised later, never lowered; raising
    /// it moves keys to other partitions.
    pub partitions: u32,
    /// Replicas of each partition. Default 0: the cluster's choice, which is 3, or one on each node where
    /// there are fewer.
    pub replicas: u16,
    /// Durability, retention, sizes.
    pub config: TopicConfig,
    /// Whether an existing topic is fine: it is returned as it is.
    pub if_not_exists: bool,
}

impl NewTopic {
    /// A topic of one partition with the default configuration.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            partitions: 1,
            replicas: 0,
            config: TopicConfig::default(),
            if_not_exists: false,
        }
    }

    /// The same with this number of partitions.
    #[must_use]
    pub fn partitions(self, partitions: u32) -> Self {
        Self { partitions, ..self }
    }

    /// The same with this number of replicas of each partition.
    #[must_use]
    pub fn replicas(self, replicas: u16) -> Self {
        Self { replicas, ..self }
    }

    /// The same with this configuration.
    #[must_use]
    pub fn config(self, config: TopicConfig) -> Self {
        Self { config, ..self }
    }
}

/// What one fetch gave.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Whole batches; the first may begin before the offset that was asked for.
    pub batches: Vec<RecordBatch>,
    /// Where the next fetch goes on.
    pub next_offset: Offset,
    /// The offset after the last record that can be read.
    pub high_watermark: Offset,
    /// The first offset that can be read.
    pub log_start_offset: Offset,
}

impl Admin {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Asks for a sign of life.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn ping(&self) -> Result<(), RequestError> {
        self.shared.request(PingRequest {}, Repeat::Freely).await.map(drop)
    }

    /// All topics whose name begins with `prefix`, by name.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn list_topics(&self, prefix: Option<&str>) -> Result<Vec<TopicInfo>, RequestError> {
        let ask = |last: Option<&TopicInfo>| ListTopicsRequest {
            prefix: prefix.map(str::to_owned),
            after: last.map(|last| last.name.clone()),
        };
        self.shared.list(ask, |page| (page.topics, page.has_more)).await
    }

    /// A topic with its partitions; also one that is the node's own, such as a queue of AMQP has.
    ///
    /// # Errors
    /// An unknown topic.
    pub async fn describe_topic(&self, topic: &str) -> Result<DescribeTopicResponse, RequestError> {
        let topic = known_name(topic)?;
        let mut partitions = Vec::new();
        let mut topic_id = None;
        loop {
            let first_partition =
                PartitionIndex(u32::try_from(partitions.len()).unwrap_or(u32::MAX));
            let topic = topic.clone();
            let request = DescribeTopicRequest { topic, first_partition, partitions_max: u32::MAX };
            let page = self.shared.request(request, Repeat::Freely).await?;
            if topic_id.replace(page.topic.topic_id).is_some_and(|id| id != page.topic.topic_id) {
                // Deleted and created anew between two pages: what was gathered is of the old one.
                partitions.clear();
                continue;
            }
            let is_empty = page.partitions.is_empty();
            partitions.extend(page.partitions);
            if is_empty || partitions.len() >= page.topic.partitions as usize {
                return Ok(DescribeTopicResponse { topic: page.topic, partitions });
            }
        }
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// A name that is taken or not allowed, too many partitions, a configuration out of bounds.
    pub async fn create_topic(&self, topic: NewTopic) -> Result<TopicInfo, RequestError> {
        let repeat = if topic.if_not_exists { Repeat::Freely } else { Repeat::IfRefused };
        let request = CreateTopicRequest {
            topic: name(&topic.name)?,
            partitions: topic.partitions,
            replicas: topic.replicas,
            config: topic.config,
            if_not_exists: topic.if_not_exists,
        };
        self.shared.request(request, repeat).await
    }

    /// Changes a topic's configuration (a key with `None` goes back to its default) or raises its
    /// number of partitions.
    ///
    /// # Errors
    /// An unknown topic or key, a value out of bounds, fewer partitions than there are.
    pub async fn alter_topic(
        &self,
        topic: &str,
        partitions: Option<u32>,
        changes: Vec<ConfigChange>,
    ) -> Result<TopicInfo, RequestError> {
        let request = AlterTopicRequest { topic: name(topic)?, partitions, changes };
        self.shared.request(request, Repeat::Freely).await
    }

    /// Deletes a topic with its records.
    ///
    /// # Errors
    /// An unknown topic.
    pub async fn delete_topic(&self, topic: &str) -> Result<(), RequestError> {
        let request = DeleteTopicRequest { topic: name(topic)? };
        self.shared.request(request, Repeat::IfRefused).await.map(drop)
    }

    /// The offset of each position in a partition.
    ///
    /// # Errors
    /// An unknown topic or partition.
    pub async fn offsets(
        &self,
        topic: &str,
        partition: u32,
        positions: Vec<StartPosition>,
    ) -> Result<Vec<Offset>, RequestError> {
        let partition = PartitionIndex(partition);
        let topic = name(topic)?;
        let request = ListOffsetsRequest { topic: topic.clone(), partition, positions };
        let asked = self.shared.request_leader(&topic, partition, request, Owed::Answer);
        Ok(asked.await?.0.offsets)
    }

    /// Reads once from an offset: at most `max_bytes` (but at least one batch), waiting up to
    /// `max_wait_ms` for the first record.
    ///
    /// # Errors
    /// An unknown topic or partition, an offset out of range, a damaged answer.
    pub async fn fetch(
        &self,
        topic: &str,
        partition: u32,
        from: Offset,
        max_bytes: u32,
        max_wait_ms: u32,
    ) -> Result<Fetched, RequestError> {
        let partition = PartitionIndex(partition);
        let topic = name(topic)?;
        let request = FetchRequest {
            topic: topic.clone(),
            partition,
            from,
            max_bytes,
            max_wait_ms,
            isolation: Isolation::Committed,
            max_staleness_ms: None,
            any_replica: false,
        };
        let owed = if max_wait_ms == 0 { Owed::Answer } else { Owed::News };
        let asked = self.shared.request_leader(&topic, partition, request, owed);
        let (answer, payload) = asked.await?;
        let batches: Result<Vec<_>, _> =
            plimsoll_protocol::batch::iterate_batches(payload).collect();
        let batches = batches
            .map_err(|error| RequestError::MalformedAnswer { reason: error.to_string().into() })?;
        Ok(Fetched {
            batches,
            next_offset: answer.next_offset,
            high_watermark: answer.high_watermark,
            log_start_offset: answer.log_start_offset,
        })
    }

    /// A node's identity, version and counters.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn node_status(&self) -> Result<NodeStatusResponse, RequestError> {
        self.shared.request(NodeStatusRequest {}, Repeat::Freely).await
    }
}

/// A malformed name is refused here as the node would refuse it.
pub(crate) fn name(topic: &str) -> Result<TopicName, RequestError> {
    topic.parse().map_err(|error| malformed(&error))
}

/// The name of a topic that is there: the node's own have names that no other can get. Queues of AMQP do.
pub(crate) fn known_name(topic: &str) -> Result<TopicName, RequestError> {
    TopicName::internal(topic).map_err(|error| malformed(&error))
}

fn malformed(error: &TopicNameError) -> RequestError {
    RequestError::Refused(ServerError {
        code: ErrorCode::InvalidTopicName,
        message: error.to_string(),
        leader: None,
        detail: None,
    })
}
