//! Locks on this node: for each namespace whose partition this node leads and that is used, one task that
//! owns the keeper of its locks.
//!
//! ```text
//!  registry   which tasks there are; begins one when it is asked for, or when leases would end for nobody
//!  handle     what sessions ask a task for
//!  runner     the task: requests, control entries, time
//!  events     what happened, as records of the namespace's topic
//!  guards     floors in the topics that locks guard, raised before a grant is told
//!  fences     writes under locks: what a partition does not know yet is confirmed by the namespace
//!  refused    errors of the machine as answers
//! ```
//!
//! Invariants: there is at most one task for a namespace and term; it ends when this node leads the partition
//! in that term no more, and whoever waits for it sees the end of its channel. A grant is told once it is
//! committed and the floors of all that the lock guards are raised. `broker/locks/LOCKS.md` has the rules.

mod events;
mod fences;
mod guards;
mod handle;
mod refused;
mod registry;
mod runner;

pub(crate) use handle::{Described, Grant, GrantFilter, Heard, KeeperHandle};
pub(crate) use refused::invalid;
pub(crate) use registry::{LockKeepers, keep_locks, topic_of, unknown_namespace};
pub(crate) use runner::unknown_lock;
