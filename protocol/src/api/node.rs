//! Asking how a node is.

use crate::api::{Done, request};
use crate::ids::NodeId;
use crate::wire::wire_struct;

wire_struct! {
    /// Asks for a sign of life.
    pub struct PingRequest {}
}

request!(PingRequest, Ping, 1 -> Done);

wire_struct! {
    /// Asks for a node's counters.
    pub struct NodeStatusRequest {}
}

wire_struct! {
    /// A node's counters.
    pub struct NodeStatusResponse {
        /// The node.
        pub node_id: NodeId,
        /// Its cluster.
        pub cluster_id: String,
        /// Its version, for people.
        pub version: String,
        /// Milliseconds since it started.
        pub uptime_ms: u64,
        /// Counters by name.
        pub counters: Vec<Counter>,
    }
}

wire_struct! {
    /// One counter of a node.
    pub struct Counter {
        /// Its name, with the unit last: `journal_writes`, `unwritten_bytes`.
        pub name: String,
        /// Its value.
        pub value: u64,
    }
}

request!(NodeStatusRequest, NodeStatus, 1 -> NodeStatusResponse);
