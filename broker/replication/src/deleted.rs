//! Which groups were deleted: a set of numbers that mostly follow each other, kept as ranges.

use std::collections::BTreeMap;

use plimsoll_protocol::ids::GroupId;

/// The groups that were deleted in this life of the node. A topic's groups have numbers that follow
/// each other, so it grows with the topics between which others were kept, not with the groups.
#[derive(Debug, Default)]
pub(crate) struct DeletedGroups {
    /// First number of a range, and the number after its last. Ranges neither touch nor overlap.
    ranges: BTreeMap<u64, u64>,
}

impl DeletedGroups {
    pub(crate) fn insert(&mut self, GroupId(id): GroupId) {
        if self.contains(GroupId(id)) {
            return;
        }
        let before = self.ranges.range(..id).next_back().filter(|&(_, &end)| end == id);
        let start = before.map_or(id, |(&start, _)| start);
        let end = self.ranges.remove(&(id + 1)).unwrap_or(id + 1);
        self.ranges.insert(start, end);
    }

    pub(crate) fn contains(&self, GroupId(id): GroupId) -> bool {
        self.ranges.range(..=id).next_back().is_some_and(|(_, &end)| id < end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ranges_hold_what_a_plain_set_holds_and_join() {
        let (mut ranges, mut plain) = (DeletedGroups::default(), BTreeSet::new());
        let mut state = 1u64;
        for _ in 0..2_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let id = GroupId((state >> 33) % 300);
            ranges.insert(id);
            plain.insert(id);
            for id in (0..302).map(GroupId) {
                assert_eq!(ranges.contains(id), plain.contains(&id), "{id}");
            }
        }
        assert_eq!(plain.len(), 300);
        assert_eq!(ranges.ranges, BTreeMap::from([(0, 300)]));
    }
}
