//! All groups of a node: which are awake, and when they go back to sleep.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use plimsoll_log::{
    Compaction, CompactionPolicy, Durability, GroupLog, GroupOptions, RetainOutcome, Retention,
    Store,
};
use plimsoll_peers::{Handler, LivenessEvent, Peers};
use plimsoll_protocol::ids::{GroupId, LogId, NodeId, Offset, Term};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};

use crate::clock::Clock;
use crate::config::{Blocking, HostConfig};
use crate::deleted::DeletedGroups;
use crate::drops;
use crate::error::OpenGroupError;
use crate::fold::{Fold, GroupKind};
use crate::group::Group;
use crate::incoming;
use crate::log_store::unawaited;
use crate::members;
use crate::metadata;
use crate::moves;
use crate::neighbours::Neighbours;
use crate::placements::{Placed, Placements};
use crate::retention::{Given, Safety};
use crate::role::Role;
use crate::seeds::{Arriving, Pacer};
use crate::sight::Sight;
use crate::steps::Seeding;
use crate::tasks::keep_running;

/// How long what another node sends waits for this node's copy of the catalog.
const CATALOG_WAIT_MAX: Duration = Duration::from_secs(1);

/// How long after the start that follows a power failure a replica without durability stays out of
/// elections: longer than the others take to elect.
const DOUBT: Duration = Duration::from_secs(3);
/// When what the power failure took was fed again, or there is nobody to feed it.
const SETTLED_AFTER: Duration = Duration::from_secs(60);

/// Groups that are ended at a time when the node shuts down.
const ENDED_AT_ONCE: usize = 64;

/// What every group needs from the node.
pub(crate) struct Surroundings {
    pub(crate) node: NodeId,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: HostConfig,
    /// openraft's configuration of groups with and without durability.
    pub(crate) raft: [Arc<openraft::Config>; 2],
    pub(crate) neighbours: Neighbours,
    /// Paces the segments that are sent.
    pub(crate) pacer: Pacer,
    /// No group is woken any more.
    pub(crate) closed: AtomicBool,
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Surroundings {
    pub(crate) fn raft_config(&self, durability: Durability) -> Arc<openraft::Config> {
        let [durable, memory] = &self.raft;
        match durability {
            Durability::Durable => durable.clone(),
            Durability::Memory => memory.clone(),
        }
    }

    /// Until when this replica does not stand for election, and votes only for one that has more: a power
    /// failure may have taken entries that it had acknowledged, so it would help a leader without them. The
    /// others, who have them, elect meanwhile. This bounds the harm and does not rule it out: where a
    /// majority lost its power, the greatest log that is left wins.
    pub(crate) fn doubt(&self, log: &GroupLog) -> Option<Instant> {
        self.neighbours.doubt_until().filter(|until| {
            Instant::now() < *until
                && log.options().durability == Durability::Memory
                && !self.is_sole_replica(log.id())
        })
    }

    /// Whether this node alone holds the group, by what is known without its log.
    pub(crate) fn is_sole_replica(&self, group: GroupId) -> bool {
        // A start wakes the metadata group before anything is known of placements, and who joins has a
        // vote in it before its first entry.
        if group == GroupId::CATALOG {
            return false;
        }
        self.neighbours.is_unplaced()
            || self.neighbours.placed(group).is_some_and(|placed| *placed.wanted == [self.node])
    }

    /// Whether a group that lost its whole log may begin anew here: this node alone holds it, and it
    /// never lay elsewhere. A replica that was moved away leaves its vote behind, and what it had is on
    /// another node. To be believed of a confirmed catalog only.
    pub(crate) fn may_begin_anew(&self, group: GroupId) -> bool {
        let was_moved = |placed: Placed| placed.birth.is_none();
        self.is_sole_replica(group) && !self.neighbours.placed(group).is_some_and(was_moved)
    }
}

/// The groups of one node.
///
/// A group that sleeps and that nobody holds costs nothing here: only what the log keeps of it.
#[derive(Debug)]
pub struct Host {
    store: Arc<Store>,
    around: Arc<Surroundings>,
    groups: Mutex<Groups>,
    safety: Safety,
    pub(crate) seeding: Seeding,
    pub(crate) arriving: Arriving,
    pub(crate) sight: Sight,
}

/// One mutex decides whether a group is opened or deleted.
#[derive(Debug, Default)]
struct Groups {
    held: BTreeMap<GroupId, Arc<Group>>,
    /// Never opened again in this life of the node; no number is given out twice.
    deleted: DeletedGroups,
}

/// What [`Host::tidy`] did, and what is to be done.
#[derive(Debug, Default)]
pub struct Tidied {
    /// What retention took.
    pub retained: RetainOutcome,
    /// The compaction that is due.
    pub compaction: Option<Compaction>,
}

impl Host {
    /// The host of `store`'s groups. Nothing is woken yet.
    ///
    /// # Panics
    /// When the configuration is outside its bounds: a bug of the caller, which parses it.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        node: NodeId,
        clock: Arc<dyn Clock>,
        config: HostConfig,
    ) -> Arc<Self> {
        let raft = [Durability::Durable, Durability::Memory].map(|durability| {
            config.raft(durability).expect("the intervals are constants that fit each other")
        });
        let neighbours = Neighbours::new(node);
        let closed = AtomicBool::new(false);
        let pacer = Pacer::new(config.move_bytes_per_second);
        let around = Surroundings { node, clock, config, raft, neighbours, closed, pacer };
        Arc::new(Self {
            store,
            around: Arc::new(around),
            groups: Mutex::default(),
            safety: Safety::default(),
            seeding: Seeding::default(),
            arriving: Arriving::default(),
            sight: Sight::default(),
        })
    }

    /// Says where groups lie. Until then every group has this node as its only replica. From then on
    /// groups are born only once the local catalog is confirmed, so the metadata group is to be
    /// opened and woken beside this. Must be called in a tokio runtime, once.
    ///
    /// # Panics
    /// When it was said before.
    pub fn set_placements(self: &Arc<Self>, placements: Arc<dyn Placements>) {
        assert!(self.around.neighbours.set_placements(placements), "placements are given once");
        let host = Arc::downgrade(self);
        keep_running("confirming the catalog", move || metadata::confirm(host.clone()));
    }

    /// Whether the local catalog is known to be as new as the cluster's was at some moment of this
    /// life of the node.
    #[must_use]
    pub fn catalog_confirmed(&self) -> watch::Receiver<bool> {
        self.around.neighbours.confirmed()
    }

    /// What this node does with what other nodes send; to be given to
    /// [`Peers::new`](plimsoll_peers::Peers::new).
    #[must_use]
    pub fn handler(self: &Arc<Self>) -> Arc<dyn Handler> {
        incoming::handler(self)
    }

    /// Links this host to the other nodes. Must be called in a tokio runtime, once.
    ///
    /// # Panics
    /// When it was called before.
    pub fn attach(self: &Arc<Self>, peers: Peers) {
        let neighbours = &self.around.neighbours;
        assert!(neighbours.set_peers(peers.clone()), "a host is attached once");
        for status in peers.status().into_iter().filter(|status| status.linked) {
            neighbours.linked(status.node);
        }
        if self.store.was_power_loss_possible() {
            neighbours.doubt(Instant::now() + DOUBT);
            tokio::spawn(settle(Arc::downgrade(&self.store), self.around.config.blocking));
        }
        let host = Arc::downgrade(self);
        keep_running("following who lives", move || follow(host.clone(), peers.clone()));
        let host = Arc::downgrade(self);
        keep_running("keeping members", move || members::keep(host.clone()));
        let host = Arc::downgrade(self);
        keep_running("driving moves", move || moves::drive(host.clone()));
        let host = Arc::downgrade(self);
        keep_running("dropping replicas", move || drops::keep(host.clone()));
    }

    /// The live node that leads the group by its own word, this one included, and its term.
    #[must_use]
    pub fn leader(&self, group: GroupId) -> Option<(NodeId, Term)> {
        self.around.neighbours.leader(group)
    }

    /// The node to ask for the group: the live one that leads it, else the first live one in the
    /// order of its placement. Every node that sees the same gets the same, but for a replica that has
    /// voted in a later term than the leader's that is known: that one leads no more, and whoever is
    /// sent to it is sent back, or waits for a node that goes down. Then it is whom the replica follows
    /// or voted for.
    #[must_use]
    pub fn leader_hint(&self, group: GroupId) -> Option<(NodeId, Option<Term>)> {
        let neighbours = &self.around.neighbours;
        let placed = neighbours.placed(group).map(|placed| placed.wanted);
        let hint = neighbours.hint(group, placed.as_deref().unwrap_or_default());
        let claimed = hint.and_then(|(_, claimed)| claimed);
        let Some(held) = self.held(group) else { return hint };
        let role = *held.role().borrow();
        match role {
            Role::Follower { leader, term } if claimed < Some(term) => Some((leader, Some(term))),
            Role::Searching { term } if claimed < Some(term) => {
                let vote = held.log().vote().filter(|vote| vote.term == term);
                let elected = vote.map(|vote| vote.voted_for);
                let elected = elected.filter(|node| neighbours.is_fit(group, *node));
                elected.map(|node| (node, None)).or(hint.filter(|_| claimed.is_none()))
            }
            _ => hint,
        }
    }

    /// The voters of a group that is awake here, as this node's replica has them; of a configuration
    /// of two sets all.
    #[must_use]
    pub fn voters(&self, group: GroupId) -> BTreeSet<NodeId> {
        let group = self.held(group).and_then(|group| group.instance());
        let configs = group.map(|instance| instance.standing.borrow().configs.clone());
        configs.iter().flat_map(|configs| configs.iter().flatten()).copied().collect()
    }

    /// The group for what another node sends: opened where this node has its log, or shall have one
    /// by the catalog.
    pub(crate) fn for_peer(&self, id: GroupId) -> Result<Arc<Group>, OpenGroupError> {
        if let Some(group) = self.held(id) {
            return Ok(group);
        }
        let options = match self.store.group(id) {
            Some(log) => log.options(),
            None => {
                let placed = self.around.neighbours.placed(id);
                let placed = placed.ok_or(OpenGroupError::NotPlaced { group: id })?;
                if !placed.wanted.contains(&self.around.node)
                    && !placed.birth.is_some_and(|birth| birth.contains(&self.around.node))
                {
                    return Err(OpenGroupError::NotPlaced { group: id });
                }
                placed.options
            }
        };
        self.open(id, GroupKind::of(id), options)
    }

    /// The group, for a log that another node sends.
    pub(crate) fn open_for_seed(
        &self,
        id: GroupId,
        options: GroupOptions,
    ) -> Result<Arc<Group>, OpenGroupError> {
        self.open(id, GroupKind::of(id), options)
    }

    /// The group's log was replaced: what was known of its states is void.
    pub(crate) fn forget_safety(&self, id: GroupId) {
        self.safety.forget(id);
    }

    /// As [`Host::for_peer`]; where the sender's catalog is newer than this node's copy, waits for the
    /// copy.
    pub(crate) async fn for_peer_at(
        &self,
        id: GroupId,
        epoch: u64,
    ) -> Result<Arc<Group>, OpenGroupError> {
        let found = self.for_peer(id);
        if !matches!(found, Err(OpenGroupError::NotPlaced { .. }))
            || epoch <= self.around.neighbours.epoch()
        {
            return found;
        }
        let Some(metadata) = self.held(GroupId::CATALOG) else { return found };
        let mut catalog = metadata.watch_catalog();
        let newer = async {
            while self.around.neighbours.epoch() < epoch {
                if catalog.changed().await.is_err() {
                    return;
                }
            }
        };
        // Without the newer copy the answer is as before.
        let _ = timeout(CATALOG_WAIT_MAX, newer).await;
        self.for_peer(id)
    }

    /// Has the groups look for a leader anew, where they are awake.
    pub(crate) fn nudge(&self, groups: &[GroupId]) {
        for group in groups {
            if let Some(group) = self.held(*group) {
                group.nudge();
            }
        }
    }

    pub(crate) fn around(&self) -> &Arc<Surroundings> {
        &self.around
    }

    /// A node is there (again): what waits to be sent to it is sent now.
    async fn node_is_up(&self, node: NodeId) {
        let groups = self.all_held();
        for group in groups {
            if let Some(instance) = group.instance()
                && instance.raft.is_leader()
            {
                // It fails where the instance has ended, which ends its sending too.
                let _ = instance.raft.trigger().reset_backoff([node.0]).await;
            }
        }
    }

    /// The store beneath.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.around.node
    }

    /// The node's clock.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.around.clock
    }

    /// Where work that may block goes on this node.
    #[must_use]
    pub fn blocking(&self) -> Blocking {
        self.around.config.blocking
    }

    fn groups(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().expect("nothing panics while it holds the map of groups")
    }

    /// The group, awake. Creates it, with one voter, this node, if it does not exist, and gives it
    /// these options if it has others.
    ///
    /// # Errors
    /// When it cannot be created or woken.
    pub async fn group(
        &self,
        id: GroupId,
        kind: GroupKind,
        options: GroupOptions,
    ) -> Result<Arc<Group>, OpenGroupError> {
        let group = self.open(id, kind, options)?;
        group.wake().await?;
        Ok(group)
    }

    /// The group as it is, awake or asleep, for readers of its log: its high watermark stands at 0
    /// until it was awake once in this life of the node.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn open(
        &self,
        id: GroupId,
        kind: GroupKind,
        options: GroupOptions,
    ) -> Result<Arc<Group>, OpenGroupError> {
        if self.around.closed.load(Ordering::Acquire) {
            return Err(OpenGroupError::ShuttingDown);
        }
        let mut groups = self.groups();
        if groups.deleted.contains(id) {
            return Err(OpenGroupError::Deleted { group: id });
        }
        if let Some(group) = groups.held.get(&id) {
            self.set_options(group.log(), options)?;
            return Ok(group.clone());
        }
        let log = self
            .store
            .create_group(id, options)
            .map_err(|error| OpenGroupError::Storage { group: id, source: Arc::new(error) })?;
        self.set_options(&log, options)?;
        let group = Group::new(kind, log, self.around.clone());
        groups.held.insert(id, group.clone());
        Ok(group)
    }

    fn set_options(&self, log: &GroupLog, options: GroupOptions) -> Result<(), OpenGroupError> {
        if log.options() == options {
            return Ok(());
        }
        self.store
            .set_options(log.id(), options)
            .map_err(|error| OpenGroupError::Storage { group: log.id(), source: Arc::new(error) })
    }

    /// The group, if it is awake or somebody holds it.
    #[must_use]
    pub fn held(&self, id: GroupId) -> Option<Arc<Group>> {
        self.groups().held.get(&id).cloned()
    }

    /// How many groups are awake or held by somebody.
    #[must_use]
    pub fn held_count(&self) -> usize {
        self.groups().held.len()
    }

    /// The offset up to which a group is known to be committed, without waking it: nothing for a
    /// group that does not exist or that has no state yet. May block where the state must be read.
    ///
    /// # Errors
    /// When the stored state cannot be read.
    pub fn committed_offset(&self, id: GroupId) -> Result<Option<Offset>, OpenGroupError> {
        if let Some(group) = self.held(id) {
            let offset = *group.high_watermark().borrow();
            if offset > Offset(0) {
                return Ok(Some(offset));
            }
        }
        Ok(self.stored_fold(id)?.map(|fold| fold.progress().high_watermark))
    }

    /// The state that lies with the group's log.
    fn stored(&self, id: GroupId) -> Result<Option<Given>, OpenGroupError> {
        Ok(self.stored_fold(id)?.and_then(|fold| {
            let applied = fold.progress().applied?;
            Some(Given { applied, kept_from: fold.kept_from() })
        }))
    }

    pub(crate) fn stored_fold(&self, id: GroupId) -> Result<Option<Fold>, OpenGroupError> {
        let Some(log) = self.store.group(id) else { return Ok(None) };
        let stored = log
            .state()
            .map_err(|error| OpenGroupError::Storage { group: id, source: Arc::new(error) })?;
        let Some((_, bytes)) = stored else { return Ok(None) };
        let fold = Fold::decode(GroupKind::of(id), &bytes);
        fold.map(Some).map_err(|source| OpenGroupError::DamagedState { group: id, source })
    }

    /// Drops whole closed segments from the front of a group's log that `policy` no longer wants,
    /// and lets Raft forget what a sleeping group has folded. To be called for every group now and
    /// then, also where nothing limits what is kept. Nothing is dropped at the first call, and then
    /// only what was stored some checkpoints ago. A leader drops nothing that a live member lacks. Does
    /// not wake the group; may block; must be called in a tokio runtime.
    ///
    /// # Errors
    /// When the group's stored state cannot be read.
    pub fn retain(
        &self,
        id: GroupId,
        policy: &Retention,
        now_ms: i64,
    ) -> Result<RetainOutcome, OpenGroupError> {
        self.tidy(id, policy, None, now_ms).map(|tidied| tidied.retained)
    }

    /// As [`Host::retain`], and says which compaction of what is kept is due by `compaction`: whoever asked
    /// carries it out, step by step. It takes nothing that a live member lacks, either.
    ///
    /// # Errors
    /// As [`Host::retain`].
    pub fn tidy(
        &self,
        id: GroupId,
        policy: &Retention,
        compaction: Option<&CompactionPolicy>,
        now_ms: i64,
    ) -> Result<Tidied, OpenGroupError> {
        let Some(log) = self.store.group(id) else { return Ok(Tidied::default()) };
        let held = self.held(id);
        let present = || -> Result<Option<Given>, OpenGroupError> {
            let given = match held.as_ref().and_then(|group| group.store_state()) {
                Some(given) => Some(given),
                None => self.stored(id)?,
            };
            // Only what the next checkpoint will hold is counted on.
            Ok(given.filter(|given| log.may_keep_state(given.applied)))
        };
        let checkpoints = self.store.stats().checkpoints;
        let Some(safe) = self.safety.take(id, checkpoints, present)? else {
            let log_start_offset = log.bounds().log_start_offset;
            let retained = RetainOutcome { log_start_offset, ..RetainOutcome::default() };
            return Ok(Tidied { retained, compaction: None });
        };
        let asleep = held.as_ref().is_none_or(|group| !group.is_awake());
        let bounds = log.bounds();
        // Behind its end the log would be begun anew, and at the wrong offset: that is for the waking
        // of a group whose log ends before its state.
        let holds = bounds.last.is_some_and(|last| last.index >= safe.applied.index);
        // Others are fed from this log: a node that joins from the metadata group's first entry, a
        // member that was away from where it was.
        let feeds = id == GroupId::CATALOG || !self.around.is_sole_replica(id);
        if asleep && holds && !feeds && bounds.purged < Some(safe.applied) {
            self.purge_asleep(&log, safe.applied);
        }
        let limit = held.as_ref().map_or_else(|| safe.limit(), |group| group.retainable(safe));
        let may_drop = |end| held.as_ref().is_none_or(|group| group.may_drop(end));
        let mut tidied = Tidied::default();
        tidied.retained.log_start_offset = bounds.log_start_offset;
        if let Some((end, upto)) = log.retention_end(policy, now_ms, limit)
            && may_drop(end)
        {
            tidied.retained = log.retain(policy, now_ms, upto);
        }
        // What is compacted cannot be resent entry by entry, like what is dropped. What is not due is not
        // purged for it: whoever lacks it would be sent the whole log.
        if let Some(policy) = compaction {
            let limit = held.as_ref().map_or_else(|| safe.limit(), |group| group.compactable(safe));
            if let Some(end) = log.compaction_due(policy, now_ms, limit) {
                self.see_purged(&log, held.as_deref(), end);
                // As far as that came before: in steady use the end moves from look to look.
                tidied.compaction = log.plan_compaction(policy, now_ms, limit);
            }
        }
        Ok(tidied)
    }

    /// Sees to it that Raft forgets the entries up to `end`, also for who has no other members. Needs a runtime.
    fn see_purged(&self, log: &GroupLog, held: Option<&Group>, end: LogId) {
        if let Some(instance) = held.and_then(Group::instance) {
            let _ = instance.has_purged(end);
        } else if log.bounds().purged.is_none_or(|purged| purged.index < end.index)
            && !self.is_missed(log.id())
        {
            self.purge_asleep(log, end);
        }
    }

    /// Whether another replica lies on a node that was there a short time ago, and may come back for what it
    /// lacks. Those on nodes that are there have all that a sleeping group has.
    fn is_missed(&self, id: GroupId) -> bool {
        let neighbours = &self.around.neighbours;
        let others = neighbours.placed(id).map(|placed| placed.wanted).unwrap_or_default();
        others.iter().any(|node| neighbours.is_missed(*node))
    }

    /// Has Raft begin behind `upto` when the group wakes; nothing happens where it is awake, or about to be.
    fn purge_asleep(&self, log: &GroupLog, upto: LogId) {
        let groups = self.groups();
        // Whoever opens it meanwhile waits for the map.
        let guard = groups.held.get(&log.id()).map(|group| group.try_lock());
        if guard.as_ref().is_none_or(|guard| guard.as_ref().is_some_and(|held| held.is_none())) {
            log.purge(upto, unawaited());
        }
    }

    /// Lays groups to rest that nobody wrote to for `idle_for` and that have nothing in flight; those
    /// with other members where they agree. Returns how many, of those that this node leads.
    pub async fn sleep_idle(&self, idle_for: Duration) -> usize {
        let groups = self.all_held();
        let mut asleep = 0;
        for group in groups {
            asleep += usize::from(group.sleep_if_idle(idle_for).await);
        }
        asleep += self.sleep_together(idle_for).await;
        self.forget_sleepers();
        asleep
    }

    /// Drops groups that sleep and that nobody else holds.
    fn forget_sleepers(&self) {
        self.groups().held.retain(|_, group| Arc::strong_count(group) > 1 || group.is_awake());
    }

    /// Deletes a group with all that is stored of it. Returns when the deletion is durable.
    ///
    /// # Errors
    /// When the store failed.
    pub async fn delete(&self, id: GroupId) -> Result<(), OpenGroupError> {
        // Marked first, and taken out last: whoever opens it meanwhile would wake a second instance on
        // the log that is being given up, or bring back one that was never used.
        let group = {
            let mut groups = self.groups();
            groups.deleted.insert(id);
            groups.held.get(&id).cloned()
        };
        if let Some(group) = group {
            group.delete().await;
        }
        let (sender, receiver) = oneshot::channel();
        self.store.delete_group(
            id,
            Box::new(move |outcome| {
                let _ = sender.send(outcome);
            }),
        );
        let outcome = receiver.await;
        self.groups().held.remove(&id);
        self.safety.forget(id);
        match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(OpenGroupError::Storage { group: id, source }),
            Err(_) => Err(OpenGroupError::ShuttingDown),
        }
    }

    /// Every group that is awake or held by somebody.
    /// Every group that is awake or held by somebody.
    #[must_use]
    pub fn all_held(&self) -> Vec<Arc<Group>> {
        self.groups().held.values().cloned().collect()
    }

    /// Ends all groups: hands over what this node leads among others, waits for what is in flight,
    /// leaves their state with the log. Nothing can be woken afterwards.
    pub async fn shutdown(&self) {
        self.leave().await;
        self.around.closed.store(true, Ordering::Release);
        let drain = self.around.config.drain_timeout;
        // A group without a quorum takes all of the time that it is given.
        stream::iter(self.take_all())
            .for_each_concurrent(ENDED_AT_ONCE, |group| group.shut_down(drain))
            .await;
    }

    /// Ends all groups as a killed process would: nothing is waited for or stored.
    pub async fn abort(&self) {
        self.around.closed.store(true, Ordering::Release);
        for group in self.take_all() {
            group.abandon().await;
        }
    }

    fn take_all(&self) -> Vec<Arc<Group>> {
        std::mem::take(&mut self.groups().held).into_values().collect()
    }
}

/// Forgets the power failure once it has done its harm.
async fn settle(store: Weak<Store>, blocking: Blocking) {
    tokio::time::sleep(SETTLED_AFTER).await;
    let Some(store) = store.upgrade() else { return };
    if let Err(error) = blocking.run(move || store.settle_power_loss()).await {
        tracing::warn!(%error, "a power failure could not be noted as settled");
    }
}

/// Follows who lives, for as long as the host and its links exist.
async fn follow(host: Weak<Host>, peers: Peers) {
    let mut events = peers.events();
    let mut views = peers.liveness();
    loop {
        let event = tokio::select! {
            biased;
            event = events.recv() => match event {
                Ok(event) => Some(event),
                Err(RecvError::Lagged(_)) => None,
                Err(RecvError::Closed) => return,
            },
            changed = views.changed() => match changed {
                Ok(()) => None,
                Err(_) => return,
            },
        };
        let Some(host) = host.upgrade() else { return };
        match event {
            Some(LivenessEvent::Restarted(node)) => {
                let led = host.around.neighbours.restarted(node);
                host.nudge(&led);
            }
            Some(LivenessEvent::Up(node)) => {
                host.around.neighbours.set_heard(node, true);
                host.node_is_up(node).await;
            }
            Some(LivenessEvent::Down(node)) => host.around.neighbours.set_heard(node, false),
            Some(LivenessEvent::ReachChanged(_) | LivenessEvent::SelfStalled(_)) | None => {}
        }
        host.around.neighbours.touch();
    }
}
