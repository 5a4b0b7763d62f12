//! The members of the metadata group follow the nodes of the catalog: every node is one, some of them
//! vote. Runs on every node and acts only where the group is led; it remembers nothing, so a new
//! leader goes on where the old one ended.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver as _;
use plimsoll_protocol::api::NodeState;
use plimsoll_protocol::ids::{GroupId, NodeId};
use plimsoll_state::catalog::{Catalog, CatalogCommand, planning};
use tokio::time::timeout;

use crate::group::Instance;
use crate::host::Host;
use crate::role::Role;
use crate::types::Member;

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(250);
/// How long one change of the members may take; the next look goes on with whatever became of it.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// A member that lacks no more entries than this is caught up.
const LAG_ENTRIES_MAX: u64 = 64;

/// One change of the metadata group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// Ends a configuration of two sets of voters, which a leader left behind.
    MakeUniform,
    AddLearner(NodeId),
    Promote(NodeId),
    /// A voter too many becomes a learner.
    Demote(NodeId),
    /// The voter too many is the leader: another one leads first.
    HandOver(NodeId),
    /// The node has everything: it may hold replicas.
    Activate(NodeId),
    RemoveVoter(NodeId),
    RemoveLearner(NodeId),
}

/// The metadata group as its leader sees it.
struct Present {
    joint: bool,
    voters: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
    caught_up: BTreeSet<NodeId>,
}

/// Keeps the members as the catalog has the nodes, for as long as the host exists.
pub(crate) async fn keep(host: Weak<Host>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(host) = host.upgrade() else { return };
        let Some(group) = host.held(GroupId::CATALOG) else { continue };
        let Some(instance) = group.instance() else { continue };
        if !matches!(instance.standing.borrow().role, Role::Leader { .. }) {
            continue;
        }
        let present = look(&instance);
        let neighbours = &host.around().neighbours;
        let hears = |node: NodeId| neighbours.reaches(node);
        let Some(change) = next(&group.catalog(), &present, host.node(), hears) else { continue };
        tracing::info!(?change, "the metadata group changes");
        // Without traffic the lease has lapsed, and openraft takes nothing into the log.
        if let Err(error) = group.lead_for_read().await {
            tracing::info!(?change, %error, "the metadata group cannot change now");
            continue;
        }
        if let Change::HandOver(node) = change {
            if let Err(error) = group.transfer_leader(Some(node)).await {
                tracing::warn!(%node, %error, "the metadata group was not handed over");
            }
            continue;
        }
        if timeout(CHANGE_TIMEOUT, carry_out(&host, &instance, change)).await.is_err() {
            tracing::warn!(?change, "the metadata group was not changed in time");
        }
    }
}

fn look(instance: &Instance) -> Present {
    let ids = |ids: &mut dyn Iterator<Item = u64>| ids.map(NodeId).collect::<BTreeSet<_>>();
    let (joint, voters, learners) = {
        let metrics = instance.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        (
            membership.get_joint_config().len() > 1,
            ids(&mut membership.voter_ids()),
            ids(&mut membership.learner_ids()),
        )
    };
    let metrics = instance.raft.data_metrics();
    let metrics = metrics.borrow_watched();
    let last = metrics.last_log.map_or(0, |id| id.index);
    let matched = metrics.replication.iter().flatten();
    let caught_up = matched
        .filter(|(_, id)| id.is_some_and(|id| id.index + LAG_ENTRIES_MAX >= last))
        .map(|(node, _)| NodeId(*node));
    Present { joint, voters, learners, caught_up: caught_up.collect() }
}

/// The next change that brings the members nearer to the nodes of the catalog; one at a time.
fn next(
    catalog: &Catalog,
    present: &Present,
    me: NodeId,
    reaches: impl Fn(NodeId) -> bool,
) -> Option<Change> {
    let nodes: BTreeSet<NodeId> = catalog.members().map(|(node, _)| node).collect();
    if nodes.is_empty() {
        return None;
    }
    if present.joint {
        return Some(Change::MakeUniform);
    }
    let is_member =
        |node: &NodeId| present.voters.contains(node) || present.learners.contains(node);
    let is_ready = |node: &NodeId| present.caught_up.contains(node) && reaches(*node);
    // A voter that is gone first: it counts against the majority.
    let mut gone = present.voters.iter().filter(|node| !nodes.contains(node) && **node != me);
    if let Some(node) = gone.next() {
        return Some(Change::RemoveVoter(*node));
    }
    if let Some(node) = present.learners.iter().find(|node| !nodes.contains(node)) {
        return Some(Change::RemoveLearner(*node));
    }
    if let Some(node) = nodes.iter().find(|node| !is_member(node) && reaches(**node)) {
        return Some(Change::AddLearner(*node));
    }
    let joining = catalog.members().filter(|(_, meta)| meta.state == NodeState::Joining);
    if let Some((node, _)) = joining.into_iter().find(|(node, _)| is_ready(node)) {
        return Some(Change::Activate(node));
    }
    let active = catalog.members().filter(|(_, meta)| meta.state == NodeState::Active);
    let active: BTreeSet<NodeId> = active.map(|(node, _)| node).collect();
    let voters = planning::metadata_voters(active.len());
    // As the catalog has it, once it has as many as there should be; until then who comes first.
    let placed = catalog.replica_set(GroupId::CATALOG).map(|set| set.wanted.clone());
    let placed = placed.filter(|placed| placed.len() == voters).unwrap_or_default();
    let wanted = |node: &NodeId| placed.is_empty() || placed.contains(node);
    let able = |node: &&NodeId| active.contains(node) && is_ready(node) && wanted(node);
    let lacks_one = present.voters.len() < voters
        || placed.iter().any(|node| !present.voters.contains(node))
            && present.voters.len() == voters;
    if lacks_one {
        return present.learners.iter().find(able).copied().map(Change::Promote);
    }
    // One too many, after another one came in its place.
    let spare = |node: &&NodeId| **node != me && !placed.is_empty() && !placed.contains(node);
    if present.voters.len() <= voters {
        return None;
    }
    if let Some(node) = present.voters.iter().find(spare) {
        return Some(Change::Demote(*node));
    }
    let successor = placed.iter().find(|node| present.voters.contains(node) && is_ready(node));
    successor.filter(|_| !placed.contains(&me)).copied().map(Change::HandOver)
}

async fn carry_out(host: &Arc<Host>, instance: &Instance, change: Change) {
    let raft = &instance.raft;
    let only = |node: NodeId| BTreeSet::from([node.0]);
    let outcome = match change {
        Change::AddLearner(node) => raft.add_learner(node.0, Member::default(), false).await,
        Change::MakeUniform => {
            raft.change_membership(ChangeMembers::AddVoterIds(BTreeSet::new()), false).await
        }
        Change::Promote(node) => {
            raft.change_membership(ChangeMembers::AddVoterIds(only(node)), true).await
        }
        Change::RemoveVoter(node) => {
            raft.change_membership(ChangeMembers::RemoveVoters(only(node)), false).await
        }
        Change::Demote(node) => {
            raft.change_membership(ChangeMembers::RemoveVoters(only(node)), true).await
        }
        Change::RemoveLearner(node) => {
            raft.change_membership(ChangeMembers::RemoveNodes(only(node)), true).await
        }
        // The caller's, who has the group.
        Change::HandOver(_) => return,
        Change::Activate(node) => {
            if let Err(error) = host.command(&CatalogCommand::ActivateNode { node }).await {
                tracing::warn!(%node, %error, "a node could not be made active");
            }
            return;
        }
    };
    if let Err(error) = outcome {
        tracing::warn!(?change, %error, "the metadata group could not be changed");
    }
}
