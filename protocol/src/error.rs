//! Stable error codes, ordered by who can do something about them, and the body of an error frame.

use std::fmt;

use bytes::BytesMut;
use thiserror::Error;

use crate::ids::NodeId;
use crate::wire::{Decode, DecodeError, Encode, Reader, wire_struct};

/// Defines the codes once: number, blame and meaning beside each name.
macro_rules! error_codes {
    ($($(#[doc = $doc:literal])* $name:ident = $number:literal),+ $(,)?) => {
        /// Why a request failed. Numbers are never reused; `protocol/FORMAT.md` has the table.
        ///
        /// 1xx: the request itself. 2xx: topics. 3xx: produced batches. 4xx: placement. 5xx: limits.
        /// 6xx: the node's own trouble.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ErrorCode {
            $($(#[doc = $doc])* $name,)+
            /// A code that this build does not know: the other side is newer.
            Unrecognised(u16),
        }

        impl ErrorCode {
            /// Every code that this build knows, by number.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The number on the wire.
            #[must_use]
            pub fn number(self) -> u16 {
                match self {
                    $(Self::$name => $number,)+
                    Self::Unrecognised(number) => number,
                }
            }

            /// The code with this number.
            #[must_use]
            pub fn from_number(number: u16) -> Self {
                match number {
                    $($number => Self::$name,)+
                    number => Self::Unrecognised(number),
                }
            }

            /// Its name, as in the table.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                    Self::Unrecognised(_) => "Unrecognised",
                }
            }

            /// What it means, as in the table.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),*).trim_ascii(),)+
                    Self::Unrecognised(_) => "A code that this build does not know.",
                }
            }
        }
    };
}

error_codes! {
    /// The frame or its body cannot be read.
    MalformedFrame = 100,
    /// No API has this key.
    UnknownApi = 101,
    /// The API or the protocol exists, but not in this version.
    UnsupportedVersion = 102,
    /// The frame is larger than the limit in force.
    FrameTooLarge = 103,
    /// The first request of a connection must be Hello.
    HelloRequired = 104,
    /// A field has a value that is not allowed.
    InvalidArgument = 105,
    /// The text is not a topic name.
    InvalidTopicName = 106,
    /// The client asked for another cluster.
    WrongCluster = 107,
    /// No topic has this name.
    UnknownTopic = 200,
    /// A topic of this name exists already.
    TopicExists = 201,
    /// The topic has no partition of this number.
    UnknownPartition = 202,
    /// A configuration key or value is not allowed.
    InvalidConfig = 203,
    /// The offset is below the log start or above the high watermark.
    OffsetOutOfRange = 204,
    /// The topic or the node would have more partitions than allowed.
    TooManyPartitions = 205,
    /// The topic is no queue, or has no subscription of this name.
    UnknownQueue = 206,
    /// A queue or subscription of this name exists already.
    QueueExists = 207,
    /// The queue has an exclusive consumer, or others beside one that must be alone.
    QueueInUse = 208,
    /// The queue is as long as it may be.
    QueueFull = 209,
    /// The member of a consumer group is one no longer: it stops with all it owned and joins again.
    FencedMember = 210,
    /// Another process has joined as the same instance of a consumer group.
    FencedInstance = 211,
    /// No consumer group has this name.
    UnknownGroup = 212,
    /// The consumer group has members.
    GroupInUse = 213,
    /// AMQP has no virtual host of this name.
    UnknownVhost = 220,
    /// AMQP has no user of this name.
    UnknownUser = 221,
    /// A user of this name exists already.
    UserExists = 222,
    /// No namespace of locks has this name.
    UnknownNamespace = 230,
    /// A namespace of this name exists already.
    NamespaceExists = 231,
    /// Locks of the namespace are held, or guard topics.
    NamespaceInUse = 232,
    /// The lock is held by another session.
    LockTaken = 233,
    /// The session does not hold the lock, or no longer.
    NotLockHolder = 234,
    /// The session has ended: what it held is given up.
    SessionGone = 235,
    /// No lock of this name is held, waited for or guards a topic.
    UnknownLock = 236,
    /// The lock is held or waited for, or is of another kind.
    LockInUse = 237,
    /// A later holder of the lock has been seen: the write is refused.
    StaleFence = 238,
    /// The lock has not granted this token.
    UnknownFence = 239,
    /// The topic takes nothing without a fence.
    FenceRequired = 240,
    /// The key has another revision than was asked for.
    RevisionConflict = 241,
    /// Records behind this offset may be gone by compaction.
    OffsetCompacted = 242,
    /// The topic is not compacted, so it is no map.
    NotCompacted = 243,
    /// The batch is damaged, or its counts are wrong.
    CorruptBatch = 300,
    /// The batch is larger than allowed, as sent or after decompression.
    BatchTooLarge = 301,
    /// A batch before this one is missing.
    OutOfOrderSequence = 302,
    /// A newer life of the same producer has taken over.
    StaleProducerEpoch = 303,
    /// The producer is not known here (any more).
    UnknownProducer = 304,
    /// The compression is not known.
    UnsupportedCompression = 305,
    /// The batch was stored before, but where is no longer known.
    DuplicateSequence = 306,
    /// A record of a compacted topic has no key.
    KeyRequired = 307,
    /// Another node leads the partition, or none does yet.
    NotLeader = 400,
    /// The partition is being woken; try again at once.
    NotReady = 401,
    /// The partition's or the catalog's leader cannot reach a majority.
    NoQuorum = 402,
    /// The replica is further behind than the read allows.
    TooStale = 403,
    /// More replicas are asked for than there are nodes for them.
    NotEnoughNodes = 404,
    /// No node of the cluster has this id.
    UnknownNode = 405,
    /// Another change of the placement came first.
    StalePlacement = 406,
    /// Without the node a partition would lose its quorum or its last copy.
    RemovalLosesQuorum = 407,
    /// The node still holds replicas.
    NodeInUse = 408,
    /// The node has as many connections as it allows.
    TooManyConnections = 500,
    /// Too many requests or bytes are waiting.
    TooManyInFlight = 501,
    /// The connection has as many subscriptions as allowed.
    TooManySubscriptions = 502,
    /// The disk is nearly full: reading works, producing does not.
    LowDiskSpace = 503,
    /// There are as many consumer groups, or members or offsets in one, as allowed.
    GroupFull = 504,
    /// There are as many sessions, locks, waiters or fences as allowed.
    LocksFull = 505,
    /// The node is going down.
    ShuttingDown = 600,
    /// The partition shows damage and is shut off until it is repaired.
    Quarantined = 601,
    /// The node's storage failed.
    StorageFailed = 602,
    /// The time is over; whether the request took effect is unknown.
    Timeout = 603,
    /// A bug of the node.
    Internal = 604,
}

impl ErrorCode {
    /// Whether the same request, sent again after a pause and perhaps to another node, may succeed.
    #[must_use]
    pub fn is_retriable(self) -> bool {
        matches!(
            self,
            Self::NotLeader
                | Self::NotReady
                | Self::NoQuorum
                | Self::TooStale
                | Self::StalePlacement
                | Self::TooManyConnections
                | Self::TooManyInFlight
                | Self::TooManySubscriptions
                | Self::LowDiskSpace
                | Self::ShuttingDown
                | Self::Timeout
        )
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.number())
    }
}

impl Encode for ErrorCode {
    fn encode(&self, out: &mut BytesMut) {
        self.number().encode(out);
    }
}

impl Decode for ErrorCode {
    const BYTES_MIN: usize = 2;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        u16::decode(reader).map(Self::from_number)
    }
}

wire_struct! {
    /// The body of an error frame: what happened, and what helps.
    #[derive(Error)]
    #[error("{message}")]
    pub struct ErrorResponse {
        /// The stable code, for programs.
        pub code: ErrorCode,
        /// What happened, to what, and what to do, for people.
        pub message: String,
        /// With `NotLeader`: the leader, when known.
        pub leader: Option<LeaderHint>,
        /// With `OffsetOutOfRange`: the nearest offset that can be read. With `OutOfOrderSequence`:
        /// the sequence that is expected. With `StaleFence`: the highest token that was seen. With
        /// `LockTaken`: the holder's. With `RevisionConflict`: the revision that the key has.
        pub offset: Option<u64>,
    }
}

wire_struct! {
    /// Where a partition's leader is.
    pub struct LeaderHint {
        /// The leader.
        pub node: NodeId,
        /// Host and port where it can be reached.
        pub address: String,
    }
}

impl ErrorResponse {
    /// An error with a message and no details.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), leader: None, offset: None }
    }

    /// The same error with the leader.
    #[must_use]
    pub fn with_leader(self, node: NodeId, address: impl Into<String>) -> Self {
        Self { leader: Some(LeaderHint { node, address: address.into() }), ..self }
    }

    /// The same error with an offset or sequence.
    #[must_use]
    pub fn with_offset(self, offset: u64) -> Self {
        Self { offset: Some(offset), ..self }
    }
}

impl From<DecodeError> for ErrorResponse {
    fn from(error: DecodeError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_codes_are_one_to_one() {
        let mut seen = std::collections::BTreeSet::new();
        for &code in ErrorCode::ALL {
            assert!(seen.insert(code.number()), "{code} has a number twice");
            assert_eq!(ErrorCode::from_number(code.number()), code);
        }
        for number in 0..=u16::MAX {
            assert_eq!(ErrorCode::from_number(number).number(), number);
        }
    }
}
