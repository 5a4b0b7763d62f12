//! What clients did and saw.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A partition of the one topic of a world.
pub type Partition = u32;

/// Which record: producers number theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordName {
    /// Which producer task.
    pub producer: u32,
    /// The how-manieth of its records, counted from 0.
    pub number: u64,
}

impl RecordName {
    /// As the value of a record.
    #[must_use]
    pub fn value(self, padding: usize) -> Vec<u8> {
        let mut value = format!("{}:{}:", self.producer, self.number).into_bytes();
        value.resize(value.len() + padding, b'.');
        value
    }

    /// Out of the value of a record.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let mut parts = text.split(':');
        let producer = parts.next()?.parse().ok()?;
        let number = parts.next()?.parse().ok()?;
        Some(Self { producer, number })
    }
}

/// What a client was told of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Stored, there.
    Acked {
        /// At which offset; it may be forgotten where a repeated batch was stored long ago.
        offset: Option<u64>,
    },
    /// Certainly not stored.
    Refused,
    /// Perhaps stored.
    Unknown,
}

/// A record that a client sent, and what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Where to.
    pub partition: Partition,
    /// `None` while nothing is known.
    pub outcome: Option<Outcome>,
}

/// A record that a consumer got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Which consumer task, and the how-manieth consumer of it.
    pub consumer: (u32, u32),
    /// Where.
    pub partition: Partition,
    /// At which offset.
    pub offset: u64,
    /// Which.
    pub record: RecordName,
}

/// Everything that happened since the observer looked last, and the sum of it. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct History(Arc<Mutex<State>>);

/// See [`History`].
#[derive(Debug, Default)]
pub struct State {
    /// Every record that was sent.
    pub sent: BTreeMap<RecordName, Sent>,
    /// Acknowledgements that nobody has looked at: record, partition, offset.
    pub fresh_acks: Vec<(RecordName, Partition, Option<u64>)>,
    /// Records that consumers got and nobody has looked at.
    pub fresh_seen: Vec<Seen>,
    /// Records acknowledged.
    pub acked: u64,
    /// Records that consumers got.
    pub seen: u64,
    /// Things that must not be, as clients saw them.
    pub complaints: Vec<String>,
    /// Clients still do their work; false tells producers to end.
    pub is_over: bool,
    /// Producers and consumers that have ended.
    pub ended: u32,
}

impl History {
    /// Looks at it.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A record is being sent.
    pub fn sending(&self, record: RecordName, partition: Partition) {
        self.lock().sent.insert(record, Sent { partition, outcome: None });
    }

    /// A client was told what came of a record.
    pub fn told(&self, record: RecordName, outcome: Outcome) {
        let mut state = self.lock();
        let Some(sent) = state.sent.get_mut(&record) else { return };
        sent.outcome = Some(outcome);
        let partition = sent.partition;
        if let Outcome::Acked { offset } = outcome {
            state.acked += 1;
            state.fresh_acks.push((record, partition, offset));
        }
    }

    /// A consumer got a record.
    pub fn got(&self, seen: Seen) {
        let mut state = self.lock();
        state.seen += 1;
        state.fresh_seen.push(seen);
    }

    /// A client saw what must not be.
    pub fn complain(&self, complaint: String) {
        self.lock().complaints.push(complaint);
    }
}
