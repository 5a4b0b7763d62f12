//! What all sessions of a node share: the groups, the catalog, limits, counters.
//!
//! Invariant: a session asks the broker for a partition each time the catalog has changed, so that a
//! topic that was deleted and created anew is never mistaken for the old one. It begins to watch the
//! catalog *before* it asks: a topic that is deleted while its partition wakes is news then.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use plimsoll_log::{Durability as LogDurability, GroupOptions, SpaceState, Store};
use plimsoll_peers::Peers;
use plimsoll_protocol::api::{Durability, ProducerIdentity, TopicConfig};
use plimsoll_protocol::batch::BatchLimits;
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::{GroupId, NodeId, Offset, PartitionIndex, ProducerId, TopicName};
use plimsoll_replication::{Group, GroupKind, Host, OpenGroupError, Placements};
use plimsoll_state::catalog::planning::{self, PlanError};
use plimsoll_state::catalog::{Catalog, CatalogCommand, CatalogRefusal, CatalogReply, TopicMeta};
use plimsoll_transport::{Fingerprint, FrameRoom};
use tokio::sync::{Mutex, Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio::time::timeout;

use crate::amqp::{ExpiringQueues, Letters};
use crate::counters::Counters;
use crate::groups::Coordinators;
use crate::join_token::JoinToken;
use crate::kv::Views;
use crate::limits::Limits;
use crate::locks::LockKeepers;
use crate::per_name::{CompactionCounters, LockCounters, PerName};
use crate::placements::CatalogPlacements;
use crate::places::{ConnectionPlace, ConnectionPlaces};
use crate::producer_ids::ProducerIds;
use crate::queues::{LeaderLinks, QueueLimits, Registry};
use crate::refusals;

/// Producer ids that are taken from the catalog at once.
const PRODUCER_IDS_BLOCK: u32 = 1000;
/// Peers that are told at once why there is no place for them; the others are not told.
const TURNED_AWAY_AT_ONCE: usize = 64;
/// Topics that are deleted at once; who wants to delete more waits.
const DELETIONS_MAX: usize = 64;
/// How often a placement is computed anew because another change came first.
const PLACEMENT_ATTEMPTS: usize = 10;
/// How long the copy of the catalog here may be behind what its leader answers.
const COPY_PATIENCE: Duration = Duration::from_secs(1);
/// Groups of one topic that are removed at once: they share blocks of the journal.
const GROUPS_REMOVED_AT_ONCE: usize = 256;

/// Everything that sessions work with. One per node.
pub struct Broker {
    host: Arc<Host>,
    store: Arc<Store>,
    /// Held, so that what it publishes goes on over its sleep.
    catalog: Arc<Group>,
    identity: NodeIdentity,
    limits: Limits,
    counters: Counters,
    lock_counters: PerName<LockCounters>,
    compaction_counters: PerName<CompactionCounters>,
    places: Arc<ConnectionPlaces>,
    strangers: Arc<ConnectionPlaces>,
    turning_away: Arc<Semaphore>,
    in_flight: Arc<Semaphore>,
    receiving: Arc<FrameRoom>,
    checking: Arc<Semaphore>,
    subscriptions: Arc<Semaphore>,
    producer_ids: ProducerIds,
    queues: Registry,
    leader_links: LeaderLinks,
    coordinators: Coordinators,
    views: Views,
    lock_keepers: LockKeepers,
    letters: Letters,
    expiring: ExpiringQueues,
    /// Whether the copy of the catalog was made as new as the cluster's, and since when it is.
    caught_up: Mutex<Option<(Instant, bool)>>,
    /// The links to other nodes, once there are any to be.
    peers: OnceLock<Peers>,
    /// The cluster's authority, which those who join trust.
    authority: OnceLock<Fingerprint>,
    deletion_places: Arc<Semaphore>,
    /// Not the requests' own tasks: what was begun goes on when the peer is gone.
    deletions: std::sync::Mutex<JoinSet<()>>,
    stopping: watch::Sender<bool>,
    started: Instant,
}

/// Who a node says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The node.
    pub node_id: NodeId,
    /// Its cluster, as text.
    pub cluster_id: String,
    /// Its version, for people.
    pub version: String,
}

/// The place of a connection that has not said Hello; given back when dropped.
#[derive(Debug)]
pub struct StrangerPlace {
    _place: ConnectionPlace,
}

/// Tells when sessions are to end.
pub(crate) struct Stopping(watch::Receiver<bool>);

impl Stopping {
    /// Waits until sessions are to end. May be cancelled.
    pub(crate) async fn wait(&mut self) {
        // An error says that the broker is gone, which is an end as well.
        let _ = self.0.wait_for(|stopping| *stopping).await;
    }
}

/// A partition that is awake, with what a session must know of its topic.
#[derive(Clone)]
pub(crate) struct Partition {
    /// The Raft group.
    pub(crate) group: Arc<Group>,
    /// The topic's number: a topic of the same name with another number is another topic.
    pub(crate) topic_id: u64,
    /// What an acknowledgement means.
    pub(crate) durability: Durability,
    /// What a batch may be here.
    pub(crate) batch_limits: BatchLimits,
    /// Where the topic is a queue: what it takes.
    pub(crate) queue: Option<QueueLimits>,
    /// Whether only the last record of each key is kept: each must have one.
    pub(crate) is_compacted: bool,
    /// Nothing is written without a fence.
    pub(crate) require_fence: bool,
}

impl Broker {
    /// Opens the catalog and begins to answer.
    ///
    /// # Errors
    /// Where the catalog's group cannot be opened.
    pub async fn start(
        store: Arc<Store>,
        host: Arc<Host>,
        identity: NodeIdentity,
        limits: Limits,
    ) -> Result<Arc<Self>, OpenGroupError> {
        let options = GroupOptions::default();
        let catalog = host.group(GroupId::CATALOG, GroupKind::Catalog, options).await?;
        let letters = Letters::new(identity.node_id);
        Ok(Arc::new(Self {
            host,
            store,
            catalog,
            identity,
            counters: Counters::default(),
            lock_counters: PerName::default(),
            compaction_counters: PerName::default(),
            places: ConnectionPlaces::new(
                limits.connections_max,
                limits.connections_per_address_max,
            ),
            strangers: ConnectionPlaces::new(
                limits.unauthenticated_max,
                limits.unauthenticated_per_address_max,
            ),
            turning_away: Arc::new(Semaphore::new(TURNED_AWAY_AT_ONCE)),
            in_flight: Arc::new(Semaphore::new(limits.in_flight_bytes_max)),
            receiving: FrameRoom::new(limits.receiving_bytes_max, limits.receive_stall_timeout),
            checking: Arc::new(Semaphore::new(limits.checking_bytes_max)),
            subscriptions: Arc::new(Semaphore::new(limits.subscriptions_max)),
            producer_ids: ProducerIds::default(),
            queues: Registry::default(),
            leader_links: LeaderLinks::default(),
            coordinators: Coordinators::default(),
            views: Views::default(),
            lock_keepers: LockKeepers::default(),
            letters,
            expiring: ExpiringQueues::default(),
            caught_up: Mutex::new(None),
            peers: OnceLock::new(),
            authority: OnceLock::new(),
            deletion_places: Arc::new(Semaphore::new(DELETIONS_MAX)),
            deletions: std::sync::Mutex::default(),
            stopping: watch::channel(false).0,
            started: Instant::now(),
            limits,
        }))
    }

    /// The node.
    pub fn identity(&self) -> &NodeIdentity {
        &self.identity
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The counters of namespaces of locks, by their topics.
    pub(crate) fn lock_counters(&self) -> &PerName<LockCounters> {
        &self.lock_counters
    }

    /// The counters of compacted topics.
    pub(crate) fn compaction_counters(&self) -> &PerName<CompactionCounters> {
        &self.compaction_counters
    }

    /// The node's storage.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The node's groups.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Where groups lie, for [`Host::set_placements`].
    pub fn placements(&self) -> Arc<dyn Placements> {
        Arc::new(CatalogPlacements(self.catalog_changes()))
    }

    /// Says by which links other nodes are reached. Once.
    pub fn attach(&self, peers: Peers) {
        let attached = self.peers.set(peers);
        assert!(attached.is_ok(), "a node has its links once");
    }

    /// Says which authority those who join shall trust. Once.
    pub fn set_authority(&self, authority: Fingerprint) {
        let set = self.authority.set(authority);
        assert!(set.is_ok(), "a node has one authority");
    }

    /// What allows a node to join; none before the cluster has its first node, and in a simulation.
    pub fn join_token(&self) -> Option<JoinToken> {
        let catalog = self.catalog();
        let authority = *self.authority.get()?;
        let secret = catalog.join_secret().0;
        catalog.is_set_up().then_some(JoinToken { authority, secret })
    }

    /// The links to other nodes; none before they are attached.
    pub(crate) fn peers(&self) -> Option<&Peers> {
        self.peers.get()
    }

    /// Places for connections.
    pub(crate) fn places(&self) -> &Arc<ConnectionPlaces> {
        &self.places
    }

    /// A place for a peer that begins a connection, from its handshake to its Hello. `None`: there
    /// are too many, or too many of its address; refuse it.
    pub fn take_stranger(&self, address: IpAddr) -> Option<StrangerPlace> {
        match self.strangers.take(address) {
            Ok(place) => Some(StrangerPlace { _place: place }),
            Err(full) => {
                self.counters.strangers_refused.add(1);
                tracing::debug!(%address, reason = ?full, "a connection was refused");
                None
            }
        }
    }

    /// Whether so many connections of this address have not said Hello that a QUIC peer should prove
    /// that it is there: otherwise somebody who invents addresses could take all places of one.
    pub fn wants_proof_of(&self, address: IpAddr) -> bool {
        self.strangers.is_crowded(address)
    }

    /// Places for peers that are told why there is none.
    pub(crate) fn turning_away(&self) -> &Semaphore {
        &self.turning_away
    }

    /// Room for bytes of produce requests.
    pub(crate) fn in_flight(&self) -> &Arc<Semaphore> {
        &self.in_flight
    }

    /// Room for frames that are being received.
    pub(crate) fn receiving(&self) -> &Arc<FrameRoom> {
        &self.receiving
    }

    /// Room for what compressed batches are while they are checked.
    pub(crate) fn checking(&self) -> &Arc<Semaphore> {
        &self.checking
    }

    /// Places for subscriptions.
    pub(crate) fn subscriptions(&self) -> &Arc<Semaphore> {
        &self.subscriptions
    }

    /// The queues that are at work here.
    pub(crate) fn queues(&self) -> &Registry {
        &self.queues
    }

    /// Streams to nodes that lead queues which are consumed here.
    pub(crate) fn leader_links(&self) -> &LeaderLinks {
        &self.leader_links
    }

    /// The keepers of locks that are at work here.
    pub(crate) fn lock_keepers(&self) -> &LockKeepers {
        &self.lock_keepers
    }

    /// The coordinators of consumer groups that are at work here.
    pub(crate) fn coordinators(&self) -> &Coordinators {
        &self.coordinators
    }

    /// The compacted partitions that are at work here as maps.
    pub(crate) fn views(&self) -> &Views {
        &self.views
    }

    /// What dead letters of AMQP's queues are routed by.
    pub(crate) fn letters(&self) -> &Letters {
        &self.letters
    }

    /// Which queues end when nobody uses them.
    pub(crate) fn expiring(&self) -> &ExpiringQueues {
        &self.expiring
    }

    /// Time since the start.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Asks every session to finish what it is doing and to close.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// For waiting until sessions are to end.
    pub(crate) fn stopping(&self) -> Stopping {
        Stopping(self.stopping.subscribe())
    }

    /// Whether sessions are to end.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Waits until no connection is open.
    pub async fn drained(&self) {
        while self.places.taken() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The catalog as it is now.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalog.catalog()
    }

    /// A change of the catalog wakes this.
    pub fn catalog_changes(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalog.watch_catalog()
    }

    /// The topic of this name. That the copy of the catalog here does not have it says nothing until
    /// the copy is as new as the cluster's is now: it may have been created through another node a
    /// moment ago, and a client that is told that there is no such topic gives its records up.
    ///
    /// # Errors
    /// Where there is none, or the copy cannot be made as new.
    pub(crate) async fn topic(&self, name: &TopicName) -> Result<Arc<TopicMeta>, ErrorResponse> {
        if let Some(meta) = self.catalog().topic(name) {
            return Ok(Arc::clone(meta));
        }
        let is_new = self.catch_up().await;
        match self.catalog().topic(name) {
            Some(meta) => Ok(Arc::clone(meta)),
            None if is_new => Err(refusals::unknown_topic(name)),
            None => Err(refusals::catching_up(name)),
        }
    }

    /// Makes the copy of the catalog here as new as the cluster's is. One at a time asks the cluster;
    /// who waited for a whole attempt of another shares its outcome.
    pub(crate) async fn catch_up(&self) -> bool {
        let asked = Instant::now();
        let mut last = self.caught_up.lock().await;
        if let Some((began, is_new)) = *last
            && began >= asked
        {
            return is_new;
        }
        let began = Instant::now();
        let fresh = timeout(COPY_PATIENCE, self.catalog.linearizable()).await;
        let is_new = matches!(fresh, Ok(Ok(_)));
        *last = Some((began, is_new));
        is_new
    }

    /// Whether this very topic still exists.
    pub(crate) fn has_topic(&self, name: &TopicName, topic_id: u64) -> bool {
        self.catalog().topic(name).is_some_and(|meta| meta.topic_id == topic_id)
    }

    /// What a failure to read a topic means: the files of one that was deleted after it was looked up
    /// fail in their own ways, and its offsets are out of range; say what is true.
    pub(crate) fn gone_or(
        &self,
        name: &TopicName,
        topic_id: u64,
        error: ErrorResponse,
    ) -> ErrorResponse {
        if self.has_topic(name, topic_id) { error } else { refusals::unknown_topic(name) }
    }

    /// Waits until this very topic is gone, and says so. `catalog` must have been taken before the
    /// topic was looked up. May be cancelled.
    pub(crate) async fn deleted(
        &self,
        catalog: &mut watch::Receiver<Arc<Catalog>>,
        name: &TopicName,
        topic_id: u64,
    ) -> ErrorResponse {
        loop {
            if catalog.changed().await.is_err() {
                return refusals::shutting_down();
            }
            if !self.has_topic(name, topic_id) {
                return refusals::unknown_topic(name);
            }
        }
    }

    /// Carries out a command of the catalog.
    ///
    /// # Errors
    /// Where it was refused, or its outcome is unknown.
    pub(crate) async fn command(
        &self,
        command: CatalogCommand,
    ) -> Result<CatalogReply, ErrorResponse> {
        match self.propose(command).await? {
            CatalogReply::Refused(refusal) => Err(refusals::catalog(&refusal)),
            reply => Ok(reply),
        }
    }

    /// Carries out a command of the catalog, here or where it is led. A refusal is an answer.
    ///
    /// # Errors
    /// Where it did not enter the log, or its outcome is unknown.
    pub async fn propose(&self, command: CatalogCommand) -> Result<CatalogReply, ErrorResponse> {
        self.host.command(&command).await.map_err(|error| refusals::propose(&error))
    }

    /// Sees to it that the cluster takes queues: that every node is known to be able to read them.
    ///
    /// # Errors
    /// Where that could not be written. That a node runs an older version is told by what comes next.
    pub(crate) async fn raise_level(&self) -> Result<(), ErrorResponse> {
        let catalog = self.catalog();
        let me = catalog.node(self.identity.node_id);
        let Some(version) = me.map(|node| node.spec.version.as_str()) else { return Ok(()) };
        match planning::raise_level(&catalog, version) {
            Some(command) => self.command(command).await.map(drop),
            None => Ok(()),
        }
    }

    /// Sees to it that the cluster is at a level.
    ///
    /// # Errors
    /// Where it is not, because not every node is known to be able to.
    pub(crate) async fn need_level(&self, needed: u16) -> Result<(), ErrorResponse> {
        if self.catalog().level() < needed {
            self.raise_level().await?;
            self.catch_up().await;
        }
        let now = self.catalog().level();
        match now < needed {
            true => Err(refusals::catalog(&CatalogRefusal::LevelTooLow { needed, now })),
            false => Ok(()),
        }
    }

    /// The members that do not answer this node.
    pub(crate) fn down_nodes(&self, catalog: &Catalog) -> BTreeSet<NodeId> {
        let others = self.peers().map(Peers::status).unwrap_or_default();
        let down = others.into_iter().filter(|status| !status.up).map(|status| status.node);
        down.filter(|node| catalog.node(*node).is_some()).collect()
    }

    /// Carries out a command that carries a placement: `make` computes it from the catalog as it is,
    /// anew where another change came first.
    ///
    /// # Errors
    /// As [`Broker::command`], and where there is no placement.
    pub(crate) async fn place(
        &self,
        make: impl Fn(&Catalog) -> Result<CatalogCommand, PlanError>,
    ) -> Result<CatalogReply, ErrorResponse> {
        let reply = self.place_if_needed(|catalog| make(catalog).map(Some)).await?;
        Ok(reply.expect("a command was made"))
    }

    /// As [`Broker::place`], and does nothing where `make` finds nothing to do.
    ///
    /// # Errors
    /// As [`Broker::place`].
    pub(crate) async fn place_if_needed(
        &self,
        mut make: impl FnMut(&Catalog) -> Result<Option<CatalogCommand>, PlanError>,
    ) -> Result<Option<CatalogReply>, ErrorResponse> {
        let mut refused = None;
        for _ in 0..PLACEMENT_ATTEMPTS {
            let catalog = self.catalog();
            let command = make(&catalog).map_err(|error| refusals::plan(&error))?;
            let Some(command) = command else { return Ok(None) };
            match self.propose(command).await? {
                CatalogReply::Refused(refusal @ CatalogRefusal::StalePlacement { .. }) => {
                    refused = Some(refusals::catalog(&refusal));
                    // The answer can come before the change that it speaks of is in the copy here.
                    let mut changes = self.catalog_changes();
                    let newer =
                        |now: &Arc<Catalog>| now.placement_epoch() != catalog.placement_epoch();
                    let _ = timeout(COPY_PATIENCE, changes.wait_for(newer)).await;
                }
                CatalogReply::Refused(refusal) => return Err(refusals::catalog(&refusal)),
                reply => return Ok(Some(reply)),
            }
        }
        Err(refused.unwrap_or_else(|| refusals::bug("a placement was never proposed")))
    }

    /// Deletes a topic and what is stored of it. Goes on to its end when the caller goes away.
    ///
    /// # Errors
    /// Where it was refused, or something of it could not be removed.
    pub(crate) async fn delete_topic(
        self: &Arc<Self>,
        topic: TopicName,
    ) -> Result<(), ErrorResponse> {
        let places = Arc::clone(&self.deletion_places);
        let place = places.acquire_owned().await.expect("never closed");
        let (tell, told) = oneshot::channel();
        {
            let broker = Arc::clone(self);
            let mut deletions = self.deletions.lock().unwrap_or_else(PoisonError::into_inner);
            while deletions.try_join_next().is_some() {}
            deletions.spawn(async move {
                // Perhaps nobody is left to be told.
                let _ = tell.send(broker.carry_out_deletion(topic).await);
                drop(place);
            });
        }
        told.await.unwrap_or_else(|_| match self.is_stopping() {
            true => Err(refusals::shutting_down()),
            false => Err(refusals::bug("the deletion of a topic ended without an outcome")),
        })
    }

    async fn carry_out_deletion(&self, topic: TopicName) -> Result<(), ErrorResponse> {
        match self.command(CatalogCommand::DeleteTopic { topic }).await? {
            CatalogReply::Deleted { groups, .. } => {
                let removed = self.remove_groups(groups.iter().copied()).await;
                removed.map_err(|error| refusals::open(&error))
            }
            _ => Err(refusals::bug("the catalog answered the deletion of a topic")),
        }
    }

    /// Removes what is stored of groups whose topic is gone. What fails, or is left when the node
    /// stops, is removed at the next start.
    ///
    /// # Errors
    /// The first failure; the other groups are removed all the same.
    pub(crate) async fn remove_groups(
        &self,
        groups: impl IntoIterator<Item = GroupId>,
    ) -> Result<(), OpenGroupError> {
        let mut groups = groups.into_iter();
        let mut removing = FuturesUnordered::new();
        let mut outcome = Ok(());
        loop {
            while removing.len() < GROUPS_REMOVED_AT_ONCE
                && let Some(group) = groups.next()
            {
                removing.push(self.remove_group(group));
            }
            match removing.next().await {
                Some(removed) => outcome = outcome.and(removed),
                None => return outcome,
            }
        }
    }

    async fn remove_group(&self, group: GroupId) -> Result<(), OpenGroupError> {
        if self.is_stopping() {
            return Err(OpenGroupError::ShuttingDown);
        }
        self.host.delete(group).await.inspect_err(|error| {
            tracing::warn!(%group, %error, "a deleted partition is still there until the next start");
        })
    }

    /// The deletions that are going on, for the end of the node: join them after [`Broker::stop`],
    /// or drop them. Sessions must have ended.
    pub fn take_deletions(&self) -> JoinSet<()> {
        std::mem::take(&mut self.deletions.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A producer id that nobody had before, at epoch 0.
    pub(crate) async fn new_producer(&self) -> Result<ProducerIdentity, ErrorResponse> {
        let block = async {
            let command = CatalogCommand::AllocateProducerIds { count: PRODUCER_IDS_BLOCK };
            match self.command(command).await? {
                CatalogReply::ProducerIds { first, count } => {
                    Ok(first.0..first.0 + u64::from(count))
                }
                _ => Err(refusals::bug("the catalog answered a request for producer ids")),
            }
        };
        let id = self.producer_ids.next(block).await?;
        Ok(ProducerIdentity { producer_id: ProducerId(id), epoch: 0 })
    }

    /// Stores a batch of the node's own in a topic, here or where it is led; `spread` chooses the
    /// partition. Sent again after an unknown outcome it may be stored twice.
    ///
    /// # Errors
    /// Where it was not stored, or that is not known.
    pub(crate) async fn store_anywhere(
        &self,
        topic: &TopicName,
        spread: u64,
        batch: Bytes,
    ) -> Result<Offset, ErrorResponse> {
        let meta = self.topic(topic).await?;
        let at = spread % meta.partitions.len() as u64;
        let partition = PartitionIndex(u32::try_from(at).expect("below the number of partitions"));
        let group = meta.partitions[partition.0 as usize];
        let options = group_options(&meta.config);
        let stored = self.host.store_batch(group, options, batch).await;
        stored.map_err(|error| self.located(refusals::produce(&error, topic, partition)))
    }

    /// Counters of the sessions, and what the node holds now.
    pub fn status_counters(&self) -> Vec<(&'static str, u64)> {
        let mut counters = self.counters.values();
        counters.push(("topics", self.catalog().len() as u64));
        counters.push(("kv_views_open", self.views.count() as u64));
        counters.push(("groups_held", self.host.held_count() as u64));
        let free = self.in_flight.available_permits();
        let in_flight_bytes = self.limits.in_flight_bytes_max.saturating_sub(free);
        counters.push(("in_flight_bytes", in_flight_bytes as u64));
        counters.push(("receiving_bytes", self.receiving.taken_bytes() as u64));
        counters.push(("frames_waiting_for_room", self.receiving.waiting() as u64));
        let store = self.store.stats();
        counters.extend([
            ("journal_blocks", store.blocks),
            ("journaled_bytes", store.journaled_bytes),
            ("materialised_bytes", store.materialised_bytes),
            ("unwritten_bytes", store.unwritten_bytes),
            ("checkpoints", store.checkpoints),
            ("open_segments", store.open_segments as u64),
            ("journal_files", store.journal_files as u64),
            ("journal_file_bytes", store.journal_file_bytes),
        ]);
        counters
    }

    /// Refuses produce while the disk is nearly full.
    pub(crate) fn check_space(&self) -> Result<(), ErrorResponse> {
        match self.store.space() {
            SpaceState::Ok => Ok(()),
            SpaceState::Low { free, needed } => Err(ErrorResponse::new(
                ErrorCode::LowDiskSpace,
                format!(
                    "the node's disk has {free} bytes free and keeps {needed} in reserve: free some \
                     space, shorten the retention of topics, or lower free_bytes_min; consuming goes \
                     on, and produce works again as soon as there is room"
                ),
            )),
        }
    }
}

/// How the log keeps a partition of a topic with this configuration.
pub(crate) fn group_options(config: &TopicConfig) -> GroupOptions {
    GroupOptions {
        durability: match config.durability {
            Durability::Durable => LogDurability::Durable,
            Durability::Memory => LogDurability::Memory,
        },
        segment_bytes: u64::from(config.segment_bytes),
    }
}
