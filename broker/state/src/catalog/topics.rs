//! Topics, and the commands that change them.

use std::sync::Arc;

use plimsoll_protocol::api::{QueueSettings, TopicConfig, TopicRules};
use plimsoll_protocol::ids::{GroupId, PartitionIndex, ProducerId, TopicName};

use super::amqp::LEVEL_QUEUES;
use super::patch::{ConfigPatch, RulesPatch};
use super::refusal::CatalogRefusal;
use super::replicas::{ProposedPlacement, ReplicaSet};
use super::subscriptions::Subscriptions;
use super::{Catalog, CatalogReply, LEVEL_RULES};

/// Most partitions of one topic. Part of the fold: every replica refuses at the same number.
pub const PARTITIONS_PER_TOPIC_MAX: u32 = 100_000;

/// Most topics.
pub const TOPICS_MAX: usize = 100_000;

/// Most producer ids in one block.
pub const PRODUCER_IDS_MAX: u32 = 1_000_000;

/// What the catalog knows of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicMeta {
    /// Never used again after the topic is deleted.
    pub topic_id: u64,
    /// Its configuration.
    pub config: TopicConfig,
    /// The group of each partition, in order.
    pub partitions: Vec<GroupId>,
    /// Where each partition belongs, in the same order.
    pub placement: Vec<ReplicaSet>,
    /// Replicas per partition that were asked for.
    pub replicas: u16,
    /// When it was created, unix ms.
    pub created_ms: i64,
    /// Its subscriptions that settle message by message; a queue has a built-in one.
    pub subscriptions: Subscriptions,
}

impl TopicMeta {
    /// The group of a partition.
    #[must_use]
    pub fn group(&self, partition: PartitionIndex) -> Option<GroupId> {
        self.partitions.get(usize::try_from(partition.0).ok()?).copied()
    }

    /// Where a partition belongs.
    #[must_use]
    pub fn replica_set(&self, partition: PartitionIndex) -> Option<&ReplicaSet> {
        self.placement.get(usize::try_from(partition.0).ok()?)
    }
}

/// What is asked for when a topic is made.
pub(super) struct NewTopic {
    pub(super) topic: TopicName,
    pub(super) partitions: u32,
    pub(super) replicas: u16,
    pub(super) config: TopicConfig,
    pub(super) if_not_exists: bool,
    pub(super) placement: Option<ProposedPlacement>,
    /// How it behaves as a queue, if it is one.
    pub(super) queue: Option<QueueSettings>,
}

impl Catalog {
    pub(super) fn create(
        &mut self,
        new: NewTopic,
        created_ms: i64,
    ) -> Result<CatalogReply, CatalogRefusal> {
        let NewTopic { topic, partitions, replicas, config, if_not_exists, placement, queue } = new;
        if queue.is_some() {
            self.check_level(LEVEL_QUEUES)?;
        }
        if config.rules != TopicRules::default() {
            self.check_level(LEVEL_RULES)?;
        }
        if queue.is_some() && config.rules.cleanup.compacts() {
            return Err(CatalogRefusal::CompactedQueue { topic });
        }
        if let Some(existing) = self.topics.get(&topic) {
            return if if_not_exists && existing.is_queue() == queue.is_some() {
                Ok(CatalogReply::Created { topic: existing.clone(), existed: true })
            } else {
                Err(CatalogRefusal::TopicExists { topic })
            };
        }
        if self.topics.len() >= TOPICS_MAX {
            return Err(CatalogRefusal::TooManyTopics);
        }
        check_partitions(partitions)?;
        if replicas == 0 {
            return Err(CatalogRefusal::NoReplicas);
        }
        let placement = self.place_new(partitions, replicas, placement.as_ref())?;
        let topic_id = self.next_topic_id;
        self.next_topic_id += 1;
        let partitions: Vec<GroupId> = self.take_groups(partitions).collect();
        self.owners.add(&topic, 0, &partitions);
        let subscriptions = queue.map(Subscriptions::of_queue).unwrap_or_default();
        let meta = Arc::new(TopicMeta {
            topic_id,
            config,
            partitions,
            placement,
            replicas,
            created_ms,
            subscriptions,
        });
        Arc::make_mut(&mut self.topics).insert(topic, meta.clone());
        self.epoch += 1;
        Ok(CatalogReply::Created { topic: meta, existed: false })
    }

    pub(super) fn alter(
        &mut self,
        topic: TopicName,
        asked: Option<u32>,
        patch: &ConfigPatch,
        placement: Option<&ProposedPlacement>,
    ) -> Result<CatalogReply, CatalogRefusal> {
        let Some(current) = self.topics.get(&topic) else {
            return Err(CatalogRefusal::UnknownTopic { topic });
        };
        if patch.rules != RulesPatch::default() {
            self.check_level(LEVEL_RULES)?;
        }
        let mut meta = TopicMeta::clone(current);
        patch.apply_to(&mut meta.config);
        if meta.config.rules.cleanup.compacts() && !meta.subscriptions.is_empty() {
            return Err(CatalogRefusal::CompactedQueue { topic });
        }
        let partitions = u32::try_from(meta.partitions.len()).expect("bounded by its maximum");
        let asked = asked.unwrap_or(partitions);
        check_partitions(asked)?;
        if asked < partitions {
            return Err(CatalogRefusal::FewerPartitions { topic, partitions, asked });
        }
        if asked > partitions {
            self.check_holds_no_queue(&topic)?;
        }
        let added = asked - partitions;
        meta.placement.extend(self.place_new(added, meta.replicas, placement)?);
        meta.partitions.extend(self.take_groups(added));
        let first = partitions as usize;
        self.owners.add(&topic, first, &meta.partitions[first..]);
        let meta = Arc::new(meta);
        Arc::make_mut(&mut self.topics).insert(topic, meta.clone());
        self.epoch += 1;
        Ok(CatalogReply::Altered(meta))
    }

    pub(super) fn delete(&mut self, topic: TopicName) -> Result<CatalogReply, CatalogRefusal> {
        if !self.topics.contains_key(&topic) {
            return Err(CatalogRefusal::UnknownTopic { topic });
        }
        let meta = Arc::make_mut(&mut self.topics).remove(&topic).expect("it was just seen");
        self.owners.remove(&meta.partitions);
        self.epoch += 1;
        Ok(CatalogReply::Deleted {
            topic_id: meta.topic_id,
            groups: meta.partitions.clone().into(),
        })
    }

    pub(super) fn allocate_producer_ids(
        &mut self,
        count: u32,
    ) -> Result<CatalogReply, CatalogRefusal> {
        if count == 0 || count > PRODUCER_IDS_MAX {
            return Err(CatalogRefusal::ProducerIdsOutOfRange { asked: count });
        }
        let first = ProducerId(self.next_producer_id);
        self.next_producer_id += u64::from(count);
        Ok(CatalogReply::ProducerIds { first, count })
    }

    fn take_groups(&mut self, count: u32) -> impl Iterator<Item = GroupId> + use<> {
        let first = self.next_group_id;
        self.next_group_id += u64::from(count);
        (first..self.next_group_id).map(GroupId)
    }
}

fn check_partitions(asked: u32) -> Result<(), CatalogRefusal> {
    if asked == 0 || asked > PARTITIONS_PER_TOPIC_MAX {
        return Err(CatalogRefusal::PartitionsOutOfRange { asked });
    }
    Ok(())
}
