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

/// So many bytes that compaction could take are left to a member that is away for a short time.
const LEFT_BYTES_MAX: u64 = 1 << 30;

/// How long openraft may take for a snapshot, which is the fold as it is.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(10);

impl Group {
    /// How far retention may go; `safe` is the state that would be left of what it drops. May block.
    pub(crate) fn retainable(&self, safe: Given) -> RetainLimit {
        let needed = self.instance().and_then(|instance| self.first_needed(&instance));
        self.limit_before(needed, safe)
    }

    /// How far compaction may go: as [`Group::retainable`], and it leaves a member what it lacks that was there
    /// a short time ago and is still being waited for. May block.
    pub(crate) fn compactable(&self, safe: Given) -> RetainLimit {
        let Some(instance) = self.instance() else { return safe.limit() };
        let lacked = [self.first_needed(&instance), self.first_missed(&instance)];
        self.limit_before(lacked.into_iter().flatten().min(), safe)
    }

    fn limit_before(&self, needed: Option<u64>, safe: Given) -> RetainLimit {
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
        instance.has_purged(end)
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

    /// The first entry that a member may lack that is not heard, and was a short time ago. A leader knows what it
    /// has; who does not know leaves it all that there is. Those that lack what is purged already are sent the
    /// whole log in any case.
    fn first_missed(&self, instance: &Instance) -> Option<u64> {
        let neighbours = &self.around.neighbours;
        let first = self.log.bounds().purged.map_or(0, |purged| purged.index.0 + 1);
        let members: Vec<u64> = {
            let metrics = instance.raft.server_metrics();
            let metrics = metrics.borrow_watched();
            metrics.membership_config.membership().nodes().map(|(id, _)| *id).collect()
        };
        let metrics = instance.raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let missed = members.into_iter().filter(|node| neighbours.is_missed(NodeId(*node)));
        let lacked = missed.map(|node| {
            let matched = metrics.replication.as_ref().and_then(|all| all.get(&node)?.as_ref());
            matched.map_or(first, |id| id.index + 1)
        });
        let lacked = lacked.filter(|index| *index >= first).min();
        lacked.filter(|index| self.log.bytes_from(LogIndex(*index)) <= LEFT_BYTES_MAX)
    }

    /// The offset at which an entry begins; 0 where the log does not have it (any more).
    fn offset_of(&self, index: u64) -> Offset {
        let read = self.log.read_entries(index..index + 1, 1);
        let first = read.ok().and_then(|entries| Some(entries.first()?.header.base_offset));
        first.unwrap_or(Offset(0))
    }
}

impl Instance {
    /// Whether openraft has forgotten the entries up to `end`; where not, has it forget them. Needs a runtime.
    pub(crate) fn has_purged(&self, end: LogId) -> bool {
        let purged = self.raft.data_metrics().borrow_watched().purged;
        let is_purged = purged.is_some_and(|purged| purged.index >= end.index.0);
        if !is_purged {
            tokio::spawn(purge(self.clone(), end.index.0));
        }
        is_purged
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
