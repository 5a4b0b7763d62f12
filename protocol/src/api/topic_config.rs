//! A topic's configuration: its fields, its bounds, and its textual form `key=value`, which the
//! command line and AlterTopic share.

use std::fmt;

use bytes::BytesMut;
use thiserror::Error;

use crate::api::{ConfigChange, Durability};
use crate::frame::FRAME_BYTES_MAX_DEFAULT;
use crate::wire::{Decode, DecodeError, DecodeFault, Encode, Reader, wire_enum, wire_struct};

wire_enum! {
    /// What becomes of old records.
    pub enum Cleanup as "cleanup" {
        /// Segments go from the front, by age and size.
        Delete = 0 / "delete",
        /// The last record of each key stays, others go; age and size take nothing.
        Compact = 1 / "compact",
        /// Both.
        CompactAndDelete = 2 / "compact,delete",
    }
}

impl Cleanup {
    /// Whether only the last record of each key is kept.
    #[must_use]
    pub fn compacts(self) -> bool {
        self != Self::Delete
    }

    /// Whether records go by age and size.
    #[must_use]
    pub fn deletes(self) -> bool {
        self != Self::Compact
    }
}

wire_struct! {
    /// What a topic keeps of old records, and what it asks of new ones.
    pub struct TopicRules {
        /// What becomes of old records. Default: they go by age and size.
        pub cleanup: Cleanup,
        /// A record is kept at least this long though a newer one has its key, in milliseconds. Default: 0.
        pub compaction_lag_ms: u64,
        /// A tombstone stays at least this long behind the compaction that took what was before it, in
        /// milliseconds: who reads all within that time misses no deletion. Default: 1 day.
        pub tombstone_ms: u64,
        /// Records, settlements and commits without a fence are refused. Default: no.
        pub require_fence: bool,
    }
}

impl Default for TopicRules {
    fn default() -> Self {
        Self {
            cleanup: Cleanup::Delete,
            compaction_lag_ms: 0,
            tombstone_ms: DAY,
            require_fence: false,
        }
    }
}

/// How a topic keeps its records. [`TopicConfig::default`] has the defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicConfig {
    /// What an acknowledgement means. Default: durable.
    pub durability: Durability,
    /// Records older than this may be dropped, in milliseconds; `None` keeps them. Default: 7
    /// days.
    pub retention_ms: Option<u64>,
    /// Oldest records are dropped while a partition is larger, in bytes; `None` keeps them.
    /// Default: none.
    pub retention_bytes: Option<u64>,
    /// Size at which a partition begins a new segment, in bytes. Retention drops whole segments.
    /// Default: 128 MiB.
    pub segment_bytes: u32,
    /// Largest batch as sent, in bytes. Default: 8 MiB.
    pub batch_bytes_max: u32,
    /// What else it keeps and asks.
    pub rules: TopicRules,
}

/// Set in the first byte where rules follow: without any the bytes are those of builds that know none.
const RULES_FOLLOW: u8 = 0x80;

impl TopicConfig {
    /// As [`TopicRules::LAYOUT`] and those of its kind.
    #[doc(hidden)]
    pub const LAYOUT: &str = "TopicConfig\n  durability: Durability, plus 128 where rules follow\n  \
        retention_ms: Option<u64>\n  retention_bytes: Option<u64>\n  segment_bytes: u32\n  \
        batch_bytes_max: u32\n  rules: TopicRules, where they are not the defaults";
}

impl Encode for TopicConfig {
    fn encode(&self, out: &mut BytesMut) {
        let has_rules = self.rules != TopicRules::default();
        let first = self.durability as u8 | if has_rules { RULES_FOLLOW } else { 0 };
        first.encode(out);
        self.retention_ms.encode(out);
        self.retention_bytes.encode(out);
        self.segment_bytes.encode(out);
        self.batch_bytes_max.encode(out);
        if has_rules {
            self.rules.encode(out);
        }
    }
}

impl Decode for TopicConfig {
    const BYTES_MIN: usize = 1 + 1 + 1 + 4 + 4;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let first = u8::decode(reader)?;
        let known = Durability::ALL.iter().find(|known| **known as u8 == first & !RULES_FOLLOW);
        let Some(&durability) = known else {
            let (what, number) = ("durability", u64::from(first));
            return Err(reader.fault(DecodeFault::UnknownValue { what, number }));
        };
        let mut config = Self {
            durability,
            retention_ms: Option::decode(reader)?,
            retention_bytes: Option::decode(reader)?,
            segment_bytes: u32::decode(reader)?,
            batch_bytes_max: u32::decode(reader)?,
            rules: TopicRules::default(),
        };
        if first & RULES_FOLLOW != 0 {
            config.rules = TopicRules::decode(reader)?;
            if config.rules == TopicRules::default() {
                let (what, number) = ("rules that are the defaults", 0);
                return Err(reader.fault(DecodeFault::UnknownValue { what, number }));
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
impl crate::wire::any::Any for TopicConfig {
    fn any() -> proptest::strategy::BoxedStrategy<Self> {
        use crate::wire::any::Any;
        use proptest::strategy::Strategy;
        let numbers = (Any::any(), Any::any(), Any::any(), Any::any());
        (Durability::any(), numbers, TopicRules::any())
            .prop_map(|(durability, numbers, rules)| Self {
                durability,
                retention_ms: numbers.0,
                retention_bytes: numbers.1,
                segment_bytes: numbers.2,
                batch_bytes_max: numbers.3,
                rules,
            })
            .boxed()
    }
}

pub(super) const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
const SECOND: u64 = 1000;
pub(super) const DAY: u64 = 24 * 60 * 60 * SECOND;

/// Largest `batch-bytes-max`: a batch and the frame around it fit the default frame limit.
pub const BATCH_BYTES_MAX_CEILING: u32 = 15 << 20;
const _: () = assert!(BATCH_BYTES_MAX_CEILING + (64 << 10) <= FRAME_BYTES_MAX_DEFAULT);

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            durability: Durability::Durable,
            retention_ms: Some(7 * DAY),
            retention_bytes: None,
            segment_bytes: (128 * MIB) as u32,
            batch_bytes_max: (8 * MIB) as u32,
            rules: TopicRules::default(),
        }
    }
}

/// One key of a topic's configuration, for help texts and references.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigKey {
    /// The key.
    pub name: &'static str,
    /// What it decides, and what gets worse in each direction.
    pub meaning: &'static str,
    /// Values that are allowed.
    pub bounds: &'static str,
    /// What holds without it.
    pub default: &'static str,
    /// A whole `key=value`.
    pub example: &'static str,
    scale: Scale,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    Durability,
    Cleanup,
    Flag,
    Milliseconds { min: u64, max: u64, may_be_none: bool },
    Bytes { min: u64, max: u64, may_be_none: bool },
}

/// Every key of a topic's configuration.
pub const TOPIC_CONFIG_KEYS: &[ConfigKey] = &[
    ConfigKey {
        name: "durability",
        meaning: "what an acknowledgement means: on stable storage, or in memory (faster; a power \
                  failure loses what was not yet written back)",
        bounds: "durable or memory",
        default: "durable",
        example: "durability=memory",
        scale: Scale::Durability,
    },
    ConfigKey {
        name: "retention-ms",
        meaning: "records older than this may be dropped; longer takes more disk; a number alone is \
                  milliseconds",
        bounds: "1s to 36500d, or none",
        default: "7d",
        example: "retention-ms=7d",
        scale: Scale::Milliseconds { min: SECOND, max: 36_500 * DAY, may_be_none: true },
    },
    ConfigKey {
        name: "retention-bytes",
        meaning: "the oldest records of a partition are dropped while it is larger; a number alone \
                  is bytes",
        bounds: "64KiB to 1048576GiB, or none",
        default: "none",
        example: "retention-bytes=10GiB",
        scale: Scale::Bytes { min: 64 * KIB, max: 1024 * 1024 * GIB, may_be_none: true },
    },
    ConfigKey {
        name: "segment-bytes",
        meaning: "size at which a partition begins a new segment; retention drops whole segments, \
                  so larger ones keep records longer than asked, smaller ones make more files",
        bounds: "64KiB to 1GiB",
        default: "128MiB",
        example: "segment-bytes=128MiB",
        scale: Scale::Bytes { min: 64 * KIB, max: GIB, may_be_none: false },
    },
    ConfigKey {
        name: "batch-bytes-max",
        meaning: "largest batch that producers may send; larger ones cost less per record and hold \
                  more memory each",
        bounds: "1KiB to 15MiB",
        default: "8MiB",
        example: "batch-bytes-max=1MiB",
        scale: Scale::Bytes { min: KIB, max: BATCH_BYTES_MAX_CEILING as u64, may_be_none: false },
    },
    ConfigKey {
        name: "cleanup",
        meaning: "what becomes of old records: delete drops them by age and size, compact keeps the \
                  last one of each key, `compact,delete` does both; records of a compacted topic \
                  need a key",
        bounds: "delete; compact; or compact,delete",
        default: "delete",
        example: "cleanup=compact",
        scale: Scale::Cleanup,
    },
    ConfigKey {
        name: "compaction-lag-ms",
        meaning: "a record of a compacted topic is kept at least this long, though a newer one has \
                  its key; longer keeps more history and takes more disk",
        bounds: "0ms to 36500d",
        default: "0ms",
        example: "compaction-lag-ms=1h",
        scale: Scale::Milliseconds { min: 0, max: 36_500 * DAY, may_be_none: false },
    },
    ConfigKey {
        name: "tombstone-ms",
        meaning: "a tombstone of a compacted topic stays this long behind the compaction that took \
                  what it deletes: a reader that needs longer for the whole topic may miss it",
        bounds: "0ms to 36500d",
        default: "1d",
        example: "tombstone-ms=7d",
        scale: Scale::Milliseconds { min: 0, max: 36_500 * DAY, may_be_none: false },
    },
    ConfigKey {
        name: "require-fence",
        meaning: "refuses records, settlements and commits that show no fencing token of a lock",
        bounds: "true or false",
        default: "false",
        example: "require-fence=true",
        scale: Scale::Flag,
    },
];

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The text has no `=`.
    #[error("{text:?} is not of the form key=value, for example retention-ms=7d")]
    NoEqualsSign {
        /// The text.
        text: String,
    },
    /// No such key.
    #[error("a topic has no configuration {key:?}; it has {}", known_keys())]
    UnknownKey {
        /// The key.
        key: String,
    },
    /// The value is not one of this key.
    #[error(
        "{}={value:?}: {problem}; allowed: {}, for example {}", .key.name, .key.bounds, .key.example
    )]
    Value {
        /// The key.
        key: &'static ConfigKey,
        /// The value as it was given.
        value: String,
        /// What is wrong with it.
        problem: ValueProblem,
    },
}

/// What is wrong with the value of a configuration key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ValueProblem {
    /// Not one of the words that are allowed.
    #[error("not a known value")]
    UnknownWord,
    /// Not a number with a unit.
    #[error("not a number with a unit")]
    NotANumber,
    /// The unit is not known.
    #[error("the unit is not known")]
    UnknownUnit,
    /// Below the lower bound.
    #[error("too small")]
    TooSmall,
    /// Above the upper bound.
    #[error("too large")]
    TooLarge,
    /// `none` where a value is needed.
    #[error("it cannot be none")]
    NeedsValue,
}

fn known_keys() -> String {
    let names: Vec<_> = TOPIC_CONFIG_KEYS.iter().map(|key| key.name).collect();
    names.join(", ")
}

impl TopicConfig {
    /// The defaults with each `key=value` of `pairs` set, in order.
    ///
    /// # Errors
    /// Names the key, what is allowed, and an example.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = &'a str>) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for pair in pairs {
            let change = ConfigChange::parse(pair)?;
            config.set(&change.key, change.value.as_deref())?;
        }
        Ok(config)
    }

    /// Sets one key; `None` as value goes back to its default.
    ///
    /// # Errors
    /// Names the key, what is allowed, and an example. The configuration is then unchanged.
    pub fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), ConfigError> {
        let Some(known) = TOPIC_CONFIG_KEYS.iter().find(|known| known.name == key) else {
            return Err(ConfigError::UnknownKey { key: key.to_owned() });
        };
        let text = value.unwrap_or(known.default).trim();
        let refuse = |problem| ConfigError::Value { key: known, value: text.to_owned(), problem };
        let setting = known.scale.parse(text).map_err(refuse)?;
        // Each key parses to its own kind of setting, within bounds that fit the field.
        match (known.name, setting) {
            ("durability", Setting::Durability(durability)) => self.durability = durability,
            ("retention-ms", Setting::Number(ms)) => self.retention_ms = ms,
            ("retention-bytes", Setting::Number(bytes)) => self.retention_bytes = bytes,
            ("segment-bytes", Setting::Number(Some(bytes))) => self.segment_bytes = bytes as u32,
            ("batch-bytes-max", Setting::Number(Some(bytes))) => {
                self.batch_bytes_max = bytes as u32;
            }
            ("cleanup", Setting::Cleanup(cleanup)) => self.rules.cleanup = cleanup,
            ("compaction-lag-ms", Setting::Number(Some(ms))) => self.rules.compaction_lag_ms = ms,
            ("tombstone-ms", Setting::Number(Some(ms))) => self.rules.tombstone_ms = ms,
            ("require-fence", Setting::Flag(flag)) => self.rules.require_fence = flag,
            _ => return Err(refuse(ValueProblem::NeedsValue)),
        }
        Ok(())
    }

    /// The configuration with all changes, or the first refusal.
    ///
    /// # Errors
    /// As [`TopicConfig::set`].
    pub fn with_changes(&self, changes: &[ConfigChange]) -> Result<Self, ConfigError> {
        let mut config = self.clone();
        for change in changes {
            config.set(&change.key, change.value.as_deref())?;
        }
        Ok(config)
    }

    /// Checks the bounds of a configuration that came over the wire.
    ///
    /// # Errors
    /// Names the key, what is allowed, and an example.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (key, value) in self.entries() {
            Self::default().set(key, Some(&value))?;
        }
        Ok(())
    }

    /// Keys and values as people write them; [`TopicConfig::set`] takes them back.
    #[must_use]
    pub fn entries(&self) -> Vec<(&'static str, String)> {
        let bytes = |bytes: u64| with_unit(bytes, BYTE_UNITS);
        let time = |ms: u64| with_unit(ms, TIME_UNITS);
        let none = || "none".to_owned();
        TOPIC_CONFIG_KEYS
            .iter()
            .map(|key| {
                let value = match key.name {
                    "durability" => self.durability.to_string(),
                    "retention-ms" => self.retention_ms.map_or_else(none, time),
                    "retention-bytes" => self.retention_bytes.map_or_else(none, bytes),
                    "segment-bytes" => bytes(u64::from(self.segment_bytes)),
                    "cleanup" => self.rules.cleanup.to_string(),
                    "compaction-lag-ms" => time(self.rules.compaction_lag_ms),
                    "tombstone-ms" => time(self.rules.tombstone_ms),
                    "require-fence" => self.rules.require_fence.to_string(),
                    _ => bytes(u64::from(self.batch_bytes_max)),
                };
                (key.name, value)
            })
            .collect()
    }
}

impl fmt::Display for TopicConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (key, value)) in self.entries().into_iter().enumerate() {
            let gap = if position == 0 { "" } else { " " };
            write!(f, "{gap}{key}={value}")?;
        }
        Ok(())
    }
}

impl ConfigChange {
    /// Takes `key=value` apart; `key=default` goes back to the default. The value is checked where
    /// it is set.
    ///
    /// # Errors
    /// When there is no `=`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let Some((key, value)) = text.split_once('=') else {
            return Err(ConfigError::NoEqualsSign { text: text.to_owned() });
        };
        let value = value.trim();
        let value = (value != "default").then(|| value.to_owned());
        Ok(Self { key: key.trim().to_owned(), value })
    }
}

enum Setting {
    Durability(Durability),
    Cleanup(Cleanup),
    Flag(bool),
    Number(Option<u64>),
}

impl Scale {
    fn parse(self, text: &str) -> Result<Setting, ValueProblem> {
        let (min, max, may_be_none, units) = match self {
            Self::Durability => {
                let known = Durability::ALL.iter().find(|known| known.as_str() == text);
                return known.copied().map(Setting::Durability).ok_or(ValueProblem::UnknownWord);
            }
            Self::Cleanup => {
                let known = Cleanup::ALL.iter().find(|known| known.as_str() == text);
                return known.copied().map(Setting::Cleanup).ok_or(ValueProblem::UnknownWord);
            }
            Self::Flag => {
                return text.parse().map(Setting::Flag).map_err(|_| ValueProblem::UnknownWord);
            }
            Self::Milliseconds { min, max, may_be_none } => (min, max, may_be_none, TIME_UNITS),
            Self::Bytes { min, max, may_be_none } => (min, max, may_be_none, BYTE_UNITS),
        };
        if text == "none" {
            return may_be_none.then_some(Setting::Number(None)).ok_or(ValueProblem::NeedsValue);
        }
        match parse_with_unit(text, units)? {
            number if number < min => Err(ValueProblem::TooSmall),
            number if number > max => Err(ValueProblem::TooLarge),
            number => Ok(Setting::Number(Some(number))),
        }
    }
}

pub(super) type Units = &'static [(&'static str, u64)];

/// Smallest first; the first is the unit of a number alone.
pub(super) const TIME_UNITS: Units = &[
    ("ms", 1),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", 60 * 60 * SECOND),
    ("d", DAY),
    ("w", 7 * DAY),
];
pub(super) const BYTE_UNITS: Units = &[
    ("B", 1),
    ("kB", 1000),
    ("KB", 1000),
    ("KiB", KIB),
    ("MB", 1_000_000),
    ("MiB", MIB),
    ("GB", 1_000_000_000),
    ("GiB", GIB),
    ("TB", 1_000_000_000_000),
    ("TiB", 1024 * GIB),
];

pub(super) fn parse_with_unit(text: &str, units: Units) -> Result<u64, ValueProblem> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(ValueProblem::NotANumber);
    }
    let unit = unit.trim_start();
    let factor = match units.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => *factor,
        None if unit.is_empty() => 1,
        None => return Err(ValueProblem::UnknownUnit),
    };
    // Digits only, so a number that does not fit is too large.
    let number: u64 = number.parse().map_err(|_| ValueProblem::TooLarge)?;
    number.checked_mul(factor).ok_or(ValueProblem::TooLarge)
}

/// The number in the largest binary or time unit that leaves no rest.
pub(super) fn with_unit(number: u64, units: Units) -> String {
    let fits = |&&(name, factor): &&(&str, u64)| {
        let is_shown = factor == 1 || !name.ends_with('B') || name.contains('i');
        is_shown && name != "w" && number >= factor && number.is_multiple_of(factor)
    };
    match units.iter().rev().find(fits) {
        Some((name, factor)) => format!("{}{name}", number / factor),
        None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_are_understood() {
        let config = TopicConfig::from_pairs([
            "durability=memory",
            "retention-ms=24h",
            "retention-bytes=10GiB",
            "segment-bytes = 1 MiB",
            "batch-bytes-max=1000kB",
        ])
        .unwrap();
        let expected = TopicConfig {
            durability: Durability::Memory,
            retention_ms: Some(86_400_000),
            retention_bytes: Some(10 << 30),
            segment_bytes: 1 << 20,
            batch_bytes_max: 1_000_000,
            rules: TopicRules::default(),
        };
        assert_eq!(config, expected);
        let none = TopicConfig::from_pairs(["retention-ms=none", "retention-bytes=none"]).unwrap();
        assert_eq!((none.retention_ms, none.retention_bytes), (None, None));
        let plain = TopicConfig::from_pairs(["retention-ms=1500"]).unwrap();
        assert_eq!(plain.retention_ms, Some(1500));
    }

    #[test]
    fn documented_defaults_and_examples_are_true() {
        let mut config = TopicConfig::default();
        for key in TOPIC_CONFIG_KEYS {
            config.set(key.name, Some(key.default)).unwrap();
            TopicConfig::from_pairs([key.example]).unwrap();
        }
        assert_eq!(config, TopicConfig::default());
        for key in TOPIC_CONFIG_KEYS {
            if let Some((min, rest)) = key.bounds.split_once(" to ") {
                let max = rest.trim_end_matches(", or none");
                for bound in [min, max] {
                    TopicConfig::default().set(key.name, Some(bound)).unwrap();
                }
                assert_eq!(
                    TopicConfig::default().set(key.name, Some("none")).is_ok(),
                    rest.ends_with("none")
                );
            }
        }
    }

    #[test]
    fn errors_name_key_bounds_and_example() {
        let text = |pair| TopicConfig::from_pairs([pair]).unwrap_err().to_string();
        assert_eq!(
            text("retention-ms=7y"),
            "retention-ms=\"7y\": the unit is not known; allowed: 1s to 36500d, or none, for \
             example retention-ms=7d"
        );
        assert_eq!(
            text("segment-bytes=none"),
            "segment-bytes=\"none\": it cannot be none; allowed: 64KiB to 1GiB, for example \
             segment-bytes=128MiB"
        );
        assert!(text("colour=red").contains("durability, retention-ms"));
        assert!(text("durability").contains("key=value"));
        for wrong in ["retention-ms=", "retention-ms=-1", "retention-ms=1.5d", "durability=Durable"]
        {
            assert!(TopicConfig::from_pairs([wrong]).is_err(), "{wrong} was accepted");
        }
    }

    #[test]
    fn bounds_hold_for_each_number() {
        for (key, too_small, too_large) in [
            ("retention-ms", "999", "36501d"),
            ("retention-bytes", "65535", "99999999999999999999"),
            ("segment-bytes", "65535", "1073741825"),
            ("batch-bytes-max", "1023B", "16MiB"),
        ] {
            for (value, expected) in
                [(too_small, ValueProblem::TooSmall), (too_large, ValueProblem::TooLarge)]
            {
                let mut config = TopicConfig::default();
                let error = config.set(key, Some(value)).unwrap_err();
                assert!(matches!(error, ConfigError::Value { problem, .. } if problem == expected));
                assert_eq!(config, TopicConfig::default());
            }
        }
        let wide = TopicConfig { segment_bytes: 5, ..TopicConfig::default() };
        assert!(wide.validate().is_err());
        assert_eq!(TopicConfig::default().validate(), Ok(()));
    }

    #[test]
    fn changes_are_all_or_nothing_and_default_resets() {
        let memory = TopicConfig::from_pairs(["durability=memory", "retention-ms=1h"]).unwrap();
        let changes = [
            ConfigChange::parse("retention-ms=default").unwrap(),
            ConfigChange::parse("durability=durable").unwrap(),
        ];
        assert_eq!(memory.with_changes(&changes), Ok(TopicConfig::default()));
        let wrong = [changes[0].clone(), ConfigChange::parse("x=y").unwrap()];
        assert!(memory.with_changes(&wrong).is_err());
    }

    #[test]
    fn values_are_shown_in_their_largest_unit() {
        assert_eq!(
            TopicConfig::default().to_string(),
            "durability=durable retention-ms=7d retention-bytes=none segment-bytes=128MiB \
             batch-bytes-max=8MiB cleanup=delete compaction-lag-ms=0 tombstone-ms=1d \
             require-fence=false"
        );
    }

    proptest! {
        #[test]
        fn shown_configurations_are_read_back(
            memory: bool,
            retention_ms in prop::option::of(1000..3_153_600_000_000u64),
            retention_bytes in prop::option::of(65_536..1u64 << 50),
            segment_bytes in 65_536..=1u32 << 30,
            batch_bytes_max in 1024..=BATCH_BYTES_MAX_CEILING,
            cleanup in prop::sample::select(Cleanup::ALL),
            compaction_lag_ms in 0..3_153_600_000_000u64,
            tombstone_ms in 0..3_153_600_000_000u64,
            require_fence: bool,
        ) {
            let durability = if memory { Durability::Memory } else { Durability::Durable };
            let config = TopicConfig {
                durability, retention_ms, retention_bytes, segment_bytes, batch_bytes_max,
                rules: TopicRules { cleanup, compaction_lag_ms, tombstone_ms, require_fence },
            };
            let text = config.to_string();
            prop_assert_eq!(TopicConfig::from_pairs(text.split(' ')), Ok(config.clone()));
            prop_assert_eq!(config.validate(), Ok(()));
        }
    }
}
