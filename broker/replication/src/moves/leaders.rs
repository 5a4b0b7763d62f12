//! The leaders of groups, as whoever drives moves speaks with them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use plimsoll_peers::PeerError;
use plimsoll_protocol::ids::{GroupId, NodeId};
use plimsoll_protocol::peer::{GroupReport, PeerFailure, PeerFailureCode, Step, StepReply, Wake};
use plimsoll_state::catalog::Catalog;
use tokio::time::timeout;

use crate::host::Host;

/// How long a leader may take to answer; what it began goes on, and is seen in the members.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// What the leaders of groups say of them. Groups that nobody leads are woken at their voters, as whoever
/// holds them knows those.
pub(super) async fn ask(
    host: &Arc<Host>,
    catalog: &Catalog,
    groups: impl Iterator<Item = GroupId>,
    healthy: &BTreeSet<NodeId>,
) -> BTreeMap<GroupId, GroupReport> {
    let (led, leaderless): (Vec<_>, Vec<_>) =
        groups.partition(|group| host.leader(*group).is_some());
    let mut reports = host.reports(led).await;
    reports.retain(|group, report| {
        report.leader.is_some() && host.leader(*group).map(|(node, _)| node) == report.leader
    });
    if !leaderless.is_empty() {
        wake(host, catalog, leaderless, healthy).await;
    }
    reports
}

async fn wake(
    host: &Arc<Host>,
    catalog: &Catalog,
    groups: Vec<GroupId>,
    healthy: &BTreeSet<NodeId>,
) {
    let asked = healthy.iter().map(|node| host.status_of(*node, groups.clone()));
    let mut newest: BTreeMap<GroupId, GroupReport> = BTreeMap::new();
    for report in join_all(asked).await.into_iter().flatten() {
        let is_newer = newest
            .get(&report.group)
            .is_none_or(|known| known.members.membership < report.members.membership);
        if is_newer && !report.members.voters.is_empty() {
            newest.insert(report.group, report);
        }
    }
    let mut at: BTreeMap<NodeId, Vec<GroupId>> = BTreeMap::new();
    for group in groups {
        // A group that was never used is born now.
        let born = || catalog.replica_set(group)?.birth.as_ref().map(|birth| birth.to_vec());
        let voters = newest.get(&group).map(|report| report.members.voters.clone()).or_else(born);
        for voter in voters.iter().flatten().filter(|voter| healthy.contains(voter)) {
            at.entry(*voter).or_default().push(group);
        }
    }
    for (node, groups) in at {
        if node == host.node() {
            for group in groups {
                if let Ok(group) = host.for_peer(group) {
                    tokio::spawn(async move { group.wake().await });
                }
            }
        } else if let Some(peers) = host.around().neighbours.peers() {
            let epoch = host.around().neighbours.epoch();
            // It is asked again at the next look.
            let _ = peers.push(node, Wake { epoch, groups });
        }
    }
}

/// Asks a group's leader for a step.
pub(super) async fn ask_step(
    host: &Arc<Host>,
    leader: NodeId,
    step: Step,
) -> Result<StepReply, PeerFailure> {
    if leader == host.node() {
        return host.step(step).await;
    }
    let failed = |message: String| PeerFailure::new(PeerFailureCode::Timeout, message);
    let Some(peers) = host.around().neighbours.peers() else {
        return Err(failed("there are no peers".to_owned()));
    };
    match timeout(STEP_TIMEOUT, peers.request(leader, step)).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(PeerError::Failed { failure, .. })) => Err(failure),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!("node {leader} did not answer in time"))),
    }
}
