//! The table of methods and the codes, against lists that were made from the protocol's definition.

use std::collections::BTreeMap;

use plimsoll_amqp::error::ReplyCode;
use plimsoll_amqp::methods::{METHODS, MethodSpec};

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
