//! Consumer groups over the native protocol: who owns what, what is committed, who is fenced.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::BTreeSet;

use bytes::Bytes;
use plimsoll_protocol::api::{
    CommitOffsetsRequest, DeleteGroupRequest, DeleteTopicRequest, DescribeGroupRequest,
    FindGroupsRequest, GROUPS_TOPIC, GroupAssignment, GroupCommitter, GroupOffsetsRequest,
    GroupPhase, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, ListGroupsRequest,
    OffsetCommit, OffsetReset, OwnedPartitions, Request, ResetGroupRequest,
};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::{Offset, PartitionIndex, TopicName};
use support::{Client, TestNode, assert_code, topic};

const GROUP: &str = "billing";

/// A member that does at once whatever it is told.
struct Member {
    client: Client,
    id: u128,
    epoch: u64,
    topic_id: u64,
    owned: BTreeSet<u32>,
}

async fn call<R: Request>(client: &mut Client, request: &R) -> Result<R::Response, ErrorResponse> {
    client.call(request, Bytes::new()).await
}

fn join_request(id: u128, instance: Option<&str>) -> JoinGroupRequest {
    JoinGroupRequest {
        group: GROUP.into(),
        member: id,
        client: format!("member-{id}"),
        instance: instance.map(str::to_owned),
        topics: vec![topic("orders")],
        session_ms: 2000,
        rebalance_ms: 60_000,
    }
}

impl Member {
    async fn join(node: &TestNode, id: u128, instance: Option<&str>) -> Self {
        let mut client = node.quic().await;
        let joined = call(&mut client, &join_request(id, instance)).await.unwrap();
        let mut member = Self { client, id, epoch: 0, topic_id: 0, owned: BTreeSet::new() };
        member.take(&joined);
        member
    }

    fn take(&mut self, assignment: &GroupAssignment) {
        self.epoch = assignment.epoch;
        self.owned.clear();
        for of_topic in &assignment.partitions {
            assert_eq!(of_topic.topic, topic("orders"));
            self.topic_id = of_topic.topic_id;
            self.owned.extend(of_topic.partitions.iter().map(|at| at.0));
        }
    }

    async fn heartbeat(&mut self) -> Result<GroupAssignment, ErrorResponse> {
        let partitions = self.owned.iter().map(|at| PartitionIndex(*at)).collect();
        let owned = vec![OwnedPartitions { topic_id: self.topic_id, partitions }];
        let (group, member, epoch) = (GROUP.to_owned(), self.id, self.epoch);
        call(&mut self.client, &HeartbeatRequest { group, member, epoch, owned }).await
    }

    /// One heartbeat, and what it says done.
    async fn beat(&mut self) -> GroupAssignment {
        let assignment = self.heartbeat().await.unwrap();
        self.take(&assignment);
        assignment
    }

    async fn commit(&mut self, partition: u32, offset: u64) -> Result<usize, ErrorResponse> {
        let by = Some(GroupCommitter { member: self.id, epoch: self.epoch });
        let committed = call(&mut self.client, &commit_request(by, partition, offset)).await?;
        Ok(committed.not_owned.len())
    }
}

fn commit_request(by: Option<GroupCommitter>, partition: u32, offset: u64) -> CommitOffsetsRequest {
    let offset = OffsetCommit {
        topic: topic("orders"),
        topic_id: None,
        partition: PartitionIndex(partition),
        offset: Offset(offset),
        metadata: Some(format!("at {offset}")),
    };
    CommitOffsetsRequest { group: GROUP.into(), by, offsets: vec![offset], fence: None }
}

async fn offsets(client: &mut Client) -> Vec<(u32, u64)> {
    let request = GroupOffsetsRequest { group: GROUP.into(), topics: vec![], after: None };
    let found = call(client, &request).await.unwrap();
    assert!(!found.has_more);
    found
        .offsets
        .iter()
        .map(|found| {
            assert_eq!(found.metadata.as_deref(), Some(&*format!("at {}", found.offset)));
            (found.partition.0, found.offset.0)
        })
        .collect()
}

/// Has both heartbeat until each owns half of what there is.
async fn settle(one: &mut Member, other: &mut Member, partitions: u32) {
    support::eventually("the group settles", async || {
        let (first, second) = tokio::join!(one.beat(), other.beat());
        let shared = one.owned.len() == other.owned.len();
        (shared && !first.settling && !second.settling).then_some(())
    })
    .await;
    assert!(one.owned.is_disjoint(&other.owned));
    assert_eq!(one.owned.len() + other.owned.len(), partitions as usize);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_share_partitions_and_commits_outlive_a_crash() {
    let node = TestNode::start().await;
    node.quic().await.create("orders", 8).await.unwrap();
    let mut one = Member::join(&node, 1, None).await;
    // Its partitions come with the first heartbeats: they are free.
    support::eventually("all is granted", async || {
        one.beat().await;
        (one.owned.len() == 8).then_some(())
    })
    .await;
    assert_eq!(one.commit(3, 17).await.unwrap(), 0);
    let mut other = Member::join(&node, 2, None).await;
    settle(&mut one, &mut other, 8).await;
    // What went to the other is not the first one's to commit any more.
    let gone = *other.owned.first().unwrap();
    assert_eq!(one.commit(gone, 99).await.unwrap(), 1);
    let kept = *one.owned.first().unwrap();
    assert_eq!(one.commit(kept, 5).await.unwrap(), 0);
    let mut client = node.quic().await;
    let before = offsets(&mut client).await;
    assert!(before.contains(&(kept, 5)) && !before.contains(&(gone, 99)), "{before:?}");

    let described = call(&mut client, &DescribeGroupRequest { group: GROUP.into() }).await.unwrap();
    assert_eq!((described.info.phase, described.members.len()), (GroupPhase::Settled, 2));
    let home = plimsoll_protocol::api::group_home(GROUP, 16);
    let listed =
        call(&mut client, &ListGroupsRequest { partition: home, after: None }).await.unwrap();
    assert_eq!(listed.groups, vec![described.info]);

    let node = node.crash().await;
    let mut client = node.quic().await;
    assert_eq!(offsets(&mut client).await, before);
    // The members are remembered, and what they own: a heartbeat goes on where they were.
    one.client = node.quic().await;
    other.client = node.quic().await;
    let (owned, epoch) = (one.owned.clone(), one.epoch);
    one.beat().await;
    assert_eq!((&one.owned, one.epoch), (&owned, epoch));
    let leave = LeaveGroupRequest { group: GROUP.into(), member: other.id, epoch: other.epoch };
    call(&mut other.client, &leave).await.unwrap();
    support::eventually("what was left is granted", async || {
        one.beat().await;
        (one.owned.len() == 8).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_member_is_fenced_and_its_late_commit_refused() {
    let node = TestNode::start().await;
    node.quic().await.create("orders", 4).await.unwrap();
    let mut silent = Member::join(&node, 1, None).await;
    support::eventually("all is granted", async || {
        silent.beat().await;
        (silent.owned.len() == 4).then_some(())
    })
    .await;
    let mut other = Member::join(&node, 2, None).await;
    support::eventually("the other has everything", async || {
        other.beat().await;
        (other.owned.len() == 4).then_some(())
    })
    .await;
    assert_code(silent.commit(0, 3).await, ErrorCode::FencedMember);
    assert_code(silent.heartbeat().await, ErrorCode::FencedMember);
    assert_eq!(offsets(&mut node.quic().await).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_process_of_an_instance_takes_its_place() {
    let node = TestNode::start().await;
    node.quic().await.create("orders", 4).await.unwrap();
    let mut older = Member::join(&node, 1, Some("rack-1")).await;
    support::eventually("all is granted", async || {
        older.beat().await;
        (older.owned.len() == 4).then_some(())
    })
    .await;
    let newer = Member::join(&node, 2, Some("rack-1")).await;
    assert_eq!(newer.owned.len(), 4, "it has them at once");
    assert_code(older.heartbeat().await, ErrorCode::FencedInstance);
    assert_code(older.commit(0, 3).await, ErrorCode::FencedInstance);
}

#[tokio::test(flavor = "multi_thread")]
async fn administration_respects_members_unless_forced() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    client.create("orders", 4).await.unwrap();
    let describe = DescribeGroupRequest { group: GROUP.into() };
    assert_code(call(&mut client, &describe).await, ErrorCode::UnknownGroup);
    call(&mut client, &commit_request(None, 2, 7)).await.unwrap();
    assert_code(call(&mut client, &commit_request(None, 4, 7)).await, ErrorCode::UnknownPartition);
    assert_eq!(offsets(&mut client).await, [(2, 7)]);

    let member = Member::join(&node, 1, None).await;
    let reset = |forced, offset: Option<u64>| ResetGroupRequest {
        group: GROUP.into(),
        offsets: vec![OffsetReset {
            topic: topic("orders"),
            partition: PartitionIndex(2),
            offset: offset.map(Offset),
        }],
        forced,
    };
    assert_code(call(&mut client, &reset(false, None)).await, ErrorCode::GroupInUse);
    assert_code(call(&mut client, &commit_request(None, 2, 9)).await, ErrorCode::GroupInUse);
    call(&mut client, &reset(true, None)).await.unwrap();
    assert_eq!(offsets(&mut client).await, []);
    let delete = |forced| DeleteGroupRequest { group: GROUP.into(), forced };
    assert_code(call(&mut client, &delete(false)).await, ErrorCode::GroupInUse);
    call(&mut client, &delete(true)).await.unwrap();
    assert_code(call(&mut client, &describe).await, ErrorCode::UnknownGroup);
    drop(member);
    assert_code(call(&mut client, &delete(false)).await, ErrorCode::UnknownGroup);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_and_nothing_changes() {
    let node = TestNode::start().await;
    let mut client = node.quic().await;
    client.create("orders", 4).await.unwrap();
    let found = call(&mut client, &FindGroupsRequest {}).await.unwrap();
    assert_eq!((found.topic.as_str(), found.partitions), (GROUPS_TOPIC, 16));
    let plain = join_request(1, None);
    let invalid = ErrorCode::InvalidArgument;
    let none = JoinGroupRequest { topics: vec![], ..plain.clone() };
    let unnamed = JoinGroupRequest { group: String::new(), ..plain.clone() };
    let hasty = JoinGroupRequest { session_ms: 1, ..plain.clone() };
    for request in [none, unnamed, hasty] {
        assert_code(call(&mut client, &request).await, invalid);
    }
    let unknown = JoinGroupRequest { topics: vec![topic("other")], ..plain.clone() };
    assert_code(call(&mut client, &unknown).await, ErrorCode::UnknownTopic);
    let homes = TopicName::internal(GROUPS_TOPIC).unwrap();
    let own = JoinGroupRequest { topics: vec![homes.clone()], ..plain };
    assert_code(call(&mut client, &own).await, ErrorCode::InvalidTopicName);
    let delete = DeleteTopicRequest { topic: homes };
    assert_code(call(&mut client, &delete).await, ErrorCode::InvalidTopicName);
    let describe = DescribeGroupRequest { group: GROUP.into() };
    assert_code(call(&mut client, &describe).await, ErrorCode::UnknownGroup);
    node.assert_serves().await;
}
