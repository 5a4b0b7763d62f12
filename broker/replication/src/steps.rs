//! Single steps of moves, as the leader of a group carries them out; and the end of a replica that is
//! no longer wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::Precondition;
use plimsoll_protocol::api::Done;
use plimsoll_protocol::ids::{GroupId, LogId, NodeId};
use plimsoll_protocol::peer::{
    DropReplica, MemberStep, PeerFailure, PeerFailureCode, Step, StepReply,
};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::error::{LeadError, OpenGroupError};
use crate::group::Group;
use crate::host::Host;
use crate::incoming::failure;
use crate::types::{Member, from_raft, to_raft};

/// How long one change of a group's members may take to be committed.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

impl Host {
    /// Carries out one step where this node leads the group.
    pub(crate) async fn step(&self, step: Step) -> Result<StepReply, PeerFailure> {
        let group = self.for_peer(step.group).map_err(|error| failure(&error))?;
        group.lead_for_read().await.map_err(|error| lead_failure(&error))?;
        let report = self.report(step.group);
        if report.members.membership != step.membership {
            return Ok(StepReply::Changed(report.members.membership));
        }
        if let MemberStep::TransferLeader(node) = step.step {
            return Ok(match group.transfer_leader(Some(node)).await {
                Ok(_) => StepReply::Done(step.membership),
                Err(error) => StepReply::Refused(error.to_string()),
            });
        }
        let change = group.change(step.step, step.membership);
        match timeout(CHANGE_TIMEOUT, change).await {
            Ok(outcome) => outcome.map_err(|error| failure(&error)),
            // It goes on; the next look at the members shows what became of it.
            Err(_) => Ok(StepReply::InProgress(step.membership)),
        }
    }

    /// Gives up this node's replica of a group, once a majority of the nodes that shall hold it have
    /// committed a configuration without this node.
    pub(crate) async fn drop_replica(&self, request: DropReplica) -> Result<Done, PeerFailure> {
        let group = request.group;
        let refuse = |why: String| PeerFailure::new(PeerFailureCode::Refused, why);
        let placed = self.around().neighbours.placed(group);
        let placed = placed.ok_or_else(|| {
            PeerFailure::new(PeerFailureCode::CatalogBehind, format!("group {group} is not known"))
        })?;
        if placed.wanted.contains(&self.node()) {
            return Err(refuse(format!("group {group} belongs on this node")));
        }
        let asked = placed.wanted.iter().map(|node| self.reports_of(*node, vec![group]));
        let reports = futures_util::future::join_all(asked).await;
        let without = |report: &plimsoll_protocol::peer::GroupReport| {
            let members = report.members.voters.iter().chain(&report.members.learners);
            !report.members.voters.is_empty()
                && members.into_iter().all(|node| *node != self.node())
                && report.members.membership >= Some(request.membership)
                && report.members.membership <= report.committed
        };
        let confirmed = reports.iter().flatten().filter(|report| without(report)).count();
        if 2 * confirmed <= placed.wanted.len() {
            return Err(refuse(format!(
                "{confirmed} of {} nodes confirm that this one is no member of group {group}",
                placed.wanted.len()
            )));
        }
        self.give_up_replica(group).await.map_err(|error| failure(&error))?;
        tracing::info!(%group, "a replica that is no longer wanted was dropped");
        Ok(Done {})
    }

    /// Ends the group's instance and takes its log; its vote and options stay.
    async fn give_up_replica(&self, id: GroupId) -> Result<(), OpenGroupError> {
        let held = self.held(id);
        // The lock is held until the log is gone: nobody wakes it meanwhile.
        let mut guard = match &held {
            Some(group) => Some(group.lock().await),
            None => None,
        };
        if let (Some(group), Some(guard)) = (&held, &mut guard)
            && let Some(awake) = group.take_instance(guard)
        {
            awake.end(group.log(), self.around()).await;
        }
        let (sender, receiver) = oneshot::channel();
        self.store().drop_replica(
            id,
            Box::new(move |outcome| {
                let _ = sender.send(outcome);
            }),
        );
        let outcome = receiver.await;
        self.forget_replica(id);
        match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(OpenGroupError::Storage { group: id, source }),
            Err(_) => Err(OpenGroupError::ShuttingDown),
        }
    }
}

impl Group {
    /// Changes the members by one node, if the configuration is still the one of `membership`.
    async fn change(
        self: &Arc<Self>,
        step: MemberStep,
        membership: Option<LogId>,
    ) -> Result<StepReply, OpenGroupError> {
        let instance = self.instance_awake().await?;
        let one = |node: NodeId| BTreeSet::from([node.0]);
        let (members, retain) = match step {
            MemberStep::AddLearner(node) => {
                let node = BTreeMap::from([(node.0, Member::default())]);
                (ChangeMembers::AddNodes(node), true)
            }
            MemberStep::Promote(node) => (ChangeMembers::AddVoterIds(one(node)), true),
            MemberStep::RemoveVoter(node) => (ChangeMembers::RemoveVoters(one(node)), false),
            MemberStep::RemoveLearner(node) => (ChangeMembers::RemoveNodes(one(node)), true),
            MemberStep::Uniform(_) => (ChangeMembers::AddVoterIds(BTreeSet::new()), false),
            MemberStep::TransferLeader(_) => unreachable!("it changes no members"),
        };
        let unchanged =
            Precondition::LastMembershipLogId { last_membership_log_id: membership.map(to_raft) };
        let outcome = instance.raft.change_membership_if(members, retain, [unchanged]).await;
        Ok(match outcome {
            Ok(done) => StepReply::Done(Some(from_raft(&done.log_id))),
            Err(RaftError::APIError(ClientWriteError::PreconditionFailed(_))) => {
                StepReply::Changed(membership)
            }
            Err(error) => StepReply::Refused(error.to_string()),
        })
    }
}

fn lead_failure(error: &LeadError) -> PeerFailure {
    match error {
        LeadError::NotLeader(error) => PeerFailure {
            code: PeerFailureCode::NotLeader,
            leader: error.leader,
            message: error.to_string(),
        },
        LeadError::NoQuorum(error) => {
            PeerFailure::new(PeerFailureCode::NoQuorum, error.to_string())
        }
        LeadError::Group(error) => failure(error),
    }
}
