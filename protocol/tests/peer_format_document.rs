//! `protocol/PEER_FORMAT.md` says what the code does: kinds of frames, layouts of bodies.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use plimsoll_protocol::fuzzing::peer_layouts;
use plimsoll_protocol::peer::PeerApi;

const DOCUMENT: &str = include_str!("../PEER_FORMAT.md");

#[test]
fn table_of_kinds_is_that_of_the_code() {
    let (_, rest) = DOCUMENT.split_once("| key | kind | stream | answered by |").unwrap();
    let rows: Vec<Vec<&str>> = rest
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows.len(), PeerApi::ALL.len());
    for (row, api) in rows.iter().zip(PeerApi::ALL) {
        assert_eq!(row[..2], [api.number().to_string(), api.name().into()]);
    }
}

#[test]
fn layout_of_every_body_is_written_down() {
    let missing: Vec<_> = peer_layouts()
        .into_iter()
        .filter(|layout| !DOCUMENT.contains(&format!("\n{layout}\n")))
        .collect();
    let missing = missing.join("\n");
    assert!(missing.is_empty(), "PEER_FORMAT.md should have:\n{missing}\n(end of layouts)");
}
