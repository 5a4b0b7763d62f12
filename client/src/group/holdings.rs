//! What a member holds and says that it holds. Pure.
//!
//! It takes an answer in one step: what is new it holds from then on, and what is not named any more it is to
//! stop with. It holds that, and says so, until [`Holdings::release`].

use std::collections::BTreeMap;

use plimsoll_protocol::api::{GroupAssignment, OwnedPartitions};
use plimsoll_protocol::ids::{PartitionIndex, TopicName};

use super::sharing::Grant;

/// A partition of a topic that is this one and not another of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) topic_id: u64,
    pub(super) partition: u32,
}

/// A partition that the member holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) topic: TopicName,
    pub(super) grant: Grant,
    pub(super) step: Step,
}

/// How far the member is with a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It is not yet known where to begin.
    Beginning,
    /// It is being read.
    Reading,
    /// It is to be given up.
    Stopping,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    epoch: u64,
    held: BTreeMap<Place, Held>,
    grants: Grant,
}

/// What an answer changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) new: Vec<(Place, TopicName, Grant)>,
    pub(super) revoked: Vec<Grant>,
}

impl Holdings {
    /// What the member says with every heartbeat and commit.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Place, &Held)> {
        self.held.iter().map(|(place, held)| (*place, held))
    }

    /// A membership begins, under this epoch.
    pub(super) fn joined(&mut self, epoch: u64) {
        self.epoch = epoch;
    }

    pub(super) fn get(&self, place: Place) -> Option<&Held> {
        self.held.get(&place)
    }

    /// Who holds this under the grant, if it still does.
    pub(super) fn of_grant(&self, grant: Grant) -> Option<(Place, &Held)> {
        self.iter().find(|(_, held)| held.grant == grant)
    }

    /// The partition of this name that is held.
    pub(super) fn find(&self, topic: &str, partition: u32) -> Option<(Place, &Held)> {
        self.iter()
            .find(|(place, held)| place.partition == partition && held.topic.as_str() == topic)
    }

    /// Takes an answer to a heartbeat that said what [`Holdings::owned`] says now. `adopts`: new ones too.
    /// What it is already stopping with it goes on stopping with, even if it is named again: it is granted
    /// anew then.
    pub(super) fn take(&mut self, answer: &GroupAssignment, adopts: bool) -> Taken {
        let mut taken = Taken::default();
        if answer.epoch < self.epoch {
            return taken;
        }
        if adopts {
            self.epoch = answer.epoch;
        }
        let mut named = BTreeMap::new();
        for topic in &answer.partitions {
            for partition in &topic.partitions {
                let place = Place { topic_id: topic.topic_id, partition: partition.0 };
                named.insert(place, &topic.topic);
            }
        }
        for (place, held) in &mut self.held {
            if !named.contains_key(place) && held.step != Step::Stopping {
                held.step = Step::Stopping;
                taken.revoked.push(held.grant);
            }
        }
        for (place, topic) in named {
            if adopts && !self.held.contains_key(&place) {
                self.grants += 1;
                let (topic, grant) = (topic.clone(), self.grants);
                taken.new.push((place, topic.clone(), grant));
                self.held.insert(place, Held { topic, grant, step: Step::Beginning });
            }
        }
        taken
    }

    /// The partition is being read from now on; `false` when it is not held in that way any more.
    pub(super) fn begin(&mut self, place: Place, grant: Grant) -> bool {
        match self.held.get_mut(&place) {
            Some(held) if held.grant == grant && held.step == Step::Beginning => {
                held.step = Step::Reading;
                true
            }
            _ => false,
        }
    }

    /// All of it is to be given up.
    pub(super) fn stop_all(&mut self) -> Vec<Grant> {
        let all = self.held.values_mut().filter(|held| held.step != Step::Stopping);
        all.map(|held| {
            held.step = Step::Stopping;
            held.grant
        })
        .collect()
    }

    /// The member has stopped with the partition, and what it committed is answered.
    pub(super) fn release(&mut self, place: Place) {
        self.held.remove(&place);
    }

    /// The session is over: nothing is held.
    pub(super) fn clear(&mut self) {
        self.held.clear();
        self.epoch = 0;
    }

    /// What a heartbeat says.
    pub(super) fn owned(&self) -> Vec<OwnedPartitions> {
        let mut owned: Vec<OwnedPartitions> = Vec::new();
        for place in self.held.keys() {
            let partition = PartitionIndex(place.partition);
            match owned.last_mut() {
                Some(topic) if topic.topic_id == place.topic_id => topic.partitions.push(partition),
                _ => owned.push(OwnedPartitions {
                    topic_id: place.topic_id,
                    partitions: vec![partition],
                }),
            }
        }
        owned
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_protocol::api::AssignedPartitions;

    use super::*;

    fn answer(epoch: u64, partitions: &[u32]) -> GroupAssignment {
        let partitions = partitions.iter().copied().map(PartitionIndex).collect();
        let topic = "t".parse().unwrap();
        GroupAssignment {
            epoch,
            generation: epoch,
            partitions: vec![AssignedPartitions { topic, topic_id: 7, partitions }],
            settling: false,
            heartbeat_ms: 1000,
            session_ms: 3000,
        }
    }

    fn place(partition: u32) -> Place {
        Place { topic_id: 7, partition }
    }

    fn said(holdings: &Holdings) -> Vec<u32> {
        holdings.owned().into_iter().flat_map(|topic| topic.partitions).map(|p| p.0).collect()
    }

    #[test]
    fn what_is_revoked_is_said_to_be_owned_until_it_is_released() {
        let mut holdings = Holdings::default();
        let taken = holdings.take(&answer(3, &[0, 1]), true);
        assert_eq!((taken.new.len(), holdings.epoch()), (2, 3));
        assert!(holdings.begin(place(0), 1) && !holdings.begin(place(0), 1));
        let taken = holdings.take(&answer(3, &[1, 2]), true);
        assert_eq!(taken.revoked, [1]);
        assert_eq!(taken.new, [(place(2), "t".parse().unwrap(), 3)]);
        assert_eq!(said(&holdings), [0, 1, 2]);
        // It is told so again, and even that it may keep it.
        assert_eq!(holdings.take(&answer(3, &[1, 2]), true), Taken::default());
        assert_eq!(holdings.take(&answer(3, &[0, 1, 2]), true), Taken::default());
        holdings.release(place(0));
        assert_eq!(said(&holdings), [1, 2]);
        let taken = holdings.take(&answer(4, &[0, 1, 2]), true);
        assert_eq!(taken.new, [(place(0), "t".parse().unwrap(), 4)], "granted anew");
    }

    #[test]
    fn answer_of_an_earlier_epoch_is_not_taken() {
        let mut holdings = Holdings::default();
        holdings.take(&answer(9, &[0]), true);
        assert_eq!(holdings.take(&answer(8, &[1]), true), Taken::default());
        assert_eq!((said(&holdings), holdings.epoch()), (vec![0], 9));
        holdings.clear();
        assert_eq!(holdings.take(&answer(10, &[0]), true).new.len(), 1);
    }

    #[test]
    fn member_that_leaves_gives_up_what_it_is_asked_to_and_adopts_nothing() {
        let mut holdings = Holdings::default();
        holdings.take(&answer(3, &[0, 1]), true);
        assert_eq!(holdings.stop_all(), [1, 2]);
        assert_eq!(holdings.take(&answer(4, &[1, 2]), false), Taken::default());
        assert_eq!((said(&holdings), holdings.epoch()), (vec![0, 1], 3));
    }
}
