//! Steps of moves, where the moved group is led: what its members are, and one change of them at a time.
//! Beside it the end of a replica: it goes only once a majority of the members says that it may.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::Precondition;
use plimsoll_protocol::ids::{GroupId, LogId, NodeId, Offset, Term};
use plimsoll_protocol::peer::{
    DropReplica, GroupMembers, GroupReport, GroupStatus, GroupStatusReply, MemberStep, PeerFailure,
    PeerFailureCode, RaftVote, ReplicaCondition, ReplicaMatch, Step, StepReply,
};
use tokio::time::timeout;

use crate::group::{Group, Instance};
use crate::host::Host;
use crate::incoming::failure;
use crate::role::Role;
use crate::seeds::SeedError;
use crate::seeds::send::Seed;
use crate::types::{Member, Types, from_raft, to_raft};

/// How long one change of the members may take; what is not over then is asked for again.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a group may take to be led, for a step.
const LEAD_WAIT: Duration = Duration::from_secs(2);
/// Transfers to one node at a time; as many as a plan begins.
const SEEDS_PER_NODE_MAX: usize = 2;

/// The transfers of segments that this node is making.
#[derive(Debug, Default)]
pub(crate) struct Seeding(Mutex<BTreeSet<(NodeId, GroupId)>>);

impl Seeding {
    fn all(&self) -> MutexGuard<'_, BTreeSet<(NodeId, GroupId)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes its entry out, however the transfer ends.
struct Transfer {
    host: Arc<Host>,
    to: NodeId,
    group: GroupId,
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.host.seeding.all().remove(&(self.to, self.group));
    }
}

impl Host {
    /// Members and progress of groups, as this node's replicas know them.
    pub(crate) async fn group_status(self: &Arc<Self>, request: GroupStatus) -> GroupStatusReply {
        let host = self.clone();
        // What sleeping groups stored may have to be read from the disk.
        let look = move || request.groups.iter().map(|id| host.report(*id)).collect();
        GroupStatusReply { groups: self.blocking().run(look).await }
    }

    fn report(&self, id: GroupId) -> GroupReport {
        let mut report = GroupReport {
            group: id,
            condition: ReplicaCondition::Absent,
            vote: RaftVote::default(),
            leader: self.leader(id).map(|(node, _)| node),
            members: no_members(),
            matched: Vec::new(),
            last: None,
            committed: None,
            high_watermark: Offset(0),
            start_offset: Offset(0),
            end_offset: Offset(0),
            bytes: 0,
            segments: 0,
        };
        if let Some(bytes) = self.arriving.bytes(id) {
            (report.condition, report.bytes) = (ReplicaCondition::Seeding, bytes);
        }
        let Some(log) = self.store().group(id) else { return report };
        let bounds = log.bounds();
        if bounds.last.is_none() {
            return report;
        }
        if let Some(vote) = log.vote() {
            report.vote =
                RaftVote { term: vote.term, node: vote.voted_for, committed: vote.committed };
        }
        report.last = bounds.last;
        (report.start_offset, report.end_offset) = (bounds.log_start_offset, bounds.log_end_offset);
        (report.bytes, report.segments) = (bounds.bytes, bounds.segments);
        if log.is_quarantined().is_some() {
            report.condition = ReplicaCondition::Quarantined;
            return report;
        }
        let held = self.held(id);
        match held.as_ref().and_then(|group| Some((group, group.instance()?))) {
            Some((group, instance)) => describe(group, &instance, &mut report),
            None => {
                report.condition = ReplicaCondition::Asleep;
                let stored = self.stored_members(id);
                if let Some((applied, high_watermark, members)) = stored {
                    report.committed = Some(applied);
                    report.high_watermark = high_watermark;
                    report.members = members;
                }
            }
        }
        report
    }

    /// What a sleeping group's state says of its members. May read a small piece from the disk.
    fn stored_members(&self, id: GroupId) -> Option<(LogId, Offset, GroupMembers)> {
        let log = self.store().group(id)?;
        let (applied, bytes) = log.state().ok()??;
        let progress = crate::fold::GroupKind::of(id).decode_progress(&bytes).ok()?;
        let (at, body) = progress.membership?;
        let membership = crate::membership::decode(&body).ok()?;
        Some((applied, progress.high_watermark, members(Some(at), &membership)))
    }

    /// Carries a step out, where this node leads the group.
    pub(crate) async fn step(self: &Arc<Self>, step: Step) -> Result<StepReply, PeerFailure> {
        let group = self.for_peer(step.group).map_err(|error| failure(&error))?;
        let instance = self.led(&group).await?;
        let (now, members) = {
            let metrics = instance.raft.server_metrics();
            let metrics = metrics.borrow_watched();
            let config = &metrics.membership_config;
            let at = config.log_id().as_ref().map(from_raft);
            (at, members(at, config.membership()))
        };
        if now != step.membership {
            return Ok(StepReply::Changed(now));
        }
        self.check_sealed(&step)?;
        let is_member = |node| members.voters.contains(&node) || members.learners.contains(&node);
        let one = |node: NodeId| BTreeSet::from([node.0]);
        let change: ChangeMembers<u64, Member> = match step.step {
            MemberStep::AddLearner(node) if is_member(node) => return Ok(StepReply::Done(now)),
            MemberStep::AddLearner(node) => return self.begin_seed(group, node, now),
            MemberStep::TransferLeader(node) => {
                return match group.transfer_leader(Some(node)).await {
                    Ok(_) => Ok(StepReply::Done(now)),
                    Err(error) => Ok(StepReply::Refused(error.to_string())),
                };
            }
            MemberStep::RemoveVoter(node) if node == self.node() => {
                let message = "the leader hands over before it goes";
                return Ok(StepReply::Refused(message.to_owned()));
            }
            MemberStep::Promote(node) => ChangeMembers::AddVoterIds(one(node)),
            MemberStep::RemoveVoter(node) => ChangeMembers::RemoveVoters(one(node)),
            MemberStep::RemoveLearner(node) => ChangeMembers::RemoveNodes(one(node)),
            MemberStep::Uniform(_) => ChangeMembers::AddVoterIds(BTreeSet::new()),
        };
        // A voter that is removed does not stay as a learner.
        let retain = !matches!(step.step, MemberStep::RemoveVoter(_) | MemberStep::Uniform(_));
        let reply = change_members(&group, &instance, change, retain, now).await;
        if let (StepReply::Done(Some(at)), Some(node)) = (&reply, removed_by(step.step)) {
            self.tell_to_drop(group.id(), node, *at);
        }
        Ok(reply)
    }

    /// Refuses to change the members of a group that could still be born: a first replica that never
    /// woke would be a voter with an empty log, wherever its catalog is an old one.
    fn check_sealed(&self, step: &Step) -> Result<(), PeerFailure> {
        let changes_no_voter =
            matches!(step.step, MemberStep::TransferLeader(_) | MemberStep::Uniform(_));
        let placed = self.around().neighbours.placed(step.group);
        if changes_no_voter || placed.is_some_and(|placed| placed.birth.is_none()) {
            return Ok(());
        }
        let message = format!("group {} could still be born, by the catalog here", step.group);
        Err(PeerFailure::new(PeerFailureCode::CatalogBehind, message))
    }

    /// The instance of a group that this node leads, woken where it sleeps.
    async fn led(&self, group: &Arc<Group>) -> Result<Instance, PeerFailure> {
        let instance = group.instance_awake().await.map_err(|error| failure(&error))?;
        let mut standing = instance.standing.clone();
        let settled = standing.wait_for(|standing| {
            standing.ended || !matches!(standing.role, Role::Searching { .. })
        });
        group.nudge();
        let role = match timeout(LEAD_WAIT, settled).await {
            Ok(Ok(standing)) => standing.role,
            _ => Role::Asleep,
        };
        match role {
            Role::Leader { .. } => Ok(instance),
            Role::Follower { leader, .. } => Err(PeerFailure {
                leader: Some(leader),
                ..PeerFailure::new(PeerFailureCode::NotLeader, "another node leads the group")
            }),
            _ => Err(PeerFailure::new(PeerFailureCode::NotLeader, "nobody leads the group yet")),
        }
    }

    /// Seeds a node and makes it a learner, beside the answer: the asker asks again.
    fn begin_seed(
        self: &Arc<Self>,
        group: Arc<Group>,
        to: NodeId,
        membership: Option<LogId>,
    ) -> Result<StepReply, PeerFailure> {
        let id = group.id();
        {
            let mut seeding = self.seeding.all();
            if seeding.contains(&(to, id)) {
                return Ok(StepReply::InProgress(membership));
            }
            let to_node = seeding.range((to, GroupId(0))..=(to, GroupId(u64::MAX))).count();
            if to_node >= SEEDS_PER_NODE_MAX {
                let message = format!("{to_node} logs are being sent to node {to}");
                return Err(PeerFailure::new(PeerFailureCode::Busy, message));
            }
            seeding.insert((to, id));
        }
        let transfer = Transfer { host: self.clone(), to, group: id };
        tokio::spawn(async move {
            let host = transfer.host.clone();
            match host.seed(&group, to, membership).await {
                Ok(StepReply::Done(_)) => {
                    tracing::info!(group = %id, node = %to, "a node was seeded and is a learner");
                }
                Ok(reply) => tracing::info!(group = %id, node = %to, ?reply, "a node was seeded"),
                Err(error) => {
                    tracing::warn!(group = %id, node = %to, %error, "a node was not seeded");
                }
            }
        });
        Ok(StepReply::InProgress(membership))
    }

    async fn seed(
        &self,
        group: &Arc<Group>,
        to: NodeId,
        membership: Option<LogId>,
    ) -> Result<StepReply, SeedError> {
        let instance = group.instance().ok_or(SeedError::Ended)?;
        let (progress, state) = instance.shared.encode();
        let applied = progress.applied.ok_or(SeedError::Ended)?;
        let (around, log) = (self.around(), group.log());
        Seed { around, log, to, applied, state }.send().await?;
        // The group may have slept and woken meanwhile.
        let instance = group.instance().ok_or(SeedError::Ended)?;
        let change = ChangeMembers::AddNodes(BTreeMap::from([(to.0, Member::default())]));
        Ok(change_members(group, &instance, change, true, membership).await)
    }

    /// Tells a node that was removed that its replica may go. Where it is not told it finds out itself.
    fn tell_to_drop(self: &Arc<Self>, group: GroupId, node: NodeId, membership: LogId) {
        let Some(peers) = self.around().neighbours.peers().cloned() else { return };
        let epoch = self.around().neighbours.epoch();
        tokio::spawn(async move {
            let request = DropReplica { group, epoch, membership };
            match timeout(CHANGE_TIMEOUT, peers.request(node, request)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    tracing::info!(%group, %node, %error, "a removed replica is not dropped yet");
                }
                Err(_) => tracing::info!(%group, %node, "a removed replica is not dropped yet"),
            }
        });
    }
}

fn removed_by(step: MemberStep) -> Option<NodeId> {
    match step {
        MemberStep::RemoveVoter(node) | MemberStep::RemoveLearner(node) => Some(node),
        _ => None,
    }
}

async fn change_members(
    group: &Arc<Group>,
    instance: &Instance,
    change: ChangeMembers<u64, Member>,
    retain: bool,
    from: Option<LogId>,
) -> StepReply {
    // Without traffic the lease has lapsed, and openraft takes nothing into the log.
    if let Err(error) = group.lead_for_read().await {
        return StepReply::Refused(error.to_string());
    }
    let last_membership_log_id = from.map(to_raft);
    let condition: Precondition<Types> =
        Precondition::LastMembershipLogId { last_membership_log_id };
    let changing = instance.raft.change_membership_if(change, retain, [condition]);
    let outcome = timeout(CHANGE_TIMEOUT, changing).await;
    let metrics = instance.raft.server_metrics();
    let now = metrics.borrow_watched().membership_config.log_id().as_ref().map(from_raft);
    match outcome {
        Err(_) => StepReply::InProgress(now),
        Ok(Ok(_)) => StepReply::Done(now),
        Ok(Err(_)) if now != from => StepReply::Changed(now),
        Ok(Err(error)) => StepReply::Refused(error.to_string()),
    }
}

fn no_members() -> GroupMembers {
    GroupMembers { voters: Vec::new(), learners: Vec::new(), joint: false, membership: None }
}

fn members(at: Option<LogId>, membership: &crate::types::Membership) -> GroupMembers {
    GroupMembers {
        voters: membership.voter_ids().map(NodeId).collect(),
        learners: membership.learner_ids().map(NodeId).collect(),
        joint: membership.get_joint_config().len() > 1,
        membership: at,
    }
}

fn describe(group: &Group, instance: &Instance, report: &mut GroupReport) {
    let role = instance.standing.borrow().role;
    report.condition = match role {
        Role::Leader { .. } => ReplicaCondition::Leader,
        Role::Asleep => ReplicaCondition::Asleep,
        Role::Follower { .. } | Role::Searching { .. } => ReplicaCondition::Follower,
    };
    if let Role::Follower { leader, .. } = role {
        report.leader = Some(leader);
    }
    {
        let metrics = instance.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let config = &metrics.membership_config;
        let at = config.log_id().as_ref().map(from_raft);
        report.members = members(at, config.membership());
        report.vote.term = report.vote.term.max(Term(metrics.vote.leader_id.term));
    }
    // What is applied is committed.
    report.committed = instance.shared.applied();
    report.high_watermark = *group.high_watermark().borrow();
    let metrics = instance.raft.data_metrics();
    let metrics = metrics.borrow_watched();
    let matched = metrics.replication.iter().flatten();
    report.matched = matched
        .map(|(node, id)| ReplicaMatch { node: NodeId(*node), matched: id.as_ref().map(from_raft) })
        .collect();
}
