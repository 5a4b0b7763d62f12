//! The state of a partition: what its committed entries add up to, besides the records themselves.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use plimsoll_delivery::command::{DOMAIN as QUEUES_DOMAIN, QueueEntry};
use plimsoll_delivery::state::Queues;
use plimsoll_delivery::time::UnixMs;
use plimsoll_groups::command::{DOMAIN as GROUPS_DOMAIN, GroupsEntry};
use plimsoll_groups::state::{Answer, Groups};
use plimsoll_locks::command::{DOMAIN as LOCKS_DOMAIN, LocksEntry};
use plimsoll_locks::fence::{DOMAIN as FLOORS_DOMAIN, FloorEntry, Floors};
use plimsoll_locks::keeper::ENTRIES_IN_FLIGHT_MAX;
use plimsoll_locks::state::{Applied as LocksApplied, EVENTS_PRODUCER, Locks};
use plimsoll_protocol::batch::{BatchHeader, EntryKind};
use plimsoll_protocol::ids::{LogId, LogIndex, Offset, Term};
use plimsoll_protocol::wire::{Decode, Encode, Reader};

use crate::decode::{DecodeStateError, check_version, versioned_since};
use crate::producers::{PRODUCERS_MAX, ProducerTable};

/// Newest version of [`PartitionState::encode`]'s format.
const VERSION: u8 = 4;
/// The version of a partition without locks and floors, which earlier builds read.
const WITHOUT_LOCKS: u8 = 3;
/// The version of a partition without consumer groups, which earlier builds read.
const WITHOUT_GROUPS: u8 = 2;
/// The oldest that is read: a partition without queues.
const OLDEST: u8 = 1;

/// How far a group has folded its log, and who its members are. Part of every group's state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// The last entry that was folded.
    pub applied: Option<LogId>,
    /// The offset after the last committed record.
    pub high_watermark: Offset,
    /// The last membership entry: its id and its body, which only the replication crate reads.
    pub membership: Option<(LogId, Bytes)>,
}

impl Progress {
    /// Moves on by one entry.
    ///
    /// # Panics
    /// When the entry is not after the last one, or its records do not begin at the high watermark:
    /// either is a bug that would let replicas differ.
    pub fn advance(&mut self, header: &BatchHeader, body: &Bytes) {
        let id = header.log_id();
        if let Some(applied) = self.applied {
            assert!(
                id.index > applied.index && id.term >= applied.term,
                "entry {id} cannot be applied after {applied}"
            );
        }
        match header.kind {
            EntryKind::Records => {
                assert_eq!(
                    header.base_offset, self.high_watermark,
                    "records of entry {id} do not begin at the high watermark"
                );
                self.high_watermark = header.end_offset();
            }
            EntryKind::Membership => self.membership = Some((id, body.clone())),
            EntryKind::Blank | EntryKind::Control => {}
        }
        self.applied = Some(id);
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        put_log_id(out, self.applied);
        out.put_u64_le(self.high_watermark.0);
        match &self.membership {
            None => out.put_u8(0),
            Some((id, body)) => {
                put_log_id(out, Some(*id));
                body.encode(out);
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeStateError> {
        let applied = log_id(reader)?;
        let high_watermark = Offset::decode(reader)?;
        let membership = match log_id(reader)? {
            None => None,
            Some(id) => Some((id, Bytes::decode(reader)?)),
        };
        Ok(Self { applied, high_watermark, membership })
    }
}

fn put_log_id(out: &mut BytesMut, id: Option<LogId>) {
    match id {
        None => out.put_u8(0),
        Some(id) => {
            out.put_u8(1);
            out.put_u64_le(id.term.0);
            out.put_u64_le(id.index.0);
        }
    }
}

fn log_id(reader: &mut Reader<'_>) -> Result<Option<LogId>, DecodeStateError> {
    if !bool::decode(reader)? {
        return Ok(None);
    }
    Ok(Some(LogId::new(Term::decode(reader)?, LogIndex(u64::decode(reader)?))))
}

/// What applying a records entry gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Offset of the entry's first record (of the next record, for an entry without any).
    pub base_offset: Offset,
    /// The offset after the last committed record, this entry included.
    pub high_watermark: Offset,
    /// When the leader took the entry, unix ms.
    pub append_time_ms: i64,
}

/// The fold of a partition's log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PartitionState {
    progress: Progress,
    producers: ProducerTable,
    queues: Queues,
    groups: Groups,
    locks: Locks,
    floors: Floors,
    answers: GroupsAnswers,
    outcomes: LocksOutcomes,
}

/// What the last entry of consumer groups came to. Not part of the state: only who folded that entry has it.
#[derive(Debug, Clone, Default)]
pub struct GroupsAnswers {
    /// Which entry; none after a snapshot.
    pub entry: Option<LogId>,
    /// An answer per command.
    pub answers: Vec<Answer>,
}

impl PartialEq for GroupsAnswers {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for GroupsAnswers {}

/// What the last entries of locks came to, as many as a keeper may have under way. Not part of the state, as
/// [`GroupsAnswers`].
#[derive(Debug, Clone, Default)]
pub struct LocksOutcomes(VecDeque<(LogId, LocksApplied)>);

impl LocksOutcomes {
    /// What this entry came to, where it was folded here not long ago.
    #[must_use]
    pub fn of(&self, entry: LogId) -> Option<&LocksApplied> {
        self.0.iter().find(|(id, _)| *id == entry).map(|(_, applied)| applied)
    }

    fn note(&mut self, entry: LogId, applied: LocksApplied) {
        if self.0.len() >= ENTRIES_IN_FLIGHT_MAX {
            self.0.pop_front();
        }
        self.0.push_back((entry, applied));
    }
}

impl PartialEq for LocksOutcomes {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for LocksOutcomes {}

impl PartitionState {
    /// The state of an empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How far the log is folded.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// What is remembered of the producers.
    #[must_use]
    pub fn producers(&self) -> &ProducerTable {
        &self.producers
    }

    /// What is settled of the partition's queue, or of the subscriptions on it.
    #[must_use]
    pub fn queues(&self) -> &Queues {
        &self.queues
    }

    /// The consumer groups that have their home in this partition: of [`plimsoll_protocol::api::GROUPS_TOPIC`]
    /// only.
    #[must_use]
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// What each command of the last entry of consumer groups came to.
    #[must_use]
    pub fn groups_answers(&self) -> &GroupsAnswers {
        &self.answers
    }

    /// The locks of the namespace that has its home in this partition: of a topic of
    /// [`plimsoll_protocol::api::LOCKS_PREFIX`] only.
    #[must_use]
    pub fn locks(&self) -> &Locks {
        &self.locks
    }

    /// What the last entries of locks came to.
    #[must_use]
    pub fn locks_outcomes(&self) -> &LocksOutcomes {
        &self.outcomes
    }

    /// The lowest tokens that are taken here of each lock.
    #[must_use]
    pub fn floors(&self) -> &Floors {
        &self.floors
    }

    /// Folds one committed entry; `body` is what follows the header.
    ///
    /// # Panics
    /// As [`Progress::advance`], and on a control entry that this build cannot read: to pass over it would
    /// let replicas differ.
    pub fn apply(&mut self, header: &BatchHeader, body: &Bytes) -> Applied {
        let base_offset = self.progress.high_watermark;
        self.progress.advance(header, body);
        self.producers.record(header);
        self.work_off(header, body);
        Applied {
            base_offset,
            high_watermark: self.progress.high_watermark,
            append_time_ms: header.append_time_ms,
        }
    }

    fn work_off(&mut self, header: &BatchHeader, body: &Bytes) {
        match header.kind {
            EntryKind::Records => {
                self.queues.appended(header.record_count, header.records_bytes);
                if header.producer_id == EVENTS_PRODUCER {
                    self.locks.published(header.end_sequence());
                }
            }
            EntryKind::Control => match body.first() {
                Some(&QUEUES_DOMAIN) => {
                    let entry = QueueEntry::decode(body);
                    let entry = entry.unwrap_or_else(|error| {
                        panic!("control entry {} cannot be read: {error}", header.log_id())
                    });
                    self.queues.apply(&entry, UnixMs(header.append_time_ms));
                }
                Some(&GROUPS_DOMAIN) => {
                    let entry = GroupsEntry::decode(body);
                    let entry = entry.unwrap_or_else(|error| {
                        panic!("control entry {} cannot be read: {error}", header.log_id())
                    });
                    let answers = self.groups.apply(&entry, UnixMs(header.append_time_ms));
                    self.answers = GroupsAnswers { entry: Some(header.log_id()), answers };
                }
                Some(&LOCKS_DOMAIN) => {
                    let entry = LocksEntry::decode(body);
                    let entry = entry.unwrap_or_else(|error| {
                        panic!("control entry {} cannot be read: {error}", header.log_id())
                    });
                    let at = UnixMs(header.append_time_ms);
                    let applied = self.locks.apply(&entry, header.index, at);
                    self.outcomes.note(header.log_id(), applied);
                }
                Some(&FLOORS_DOMAIN) => {
                    let entry = FloorEntry::decode(body);
                    let entry = entry.unwrap_or_else(|error| {
                        panic!("control entry {} cannot be read: {error}", header.log_id())
                    });
                    // What is below the floor changes nothing, and who asked looks at the floor.
                    let _ = self.floors.apply(&entry);
                }
                domain => panic!("control entry {} is of domain {domain:?}", header.log_id()),
            },
            EntryKind::Blank | EntryKind::Membership => {}
        }
    }

    /// The state as bytes: the same state gives the same bytes. Nothing protects them; who stores
    /// them adds a checksum.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        let has_locks = self.locks != Locks::default() || !self.floors.is_empty();
        let has_groups = has_locks || self.groups != Groups::default();
        out.put_u8(match (has_locks, has_groups) {
            (true, _) => VERSION,
            (false, true) => WITHOUT_LOCKS,
            (false, false) => WITHOUT_GROUPS,
        });
        self.progress.encode(&mut out);
        self.producers.encode(&mut out);
        self.queues.encode().encode(&mut out);
        if has_groups {
            self.groups.encode().encode(&mut out);
        }
        if has_locks {
            self.locks.encode().encode(&mut out);
            self.floors.encode().encode(&mut out);
        }
        out.freeze()
    }

    /// Reads what [`PartitionState::encode`] wrote, in this or an earlier version.
    ///
    /// # Errors
    /// When the bytes are not an encoded state of a version this build knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeStateError> {
        versioned_since(bytes, OLDEST, VERSION, |version, reader| {
            let progress = Progress::decode(reader)?;
            let producers = ProducerTable::decode(reader, PRODUCERS_MAX)?;
            let queues = match version {
                OLDEST => Queues::new(progress.high_watermark),
                _ => Queues::decode(&Bytes::decode(reader)?)?,
            };
            if queues.end() != progress.high_watermark {
                return Err(DecodeStateError::Invalid { rule: "queues end with the log" });
            }
            let groups = match version {
                OLDEST | WITHOUT_GROUPS => Groups::default(),
                _ => Groups::decode(&Bytes::decode(reader)?)?,
            };
            let (locks, floors) = match version {
                VERSION => (
                    Locks::decode(&Bytes::decode(reader)?)?,
                    Floors::decode(&Bytes::decode(reader)?)?,
                ),
                _ => Default::default(),
            };
            let (answers, outcomes) = Default::default();
            Ok(Self { progress, producers, queues, groups, locks, floors, answers, outcomes })
        })
    }

    /// The same with a bug for the simulation to see: queues remember the floor of what is settled only.
    #[cfg(feature = "planted")]
    #[must_use]
    pub fn without_settled(self) -> Self {
        let mut queues = Queues::new(self.queues.end());
        for (subscription, queue) in self.queues.iter() {
            let config = Box::new(queue.config().clone());
            let command =
                plimsoll_delivery::command::QueueCommand::Open { start: queue.floor(), config };
            let entry = QueueEntry { subscription, commands: vec![command] };
            queues.apply(&entry, UnixMs(0));
        }
        Self { queues, ..self }
    }

    /// Only the progress of an encoded state, without building the rest.
    ///
    /// # Errors
    /// As [`PartitionState::decode`], for the part that is read.
    pub fn decode_progress(bytes: &[u8]) -> Result<Progress, DecodeStateError> {
        let mut reader = Reader::new(bytes);
        check_version(&mut reader, OLDEST, VERSION)?;
        Progress::decode(&mut reader)
    }
}
