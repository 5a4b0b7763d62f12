//! Answers to commands: as they are given, and as they are kept and forwarded, where a topic is named
//! by its first group and looked up in the catalog at hand.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use plimsoll_protocol::ids::{GroupId, NodeId, ProducerId};
use plimsoll_protocol::wire::{Decode, DecodeError, DecodeFault, Encode, Reader};

use super::Catalog;
use super::amqp::{AmqpAnswer, AmqpReply};
use super::owners::put_groups;
use super::refusal::CatalogRefusal;
use super::topics::{PARTITIONS_PER_TOPIC_MAX, TopicMeta};
use super::variants::wire_variants;
use crate::decode::{DecodeStateError, versioned};

const VERSION: u8 = 1;

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
    /// The topic is gone. Its groups can be deleted.
    Deleted {
        /// The topic's id.
        topic_id: u64,
        /// The groups it had.
        groups: Arc<[GroupId]>,
    },
    /// A block of producer ids that belongs to the caller now.
    ProducerIds {
        /// The first of them.
        first: ProducerId,
        /// How many.
        count: u32,
    },
    /// The node is of the cluster.
    Node {
        /// Its id.
        node: NodeId,
        /// Whether it was before.
        existed: bool,
    },
    /// It is as it was asked for.
    Done,
    /// The answer to a command about the objects of AMQP.
    Amqp(AmqpReply),
    /// Nothing was changed.
    Refused(CatalogRefusal),
}

impl CatalogReply {
    /// The answer as bytes, for the node that forwarded the command.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        VERSION.encode(&mut out);
        Answer::of(self).encode(&mut out);
        out.freeze()
    }

    /// Reads what [`CatalogReply::encode`] wrote, by a node whose copy of the catalog has applied the
    /// command. A topic is shown as that copy knows it: `DeletedSince` when it is gone by then.
    ///
    /// # Errors
    /// When the bytes are no answer that this build knows.
    pub fn decode(bytes: &[u8], catalog: &Catalog) -> Result<Self, DecodeStateError> {
        let answer = versioned(bytes, VERSION, |reader| Ok(Answer::decode(reader)?))?;
        Ok(answer.reply(catalog))
    }
}

/// Groups as runs of consecutive ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Groups(pub(super) Arc<[GroupId]>);

impl Encode for Groups {
    fn encode(&self, out: &mut BytesMut) {
        put_groups(&self.0, out);
    }
}

impl Decode for Groups {
    const BYTES_MIN: usize = 4;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = u32::decode(reader)?;
        let mut groups = Vec::new();
        for _ in 0..count {
            let first = u64::decode(reader)?;
            let length = u32::decode(reader)?;
            let total = groups.len() + length as usize;
            let Some(end) = first
                .checked_add(u64::from(length))
                .filter(|_| length > 0 && total <= PARTITIONS_PER_TOPIC_MAX as usize)
            else {
                return Err(reader
                    .fault(DecodeFault::UnknownValue { what: "run of groups", number: first }));
            };
            groups.extend((first..end).map(GroupId));
        }
        Ok(Self(groups.into()))
    }
}

wire_variants! {
    /// An answer without the topic's description.
    pub(super) enum Answer as "answer" {
        Created = 1 { first_group: GroupId, existed: bool },
        Altered = 2 { first_group: GroupId },
        Deleted = 3 { topic_id: u64, groups: Groups },
        ProducerIds = 4 { first: ProducerId, count: u32 },
        Node = 5 { node: NodeId, existed: bool },
        Done = 6,
        Refused = 7 { refusal: CatalogRefusal },
        Amqp = 8 { answer: AmqpAnswer },
    }
}

impl Answer {
    pub(super) fn of(reply: &CatalogReply) -> Self {
        // A topic has at least one partition, which is never another topic's.
        let first = |topic: &TopicMeta| topic.partitions[0];
        match reply {
            CatalogReply::Created { topic, existed } => {
                Self::Created { first_group: first(topic), existed: *existed }
            }
            CatalogReply::Altered(topic) => Self::Altered { first_group: first(topic) },
            CatalogReply::Deleted { topic_id, groups } => {
                Self::Deleted { topic_id: *topic_id, groups: Groups(Arc::clone(groups)) }
            }
            CatalogReply::ProducerIds { first, count } => {
                Self::ProducerIds { first: *first, count: *count }
            }
            CatalogReply::Node { node, existed } => Self::Node { node: *node, existed: *existed },
            CatalogReply::Done => Self::Done,
            CatalogReply::Amqp(reply) => Self::Amqp { answer: AmqpAnswer::of(reply) },
            CatalogReply::Refused(refusal) => Self::Refused { refusal: refusal.clone() },
        }
    }

    /// The answer, with topics as the catalog has them now.
    pub(super) fn reply(&self, catalog: &Catalog) -> CatalogReply {
        let topic = |group: &GroupId| catalog.locate(*group).map(|at| Arc::clone(at.topic));
        match self {
            Self::Created { first_group, existed } => match topic(first_group) {
                Some(topic) => CatalogReply::Created { topic, existed: *existed },
                None => gone(),
            },
            Self::Altered { first_group } => {
                topic(first_group).map_or_else(gone, CatalogReply::Altered)
            }
            Self::Deleted { topic_id, groups } => {
                CatalogReply::Deleted { topic_id: *topic_id, groups: Arc::clone(&groups.0) }
            }
            Self::ProducerIds { first, count } => {
                CatalogReply::ProducerIds { first: *first, count: *count }
            }
            Self::Node { node, existed } => CatalogReply::Node { node: *node, existed: *existed },
            Self::Done => CatalogReply::Done,
            Self::Amqp { answer } => CatalogReply::Amqp(answer.reply()),
            Self::Refused { refusal } => CatalogReply::Refused(refusal.clone()),
        }
    }
}

fn gone() -> CatalogReply {
    CatalogReply::Refused(CatalogRefusal::DeletedSince)
}
