//! The bytes of a [`Change`] in a journal block, and of what refers to entries in a segment.

use std::sync::Arc;

use bytes::Bytes;
use plimsoll_protocol::batch::{BATCH_HEADER_BYTES, BatchError, BatchHeader};
use plimsoll_protocol::ids::{LogIndex, NodeId, Term};
use thiserror::Error;

use super::block::{BLOCK_HEADER_BYTES, BlockBuilder, RECORD_HEADER_BYTES};
use crate::checkpoint::codec::{SEGMENT_BYTES_MAX, put_segment, read_segment, read_segments};
use crate::config::{Durability, GroupOptions};
use crate::entry::{
    Change, Cut, Install, InstalledState, LogEntry, Placed, Reset, Start, Swap, Vote,
};
use crate::fields::{FieldError, FieldReader, FieldWriter};
use crate::random::Salt;
use crate::segment::SegmentId;

/// Kinds of journal records. Numbers are part of the format and never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// One entry: its 96-byte header and its body.
    Entry = 1,
    /// A vote.
    Vote = 2,
    /// Raft's commit mark.
    Committed = 3,
    /// The end of a log was taken away.
    Cut = 4,
    /// Raft's purge mark.
    Purge = 5,
    /// Retention took the beginning of a log away.
    Start = 6,
    /// A log was emptied and goes on elsewhere.
    Reset = 7,
    /// A group was created.
    Create = 8,
    /// A group's options were changed.
    Options = 9,
    /// A group was deleted.
    Delete = 10,
    /// Entries that lie in a segment.
    Placed = 11,
    /// A log was replaced as a whole.
    Install = 12,
    /// Segments were replaced by a compacted one.
    Compacted = 13,
}

impl RecordKind {
    /// The kind with this number.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Entry,
            2 => Self::Vote,
            3 => Self::Committed,
            4 => Self::Cut,
            5 => Self::Purge,
            6 => Self::Start,
            7 => Self::Reset,
            8 => Self::Create,
            9 => Self::Options,
            10 => Self::Delete,
            11 => Self::Placed,
            12 => Self::Install,
            13 => Self::Compacted,
            _ => return None,
        })
    }
}

/// Why the payload of a record in a block with a right checksum makes no sense: a newer build wrote
/// it, or there is a bug.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecordError {
    /// An unknown kind.
    #[error("record kind {0} is unknown")]
    Kind(u8),
    /// A field.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// An entry.
    #[error("entry: {0}")]
    Entry(#[from] BatchError),
    /// The entry's length is not the payload's.
    #[error("an entry of {stored} bytes lies in a record of {actual}")]
    EntryLength {
        /// What the entry says.
        stored: u32,
        /// What there is.
        actual: usize,
    },
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    Change(Change),
    Placed(Placed),
}

/// Bytes of the payload that refers to entries in a segment.
pub(crate) const PLACED_BYTES: usize = 68;

pub(crate) fn push_placed(block: &mut BlockBuilder, group: u64, placed: &Placed) {
    let mut out = Vec::with_capacity(PLACED_BYTES);
    put_placed(&mut out, placed);
    block.push(RecordKind::Placed as u8, group, &[&out]);
}

fn put_placed(out: &mut Vec<u8>, placed: &Placed) {
    out.put_u64(placed.segment.0);
    out.put_u64(placed.salt.0);
    out.put_u64(placed.from);
    out.put_u64(placed.to);
    out.put_u64(placed.first.0);
    out.put_u32(placed.entries);
    out.put_log_id(placed.last);
    out.put_u64(placed.end_offset.0);
}

/// What cannot be is refused: it begins behind it ends, or has other entries than it says.
fn read_placed(reader: &mut FieldReader<'_>) -> Result<Placed, FieldError> {
    let segment = SegmentId(reader.u64("segment")?);
    let salt = Salt(reader.u64("salt")?);
    let from = reader.u64("from")?;
    let at = reader.error("to");
    let to = reader.u64("to")?;
    if to <= from {
        return Err(at);
    }
    let first = LogIndex(reader.u64("first index")?);
    let entries = reader.u32("entries")?;
    let at = reader.error("last");
    let last = reader.log_id("last")?;
    let counted = first.0.checked_add(u64::from(entries));
    if entries == 0 || counted != last.index.0.checked_add(1) || counted.is_none() {
        return Err(at);
    }
    let end_offset = reader.offset("end offset")?;
    Ok(Placed { segment, salt, from, to, first, entries, last, end_offset })
}

fn put_install(out: &mut Vec<u8>, install: &Install) {
    out.put_option(install.last, Vec::put_log_id);
    out.put_option(install.committed, Vec::put_log_id);
    out.put_option(install.purged, Vec::put_log_id);
    out.put_u64(install.start_offset.0);
    out.put_u64(install.start_index.0);
    out.put_u64(install.end_offset.0);
    out.put_u64(install.branch);
    out.put_u64(install.next_segment.0);
    out.put_u32(install.segments.len() as u32);
    install.segments.iter().for_each(|info| put_segment(out, info));
    out.put_option(install.state, |out, state| {
        out.put_u64(state.number.0);
        out.put_log_id(state.applied);
        out.put_u64(state.bytes);
        out.put_u32(state.crc);
    });
}

fn read_install(reader: &mut FieldReader<'_>) -> Result<Install, FieldError> {
    Ok(Install {
        last: reader.option("last", |r| r.log_id("last"))?,
        committed: reader.option("committed", |r| r.log_id("committed"))?,
        purged: reader.option("purged", |r| r.log_id("purged"))?,
        start_offset: reader.offset("start offset")?,
        start_index: LogIndex(reader.u64("start index")?),
        end_offset: reader.offset("end offset")?,
        branch: reader.u64("branch")?,
        next_segment: SegmentId(reader.u64("next segment")?),
        segments: read_segments(reader)?,
        state: reader.option("state", |reader| {
            Ok(InstalledState {
                number: SegmentId(reader.u64("state number")?),
                applied: reader.log_id("applied")?,
                bytes: reader.u64("state bytes")?,
                crc: reader.u32("state checksum")?,
            })
        })?,
    })
}

fn put_swap(out: &mut Vec<u8>, swap: &Swap) {
    out.put_u32(swap.replaced.len() as u32);
    swap.replaced.iter().for_each(|id| out.put_u64(id.0));
    put_segment(out, &swap.segment);
}

fn read_swap(reader: &mut FieldReader<'_>) -> Result<Swap, FieldError> {
    let at = reader.error("replaced");
    let count = reader.u32("replaced")? as usize;
    if count == 0 || count > reader.remaining() / 8 {
        return Err(at);
    }
    let replaced = (0..count).map(|_| reader.u64("replaced").map(SegmentId));
    Ok(Swap { replaced: replaced.collect::<Result<_, _>>()?, segment: read_segment(reader)? })
}

/// Bytes of the payload that replaces so many segments by one, at most.
pub(crate) fn swap_bytes_max(replaced: usize) -> u64 {
    (4 + 8 * replaced + SEGMENT_BYTES_MAX) as u64
}

/// Bytes of the payload that replaces a log by one of so many segments, at most.
pub(crate) fn install_bytes_max(segments: usize) -> u64 {
    let segments = segments as u64 * SEGMENT_BYTES_MAX as u64;
    const FIXED: u64 = 3 * 17 + 5 * 8 + 4 + 1 + 8 + 16 + 8 + 4;
    FIXED + segments
}

/// Bytes of the payload of one entry.
pub(crate) fn entry_payload_bytes(entry: &LogEntry) -> usize {
    BATCH_HEADER_BYTES + entry.body.len()
}

/// Bytes of the largest entry that a block of this size can hold.
pub(crate) fn entry_bytes_max(block_bytes: usize) -> usize {
    block_bytes - BLOCK_HEADER_BYTES - RECORD_HEADER_BYTES
}

pub(crate) fn push_entry(block: &mut BlockBuilder, group: u64, entry: &LogEntry) {
    block.push(RecordKind::Entry as u8, group, &[&entry.header.to_bytes(), &entry.body]);
}

/// The record of a change that is not entries.
pub(crate) fn encode_small(change: &Change, out: &mut Vec<u8>) -> RecordKind {
    out.clear();
    match change {
        Change::Entries(_) => unreachable!("entries are pushed one by one"),
        Change::Create(options) => {
            put_options(out, options);
            RecordKind::Create
        }
        Change::Options(options) => {
            put_options(out, options);
            RecordKind::Options
        }
        Change::Delete => RecordKind::Delete,
        Change::Vote(vote) => {
            put_vote(out, *vote);
            RecordKind::Vote
        }
        Change::Committed(id) => {
            out.put_log_id(*id);
            RecordKind::Committed
        }
        Change::Cut(cut) => {
            out.put_option(cut.last, Vec::put_log_id);
            out.put_u64(cut.end_offset.0);
            out.put_u64(cut.branch);
            RecordKind::Cut
        }
        Change::Purge(id) => {
            out.put_log_id(*id);
            RecordKind::Purge
        }
        Change::Start(start) => {
            out.put_u64(start.offset.0);
            out.put_log_id(start.dropped);
            RecordKind::Start
        }
        Change::Reset(reset) => {
            out.put_log_id(reset.last);
            out.put_u64(reset.offset.0);
            out.put_u64(reset.branch);
            RecordKind::Reset
        }
        Change::Install(install) => {
            put_install(out, install);
            RecordKind::Install
        }
        Change::Compacted(swap) => {
            put_swap(out, swap);
            RecordKind::Compacted
        }
        Change::Roll => unreachable!("it is not journaled"),
    }
}

pub(crate) fn put_options(out: &mut Vec<u8>, options: &GroupOptions) {
    out.put_u8(options.durability as u8);
    out.put_u64(options.segment_bytes);
}

pub(crate) fn read_options(reader: &mut FieldReader<'_>) -> Result<GroupOptions, FieldError> {
    let at = reader.error("durability");
    let durability = match reader.u8("durability")? {
        0 => Durability::Durable,
        1 => Durability::Memory,
        _ => return Err(at),
    };
    Ok(GroupOptions { durability, segment_bytes: reader.u64("segment bytes")? })
}

pub(crate) fn put_vote(out: &mut Vec<u8>, vote: Vote) {
    out.put_u64(vote.term.0);
    out.put_u64(vote.voted_for.0);
    out.put_u8(u8::from(vote.committed));
}

pub(crate) fn read_vote(reader: &mut FieldReader<'_>) -> Result<Vote, FieldError> {
    Ok(Vote {
        term: Term(reader.u64("vote term")?),
        voted_for: NodeId(reader.u64("vote node")?),
        committed: reader.flag("vote committed")?,
    })
}

/// Reads a record back. An entry's body is a slice of `payload`.
pub(crate) fn decode(kind: u8, payload: &Bytes) -> Result<Record, RecordError> {
    let kind = RecordKind::from_u8(kind).ok_or(RecordError::Kind(kind))?;
    let mut reader = FieldReader::new(payload);
    let change = match kind {
        RecordKind::Entry => {
            let header = BatchHeader::parse(payload)?;
            if header.batch_length as usize != payload.len() {
                return Err(RecordError::EntryLength {
                    stored: header.batch_length,
                    actual: payload.len(),
                });
            }
            let body = payload.slice(BATCH_HEADER_BYTES..);
            return Ok(Record::Change(Change::Entries(vec![LogEntry { header, body }])));
        }
        RecordKind::Vote => Change::Vote(read_vote(&mut reader)?),
        RecordKind::Committed => Change::Committed(reader.log_id("committed")?),
        RecordKind::Cut => Change::Cut(Cut {
            last: reader.option("last", |r| r.log_id("last"))?,
            end_offset: reader.offset("end offset")?,
            branch: reader.u64("branch")?,
        }),
        RecordKind::Purge => Change::Purge(reader.log_id("purged")?),
        RecordKind::Start => Change::Start(Start {
            offset: reader.offset("start offset")?,
            dropped: reader.log_id("dropped")?,
        }),
        RecordKind::Reset => Change::Reset(Reset {
            last: reader.log_id("last")?,
            offset: reader.offset("offset")?,
            branch: reader.u64("branch")?,
        }),
        RecordKind::Install => Change::Install(Arc::new(read_install(&mut reader)?)),
        RecordKind::Compacted => Change::Compacted(Arc::new(read_swap(&mut reader)?)),
        RecordKind::Create => Change::Create(read_options(&mut reader)?),
        RecordKind::Options => Change::Options(read_options(&mut reader)?),
        RecordKind::Delete => Change::Delete,
        RecordKind::Placed => {
            let placed = read_placed(&mut reader)?;
            reader.end()?;
            return Ok(Record::Placed(placed));
        }
    };
    reader.end()?;
    Ok(Record::Change(change))
}

#[cfg(test)]
mod tests {
    use plimsoll_protocol::batch::EntryKind;
    use plimsoll_protocol::ids::{LogId, Offset};
    use proptest::prelude::*;

    use super::*;
    use crate::segment::{Compacted, SegmentInfo};

    fn log_id() -> impl Strategy<Value = LogId> {
        (any::<u64>(), any::<u64>()).prop_map(|(t, i)| LogId::new(Term(t), LogIndex(i)))
    }

    fn options() -> impl Strategy<Value = GroupOptions> {
        (any::<bool>(), any::<u64>()).prop_map(|(memory, segment_bytes)| GroupOptions {
            durability: if memory { Durability::Memory } else { Durability::Durable },
            segment_bytes,
        })
    }

    fn small_change() -> impl Strategy<Value = Change> {
        prop_oneof![
            options().prop_map(Change::Create),
            options().prop_map(Change::Options),
            Just(Change::Delete),
            (any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(term, node, committed)| {
                Change::Vote(Vote { term: Term(term), voted_for: NodeId(node), committed })
            }),
            log_id().prop_map(Change::Committed),
            (prop::option::of(log_id()), any::<u64>(), any::<u64>()).prop_map(|(last, o, t)| {
                Change::Cut(Cut { last, end_offset: Offset(o), branch: t })
            }),
            log_id().prop_map(Change::Purge),
            install().prop_map(|install| Change::Install(Arc::new(install))),
            swap().prop_map(|swap| Change::Compacted(Arc::new(swap))),
            (any::<u64>(), log_id())
                .prop_map(|(o, dropped)| Change::Start(Start { offset: Offset(o), dropped })),
            (any::<u64>(), log_id()).prop_map(|(o, last)| Change::Reset(Reset {
                last,
                offset: Offset(o),
                branch: o
            })),
        ]
    }

    fn swap() -> impl Strategy<Value = Swap> {
        (prop::collection::vec(any::<u64>(), 1..5), info()).prop_map(|(ids, segment)| Swap {
            replaced: ids.into_iter().map(SegmentId).collect(),
            segment,
        })
    }

    fn info() -> impl Strategy<Value = SegmentInfo> {
        let info = (any::<[u64; 6]>(), prop::option::of(log_id()), log_id(), any::<i64>());
        info.prop_map(|(n, previous, last, ms)| SegmentInfo {
            id: SegmentId(n[0]),
            base_index: LogIndex(n[1]),
            base_offset: Offset(n[2]),
            previous,
            branch: n[3],
            salt: Salt(n[4]),
            end_bytes: n[5],
            last: Some(last),
            end_offset: Offset(n[2]),
            max_timestamp_ms: ms,
            max_append_ms: ms,
            sealed: true,
            compacted: (n[0] % 2 == 0).then_some(Compacted {
                at_ms: ms,
                horizon_ms: (n[1] % 2 == 0).then_some(ms),
                clean_to: Offset(n[3]),
            }),
        })
    }

    fn install() -> impl Strategy<Value = Install> {
        let state = (any::<u64>(), log_id(), any::<u64>(), any::<u32>());
        let state = state.prop_map(|(number, applied, bytes, crc)| InstalledState {
            number: SegmentId(number),
            applied,
            bytes,
            crc,
        });
        let ids = prop::array::uniform3(prop::option::of(log_id()));
        (ids, any::<[u64; 5]>(), prop::collection::vec(info(), 0..4), prop::option::of(state))
            .prop_map(|(ids, n, segments, state)| Install {
                last: ids[0],
                committed: ids[1],
                purged: ids[2],
                start_offset: Offset(n[0]),
                start_index: LogIndex(n[1]),
                end_offset: Offset(n[2]),
                branch: n[3],
                next_segment: SegmentId(n[4]),
                segments,
                state,
            })
    }

    fn placed() -> impl Strategy<Value = Placed> {
        let lengths = (1..u64::from(u32::MAX), 1..=u32::MAX);
        (any::<[u32; 5]>(), any::<u64>(), lengths).prop_map(|(some, salt, (bytes, entries))| {
            let [segment, from, first, term, end] = some.map(u64::from);
            Placed {
                segment: SegmentId(segment),
                salt: Salt(salt),
                from,
                to: from + bytes,
                first: LogIndex(first),
                entries,
                last: LogId::new(Term(term), LogIndex(first + u64::from(entries) - 1)),
                end_offset: Offset(end),
            }
        })
    }

    proptest! {
        #[test]
        fn a_change_is_read_back(change in small_change()) {
            let mut bytes = Vec::new();
            let kind = encode_small(&change, &mut bytes);
            if let Change::Install(install) = &change {
                prop_assert!(bytes.len() as u64 <= install_bytes_max(install.segments.len()));
            }
            if let Change::Compacted(swap) = &change {
                prop_assert!(bytes.len() as u64 <= swap_bytes_max(swap.replaced.len()));
            }
            prop_assert_eq!(decode(kind as u8, &Bytes::from(bytes)), Ok(Record::Change(change)));
        }

        #[test]
        fn what_refers_to_entries_is_read_back(placed in placed()) {
            let mut bytes = Vec::new();
            put_placed(&mut bytes, &placed);
            prop_assert_eq!(bytes.len(), PLACED_BYTES);
            let read = decode(RecordKind::Placed as u8, &Bytes::from(bytes.clone()));
            prop_assert_eq!(read, Ok(Record::Placed(placed)));
            bytes.push(0);
            prop_assert!(decode(RecordKind::Placed as u8, &Bytes::from(bytes)).is_err());
        }

        #[test]
        fn impossible_places_are_refused(placed in placed(), by in 1..u32::MAX) {
            let more = placed.entries.wrapping_add(by);
            for placed in [Placed { to: placed.from, ..placed }, Placed { entries: more, ..placed }] {
                let mut bytes = Vec::new();
                put_placed(&mut bytes, &placed);
                prop_assert!(decode(RecordKind::Placed as u8, &Bytes::from(bytes)).is_err());
            }
        }

        #[test]
        fn arbitrary_payloads_never_panic(
            kind in 0..16u8,
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = decode(kind, &Bytes::from(bytes));
        }
    }

    #[test]
    fn an_entry_is_read_back_and_must_fill_its_record() {
        let id = LogId::new(Term(3), LogIndex(4));
        let entry = LogEntry::new(EntryKind::Control, id, Bytes::from_static(b"payload"));
        let mut bytes = entry.header.to_bytes().to_vec();
        bytes.extend_from_slice(&entry.body);
        let read = decode(1, &Bytes::from(bytes.clone())).unwrap();
        assert_eq!(read, Record::Change(Change::Entries(vec![entry])));
        bytes.push(0);
        assert!(matches!(decode(1, &Bytes::from(bytes)), Err(RecordError::EntryLength { .. })));
    }
}
