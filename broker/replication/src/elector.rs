//! When a replica without a leader asks for votes: in turn, so that one candidate at a time is there.

use std::collections::BTreeSet;
use std::time::Duration;

use plimsoll_protocol::ids::NodeId;

use crate::random::{Random, below};

/// Most elections of a node that are under way at a time.
pub(crate) const ELECTIONS_IN_FLIGHT_MAX: usize = 64;

/// Between the first attempts of two replicas that follow each other in rank.
const RANK_STEP: Duration = Duration::from_millis(40);
const FIRST_SPREAD: Duration = Duration::from_millis(20);
const RETRY_MIN: Duration = Duration::from_millis(150);
const RETRY_SPREAD: Duration = Duration::from_millis(150);

/// The place of `me` among the voters that this node reaches: those that are placed first come
/// first, then the others by their ids. Nothing if this node is no voter.
pub(crate) fn rank(
    me: NodeId,
    configs: &[BTreeSet<NodeId>],
    placed: &[NodeId],
    reaches: impl Fn(NodeId) -> bool,
) -> Option<u32> {
    let voters: BTreeSet<NodeId> = configs.iter().flatten().copied().collect();
    let first = placed.iter().copied().filter(|node| voters.contains(node));
    let rest = voters.iter().copied().filter(|node| !placed.contains(node));
    let mut rank = 0;
    for node in first.chain(rest) {
        if node == me {
            return Some(rank);
        }
        rank += u32::from(reaches(node));
    }
    None
}

/// How long a replica of this rank waits before its first attempt.
pub(crate) fn first_delay(rank: u32, random: &dyn Random) -> Duration {
    RANK_STEP * rank + below(random, FIRST_SPREAD)
}

/// How long it waits before each further one.
pub(crate) fn retry_delay(random: &dyn Random) -> Duration {
    RETRY_MIN + below(random, RETRY_SPREAD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SeededRandom;

    fn nodes(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn ranks_follow_the_placement_and_leave_no_gap_for_the_dead() {
        let voters = [nodes(&[1, 2, 3]).into_iter().collect()];
        let placed = nodes(&[3, 1, 2]);
        let rank = |me, dead: u64| rank(NodeId(me), &voters, &placed, |node| node.0 != dead);
        assert_eq!([rank(3, 0), rank(1, 0), rank(2, 0)], [Some(0), Some(1), Some(2)]);
        assert_eq!([rank(1, 3), rank(2, 3)], [Some(0), Some(1)]);
        assert_eq!(rank(4, 0), None, "no voter");
    }

    #[test]
    fn delays_of_different_ranks_do_not_meet() {
        let random = SeededRandom::new(1);
        for _ in 0..100 {
            assert!(first_delay(0, &random) < first_delay(1, &random));
            assert!(first_delay(1, &random) < first_delay(2, &random));
            assert!(retry_delay(&random) < Duration::from_millis(300));
        }
    }
}
