//! Replicas of a partition lie on distinct nodes, as many as the topic asks for, and only on nodes that
//! the catalog knows.

use super::{Event, Invariant, Ledger};

/// See the module.
#[derive(Debug)]
pub(super) struct PlacementRules;

impl Invariant for PlacementRules {
    fn name(&self) -> &'static str {
        "placement_rules"
    }

    fn judge(&mut self, event: &Event<'_>, _ledger: &Ledger) -> Result<(), String> {
        let Event::Placed { at, group, wanted, replicas, members } = event else { return Ok(()) };
        let mut nodes = wanted.to_vec();
        nodes.sort_unstable();
        nodes.dedup();
        let fine = nodes.len() == wanted.len()
            && wanted.len() == usize::from(*replicas)
            && wanted.iter().all(|node| members.contains(node));
        match fine {
            true => Ok(()),
            false => Err(format!(
                "{at:?} knows {wanted:?} for the {replicas} replicas of {group}; members are \
                 {members:?}"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use plimsoll_protocol::ids::NodeId;

    use super::super::planted::*;
    use super::*;

    #[test]
    fn two_replicas_on_a_node_and_too_few_and_strangers_are_seen() {
        let members: BTreeSet<_> = (1..=3).map(NodeId).collect();
        let placed = |wanted| Event::Placed {
            at: life(1, 1),
            group: GROUP,
            wanted,
            replicas: 3,
            members: &members,
        };
        let fine = [NodeId(1), NodeId(2), NodeId(3)];
        let twice = [NodeId(1), NodeId(2), NodeId(2)];
        let few = [NodeId(1), NodeId(2)];
        let strange = [NodeId(1), NodeId(2), NodeId(9)];
        for broken in [&twice[..], &few[..], &strange[..]] {
            let ledger = Ledger::default();
            assert_fires(PlacementRules, &ledger, &[placed(&fine[..])], &placed(broken));
        }
    }
}
