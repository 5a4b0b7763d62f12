//! `protocol/FORMAT.md` says what the code does: error codes, APIs, layouts of bodies.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use plimsoll_protocol::api::{ApiKey, TOPIC_CONFIG_KEYS};
use plimsoll_protocol::error::ErrorCode;
use plimsoll_protocol::fuzzing::layouts;

const DOCUMENT: &str = include_str!("../FORMAT.md");

/// The cells of the rows of the table that has this first row.
fn table(head: &str) -> Vec<Vec<&'static str>> {
    let (_, rest) = DOCUMENT.split_once(head).expect("the table is there");
    rest.lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

#[test]
fn table_of_error_codes_is_that_of_the_code() {
    let written = table("| code | name | meaning | again? |");
    let expected: Vec<_> = ErrorCode::ALL
        .iter()
        .map(|code| {
            let again = if code.is_retriable() { "yes" } else { "" };
            [code.number().to_string(), code.name().into(), code.meaning().into(), again.into()]
        })
        .collect();
    let lines: Vec<_> = expected.iter().map(|row| format!("| {} |", row.join(" | "))).collect();
    assert_eq!(written, expected, "the table should be\n{}", lines.join("\n"));
}

#[test]
fn table_of_apis_is_that_of_the_code() {
    let written = table("| key | API | versions | request | response |");
    assert_eq!(written.len(), ApiKey::ALL.len());
    for (row, api) in written.iter().zip(ApiKey::ALL) {
        let (min, max) = api.versions();
        let versions = if min == max { min.to_string() } else { format!("{min} to {max}") };
        assert_eq!(row[..3], [api.number().to_string(), api.name().into(), versions]);
    }
}

#[test]
fn layout_of_every_body_is_written_down() {
    for layout in layouts() {
        let drawn = DOCUMENT.contains(&format!("\n{layout}\n"));
        assert!(drawn, "FORMAT.md should have, at the start of a line:\n{layout}");
    }
}

#[test]
fn table_of_topic_configuration_is_that_of_the_code() {
    let written = table("| key | allowed | default | example |");
    let expected: Vec<_> = TOPIC_CONFIG_KEYS
        .iter()
        .map(|key| [key.name, key.bounds, key.default, key.example].map(|cell| format!("`{cell}`")))
        .map(|mut row| {
            row[1] = row[1].trim_matches('`').to_owned();
            row
        })
        .collect();
    let lines: Vec<_> = expected.iter().map(|row| format!("| {} |", row.join(" | "))).collect();
    assert_eq!(written, expected, "the table should be\n{}", lines.join("\n"));
}
