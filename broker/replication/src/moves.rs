//! Drives replicas to where the catalog wants them. Runs on every node and acts only where the
//! metadata group is led. Nothing is remembered that a new leader would need: the members as the
//! groups' leaders report them say what has begun.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use plimsoll_placement::{
    Actual, ByteBudget, CatchUp, InProgress, Members, MoveLimits, Placement, Plan, Scheduled, Step,
    next_moves,
};
use plimsoll_protocol::api::NodeState;
use plimsoll_protocol::ids::{GroupId, LogId, NodeId};
use plimsoll_protocol::peer::{
    self, DropReplica, GroupReport, MemberStep, ReplicaCondition, StepReply, Wake,
};
use plimsoll_state::catalog::{Catalog, CatalogCommand, planning};
use tokio::time::{Instant, timeout};

use crate::host::Host;
use crate::role::Role;

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(250);
/// Groups whose members are asked for at one look.
const LOOKED_AT_ONCE: usize = 2_000;
/// A learner that lacks no more entries than this has caught up.
const LAG_ENTRIES_MAX: u64 = 64;
/// Leadership goes to a preferred node only when it has been up for so long, so that it does not
/// swing with a node that comes and goes.
const STEADY: Duration = Duration::from_secs(30);
/// After the last change of the nodes, until placements are computed anew.
const REBALANCE_AFTER: Duration = Duration::from_secs(10);
/// How long a step may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(15);

/// What this leadership of the metadata group has seen.
struct Driver {
    in_progress: Arc<Mutex<InProgress>>,
    budget: ByteBudget,
    limits: MoveLimits,
    began: Instant,
    /// Groups that were seen to be as wanted, and what was wanted.
    settled: BTreeMap<GroupId, Arc<[NodeId]>>,
    up_since: BTreeMap<NodeId, Instant>,
    /// The active nodes, and since when they are these.
    nodes: (BTreeSet<NodeId>, Instant),
}

/// Drives moves for as long as the host exists.
pub(crate) async fn drive(host: Weak<Host>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut driver = None;
    loop {
        ticks.tick().await;
        let Some(host) = host.upgrade() else { return };
        let group = host.held(GroupId::CATALOG);
        let leads = |group: &Arc<crate::group::Group>| {
            matches!(*group.role().borrow(), Role::Leader { .. })
        };
        let Some(group) = group.filter(leads) else {
            driver = None;
            continue;
        };
        let catalog = group.catalog();
        driver.get_or_insert_with(Driver::new).look(&host, &catalog).await;
    }
}

impl Driver {
    fn new() -> Self {
        let (limits, now) = (MoveLimits::default(), Instant::now());
        Self {
            in_progress: Arc::default(),
            budget: ByteBudget::full(&limits, 0),
            limits,
            began: now,
            settled: BTreeMap::new(),
            up_since: BTreeMap::new(),
            nodes: (BTreeSet::new(), now),
        }
    }

    async fn look(&mut self, host: &Arc<Host>, catalog: &Catalog) {
        let neighbours = &host.around().neighbours;
        let now = Instant::now();
        let members = catalog.members().map(|(node, meta)| (node, meta.state));
        let members: BTreeMap<NodeId, NodeState> = members.collect();
        self.up_since.retain(|node, _| neighbours.reaches(*node));
        let healthy: BTreeSet<NodeId> =
            members.keys().copied().filter(|node| neighbours.reaches(*node)).collect();
        for node in &healthy {
            self.up_since.entry(*node).or_insert(now);
        }
        self.rebalance(host, catalog, &members).await;
        let wanted = self.unsettled(host, catalog);
        if wanted.is_empty() {
            return;
        }
        let reports = host.reports(wanted.keys().copied()).await;
        let mut actual = Actual::new();
        let mut joint = Vec::new();
        let mut leaderless = Vec::new();
        for (group, report) in &reports {
            if report.members.voters.is_empty() {
                continue;
            }
            let known = known_members(report);
            if is_as_wanted(&known, &wanted[group]) && !report.members.joint {
                self.settled.insert(*group, wanted[group].clone());
            }
            if report.members.joint {
                joint.push(*group);
            } else {
                if known.leader.is_none() && !is_as_wanted(&known, &wanted[group]) {
                    leaderless.push((*group, report.members.voters.clone()));
                }
                actual.insert(*group, known);
            }
        }
        wake(host, &leaderless);
        for group in joint {
            self.begin(host, group, MemberStep::Uniform(host.node()), &reports[&group]);
        }
        let mut placement = Placement::new();
        for (group, nodes) in &wanted {
            placement.insert(*group, nodes.to_vec());
        }
        let staying = members.iter().filter(|(node, state)| {
            **state == NodeState::Active && healthy.contains(node)
        });
        let staying: BTreeSet<NodeId> = staying.map(|(node, _)| *node).collect();
        let bytes = |group: GroupId| reports.get(&group).map_or(0, |report| report.bytes);
        let plan = Plan::new(&actual, &placement, &staying, bytes);
        let now_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let scheduled = {
            let in_progress = self.in_progress.lock().expect("nothing panics while it holds it");
            let (limits, budget) = (&self.limits, &mut self.budget);
            next_moves(&plan, &actual, &in_progress, &healthy, limits, budget, now_ms)
        };
        self.carry_out(host, catalog, &reports, &wanted, scheduled).await;
    }

    /// Has placements computed anew once the nodes have been the same for a while.
    async fn rebalance(
        &mut self,
        host: &Arc<Host>,
        catalog: &Catalog,
        members: &BTreeMap<NodeId, NodeState>,
    ) {
        let active = members.iter().filter(|(_, state)| **state == NodeState::Active);
        let active: BTreeSet<NodeId> = active.map(|(node, _)| *node).collect();
        if self.nodes.0 != active {
            let is_first = self.nodes.0.is_empty();
            self.nodes = (active, Instant::now());
            if is_first && members.len() <= 1 {
                return;
            }
        }
        let is_due = self.nodes.1.elapsed() >= REBALANCE_AFTER;
        if !catalog.settings().auto_rebalance || !is_due {
            return;
        }
        // Once per set of nodes and leadership; what it changes is driven below.
        self.nodes.1 = Instant::now() + Duration::from_secs(365 * 24 * 3600);
        match planning::rebalance(catalog) {
            Ok(plan) if plan.is_empty() => {}
            Ok(plan) => {
                tracing::info!(moves = plan.changes.len(), "replicas are placed anew");
                if let Err(error) = host.command(&plan.command()).await {
                    tracing::warn!(%error, "the new placement was not put in force");
                    self.nodes.1 = Instant::now();
                }
            }
            Err(error) => tracing::warn!(%error, "no new placement could be computed"),
        }
    }

    /// The groups to look at, and where they are wanted.
    fn unsettled(
        &mut self,
        host: &Host,
        catalog: &Catalog,
    ) -> BTreeMap<GroupId, Arc<[NodeId]>> {
        let mut wanted = BTreeMap::new();
        let mut known = BTreeSet::new();
        for (group, set) in catalog.placements() {
            known.insert(group);
            if set.wanted.is_empty() || wanted.len() >= LOOKED_AT_ONCE {
                continue;
            }
            let settled = self.settled.get(&group).is_some_and(|nodes| *nodes == set.wanted);
            if !settled || self.prefers_another(host, group, &set.wanted) {
                wanted.insert(group, set.wanted.clone());
            }
        }
        self.settled.retain(|group, _| known.contains(group));
        wanted
    }

    /// Whether an awake group is led by another node than the preferred one, which has been up for
    /// long enough.
    fn prefers_another(&self, host: &Host, group: GroupId, wanted: &[NodeId]) -> bool {
        let leader = host.leader(group).map(|(node, _)| node);
        leader.is_some_and(|leader| leader != wanted[0]) && self.is_steady(host, wanted[0])
    }

    fn is_steady(&self, host: &Host, node: NodeId) -> bool {
        let since = self.up_since.get(&node);
        since.is_some_and(|since| since.elapsed() >= STEADY)
            && host.around().neighbours.serves(node)
    }

    async fn carry_out(
        &self,
        host: &Arc<Host>,
        catalog: &Catalog,
        reports: &BTreeMap<GroupId, GroupReport>,
        wanted: &BTreeMap<GroupId, Arc<[NodeId]>>,
        scheduled: Scheduled,
    ) {
        for refused in scheduled.refused {
            tracing::debug!(%refused, "a move does not go on");
        }
        let is_born_for_good = |group: GroupId| {
            catalog.replica_set(group).is_some_and(|set| set.birth.is_none())
        };
        let (ready, unsealed): (Vec<_>, Vec<_>) = scheduled
            .steps
            .into_iter()
            .partition(|(group, step)| {
                matches!(step, Step::TransferLeader(_)) || is_born_for_good(*group)
            });
        if !unsealed.is_empty() {
            // Before the first step of its first move: a replica that is removed and dropped must
            // not be born again from an old catalog.
            let groups = unsealed.iter().map(|(group, _)| *group).collect();
            if let Err(error) = host.command(&CatalogCommand::SealBirths { groups }).await {
                tracing::warn!(%error, "births could not be ended; moves wait");
            }
        }
        for (group, step) in ready {
            let report = &reports[&group];
            let step = match step {
                Step::AddLearner(node) => MemberStep::AddLearner(node),
                Step::Promote(node) => MemberStep::Promote(node),
                Step::TransferLeader(node) => {
                    // For its own sake leadership moves only while the group is awake anyway.
                    let is_preference =
                        report.leader.is_some_and(|leader| wanted[&group].contains(&leader));
                    let is_awake = report.condition == ReplicaCondition::Leader;
                    if is_preference && !(is_awake && self.is_steady(host, node)) {
                        continue;
                    }
                    MemberStep::TransferLeader(node)
                }
                Step::RemoveVoter(node) => MemberStep::RemoveVoter(node),
                Step::RemoveLearner(node) => MemberStep::RemoveLearner(node),
            };
            self.begin(host, group, step, report);
        }
    }

    /// Has the group's leader do a step, in a task of its own.
    fn begin(&self, host: &Arc<Host>, group: GroupId, step: MemberStep, report: &GroupReport) {
        let Some(leader) = report.leader else { return };
        let place = match step {
            MemberStep::AddLearner(node) => Step::AddLearner(node),
            MemberStep::Promote(node) => Step::Promote(node),
            MemberStep::TransferLeader(node) | MemberStep::Uniform(node) => {
                Step::TransferLeader(node)
            }
            MemberStep::RemoveVoter(node) => Step::RemoveVoter(node),
            MemberStep::RemoveLearner(node) => Step::RemoveLearner(node),
        };
        {
            let mut under_way = self.in_progress.lock().expect("nothing panics while it holds it");
            if under_way.contains_key(&group) {
                return;
            }
            under_way.insert(group, place);
        }
        let (host, in_progress) = (host.clone(), self.in_progress.clone());
        let epoch = host.around().neighbours.epoch();
        let request = peer::Step { group, epoch, membership: report.members.membership, step };
        tokio::spawn(async move {
            tracing::info!(%group, ?step, "a step of a move begins");
            match timeout(STEP_TIMEOUT, host.ask_step(leader, request)).await {
                Ok(Ok(StepReply::Done(membership))) => {
                    if let MemberStep::RemoveVoter(node) | MemberStep::RemoveLearner(node) = step
                        && let Some(membership) = membership
                    {
                        host.ask_drop(node, group, membership).await;
                    }
                }
                Ok(Ok(reply)) => tracing::info!(%group, ?step, ?reply, "a step was not done"),
                Ok(Err(error)) => tracing::warn!(%group, ?step, error, "a step failed"),
                Err(_) => tracing::warn!(%group, ?step, "a step takes long"),
            }
            in_progress.lock().expect("nothing panics while it holds it").remove(&group);
        });
    }
}

impl Host {
    async fn ask_step(&self, leader: NodeId, step: peer::Step) -> Result<StepReply, String> {
        if leader == self.node() {
            return self.step(step).await.map_err(|failure| failure.to_string());
        }
        let peers = self.around().neighbours.peers().ok_or("this node has no peers")?;
        peers.request(leader, step).await.map_err(|error| error.to_string())
    }

    /// Tells a node that its replica is no longer wanted. A node that is down keeps its replica until
    /// it is asked again.
    async fn ask_drop(&self, node: NodeId, group: GroupId, membership: LogId) {
        let epoch = self.around().neighbours.epoch();
        let request = DropReplica { group, epoch, membership };
        let outcome = if node == self.node() {
            self.drop_replica(request).await.map(drop).map_err(|failure| failure.to_string())
        } else if let Some(peers) = self.around().neighbours.peers() {
            let dropped = timeout(STEP_TIMEOUT, peers.request(node, request)).await;
            match dropped {
                Ok(done) => done.map(drop).map_err(|error| error.to_string()),
                Err(_) => Err("it took too long".to_owned()),
            }
        } else {
            return;
        };
        if let Err(error) = outcome {
            tracing::info!(%group, %node, error, "a replica that is not wanted stays for now");
        }
    }
}

/// Members as the placement sees them.
fn known_members(report: &GroupReport) -> Members {
    let last = report.last.map_or(0, |id| id.index.0);
    let caught_up = |node: NodeId| {
        let of = report.matched.iter().find(|matched| matched.node == node);
        let matched = of.and_then(|matched| matched.matched).map(|id| id.index.0);
        match matched {
            Some(index) if index + LAG_ENTRIES_MAX >= last => CatchUp::CaughtUp,
            _ => CatchUp::Copying,
        }
    };
    Members {
        voters: report.members.voters.iter().copied().collect(),
        learners: report.members.learners.iter().map(|node| (*node, caught_up(*node))).collect(),
        leader: report.leader,
    }
}

fn is_as_wanted(members: &Members, wanted: &[NodeId]) -> bool {
    members.learners.is_empty()
        && members.voters.len() == wanted.len()
        && wanted.iter().all(|node| members.voters.contains(node))
}

/// Wakes groups that have to change and have no leader, where their voters are.
fn wake(host: &Arc<Host>, groups: &[(GroupId, Vec<NodeId>)]) {
    let neighbours = &host.around().neighbours;
    let mut by_node: BTreeMap<NodeId, Vec<GroupId>> = BTreeMap::new();
    for (group, voters) in groups {
        for node in voters.iter().filter(|node| neighbours.reaches(**node)) {
            by_node.entry(*node).or_default().push(*group);
        }
    }
    for (node, groups) in by_node {
        if node == host.node() {
            for group in groups {
                if let Ok(group) = host.for_peer(group) {
                    tokio::spawn(async move { group.wake().await });
                }
            }
        } else if let Some(peers) = neighbours.peers() {
            // Whoever does not get it is asked again at the next look.
            let _ = peers.push(node, Wake { epoch: neighbours.epoch(), groups });
        }
    }
}
