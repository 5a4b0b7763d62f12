//! The sign of life that every node sends to every other, every interval.

use crate::ids::{LogId, NodeId};
use crate::wire::{wire_enum, wire_struct};

wire_enum! {
    /// Whether a node takes on work.
    pub enum Condition as "condition of a node" {
        /// It does.
        Serving = 0 / "serving",
        /// Its replicas are being moved away; it leads nothing new.
        Draining = 1 / "draining",
        /// It is going down; it leads nothing new, hints go elsewhere.
        Stopping = 2 / "stopping",
    }
}

wire_struct! {
    /// A sign of life, with what the sender knows of the others' signs.
    pub struct Alive {
        /// Which start of its data directory the sender is.
        pub incarnation: u64,
        /// Counts the sender's signs within this life, from 1.
        pub seq: u64,
        /// The highest `seq` that it has received from the receiver's present life; 0: none.
        pub echo: u64,
        /// How long ago it received that one, in microseconds; the largest number for longer.
        pub echo_age_us: u32,
        /// The nodes that it hears and that hear it.
        pub reach: Vec<NodeId>,
        /// How far its copy of the catalog is applied.
        pub catalog: Option<LogId>,
        /// Whether it takes on work.
        pub condition: Condition,
        /// Counts the changes of what it leads.
        pub leads_version: u64,
    }
}
