//! Name and first block of a segment file.

use plimsoll_protocol::ids::{GroupId, LogId, LogIndex, Offset};

use super::{SegmentId, SegmentInfo, SegmentName};
use crate::fields::FieldWriter;
use crate::header::{self, HEADER_BYTES, HeaderError, Identity};
use crate::random::Salt;

pub(crate) const DIRECTORY: &str = "segments";
pub(crate) const EXTENSION: &str = ".segment";
/// Ending of a state that came with an installed log.
pub(crate) const STATE_EXTENSION: &str = ".state";
/// Added to the name of a file that is being made.
pub(crate) const UNFINISHED: &str = ".tmp";
const MAGIC: [u8; 8] = *b"PLMSEGM1";

/// Where the first batch begins.
pub(crate) const FIRST_BATCH_AT: u64 = HEADER_BYTES as u64;

/// What a segment file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Group and segment number.
    pub(crate) name: SegmentName,
    /// Index of its first entry.
    pub(crate) base_index: LogIndex,
    /// Number of records before it.
    pub(crate) base_offset: Offset,
    /// The entry before its first one.
    pub(crate) previous: Option<LogId>,
    /// How often entries had been taken away from the end of the log when it was begun.
    pub(crate) branch: u64,
    /// Starts the checksums of its batch headers.
    pub(crate) salt: Salt,
}

impl SegmentName {
    fn stem(self) -> String {
        format!("{DIRECTORY}/{:016x}-{:016x}", self.group.0, self.id.0)
    }

    /// Path of the segment file.
    pub(crate) fn path(self) -> String {
        self.stem() + EXTENSION
    }

    /// Path of its index file.
    pub(crate) fn index_path(self) -> String {
        self.stem() + super::index::EXTENSION
    }

    /// Path of the state file with this number.
    pub(crate) fn state_path(self) -> String {
        self.stem() + STATE_EXTENSION
    }

    /// Reads a file name with the given ending.
    pub(crate) fn parse(file_name: &str, extension: &str) -> Option<Self> {
        let (group, id) = file_name.strip_suffix(extension)?.split_once('-')?;
        if group.len() != 16 || id.len() != 16 {
            return None;
        }
        let group = GroupId(u64::from_str_radix(group, 16).ok()?);
        let id = SegmentId(u64::from_str_radix(id, 16).ok()?);
        Some(Self { group, id })
    }
}

impl SegmentHeader {
    pub(crate) fn encode(&self, identity: &Identity) -> Vec<u8> {
        header::encode(MAGIC, identity, |out| {
            out.put_u64(self.name.group.0);
            out.put_u64(self.name.id.0);
            out.put_u64(self.base_index.0);
            out.put_u64(self.base_offset.0);
            out.put_option(self.previous, Vec::put_log_id);
            out.put_u64(self.branch);
            out.put_u64(self.salt.0);
        })
    }

    pub(crate) fn decode(
        identity: &Identity,
        name: SegmentName,
        bytes: &[u8],
    ) -> Result<Self, HeaderError> {
        let mut reader = header::decode_own(MAGIC, identity, bytes)?;
        let group = GroupId(reader.u64("group")?);
        let id = SegmentId(reader.u64("segment")?);
        let header = Self {
            name: SegmentName { group, id },
            base_index: LogIndex(reader.u64("base index")?),
            base_offset: reader.offset("base offset")?,
            previous: reader.option("previous", |r| r.log_id("previous"))?,
            branch: reader.u64("branch")?,
            salt: Salt(reader.u64("salt")?),
        };
        reader.end()?;
        if header.name == name { Ok(header) } else { Err(HeaderError::Misplaced) }
    }

    /// The segment while it is empty.
    pub(crate) fn info(&self) -> SegmentInfo {
        SegmentInfo {
            id: self.name.id,
            base_index: self.base_index,
            base_offset: self.base_offset,
            previous: self.previous,
            branch: self.branch,
            salt: self.salt,
            end_bytes: FIRST_BATCH_AT,
            last: None,
            end_offset: self.base_offset,
            max_timestamp_ms: i64::MIN,
            max_append_ms: i64::MIN,
            sealed: false,
            compacted: None,
        }
    }

    /// The header of the segment that `info` speaks of.
    pub(crate) fn of(group: GroupId, info: &SegmentInfo) -> Self {
        Self {
            name: SegmentName { group, id: info.id },
            base_index: info.base_index,
            base_offset: info.base_offset,
            previous: info.previous,
            branch: info.branch,
            salt: info.salt,
        }
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_protocol::ids::{NodeId, Term};

    use super::*;

    #[test]
    fn a_name_is_read_back() {
        let name = SegmentName { group: GroupId(0xab), id: SegmentId(3) };
        assert_eq!(name.path(), "segments/00000000000000ab-0000000000000003.segment");
        let file_name = name.path().split_off(DIRECTORY.len() + 1);
        assert_eq!(SegmentName::parse(&file_name, EXTENSION), Some(name));
        assert_eq!(SegmentName::parse("ab-3.segment", EXTENSION), None);
        assert_eq!(SegmentName::parse(&file_name, ".index"), None);
    }

    #[test]
    fn a_header_is_read_back_under_its_own_name_only() {
        let identity = Identity { cluster_id: [1; 16], node_id: NodeId(4) };
        let header = SegmentHeader {
            name: SegmentName { group: GroupId(9), id: SegmentId(2) },
            base_index: LogIndex(10),
            base_offset: Offset(77),
            previous: Some(LogId::new(Term(3), LogIndex(9))),
            branch: 2,
            salt: Salt(0xdead),
        };
        let bytes = header.encode(&identity);
        assert_eq!(SegmentHeader::decode(&identity, header.name, &bytes), Ok(header));
        assert_eq!(SegmentHeader::of(header.name.group, &header.info()), header);
        let other = SegmentName { group: GroupId(8), ..header.name };
        assert_eq!(SegmentHeader::decode(&identity, other, &bytes), Err(HeaderError::Misplaced));
    }
}
