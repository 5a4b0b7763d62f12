//! What of a cluster's state is asked of other nodes: replicas that move, how far behind they are, how
//! much nodes hold.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use plimsoll_protocol::api::{MoveProgress, UnwellPartition};
use plimsoll_protocol::ids::{GroupId, NodeId};
use plimsoll_protocol::peer::GroupReport;
use plimsoll_replication::{MovePhase, Moving};
use plimsoll_state::catalog::Catalog;

use crate::broker::Broker;

/// Moves as people see them.
pub(super) fn shown(catalog: &Catalog, moves: &[Moving]) -> impl Iterator<Item = MoveProgress> {
    moves.iter().filter_map(|one| {
        let located = catalog.locate(one.group)?;
        Some(MoveProgress {
            topic: located.name.clone(),
            partition: located.partition,
            from: one.voters.clone(),
            to: one.wanted.to_vec(),
            step: words(one.phase),
            bytes_done: one.bytes_done,
            bytes_total: one.bytes_total,
        })
    })
}

fn words(phase: MovePhase) -> String {
    match phase {
        MovePhase::NoLeader => "waits for a leader".to_owned(),
        MovePhase::NodeDown(node) => format!("node {node} does not answer"),
        MovePhase::Waiting => "waits for its turn".to_owned(),
        MovePhase::Copying(node) => format!("copying to node {node}"),
        MovePhase::CatchingUp(node) => format!("node {node} catches up"),
        MovePhase::Changing => "the voters change".to_owned(),
        MovePhase::HandingOver(node) => format!("node {node} hands over leadership"),
        MovePhase::Removing(node) => format!("node {node} gives its replica up"),
    }
}

/// Bytes in the segments of each member.
pub(super) async fn sizes(broker: &Broker, catalog: &Catalog) -> BTreeMap<NodeId, Option<u64>> {
    let asked = catalog.members().map(|(node, _)| async move {
        (node, broker.host().bytes_on(node, catalog.groups_of(node)).await)
    });
    join_all(asked).await.into_iter().collect()
}

/// Puts in how far behind the replicas are that do not have everything.
pub(super) async fn add_lags(broker: &Broker, catalog: &Catalog, unwell: &mut [UnwellPartition]) {
    let group = |one: &UnwellPartition| -> Option<GroupId> {
        catalog.topic(&one.topic)?.group(one.partition)
    };
    let led = unwell.iter().filter(|one| one.leader.is_some());
    let groups: Vec<GroupId> = led.filter_map(group).collect();
    if groups.is_empty() {
        return;
    }
    let reports = broker.host().reports(groups).await;
    for one in unwell {
        if let Some(report) = group(one).and_then(|group| reports.get(&group)) {
            one.lag = lag(report, &one.replicas);
        }
    }
}

/// Entries that the furthest behind of the wanted replicas lacks; none known while its leader sleeps.
fn lag(report: &GroupReport, wanted: &[NodeId]) -> u64 {
    let last = report.last.map_or(0, |id| id.index.0 + 1);
    let next = report
        .matched
        .iter()
        .filter(|one| wanted.contains(&one.node) && Some(one.node) != report.leader)
        .map(|one| one.matched.map_or(0, |id| id.index.0 + 1));
    next.min().map_or(0, |next| last.saturating_sub(next))
}
