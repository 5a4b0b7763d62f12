//! Places of partitions: what the catalog says of them, and the commands that change them. Where they
//! should be is computed elsewhere ([`super::planning`]); here it is checked and kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use plimsoll_protocol::api::NodeState;
use plimsoll_protocol::ids::{GroupId, NodeId, PartitionIndex, TopicName};
use plimsoll_protocol::wire::{Decode, DecodeError, Encode, Reader};

use super::refusal::CatalogRefusal;
use super::replicas::{
    ProposedPlacement, REPLICAS_MAX, ReplicaSet, Replicas, Shared, distinct, put_replicas,
};
use super::topics::TopicMeta;
use super::{Catalog, CatalogReply};

/// Most voters of the catalog's own group; every other node is a learner of it. Odd: one more would
/// make each change wait for one node more and survive no failure more.
pub const METADATA_VOTERS_MAX: u16 = 5;

/// Most places that one command changes. Part of the fold.
pub const PLACEMENT_CHANGES_MAX: u32 = 100_000;

/// A new place for the replicas of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementChange {
    /// The partition's group, or the catalog's own: then these are its voters.
    pub group: GroupId,
    /// Where its replicas shall be, the preferred leader first.
    pub wanted: Replicas,
}

impl Encode for PlacementChange {
    fn encode(&self, out: &mut BytesMut) {
        self.group.encode(out);
        put_replicas(&self.wanted, out);
    }
}

impl Decode for PlacementChange {
    const BYTES_MIN: usize = 8 + 4;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let group = GroupId::decode(reader)?;
        let wanted: Vec<NodeId> = Vec::decode(reader)?;
        Ok(Self { group, wanted: wanted.into() })
    }
}

/// Which partition a group is.
#[derive(Debug, Clone, Copy)]
pub struct Located<'a> {
    /// The topic.
    pub name: &'a TopicName,
    /// What is known of it.
    pub topic: &'a Arc<TopicMeta>,
    /// Which of its partitions.
    pub partition: PartitionIndex,
}

impl Catalog {
    /// Grows with each change of the nodes or of a place in force. A placement that was computed at
    /// another one is refused. New topics do not change it: they are placed by checks of their own.
    #[must_use]
    pub fn placement_epoch(&self) -> u64 {
        self.placement_epoch
    }

    /// Which partition a group is; none for the catalog's own, and for those that are not (any more).
    #[must_use]
    pub fn locate(&self, group: GroupId) -> Option<Located<'_>> {
        let (name, partition) = self.owners.of(group)?;
        let topic =
            self.topics.get(name).expect("a run of groups belongs to a topic that is there");
        Some(Located { name, topic, partition })
    }

    /// Where a group belongs. For the catalog's own group these are its voters.
    #[must_use]
    pub fn replica_set(&self, group: GroupId) -> Option<&ReplicaSet> {
        if group == GroupId::CATALOG {
            return Some(&self.metadata);
        }
        let Located { topic, partition, .. } = self.locate(group)?;
        topic.replica_set(partition)
    }

    /// Whether the group's topic was deleted, so that what is stored of the group may go. Positive
    /// evidence: a catalog that is older than the group says no.
    #[must_use]
    pub fn was_deleted(&self, group: GroupId) -> bool {
        group != GroupId::CATALOG && group.0 < self.next_group_id && self.owners.of(group).is_none()
    }

    /// The places of all partitions, by topic; not of the catalog's own group.
    pub fn placements(&self) -> impl Iterator<Item = (GroupId, &ReplicaSet)> {
        self.topics
            .values()
            .flat_map(|topic| topic.partitions.iter().copied().zip(&topic.placement))
    }

    /// Number of partitions of all topics.
    #[must_use]
    pub fn partition_count(&self) -> usize {
        self.topics.values().map(|topic| topic.partitions.len()).sum()
    }

    /// Places for new partitions: those proposed, or the only node where there is just one.
    pub(super) fn place_new(
        &self,
        partitions: u32,
        replicas: u16,
        proposed: Option<&ProposedPlacement>,
    ) -> Result<Vec<ReplicaSet>, CatalogRefusal> {
        let count = partitions as usize;
        if self.nodes.is_empty() {
            return Ok(vec![ReplicaSet::unplaced(); count]);
        }
        if partitions == 0 {
            return Ok(Vec::new());
        }
        if replicas > REPLICAS_MAX {
            return Err(CatalogRefusal::TooManyReplicas { asked: replicas });
        }
        let active = self.count(NodeState::Active);
        if active == 0 {
            let draining = self.count(NodeState::Draining);
            return Err(CatalogRefusal::NotEnoughNodes { asked: replicas, active, draining });
        }
        // Where there are too few nodes the others are made when some join.
        let placed = u32::from(replicas).min(active) as usize;
        let Some(proposed) = proposed else {
            let mut members = self.members();
            let (Some((only, _)), None) = (members.next(), members.next()) else {
                return Err(CatalogRefusal::PlacementMissing);
            };
            return Ok(vec![ReplicaSet::newborn(Arc::from([only])); count]);
        };
        // Another number of partitions: the topic was changed since.
        if proposed.base != self.placement_epoch || proposed.replicas.len() != count {
            let (base, now) = (proposed.base, self.placement_epoch);
            return Err(CatalogRefusal::StalePlacement { base, now });
        }
        let mut shared = Shared::default();
        let mut sets = Vec::with_capacity(count);
        for list in &proposed.replicas {
            if list.len() != placed {
                return Err(invalid(
                    "each new partition has the topic's number of replicas, or one on each node",
                ));
            }
            self.check_places(list, |_| false)?;
            sets.push(ReplicaSet::newborn(shared.one(list.to_vec())));
        }
        Ok(sets)
    }

    /// Every node once, every node active; `stays` lets a draining one keep what it has.
    fn check_places(
        &self,
        list: &[NodeId],
        stays: impl Fn(NodeId) -> bool,
    ) -> Result<(), CatalogRefusal> {
        if list.is_empty() || !distinct(list) {
            return Err(invalid("a partition is on at least one node, and on none twice"));
        }
        for &node in list {
            match self.member(node)?.state {
                NodeState::Active => {}
                NodeState::Draining if stays(node) => {}
                state => return Err(CatalogRefusal::NodeNotActive { node, state }),
            }
        }
        Ok(())
    }

    /// All changes or none. Groups that were deleted meanwhile are passed over.
    pub(super) fn set_placement(
        &mut self,
        base: u64,
        changes: Vec<PlacementChange>,
    ) -> Result<CatalogReply, CatalogRefusal> {
        if base != self.placement_epoch {
            return Err(CatalogRefusal::StalePlacement { base, now: self.placement_epoch });
        }
        let asked = u32::try_from(changes.len()).unwrap_or(u32::MAX);
        if asked > PLACEMENT_CHANGES_MAX {
            return Err(CatalogRefusal::TooManyChanges { asked });
        }
        let mut by_topic: BTreeMap<TopicName, Vec<(usize, Replicas)>> = BTreeMap::new();
        let mut metadata = None;
        let mut shared = Shared::default();
        for PlacementChange { group, wanted } in changes {
            if self.was_deleted(group) {
                continue;
            }
            let (replicas_max, now) = match self.locate(group) {
                _ if group == GroupId::CATALOG => (METADATA_VOTERS_MAX, Some(&self.metadata)),
                Some(at) => (at.topic.replicas, at.topic.replica_set(at.partition)),
                None => return Err(CatalogRefusal::UnknownGroup { group }),
            };
            // Fewer than the topic asks for where nodes were lost, and no others are there.
            if wanted.len() > usize::from(replicas_max) {
                return Err(invalid("a partition has at most the topic's number of replicas"));
            }
            self.check_places(&wanted, |node| now.is_some_and(|now| now.wants(node)))?;
            let wanted = shared.one(wanted.to_vec());
            match self.locate(group) {
                Some(at) => {
                    let places = by_topic.entry(at.name.clone()).or_default();
                    places.push((at.partition.0 as usize, wanted));
                }
                None => metadata = Some(wanted),
            }
        }
        if let Some(wanted) = metadata {
            self.metadata.wanted = wanted;
        }
        let topics = Arc::make_mut(&mut self.topics);
        for (name, places) in by_topic {
            let topic = topics.get_mut(&name).expect("its group was just located");
            let topic = Arc::make_mut(topic);
            for (partition, wanted) in places {
                topic.placement[partition].wanted = wanted;
            }
        }
        self.epoch += 1;
        self.placement_epoch += 1;
        Ok(CatalogReply::Done)
    }

    /// The groups exist on a majority of the nodes they were born on: nobody gives birth to them any
    /// more. Has to be committed before the first of those nodes loses its replica.
    pub(super) fn seal(&mut self, groups: &[GroupId]) -> Result<CatalogReply, CatalogRefusal> {
        let mut found = Vec::new();
        for &group in groups {
            match self.locate(group) {
                Some(at) => found.push((at.name.clone(), at.partition.0 as usize)),
                None if self.was_deleted(group) || group == GroupId::CATALOG => {}
                None => return Err(CatalogRefusal::UnknownGroup { group }),
            }
        }
        let topics = Arc::make_mut(&mut self.topics);
        for (name, partition) in found {
            let topic = topics.get_mut(&name).expect("its group was just located");
            Arc::make_mut(topic).placement[partition].birth = None;
        }
        Ok(CatalogReply::Done)
    }
}

fn invalid(rule: &str) -> CatalogRefusal {
    CatalogRefusal::InvalidPlacement { rule: rule.to_owned() }
}
