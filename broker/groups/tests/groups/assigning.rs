//! Who should own what: balanced, complete, and no partition moves that need not.

use std::collections::{BTreeMap, BTreeSet};

use plimsoll_groups::coordinator::assign::{Share, Target, assign};
use plimsoll_groups::ids::{Epoch, MemberId, TopicId, TopicPartition};
use plimsoll_protocol::ids::PartitionIndex;
use proptest::prelude::*;

#[derive(Debug, Clone)]
struct Table {
    wants: BTreeMap<MemberId, BTreeSet<TopicId>>,
    owns: BTreeMap<MemberId, BTreeMap<TopicPartition, Epoch>>,
    counts: BTreeMap<TopicId, u32>,
}

impl Table {
    fn new(members: &[&[u64]], counts: &[u32]) -> Self {
        let wants = members.iter().zip(1..);
        let wants: BTreeMap<_, _> = wants
            .map(|(topics, id)| (MemberId(id), topics.iter().map(|&it| TopicId(it)).collect()))
            .collect();
        let owns = wants.keys().map(|&id| (id, BTreeMap::new())).collect();
        let counts = counts.iter().zip(0..).map(|(&count, topic)| (TopicId(topic), count));
        Self { wants, owns, counts: counts.collect() }
    }

    fn assign(&self, before: &Target) -> Target {
        let shares = self.wants.iter().zip(self.owns.values());
        let shares = shares.map(|((&id, topics), owns)| (id, Share { topics, owns })).collect();
        assign(&shares, before, |topic| Some(self.counts.get(&topic).copied().unwrap_or(0)))
    }

    /// Everybody owns what it should.
    fn settle(&mut self, target: &Target) {
        for (id, owns) in &mut self.owns {
            *owns = target[id].iter().map(|&at| (at, Epoch(1))).collect();
        }
    }

    fn join(&mut self, id: u128, topics: &[u64]) {
        self.wants.insert(MemberId(id), topics.iter().map(|&it| TopicId(it)).collect());
        self.owns.insert(MemberId(id), BTreeMap::new());
    }

    fn leave(&mut self, id: u128) {
        self.wants.remove(&MemberId(id));
        self.owns.remove(&MemberId(id));
    }

    fn check(&self, target: &Target) {
        assert!(target.keys().eq(self.wants.keys()));
        let mut found = BTreeMap::new();
        for (&id, set) in target {
            for at in set {
                assert!(self.wants[&id].contains(&at.topic), "{id} does not want {at}");
                assert_eq!(found.insert(*at, id), None, "{at} is with two members");
            }
        }
        let wanted: BTreeSet<_> = self.wants.values().flatten().copied().collect();
        let wanted = wanted.into_iter().flat_map(|topic| {
            let count = self.counts.get(&topic).copied().unwrap_or(0);
            (0..count).map(move |index| TopicPartition { topic, partition: PartitionIndex(index) })
        });
        assert!(wanted.eq(found.keys().copied()), "every partition is with somebody");
        for (at, holder) in found {
            for (other, topics) in &self.wants {
                let (holds, has) = (target[&holder].len(), target[other].len());
                assert!(
                    !topics.contains(&at.topic) || holds <= has + 1,
                    "{holder} has {holds} and {at} among them, {other} has {has} and wants it"
                );
            }
        }
    }

    /// How many partitions are taken from who owns them.
    fn revoked(&self, target: &Target) -> usize {
        let owned = self.owns.iter().flat_map(|(id, owns)| owns.keys().map(move |at| (id, at)));
        owned.filter(|(id, at)| !target[id].contains(at)).count()
    }
}

fn loads(target: &Target) -> Vec<usize> {
    let mut loads: Vec<_> = target.values().map(BTreeSet::len).collect();
    loads.sort_unstable();
    loads
}

fn table() -> impl Strategy<Value = Table> {
    let members = proptest::collection::vec(proptest::collection::btree_set(0..4u64, 1..4), 1..9);
    let counts = proptest::collection::vec(0..20u32, 4);
    let owners = proptest::collection::vec(any::<Option<u8>>(), 80);
    (members, counts, owners).prop_map(|(members, counts, owners)| {
        let lists: Vec<Vec<u64>> = members.iter().map(|it| it.iter().copied().collect()).collect();
        let lists: Vec<&[u64]> = lists.iter().map(Vec::as_slice).collect();
        let mut table = Table::new(&lists, &counts);
        let ids: Vec<_> = table.wants.keys().copied().collect();
        let places = (0..4).flat_map(|topic| (0..20).map(move |index| (topic, index)));
        for ((topic, index), owner) in places.zip(owners) {
            if let Some(owner) = owner {
                // Also partitions that are not there, or of topics that it does not want any more.
                let at = TopicPartition { topic: TopicId(topic), partition: PartitionIndex(index) };
                let owner = ids[usize::from(owner) % ids.len()];
                table.owns.get_mut(&owner).unwrap().insert(at, Epoch(1));
            }
        }
        table
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_answer_is_complete_balanced_and_stable(table in table(), next in table()) {
        let target = table.assign(&Target::new());
        table.check(&target);
        prop_assert_eq!(&table.assign(&Target::new()), &target, "the same gives the same");
        prop_assert_eq!(&table.assign(&target), &target, "asked again, nothing changes");
        let mut settled = table.clone();
        settled.settle(&target);
        prop_assert_eq!(&settled.assign(&Target::new()), &target, "settled, nothing moves");
        // Whatever an earlier answer was, of other members and other topics.
        next.check(&next.assign(&target));
    }

    #[test]
    fn members_that_stay_lose_nothing_when_one_goes(table in table(), which in any::<u8>()) {
        let target = table.assign(&Target::new());
        let mut after = table;
        after.settle(&target);
        let gone = u128::from(which) % after.wants.len() as u128 + 1;
        after.leave(gone);
        // With one topic set for all; with several, a balance may ask for more.
        for wants in after.wants.values_mut() {
            *wants = (0..4).map(TopicId).collect();
        }
        let before: Vec<_> = after.owns.values().map(BTreeMap::len).collect();
        let even = before.iter().max() <= before.iter().min().map(|min| min + 1).as_ref();
        let target = after.assign(&target);
        after.check(&target);
        if even {
            prop_assert_eq!(after.revoked(&target), 0);
        }
    }

    /// The fewest revocations that an even share needs: who has most keeps the larger shares.
    #[test]
    fn with_the_same_topics_for_all_the_fewest_are_revoked(
        owners in proptest::collection::vec(proptest::option::weighted(0.8, 0..7usize), 0..60),
        members in 1..7usize,
    ) {
        let topics: &[u64] = &[0];
        let mut table = Table::new(&vec![topics; members], &[owners.len() as u32]);
        for (index, owner) in (0..).zip(&owners) {
            let id = owner.map(|owner| MemberId(owner as u128 + 1));
            if let Some(owns) = id.and_then(|id| table.owns.get_mut(&id)) {
                let at = TopicPartition { topic: TopicId(0), partition: PartitionIndex(index) };
                owns.insert(at, Epoch(1));
            }
        }
        let target = table.assign(&Target::new());
        table.check(&target);
        let mut owned: Vec<_> = table.owns.values().map(BTreeMap::len).collect();
        owned.sort_unstable_by(|a, b| b.cmp(a));
        let (share, more) = (owners.len() / members, owners.len() % members);
        let fewest: usize = owned
            .iter()
            .enumerate()
            .map(|(place, owned)| owned.saturating_sub(share + usize::from(place < more)))
            .sum();
        prop_assert_eq!(table.revoked(&target), fewest);
    }
}

#[test]
fn newcomer_gets_its_share_and_the_others_only_give() {
    let mut table = Table::new(&[&[0], &[0], &[0]], &[12]);
    let target = table.assign(&Target::new());
    assert_eq!(loads(&target), [4, 4, 4]);
    table.settle(&target);
    table.join(9, &[0]);
    let target = table.assign(&target);
    assert_eq!((loads(&target), table.revoked(&target)), (vec![3, 3, 3, 3], 3));
}

#[test]
fn promise_is_taken_back_before_anything_that_is_owned() {
    let mut table = Table::new(&[&[0]], &[4]);
    let alone = table.assign(&Target::new());
    table.settle(&alone);
    table.join(2, &[0]);
    let promised = table.assign(&alone);
    assert_eq!(table.revoked(&promised), 2);
    // The second one goes before it got anything: the first one keeps all, though two were promised.
    table.leave(2);
    let target = table.assign(&promised);
    assert_eq!((loads(&target), table.revoked(&target)), (vec![4], 0));
}

#[test]
fn newcomer_gets_what_nobody_owns_yet_before_what_is_owned() {
    let mut table = Table::new(&[&[0]], &[6]);
    let alone = table.assign(&Target::new());
    table.settle(&alone);
    // Of what it should own it has the upper half so far.
    let owns = table.owns.get_mut(&MemberId(1)).unwrap();
    owns.retain(|at, _| at.partition.0 >= 3);
    table.join(2, &[0]);
    let target = table.assign(&alone);
    assert_eq!((loads(&target), table.revoked(&target)), (vec![3, 3], 0));
}

#[test]
fn promise_goes_back_to_who_owns_it_rather_than_to_another() {
    let mut table = Table::new(&[&[0], &[0], &[0]], &[8]);
    let place = |index| TopicPartition { topic: TopicId(0), partition: PartitionIndex(index) };
    for (id, owned) in [(1, 0..4), (3, 4..8)] {
        let owned = owned.map(|index| (place(index), Epoch(1)));
        table.owns.insert(MemberId(id), owned.collect());
    }
    let before = [(1, &[0][..]), (2, &[1, 2, 3, 5]), (3, &[4, 6, 7])];
    let before = before
        .map(|(id, indices)| (MemberId(id), indices.iter().map(|&index| place(index)).collect()));
    let target = table.assign(&Target::from(before));
    assert_eq!((loads(&target), table.revoked(&target)), (vec![2, 3, 3], 3));
}

#[test]
fn member_with_few_topics_gets_them_before_those_with_many() {
    let table = Table::new(&[&[0, 1], &[1]], &[6, 6]);
    let target = table.assign(&Target::new());
    assert_eq!(loads(&target), [6, 6]);
    assert!(target[&MemberId(2)].iter().all(|at| at.topic == TopicId(1)));
}

#[test]
fn topic_that_is_not_known_yet_is_left_where_it_is() {
    let at = TopicPartition { topic: TopicId(7), partition: PartitionIndex(3) };
    let (topics, owns) = (BTreeSet::from([TopicId(7)]), BTreeMap::from([(at, Epoch(2))]));
    let shares = BTreeMap::from([(MemberId(1), Share { topics: &topics, owns: &owns })]);
    let unknown = assign(&shares, &Target::new(), |_| None);
    assert_eq!(unknown[&MemberId(1)], BTreeSet::from([at]));
    let deleted = assign(&shares, &unknown, |_| Some(0));
    assert_eq!(deleted[&MemberId(1)], BTreeSet::new());
}

/// A thousand members and ten thousand partitions are dealt, and one more joins, in a moment.
#[test]
fn largest_group_is_dealt() {
    let topics: &[u64] = &[0];
    let mut table = Table::new(&vec![topics; 999], &[10_000]);
    let target = table.assign(&Target::new());
    table.settle(&target);
    table.join(1_000, topics);
    let target = table.assign(&target);
    assert_eq!(table.revoked(&target), 10);
    assert_eq!(loads(&target)[0], 10);
}
