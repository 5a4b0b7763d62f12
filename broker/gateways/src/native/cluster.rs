//! Requests about the cluster: how it is, and what it is made of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_peers::PeerStatus;
use plimsoll_protocol::api::{
    ClusterNode, ClusterPlanRequest, ClusterPlanResponse, ClusterStatusRequest,
    ClusterStatusResponse, DrainNodeRequest, JoinTokenRequest, JoinTokenResponse, NodeState,
    PlannedChange, PlannedLoad, RebalanceRequest, RemoveNodeRequest, RemoveNodeResponse,
    TransferLeaderRequest, TransferLeaderResponse, UnwellPartition,
};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::{GroupId, NodeId, PartitionIndex};
use plimsoll_replication::Moving;
use plimsoll_state::catalog::planning::{self, PlacementPlan, PlannedMove};
use plimsoll_state::catalog::{Catalog, CatalogCommand, NodeMeta, PlacementChange};
use tokio::time::{Instant, timeout, timeout_at};

use super::progress;
use super::session::Session;
use super::stream::{Answer, done};
use crate::broker::Broker;
use crate::refusals;
use crate::routing::Access;

/// Partitions that one answer lists; the totals are whole.
const LISTED_MAX: usize = 500;
/// How long a removal waits for what has to be recorded before it.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(5);
/// How long the answer to a transfer waits for the catalog to know of it.
const PREFER_PATIENCE: Duration = Duration::from_secs(2);
/// A wall clock that is this far off is worth a warning, in milliseconds.
const CLOCK_OFFSET_MAX_MS: u64 = 10_000;

/// Shows the cluster as this node sees it.
pub(super) async fn status(
    session: Arc<Session>,
    _: ClusterStatusRequest,
) -> Result<Answer<ClusterStatusRequest>, ErrorResponse> {
    let broker = &session.broker;
    let catalog = broker.catalog();
    let seen = Seen::by(broker);
    let moving = broker.host().moves(&catalog).await;
    // Of those that nobody knows it is not known that they move.
    let (moves, unknown): (Vec<Moving>, Vec<Moving>) =
        moving.into_iter().partition(|one| !one.voters.is_empty());
    let (mut unwell, led) = look(broker, &catalog, &seen, &unknown);
    let unwell_total = u32::try_from(unwell.len()).unwrap_or(u32::MAX);
    unwell.truncate(LISTED_MAX);
    let (bytes, ()) = tokio::join!(
        progress::sizes(broker, &catalog),
        progress::add_lags(broker, &catalog, &mut unwell),
    );
    let leaving = leaving(&moves);
    let nodes: Vec<_> = catalog
        .members()
        .map(|(node, meta)| ClusterNode {
            bytes: bytes.get(&node).copied().flatten(),
            ..cluster_node(&catalog, &seen, (&led, &leaving), node, meta)
        })
        .collect();
    let controller = broker.host().leader(GroupId::CATALOG).map(|(node, _)| node);
    let warnings = warnings(&nodes, controller, unwell_total);
    done(ClusterStatusResponse {
        cluster_id: broker.identity().cluster_id.clone(),
        answered_by: seen.me,
        epoch: catalog.epoch(),
        controller,
        nodes,
        topics: u32::try_from(catalog.len()).unwrap_or(u32::MAX),
        partitions: u32::try_from(catalog.partition_count()).unwrap_or(u32::MAX),
        unwell,
        unwell_total,
        moves_total: u32::try_from(moves.len()).unwrap_or(u32::MAX),
        moves: progress::shown(&catalog, &moves).take(LISTED_MAX).collect(),
        warnings,
    })
}

/// The other nodes as this one sees them.
struct Seen {
    me: NodeId,
    version: String,
    others: BTreeMap<NodeId, PeerStatus>,
}

impl Seen {
    fn by(broker: &Broker) -> Self {
        let others = broker.peers().map(plimsoll_peers::Peers::status).unwrap_or_default();
        Self {
            me: broker.identity().node_id,
            version: broker.identity().version.clone(),
            others: others.into_iter().map(|status| (status.node, status)).collect(),
        }
    }

    fn is_up(&self, node: NodeId) -> bool {
        node == self.me || self.others.get(&node).is_some_and(|status| status.up)
    }
}

/// How many replicas each node has that belong elsewhere.
fn leaving(moves: &[Moving]) -> BTreeMap<NodeId, u32> {
    let mut leaving = BTreeMap::new();
    for one in moves {
        for node in one.voters.iter().filter(|node| !one.wanted.contains(node)) {
            *leaving.entry(*node).or_default() += 1;
        }
    }
    leaving
}

/// The partitions that lack something, those without a majority first, and how many each node leads. `unknown`
/// are those that no node that answers knows the replicas of.
fn look(
    broker: &Broker,
    catalog: &Catalog,
    seen: &Seen,
    unknown: &[Moving],
) -> (Vec<UnwellPartition>, BTreeMap<NodeId, u32>) {
    let (mut lost, mut short) = (Vec::new(), Vec::new());
    let mut led = BTreeMap::new();
    for (name, topic) in catalog.topics() {
        let placed = topic.partitions.iter().zip(&topic.placement);
        for (partition, (&group, replicas)) in (0..).map(PartitionIndex).zip(placed) {
            let leader = broker.host().leader(group).map(|(node, _)| node);
            if let Some(leader) = leader {
                *led.entry(leader).or_default() += 1;
            }
            let damaged = |node: &NodeId| broker.host().is_damaged_on(*node, group);
            let is_well = |node: &NodeId| seen.is_up(*node) && !damaged(node);
            let up: Vec<_> = replicas.wanted.iter().copied().filter(is_well).collect();
            let is_unknown = unknown.binary_search_by_key(&group, |one| one.group).is_ok();
            if up.len() == replicas.wanted.len() && !(is_unknown && leader.is_none()) {
                continue;
            }
            if is_unknown && leader.is_none() && !up.is_empty() {
                lost.push(UnwellPartition {
                    topic: name.clone(),
                    partition,
                    leader,
                    replicas: replicas.wanted.to_vec(),
                    why: "no node that answers has a replica of it: start those again that had one"
                        .to_owned(),
                    in_sync: Vec::new(),
                    lag: 0,
                });
                continue;
            }
            let has_majority = 2 * up.len() > replicas.wanted.len();
            let unwell = UnwellPartition {
                topic: name.clone(),
                partition,
                leader,
                replicas: replicas.wanted.to_vec(),
                why: match replicas.wanted.iter().find(|node| damaged(node)) {
                    Some(node) if has_majority => format!(
                        "the replica on node {node} is damaged; it is made anew from the others"
                    ),
                    _ => why(&replicas.wanted, &up, has_majority),
                },
                in_sync: up,
                lag: 0,
            };
            if has_majority { short.push(unwell) } else { lost.push(unwell) }
        }
    }
    lost.append(&mut short);
    (lost, led)
}

fn why(wanted: &[NodeId], up: &[NodeId], has_majority: bool) -> String {
    let down: Vec<_> =
        wanted.iter().filter(|node| !up.contains(node)).map(NodeId::to_string).collect();
    let down = down.join(", ");
    match has_majority {
        true => format!(
            "node {down} does not answer: one more failure may stop it; bring the node back, or \
             `plimsoll cluster remove` it so that the replica is made anew"
        ),
        false => format!(
            "node {down} does not answer, and the others are no majority: nothing is acknowledged \
             until one of them is back"
        ),
    }
}

fn cluster_node(
    catalog: &Catalog,
    seen: &Seen,
    (led, leaving): (&BTreeMap<NodeId, u32>, &BTreeMap<NodeId, u32>),
    node: NodeId,
    meta: &NodeMeta,
) -> ClusterNode {
    let belonging = u32::try_from(catalog.groups_of(node).len()).unwrap_or(u32::MAX);
    let status = seen.others.get(&node);
    let own = node == seen.me;
    let version = match status.and_then(|status| status.version.clone()) {
        Some(version) => version,
        None if own => seen.version.clone(),
        None => meta.spec.version.clone(),
    };
    ClusterNode {
        node,
        address: meta.spec.address.clone(),
        rack: meta.spec.rack.clone(),
        weight_hundredths: meta.spec.weight_hundredths,
        state: meta.state,
        up: seen.is_up(node),
        last_heard_ms: match status.and_then(|status| status.last_heard) {
            Some(ago) => Some(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
            None => own.then_some(0),
        },
        clock_offset_ms: match own {
            true => Some(0),
            false => status.and_then(|status| status.clock_offset_ms),
        },
        version,
        leaders: led.get(&node).copied().unwrap_or(0),
        replicas: belonging.saturating_add(leaving.get(&node).copied().unwrap_or(0)),
        bytes: None,
    }
}

/// What an operator should know.
fn warnings(nodes: &[ClusterNode], controller: Option<NodeId>, unwell: u32) -> Vec<String> {
    let mut warnings = Vec::new();
    if controller.is_none() {
        warnings.push(
            "the catalog has no leader: topics and nodes cannot be changed until a majority of the \
             nodes answers"
                .to_owned(),
        );
    }
    for node in nodes {
        let id = node.node;
        if !node.up {
            warnings.push(format!(
                "node {id} at {} does not answer: start it again on its own directory; if its disk \
                 is lost, `plimsoll cluster remove {id}` and join a new node",
                node.address
            ));
        }
        if let Some(offset) = node.clock_offset_ms
            && offset.unsigned_abs() >= CLOCK_OFFSET_MAX_MS
        {
            warnings.push(format!(
                "the clock of node {id} is {} s off: records are stamped by it, so retention by time \
                 and reading from a time go wrong; synchronise it (chrony, ntpd)",
                offset / 1000
            ));
        }
        if node.state == NodeState::Joining {
            warnings.push(format!("node {id} is joining: it holds no replicas yet"));
        }
    }
    if nodes.len() == 2 {
        warnings.push(
            "two nodes survive no failure: both are needed for the majority of two replicas, and one \
             of them alone keeps the catalog; join a third"
                .to_owned(),
        );
    }
    if unwell > 0 {
        warnings.push(format!("{unwell} partitions lack a replica"));
    }
    warnings
}

/// What a rebalance would do.
pub(super) async fn plan(
    session: Arc<Session>,
    _: ClusterPlanRequest,
) -> Result<Answer<ClusterPlanRequest>, ErrorResponse> {
    let catalog = session.broker.catalog();
    let plan = planning::rebalance(&catalog).map_err(|error| refusals::plan(&error))?;
    done(response(&catalog, &plan))
}

fn response(catalog: &Catalog, plan: &PlacementPlan) -> ClusterPlanResponse {
    let changes = plan.changes.iter().filter_map(|change| {
        // The catalog's own group has no name for clients.
        let located = catalog.locate(change.group)?;
        Some(PlannedChange {
            topic: located.name.clone(),
            partition: located.partition,
            from: change.from.to_vec(),
            to: change.to.to_vec(),
        })
    });
    let named = |change: &&PlannedMove| change.group != GroupId::CATALOG;
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    ClusterPlanResponse {
        changes: changes.take(LISTED_MAX).collect(),
        changes_total: count(plan.changes.iter().filter(named).count()),
        replicas_moved: count(plan.replicas_moved),
        replicas_total: count(plan.replicas_total),
        bytes: 0,
        loads: plan
            .loads
            .iter()
            .map(|(node, load)| PlannedLoad { node: *node, before: load.before, after: load.after })
            .collect(),
    }
}

/// Puts the plan of [`plan`] in force.
pub(super) async fn rebalance(
    session: Arc<Session>,
    _: RebalanceRequest,
) -> Result<Answer<RebalanceRequest>, ErrorResponse> {
    done(put_in_force(&session.broker, planning::rebalance).await?)
}

/// Makes a plan and puts it in force; gives the one that was.
async fn put_in_force(
    broker: &Broker,
    make: impl Fn(&Catalog) -> Result<PlacementPlan, planning::PlanError>,
) -> Result<ClusterPlanResponse, ErrorResponse> {
    let mut shown = None;
    let planned = |catalog: &Catalog| {
        let plan = make(catalog)?;
        shown = Some(response(catalog, &plan));
        Ok((!plan.is_empty()).then(|| plan.command()))
    };
    broker.place_if_needed(planned).await?;
    Ok(shown.expect("a plan is made before it is put in force"))
}

/// Has everything moved away from a node, or lets it have replicas again.
pub(super) async fn drain(
    session: Arc<Session>,
    request: DrainNodeRequest,
) -> Result<Answer<DrainNodeRequest>, ErrorResponse> {
    let (broker, DrainNodeRequest { node, on }) = (&session.broker, request);
    if on {
        // Refused before anything is changed.
        planning::drained(&broker.catalog(), node).map_err(|error| refusals::plan(&error))?;
    }
    broker.command(CatalogCommand::DrainNode { node, on }).await?;
    match on {
        true => done(put_in_force(broker, planning::rebalance).await?),
        false => done(response(&broker.catalog(), &PlacementPlan::default())),
    }
}

/// Takes a node out for good. Another node has to do it: one that is out ends, before it has answered.
pub(super) async fn remove(
    session: Arc<Session>,
    request: RemoveNodeRequest,
) -> Result<Answer<RemoveNodeRequest>, ErrorResponse> {
    let (broker, RemoveNodeRequest { node, force }) = (&session.broker, request);
    let (catalog, seen) = (broker.catalog(), Seen::by(broker));
    if node == seen.me
        && let Some(other) = another(broker, &catalog, &seen)
    {
        let message = format!("node {node} cannot answer for its own removal: ask node {other}");
        return Err(ErrorResponse::new(ErrorCode::NotLeader, message)
            .with_leader(other, broker.address_of(other)));
    }
    let moving = broker.host().moves(&catalog).await;
    check_removal(&catalog, &seen, &moving, node)?;
    let plan = put_in_force(broker, |catalog| planning::without(catalog, node, force)).await?;
    let mut catalogs = broker.catalog_changes();
    let deadline = Instant::now() + REMOVAL_PATIENCE;
    loop {
        catalogs.borrow_and_update();
        match broker.command(CatalogCommand::RemoveNode { node, force }).await {
            Ok(_) => return done(RemoveNodeResponse { removed: true, plan }),
            // It goes once no partition can be born on it any more, which whoever drives moves sees to.
            Err(error) if error.code == ErrorCode::NodeInUse => {
                let changed = timeout_at(deadline, catalogs.changed()).await;
                if !matches!(changed, Ok(Ok(()))) {
                    return done(RemoveNodeResponse { removed: false, plan });
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Another member that answers: the one that leads the catalog, where it is another.
fn another(broker: &Broker, catalog: &Catalog, seen: &Seen) -> Option<NodeId> {
    let controller = broker.host().leader(GroupId::CATALOG).map(|(node, _)| node);
    let members = catalog.members().map(|(node, _)| node);
    controller.into_iter().chain(members).find(|node| *node != seen.me && seen.is_up(*node))
}

/// Refuses where a partition would be left without a majority of its replicas, and where a live node
/// still holds any.
fn check_removal(
    catalog: &Catalog,
    seen: &Seen,
    moving: &[Moving],
    node: NodeId,
) -> Result<(), ErrorResponse> {
    let Some(meta) = catalog.node(node) else { return Ok(()) };
    let leaving = moving.iter().filter(|one| one.voters.contains(&node)).count();
    let holds = !catalog.groups_of(node).is_empty() || leaving > 0;
    if seen.is_up(node) && meta.state != NodeState::Removed && holds {
        let message = match meta.state {
            NodeState::Draining => format!(
                "node {node} answers and is still being emptied: {leaving} partitions have a replica \
                 on it; `plimsoll cluster status --watch` shows them go"
            ),
            _ => format!(
                "node {node} answers and holds replicas: drain it first \
                 (plimsoll cluster drain {node}) and wait until it is empty"
            ),
        };
        return Err(ErrorResponse::new(ErrorCode::NodeInUse, message));
    }
    // The catalog does not say who has the replicas of what is on its way.
    let is_sealed =
        |group| catalog.replica_set(group).is_some_and(|replicas| replicas.birth.is_none());
    let unknown = moving
        .iter()
        .find(|one| one.voters.is_empty() && (is_sealed(one.group) || !one.wanted.contains(&node)));
    if let Some(located) = unknown.and_then(|one| catalog.locate(one.group)) {
        let (name, partition) = (located.name, located.partition);
        let unknown = format!(
            "no node says that it leads {name}/{partition}, so node {node} may have the only replica, and \
             what is in it would be lost"
        );
        return Err(match seen.is_up(node) {
            true => ErrorResponse::new(
                ErrorCode::NodeInUse,
                format!(
                    "{unknown}: try again in a moment; if it stays so, `plimsoll cluster status` says which \
                     nodes are missing"
                ),
            ),
            false => ErrorResponse::new(
                ErrorCode::RemovalLosesQuorum,
                format!("{unknown}: start node {node} again, or the others that are down"),
            ),
        });
    }
    let voters: BTreeMap<GroupId, &[NodeId]> =
        moving.iter().map(|one| (one.group, one.voters.as_slice())).collect();
    let mut losing = catalog.topics().flat_map(|(name, topic)| {
        let placed = topic.partitions.iter().zip(&topic.placement);
        let numbered = (0..).map(PartitionIndex).zip(placed);
        let voters = &voters;
        numbered.filter_map(move |(partition, (group, set))| {
            let voters = voters.get(group).copied().filter(|voters| !voters.is_empty());
            let voters = voters.unwrap_or(&set.wanted);
            let left = voters.iter().filter(|one| **one != node && seen.is_up(**one)).count();
            let loses = voters.contains(&node) && 2 * left <= voters.len();
            loses.then(|| format!("{name}/{partition}"))
        })
    });
    match losing.next() {
        Some(first) => Err(ErrorResponse::new(
            ErrorCode::RemovalLosesQuorum,
            format!(
                "without node {node} {} partitions, {first} the first of them, have no majority of \
                 their replicas left, and what only they have would be lost: bring the other nodes \
                 back first",
                losing.count() + 1
            ),
        )),
        None => Ok(()),
    }
}

/// What a new node needs to join. Told on this machine only: a member can read everything.
pub(super) async fn join_token(
    session: Arc<Session>,
    _: JoinTokenRequest,
) -> Result<Answer<JoinTokenRequest>, ErrorResponse> {
    // A listener of both families shows 127.0.0.1 as ::ffff:127.0.0.1.
    if !session.peer.ip().to_canonical().is_loopback() {
        return Err(ErrorResponse::new(
            ErrorCode::InvalidArgument,
            "the join token is told on a member's own machine only: run the command there",
        ));
    }
    let token = session.broker.join_token().ok_or_else(|| {
        ErrorResponse::new(ErrorCode::NotReady, "this node is still starting: try again")
    })?;
    let catalog = session.broker.catalog();
    let addresses = catalog.members().map(|(_, meta)| meta.spec.address.clone());
    done(JoinTokenResponse { token: token.to_string(), addresses: addresses.collect() })
}

/// Hands the leadership of a partition over; the one who leads it is asked.
pub(super) async fn transfer(
    session: Arc<Session>,
    request: TransferLeaderRequest,
) -> Result<Answer<TransferLeaderRequest>, ErrorResponse> {
    let broker = &session.broker;
    let access = Access::Leader;
    let partition = broker.partition(&request.topic, request.partition, access).await?;
    let handed = partition.group.transfer_leader(request.to).await;
    let leader = handed.map_err(|error| refusals::transfer(&error))?;
    let term = partition.group.status().await.term;
    prefer(broker, partition.group.id(), leader).await;
    done(TransferLeaderResponse { leader, term })
}

/// Makes who leads a partition now its preferred leader: else the leadership would be brought home.
async fn prefer(broker: &Broker, group: GroupId, leader: NodeId) {
    let preferred = broker.place_if_needed(|catalog| {
        let Some(set) = catalog.replica_set(group) else { return Ok(None) };
        if set.wanted.first() == Some(&leader) || !set.wants(leader) {
            return Ok(None);
        }
        let others = set.wanted.iter().copied().filter(|node| *node != leader);
        let wanted: Vec<NodeId> = std::iter::once(leader).chain(others).collect();
        let changes = vec![PlacementChange { group, wanted: wanted.into() }];
        Ok(Some(CatalogCommand::SetPlacement { base: catalog.placement_epoch(), changes }))
    });
    match timeout(PREFER_PATIENCE, preferred).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::info!(%group, %leader, %error, "the leader is not the preferred one");
        }
        Err(_) => tracing::info!(%group, %leader, "the leader is not the preferred one in time"),
    }
}
