//! Clients that keep the contract of `GROUPS.md`, a network that loses, delays and repeats what they
//! say, and leaders that die. What must hold is in `checks.rs`.

use std::collections::{BTreeMap, BTreeSet};

use plimsoll_groups::command::{Committer, GroupsEntry, MemberSpec, OffsetCommit};
use plimsoll_groups::coordinator::{
    Assignment, Coordinator, HeartbeatError, Limits, Reply, Ticket, Topics,
};
use plimsoll_groups::ids::{Epoch, GroupName, MemberId, TopicId, TopicPartition};
use plimsoll_groups::state::Groups;
use plimsoll_groups::time::{Monotonic, Now, UnixMs};
use plimsoll_protocol::ids::Offset;

use super::histories::Step;

const SESSION_MS: u64 = 2_000;

/// One time that a partition is with one incarnation of one member.
pub(crate) type Tenure = u64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Life {
    /// Not a member, as far as it knows; it may join.
    Out,
    /// It asked to join, then.
    Joining { ticket: Ticket, sent: u64 },
    /// A member. It stops by itself when it was not answered until then.
    In { epoch: Epoch, until: u64 },
    /// The process is gone.
    Dead,
}

/// A process with a consumer in it.
pub(crate) struct Client {
    pub(crate) id: MemberId,
    pub(crate) spec: MemberSpec,
    pub(crate) life: Life,
    /// What it works on, and in which tenure it began.
    pub(crate) works: BTreeMap<TopicPartition, Tenure>,
    /// Heartbeats and commits that it sent: any of them may arrive again, whenever.
    pub(crate) beats: Vec<(Epoch, Vec<TopicPartition>)>,
    pub(crate) commits: Vec<(Epoch, BTreeMap<TopicPartition, Tenure>)>,
}

/// A commit on its way: what the client worked on when it spoke.
pub(crate) struct Committing {
    pub(crate) id: MemberId,
    pub(crate) works: BTreeMap<TopicPartition, Tenure>,
}

pub(crate) struct World {
    pub(crate) group: GroupName,
    pub(crate) state: Groups,
    pub(crate) coordinator: Coordinator,
    pub(crate) topics: Topics,
    pub(crate) now: u64,
    pub(crate) flying: Option<GroupsEntry>,
    pub(crate) clients: Vec<Client>,
    /// Commits in the order of their tickets.
    pub(crate) committing: BTreeMap<Ticket, Committing>,
    /// Who has each partition, and for the how manieth time anybody has one.
    pub(crate) tenures: BTreeMap<TopicPartition, (MemberId, Tenure)>,
    pub(crate) tenures_given: Tenure,
    pub(crate) offset: u64,
}

fn pick<T>(items: &[T], which: u8) -> Option<usize> {
    (!items.is_empty()).then(|| usize::from(which) % items.len())
}

impl World {
    pub(crate) fn new() -> Self {
        let partitions = BTreeMap::from([(TopicId(0), 4), (TopicId(1), 3)]);
        let topics = Topics { partitions, next: TopicId(2) };
        let state = Groups::default();
        let now = 1_000;
        let coordinator =
            Coordinator::new(Limits::default(), topics.clone(), &state, Monotonic(now));
        Self {
            group: GroupName::new("g").unwrap(),
            state,
            coordinator,
            topics,
            now,
            flying: None,
            clients: Vec::new(),
            committing: BTreeMap::new(),
            tenures: BTreeMap::new(),
            tenures_given: 0,
            offset: 0,
        }
    }

    pub(crate) fn now(&self) -> Now {
        Now { monotonic: Monotonic(self.now), unix: UnixMs(self.now as i64) }
    }

    pub(crate) fn take(&mut self, step: &Step) {
        match *step {
            Step::Start { topics, instance } => self.start(topics, instance),
            Step::Rejoin(which) => self.with(which, Self::join),
            Step::Kill(which) => self.with(which, |world, index| {
                world.clients[index].life = Life::Dead;
                world.clients[index].works.clear();
            }),
            Step::Beat(which) => self.with(which, |world, index| world.beat(index, true)),
            Step::BeatLost(which) => self.with(which, |world, index| world.beat(index, false)),
            Step::LateBeat { which, old } => self.with(which, |world, index| {
                let client = &world.clients[index];
                let Some(old) = pick(&client.beats, old) else { return };
                let (epoch, owned) = client.beats[old].clone();
                let (state, group, now) = (&world.state, &world.group, Monotonic(world.now));
                let id = client.id;
                drop(world.coordinator.heartbeat(state, group, id, epoch, Some(&owned), now));
            }),
            Step::LateJoin(which) => self.with(which, |world, index| {
                let (id, spec) = (world.clients[index].id, world.clients[index].spec.clone());
                let (state, group, now) = (&world.state, &world.group, Monotonic(world.now));
                world.coordinator.join(state, group, id, spec, now).unwrap();
            }),
            Step::Leave(which) => self.with(which, |world, index| {
                let client = &mut world.clients[index];
                if let Life::In { epoch, .. } = client.life {
                    client.works.clear();
                    client.life = Life::Out;
                    let (state, group, id) = (&world.state, &world.group, client.id);
                    drop(world.coordinator.leave(state, group, id, epoch));
                }
            }),
            Step::Push { lost } => self.push(lost),
            Step::Commit(which) => self.with(which, |world, index| {
                let client = &mut world.clients[index];
                let Life::In { epoch, .. } = client.life else { return };
                let commit = (epoch, client.works.clone());
                client.commits.push(commit.clone());
                world.commit(index, commit);
            }),
            Step::LateCommit { which, old } => self.with(which, |world, index| {
                let commits = &world.clients[index].commits;
                if let Some(old) = pick(commits, old) {
                    let commit = commits[old].clone();
                    world.commit(index, commit);
                }
            }),
            Step::Pass(ms) => self.pass(u64::from(ms)),
            Step::Propose => self.propose(),
            Step::Apply => self.apply(),
            Step::Refuse => {
                if let Some(entry) = self.flying.take() {
                    self.coordinator.refused(entry);
                }
            }
            Step::ChangeLeader { committed } => self.change_leader(committed),
            Step::MorePartitions(topic) => {
                if let Some(count) = self.topics.partitions.get_mut(&TopicId(topic.into())) {
                    *count = (*count + 1).min(7);
                }
                self.tell_topics();
            }
            Step::DeleteTopic => {
                self.topics.partitions.remove(&TopicId(1));
                self.tell_topics();
            }
        }
        self.check();
    }

    fn with(&mut self, which: u8, step: impl FnOnce(&mut Self, usize)) {
        if let Some(index) = pick(&self.clients, which) {
            step(self, index);
        }
    }

    fn tell_topics(&mut self) {
        let now = Monotonic(self.now);
        self.coordinator.set_topics(self.topics.clone(), &self.state, now);
    }

    /// A process starts; a static one in the place of the one that had its instance, which is gone.
    fn start(&mut self, topics: u8, instance: Option<u8>) {
        let instance = instance.map(|number| format!("instance-{number}"));
        for client in &mut self.clients {
            if instance.is_some() && client.spec.instance == instance {
                client.life = Life::Dead;
                client.works.clear();
            }
        }
        let alive = self.clients.iter().filter(|client| client.life != Life::Dead);
        if alive.count() >= 5 {
            return;
        }
        let topics: BTreeSet<_> = (0..2u64).filter(|topic| topics >> topic & 1 == 1).collect();
        let topics = if topics.is_empty() { BTreeSet::from([0]) } else { topics };
        let spec = MemberSpec {
            client: String::new(),
            instance,
            topics: topics.into_iter().map(TopicId).collect(),
            session_ms: SESSION_MS as u32,
            rebalance_ms: 3_000,
        };
        self.clients.push(Client {
            id: MemberId(self.clients.len() as u128 + 1),
            spec,
            life: Life::Out,
            works: BTreeMap::new(),
            beats: Vec::new(),
            commits: Vec::new(),
        });
        self.join(self.clients.len() - 1);
    }

    pub(crate) fn join(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.life == Life::Out {
            let (state, group, now) = (&self.state, &self.group, Monotonic(self.now));
            let spec = client.spec.clone();
            let ticket = self.coordinator.join(state, group, client.id, spec, now).unwrap();
            client.life = Life::Joining { ticket, sent: self.now };
        }
    }

    pub(crate) fn beat(&mut self, index: usize, answered: bool) {
        let client = &mut self.clients[index];
        let Life::In { epoch, .. } = client.life else { return };
        let owned: Vec<_> = client.works.keys().copied().collect();
        let (state, group, now) = (&self.state, &self.group, Monotonic(self.now));
        let answer = self.coordinator.heartbeat(state, group, client.id, epoch, Some(&owned), now);
        client.beats.push((epoch, owned));
        match answer {
            _ if !answered => {}
            Ok(assignment) => self.adopt(index, &assignment, self.now + SESSION_MS),
            Err(error) => {
                client.works.clear();
                let instance = matches!(error, HeartbeatError::FencedInstance { .. });
                client.life = if instance { Life::Dead } else { Life::Out };
            }
        }
    }

    /// In one step: the epoch, what it begins, and what it stops with.
    fn adopt(&mut self, index: usize, assignment: &Assignment, until: u64) {
        let client = &mut self.clients[index];
        client.life = Life::In { epoch: assignment.epoch, until };
        let mut works = BTreeMap::new();
        for at in &assignment.partitions {
            let (owner, tenure) = self.tenures[at];
            assert_eq!(owner, client.id, "{at} was given to who does not own it");
            let before = client.works.get(at).copied().unwrap_or(tenure);
            assert_eq!(before, tenure, "{at} was given again to who had it still");
            works.insert(*at, tenure);
        }
        client.works = works;
    }

    pub(crate) fn push(&mut self, lost: bool) {
        while let Some((_, id, assignment)) = self.coordinator.poll_changed(&self.state) {
            let index = self.clients.iter().position(|client| client.id == id).unwrap();
            if let Life::In { until, epoch } = self.clients[index].life
                && !lost
                && epoch >= self.state.member(&self.group, id).unwrap().joined
            {
                self.adopt(index, &assignment, until);
            }
        }
    }

    fn commit(&mut self, index: usize, (epoch, works): (Epoch, BTreeMap<TopicPartition, Tenure>)) {
        let id = self.clients[index].id;
        let items: Vec<_> = works
            .keys()
            .map(|&at| {
                self.offset += 1;
                OffsetCommit { at, offset: Offset(self.offset), metadata: None }
            })
            .collect();
        let by = Some(Committer { member: id, epoch });
        let (state, group, now) = (&self.state, &self.group, Monotonic(self.now));
        if let Ok(ticket) = self.coordinator.commit(state, group, by, items, now) {
            self.committing.insert(ticket, Committing { id, works });
        }
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        self.now += ms;
        for client in &mut self.clients {
            // No answer for a session: it must take itself to be fenced.
            match client.life {
                Life::In { until, .. } if until <= self.now => client.life = Life::Out,
                Life::Joining { sent, .. } if sent + SESSION_MS <= self.now => {
                    client.life = Life::Out;
                }
                _ => continue,
            }
            client.works.clear();
        }
        self.coordinator.advance(&self.state, self.now());
    }

    pub(crate) fn propose(&mut self) {
        if self.flying.is_none() {
            self.flying = self.coordinator.propose(&self.state);
        }
    }

    pub(crate) fn apply(&mut self) {
        let Some(entry) = self.flying.take() else { return };
        let answers = self.fold(&entry);
        let now = Monotonic(self.now);
        for (ticket, reply) in self.coordinator.applied(&entry, &answers, &self.state, now) {
            self.committing.remove(&ticket);
            let asked = |client: &Client| matches!(client.life, Life::Joining { ticket: of, .. } if of == ticket);
            let Some(index) = self.clients.iter().position(asked) else { continue };
            let Life::Joining { sent, .. } = self.clients[index].life else { continue };
            match reply {
                Reply::Joined(assignment) => self.adopt(index, &assignment, sent + SESSION_MS),
                _ => self.clients[index].life = Life::Out,
            }
        }
    }

    pub(crate) fn change_leader(&mut self, committed: bool) {
        if let Some(entry) = self.flying.take()
            && committed
        {
            self.fold(&entry);
        }
        self.committing.clear();
        for client in &mut self.clients {
            if matches!(client.life, Life::Joining { .. }) {
                client.life = Life::Out;
            }
        }
        let (topics, now) = (self.topics.clone(), Monotonic(self.now));
        self.coordinator = Coordinator::new(Limits::default(), topics, &self.state, now);
    }
}
