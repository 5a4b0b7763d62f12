//! One group: its log for readers, its Raft instance, while it is awake, for writers.

mod decided;
mod fences;
mod lacking;
mod lead;
mod overtaken;
mod queue;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::errors::Fatal;
use plimsoll_log::GroupLog;
use plimsoll_protocol::batch::{BATCH_HEADER_BYTES, BatchHeader, EntryKind};
use plimsoll_protocol::ids::{GroupId, LogId, NodeId, Offset, Term};
use plimsoll_state::catalog::{Catalog, CatalogCommand, CatalogReply};
use plimsoll_state::producers::Verdict;
use tokio::sync::{Mutex, Notify, OwnedMutexGuard, RwLock, watch};
use tokio::time::timeout;

pub use self::decided::DecidedError;
pub use self::fences::{FencePass, PassError};
use self::lead::Led;
pub(crate) use self::overtaken::{TakenBack, abandon};
pub use self::queue::PendingControl;
use crate::config::Blocking;
use crate::error::{LeadError, NotLeader, OpenGroupError, ProduceError, ProposeError};
use crate::fold::GroupKind;
use crate::host::Surroundings;
use crate::pending::{PendingProduce, Produced, refused};
use crate::reads::Reads;
use crate::reply::Reply;
use crate::retention::Given;
use crate::role::{Role, Standing};
use crate::shared::{Begin, Published, Shared};
use crate::types::{Proposal, Types, from_raft};
use crate::wake::{Awake, Raft, lay_to_rest, wake};

/// How long after a Raft instance ended by itself it begins anew, where nobody wants it earlier.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// One Raft group of this node. It sleeps while nobody writes to it; writing wakes it.
#[derive(Debug)]
pub struct Group {
    kind: GroupKind,
    log: Arc<GroupLog>,
    published: Published,
    around: Arc<Surroundings>,
    /// The Raft instance, while there is one. Whoever holds the lock decides what is proposed next:
    /// batches are admitted and proposed in one order.
    awake: Arc<Mutex<Option<Awake>>>,
    /// The same instance, for what other nodes send: that must not wait for a proposal that waits.
    instance: std::sync::Mutex<Option<Instance>>,
    /// When it was last used, in milliseconds of the monotonic clock.
    used_ms: AtomicU64,
    deleted: AtomicBool,
    /// It sleeps as its leader proposed: its whole log is durable.
    slept_as_agreed: AtomicBool,
    /// This node's replica was taken away.
    dropped: watch::Sender<bool>,
    reads: Reads,
    /// Shared by writes under locks on their way into the log, held alone by who raises a floor.
    fences: Arc<RwLock<()>>,
}

/// How a Raft instance ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ending {
    /// Its state lies with the log; where this node leads and the members rest too, it goes on claiming
    /// the group.
    Rests {
        /// Whether it does.
        claims: bool,
    },
    /// As its leader proposed.
    RestsAsAgreed,
    /// As `Rests`, after what is in flight, for which it waits so long at most.
    Drained(Duration),
    /// Nothing is kept.
    Ended,
}

/// What a group is doing, for people to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupStatus {
    /// Whether it has a Raft instance.
    pub awake: bool,
    /// Who leads it, where this is known.
    pub leader: Option<NodeId>,
    /// The term of that leader; without one, the last term that was voted in.
    pub term: Term,
    /// Proposals whose outcome is not known yet.
    pub outstanding: usize,
}

impl Group {
    pub(crate) fn new(kind: GroupKind, log: Arc<GroupLog>, around: Arc<Surroundings>) -> Arc<Self> {
        let group = Self {
            kind,
            log,
            published: Published::new(),
            awake: Arc::default(),
            instance: std::sync::Mutex::default(),
            used_ms: AtomicU64::new(0),
            deleted: AtomicBool::new(false),
            slept_as_agreed: AtomicBool::new(false),
            dropped: watch::Sender::new(false),
            reads: Reads::default(),
            fences: Arc::default(),
            around,
        };
        group.touch();
        Arc::new(group)
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.log.id()
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> GroupKind {
        self.kind
    }

    /// Where work on this group that may block goes.
    #[must_use]
    pub fn blocking(&self) -> Blocking {
        self.around.config.blocking
    }

    /// Its log, for readers. Records below the high watermark are committed.
    #[must_use]
    pub fn log(&self) -> &Arc<GroupLog> {
        &self.log
    }

    /// The offset after the last committed record, as it moves. Goes on over the group's sleep.
    #[must_use]
    pub fn high_watermark(&self) -> watch::Receiver<Offset> {
        self.published.high_watermark.subscribe()
    }

    /// The catalog as of now; empty for a partition.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        self.published.catalog.borrow().clone()
    }

    /// The catalog, as it changes.
    #[must_use]
    pub fn watch_catalog(&self) -> watch::Receiver<Arc<Catalog>> {
        self.published.catalog.subscribe()
    }

    /// What this node is in the group, as it changes.
    #[must_use]
    pub fn role(&self) -> watch::Receiver<Role> {
        self.published.role.subscribe()
    }

    /// Whether this node leads the group.
    #[must_use]
    pub fn leads(&self) -> bool {
        matches!(*self.published.role.borrow(), Role::Leader { .. })
    }

    /// Whether this node's replica was taken away, because it is no longer wanted here: whoever reads it
    /// must go to another node.
    #[must_use]
    pub fn dropped(&self) -> watch::Receiver<bool> {
        self.dropped.subscribe()
    }

    pub(crate) fn set_dropped(&self, dropped: bool) {
        self.dropped.send_replace(dropped);
    }

    /// What it is doing. Does not wake it; waits while it is being woken.
    pub async fn status(&self) -> GroupStatus {
        let me = self.around.node;
        let vote_term = self.log.vote().map_or(Term(0), |vote| vote.term);
        match self.awake.lock().await.as_ref() {
            Some(awake) => {
                let role = awake.standing.borrow().role;
                let leader = match role {
                    Role::Leader { .. } => Some(me),
                    Role::Follower { leader, .. } => Some(leader),
                    Role::Searching { .. } | Role::Asleep => None,
                };
                GroupStatus {
                    awake: true,
                    leader,
                    term: role.term().unwrap_or(vote_term),
                    outstanding: awake.shared.outstanding(),
                }
            }
            None => GroupStatus { awake: false, leader: None, term: vote_term, outstanding: 0 },
        }
    }

    /// Admits a batch and proposes it. When this returns, its place among the batches of the
    /// partition is settled; await the [`PendingProduce`] for its outcome. Batches of one producer
    /// must be handed in one after the other, in the order of their sequences.
    ///
    /// `batch` is a whole batch that was validated, `header` its header.
    ///
    /// # Errors
    /// When the batch is refused, or the group cannot be woken. Nothing was proposed then.
    ///
    /// # Panics
    /// When the group is not a partition.
    pub async fn produce(
        self: &Arc<Self>,
        batch: Bytes,
        header: BatchHeader,
    ) -> Result<PendingProduce, ProduceError> {
        self.produce_under(batch, header, None).await
    }

    /// As [`Group::produce`], for a batch that was let pass under a lock: only in the term of the pass.
    ///
    /// # Errors
    /// As [`Group::produce`]; in another term `NotLeader`: it is to be let pass anew.
    ///
    /// # Panics
    /// When the group is not a partition.
    pub async fn produce_under(
        self: &Arc<Self>,
        batch: Bytes,
        header: BatchHeader,
        pass: Option<&FencePass>,
    ) -> Result<PendingProduce, ProduceError> {
        assert_eq!(self.kind, GroupKind::Partition, "batches go to partitions");
        #[cfg(feature = "planted")]
        let mut header = header;
        #[cfg(feature = "planted")]
        if plimsoll_log::planted::is_planted(plimsoll_log::planted::Bug::StoreTwice) {
            header.producer_id = plimsoll_protocol::ids::ProducerId::NONE;
            header.body_crc = header.compute_body_crc(&batch[BATCH_HEADER_BYTES..]);
        }
        let (Led { awake, term }, begin) = loop {
            let Led { awake, term } = self.lead().await?;
            if pass.is_some_and(|pass| pass.term != term) {
                return Err(self.not_leader().into());
            }
            let group = awake.as_ref().expect("lead() returned");
            match group.shared.begin(&header) {
                Begin::Doubtful => {
                    if let Some(fatal) = self.settled(group, term).await? {
                        return Err(self.stopped(awake, fatal).await.into());
                    }
                }
                begin => break (Led { awake, term }, begin),
            }
        };
        if let Some(known) = known(begin) {
            return known;
        }
        self.send(Led { awake, term }, batch, header).await
    }

    /// Proposes a batch that was just admitted.
    async fn send(
        self: &Arc<Self>,
        Led { awake, term }: Led,
        batch: Bytes,
        mut header: BatchHeader,
    ) -> Result<PendingProduce, ProduceError> {
        let group = awake.as_ref().expect("whoever leads is awake");
        // From here on the reply must be over, whatever happens: nothing may come in between.
        let (reply, outcome) = Reply::new(group.shared.clone());
        header.kind = EntryKind::Records;
        header.append_time_ms = self.around.clock.unix_ms();
        let proposal = Proposal { header, body: batch.slice(BATCH_HEADER_BYTES..) };
        let sent = group.raft.write(proposal).with_leader(term.0).responder(reply).await;
        if let Err(fatal) = sent {
            return Err(self.stopped(awake, fatal).await.into());
        }
        Ok(PendingProduce::proposed(self.id(), outcome))
    }

    /// Carries out a command of the catalog where this node leads it, and waits for its answer. A
    /// refusal is an answer. [`Host::command`](crate::Host::command) finds the leader.
    ///
    /// # Errors
    /// When the command did not enter the log, or its outcome is unknown.
    ///
    /// # Panics
    /// When the group is not the catalog.
    pub async fn command(
        self: &Arc<Self>,
        command: CatalogCommand,
    ) -> Result<CatalogReply, ProposeError> {
        self.command_bytes(command.encode()).await.map(|(_, reply)| reply)
    }

    /// As [`Group::command`], with the command as bytes; also says which entry it became.
    pub(crate) async fn command_bytes(
        self: &Arc<Self>,
        command: Bytes,
    ) -> Result<(LogId, CatalogReply), ProposeError> {
        assert_eq!(self.kind, GroupKind::Catalog, "commands go to the catalog");
        let outcome = {
            let Led { awake, term } = self.lead().await?;
            let group = awake.as_ref().expect("lead() returned");
            let proposal = Proposal::control(command, self.around.clock.unix_ms());
            group.shared.begin_control();
            let (reply, outcome) = Reply::new(group.shared.clone());
            let sent = group.raft.write(proposal).with_leader(term.0).responder(reply).await;
            if let Err(fatal) = sent {
                return Err(self.stopped(awake, fatal).await.into());
            }
            outcome
        };
        match outcome.await {
            Ok(Ok(response)) => {
                let reply = response.data.reply;
                let reply = *reply.expect("every control entry of the catalog is answered");
                Ok((from_raft(&response.log_id), reply))
            }
            Ok(Err(error)) => Err(refused(self.id(), error).into()),
            Err(_) => Err(ProposeError::Unknown),
        }
    }

    /// Starts the group's Raft instance if it sleeps. Where this node is the only voter it leads when
    /// this returns. Those who come while it is being woken share the attempt.
    ///
    /// # Errors
    /// When it cannot be woken.
    pub async fn wake(self: &Arc<Self>) -> Result<(), OpenGroupError> {
        self.awake().await.map(drop)
    }

    /// The lock, with a Raft instance behind it.
    pub(crate) async fn awake(
        self: &Arc<Self>,
    ) -> Result<OwnedMutexGuard<Option<Awake>>, OpenGroupError> {
        self.touch();
        let guard = self.awake.clone().lock_owned().await;
        if guard.is_some() {
            return Ok(guard);
        }
        // A task of its own: a caller that goes away must not leave half a Raft instance behind.
        let group = self.clone();
        let waking = tokio::spawn(async move {
            let mut guard = guard;
            group.check_usable()?;
            group.set_slept_as_agreed(false);
            let awake =
                wake(&group.log, group.kind, group.published.clone(), &group.around).await?;
            group.reap_at_end(&awake);
            group.set_instance(Some(Instance::of(&awake)));
            *guard = Some(awake);
            Ok(guard)
        });
        waking.await.map_err(|panic| OpenGroupError::Storage {
            group: self.id(),
            source: Arc::new(panic),
        })?
    }

    pub(crate) fn set_slept_as_agreed(&self, slept: bool) {
        self.slept_as_agreed.store(slept, Ordering::Release);
    }

    pub(crate) fn slept_as_agreed(&self) -> bool {
        self.slept_as_agreed.load(Ordering::Acquire)
    }

    pub(crate) fn reads(&self) -> &Reads {
        &self.reads
    }

    pub(crate) fn around(&self) -> &Arc<Surroundings> {
        &self.around
    }

    /// The lock that decides what is proposed next.
    pub(crate) async fn lock(&self) -> OwnedMutexGuard<Option<Awake>> {
        self.awake.clone().lock_owned().await
    }

    /// The same lock, if nobody holds it.
    pub(crate) fn try_lock(&self) -> Option<OwnedMutexGuard<Option<Awake>>> {
        self.awake.clone().try_lock_owned().ok()
    }

    /// Whether nobody used the group for `idle_for`.
    pub(crate) fn is_idle(&self, idle_for: Duration) -> bool {
        let used = Duration::from_millis(self.used_ms.load(Ordering::Relaxed));
        self.around.clock.monotonic().saturating_sub(used) >= idle_for
    }

    fn set_instance(&self, instance: Option<Instance>) {
        *self.instance.lock().expect("nothing panics while it holds the instance") = instance;
    }

    /// The Raft instance, if the group is awake. Does not wait.
    pub(crate) fn instance(&self) -> Option<Instance> {
        self.instance.lock().expect("nothing panics while it holds the instance").clone()
    }

    /// The Raft instance, for what another node sends: an awake group's without waiting.
    pub(crate) async fn instance_awake(self: &Arc<Self>) -> Result<Instance, OpenGroupError> {
        if let Some(instance) = self.instance() {
            return Ok(instance);
        }
        let awake = self.awake().await?;
        Ok(Instance::of(awake.as_ref().expect("awake() returned")))
    }

    /// Has the group look for a leader anew: the one that it had takes back its claim.
    pub(crate) fn nudge(&self) {
        if let Some(instance) = self.instance() {
            instance.nudge.notify_one();
        }
    }

    /// Takes the Raft instance away once it has ended by itself, also where nobody uses the group.
    fn reap_at_end(self: &Arc<Self>, awake: &Awake) {
        let mut standing = awake.standing.clone();
        let group = Arc::downgrade(self);
        tokio::spawn(async move {
            // Without a word its keeper was aborted, because the instance is being ended, or it failed.
            let told = standing.wait_for(|standing| standing.ended).await.is_ok();
            let Some(group) = group.upgrade() else { return };
            let guard = group.lock().await;
            if let Some(awake) = &*guard
                && awake.is_over()
            {
                let fatal = if told { awake.ended().await } else { Fatal::Stopped };
                group.stopped(guard, fatal).await;
            }
        });
    }

    fn check_usable(&self) -> Result<(), OpenGroupError> {
        if self.deleted.load(Ordering::Acquire) {
            return Err(OpenGroupError::Deleted { group: self.id() });
        }
        if self.around.closed.load(Ordering::Acquire) {
            return Err(OpenGroupError::ShuttingDown);
        }
        Ok(())
    }

    /// The Raft instance ended by itself: the next use tries to wake the group anew, and says what
    /// is wrong with it.
    async fn stopped(
        self: &Arc<Self>,
        guard: OwnedMutexGuard<Option<Awake>>,
        fatal: Fatal<Types>,
    ) -> LeadError {
        tracing::error!(group = %self.id(), error = %fatal, "a group's Raft instance stopped");
        let error = match self.log.is_quarantined() {
            Some(source) => {
                self.around.neighbours.set_unfit(self.id(), true);
                OpenGroupError::Quarantined { group: self.id(), source }
            }
            None => {
                if self.has_other_replicas() {
                    self.wake_again();
                }
                OpenGroupError::Storage { group: self.id(), source: Arc::new(fatal) }
            }
        };
        self.end_instance(guard, Ending::Ended).await;
        self.unusable(error)
    }

    /// Wakes the group in a while where nobody did: the others count on this replica's vote.
    fn wake_again(self: &Arc<Self>) {
        let group = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(AGAIN_AFTER).await;
            let Some(group) = group.upgrade().filter(|group| group.instance().is_none()) else {
                return;
            };
            if let Err(error) = group.wake().await {
                tracing::warn!(group = %group.id(), %error, "a group cannot be woken again");
            }
        });
    }

    /// Whether other nodes shall hold replicas of the group, too.
    #[must_use]
    pub fn has_other_replicas(&self) -> bool {
        let placed = self.around.neighbours.placed(self.id());
        placed.is_some_and(|placed| placed.wanted.len() > 1)
    }

    /// What is told to whoever wants to use the group and cannot, here: that this replica failed is final
    /// only where it is the only one.
    fn unusable(&self, error: OpenGroupError) -> LeadError {
        if error.is_of_replica() && self.has_other_replicas() {
            let leader = self.around.neighbours.leader_elsewhere(self.id());
            return NotLeader { leader, address: None }.into();
        }
        error.into()
    }

    fn touch(&self) {
        let now = self.around.clock.monotonic().as_millis();
        self.used_ms.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether it has a Raft instance, or is getting or losing one.
    pub(crate) fn is_awake(&self) -> bool {
        self.awake.try_lock().map_or(true, |awake| awake.is_some())
    }

    /// Puts the state as it is now into the log, if the group is awake and nobody holds its lock.
    pub(crate) fn store_state(&self) -> Option<Given> {
        let awake = self.awake.try_lock().ok()?;
        awake.as_ref()?.shared.store()
    }

    /// Drops the Raft instance if nobody used the group for `idle_for` and nothing is in flight.
    pub(crate) async fn sleep_if_idle(self: Arc<Self>, idle_for: Duration) -> bool {
        let Ok(guard) = self.awake.clone().try_lock_owned() else { return false };
        let idle = self.is_idle(idle_for);
        // With other members it takes an agreement.
        let may_sleep =
            |awake: &Awake| awake.shared.outstanding() == 0 && !awake.standing.borrow().has_others;
        if !idle || !guard.as_ref().is_some_and(may_sleep) {
            return false;
        }
        self.end_instance(guard, Ending::Rests { claims: false }).await
    }

    /// Ends the Raft instance, if there is one, and then gives the lock back. Returns whether there was
    /// one, and it ended in order.
    ///
    /// In a task of its own, for the same reason as in waking: whoever waits may go away, and an instance
    /// that is out of its place and still at work would meet the next one on the same log.
    pub(crate) async fn end_instance(
        self: &Arc<Self>,
        mut guard: OwnedMutexGuard<Option<Awake>>,
        ending: Ending,
    ) -> bool {
        self.set_instance(None);
        let Some(awake) = guard.take() else { return false };
        let group = self.clone();
        let ended = tokio::spawn(async move {
            let (log, around) = (&group.log, &group.around);
            match ending {
                Ending::Rests { claims } => lay_to_rest(awake, log, around, claims).await,
                Ending::RestsAsAgreed => {
                    lay_to_rest(awake, log, around, false).await;
                    // Its leader counts all of it as flushed here.
                    group.set_slept_as_agreed(true);
                }
                Ending::Drained(drain) => {
                    let _ = timeout(drain, awake.shared.idle()).await;
                    lay_to_rest(awake, log, around, false).await;
                }
                Ending::Ended => drop(awake.end(log, around).await),
            }
            drop(guard);
        });
        ended.await.is_ok()
    }

    /// Ends the Raft instance, if there is one, and keeps the lock: nobody wakes the group before it is
    /// dropped. In a task of its own, as [`Group::end_instance`].
    pub(crate) async fn end_locked(
        self: &Arc<Self>,
        mut guard: OwnedMutexGuard<Option<Awake>>,
    ) -> Result<OwnedMutexGuard<Option<Awake>>, OpenGroupError> {
        self.set_instance(None);
        let group = self.clone();
        let ended = tokio::spawn(async move {
            if let Some(awake) = guard.take() {
                awake.end(&group.log, &group.around).await;
            }
            guard
        });
        ended
            .await
            .map_err(|panic| OpenGroupError::Storage { group: self.id(), source: Arc::new(panic) })
    }

    /// Waits for what is in flight, for at most `drain`, then drops the Raft instance.
    pub(crate) async fn shut_down(self: Arc<Self>, drain: Duration) {
        let guard = self.lock().await;
        self.end_instance(guard, Ending::Drained(drain)).await;
    }

    /// Drops the Raft instance and keeps nothing, as a killed process would.
    pub(crate) async fn abandon(self: Arc<Self>) {
        let guard = self.lock().await;
        self.end_instance(guard, Ending::Ended).await;
    }

    /// As [`Group::abandon`], and the group can never be woken again.
    pub(crate) async fn delete(self: Arc<Self>) {
        self.deleted.store(true, Ordering::Release);
        self.abandon().await;
    }
}

/// The Raft instance of an awake group.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub(crate) raft: Raft,
    pub(crate) shared: Arc<Shared>,
    pub(crate) standing: watch::Receiver<Standing>,
    nudge: Arc<Notify>,
}

impl Instance {
    fn of(awake: &Awake) -> Self {
        Self {
            raft: awake.raft.clone(),
            shared: awake.shared.clone(),
            standing: awake.standing.clone(),
            nudge: awake.nudge.clone(),
        }
    }
}

/// What is known of a batch without a proposal; none, where it is to be proposed.
fn known(begin: Begin) -> Option<Result<PendingProduce, ProduceError>> {
    match begin {
        Begin::Propose(_) => None,
        Begin::InFlight(outcome) => Some(Ok(PendingProduce::retry(outcome))),
        Begin::Verdict(verdict) => Some(verdict_to_outcome(verdict)),
        Begin::Doubtful => unreachable!("that was waited for"),
    }
}

fn verdict_to_outcome(verdict: Verdict) -> Result<PendingProduce, ProduceError> {
    match verdict {
        Verdict::Duplicate { base_offset, append_time_ms } => {
            Ok(PendingProduce::known(Produced::before(base_offset, append_time_ms)))
        }
        Verdict::DuplicateUnknown => Err(ProduceError::DuplicateSequence),
        Verdict::OutOfOrder { expected } => Err(ProduceError::OutOfOrderSequence { expected }),
        Verdict::StaleEpoch { current } => Err(ProduceError::StaleProducerEpoch { current }),
        Verdict::UnknownProducer => Err(ProduceError::UnknownProducer),
        Verdict::Accept => unreachable!("an accepted batch is proposed"),
    }
}
