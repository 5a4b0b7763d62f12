//! The end of a replica that is no longer wanted. Its log goes only on positive evidence: a majority of the
//! members has committed a membership without this node.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use plimsoll_peers::Peers;
use plimsoll_protocol::api::Done;
use plimsoll_protocol::ids::{GroupId, LogId, NodeId};
use plimsoll_protocol::peer::{
    DropReplica, GroupReport, GroupStatus, PeerFailure, PeerFailureCode,
};
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::host::Host;
use crate::incoming::failure;

/// Between two looks for replicas that are not wanted here.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long one node may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Replicas that are looked at in one round.
const LOOKED_AT_MAX: usize = 64;

impl Host {
    /// Another node says that this one was removed from a group.
    pub(crate) async fn told_to_drop(
        self: &Arc<Self>,
        from: NodeId,
        request: &DropReplica,
    ) -> Result<Done, PeerFailure> {
        let group = request.group;
        if group == GroupId::CATALOG {
            let message = "the metadata group is not dropped";
            return Err(PeerFailure::new(PeerFailureCode::Refused, message));
        }
        if !self.has_log(group) {
            return Ok(Done {});
        }
        if !self.is_removed(group, BTreeSet::from([from])).await {
            let message = format!("no majority of group {group} confirms that it may go");
            return Err(PeerFailure::new(PeerFailureCode::Refused, message));
        }
        self.drop_replica(group).await.map(|()| Done {})
    }

    fn has_log(&self, group: GroupId) -> bool {
        self.store().group(group).is_some_and(|log| log.bounds().last.is_some())
    }

    /// Whether a majority of the group's members has committed a membership without this node. `whom`
    /// are asked first who the members are.
    async fn is_removed(&self, group: GroupId, mut whom: BTreeSet<NodeId>) -> bool {
        let Some(peers) = self.around().neighbours.peers().cloned() else { return false };
        let me = self.node();
        whom.remove(&me);
        let mut reports = ask(&peers, group, &whom).await;
        // The newest membership that somebody says is committed, and its voters.
        let newest = reports.iter().filter_map(|(_, report)| committed_members(report)).max();
        let Some((membership, voters)) = newest else { return false };
        let others: BTreeSet<NodeId> = voters.difference(&whom).copied().collect();
        reports.extend(ask(&peers, group, &others).await);
        let confirms = |report: &GroupReport| {
            let is_out = !report.members.voters.contains(&me)
                && !report.members.learners.contains(&me)
                && !report.members.joint;
            is_out && committed_members(report).is_some_and(|(at, _)| at >= membership)
        };
        let confirmed = reports
            .iter()
            .filter(|(node, report)| voters.contains(node) && confirms(report))
            .count();
        !voters.contains(&me) && confirmed > voters.len() / 2
    }

    /// Takes log, state and files of a group away; its vote stays.
    async fn drop_replica(self: &Arc<Self>, id: GroupId) -> Result<(), PeerFailure> {
        let group = self.for_peer(id).map_err(|error| failure(&error))?;
        let guard = group.lock().await;
        let guard = group.end_locked(guard).await.map_err(|error| failure(&error))?;
        let (sender, receiver) = oneshot::channel();
        let done = Box::new(move |outcome| {
            // Nobody waits for it where the node is going down.
            let _ = sender.send(outcome);
        });
        self.store().drop_replica(id, done);
        let stopped = || PeerFailure::new(PeerFailureCode::StorageFailed, "the store stopped");
        receiver.await.map_err(|_| stopped())?.map_err(|_| stopped())?;
        self.forget_safety(id);
        group.set_dropped(true);
        drop(guard);
        tracing::info!(group = %id, "a replica that is no longer wanted was dropped");
        Ok(())
    }
}

/// The committed membership that a report names, and its voters.
fn committed_members(report: &GroupReport) -> Option<(LogId, BTreeSet<NodeId>)> {
    let at = report.members.membership.filter(|at| report.committed >= Some(*at))?;
    Some((at, report.members.voters.iter().copied().collect()))
}

async fn ask(
    peers: &Peers,
    group: GroupId,
    nodes: &BTreeSet<NodeId>,
) -> Vec<(NodeId, GroupReport)> {
    let asked = nodes.iter().map(|node| async move {
        let request = GroupStatus { epoch: 0, groups: vec![group] };
        let reply = timeout(ASK_TIMEOUT, peers.request(*node, request)).await.ok()?.ok()?;
        reply.groups.into_iter().next().map(|report| (*node, report))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Looks now and then for replicas that the catalog no longer wants here: whoever removed this node may
/// have died before it said so.
pub(crate) async fn keep(host: Weak<Host>) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let Some(host) = host.upgrade() else { return };
        if !*host.catalog_confirmed().borrow() {
            continue;
        }
        for (group, whom) in unwanted(&host) {
            if host.is_removed(group, whom).await
                && let Err(error) = host.drop_replica(group).await
            {
                tracing::warn!(%group, %error, "a replica was not dropped");
            }
        }
    }
}

/// Replicas that the catalog wants elsewhere, and the nodes that may know of the members.
fn unwanted(host: &Host) -> Vec<(GroupId, BTreeSet<NodeId>)> {
    let neighbours = &host.around().neighbours;
    let groups = host.store().groups().into_iter().filter(|group| *group != GroupId::CATALOG);
    let moved = groups.filter(|group| host.has_log(*group)).filter_map(|group| {
        let placed = neighbours.placed(group)?;
        let is_moved = placed.birth.is_none() && !placed.wanted.contains(&host.node());
        is_moved.then(|| (group, placed.wanted.iter().copied().collect()))
    });
    moved.take(LOOKED_AT_MAX).collect()
}
