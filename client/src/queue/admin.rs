//! Creating, changing, looking at queues.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use plimsoll_protocol::api::{
    CancelMessageRequest, ConfigChange, CreateQueueRequest, DeleteSubscriptionRequest,
    DescribeQueueRequest, ExplainMessageRequest, ListQueuesRequest, MessageExplanation,
    PeekQueueRequest, PurgeQueueRequest, PutSubscriptionRequest, QueueInfo, QueueSettings,
    QueueStanding, TopicConfig,
};
use plimsoll_protocol::batch::Record;
use plimsoll_protocol::ids::{Offset, PartitionIndex};
use thiserror::Error;

use crate::admin::{known_name, name};
use crate::client::Shared;
use crate::error::RequestError;
use crate::pulse::Owed;
use crate::requests::Repeat;

/// Names a message of a queue: partition and offset, as `3:1042`; `1042` alone is in partition 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: Offset,
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}:{}", self.partition, self.offset))
    }
}

/// The text is not the id of a message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not the id of a message: it is PARTITION:OFFSET, for example 0:1042")]
pub struct InvalidMessageId(String);

impl FromStr for MessageId {
    type Err = InvalidMessageId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (partition, offset) = text.split_once(':').unwrap_or(("0", text));
        match (partition.parse(), offset.parse()) {
            (Ok(partition), Ok(offset)) => Ok(Self { partition, offset: Offset(offset) }),
            _ => Err(InvalidMessageId(text.to_owned())),
        }
    }
}

/// A queue to be created.
#[derive(Debug, Clone, PartialEq)]
pub struct NewQueue {
    /// Its name: 1 to 255 bytes of `A-Z a-z 0-9 . _ -`.
    pub name: String,
    /// Number of partitions, at least 1. Default 1: first in, first out. More are worked off beside each
    /// other, and order holds within each.
    pub partitions: u32,
    /// Replicas of each partition. Default 0: the cluster's choice, which is 3, or one on each node where
    /// there are fewer.
    pub replicas: u16,
    /// How it behaves.
    pub settings: QueueSettings,
    /// Durability and sizes of its topic. Retention is of no effect: messages stay until they are settled.
    pub config: TopicConfig,
    /// Whether an existing queue is fine: it is returned as it is.
    pub if_not_exists: bool,
}

impl NewQueue {
    /// A queue of one partition with the default settings.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            partitions: 1,
            replicas: 0,
            settings: QueueSettings::default(),
            config: TopicConfig::default(),
            if_not_exists: false,
        }
    }
}

/// A message that was looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Peeked {
    /// Its offset.
    pub offset: Offset,
    /// How often it was delivered so far.
    pub attempts: u32,
    /// The record.
    pub record: Record,
}

/// One queue, or one subscription of a topic, as people look at it.
#[derive(Clone)]
pub struct QueueAdmin {
    pub(super) shared: Arc<Shared>,
    pub(super) topic: String,
    pub(super) subscription: String,
}

impl QueueAdmin {
    pub(crate) fn new(shared: Arc<Shared>, topic: String, subscription: String) -> Self {
        Self { shared, topic, subscription }
    }

    /// Makes the subscription where there is none, or changes it; a queue is changed only.
    ///
    /// # Errors
    /// When there is no such topic or queue, a setting is not allowed, or nobody answers.
    pub async fn put(
        &self,
        changes: Vec<ConfigChange>,
        from_latest: bool,
    ) -> Result<QueueInfo, RequestError> {
        let request = PutSubscriptionRequest {
            topic: name(&self.topic)?,
            subscription: self.subscription.clone(),
            changes,
            create: !self.subscription.is_empty(),
            from_latest,
        };
        let made = self.shared.request(request, Repeat::Freely).await?;
        if from_latest {
            // It begins in each partition when its leader has heard of it: before this returns.
            for partition in 0..made.partitions {
                self.standing(partition).await?;
            }
        }
        Ok(made)
    }

    /// Ends the subscription, with its account of what is settled. A queue is deleted as a topic.
    ///
    /// # Errors
    /// When there is none, or nobody answers.
    pub async fn delete(&self) -> Result<(), RequestError> {
        let (topic, subscription) = (name(&self.topic)?, self.subscription.clone());
        let request = DeleteSubscriptionRequest { topic, subscription };
        self.shared.request(request, Repeat::IfRefused).await.map(drop)
    }

    /// How a partition stands.
    ///
    /// # Errors
    /// When there is no such queue or partition, or nobody answers.
    pub async fn standing(&self, partition: u32) -> Result<QueueStanding, RequestError> {
        let (topic, partition) = (known_name(&self.topic)?, PartitionIndex(partition));
        let subscription = self.subscription.clone();
        let request = DescribeQueueRequest { topic: topic.clone(), subscription, partition };
        let asked = self.shared.request_leader(&topic, partition, request, Owed::Answer).await;
        asked.map(|(standing, _)| standing)
    }

    /// Why a message is not delivered.
    ///
    /// # Errors
    /// When there is no such queue or partition, or nobody answers.
    pub async fn explain(&self, id: MessageId) -> Result<MessageExplanation, RequestError> {
        let (topic, partition) = (known_name(&self.topic)?, PartitionIndex(id.partition));
        let request = ExplainMessageRequest {
            topic: topic.clone(),
            subscription: self.subscription.clone(),
            partition,
            offset: id.offset,
        };
        let asked = self.shared.request_leader(&topic, partition, request, Owed::Answer).await;
        asked.map(|(explanation, _)| explanation)
    }

    /// Ends a message that nobody holds. Answers whether it did.
    ///
    /// # Errors
    /// When there is no such queue or partition, or nobody answers.
    pub async fn cancel(&self, id: MessageId) -> Result<bool, RequestError> {
        let (topic, partition) = (known_name(&self.topic)?, PartitionIndex(id.partition));
        let request = CancelMessageRequest {
            topic: topic.clone(),
            subscription: self.subscription.clone(),
            partition,
            offset: id.offset,
        };
        let asked = self.shared.request_leader(&topic, partition, request, Owed::Answer).await;
        asked.map(|(answer, _)| answer.cancelled)
    }

    /// Ends all messages of a partition that nobody holds; how many.
    ///
    /// # Errors
    /// When there is no such queue or partition, or nobody answers.
    pub async fn purge(&self, partition: u32) -> Result<u64, RequestError> {
        let (topic, partition) = (known_name(&self.topic)?, PartitionIndex(partition));
        let subscription = self.subscription.clone();
        let request = PurgeQueueRequest { topic: topic.clone(), subscription, partition };
        let asked = self.shared.request_leader(&topic, partition, request, Owed::Answer).await;
        asked.map(|(answer, _)| answer.messages)
    }

    /// Up to `max` messages of a partition that are not settled, from an offset on, and where to look on.
    /// Nobody is kept from receiving them.
    ///
    /// # Errors
    /// When there is no such queue or partition, or nobody answers.
    pub async fn peek(
        &self,
        partition: u32,
        from: Offset,
        max: u32,
    ) -> Result<(Vec<Peeked>, Offset), RequestError> {
        let (topic, partition) = (known_name(&self.topic)?, PartitionIndex(partition));
        let request = PeekQueueRequest {
            topic: topic.clone(),
            subscription: self.subscription.clone(),
            partition,
            from,
            messages_max: max,
        };
        let asked = self.shared.request_leader(&topic, partition, request, Owed::Answer).await;
        let (answer, payload) = asked?;
        let mut at = 0;
        let mut messages = Vec::with_capacity(answer.messages.len());
        for found in answer.messages {
            let record = Record::decode(&payload, &mut at, found.base_timestamp_ms);
            let record = record.map_err(|error| RequestError::MalformedAnswer {
                reason: format!("message {}: {error}", found.offset).into(),
            })?;
            messages.push(Peeked { offset: found.offset, attempts: found.attempt, record });
        }
        Ok((messages, answer.next))
    }
}

impl crate::Admin {
    /// Creates a queue, and the topic that its dead letters go to where there is none of that name.
    ///
    /// # Errors
    /// When the name is taken, something is not allowed, or nobody answers. After a lost connection it is
    /// not known whether it was created: `if_not_exists` makes it safe to ask again.
    pub async fn create_queue(&self, queue: NewQueue) -> Result<QueueInfo, RequestError> {
        let repeat = if queue.if_not_exists { Repeat::Freely } else { Repeat::IfRefused };
        let request = CreateQueueRequest {
            topic: name(&queue.name)?,
            partitions: queue.partitions,
            replicas: queue.replicas,
            config: queue.config,
            settings: queue.settings,
            if_not_exists: queue.if_not_exists,
        };
        self.shared.request(request, repeat).await
    }

    /// All queues and subscriptions of topics whose name begins with `prefix`, by name.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn list_queues(&self, prefix: Option<&str>) -> Result<Vec<QueueInfo>, RequestError> {
        let ask = |last: Option<&QueueInfo>| ListQueuesRequest {
            prefix: prefix.map(str::to_owned),
            after: last.map(|last| last.topic.clone()),
        };
        self.shared.list(ask, |page| (page.queues, page.has_more)).await
    }

    /// One queue; or one subscription of a topic, where `subscription` is not empty.
    pub fn queue(&self, topic: impl Into<String>, subscription: impl Into<String>) -> QueueAdmin {
        QueueAdmin::new(Arc::clone(&self.shared), topic.into(), subscription.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_messages_are_read_as_they_are_shown() {
        let id = MessageId { partition: 3, offset: Offset(1042) };
        assert_eq!((id.to_string().as_str(), "3:1042".parse()), ("3:1042", Ok(id)));
        assert_eq!("7".parse(), Ok(MessageId { partition: 0, offset: Offset(7) }));
        for wrong in ["", ":", "1:", ":1", "a:1", "1:-1", "1:2:3"] {
            assert!(wrong.parse::<MessageId>().is_err(), "{wrong}");
        }
    }
}
