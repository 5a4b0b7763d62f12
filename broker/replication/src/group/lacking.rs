//! What other members lack, and how far retention may go for it.
//!
//! A member that is there gets what it lacks before it is dropped. One that does not answer, or whose
//! replica is shut off, is not waited for, or the disk would fill until it is back: it is seeded anew
//! then. openraft has to know before the entries go, because it would read what a member lacks from a
//! log that no longer has it, so they go in two steps: openraft purges behind a snapshot, which only
//! marks them, and the next call drops what is marked.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use plimsoll_protocol::ids::{NodeId, Offset};
use tokio::time::timeout;

use super::{Group, Instance};
use crate::retention::Given;

/// How long openraft may take for a snapshot, which is the fold as it is.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(10);

/// How far the members are, where this node leads.
struct Progress {
    /// The first entry that a member lacks which is waited for.
    needed: Option<u64>,
    /// Whether a member that is not waited for lacks something of what was folded.
    is_one_left_behind: bool,
    /// The first entry that openraft has not purged.
    first: u64,
}

impl Group {
    /// The offset before which retention may drop records; `safe` is the state that would be left of
    /// them. May block. Where openraft must forget entries first, it is asked to: needs a runtime.
    pub(crate) fn retainable(&self, safe: Given) -> Offset {
        let Some(instance) = self.instance() else { return safe.high_watermark };
        let Some(progress) = self.progress(&instance, safe) else { return safe.high_watermark };
        let folded = safe.applied.index.0 + 1;
        let mut end = progress.needed.map_or(folded, |needed| needed.min(folded));
        if progress.is_one_left_behind {
            if end > progress.first {
                tokio::spawn(purge(instance, end - 1));
            }
            end = end.min(progress.first);
        }
        if end >= folded {
            safe.high_watermark
        } else {
            self.offset_of(end).min(safe.high_watermark)
        }
    }

    fn progress(&self, instance: &Instance, safe: Given) -> Option<Progress> {
        let neighbours = &self.around.neighbours;
        let metrics = instance.raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let mut progress = Progress {
            needed: None,
            is_one_left_behind: false,
            first: metrics.purged.map_or(0, |id| id.index + 1),
        };
        for (&node, matched) in metrics.replication.as_ref()? {
            let next = matched.map_or(0, |id| id.index + 1);
            let node = NodeId(node);
            if node == self.around.node {
                continue;
            }
            if neighbours.reaches(node) && !neighbours.is_unfit(node, self.id()) {
                progress.needed = Some(progress.needed.map_or(next, |needed| needed.min(next)));
            } else {
                progress.is_one_left_behind |= next <= safe.applied.index.0;
            }
        }
        Some(progress)
    }

    /// The offset at which an entry begins; 0 where the log does not have it (any more).
    fn offset_of(&self, index: u64) -> Offset {
        let read = self.log.read_entries(index..index + 1, 1);
        let first = read.ok().and_then(|entries| Some(entries.first()?.header.base_offset));
        first.unwrap_or(Offset(0))
    }
}

/// Has openraft forget the entries up to `upto`: who lacks one of them gets a snapshot.
async fn purge(instance: Instance, upto: u64) {
    let raft = &instance.raft;
    if raft.trigger().snapshot().await.is_err() {
        return;
    }
    let mut metrics = raft.data_metrics();
    let taken = async {
        while metrics.borrow_and_update().snapshot.is_none_or(|id| id.index < upto) {
            if metrics.changed().await.is_err() {
                break;
            }
        }
    };
    if timeout(SNAPSHOT_TIMEOUT, taken).await.is_ok() {
        // It fails where the instance has ended; the next one begins with what is purged.
        let _ = raft.trigger().purge_log(upto).await;
    }
}
