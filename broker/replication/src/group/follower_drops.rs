//! Retention where this node does not lead: what another member lacks is known to the leader only.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use plimsoll_protocol::ids::LogId;
use tokio::time::timeout;

use super::{Group, Instance};

/// How long openraft may take for a snapshot, which is the fold as it is.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(10);

impl Group {
    /// Whether openraft has forgotten the entries up to `last`, so that they can be dropped; where it has
    /// not, it is told to. When it leads one day, it must not look for what a member lacks in a log that
    /// no longer has it. Needs a runtime.
    pub(crate) fn has_forgotten(&self, last: LogId) -> bool {
        let Some(instance) = self.instance() else { return true };
        let purged = instance.raft.data_metrics().borrow_watched().purged;
        if purged.is_some_and(|id| id.index >= last.index.0) {
            return true;
        }
        tokio::spawn(forget(instance, last.index.0));
        false
    }
}

/// Has openraft forget the entries up to `upto`: who lacks one of them needs a snapshot.
async fn forget(instance: Instance, upto: u64) {
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
