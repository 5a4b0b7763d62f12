//! Where replicas belong and how they get there.
mod balance;
mod fill;
mod hash;
mod leaders;
mod node;
mod options;
mod place;
mod placement;
mod ring;
mod share;
mod table;

pub use node::{Node, Rack, WEIGHT_MAX, Weight, WeightError};
pub use options::{
    LOAD_SLACK_PERCENT_MAX, PlacementOptions, PlacementOptionsError, VIRTUAL_NODES_MAX,
};
pub use place::{
    LoadBound, NODES_MAX, NotEnoughNodes, PlaceError, extend, load_bounds, place, rebalance,
};
pub use placement::{PartitionSpec, Placement};
