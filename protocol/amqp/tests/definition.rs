//! The tables of methods, properties and codes, against the protocol's own machine-readable definition, as a
//! package carries it; and who accepts which method, which is not in there, against a list.

use std::collections::BTreeMap;

use amq_protocol_codegen::{AMQPArgument, AMQPClass, AMQPMethod, AMQProtocolDefinition};
use bytes::{BufMut as _, Bytes, BytesMut};
use plimsoll_amqp::error::ReplyCode;
use plimsoll_amqp::methods::{METHODS, MethodSpec};
use plimsoll_amqp::properties::Properties;

const DEFINITION: &str = include_str!("definition.txt");

/// A method of the table in the words of the definition.
fn line(spec: &MethodSpec) -> String {
    let to = match (spec.to_server, spec.to_client) {
        (true, true) => "b",
        (true, false) => "s",
        (false, true) => "c",
        (false, false) => "nobody",
    };
    let mut line = format!("{} {} {} {to}", spec.id.class, spec.id.method, spec.name);
    if spec.has_content {
        line.push_str(" *");
    }
    for (name, kind) in spec.fields {
        let name = if *name == "kind" { "type".into() } else { name.replace('_', "-") };
        line.push_str(&format!(" {name}:{}", kind.name()));
    }
    line
}

#[test]
fn table_of_methods_is_the_definition() {
    let ours: BTreeMap<_, _> = METHODS.iter().map(|spec| (spec.id, line(spec))).collect();
    assert_eq!(ours.len(), METHODS.len(), "two methods have the same numbers");
    let ours: Vec<_> = ours.into_values().collect();
    let theirs: Vec<_> = DEFINITION.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(ours, theirs);
}

#[test]
fn codes_are_the_definition() {
    let definition = [
        ("CONTENT_TOO_LARGE", 311, false),
        ("NO_ROUTE", 312, false),
        ("NO_CONSUMERS", 313, false),
        ("CONNECTION_FORCED", 320, true),
        ("INVALID_PATH", 402, true),
        ("ACCESS_REFUSED", 403, false),
        ("NOT_FOUND", 404, false),
        ("RESOURCE_LOCKED", 405, false),
        ("PRECONDITION_FAILED", 406, false),
        ("FRAME_ERROR", 501, true),
        ("SYNTAX_ERROR", 502, true),
        ("COMMAND_INVALID", 503, true),
        ("CHANNEL_ERROR", 504, true),
        ("UNEXPECTED_FRAME", 505, true),
        ("RESOURCE_ERROR", 506, true),
        ("NOT_ALLOWED", 530, true),
        ("NOT_IMPLEMENTED", 540, true),
        ("INTERNAL_ERROR", 541, true),
    ];
    let ours: Vec<_> =
        ReplyCode::ALL.iter().map(|code| (code.name(), code.number(), code.is_hard())).collect();
    assert_eq!(ours, definition);
}

/// A type of the definition by the name that the specification gives it.
fn type_name(of_package: &impl std::fmt::Debug) -> &'static str {
    match format!("{of_package:?}").as_str() {
        "Boolean" => "bit",
        "ShortShortUInt" => "octet",
        "ShortUInt" => "short",
        "LongUInt" => "long",
        "LongLongUInt" => "longlong",
        "ShortString" => "shortstr",
        "LongString" => "longstr",
        "FieldTable" => "table",
        "Timestamp" => "timestamp",
        other => panic!("the definition has no type {other}"),
    }
}

/// A method of the definition: name, `*` where a content follows, and the fields.
fn defined(class: &AMQPClass, method: &AMQPMethod) -> String {
    let mut line = format!("{}.{}", class.name, method.name);
    if method.content {
        line.push_str(" *");
    }
    for argument in &method.arguments {
        match argument {
            AMQPArgument::Value(value) => {
                line.push_str(&format!(" {}:{}", value.name, type_name(&value.amqp_type)));
            }
            AMQPArgument::Flags(flags) => {
                for flag in &flags.flags {
                    // So the specification spells it.
                    let name = if flag.name == "nowait" { "no-wait" } else { &flag.name };
                    line.push_str(&format!(" {name}:bit"));
                }
            }
        }
    }
    line
}

#[test]
fn methods_have_the_fields_of_the_protocols_own_definition() {
    let definition = AMQProtocolDefinition::load(None);
    let theirs: BTreeMap<_, _> = definition
        .classes
        .iter()
        .flat_map(|class| {
            class.methods.iter().map(|method| ((class.id, method.id), defined(class, method)))
        })
        .collect();
    // Without whom it is for.
    let ours = METHODS.iter().map(|spec| {
        let line = line(spec).splitn(3, ' ').nth(2).unwrap_or_default().to_owned();
        let (name, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let rest = rest.get(1..).unwrap_or_default();
        ((spec.id.class, spec.id.method), format!("{name}{rest}"))
    });
    let ours: BTreeMap<_, _> = ours.collect();
    assert_eq!(ours, theirs);
}

#[test]
fn properties_are_those_of_the_protocols_own_definition() {
    let definition = AMQProtocolDefinition::load(None);
    let basic = definition.classes.iter().find(|class| class.name == "basic").expect("a class");
    assert_eq!(basic.properties.len(), 14);
    for (bit, property) in (0..16).rev().zip(&basic.properties) {
        let mut bytes = BytesMut::new();
        bytes.put_u16(1 << bit);
        match type_name(&property.amqp_type) {
            "octet" => bytes.put_u8(7),
            "shortstr" => bytes.put_slice(b"\x01s"),
            "table" => bytes.put_u32(0),
            "timestamp" => bytes.put_u64(7),
            other => panic!("no property is of type {other}"),
        }
        let bytes = Bytes::from(bytes);
        let read = Properties::read(&bytes).expect("properties");
        assert_eq!(read.to_bytes(), bytes, "{}", property.name);
        let name =
            if property.name == "type" { "kind".into() } else { property.name.replace('-', "_") };
        let shown = format!("{read:?}");
        assert!(shown.contains(&format!("{name}: Some(")), "{name}: {shown}");
        assert_eq!(shown.matches("Some(").count(), 1, "{name}: {shown}");
    }
}

#[test]
fn codes_are_those_of_the_protocols_own_definition() {
    let definition = AMQProtocolDefinition::load(None);
    let soft = definition.soft_errors.iter().map(|code| (code, false));
    let all = soft.chain(definition.hard_errors.iter().map(|code| (code, true)));
    let theirs: BTreeMap<_, _> =
        all.map(|(code, is_hard)| (code.value, (code.name.replace('-', "_"), is_hard))).collect();
    let ours = ReplyCode::ALL
        .iter()
        .map(|code| (u32::from(code.number()), (code.name().to_owned(), code.is_hard())));
    assert_eq!(ours.collect::<BTreeMap<_, _>>(), theirs);
}
