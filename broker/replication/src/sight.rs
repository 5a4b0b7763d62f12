//! What this node sees of groups that lie elsewhere: how they are by their leaders' word, and which are
//! not yet where the catalog wants them. For people to look at, and for whoever drives moves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use plimsoll_protocol::ids::{GroupId, NodeId};
use plimsoll_protocol::peer::{GroupReport, GroupStatus, ReplicaCondition};
use plimsoll_state::catalog::{Catalog, Replicas};
use tokio::time::{Instant, timeout};

use crate::host::Host;

/// How long a node may take to answer.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
/// Groups that one request asks for.
const GROUPS_PER_REQUEST: usize = 1000;
/// How long the size of a node is believed; of nodes with more groups than this it is not asked.
const SIZE_FOR: Duration = Duration::from_secs(5);
const SIZE_GROUPS_MAX: usize = 2000;
/// How long it is believed that a group is where it belongs. Whoever moved it before may have left
/// something under way.
const SETTLED_FOR: Duration = Duration::from_secs(10);

/// A group whose members are not those that the catalog wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moving {
    /// The group.
    pub group: GroupId,
    /// Its voters; of a group that nobody reports on, none.
    pub voters: Vec<NodeId>,
    /// Where it belongs, the preferred leader first.
    pub wanted: Replicas,
    /// What is being done.
    pub phase: MovePhase,
    /// Bytes that have come to the new replica on its way.
    pub bytes_done: u64,
    /// Bytes of a whole replica.
    pub bytes_total: u64,
}

/// How far a group is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MovePhase {
    /// No node reports on it as its leader.
    NoLeader,
    /// A node that is to have a replica does not answer.
    NodeDown(NodeId),
    /// Others come first.
    Waiting,
    /// Segments are sent to this node.
    Copying(NodeId),
    /// This node has the segments and gets what was written meanwhile.
    CatchingUp(NodeId),
    /// The set of voters changes.
    Changing,
    /// This node leads and is to go.
    HandingOver(NodeId),
    /// This node is to go.
    Removing(NodeId),
}

/// What was seen a moment ago.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    settled: Mutex<Settled>,
    /// Bytes that nodes hold, and when they said so.
    sizes: Mutex<BTreeMap<NodeId, (Instant, u64)>>,
}

/// The groups that were seen where they belong.
#[derive(Debug, Default)]
struct Settled {
    placement_epoch: u64,
    since: Option<Instant>,
    groups: BTreeSet<GroupId>,
}

impl Sight {
    fn sizes(&self) -> MutexGuard<'_, BTreeMap<NodeId, (Instant, u64)>> {
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that can still be believed of.
    fn settled(&self, placement_epoch: u64) -> MutexGuard<'_, Settled> {
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = settled.since.is_none_or(|since| since.elapsed() >= SETTLED_FOR);
        if is_old || settled.placement_epoch != placement_epoch {
            *settled =
                Settled { placement_epoch, since: Some(Instant::now()), groups: BTreeSet::new() };
        }
        settled
    }
}

impl Host {
    /// Whether a node has said that its replica of a group is damaged.
    #[must_use]
    pub fn is_damaged_on(&self, node: NodeId, group: GroupId) -> bool {
        self.around().neighbours.is_unfit(node, group)
    }

    /// The groups that are not where the catalog wants them, by id.
    pub async fn moves(self: &Arc<Self>, catalog: &Catalog) -> Vec<Moving> {
        let epoch = catalog.placement_epoch();
        let candidates: BTreeMap<GroupId, Replicas> = {
            let settled = self.sight.settled(epoch);
            let moved = catalog.placements().filter(|(group, set)| {
                // A group that was never moved has the members that it was born with.
                let is_at_birth = set.birth.as_ref().is_some_and(|birth| *birth == set.wanted);
                !is_at_birth && !set.wanted.is_empty() && !settled.groups.contains(group)
            });
            moved.map(|(group, set)| (group, Replicas::clone(&set.wanted))).collect()
        };
        if candidates.is_empty() {
            return Vec::new();
        }
        let mut reports = self.reports(candidates.keys().copied()).await;
        let mut moving = Vec::new();
        for (group, wanted) in candidates {
            let report = reports.remove(&group);
            if report.as_ref().is_some_and(|report| is_as_wanted(report, &wanted)) {
                self.sight.settled(epoch).groups.insert(group);
                continue;
            }
            moving.push(self.moving(group, wanted, report.as_ref()));
        }
        self.add_progress(&mut moving).await;
        moving
    }

    fn moving(&self, group: GroupId, wanted: Replicas, report: Option<&GroupReport>) -> Moving {
        let phase = match report {
            Some(report) => self.phase(report, &wanted),
            None => MovePhase::NoLeader,
        };
        Moving {
            group,
            voters: report.map_or_else(Vec::new, |report| report.members.voters.clone()),
            wanted,
            phase,
            bytes_done: 0,
            bytes_total: report.map_or(0, |report| report.bytes),
        }
    }

    fn phase(&self, report: &GroupReport, wanted: &[NodeId]) -> MovePhase {
        let members = &report.members;
        let Some(leader) = report.leader else { return MovePhase::NoLeader };
        if members.joint {
            return MovePhase::Changing;
        }
        let missing = || wanted.iter().copied().filter(|node| !members.voters.contains(node));
        if let Some(node) = missing().find(|node| members.learners.contains(node)) {
            return MovePhase::CatchingUp(node);
        }
        let mut extra = members.voters.iter().chain(&members.learners).copied();
        let extra = extra.find(|node| !wanted.contains(node));
        match (missing().next(), extra) {
            (Some(node), _) if !self.around().neighbours.reaches(node) => MovePhase::NodeDown(node),
            (None, Some(node)) if node == leader => MovePhase::HandingOver(node),
            (None, Some(node)) => MovePhase::Removing(node),
            _ => MovePhase::Waiting,
        }
    }

    /// Asks the nodes that get replicas how much of them has come.
    async fn add_progress(self: &Arc<Self>, moving: &mut [Moving]) {
        let mut by_target: BTreeMap<NodeId, Vec<GroupId>> = BTreeMap::new();
        for one in moving.iter().filter(|one| one.phase == MovePhase::Waiting) {
            for node in one.wanted.iter().filter(|node| !one.voters.contains(node)) {
                by_target.entry(*node).or_default().push(one.group);
            }
        }
        let asked = by_target.into_iter().map(|(node, groups)| async move {
            let reports = self.status_of(node, groups).await.into_iter();
            let arriving = reports.filter(|one| one.condition == ReplicaCondition::Seeding);
            arriving.map(|one| (one.group, (node, one.bytes))).collect::<Vec<_>>()
        });
        let arriving: BTreeMap<GroupId, (NodeId, u64)> =
            join_all(asked).await.into_iter().flatten().collect();
        for one in moving {
            if let Some((node, bytes)) = arriving.get(&one.group) {
                one.phase = MovePhase::Copying(*node);
                one.bytes_done = *bytes;
                one.bytes_total = one.bytes_total.max(*bytes);
            }
        }
    }

    /// Bytes in segments of these groups on a node, as it said of late; none where it does not answer,
    /// or they are too many to be asked for.
    pub async fn bytes_on(self: &Arc<Self>, node: NodeId, groups: Vec<GroupId>) -> Option<u64> {
        if groups.is_empty() {
            return Some(0);
        }
        let known = self.sight.sizes().get(&node).copied();
        if let Some((_, bytes)) = known.filter(|(at, _)| at.elapsed() < SIZE_FOR) {
            return Some(bytes);
        }
        if groups.len() > SIZE_GROUPS_MAX || !self.around().neighbours.reaches(node) {
            return None;
        }
        let asked = groups.len();
        let reports = self.status_of(node, groups).await;
        let bytes = reports.iter().map(|report| report.bytes).sum();
        (reports.len() == asked).then(|| {
            self.sight.sizes().insert(node, (Instant::now(), bytes));
            bytes
        })
    }

    /// How groups are by their leaders' word; of those that nobody leads, by the word of the replica
    /// that knows the newest members. What no node that answers knows of is left out.
    pub async fn reports(
        self: &Arc<Self>,
        groups: impl IntoIterator<Item = GroupId>,
    ) -> BTreeMap<GroupId, GroupReport> {
        let neighbours = &self.around().neighbours;
        let mut by_node: BTreeMap<NodeId, Vec<GroupId>> = BTreeMap::new();
        for group in groups {
            match self.leader(group) {
                Some((leader, _)) => by_node.entry(leader).or_default().push(group),
                None => {
                    let placed = neighbours.placed(group).map(|placed| placed.wanted);
                    let live = placed.iter().flat_map(|wanted| wanted.iter().copied());
                    for node in live.filter(|node| neighbours.reaches(*node)) {
                        by_node.entry(node).or_default().push(group);
                    }
                }
            }
        }
        let asked = by_node.into_iter().map(|(node, groups)| self.status_of(node, groups));
        let mut newest: BTreeMap<GroupId, GroupReport> = BTreeMap::new();
        for report in join_all(asked).await.into_iter().flatten() {
            if report.members.voters.is_empty() {
                continue;
            }
            let is_newer = newest
                .get(&report.group)
                .is_none_or(|known| known.members.membership < report.members.membership);
            if is_newer {
                newest.insert(report.group, report);
            }
        }
        newest
    }

    /// What a node says of groups; nothing where it does not answer in time.
    pub(crate) async fn status_of(
        self: &Arc<Self>,
        node: NodeId,
        groups: Vec<GroupId>,
    ) -> Vec<GroupReport> {
        let epoch = self.around().neighbours.epoch();
        let mut reports = Vec::new();
        for groups in groups.chunks(GROUPS_PER_REQUEST) {
            let request = GroupStatus { epoch, groups: groups.to_vec() };
            if node == self.node() {
                reports.extend(self.group_status(request).await.groups);
                continue;
            }
            let Some(peers) = self.around().neighbours.peers() else { break };
            match timeout(STATUS_TIMEOUT, peers.request(node, request)).await {
                Ok(Ok(reply)) => reports.extend(reply.groups),
                Ok(Err(_)) | Err(_) => break,
            }
        }
        reports
    }
}

/// Whether the members are those that are wanted, and will stay so.
fn is_as_wanted(report: &GroupReport, wanted: &[NodeId]) -> bool {
    let members = &report.members;
    let voters: BTreeSet<NodeId> = members.voters.iter().copied().collect();
    let wanted: BTreeSet<NodeId> = wanted.iter().copied().collect();
    voters == wanted
        && members.learners.is_empty()
        && !members.joint
        && members.membership <= report.committed
}
