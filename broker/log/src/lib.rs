//! A node's durable storage: one journal, memory-mapped segments per group, checkpoints.
//!
//! ```text
//!   append, save_vote, truncate_after …                      read, read_entries
//!        │                                                     ▲           ▲
//!   ┌────▼─────────────────────────────────────────────────────┴───┐       │
//!   │ front of a group: marks, tail cache               group/front│       │
//!   └────┬──────────────────────────────────────────────────▲──────┘       │
//!        │ queue: one order for all groups      store/queue │ written      │
//!   ┌────▼──────────────────────────────┐                   │              │
//!   │ journal thread: one block, one    │  store/commit     │              │
//!   │ direct write  ──► completions     │  journal/         │              │
//!   └────┬──────────────────────────────┘                   │              │
//!        │ queue, bounded in bytes                          │              │
//!   ┌────▼──────────────────────────────┐  store/materialiser              │
//!   │ write thread: pwrite, publish end ├───────────────────┘              │
//!   └────┬──────────────────────────────┘  group/back, segment/ ───────────┘
//!        │ capture between two blocks                    through maps
//!   ┌────▼──────────────────────────────┐  store/checkpointer
//!   │ checkpoint thread: sync segments, │  checkpoint/
//!   │ write checkpoint, free journal    │
//!   └───────────────────────────────────┘
//!   everything above reaches the medium through disk/ only
//! ```
//!
//! Beside that, [`Compaction`] rewrites closed segments when its caller says so (compaction/), and
//! [`Import`] brings whole logs in (transfer/): each makes files under names that nothing uses, and one
//! change in the queue puts them in place.
//!
//! What an outcome means: a completion is called once the change, *and every change of any group that
//! was made before it*, is durable (entries of a [`Durability::Memory`] group: in the page cache).
//! Opening a store is: newest valid checkpoint, then the journal after it through the very same write
//! path. `FORMAT.md` beside this crate draws every byte.

mod boot;
mod checkpoint;
mod compaction;
mod config;
pub mod disk;
mod entry;
mod fatal;
mod fields;
mod group;
mod header;
mod identity;
pub mod inspect;
mod journal;
mod parking;
#[cfg(feature = "planted")]
pub mod planted;
mod random;
mod segment;
mod store;
mod transfer;

pub use compaction::status::{CompactionRun, CompactionStatus};
pub use compaction::{CompactError, Compaction, CompactionPolicy, CompactionStep};
pub use config::{ConfigError, Driver, Durability, GroupOptions, SEGMENT_BYTES_MIN, StoreConfig};
pub use entry::{LogEntry, Vote};
pub use fatal::{Completion, FatalError};
pub use group::cursor::{ColdRange, LogCursor, ReadStep};
pub use group::error::{AppendError, Quarantined, ReadError, TruncateError};
pub use group::retention::{RetainLimit, RetainOutcome, Retention};
pub use group::state::StateSource;
pub use group::{GroupLog, LogBounds};
pub use header::{FORMAT_VERSION, HeaderError, Identity};
pub use journal::record::{RecordError, RecordKind};
pub use journal::replay::ReplayError;
pub use segment::Compacted;
pub use segment::scan::{Damage, Fault};
pub use store::open::{OpenError, stored_identity};
pub use store::space::SpaceState;
pub use store::{Store, StoreError, StoreStats};
pub use transfer::export::{ExportError, LogExport};
pub use transfer::import::{Import, ImportError};
pub use transfer::manifest::{LogManifest, MANIFEST_SEGMENTS_MAX, ManifestError, SegmentManifest};
