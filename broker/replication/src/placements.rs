//! Which nodes hold which groups, as the owner of the catalog tells it.

use std::sync::Arc;

use plimsoll_log::GroupOptions;
use plimsoll_protocol::ids::{GroupId, NodeId};

/// Where a group lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// What its log is created with where it does not exist yet.
    pub options: GroupOptions,
    /// The nodes that shall hold a replica; the first ones are preferred as leaders.
    pub wanted: Arc<[NodeId]>,
    /// The nodes on which the group is born with the same first entry. Nothing once the group was
    /// sealed: whoever has no log of it then is fed by the others.
    pub birth: Option<Arc<[NodeId]>>,
}

/// The catalog's placements, as this node's copy has them now. Asked when a group wakes, so it must
/// not block.
pub trait Placements: Send + Sync + 'static {
    /// Where the group lies; nothing for a group that this copy does not know. The metadata group is
    /// not asked for.
    fn placed(&self, group: GroupId) -> Option<Placed>;

    /// The epoch of this node's copy.
    fn epoch(&self) -> u64;
}
