//! The catalog against the topology of the gateway: each is told the same, and what is there is the
//! same afterwards, whether the topology heard of every change or was folded anew from a snapshot.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;

use bytes::Bytes;
use plimsoll_amqp::error::ReplyCode;
use plimsoll_amqp::routing::{self, ExchangeShape, Rule, Topology};
use plimsoll_amqp::shortstr::ShortStr;
use plimsoll_amqp::table::{FieldTable, TableBuilder};
use plimsoll_protocol::api::{QueueSettings, TopicConfig};
use plimsoll_protocol::ids::{NodeId, TopicName};
use plimsoll_state::catalog::amqp::{
    AmqpCommand, AmqpRefusal, AmqpReply, AmqpText, Binding, Destination, Exchange, LEVEL_QUEUES,
    PREDECLARED_EXCHANGES, QueueSpec, Vhost,
};
use plimsoll_state::catalog::{Catalog, CatalogCommand, CatalogRefusal, CatalogReply};
use proptest::prelude::*;

const EXCHANGES: [&str; 6] = ["a", "b", "c", "d", "amq.direct", "amq.topic"];
const QUEUES: [&str; 3] = ["q", "r", "s"];

#[derive(Debug, Clone)]
enum Step {
    Declare { name: &'static str, rule: Rule, auto_delete: bool },
    Delete { name: &'static str, if_unused: bool },
    DeclareQueue { name: &'static str },
    DeleteQueue { name: &'static str },
    Bind { source: &'static str, to: Destination, key: &'static str, arguments: Bytes },
    Unbind { source: &'static str, to: Destination, key: &'static str, arguments: Bytes },
}

fn step() -> impl Strategy<Value = Step> {
    let declared = || prop::sample::select(&EXCHANGES[..4]);
    let exchange = || prop::sample::select(&EXCHANGES[..]);
    let queue = || prop::sample::select(&QUEUES[..]);
    let rule = prop::sample::select(&[Rule::Direct, Rule::Fanout, Rule::Topic, Rule::Headers][..]);
    let arguments = || {
        let table = TableBuilder::new().text("x-match", "any").build().unwrap();
        let table = Bytes::copy_from_slice(table.as_bytes());
        prop_oneof![2 => Just(Bytes::new()), 1 => Just(table)]
    };
    let to = || {
        prop_oneof![
            queue().prop_map(|name| Destination::Queue { name: text(name) }),
            exchange().prop_map(|name| Destination::Exchange { name: text(name) }),
        ]
    };
    let binding =
        move || (exchange(), to(), prop::sample::select(&["", "k", "#"][..]), arguments());
    prop_oneof![
        4 => (declared(), rule, prop::bool::weighted(0.7))
            .prop_map(|(name, rule, auto_delete)| Step::Declare { name, rule, auto_delete }),
        1 => (declared(), any::<bool>())
            .prop_map(|(name, if_unused)| Step::Delete { name, if_unused }),
        3 => queue().prop_map(|name| Step::DeclareQueue { name }),
        1 => queue().prop_map(|name| Step::DeleteQueue { name }),
        10 => binding()
            .prop_map(|(source, to, key, arguments)| Step::Bind { source, to, key, arguments }),
        4 => binding()
            .prop_map(|(source, to, key, arguments)| Step::Unbind { source, to, key, arguments }),
    ]
}

fn text(text: &str) -> AmqpText {
    AmqpText::try_from(text).unwrap()
}

fn short(text: &AmqpText) -> ShortStr {
    ShortStr::try_from(text.as_str()).unwrap()
}

fn table(bytes: &Bytes) -> FieldTable {
    FieldTable::parse(bytes.clone()).unwrap()
}

/// As the gateway reads what the catalog holds.
fn shape(exchange: &Exchange) -> ExchangeShape {
    ExchangeShape {
        auto_delete: exchange.auto_delete,
        internal: exchange.internal,
        durable: exchange.durable,
        arguments: table(&exchange.arguments),
        ..ExchangeShape::durable(Rule::from_name(exchange.kind.as_str()).unwrap())
    }
}

fn destination(destination: &Destination) -> routing::Destination {
    match destination {
        Destination::Queue { name } => routing::Destination::Queue(short(name)),
        Destination::Exchange { name } => routing::Destination::Exchange(short(name)),
    }
}

/// The topology of a snapshot.
fn folded(vhost: &Vhost) -> Topology {
    let mut topology = Topology::new(ShortStr::cut("/"));
    for (name, exchange) in vhost.exchanges() {
        assert!(topology.declare_exchange(&short(name), shape(exchange)).unwrap());
    }
    for (name, _) in vhost.queues() {
        topology.add_queue(short(name));
    }
    for (source, binding) in vhost.bindings() {
        let Binding { destination: to, key, arguments } = binding;
        let arguments = table(arguments);
        let new = topology.bind(source.as_str(), destination(to), short(key), &arguments).unwrap();
        assert!(new, "a binding is there once");
    }
    topology
}

/// What a topology shows of itself.
type Shown = (Vec<Option<ExchangeShape>>, Vec<BTreeSet<routing::Binding>>, Vec<bool>);

fn shown(topology: &Topology) -> Shown {
    (
        EXCHANGES.map(|name| topology.exchange_shape(name).ok().cloned()).to_vec(),
        EXCHANGES.map(|name| topology.bindings(name).cloned().collect()).to_vec(),
        QUEUES.map(|name| topology.has_queue(name)).to_vec(),
    )
}

fn exchange(rule: Rule, auto_delete: bool) -> Exchange {
    let arguments = Bytes::new();
    Exchange { kind: text(rule.name()), durable: true, auto_delete, internal: false, arguments }
}

fn queue(name: &str) -> QueueSpec {
    QueueSpec {
        durable: true,
        auto_delete: false,
        node: NodeId(1),
        connection: None,
        arguments: Bytes::new(),
        topic: TopicName::new(name).unwrap(),
    }
}

fn command(catalog: &Catalog, step: Step) -> AmqpCommand {
    let vhost = text("/");
    match step {
        Step::Declare { name, rule, auto_delete } => {
            let exchange = exchange(rule, auto_delete);
            AmqpCommand::DeclareExchange { vhost, name: text(name), exchange }
        }
        Step::Delete { name, if_unused } => {
            AmqpCommand::DeleteExchange { vhost, name: text(name), if_unused }
        }
        Step::DeclareQueue { name } => AmqpCommand::DeclareQueue {
            vhost,
            name: text(name),
            queue: queue(name),
            replicas: 1,
            config: TopicConfig::default(),
            settings: QueueSettings::default(),
            placement: None,
        },
        Step::DeleteQueue { name } => {
            let queue = catalog.amqp().vhost("/").unwrap().queue(name);
            let declaration = queue.map_or(0, |queue| queue.declaration);
            AmqpCommand::DeleteQueue { vhost, name: text(name), declaration }
        }
        Step::Bind { source, to: destination, key, arguments } => {
            let binding = Binding { destination, key: text(key), arguments };
            AmqpCommand::Bind { vhost, source: text(source), binding }
        }
        Step::Unbind { source, to: destination, key, arguments } => {
            let binding = Binding { destination, key: text(key), arguments };
            AmqpCommand::Unbind { vhost, source: text(source), binding }
        }
    }
}

/// Whether something changed, or the code with which it is refused.
fn told(topology: &mut Topology, step: &Step) -> Result<bool, ReplyCode> {
    match step {
        Step::Declare { name, rule, auto_delete } => {
            let shape = shape(&exchange(*rule, *auto_delete));
            topology.declare_exchange(&ShortStr::cut(name), shape)
        }
        Step::Delete { name, if_unused } => {
            topology.delete_exchange(name, *if_unused).map(|gone| !gone.exchanges.is_empty())
        }
        Step::DeclareQueue { name } => Ok(topology.add_queue(ShortStr::cut(name))),
        Step::DeleteQueue { name } => {
            let there = topology.has_queue(name);
            topology.remove_queue(name);
            Ok(there)
        }
        Step::Bind { source, to, key, arguments } => {
            topology.bind(source, destination(to), ShortStr::cut(key), &table(arguments))
        }
        Step::Unbind { source, to, key, arguments } => {
            let arguments = table(arguments);
            let gone = topology.unbind(source, destination(to), ShortStr::cut(key), &arguments);
            Ok(!gone.bindings.is_empty())
        }
    }
    .map_err(|fault| fault.code)
}

/// The same of the catalog's answer.
fn answered(reply: CatalogReply) -> Result<bool, ReplyCode> {
    match reply {
        CatalogReply::Amqp(AmqpReply::Done { changed }) => Ok(changed),
        CatalogReply::Amqp(
            AmqpReply::Exchange { existed, .. } | AmqpReply::Queue { existed, .. },
        ) => Ok(!existed),
        CatalogReply::Amqp(AmqpReply::Removed { groups }) => Ok(!groups.is_empty()),
        CatalogReply::Refused(CatalogRefusal::Amqp { refusal }) => Err(match refusal {
            AmqpRefusal::UnknownExchange { .. } | AmqpRefusal::UnknownQueue { .. } => {
                ReplyCode::NotFound
            }
            AmqpRefusal::ExchangeInUse { .. } => ReplyCode::PreconditionFailed,
            other => panic!("{other}"),
        }),
        other => panic!("{other:?}"),
    }
}

#[test]
fn both_know_the_exchanges_of_every_vhost() {
    let topology = Topology::new(ShortStr::cut("/"));
    for name in PREDECLARED_EXCHANGES {
        assert!(topology.exchange_shape(name).is_ok(), "{name}");
    }
}

proptest! {
    #[test]
    fn catalog_and_topology_tell_the_same(steps in prop::collection::vec(step(), 0..80)) {
        let mut catalog = Catalog::default();
        catalog.apply(CatalogCommand::SetLevel { level: LEVEL_QUEUES }, 0);
        let mut topology = Topology::new(ShortStr::cut("/"));
        for step in steps {
            let told = told(&mut topology, &step);
            let is_declaration = matches!(step, Step::Declare { .. });
            let command = command(&catalog, step);
            let answered = answered(catalog.apply(CatalogCommand::Amqp { command }, 1));
            match told {
                // Equivalence is for the gateway to check: to the catalog it is there.
                Err(ReplyCode::PreconditionFailed) if is_declaration => {
                    prop_assert_eq!(answered, Ok(false));
                }
                told => prop_assert_eq!(answered, told),
            }
            let anew = folded(catalog.amqp().vhost("/").unwrap());
            prop_assert_eq!(shown(&anew), shown(&topology));
        }
    }
}
