//! The catalog: the fold of group 0. It knows the topics, which groups their partitions are, and
//! which ids were handed out.
//!
//! Ids of topics, groups and producers only grow and are never used again, not even after what
//! they stood for was deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use plimsoll_protocol::api::TopicConfig;
use plimsoll_protocol::batch::{BatchHeader, EntryKind};
use plimsoll_protocol::ids::{GroupId, PartitionIndex, ProducerId, TopicName};
use plimsoll_protocol::wire::{Decode, Encode, Reader};
use thiserror::Error;

use crate::decode::{DecodeStateError, check_version, count, versioned};
use crate::partition::Progress;

mod command;

pub use command::{CatalogCommand, ConfigPatch};

/// Most partitions of one topic. Part of the fold: every replica refuses at the same number.
pub const PARTITIONS_PER_TOPIC_MAX: u32 = 100_000;

/// Most topics.
pub const TOPICS_MAX: usize = 100_000;

/// Most producer ids in one block.
pub const PRODUCER_IDS_MAX: u32 = 1_000_000;

/// Newest version of the catalog's encoding.
const VERSION: u8 = 1;

/// What the catalog knows of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicMeta {
    /// Never used again after the topic is deleted.
    pub topic_id: u64,
    /// Its configuration.
    pub config: TopicConfig,
    /// The group of each partition, in order.
    pub partitions: Vec<GroupId>,
    /// Replicas per partition that were asked for.
    pub replicas: u16,
    /// When it was created, unix ms.
    pub created_ms: i64,
}

impl TopicMeta {
    /// The group of a partition.
    #[must_use]
    pub fn group(&self, partition: PartitionIndex) -> Option<GroupId> {
        self.partitions.get(usize::try_from(partition.0).ok()?).copied()
    }
}

/// Topics and ids. Cloning is cheap; a clone does not change any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    topics: Arc<BTreeMap<TopicName, Arc<TopicMeta>>>,
    next_topic_id: u64,
    next_group_id: u64,
    next_producer_id: u64,
}

impl Default for Catalog {
    /// The empty catalog: group 0 is the catalog's own, producer 0 means none.
    fn default() -> Self {
        Self { topics: Arc::default(), next_topic_id: 1, next_group_id: 1, next_producer_id: 1 }
    }
}

/// The answer to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CatalogReply {
    /// The topic was created, or was there already and that was allowed.
    Created {
        /// The topic as it is now.
        topic: Arc<TopicMeta>,
        /// Whether it was there before.
        existed: bool,
    },
    /// The topic was changed.
    Altered(Arc<TopicMeta>),
    /// The topic is gone; this is what it was. Its groups can be deleted.
    Deleted(Arc<TopicMeta>),
    /// A block of producer ids that belongs to the caller now.
    ProducerIds {
        /// The first of them.
        first: ProducerId,
        /// How many.
        count: u32,
    },
    /// Nothing was changed.
    Refused(CatalogRefusal),
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CatalogRefusal {
    /// The name is taken.
    #[error("topic {topic} exists already")]
    TopicExists {
        /// The name.
        topic: TopicName,
    },
    /// No topic has the name.
    #[error("there is no topic {topic}")]
    UnknownTopic {
        /// The name.
        topic: TopicName,
    },
    /// There are as many topics as allowed.
    #[error("there are {TOPICS_MAX} topics already, which is the most; delete one first")]
    TooManyTopics,
    /// No partition, or more than a topic can have.
    #[error("a topic has 1 to {PARTITIONS_PER_TOPIC_MAX} partitions, not {asked}")]
    PartitionsOutOfRange {
        /// What was asked for.
        asked: u32,
    },
    /// The number of partitions can only grow.
    #[error(
        "topic {topic} has {partitions} partitions; the number can grow, not shrink to {asked}"
    )]
    FewerPartitions {
        /// The topic.
        topic: TopicName,
        /// What it has.
        partitions: u32,
        /// What was asked for.
        asked: u32,
    },
    /// No replica was asked for.
    #[error("a topic needs at least one replica")]
    NoReplicas,
    /// No producer ids, or too many at once.
    #[error("a block has 1 to {PRODUCER_IDS_MAX} producer ids, not {asked}")]
    ProducerIdsOutOfRange {
        /// What was asked for.
        asked: u32,
    },
    /// The command was written by a newer build, or its entry is damaged.
    #[error("the command cannot be read by this build: {0}")]
    Unreadable(DecodeStateError),
}

impl Catalog {
    /// The topic of this name.
    #[must_use]
    pub fn topic(&self, name: &TopicName) -> Option<&Arc<TopicMeta>> {
        self.topics.get(name)
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl Iterator<Item = (&TopicName, &Arc<TopicMeta>)> {
        self.topics.iter()
    }

    /// Topics whose name begins with `prefix` and is behind `after`, by name.
    pub fn topics_with_prefix<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a TopicName>,
    ) -> impl Iterator<Item = (&'a TopicName, &'a Arc<TopicMeta>)> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let first = match after.map(TopicName::as_str) {
            Some(after) if after >= prefix => Excluded(after),
            _ => Included(prefix),
        };
        self.topics
            .range::<str, _>((first, Unbounded))
            .take_while(move |(name, _)| name.as_str().starts_with(prefix))
    }

    /// Number of topics.
    #[must_use]
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Whether there is no topic.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Carries out a command, or refuses it. `append_time_ms` is the leader's time in the entry.
    pub fn apply(&mut self, command: CatalogCommand, append_time_ms: i64) -> CatalogReply {
        let done = match command {
            CatalogCommand::CreateTopic { topic, partitions, replicas, config, if_not_exists } => {
                self.create(topic, partitions, replicas, config, if_not_exists, append_time_ms)
            }
            CatalogCommand::AlterTopic { topic, partitions, patch } => {
                self.alter(topic, partitions, &patch)
            }
            CatalogCommand::DeleteTopic { topic } => self.delete(topic),
            CatalogCommand::AllocateProducerIds { count } => self.allocate_producer_ids(count),
        };
        done.unwrap_or_else(CatalogReply::Refused)
    }

    fn create(
        &mut self,
        topic: TopicName,
        partitions: u32,
        replicas: u16,
        config: TopicConfig,
        if_not_exists: bool,
        created_ms: i64,
    ) -> Result<CatalogReply, CatalogRefusal> {
        if let Some(existing) = self.topics.get(&topic) {
            return if if_not_exists {
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
        let topic_id = self.next_topic_id;
        self.next_topic_id += 1;
        let partitions = self.take_groups(partitions).collect();
        let meta = Arc::new(TopicMeta { topic_id, config, partitions, replicas, created_ms });
        Arc::make_mut(&mut self.topics).insert(topic, meta.clone());
        Ok(CatalogReply::Created { topic: meta, existed: false })
    }

    fn alter(
        &mut self,
        topic: TopicName,
        asked: Option<u32>,
        patch: &ConfigPatch,
    ) -> Result<CatalogReply, CatalogRefusal> {
        let Some(current) = self.topics.get(&topic) else {
            return Err(CatalogRefusal::UnknownTopic { topic });
        };
        let mut meta = TopicMeta::clone(current);
        let partitions = u32::try_from(meta.partitions.len()).expect("bounded by its maximum");
        let asked = asked.unwrap_or(partitions);
        check_partitions(asked)?;
        if asked < partitions {
            return Err(CatalogRefusal::FewerPartitions { topic, partitions, asked });
        }
        meta.partitions.extend(self.take_groups(asked - partitions));
        patch.apply_to(&mut meta.config);
        let meta = Arc::new(meta);
        Arc::make_mut(&mut self.topics).insert(topic, meta.clone());
        Ok(CatalogReply::Altered(meta))
    }

    fn delete(&mut self, topic: TopicName) -> Result<CatalogReply, CatalogRefusal> {
        if !self.topics.contains_key(&topic) {
            return Err(CatalogRefusal::UnknownTopic { topic });
        }
        let meta = Arc::make_mut(&mut self.topics).remove(&topic).expect("it was just seen");
        Ok(CatalogReply::Deleted(meta))
    }

    fn allocate_producer_ids(&mut self, count: u32) -> Result<CatalogReply, CatalogRefusal> {
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

    fn encode(&self, out: &mut BytesMut) {
        self.next_topic_id.encode(out);
        self.next_group_id.encode(out);
        self.next_producer_id.encode(out);
        out.put_u32_le(u32::try_from(self.topics.len()).expect("bounded by TOPICS_MAX"));
        for (name, meta) in self.topics.iter() {
            name.encode(out);
            meta.topic_id.encode(out);
            meta.config.encode(out);
            meta.replicas.encode(out);
            meta.created_ms.encode(out);
            encode_groups(&meta.partitions, out);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeStateError> {
        let next_topic_id = u64::decode(reader)?;
        let next_group_id = u64::decode(reader)?;
        let next_producer_id = u64::decode(reader)?;
        let mut topics = BTreeMap::new();
        let mut groups = 0_u64;
        for _ in 0..count(reader, TOPIC_BYTES_MIN)? {
            let name = TopicName::decode(reader)?;
            let meta = TopicMeta {
                topic_id: u64::decode(reader)?,
                config: TopicConfig::decode(reader)?,
                replicas: u16::decode(reader)?,
                created_ms: i64::decode(reader)?,
                partitions: decode_groups(reader, next_group_id)?,
            };
            groups += meta.partitions.len() as u64;
            if groups >= next_group_id || meta.topic_id >= next_topic_id {
                return Err(DecodeStateError::Invalid { rule: "ids were handed out before" });
            }
            if topics.last_key_value().is_some_and(|(last, _)| *last >= name) {
                return Err(DecodeStateError::Invalid { rule: "topic names rise" });
            }
            topics.insert(name, Arc::new(meta));
        }
        Ok(Self { topics: Arc::new(topics), next_topic_id, next_group_id, next_producer_id })
    }
}

const TOPIC_BYTES_MIN: usize = TopicName::BYTES_MIN + 8 + TopicConfig::BYTES_MIN + 2 + 8 + 4;
/// A run of groups: its first id and its length.
const RUN_BYTES: usize = 8 + 4;

fn check_partitions(asked: u32) -> Result<(), CatalogRefusal> {
    if asked == 0 || asked > PARTITIONS_PER_TOPIC_MAX {
        return Err(CatalogRefusal::PartitionsOutOfRange { asked });
    }
    Ok(())
}

/// Groups of a topic are runs of consecutive ids, one per creation or growth.
fn encode_groups(groups: &[GroupId], out: &mut BytesMut) {
    let runs: Vec<_> = groups.chunk_by(|a, b| a.0 + 1 == b.0).collect();
    out.put_u32_le(u32::try_from(runs.len()).expect("fewer runs than partitions"));
    for run in runs {
        run[0].encode(out);
        out.put_u32_le(u32::try_from(run.len()).expect("bounded by PARTITIONS_PER_TOPIC_MAX"));
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

/// The fold of group 0's log: its progress and the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CatalogState {
    progress: Progress,
    catalog: Catalog,
}

impl CatalogState {
    /// The state of an empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How far the log is folded.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The catalog.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Folds one committed entry; a control entry is a command and gets an answer.
    ///
    /// # Panics
    /// As [`Progress::advance`].
    pub fn apply(&mut self, header: &BatchHeader, body: &Bytes) -> Option<CatalogReply> {
        self.progress.advance(header, body);
        (header.kind == EntryKind::Control).then(|| match CatalogCommand::decode(body) {
            Ok(command) => self.catalog.apply(command, header.append_time_ms),
            Err(error) => CatalogReply::Refused(CatalogRefusal::Unreadable(error)),
        })
    }

    /// The state as bytes: the same state gives the same bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        self.progress.encode(&mut out);
        self.catalog.encode(&mut out);
        out.freeze()
    }

    /// Reads what [`CatalogState::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are not an encoded state of a version this build knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeStateError> {
        versioned(bytes, VERSION, |reader| {
            Ok(Self { progress: Progress::decode(reader)?, catalog: Catalog::decode(reader)? })
        })
    }

    /// Only the progress of an encoded state, without building the rest.
    ///
    /// # Errors
    /// As [`CatalogState::decode`], for the part that is read.
    pub fn decode_progress(bytes: &[u8]) -> Result<Progress, DecodeStateError> {
        let mut reader = Reader::new(bytes);
        check_version(&mut reader, VERSION)?;
        Progress::decode(&mut reader)
    }
}

#[cfg(test)]
mod tests;
