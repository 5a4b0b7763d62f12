//! Finding replicas that differ after nodes have met again: each tells the other where its groups
//! stand, and whoever is responsible wakes those that differ, for Raft to repair. Equal ones wake
//! nothing, so a node with thousands of sleeping groups is served as soon as its links are up.

use std::sync::{Arc, Weak};
use std::time::Duration;

use plimsoll_protocol::ids::{GroupId, NodeId, Term};
use plimsoll_protocol::peer::{Digest, GroupDigest, ReplicaCondition};
use tokio::time::timeout;

use crate::host::Host;
use crate::role::Role;

/// How long an answer waits for this node's copy of the catalog to be as new as the sender's.
const CATALOG_WAIT_MAX: Duration = Duration::from_secs(60);

/// Groups of one frame.
const PAGE_GROUPS: usize = 4_096;

impl Host {
    /// Tells a node where the groups stand that both hold.
    pub(crate) fn send_digest(&self, to: NodeId) {
        let neighbours = &self.around().neighbours;
        let Some(peers) = neighbours.peers() else { return };
        let groups: Vec<GroupDigest> = self
            .store()
            .groups()
            .into_iter()
            .filter(|group| {
                *group != GroupId::CATALOG
                    && neighbours.placed(*group).is_some_and(|placed| placed.wanted.contains(&to))
            })
            .filter_map(|group| self.digest(group))
            .collect();
        let pages = groups.chunks(PAGE_GROUPS).count();
        for (page, groups) in groups.chunks(PAGE_GROUPS).enumerate() {
            let digest = Digest {
                epoch: neighbours.epoch(),
                page: u32::try_from(page).expect("a node holds fewer groups than that"),
                last_page: page + 1 == pages,
                groups: groups.to_vec(),
            };
            if let Err(error) = peers.push(to, digest) {
                tracing::debug!(node = %to, %error, "a digest was not sent");
                return;
            }
        }
    }

    fn digest(&self, group: GroupId) -> Option<GroupDigest> {
        let log = self.store().group(group)?;
        let held = self.held(group);
        let awake = held.and_then(|group| group.instance());
        let role = awake.map_or(Role::Asleep, |awake| awake.standing.borrow().role);
        let condition = match role {
            _ if log.is_quarantined().is_some() => ReplicaCondition::Quarantined,
            Role::Asleep => ReplicaCondition::Asleep,
            Role::Leader { .. } => ReplicaCondition::Leader,
            Role::Follower { .. } | Role::Searching { .. } => ReplicaCondition::Follower,
        };
        let vote_term = log.vote().map_or(Term(0), |vote| vote.term);
        Some(GroupDigest { group, vote_term, last: log.bounds().last, condition })
    }

    /// Compares what another node says with what is here, and wakes what differs where this node is
    /// responsible: it led the group when it fell asleep, or nobody that lives did and its log is the
    /// greater one. Where this node lacks something, and the other one is not among those that it tells by itself,
    /// it is told.
    pub(crate) fn reconcile(self: &Arc<Self>, from: NodeId, digest: &Digest) {
        let neighbours = &self.around().neighbours;
        let (mut unfed, mut untold) = (Vec::new(), Vec::new());
        for theirs in &digest.groups {
            let Some(ours) = self.digest(theirs.group) else {
                // Without a log neither it nor the sender could tell that it lacks something.
                if theirs.last.is_some() {
                    unfed.push(theirs.group);
                }
                continue;
            };
            let alike = ours.last == theirs.last;
            if alike || ours.condition != ReplicaCondition::Asleep {
                continue;
            }
            let responsible = match neighbours.leader(theirs.group) {
                Some((leader, _)) => leader == self.node(),
                None => ours.last > theirs.last,
            };
            if !responsible {
                // A member that the catalog wants away, a leader perhaps, was not told at the link.
                let placed = neighbours.placed(theirs.group);
                if ours.last < theirs.last && placed.is_none_or(|it| !it.wanted.contains(&from)) {
                    untold.push(ours);
                }
                continue;
            }
            tracing::info!(group = %theirs.group, node = %from, "replicas differ: the group is woken");
            if let Ok(group) = self.for_peer(theirs.group) {
                tokio::spawn(async move {
                    if let Err(error) = group.wake().await {
                        tracing::warn!(group = %group.id(), %error, "a group cannot be woken");
                    }
                });
            }
        }
        if let Some(peers) = neighbours.peers().filter(|_| !untold.is_empty()) {
            let epoch = neighbours.epoch();
            let digest = Digest { epoch, page: 0, last_page: true, groups: untold };
            if let Err(error) = peers.push(from, digest) {
                tracing::debug!(node = %from, %error, "a digest was not sent");
            }
        }
        if !unfed.is_empty() {
            tokio::spawn(say_unfed(Arc::downgrade(self), from, digest.epoch, unfed));
        }
    }

    /// Which of the groups shall have a replica here and have none, as far as this node's copy of the
    /// catalog knows.
    fn unfed(&self, groups: Vec<GroupId>) -> Vec<GroupDigest> {
        let neighbours = &self.around().neighbours;
        let is_wanted = |group: &GroupId| {
            let placed = neighbours.placed(*group);
            placed.is_some_and(|placed| placed.wanted.contains(&self.node()))
        };
        let condition = ReplicaCondition::Asleep;
        let none = |group| GroupDigest { group, vote_term: Term(0), last: None, condition };
        let missing = groups.into_iter().filter(|group| self.store().group(*group).is_none());
        missing.filter(is_wanted).map(none).collect()
    }
}

/// Answers a digest with the groups that shall have a replica here and have none: whoever is responsible
/// for them wakes them, and feeds this node. Waits for this node's copy of the catalog, which may not have
/// the groups yet.
async fn say_unfed(host: Weak<Host>, to: NodeId, epoch: u64, groups: Vec<GroupId>) {
    let Some(catalog) = host.upgrade().and_then(|host| host.held(GroupId::CATALOG)) else { return };
    let mut changes = catalog.watch_catalog();
    drop(catalog);
    let caught_up = async {
        while host.upgrade().is_some_and(|host| host.around().neighbours.epoch() < epoch) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    };
    // With an older copy it says what it knows.
    let _ = timeout(CATALOG_WAIT_MAX, caught_up).await;
    let Some(host) = host.upgrade() else { return };
    let groups = host.unfed(groups);
    let neighbours = &host.around().neighbours;
    let Some(peers) = neighbours.peers().filter(|_| !groups.is_empty()) else { return };
    tracing::info!(node = %to, groups = groups.len(), "groups have no replica here yet");
    let digest = Digest { epoch: neighbours.epoch(), page: 0, last_page: true, groups };
    if let Err(error) = peers.push(to, digest) {
        tracing::debug!(node = %to, %error, "a digest was not sent");
    }
}
