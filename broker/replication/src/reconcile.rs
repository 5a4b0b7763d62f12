//! Finding replicas that differ after nodes have met again: each tells the other where its groups
//! stand, and whoever is responsible wakes those that differ, for Raft to repair. Equal ones wake
//! nothing, so a node with thousands of sleeping groups is served as soon as its links are up.

use std::sync::Arc;

use plimsoll_protocol::ids::{GroupId, NodeId, Term};
use plimsoll_protocol::peer::{Digest, GroupDigest, ReplicaCondition};

use crate::host::Host;
use crate::role::Role;

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
    /// greater one.
    pub(crate) fn reconcile(self: &Arc<Self>, from: NodeId, digest: &Digest) {
        let neighbours = &self.around().neighbours;
        for theirs in &digest.groups {
            let Some(ours) = self.digest(theirs.group) else { continue };
            let alike = ours.last == theirs.last;
            if alike || ours.condition != ReplicaCondition::Asleep {
                continue;
            }
            let responsible = match neighbours.leader(theirs.group) {
                Some((leader, _)) => leader == self.node(),
                None => ours.last > theirs.last,
            };
            if !responsible {
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
    }
}
