//! Members and progress of groups, as their replicas know them: what moves of replicas are driven by,
//! and what people look at. A sleeping replica answers from its stored state; nothing is woken.

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use plimsoll_log::GroupLog;
use plimsoll_protocol::ids::{GroupId, LogId, NodeId, Offset};
use plimsoll_protocol::peer::{
    GroupMembers, GroupReport, GroupStatus, GroupStatusReply, RaftVote, ReplicaCondition, ReplicaMatch,
};
use tokio::time::timeout;

use crate::fold::GroupKind;
use crate::group::Instance;
use crate::host::Host;
use crate::membership;
use crate::role::Role;
use crate::types::{Membership, from_raft};

/// How long a node may take to report.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// Groups of one request.
const GROUPS_AT_ONCE: usize = 1_000;

impl Host {
    /// What the leaders of groups report of them; where none is known the first node that lives, in
    /// the order of the placement. A group is missing whose node did not answer.
    pub async fn reports(
        &self,
        groups: impl IntoIterator<Item = GroupId>,
    ) -> BTreeMap<GroupId, GroupReport> {
        let mut by_node: BTreeMap<NodeId, Vec<GroupId>> = BTreeMap::new();
        for group in groups {
            if let Some((node, _)) = self.leader_hint(group) {
                by_node.entry(node).or_default().push(group);
            }
        }
        let asked = by_node.into_iter().flat_map(|(node, groups)| {
            let chunks: Vec<Vec<GroupId>> =
                groups.chunks(GROUPS_AT_ONCE).map(<[GroupId]>::to_vec).collect();
            chunks.into_iter().map(move |groups| self.reports_of(node, groups))
        });
        let reports = futures_util::future::join_all(asked).await;
        reports.into_iter().flatten().map(|report| (report.group, report)).collect()
    }

    /// What one node reports of groups.
    pub(crate) async fn reports_of(&self, node: NodeId, groups: Vec<GroupId>) -> Vec<GroupReport> {
        if node == self.node() {
            return groups.into_iter().map(|group| self.report(group)).collect();
        }
        let neighbours = &self.around().neighbours;
        let Some(peers) = neighbours.peers() else { return Vec::new() };
        let request = GroupStatus { epoch: neighbours.epoch(), groups };
        match timeout(REPORT_TIMEOUT, peers.request(node, request)).await {
            Ok(Ok(reply)) => reply.groups,
            Ok(Err(_)) | Err(_) => Vec::new(),
        }
    }

    /// Answers another node.
    pub(crate) fn group_status(&self, request: GroupStatus) -> GroupStatusReply {
        let reports = request.groups.into_iter().map(|group| self.report(group));
        GroupStatusReply { groups: reports.collect() }
    }

    /// What this node's replica knows.
    pub(crate) fn report(&self, group: GroupId) -> GroupReport {
        let Some(log) = self.store().group(group) else { return absent(group) };
        let bounds = log.bounds();
        let vote = log.vote().map_or_else(RaftVote::default, |vote| RaftVote {
            term: vote.term,
            node: vote.voted_for,
            committed: vote.committed,
        });
        let held = self.held(group);
        let role = held.as_ref().map_or(Role::Asleep, |held| *held.role().borrow());
        let condition = match role {
            _ if log.is_quarantined().is_some() => ReplicaCondition::Quarantined,
            Role::Asleep => ReplicaCondition::Asleep,
            Role::Leader { .. } => ReplicaCondition::Leader,
            Role::Follower { .. } | Role::Searching { .. } => ReplicaCondition::Follower,
        };
        let (bytes, committed) = (bounds.bytes, log.committed());
        let mut report = GroupReport {
            condition,
            vote,
            leader: self.leader(group).map(|(node, _)| node),
            last: bounds.last,
            committed,
            high_watermark: self.committed_offset(group).ok().flatten().unwrap_or(Offset(0)),
            bytes,
            ..absent(group)
        };
        match held.and_then(|held| held.instance()) {
            Some(instance) => fill_awake(&mut report, &instance, self.node()),
            None => fill_asleep(&mut report, &log),
        }
        report
    }
}

fn absent(group: GroupId) -> GroupReport {
    GroupReport {
        group,
        condition: ReplicaCondition::Absent,
        vote: RaftVote::default(),
        leader: None,
        members: GroupMembers {
            voters: Vec::new(),
            learners: Vec::new(),
            joint: false,
            membership: None,
        },
        matched: Vec::new(),
        last: None,
        committed: None,
        high_watermark: Offset(0),
        bytes: 0,
    }
}

fn fill_awake(report: &mut GroupReport, instance: &Instance, me: NodeId) {
    {
        let metrics = instance.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let stored = &metrics.membership_config;
        fill_members(report, stored.membership(), stored.log_id().as_ref().map(from_raft));
    }
    let metrics = instance.raft.data_metrics();
    let metrics = metrics.borrow_watched();
    report.committed = metrics.local_committed.as_ref().map(from_raft);
    let matched = metrics.replication.iter().flatten().map(|(node, id)| ReplicaMatch {
        node: NodeId(*node),
        // This node's own progress is not in the metrics of its replication to others.
        matched: if *node == me.0 { report.last } else { id.as_ref().map(from_raft) },
    });
    report.matched = matched.collect();
}

fn fill_asleep(report: &mut GroupReport, log: &GroupLog) {
    let Ok(Some((applied, bytes))) = log.state() else { return };
    report.committed = report.committed.max(Some(applied));
    let Ok(progress) = GroupKind::of(report.group).decode_progress(&bytes) else { return };
    if let Some((id, body)) = progress.membership
        && let Ok(membership) = membership::decode(&body)
    {
        fill_members(report, &membership, Some(id));
    }
}

fn fill_members(report: &mut GroupReport, membership: &Membership, id: Option<LogId>) {
    report.members.voters = membership.voter_ids().map(NodeId).collect();
    report.members.learners = membership.learner_ids().map(NodeId).collect();
    report.members.joint = membership.get_joint_config().len() > 1;
    report.members.membership = id;
}
