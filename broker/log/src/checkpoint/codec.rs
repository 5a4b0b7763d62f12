//! The bytes of a checkpoint file: a header block, then one piece per group in ascending order.
//!
//! ```text
//! header fields: checkpoint seq u64, closed before journal file? u64,
//!                journal position (file u64, offset u64, next block u64),
//!                groups u64, body bytes u64, CRC-32 of the body u32
//! piece:         length u32, CRC-32 of the rest u32, group u64, payload
//! payload:       options, vote?, committed?, purged?, last?, start offset, start index, end offset,
//!                branch, next segment, segments u32, segment*, state? (log id, length u32, bytes)
//! ```
//! A piece is independent of the file it lies in, so that the piece of a group that did not change
//! goes into the next checkpoint as it is.

use std::ops::Range;

use plimsoll_protocol::ids::{GroupId, LogId, LogIndex};

use super::{CheckpointSeq, GroupRecord};
use crate::entry::Marks;
use crate::fields::{FieldError, FieldReader, FieldWriter};
use crate::header::{self, HeaderError, Identity};
use crate::journal::record::{put_options, put_vote, read_options, read_vote};
use crate::journal::{BlockSeq, FileSeq, JournalPosition};
use crate::random::Salt;
use crate::segment::{Compacted, SegmentId, SegmentInfo};

const MAGIC: [u8; 8] = *b"PLMCKPT1";
const PIECE_HEADER_BYTES: usize = 16;
/// Smallest encoding of a segment, to check a count before it is believed.
const SEGMENT_BYTES_MIN: usize = 75;
/// Largest encoding of a segment.
pub(crate) const SEGMENT_BYTES_MAX: usize = SEGMENT_BYTES_MIN + 2 * 16 + COMPACTED_BYTES_MAX;
/// What a compacted segment adds.
pub(crate) const COMPACTED_BYTES_MAX: usize = 8 + 9 + 8;

/// Bits of a segment's flags.
const SEALED: u8 = 1;
const COMPACTED: u8 = 2;

/// What a checkpoint says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CheckpointHeader {
    /// Its number.
    pub(crate) seq: CheckpointSeq,
    /// The store was closed right after it, and the next journal file would have had this number:
    /// while none has, nothing came later.
    pub(crate) closed_before: Option<FileSeq>,
    /// The journal is needed from here on.
    pub(crate) position: JournalPosition,
    /// How many groups it holds.
    pub(crate) groups: u64,
    /// Bytes after the header.
    pub(crate) body_bytes: u64,
    /// Checksum of those bytes.
    pub(crate) body_crc: u32,
}

impl CheckpointHeader {
    pub(crate) fn encode(&self, identity: &Identity) -> Vec<u8> {
        header::encode(MAGIC, identity, |out| {
            out.put_u64(self.seq.0);
            out.put_option(self.closed_before, |out, seq| out.put_u64(seq.0));
            out.put_u64(self.position.file.0);
            out.put_u64(self.position.offset);
            out.put_u64(self.position.next_block.0);
            out.put_u64(self.groups);
            out.put_u64(self.body_bytes);
            out.put_u32(self.body_crc);
        })
    }

    pub(crate) fn decode(identity: &Identity, bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut reader = header::decode_own(MAGIC, identity, bytes)?;
        let header = Self {
            seq: CheckpointSeq(reader.u64("seq")?),
            closed_before: reader.option("closed", |r| r.u64("closed"))?.map(FileSeq),
            position: JournalPosition {
                file: FileSeq(reader.u64("journal file")?),
                offset: reader.u64("journal offset")?,
                next_block: BlockSeq(reader.u64("next block")?),
            },
            groups: reader.u64("groups")?,
            body_bytes: reader.u64("body bytes")?,
            body_crc: reader.u32("body checksum")?,
        };
        reader.end()?;
        Ok(header)
    }
}

/// Appends the piece of a group.
pub(crate) fn put_piece(out: &mut Vec<u8>, record: &GroupRecord, state: Option<(LogId, &[u8])>) {
    let start = out.len();
    out.put(&[0; PIECE_HEADER_BYTES - 8]);
    out.put_u64(record.group.0);
    put_marks(out, &record.marks);
    out.put_u64(record.next_segment.0);
    out.put_u32(record.segments.len() as u32);
    for segment in &record.segments {
        put_segment(out, segment);
    }
    out.put_option(state, |out, (applied, bytes)| {
        out.put_log_id(applied);
        out.put_u32(u32::try_from(bytes.len()).expect("a state is below 4 GiB"));
        out.put(bytes);
    });
    let length = (out.len() - start) as u32;
    let crc = crc32fast::hash(&out[start + 8..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// A group's piece, as far as it is read when a store is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) record: GroupRecord,
    /// Last entry that is folded into the state, and where the state lies in the piece.
    pub(crate) state: Option<(LogId, Range<usize>)>,
}

/// Size and group of the piece that begins here.
pub(crate) fn piece_extent(bytes: &[u8]) -> Result<(usize, GroupId), FieldError> {
    let mut reader = FieldReader::new(bytes);
    let length = reader.u32("piece length")? as usize;
    reader.u32("piece checksum")?;
    let group = GroupId(reader.u64("group")?);
    if length < PIECE_HEADER_BYTES || length > bytes.len() {
        return Err(FieldError { field: "piece length", position: 0 });
    }
    Ok((length, group))
}

/// Checks the length and the checksum of a piece, and gives its group.
pub(crate) fn check_piece(piece: &[u8]) -> Result<GroupId, FieldError> {
    let mut reader = FieldReader::new(piece);
    let length = reader.u32("piece length")? as usize;
    let crc = reader.u32("piece checksum")?;
    let group = GroupId(reader.u64("group")?);
    if length != piece.len() || crc32fast::hash(&piece[8..]) != crc {
        return Err(FieldError { field: "piece checksum", position: 4 });
    }
    Ok(group)
}

/// Reads a whole piece.
pub(crate) fn read_piece(piece: &[u8]) -> Result<Piece, FieldError> {
    let group = check_piece(piece)?;
    let mut reader = FieldReader::new(piece);
    reader.bytes("piece header", PIECE_HEADER_BYTES)?;
    let marks = read_marks(&mut reader)?;
    let next_segment = SegmentId(reader.u64("next segment")?);
    let segments = read_segments(&mut reader)?;
    let state = reader.option("state", |reader| {
        let applied = reader.log_id("applied")?;
        let length = reader.u32("state length")? as usize;
        let start = piece.len() - reader.remaining();
        reader.bytes("state", length)?;
        Ok((applied, start..start + length))
    })?;
    reader.end()?;
    Ok(Piece { record: GroupRecord { group, marks, next_segment, segments }, state })
}

fn put_marks(out: &mut Vec<u8>, marks: &Marks) {
    put_options(out, &marks.options);
    out.put_option(marks.vote, put_vote);
    out.put_option(marks.committed, Vec::put_log_id);
    out.put_option(marks.purged, Vec::put_log_id);
    out.put_option(marks.last, Vec::put_log_id);
    out.put_u64(marks.start_offset.0);
    out.put_u64(marks.start_index.0);
    out.put_u64(marks.end_offset.0);
    out.put_u64(marks.branch);
}

fn read_marks(reader: &mut FieldReader<'_>) -> Result<Marks, FieldError> {
    Ok(Marks {
        options: read_options(reader)?,
        vote: reader.option("vote", read_vote)?,
        committed: reader.option("committed", |r| r.log_id("committed"))?,
        purged: reader.option("purged", |r| r.log_id("purged"))?,
        last: reader.option("last", |r| r.log_id("last"))?,
        start_offset: reader.offset("start offset")?,
        start_index: LogIndex(reader.u64("start index")?),
        end_offset: reader.offset("end offset")?,
        branch: reader.u64("branch")?,
    })
}

pub(crate) fn put_segment(out: &mut Vec<u8>, info: &SegmentInfo) {
    out.put_u64(info.id.0);
    out.put_u64(info.base_index.0);
    out.put_u64(info.base_offset.0);
    out.put_option(info.previous, Vec::put_log_id);
    out.put_u64(info.branch);
    out.put_u64(info.salt.0);
    out.put_u64(info.end_bytes);
    out.put_option(info.last, Vec::put_log_id);
    out.put_u64(info.end_offset.0);
    out.put_i64(info.max_timestamp_ms);
    out.put_i64(info.max_append_ms);
    let compacted = if info.compacted.is_some() { COMPACTED } else { 0 };
    out.put_u8(if info.sealed { SEALED } else { 0 } | compacted);
    if let Some(compacted) = &info.compacted {
        put_compacted(out, compacted);
    }
}

pub(crate) fn put_compacted(out: &mut Vec<u8>, compacted: &Compacted) {
    out.put_i64(compacted.at_ms);
    out.put_option(compacted.horizon_ms, Vec::put_i64);
    out.put_u64(compacted.clean_to.0);
}

pub(crate) fn read_compacted(reader: &mut FieldReader<'_>) -> Result<Compacted, FieldError> {
    Ok(Compacted {
        at_ms: reader.i64("compacted")?,
        horizon_ms: reader.option("horizon", |r| r.i64("horizon"))?,
        clean_to: reader.offset("clean to")?,
    })
}

/// Reads a count and so many segments.
pub(crate) fn read_segments(reader: &mut FieldReader<'_>) -> Result<Vec<SegmentInfo>, FieldError> {
    let count = reader.u32("segments")? as usize;
    if count > reader.remaining() / SEGMENT_BYTES_MIN {
        return Err(reader.error("segments"));
    }
    (0..count).map(|_| read_segment(reader)).collect()
}

pub(crate) fn read_segment(reader: &mut FieldReader<'_>) -> Result<SegmentInfo, FieldError> {
    let mut info = SegmentInfo {
        id: SegmentId(reader.u64("segment")?),
        base_index: LogIndex(reader.u64("base index")?),
        base_offset: reader.offset("base offset")?,
        previous: reader.option("previous", |r| r.log_id("previous"))?,
        branch: reader.u64("branch")?,
        salt: Salt(reader.u64("salt")?),
        end_bytes: reader.u64("end")?,
        last: reader.option("last", |r| r.log_id("last"))?,
        end_offset: reader.offset("end offset")?,
        max_timestamp_ms: reader.i64("max timestamp")?,
        max_append_ms: reader.i64("max append time")?,
        sealed: false,
        compacted: None,
    };
    // Before format version 3 this was one flag, and a piece of that time is carried over as it is.
    let at = reader.error("flags");
    let flags = reader.u8("flags")?;
    if flags & !(SEALED | COMPACTED) != 0 {
        return Err(at);
    }
    info.sealed = flags & SEALED != 0;
    if flags & COMPACTED != 0 {
        info.compacted = Some(read_compacted(reader)?);
    }
    Ok(info)
}

#[cfg(test)]
mod tests {
    use plimsoll_protocol::ids::{NodeId, Offset, Term};
    use proptest::prelude::*;

    use super::*;
    use crate::config::{Durability, GroupOptions};
    use crate::entry::Vote;

    fn log_id() -> impl Strategy<Value = LogId> {
        (any::<u64>(), 0..u64::MAX).prop_map(|(t, i)| LogId::new(Term(t), LogIndex(i)))
    }

    fn segment() -> impl Strategy<Value = SegmentInfo> {
        (
            (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>()),
            (prop::option::of(log_id()), prop::option::of(log_id())),
            (any::<u64>(), any::<i64>(), any::<i64>(), any::<bool>()),
        )
            .prop_map(|(a, (previous, last), b)| SegmentInfo {
                id: SegmentId(a.0),
                base_index: LogIndex(a.1),
                base_offset: Offset(a.2),
                previous,
                branch: a.4 / 3,
                salt: Salt(a.3),
                end_bytes: a.4,
                last,
                end_offset: Offset(b.0),
                max_timestamp_ms: b.1,
                max_append_ms: b.2,
                sealed: b.3,
                compacted: b.3.then_some(Compacted {
                    at_ms: b.1,
                    horizon_ms: (b.2 > 0).then_some(b.2),
                    clean_to: Offset(a.1),
                }),
            })
    }

    fn record() -> impl Strategy<Value = GroupRecord> {
        let ids = prop::array::uniform3(prop::option::of(log_id()));
        let numbers = prop::array::uniform6(any::<u64>());
        (ids, numbers, any::<bool>(), prop::collection::vec(segment(), 0..4)).prop_map(
            |(ids, n, flag, segments)| GroupRecord {
                group: GroupId(n[0]),
                marks: Marks {
                    options: GroupOptions {
                        durability: if flag { Durability::Memory } else { Durability::Durable },
                        segment_bytes: n[1],
                    },
                    vote: ids[0].map(|id| Vote {
                        term: id.term,
                        voted_for: NodeId(n[2]),
                        committed: flag,
                    }),
                    committed: ids[0],
                    purged: ids[1],
                    last: ids[2],
                    start_offset: Offset(n[3]),
                    start_index: LogIndex(n[4]),
                    end_offset: Offset(n[5]),
                    branch: n[5] / 2,
                },
                next_segment: SegmentId(n[2]),
                segments,
            },
        )
    }

    proptest! {
        #[test]
        fn a_piece_is_read_back(
            record in record(),
            state in prop::option::of((log_id(), prop::collection::vec(any::<u8>(), 0..50))),
        ) {
            let mut bytes = vec![9; 3];
            put_piece(&mut bytes, &record, state.as_ref().map(|(id, bytes)| (*id, bytes.as_slice())));
            let bytes = &bytes[3..];
            prop_assert_eq!(piece_extent(bytes), Ok((bytes.len(), record.group)));
            let piece = read_piece(bytes).unwrap();
            prop_assert_eq!(piece.record, record);
            let read = piece.state.map(|(id, range)| (id, bytes[range].to_vec()));
            prop_assert_eq!(read, state);
        }

        #[test]
        fn a_damaged_piece_is_refused(record in record(), bit in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            put_piece(&mut bytes, &record, None);
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(read_piece(&bytes).is_err());
        }

        #[test]
        fn arbitrary_pieces_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = bytes;
            let _ = piece_extent(&bytes);
            let _ = read_piece(&bytes);
            if bytes.len() > PIECE_HEADER_BYTES {
                // With a right length and checksum the fields are looked at too.
                let (length, crc) = (bytes.len() as u32, crc32fast::hash(&bytes[8..]));
                bytes[0..4].copy_from_slice(&length.to_le_bytes());
                bytes[4..8].copy_from_slice(&crc.to_le_bytes());
                let _ = read_piece(&bytes);
            }
        }
    }

    #[test]
    fn the_smallest_segment_has_the_size_that_counts_are_checked_against() {
        let header = crate::segment::header::SegmentHeader {
            name: crate::segment::SegmentName { group: GroupId(0), id: SegmentId(0) },
            base_index: LogIndex(0),
            base_offset: Offset(0),
            previous: None,
            branch: 0,
            salt: Salt(0),
        };
        let mut bytes = Vec::new();
        put_segment(&mut bytes, &header.info());
        assert_eq!(bytes.len(), SEGMENT_BYTES_MIN);
    }
}
