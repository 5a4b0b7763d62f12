//! Commands of the catalog, as they stand in the body of a control entry of group 0.
//!
//! ```text
//! version u8 = 1 | command u8 | fields
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use plimsoll_protocol::api::{ConfigChange, ConfigError, Durability, TopicConfig};
use plimsoll_protocol::ids::TopicName;
use plimsoll_protocol::wire::{Decode, Encode, Reader};

use crate::decode::{DecodeStateError, versioned};

const VERSION: u8 = 1;

const CREATE_TOPIC: u8 = 1;
const ALTER_TOPIC: u8 = 2;
const DELETE_TOPIC: u8 = 3;
const ALLOCATE_PRODUCER_IDS: u8 = 4;

/// A change of the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CatalogCommand {
    /// Makes a topic. The configuration was validated by whoever proposes.
    CreateTopic {
        /// Its name.
        topic: TopicName,
        /// Number of partitions.
        partitions: u32,
        /// Replicas of each.
        replicas: u16,
        /// Its configuration.
        config: TopicConfig,
        /// Whether a topic of this name may exist already; it stays as it is then.
        if_not_exists: bool,
    },
    /// Changes a topic.
    AlterTopic {
        /// Its name.
        topic: TopicName,
        /// The new number of partitions, not fewer than now.
        partitions: Option<u32>,
        /// What changes of its configuration.
        patch: ConfigPatch,
    },
    /// Removes a topic and its groups.
    DeleteTopic {
        /// Its name.
        topic: TopicName,
    },
    /// Takes a block of producer ids.
    AllocateProducerIds {
        /// How many.
        count: u32,
    },
}

impl CatalogCommand {
    /// The command as the body of an entry.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        match self {
            Self::CreateTopic { topic, partitions, replicas, config, if_not_exists } => {
                out.put_u8(CREATE_TOPIC);
                topic.encode(&mut out);
                partitions.encode(&mut out);
                replicas.encode(&mut out);
                config.encode(&mut out);
                if_not_exists.encode(&mut out);
            }
            Self::AlterTopic { topic, partitions, patch } => {
                out.put_u8(ALTER_TOPIC);
                topic.encode(&mut out);
                partitions.encode(&mut out);
                patch.encode(&mut out);
            }
            Self::DeleteTopic { topic } => {
                out.put_u8(DELETE_TOPIC);
                topic.encode(&mut out);
            }
            Self::AllocateProducerIds { count } => {
                out.put_u8(ALLOCATE_PRODUCER_IDS);
                count.encode(&mut out);
            }
        }
        out.freeze()
    }

    /// Reads what [`CatalogCommand::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are no command of a version this build knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeStateError> {
        versioned(bytes, VERSION, |reader| match u8::decode(reader)? {
            CREATE_TOPIC => Ok(Self::CreateTopic {
                topic: TopicName::decode(reader)?,
                partitions: u32::decode(reader)?,
                replicas: u16::decode(reader)?,
                config: TopicConfig::decode(reader)?,
                if_not_exists: bool::decode(reader)?,
            }),
            ALTER_TOPIC => Ok(Self::AlterTopic {
                topic: TopicName::decode(reader)?,
                partitions: Option::decode(reader)?,
                patch: ConfigPatch::decode(reader)?,
            }),
            DELETE_TOPIC => Ok(Self::DeleteTopic { topic: TopicName::decode(reader)? }),
            ALLOCATE_PRODUCER_IDS => Ok(Self::AllocateProducerIds { count: u32::decode(reader)? }),
            _ => Err(DecodeStateError::Invalid { rule: "the command is a known one" }),
        })
    }
}

/// Which fields of a topic's configuration change, and to what. Typed, so that the fold parses no
/// text whose grammar or bounds might differ between builds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfigPatch {
    /// As in [`TopicConfig`], if it changes.
    pub durability: Option<Durability>,
    /// As in [`TopicConfig`], if it changes.
    pub retention_ms: Option<Option<u64>>,
    /// As in [`TopicConfig`], if it changes.
    pub retention_bytes: Option<Option<u64>>,
    /// As in [`TopicConfig`], if it changes.
    pub segment_bytes: Option<u32>,
    /// As in [`TopicConfig`], if it changes.
    pub batch_bytes_max: Option<u32>,
}

impl ConfigPatch {
    /// Checks and translates what a caller asks for.
    ///
    /// # Errors
    /// The first change with an unknown key or a value that is not allowed.
    ///
    /// # Panics
    /// When the protocol knows a key of [`TopicConfig`] that this crate does not: a bug.
    pub fn from_changes(changes: &[ConfigChange]) -> Result<Self, ConfigError> {
        let mut patch = Self::default();
        for change in changes {
            let mut config = TopicConfig::default();
            config.set(&change.key, change.value.as_deref())?;
            match change.key.as_str() {
                "durability" => patch.durability = Some(config.durability),
                "retention-ms" => patch.retention_ms = Some(config.retention_ms),
                "retention-bytes" => patch.retention_bytes = Some(config.retention_bytes),
                "segment-bytes" => patch.segment_bytes = Some(config.segment_bytes),
                "batch-bytes-max" => patch.batch_bytes_max = Some(config.batch_bytes_max),
                key => unreachable!("a topic's configuration has a key {key} that cannot change"),
            }
        }
        Ok(patch)
    }

    /// Puts the changes into `config`.
    pub(super) fn apply_to(&self, config: &mut TopicConfig) {
        config.durability = self.durability.unwrap_or(config.durability);
        config.retention_ms = self.retention_ms.unwrap_or(config.retention_ms);
        config.retention_bytes = self.retention_bytes.unwrap_or(config.retention_bytes);
        config.segment_bytes = self.segment_bytes.unwrap_or(config.segment_bytes);
        config.batch_bytes_max = self.batch_bytes_max.unwrap_or(config.batch_bytes_max);
    }

    fn encode(&self, out: &mut BytesMut) {
        self.durability.encode(out);
        self.retention_ms.encode(out);
        self.retention_bytes.encode(out);
        self.segment_bytes.encode(out);
        self.batch_bytes_max.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeStateError> {
        Ok(Self {
            durability: Option::decode(reader)?,
            retention_ms: Option::decode(reader)?,
            retention_bytes: Option::decode(reader)?,
            segment_bytes: Option::decode(reader)?,
            batch_bytes_max: Option::decode(reader)?,
        })
    }
}
