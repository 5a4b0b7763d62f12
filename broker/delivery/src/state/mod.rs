//! The replicated state of one queue in one partition: what its control entries add up to.
//!
//! ```text
//!  mod       the state, and what can be asked of it
//!  apply     the fold of one command, and what it answers
//!  history   the last messages that ended otherwise than accepted: for people
//!  snapshot  the state as bytes
//!  queues    all queues of a partition
//! ```
//!
//! Invariants: the same entries give the same state and the same bytes on every replica; a settled
//! message has no mark and is never unsettled again; `floor <= end`. Order of calls: the partition's
//! entries in log order, [`QueueState::appended`] for records and [`QueueState::apply`] for control.
//! The state does not know consumers, leases, records' contents, priorities or what time it is.

mod apply;
mod history;
mod queues;
mod snapshot;

use std::collections::BTreeMap;

use plimsoll_protocol::ids::Offset;

pub use apply::{Answer, Refusal, Refused};
pub use history::{ENDED_MAX, Ended};
pub use queues::Queues;

use crate::command::Reason;
use crate::config::QueueConfig;
use crate::offsets::Run;
use crate::settled::Settled;
use crate::time::UnixMs;
use history::History;

/// What is noted of a message that is not settled and was delivered before, waits, or is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// How often it was delivered, as far as entries say.
    pub attempts: u32,
    /// When it may be delivered again, after it was released with a delay.
    pub delayed_until: Option<UnixMs>,
    /// Why it was given up; it waits to be copied and is not delivered.
    pub buried: Option<Reason>,
}

/// The replicated state of one queue in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueState {
    config: QueueConfig,
    settled: Settled,
    /// The offset after the last committed record.
    end: Offset,
    /// Bytes of the unsettled records; exact while all are of one size, and when there are none.
    bytes: u64,
    /// Invariant: each is of an unsettled message below `end`, and says something.
    marks: BTreeMap<Offset, Mark>,
    history: History,
}

impl QueueState {
    /// A queue whose first message is the one at `start`, the log's present end or before it.
    #[must_use]
    pub fn new(config: QueueConfig, start: Offset, end: Offset) -> Self {
        Self {
            config,
            settled: Settled::new(start.min(end)),
            end,
            bytes: 0,
            marks: BTreeMap::new(),
            history: History::default(),
        }
    }

    /// How the queue behaves.
    #[must_use]
    pub fn config(&self) -> &QueueConfig {
        &self.config
    }

    /// Which messages are settled.
    #[must_use]
    pub fn settled(&self) -> &Settled {
        &self.settled
    }

    /// The lowest offset that the queue still needs: the log must keep records from here on.
    #[must_use]
    pub fn floor(&self) -> Offset {
        self.settled.floor()
    }

    /// The offset after the last committed record.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// How many messages are not settled: ready, held, delayed, and waiting to be copied.
    #[must_use]
    pub fn unsettled(&self) -> u64 {
        self.end.0 - self.settled.floor().0 - self.settled.above_floor()
    }

    /// About how many bytes the unsettled messages have. Settling takes off the mean; so it is exact
    /// for messages of one size, and comes right whenever the queue is empty.
    #[must_use]
    pub fn unsettled_bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether there is a message at `offset` that is not settled.
    #[must_use]
    pub fn is_unsettled(&self, offset: Offset) -> bool {
        offset < self.end && !self.settled.contains(offset)
    }

    /// What is noted of the message at `offset`.
    #[must_use]
    pub fn mark(&self, offset: Offset) -> Mark {
        self.marks.get(&offset).copied().unwrap_or_default()
    }

    /// How many messages have a mark.
    #[must_use]
    pub fn marked(&self) -> usize {
        self.marks.len()
    }

    /// Messages that were given up and wait to be copied, by offset.
    pub fn buried(&self) -> impl Iterator<Item = (Offset, u32, Reason)> + '_ {
        self.marks.iter().filter_map(|(&offset, mark)| Some((offset, mark.attempts, mark.buried?)))
    }

    /// How the message at `offset` ended, when that was not long ago and it was not accepted.
    #[must_use]
    pub fn ended(&self, offset: Offset) -> Option<&Ended> {
        self.history.find(offset)
    }

    /// Folds a records entry: `count` records, and the size of their section in bytes.
    pub fn appended(&mut self, count: u32, section_bytes: u32) {
        self.end.0 += u64::from(count);
        self.bytes += u64::from(section_bytes);
    }

    /// Bytes of memory, near enough for a metric.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let marks = self.marks.len() * size_of::<(Offset, Mark)>() * 3 / 2;
        size_of::<Self>() + self.settled.memory_bytes() + marks + self.history.memory_bytes()
    }

    /// The parts of `run` that exist and are not settled.
    fn unsettled_parts(&self, run: Run) -> Vec<Run> {
        let upto = run.upto.min(self.end);
        let mut parts = Vec::new();
        let mut at = self.settled.next_unsettled(run.from);
        while at < upto {
            let behind = self.settled.next_settled(at).map_or(upto, |settled| settled.min(upto));
            parts.push(Run { from: at, upto: behind });
            at = self.settled.next_unsettled(behind);
        }
        parts
    }
}
