//! Distinct nodes, distinct racks, bounded load, bounded leaders; the same answer for the same input.

use plimsoll_placement::{Node, PartitionSpec, Placement, extend, place, rebalance};
use plimsoll_protocol::ids::{GroupId, NodeId};
use proptest::prelude::*;

use crate::clusters::{Cluster, Draw, clusters, loads};

const ANY: Draw = Draw {
    nodes: (2, 50),
    partitions_max: 2_000,
    weights: (1, 1000),
    racks: true,
    mixed_replicas: false,
    slack_percent: (1, 40),
};

/// All three functions on one cluster.
fn check(cluster: &Cluster, leaders: bool) {
    let Cluster { nodes, partitions, options } = cluster;
    let ring = place(nodes, partitions, options).unwrap();
    cluster.assert_complete(&ring);
    cluster.assert_bounded(&ring, leaders);
    let new = extend(&Placement::new(), nodes, partitions, options).unwrap();
    cluster.assert_complete(&new);
    cluster.assert_bounded(&new, leaders);
    for in_force in [ring, new] {
        let first = rebalance(&in_force, nodes, partitions, options).unwrap();
        cluster.assert_complete(&first);
        cluster.assert_bounded(&first, leaders);
        let second = rebalance(&first, nodes, partitions, options).unwrap();
        assert_eq!(first, second, "rebalance changes its own result");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn every_placement_keeps_the_rules(cluster in clusters(ANY)) {
        check(&cluster, true);
    }

    #[test]
    fn every_placement_keeps_the_rules_without_racks(
        cluster in clusters(Draw { racks: false, ..ANY })
    ) {
        check(&cluster, true);
    }

    #[test]
    fn every_placement_keeps_the_rules_in_small_clusters(
        cluster in clusters(Draw { nodes: (2, 9), partitions_max: 60, ..ANY })
    ) {
        check(&cluster, true);
    }

    #[test]
    fn replication_factors_can_differ(
        cluster in clusters(Draw { mixed_replicas: true, ..ANY })
    ) {
        check(&cluster, false);
    }

    #[test]
    fn the_order_of_lists_does_not_matter(
        (cluster, nodes, partitions) in clusters(Draw { partitions_max: 200, ..ANY })
            .prop_flat_map(|c| (
                Just(c.clone()),
                Just(c.nodes).prop_shuffle(),
                Just(c.partitions).prop_shuffle(),
            ))
    ) {
        let Cluster { nodes: listed, partitions: specs, options } = &cluster;
        let expected = place(listed, specs, options).unwrap();
        prop_assert_eq!(&place(&nodes, &partitions, options).unwrap(), &expected);
        let less = rebalance(&expected, &listed[1..], specs, options);
        let shuffled: Vec<Node> = nodes.into_iter().filter(|n| n.id != listed[0].id).collect();
        prop_assert_eq!(rebalance(&expected, &shuffled, &partitions, options), less);
    }

    #[test]
    fn new_partitions_move_nothing(
        cluster in clusters(ANY), keep in 0.0..1.0_f64,
    ) {
        let Cluster { nodes, partitions, options } = &cluster;
        let old = &partitions[..(partitions.len() as f64 * keep) as usize];
        let in_force = extend(&Placement::new(), nodes, old, options).unwrap();
        let grown = extend(&in_force, nodes, partitions, options).unwrap();
        cluster.assert_complete(&grown);
        prop_assert_eq!(in_force.moved_replicas(&grown), {
            let new = &partitions[old.len()..];
            new.iter().map(|spec| usize::from(spec.replicas)).sum::<usize>()
        });
        for (group, replicas) in in_force.iter() {
            prop_assert_eq!(grown.replicas(group), replicas);
        }
    }

    #[test]
    fn rebalanced_nodes_without_racks_carry_no_less_than_their_floor(
        cluster in clusters(Draw { weights: (100, 100), racks: false, ..ANY })
    ) {
        let Cluster { nodes, partitions, options } = &cluster;
        let ring = place(nodes, partitions, options).unwrap();
        let placement = rebalance(&ring, nodes, partitions, options).unwrap();
        let loads = loads(&placement);
        let replicas_of = |node: &Node| loads.get(&node.id).map_or(0, |load| load.0 as usize);
        for node in nodes {
            let percent = 100 - options.load_slack_percent() as usize;
            let floor = placement.replica_count() * percent / (nodes.len() * 100);
            prop_assert!(replicas_of(node) >= floor, "{} below {floor}", replicas_of(node));
        }
    }
}

/// The answer itself is pinned: a node of another version or platform must see the same owners.
#[test]
fn a_known_cluster_gives_the_known_placement() {
    let nodes: Vec<Node> = (1..=5).map(|id| Node::new(NodeId(id))).collect();
    let partitions: Vec<_> =
        (1..=6).map(|group| PartitionSpec { group: GroupId(group), replicas: 3 }).collect();
    let placement = place(&nodes, &partitions, &Default::default()).unwrap();
    let replicas: Vec<Vec<u64>> =
        placement.iter().map(|(_, replicas)| replicas.iter().map(|n| n.0).collect()).collect();
    let expected = [[4, 5, 3], [1, 5, 3], [5, 2, 3], [2, 5, 4], [3, 1, 4], [1, 5, 4]];
    assert_eq!(replicas, expected);
}

#[test]
fn a_draining_node_holds_nothing_and_its_weight_does_not_count() {
    let mut nodes: Vec<Node> = (1..=5).map(|id| Node::new(NodeId(id))).collect();
    let partitions: Vec<_> =
        (1..=100).map(|group| PartitionSpec { group: GroupId(group), replicas: 3 }).collect();
    let options = Default::default();
    let full = place(&nodes, &partitions, &options).unwrap();
    nodes[2].draining = true;
    let drained = rebalance(&full, &nodes, &partitions, &options).unwrap();
    let loads = loads(&drained);
    assert!(!loads.contains_key(&NodeId(3)));
    assert!(loads.values().all(|&(replicas, _)| replicas <= 87), "{loads:?}");
    let without: Vec<Node> = nodes.iter().filter(|n| !n.draining).cloned().collect();
    assert_eq!(rebalance(&full, &without, &partitions, &options).unwrap(), drained);
}
