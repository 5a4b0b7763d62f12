//! All queues of a partition: the built-in one of a queue, or the shared subscriptions of a topic.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use plimsoll_protocol::ids::Offset;

use super::{Answer, QueueState, Refusal};
use crate::codec::{Cursor, DecodeQueueError, invalid, put_u64};
use crate::command::{QueueCommand, QueueEntry, SubscriptionId};
use crate::offsets::Run;
use crate::time::UnixMs;

const VERSION: u8 = 1;

/// The queues of one partition, by subscription.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Queues {
    end: Offset,
    by_id: BTreeMap<SubscriptionId, QueueState>,
}

impl Queues {
    /// No queue yet, over a log that ends at `end`.
    #[must_use]
    pub fn new(end: Offset) -> Self {
        Self { end, by_id: BTreeMap::new() }
    }

    /// The queue of this subscription.
    #[must_use]
    pub fn get(&self, id: SubscriptionId) -> Option<&QueueState> {
        self.by_id.get(&id)
    }

    /// All queues, by subscription.
    pub fn iter(&self) -> impl Iterator<Item = (SubscriptionId, &QueueState)> {
        self.by_id.iter().map(|(&id, queue)| (id, queue))
    }

    /// The offset after the last committed record.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// The lowest offset that some queue still needs: retention stops here.
    #[must_use]
    pub fn floor(&self) -> Option<Offset> {
        self.by_id.values().map(QueueState::floor).min()
    }

    /// Folds a records entry: `count` records, and the size of their section in bytes.
    pub fn appended(&mut self, count: u32, section_bytes: u32) {
        self.end.0 += u64::from(count);
        self.by_id.values_mut().for_each(|queue| queue.appended(count, section_bytes));
    }

    /// Folds a control entry of queues; `at` is the leader's time in the entry.
    pub fn apply(&mut self, entry: &QueueEntry, at: UnixMs) -> Answer {
        let mut answer = Answer::default();
        for command in &entry.commands {
            match (command, self.by_id.get_mut(&entry.subscription)) {
                (QueueCommand::Close, Some(_)) => {
                    self.by_id.remove(&entry.subscription);
                    answer.accepted += 1;
                }
                (command, Some(queue)) => queue.apply(command, at, &mut answer),
                (QueueCommand::Open { start, config }, None) => {
                    let queue = QueueState::new((**config).clone(), *start, self.end);
                    self.by_id.insert(entry.subscription, queue);
                    answer.accepted += 1;
                }
                (_, None) => {
                    answer.refuse(Run { from: Offset(0), upto: self.end }, Refusal::Unknown);
                }
            }
        }
        answer
    }

    /// The queues as bytes: the same queues give the same bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        put_u64(&mut out, self.end.0);
        put_u64(&mut out, self.by_id.len() as u64);
        for (id, queue) in &self.by_id {
            put_u64(&mut out, id.0.into());
            queue.encode_to(&mut out);
        }
        out.freeze()
    }

    /// Reads what [`Queues::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are not encoded queues of a version that this build knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeQueueError> {
        let mut cursor = Cursor::new(bytes);
        cursor.version("list", VERSION)?;
        let end = Offset(cursor.u64()?);
        let mut by_id = BTreeMap::new();
        let mut last = None;
        for _ in 0..cursor.count(2)? {
            let id = SubscriptionId(cursor.u32()?);
            if last.replace(id).is_some_and(|last| last >= id) {
                return invalid("subscriptions rise");
            }
            let queue = QueueState::decode_from(&mut cursor)?;
            if queue.end() != end {
                return invalid("all queues of a partition are over the same log");
            }
            by_id.insert(id, queue);
        }
        cursor.finish()?;
        Ok(Self { end, by_id })
    }
}
