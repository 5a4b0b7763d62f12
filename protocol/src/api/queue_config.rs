//! How a queue behaves: its settings, their bounds, and their textual form `key=value`, which the
//! command line and the requests share.

use std::fmt;

use thiserror::Error;

use super::topic_config::{BYTE_UNITS, DAY, GIB, KIB, TIME_UNITS, parse_with_unit, with_unit};
use crate::api::ConfigChange;
use crate::wire::{wire_enum, wire_struct};

/// Most priority levels of a queue.
pub const QUEUE_LEVELS_MAX: u8 = 32;
/// Longest lease, in milliseconds: 12 hours, as SQS has it.
pub const QUEUE_LEASE_MS_MAX: u32 = 12 * 60 * 60 * 1000;
/// Longest name of where dead letters go, in bytes.
pub const QUEUE_DEAD_LETTER_BYTES_MAX: usize = 1024;

wire_enum! {
    /// How messages of the same key are treated.
    pub enum QueueMode as "queue mode" {
        /// Keys mean nothing: whoever has room gets the next message.
        Shared = 0 / "shared",
        /// One message of a key at a time, in the order of their offsets; keys run beside each other.
        KeyShared = 1 / "key-shared",
    }
}

wire_enum! {
    /// What happens to a queue that is as long as it may be.
    pub enum QueueOverflow as "overflow policy" {
        /// New messages are refused.
        Reject = 0 / "reject",
        /// The oldest ready messages of the lowest priority go.
        DropHead = 1 / "drop-head",
    }
}

wire_enum! {
    /// When an attempt to deliver is written.
    pub enum QueueCounting as "way to count attempts" {
        /// With the next entry: the number of an attempt may be given twice after a leader died.
        Behind = 0 / "behind",
        /// Before the message is handed out: exact, at the price of one more write before a delivery.
        Before = 1 / "before",
    }
}

wire_struct! {
    /// How a queue behaves. [`QueueSettings::default`] has the defaults; `broker/delivery/QUEUES.md`
    /// says what each does.
    pub struct QueueSettings {
        /// Shared or key-shared.
        pub mode: QueueMode,
        /// When attempts are written.
        pub counting: QueueCounting,
        /// Whether one consumer at a time gets everything, and the others stand by.
        pub single_active: bool,
        /// Priority levels, 1 to [`QUEUE_LEVELS_MAX`].
        pub levels: u8,
        /// How long a consumer holds a message, in milliseconds.
        pub lease_ms: u32,
        /// How often a message is delivered before it is given up; 0 for ever.
        pub attempts_max: u32,
        /// How long a message waits after its first failure, in milliseconds; doubles with each.
        pub backoff_ms: u32,
        /// Longest wait that doubling leads to, in milliseconds.
        pub backoff_ms_max: u32,
        /// Longest life of a message, in milliseconds.
        pub ttl_ms: Option<u64>,
        /// Most messages that wait.
        pub length_max: Option<u64>,
        /// Most bytes of them, about.
        pub bytes_max: Option<u64>,
        /// What happens beyond these two.
        pub overflow: QueueOverflow,
        /// The topic that dead letters go to; without, they are dropped.
        pub dead_letter: Option<String>,
    }
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            mode: QueueMode::Shared,
            counting: QueueCounting::Behind,
            single_active: false,
            levels: 1,
            lease_ms: 30_000,
            attempts_max: 20,
            backoff_ms: 0,
            backoff_ms_max: 600_000,
            ttl_ms: None,
            length_max: None,
            bytes_max: None,
            overflow: QueueOverflow::Reject,
            dead_letter: None,
        }
    }
}

/// One key of a queue's settings, for help texts and references.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueKey {
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
}

/// Every key of a queue's settings.
pub const QUEUE_CONFIG_KEYS: &[QueueKey] = &[
    QueueKey {
        name: "mode",
        meaning: "shared: whoever has room gets the next message; key-shared: one message of a key at \
                  a time, in order",
        bounds: "shared or key-shared",
        default: "shared",
        example: "mode=key-shared",
    },
    QueueKey {
        name: "lease",
        meaning: "how long a consumer holds a message before it goes to another; longer means later \
                  redelivery after a consumer hangs",
        bounds: "1ms to 12h",
        default: "30s",
        example: "lease=1m",
    },
    QueueKey {
        name: "attempts",
        meaning: "deliveries of a message before it is given up; 0 for ever",
        bounds: "0 to 4294967295",
        default: "20",
        example: "attempts=5",
    },
    QueueKey {
        name: "backoff",
        meaning: "wait after the first failure, doubled with each further one",
        bounds: "0ms to 12h",
        default: "0ms",
        example: "backoff=1s",
    },
    QueueKey {
        name: "backoff-max",
        meaning: "longest wait that doubling leads to",
        bounds: "0ms to 40d",
        default: "10m",
        example: "backoff-max=1h",
    },
    QueueKey {
        name: "dead-letter",
        meaning: "topic that gets what was rejected, given up, expired or pushed out; none drops it",
        bounds: "a topic name, or none",
        default: "none",
        example: "dead-letter=orders.dead",
    },
    QueueKey {
        name: "ttl",
        meaning: "longest life of a message in the queue",
        bounds: "1ms to 36500d, or none",
        default: "none",
        example: "ttl=1h",
    },
    QueueKey {
        name: "length-max",
        meaning: "most messages that wait",
        bounds: "1 to 18446744073709551615, or none",
        default: "none",
        example: "length-max=100000",
    },
    QueueKey {
        name: "bytes-max",
        meaning: "most bytes of them, about",
        bounds: "1KiB to 1048576GiB, or none",
        default: "none",
        example: "bytes-max=1GiB",
    },
    QueueKey {
        name: "overflow",
        meaning: "beyond these two: reject new messages, or drop the oldest",
        bounds: "reject or drop-head",
        default: "reject",
        example: "overflow=drop-head",
    },
    QueueKey {
        name: "priorities",
        meaning: "levels of priority; each costs an index, and more than one makes a new leader read \
                  what is unsettled once; not for key-shared queues",
        bounds: "1 to 32",
        default: "1",
        example: "priorities=10",
    },
    QueueKey {
        name: "single-active",
        meaning: "one consumer at a time gets everything, the others stand by",
        bounds: "true or false",
        default: "false",
        example: "single-active=true",
    },
    QueueKey {
        name: "count",
        meaning: "when attempts are written: behind a delivery, or before it (exact, and slower)",
        bounds: "behind or before",
        default: "behind",
        example: "count=before",
    },
];

/// Why settings are refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QueueConfigError {
    /// The text has no `=`.
    #[error("{text:?} is not of the form key=value, for example attempts=5")]
    NoEqualsSign {
        /// The text.
        text: String,
    },
    /// No such key.
    #[error("a queue has no setting {key:?}; it has {}", known_keys())]
    UnknownKey {
        /// The key.
        key: String,
    },
    /// The value is not one of this key.
    #[error("{}={value:?} is not allowed; allowed: {}, for example {}", .key.name, .key.bounds, .key.example)]
    Value {
        /// The key.
        key: &'static QueueKey,
        /// The value as it was given.
        value: String,
    },
    /// Order per key and order by priority contradict each other.
    #[error(
        "a key-shared queue keeps the order of each key and cannot have priorities too: use \
         mode=shared, or priorities=1"
    )]
    KeysAndPriorities,
}

fn known_keys() -> String {
    let names: Vec<_> = QUEUE_CONFIG_KEYS.iter().map(|key| key.name).collect();
    names.join(", ")
}

impl QueueSettings {
    /// The defaults with each `key=value` of `pairs` set, in order.
    ///
    /// # Errors
    /// Names the key, what is allowed, and an example.
    pub fn from_pairs<'a>(
        pairs: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, QueueConfigError> {
        Self::default().with_pairs(pairs)
    }

    /// These settings with each `key=value` of `pairs` set, in order; `key=default` goes back.
    ///
    /// # Errors
    /// As [`QueueSettings::from_pairs`].
    pub fn with_pairs<'a>(
        mut self,
        pairs: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, QueueConfigError> {
        for pair in pairs {
            let change = ConfigChange::parse(pair)
                .map_err(|_| QueueConfigError::NoEqualsSign { text: pair.to_owned() })?;
            self.set(&change.key, change.value.as_deref())?;
        }
        self.validate()?;
        Ok(self)
    }

    /// Sets one key; `None` as value goes back to its default. Combinations are checked by
    /// [`QueueSettings::validate`].
    ///
    /// # Errors
    /// Names the key, what is allowed, and an example. The settings are then unchanged.
    pub fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), QueueConfigError> {
        let Some(known) = QUEUE_CONFIG_KEYS.iter().find(|known| known.name == key) else {
            return Err(QueueConfigError::UnknownKey { key: key.to_owned() });
        };
        let text = value.unwrap_or(known.default).trim();
        self.set_known(known.name, text)
            .ok_or_else(|| QueueConfigError::Value { key: known, value: text.to_owned() })
    }

    fn set_known(&mut self, key: &str, text: &str) -> Option<()> {
        match key {
            "mode" => self.mode = *QueueMode::ALL.iter().find(|mode| mode.as_str() == text)?,
            "lease" => self.lease_ms = ms_u32(text, 1, QUEUE_LEASE_MS_MAX)?,
            "attempts" => self.attempts_max = text.parse().ok()?,
            "backoff" => self.backoff_ms = ms_u32(text, 0, QUEUE_LEASE_MS_MAX)?,
            "backoff-max" => self.backoff_ms_max = ms_u32(text, 0, (40 * DAY) as u32)?,
            "dead-letter" => {
                let fits = !text.is_empty() && text.len() <= QUEUE_DEAD_LETTER_BYTES_MAX;
                self.dead_letter = match text {
                    "none" => None,
                    text if fits => Some(text.to_owned()),
                    _ => return None,
                };
            }
            "ttl" => self.ttl_ms = optional(text, |text| in_bounds(time(text), 1, 36_500 * DAY))?,
            "length-max" => {
                self.length_max = optional(text, |text| in_bounds(text.parse().ok(), 1, u64::MAX))?;
            }
            "bytes-max" => {
                let bytes = |text: &str| parse_with_unit(text, BYTE_UNITS).ok();
                self.bytes_max =
                    optional(text, |text| in_bounds(bytes(text), KIB, 1024 * 1024 * GIB))?;
            }
            "overflow" => {
                self.overflow = *QueueOverflow::ALL.iter().find(|known| known.as_str() == text)?;
            }
            "priorities" => {
                let levels = text.parse().ok()?;
                self.levels = (1..=QUEUE_LEVELS_MAX).contains(&levels).then_some(levels)?;
            }
            "single-active" => self.single_active = text.parse().ok()?,
            _ => self.counting = *QueueCounting::ALL.iter().find(|known| known.as_str() == text)?,
        }
        Some(())
    }

    /// Checks the bounds of settings that came over the wire.
    ///
    /// # Errors
    /// Names the key, what is allowed, and an example.
    pub fn validate(&self) -> Result<(), QueueConfigError> {
        for (key, value) in self.entries() {
            Self::default().set(key, Some(&value))?;
        }
        if self.mode == QueueMode::KeyShared && self.levels > 1 {
            return Err(QueueConfigError::KeysAndPriorities);
        }
        Ok(())
    }

    /// Keys and values as people write them; [`QueueSettings::set`] takes them back.
    #[must_use]
    pub fn entries(&self) -> Vec<(&'static str, String)> {
        let time = |ms: u64| if ms == 0 { "0ms".to_owned() } else { with_unit(ms, TIME_UNITS) };
        let none = || "none".to_owned();
        let value = |key: &str| match key {
            "mode" => self.mode.to_string(),
            "lease" => time(self.lease_ms.into()),
            "attempts" => self.attempts_max.to_string(),
            "backoff" => time(self.backoff_ms.into()),
            "backoff-max" => time(self.backoff_ms_max.into()),
            "dead-letter" => self.dead_letter.clone().unwrap_or_else(none),
            "ttl" => self.ttl_ms.map_or_else(none, time),
            "length-max" => self.length_max.map_or_else(none, |length| length.to_string()),
            "bytes-max" => self.bytes_max.map_or_else(none, |bytes| with_unit(bytes, BYTE_UNITS)),
            "overflow" => self.overflow.to_string(),
            "priorities" => self.levels.to_string(),
            "single-active" => self.single_active.to_string(),
            _ => self.counting.to_string(),
        };
        QUEUE_CONFIG_KEYS.iter().map(|key| (key.name, value(key.name))).collect()
    }
}

impl fmt::Display for QueueSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (key, value)) in self.entries().into_iter().enumerate() {
            let gap = if position == 0 { "" } else { " " };
            write!(f, "{gap}{key}={value}")?;
        }
        Ok(())
    }
}

fn time(text: &str) -> Option<u64> {
    parse_with_unit(text, TIME_UNITS).ok()
}

fn in_bounds(number: Option<u64>, min: u64, max: u64) -> Option<u64> {
    number.filter(|number| (min..=max).contains(number))
}

fn ms_u32(text: &str, min: u32, max: u32) -> Option<u32> {
    u32::try_from(in_bounds(time(text), min.into(), max.into())?).ok()
}

/// `none`, or what `parse` makes of the text; the outer `None` where it makes nothing of it.
#[allow(clippy::option_option, reason = "a value that may be none, or no value")]
fn optional(text: &str, parse: impl Fn(&str) -> Option<u64>) -> Option<Option<u64>> {
    if text == "none" { Some(None) } else { parse(text).map(Some) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn documented_defaults_and_examples_are_true() {
        let mut settings = QueueSettings::from_pairs(["attempts=3", "ttl=1h"]).unwrap();
        for key in QUEUE_CONFIG_KEYS {
            settings.set(key.name, Some(key.default)).unwrap();
            QueueSettings::from_pairs([key.example]).unwrap();
            if let Some((min, rest)) = key.bounds.split_once(" to ") {
                for bound in [min, rest.trim_end_matches(", or none")] {
                    QueueSettings::default().set(key.name, Some(bound)).unwrap();
                }
                let none = QueueSettings::default().set(key.name, Some("none"));
                assert_eq!(none.is_ok(), rest.ends_with("none"), "{}", key.name);
            }
        }
        assert_eq!(settings, QueueSettings::default());
    }

    #[test]
    fn errors_name_key_bounds_and_example() {
        let text = |pair| QueueSettings::from_pairs([pair]).unwrap_err().to_string();
        assert_eq!(
            text("lease=13h"),
            "lease=\"13h\" is not allowed; allowed: 1ms to 12h, for example lease=1m"
        );
        assert!(text("colour=red").contains("mode, lease, attempts"));
        assert!(text("attempts").contains("key=value"));
        for wrong in ["lease=0", "mode=fair", "priorities=0", "priorities=33", "dead-letter="] {
            assert!(QueueSettings::from_pairs([wrong]).is_err(), "{wrong} was accepted");
        }
        assert_eq!(
            QueueSettings::from_pairs(["mode=key-shared", "priorities=2"]),
            Err(QueueConfigError::KeysAndPriorities)
        );
    }

    proptest! {
        #[test]
        fn shown_settings_are_read_back(
            lease_ms in 1..=QUEUE_LEASE_MS_MAX,
            backoff_ms in 0..=QUEUE_LEASE_MS_MAX,
            attempts_max: u32,
            levels in 1..=QUEUE_LEVELS_MAX,
            ttl_ms in prop::option::of(1..3_000_000_000_000_u64),
            length_max in prop::option::of(1_u64..),
            bytes_max in prop::option::of(1024..1_u64 << 50),
            single_active: bool,
            dead_letter in prop::option::of("[a-z]{4,9}\\.dead"),
        ) {
            let settings = QueueSettings {
                lease_ms, backoff_ms, attempts_max, levels, ttl_ms, length_max, bytes_max,
                single_active, dead_letter, ..QueueSettings::default()
            };
            let text = settings.to_string();
            prop_assert_eq!(QueueSettings::from_pairs(text.split(' ')), Ok(settings.clone()));
            prop_assert_eq!(settings.validate(), Ok(()));
        }
    }
}
