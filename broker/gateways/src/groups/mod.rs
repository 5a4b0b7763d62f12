//! Consumer groups on this node: for each partition of `__groups` that this node leads and that is used, one
//! task that owns the coordinator of its groups.
//!
//! ```text
//!  registry   which tasks there are; begins one when it is asked for, or when groups would wait for nobody
//!  handle     what sessions ask a task for
//!  runner     the task: requests, control entries, held heartbeats, time
//!  refused    errors of the machine as answers
//! ```
//!
//! Invariants: there is at most one task for a partition and term; it ends when this node leads the partition
//! in that term no more, and whoever waits for it sees the end of its channel. A heartbeat's answer leaves
//! the node only after a majority has confirmed, later than the heartbeat came, that this node led: the
//! session sees to that, not the task. `broker/groups/GROUPS.md` has the rules that both keep.

mod handle;
mod refused;
mod registry;
mod runner;

pub(crate) use handle::CoordinatorHandle;
pub(crate) use registry::{Coordinators, groups_topic, keep_coordinators};
