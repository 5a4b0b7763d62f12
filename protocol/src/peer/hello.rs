//! Who is who on a link, and which stream is which.

use crate::ids::NodeId;
use crate::wire::{wire_choice, wire_enum, wire_struct};

/// Lowest version of the protocol between nodes that this build speaks.
pub const PEER_PROTOCOL_MIN: u16 = 1;
/// Highest version of the protocol between nodes that this build speaks.
pub const PEER_PROTOCOL_MAX: u16 = 1;

wire_struct! {
    /// The first frame of a link's control stream, from the side that dialed; the answer carries the
    /// same of the other side.
    pub struct PeerHello {
        /// Lowest protocol version that the sender speaks.
        pub protocol_min: u16,
        /// Highest protocol version that the sender speaks.
        pub protocol_max: u16,
        /// The cluster that the sender belongs to.
        pub cluster_id: [u8; 16],
        /// Who sends.
        pub node: NodeId,
        /// Whom the sender means to talk to.
        pub to: NodeId,
        /// How often the sender's data directory was opened, this time included.
        pub incarnation: u64,
        /// Random number of this life: tells a copy of the directory apart.
        pub boot_nonce: u64,
        /// The sender's version, for people.
        pub version: String,
        /// The sender's wall clock, in milliseconds since 1970 (UTC).
        pub unix_ms: i64,
        /// Random number of the link, chosen by the side that dialed and repeated by the other:
        /// further streams and connections of the link name it.
        pub link: u64,
        /// How many lanes the link has, chosen by the side that dialed and repeated by the other.
        pub lanes: u8,
    }
}

wire_struct! {
    /// A range of protocol versions.
    pub struct ProtocolRange {
        /// Lowest.
        pub min: u16,
        /// Highest.
        pub max: u16,
    }
}

wire_choice! {
    /// Why a node does not want a link.
    #[derive(thiserror::Error)]
    pub enum PeerRefusal as "refusal of a link" {
        /// No protocol version is common; these are the refusing node's.
        #[error(
            "no common protocol version: that node speaks {} to {}; upgrade the older of the two",
            .0.min, .0.max
        )]
        Protocol(ProtocolRange) = 0,
        /// The refusing node belongs to another cluster, this one.
        #[error("that node belongs to another cluster")]
        WrongCluster([u8; 16]) = 1,
        /// The refusing node has this id, not the one that was meant; or the certificate is that of
        /// this node and the hello names another.
        #[error("the id does not fit: it is node {0}")]
        WrongNode(NodeId) = 2,
        /// Another process with the same node id and the same life is known, at this address.
        #[error(
            "another process at {0} has the same node id: one of the two data directories is a \
             copy; remove it and join anew"
        )]
        DuplicateNode(String) = 3,
        /// The dialing node, this one, was removed from the cluster.
        #[error("node {0} was removed from the cluster")]
        Removed(NodeId) = 4,
        /// The dialing node, this one, is not a member, as far as the refusing node knows.
        #[error("node {0} is not a member of the cluster")]
        NotAMember(NodeId) = 5,
        /// There is a link between the two already, dialed by this node. Nothing is wrong.
        #[error("there is a link already, dialed by node {0}")]
        DuplicateLink(NodeId) = 6,
        /// The refusing node, this one, is going down.
        #[error("node {0} is going down")]
        Stopping(NodeId) = 7,
    }
}

wire_choice! {
    /// The answer to [`PeerHello`] and [`StreamOpen`].
    pub enum HelloAnswer as "answer to a hello" {
        /// Welcome, from this node.
        Welcome(PeerHello) = 0,
        /// Not wanted.
        Refused(PeerRefusal) = 1,
    }
}

/// Bytes of records that a consumer on a stream of [`StreamRole::Client`] may be pushed before a `Credit`
/// allows more; its last frame may overdraw it.
pub const CLIENT_CREDIT_BYTES: u64 = 256 << 10;

wire_enum! {
    /// What a stream of a link is for.
    pub enum StreamRole as "role of a stream" {
        /// Requests and messages; begins with [`PeerHello`].
        Control = 0 / "control",
        /// Signs of life. Where a connection carries one stream they share the control stream.
        Alive = 1 / "alive",
        /// Append sessions.
        Lane = 2 / "lane",
        /// One transfer of segments.
        Seed = 3 / "seed",
        /// Frames of a client, of the key space [`crate::api::ApiKey`], without a Hello: who opens it asks.
        Client = 4 / "client",
    }
}

wire_struct! {
    /// The first frame of every stream of a link but the control stream, and of every further
    /// connection of a link whose connections carry one stream. Not answered.
    pub struct StreamOpen {
        /// What it is for.
        pub role: StreamRole,
        /// Who opens it.
        pub node: NodeId,
        /// The `link` of the link's hello.
        pub link: u64,
        /// Number of the lane; 0 for other roles.
        pub lane: u8,
    }
}
