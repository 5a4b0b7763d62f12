//! What changes of a topic's configuration.

use bytes::BytesMut;
use plimsoll_protocol::api::{Cleanup, ConfigChange, ConfigError, Durability, TopicConfig};
use plimsoll_protocol::wire::{Decode, DecodeError, DecodeFault, Encode, Reader};

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
    /// What changes of its rules.
    pub rules: RulesPatch,
}

/// Which of [`plimsoll_protocol::api::TopicRules`] change, and to what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RulesPatch {
    /// As there, if it changes.
    pub cleanup: Option<Cleanup>,
    /// As there, if it changes.
    pub compaction_lag_ms: Option<u64>,
    /// As there, if it changes.
    pub tombstone_ms: Option<u64>,
    /// As there, if it changes.
    pub require_fence: Option<bool>,
}

/// Set in the first byte where changes of rules follow: builds that know none write and read the rest.
const RULES_FOLLOW: u8 = 0x80;

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
                "cleanup" => patch.rules.cleanup = Some(config.rules.cleanup),
                "compaction-lag-ms" => {
                    patch.rules.compaction_lag_ms = Some(config.rules.compaction_lag_ms);
                }
                "tombstone-ms" => patch.rules.tombstone_ms = Some(config.rules.tombstone_ms),
                "require-fence" => patch.rules.require_fence = Some(config.rules.require_fence),
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
        let (rules, changes) = (&mut config.rules, &self.rules);
        rules.cleanup = changes.cleanup.unwrap_or(rules.cleanup);
        rules.compaction_lag_ms = changes.compaction_lag_ms.unwrap_or(rules.compaction_lag_ms);
        rules.tombstone_ms = changes.tombstone_ms.unwrap_or(rules.tombstone_ms);
        rules.require_fence = changes.require_fence.unwrap_or(rules.require_fence);
    }
}

impl Encode for ConfigPatch {
    fn encode(&self, out: &mut BytesMut) {
        let has_rules = self.rules != RulesPatch::default();
        let rules_follow = if has_rules { RULES_FOLLOW } else { 0 };
        (u8::from(self.durability.is_some()) | rules_follow).encode(out);
        if let Some(durability) = self.durability {
            durability.encode(out);
        }
        self.retention_ms.encode(out);
        self.retention_bytes.encode(out);
        self.segment_bytes.encode(out);
        self.batch_bytes_max.encode(out);
        if has_rules {
            self.rules.encode(out);
        }
    }
}

impl Decode for ConfigPatch {
    const BYTES_MIN: usize = 5;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let first = u8::decode(reader)?;
        let durability = match first & !RULES_FOLLOW {
            0 => None,
            1 => Some(Durability::decode(reader)?),
            value => return Err(reader.fault(DecodeFault::Flag { value })),
        };
        let mut patch = Self {
            durability,
            retention_ms: Option::decode(reader)?,
            retention_bytes: Option::decode(reader)?,
            segment_bytes: Option::decode(reader)?,
            batch_bytes_max: Option::decode(reader)?,
            rules: RulesPatch::default(),
        };
        if first & RULES_FOLLOW != 0 {
            patch.rules = RulesPatch::decode(reader)?;
            if patch.rules == RulesPatch::default() {
                return Err(reader.fault(DecodeFault::Flag { value: first }));
            }
        }
        Ok(patch)
    }
}

impl Encode for RulesPatch {
    fn encode(&self, out: &mut BytesMut) {
        self.cleanup.encode(out);
        self.compaction_lag_ms.encode(out);
        self.tombstone_ms.encode(out);
        self.require_fence.encode(out);
    }
}

impl Decode for RulesPatch {
    const BYTES_MIN: usize = 4;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            cleanup: Option::decode(reader)?,
            compaction_lag_ms: Option::decode(reader)?,
            tombstone_ms: Option::decode(reader)?,
            require_fence: Option::decode(reader)?,
        })
    }
}
