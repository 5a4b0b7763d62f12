//! Waking a group: from its log alone to a running Raft instance; and laying it to rest.

use std::error::Error;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::entry::{RaftEntry, RaftPayload};
use openraft::errors::Fatal;
use plimsoll_log::{Durability, GroupLog, StateSource};
use plimsoll_protocol::ids::{GroupId, LogId, LogIndex, Offset, Term};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;

use crate::config::Blocking;
use crate::error::OpenGroupError;
use crate::fold::{Fold, GroupKind};
use crate::host::Surroundings;
use crate::keeper::{Keeper, configs_of, has_others};
use crate::log_store::{LogStore, unawaited};
use crate::membership;
use crate::network::GroupNetworks;
use crate::role::{Configs, Role, Standing, is_alone};
use crate::shared::{Published, Shared};
use crate::state_machine::StateMachine;
use crate::types::{Entry, Payload, Types, to_raft};

pub(crate) type Raft = openraft::Raft<Types, StateMachine>;

/// A group at work. Ended by [`Awake::end`]; dropping it stops the keeper only.
#[derive(Debug)]
pub(crate) struct Awake {
    pub(crate) raft: Raft,
    pub(crate) shared: Arc<Shared>,
    pub(crate) standing: watch::Receiver<Standing>,
    /// Told when somebody wants the group led now, or a leader took back its claim.
    pub(crate) nudge: Arc<Notify>,
    published: Published,
    keeper: KeeperTask,
}

#[derive(Debug)]
struct KeeperTask(JoinHandle<()>);

impl Drop for KeeperTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Awake {
    /// Waits until the Raft instance ends by itself, or its replica is shut off, and says why.
    pub(crate) async fn ended(&self) -> Fatal<Types> {
        let mut metrics = self.raft.server_metrics();
        let mut standing = self.standing.clone();
        tokio::select! {
            biased;
            () = async { while metrics.changed().await.is_ok() {} } => {}
            // A sender that is gone without a word is for `is_over`.
            Ok(_) = standing.wait_for(|standing| standing.ended) => {}
        }
        let running = self.raft.metrics().borrow_watched().running_state.clone();
        running.err().unwrap_or(Fatal::Stopped)
    }

    /// Waits until this node no longer leads in `term`.
    pub(crate) async fn deposed(&self, term: Term) {
        let mut standing = self.standing.clone();
        // The sender goes away with the instance only.
        let _ = standing.wait_for(|standing| standing.role != Role::Leader { term }).await;
    }

    /// Whether the Raft instance, or the keeper that speaks for it, has ended by itself.
    pub(crate) fn is_over(&self) -> bool {
        self.standing.borrow().ended || self.keeper.0.is_finished()
    }

    /// Takes the claim back, ends the Raft instance and leaves nothing with the log.
    pub(crate) async fn end(self, log: &GroupLog, around: &Surroundings) -> Arc<Shared> {
        let term = log.vote().map_or(Term(0), |vote| vote.term);
        // Not asleep: that would say that it has everything.
        self.end_as(log, around, Role::Searching { term }, false).await
    }

    async fn end_as(
        mut self,
        log: &GroupLog,
        around: &Surroundings,
        role: Role,
        claims: bool,
    ) -> Arc<Shared> {
        self.keeper.0.abort();
        // It must not claim the group after the claim was taken back.
        let _ = (&mut self.keeper.0).await;
        if !claims {
            around.neighbours.release(log.id());
        }
        self.published.role.send_replace(role);
        end(&self.raft, log).await;
        self.shared
    }
}

/// Starts the group's Raft instance. Where this node is the only voter it is made the leader, and its
/// term has begun when this returns. The caller sees to it that only one instance of a group exists.
pub(crate) async fn wake(
    log: &Arc<GroupLog>,
    kind: GroupKind,
    published: Published,
    around: &Arc<Surroundings>,
) -> Result<Awake, OpenGroupError> {
    let group = log.id();
    // An instance takes what its log shows for durable, and says so to its leader.
    if let Some(source) = log.stopped() {
        return Err(OpenGroupError::Storage { group, source });
    }
    if let Some(source) = log.is_quarantined() {
        around.neighbours.set_unfit(group, true);
        return Err(OpenGroupError::Quarantined { group, source });
    }
    // May wait for the catalog, which must not be kept from waking by those who wait for it.
    let voters = voters_at_birth(log, around).await?;
    let permit = match group {
        GroupId::CATALOG => None,
        _ => {
            let permit = around.neighbours.wakes.acquire().await;
            Some(permit.expect("the semaphore is never closed"))
        }
    };
    let (raft, shared) = match around.config.blocking {
        Blocking::Inline => build(log, kind, &published, around, voters).await?,
        Blocking::Pool => {
            let (log, around, published) = (log.clone(), around.clone(), published.clone());
            let runtime = Handle::current();
            // Reads the stored state and the entries behind it, perhaps from the disk.
            tokio::task::spawn_blocking(move || {
                runtime.block_on(build(&log, kind, &published, &around, voters))
            })
            .await
            .map_err(|panic| storage(group, panic))??
        }
    };
    drop(permit);
    let started = start(&raft, group, around).await;
    let (configs, has_others) = match started {
        Ok(members) => members,
        Err(error) => {
            end(&raft, log).await;
            return Err(error);
        }
    };
    let alone = is_alone(&configs, around.node);
    let role = Role::Searching { term: log.vote().map_or(Term(0), |vote| vote.term) };
    let (standing, watched) = watch::channel(Standing { role, configs, has_others, ended: false });
    // Before anybody holds it awake: as long as it showed that it sleeps, it would be read as if it
    // had all that the others have.
    published.role.send_replace(role);
    let nudge = Arc::new(Notify::new());
    let damaged = Arc::new(Notify::new());
    let tell = damaged.clone();
    log.on_quarantine(Some(Box::new(move || tell.notify_one())));
    let keeper = Keeper {
        group,
        raft: raft.clone(),
        log: log.clone(),
        shared: shared.clone(),
        around: around.clone(),
        standing,
        role: published.role.clone(),
        nudge: nudge.clone(),
        damaged,
    };
    let keeper = KeeperTask(tokio::spawn(keeper.run()));
    let mut awake = Awake { raft, shared, standing: watched, nudge, published, keeper };
    if alone && let Err(error) = begin_term(&mut awake, group, around).await {
        awake.end(log, around).await;
        return Err(error);
    }
    around.neighbours.set_unfit(group, false);
    tracing::debug!(%group, "group awake");
    Ok(awake)
}

/// Waits until this node, the only voter, leads.
async fn begin_term(
    awake: &mut Awake,
    group: GroupId,
    around: &Surroundings,
) -> Result<(), OpenGroupError> {
    let waited = around.config.wake_timeout;
    let ready = awake
        .standing
        .wait_for(|standing| standing.ended || matches!(standing.role, Role::Leader { .. }));
    let ended = match tokio::time::timeout(waited, ready).await {
        Err(_) => return Err(OpenGroupError::NotReady { group, waited }),
        Ok(standing) => standing.map_or(true, |standing| standing.ended),
    };
    if ended {
        return Err(storage(group, awake.ended().await));
    }
    Ok(())
}

/// With whom the group is born here: nobody where it has a log or a vote, or is not placed here, or
/// was sealed.
async fn voters_at_birth(
    log: &GroupLog,
    around: &Surroundings,
) -> Result<Vec<u64>, OpenGroupError> {
    let group = log.id();
    let is_new = log.bounds().last.is_none() && log.bounds().purged.is_none();
    let waited = around.config.wake_timeout;
    let not_ready = || match around.neighbours.may_lead() {
        true => OpenGroupError::NotReady { group, waited },
        false => OpenGroupError::ShuttingDown,
    };
    if is_new
        && log.vote().is_some()
        && around.may_begin_anew(group)
        && !around.neighbours.is_unplaced()
    {
        // So says a catalog of an earlier life: the replica may have been moved away since.
        if !around.neighbours.confirmed_within(waited).await {
            return Err(not_ready());
        }
    }
    if !is_new || log.vote().is_some() {
        return Ok(Vec::new());
    }
    if group == GroupId::CATALOG {
        let founded = around.config.founder.then_some(around.node.0);
        return Ok(founded.into_iter().collect());
    }
    if around.neighbours.is_unplaced() {
        return Ok(vec![around.node.0]);
    }
    // A catalog of an earlier life may not know yet that the group was sealed.
    if !around.neighbours.confirmed_within(waited).await {
        return Err(not_ready());
    }
    let placed = around.neighbours.placed(group);
    let placed = placed.ok_or(OpenGroupError::NotPlaced { group })?;
    let birth = placed.birth.filter(|birth| birth.contains(&around.node));
    Ok(birth.iter().flat_map(|birth| birth.iter()).map(|node| node.0).collect())
}

/// The group as openraft sees it, not yet running.
async fn build(
    log: &Arc<GroupLog>,
    kind: GroupKind,
    published: &Published,
    around: &Arc<Surroundings>,
    voters_at_birth: Vec<u64>,
) -> Result<(Raft, Arc<Shared>), OpenGroupError> {
    let group = log.id();
    let fold = load(log, kind, around)?;
    if !voters_at_birth.is_empty() && fold.progress().applied.is_none() {
        give_birth(log, voters_at_birth).await?;
    }
    let shared = Shared::new(fold, published.clone(), log.clone());
    // What is folded is committed: a follower may have nothing new to apply for long.
    shared.publish();
    let store = LogStore::new(log.clone(), shared.clone());
    let machine = StateMachine::new(shared.clone());
    let config = around.raft_config(log.options().durability);
    let networks = GroupNetworks { log: log.clone(), around: around.clone() };
    let raft = Raft::build(around.node.0, config, networks, store, machine)
        .await
        .map_err(|error| storage(group, error))?;
    // Only now: before, the fold could be behind what the last checkpoint holds.
    let source: Weak<Shared> = Arc::downgrade(&shared);
    let source: Weak<dyn StateSource> = source;
    log.set_state_source(Some(source));
    Ok((raft, shared))
}

/// Writes the group's first entry, the same on each of its first replicas: its membership. It is
/// durable when this returns.
async fn give_birth(log: &GroupLog, voters: Vec<u64>) -> Result<(), OpenGroupError> {
    let group = log.id();
    let payload = Payload::membership(membership::of_birth(voters));
    let first = LogId::new(Term(0), LogIndex(0));
    let entry = Entry::new(to_raft(first), payload);
    let (sender, receiver) = oneshot::channel();
    log.append(
        vec![entry.into()],
        Box::new(move |outcome| {
            let _ = sender.send(outcome);
        }),
    )
    .map_err(|error| storage(group, error))?;
    match receiver.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(OpenGroupError::Storage { group, source: error }),
        Err(_) => Err(OpenGroupError::ShuttingDown),
    }
}

/// Runs the instance; where this node is the only voter it elects itself. Returns the voters, and
/// whether there are other members.
async fn start(
    raft: &Raft,
    group: GroupId,
    around: &Surroundings,
) -> Result<(Configs, bool), OpenGroupError> {
    raft.run();
    let me = around.node;
    let (configs, has_others) = raft
        .with_raft_state(move |state| {
            let membership = state.membership_state.effective();
            let membership = membership.membership();
            (configs_of(membership), has_others(membership, me))
        })
        .await
        .map_err(|error| storage(group, error))?;
    if is_alone(&configs, around.node) {
        raft.trigger().elect(false).await.map_err(|error| storage(group, error))?;
    }
    Ok((configs, has_others))
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
        (Some(applied), last)
            if last.is_none_or(|last| last.index < applied.index)
                && log.options().durability == Durability::Durable =>
        {
            // No state is stored ahead of what its log has durably. What is left of the records may be
            // the only copy of them.
            tracing::error!(%group, %applied, ?last, "log ends before its state");
            log.set_quarantined(
                "its log ends before its state: entries that were durable are gone",
            );
            let source = log.is_quarantined().expect("it was just set");
            return Err(OpenGroupError::Quarantined { group, source });
        }
        // A power failure took entries that were not durable, after a checkpoint with their fold.
        (Some(applied), last) if last.is_none_or(|last| last.index < applied.index) => {
            let offset = fold.progress().high_watermark;
            tracing::warn!(%group, %applied, %offset, "log ends before its state: it goes on behind it");
            log.reset_to(applied, offset, unawaited());
        }
        // The same, before the first checkpoint: even the membership is gone, the vote is not.
        (None, None) if log.vote().is_some() && around.may_begin_anew(group) => {
            begin_anew(log, &mut fold, around);
        }
        (None, Some(last))
            if bounds.purged == Some(last)
                && last.index == LogIndex(0)
                && around.may_begin_anew(group) =>
        {
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

/// A group with one replica that lost its whole log but has voted: it cannot be born again, because
/// its node must not vote twice in a term. Its log begins behind a membership entry of that term, as
/// if that entry had been purged.
fn begin_anew(log: &GroupLog, fold: &mut Fold, around: &Surroundings) {
    let term = log.vote().map_or_else(Default::default, |vote| vote.term);
    let id = log.bounds().last.unwrap_or(LogId::new(term, LogIndex(0)));
    tracing::warn!(group = %log.id(), entry = %id, "the whole log was lost: it begins anew");
    let payload = Payload::membership(membership::of_birth([around.node.0]));
    fold.apply(Entry::new(to_raft(id), payload).stored());
    log.reset_to(id, Offset(0), Box::new(|_| {}));
    log.put_state(id, fold.encode());
}

/// Ends the Raft instance and leaves the fold with the log. A leader whose members sleep too goes on
/// claiming the group.
pub(crate) async fn lay_to_rest(awake: Awake, log: &GroupLog, around: &Surroundings, claims: bool) {
    let group = log.id();
    awake.end_as(log, around, Role::Asleep, claims).await.store();
    tracing::debug!(%group, "group asleep");
}

async fn end(raft: &Raft, log: &GroupLog) {
    if let Err(error) = raft.shutdown().await {
        tracing::error!(group = %log.id(), %error, "a group's Raft task ended badly");
    }
    log.set_state_source(None);
    log.on_quarantine(None);
}

pub(crate) fn storage(
    group: GroupId,
    error: impl Into<Box<dyn Error + Send + Sync>>,
) -> OpenGroupError {
    OpenGroupError::Storage { group, source: Arc::from(error.into()) }
}
