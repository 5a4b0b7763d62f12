//! Entries of a group from its leader, and the answers.
//!
//! The body says which session, which leader, what comes before; the entries are the frame's payload,
//! each as it lies in the log: 96 bytes of header, then its body. A sender hands bodies over as they
//! are and a receiver gets slices of what it received.

use bytes::{Bytes, BytesMut};

use super::{PeerApi, RaftVote};
use crate::batch::{BATCH_HEADER_BYTES, BatchError, BatchHeader};
use crate::frame::{Frame, FrameFlags, encode_frame};
use crate::ids::{CorrelationId, GroupId, LogId};
use crate::wire::{DecodeError, wire_choice, wire_enum, wire_struct};

/// A body below this size is copied beside its header: cheaper than one more piece to write.
const COPIED_BYTES_MAX: usize = 1024;

/// What an append without entries is charged, in bytes.
pub const APPEND_CHARGE_BYTES_MIN: usize = 128;

/// Entries as they are handed around: header and body each.
pub type Entries = Vec<(BatchHeader, Bytes)>;

/// Entries of a group, or only how far it is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// The group.
    pub group: GroupId,
    /// The leader's epoch of the catalog.
    pub epoch: u64,
    /// The leader's vote.
    pub vote: RaftVote,
    /// The entry before the first of `entries`.
    pub prev: Option<LogId>,
    /// Up to where the group is committed, as the leader knows.
    pub commit: Option<LogId>,
    /// Consecutive entries; may be empty.
    pub entries: Entries,
}

wire_struct! {
    /// Opens an append session on a lane. Not answered.
    pub struct AppendOpen {
        /// Number of the session, never used again on this link by this sender.
        pub session: u32,
        /// The group.
        pub group: GroupId,
    }
}

wire_struct! {
    /// Ends an append session: nothing more is sent on it, and answers are of no use any more.
    pub struct AppendClose {
        /// The session.
        pub session: u32,
    }
}

wire_struct! {
    /// The body of an append; its entries are the payload.
    pub struct AppendHead {
        /// The session.
        pub session: u32,
        /// The group.
        pub group: GroupId,
        /// The leader's epoch of the catalog.
        pub epoch: u64,
        /// The leader's vote.
        pub vote: RaftVote,
        /// The entry before the first.
        pub prev: Option<LogId>,
        /// Up to where the group is committed.
        pub commit: Option<LogId>,
        /// How many entries the payload holds.
        pub count: u32,
    }
}

wire_struct! {
    /// An append without entries and outside of every session.
    pub struct Heartbeat {
        /// The group.
        pub group: GroupId,
        /// The leader's epoch of the catalog.
        pub epoch: u64,
        /// The leader's vote.
        pub vote: RaftVote,
        /// The entry that the receiver is taken to have.
        pub prev: Option<LogId>,
        /// Up to where the group is committed.
        pub commit: Option<LogId>,
    }
}

wire_enum! {
    /// Why a node cannot take what is for a group.
    pub enum NotHere as "reason" {
        /// The session is not known (any more): the receiver fell asleep or was restarted. A new one
        /// wakes it.
        NoSession = 0 / "no such session",
        /// The receiver's copy of the catalog is behind the sender's epoch.
        CatalogBehind = 1 / "catalog behind",
        /// The node is no replica of the group.
        NoReplica = 2 / "no replica",
        /// The group is being woken.
        Waking = 3 / "being woken",
        /// The replica shows damage and is shut off.
        Quarantined = 4 / "quarantined",
        /// A transfer of segments to the replica is under way.
        Seeding = 5 / "being seeded",
        /// The node is going down.
        Stopping = 6 / "going down",
        /// The node's storage failed.
        StorageFailed = 7 / "storage failed",
        /// More is under way than the node allows.
        Busy = 8 / "busy",
    }
}

wire_choice! {
    /// The answer to appends. Invariant: what it says is durable before it is sent.
    pub enum Appended as "answer to appends" {
        /// The log is the leader's up to this entry; it is in the journal.
        Ok(Option<LogId>) = 0,
        /// The log has not this entry, which the leader took it to have.
        Conflict(LogId) = 1,
        /// The replica has this higher vote.
        HigherVote(RaftVote) = 2,
        /// Nothing was done.
        NotHere(NotHere) = 3,
    }
}

wire_struct! {
    /// An answer on a session.
    pub struct AppendedFrame {
        /// The session.
        pub session: u32,
        /// How many appends of the session it answers, the oldest unanswered ones; their credit is
        /// given back.
        pub settles: u32,
        /// The answer.
        pub answer: Appended,
    }
}

/// An append as a frame of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendFrame {
    /// The session.
    pub session: u32,
    /// The append.
    pub append: Append,
}

/// Why a frame is no append.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The body cannot be read.
    #[error("the body of an append cannot be read")]
    Body(#[from] DecodeError),
    /// An entry's header cannot be read, or its length passes the end of the payload.
    #[error("entry {position} of an append cannot be read")]
    Entry {
        /// Which, counted from 0.
        position: u32,
        /// What is wrong with it.
        source: BatchError,
    },
    /// Bytes follow the last entry.
    #[error("{extra} bytes follow the last entry of an append")]
    TrailingBytes {
        /// How many.
        extra: usize,
    },
}

impl Append {
    /// The size of its entries, in bytes.
    #[must_use]
    pub fn entries_bytes(&self) -> usize {
        self.entries.iter().map(|(_, body)| BATCH_HEADER_BYTES + body.len()).sum()
    }

    /// What a frame of a session is charged, in bytes: its entries and a little for each frame.
    #[must_use]
    pub fn charged_bytes(&self) -> usize {
        self.entries_bytes() + APPEND_CHARGE_BYTES_MIN
    }

    /// The frame's header and body, and the pieces of its payload. Bodies of 1 KiB and more are the
    /// caller's bytes.
    ///
    /// # Panics
    /// When a header's `batch_length` is not that of its body, which would be a bug of the log, or
    /// the frame does not fit 32 bits.
    #[must_use]
    pub fn to_frame(&self, session: u32) -> (Bytes, Vec<Bytes>) {
        let head = AppendHead {
            session,
            group: self.group,
            epoch: self.epoch,
            vote: self.vote,
            prev: self.prev,
            commit: self.commit,
            count: u32::try_from(self.entries.len()).expect("entries are within a frame's limit"),
        };
        let mut run = encode_frame(
            PeerApi::Append,
            PeerApi::VERSION,
            FrameFlags::PUSH,
            CorrelationId(0),
            &head,
            self.entries_bytes(),
        );
        let copied: usize =
            self.entries.iter().map(|(_, body)| BATCH_HEADER_BYTES + copied_bytes(body)).sum();
        run.reserve(copied);
        let mut pieces = Vec::new();
        for (header, body) in &self.entries {
            assert_eq!(header.body_bytes(), body.len(), "an entry has the length that it says");
            run.extend_from_slice(&header.to_bytes());
            if copied_bytes(body) > 0 {
                run.extend_from_slice(body);
            } else if !body.is_empty() {
                pieces.push(run.split().freeze());
                pieces.push(body.clone());
            }
        }
        if !run.is_empty() || pieces.is_empty() {
            pieces.push(run.freeze());
        }
        let head = pieces.remove(0);
        (head, pieces)
    }

    /// The append of a frame, with slices of its payload.
    ///
    /// # Errors
    /// [`AppendError`] by cause. Checksums of entries are not looked at here.
    pub fn from_frame(frame: Frame) -> Result<AppendFrame, AppendError> {
        let head: AppendHead = frame.decode_body()?;
        let mut payload = frame.payload;
        let fits = payload.len() / BATCH_HEADER_BYTES;
        let mut entries = Vec::with_capacity(fits.min(head.count as usize));
        for position in 0..head.count {
            let wrong = |source| AppendError::Entry { position, source };
            let header = BatchHeader::parse(&payload).map_err(wrong)?;
            let (needed, have) = (header.batch_length as usize, payload.len());
            if needed > have {
                let (needed, have) = (needed as u64, have as u64);
                return Err(wrong(BatchError::Truncated { needed, have }));
            }
            let body = payload.slice(BATCH_HEADER_BYTES..needed);
            payload = payload.slice(needed..);
            entries.push((header, body));
        }
        if !payload.is_empty() {
            return Err(AppendError::TrailingBytes { extra: payload.len() });
        }
        let AppendHead { session, group, epoch, vote, prev, commit, .. } = head;
        Ok(AppendFrame { session, append: Self { group, epoch, vote, prev, commit, entries } })
    }
}

fn copied_bytes(body: &Bytes) -> usize {
    if body.len() < COPIED_BYTES_MAX { body.len() } else { 0 }
}

/// The whole frame in one piece, for tests and small appends.
impl From<&AppendFrame> for BytesMut {
    fn from(frame: &AppendFrame) -> Self {
        let (head, pieces) = frame.append.to_frame(frame.session);
        let mut whole = Self::from(&head[..]);
        for piece in &pieces {
            whole.extend_from_slice(piece);
        }
        whole
    }
}
