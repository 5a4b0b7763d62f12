//! What a log that is sent consists of.

use plimsoll_protocol::ids::{LogId, LogIndex, Offset};
use thiserror::Error;

use crate::checkpoint::codec::{SEGMENT_BYTES_MAX, put_compacted, read_compacted};
use crate::fields::{FieldError, FieldReader, FieldWriter};
use crate::segment::header::FIRST_BATCH_AT;
use crate::segment::{Compacted, SegmentInfo};

/// Most segments that one manifest may have; a group of 128 TiB in segments of the default size.
pub const MANIFEST_SEGMENTS_MAX: usize = 1 << 20;

/// Smallest encoding of a segment, to check a count before it is believed.
const SEGMENT_ENCODED_MIN: usize = 8 + 8 + 1 + 16 + 8 + 8 + 8;
/// The same of what is said of a compacted segment behind them.
const COMPACTED_ENCODED_MIN: usize = 4 + 8 + 1 + 8;

/// One segment: batches back to back, the last one ending with `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentManifest {
    /// Index of its first entry.
    pub base_index: LogIndex,
    /// Number of records before it.
    pub base_offset: Offset,
    /// The entry before its first one.
    pub previous: Option<LogId>,
    /// Its last entry.
    pub last: LogId,
    /// Offset after its last record.
    pub end_offset: Offset,
    /// The checksums of its batch headers start from this.
    pub salt: u64,
    /// Bytes of its batches.
    pub bytes: u64,
    /// Set where records may be missing: a batch may then stand for several entries.
    pub compacted: Option<Compacted>,
}

/// A whole log, up to one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogManifest {
    /// Ascending, without gaps.
    pub segments: Vec<SegmentManifest>,
    /// First offset that can be read.
    pub start_offset: Offset,
    /// The last entry.
    pub last: LogId,
    /// Offset after its records.
    pub end_offset: Offset,
}

/// Why a manifest cannot be one of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ManifestError {
    /// Its bytes.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// It contradicts itself.
    #[error("segment {segment} does not continue the one before it, or is empty")]
    Segment {
        /// Which, from 0.
        segment: usize,
    },
    /// The segments are another log than it says.
    #[error("it begins or ends elsewhere than its segments")]
    Bounds,
    /// More segments than a log can have, or than the journal of this node can name.
    #[error("it has {segments} segments; {limit} are possible")]
    Segments {
        /// How many.
        segments: usize,
        /// The most.
        limit: usize,
    },
}

impl LogManifest {
    /// The entry before the first one that is sent.
    #[must_use]
    pub fn previous(&self) -> Option<LogId> {
        self.segments.first().map_or(Some(self.last), |first| first.previous)
    }

    /// The last entry of the last segment that is compacted.
    #[must_use]
    pub fn compacted_upto(&self) -> Option<LogId> {
        let compacted = self.segments.iter().rfind(|segment| segment.compacted.is_some());
        compacted.map(|segment| segment.last)
    }

    /// Bytes of all batches.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Whether it is one log without gaps.
    ///
    /// # Errors
    /// What contradicts what.
    pub fn check(&self) -> Result<(), ManifestError> {
        let limit = MANIFEST_SEGMENTS_MAX;
        if self.segments.len() > limit {
            return Err(ManifestError::Segments { segments: self.segments.len(), limit });
        }
        let mut last = self.previous();
        let mut offset = None;
        for (at, segment) in self.segments.iter().enumerate() {
            let next = last.map_or(Some(0), |last| last.index.0.checked_add(1));
            let follows = Some(segment.base_index.0) == next
                && segment.previous == last
                && offset.is_none_or(|offset| offset == segment.base_offset)
                && segment.last.index >= segment.base_index
                && segment.last.index.0 < u64::MAX
                && last.is_none_or(|last| segment.last.term >= last.term)
                && segment.end_offset >= segment.base_offset
                && segment.compacted.is_none_or(|compacted| {
                    (segment.base_offset..=segment.end_offset).contains(&compacted.clean_to)
                })
                && segment.bytes > 0
                && segment.bytes < u64::MAX - FIRST_BATCH_AT;
            if !follows {
                return Err(ManifestError::Segment { segment: at });
            }
            last = Some(segment.last);
            offset = Some(segment.end_offset);
        }
        let first_offset = self.segments.first().map_or(self.end_offset, |s| s.base_offset);
        let fits = last == Some(self.last)
            && offset.unwrap_or(self.end_offset) == self.end_offset
            && (first_offset..=self.end_offset).contains(&self.start_offset)
            && self.segments.iter().try_fold(0u64, |sum, s| sum.checked_add(s.bytes)).is_some();
        if fits { Ok(()) } else { Err(ManifestError::Bounds) }
    }

    /// Its bytes, to be sent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.segments.len() * SEGMENT_BYTES_MAX);
        out.put_u64(self.start_offset.0);
        out.put_log_id(self.last);
        out.put_u64(self.end_offset.0);
        out.put_u32(u32::try_from(self.segments.len()).expect("a log has fewer segments"));
        for segment in &self.segments {
            out.put_u64(segment.base_index.0);
            out.put_u64(segment.base_offset.0);
            out.put_option(segment.previous, Vec::put_log_id);
            out.put_log_id(segment.last);
            out.put_u64(segment.end_offset.0);
            out.put_u64(segment.salt);
            out.put_u64(segment.bytes);
        }
        // A node that knows of no compacted segments refuses these bytes, as it would have to refuse the
        // segments; one without them is as it always was.
        let compacted = self.segments.iter().enumerate();
        let compacted = compacted.filter_map(|(at, segment)| Some((at, segment.compacted?)));
        if compacted.clone().next().is_some() {
            out.put_u32(compacted.clone().count() as u32);
            for (at, compacted) in compacted {
                out.put_u32(at as u32);
                put_compacted(&mut out, &compacted);
            }
        }
        out
    }

    /// Reads a manifest that was sent, and checks it.
    ///
    /// # Errors
    /// When the bytes are not those of a manifest, or it contradicts itself.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut reader = FieldReader::new(bytes);
        let start_offset = reader.offset("start offset")?;
        let last = reader.log_id("last")?;
        let end_offset = reader.offset("end offset")?;
        let count = reader.u32("segments")? as usize;
        if count > reader.remaining() / SEGMENT_ENCODED_MIN {
            return Err(reader.error("segments").into());
        }
        let mut segments = (0..count)
            .map(|_| read_segment(&mut reader))
            .collect::<Result<Vec<_>, FieldError>>()?;
        if reader.remaining() > 0 {
            read_all_compacted(&mut reader, &mut segments)?;
        }
        reader.end()?;
        let manifest = Self { segments, start_offset, last, end_offset };
        manifest.check()?;
        Ok(manifest)
    }
}

/// Reads which segments are compacted, ascending.
fn read_all_compacted(
    reader: &mut FieldReader<'_>,
    segments: &mut [SegmentManifest],
) -> Result<(), FieldError> {
    let at = reader.error("compacted segments");
    let count = reader.u32("compacted segments")? as usize;
    if count == 0 || count > reader.remaining() / COMPACTED_ENCODED_MIN {
        return Err(at);
    }
    let mut next = 0;
    for _ in 0..count {
        let at = reader.error("compacted segment");
        let number = reader.u32("compacted segment")? as usize;
        let segment = segments.get_mut(number).filter(|_| number >= next).ok_or(at)?;
        segment.compacted = Some(read_compacted(reader)?);
        next = number + 1;
    }
    Ok(())
}

fn read_segment(reader: &mut FieldReader<'_>) -> Result<SegmentManifest, FieldError> {
    Ok(SegmentManifest {
        base_index: LogIndex(reader.u64("base index")?),
        base_offset: reader.offset("base offset")?,
        previous: reader.option("previous", |r| r.log_id("previous"))?,
        last: reader.log_id("last")?,
        end_offset: reader.offset("end offset")?,
        salt: reader.u64("salt")?,
        bytes: reader.u64("bytes")?,
        compacted: None,
    })
}

impl SegmentManifest {
    /// A segment that is not empty.
    pub(crate) fn of(info: &SegmentInfo, last: LogId) -> Self {
        Self {
            base_index: info.base_index,
            base_offset: info.base_offset,
            previous: info.previous,
            last,
            end_offset: info.end_offset,
            salt: info.salt.0,
            bytes: info.end_bytes - FIRST_BATCH_AT,
            compacted: info.compacted,
        }
    }

    /// How many entries it has, or stands for.
    pub(crate) fn entries(&self) -> u64 {
        self.last.index.0 - self.base_index.0 + 1
    }

    /// Whether it is the beginning of the same segment, which may have grown since.
    pub(crate) fn is_same_file(&self, other: &Self) -> bool {
        self.salt == other.salt
            && self.base_index == other.base_index
            && self.base_offset == other.base_offset
            && self.previous == other.previous
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_protocol::ids::Term;
    use proptest::prelude::*;

    use super::*;

    fn manifest() -> impl Strategy<Value = LogManifest> {
        let segment = (1..50u64, 0..90u64, 1..5000u64, any::<u64>(), 0..3u64);
        (0..3u64, prop::collection::vec(segment, 0..6)).prop_map(|(first, parts)| {
            let mut last = first.checked_sub(1).map(|index| LogId::new(Term(1), LogIndex(index)));
            let mut offset = Offset(first * 7);
            let start_offset = offset;
            let mut segments = Vec::new();
            for (entries, records, bytes, salt, term) in parts {
                let base_index = LogIndex(last.map_or(0, |last| last.index.0 + 1));
                let term = Term(last.map_or(0, |last| last.term.0) + term);
                let end = LogId::new(term, LogIndex(base_index.0 + entries - 1));
                segments.push(SegmentManifest {
                    base_index,
                    base_offset: offset,
                    previous: last,
                    last: end,
                    end_offset: Offset(offset.0 + records),
                    salt,
                    bytes,
                    compacted: (salt % 2 == 0).then_some(Compacted {
                        at_ms: salt as i64,
                        horizon_ms: (salt % 4 == 0).then_some(bytes as i64),
                        clean_to: Offset(offset.0 + records),
                    }),
                });
                last = Some(end);
                offset = Offset(offset.0 + records);
            }
            let last = last.unwrap_or(LogId::new(Term(2), LogIndex(9)));
            LogManifest { segments, start_offset, last, end_offset: offset }
        })
    }

    proptest! {
        #[test]
        fn manifest_is_read_back(manifest in manifest()) {
            let bytes = manifest.encode();
            prop_assert_eq!(LogManifest::decode(&bytes), Ok(manifest));
            prop_assert!(LogManifest::decode(&bytes[..bytes.len() - 1]).is_err());
        }

        #[test]
        fn manifest_with_a_gap_is_refused(manifest in manifest(), at in any::<prop::sample::Index>()) {
            prop_assume!(manifest.segments.len() > 1);
            let at = at.index(manifest.segments.len() - 1) + 1;
            let mut bad = manifest.clone();
            bad.segments[at].base_index.0 += 1;
            prop_assert!(bad.check().is_err());
            let mut bad = manifest.clone();
            bad.segments[at].base_offset.0 += 1;
            prop_assert!(bad.check().is_err());
            let mut bad = manifest.clone();
            bad.segments.remove(at);
            prop_assert!(bad.check().is_err());
            let mut bad = manifest;
            bad.segments[at].bytes = 0;
            prop_assert!(bad.check().is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = LogManifest::decode(&bytes);
        }
    }
}
