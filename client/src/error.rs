//! Errors by whose fault they are: the caller's, the node's, the network's.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_protocol::error::ErrorCode;
use plimsoll_protocol::ids::{NodeId, Offset};
use thiserror::Error;

use crate::partitioner::PartitionerError;

/// Why no connection to a node could be made.
#[derive(Debug, Clone, Error)]
pub enum ConnectError {
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
    /// The address did not resolve.
    #[error("cannot resolve {address}: {reason}; check the host name and port")]
    Resolve {
        /// The address as it was configured.
        address: String,
        /// The resolver's reason.
        reason: String,
    },
    /// Nobody answered, or the handshake failed.
    #[error("cannot connect to {address}: {reason}")]
    Dial {
        /// The address that was dialed.
        address: String,
        /// The transport's reason, with what to do.
        reason: String,
    },
    /// The node answered the first frame with a refusal.
    #[error("{address} refused the connection: {source}")]
    Refused {
        /// The address that was dialed.
        address: String,
        /// What the node said.
        source: ServerError,
    },
    /// What answered does not speak the protocol.
    #[error("{address} does not answer as a Plimsoll node: {reason}")]
    NotANode {
        /// The address that was dialed.
        address: String,
        /// What was wrong with the answer.
        reason: String,
    },
    /// Another node answers there than the one that was asked for.
    #[error("node {answered} answers at {address}, where node {wanted} was; trying to find it")]
    OtherNode {
        /// The address that was dialed.
        address: String,
        /// Who was asked for.
        wanted: NodeId,
        /// Who answers.
        answered: NodeId,
    },
    /// A node of another cluster answers there.
    #[error(
        "{address} is a node of cluster {answered}, this client talks to {wanted}: correct the \
         addresses"
    )]
    OtherCluster {
        /// The address that was dialed.
        address: String,
        /// The cluster of this client.
        wanted: String,
        /// The cluster that answered.
        answered: String,
    },
    /// The node gives no sign of life; it is dialed on.
    #[error("node {node} gives no sign of life; waiting for it, or for another to take over")]
    Silent {
        /// The node.
        node: NodeId,
    },
    /// The cluster does not say where the node is.
    #[error("no address of node {node} is known; it may be starting")]
    NoAddress {
        /// Who was asked for.
        node: NodeId,
    },
    /// None of several addresses leads to a node.
    #[error("none of {} addresses leads to a node: {}", attempts.len(), list(attempts))]
    NoneOf {
        /// What became of each.
        attempts: Vec<ConnectError>,
    },
    /// The time for connecting is over.
    #[error("no connection to {address} within {after:?}; is a node running there?")]
    Timeout {
        /// The address that was dialed.
        address: String,
        /// How long was waited.
        after: Duration,
    },
}

fn list(attempts: &[ConnectError]) -> String {
    attempts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What a node answered in place of a result.
#[derive(Debug, Clone, Error)]
#[error("{message} [{code}]")]
pub struct ServerError {
    /// The stable code.
    pub code: ErrorCode,
    /// What happened, to what, and what to do.
    pub message: String,
    /// The partition's leader, where the node knows it and is not it.
    pub leader: Option<(NodeId, String)>,
    /// A number that belongs to the code: the log start for an offset out of range, the highest token for a
    /// stale fence, the present revision for a conflict.
    pub detail: Option<u64>,
}

impl ServerError {
    /// The highest token that was seen of the request's lock, where the request was refused because its fence
    /// is stale.
    #[must_use]
    pub fn stale_fence(&self) -> Option<u64> {
        (self.code == ErrorCode::StaleFence).then(|| self.detail.unwrap_or_default())
    }
}

/// Why a request got no result.
#[derive(Debug, Clone, Error)]
pub enum RequestError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The node refused.
    #[error(transparent)]
    Refused(#[from] ServerError),
    /// The connection ended before the answer: whether the request took effect is unknown.
    #[error("connection lost before the answer ({reason}); whether it took effect is unknown")]
    ConnectionLost {
        /// What the transport said.
        reason: Arc<str>,
    },
    /// No answer in time: whether the request took effect is unknown.
    #[error("no answer within {after:?}; whether the request took effect is unknown")]
    Timeout {
        /// How long was waited.
        after: Duration,
    },
    /// The answer could not be read: a bug in one of the two programs.
    #[error("the node's answer cannot be read: {reason}; client and node may differ in version")]
    MalformedAnswer {
        /// What was wrong.
        reason: Arc<str>,
    },
}

impl RequestError {
    /// Whether the same request may succeed when it is sent again after a pause.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Refused(error) => error.code.is_retriable(),
            Self::Connect(ConnectError::Config(_)) | Self::MalformedAnswer { .. } => false,
            Self::Connect(_) | Self::ConnectionLost { .. } | Self::Timeout { .. } => true,
        }
    }

    /// The code of a refusal.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(error) => Some(error.code),
            Self::Connect(ConnectError::Refused { source, .. }) => Some(source.code),
            _ => None,
        }
    }
}

/// Why a record was not acknowledged.
#[derive(Debug, Clone, Error)]
pub enum SendError {
    /// The node refused the record's batch: it is not stored.
    #[error("not stored: {0}")]
    Refused(ServerError),
    /// The record was never sent: it is not stored.
    #[error("not stored: {reason}")]
    NotSent {
        /// Why it was given up.
        reason: Arc<str>,
    },
    /// The record was sent and no answer came in time: it may be stored or not.
    #[error(
        "outcome unknown: {reason}; the record may be stored, so sending it again may store it twice"
    )]
    OutcomeUnknown {
        /// What was seen last.
        reason: Arc<str>,
    },
    /// Another producer took over this one's id: what it had in flight may be stored or not.
    #[error("this producer was shut out by a later one with the same id")]
    Fenced,
    /// A later holder of the producer's lock was seen: nothing more is stored under this fence.
    #[error(
        "not stored: the fence is stale, the lock is lost; the highest token seen of it is {highest}"
    )]
    StaleFence {
        /// The highest token of the lock that was seen: the fence's own where the lock was given up and not
        /// granted again.
        highest: u64,
    },
    /// The record fits no batch.
    #[error("not stored: {0}")]
    TooLarge(Arc<str>),
    /// The record names a partition that the topic does not have.
    #[error("not stored: partition {partition} of a topic with {partitions} partitions")]
    UnknownPartition {
        /// The partition that was named.
        partition: u32,
        /// Partitions of the topic.
        partitions: u32,
    },
    /// There is no room in the producer's buffer, and the caller asked not to wait.
    #[error("not stored: the producer's buffer of {limit} bytes is full; wait, or raise it")]
    BufferFull {
        /// The buffer's size in bytes.
        limit: usize,
    },
    /// The producer was closed.
    #[error("not stored: the producer is closed")]
    Closed,
}

impl SendError {
    /// Whether the record is certainly not stored.
    pub fn is_definite(&self) -> bool {
        !matches!(self, Self::OutcomeUnknown { .. } | Self::Fenced)
    }
}

/// What a refusal because of a stale fence is to a producer; `None` where it is another.
pub(crate) fn stale_fence(refusal: &ServerError) -> Option<SendError> {
    refusal.stale_fence().map(|highest| SendError::StaleFence { highest })
}

/// Why a producer or consumer could not be made.
#[derive(Debug, Clone, Error)]
pub enum BuildError {
    /// The topic could not be looked up, or the producer got no id.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The partitioner does not fit the topic.
    #[error(transparent)]
    Partitioner(#[from] PartitionerError),
    /// An option is out of its bounds.
    #[error("{option}: {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// What is wrong and what is allowed.
        reason: String,
    },
}

/// Why a consumer cannot go on with a partition.
#[derive(Debug, Clone, Error)]
pub enum ConsumeError {
    /// The node refused for good.
    #[error("partition {partition}: {source}")]
    Refused {
        /// The partition.
        partition: u32,
        /// What the node said.
        source: ServerError,
    },
    /// Retention removed records before they were read.
    #[error(
        "partition {partition}: offset {wanted} is gone, the log starts at {log_start}; records \
         between were removed by retention before they were read"
    )]
    OffsetOutOfRange {
        /// The partition.
        partition: u32,
        /// The offset that was to be read next.
        wanted: Offset,
        /// The first offset that can still be read.
        log_start: Offset,
    },
    /// A batch was damaged on its way, or holds what cannot be decoded.
    #[error("partition {partition}, batch at offset {offset}: {reason}")]
    Damaged {
        /// The partition.
        partition: u32,
        /// The batch's first offset.
        offset: Offset,
        /// What is wrong.
        reason: Arc<str>,
    },
}
