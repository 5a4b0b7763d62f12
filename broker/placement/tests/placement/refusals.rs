//! What no placement can answer is a typed error that names what is wrong.

use plimsoll_placement::{
    Node, NotEnoughNodes, PartitionSpec, PlaceError, Placement, PlacementOptions, extend, place,
    rebalance,
};
use plimsoll_protocol::ids::{GroupId, NodeId};

fn nodes(count: u64) -> Vec<Node> {
    (1..=count).map(|id| Node::new(NodeId(id))).collect()
}

fn spec(group: u64, replicas: u8) -> PartitionSpec {
    PartitionSpec { group: GroupId(group), replicas }
}

#[test]
fn more_replicas_than_nodes_names_both() {
    let mut nodes = nodes(4);
    nodes[0].draining = true;
    nodes[3].draining = true;
    let options = PlacementOptions::default();
    let expected = PlaceError::NotEnoughNodes(NotEnoughNodes {
        group: GroupId(8),
        replication_factor: 3,
        nodes: 2,
        draining: 2,
    });
    let partitions = [spec(7, 2), spec(8, 3)];
    assert_eq!(place(&nodes, &partitions, &options), Err(expected.clone()));
    assert_eq!(rebalance(&Placement::new(), &nodes, &partitions, &options), Err(expected.clone()));
    let text = expected.to_string();
    assert!(text.contains("3 replicas") && text.contains("2 nodes"), "{text}");
}

#[test]
fn existing_partitions_do_not_stop_new_ones_that_fit() {
    let options = PlacementOptions::default();
    let wide = [spec(1, 3)];
    let in_force = place(&nodes(3), &wide, &options).unwrap();
    let grown = extend(&in_force, &nodes(2), &[spec(1, 3), spec(2, 2)], &options).unwrap();
    assert_eq!(grown.replicas(GroupId(1)), in_force.replicas(GroupId(1)));
    assert_eq!(grown.replicas(GroupId(2)).len(), 2);
}

#[test]
fn contradictions_are_refused() {
    let options = PlacementOptions::default();
    let mut twice = nodes(3);
    twice[2].id = NodeId(1);
    assert_eq!(place(&twice, &[], &options), Err(PlaceError::DuplicateNode { node: NodeId(1) }));
    assert_eq!(
        place(&nodes(3), &[spec(4, 1), spec(4, 1)], &options),
        Err(PlaceError::DuplicatePartition { group: GroupId(4) })
    );
    assert_eq!(
        place(&nodes(3), &[spec(4, 0)], &options),
        Err(PlaceError::NoReplicas { group: GroupId(4) })
    );
    assert_eq!(
        place(&nodes(10_001), &[], &options),
        Err(PlaceError::TooManyNodes { nodes: 10_001 })
    );
}

#[test]
fn nothing_to_place_is_an_empty_placement() {
    let options = PlacementOptions::default();
    assert_eq!(place(&[], &[], &options), Ok(Placement::new()));
    assert!(place(&[], &[spec(1, 1)], &options).is_err());
}
