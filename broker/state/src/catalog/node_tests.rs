use std::sync::Arc;

use bytes::Bytes;
use plimsoll_protocol::api::{NodeState, TopicConfig};
use plimsoll_protocol::batch::{BatchHeader, EntryKind};
use plimsoll_protocol::ids::{GroupId, LogIndex, NodeId, PartitionIndex, Term, TopicName};

use super::*;

pub(super) fn spec(address: &str) -> NodeSpec {
    NodeSpec {
        address: address.into(),
        rack: None,
        weight_hundredths: 100,
        version: "0.1.0".into(),
    }
}

pub(super) fn name(text: &str) -> TopicName {
    TopicName::new(text).unwrap()
}

pub(super) fn done(catalog: &mut Catalog, command: CatalogCommand) -> CatalogReply {
    let shown = format!("{command:?}");
    match catalog.apply(command, 5) {
        CatalogReply::Refused(refusal) => panic!("{shown} was refused: {refusal}"),
        reply => reply,
    }
}

pub(super) fn refused(catalog: &mut Catalog, command: CatalogCommand) -> CatalogRefusal {
    let before = catalog.clone();
    match catalog.apply(command, 5) {
        CatalogReply::Refused(refusal) => {
            assert_eq!(*catalog, before, "a refusal changes nothing");
            refusal
        }
        other => panic!("{other:?}"),
    }
}

fn set_up(node: u64) -> CatalogCommand {
    let spec = spec("n1:7420");
    CatalogCommand::SetUp { node: NodeId(node), spec, join_secret: JoinSecret([7; 32]) }
}

pub(super) fn add(join_id: u128) -> CatalogCommand {
    let spec = spec(&format!("n{join_id}:7420"));
    CatalogCommand::AddNode { join_id, spec, takes_address: false }
}

/// Nodes 1 to `count`, all active.
pub(super) fn cluster(count: u64) -> Catalog {
    let mut catalog = Catalog::default();
    done(&mut catalog, set_up(1));
    for node in 2..=count {
        let reply = done(&mut catalog, add(node.into()));
        assert_eq!(reply, CatalogReply::Node { node: NodeId(node), existed: false });
        done(&mut catalog, CatalogCommand::ActivateNode { node: NodeId(node) });
    }
    catalog
}

/// A topic with proposed places, or the refusal.
pub(super) fn create(
    topic: &str,
    replicas: u16,
    placement: Option<ProposedPlacement>,
) -> CatalogCommand {
    let partitions = placement.as_ref().map_or(1, |p| u32::try_from(p.replicas.len()).unwrap());
    CatalogCommand::CreateTopic {
        topic: name(topic),
        partitions,
        replicas,
        config: TopicConfig::default(),
        if_not_exists: false,
        placement,
    }
}

fn places(base: u64, lists: &[&[u64]]) -> Option<ProposedPlacement> {
    let list = |nodes: &&[u64]| nodes.iter().copied().map(NodeId).collect();
    Some(ProposedPlacement { base, replicas: lists.iter().map(list).collect() })
}

fn wanted(group: u64, nodes: &[u64]) -> PlacementChange {
    let wanted = nodes.iter().copied().map(NodeId).collect();
    PlacementChange { group: GroupId(group), wanted }
}

fn move_to(catalog: &Catalog, changes: &[PlacementChange]) -> CatalogCommand {
    CatalogCommand::SetPlacement { base: catalog.placement_epoch(), changes: changes.to_vec() }
}

fn list(set: &ReplicaSet) -> Vec<u64> {
    set.wanted.iter().map(|node| node.0).collect()
}

#[test]
fn topics_of_before_belong_on_the_node_that_sets_up() {
    let mut catalog = Catalog::default();
    done(&mut catalog, create("old", 1, None));
    assert!(catalog.replica_set(GroupId(1)).unwrap().wanted.is_empty());
    assert_eq!(refused(&mut catalog, add(9)), CatalogRefusal::NotSetUp);
    let first = CatalogReply::Node { node: NodeId(77), existed: false };
    assert_eq!(done(&mut catalog, set_up(77)), first);
    let set = catalog.replica_set(GroupId(1)).unwrap();
    assert_eq!((list(set), set.birth.as_deref()), (vec![77], Some(&[NodeId(77)][..])));
    assert_eq!(list(catalog.replica_set(GroupId::CATALOG).unwrap()), [77]);
    assert_eq!((catalog.level(), catalog.settings().auto_rebalance), (1, true));
    // Every start proposes it again.
    let again = CatalogReply::Node { node: NodeId(77), existed: true };
    let before = catalog.clone();
    assert_eq!(done(&mut catalog, set_up(77)), again);
    assert_eq!(catalog, before);
    let other = CatalogRefusal::SetUpAlready { node: NodeId(78) };
    assert_eq!(refused(&mut catalog, set_up(78)), other);
    // The next one has the next id.
    let next = CatalogReply::Node { node: NodeId(78), existed: false };
    assert_eq!(done(&mut catalog, add(5)), next);
}

#[test]
fn one_node_places_topics_by_itself_and_several_do_not() {
    let mut catalog = cluster(1);
    done(&mut catalog, create("a", 1, None));
    assert_eq!(list(catalog.replica_set(GroupId(1)).unwrap()), [1]);
    // The second replica is made when there is a node for it.
    done(&mut catalog, create("b", 2, None));
    assert_eq!(list(catalog.replica_set(GroupId(2)).unwrap()), [1]);
    done(&mut catalog, add(2));
    assert_eq!(refused(&mut catalog, create("c", 1, None)), CatalogRefusal::PlacementMissing);
}

#[test]
fn node_that_joins_twice_keeps_its_id() {
    let mut catalog = cluster(2);
    let before = catalog.clone();
    let again = CatalogReply::Node { node: NodeId(2), existed: true };
    assert_eq!(done(&mut catalog, add(2)), again);
    assert_eq!(catalog, before);
}

#[test]
fn address_of_a_member_is_taken_only_from_one_that_is_gone() {
    let mut catalog = cluster(2);
    let at = |takes_address| CatalogCommand::AddNode {
        join_id: 99,
        spec: spec("n2:7420"),
        takes_address,
    };
    let taken = CatalogRefusal::AddressTaken { address: "n2:7420".into(), node: NodeId(2) };
    assert_eq!(refused(&mut catalog, at(false)), taken);
    done(&mut catalog, at(true));
    assert_eq!(catalog.node(NodeId(2)).unwrap().spec.address, "");
    assert_eq!(catalog.node(NodeId(3)).unwrap().spec.address, "n2:7420");
    // A member says where it lives, and is believed.
    let back = CatalogCommand::UpdateNode { node: NodeId(2), spec: spec("n2:7420") };
    done(&mut catalog, back);
    assert_eq!(catalog.node(NodeId(3)).unwrap().spec.address, "");
}

#[test]
fn what_a_node_says_is_checked() {
    let mut catalog = cluster(1);
    for bad in [
        NodeSpec { address: String::new(), ..spec("x") },
        NodeSpec { address: "x".repeat(262), ..spec("x") },
        NodeSpec { rack: Some(String::new()), ..spec("x") },
        NodeSpec { weight_hundredths: 0, ..spec("x") },
        NodeSpec { weight_hundredths: 1001, ..spec("x") },
        NodeSpec { version: "v".repeat(65), ..spec("x") },
    ] {
        let join = CatalogCommand::AddNode { join_id: 9, spec: bad, takes_address: false };
        assert!(matches!(refused(&mut catalog, join), CatalogRefusal::InvalidNode { .. }));
    }
}

#[test]
fn proposed_places_are_checked() {
    let mut catalog = cluster(3);
    done(&mut catalog, add(4));
    let base = catalog.placement_epoch();
    let stale = CatalogRefusal::StalePlacement { base: base - 1, now: base };
    assert_eq!(refused(&mut catalog, create("a", 2, places(base - 1, &[&[1, 2]]))), stale);
    for lists in [&[&[1, 1][..]][..], &[&[1]], &[&[1, 2, 3]]] {
        let refusal = refused(&mut catalog, create("a", 2, places(base, lists)));
        assert!(matches!(refusal, CatalogRefusal::InvalidPlacement { .. }), "{refusal:?}");
    }
    let joining = CatalogRefusal::NodeNotActive { node: NodeId(4), state: NodeState::Joining };
    assert_eq!(refused(&mut catalog, create("a", 2, places(base, &[&[1, 4]]))), joining);
    let unknown = CatalogRefusal::UnknownNode { node: NodeId(9) };
    assert_eq!(refused(&mut catalog, create("a", 2, places(base, &[&[1, 9]]))), unknown);
    for list in [&[1, 2, 3, 4][..], &[1, 2]] {
        let refusal = refused(&mut catalog, create("a", 4, places(base, &[list])));
        assert!(matches!(refusal, CatalogRefusal::InvalidPlacement { .. }), "{refusal:?}");
    }

    done(&mut catalog, create("a", 2, places(base, &[&[1, 2], &[3, 1]])));
    // New topics make no other placement stale, nodes do.
    assert_eq!(catalog.placement_epoch(), base);
    let set = catalog.replica_set(GroupId(2)).unwrap();
    assert_eq!((list(set), set.birth.as_ref()), (vec![3, 1], Some(&set.wanted)));
    let alter = |base, partitions, lists: &[&[u64]]| CatalogCommand::AlterTopic {
        topic: name("a"),
        partitions: Some(partitions),
        patch: ConfigPatch::default(),
        placement: places(base, lists),
    };
    done(&mut catalog, alter(base, 3, &[&[2, 3]]));
    // Two places for what is one more partition by now: somebody else added one.
    let refusal = refused(&mut catalog, alter(base, 4, &[&[2, 3], &[1, 2]]));
    assert_eq!(refusal, CatalogRefusal::StalePlacement { base, now: base });
    done(&mut catalog, CatalogCommand::ActivateNode { node: NodeId(4) });
    let refusal = refused(&mut catalog, alter(base, 4, &[&[2, 3]]));
    assert_eq!(refusal, CatalogRefusal::StalePlacement { base, now: base + 1 });
}

#[test]
fn places_change_together_or_not_at_all() {
    let mut catalog = cluster(4);
    let base = catalog.placement_epoch();
    done(&mut catalog, create("a", 2, places(base, &[&[1, 2], &[2, 3]])));
    done(&mut catalog, create("b", 2, places(base, &[&[1, 2]])));
    let bad = move_to(&catalog, &[wanted(1, &[3, 4]), wanted(2, &[4, 4])]);
    assert!(matches!(refused(&mut catalog, bad), CatalogRefusal::InvalidPlacement { .. }));
    let bad = move_to(&catalog, &[wanted(1, &[1, 2, 3])]);
    assert!(matches!(refused(&mut catalog, bad), CatalogRefusal::InvalidPlacement { .. }));
    let bad = move_to(&catalog, &[wanted(4, &[1])]);
    assert_eq!(refused(&mut catalog, bad), CatalogRefusal::UnknownGroup { group: GroupId(4) });

    done(&mut catalog, CatalogCommand::DeleteTopic { topic: name("b") });
    let changes = [wanted(1, &[3, 4]), wanted(3, &[4, 1]), wanted(0, &[1, 2, 3])];
    let good = move_to(&catalog, &changes);
    done(&mut catalog, good.clone());
    let set = catalog.replica_set(GroupId(1)).unwrap();
    assert_eq!((list(set), set.birth.as_deref()), (vec![3, 4], Some(&[NodeId(1), NodeId(2)][..])));
    assert_eq!(list(catalog.replica_set(GroupId(2)).unwrap()), [2, 3]);
    assert_eq!(list(catalog.replica_set(GroupId::CATALOG).unwrap()), [1, 2, 3]);
    assert!(matches!(refused(&mut catalog, good), CatalogRefusal::StalePlacement { .. }));

    done(&mut catalog, CatalogCommand::SealBirths { groups: vec![GroupId(1), GroupId(3)] });
    assert_eq!(catalog.replica_set(GroupId(1)).unwrap().birth, None);
    assert!(catalog.replica_set(GroupId(2)).unwrap().birth.is_some());
}

#[test]
fn drain_needs_room_elsewhere() {
    let mut catalog = cluster(3);
    let drain = |node, on| CatalogCommand::DrainNode { node: NodeId(node), on };
    let base = catalog.placement_epoch();
    done(&mut catalog, create("a", 2, places(base, &[&[1, 2]])));
    done(&mut catalog, drain(3, true));
    done(&mut catalog, drain(3, true));
    let few = CatalogRefusal::NotEnoughNodes { asked: 2, active: 1, draining: 2 };
    assert_eq!(refused(&mut catalog, drain(2, true)), few);
    // It takes nothing new, and keeps what it has until that is moved.
    let full = move_to(&catalog, &[wanted(1, &[1, 3])]);
    let not = CatalogRefusal::NodeNotActive { node: NodeId(3), state: NodeState::Draining };
    assert_eq!(refused(&mut catalog, full), not);
    done(&mut catalog, drain(3, false));
    done(&mut catalog, drain(2, true));
    let stays = move_to(&catalog, &[wanted(1, &[3, 2])]);
    done(&mut catalog, stays);
    let mut one = cluster(1);
    let few = CatalogRefusal::NotEnoughNodes { asked: 1, active: 0, draining: 1 };
    assert_eq!(refused(&mut one, drain(1, true)), few);
}

#[test]
fn node_goes_when_nothing_belongs_on_it() {
    let mut catalog = cluster(3);
    let remove = |node, force| CatalogCommand::RemoveNode { node: NodeId(node), force };
    let base = catalog.placement_epoch();
    done(&mut catalog, create("a", 2, places(base, &[&[1, 3]])));
    let held = CatalogRefusal::NodeInUse { node: NodeId(3), partitions: 1 };
    assert_eq!(refused(&mut catalog, remove(3, false)), held);
    assert_eq!(catalog.groups_of(NodeId(3)), [GroupId(1)]);
    let away = move_to(&catalog, &[wanted(1, &[1, 2])]);
    done(&mut catalog, away);
    // Unless it was never used, it may still have to be born there.
    assert_eq!(refused(&mut catalog, remove(3, false)), held);
    let mut forced = catalog.clone();
    done(&mut forced, remove(3, true));
    done(&mut catalog, CatalogCommand::SealBirths { groups: vec![GroupId(1)] });
    done(&mut catalog, remove(3, false));
    done(&mut catalog, remove(3, false));
    assert_eq!(catalog.members().count(), 2);
    let gone = CatalogRefusal::NodeRemoved { node: NodeId(3) };
    assert_eq!(refused(&mut catalog, add(3)), gone);
    assert_eq!(refused(&mut catalog, CatalogCommand::ActivateNode { node: NodeId(3) }), gone);
    // Its id is not used again.
    let next = CatalogReply::Node { node: NodeId(4), existed: false };
    assert_eq!(done(&mut catalog, add(4)), next);
    let mut one = cluster(1);
    assert_eq!(refused(&mut one, remove(1, true)), CatalogRefusal::LastNode { node: NodeId(1) });
}

#[test]
fn groups_are_located_and_deletion_is_known() {
    let mut catalog = cluster(1);
    let topic = |topic: &str, partitions| CatalogCommand::CreateTopic {
        topic: name(topic),
        partitions,
        replicas: 1,
        config: TopicConfig::default(),
        if_not_exists: false,
        placement: None,
    };
    done(&mut catalog, topic("a", 2));
    done(&mut catalog, topic("b", 1));
    let grow = CatalogCommand::AlterTopic {
        topic: name("a"),
        partitions: Some(4),
        patch: ConfigPatch::default(),
        placement: None,
    };
    done(&mut catalog, grow);
    let at = |catalog: &Catalog, group| {
        catalog.locate(GroupId(group)).map(|at| (at.name.to_string(), at.partition))
    };
    assert_eq!(at(&catalog, 2), Some(("a".into(), PartitionIndex(1))));
    assert_eq!(at(&catalog, 3), Some(("b".into(), PartitionIndex(0))));
    assert_eq!(at(&catalog, 5), Some(("a".into(), PartitionIndex(3))));
    assert_eq!((at(&catalog, 0), at(&catalog, 6)), (None, None));
    assert!(!catalog.was_deleted(GroupId(2)));
    let reply = done(&mut catalog, CatalogCommand::DeleteTopic { topic: name("a") });
    let groups: Arc<[GroupId]> = [1, 2, 4, 5].map(GroupId).into();
    assert_eq!(reply, CatalogReply::Deleted { topic_id: 1, groups });
    assert!(catalog.was_deleted(GroupId(2)) && catalog.was_deleted(GroupId(5)));
    // Not of this catalog: not known to be deleted.
    assert!(!catalog.was_deleted(GroupId(3)) && !catalog.was_deleted(GroupId(6)));
    assert!(!catalog.was_deleted(GroupId::CATALOG));
}

#[test]
fn epoch_grows_with_what_clients_see() {
    let mut catalog = cluster(2);
    let mut last = catalog.epoch();
    let base = catalog.placement_epoch();
    for (command, grows) in [
        (create("a", 2, places(base, &[&[1, 2]])), true),
        (move_to(&catalog, &[wanted(1, &[2, 1])]), true),
        (CatalogCommand::UpdateNode { node: NodeId(2), spec: spec("x:1") }, true),
        (CatalogCommand::UpdateNode { node: NodeId(2), spec: spec("x:1") }, false),
        (CatalogCommand::AllocateProducerIds { count: 5 }, false),
        (CatalogCommand::SealBirths { groups: vec![GroupId(1)] }, false),
        (CatalogCommand::SetClusterSettings { auto_rebalance: Some(false) }, false),
        (CatalogCommand::SetLevel { level: 2 }, false),
        (CatalogCommand::DeleteTopic { topic: name("a") }, true),
    ] {
        let shown = format!("{command:?}");
        done(&mut catalog, command);
        assert_eq!(catalog.epoch() > last, grows, "{shown}");
        last = catalog.epoch();
    }
    assert!(!catalog.settings().auto_rebalance);
    let falls = CatalogRefusal::LevelFalls { asked: 1, now: 2 };
    assert_eq!(refused(&mut catalog, CatalogCommand::SetLevel { level: 1 }), falls);
}

fn entry(state: &mut CatalogState, body: &Bytes) -> CatalogReply {
    let mut header = BatchHeader::for_entry(EntryKind::Control, body);
    header.term = Term(1);
    header.index = LogIndex(state.progress().applied.map_or(0, |id| id.index.0 + 1));
    state.apply(&header, body).unwrap()
}

#[test]
fn repeated_request_is_answered_and_not_carried_out_again() {
    let mut state = CatalogState::new();
    let id = |n: u128| 1 << 100 | n;
    let take = CatalogCommand::AllocateProducerIds { count: 10 };
    for command in [set_up(1), create("a", 1, None), take.clone(), add(2)] {
        let body =
            command.encode_for(id(state.progress().applied.map_or(1, |i| i.index.0 + 2).into()));
        let first = entry(&mut state, &body);
        let catalog = state.catalog().clone();
        assert_eq!(entry(&mut state, &body), first);
        assert_eq!(*state.catalog(), catalog);
        // A replica that got the state goes on alike.
        state = CatalogState::decode(&state.encode()).unwrap();
        assert_eq!(entry(&mut state, &body), first);
        assert_eq!(CatalogReply::decode(&first.encode(), state.catalog()), Ok(first));
    }
    // Nobody's requests are carried out each time.
    let (one, two) = (entry(&mut state, &take.encode()), entry(&mut state, &take.encode()));
    assert_ne!(one, two);
    // A refusal is not kept: the command may be possible by then.
    let again = create("b", 1, None).encode_for(id(900));
    let refused = entry(&mut state, &again);
    assert!(matches!(refused, CatalogReply::Refused(CatalogRefusal::PlacementMissing)));
    assert_eq!(CatalogReply::decode(&refused.encode(), state.catalog()), Ok(refused));
}

#[test]
fn answer_about_a_topic_that_is_gone_says_so() {
    let mut state = CatalogState::new();
    let body = create("a", 1, None).encode_for(7);
    let reply = entry(&mut state, &body);
    entry(&mut state, &CatalogCommand::DeleteTopic { topic: name("a") }.encode());
    let gone = CatalogReply::Refused(CatalogRefusal::DeletedSince);
    assert_eq!(CatalogReply::decode(&reply.encode(), state.catalog()), Ok(gone.clone()));
    assert_eq!(entry(&mut state, &body), gone);
    assert!(state.catalog().is_empty());
}

#[test]
fn only_the_last_requests_are_remembered() {
    let mut state = CatalogState::new();
    let take = CatalogCommand::AllocateProducerIds { count: 1 };
    let first = entry(&mut state, &take.encode_for(1));
    for id in 2..=REQUESTS_MAX as u128 {
        entry(&mut state, &take.encode_for(id));
    }
    assert_eq!(entry(&mut state, &take.encode_for(1)), first);
    entry(&mut state, &take.encode_for(5_000));
    assert_ne!(entry(&mut state, &take.encode_for(1)), first);
    assert_eq!(CatalogState::decode(&state.encode()), Ok(state));
}

#[test]
fn secret_is_not_printed() {
    let shown = format!("{:?} {:?}", set_up(1), cluster(1));
    assert!(!shown.contains("7, 7") && shown.contains("JoinSecret(..)"), "{shown}");
}
