//! Requests about consumer groups: each goes to the coordinator of the group, which must be led here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plimsoll_groups::command::{Committer, MemberSpec, OffsetCommit};
use plimsoll_groups::coordinator::{Assignment, GroupSummary, MemberDescription, Phase};
use plimsoll_groups::ids::{Epoch, GroupName, MemberId, TopicId, TopicPartition};
use plimsoll_groups::state::{Committed, Groups};
use plimsoll_protocol::api::{
    AssignedPartitions, CommitOffsetsRequest, CommitOffsetsResponse, DeleteGroupRequest,
    DescribeGroupRequest, Done, FindGroupsRequest, FindGroupsResponse, GroupAssignment,
    GroupDescription, GroupInfo, GroupMember, GroupOffset, GroupOffsetsRequest,
    GroupOffsetsResponse, GroupPartition, GroupPhase, HeartbeatRequest, JoinGroupRequest,
    LeaveGroupRequest, ListGroupsRequest, ListGroupsResponse, ResetGroupRequest,
};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::TopicName;
use plimsoll_replication::Group;
use plimsoll_state::catalog::Catalog;

use super::session::Session;
use super::stream::{Answer, done};
use crate::broker::Broker;
use crate::groups::{CoordinatorHandle, groups_topic};
use crate::led::TaskGone;
use crate::refusals;

/// What an answer in pages holds at most; less where frames are small.
const PAGE_BYTES_MAX: usize = 1 << 20;
/// No item of a page takes more, besides its metadata: two names and numbers.
const ITEM_BYTES_MAX: usize = 640;

/// The coordinator of a group, and the partition that it leads.
async fn coordinator(
    broker: &Arc<Broker>,
    group: &str,
) -> Result<(GroupName, CoordinatorHandle, Arc<Group>), ErrorResponse> {
    let name = GroupName::new(group)
        .map_err(|error| ErrorResponse::new(ErrorCode::InvalidArgument, error.to_string()))?;
    let partitions = broker.find_groups().await?;
    let (handle, home) = broker.coordinator(name.home(partitions)).await?;
    Ok((name, handle, home))
}

fn gone(broker: &Broker) -> impl FnOnce(TaskGone) -> ErrorResponse {
    |TaskGone| broker.not_leader(None)
}

/// Waits until a majority has confirmed, later than this was called, that this node leads in the coordinator's
/// term. That what it has is fresh is not enough: a former leader is told that by its successor.
async fn confirm(
    broker: &Broker,
    coordinator: &CoordinatorHandle,
    home: &Arc<Group>,
) -> Result<(), ErrorResponse> {
    home.linearizable().await.map_err(|error| refusals::fresh(&error))?;
    match coordinator.leads(home) {
        true => Ok(()),
        false => Err(broker.not_leader(None)),
    }
}

/// Has names mean what they mean now: of a topic that was made anew a copy of the catalog has the id of before.
async fn see_names_as_they_are(broker: &Broker, topic: &TopicName) -> Result<(), ErrorResponse> {
    match broker.catch_up().await {
        true => Ok(()),
        false => Err(refusals::catching_up(topic)),
    }
}

/// The id of a topic that is there.
async fn topic_id(broker: &Broker, topic: &TopicName) -> Result<TopicId, ErrorResponse> {
    Ok(TopicId(broker.topic(topic).await?.topic_id))
}

/// The names of some topics, by id, as the catalog here has them.
fn names_in(catalog: &Catalog, wanted: &BTreeSet<TopicId>) -> BTreeMap<TopicId, TopicName> {
    if wanted.is_empty() {
        return BTreeMap::new();
    }
    let topics = catalog.topics().map(|(name, meta)| (TopicId(meta.topic_id), name));
    topics.filter(|(id, _)| wanted.contains(id)).map(|(id, name)| (id, name.clone())).collect()
}

/// The names of some topics, by id; those that are gone have none.
async fn names(
    broker: &Broker,
    wanted: impl Iterator<Item = TopicId>,
) -> BTreeMap<TopicId, TopicName> {
    let wanted: BTreeSet<TopicId> = wanted.collect();
    let known = names_in(&broker.catalog(), &wanted);
    // One that was made through another node a moment ago is not gone.
    if known.len() < wanted.len() && broker.catch_up().await {
        return names_in(&broker.catalog(), &wanted);
    }
    known
}

/// Partitions by topic, as they are told; those of topics without a name are left out.
fn by_topic(
    names: &BTreeMap<TopicId, TopicName>,
    partitions: &[TopicPartition],
) -> Vec<AssignedPartitions> {
    let mut assigned: Vec<AssignedPartitions> = Vec::with_capacity(names.len());
    for at in partitions {
        match assigned.last_mut() {
            Some(last) if last.topic_id == at.topic.0 => last.partitions.push(at.partition),
            _ => {
                let Some(topic) = names.get(&at.topic).cloned() else { continue };
                let (topic_id, partitions) = (at.topic.0, vec![at.partition]);
                assigned.push(AssignedPartitions { topic, topic_id, partitions });
            }
        }
    }
    assigned
}

async fn told(broker: &Broker, assignment: &Assignment) -> GroupAssignment {
    let names = names(broker, assignment.partitions.iter().map(|at| at.topic)).await;
    GroupAssignment {
        epoch: assignment.epoch.0,
        generation: assignment.generation.0,
        partitions: by_topic(&names, &assignment.partitions),
        settling: assignment.settling,
        heartbeat_ms: assignment.heartbeat_ms,
        session_ms: assignment.session_ms,
    }
}

/// Says where groups are.
pub(super) async fn find(
    session: Arc<Session>,
    _: FindGroupsRequest,
) -> Result<Answer<FindGroupsRequest>, ErrorResponse> {
    let partitions = session.broker.find_groups().await?;
    done(FindGroupsResponse { topic: groups_topic(), partitions })
}

/// Makes somebody a member.
pub(super) async fn join(
    session: Arc<Session>,
    request: JoinGroupRequest,
) -> Result<Answer<JoinGroupRequest>, ErrorResponse> {
    let broker = &session.broker;
    if let Some(topic) = request.topics.first() {
        see_names_as_they_are(broker, topic).await?;
    }
    let mut topics = BTreeSet::new();
    for topic in &request.topics {
        if topic.is_internal() {
            let message =
                format!("{topic}: topics that begin with `__` are the node's own; choose another");
            return Err(ErrorResponse::new(ErrorCode::InvalidTopicName, message));
        }
        topics.insert(topic_id(broker, topic).await?);
    }
    let (name, coordinator, _) = coordinator(broker, &request.group).await?;
    let spec = MemberSpec {
        client: request.client,
        instance: request.instance,
        topics,
        session_ms: request.session_ms,
        rebalance_ms: request.rebalance_ms,
    };
    let joined = coordinator.join(name, MemberId(request.member), spec).await;
    done(told(broker, &joined.map_err(gone(broker))??).await)
}

/// Hears a member, and answers what it should do once it is certain that this node led meanwhile.
pub(super) async fn heartbeat(
    session: Arc<Session>,
    request: HeartbeatRequest,
) -> Result<Answer<HeartbeatRequest>, ErrorResponse> {
    let broker = &session.broker;
    let (name, coordinator, home) = coordinator(broker, &request.group).await?;
    let owned: BTreeSet<TopicPartition> = request
        .owned
        .iter()
        .flat_map(|owned| {
            let topic = TopicId(owned.topic_id);
            owned.partitions.iter().map(move |&partition| TopicPartition { topic, partition })
        })
        .collect();
    let (member, epoch) = (MemberId(request.member), Epoch(request.epoch));
    // Heard first: what is confirmed after it came holds for what is answered.
    let answer = coordinator.heartbeat(name, member, epoch, owned.into_iter().collect());
    confirm(broker, &coordinator, &home).await?;
    done(told(broker, &answer.await.map_err(gone(broker))??).await)
}

/// Ends a membership.
pub(super) async fn leave(
    session: Arc<Session>,
    request: LeaveGroupRequest,
) -> Result<Answer<LeaveGroupRequest>, ErrorResponse> {
    let broker = &session.broker;
    let (name, coordinator, _) = coordinator(broker, &request.group).await?;
    let left = coordinator.leave(name, MemberId(request.member), Epoch(request.epoch)).await;
    left.map_err(gone(broker))??;
    done(Done {})
}

/// Commits how far a group has come.
pub(super) async fn commit(
    session: Arc<Session>,
    request: CommitOffsetsRequest,
) -> Result<Answer<CommitOffsetsRequest>, ErrorResponse> {
    let broker = &session.broker;
    let (name, coordinator, home) = coordinator(broker, &request.group).await?;
    if let Some(named) = request.offsets.iter().find(|item| item.topic_id.is_none()) {
        see_names_as_they_are(broker, &named.topic).await?;
    }
    let mut names = BTreeMap::new();
    let mut offsets = Vec::with_capacity(request.offsets.len());
    for item in request.offsets {
        let topic = match item.topic_id {
            Some(id) => TopicId(id),
            None => topic_id(broker, &item.topic).await?,
        };
        names.insert(topic, item.topic);
        let at = TopicPartition { topic, partition: item.partition };
        check_partition(broker, &names[&topic], at)?;
        let metadata = item.metadata.map(Arc::from);
        offsets.push(OffsetCommit { at, offset: item.offset, metadata });
    }
    let pass = match &request.fence {
        // The floors of the topics that a lock guards are not those of the group's home.
        Some(fence) => Some(broker.confirmed_pass(&home, fence).await?),
        None => None,
    };
    if pass.is_none()
        && let Some(topic) = names.values().find(|name| requires_fence(broker, name))
    {
        return Err(refusals::fence_required(topic));
    }
    let by = request.by;
    let by = by.map(|by| Committer { member: MemberId(by.member), epoch: Epoch(by.epoch) });
    let committing = async move {
        let committed = coordinator.commit(name, by, offsets).await;
        drop(pass);
        committed
    };
    // In a task: the pass is held until the commit has its outcome, also where nobody waits for that.
    let committed = tokio::spawn(committing).await.unwrap_or(Err(TaskGone));
    let not_owned = committed.map_err(gone(broker))??;
    let named = not_owned.into_iter().filter_map(|at| {
        Some(GroupPartition { topic: names.get(&at.topic)?.clone(), partition: at.partition })
    });
    done(CommitOffsetsResponse { not_owned: named.collect() })
}

fn requires_fence(broker: &Broker, topic: &TopicName) -> bool {
    broker.catalog().topic(topic).is_some_and(|meta| meta.config.rules.require_fence)
}

/// An offset is of a partition that the topic has: nothing else would ever take it away again.
fn check_partition(
    broker: &Broker,
    name: &TopicName,
    at: TopicPartition,
) -> Result<(), ErrorResponse> {
    let catalog = broker.catalog();
    let meta = catalog.topic(name).filter(|meta| meta.topic_id == at.topic.0);
    match meta {
        // Gone, made anew, or not known here yet: the coordinator knows.
        None => Ok(()),
        Some(meta) if meta.group(at.partition).is_some() => Ok(()),
        Some(meta) => Err(ErrorResponse::new(
            ErrorCode::UnknownPartition,
            format!(
                "topic {name} has no partition {}: it has {}, numbered from 0",
                at.partition,
                meta.partitions.len()
            ),
        )),
    }
}

/// Shows how far a group has come.
pub(super) async fn offsets(
    session: Arc<Session>,
    request: GroupOffsetsRequest,
) -> Result<Answer<GroupOffsetsRequest>, ErrorResponse> {
    let broker = &session.broker;
    let (name, coordinator, home) = coordinator(broker, &request.group).await?;
    let mut topics = BTreeSet::new();
    for topic in &request.topics {
        topics.insert(topic_id(broker, topic).await?);
    }
    let after = request
        .after
        .map(|after| TopicPartition { topic: TopicId(after.topic_id), partition: after.partition });
    confirm(broker, &coordinator, &home).await?;
    let bytes_max = page_bytes(broker);
    let mut after = after;
    // Topics that are gone have no name: a page of nothing else is passed over.
    loop {
        let page = |groups: &Groups| {
            let mut page: Vec<(TopicPartition, Committed)> = Vec::new();
            let mut bytes = 0;
            let all = groups.get(&name).map(|group| group.offsets()).into_iter().flatten();
            let wanted = all.filter(|(at, _)| {
                (topics.is_empty() || topics.contains(&at.topic)) && Some(**at) > after
            });
            for (at, committed) in wanted {
                if bytes >= bytes_max {
                    return (page, true);
                }
                let metadata = committed.metadata.as_ref().map_or(0, |text| text.len());
                bytes += ITEM_BYTES_MAX + metadata;
                page.push((*at, committed.clone()));
            }
            (page, false)
        };
        let (page, has_more) =
            home.with_groups(|groups, _| page(groups)).ok_or_else(|| broker.not_leader(None))?;
        after = page.last().map(|(at, _)| *at);
        let names = names(broker, page.iter().map(|(at, _)| at.topic)).await;
        let offsets = page.into_iter().filter_map(|(at, committed)| {
            Some(GroupOffset {
                topic: names.get(&at.topic)?.clone(),
                topic_id: at.topic.0,
                partition: at.partition,
                offset: committed.offset,
                metadata: committed.metadata.map(|text| (*text).to_owned()),
                committed_ms: committed.at.0,
            })
        });
        let offsets: Vec<_> = offsets.collect();
        if !offsets.is_empty() || !has_more {
            return done(GroupOffsetsResponse { offsets, has_more });
        }
    }
}

fn page_bytes(broker: &Broker) -> usize {
    PAGE_BYTES_MAX.min(broker.limits().frame_bytes_max as usize / 4)
}

fn info(summary: &GroupSummary) -> GroupInfo {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    GroupInfo {
        group: summary.name.as_str().to_owned(),
        phase: match summary.phase {
            Phase::Empty => GroupPhase::Empty,
            Phase::Moving => GroupPhase::Moving,
            Phase::Settled => GroupPhase::Settled,
        },
        generation: summary.generation.0,
        members: count(summary.members),
        offsets: count(summary.offsets),
    }
}

/// Lists the groups of one coordinator.
pub(super) async fn list(
    session: Arc<Session>,
    request: ListGroupsRequest,
) -> Result<Answer<ListGroupsRequest>, ErrorResponse> {
    let broker = &session.broker;
    let after = request.after.as_deref().map(GroupName::new).transpose();
    let after =
        after.map_err(|error| ErrorResponse::new(ErrorCode::InvalidArgument, error.to_string()))?;
    let (coordinator, home) = broker.coordinator(request.partition).await?;
    confirm(broker, &coordinator, &home).await?;
    let count = (page_bytes(broker) / ITEM_BYTES_MAX).max(1);
    let mut found = coordinator.list(after, count + 1).await.map_err(gone(broker))?;
    let has_more = found.len() > count;
    found.truncate(count);
    done(ListGroupsResponse { groups: found.iter().map(info).collect(), has_more })
}

/// Shows a group.
pub(super) async fn describe(
    session: Arc<Session>,
    request: DescribeGroupRequest,
) -> Result<Answer<DescribeGroupRequest>, ErrorResponse> {
    let broker = &session.broker;
    let (name, coordinator, home) = coordinator(broker, &request.group).await?;
    confirm(broker, &coordinator, &home).await?;
    let found = coordinator.describe(name.clone()).await.map_err(gone(broker))?;
    let found = found.ok_or_else(|| {
        ErrorResponse::new(
            ErrorCode::UnknownGroup,
            format!(
                "there is no consumer group {name}: it begins when a member joins or commits \
                 (plimsoll group list shows all)"
            ),
        )
    })?;
    let specs = found.members.iter().flat_map(|member| &member.spec.topics);
    let names = names(broker, specs.copied()).await;
    let summary = GroupSummary {
        name: found.name,
        phase: found.phase,
        generation: found.generation,
        members: found.members.len(),
        offsets: found.offsets,
    };
    done(GroupDescription {
        info: info(&summary),
        members: found.members.into_iter().map(|it| member(&names, it)).collect(),
        quiet_since_ms: found.quiet_since.map(|at| at.0),
    })
}

fn member(names: &BTreeMap<TopicId, TopicName>, found: MemberDescription) -> GroupMember {
    let topics = found.spec.topics.iter().filter_map(|topic| names.get(topic).cloned());
    GroupMember {
        member: found.id.0,
        client: found.spec.client,
        instance: found.spec.instance,
        topics: topics.collect(),
        session_ms: found.spec.session_ms,
        rebalance_ms: found.spec.rebalance_ms,
        epoch: found.epoch.0,
        owns: by_topic(names, &found.owns),
        should_own: by_topic(names, &found.should_own),
        session_left_ms: found.session_left_ms,
    }
}

/// Sets a group's offsets.
pub(super) async fn reset(
    session: Arc<Session>,
    request: ResetGroupRequest,
) -> Result<Answer<ResetGroupRequest>, ErrorResponse> {
    let broker = &session.broker;
    let (name, coordinator, _) = coordinator(broker, &request.group).await?;
    if let Some(item) = request.offsets.first() {
        see_names_as_they_are(broker, &item.topic).await?;
    }
    let mut offsets = Vec::with_capacity(request.offsets.len());
    for item in request.offsets {
        let topic = topic_id(broker, &item.topic).await?;
        let at = TopicPartition { topic, partition: item.partition };
        check_partition(broker, &item.topic, at)?;
        offsets.push((at, item.offset));
    }
    let reset = coordinator.reset(name, offsets, request.forced).await;
    reset.map_err(gone(broker))??;
    done(Done {})
}

/// Deletes a group.
pub(super) async fn delete(
    session: Arc<Session>,
    request: DeleteGroupRequest,
) -> Result<Answer<DeleteGroupRequest>, ErrorResponse> {
    let broker = &session.broker;
    let (name, coordinator, _) = coordinator(broker, &request.group).await?;
    coordinator.delete(name, request.forced).await.map_err(gone(broker))??;
    done(Done {})
}
