//! De-duplication: what a partition remembers of the batches of each producer, so that a retried
//! batch is stored once.
//!
//! A producer numbers its records per partition and epoch, from 0. A batch is accepted when it
//! continues that numbering; a batch that was stored before is recognised by its first sequence and
//! count. Source: Kafka KIP-98, with 8 remembered batches in place of 5.

use std::collections::{BTreeMap, VecDeque};

use bytes::{BufMut, BytesMut};
use plimsoll_protocol::batch::{BatchHeader, EntryKind};
use plimsoll_protocol::ids::{LogIndex, Offset, ProducerId};
use plimsoll_protocol::wire::{Decode, Reader};

use crate::decode::{DecodeStateError, count};

/// Batches remembered per producer. A producer that keeps more unanswered batches of one partition
/// in flight can get [`Verdict::DuplicateUnknown`] for a retry.
pub const RECENT_BATCHES: usize = 8;

/// Default for the number of producers remembered per partition. At most about 2.5 MB of state.
pub const PRODUCERS_MAX: usize = 10_000;

/// What to do with a batch that a producer sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It continues its producer's numbering, or comes from no producer.
    Accept,
    /// It is stored already: answer with where.
    Duplicate {
        /// Offset of its first record.
        base_offset: Offset,
        /// When the leader took it, unix ms.
        append_time_ms: i64,
    },
    /// It is stored already, but where is no longer known (or it was batched differently then).
    DuplicateUnknown,
    /// Records before it are missing, or it overlaps what is stored.
    OutOfOrder {
        /// The sequence that a batch must begin with now.
        expected: u64,
    },
    /// A later life of the same producer has written here.
    StaleEpoch {
        /// The epoch of that life.
        current: u32,
    },
    /// The partition does not know the producer, and the batch is not its first. Either it never
    /// wrote here, or so long ago that it was forgotten: the producer needs a new epoch.
    UnknownProducer,
}

/// A stored batch, as a retry of it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StoredBatch {
    base_sequence: u64,
    record_count: u32,
    base_offset: Offset,
    append_time_ms: i64,
}

/// One producer in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Producer {
    epoch: u32,
    next_sequence: u64,
    /// Entry of its last batch: its age for eviction.
    last_index: LogIndex,
    /// Oldest first, at most [`RECENT_BATCHES`], all of `epoch`.
    recent: VecDeque<StoredBatch>,
}

/// The producers of one partition.
///
/// Invariant: `producers.len() == by_age.len() <= producers_max`. The limit is part of the fold:
/// replicas with different limits would forget different producers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerTable {
    producers: BTreeMap<ProducerId, Producer>,
    /// Least recently appended first.
    by_age: BTreeMap<LogIndex, ProducerId>,
    producers_max: usize,
}

impl Default for ProducerTable {
    fn default() -> Self {
        Self::new(PRODUCERS_MAX)
    }
}

impl ProducerTable {
    /// An empty table that remembers at most `producers_max` producers.
    ///
    /// # Panics
    /// When `producers_max` is 0.
    #[must_use]
    pub fn new(producers_max: usize) -> Self {
        assert!(
            producers_max > 0,
            "a table that remembers no producer cannot accept a second batch"
        );
        Self { producers: BTreeMap::new(), by_age: BTreeMap::new(), producers_max }
    }

    /// Number of producers remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether no producer is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// Judges a batch against what is stored. Only the producer's part of the header is read.
    #[must_use]
    pub fn check(&self, header: &BatchHeader) -> Verdict {
        if !header.producer_id.is_some() {
            return Verdict::Accept;
        }
        let Some(producer) = self.producers.get(&header.producer_id) else {
            return if header.base_sequence == 0 {
                Verdict::Accept
            } else {
                Verdict::UnknownProducer
            };
        };
        let position = Numbering { epoch: producer.epoch, next_sequence: producer.next_sequence };
        match position.place(header) {
            Place::Next => Verdict::Accept,
            Place::Refused(verdict) => verdict,
            Place::Earlier => producer
                .recent
                .iter()
                .find(|b| {
                    b.base_sequence == header.base_sequence && b.record_count == header.record_count
                })
                .map_or_else(
                    || match producer.lacks(header) {
                        true => Verdict::OutOfOrder { expected: producer.next_sequence },
                        false => Verdict::DuplicateUnknown,
                    },
                    |b| Verdict::Duplicate {
                        base_offset: b.base_offset,
                        append_time_ms: b.append_time_ms,
                    },
                ),
        }
    }

    /// Remembers a batch of the log. Total: whatever the log holds was admitted by the leader that
    /// proposed it, so nothing is judged again here.
    pub fn record(&mut self, header: &BatchHeader) {
        if !header.producer_id.is_some() || header.kind != EntryKind::Records {
            return;
        }
        let id = header.producer_id;
        let producer = match self.producers.get_mut(&id) {
            Some(producer) => {
                if header.producer_epoch < producer.epoch {
                    return;
                }
                self.by_age.remove(&producer.last_index);
                if header.producer_epoch > producer.epoch {
                    producer.epoch = header.producer_epoch;
                    producer.recent.clear();
                }
                producer
            }
            None => self.producers.entry(id).or_insert(Producer {
                epoch: header.producer_epoch,
                next_sequence: 0,
                last_index: header.index,
                recent: VecDeque::new(),
            }),
        };
        producer.next_sequence = sequence_after(header);
        producer.last_index = header.index;
        if producer.recent.len() == RECENT_BATCHES {
            producer.recent.pop_front();
        }
        producer.recent.push_back(StoredBatch {
            base_sequence: header.base_sequence,
            record_count: header.record_count,
            base_offset: header.base_offset,
            append_time_ms: header.append_time_ms,
        });
        self.by_age.insert(header.index, id);
        self.evict();
    }

    fn evict(&mut self) {
        while self.producers.len() > self.producers_max {
            let (_, oldest) =
                self.by_age.pop_first().expect("each producer has an age, and there is one");
            self.producers.remove(&oldest);
        }
    }

    /// Writes the table; the same table gives the same bytes.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.reserve(4 + self.producers.len() * PRODUCER_BYTES_MAX);
        out.put_u32_le(u32::try_from(self.producers.len()).expect("the table is bounded"));
        for (id, producer) in &self.producers {
            out.put_u64_le(id.0);
            out.put_u32_le(producer.epoch);
            out.put_u64_le(producer.next_sequence);
            out.put_u64_le(producer.last_index.0);
            out.put_u8(u8::try_from(producer.recent.len()).expect("at most RECENT_BATCHES"));
            for batch in &producer.recent {
                out.put_u64_le(batch.base_sequence);
                out.put_u32_le(batch.record_count);
                out.put_u64_le(batch.base_offset.0);
                out.put_i64_le(batch.append_time_ms);
            }
        }
    }

    /// Reads what [`ProducerTable::encode`] wrote.
    pub(crate) fn decode(
        reader: &mut Reader<'_>,
        producers_max: usize,
    ) -> Result<Self, DecodeStateError> {
        let mut table = Self::new(producers_max);
        let mut previous = None;
        for _ in 0..count(reader, PRODUCER_BYTES_MIN)? {
            let id = ProducerId::decode(reader)?;
            if !id.is_some() || previous.is_some_and(|p| p >= id) {
                return Err(DecodeStateError::Invalid { rule: "producer ids rise from 1" });
            }
            previous = Some(id);
            let producer = Producer::decode(reader)?;
            if table.by_age.insert(producer.last_index, id).is_some() {
                return Err(DecodeStateError::Invalid { rule: "an entry has one producer" });
            }
            table.producers.insert(id, producer);
        }
        table.evict();
        Ok(table)
    }
}

impl Producer {
    /// Whether some sequence of the batch was jumped over, by what is remembered: it lies before a batch
    /// and was not stored. No leader that knows what was refused lets that happen, but it must never
    /// be taken for a duplicate.
    fn lacks(&self, header: &BatchHeader) -> bool {
        // Of what was stored before the remembered batches nothing is known, once one was forgotten.
        let mut stored_upto = match self.recent.front() {
            Some(first) if self.recent.len() == RECENT_BATCHES => first.base_sequence,
            _ => 0,
        };
        for batch in &self.recent {
            let jumped = stored_upto < batch.base_sequence;
            let begins_before = header.base_sequence < batch.base_sequence;
            if jumped && begins_before && sequence_after(header) > stored_upto {
                return true;
            }
            stored_upto = batch.base_sequence.saturating_add(u64::from(batch.record_count));
        }
        false
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeStateError> {
        let epoch = u32::decode(reader)?;
        let next_sequence = u64::decode(reader)?;
        let last_index = LogIndex(u64::decode(reader)?);
        let batches = usize::from(u8::decode(reader)?);
        if batches > RECENT_BATCHES {
            return Err(DecodeStateError::Invalid { rule: "at most 8 batches are remembered" });
        }
        let mut recent = VecDeque::with_capacity(batches);
        for _ in 0..batches {
            recent.push_back(StoredBatch {
                base_sequence: u64::decode(reader)?,
                record_count: u32::decode(reader)?,
                base_offset: Offset::decode(reader)?,
                append_time_ms: i64::decode(reader)?,
            });
        }
        Ok(Self { epoch, next_sequence, last_index, recent })
    }
}

const PRODUCER_BYTES_MIN: usize = 8 + 4 + 8 + 8 + 1;
const PRODUCER_BYTES_MAX: usize = PRODUCER_BYTES_MIN + RECENT_BATCHES * (8 + 4 + 8 + 8);

/// Where a producer's numbering stands in one partition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbering {
    pub(crate) epoch: u32,
    pub(crate) next_sequence: u64,
}

/// How a batch lies against a producer's numbering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is the next one.
    Next,
    /// All of its sequences were taken before: a duplicate of something.
    Earlier,
    /// It cannot be taken.
    Refused(Verdict),
}

impl Numbering {
    pub(crate) fn place(self, header: &BatchHeader) -> Place {
        if header.producer_epoch < self.epoch {
            return Place::Refused(Verdict::StaleEpoch { current: self.epoch });
        }
        let expected = if header.producer_epoch > self.epoch { 0 } else { self.next_sequence };
        if header.base_sequence == expected {
            Place::Next
        } else if header.base_sequence < expected && sequence_after(header) <= expected {
            Place::Earlier
        } else {
            Place::Refused(Verdict::OutOfOrder { expected })
        }
    }
}

/// The sequence after the last record of a batch.
pub(crate) fn sequence_after(header: &BatchHeader) -> u64 {
    header.base_sequence.saturating_add(u64::from(header.record_count))
}

#[cfg(test)]
mod tests {
    use plimsoll_protocol::ids::Term;

    use super::*;

    fn batch(producer: u64, epoch: u32, base_sequence: u64, record_count: u32) -> BatchHeader {
        BatchHeader {
            producer_id: ProducerId(producer),
            producer_epoch: epoch,
            base_sequence,
            record_count,
            ..BatchHeader::default()
        }
    }

    fn stored(header: BatchHeader, index: u64, base_offset: u64) -> BatchHeader {
        BatchHeader {
            term: Term(1),
            index: LogIndex(index),
            base_offset: Offset(base_offset),
            append_time_ms: i64::try_from(index).unwrap() * 10,
            ..header
        }
    }

    #[test]
    fn batch_without_a_producer_is_always_accepted() {
        let mut table = ProducerTable::default();
        table.record(&stored(batch(0, 0, 0, 5), 1, 0));
        assert!(table.is_empty());
        assert_eq!(table.check(&batch(0, 0, 77, 5)), Verdict::Accept);
    }

    #[test]
    fn retried_batch_gets_its_first_offset() {
        let mut table = ProducerTable::default();
        table.record(&stored(batch(7, 0, 0, 5), 1, 100));
        table.record(&stored(batch(7, 0, 5, 3), 2, 105));
        assert_eq!(
            table.check(&batch(7, 0, 0, 5)),
            Verdict::Duplicate { base_offset: Offset(100), append_time_ms: 10 }
        );
        assert_eq!(table.check(&batch(7, 0, 8, 1)), Verdict::Accept);
        assert_eq!(table.check(&batch(7, 0, 9, 1)), Verdict::OutOfOrder { expected: 8 });
        assert_eq!(table.check(&batch(7, 0, 1, 2)), Verdict::DuplicateUnknown);
        assert_eq!(table.check(&batch(7, 0, 5, 9)), Verdict::OutOfOrder { expected: 8 });
    }

    /// One of two batches in flight was refused and the later one stored: the retry of the first was
    /// answered as a duplicate, and so acknowledged, though it was nowhere.
    #[test]
    fn batch_that_was_jumped_over_is_no_duplicate() {
        let mut table = ProducerTable::default();
        let jumped = Verdict::OutOfOrder { expected: 6 };
        table.record(&stored(batch(7, 0, 0, 2), 1, 0));
        table.record(&stored(batch(7, 0, 4, 2), 2, 2));
        assert_eq!(table.check(&batch(7, 0, 2, 2)), jumped);
        assert_eq!(table.check(&batch(7, 0, 3, 1)), jumped);
        assert_eq!(table.check(&batch(7, 0, 1, 2)), jumped, "half of it is stored");
        assert!(matches!(table.check(&batch(7, 0, 0, 2)), Verdict::Duplicate { .. }));
        assert!(matches!(table.check(&batch(7, 0, 4, 2)), Verdict::Duplicate { .. }));
        // The first batch of all, too; and after a few more.
        table.record(&stored(batch(8, 0, 3, 1), 3, 4));
        assert_eq!(table.check(&batch(8, 0, 0, 3)), Verdict::OutOfOrder { expected: 4 });
        for i in 0..5 {
            table.record(&stored(batch(7, 0, 6 + i, 1), 4 + i, 5 + i));
        }
        let jumped = Verdict::OutOfOrder { expected: 11 };
        assert_eq!(table.check(&batch(7, 0, 2, 2)), jumped, "after 7 batches");
    }

    #[test]
    fn only_the_last_batches_are_remembered() {
        let mut table = ProducerTable::default();
        for i in 0..20 {
            table.record(&stored(batch(7, 0, i, 1), i, i));
        }
        assert_eq!(table.check(&batch(7, 0, 11, 1)), Verdict::DuplicateUnknown);
        assert!(matches!(table.check(&batch(7, 0, 12, 1)), Verdict::Duplicate { .. }));
    }

    #[test]
    fn new_epoch_starts_at_sequence_0_and_shuts_out_the_old_one() {
        let mut table = ProducerTable::default();
        table.record(&stored(batch(7, 0, 0, 5), 1, 0));
        assert_eq!(table.check(&batch(7, 1, 5, 1)), Verdict::OutOfOrder { expected: 0 });
        assert_eq!(table.check(&batch(7, 1, 0, 1)), Verdict::Accept);
        table.record(&stored(batch(7, 1, 0, 1), 2, 5));
        assert_eq!(table.check(&batch(7, 0, 5, 1)), Verdict::StaleEpoch { current: 1 });
        assert_eq!(table.check(&batch(7, 0, 0, 5)), Verdict::StaleEpoch { current: 1 });
    }

    #[test]
    fn unknown_producer_must_start_at_sequence_0() {
        let table = ProducerTable::default();
        assert_eq!(table.check(&batch(7, 3, 0, 1)), Verdict::Accept);
        assert_eq!(table.check(&batch(7, 3, 1, 1)), Verdict::UnknownProducer);
    }

    #[test]
    fn least_recently_appended_producer_is_forgotten_first() {
        let mut table = ProducerTable::new(2);
        table.record(&stored(batch(1, 0, 0, 1), 1, 0));
        table.record(&stored(batch(2, 0, 0, 1), 2, 1));
        table.record(&stored(batch(1, 0, 1, 1), 3, 2));
        table.record(&stored(batch(3, 0, 0, 1), 4, 3));
        assert_eq!(table.len(), 2);
        assert_eq!(table.check(&batch(2, 0, 1, 1)), Verdict::UnknownProducer);
        assert_eq!(table.check(&batch(1, 0, 2, 1)), Verdict::Accept);
    }

    #[test]
    fn sequences_near_the_end_of_the_range_do_not_overflow() {
        let mut table = ProducerTable::default();
        table.record(&stored(batch(1, 0, u64::MAX - 1, 5), 1, 0));
        assert_eq!(table.check(&batch(1, 0, u64::MAX, 1)), Verdict::Accept);
    }
}
