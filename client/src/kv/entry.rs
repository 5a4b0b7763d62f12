//! What a key has, and what happens to it.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use plimsoll_protocol::api::KvMeta;
use plimsoll_protocol::batch::Record;
use plimsoll_protocol::ids::Offset;

use crate::wall_clock::unix_ms;

/// Which of its values a key has: the offset of the value's record in the key's partition.
///
/// Revisions of one key grow with each change, and so do those of all keys of one partition. Revisions of
/// different partitions do not compare: a larger one is not a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// The first revision behind this one: where a watch goes on that has seen it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl From<Offset> for Revision {
    fn from(offset: Offset) -> Self {
        Self(offset.0)
    }
}

impl From<Revision> for Offset {
    fn from(revision: Revision) -> Self {
        Self(revision.0)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Revision {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// What became of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deleted {
    /// The revision of the deletion: watchers are told of it under this one.
    pub revision: Revision,
    /// What the key had; none: no value.
    pub before: Option<Revision>,
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// Its value; empty where only keys were asked for.
    pub value: Bytes,
    /// Which of its values that is.
    pub revision: Revision,
    /// When the leader took it, in milliseconds since 1970 (UTC).
    pub written_ms: i64,
    /// How long it still lived when it was read; none: until it is changed.
    pub ttl_left: Option<Duration>,
}

impl Entry {
    pub(super) fn new(key: Bytes, value: Bytes, meta: &KvMeta) -> Self {
        Self {
            key,
            value,
            revision: meta.revision.into(),
            written_ms: meta.written_ms,
            ttl_left: meta.ttl_left_ms.map(Duration::from_millis),
        }
    }
}

/// What a key has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvEvent {
    /// The key's partition.
    pub partition: u32,
    /// The key.
    pub key: Bytes,
    /// Its new value; none: it was deleted.
    pub value: Option<Bytes>,
    /// Which of its values that is; of a deletion, the revision of that.
    pub revision: Revision,
    /// When the leader took it, in milliseconds since 1970 (UTC).
    pub written_ms: i64,
    /// How long it still lives; none: until it is changed.
    pub ttl_left: Option<Duration>,
    /// It was there when the watch began ([`WatchFrom::Present`](crate::WatchFrom::Present)), and is no change.
    pub is_present: bool,
}

impl KvEvent {
    pub(super) fn of_entry(partition: u32, entry: Entry) -> Self {
        let Entry { key, value, revision, written_ms, ttl_left } = entry;
        Self {
            partition,
            key,
            value: Some(value),
            revision,
            written_ms,
            ttl_left,
            is_present: true,
        }
    }

    /// `None`: the record has no key, so it is of no map.
    pub(super) fn of_record(
        partition: u32,
        offset: Offset,
        append_time_ms: i64,
        record: Record,
    ) -> Option<Self> {
        let lives_ms = record.expires_at_ms.map(|at| at.saturating_sub(record.timestamp_ms));
        let left = |ms: i64| append_time_ms.saturating_add(ms).saturating_sub(unix_ms()).max(0);
        let ttl_left = lives_ms.map(|ms| Duration::from_millis(left(ms).unsigned_abs()));
        Some(Self {
            partition,
            key: record.key?,
            value: record.value,
            revision: offset.into(),
            written_ms: append_time_ms,
            ttl_left,
            is_present: false,
        })
    }
}
