//! Why a request, message or append did not get through.

use plimsoll_protocol::ids::NodeId;
use plimsoll_protocol::peer::PeerFailure;
use plimsoll_protocol::wire::DecodeError;
use thiserror::Error;

/// Why something did not get through to another node.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PeerError {
    /// There is no link to the node. Nothing was sent.
    #[error("node {node} cannot be reached")]
    Unreachable {
        /// The node.
        node: NodeId,
    },
    /// The link to the node was lost meanwhile: whether a request took effect is unknown.
    #[error("the link to node {node} was lost")]
    Lost {
        /// The node.
        node: NodeId,
    },
    /// The node answered that it did not do it.
    #[error("node {node} did not do it: {failure}")]
    Failed {
        /// The node.
        node: NodeId,
        /// What it said.
        failure: PeerFailure,
    },
    /// As much is waiting to be sent to the node as is allowed. Nothing was sent.
    #[error("too much is waiting to be sent to node {node}")]
    Full {
        /// The node.
        node: NodeId,
    },
    /// The link carries as many append sessions as are allowed.
    #[error("node {node} has {limit} append sessions on this link, more are not allowed")]
    TooManySessions {
        /// The node.
        node: NodeId,
        /// How many.
        limit: usize,
    },
    /// The message is larger than a frame may be. Nothing was sent.
    #[error("a message of {bytes} bytes is larger than a frame may be ({limit} bytes)")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The node's answer cannot be read: it is of another version, or has a bug.
    #[error("the answer of node {node} cannot be read: {source}")]
    Malformed {
        /// The node.
        node: NodeId,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// This side has closed the session or was shut down.
    #[error("it was closed by this node")]
    Closed,
}
