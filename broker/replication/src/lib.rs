//! Raft groups over the log: openraft's log storage, state machine and network, and the host of a
//! node's groups.
//!
//! ```text
//!  Host                     which groups are awake; sleep, deletion, shutdown
//!   └ Group                 one lock: admission, time stamp, proposal bound to a term
//!      ├ Published          high watermark and catalog, for readers; outlives sleep
//!      └ Awake              only while somebody writes
//!          ├ Shared         fold and admission under one short lock; StateSource of the log
//!          └ openraft core ─┬─ LogStore ──► GroupLog ──► journal
//!                           └─ StateMachine ──► Shared: folds, publishes, answers
//! ```
//!
//! A batch goes: `Group::produce` admits it and sends it to openraft's core, which gives it term
//! and index and calls `LogStore::append`; when the journal has it, openraft commits and hands it
//! to `StateMachine::apply`, which folds it, publishes the high watermark and completes the
//! producer's oneshot. Nothing on that way copies the records.
//!
//! Invariants: a batch is proposed only after admission in the same term; `save_vote` returns only
//! when everything queued before it is durable; a group has at most one Raft instance; readers see
//! records before their producer hears that they are stored.

mod clock;
mod config;
mod deleted;
mod drops;
mod elector;
mod error;
mod fold;
mod group;
mod host;
mod incoming;
mod keeper;
mod leaders;
mod leaving;
mod log_store;
mod members;
mod membership;
mod metadata;
mod moves;
mod neighbours;
mod network;
#[cfg(test)]
mod openraft_tests;
mod pending;
mod placements;
mod quiesce;
mod random;
mod reads;
mod reconcile;
mod reply;
mod retention;
mod role;
mod runtime;
mod seeds;
mod shared;
mod snapshot;
mod state_machine;
mod steps;
#[cfg(test)]
mod storage_tests;
mod types;
mod wake;
mod wire;

pub use clock::{Clock, SystemClock};
pub use config::{Blocking, HostConfig};
pub use error::{NoQuorum, NotLeader, OpenGroupError, ProduceError, ProposeError};
pub use fold::GroupKind;
pub use group::{Group, GroupStatus};
pub use host::Host;
pub use leaving::TransferError;
pub use pending::{PendingProduce, Produced};
pub use placements::{Placed, Placements};
pub use random::{Random, SeededRandom, SystemRandom};
pub use reads::FreshnessError;
pub use role::Role;
pub use snapshot::{GroupSnapshot, SnapshotError};
pub use types::Member;
