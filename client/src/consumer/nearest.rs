//! Which replica of a partition is the nearest: one of the same rack, else that of the shortest way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use plimsoll_protocol::ids::{NodeId, TopicName};
use tokio::time::Instant;

use crate::client::Shared;
use crate::link::Link;
use crate::route::to;

/// How long a replica that failed is not read from again, while there is another.
const AVOIDED_FOR: Duration = Duration::from_secs(10);
/// Ways that differ by less are equally long: what is measured is the machine's mood.
const WAY_STEP: Duration = Duration::from_millis(2);

/// The choice of one partition's task.
pub(super) struct Nearest {
    rack: Option<String>,
    avoided: BTreeMap<NodeId, Instant>,
}

/// What speaks for a replica; the least is taken.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    is_avoided: bool,
    is_elsewhere: bool,
    way_steps: u128,
    /// Partitions spread over replicas that are equally near.
    turn: usize,
}

impl Nearest {
    pub(super) fn new(rack: Option<String>) -> Self {
        Self { rack, avoided: BTreeMap::new() }
    }

    /// The replica failed, or is too far behind.
    pub(super) fn avoid(&mut self, node: NodeId) {
        self.avoided.insert(node, Instant::now());
    }

    /// A link to the nearest replica; `None` where no replica is known or none can be reached.
    pub(super) async fn link(
        &mut self,
        shared: &Arc<Shared>,
        topic: &TopicName,
        partition: u32,
    ) -> Option<Arc<Link>> {
        self.avoided.retain(|_, since| since.elapsed() < AVOIDED_FOR);
        let view = shared.cluster.view();
        let replicas = &view.partition(topic.as_str(), partition)?.replicas;
        // All of them, because the way is known of those only that have a link.
        let dialing = replicas.iter().map(|node| to(shared, &view, *node, None));
        let reached = join_all(dialing).await;
        let rank = |(place, link): (usize, Arc<Link>)| {
            let node = link.node();
            let rack = view.nodes().get(&node).and_then(|info| info.rack.as_ref());
            let rank = Rank {
                is_avoided: self.avoided.contains_key(&node),
                is_elsewhere: self.rack.is_some() && rack != self.rack.as_ref(),
                way_steps: link.round_trip().as_micros() / WAY_STEP.as_micros(),
                turn: (place + partition as usize) % replicas.len(),
            };
            (rank, link)
        };
        let reached = reached.into_iter().enumerate();
        let ranked = reached.filter_map(|(place, link)| Some(rank((place, link.ok()?))));
        ranked.min_by(|(left, _), (right, _)| left.cmp(right)).map(|(_, link)| link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_rack_comes_before_a_shorter_way_and_a_replica_that_failed_last() {
        let rank = |is_avoided, is_elsewhere, way_steps, turn| Rank {
            is_avoided,
            is_elsewhere,
            way_steps,
            turn,
        };
        assert!(rank(false, false, 9, 1) < rank(false, true, 0, 0));
        assert!(rank(false, true, 9, 1) < rank(true, false, 0, 0));
        assert!(rank(false, true, 0, 1) < rank(false, true, 1, 0));
    }
}
