//! The catalog as bytes.
//!
//! ```text
//! version 1   next topic id, next group id, next producer id     u64 each
//!             topics u32, of each: name | topic id u64 | config | replicas u16 | created i64
//!                                  | runs u32, of each: first group u64, length u32
//! version 2   as version 1, then
//!             next node id u64 | epoch u64 | placement epoch u64 | level u16 | join secret 32 bytes
//!             | auto rebalance u8
//!             nodes u32, of each: id u64 | state u8 | join id u128 | joined i64 | spec
//!             lists of nodes u32, of each: nodes u32, ids u64; in the order of their first use
//!             places, of the catalog's group, then of all topics' partitions in order, as runs:
//!                 wanted u32 | birth u32 | length u32     numbers of lists; birth 0: sealed, else + 1
//! version 3   as version 2, then
//!             topics with subscriptions u32, of each: name | last id u32 | subscriptions u32, of each:
//!                 name | id u32 | settings | from latest u8
//!             the objects of AMQP (see there)
//! ```
//!
//! The version is what every node can read, by the level: 3 from [`LEVEL_QUEUES`] on, 2 below, where the
//! objects of AMQP are as in the beginning and no topic has subscriptions. Version 1 is read as a catalog without nodes: its topics
//! belong nowhere until the node that reads it proposes [`super::CatalogCommand::SetUp`] and they
//! belong on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use plimsoll_protocol::api::{NodeState, TopicConfig};
use plimsoll_protocol::ids::{GroupId, NodeId, TopicName};
use plimsoll_protocol::wire::{Decode, Encode, Reader};

use super::amqp::LEVEL_QUEUES;
use super::nodes::{JoinSecret, NODES_EVER_MAX, NodeMeta, NodeSpec};
use super::owners::{Owners, put_groups};
use super::replicas::{REPLICAS_MAX, ReplicaSet, Replicas, distinct, put_count, put_replicas};
use super::subscriptions::Subscriptions;
use super::topics::{PARTITIONS_PER_TOPIC_MAX, TopicMeta};
use super::{Catalog, ClusterSettings};
use crate::decode::{DecodeStateError, count};

const TOPIC_BYTES_MIN: usize = TopicName::BYTES_MIN + 8 + TopicConfig::BYTES_MIN + 2 + 8 + 4;
/// A run of groups: its first id and its length.
const RUN_BYTES: usize = 8 + 4;
const NODE_BYTES_MIN: usize = 8 + 1 + 16 + 8 + NodeSpec::BYTES_MIN;

impl Catalog {
    /// The version in which this catalog is written.
    pub(super) fn version(&self) -> u8 {
        if self.level < LEVEL_QUEUES { 2 } else { 3 }
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        self.next_topic_id.encode(out);
        self.next_group_id.encode(out);
        self.next_producer_id.encode(out);
        put_count(self.topics.len(), out);
        for (name, meta) in self.topics.iter() {
            name.encode(out);
            meta.topic_id.encode(out);
            meta.config.encode(out);
            meta.replicas.encode(out);
            meta.created_ms.encode(out);
            put_groups(&meta.partitions, out);
        }
        self.next_node_id.encode(out);
        self.epoch.encode(out);
        self.placement_epoch.encode(out);
        self.level.encode(out);
        self.join_secret.encode(out);
        self.settings.auto_rebalance.encode(out);
        put_count(self.nodes.len(), out);
        for (id, node) in self.nodes.iter() {
            id.encode(out);
            node.state.encode(out);
            node.join_id.encode(out);
            node.joined_ms.encode(out);
            node.spec.encode(out);
        }
        self.encode_places(out);
        if self.version() > 2 {
            self.encode_subscriptions(out);
            self.amqp.encode(out);
        }
    }

    fn encode_places(&self, out: &mut BytesMut) {
        let sets = || [&self.metadata].into_iter().chain(self.placements().map(|(_, set)| set));
        let mut numbers: BTreeMap<&[NodeId], u32> = BTreeMap::new();
        let mut lists: Vec<&[NodeId]> = Vec::new();
        let mut places: Vec<(u32, u32)> = Vec::new();
        for set in sets() {
            let mut number = |list| {
                *numbers.entry(list).or_insert_with(|| {
                    lists.push(list);
                    u32::try_from(lists.len() - 1).expect("fewer lists than twice the partitions")
                })
            };
            let wanted = number(&set.wanted);
            places.push((wanted, set.birth.as_deref().map_or(0, |birth| number(birth) + 1)));
        }
        put_count(lists.len(), out);
        for list in lists {
            put_replicas(list, out);
        }
        for run in places.chunk_by(|a, b| a == b) {
            run[0].0.encode(out);
            run[0].1.encode(out);
            put_count(run.len(), out);
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>, version: u8) -> Result<Self, DecodeStateError> {
        let mut catalog = Self {
            next_topic_id: u64::decode(reader)?,
            next_group_id: u64::decode(reader)?,
            next_producer_id: u64::decode(reader)?,
            ..Self::default()
        };
        catalog.decode_topics(reader)?;
        if version > 1 {
            catalog.next_node_id = u64::decode(reader)?;
            catalog.epoch = u64::decode(reader)?;
            catalog.placement_epoch = u64::decode(reader)?;
            catalog.level = u16::decode(reader)?;
            catalog.join_secret = JoinSecret::decode(reader)?;
            catalog.settings = ClusterSettings { auto_rebalance: bool::decode(reader)? };
            catalog.decode_nodes(reader)?;
            catalog.decode_places(reader)?;
            if version != catalog.version() {
                return Err(DecodeStateError::Invalid { rule: "the version is that of the level" });
            }
        }
        if version > 2 {
            catalog.decode_subscriptions(reader)?;
            catalog.decode_amqp(reader)?;
        }
        Ok(catalog)
    }

    fn decode_topics(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeStateError> {
        let mut topics = BTreeMap::new();
        let mut owners = Owners::default();
        let mut groups = 0_u64;
        for _ in 0..count(reader, TOPIC_BYTES_MIN)? {
            let name = TopicName::decode(reader)?;
            let topic_id = u64::decode(reader)?;
            let config = TopicConfig::decode(reader)?;
            let replicas = u16::decode(reader)?;
            let created_ms = i64::decode(reader)?;
            let partitions = decode_groups(reader, self.next_group_id)?;
            groups += partitions.len() as u64;
            if groups >= self.next_group_id || topic_id >= self.next_topic_id {
                return Err(DecodeStateError::Invalid { rule: "ids were handed out before" });
            }
            if topics.last_key_value().is_some_and(|(last, _)| *last >= name) {
                return Err(DecodeStateError::Invalid { rule: "topic names rise" });
            }
            owners.add(&name, 0, &partitions);
            let placement = vec![ReplicaSet::unplaced(); partitions.len()];
            let meta = TopicMeta {
                topic_id,
                config,
                partitions,
                placement,
                replicas,
                created_ms,
                subscriptions: Subscriptions::default(),
            };
            topics.insert(name, Arc::new(meta));
        }
        self.topics = Arc::new(topics);
        self.owners = owners;
        Ok(())
    }

    fn decode_nodes(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeStateError> {
        let mut nodes = BTreeMap::new();
        let count = count(reader, NODE_BYTES_MIN)?;
        if count > NODES_EVER_MAX {
            return Err(DecodeStateError::Invalid { rule: "nodes are within their maximum" });
        }
        for _ in 0..count {
            let id = NodeId::decode(reader)?;
            let known = nodes.last_key_value().is_none_or(|(last, _)| *last < id);
            if id.0 >= self.next_node_id || !known {
                return Err(DecodeStateError::Invalid {
                    rule: "node ids rise, and were handed out",
                });
            }
            let node = NodeMeta {
                state: NodeState::decode(reader)?,
                join_id: u128::decode(reader)?,
                joined_ms: i64::decode(reader)?,
                spec: NodeSpec::decode(reader)?,
            };
            nodes.insert(id, Arc::new(node));
        }
        self.nodes = Arc::new(nodes);
        Ok(())
    }

    fn decode_places(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeStateError> {
        let invalid = || DecodeStateError::Invalid { rule: "each partition has a place" };
        let mut lists: Vec<Replicas> = Vec::new();
        for _ in 0..count(reader, 4)? {
            let list: Vec<NodeId> = Vec::decode(reader)?;
            let known = list.iter().all(|node| self.nodes.contains_key(node));
            if !known || !distinct(&list) || list.len() > usize::from(REPLICAS_MAX) {
                return Err(DecodeStateError::Invalid {
                    rule: "places name known nodes, each once",
                });
            }
            lists.push(list.into());
        }
        let list = |number: u32| lists.get(number as usize).cloned();
        let places = 1 + self.partition_count();
        let mut sets = Vec::with_capacity(places.min(reader.remaining()));
        while sets.len() < places {
            let wanted = list(u32::decode(reader)?).ok_or_else(invalid)?;
            let birth = match u32::decode(reader)?.checked_sub(1) {
                Some(number) => Some(list(number).ok_or_else(invalid)?),
                None => None,
            };
            let length = u32::decode(reader)? as usize;
            if length == 0 || length > places - sets.len() {
                return Err(invalid());
            }
            if wanted.is_empty() != self.nodes.is_empty() {
                return Err(invalid());
            }
            sets.resize(sets.len() + length, ReplicaSet { wanted, birth });
        }
        let mut sets = sets.into_iter();
        self.metadata = sets.next().expect("there is one more than partitions");
        for topic in Arc::make_mut(&mut self.topics).values_mut() {
            let topic = Arc::make_mut(topic);
            topic.placement = sets.by_ref().take(topic.partitions.len()).collect();
        }
        Ok(())
    }
}

fn decode_groups(reader: &mut Reader<'_>, next: u64) -> Result<Vec<GroupId>, DecodeStateError> {
    let invalid = DecodeStateError::Invalid { rule: "a topic's groups are runs of known ids" };
    let mut groups = Vec::new();
    for _ in 0..count(reader, RUN_BYTES)? {
        let first = u64::decode(reader)?;
        let length = u32::decode(reader)?;
        let total = groups.len() + length as usize;
        let end = first.checked_add(u64::from(length)).filter(|end| *end <= next);
        let (Some(end), 1.., true) = (end, length, total <= PARTITIONS_PER_TOPIC_MAX as usize)
        else {
            return Err(invalid);
        };
        groups.extend((first..end).map(GroupId));
    }
    if groups.is_empty() { Err(invalid) } else { Ok(groups) }
}
