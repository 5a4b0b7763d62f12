//! Routing against naive twins, and the texts of refusals.

mod model;

use std::collections::BTreeSet;

use plimsoll_amqp::error::Fault;
use plimsoll_amqp::methods::ExchangeDeclare;
use plimsoll_amqp::properties::Properties;
use plimsoll_amqp::routing::*;
use plimsoll_amqp::shortstr::ShortStr;
use plimsoll_amqp::table::{ArrayBuilder, FieldTable, FieldValue, TableBuilder};
use proptest::prelude::*;

use model::{Fields, Value};

fn s(text: &str) -> ShortStr {
    ShortStr::cut(text)
}

fn to_queue(name: &str) -> Destination {
    Destination::Queue(s(name))
}

fn to_exchange(name: &str) -> Destination {
    Destination::Exchange(s(name))
}

fn nothing() -> FieldTable {
    FieldTable::default()
}

fn topology(queues: &[&str]) -> Topology {
    let mut topology = Topology::new(s("/"));
    for queue in queues {
        assert!(topology.add_queue(s(queue)));
    }
    topology
}

fn declare(topology: &mut Topology, name: &str, rule: Rule) {
    assert_eq!(topology.declare_exchange(&s(name), ExchangeShape::durable(rule)), Ok(true));
}

fn routed(topology: &Topology, exchange: &str, key: &str) -> Vec<String> {
    let properties = Properties::default();
    let keys = MessageKeys::new(key, &properties).expect("no headers");
    topology.route(exchange, &keys).queues.iter().map(ToString::to_string).collect()
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn text(fault: Fault) -> String {
    fault.reply_text().to_string()
}

/// Words against words, as the specification says it.
fn naive_topic(pattern: &[&str], key: &[&str]) -> bool {
    match (pattern, key) {
        ([], []) => true,
        (["#", rest @ ..], _) => {
            naive_topic(rest, key) || !key.is_empty() && naive_topic(pattern, &key[1..])
        }
        (["*", rest @ ..], [_, left @ ..]) => naive_topic(rest, left),
        ([word, rest @ ..], [other, left @ ..]) => word == other && naive_topic(rest, left),
        _ => false,
    }
}

fn words(key: &str) -> Vec<&str> {
    if key.is_empty() { Vec::new() } else { key.split('.').collect() }
}

proptest! {
    #[test]
    fn topics_match_as_the_naive_matcher(
        patterns in prop::collection::vec("([ab]|\\*|#|)(\\.([ab]|\\*|#|)){0,4}", 1..12),
        gone in prop::collection::vec(any::<bool>(), 12),
        keys in prop::collection::vec("[ab]?(\\.[abc]?){0,5}", 1..12),
    ) {
        let mut trie = Trie::new();
        let name = |index: usize| to_queue(&index.to_string());
        for (index, pattern) in patterns.iter().enumerate() {
            trie.insert(pattern, &name(index));
        }
        for (index, pattern) in patterns.iter().enumerate().filter(|(index, _)| gone[*index]) {
            trie.remove(pattern, &name(index));
        }
        for key in keys {
            let mut found = BTreeSet::new();
            trie.visit(&key, |destination| { found.insert(destination.clone()); });
            let expected: BTreeSet<_> = patterns
                .iter()
                .enumerate()
                .filter(|(index, pattern)| !gone[*index] && naive_topic(&words(pattern), &words(&key)))
                .map(|(index, _)| name(index))
                .collect();
            prop_assert_eq!(found, expected, "{} in {:?}", key, patterns);
        }
        for (index, pattern) in patterns.iter().enumerate().filter(|(index, _)| !gone[*index]) {
            trie.remove(pattern, &name(index));
        }
        prop_assert_eq!(trie.places(), 1, "nothing is left of patterns that are gone");
    }

    #[test]
    fn headers_match_as_the_naive_matcher(
        mode in prop::sample::select(vec!["all", "any", "all-with-x", "any-with-x", ""]),
        wanted in prop::collection::btree_map("(x-)?[ab]", scalar(), 0..4),
        headers in prop::collection::btree_map("(x-)?[ab]", scalar(), 0..4),
    ) {
        let fields = |map: &std::collections::BTreeMap<String, Value>| {
            Fields(map.iter().map(|(name, value)| (name.clone().into(), value.clone())).collect())
        };
        let mut arguments = fields(&wanted);
        if !mode.is_empty() {
            arguments.0.push((b"x-match".to_vec(), Value::LongStr(mode.into())));
        }
        let counts: Vec<_> =
            wanted.iter().filter(|(name, _)| mode.ends_with("x") || !name.starts_with("x-")).collect();
        let matches = |(name, value): &(&String, &Value)| {
            headers.get(*name).is_some_and(|other| **value == Value::Void || same(value, other))
        };
        let expected = match mode.starts_with("any") {
            true => counts.iter().any(matches),
            false => counts.iter().all(matches),
        };
        let (arguments, headers) = (arguments.build().unwrap(), fields(&headers).build().unwrap());
        prop_assert_eq!(headers_match(arguments.fields(), headers.fields()), expected);
    }

    /// Bindings come and go: routes are those of a list that is searched, and end despite cycles.
    #[test]
    fn routes_are_those_of_the_naive_list(
        rules in prop::collection::vec(0usize..3, 4),
        steps in prop::collection::vec((any::<bool>(), 0usize..4, 0usize..8, 0usize..3), 0..40),
    ) {
        let keys = ["a", "a.b", "#"];
        let mut topology = topology(&["0", "1", "2", "3"]);
        let rules: Vec<_> =
            rules.into_iter().map(|rule| [Rule::Direct, Rule::Fanout, Rule::Topic][rule]).collect();
        let name = |index: usize| format!("e{index}");
        for (index, rule) in rules.iter().enumerate() {
            declare(&mut topology, &name(index), *rule);
        }
        let mut naive = BTreeSet::new();
        for (bind, source, to, key) in steps {
            let to = if to < 4 { to_queue(&to.to_string()) } else { to_exchange(&name(to - 4)) };
            let key = keys[key];
            if bind {
                let new = topology.bind(&name(source), to.clone(), s(key), &nothing()).unwrap();
                prop_assert_eq!(new, naive.insert((source, to, key)));
            } else {
                let removed = topology.unbind(&name(source), to.clone(), s(key), &nothing());
                let was = naive.remove(&(source, to, key));
                prop_assert_eq!(removed.bindings.len(), usize::from(was));
            }
        }
        for (source, key) in (0..4).flat_map(|source| keys.map(|key| (source, key))) {
            let (mut reached, mut queues) = (BTreeSet::from([source]), BTreeSet::new());
            for _ in 0..5 {
                for (from, to, pattern) in &naive {
                    let matches = match rules[*from] {
                        Rule::Direct => *pattern == key,
                        Rule::Topic => naive_topic(&words(pattern), &words(key)),
                        _ => true,
                    };
                    match to {
                        _ if !matches || !reached.contains(from) => {}
                        Destination::Queue(queue) => { queues.insert(queue.to_string()); }
                        Destination::Exchange(next) => { reached.insert(next[1..].parse().unwrap()); }
                    }
                }
            }
            let queues: Vec<_> = queues.into_iter().collect();
            prop_assert_eq!(routed(&topology, &name(source), key), queues);
        }
    }
}

/// Few values, so that some are equal; numbers of several widths.
fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Void),
        (0u8..2).prop_map(Value::U8),
        (0i64..2).prop_map(Value::I64),
        (0u8..2).prop_map(|number| Value::F64(f64::from(number).to_bits())),
        Just(Value::Bool(true)),
        "[ab]".prop_map(|text| Value::LongStr(text.into())),
        "[ab]".prop_map(|text| Value::Bytes(text.into())),
    ]
}

/// Equal as Erlang has it.
fn same(one: &Value, other: &Value) -> bool {
    let number = |value: &Value| match value {
        Value::U8(number) => Some(f64::from(*number)),
        Value::I64(number) => Some(*number as f64),
        Value::F64(bits) => Some(f64::from_bits(*bits)),
        _ => None,
    };
    let text = |value: &Value| match value {
        Value::LongStr(text) | Value::Bytes(text) => Some(text.clone()),
        _ => None,
    };
    match (number(one), number(other), text(one), text(other)) {
        (Some(one), Some(other), ..) => one == other,
        (_, _, Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

#[test]
fn long_keys_against_many_hashes_take_no_time() {
    let mut trie = Trie::new();
    trie.insert(&["#", "a"].repeat(60).join("."), &to_queue("q"));
    let mut found = 0;
    trie.visit(&vec!["a"; 127].join("."), |_| found += 1);
    assert_eq!(found, 1);
    trie.visit(&[vec!["a"; 126], vec!["b"]].concat().join("."), |_| found += 1);
    assert_eq!(found, 1);
}

#[test]
fn default_exchange_leads_to_the_queue_of_the_key() {
    let topology = topology(&["q"]);
    assert_eq!(routed(&topology, "", "q"), ["q"]);
    assert!(routed(&topology, "", "other").is_empty());
    let properties = Properties::default();
    let keys = MessageKeys::new("amq.rabbitmq.reply-to.g1", &properties).unwrap();
    let routes = topology.route("", &keys);
    assert_eq!(routes.direct_replies, [s("amq.rabbitmq.reply-to.g1")]);
    assert!(!routes.is_empty());
}

#[test]
fn alternate_takes_what_leads_nowhere() {
    let mut topology = topology(&["q", "rest"]);
    declare(&mut topology, "rest", Rule::Fanout);
    let arguments = TableBuilder::new().text("alternate-exchange", "rest").build().unwrap();
    let shape = ExchangeShape { arguments, ..ExchangeShape::durable(Rule::Direct) };
    topology.declare_exchange(&s("x"), shape).unwrap();
    topology.bind("x", to_queue("q"), s("k"), &nothing()).unwrap();
    assert!(routed(&topology, "x", "z").is_empty());
    topology.bind("rest", to_queue("rest"), s(""), &nothing()).unwrap();
    assert_eq!(routed(&topology, "x", "z"), ["rest"]);
    assert_eq!(routed(&topology, "x", "k"), ["q"]);
    topology.delete_exchange("rest", false).unwrap();
    assert!(routed(&topology, "x", "z").is_empty(), "an alternate that is gone is none");
}

#[test]
fn sender_adds_keys_and_hides_some() {
    let topology = topology(&["q", "cc", "bcc"]);
    let array = |keys: &[&str]| {
        let mut array = ArrayBuilder::default();
        keys.iter().for_each(|key| array.push(FieldValue::LongStr(key.as_bytes())));
        array
    };
    let headers = TableBuilder::new()
        .field("CC", array(&["cc", "q"]).as_value())
        .field("BCC", array(&["bcc"]).as_value())
        .build();
    let properties = Properties { headers: headers.ok(), ..Properties::default() };
    let keys = MessageKeys::new("q", &properties).unwrap();
    assert_eq!(topology.route("", &keys).queues, ["bcc", "cc", "q"].map(s).into());
    let delivered = without_bcc(&properties).unwrap().headers.unwrap();
    assert!(delivered.find("BCC").is_none() && delivered.find("CC").is_some());
    assert_eq!(without_bcc(&Properties::default()), None);

    let headers = TableBuilder::new().text("CC", "cc").build().ok();
    let wrong = Properties { headers, ..Properties::default() };
    let reason = "invalid message: {unacceptable_type_in_header,\"CC\",longstr}";
    let fault = MessageKeys::new("q", &wrong).unwrap_err();
    assert_eq!(text(fault), format!("PRECONDITION_FAILED - {reason}"));
}

#[test]
fn exchanges_go_with_their_last_binding() {
    let mut topology = topology(&["q"]);
    let shape = || ExchangeShape { auto_delete: true, ..ExchangeShape::durable(Rule::Fanout) };
    for name in ["a", "b"] {
        topology.declare_exchange(&s(name), shape()).unwrap();
    }
    topology.bind("a", to_exchange("b"), s(""), &nothing()).unwrap();
    topology.bind("b", to_exchange("a"), s(""), &nothing()).unwrap();
    topology.bind("b", to_queue("q"), s(""), &nothing()).unwrap();
    assert_eq!(routed(&topology, "a", ""), ["q"]);
    let in_use = topology.delete_exchange("a", true).unwrap_err();
    assert_eq!(text(in_use), "PRECONDITION_FAILED - exchange 'a' in vhost '/' in use");
    assert!(topology.remove_queue("q").exchanges.is_empty(), "b leads to a still");
    let removed = topology.unbind("b", to_exchange("a"), s(""), &nothing());
    assert_eq!(removed.exchanges, ["b", "a"].map(s));
    assert_eq!(removed.bindings.len(), 2);
    assert!(topology.exchange_shape("a").is_err());
    assert_eq!(topology.delete_exchange("a", true), Ok(Removed::default()));
}

#[test]
fn refusals_say_what_is_missing_or_wrong() {
    let mut topology = topology(&["q"]);
    let mut bind = |source: &str, to: Destination, arguments: FieldTable| {
        topology.bind(source, to, s(""), &arguments).map_err(text)
    };
    let err = |wrong: &str| Err(wrong.to_owned());
    assert_eq!(
        bind("x", to_queue("z"), nothing()),
        err("NOT_FOUND - no exchange 'x' in vhost '/'")
    );
    let missing = bind("amq.topic", to_queue("z"), nothing());
    assert_eq!(missing, err("NOT_FOUND - no queue 'z' in vhost '/'"));
    let wrong = TableBuilder::new().text("x-match", "some").build().unwrap();
    assert_eq!(
        bind("amq.match", to_queue("q"), wrong),
        err("PRECONDITION_FAILED - Invalid x-match field value <<\"some\">>; expected all, any, \
             all-with-x, or any-with-x")
    );
    let shape = ExchangeShape::durable(Rule::Direct);
    let reserved = topology.declare_exchange(&s("amq.mine"), shape.clone()).map_err(text);
    let wrong = "exchange name 'amq.mine' contains reserved prefix 'amq.*'";
    assert_eq!(reserved, Err(format!("ACCESS_REFUSED - {wrong}")));
    let internal = ExchangeShape { internal: true, ..shape };
    topology.declare_exchange(&s("inner"), internal).unwrap();
    let refused = text(topology.publishable("inner").unwrap_err());
    assert_eq!(
        refused,
        "ACCESS_REFUSED - cannot publish to internal exchange 'inner' in vhost '/'"
    );
    let declare = ExchangeDeclare { kind: s("x-odd"), ..Default::default() };
    let unknown = text(ExchangeShape::of(&declare).unwrap_err());
    assert_eq!(unknown, "PRECONDITION_FAILED - unknown exchange type 'x-odd'");
}

#[test]
fn delayed_exchange_routes_by_its_inner_type() {
    let mut topology = topology(&["q"]);
    let arguments = TableBuilder::new().text("x-delayed-type", "topic").build().unwrap();
    let declare = ExchangeDeclare { kind: s("x-delayed-message"), arguments, ..Default::default() };
    topology.declare_exchange(&s("later"), ExchangeShape::of(&declare).unwrap()).unwrap();
    topology.bind("later", to_queue("q"), s("a.*"), &nothing()).unwrap();
    assert_eq!(routed(&topology, "later", "a.b"), ["q"]);
    let headers = TableBuilder::new().field("x-delay", FieldValue::I32(50)).build().unwrap();
    assert_eq!(topology.delay_ms("later", Some(headers.fields())), Some(50));
    assert_eq!(topology.delay_ms("amq.topic", Some(headers.fields())), None);
    assert!(
        ExchangeShape::of(&ExchangeDeclare { kind: s("x-delayed-message"), ..Default::default() })
            .is_err()
    );
}
