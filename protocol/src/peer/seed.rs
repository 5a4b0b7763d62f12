//! Segments of a log as files: one transfer on a stream of its own.
//!
//! `SeedBegin` is answered by [`SeedHeld`], each piece (in order, up to a window ahead) by
//! [`SeedTaken`], `SeedEnd` by [`SeedInstalled`]. An error frame with a
//! [`super::PeerFailure`] ends the transfer.

use crate::ids::{GroupId, LogId, LogIndex, Offset};
use crate::wire::wire_struct;

wire_struct! {
    /// Begins a transfer: what will be sent.
    pub struct SeedBegin {
        /// The group.
        pub group: GroupId,
        /// The sender's epoch of the catalog.
        pub epoch: u64,
        /// The first offset that is kept.
        pub start_offset: Offset,
        /// Offset after the last record.
        pub end_offset: Offset,
        /// The last entry.
        pub last: LogId,
        /// The segments, oldest first.
        pub segments: Vec<SeedSegment>,
    }
}

wire_struct! {
    /// One segment of [`SeedBegin`].
    pub struct SeedSegment {
        /// Index of its first entry.
        pub base_index: LogIndex,
        /// Offset of its first record.
        pub base_offset: Offset,
        /// The entry before its first.
        pub previous: Option<LogId>,
        /// Its last entry.
        pub last: LogId,
        /// Offset after its last record.
        pub end_offset: Offset,
        /// What its header checksums are started from.
        pub salt: u64,
        /// Its batches, in bytes.
        pub bytes: u64,
        /// Where compaction wrote it: records before this offset were compared by key. A batch may then stand
        /// for several entries. 0 where every entry is there, which is what nodes send that know of no
        /// compaction.
        pub clean_to: Offset,
        /// Where compaction wrote it: from when on its first tombstone may go, in milliseconds since 1970
        /// (UTC); 0 where it has none.
        pub horizon_ms: i64,
    }
}

wire_struct! {
    /// The answer to [`SeedBegin`]: what the receiver holds of each segment from an attempt before.
    pub struct SeedHeld {
        /// Bytes per segment, in the order of the segments.
        pub bytes: Vec<u64>,
    }
}

wire_struct! {
    /// A piece of a segment; its bytes are the payload.
    pub struct SeedPiece {
        /// Position of the segment in [`SeedBegin`].
        pub segment: u32,
        /// Where in the segment's batches the piece begins, in bytes.
        pub at: u64,
        /// CRC-32 (IEEE) of the payload.
        pub crc: u32,
    }
}

wire_struct! {
    /// The answer to [`SeedPiece`]: credit for as many bytes.
    pub struct SeedTaken {
        /// Bytes of the piece.
        pub bytes: u32,
    }
}

wire_struct! {
    /// Ends a transfer; the state of the group's fold is the payload.
    pub struct SeedEnd {
        /// The last entry that the state contains.
        pub applied: LogId,
        /// CRC-32 (IEEE) of the payload.
        pub crc: u32,
    }
}

wire_struct! {
    /// The answer to [`SeedEnd`]. Invariant: files, state and install record are durable before it is
    /// sent.
    pub struct SeedInstalled {
        /// The last entry that is held.
        pub last: LogId,
    }
}
