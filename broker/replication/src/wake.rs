//! Waking a group: from its log alone to a leader whose term has begun; and laying it to rest.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::Fatal;
use openraft::metrics::WaitError;
use plimsoll_log::{GroupLog, StateSource};
use plimsoll_protocol::ids::{LogId, LogIndex, Offset};
use tokio::runtime::Handle;

use crate::error::OpenGroupError;
use crate::fold::{Fold, GroupKind};
use crate::host::Surroundings;
use crate::log_store::LogStore;
use crate::network::NoPeers;
use crate::shared::{Published, Shared};
use crate::state_machine::StateMachine;
use crate::types::{Entry, Membership, Payload, Types, to_raft};

pub(crate) type Raft = openraft::Raft<Types, StateMachine>;

/// A group at work: this node leads it in `term`, and everything that was in its log when the term
/// began is folded.
#[derive(Debug)]
pub(crate) struct Awake {
    pub(crate) raft: Raft,
    pub(crate) shared: Arc<Shared>,
    pub(crate) term: u64,
}

impl Awake {
    /// Waits until the Raft instance ends by itself, and says why it did.
    pub(crate) async fn ended(&self) -> Fatal<Types> {
        let mut metrics = self.raft.server_metrics();
        while metrics.changed().await.is_ok() {}
        let running = self.raft.metrics().borrow_watched().running_state.clone();
        running.err().unwrap_or(Fatal::Stopped)
    }
}

/// Starts the group's Raft instance, makes this node its leader, and waits until the term's first
/// entry is applied. The caller sees to it that only one instance of a group exists.
pub(crate) async fn wake(
    log: &Arc<GroupLog>,
    kind: GroupKind,
    published: Published,
    around: &Arc<Surroundings>,
) -> Result<Awake, OpenGroupError> {
    let group = log.id();
    if let Some(source) = log.is_quarantined() {
        return Err(OpenGroupError::Quarantined { group, source });
    }
    let (raft, shared, is_new) = {
        let (log, around, runtime) = (log.clone(), around.clone(), Handle::current());
        // Reads the stored state and the entries behind it, perhaps from the disk.
        tokio::task::spawn_blocking(move || runtime.block_on(build(&log, kind, published, &around)))
            .await
            .map_err(|panic| storage(group, panic))??
    };
    let started = start(&raft, is_new, around).await;
    let ready = match started {
        Ok(()) => raft.wait_for_recovery(Some(around.config.wake_timeout)).await.map_err(|error| {
            match error {
                WaitError::Timeout(waited, _) => OpenGroupError::NotReady { group, waited },
                stopped @ WaitError::ShuttingDown => storage(group, stopped),
            }
        }),
        Err(error) => Err(storage(group, error)),
    };
    let led = ready.and_then(|_| {
        raft.as_leader()
            .map_err(|_| OpenGroupError::NotReady { group, waited: around.config.wake_timeout })
    });
    match led {
        Ok(leader) => {
            let term = leader.term();
            tracing::debug!(%group, term, "group awake");
            Ok(Awake { raft, shared, term })
        }
        Err(error) => {
            abandon(&raft, log).await;
            Err(error)
        }
    }
}

/// The group as openraft sees it, not yet running.
async fn build(
    log: &Arc<GroupLog>,
    kind: GroupKind,
    published: Published,
    around: &Surroundings,
) -> Result<(Raft, Arc<Shared>, bool), OpenGroupError> {
    let group = log.id();
    let fold = load(log, kind, around)?;
    let is_new = fold.progress().applied.is_none() && log.bounds().last.is_none();
    let shared = Shared::new(fold, published, log.clone());
    let store = LogStore::new(log.clone(), shared.clone());
    let machine = StateMachine::new(shared.clone());
    let raft = Raft::build(around.node.0, around.raft.clone(), NoPeers, store, machine)
        .await
        .map_err(|error| storage(group, error))?;
    // Only now: before, the fold could be behind what the last checkpoint holds.
    let source: Weak<Shared> = Arc::downgrade(&shared);
    let source: Weak<dyn StateSource> = source;
    log.set_state_source(Some(source));
    Ok((raft, shared, is_new))
}

async fn start(
    raft: &Raft,
    is_new: bool,
    around: &Surroundings,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    raft.run();
    if is_new {
        let members = BTreeMap::from([(around.node.0, around.config.member.clone())]);
        raft.initialize(members).await?;
    } else {
        raft.trigger().elect(false).await?;
    }
    Ok(())
}

/// The stored fold, and a log that goes on from where it can.
fn load(log: &GroupLog, kind: GroupKind, around: &Surroundings) -> Result<Fold, OpenGroupError> {
    let group = log.id();
    let stored = log.state().map_err(|error| storage(group, error))?;
    let mut fold = match stored {
        None => Fold::empty(kind),
        Some((applied, bytes)) => decode(log, kind, applied, &bytes)?,
    };
    let bounds = log.bounds();
    let applied = fold.progress().applied;
    match (applied, bounds.last) {
        // A power failure took entries that were not durable, after a checkpoint with their fold.
        (Some(applied), last) if last.is_none_or(|last| last.index < applied.index) => {
            let offset = fold.progress().high_watermark;
            tracing::warn!(%group, %applied, %offset, "log ends before its state: it goes on behind it");
            log.reset_to(applied, offset, Box::new(|_| {}));
        }
        // The same, before the first checkpoint: even the membership is gone, the vote is not.
        (None, None) if log.vote().is_some() => begin_anew(log, &mut fold, around),
        (None, Some(last)) if bounds.purged == Some(last) && last.index == LogIndex(0) => {
            begin_anew(log, &mut fold, around);
        }
        (applied, _) => {
            let next = applied.map_or(0, |id| id.index.0 + 1);
            let first_kept = bounds.purged.map_or(0, |id| id.index.0 + 1);
            if next < first_kept {
                log.set_quarantined("its state ends before its log begins");
                return Err(OpenGroupError::MissingEntries { group, first_kept });
            }
        }
    }
    Ok(fold)
}

fn decode(
    log: &GroupLog,
    kind: GroupKind,
    applied: LogId,
    bytes: &Bytes,
) -> Result<Fold, OpenGroupError> {
    let fold = Fold::decode(kind, bytes).map_err(|source| {
        log.set_quarantined(&format!("its stored state cannot be read: {source}"));
        OpenGroupError::DamagedState { group: log.id(), source }
    })?;
    assert_eq!(
        fold.progress().applied,
        Some(applied),
        "a state is stored under the entry that it was folded up to"
    );
    Ok(fold)
}

/// A group that lost its whole log but has voted: it cannot be initialised again, because its node
/// must not vote twice in a term. Its log begins behind a membership entry of that term, as if that
/// entry had been purged.
fn begin_anew(log: &GroupLog, fold: &mut Fold, around: &Surroundings) {
    use openraft::entry::{RaftEntry, RaftPayload};

    let term = log.vote().map_or_else(Default::default, |vote| vote.term);
    let id = log.bounds().last.unwrap_or(LogId::new(term, LogIndex(0)));
    tracing::warn!(group = %log.id(), entry = %id, "the whole log was lost: it begins anew");
    let members = BTreeMap::from([(around.node.0, around.config.member.clone())]);
    let payload = Payload::membership(Membership::from(members));
    fold.apply(Entry::new(to_raft(id), payload).stored());
    log.reset_to(id, Offset(0), Box::new(|_| {}));
    log.put_state(id, fold.encode());
}

/// Ends the Raft instance and leaves the fold with the log.
pub(crate) async fn lay_to_rest(awake: Awake, log: &GroupLog) {
    let group = log.id();
    abandon(&awake.raft, log).await;
    awake.shared.store();
    tracing::debug!(%group, "group asleep");
}

/// Ends the Raft instance and leaves nothing.
pub(crate) async fn abandon(raft: &Raft, log: &GroupLog) {
    if let Err(error) = raft.shutdown().await {
        tracing::error!(group = %log.id(), %error, "a group's Raft task ended badly");
    }
    log.set_state_source(None);
}

fn storage(
    group: plimsoll_protocol::ids::GroupId,
    error: impl Into<Box<dyn Error + Send + Sync>>,
) -> OpenGroupError {
    OpenGroupError::Storage { group, source: Arc::from(error.into()) }
}
