//! One coordinator with its state and a clock, driven by hand.

use std::collections::BTreeMap;

use plimsoll_groups::command::{Committer, MemberSpec, OffsetCommit};
use plimsoll_groups::coordinator::{
    Assignment, Coordinator, GroupDescription, HeartbeatError, Limits, Reply, Ticket, Topics,
};
use plimsoll_groups::ids::{Epoch, GroupName, MemberId, TopicId, TopicPartition};
use plimsoll_groups::state::Groups;
use plimsoll_groups::time::{Monotonic, Now, UnixMs};
use plimsoll_protocol::ids::{Offset, PartitionIndex};

pub(crate) const SESSION_MS: u64 = 10_000;
pub(crate) const REBALANCE_MS: u64 = 20_000;

pub(crate) fn at(topic: u64, partition: u32) -> TopicPartition {
    TopicPartition { topic: TopicId(topic), partition: PartitionIndex(partition) }
}

pub(crate) fn spec(topics: &[u64]) -> MemberSpec {
    MemberSpec {
        client: "client".into(),
        instance: None,
        topics: topics.iter().map(|&topic| TopicId(topic)).collect(),
        session_ms: SESSION_MS as u32,
        rebalance_ms: REBALANCE_MS as u32,
    }
}

pub(crate) fn instance(name: &str) -> MemberSpec {
    MemberSpec { instance: Some(name.into()), ..spec(&[0]) }
}

pub(crate) fn commit(place: TopicPartition, offset: u64) -> OffsetCommit {
    OffsetCommit { at: place, offset: Offset(offset), metadata: None }
}

/// A coordinator over topics 0, 1, ... with so many partitions each, and the group "g".
pub(crate) struct Bed {
    pub(crate) state: Groups,
    pub(crate) coordinator: Coordinator,
    pub(crate) limits: Limits,
    pub(crate) topics: Topics,
    pub(crate) group: GroupName,
    pub(crate) now: Now,
}

impl Bed {
    pub(crate) fn new(counts: &[u32]) -> Self {
        Self::with(counts, Limits::default())
    }

    pub(crate) fn with(counts: &[u32], limits: Limits) -> Self {
        let partitions = counts.iter().zip(0..).map(|(&count, topic)| (TopicId(topic), count));
        let partitions: BTreeMap<_, _> = partitions.collect();
        let topics = Topics { next: TopicId(partitions.len() as u64), partitions };
        let state = Groups::default();
        let now = Now { monotonic: Monotonic(1_000_000), unix: UnixMs(1_700_000_000_000) };
        let coordinator = Coordinator::new(limits, topics.clone(), &state, now.monotonic);
        let group = GroupName::new("g").unwrap();
        Self { state, coordinator, limits, topics, group, now }
    }

    /// The leader dies; another one begins with what is committed.
    pub(crate) fn change_leader(&mut self) {
        let (topics, now) = (self.topics.clone(), self.now.monotonic);
        self.coordinator = Coordinator::new(self.limits, topics, &self.state, now);
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        self.now.monotonic = self.now.monotonic.plus(ms);
        self.now.unix = self.now.unix.plus(ms);
        self.coordinator.advance(&self.state, self.now);
    }

    /// Time passes in steps that no leader would call a stall.
    pub(crate) fn pass_asked(&mut self, ms: u64) {
        for _ in 0..ms / 500 {
            self.pass(500);
        }
    }

    /// Writes all that there is to write.
    pub(crate) fn write(&mut self) -> BTreeMap<Ticket, Reply> {
        let mut replies = BTreeMap::new();
        while let Some(entry) = self.coordinator.propose(&self.state) {
            let answers = self.state.apply(&entry, self.now.unix);
            let monotonic = self.now.monotonic;
            replies.extend(self.coordinator.applied(&entry, &answers, &self.state, monotonic));
        }
        replies
    }

    pub(crate) fn ask_join(&mut self, id: u128, spec: MemberSpec) -> Ticket {
        let (group, now) = (self.group.clone(), self.now.monotonic);
        self.coordinator.join(&self.state, &group, MemberId(id), spec, now).unwrap()
    }

    /// Joins and takes up what it gets.
    pub(crate) fn join(&mut self, id: u128, spec: MemberSpec) -> Assignment {
        let ticket = self.ask_join(id, spec);
        match self.write().remove(&ticket) {
            Some(Reply::Joined(_)) => self.asks(id).unwrap(),
            other => panic!("joining came to {other:?}"),
        }
    }

    pub(crate) fn beat(
        &mut self,
        id: u128,
        epoch: Epoch,
        owned: Option<&[TopicPartition]>,
    ) -> Result<Assignment, HeartbeatError> {
        let (state, group, now) = (&self.state, &self.group, self.now.monotonic);
        self.coordinator.heartbeat(state, group, MemberId(id), epoch, owned, now)
    }

    /// A heartbeat that says nothing new, under the latest epoch.
    pub(crate) fn asks(&mut self, id: u128) -> Result<Assignment, HeartbeatError> {
        let epoch = self.epoch(id);
        self.beat(id, epoch, None)
    }

    /// Asks what it should own, owns that and no more, says so, and all of it is written.
    pub(crate) fn follows(&mut self, id: u128) -> Assignment {
        let told = self.asks(id).unwrap();
        self.beat(id, told.epoch, Some(&told.partitions)).unwrap();
        self.write();
        self.asks(id).unwrap()
    }

    pub(crate) fn epoch(&self, id: u128) -> Epoch {
        self.state.member(&self.group, MemberId(id)).map_or(Epoch(0), |member| member.epoch)
    }

    pub(crate) fn owns(&self, id: u128) -> Vec<TopicPartition> {
        let member = self.state.member(&self.group, MemberId(id));
        member.map_or_else(Vec::new, |member| member.owns().keys().copied().collect())
    }

    pub(crate) fn commits(&mut self, by: Option<(u128, Epoch)>, item: OffsetCommit) -> Reply {
        let by = by.map(|(id, epoch)| Committer { member: MemberId(id), epoch });
        let (group, now) = (self.group.clone(), self.now.monotonic);
        let ticket = self.coordinator.commit(&self.state, &group, by, vec![item], now).unwrap();
        self.write().remove(&ticket).unwrap()
    }

    pub(crate) fn committed(&self, place: TopicPartition) -> Option<u64> {
        Some(self.state.get(&self.group)?.committed(place)?.offset.0)
    }

    pub(crate) fn describe(&self) -> GroupDescription {
        self.coordinator.describe(&self.state, &self.group, self.now.monotonic).unwrap()
    }
}
