//! `protocol/FORMAT.md` says what the code does: error codes, APIs, layouts of bodies.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use bytes::Bytes;
use plimsoll_protocol::api::{ApiKey, TOPIC_CONFIG_KEYS};
use plimsoll_protocol::batch::{BATCH_HEADER_BYTES, BatchHeader, Record, RecordBatch};
use plimsoll_protocol::error::ErrorCode;
use plimsoll_protocol::fuzzing::layouts;
use plimsoll_protocol::ids::Offset;

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

/// What lies between the fences behind this text.
fn code_behind(text: &str) -> &'static str {
    let (_, rest) = DOCUMENT.split_once(text).expect("the text is there");
    let (_, code) = rest.split_once("```text\n").expect("code behind the text");
    code.split_once("```").expect("an end of the code").0
}

#[test]
fn table_of_the_header_covers_each_byte_once() {
    let written = table("| at | bytes | field | type | filled by | meaning |");
    let mut end = 0;
    for row in &written {
        assert_eq!(row[0].parse(), Ok(end), "{row:?}");
        end += row[1].parse().unwrap_or(0);
    }
    assert_eq!(end, BATCH_HEADER_BYTES);
}

/// The bits of `broker_flags` that the page allows are those that are read.
#[test]
fn flag_of_compacted_batches_is_where_the_page_says() {
    let written = table("| at | bytes | field | type | filled by | meaning |");
    let flags = written.iter().find(|row| row[2] == "broker_flags").unwrap();
    assert_eq!((flags[0], flags[1]), ("6", "2"));
    assert_eq!(flags[5], "bit 0: compacted, see below; bits 1 to 15 are reserved");
    let mut bytes = BatchHeader { batch_length: 96, ..BatchHeader::default() }.to_bytes();
    for bit in 0..16 {
        bytes[6..8].copy_from_slice(&(1u16 << bit).to_le_bytes());
        let read = BatchHeader::parse(&bytes);
        assert_eq!(read.map(|header| header.compacted).ok(), (bit == 0).then_some(true));
    }
}

#[test]
fn section_with_gaps_is_read_as_written() {
    let text = code_behind("in which the record at offset 1004 (value `hi`) is left:");
    let section: Option<Vec<u8>> =
        text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    let body = Bytes::from(section.expect("bytes in hex"));
    let header = BatchHeader {
        compacted: true,
        base_offset: Offset(1000),
        record_count: 200,
        records_bytes: body.len() as u32,
        ..BatchHeader::default()
    };
    let batch = RecordBatch { header, body };
    let read: Result<Vec<_>, _> = batch.records(0).unwrap().collect();
    let read: Vec<_> = read.unwrap().into_iter().map(|r| (r.offset, r.record)).collect();
    assert_eq!(read, [(Offset(1004), Record::new("hi"))]);
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
