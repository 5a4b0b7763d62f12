//! openraft's state machine over the fold.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{OptionalSend, Snapshot, SnapshotMeta};
use plimsoll_protocol::ids::LogId;
use plimsoll_state::partition::Progress;
use tokio::sync::oneshot;

use crate::fold::Fold;
use crate::membership;
use crate::shared::Shared;
use crate::snapshot::GroupSnapshot;
use crate::types::{Applied, Entry, Membership, RaftLogId, StoredMembership, Types, to_raft};

/// How many entries are applied before their effect is published and their proposers are answered.
const APPLY_AT_ONCE: usize = 256;

/// Folds committed entries, publishes the high watermark, answers the proposers.
pub(crate) struct StateMachine {
    shared: Arc<Shared>,
    /// Whether a snapshot was ever built or installed in this life of the group.
    has_snapshot: bool,
    answers: Vec<(ApplyResponder<Types>, Applied)>,
    retries: Vec<(oneshot::Sender<Applied>, Applied)>,
}

impl fmt::Debug for StateMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateMachine").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl StateMachine {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, has_snapshot: false, answers: Vec::new(), retries: Vec::new() }
    }

    fn take(
        &mut self,
        (entry, responder): (Entry, Option<ApplyResponder<Types>>),
    ) -> Result<(), io::Error> {
        let (applied, waiting) = self.shared.try_apply(entry.stored()).map_err(io::Error::other)?;
        self.retries.extend(waiting.into_iter().map(|sender| (sender, applied.clone())));
        if let Some(responder) = responder {
            self.answers.push((responder, applied));
        }
        Ok(())
    }

    /// Readers see the records before their producer hears that they are stored.
    fn publish_and_answer(&mut self) {
        self.shared.publish();
        for (responder, applied) in self.answers.drain(..) {
            responder.send(applied);
        }
        for (sender, applied) in self.retries.drain(..) {
            // A retry that nobody waits for any more is of no concern.
            let _ = sender.send(applied);
        }
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = GroupSnapshot;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<RaftLogId>, StoredMembership), io::Error> {
        let progress = self.shared.progress();
        Ok((progress.applied.map(to_raft), stored_membership(&progress)?))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut chunks = entries.ready_chunks(APPLY_AT_ONCE);
        while let Some(chunk) = chunks.next().await {
            for item in chunk {
                if let Err(error) = item.and_then(|item| self.take(item)) {
                    self.publish_and_answer();
                    return Err(error);
                }
            }
            self.publish_and_answer();
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<SnapshotBuilder> {
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.has_snapshot = true;
        let (progress, state) = self.shared.encode();
        SnapshotBuilder { shared: self.shared.clone(), progress, state }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Types>,
        snapshot: GroupSnapshot,
    ) -> Result<(), io::Error> {
        let fold = Fold::decode(self.shared.kind(), &snapshot.state).map_err(io::Error::other)?;
        if fold.progress().applied.map(to_raft) != meta.last_log_id {
            return Err(io::Error::other("the snapshot's state is not of the entry that it names"));
        }
        self.shared.replace(fold);
        self.shared.store();
        self.shared.publish();
        self.has_snapshot = true;
        Ok(())
    }

    /// The fold as it is now, once there was a snapshot or entries are gone that another member may lack: a
    /// fresh one costs no more than a kept one and takes no memory until it is asked for.
    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<Types, GroupSnapshot>>, io::Error> {
        if !self.has_snapshot && !self.shared.is_purged() {
            return Ok(None);
        }
        let (progress, state) = self.shared.encode();
        snapshot(&progress, state).map(Some)
    }
}

/// A view of the fold at one entry.
#[derive(Debug)]
pub(crate) struct SnapshotBuilder {
    shared: Arc<Shared>,
    progress: Progress,
    state: Bytes,
}

impl RaftSnapshotBuilder<Types> for SnapshotBuilder {
    type SnapshotData = GroupSnapshot;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, GroupSnapshot>, io::Error> {
        self.shared.store_as(self.progress.applied, self.state.clone());
        snapshot(&self.progress, self.state.clone())
    }
}

fn snapshot(
    progress: &Progress,
    state: Bytes,
) -> Result<SnapshotOf<Types, GroupSnapshot>, io::Error> {
    Ok(Snapshot {
        meta: SnapshotMeta {
            last_log_id: progress.applied.map(to_raft),
            last_membership: stored_membership(progress)?,
        },
        snapshot: GroupSnapshot { state },
    })
}

fn stored_membership(progress: &Progress) -> Result<StoredMembership, io::Error> {
    let Some((id, body)) = &progress.membership else {
        return Ok(StoredMembership::default());
    };
    let membership: Membership = membership::decode(body).map_err(io::Error::other)?;
    let id: LogId = *id;
    Ok(StoredMembership::new(Some(to_raft(id)), membership))
}
