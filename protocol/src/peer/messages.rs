//! Requests, answers and messages of the control stream as one type each.

use super::*;
use crate::api::Done;
use crate::frame::Frame;
use crate::ids::NodeId;
use crate::wire::{Decode, DecodeError, DecodeFault, Encode, decode_all, wire_enum, wire_struct};

/// A request on the control stream: what it is called, and what answers it.
pub trait PeerRequest: Encode + Decode + Into<AnyPeerRequest> + Send + 'static {
    /// Its kind.
    const API: PeerApi;
    /// The body of the answer.
    type Response: Encode + Decode + Into<AnyPeerResponse> + Send + 'static;
}

/// A message on the control stream that is not answered.
pub trait PeerMessage: Encode + Decode + Into<AnyPeerMessage> + Send + 'static {
    /// Its kind.
    const API: PeerApi;
}

wire_enum! {
    /// Why a node did not do what another asked of it.
    pub enum PeerFailureCode as "failure" {
        /// It cannot read the request.
        Malformed = 0 / "malformed",
        /// It does not know the request: the sender is newer.
        Unsupported = 1 / "unsupported",
        /// It has more to do than it allows.
        Busy = 2 / "busy",
        /// It does not lead the group.
        NotLeader = 3 / "not the leader",
        /// It has no majority.
        NoQuorum = 4 / "no quorum",
        /// It has no (usable) replica of the group, or is waking it.
        NotHere = 5 / "not here",
        /// Its copy of the catalog is behind.
        CatalogBehind = 6 / "catalog behind",
        /// The command or step is refused; the message says why.
        Refused = 7 / "refused",
        /// It is going down.
        Stopping = 8 / "going down",
        /// Its storage failed.
        StorageFailed = 9 / "storage failed",
        /// It took too long; whether the request took effect is unknown.
        Timeout = 10 / "timeout",
        /// A bug.
        Internal = 11 / "internal",
    }
}

wire_struct! {
    /// The body of an error frame between nodes.
    #[derive(thiserror::Error)]
    #[error("{code}: {message}")]
    pub struct PeerFailure {
        /// Why, for programs.
        pub code: PeerFailureCode,
        /// With `NotLeader`: the leader, where known.
        pub leader: Option<NodeId>,
        /// What happened, for people.
        pub message: String,
    }
}

impl PeerFailure {
    /// A failure without a leader.
    #[must_use]
    pub fn new(code: PeerFailureCode, message: impl Into<String>) -> Self {
        Self { code, leader: None, message: message.into() }
    }
}

macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident -> $response:ident;)+) => {
        /// Any request of the control stream.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum AnyPeerRequest { $($(#[$doc])* $name($name)),+ }

        $(
            impl PeerRequest for $name {
                const API: PeerApi = PeerApi::$name;
                type Response = $response;
            }

            impl From<$name> for AnyPeerRequest {
                fn from(request: $name) -> Self {
                    Self::$name(request)
                }
            }
        )+

        impl AnyPeerRequest {
            /// Its kind.
            #[must_use]
            pub fn api(&self) -> PeerApi {
                match self { $(Self::$name(_) => PeerApi::$name),+ }
            }

            /// Reads the request of a frame.
            ///
            /// # Errors
            /// When the kind is no request of the control stream, or the body cannot be read.
            pub fn decode(frame: &Frame) -> Result<Self, DecodeError> {
                match PeerApi::from_number(frame.header.api) {
                    $(Some(PeerApi::$name) => decode_all::<$name>(&frame.body).map(Self::$name),)+
                    _ => Err(unknown("request between nodes", frame)),
                }
            }
        }
    };
}

requests! {
    /// An append without entries.
    Heartbeat -> Appended;
    /// Whether a vote would be granted.
    PreVote -> VoteReply;
    /// A vote.
    Vote -> VoteReply;
    /// Hands over leadership.
    TransferLeader -> TransferLeaderReply;
    /// Proposes sleep.
    Sleep -> SleepReply;
    /// Members and progress.
    GroupStatus -> GroupStatusReply;
    /// Read indexes.
    ReadIndex -> ReadIndexReply;
    /// Commit marks.
    CommitOf -> CommitOfReply;
    /// A command of the catalog.
    Forward -> ForwardReply;
    /// A step of a move.
    Step -> StepReply;
    /// A replica may go.
    DropReplica -> Done;
    /// A batch for a partition's leader.
    StoreBatch -> BatchStored;
}

macro_rules! responses {
    ($($(#[$doc:meta])* $name:ident($kind:ident);)+) => {
        /// Any answer of the control stream.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum AnyPeerResponse { $($(#[$doc])* $name($kind)),+ }

        $(
            impl From<$kind> for AnyPeerResponse {
                fn from(response: $kind) -> Self {
                    Self::$name(response)
                }
            }
        )+

        impl Encode for AnyPeerResponse {
            fn encode(&self, out: &mut bytes::BytesMut) {
                match self { $(Self::$name(response) => response.encode(out)),+ }
            }
        }
    };
}

responses! {
    /// Answers [`Heartbeat`].
    Appended(Appended);
    /// Answers [`PreVote`] and [`Vote`].
    Vote(VoteReply);
    /// Answers [`TransferLeader`].
    TransferLeader(TransferLeaderReply);
    /// Answers [`Sleep`].
    Sleep(SleepReply);
    /// Answers [`GroupStatus`].
    GroupStatus(GroupStatusReply);
    /// Answers [`ReadIndex`].
    ReadIndex(ReadIndexReply);
    /// Answers [`CommitOf`].
    CommitOf(CommitOfReply);
    /// Answers [`Forward`].
    Forward(ForwardReply);
    /// Answers [`StoreBatch`].
    Stored(BatchStored);
    /// Answers [`Step`].
    Step(StepReply);
    /// Answers [`DropReplica`].
    Done(Done);
}

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident;)+) => {
        /// Any message of the control stream.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum AnyPeerMessage { $($(#[$doc])* $name($name)),+ }

        $(
            impl PeerMessage for $name {
                const API: PeerApi = PeerApi::$name;
            }

            impl From<$name> for AnyPeerMessage {
                fn from(message: $name) -> Self {
                    Self::$name(message)
                }
            }
        )+

        impl AnyPeerMessage {
            /// Reads the message of a frame.
            ///
            /// # Errors
            /// When the kind is no message of the control stream, or the body cannot be read.
            pub fn decode(frame: &Frame) -> Result<Self, DecodeError> {
                match PeerApi::from_number(frame.header.api) {
                    $(Some(PeerApi::$name) => decode_all::<$name>(&frame.body).map(Self::$name),)+
                    _ => Err(unknown("message between nodes", frame)),
                }
            }
        }
    };
}

messages! {
    /// Has groups built.
    Wake;
    /// What the sender leads.
    Leads;
    /// Where the sender's groups stand.
    Digest;
}

fn unknown(what: &'static str, frame: &Frame) -> DecodeError {
    let number = u64::from(frame.header.api);
    DecodeError { at: 0, fault: DecodeFault::UnknownValue { what, number } }
}
