//! What clients did and saw.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::BEGINNING_UNIX_MS;
use crate::kv::KeyRecords;
use crate::lock::{LockNews, LockRecords};
use crate::messages::{Counts, Delivered, Receiver, Saying};
use crate::reads::{Level, staleness_ms};

/// A partition of the one topic of a world.
pub type Partition = u32;

/// A member of the group, numbered over all of them in the order in which they began.
pub type MemberNumber = u64;

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

/// News of clients, in the order in which it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// A record was acknowledged: there, at this offset if it was told.
    Acked(RecordName, Partition, Option<u64>),
    /// A consumer got a record.
    Seen(Seen),
    /// A read to the end begins.
    ReadBegins {
        /// Which.
        read: u64,
        /// Of what.
        partition: Partition,
        /// What it may have missed.
        level: Level,
        /// Everything below this offset was acknowledged when the level begins to count.
        acked_end: u64,
    },
    /// It is over.
    ReadEnds {
        /// Which.
        read: u64,
        /// The offset after the last record; `None` where it was given up.
        end: Option<u64>,
    },
    /// A message was acknowledged: in that partition of the queue, at this offset if it was told.
    MessageAcked(RecordName, Partition, Option<u64>),
    /// A consumer of the queue is about to be made.
    ReceiverBegins(Receiver),
    /// It was given a message.
    Delivered(Delivered),
    /// It is about to say something of one.
    Said(Delivered, Saying),
    /// It was told that what it said is stored.
    SayingStored(Delivered, Saying),
    /// A member of the group is about to join.
    MemberBegins(MemberNumber),
    /// It was handed out the record of that partition at that offset.
    GroupGot(MemberNumber, Partition, u64),
    /// A member was told that the group reads on there.
    GroupCommitted(Partition, u64),
    /// Something happened to a lock.
    Lock(LockNews),
}

/// Everything that happened since the observer looked last, and the sum of it. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct History(Arc<Mutex<State>>);

/// See [`History`].
#[derive(Debug, Default)]
pub struct State {
    /// Every record that was sent.
    pub sent: BTreeMap<RecordName, Sent>,
    /// What nobody has looked at yet.
    pub fresh: Vec<News>,
    /// The world's time.
    pub now_ms: u64,
    /// The offset after the highest that was acknowledged, and since when it is that, as it grew.
    acked_ends: BTreeMap<Partition, Vec<(u64, u64)>>,
    /// Reads to the end that began, and those that got there.
    pub reads: (u64, u64),
    /// Records acknowledged.
    pub acked: u64,
    /// Records that consumers got.
    pub seen: u64,
    /// Messages of the queue.
    pub messages: Counts,
    /// Consumers of the queue that began.
    pub receivers: Receiver,
    /// Members of the group that began.
    pub members: MemberNumber,
    /// Behind the last record of each partition that the group was handed out.
    pub group_next: BTreeMap<Partition, u64>,
    /// Commits of the group that were answered.
    pub group_commits: u64,
    /// What was asked of locks and answered.
    pub locks: LockRecords,
    /// What was asked of keys and answered.
    pub keys: KeyRecords,
    /// Clients of locks and keys that began.
    clients: u32,
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
            state.fresh.push(News::Acked(record, partition, offset));
            let now_ms = state.now_ms;
            let ends = state.acked_ends.entry(partition).or_default();
            if let Some(end) = offset.map(|offset| offset + 1)
                && ends.last().is_none_or(|(_, before)| end > *before)
            {
                ends.push((now_ms, end));
            }
        }
    }

    /// A consumer got a record.
    pub fn got(&self, seen: Seen) {
        let mut state = self.lock();
        state.seen += 1;
        state.fresh.push(News::Seen(seen));
    }

    /// A read to the end of a partition begins; returns its number.
    #[must_use]
    pub fn begin_read(&self, partition: Partition, level: Level) -> u64 {
        let mut state = self.lock();
        state.reads.0 += 1;
        let read = state.reads.0;
        let upto_ms = match level {
            Level::Linearizable | Level::Committed => state.now_ms,
            Level::Stale(bound_ms) => {
                // Before the beginning nothing was acknowledged.
                state.now_ms.saturating_sub(staleness_ms(bound_ms))
            }
        };
        let ends = state.acked_ends.get(&partition).map(Vec::as_slice).unwrap_or_default();
        let counted = ends.partition_point(|(since_ms, _)| *since_ms <= upto_ms);
        let acked_end = counted.checked_sub(1).map_or(0, |at| ends[at].1);
        state.fresh.push(News::ReadBegins { read, partition, level, acked_end });
        read
    }

    /// It is over, there if it got to the end.
    pub fn end_read(&self, read: u64, end: Option<u64>) {
        let mut state = self.lock();
        state.reads.1 += u64::from(end.is_some());
        state.fresh.push(News::ReadEnds { read, end });
    }

    /// The right wall clock.
    #[must_use]
    pub fn unix_ms(&self) -> i64 {
        BEGINNING_UNIX_MS.saturating_add_unsigned(self.lock().now_ms)
    }

    /// A member of the group is about to join.
    #[must_use]
    pub fn begin_member(&self) -> MemberNumber {
        let mut state = self.lock();
        state.members += 1;
        let member = state.members;
        state.fresh.push(News::MemberBegins(member));
        member
    }

    /// A member of the group was handed out a record.
    pub fn group_got(&self, member: MemberNumber, partition: Partition, offset: u64) {
        let mut state = self.lock();
        let next = state.group_next.entry(partition).or_insert(0);
        *next = (*next).max(offset + 1);
        state.fresh.push(News::GroupGot(member, partition, offset));
    }

    /// A member was told that its group reads on there.
    pub fn group_committed(&self, partition: Partition, next: u64) {
        let mut state = self.lock();
        state.group_commits += 1;
        state.fresh.push(News::GroupCommitted(partition, next));
    }

    /// A process that works with locks or keys begins; returns its number among all of them.
    #[must_use]
    pub fn begin_client(&self) -> u32 {
        let mut state = self.lock();
        state.clients += 1;
        state.clients
    }

    /// A client saw what must not be.
    pub fn complain(&self, complaint: String) {
        self.lock().complaints.push(complaint);
    }
}
