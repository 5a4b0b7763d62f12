//! What is brought from snapshot to snapshot against what is folded from each.

use std::collections::BTreeMap;
use std::sync::Arc;

use plimsoll_amqp::properties::Properties;
use plimsoll_amqp::routing::{Binding, Destination, ExchangeShape, MessageKeys, QueueShape, Rule};
use plimsoll_amqp::table::FieldTable;
use plimsoll_amqp_gateway::catalog::*;
use plimsoll_amqp_gateway::fold::Folded;
use plimsoll_amqp_gateway::permissions::Permission;
use proptest::prelude::*;

use crate::client::{s, table};

const EXCHANGES: [&str; 4] = ["a", "b", "c", "amq.headers"];
const QUEUES: [&str; 3] = ["p", "q", "r"];
const KEYS: [&str; 3] = ["x", "x.y", "#"];

/// What one snapshot has, by numbers into the lists above.
type Content = (
    // Exchanges: rule, auto-delete, alternate.
    BTreeMap<usize, (usize, bool, bool)>,
    // Queues: their declarations.
    BTreeMap<usize, u64>,
    // Bindings: source, queue or exchange, key, with arguments.
    Vec<(usize, usize, usize, bool)>,
    // What the user may write.
    Option<bool>,
);

fn content() -> impl Strategy<Value = Content> {
    (
        prop::collection::btree_map(0..3usize, (0..4usize, any::<bool>(), any::<bool>()), 0..4),
        prop::collection::btree_map(0..3usize, 1..3u64, 0..4),
        prop::collection::vec((0..4usize, 0..6usize, 0..3usize, any::<bool>()), 0..10),
        any::<Option<bool>>(),
    )
}

fn snapshot(generation: u64, content: &Content) -> Arc<HostSnapshot> {
    let (exchanges, queues, bindings, user) = content;
    let rules = [Rule::Direct, Rule::Fanout, Rule::Topic, Rule::Headers];
    let exchange = |(name, (rule, auto_delete, alternate)): (&usize, &(usize, bool, bool))| {
        let arguments = match alternate {
            true => table(&[("alternate-exchange", "amq.headers")]),
            false => FieldTable::default(),
        };
        let shape = ExchangeShape { arguments, ..ExchangeShape::durable(rules[*rule]) };
        let shape = ExchangeShape { auto_delete: *auto_delete, ..shape };
        ExchangeEntry { name: s(EXCHANGES[*name]), shape }
    };
    let queue = |(name, declaration): (&usize, &u64)| {
        let topic = Arc::from(format!("{name}-{declaration}"));
        let shape = QueueShape::default();
        Arc::new(QueueEntry::new(s(QUEUES[*name]), shape, None, topic, *declaration).unwrap())
    };
    let binding = |&(source, to, key, has_arguments): &(usize, usize, usize, bool)| {
        let is_there = |exchange: usize| exchange == 3 || exchanges.contains_key(&exchange);
        let destination = match to {
            0..3 if queues.contains_key(&to) => Destination::Queue(s(QUEUES[to])),
            3..6 if is_there(to - 3) => Destination::Exchange(s(EXCHANGES[to - 3])),
            _ => return None,
        };
        let arguments = if has_arguments { table(&[("h", "1")]) } else { FieldTable::default() };
        let binding = Binding { destination, key: s(KEYS[key]), arguments };
        is_there(source).then(|| BindingEntry { source: s(EXCHANGES[source]), binding })
    };
    let mut bindings: Vec<_> = bindings.iter().filter_map(binding).collect();
    bindings.sort();
    bindings.dedup();
    let permissions = user.map(|all| {
        let write = if all { ".*" } else { "^a" }.to_owned();
        ("ann".to_owned(), PermissionPatterns { write, ..PermissionPatterns::default() })
    });
    Arc::new(HostSnapshot {
        generation,
        exchanges: exchanges.iter().map(exchange).collect(),
        queues: queues.iter().map(queue).collect(),
        bindings,
        permissions: permissions.into_iter().collect(),
    })
}

/// All that can be asked of a fold.
fn seen(folded: &Folded) -> Vec<String> {
    let mut seen = vec![format!("{} {}", folded.generation(), folded.lets_in("ann"))];
    for queue in QUEUES {
        let declaration = folded.find_queue(queue).map(|queue| queue.declaration);
        seen.push(format!("{queue}: {declaration:?} {}", folded.topology.has_queue(queue)));
    }
    for exchange in EXCHANGES.into_iter().chain(["", "amq.topic"]) {
        let shape = folded.topology.exchange_shape(exchange);
        let mut bindings: Vec<_> = folded.topology.bindings(exchange).collect();
        bindings.sort();
        let (by_key, may) = (
            folded.routes_by_key(exchange),
            folded.check_exchange("ann", Permission::Write, exchange),
        );
        seen.push(format!("{exchange}: {shape:?} {bindings:?} {by_key} {may:?}"));
        for key in ["x", "x.y", "p"] {
            for headers in [None, Some(table(&[("h", "1")]))] {
                let properties = Properties { headers, ..Default::default() };
                let keys = MessageKeys::new(key, &properties).unwrap();
                seen.push(format!("{:?}", folded.topology.route(exchange, &keys)));
            }
        }
    }
    seen
}

proptest! {
    #[test]
    fn what_is_updated_is_what_is_folded_anew(
        contents in prop::collection::vec(content(), 1..6),
    ) {
        let mut updated = Folded::new(&s("/"), Arc::default());
        for (generation, content) in (1..).zip(&contents) {
            let snapshot = snapshot(generation, content);
            updated.update(Arc::clone(&snapshot));
            prop_assert_eq!(seen(&updated), seen(&Folded::new(&s("/"), snapshot)));
        }
    }

    /// Small steps, as catalogs make them: one thing more or less.
    #[test]
    fn one_thing_more_or_less_is_what_is_folded_anew(
        content in content(),
        steps in prop::collection::vec((0..4usize, 0..6usize, 0..3usize, any::<bool>()), 1..12),
    ) {
        let mut content = content;
        let mut updated = Folded::new(&s("/"), snapshot(1, &content));
        for (generation, step) in (2..).zip(steps) {
            match content.2.iter().position(|binding| *binding == step) {
                Some(place) => drop(content.2.remove(place)),
                None if step.3 => content.2.push(step),
                None => match content.1.remove(&(step.1 % 3)) {
                    Some(_) => drop(content.0.remove(&step.2)),
                    None => drop(content.1.insert(step.1 % 3, generation)),
                },
            }
            let snapshot = snapshot(generation, &content);
            updated.update(Arc::clone(&snapshot));
            prop_assert_eq!(seen(&updated), seen(&Folded::new(&s("/"), snapshot)));
        }
    }
}
