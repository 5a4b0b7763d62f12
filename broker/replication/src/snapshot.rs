//! What a snapshot of a group is: its folded state. The references to sealed segments, which let a
//! new replica take the records as whole files, get their place behind it.
//!
//! ```text
//! version u8 = 1 | state_bytes u32 | state | segments u32 = 0
//! ```
//! All numbers little-endian.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

const VERSION: u8 = 1;

/// Why bytes are not a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// The bytes end early or go on too long.
    #[error("the snapshot is damaged")]
    Malformed,
    /// Written by a newer build.
    #[error("the snapshot has version {version}; this build reads version {VERSION}")]
    UnknownVersion {
        /// The version found.
        version: u8,
    },
    /// It refers to segments, which this build does not transfer.
    #[error("the snapshot refers to {segments} segments; this build takes none")]
    HasSegments {
        /// How many.
        segments: u32,
    },
}

/// A snapshot of a group.
#[derive(Clone, PartialEq, Eq)]
pub struct GroupSnapshot {
    /// The encoded fold.
    pub state: Bytes,
}

impl fmt::Debug for GroupSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupSnapshot({} bytes of state)", self.state.len())
    }
}

impl GroupSnapshot {
    /// The snapshot as bytes.
    ///
    /// # Panics
    /// When the state is 4 GiB or larger; it is bounded far below.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(1 + 4 + self.state.len() + 4);
        out.put_u8(VERSION);
        out.put_u32_le(u32::try_from(self.state.len()).expect("a group's state is bounded"));
        out.put_slice(&self.state);
        out.put_u32_le(0);
        out.freeze()
    }

    /// Reads what [`GroupSnapshot::encode`] wrote. The state is a slice of `bytes`.
    ///
    /// # Errors
    /// When the bytes are no snapshot of a version this build knows.
    pub fn decode(mut bytes: Bytes) -> Result<Self, SnapshotError> {
        match bytes.try_get_u8().map_err(|_| SnapshotError::Malformed)? {
            VERSION => {}
            version => return Err(SnapshotError::UnknownVersion { version }),
        }
        let length = bytes.try_get_u32_le().map_err(|_| SnapshotError::Malformed)? as usize;
        if length > bytes.len() {
            return Err(SnapshotError::Malformed);
        }
        let state = bytes.split_to(length);
        match bytes.try_get_u32_le().map_err(|_| SnapshotError::Malformed)? {
            0 if bytes.is_empty() => Ok(Self { state }),
            0 => Err(SnapshotError::Malformed),
            segments => Err(SnapshotError::HasSegments { segments }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshot_is_read_back_as_it_was_written() {
        let snapshot = GroupSnapshot { state: Bytes::from_static(b"state") };
        let bytes = snapshot.encode();
        assert_eq!(GroupSnapshot::decode(bytes.clone()).unwrap(), snapshot);
        for end in 0..bytes.len() {
            assert!(GroupSnapshot::decode(bytes.slice(..end)).is_err());
        }
    }
}
