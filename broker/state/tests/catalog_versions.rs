//! Catalogs that were once written stay readable: bytes of each version, committed once, and what
//! becomes of them. A committed file is never changed.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use bytes::Bytes;
use plimsoll_protocol::api::QueueSettings;
use plimsoll_protocol::batch::{BatchHeader, EntryKind};
use plimsoll_protocol::ids::{GroupId, LogIndex, NodeId, PartitionIndex, Term, TopicName};
use plimsoll_state::catalog::amqp::{
    AmqpCommand, AmqpText, Binding, Destination, Exchange, LEVEL_QUEUES, PasswordHash, Permissions,
    QueueSpec,
};
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
    assert_eq!((now[0], CatalogState::decode(&now)), (2, Ok(read)));
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
    let now = commands_of_a_cluster();
    let (_, committed) = pieces(VERSION_2).next().unwrap();
    assert_eq!(now.encode(), committed, "below its level it is written as ever");
    assert_eq!(CatalogState::decode(&committed), Ok(now));
}

/// The same cluster with a queue, and subscriptions on a topic, of which one was ended.
fn commands_with_queues() -> CatalogState {
    let mut state = commands_of_amqp();
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

/// The same cluster with one object of AMQP of each kind, and each kind of answer that is remembered.
fn commands_of_amqp() -> CatalogState {
    let mut state = commands_of_a_cluster();
    let text = |text: &str| AmqpText::try_from(text).unwrap();
    apply(&mut state, &CatalogCommand::SetLevel { level: LEVEL_QUEUES }.encode());
    let base = state.catalog().placement_epoch();
    let mut run = |id: u128, command: AmqpCommand| {
        let reply = apply(&mut state, &CatalogCommand::Amqp { command }.encode_for(id));
        assert!(matches!(reply, CatalogReply::Amqp(_)), "{reply:?}");
    };
    let arguments = Bytes::from_static(b"\x05x-ttlI\0\0\0\x07");
    let vhost = || text("shop");
    let exchange = |auto_delete| Exchange {
        kind: text("topic"),
        durable: true,
        auto_delete,
        internal: false,
        arguments: arguments.clone(),
    };
    let queue = |name: &str, connection: Option<u64>| AmqpCommand::DeclareQueue {
        vhost: vhost(),
        name: text(name),
        queue: QueueSpec {
            durable: connection.is_none(),
            auto_delete: false,
            node: NodeId(42),
            connection,
            arguments: arguments.clone(),
            topic: TopicName::internal(&format!("__amqp.{name}")).unwrap(),
        },
        replicas: 1,
        config: plimsoll_protocol::api::TopicConfig::default(),
        settings: QueueSettings::default(),
        placement: Some(plimsoll_state::catalog::ProposedPlacement {
            base,
            replicas: vec![[NodeId(42)].into()],
        }),
    };
    let bind = |destination| AmqpCommand::Bind {
        vhost: vhost(),
        source: text("orders"),
        binding: Binding { destination, key: text("order.*"), arguments: Bytes::new() },
    };
    run(9, AmqpCommand::CreateVhost { vhost: vhost() });
    let password = Some(PasswordHash { algorithm: text("sha256"), hash: Bytes::from_static(b"#") });
    let user = text("clerk");
    run(0, AmqpCommand::PutUser { user, password, tags: Some(vec![text("monitoring")]) });
    let (user, permissions) =
        (text("clerk"), Permissions { configure: "^$".into(), ..Permissions::all() });
    run(0, AmqpCommand::SetPermissions { user, vhost: vhost(), permissions });
    for (id, name, auto_delete) in [(10, "orders", true), (0, "archive", false)] {
        let exchange = exchange(auto_delete);
        run(id, AmqpCommand::DeclareExchange { vhost: vhost(), name: text(name), exchange });
    }
    run(11, queue("inbox", None));
    run(12, queue("reply", Some(3)));
    run(13, queue("gone", Some(4)));
    run(0, bind(Destination::Queue { name: text("inbox") }));
    run(0, bind(Destination::Exchange { name: text("archive") }));
    run(14, AmqpCommand::ForgetOwner { node: NodeId(42), connection: 4 });
    state
}

#[test]
fn version_of_another_level_is_refused() {
    for mut bytes in
        [commands_of_a_cluster().encode().to_vec(), commands_of_amqp().encode().to_vec()]
    {
        bytes[0] = 5 - bytes[0];
        assert!(CatalogState::decode(&bytes).is_err());
    }
}
