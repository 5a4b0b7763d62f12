//! What nodes of one cluster say to each other: frames of the key space [`PeerApi`].
//!
//! ```text
//!  hello    who is who on a link, and which stream is which
//!  alive    the sign of life that every node sends to every other
//!  append   entries of a group from its leader, without a copy
//!  vote     elections and the handing over of leadership
//!  group    what else concerns groups: waking, sleeping, claims, digests, reads, commands, members
//!  seed     segments of a log as files
//!  join     how a new node becomes a member
//! ```
//!
//! The header is that of every frame; the key space is its own. A link begins with
//! [`PeerHello`]; `protocol/PEER_FORMAT.md` draws the frames.

mod alive;
mod append;
mod group;
mod hello;
mod join;
mod messages;
mod seed;
mod vote;

pub use alive::{Alive, Condition};
pub use append::{
    APPEND_CHARGE_BYTES_MIN, Append, AppendClose, AppendError, AppendFrame, AppendHead, AppendOpen,
    Appended, AppendedFrame, Entries, Heartbeat, NotHere,
};
pub use group::{
    BatchStored, CommitMark, CommitOf, CommitOfReply, Digest, DropReplica, Forward, ForwardReply,
    GroupClaim, GroupDigest, GroupMembers, GroupReport, GroupStatus, GroupStatusReply, Leads,
    MemberStep, ReadIndex, ReadIndexReply, ReadMark, ReplicaCondition, ReplicaMatch, Sleep,
    SleepAnswer, SleepGroup, SleepReply, Step, StepReply, StoreBatch, Wake,
};
pub use hello::{
    CLIENT_CREDIT_BYTES, HelloAnswer, PEER_PROTOCOL_MAX, PEER_PROTOCOL_MIN, PeerHello, PeerRefusal,
    ProtocolRange, StreamOpen, StreamRole,
};
pub use join::{Join, JoinAnswer, JoinRefusal, Joined, MemberAddress};
pub use messages::{
    AnyPeerMessage, AnyPeerRequest, AnyPeerResponse, PeerFailure, PeerFailureCode, PeerMessage,
    PeerRequest,
};
pub use seed::{SeedBegin, SeedEnd, SeedHeld, SeedInstalled, SeedPiece, SeedSegment, SeedTaken};
pub use vote::{PreVote, RaftVote, TransferLeader, TransferLeaderReply, Vote, VoteReply};

/// The largest frame between nodes, in bytes: a batch of the largest size beside a full read of the
/// log. Before the hello [`crate::frame::FRAME_BYTES_MAX_BEFORE_HELLO`] is in force.
pub const PEER_FRAME_BYTES_MAX: u32 = 32 << 20;

macro_rules! peer_apis {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)+) => {
        /// The kinds of frames between nodes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum PeerApi { $($(#[$doc])* $name = $number),+ }

        impl PeerApi {
            /// Every kind, by number.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The kind with this number.
            #[must_use]
            pub fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$name),)+ _ => None }
            }

            /// Its name, as in `protocol/PEER_FORMAT.md`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),+ }
            }
        }
    };
}

peer_apis! {
    /// Opens a link: versions, cluster, who is who.
    PeerHello = 0;
    /// A sign of life.
    Alive = 1;
    /// Opens an append session.
    AppendOpen = 2;
    /// Ends an append session.
    AppendClose = 3;
    /// Entries of a group.
    Append = 4;
    /// The answer to appends.
    Appended = 5;
    /// An append without entries and outside of every session.
    Heartbeat = 6;
    /// Whether a vote would be granted.
    PreVote = 7;
    /// A vote.
    Vote = 8;
    /// Hands over leadership.
    TransferLeader = 9;
    /// Has groups built.
    Wake = 10;
    /// Agrees that groups sleep.
    Sleep = 11;
    /// What the sender leads.
    Leads = 12;
    /// Where the sender's groups stand.
    Digest = 13;
    /// Members and progress of groups.
    GroupStatus = 14;
    /// An index that a linearizable read waits for.
    ReadIndex = 15;
    /// How far groups are committed.
    CommitOf = 16;
    /// A command of the catalog, for its leader.
    Forward = 17;
    /// One step of a move, for the group's leader.
    Step = 18;
    /// Begins the transfer of segments.
    SeedBegin = 19;
    /// A piece of a segment.
    SeedPiece = 20;
    /// Ends the transfer of segments.
    SeedEnd = 21;
    /// A replica is no longer wanted.
    DropReplica = 22;
    /// A new node asks to become a member.
    Join = 23;
    /// Says what a further stream of a link is for.
    StreamOpen = 24;
    /// A batch for the leader of a partition.
    StoreBatch = 25;
}

impl PeerApi {
    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u16 {
        self as u16
    }

    /// The one version of every body so far.
    pub const VERSION: u8 = 1;
}

impl From<PeerApi> for u16 {
    fn from(api: PeerApi) -> Self {
        api.number()
    }
}

impl std::fmt::Display for PeerApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests;
