//! A record as one line of JSON: what `consume --format json` writes and `produce --format json`
//! reads, so that the one can be piped into the other without losing anything.
//!
//! Bytes that are UTF-8 stand as text (`key`, `value`), others as base64 (`key_base64`,
//! `value_base64`). A tombstone has `"value":null`.

use bytes::Bytes;
use plimsoll_protocol::batch::{Header, HeaderName, Record};
use plimsoll_protocol::ids::Offset;
use serde::{Deserialize, Deserializer, Serialize};

use crate::base64;
use crate::clock::time_text;

/// A record and its place, as they are written.
#[derive(Debug, Serialize)]
pub(crate) struct RecordJson<'a> {
    topic: &'a str,
    partition: u32,
    offset: u64,
    timestamp_ms: i64,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Value::is_base64")]
    value: Value<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<HeaderJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deliver_at_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group_key_base64: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Value<'a> {
    Tombstone(()),
    Text(&'a str),
    Base64,
}

impl Value<'_> {
    fn is_base64(&self) -> bool {
        matches!(self, Self::Base64)
    }
}

#[derive(Debug, Serialize)]
struct HeaderJson<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

/// The text of some bytes, or their base64.
pub(crate) fn text_or_base64(bytes: Option<&[u8]>) -> (Option<&str>, Option<String>) {
    match bytes.map(|bytes| (std::str::from_utf8(bytes), bytes)) {
        None => (None, None),
        Some((Ok(text), _)) => (Some(text), None),
        Some((Err(_), bytes)) => (None, Some(base64::encode(bytes))),
    }
}

impl<'a> RecordJson<'a> {
    /// What is written for a record.
    pub(crate) fn of(topic: &'a str, partition: u32, offset: Offset, record: &'a Record) -> Self {
        let (key, key_base64) = text_or_base64(record.key.as_deref());
        let (text, value_base64) = text_or_base64(record.value.as_deref());
        let (group_key, group_key_base64) = text_or_base64(record.group_key.as_deref());
        let header = |header: &'a Header| {
            let (value, value_base64) = text_or_base64(Some(&header.value));
            HeaderJson { name: header.name.as_str(), value, value_base64 }
        };
        Self {
            topic,
            partition,
            offset: offset.0,
            timestamp_ms: record.timestamp_ms,
            time: time_text(record.timestamp_ms),
            key,
            key_base64,
            value: match (text, &value_base64) {
                (Some(text), _) => Value::Text(text),
                (None, Some(_)) => Value::Base64,
                (None, None) => Value::Tombstone(()),
            },
            value_base64,
            headers: record.headers.iter().map(header).collect(),
            deliver_at_ms: record.deliver_at_ms,
            expires_at_ms: record.expires_at_ms,
            priority: record.priority,
            group_key,
            group_key_base64,
        }
    }
}

/// A record as it is read. Keys that no record has are refused, so that a misspelt one is noticed;
/// the place of a record that was consumed is accepted and not used.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordInput {
    #[serde(default, rename = "topic")]
    _topic: serde::de::IgnoredAny,
    #[serde(default, rename = "partition")]
    _partition: serde::de::IgnoredAny,
    #[serde(default, rename = "offset")]
    _offset: serde::de::IgnoredAny,
    #[serde(default, rename = "time")]
    _time: serde::de::IgnoredAny,
    #[serde(default)]
    timestamp_ms: Option<i64>,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    key_base64: Option<String>,
    /// Absent, `null` and a text are three different things.
    #[serde(default, deserialize_with = "present")]
    value: Option<Option<String>>,
    #[serde(default)]
    value_base64: Option<String>,
    #[serde(default)]
    headers: Vec<HeaderInput>,
    #[serde(default)]
    deliver_at_ms: Option<i64>,
    #[serde(default)]
    expires_at_ms: Option<i64>,
    #[serde(default)]
    priority: Option<u8>,
    #[serde(default)]
    group_key: Option<String>,
    #[serde(default)]
    group_key_base64: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderInput {
    name: String,
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    value_base64: Option<String>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Reads a record from a line of JSON; `now_ms` is the time of a record that names none.
pub(crate) fn parse_json(line: &[u8], now_ms: i64) -> Result<Record, String> {
    // serde would take a list for an object whose fields come in order.
    if line.trim_ascii_start().first() != Some(&b'{') {
        return Err("not a record in JSON: it does not begin with {".to_owned());
    }
    let input: RecordInput =
        serde_json::from_slice(line).map_err(|error| format!("not a record in JSON: {error}"))?;
    let value = match (input.value, input.value_base64) {
        (Some(None), None) => None,
        (Some(Some(text)), None) => Some(Bytes::from(text)),
        (None, Some(text)) => bytes_of("value", None, Some(text))?,
        (None, None) => {
            return Err("it has neither `value` nor `value_base64`; a tombstone is written \
                        \"value\":null"
                .into());
        }
        (Some(_), Some(_)) => return Err(both("value")),
    };
    let headers = input
        .headers
        .into_iter()
        .map(|header| {
            let value = bytes_of("value", header.value, header.value_base64)?.unwrap_or_default();
            Ok(Header { name: HeaderName::from(header.name), value })
        })
        .collect::<Result<_, String>>()?;
    Ok(Record {
        key: bytes_of("key", input.key, input.key_base64)?,
        value,
        headers,
        timestamp_ms: input.timestamp_ms.unwrap_or(now_ms),
        deliver_at_ms: input.deliver_at_ms,
        expires_at_ms: input.expires_at_ms,
        priority: input.priority,
        group_key: bytes_of("group_key", input.group_key, input.group_key_base64)?,
    })
}

fn both(name: &str) -> String {
    format!("it has both `{name}` and `{name}_base64`; keep one")
}

fn bytes_of(
    name: &str,
    text: Option<String>,
    base64_text: Option<String>,
) -> Result<Option<Bytes>, String> {
    match (text, base64_text) {
        (Some(_), Some(_)) => Err(both(name)),
        (text, None) => Ok(text.map(Bytes::from)),
        (None, Some(text)) => match base64::decode(&text) {
            Some(bytes) => Ok(Some(Bytes::from(bytes))),
            None => Err(format!("`{name}_base64` is not base64")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(record: &Record) -> String {
        serde_json::to_string(&RecordJson::of("orders", 3, Offset(17), record)).unwrap()
    }

    #[test]
    fn text_stands_as_text() {
        let record = Record::new("a\"b\n")
            .with_key("k")
            .with_header("trace", "7")
            .with_timestamp_ms(1_795_250_000_250);
        assert_eq!(
            written(&record),
            r#"{"topic":"orders","partition":3,"offset":17,"timestamp_ms":1795250000250,"time":"2026-11-21T08:33:20.250Z","key":"k","value":"a\"b\n","headers":[{"name":"trace","value":"7"}]}"#
        );
    }

    #[test]
    fn other_bytes_stand_as_base64() {
        let record = Record::new(&b"\xff\x00"[..]).with_key(&b"\xfe"[..]);
        let text = written(&record);
        assert!(text.contains(r#""key_base64":"/g==""#), "{text}");
        assert!(text.contains(r#""value_base64":"/wA=""#), "{text}");
        assert!(!text.contains(r#""value":"#), "{text}");
    }

    #[test]
    fn tombstone_is_null_and_empty_is_empty() {
        assert!(written(&Record::default()).contains(r#""value":null"#));
        assert!(written(&Record::new("")).contains(r#""value":"""#));
        assert_eq!(parse_json(br#"{"value":null}"#, 5).unwrap().value, None);
        assert_eq!(
            parse_json(br#"{"value":""}"#, 5).unwrap(),
            Record::new("").with_timestamp_ms(5)
        );
    }

    #[test]
    fn unclear_records_are_refused() {
        for (line, part) in [
            (r#"{}"#, "neither"),
            (r#"{"vlaue":"x"}"#, "vlaue"),
            (r#"{"value":"x","value_base64":"eA=="}"#, "both"),
            (r#"{"value_base64":"e"}"#, "not base64"),
            (r#"{"value":5}"#, "string"),
            (r#"{"value":"x","headers":[{"value":"1"}]}"#, "name"),
            (r#"{"value":"x"} {"value":"y"}"#, "trailing"),
            (r#"[]"#, "JSON"),
            ("", "JSON"),
        ] {
            let problem = parse_json(line.as_bytes(), 0).unwrap_err();
            assert!(problem.contains(part), "{line}: {problem}");
        }
    }

    fn records() -> impl Strategy<Value = Record> {
        let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20));
        let headers = proptest::collection::vec(
            (".{0,5}", proptest::collection::vec(any::<u8>(), 0..5)),
            0..3,
        );
        (
            bytes(),
            bytes(),
            headers,
            any::<i64>(),
            any::<Option<i64>>(),
            any::<Option<u8>>(),
            bytes(),
        )
            .prop_map(|(key, value, headers, timestamp_ms, time, priority, group_key)| {
                Record {
                    key: key.map(Bytes::from),
                    value: value.map(Bytes::from),
                    headers: headers
                        .into_iter()
                        .map(|(name, value)| Header { name: name.into(), value: value.into() })
                        .collect(),
                    timestamp_ms,
                    deliver_at_ms: time,
                    expires_at_ms: time,
                    priority,
                    group_key: group_key.map(Bytes::from),
                }
            })
    }

    proptest! {
        #[test]
        fn written_records_are_read_back(record in records()) {
            prop_assert_eq!(parse_json(written(&record).as_bytes(), 0), Ok(record));
        }

        #[test]
        fn any_bytes_are_read_or_refused(line: Vec<u8>) {
            let _ = parse_json(&line, 0);
        }
    }
}
