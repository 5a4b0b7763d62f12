//! The objects of AMQP in the catalog: the same commands give the same bytes on every replica, what
//! was written is read back, no damage makes a decoder panic, and what is left is whole.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;

use bytes::Bytes;
use plimsoll_protocol::api::{QueueSettings, TopicConfig};
use plimsoll_protocol::batch::{BatchHeader, EntryKind};
use plimsoll_protocol::ids::{LogIndex, NodeId, Term, TopicName};
use plimsoll_state::catalog::amqp::{
    AmqpCommand, AmqpText, Binding, Destination, Exchange, LEVEL_QUEUES, PREDECLARED_EXCHANGES,
    PasswordHash, Permissions, QueueSpec, Vhost,
};
use plimsoll_state::catalog::{CatalogCommand, CatalogReply, CatalogState, JoinSecret, NodeSpec};
use proptest::prelude::*;

fn text(letters: &'static str) -> impl Strategy<Value = AmqpText> {
    letters.prop_map(|text| AmqpText::try_from(text.as_str()).unwrap())
}

fn vhost() -> impl Strategy<Value = AmqpText> {
    prop_oneof![5 => Just("/"), 1 => Just("v"), 1 => Just("")]
        .prop_map(|text| AmqpText::try_from(text).unwrap())
}

fn exchange_name() -> impl Strategy<Value = AmqpText> {
    prop_oneof![6 => text("[a-d]"), 1 => text("amq\\.(direct|topic)"), 1 => Just(AmqpText::default())]
}

fn queue_name() -> impl Strategy<Value = AmqpText> {
    text("[q-t]")
}

fn arguments() -> impl Strategy<Value = Bytes> {
    prop_oneof![Just(Bytes::new()), prop::collection::vec(any::<u8>(), 0..9).prop_map(Bytes::from)]
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (text("[xy]"), flags, arguments()).prop_map(
        |(kind, (durable, auto_delete, internal), arguments)| Exchange {
            kind,
            durable,
            auto_delete,
            internal,
            arguments,
        },
    )
}

fn binding() -> impl Strategy<Value = Binding> {
    let destination = prop_oneof![
        queue_name().prop_map(|name| Destination::Queue { name }),
        exchange_name().prop_map(|name| Destination::Exchange { name }),
    ];
    (destination, text("[k-l]?"), prop_oneof![Just(Bytes::new()), Just(Bytes::from_static(b"1"))])
        .prop_map(|(destination, key, arguments)| Binding { destination, key, arguments })
}

fn queue() -> impl Strategy<Value = QueueSpec> {
    let owner = prop::option::of(0..3_u64);
    (any::<bool>(), any::<bool>(), 1..3_u64, owner, arguments(), "t[0-7]").prop_map(
        |(durable, auto_delete, node, connection, arguments, topic)| QueueSpec {
            durable,
            auto_delete,
            node: NodeId(node),
            connection,
            arguments,
            topic: TopicName::new(&topic).unwrap(),
        },
    )
}

fn access() -> impl Strategy<Value = AmqpCommand> {
    let user = || prop_oneof![Just("guest"), Just("u"), Just("")];
    let user = move || user().prop_map(|user| AmqpText::try_from(user).unwrap());
    let password =
        (text("[mn]"), arguments()).prop_map(|(algorithm, hash)| PasswordHash { algorithm, hash });
    let tags = prop::collection::vec(text("[a-b]"), 0..3);
    let permissions = ("[a.*]{0,3}", "[a.*]{0,3}", "[a.*]{0,3}")
        .prop_map(|(configure, write, read)| Permissions { configure, write, read });
    prop_oneof![
        vhost().prop_map(|vhost| AmqpCommand::CreateVhost { vhost }),
        vhost().prop_map(|vhost| AmqpCommand::DeleteVhost { vhost }),
        (user(), prop::option::of(password), prop::option::of(tags))
            .prop_map(|(user, password, tags)| AmqpCommand::PutUser { user, password, tags }),
        user().prop_map(|user| AmqpCommand::DeleteUser { user }),
        (user(), vhost(), permissions).prop_map(|(user, vhost, permissions)| {
            AmqpCommand::SetPermissions { user, vhost, permissions }
        }),
        (user(), vhost()).prop_map(|(user, vhost)| AmqpCommand::ClearPermissions { user, vhost }),
    ]
}

fn command() -> impl Strategy<Value = AmqpCommand> {
    prop_oneof![
        6 => access(),
        6 => (vhost(), exchange_name(), exchange()).prop_map(|(vhost, name, exchange)| {
            AmqpCommand::DeclareExchange { vhost, name, exchange }
        }),
        2 => (vhost(), exchange_name(), any::<bool>()).prop_map(|(vhost, name, if_unused)| {
            AmqpCommand::DeleteExchange { vhost, name, if_unused }
        }),
        6 => (vhost(), queue_name(), queue(), 0..3_u16).prop_map(
            |(vhost, name, queue, replicas)| AmqpCommand::DeclareQueue {
                vhost,
                name,
                queue,
                replicas,
                config: TopicConfig::default(),
                settings: QueueSettings::default(),
                placement: None,
            }
        ),
        2 => (vhost(), queue_name(), queue(), 0..3_u16).prop_map(
            |(vhost, name, queue, replicas)| AmqpCommand::DeclareStream {
                vhost,
                name,
                queue,
                replicas,
                config: TopicConfig::default(),
                placement: None,
            }
        ),
        2 => (vhost(), queue_name(), 0..6_u64).prop_map(|(vhost, name, declaration)| {
            AmqpCommand::DeleteQueue { vhost, name, declaration }
        }),
        12 => (vhost(), exchange_name(), binding())
            .prop_map(|(vhost, source, binding)| AmqpCommand::Bind { vhost, source, binding }),
        4 => (vhost(), exchange_name(), binding())
            .prop_map(|(vhost, source, binding)| AmqpCommand::Unbind { vhost, source, binding }),
        1 => (1..3_u64, 0..3_u64).prop_map(|(node, connection)| AmqpCommand::ForgetOwner {
            node: NodeId(node),
            connection,
        }),
        1 => (1..3_u64, any::<bool>()).prop_map(|(node, exchanges)| {
            AmqpCommand::ForgetTransient { node: NodeId(node), exchanges }
        }),
    ]
}

/// What else happens to a catalog that matters to them.
fn other() -> impl Strategy<Value = CatalogCommand> {
    let topic = || "t[0-7]".prop_map(|topic| TopicName::new(&topic).unwrap());
    let address = String::from("a:1");
    let spec = NodeSpec { address, rack: None, weight_hundredths: 100, version: "1".into() };
    let join_secret = JoinSecret([3; 32]);
    prop_oneof![
        Just(CatalogCommand::SetUp { node: NodeId(1), spec, join_secret }),
        (1..4_u16).prop_map(|level| CatalogCommand::SetLevel { level }),
        topic().prop_map(|topic| CatalogCommand::DeleteTopic { topic }),
        (topic(), 1..3_u32).prop_map(|(topic, partitions)| CatalogCommand::CreateTopic {
            topic,
            partitions,
            replicas: 1,
            config: TopicConfig::default(),
            if_not_exists: true,
            placement: None,
        }),
        (topic(), 1..3_u32).prop_map(|(topic, partitions)| CatalogCommand::AlterTopic {
            topic,
            partitions: Some(partitions),
            patch: plimsoll_state::catalog::ConfigPatch::default(),
            placement: None,
        }),
    ]
}

fn log() -> impl Strategy<Value = Vec<(u128, CatalogCommand)>> {
    let command = prop_oneof![
        9 => command().prop_map(|command| CatalogCommand::Amqp { command }),
        1 => other(),
    ];
    prop::collection::vec((0..40_u128, command), 0..80).prop_map(|mut commands| {
        commands.insert(0, (0, CatalogCommand::SetLevel { level: LEVEL_QUEUES }));
        commands
    })
}

fn apply(state: &mut CatalogState, (id, command): &(u128, CatalogCommand)) -> CatalogReply {
    let body = command.encode_for(*id);
    let index = state.progress().applied.map_or(0, |id| id.index.0 + 1);
    let mut header = BatchHeader::for_entry(EntryKind::Control, &body);
    header.term = Term(2);
    header.index = LogIndex(index);
    header.append_time_ms = i64::try_from(index).unwrap();
    state.apply(&header, &body).unwrap()
}

fn fold(log: &[(u128, CatalogCommand)]) -> CatalogState {
    let mut state = CatalogState::new();
    for one in log {
        apply(&mut state, one);
    }
    state
}

/// What the indexes of a virtual host say is what its bindings say.
fn check_bindings(vhost: &Vhost) {
    let all: Vec<_> = vhost.bindings().collect();
    let mut ends = BTreeSet::new();
    for (source, binding) in &all {
        assert!(
            PREDECLARED_EXCHANGES.contains(&source.as_str())
                || vhost.exchange(source.as_str()).is_some()
        );
        match &binding.destination {
            Destination::Queue { name } => assert!(vhost.queue(name.as_str()).is_some()),
            Destination::Exchange { name } => assert!(
                PREDECLARED_EXCHANGES.contains(&name.as_str())
                    || vhost.exchange(name.as_str()).is_some()
            ),
        }
        ends.insert(&binding.destination);
    }
    for end in ends {
        let scanned: Vec<_> =
            all.iter().copied().filter(|(_, one)| one.destination == *end).collect();
        assert_eq!(vhost.bindings_to(end).collect::<Vec<_>>(), scanned);
    }
}

proptest! {
    #[test]
    fn command_is_read_back_as_it_was_written(command in command(), id: u128) {
        let command = CatalogCommand::Amqp { command };
        let request = CatalogCommand::decode_request(&command.encode_for(id)).unwrap();
        prop_assert_eq!(request, (id, command));
    }

    #[test]
    fn damaged_command_is_a_command_or_an_error(command in command(), at: prop::sample::Index, byte: u8, cut: bool) {
        let mut bytes = CatalogCommand::Amqp { command }.encode().to_vec();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        if let Ok((id, command)) = CatalogCommand::decode_request(&bytes) {
            let again = command.encode_for(id);
            prop_assert!(again[0] != bytes[0] || again == bytes);
            // Whatever it says now, it is carried out or refused.
            let mut state = fold(&[(0, CatalogCommand::SetLevel { level: LEVEL_QUEUES })]);
            apply(&mut state, &(0, command));
        }
    }

    #[test]
    fn same_commands_give_the_same_bytes_on_every_replica(log in log(), cut in any::<prop::sample::Index>()) {
        let whole = fold(&log);
        let cut = cut.index(log.len() + 1);
        let mut resumed = CatalogState::decode(&fold(&log[..cut]).encode()).unwrap();
        for one in &log[cut..] {
            apply(&mut resumed, one);
        }
        prop_assert_eq!(resumed.encode(), whole.encode());
        prop_assert_eq!(CatalogState::decode_progress(&whole.encode()).unwrap(), whole.progress().clone());
        prop_assert_eq!(resumed, whole);
    }

    #[test]
    fn damaged_state_never_panics_and_is_whole_or_refused(log in log(), at: prop::sample::Index, bit: u8, cut: bool) {
        let mut bytes = fold(&log).encode().to_vec();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << (bit % 8) }
        if let Ok(state) = CatalogState::decode(&bytes) {
            prop_assert_eq!(state.encode(), bytes);
            for (_, vhost) in state.catalog().amqp().vhosts() {
                check_bindings(vhost);
            }
        }
    }

    #[test]
    fn answer_is_read_back_as_it_was_given(log in log()) {
        let mut state = CatalogState::new();
        for one in &log {
            let reply = apply(&mut state, one);
            let read = CatalogReply::decode(&reply.encode(), state.catalog()).unwrap();
            if matches!(one.1, CatalogCommand::Amqp { .. }) {
                prop_assert_eq!(read, reply);
            }
        }
    }

    #[test]
    fn what_is_left_is_whole_and_counters_tell_of_changes(log in log()) {
        let mut state = CatalogState::new();
        for one in &log {
            let before = state.catalog().clone();
            apply(&mut state, one);
            // Also what is derived and not written.
            prop_assert_eq!(&CatalogState::decode(&state.encode()).unwrap(), &state);
            let (catalog, amqp) = (state.catalog(), state.catalog().amqp());
            let mut held = BTreeSet::new();
            for (name, vhost) in amqp.vhosts() {
                check_bindings(vhost);
                for (_, queue) in vhost.queues() {
                    prop_assert!(held.insert(&queue.spec.topic), "a topic holds one queue");
                    prop_assert_eq!(catalog.topic(&queue.spec.topic).unwrap().partitions.len(), 1);
                }
                let known = before.amqp().vhost(name.as_str());
                let same = known.is_some_and(|known| known.changed() == vhost.changed());
                prop_assert_eq!(same, known == Some(vhost));
            }
            for (_, user) in amqp.users() {
                prop_assert!(user.permissions.keys().all(|vhost| amqp.vhost(vhost.as_str()).is_some()));
            }
            prop_assert_eq!(amqp.epoch() == before.amqp().epoch(), amqp == before.amqp());
            prop_assert_eq!(
                amqp.access_epoch() == before.amqp().access_epoch(),
                amqp.users().eq(before.amqp().users())
            );
        }
    }
}
