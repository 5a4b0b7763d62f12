//! The naive twin of a store: every version that its groups ever had, one after each operation, and
//! which of them a store may show after the power failed at some moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use plimsoll_log::{Durability, GroupOptions, LogEntry, Vote};
use plimsoll_protocol::ids::{GroupId, LogId, LogIndex, Offset};

/// A group, as its owner knows it after an operation returned.
#[derive(Debug, Clone)]
pub(crate) struct GroupVersion {
    pub(crate) options: GroupOptions,
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    pub(crate) start_offset: Offset,
    /// The entry before `entries`.
    pub(crate) before: Option<LogId>,
    pub(crate) before_offset: Offset,
    /// Every entry since, also those that were purged or dropped.
    pub(crate) entries: Vec<Arc<LogEntry>>,
    /// Entries below this index were appended while the group was durable, or a change made it so.
    pub(crate) durable_next: u64,
    /// Every state that was put since the log was replaced last, oldest first.
    pub(crate) states: Vec<(LogId, Bytes)>,
    /// How often the log was replaced.
    pub(crate) installs: u64,
    /// It came with a state, which must be shown.
    pub(crate) has_state: bool,
}

impl GroupVersion {
    pub(crate) fn new(options: GroupOptions) -> Self {
        Self {
            options,
            vote: None,
            committed: None,
            purged: None,
            start_offset: Offset(0),
            before: None,
            before_offset: Offset(0),
            entries: Vec::new(),
            durable_next: 0,
            states: Vec::new(),
            installs: 0,
            has_state: false,
        }
    }

    pub(crate) fn is_memory(&self) -> bool {
        self.options.durability == Durability::Memory
    }

    /// Index of the first of `entries`.
    pub(crate) fn first_index(&self) -> u64 {
        self.before.map_or(0, |before| before.index.0 + 1)
    }

    pub(crate) fn next_index(&self) -> u64 {
        self.first_index() + self.entries.len() as u64
    }

    pub(crate) fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.id()).or(self.before)
    }

    pub(crate) fn end_offset(&self) -> Offset {
        self.entries.last().map_or(self.before_offset, |entry| entry.header.end_offset())
    }

    pub(crate) fn entry(&self, index: u64) -> Option<&Arc<LogEntry>> {
        self.entries.get(index.checked_sub(self.first_index())? as usize)
    }

    /// First index that Raft may ask for.
    pub(crate) fn first_unpurged(&self) -> u64 {
        self.purged.map_or(0, |purged| purged.index.0 + 1)
    }

    /// Takes away every entry after `last_kept`.
    pub(crate) fn truncate(&mut self, last_kept: Option<LogIndex>) {
        let next = last_kept.map_or(0, |index| index.0 + 1);
        let kept = next.checked_sub(self.first_index()).expect("nothing purged is truncated");
        self.entries.truncate(kept as usize);
        self.durable_next = self.durable_next.min(next);
    }

    /// Takes in an entry that follows the last one.
    pub(crate) fn append(&mut self, entry: Arc<LogEntry>) {
        self.entries.push(entry);
        if !self.is_memory() {
            self.durable_next = self.next_index();
        }
    }

    /// The log and the state go; the vote and the options stay.
    pub(crate) fn drop_log(&mut self) {
        *self = Self { vote: self.vote, installs: self.installs + 1, ..Self::new(self.options) };
    }

    pub(crate) fn set_options(&mut self, options: GroupOptions) {
        self.options = options;
        if !self.is_memory() {
            self.durable_next = self.next_index();
        }
    }
}

/// All groups after one operation.
pub(crate) type Version = BTreeMap<GroupId, Arc<GroupVersion>>;

/// Number of a version; a later operation makes a larger one.
pub(crate) type VersionId = usize;

/// What a mark in the recording says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// The operation that leads to this version is about to be called.
    Issued(VersionId),
    /// Everything up to this version was acknowledged as durable.
    Acknowledged(VersionId),
    /// An append of this version to a group with durability `memory` was acknowledged.
    InMemory(VersionId),
    /// Everything of this version lies in segments, and a checkpoint says so.
    Checkpointed(VersionId),
}

impl Mark {
    pub(crate) fn to_number(self) -> u64 {
        let (kind, version) = match self {
            Self::Issued(version) => (0, version),
            Self::Acknowledged(version) => (1, version),
            Self::InMemory(version) => (2, version),
            Self::Checkpointed(version) => (3, version),
        };
        (version as u64) << 2 | kind
    }

    pub(crate) fn from_number(number: u64) -> Self {
        let version = (number >> 2) as VersionId;
        match number & 3 {
            0 => Self::Issued(version),
            1 => Self::Acknowledged(version),
            2 => Self::InMemory(version),
            _ => Self::Checkpointed(version),
        }
    }
}

/// What may be found at one moment of a recording.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Promise {
    /// Nothing older than this version.
    pub(crate) acknowledged: VersionId,
    /// Nothing newer than this one.
    pub(crate) issued: VersionId,
    /// After the death of the process alone: entries in memory groups up to this version.
    pub(crate) in_memory: VersionId,
    /// Entries in memory groups up to this version, also after a power failure.
    pub(crate) checkpointed: VersionId,
}

impl Promise {
    /// Takes in the next mark of the recording.
    pub(crate) fn note(&mut self, mark: Mark) {
        match mark {
            Mark::Issued(version) => self.issued = self.issued.max(version),
            Mark::Acknowledged(version) => self.acknowledged = self.acknowledged.max(version),
            Mark::InMemory(version) => self.in_memory = self.in_memory.max(version),
            Mark::Checkpointed(version) => self.checkpointed = self.checkpointed.max(version),
        }
    }

    /// Everything is still as `version`, but for entries of memory groups.
    pub(crate) fn exactly(version: VersionId) -> Self {
        Self { acknowledged: version, issued: version, in_memory: version, checkpointed: 0 }
    }
}

/// The history of one store.
#[derive(Debug, Clone, Default)]
pub(crate) struct Versions {
    versions: Vec<Version>,
}

impl Versions {
    /// The empty store.
    pub(crate) fn new() -> Self {
        Self { versions: vec![Version::new()] }
    }

    /// A history that goes on from what a store shows, which is version 1.
    pub(crate) fn starting_with(version: Version) -> Self {
        Self { versions: vec![Version::new(), version] }
    }

    pub(crate) fn newest(&self) -> &Version {
        self.versions.last().expect("the empty store is always there")
    }

    pub(crate) fn newest_id(&self) -> VersionId {
        self.versions.len() - 1
    }

    pub(crate) fn version(&self, id: VersionId) -> &Version {
        &self.versions[id]
    }

    pub(crate) fn push(&mut self, version: Version) -> VersionId {
        self.versions.push(version);
        self.newest_id()
    }

    /// First index that a memory group may miss in version `id`, given that everything up to
    /// version `safe` was out of danger.
    pub(crate) fn safe_index(&self, group: GroupId, safe: VersionId, id: VersionId) -> u64 {
        let until = &self.versions[safe.min(id)..=id];
        let next = |version: &Version| version.get(&group).map_or(0, |group| group.next_index());
        until.iter().map(next).min().unwrap_or(0)
    }

    /// Committed marks that a memory group may show in version `id`: they are not journaled, and the newest
    /// checkpoint can be damaged, so any since the group was last durable.
    pub(crate) fn committed_marks(&self, group: GroupId, id: VersionId) -> Vec<Option<LogId>> {
        let durable = |version: &Version| version.get(&group).is_some_and(|g| !g.is_memory());
        let since = self.versions[..=id].iter().rposition(durable).unwrap_or(0);
        let groups = self.versions[since..=id].iter().filter_map(|version| version.get(&group));
        groups.map(|group| group.committed).collect()
    }
}
