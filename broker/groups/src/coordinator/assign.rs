//! Who should own what: a pure function of the members, what they own, and the topics.
//!
//! Sticky: everybody keeps what the last answer gave, else what it owns; what nobody has goes to whoever
//! has least; then single partitions go from who has most to who has least, while that brings two members
//! nearer to each other. Each such move lowers the sum of the squares of the loads, so it ends.
//!
//! Invariants of the answer: every partition of a topic that a member wants is with one member that wants
//! it; a member that could take a partition from another has at most one less than that one, so members
//! with the same topics differ by one at most. The same arguments give the same answer.

use std::collections::{BTreeMap, BTreeSet};

use plimsoll_protocol::ids::PartitionIndex;

use crate::ids::{Epoch, MemberId, TopicId, TopicPartition};

/// Of each member, what it should own.
pub type Target = BTreeMap<MemberId, BTreeSet<TopicPartition>>;

/// What a member wants, and what it owns now.
#[derive(Debug, Clone, Copy)]
pub struct Share<'a> {
    /// The topics.
    pub topics: &'a BTreeSet<TopicId>,
    /// The partitions, each since when.
    pub owns: &'a BTreeMap<TopicPartition, Epoch>,
}

/// Says who should own what. `before` is the last answer, if this leader gave one. `partitions` says how
/// many a topic has; of one that it does not know, what is owned is taken to be there.
#[must_use]
pub fn assign(
    members: &BTreeMap<MemberId, Share<'_>>,
    before: &Target,
    partitions: impl Fn(TopicId) -> Option<u32>,
) -> Target {
    let mut deal = Deal::new(members);
    let owners = |share: &Share<'_>| share.owns.keys().copied().collect::<Vec<_>>();
    let owned: BTreeMap<TopicPartition, usize> = deal
        .shares
        .iter()
        .enumerate()
        .flat_map(|(index, share)| owners(share).into_iter().map(move |at| (at, index)))
        .collect();
    let exists = |at: TopicPartition| match partitions(at.topic) {
        Some(count) => at.partition.0 < count,
        None => owned.contains_key(&at),
    };

    // What members keep.
    let mut kept: BTreeMap<TopicPartition, usize> = owned
        .iter()
        .filter(|&(at, &index)| exists(*at) && deal.shares[index].topics.contains(&at.topic))
        .map(|(at, index)| (*at, *index))
        .collect();
    for (index, id) in deal.ids.iter().enumerate() {
        let last = before.get(id).into_iter().flatten();
        let stays =
            |at: &&TopicPartition| exists(**at) && deal.shares[index].topics.contains(&at.topic);
        kept.extend(last.filter(stays).map(|at| (*at, index)));
    }
    for (&at, &index) in &kept {
        deal.give(index, at, owned.get(&at) == Some(&index));
    }

    // What nobody has: topics that few want first, so that the others can still make up for it.
    let mut topics: Vec<_> =
        deal.wanting.iter().map(|(topic, members)| (members.len(), *topic)).collect();
    topics.sort_unstable();
    for (_, topic) in topics {
        for partition in 0..partitions(topic).unwrap_or(0) {
            let at = TopicPartition { topic, partition: PartitionIndex(partition) };
            if !kept.contains_key(&at) {
                let index = deal.poorest(topic);
                deal.give(index, at, false);
            }
        }
    }
    deal.balance(&owned);
    deal.target()
}

/// What one member has of one topic.
#[derive(Debug, Default)]
struct Hand {
    /// It owns these: to take one away means a revocation.
    own: BTreeSet<PartitionIndex>,
    /// It does not own these yet.
    promised: BTreeSet<PartitionIndex>,
}

impl Hand {
    fn is_empty(&self) -> bool {
        self.own.is_empty() && self.promised.is_empty()
    }
}

/// The deal under way; members by their place in the order of their ids.
struct Deal<'a> {
    ids: Vec<MemberId>,
    shares: Vec<Share<'a>>,
    hands: Vec<BTreeMap<TopicId, Hand>>,
    loads: Vec<usize>,
    /// Of each topic the members that want it, the one that has least first.
    wanting: BTreeMap<TopicId, BTreeSet<(usize, usize)>>,
}

impl<'a> Deal<'a> {
    fn new(members: &BTreeMap<MemberId, Share<'a>>) -> Self {
        let shares: Vec<_> = members.values().copied().collect();
        let mut wanting: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (index, share) in shares.iter().enumerate() {
            for topic in share.topics {
                wanting.entry(*topic).or_default().insert((0, index));
            }
        }
        Self {
            ids: members.keys().copied().collect(),
            hands: shares.iter().map(|_| BTreeMap::new()).collect(),
            loads: vec![0; shares.len()],
            shares,
            wanting,
        }
    }

    fn poorest(&self, topic: TopicId) -> usize {
        self.wanting[&topic].first().expect("a topic is listed because a member wants it").1
    }

    fn give(&mut self, index: usize, at: TopicPartition, owned: bool) {
        let hand = self.hands[index].entry(at.topic).or_default();
        let side = if owned { &mut hand.own } else { &mut hand.promised };
        side.insert(at.partition);
        self.load(index, self.loads[index] + 1);
    }

    fn load(&mut self, index: usize, load: usize) {
        let before = std::mem::replace(&mut self.loads[index], load);
        for topic in self.shares[index].topics {
            let wanting = self.wanting.get_mut(topic).expect("a member wants its topics");
            wanting.remove(&(before, index));
            wanting.insert((load, index));
        }
    }

    /// Moves single partitions from who has most, until nobody can give one to somebody who has two less.
    fn balance(&mut self, owned: &BTreeMap<TopicPartition, usize>) {
        loop {
            let mut moved = false;
            let mut queue: BTreeSet<_> = self.loads.iter().copied().zip(0..).collect();
            while let Some((_, rich)) = queue.pop_last() {
                let Some((poor, topic)) = self.gift(rich) else { continue };
                let was_queued = queue.remove(&(self.loads[poor], poor));
                self.shift(rich, poor, topic, owned);
                moved = true;
                queue.insert((self.loads[rich], rich));
                if was_queued {
                    queue.insert((self.loads[poor], poor));
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// To whom this member should give a partition, and of which topic: to who has least, rather what it
    /// does not own yet.
    fn gift(&self, rich: usize) -> Option<(usize, TopicId)> {
        let hands = self.hands[rich].iter().filter(|(_, hand)| !hand.is_empty());
        let choices = hands.map(|(topic, hand)| {
            let poor = self.poorest(*topic);
            (self.loads[poor], hand.promised.is_empty(), poor, *topic)
        });
        let (load, _, poor, topic) = choices.min()?;
        (self.loads[rich] >= load + 2).then_some((poor, topic))
    }

    fn shift(
        &mut self,
        rich: usize,
        poor: usize,
        topic: TopicId,
        owned: &BTreeMap<TopicPartition, usize>,
    ) {
        let hand = self.hands[rich].get_mut(&topic).expect("it gives what it has");
        let owner = |partition: &PartitionIndex| {
            owned.get(&TopicPartition { topic, partition: *partition }) == Some(&poor)
        };
        let promised = hand.promised.iter().rev();
        let back = promised.clone().find(|at| owner(at)).or_else(|| promised.clone().next());
        let partition = match back.copied() {
            Some(partition) => {
                hand.promised.remove(&partition);
                partition
            }
            None => hand.own.pop_last().expect("a hand that gives is not empty"),
        };
        self.load(rich, self.loads[rich] - 1);
        self.give(poor, TopicPartition { topic, partition }, owner(&partition));
    }

    fn target(self) -> Target {
        let sets = self.hands.into_iter().map(|hands| {
            let parts = hands.into_iter().flat_map(|(topic, hand)| {
                let all = hand.own.into_iter().chain(hand.promised);
                all.map(move |partition| TopicPartition { topic, partition })
            });
            parts.collect()
        });
        self.ids.into_iter().zip(sets).collect()
    }
}
