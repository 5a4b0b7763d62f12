//! What changes of a topic's configuration.

use bytes::BytesMut;
use plimsoll_protocol::api::{ConfigChange, ConfigError, Durability, TopicConfig};
use plimsoll_protocol::wire::{Decode, DecodeError, Encode, Reader};

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
}

impl Encode for ConfigPatch {
    fn encode(&self, out: &mut BytesMut) {
        self.durability.encode(out);
        self.retention_ms.encode(out);
        self.retention_bytes.encode(out);
        self.segment_bytes.encode(out);
        self.batch_bytes_max.encode(out);
    }
}

impl Decode for ConfigPatch {
    const BYTES_MIN: usize = 5;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            durability: Option::decode(reader)?,
            retention_ms: Option::decode(reader)?,
            retention_bytes: Option::decode(reader)?,
            segment_bytes: Option::decode(reader)?,
            batch_bytes_max: Option::decode(reader)?,
        })
    }
}
