//! Keys, values and changes in JSON, and changes as lines.
//!
//! As in `consume`: bytes that are UTF-8 stand as text (`key`, `value`), others as base64 (`key_base64`,
//! `value_base64`).

use std::time::Duration;

use plimsoll_client::{Entry, KvEvent, Revision};
use serde::Serialize;

use crate::clock::time_text;
use crate::failure::Failure;
use crate::output::Output;
use crate::record_json::text_or_base64;

/// A change that is stored.
#[derive(Debug, Serialize)]
pub(super) struct ChangedJson<'a> {
    pub(super) key: &'a str,
    pub(super) revision: u64,
}

/// A deletion that is stored.
#[derive(Debug, Serialize)]
pub(super) struct DeletedJson<'a> {
    pub(super) key: &'a str,
    pub(super) revision: u64,
    /// What the key had; none: no value.
    pub(super) before: Option<u64>,
}

/// The end of what a watch found when it began.
#[derive(Debug, Serialize)]
struct LoadedJson {
    event: &'static str,
}

/// Says that everything which was there has been told.
pub(super) fn print_loaded(json: bool, output: &mut Output) -> Result<(), Failure> {
    match json {
        true => output.json(&LoadedJson { event: "loaded" }),
        false => output.line("-\tloaded"),
    }
}

/// A key with its value.
#[derive(Debug, Serialize)]
pub(super) struct EntryJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    revision: u64,
    written_ms: i64,
    written: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_left_ms: Option<u64>,
}

impl<'a> EntryJson<'a> {
    pub(super) fn of(entry: &'a Entry, with_value: bool) -> Self {
        let Entry { key, value, revision, written_ms, ttl_left, .. } = entry;
        Self::new(key, with_value.then_some(&**value), (*revision, *written_ms), *ttl_left)
    }

    fn new(
        key: &'a [u8],
        value: Option<&'a [u8]>,
        (revision, written_ms): (Revision, i64),
        ttl_left: Option<Duration>,
    ) -> Self {
        let (key, key_base64) = text_or_base64(Some(key));
        let (value, value_base64) = text_or_base64(value);
        Self {
            key,
            key_base64,
            value,
            value_base64,
            revision: revision.0,
            written_ms,
            written: time_text(written_ms),
            ttl_left_ms: ttl_left.map(ms),
        }
    }
}

/// What has become of a key.
#[derive(Debug, Serialize)]
pub(super) struct EventJson<'a> {
    event: &'static str,
    partition: u32,
    #[serde(flatten)]
    entry: EntryJson<'a>,
}

impl<'a> EventJson<'a> {
    pub(super) fn of(event: &'a KvEvent) -> Self {
        let at = (event.revision, event.written_ms);
        let entry = EntryJson::new(&event.key, event.value.as_deref(), at, event.ttl_left);
        Self { event: word(event), partition: event.partition, entry }
    }
}

fn ms(left: Duration) -> u64 {
    u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
}

fn word(event: &KvEvent) -> &'static str {
    match &event.value {
        Some(_) if event.is_present => "present",
        Some(_) => "put",
        None => "deleted",
    }
}

/// `17  put  colour  blue`, with tabs between.
pub(super) fn print_event(event: &KvEvent, json: bool, output: &mut Output) -> Result<(), Failure> {
    if json {
        return output.json(&EventJson::of(event));
    }
    output.bytes(format!("{}\t{}\t", event.revision, word(event)).as_bytes())?;
    output.bytes(&event.key)?;
    if let Some(value) = &event.value {
        output.bytes(b"\t")?;
        output.bytes(value)?;
    }
    output.bytes(b"\n")
}

#[cfg(test)]
mod tests {
    use plimsoll_client::Revision;

    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_base64() {
        let entry = Entry {
            key: "k".into(),
            value: vec![0xff, 0].into(),
            revision: Revision(3),
            written_ms: 0,
            ttl_left: Some(Duration::from_millis(1500)),
        };
        let json = serde_json::to_value(EntryJson::of(&entry, true)).unwrap();
        assert_eq!(json["key"], "k");
        assert_eq!(json["value_base64"], "/wA=");
        assert_eq!(json.get("value"), None);
        assert_eq!((&json["revision"], &json["ttl_left_ms"]), (&3.into(), &1500.into()));
        let json = serde_json::to_value(EntryJson::of(&entry, false)).unwrap();
        assert_eq!(json.get("value_base64"), None);
    }

    #[test]
    fn a_deletion_is_an_event_without_a_value() {
        let event = KvEvent {
            partition: 2,
            key: "k".into(),
            value: None,
            revision: Revision(3),
            written_ms: 0,
            ttl_left: None,
            is_present: false,
        };
        let json = serde_json::to_value(EventJson::of(&event)).unwrap();
        assert_eq!((&json["event"], json.get("value")), (&"deleted".into(), None));
        let put = KvEvent { value: Some("v".into()), ..event };
        assert_eq!(serde_json::to_value(EventJson::of(&put)).unwrap()["event"], "put");
    }
}
