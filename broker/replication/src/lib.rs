//! Raft groups over the log: openraft's log storage, state machine and network, and the host of a
//! node's groups. `CLUSTER.md` beside this crate says why things are as they are.
//!
//! ```text
//!  Host                     which groups are awake; sleep, deletion, shutdown, leaving
//!   ├ Neighbours            who lives (links), who leads what (Leaders), where groups lie (Placements)
//!   └ Group                 one lock: admission, time stamp, proposal bound to a term
//!      ├ Published          high watermark, catalog and role, for readers; outlives sleep
//!      └ Awake              a Raft instance, leading or following
//!          ├ Keeper         one task: role, claim, asking for votes (elector)
//!          ├ Shared         fold and admission under one short lock; StateSource of the log
//!          └ openraft core ─┬─ LogStore ──► GroupLog ──► journal
//!                           ├─ StateMachine ──► Shared: folds, publishes, answers
//!                           └─ GroupNetwork ──► sessions and requests of the links
//!  Incoming (Handler)       what other nodes send: appends checked, votes shielded, claims, digests
//!  members, metadata        the metadata group: every node a member, commands forwarded
//!  quiesce, reconcile       sleep by agreement; differences found when nodes meet again
//!  reads                    linearizable and bounded, on any replica
//!  moves ─► steps ─► seeds  replicas to where the catalog wants them: driven where the metadata group is
//!                           led, carried out where the group is led, as files to the node that gets one
//!  drops, sight             replicas that are not wanted go; what is on its way, for people
//! ```
//!
//! A batch goes: `Group::produce` sees to it that this node leads with a fresh lease, admits it and
//! sends it to openraft's core, which gives it term and index and calls `LogStore::append`; the
//! entries go to the followers from the log's tail while the journal writes; when a majority has
//! them, openraft commits and hands them to `StateMachine::apply`, which folds, publishes the high
//! watermark and completes the producer's oneshot. Nothing on that way copies the records.
//!
//! Invariants: a batch is proposed only after admission in the same term; `save_vote` returns only
//! when everything queued before it is durable; a group has at most one Raft instance; readers see
//! records before their producer hears that they are stored; openraft's timers are off, elections are
//! asked for by keepers only; a vote against a leader that claims the group, is heard and reaches a
//! majority is refused before openraft sees it; what a follower takes has its body's checksum and its
//! leader's offsets; what would take back an entry that is committed here never gets to openraft, which
//! does not compare it.

mod batches;
mod clock;
mod config;
mod deleted;
mod drops;
mod elector;
mod error;
mod fold;
mod group;
#[cfg(test)]
mod group_tests;
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
mod reach;
mod reads;
mod reconcile;
mod reply;
mod retention;
mod role;
mod runtime;
mod seeds;
mod shared;
mod sight;
mod snapshot;
mod state_machine;
mod steps;
#[cfg(test)]
mod storage_tests;
mod tasks;
mod types;
mod wake;
mod wire;

pub use clock::{Clock, SystemClock};
pub use config::{Blocking, HostConfig};
pub use error::{NoQuorum, NotLeader, OpenGroupError, ProduceError, ProposeError};
pub use fold::GroupKind;
pub use group::{DecidedError, FencePass, Group, GroupStatus, PassError, PendingControl};
pub use host::Host;
pub use leaving::TransferError;
pub use pending::{PendingProduce, Produced};
pub use placements::{Placed, Placements};
pub use random::{Random, SeededRandom, SystemRandom};
pub use reads::FreshnessError;
pub use role::Role;
pub use shared::Tip;
pub use sight::{MovePhase, Moving};
pub use types::Member;
