//! Drives replicas to where the catalog wants them, from where the metadata group is led.
//!
//! ```text
//!   catalog: wanted ──┐
//!                     ├─► Plan ─► next_moves ─► Step to each group's leader ─► its answer
//!   leaders: actual ──┘             ▲                                            │
//!                                   └──────────── in progress ◄──────────────────┘
//! ```
//! Nothing is remembered that the members do not say: a driver that dies is followed by one that begins
//! with nothing. What runs at the groups' leaders goes on meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use plimsoll_placement::{
    Actual, ByteBudget, CatchUp, InProgress, Members, MoveLimits, Placement, Plan,
    Step as PlanStep, next_moves,
};
use plimsoll_protocol::api::NodeState;
use plimsoll_protocol::ids::{GroupId, LogId, NodeId};
use plimsoll_protocol::peer::{GroupReport, MemberStep, PeerFailure, Step, StepReply};
use plimsoll_state::catalog::{Catalog, CatalogCommand, Replicas, planning};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use self::leaders::{ask, ask_step};
use crate::host::Host;
use crate::role::Role;

mod leaders;

/// Between two looks while nothing is over.
const INTERVAL: Duration = Duration::from_millis(250);
/// Between two looks where a step is over, and between the first questions to who makes one. A step of a small
/// partition takes some ms, and a node takes two copies at a time: looking rarely would take minutes for
/// a thousand of them.
const INTERVAL_MIN: Duration = Duration::from_millis(50);
/// A learner that lacks no more entries than this is caught up.
const LAG_ENTRIES_MAX: u64 = 64;
/// How long a node must have been up before leadership goes to it: so that it does not swing with a node
/// that comes and goes.
const UP_BEFORE_LEADING: Duration = Duration::from_secs(30);
/// How long one command of the catalog may take; the next look asks anew.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it is believed that a group is where it belongs: whoever drove moves before may have left a
/// step under way.
const SETTLED_FOR: Duration = Duration::from_secs(30);
/// Between two looks for leaders that are not where they should be.
const HOMING_EVERY: Duration = Duration::from_secs(5);
/// Leaderships that are brought home at a time.
const HOMING_MAX: usize = 16;
/// Groups that are looked at in one round.
const GROUPS_MAX: usize = 1000;
/// After the last change of the catalog's nodes and places, places are computed anew.
const REBALANCE_AFTER: Duration = Duration::from_secs(10);

/// What the driver knows for as long as this node leads the metadata group.
struct Driver {
    in_progress: InProgress,
    budget: ByteBudget,
    began: Instant,
    limits: MoveLimits,
    /// Groups that are as wanted, and what was wanted then.
    settled: BTreeMap<GroupId, Replicas>,
    settled_since: Instant,
    /// When leaders were last looked at that are not where they should be.
    homed: Instant,
    up_since: BTreeMap<NodeId, Instant>,
    /// The placement epoch, and when it was first seen.
    epoch: (u64, Instant),
    outcomes: mpsc::UnboundedSender<Outcome>,
    /// Told of each step that was made: there is room for the next one.
    made: Arc<Notify>,
}

/// A step that is no longer in progress.
struct Outcome {
    group: GroupId,
    step: MemberStep,
    reply: Result<StepReply, PeerFailure>,
}

/// Drives moves for as long as the host exists and wherever it leads the metadata group.
pub(crate) async fn drive(host: Weak<Host>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut driving: Option<(Driver, mpsc::UnboundedReceiver<Outcome>)> = None;
    let made = Arc::new(Notify::new());
    loop {
        sleep(INTERVAL_MIN).await;
        tokio::select! {
            biased;
            () = made.notified() => {}
            _ = ticks.tick() => {}
        }
        let Some(host) = host.upgrade() else { return };
        let Some(catalog) = led_catalog(&host) else {
            driving = None;
            continue;
        };
        let (driver, outcomes) = driving.get_or_insert_with(|| {
            let (sender, receiver) = mpsc::unbounded_channel();
            (Driver::new(&host, &catalog, sender, made.clone()), receiver)
        });
        while let Ok(outcome) = outcomes.try_recv() {
            driver.take_in(&outcome);
        }
        driver.look(&host, &catalog).await;
    }
}

/// The catalog, where this node leads the metadata group.
fn led_catalog(host: &Host) -> Option<Arc<Catalog>> {
    let group = host.held(GroupId::CATALOG)?;
    let leads = matches!(*group.role().borrow(), Role::Leader { .. });
    let catalog = leads.then(|| group.catalog())?;
    // Alone there is nowhere to move to.
    (catalog.members().count() > 1).then_some(catalog)
}

impl Driver {
    fn new(
        host: &Host,
        catalog: &Catalog,
        outcomes: mpsc::UnboundedSender<Outcome>,
        made: Arc<Notify>,
    ) -> Self {
        let now = Instant::now();
        let limits = host.around().config.move_limits();
        Self {
            in_progress: InProgress::new(),
            budget: ByteBudget::full(&limits, 0),
            began: now,
            limits,
            settled: BTreeMap::new(),
            settled_since: now,
            homed: now,
            up_since: BTreeMap::new(),
            epoch: (catalog.placement_epoch(), now),
            outcomes,
            made,
        }
    }

    fn take_in(&mut self, outcome: &Outcome) {
        let Outcome { group, step, reply } = outcome;
        self.in_progress.remove(group);
        match reply {
            Ok(StepReply::Done(_)) => tracing::info!(%group, ?step, "a step of a move is done"),
            Ok(StepReply::Refused(reason)) => {
                tracing::warn!(%group, ?step, reason, "a step of a move was refused");
            }
            Ok(StepReply::Changed(_) | StepReply::InProgress(_)) => {}
            Err(failure) => {
                tracing::info!(%group, ?step, %failure, "a step of a move was not made");
            }
        }
    }

    async fn look(&mut self, host: &Arc<Host>, catalog: &Arc<Catalog>) {
        let healthy = self.healthy(host, catalog);
        self.rebalance(host, catalog).await;
        let looked_at = self.groups(host, catalog, &healthy);
        if looked_at.is_empty() {
            return;
        }
        let reports = ask(host, catalog, looked_at.keys().copied(), &healthy).await;
        let mut actual = Actual::new();
        let mut bytes: BTreeMap<GroupId, u64> = BTreeMap::new();
        for (group, report) in &reports {
            if self.in_progress.contains_key(group) {
                // Counted as busy by its members, and left alone.
                actual.insert(*group, members_of(report));
                continue;
            }
            if report.members.joint {
                self.begin(host, *group, report, MemberStep::Uniform(host.node()));
                continue;
            }
            // A membership that is not committed may still be taken back.
            if report.members.membership <= report.committed {
                actual.insert(*group, members_of(report));
                bytes.insert(*group, report.bytes);
            }
        }
        let wanted: Placement =
            looked_at.iter().map(|(group, wanted)| (*group, wanted.to_vec())).collect();
        let active = catalog.members().filter(|(_, meta)| meta.state == NodeState::Active);
        let staying: BTreeSet<NodeId> = active.map(|(node, _)| node).collect();
        let bytes_of = |group| bytes.get(&group).copied().unwrap_or_default();
        let plan = Plan::new(&actual, &wanted, &staying, bytes_of);
        self.note_settled(&looked_at, &actual, &plan);
        let limits = self.limits;
        let now_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let budget = &mut self.budget;
        let scheduled =
            next_moves(&plan, &actual, &self.in_progress, &healthy, &limits, budget, now_ms);
        for reason in &scheduled.refused {
            tracing::debug!(%reason, "a move waits");
        }
        let mut unsealed = Vec::new();
        for (group, step) in scheduled.steps {
            let Some(report) = reports.get(&group) else { continue };
            let is_transfer = matches!(step, PlanStep::TransferLeader(_));
            let may_be_born = catalog.replica_set(group).is_some_and(|set| set.birth.is_some());
            if may_be_born && !is_transfer {
                unsealed.push(group);
                continue;
            }
            let is_homing = plan.moves().iter().any(|one| one.group == group && is_homing(one));
            if is_homing && (!self.may_lead(step) || self.transfers() >= HOMING_MAX) {
                continue;
            }
            self.in_progress.insert(group, step);
            self.begin(host, group, report, to_wire(step));
        }
        seal(host, unsealed).await;
    }

    /// The nodes that answer, and since when they do.
    fn healthy(&mut self, host: &Host, catalog: &Catalog) -> BTreeSet<NodeId> {
        let neighbours = &host.around().neighbours;
        let members = catalog.members().map(|(node, _)| node);
        let healthy: BTreeSet<NodeId> = members.filter(|node| neighbours.reaches(*node)).collect();
        self.up_since.retain(|node, _| healthy.contains(node));
        let now = Instant::now();
        for node in &healthy {
            self.up_since.entry(*node).or_insert(now);
        }
        healthy
    }

    fn has_been_up(&self, node: NodeId) -> bool {
        self.up_since.get(&node).is_some_and(|since| since.elapsed() >= UP_BEFORE_LEADING)
    }

    /// Whether the leadership that a step brings home may go there already.
    fn may_lead(&self, step: PlanStep) -> bool {
        match step {
            PlanStep::TransferLeader(node) => self.has_been_up(node),
            _ => true,
        }
    }

    fn transfers(&self) -> usize {
        let is_transfer = |step: &&PlanStep| matches!(step, PlanStep::TransferLeader(_));
        self.in_progress.values().filter(is_transfer).count()
    }

    /// Groups that may not be as wanted: those that were ever moved, and those that another node leads than
    /// the one that should.
    fn groups(
        &mut self,
        host: &Host,
        catalog: &Catalog,
        healthy: &BTreeSet<NodeId>,
    ) -> BTreeMap<GroupId, Replicas> {
        let mut groups = BTreeMap::new();
        if self.settled_since.elapsed() >= SETTLED_FOR {
            self.settled.clear();
            self.settled_since = Instant::now();
        }
        let is_homing = self.homed.elapsed() >= HOMING_EVERY;
        if is_homing {
            self.homed = Instant::now();
        }
        let has_unfit = host.around().neighbours.has_unfit();
        for (group, set) in catalog.placements() {
            if groups.len() >= GROUPS_MAX {
                break;
            }
            let Some(&first) = set.wanted.first() else { continue };
            if has_unfit && let Some(sound) = sound(host, group, &set.wanted) {
                groups.insert(group, sound);
                continue;
            }
            let is_settled = self.settled.get(&group).is_some_and(|wanted| *wanted == set.wanted);
            let is_away = || {
                let leader = || host.leader(group).map(|(node, _)| node);
                is_homing
                    && healthy.contains(&first)
                    && self.has_been_up(first)
                    && leader().is_some_and(|leader| leader != first)
            };
            // A group that was never moved has the members that it was born with.
            let is_at_birth = set.birth.as_ref().is_some_and(|birth| *birth == set.wanted);
            if !(is_at_birth || is_settled) || is_away() {
                groups.insert(group, Replicas::clone(&set.wanted));
            }
        }
        groups
    }

    fn note_settled(
        &mut self,
        looked_at: &BTreeMap<GroupId, Replicas>,
        actual: &Actual,
        plan: &Plan,
    ) {
        let moved: BTreeSet<GroupId> =
            plan.moves().iter().filter(|one| !is_homing(one)).map(|one| one.group).collect();
        for (group, wanted) in looked_at {
            if actual.contains_key(group) && !moved.contains(group) {
                self.settled.insert(*group, Replicas::clone(wanted));
            }
        }
    }

    /// Sends a step to the group's leader, and asks again while it is under way.
    fn begin(&mut self, host: &Arc<Host>, group: GroupId, report: &GroupReport, step: MemberStep) {
        let Some(leader) = report.leader else { return };
        let request = Step {
            group,
            epoch: host.around().neighbours.epoch(),
            membership: report.members.membership,
            step,
        };
        let (host, outcomes, made) = (host.clone(), self.outcomes.clone(), self.made.clone());
        tracing::debug!(%group, ?step, node = %leader, "a step of a move begins");
        tokio::spawn(async move {
            let mut pause = INTERVAL_MIN;
            let reply = loop {
                match ask_step(&host, leader, request.clone()).await {
                    Ok(StepReply::InProgress(_)) if !outcomes.is_closed() => {}
                    reply => break reply,
                }
                sleep(pause).await;
                pause = INTERVAL.min(2 * pause);
            };
            // One that failed is begun again with the next tick: at once it would fail again. Of a step
            // that took longer than one question the members have changed by the next.
            let is_made = matches!(reply, Ok(StepReply::Done(_) | StepReply::Changed(_)));
            // The driver is gone where this node no longer leads the metadata group.
            let _ = outcomes.send(Outcome { group, step, reply });
            if is_made {
                made.notify_one();
            }
        });
    }

    /// Puts better places in force, once nothing has changed for a while.
    async fn rebalance(&mut self, host: &Host, catalog: &Catalog) {
        let now = Instant::now();
        let epoch = catalog.placement_epoch();
        if self.epoch.0 != epoch {
            self.epoch = (epoch, now);
        }
        let is_joining = catalog.members().any(|(_, meta)| meta.state == NodeState::Joining);
        if !catalog.settings().auto_rebalance
            || self.epoch.1.elapsed() < REBALANCE_AFTER
            || !self.in_progress.is_empty()
            || is_joining
        {
            return;
        }
        // Not again before something changes, or a while has passed.
        self.epoch.1 = now;
        let plan = match planning::rebalance(catalog) {
            Ok(plan) if !plan.is_empty() => plan,
            Ok(_) => return,
            Err(error) => {
                tracing::debug!(%error, "no better places are known");
                return;
            }
        };
        tracing::info!(groups = plan.changes.len(), "places are rebalanced");
        match timeout(COMMAND_TIMEOUT, host.command(&plan.command())).await {
            Ok(Ok(reply)) => tracing::debug!(?reply, "places were proposed"),
            Ok(Err(error)) => tracing::info!(%error, "places could not be changed"),
            Err(_) => tracing::info!("places could not be changed in time"),
        }
    }
}

/// Where a group is to be as long as a replica is damaged: on its other nodes, if they are more than one. The damaged one
/// goes, log and all, and is made anew when its node has said that it is gone. None: none is damaged.
fn sound(host: &Host, group: GroupId, wanted: &Replicas) -> Option<Replicas> {
    let neighbours = &host.around().neighbours;
    let sound: Vec<NodeId> =
        wanted.iter().copied().filter(|node| !neighbours.is_unfit(*node, group)).collect();
    (sound.len() < wanted.len() && sound.len() > 1).then(|| sound.into())
}

/// Ends the births of groups that have a leader: a replica that is moved away must never be born again from
/// an old catalog.
async fn seal(host: &Host, groups: Vec<GroupId>) {
    if groups.is_empty() {
        return;
    }
    let command = CatalogCommand::SealBirths { groups };
    match timeout(COMMAND_TIMEOUT, host.command(&command)).await {
        Ok(Ok(reply)) => tracing::debug!(?reply, "births were ended"),
        Ok(Err(error)) => tracing::info!(%error, "births could not be ended"),
        Err(_) => tracing::info!("births could not be ended in time"),
    }
}

fn is_homing(one: &plimsoll_placement::Move) -> bool {
    one.add.is_empty() && one.remove.is_empty()
}

fn to_wire(step: PlanStep) -> MemberStep {
    match step {
        PlanStep::AddLearner(node) => MemberStep::AddLearner(node),
        PlanStep::Promote(node) => MemberStep::Promote(node),
        PlanStep::TransferLeader(node) => MemberStep::TransferLeader(node),
        PlanStep::RemoveVoter(node) => MemberStep::RemoveVoter(node),
        PlanStep::RemoveLearner(node) => MemberStep::RemoveLearner(node),
    }
}

fn members_of(report: &GroupReport) -> Members {
    let last = report.last.map_or(0, |id| id.index.0);
    let matched: BTreeMap<NodeId, Option<LogId>> =
        report.matched.iter().map(|one| (one.node, one.matched)).collect();
    let learner = |node: &NodeId| {
        let index = matched.get(node).copied().flatten().map(|id| id.index.0);
        let caught_up = index.is_some_and(|index| index + LAG_ENTRIES_MAX >= last);
        (*node, if caught_up { CatchUp::CaughtUp } else { CatchUp::Copying })
    };
    Members {
        voters: report.members.voters.iter().copied().collect(),
        learners: report.members.learners.iter().map(learner).collect(),
        leader: report.leader,
    }
}
