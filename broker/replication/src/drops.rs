//! The end of a replica that is no longer wanted. Its log goes only on positive evidence: a majority of the
//! members has committed a membership without this node. The word of others is old when it comes, and the
//! node may have been fed again and have answered for entries meanwhile. So it is asked for once more while
//! the replica answers nobody; of a log that goes on behind that membership all voters must say it.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use plimsoll_peers::Peers;
use plimsoll_protocol::api::Done;
use plimsoll_protocol::ids::{GroupId, LogId, NodeId};
use plimsoll_protocol::peer::{
    DropReplica, GroupReport, GroupStatus, PeerFailure, PeerFailureCode, ReplicaCondition,
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
        self.drop_replica(group, BTreeSet::from([from])).await.map(|()| Done {})
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
        let Some((_, voters)) = newest_members(&reports) else { return false };
        let others: BTreeSet<NodeId> = voters.difference(&whom).copied().collect();
        reports.extend(ask(&peers, group, &others).await);
        // Looked at after the answers: what came meanwhile counts.
        let last = self.store().group(group).and_then(|log| log.bounds().last);
        is_out(me, last, &reports)
    }

    /// Takes log, state and files of a group away; its vote stays. Refused where the nodes in `whom`, and the
    /// members that they name, no longer confirm it.
    async fn drop_replica(
        self: &Arc<Self>,
        id: GroupId,
        whom: BTreeSet<NodeId>,
    ) -> Result<(), PeerFailure> {
        let group = self.for_peer(id).map_err(|error| failure(&error))?;
        let guard = group.lock().await;
        let guard = group.end_locked(guard).await.map_err(|error| failure(&error))?;
        // Under the lock nothing is answered and no log is put in place: a leader that was answered before
        // says now that this node is a member.
        if !self.is_removed(id, whom).await {
            drop(guard);
            // Its leader may count on it, and have nothing to send that would wake it.
            tokio::spawn(async move { group.wake().await });
            let message = format!("this node is a member of group {id} again");
            return Err(PeerFailure::new(PeerFailureCode::Refused, message));
        }
        let (sender, receiver) = oneshot::channel();
        let done = Box::new(move |outcome| {
            // Nobody waits for it where the node is going down.
            let _ = sender.send(outcome);
        });
        self.store().drop_replica(id, done);
        let stopped = || PeerFailure::new(PeerFailureCode::StorageFailed, "the store stopped");
        receiver.await.map_err(|_| stopped())?.map_err(|_| stopped())?;
        self.forget_safety(id);
        // What was damaged is gone: it can be made anew here.
        self.around().neighbours.set_unfit(id, false);
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

/// The newest membership that a report says is committed, and its voters.
fn newest_members(reports: &[(NodeId, GroupReport)]) -> Option<(LogId, BTreeSet<NodeId>)> {
    reports.iter().filter_map(|(_, report)| committed_members(report)).max()
}

/// Whether `reports` show that node `me`, whose log ends with `last`, was removed from the group and is
/// not a member again.
fn is_out(me: NodeId, last: Option<LogId>, reports: &[(NodeId, GroupReport)]) -> bool {
    let Some((membership, voters)) = newest_members(reports) else { return false };
    let is_member = |report: &GroupReport| {
        report.members.voters.contains(&me) || report.members.learners.contains(&me)
    };
    // A leader counts on a member from the moment that it proposes the membership.
    let is_back =
        |report: &GroupReport| report.members.membership > Some(membership) && is_member(report);
    if voters.is_empty()
        || voters.contains(&me)
        || reports.iter().any(|(_, report)| is_back(report))
    {
        return false;
    }
    // Whoever has entries behind the membership was most likely fed again since: the voters that answer may
    // not have heard of it. Then all must confirm, and know their whole log; a leader that counts on this
    // node is one of them, or one of them has the membership that let it become one. A stream that was
    // overtaken by the removal leaves such entries, too.
    let was_fed = last > Some(membership);
    let confirms = |report: &GroupReport| {
        let knows_all =
            report.condition != ReplicaCondition::Asleep || report.committed == report.last;
        !is_member(report)
            && !report.members.joint
            && (knows_all || !was_fed)
            && committed_members(report).is_some_and(|(at, _)| at >= membership)
    };
    let confirmed =
        reports.iter().filter(|(node, report)| voters.contains(node) && confirms(report)).count();
    if was_fed { confirmed == voters.len() } else { confirmed > voters.len() / 2 }
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
    let mut last = None;
    loop {
        looks.tick().await;
        let Some(host) = host.upgrade() else { return };
        if !*host.catalog_confirmed().borrow() {
            continue;
        }
        let found = unwanted(&host, last);
        // A full round goes on behind its last one: nobody may confirm that these go, for long.
        let is_full = found.len() == LOOKED_AT_MAX;
        last = found.last().map(|(group, _)| *group).filter(|_| is_full);
        for (group, whom) in found {
            if host.is_removed(group, whom.clone()).await
                && let Err(error) = host.drop_replica(group, whom).await
            {
                tracing::warn!(%group, %error, "a replica was not dropped");
            }
        }
    }
}

/// Replicas that the catalog wants elsewhere, or that are damaged, and the nodes that may know of the members; in order, behind
/// `after`.
fn unwanted(host: &Host, after: Option<GroupId>) -> Vec<(GroupId, BTreeSet<NodeId>)> {
    let neighbours = &host.around().neighbours;
    let groups = host.store().groups().into_iter();
    let groups = groups.filter(|group| *group != GroupId::CATALOG && Some(*group) > after);
    let moved = groups.filter(|group| host.has_log(*group)).filter_map(|group| {
        let placed = neighbours.placed(group)?;
        let is_moved = placed.birth.is_none() && !placed.wanted.contains(&host.node());
        let log = host.store().group(group);
        let is_damaged = log.is_some_and(|log| log.is_quarantined().is_some());
        (is_moved || is_damaged).then(|| (group, placed.wanted.iter().copied().collect()))
    });
    moved.take(LOOKED_AT_MAX).collect()
}

#[cfg(test)]
mod tests {
    use plimsoll_protocol::ids::{LogIndex, Offset, Term};
    use plimsoll_protocol::peer::{GroupMembers, RaftVote};

    use super::*;

    const ME: NodeId = NodeId(3);
    const REMOVAL: LogId = id(15);

    const fn id(index: u64) -> LogId {
        LogId { term: Term(2), index: LogIndex(index) }
    }

    /// What a voter says that has committed everything up to `committed`, under the membership at
    /// `membership` of the voters 1, 2 and 4, and of `learners`.
    fn report(
        node: u64,
        membership: u64,
        committed: u64,
        learners: &[NodeId],
    ) -> (NodeId, GroupReport) {
        let members = GroupMembers {
            voters: [1, 2, 4].map(NodeId).to_vec(),
            learners: learners.to_vec(),
            joint: false,
            membership: Some(id(membership)),
        };
        let report = GroupReport {
            group: GroupId(1),
            condition: ReplicaCondition::Follower,
            vote: RaftVote::default(),
            leader: None,
            members,
            matched: Vec::new(),
            last: Some(id(committed)),
            committed: Some(id(committed)),
            high_watermark: Offset(0),
            start_offset: Offset(0),
            end_offset: Offset(0),
            bytes: 0,
            segments: 1,
        };
        (NodeId(node), report)
    }

    #[test]
    fn a_majority_that_committed_the_removal_confirms_it() {
        let two = [report(1, 15, 16, &[]), report(2, 15, 17, &[])];
        assert!(is_out(ME, Some(id(14)), &two));
        assert!(is_out(ME, Some(REMOVAL), &two), "the leader's last append brought the removal");
        assert!(!is_out(ME, Some(id(14)), &two[..1]), "one of three is no majority");
        let uncommitted = [report(1, 15, 15, &[]), report(2, 15, 14, &[])];
        assert!(!is_out(ME, Some(id(14)), &uncommitted));
    }

    #[test]
    fn a_majority_does_not_take_away_what_was_fed_after_the_removal() {
        let old = [report(1, 15, 17, &[]), report(4, 15, 15, &[])];
        assert!(is_out(ME, Some(REMOVAL), &old));
        assert!(!is_out(ME, Some(id(16)), &old));
        assert!(!is_out(ME, Some(id(18)), &old));
    }

    #[test]
    fn what_a_removed_node_was_still_sent_goes_once_all_voters_confirm() {
        let mut all = [report(1, 15, 17, &[]), report(2, 15, 17, &[]), report(4, 15, 15, &[])];
        assert!(is_out(ME, Some(id(16)), &all));
        let (_, sleeper) = &mut all[1];
        sleeper.condition = ReplicaCondition::Asleep;
        assert!(is_out(ME, Some(id(16)), &all));
        let (_, sleeper) = &mut all[1];
        sleeper.last = Some(id(18));
        assert!(
            !is_out(ME, Some(id(16)), &all),
            "the membership may be in what it has not applied"
        );
    }

    #[test]
    fn one_member_that_knows_of_the_return_outweighs_a_majority() {
        let proposed = report(2, 18, 17, &[ME]);
        let reports = [report(1, 15, 17, &[]), proposed, report(4, 15, 15, &[])];
        assert!(!is_out(ME, Some(REMOVAL), &reports));
        let committed = report(2, 18, 18, &[ME]);
        let reports = [report(1, 15, 17, &[]), committed, report(4, 15, 15, &[])];
        assert!(!is_out(ME, Some(REMOVAL), &reports));
    }

    #[test]
    fn a_member_that_lags_behind_the_removal_does_not_stop_it() {
        let behind = report(4, 10, 12, &[ME]);
        assert!(is_out(
            ME,
            Some(id(14)),
            &[report(1, 15, 17, &[]), report(2, 15, 17, &[]), behind]
        ));
    }
}
