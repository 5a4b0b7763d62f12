//! What a join, a leave or a drain may move.

use plimsoll_placement::{Node, Placement, extend, load_bounds, rebalance};
use plimsoll_protocol::ids::NodeId;
use proptest::prelude::*;

use crate::clusters::{Cluster, Draw, clusters, loads, node};

/// One change of the nodes.
#[derive(Debug, Clone, Copy)]
enum Change {
    Join { weight: u32, rack: u32 },
    Leave { at: prop::sample::Index },
    Drain { at: prop::sample::Index },
}

fn changes(weights: (u32, u32), racks: bool) -> impl Strategy<Value = Vec<Change>> {
    let rack = if racks { 1..=8_u32 } else { 0..=0 };
    let one = prop_oneof![
        2 => (weights.0..=weights.1, rack).prop_map(|(weight, rack)| Change::Join { weight, rack }),
        1 => any::<prop::sample::Index>().prop_map(|at| Change::Leave { at }),
        1 => any::<prop::sample::Index>().prop_map(|at| Change::Drain { at }),
    ];
    prop::collection::vec(one, 1..6)
}

/// What one change moved, and what it could have moved at most.
#[derive(Debug)]
struct Moved {
    moved: f64,
    /// Number of nodes that take replicas, with the one that came or went.
    nodes: f64,
    replicas: f64,
    /// What the leaver held, or the fair share of the newcomer: no placement moves less for long.
    share: f64,
}

/// Makes the changes one after the other, each from the placement that the previous one gave.
///
/// The first placement is one that can be in force (`extend`): one by the ring alone may be less even
/// than `rebalance` leaves it, and the first change would also pay for that.
fn run(mut cluster: Cluster, changes: &[Change], check: impl Fn(&Moved)) {
    let most = cluster.partitions.iter().map(|spec| usize::from(spec.replicas)).max().unwrap();
    let mut in_force =
        extend(&Placement::new(), &cluster.nodes, &cluster.partitions, &cluster.options).unwrap();
    for (change, next_id) in changes.iter().zip(1000..) {
        let taking: Vec<usize> =
            (0..cluster.nodes.len()).filter(|&at| !cluster.nodes[at].draining).collect();
        let held = |node: &Node| loads(&in_force).get(&node.id).map_or(0, |load| load.0);
        let (nodes, share) = match *change {
            Change::Join { weight, rack } => {
                let newcomer = node(next_id, weight, rack);
                cluster.nodes.push(newcomer);
                let bounds =
                    load_bounds(&cluster.nodes, &cluster.partitions, &cluster.options).unwrap();
                (taking.len() + 1, bounds[&NodeId(next_id)].replicas_fair)
            }
            // The last nodes that the replicas need cannot go.
            Change::Leave { .. } | Change::Drain { .. } if taking.len() <= most.max(2) => continue,
            Change::Leave { at } => {
                let gone = cluster.nodes.remove(taking[at.index(taking.len())]);
                (taking.len(), held(&gone))
            }
            Change::Drain { at } => {
                let drained = &mut cluster.nodes[taking[at.index(taking.len())]];
                drained.draining = true;
                (taking.len(), held(drained))
            }
        };
        let next =
            rebalance(&in_force, &cluster.nodes, &cluster.partitions, &cluster.options).unwrap();
        cluster.assert_complete(&next);
        cluster.assert_bounded(&next, true);
        check(&Moved {
            moved: in_force.moved_replicas(&next) as f64,
            nodes: nodes as f64,
            replicas: in_force.replica_count() as f64,
            share: f64::from(share),
        });
        in_force = next;
    }
}

const EQUAL: Draw = Draw {
    nodes: (3, 50),
    partitions_max: 10_000,
    weights: (100, 100),
    racks: false,
    mixed_replicas: false,
    slack_percent: (15, 15),
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn equal_nodes_move_a_share_and_five_percent(
        cluster in clusters(EQUAL), changes in changes((100, 100), false),
    ) {
        run(cluster, &changes, |m| {
            let allowed = (1.0 / m.nodes + 0.05) * m.replicas;
            // One replica cannot be divided: what the leaver held has to go.
            let allowed = allowed.max(m.share);
            assert!(m.moved <= allowed, "{m:?}: {allowed} allowed");
        });
    }

    #[test]
    fn unequal_nodes_move_their_share_and_five_percent(
        cluster in clusters(Draw { weights: (20, 500), ..EQUAL }),
        changes in changes((20, 500), false),
    ) {
        run(cluster, &changes, |m| {
            // Shares of single nodes are rounded too: in small clusters that is two replicas more.
            let allowed = m.share + 0.05 * m.replicas + 2.0;
            assert!(m.moved <= allowed, "{m:?}: {allowed} allowed");
        });
    }

    #[test]
    fn racks_move_their_share_and_five_percent(
        cluster in clusters(Draw { weights: (50, 200), racks: true, ..EQUAL }),
        changes in changes((50, 200), true),
    ) {
        run(cluster, &changes, |m| {
            let allowed = m.share + 0.05 * m.replicas + 2.0;
            assert!(m.moved <= allowed, "{m:?}: {allowed} allowed");
        });
    }
}
