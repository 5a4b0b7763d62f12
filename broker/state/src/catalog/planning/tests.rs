use std::collections::BTreeSet;

use plimsoll_protocol::api::TopicConfig;
use plimsoll_protocol::ids::PartitionIndex;
use proptest::prelude::*;

use super::*;
use crate::catalog::node_tests::{
    add, cluster, create, done, name, refused as command_refused, spec,
};
use crate::catalog::{CatalogReply, CatalogState, ConfigPatch};

fn placed(catalog: &mut Catalog, topic: &str, partitions: u32, replicas: u16) {
    let placement = place_topic(catalog, partitions, replicas).unwrap();
    done(catalog, create(topic, replicas, Some(placement)));
}

fn put_in_force(catalog: &mut Catalog, plan: &PlacementPlan) {
    done(catalog, plan.command());
    let again = rebalance(catalog).unwrap();
    assert!(again.is_empty(), "a second plan moves {:?}", again.changes);
}

fn join(catalog: &mut Catalog, node: u64) {
    done(catalog, add(node.into()));
    done(catalog, CatalogCommand::ActivateNode { node: NodeId(node) });
}

fn too_few(asked: u16, active: u32, draining: u32) -> PlanError {
    CatalogRefusal::NotEnoughNodes { asked, active, draining }.into()
}

#[test]
fn topic_of_the_default_gets_its_replicas_as_nodes_join() {
    let mut catalog = cluster(1);
    assert_eq!(replica_counts(&catalog, 0), (3, 1));
    assert_eq!(replica_counts(&catalog, 2), (2, 2));
    let placement = place_topic(&catalog, 2, 1).unwrap();
    done(&mut catalog, create("a", 3, Some(placement)));
    let counts = |catalog: &Catalog| {
        catalog.placements().map(|(_, set)| set.wanted.len()).collect::<Vec<_>>()
    };
    assert_eq!(counts(&catalog), [1, 1]);
    for (node, count) in [(2, 2), (3, 3), (4, 3)] {
        join(&mut catalog, node);
        let plan = rebalance(&catalog).unwrap();
        put_in_force(&mut catalog, &plan);
        assert_eq!(counts(&catalog), [count, count], "with {node} nodes");
    }
    assert_eq!(replica_counts(&catalog, 0), (3, 3));
    // A partition more has as many.
    let added = extend_topic(&catalog, &name("a"), 3).unwrap();
    assert_eq!(added.replicas[0].len(), 3);
}

#[test]
fn new_topic_avoids_nodes_that_are_down_where_it_can() {
    let catalog = cluster(4);
    let down = BTreeSet::from([NodeId(2)]);
    let placed = |replicas| {
        let placed = place_topic_beside(&catalog, 20, replicas, &down).unwrap();
        placed.replicas.iter().any(|list| list.contains(&NodeId(2)))
    };
    assert_eq!((placed(1), placed(3), placed(4)), (false, false, true));
}

#[test]
fn new_topic_is_spread_and_moves_nothing() {
    let mut catalog = cluster(3);
    placed(&mut catalog, "a", 12, 3);
    placed(&mut catalog, "b", 12, 1);
    let plan = rebalance(&catalog).unwrap();
    let moved: Vec<_> = plan.changes.iter().map(|one| one.group).collect();
    assert_eq!(moved, [GroupId::CATALOG], "two nodes become voters, no replica moves");
    assert_eq!((plan.replicas_moved, plan.replicas_total), (0, 48));
    let loads: Vec<_> = plan.loads.values().map(|load| load.after).collect();
    assert_eq!(loads, [16, 16, 16]);
    let leads = |node| {
        let first = |set: &crate::catalog::ReplicaSet| set.wanted[0] == NodeId(node);
        catalog.placements().filter(|(_, set)| first(set)).count()
    };
    assert!((1..=3).all(|node| (7..=10).contains(&leads(node))));
}

#[test]
fn counted_partitions_weigh_as_much_as_listed_ones() {
    let mut catalog = cluster(5);
    for (at, (partitions, replicas)) in [(7, 3), (20, 1), (3, 5), (11, 2)].into_iter().enumerate() {
        let mut specs = specs(&catalog, usize::MAX);
        let first = catalog.next_group_id;
        let new: Vec<_> = (first..first + u64::from(partitions))
            .map(|group| PartitionSpec { group: GroupId(group), replicas })
            .collect();
        specs.extend(&new);
        let (nodes, options) = (placement_nodes(&catalog), PlacementOptions::default());
        let listed =
            plimsoll_placement::extend(&in_force(&catalog), &nodes, &specs, &options).unwrap();
        let counted = place_topic(&catalog, partitions, replicas.into()).unwrap();
        for (spec, replicas) in new.iter().zip(&counted.replicas) {
            assert_eq!(listed.replicas(spec.group), &**replicas);
        }
        placed(&mut catalog, &format!("t{at}"), partitions, replicas.into());
    }
}

#[test]
fn added_partitions_are_placed_beside_those_in_force() {
    let mut catalog = cluster(3);
    placed(&mut catalog, "a", 3, 2);
    let topic = name("a");
    let before: Vec<_> = catalog.topic(&topic).unwrap().placement.clone();
    let placement = Some(extend_topic(&catalog, &topic, 9).unwrap());
    let patch = ConfigPatch::default();
    let topic_name = topic.clone();
    done(
        &mut catalog,
        CatalogCommand::AlterTopic { topic: topic_name, partitions: Some(9), patch, placement },
    );
    let meta = catalog.topic(&topic).unwrap();
    assert_eq!(meta.placement[..3], before[..]);
    assert_eq!((meta.placement.len(), meta.replica_set(PartitionIndex(9))), (9, None));
    assert_eq!(rebalance(&catalog).unwrap().replicas_moved, 0);
    assert!(extend_topic(&catalog, &topic, 9).unwrap().replicas.is_empty());
    let unknown = CatalogRefusal::UnknownTopic { topic: name("z") };
    assert_eq!(extend_topic(&catalog, &name("z"), 9), Err(unknown.into()));
}

#[test]
fn more_replicas_than_nodes_is_refused_with_both_numbers() {
    let mut catalog = cluster(3);
    assert_eq!(place_topic(&catalog, 1, 4), Err(too_few(4, 3, 0)));
    assert_eq!(place_topic(&catalog, 1, 0), Err(CatalogRefusal::NoReplicas.into()));
    let many = CatalogRefusal::TooManyReplicas { asked: 10 };
    assert_eq!(place_topic(&catalog, 1, 10), Err(many.into()));
    placed(&mut catalog, "a", 4, 2);
    done(&mut catalog, CatalogCommand::DrainNode { node: NodeId(3), on: true });
    assert_eq!(place_topic(&catalog, 1, 3), Err(too_few(3, 2, 1)));
    assert_eq!(drained(&catalog, NodeId(2)), Err(too_few(2, 1, 2)));
    assert_eq!(without(&catalog, NodeId(2), false), Err(too_few(2, 1, 1)));
    let empty = Catalog::default();
    assert_eq!(place_topic(&empty, 1, 1), Err(CatalogRefusal::NotSetUp.into()));
    assert_eq!(rebalance(&empty), Err(CatalogRefusal::NotSetUp.into()));
}

#[test]
fn voters_of_the_catalog_are_odd_and_at_most_five() {
    let expected = [0, 1, 1, 3, 3, 5, 5, 5];
    for (active, voters) in expected.into_iter().enumerate() {
        assert_eq!(metadata_voters(active), voters, "{active} nodes");
    }
    let mut catalog = cluster(7);
    let plan = rebalance(&catalog).unwrap();
    assert_eq!(plan.changes.len(), 1);
    assert_eq!(plan.changes[0].to.len(), 5);
    put_in_force(&mut catalog, &plan);
    // One that votes goes: another takes its place, the others stay.
    let voters = Replicas::clone(&catalog.replica_set(GroupId::CATALOG).unwrap().wanted);
    let plan = without(&catalog, voters[1], false).unwrap();
    assert_eq!(plan.changes[0].group, GroupId::CATALOG);
    let kept = plan.changes[0].to.iter().filter(|node| voters.contains(node)).count();
    assert_eq!((plan.changes[0].to.len(), kept), (5, 4));
}

#[test]
fn drained_node_is_emptied_and_can_be_removed() {
    let mut catalog = cluster(4);
    placed(&mut catalog, "a", 40, 3);
    let shown = drained(&catalog, NodeId(2)).unwrap();
    done(&mut catalog, CatalogCommand::DrainNode { node: NodeId(2), on: true });
    let plan = rebalance(&catalog).unwrap();
    assert_eq!(plan.changes, shown.changes, "what was shown is what is done");
    assert_eq!(plan.loads[&NodeId(2)].after, 0);
    put_in_force(&mut catalog, &plan);
    assert!(catalog.groups_of(NodeId(2)).is_empty());
    let groups = catalog.placements().map(|(group, _)| group).collect();
    done(&mut catalog, CatalogCommand::SealBirths { groups });
    done(&mut catalog, CatalogCommand::RemoveNode { node: NodeId(2), force: false });
    assert_eq!(
        drained(&catalog, NodeId(2)),
        Err(CatalogRefusal::NodeRemoved { node: NodeId(2) }.into())
    );
    assert_eq!(
        without(&catalog, NodeId(9), true),
        Err(CatalogRefusal::UnknownNode { node: NodeId(9) }.into())
    );
}

#[test]
fn dead_node_is_replaced_or_by_force_done_without() {
    let mut catalog = cluster(3);
    placed(&mut catalog, "a", 30, 3);
    assert_eq!(without(&catalog, NodeId(3), false), Err(too_few(3, 2, 0)));
    let plan = without(&catalog, NodeId(3), true).unwrap();
    assert_eq!(plan.replicas_moved, 0);
    put_in_force_but(&mut catalog, &plan, NodeId(3));
    assert!(catalog.placements().all(|(_, set)| set.wanted.len() == 2));
    // Whole again as soon as there is a node for it.
    join(&mut catalog, 4);
    let plan = rebalance(&catalog).unwrap();
    assert_eq!((plan.replicas_moved, plan.replicas_total), (30, 90));
    put_in_force(&mut catalog, &plan);

    let mut one = cluster(1);
    placed(&mut one, "a", 1, 1);
    let last = CatalogRefusal::LastNode { node: NodeId(1) };
    assert_eq!(without(&one, NodeId(1), true), Err(last.into()));
}

/// Without the node, which is removed then.
fn put_in_force_but(catalog: &mut Catalog, plan: &PlacementPlan, node: NodeId) {
    done(catalog, plan.command());
    done(catalog, CatalogCommand::RemoveNode { node, force: true });
    assert!(rebalance(catalog).unwrap().is_empty());
}

#[test]
fn stale_plan_is_refused() {
    let mut catalog = cluster(3);
    placed(&mut catalog, "a", 3, 3);
    let plan = rebalance(&catalog).unwrap();
    join(&mut catalog, 4);
    let refusal = command_refused(&mut catalog, plan.command());
    assert!(matches!(refusal, CatalogRefusal::StalePlacement { .. }));
}

/// What happens to a cluster.
#[derive(Debug, Clone)]
enum Event {
    Join,
    Create { partitions: u32, replicas: u16 },
    Grow { topic: usize, partitions: u32 },
    Delete { topic: usize },
    Rebalance,
    Drain { node: usize, on: bool },
    Remove { node: usize, force: bool },
    Reweigh { node: usize, weight: u32, rack: Option<u8> },
    Seal,
}

fn event() -> impl Strategy<Value = Event> {
    let some = 0..64_usize;
    prop_oneof![
        3 => Just(Event::Join),
        4 => (1..12_u32, 1..5_u16)
            .prop_map(|(partitions, replicas)| Event::Create { partitions, replicas }),
        1 => (some.clone(), 1..20_u32)
            .prop_map(|(topic, partitions)| Event::Grow { topic, partitions }),
        1 => some.clone().prop_map(|topic| Event::Delete { topic }),
        2 => Just(Event::Rebalance),
        1 => (some.clone(), any::<bool>()).prop_map(|(node, on)| Event::Drain { node, on }),
        1 => (some.clone(), any::<bool>()).prop_map(|(node, force)| Event::Remove { node, force }),
        1 => (some, 1..1000_u32, prop::option::of(0..3_u8))
            .prop_map(|(node, weight, rack)| Event::Reweigh { node, weight, rack }),
        1 => Just(Event::Seal),
    ]
}

/// The commands with which a proposer that knows this catalog answers an event.
fn commands(catalog: &Catalog, event: &Event) -> Vec<CatalogCommand> {
    let nodes: Vec<NodeId> = catalog.members().map(|(id, _)| id).collect();
    let topics: Vec<_> = catalog.topics().map(|(name, _)| name.clone()).collect();
    let topic = |at: usize| (!topics.is_empty()).then(|| topics[at % topics.len()].clone());
    match *event {
        Event::Join => {
            let next = catalog.nodes().count() as u64 + 1;
            vec![add(next.into()), CatalogCommand::ActivateNode { node: NodeId(next) }]
        }
        Event::Create { partitions, replicas } => {
            let placement = place_topic(catalog, partitions, replicas).ok();
            vec![CatalogCommand::CreateTopic {
                topic: name(&format!("t{}", catalog.epoch() % 40)),
                partitions,
                replicas,
                config: TopicConfig::default(),
                if_not_exists: partitions % 2 == 0,
                placement,
            }]
        }
        Event::Grow { topic: at, partitions } => {
            let Some(topic) = topic(at) else { return Vec::new() };
            let placement = extend_topic(catalog, &topic, partitions).ok();
            let (partitions, patch) = (Some(partitions), ConfigPatch::default());
            vec![CatalogCommand::AlterTopic { topic, partitions, patch, placement }]
        }
        Event::Delete { topic: at } => {
            topic(at).map(|topic| CatalogCommand::DeleteTopic { topic }).into_iter().collect()
        }
        Event::Rebalance => rebalance(catalog).iter().map(PlacementPlan::command).collect(),
        Event::Drain { node, on } => {
            vec![CatalogCommand::DrainNode { node: nodes[node % nodes.len()], on }]
        }
        Event::Remove { node, force } => {
            let node = nodes[node % nodes.len()];
            let plan = without(catalog, node, force);
            let mut commands: Vec<_> = plan.iter().map(PlacementPlan::command).collect();
            commands.push(CatalogCommand::RemoveNode { node, force });
            commands
        }
        Event::Reweigh { node, weight, rack } => {
            let node = nodes[node % nodes.len()];
            let address = catalog.node(node).map_or("", |meta| &meta.spec.address);
            let rack = rack.map(|rack| rack.to_string());
            let spec = NodeSpecOf { address, rack, weight }.into();
            vec![CatalogCommand::UpdateNode { node, spec }]
        }
        Event::Seal => {
            let groups = catalog.placements().map(|(group, _)| group).step_by(3).collect();
            vec![CatalogCommand::SealBirths { groups }]
        }
    }
}

struct NodeSpecOf<'a> {
    address: &'a str,
    rack: Option<String>,
    weight: u32,
}

impl From<NodeSpecOf<'_>> for crate::catalog::NodeSpec {
    fn from(of: NodeSpecOf<'_>) -> Self {
        Self { rack: of.rack, weight_hundredths: of.weight, ..spec(of.address) }
    }
}

/// What holds of every catalog, whatever was proposed.
fn check(catalog: &Catalog) -> Result<(), TestCaseError> {
    let members: BTreeSet<NodeId> = catalog.members().map(|(id, _)| id).collect();
    let mut groups = BTreeSet::new();
    for (name, topic) in catalog.topics() {
        prop_assert_eq!(topic.partitions.len(), topic.placement.len());
        for (at, &group) in topic.partitions.iter().enumerate() {
            prop_assert!(groups.insert(group), "group {} twice", group);
            let found = catalog.locate(group).unwrap();
            prop_assert_eq!((found.name, found.partition.0 as usize), (name, at));
            prop_assert!(!catalog.was_deleted(group));
        }
    }
    let metadata = catalog.replica_set(GroupId::CATALOG).unwrap();
    for set in catalog.placements().map(|(_, set)| set).chain([metadata]) {
        let distinct: BTreeSet<_> = set.wanted.iter().collect();
        prop_assert_eq!(distinct.len(), set.wanted.len());
        prop_assert!(!set.wanted.is_empty());
        prop_assert!(set.wanted.iter().all(|node| members.contains(node)), "{:?}", set);
    }
    for group in 1..catalog.next_group_id {
        let group = GroupId(group);
        prop_assert_eq!(catalog.was_deleted(group), !groups.contains(&group));
    }
    Ok(())
}

/// Ids that were handed out, by what they were for.
#[derive(Default)]
struct HandedOut {
    topics: BTreeSet<u64>,
    groups: BTreeSet<GroupId>,
    nodes: BTreeSet<NodeId>,
}

impl HandedOut {
    fn see(&mut self, before: &Catalog, reply: &CatalogReply) -> Result<(), TestCaseError> {
        match reply {
            CatalogReply::Created { topic, existed: false } => {
                prop_assert!(self.topics.insert(topic.topic_id));
                for &group in &topic.partitions {
                    prop_assert!(self.groups.insert(group));
                }
            }
            CatalogReply::Altered(topic) => {
                for &group in &topic.partitions {
                    let new = before.locate(group).is_none();
                    prop_assert_eq!(self.groups.insert(group), new);
                }
            }
            CatalogReply::Node { node, existed: false } => {
                prop_assert!(self.nodes.insert(*node));
            }
            _ => {}
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn rules_hold_through_the_life_of_a_cluster(
        events in prop::collection::vec(event(), 0..40),
    ) {
        let mut catalog = cluster(1);
        let mut handed_out = HandedOut::default();
        for event in events {
            for command in commands(&catalog, &event) {
                // As it is read from the log.
                let command = CatalogCommand::decode(&command.encode()).unwrap();
                let before = catalog.clone();
                let reply = catalog.apply(command, 5);
                if matches!(reply, CatalogReply::Refused(_)) {
                    prop_assert_eq!(&catalog, &before);
                }
                handed_out.see(&before, &reply)?;
                check(&catalog)?;
                let copy = read_back(&catalog);
                prop_assert_eq!(&copy, &catalog);
                prop_assert_eq!(CatalogReply::decode(&reply.encode(), &catalog), Ok(reply));
            }
        }
    }

    #[test]
    fn join_and_leave_move_no_more_than_the_ring_says(
        nodes in 3..10_u64,
        topics in prop::collection::vec((20..60_u32, 1..4_u16), 2..6),
        leaver in 0..10_u64,
    ) {
        let mut catalog = cluster(nodes);
        for (at, (partitions, replicas)) in topics.into_iter().enumerate() {
            placed(&mut catalog, &format!("t{at}"), partitions, replicas);
        }
        let plan = rebalance(&catalog).unwrap();
        put_in_force(&mut catalog, &plan);
        let within = |plan: &PlacementPlan, n: u64| {
            let allowed = plan.replicas_total as u64 * (100 + 5 * n) / (100 * n);
            plan.replicas_moved as u64 <= allowed + 1
        };

        join(&mut catalog, nodes + 1);
        let plan = rebalance(&catalog).unwrap();
        prop_assert!(within(&plan, nodes + 1), "join moved {} of {}", plan.replicas_moved, plan.replicas_total);
        put_in_force(&mut catalog, &plan);

        let leaver = NodeId(1 + leaver % (nodes + 1));
        let plan = without(&catalog, leaver, false).unwrap();
        prop_assert!(within(&plan, nodes + 1), "leave moved {} of {}", plan.replicas_moved, plan.replicas_total);
        prop_assert_eq!(plan.loads[&leaver].after, 0);
        put_in_force_but(&mut catalog, &plan, leaver);
    }
}

fn read_back(catalog: &Catalog) -> Catalog {
    let state = CatalogState::of(catalog.clone());
    CatalogState::decode(&state.encode()).unwrap().catalog().clone()
}
