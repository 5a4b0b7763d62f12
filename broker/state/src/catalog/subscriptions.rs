//! Subscriptions of topics that settle message by message; the built-in one makes a topic a queue.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use plimsoll_protocol::api::QueueSettings;
use plimsoll_protocol::ids::TopicName;
use plimsoll_protocol::wire::{Decode, Encode, Reader};

use super::amqp::LEVEL_QUEUES;
use super::refusal::CatalogRefusal;
use super::topics::TopicMeta;
use super::{Catalog, CatalogReply};
use crate::decode::{DecodeStateError, count};

/// Most subscriptions of one topic: each has its own account of what is settled, in every partition.
pub const SUBSCRIPTIONS_PER_TOPIC_MAX: usize = 256;
/// Longest name of a subscription, in bytes.
pub const SUBSCRIPTION_NAME_BYTES_MAX: usize = 255;

/// What the catalog knows of one subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionMeta {
    /// Names it in the partitions' control entries; never used again in its topic. 0 is the queue's own.
    pub id: u32,
    /// How it behaves.
    pub settings: QueueSettings,
    /// Whether it began behind what was stored then.
    pub from_latest: bool,
}

/// The subscriptions of one topic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subscriptions {
    by_name: BTreeMap<String, SubscriptionMeta>,
    /// The last id that was given out; 0 before the first.
    last_id: u32,
}

impl Subscriptions {
    /// Those of a queue.
    pub(super) fn of_queue(settings: QueueSettings) -> Self {
        let meta = SubscriptionMeta { id: 0, settings, from_latest: false };
        Self { by_name: BTreeMap::from([(String::new(), meta)]), last_id: 0 }
    }

    /// The subscription of this name; the empty name is the queue's own.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&SubscriptionMeta> {
        self.by_name.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &SubscriptionMeta)> {
        self.by_name.iter().map(|(name, meta)| (name.as_str(), meta))
    }

    /// Whether there was one of this id, which was ended since.
    #[must_use]
    pub fn was_ended(&self, id: u32) -> bool {
        id != 0 && id <= self.last_id && !self.by_name.values().any(|meta| meta.id == id)
    }

    /// Whether there are none and never were any.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        *self == Self::default()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

impl TopicMeta {
    /// Whether its records are kept until they are settled.
    #[must_use]
    pub fn is_queue(&self) -> bool {
        self.subscriptions.get("").is_some()
    }
}

impl Catalog {
    /// Refuses what a node of the cluster might not be able to read.
    pub(super) fn check_level(&self, needed: u16) -> Result<(), CatalogRefusal> {
        if self.level < needed {
            return Err(CatalogRefusal::LevelTooLow { needed, now: self.level });
        }
        Ok(())
    }

    pub(super) fn put_subscription(
        &mut self,
        topic: TopicName,
        name: String,
        settings: QueueSettings,
        create: bool,
        from_latest: bool,
    ) -> Result<CatalogReply, CatalogRefusal> {
        self.check_level(LEVEL_QUEUES)?;
        let Some(current) = self.topics.get(&topic) else {
            return Err(CatalogRefusal::UnknownTopic { topic });
        };
        let mut meta = TopicMeta::clone(current);
        let subscriptions = &mut meta.subscriptions;
        if let Some(existing) = subscriptions.by_name.get_mut(&name) {
            existing.settings = settings;
        } else if meta.config.rules.cleanup.compacts() {
            return Err(CatalogRefusal::CompactedQueue { topic });
        } else if create && !name.is_empty() && name.len() <= SUBSCRIPTION_NAME_BYTES_MAX {
            if subscriptions.by_name.len() >= SUBSCRIPTIONS_PER_TOPIC_MAX {
                return Err(CatalogRefusal::TooManySubscriptions { topic });
            }
            subscriptions.last_id += 1;
            let new = SubscriptionMeta { id: subscriptions.last_id, settings, from_latest };
            subscriptions.by_name.insert(name, new);
        } else {
            return Err(CatalogRefusal::UnknownSubscription { topic, name });
        }
        Ok(self.replace(topic, meta))
    }

    pub(super) fn delete_subscription(
        &mut self,
        topic: TopicName,
        name: String,
    ) -> Result<CatalogReply, CatalogRefusal> {
        let Some(current) = self.topics.get(&topic) else {
            return Err(CatalogRefusal::UnknownTopic { topic });
        };
        let mut meta = TopicMeta::clone(current);
        // The queue's own ends with its topic.
        if name.is_empty() || meta.subscriptions.by_name.remove(&name).is_none() {
            return Err(CatalogRefusal::UnknownSubscription { topic, name });
        }
        Ok(self.replace(topic, meta))
    }

    fn replace(&mut self, topic: TopicName, meta: TopicMeta) -> CatalogReply {
        let meta = Arc::new(meta);
        Arc::make_mut(&mut self.topics).insert(topic, Arc::clone(&meta));
        self.epoch += 1;
        CatalogReply::Altered(meta)
    }

    /// Of each topic that has or had subscriptions: its name, its last id, its subscriptions.
    pub(super) fn encode_subscriptions(&self, out: &mut BytesMut) {
        let touched = || {
            let all = self.topics.iter().map(|(name, meta)| (name, &meta.subscriptions));
            all.filter(|(_, subscriptions)| **subscriptions != Subscriptions::default())
        };
        super::replicas::put_count(touched().count(), out);
        for (topic, subscriptions) in touched() {
            topic.encode(out);
            subscriptions.last_id.encode(out);
            super::replicas::put_count(subscriptions.by_name.len(), out);
            for (name, meta) in &subscriptions.by_name {
                name.encode(out);
                meta.id.encode(out);
                meta.settings.encode(out);
                meta.from_latest.encode(out);
            }
        }
    }

    pub(super) fn decode_subscriptions(
        &mut self,
        reader: &mut Reader<'_>,
    ) -> Result<(), DecodeStateError> {
        let invalid = |rule| Err(DecodeStateError::Invalid { rule });
        let mut last_topic = None;
        for _ in 0..count(reader, TopicName::BYTES_MIN + 8)? {
            let topic = TopicName::decode(reader)?;
            if last_topic.replace(topic.clone()).is_some_and(|last| last >= topic) {
                return invalid("topics with subscriptions rise");
            }
            let mut subscriptions =
                Subscriptions { last_id: u32::decode(reader)?, by_name: BTreeMap::new() };
            let item_bytes_min = String::BYTES_MIN + 4 + QueueSettings::BYTES_MIN + 1;
            for _ in 0..count(reader, item_bytes_min)? {
                let name = String::decode(reader)?;
                let meta = SubscriptionMeta {
                    id: u32::decode(reader)?,
                    settings: QueueSettings::decode(reader)?,
                    from_latest: bool::decode(reader)?,
                };
                if subscriptions.by_name.last_key_value().is_some_and(|(last, _)| *last >= name) {
                    return invalid("names of subscriptions rise");
                }
                if meta.id > subscriptions.last_id || (meta.id == 0) != name.is_empty() {
                    return invalid("ids of subscriptions were handed out");
                }
                subscriptions.by_name.insert(name, meta);
            }
            if subscriptions == Subscriptions::default() {
                return invalid("topics without subscriptions are left out");
            }
            match Arc::make_mut(&mut self.topics).get_mut(&topic) {
                Some(meta) => Arc::make_mut(meta).subscriptions = subscriptions,
                None => return invalid("subscriptions are of known topics"),
            }
        }
        Ok(())
    }
}
