//! What other members lack, and how far retention may go for it.
//!
//! A member that is there gets what it lacks before its leader drops it. One that does not answer, or
//! whose replica is shut off, is not waited for, or the disk would fill until it is back: it is seeded
//! anew then. openraft has to know before entries go, on followers too, because it would read what a
//! member lacks from a log that no longer has it, and end the instance. So they go in two steps:
//! openraft purges behind a snapshot, which only marks them, and the next call drops them.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use plimsoll_log::RetainLimit;
use plimsoll_protocol::ids::{LogId, LogIndex, NodeId, Offset};
use tokio::time::timeout;

use super::{Group, Instance};
use crate::retention::Given;

/// How long openraft may take for a snapshot, which is the fold as it is.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(10);

impl Group {
    /// How far retention may go; `safe` is the state that would be left of what it drops. May block.
    pub(crate) fn retainable(&self, safe: Given) -> RetainLimit {
        let needed = self.instance().and_then(|instance| self.first_needed(&instance));
        match needed.filter(|needed| *needed <= safe.applied.index.0) {
            Some(needed) => RetainLimit {
                offset: self.offset_of(needed).min(safe.kept_from),
                last: LogIndex(needed.saturating_sub(1)),
            },
            None => safe.limit(),
        }
    }

    /// Whether retention may drop the entries up to `end`: an awake group among others has openraft
    /// forget them first. Needs a runtime.
    pub(crate) fn may_drop(&self, end: LogId) -> bool {
        let Some(instance) = self.instance() else { return true };
        if !instance.standing.borrow().has_others {
            return true;
        }
        let purged = instance.raft.data_metrics().borrow_watched().purged;
        let is_purged = purged.is_some_and(|purged| purged.index >= end.index.0);
        if !is_purged {
            tokio::spawn(purge(instance, end.index.0));
        }
        is_purged
    }

    /// The first entry that a live member lacks, where this node leads.
    fn first_needed(&self, instance: &Instance) -> Option<u64> {
        let neighbours = &self.around.neighbours;
        let metrics = instance.raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let members = metrics.replication.as_ref()?.iter();
        let waited_for = members.filter(|(node, _)| {
            let node = NodeId(**node);
            node != self.around.node
                && neighbours.reaches(node)
                && !neighbours.is_unfit(node, self.id())
        });
        waited_for.map(|(_, matched)| matched.map_or(0, |id| id.index + 1)).min()
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
