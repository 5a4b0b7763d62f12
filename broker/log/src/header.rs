//! The first block of every file of a store: what kind of file it is, of which format version, and
//! whose.
//!
//! ```text
//!  0   8  magic             one per kind of file
//!  8   4  format version
//! 12   4  length            bytes before the checksum
//! 16  16  cluster id
//! 32   8  node id
//! 40   .. fields of the kind
//!  .   4  CRC-32 of everything before it
//!  .   .. zeros up to 4096
//! ```
//! Everything lies in the first 512-byte sector, so a power failure leaves the old or the new header.

use plimsoll_protocol::ids::NodeId;
use thiserror::Error;

use crate::disk::BLOCK_BYTES;
use crate::fields::{FieldError, FieldReader, FieldWriter};

/// Format version of every file that this build writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 3;

/// Bytes that a header takes at the start of a file.
pub(crate) const HEADER_BYTES: usize = BLOCK_BYTES;

const SECTOR_BYTES: usize = 512;
const LENGTH_AT: usize = 12;

/// Whose data a directory holds. Made on first open, never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The cluster, a random number.
    pub cluster_id: [u8; 16],
    /// The node in the cluster.
    pub node_id: NodeId,
}

/// Why the first bytes of a file are not the header that was expected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// The file begins with something else.
    #[error("it does not begin as such a file does")]
    Magic,
    /// A newer build wrote it.
    #[error("it has format version {found}, this build reads up to {FORMAT_VERSION}")]
    Newer {
        /// The version in the file.
        found: u32,
    },
    /// The checksum is wrong.
    #[error("the checksum of its header is wrong")]
    Checksum,
    /// The checksum is right and the fields make no sense.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// Another node's, or another cluster's.
    #[error("it belongs to another node or cluster")]
    Foreign,
    /// The fields do not fit the file's name.
    #[error("its header does not fit its name")]
    Misplaced,
}

/// A header of [`HEADER_BYTES`] bytes.
pub(crate) fn encode(
    magic: [u8; 8],
    identity: &Identity,
    fields: impl FnOnce(&mut Vec<u8>),
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.put(&magic);
    bytes.put_u32(FORMAT_VERSION);
    bytes.put_u32(0);
    bytes.put(&identity.cluster_id);
    bytes.put_u64(identity.node_id.0);
    fields(&mut bytes);
    assert!(bytes.len() + 4 <= SECTOR_BYTES, "a header fits one sector");
    let length = bytes.len() as u32;
    bytes[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&length.to_le_bytes());
    bytes.put_u32(crc32fast::hash(&bytes));
    bytes.resize(HEADER_BYTES, 0);
    bytes
}

/// Reads a header; the reader stands at the fields of the kind.
pub(crate) fn decode(
    magic: [u8; 8],
    bytes: &[u8],
) -> Result<(Identity, FieldReader<'_>), HeaderError> {
    let mut reader = FieldReader::new(bytes);
    if reader.array::<8>("magic")? != magic {
        return Err(HeaderError::Magic);
    }
    let version = reader.u32("format version")?;
    let length = reader.u32("length")? as usize;
    if version > FORMAT_VERSION {
        return Err(HeaderError::Newer { found: version });
    }
    if version == 0 || length > SECTOR_BYTES - 4 || length + 4 > bytes.len() {
        return Err(HeaderError::Checksum);
    }
    let stored = FieldReader::new(&bytes[length..]).u32("checksum")?;
    if crc32fast::hash(&bytes[..length]) != stored {
        return Err(HeaderError::Checksum);
    }
    let mut reader = FieldReader::new(&bytes[..length]);
    reader.bytes("start", LENGTH_AT + 4)?;
    let cluster_id = reader.array("cluster id")?;
    let node_id = NodeId(reader.u64("node id")?);
    Ok((Identity { cluster_id, node_id }, reader))
}

/// As [`decode`], for a file that must belong to `identity`.
pub(crate) fn decode_own<'a>(
    magic: [u8; 8],
    identity: &Identity,
    bytes: &'a [u8],
) -> Result<FieldReader<'a>, HeaderError> {
    let (found, reader) = decode(magic, bytes)?;
    if found == *identity { Ok(reader) } else { Err(HeaderError::Foreign) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: [u8; 8] = *b"PLMTEST1";
    const OWN: Identity = Identity { cluster_id: [7; 16], node_id: NodeId(1) };

    #[test]
    fn a_header_is_read_back_by_its_owner_only() {
        let bytes = encode(MAGIC, &OWN, |b| b.put_u64(99));
        assert_eq!(bytes.len(), HEADER_BYTES);
        assert_eq!(decode_own(MAGIC, &OWN, &bytes).unwrap().u64("x"), Ok(99));
        let other = Identity { node_id: NodeId(2), ..OWN };
        assert_eq!(decode_own(MAGIC, &other, &bytes).unwrap_err(), HeaderError::Foreign);
        assert_eq!(decode(*b"PLMTEST2", &bytes).unwrap_err(), HeaderError::Magic);
    }

    #[test]
    fn every_flipped_bit_of_the_used_part_is_seen() {
        let bytes = encode(MAGIC, &OWN, |b| b.put_u64(99));
        let used = 40 + 8 + 4;
        for bit in 0..used * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(MAGIC, &bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_version_is_told_apart() {
        let mut bytes = encode(MAGIC, &OWN, |_| {});
        bytes[8] = 4;
        assert_eq!(decode(MAGIC, &bytes).unwrap_err(), HeaderError::Newer { found: 4 });
    }
}
