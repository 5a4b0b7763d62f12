//! Catalogs that were once written stay readable: bytes of each version, committed once, and what
//! becomes of them. A committed file is never changed.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use bytes::Bytes;
use plimsoll_protocol::api::QueueSettings;
use plimsoll_protocol::batch::{BatchHeader, EntryKind};
use plimsoll_protocol::ids::{GroupId, LogIndex, NodeId, PartitionIndex, Term, TopicName};
use plimsoll_state::catalog::{
    CatalogCommand, CatalogReply, CatalogState, JoinSecret, NodeSpec, PlacementChange, planning,
};

/// Commands of the time before the cluster, and the state that they made then.
const VERSION_1: &str = include_str!("golden/catalog-v1.hex");
/// The state of [`commands_of_a_cluster`].
const VERSION_2: &str = include_str!("golden/catalog-v2.hex");
/// The state of [`commands_with_queues`].
const VERSION_3: &str = include_str!("golden/catalog-v3.hex");

/// Pieces of a file: a line with a name, then bytes as hex text.
fn pieces(text: &str) -> impl Iterator<Item = (&str, Bytes)> {
    text.split("\n\n").map(|piece| {
        let (name, hex) = piece.trim().split_once('\n').expect("a name and bytes");
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        (name, digits.chunks(2).map(byte).collect::<Option<_>>().expect("pairs of hex digits"))
    })
}

fn hex(bytes: &[u8]) -> String {
    let line = |line: &[u8]| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    bytes.chunks(32).map(line).collect::<Vec<_>>().join("\n")
}

fn apply(state: &mut CatalogState, body: &Bytes) -> CatalogReply {
    let index = state.progress().applied.map_or(0, |id| id.index.0 + 1);
    let mut header = BatchHeader::for_entry(EntryKind::Control, body);
    header.term = Term(2);
    header.index = LogIndex(index);
    header.append_time_ms = 1_750_000_000_000 + i64::try_from(index).unwrap();
    state.apply(&header, body).unwrap()
}

fn spec(host: &str) -> NodeSpec {
    NodeSpec {
        address: format!("{host}:7420"),
        rack: Some(format!("rack-{host}")),
        weight_hundredths: 100,
        version: "0.1.0".into(),
    }
}

fn set_up(node: u64) -> CatalogCommand {
    let join_secret = JoinSecret([0xa5; 32]);
    CatalogCommand::SetUp { node: NodeId(node), spec: spec("a"), join_secret }
}

#[test]
fn state_and_commands_of_version_1_are_a_catalog_without_nodes() {
    let mut folded = CatalogState::new();
    let mut read = None;
    for (name, bytes) in pieces(VERSION_1) {
        if name == "state" {
            read = Some(CatalogState::decode(&bytes).unwrap());
            assert_eq!(
                CatalogState::decode_progress(&bytes).as_ref(),
                Ok(read.as_ref().unwrap().progress())
            );
        } else {
            let reply = apply(&mut folded, &bytes);
            assert!(!matches!(reply, CatalogReply::Refused(_)), "{reply:?}");
        }
    }
    let mut read = read.expect("the file has a state");
    assert!(!read.catalog().is_set_up());
    let topics = |state: &CatalogState| {
        state.catalog().topics().map(|(n, t)| (n.clone(), t.clone())).collect::<Vec<_>>()
    };
    assert_eq!(topics(&read), topics(&folded), "an entry that is replayed, and a checkpoint");
    assert!(read.catalog().was_deleted(GroupId(4)));

    // The node that read it makes itself known at its start.
    apply(&mut read, &set_up(41).encode());
    let catalog = read.catalog();
    let orders = catalog.topic(&TopicName::new("orders").unwrap()).unwrap();
    assert_eq!(orders.partitions, [1, 2, 7].map(GroupId));
    let here: &[NodeId] = &[NodeId(41)];
    for at in 0..3 {
        let set = orders.replica_set(PartitionIndex(at)).unwrap();
        assert_eq!((&*set.wanted, set.birth.as_deref()), (here, Some(here)));
    }
    assert!(planning::rebalance(catalog).unwrap().is_empty());
    let now = read.encode();
    assert_eq!((now[0], CatalogState::decode(&now)), (3, Ok(read)));
}

/// A cluster of three with one topic of each kind of place: as born, moved, sealed.
fn commands_of_a_cluster() -> CatalogState {
    let mut state = CatalogState::new();
    let mut run = |id: u128, command: CatalogCommand| {
        let reply = apply(&mut state, &command.encode_for(id));
        assert!(!matches!(reply, CatalogReply::Refused(_)), "{reply:?}");
        state.catalog().clone()
    };
    run(0, set_up(41));
    for (id, host) in [(1_u128, "b"), (2, "c"), (3, "d")] {
        let join =
            CatalogCommand::AddNode { join_id: id << 90, spec: spec(host), takes_address: false };
        run(id, join);
    }
    run(0, CatalogCommand::ActivateNode { node: NodeId(42) });
    run(0, CatalogCommand::ActivateNode { node: NodeId(43) });
    let catalog = run(0, CatalogCommand::RemoveNode { node: NodeId(44), force: false });
    let list = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
    let places = [&[41, 42][..], &[42, 43], &[42, 43], &[43, 41]];
    let create = CatalogCommand::CreateTopic {
        topic: TopicName::new("orders").unwrap(),
        partitions: 4,
        replicas: 2,
        config: plimsoll_protocol::api::TopicConfig::default(),
        if_not_exists: false,
        placement: Some(plimsoll_state::catalog::ProposedPlacement {
            base: catalog.placement_epoch(),
            replicas: places.map(list).to_vec(),
        }),
    };
    let catalog = run(7, create);
    let change =
        |group, wanted: &[u64]| PlacementChange { group: GroupId(group), wanted: list(wanted) };
    let changes = vec![change(0, &[41, 42, 43]), change(1, &[43, 42]), change(2, &[41, 43])];
    run(0, CatalogCommand::SetPlacement { base: catalog.placement_epoch(), changes });
    run(0, CatalogCommand::SealBirths { groups: vec![GroupId(1)] });
    run(0, CatalogCommand::DrainNode { node: NodeId(43), on: true });
    run(0, CatalogCommand::SetClusterSettings { auto_rebalance: Some(false) });
    run(8, CatalogCommand::AllocateProducerIds { count: 1000 });
    state
}

#[test]
fn state_of_version_2_is_a_catalog_without_queues() {
    let (_, committed) = pieces(VERSION_2).next().unwrap();
    assert_eq!(CatalogState::decode(&committed), Ok(commands_of_a_cluster()));
}

/// The same cluster with a queue, and subscriptions on a topic, of which one was ended.
fn commands_with_queues() -> CatalogState {
    let mut state = commands_of_a_cluster();
    let mut run = |command: CatalogCommand| {
        let reply = apply(&mut state, &command.encode());
        assert!(!matches!(reply, CatalogReply::Refused(_)), "{reply:?}");
    };
    let settings = QueueSettings { attempts_max: 5, ..QueueSettings::default() };
    let topic = TopicName::new("orders").unwrap();
    for name in ["billing", "gone"] {
        run(CatalogCommand::PutSubscription {
            topic: topic.clone(),
            name: name.into(),
            settings: settings.clone(),
            create: true,
            from_latest: true,
        });
    }
    run(CatalogCommand::DeleteSubscription { topic, name: "gone".into() });
    state
}

#[test]
fn state_of_version_3_is_readable_and_written_as_ever() {
    let now = commands_with_queues();
    let (_, committed) = pieces(VERSION_3).next().unwrap();
    assert_eq!(now.encode(), committed, "catalog-v3.hex should be\nstate\n{}", hex(&now.encode()));
    assert_eq!(CatalogState::decode(&committed), Ok(now));
}
