//! What must hold in every history: at every commit, after every step, and once all is well again.

use std::collections::BTreeMap;

use plimsoll_groups::command::{GroupCommand, GroupsEntry};
use plimsoll_groups::coordinator::Phase;
use plimsoll_groups::ids::{TopicId, TopicPartition};
use plimsoll_groups::state::{Answer, Groups};
use plimsoll_groups::time::Monotonic;
use plimsoll_protocol::ids::PartitionIndex;

use super::world::{Committing, Life, World};

impl World {
    /// Folds an entry, on another replica command by command: whoever counts as owner then, and whose
    /// commit counts.
    pub(crate) fn fold(&mut self, entry: &GroupsEntry) -> Vec<Answer> {
        let at = self.now().unix;
        let mut other = Groups::decode(&self.state.encode()).unwrap();
        let mut committing = self.committing.values();
        let answers = self.state.apply(entry, at);
        for ((name, command), answer) in entry.commands().zip(&answers) {
            let before = other.get(name).cloned();
            let mut single = GroupsEntry::default();
            single.push(name, command.clone());
            let single = GroupsEntry::decode(&single.encode()).unwrap();
            assert_eq!(other.apply(&single, at), std::slice::from_ref(answer));
            if let GroupCommand::Commit { offsets, .. } = command {
                let Committing { id, works } = committing.next().expect("somebody commits");
                for item in offsets {
                    // It counts if who spoke has had the partition without a break since it spoke.
                    let now = self.tenures.get(&item.at);
                    let wins = now == Some(&(*id, works[&item.at]));
                    let won = other.get(name).and_then(|group| group.committed(item.at));
                    let won = won.is_some_and(|it| it.offset == item.offset);
                    assert_eq!(won, wins, "{id} committed {}; it is with {now:?}", item.at);
                }
            }
            let after = other.get(name);
            let began = match command {
                GroupCommand::Join { member, .. } => Some(*member),
                _ => None,
            };
            for place in self.topics_ever() {
                let was = before.as_ref().and_then(|group| group.owner(place)).map(|it| it.0);
                let is = after.and_then(|group| group.owner(place)).map(|it| it.0);
                match is {
                    None => drop(self.tenures.remove(&place)),
                    Some(owner) if was == Some(owner) && began != Some(owner) => {}
                    Some(owner) => {
                        self.tenures_given += 1;
                        self.tenures.insert(place, (owner, self.tenures_given));
                    }
                }
            }
        }
        assert_eq!(other.encode(), self.state.encode(), "another replica has other bytes");
        answers
    }

    fn topics_ever(&self) -> Vec<TopicPartition> {
        let all = (0..2).flat_map(|topic| (0..7).map(move |index| (topic, index)));
        all.map(|(topic, index)| TopicPartition {
            topic: TopicId(topic),
            partition: PartitionIndex(index),
        })
        .collect()
    }

    /// At no time do two processes work on the same partition, nor does one on what the log does not
    /// give it.
    pub(crate) fn check(&self) {
        let mut found = BTreeMap::new();
        for client in &self.clients {
            assert!(client.works.is_empty() || matches!(client.life, Life::In { .. }));
            for at in client.works.keys() {
                assert_eq!(found.insert(*at, client.id), None, "{at} is worked on by two");
            }
        }
        for (at, id) in found {
            let deleted = self.topics.count(at.topic) == Some(0);
            let owner = self.state.get(&self.group).and_then(|group| group.owner(at));
            // Its place may have been taken by a late join of a process that is gone.
            let taken = self.state.member(&self.group, id).is_none();
            assert!(
                deleted || taken || owner.is_some_and(|it| it.0 == id),
                "{id} works on {at}, which is owned by {owner:?}"
            );
        }
    }

    /// The network is well, and everybody who is alive goes on until nothing changes: then all is shared.
    pub(crate) fn settle(&mut self) {
        for _ in 0..60 {
            for index in 0..self.clients.len() {
                self.join(index);
                self.beat(index, true);
            }
            self.pass(250);
            self.propose();
            self.apply();
            self.push(false);
            self.check();
        }
        let alive = self.clients.iter().filter(|client| client.life != Life::Dead);
        let members: BTreeMap<_, _> = alive.map(|client| (client.id, client)).collect();
        let Some(group) = self.state.get(&self.group) else {
            return assert!(members.is_empty(), "members are in the group");
        };
        assert!(group.members().keys().eq(members.keys()), "who is alive is a member, nobody else");
        let now = Monotonic(self.now);
        let described = self.coordinator.describe(&self.state, &self.group, now).unwrap();
        let phase = if members.is_empty() { Phase::Empty } else { Phase::Settled };
        assert_eq!(described.phase, phase, "{described:?}");
        for (&topic, &count) in &self.topics.partitions {
            let wanting = || members.values().filter(|client| client.spec.topics.contains(&topic));
            for index in 0..count {
                let at = TopicPartition { topic, partition: PartitionIndex(index) };
                let Some(client) = wanting().find(|client| client.works.contains_key(&at)) else {
                    assert_eq!(wanting().count(), 0, "nobody works on {at}");
                    continue;
                };
                let fewest = wanting().map(|client| client.works.len()).min().unwrap();
                assert!(client.works.len() <= fewest + 1, "{at} is with who has too much");
            }
        }
        // Nothing moves any more, and not under the next leader either.
        assert_eq!(self.coordinator.propose(&self.state), None);
        let before: Vec<_> = self.clients.iter().map(|client| client.works.clone()).collect();
        self.change_leader(false);
        (0..self.clients.len()).for_each(|index| self.beat(index, true));
        assert_eq!(self.coordinator.propose(&self.state), None);
        let works: Vec<_> = self.clients.iter().map(|client| client.works.clone()).collect();
        assert_eq!(works, before, "the change of the leader moved something");
    }
}
