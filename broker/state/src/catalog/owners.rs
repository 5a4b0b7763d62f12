//! Which topic and partition a group is: runs of consecutive group ids, one per creation or growth of
//! a topic. Derived from the topics, never stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use plimsoll_protocol::ids::{GroupId, PartitionIndex, TopicName};
use plimsoll_protocol::wire::Encode;

use super::replicas::put_count;

/// Runs of groups by the first of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Owners(Arc<BTreeMap<GroupId, Run>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    topic: TopicName,
    first: u32,
    length: u32,
}

impl Owners {
    /// Whose group this is.
    pub(super) fn of(&self, group: GroupId) -> Option<(&TopicName, PartitionIndex)> {
        let (first, run) = self.0.range(..=group).next_back()?;
        let at = u32::try_from(group.0 - first.0).ok().filter(|at| *at < run.length)?;
        Some((&run.topic, PartitionIndex(run.first + at)))
    }

    /// Adds the groups of partitions from `first` on.
    pub(super) fn add(&mut self, topic: &TopicName, first: usize, groups: &[GroupId]) {
        let runs = Arc::make_mut(&mut self.0);
        let mut first = number(first);
        for run in runs_of(groups) {
            let length = number(run.len());
            let before = runs.range_mut(..run[0]).next_back();
            match before {
                // A topic that grew while no other was made: one run, as if read from its groups.
                Some((start, before))
                    if before.topic == *topic && start.0 + u64::from(before.length) == run[0].0 =>
                {
                    before.length += length;
                }
                _ => {
                    runs.insert(run[0], Run { topic: topic.clone(), first, length });
                }
            }
            first += length;
        }
    }

    /// Forgets the groups of a topic.
    pub(super) fn remove(&mut self, groups: &[GroupId]) {
        let runs = Arc::make_mut(&mut self.0);
        for run in runs_of(groups) {
            runs.remove(&run[0]);
        }
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("bounded by PARTITIONS_PER_TOPIC_MAX")
}

/// Groups as runs of consecutive ids.
pub(super) fn runs_of(groups: &[GroupId]) -> impl Iterator<Item = &[GroupId]> {
    groups.chunk_by(|a, b| a.0 + 1 == b.0)
}

/// Writes groups as runs: first id and length of each.
pub(super) fn put_groups(groups: &[GroupId], out: &mut BytesMut) {
    let runs: Vec<_> = runs_of(groups).collect();
    put_count(runs.len(), out);
    for run in runs {
        run[0].encode(out);
        put_count(run.len(), out);
    }
}
