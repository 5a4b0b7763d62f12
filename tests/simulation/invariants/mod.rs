//! What must hold after every step, one file each. All of them judge [`Event`]s, which the observer
//! draws from the nodes' real logs and roles and from what clients were told.

mod attempts_rise;
mod election_safety;
mod every_message_settled_or_available;
mod fenced_writes;
mod groups_go_on;
mod guarded_writes;
mod high_watermark_monotonic;
mod in_time;
mod leader_completeness;
mod leaderships;
mod log_matching;
mod mutual_exclusion;
mod no_acked_record_lost;
mod no_duplicate;
mod no_settled_message_redelivered_after_ack;
mod no_waiter_forgotten;
mod observer;
mod offsets_dense;
mod order_per_key;
mod placement_rules;
#[cfg(test)]
mod planted;
mod reads_are_fresh;
mod tokens_rise;
mod vote_once;
mod worked;

use std::collections::{BTreeMap, BTreeSet};

use plimsoll_delivery::command::QueueCommand;
use plimsoll_log::Vote;
use plimsoll_protocol::batch::{BatchHeader, EntryKind};
use plimsoll_protocol::ids::{GroupId, LogId, NodeId, Term};

use crate::history::{MemberNumber, Partition, RecordName, Seen};
use crate::lock::LockNews;
use crate::messages::{Delivered, Receiver, Saying};
use crate::reads::Level;

pub use observer::Observer;
pub use worked::Worked;

/// A process of a node: nothing that is volatile is compared beyond it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life {
    /// The node.
    pub node: u64,
    /// Which of its processes.
    pub life: u32,
}

/// What two replicas must agree on in an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Term and index.
    pub id: LogId,
    /// What it is.
    pub kind: EntryKind,
    /// Offset of its first record.
    pub base_offset: u64,
    /// Its records.
    pub record_count: u32,
    /// Who made it: producer, epoch, first sequence.
    pub producer: (u64, u32, u64),
    /// Of its body.
    pub body_crc: u32,
    /// Its size.
    pub bytes: u32,
}

impl Entry {
    pub(crate) fn of(header: &BatchHeader) -> Self {
        Self {
            id: header.log_id(),
            kind: header.kind,
            base_offset: header.base_offset.0,
            record_count: header.record_count,
            producer: (header.producer_id.0, header.producer_epoch, header.base_sequence),
            body_crc: header.body_crc,
            bytes: header.batch_length,
        }
    }
}

/// News of a step.
#[derive(Debug)]
pub enum Event<'a> {
    /// A log has an entry that it did not have before, or a process has begun and has it.
    Stored {
        /// Whose log.
        at: Life,
        /// Which.
        group: GroupId,
        /// The entry.
        entry: &'a Entry,
    },
    /// A process holds an entry for committed that it did not hold for committed before.
    Committed {
        /// Which process.
        at: Life,
        /// The group.
        group: GroupId,
        /// The entry.
        entry: &'a Entry,
    },
    /// An entry was committed for the first time anywhere.
    FirstCommitted {
        /// The group.
        group: GroupId,
        /// The entry.
        entry: &'a Entry,
    },
    /// A process's high watermark of a group.
    HighWatermark {
        /// Which process.
        at: Life,
        /// The group.
        group: GroupId,
        /// The offset.
        offset: u64,
    },
    /// A process has begun to lead a group.
    Leads {
        /// Which process.
        at: Life,
        /// The group.
        group: GroupId,
        /// In which term.
        term: Term,
        /// Index of its log's last entry.
        last: Option<LogId>,
        /// Term of its log's entry at the index of the last one that is committed anywhere.
        term_at_committed: Option<Term>,
    },
    /// A process does not lead a group any more, or it has ended.
    LeadsNoMore {
        /// Which process.
        at: Life,
        /// The group.
        group: GroupId,
    },
    /// A node's vote, which it keeps by now.
    Voted {
        /// Which node.
        node: u64,
        /// The group.
        group: GroupId,
        /// The vote.
        vote: Vote,
    },
    /// A process knows where a partition belongs.
    Placed {
        /// Which process.
        at: Life,
        /// The partition's group.
        group: GroupId,
        /// Where its replicas belong.
        wanted: &'a [NodeId],
        /// How many the topic asks for.
        replicas: u16,
        /// The nodes that the same catalog knows.
        members: &'a BTreeSet<NodeId>,
    },
    /// A client was told that a record is stored.
    Acked {
        /// The record.
        record: RecordName,
        /// Where.
        partition: Partition,
        /// At which offset, where that was told.
        offset: Option<u64>,
    },
    /// A consumer got a record.
    Seen(Seen),
    /// A read of a partition to its end begins.
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
    /// A command of a queue was committed for the first time anywhere; the ledger does not have it yet.
    Command {
        /// The group.
        group: GroupId,
        /// The entry that it is in.
        id: LogId,
        /// The command.
        command: &'a QueueCommand,
    },
    /// A sender was told that a message is stored.
    MessageAcked {
        /// The message.
        message: RecordName,
        /// The partition of the queue.
        partition: Partition,
        /// At which offset, where that was told.
        offset: Option<u64>,
    },
    /// A consumer of the queue is about to be made.
    ReceiverBegins(Receiver),
    /// It was given a message.
    Delivered(Delivered),
    /// It is about to say something of one.
    Said(Delivered, Saying),
    /// It was told that what it said is stored.
    SayingStored(Delivered, Saying),
    /// Everything is well again, and the last consumer of the queue has taken all that it could get.
    Drained,
    /// A member of the group is about to join.
    MemberBegins(MemberNumber),
    /// It was handed out a record.
    GroupGot {
        /// Who.
        member: MemberNumber,
        /// The partition.
        partition: Partition,
        /// Its offset.
        offset: u64,
    },
    /// A member was told that the group reads on there.
    GroupCommitted {
        /// The partition.
        partition: Partition,
        /// The next offset to read.
        next: u64,
    },
    /// Everything is well again, and the last member of the group has read all that it could get.
    GroupHasReadAll,
    /// Something happened to a lock.
    Lock {
        /// When, in milliseconds of the world.
        at_ms: u64,
        /// What.
        news: LockNews,
    },
    /// A record that was sent under a fence is committed.
    FencedWrite {
        /// In which partition.
        partition: Partition,
        /// At which offset.
        offset: u64,
        /// Which.
        record: RecordName,
    },
}

/// What was ever committed, in the order of each log.
#[derive(Debug, Default)]
pub struct Ledger {
    groups: BTreeMap<GroupId, Committed>,
    /// The groups of the topic's partitions.
    pub partitions: BTreeMap<Partition, GroupId>,
    /// The groups of the queue's partitions.
    pub queue: BTreeMap<Partition, GroupId>,
    /// The group of the topic of dead letters.
    pub letters: Option<GroupId>,
    /// The groups of the partitions of what is written under locks.
    pub guarded: BTreeMap<Partition, GroupId>,
    /// Groups whose records are not numbered: those of keys, and of what happens to locks.
    pub unnumbered: BTreeSet<GroupId>,
    /// The latest time that the wall clock of any node has shown.
    pub latest_unix_ms: i64,
}

/// What was committed of one group.
#[derive(Debug, Default)]
pub struct Committed {
    /// Index of the first entry here.
    pub first_index: u64,
    /// The entries, one after the other.
    pub entries: Vec<Entry>,
    /// Record by offset.
    pub records: Vec<RecordName>,
    /// Offsets of each record: more than one is a duplicate.
    pub offsets: BTreeMap<RecordName, Vec<u64>>,
    /// When messages are to be delivered, of those that say so; by offset.
    pub deliver_at: BTreeMap<u64, i64>,
    /// When messages end by their age, of those that do; by offset.
    pub expires_at: BTreeMap<u64, i64>,
    /// Offsets of each key's messages, rising.
    pub by_key: BTreeMap<u64, Vec<u64>>,
    /// What came of the messages of a queue.
    pub worked: Worked,
}

impl Committed {
    /// The entry of an index.
    #[must_use]
    pub fn entry(&self, index: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(index.checked_sub(self.first_index)?).ok()?)
    }

    /// The last entry.
    #[must_use]
    pub fn last(&self) -> Option<&Entry> {
        self.entries.last()
    }
}

impl Ledger {
    /// What was committed of a group.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Option<&Committed> {
        self.groups.get(&group)
    }

    /// What was committed of a partition.
    #[must_use]
    pub fn partition(&self, partition: Partition) -> Option<&Committed> {
        self.group(*self.partitions.get(&partition)?)
    }

    /// What was committed of a partition of the queue.
    #[must_use]
    pub fn queue(&self, partition: Partition) -> Option<&Committed> {
        self.group(*self.queue.get(&partition)?)
    }

    /// The partition of the queue that a group is.
    #[must_use]
    pub fn queue_partition(&self, group: GroupId) -> Option<Partition> {
        let mut partitions = self.queue.iter();
        partitions.find_map(|(partition, of)| (*of == group).then_some(*partition))
    }
}

/// One rule.
pub trait Invariant: Send {
    /// Its name: that of its file.
    fn name(&self) -> &'static str;

    /// Judges news.
    ///
    /// # Errors
    /// What is broken, in words.
    fn judge(&mut self, event: &Event<'_>, ledger: &Ledger) -> Result<(), String>;
}

/// All rules.
#[must_use]
pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(election_safety::ElectionSafety::default()),
        Box::new(vote_once::VoteOnce::default()),
        Box::new(log_matching::LogMatching::default()),
        Box::new(leader_completeness::LeaderCompleteness),
        Box::new(offsets_dense::OffsetsDense::default()),
        Box::new(high_watermark_monotonic::HighWatermarkMonotonic::default()),
        Box::new(no_duplicate::NoDuplicate::default()),
        Box::new(no_acked_record_lost::NoAckedRecordLost),
        Box::new(placement_rules::PlacementRules),
        Box::new(reads_are_fresh::ReadsAreFresh::default()),
        Box::new(
            no_settled_message_redelivered_after_ack::NoSettledMessageRedeliveredAfterAck::default(
            ),
        ),
        Box::new(every_message_settled_or_available::EveryMessageSettledOrAvailable::default()),
        Box::new(order_per_key::OrderPerKey::default()),
        Box::new(attempts_rise::AttemptsRise::default()),
        Box::new(in_time::InTime),
        Box::new(groups_go_on::GroupsGoOn::default()),
        Box::new(tokens_rise::TokensRise::default()),
        Box::new(mutual_exclusion::MutualExclusion::default()),
        Box::new(fenced_writes::FencedWrites::default()),
        Box::new(guarded_writes::GuardedWrites::default()),
        Box::new(no_waiter_forgotten::NoWaiterForgotten),
    ]
}
