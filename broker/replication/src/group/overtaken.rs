//! A leader that takes back what is applied here.
//!
//! Without durability that happens: a majority lost its power, and elected one that has less than this
//! replica. openraft takes every entry up to its own committed one for one that it has, and compares
//! nothing, so it must not see what such a leader sends. What was folded cannot be unfolded: all of it
//! goes, and the replica is fed anew. With durability it is damage, here or there.

use std::sync::Arc;

use openraft::entry::RaftEntry as _;
use openraft::raft::AppendEntriesRequest;
use plimsoll_log::{Durability, GroupLog};
use plimsoll_protocol::ids::{LogId, LogIndex};
use plimsoll_protocol::peer::NotHere;

use super::Group;
use crate::log_store::unawaited;
use crate::shared::Shared;
use crate::types::{Types, from_raft};
use crate::wire::vote_to_wire;

/// A leader sent an entry that is another one than what this replica has committed in its place.
#[derive(Debug)]
pub(crate) struct TakenBack {
    /// The last entry that is committed here.
    kept: LogId,
    /// The leader's entry, at or below it.
    found: LogId,
    /// The sender's term is before that of what is committed here: it was deposed, and takes back nothing.
    is_deposed: bool,
    /// Of the instance that was asked for it.
    shared: Arc<Shared>,
}

impl Group {
    /// What a leader's request takes back of what is committed here. Of a leader that was deposed nothing
    /// is: openraft refuses it.
    pub(crate) async fn taken_back(
        &self,
        shared: &Arc<Shared>,
        request: &AppendEntriesRequest<Types>,
    ) -> Option<TakenBack> {
        // It goes on from the end of this log: all up to there is the same.
        if request.prev_log_id.as_ref().map(from_raft) == self.log.bounds().last {
            return None;
        }
        let kept = self.kept(shared)?;
        let found = last_upto(kept.index, request)?;
        if found == kept {
            return None;
        }
        // After `kept`: whoever committed that led in this term or an earlier one, and in an older one than
        // the sender's nothing can be committed that the sender lacks.
        let voted = self.log.vote().map(|vote| vote.term);
        let term = vote_to_wire(&request.vote).term;
        if voted > Some(term) {
            return None;
        }
        // A log that came as a seed may be of a later term than the vote, and openraft looks at the vote.
        let is_deposed = kept.term > term;
        let here = if found.index == kept.index {
            Some(kept.term)
        } else if let Some(last) = self.log.bounds().last.filter(|last| last.index == found.index) {
            Some(last.term)
        } else {
            let log = self.log.clone();
            self.blocking().run(move || log.term_at(found.index)).await
        };
        // Of an entry that was purged its term is not known, but that no later entry has an earlier one.
        let differs = here.map_or(found.term > kept.term, |term| term != found.term);
        differs.then(|| TakenBack { kept, found, is_deposed, shared: shared.clone() })
    }

    /// The last entry that is known to be committed here: openraft knows of it before it is applied.
    fn kept(&self, shared: &Shared) -> Option<LogId> {
        let applied = shared.applied();
        let committed = self.log.committed().filter(|committed| {
            // What is noted may have been lost with the power.
            applied.is_none_or(|applied| applied.index < committed.index)
                && self.log.term_at(committed.index) == Some(committed.term)
        });
        committed.or(applied)
    }

    /// Gives the replica up, to be fed anew by the leader that took something back: its instance ends, log
    /// and state go, its vote stays. A durable one is quarantined. `gone` is called with the log's end.
    /// Returns what the leader is told.
    pub(crate) async fn give_up(
        self: &Arc<Self>,
        taken_back: TakenBack,
        gone: impl FnOnce(),
    ) -> NotHere {
        let group = self.id();
        let TakenBack { kept, found, is_deposed, shared } = taken_back;
        let guard = self.lock().await;
        // Another session may have seen the same, and the replica may be a new one by now.
        let is_same = guard.as_ref().is_some_and(|awake| Arc::ptr_eq(&awake.shared, &shared));
        if is_deposed || !is_same {
            return NotHere::NoSession;
        }
        if self.log.options().durability == Durability::Durable {
            tracing::error!(%group, %kept, %found, "a leader takes back what is committed here");
            abandon(&self.log, &shared);
            return NotHere::Quarantined;
        }
        tracing::warn!(
            %group, %kept, %found,
            "the group has lost entries elsewhere: this replica begins anew"
        );
        let guard = match self.end_locked(guard).await {
            Ok(guard) => guard,
            Err(error) => {
                tracing::error!(%group, %error, "a group's instance did not end in order");
                return NotHere::NoSession;
            }
        };
        abandon(&self.log, &shared);
        gone();
        drop(guard);
        NotHere::NoSession
    }
}

/// The end of a replica of which something is taken back that is committed in it. In memory, of its log and
/// state; with durability nothing goes, and the replica is shut off.
pub(crate) fn abandon(log: &GroupLog, shared: &Shared) {
    match log.options().durability {
        Durability::Memory => {
            shared.give_up();
            log.drop_log(unawaited());
        }
        Durability::Durable => {
            log.set_quarantined("its leader takes back entries that were committed");
        }
    }
}

/// The last entry that a request names up to an index. Those before it need no look: where two logs have
/// one entry in common, they have all before it in common.
fn last_upto(index: LogIndex, request: &AppendEntriesRequest<Types>) -> Option<LogId> {
    let prev = request.prev_log_id.as_ref().map(from_raft);
    let entries = request.entries.iter().map(|entry| from_raft(&entry.log_id()));
    prev.into_iter().chain(entries).take_while(|id| id.index <= index).last()
}
