//! From a line to a record.

use bytes::Bytes;
use clap::ValueEnum;
use plimsoll_protocol::batch::{Header, HeaderName, Record};

use crate::record_json::parse_json;
use crate::separator::Separator;

/// What a line of the input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum InputFormat {
    /// The value of a record, or its key and value with --key-separator
    Text,
    /// One record as JSON, as `consume --format json` prints it
    Json,
}

/// How lines become records.
#[derive(Debug, Clone)]
pub(super) struct LineParser {
    /// What a line is.
    pub(super) format: InputFormat,
    /// What stands between key and value; without it a line is all value.
    pub(super) key_separator: Option<Separator>,
    /// The key of every record that has none of its own.
    pub(super) key: Option<Bytes>,
    /// Headers of every record, after its own.
    pub(super) headers: Vec<Header>,
}

impl LineParser {
    /// The record of a line that was read at `now_ms`.
    pub(super) fn parse(&self, line: &Bytes, now_ms: i64) -> Result<Record, String> {
        let mut record = match self.format {
            InputFormat::Json => parse_json(line, now_ms)?,
            InputFormat::Text => self.parse_text(line)?.with_timestamp_ms(now_ms),
        };
        if record.key.is_none() {
            record.key.clone_from(&self.key);
        }
        record.headers.extend_from_slice(&self.headers);
        Ok(record)
    }

    fn parse_text(&self, line: &Bytes) -> Result<Record, String> {
        let Some(separator) = &self.key_separator else {
            return Ok(Record::new(line.clone()));
        };
        let at = separator.find(line).ok_or_else(|| {
            let text = String::from_utf8_lossy(separator.as_bytes());
            format!("it has no key separator {text:?}")
        })?;
        let value = line.slice(at + separator.as_bytes().len()..);
        Ok(Record::new(value).with_key(line.slice(..at)))
    }
}

/// Reads `NAME=VALUE`.
pub(crate) fn parse_header(text: &str) -> Result<Header, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok(Header {
            name: HeaderName::from(name),
            value: Bytes::copy_from_slice(value.as_bytes()),
        }),
        _ => Err(format!("{text:?} is not a header; write NAME=VALUE, such as trace=7")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> LineParser {
        LineParser {
            format: InputFormat::Text,
            key_separator: None,
            key: None,
            headers: Vec::new(),
        }
    }

    #[test]
    fn line_is_the_value() {
        let record = text().parse(&Bytes::from_static(b"a:b"), 7).unwrap();
        assert_eq!(record, Record::new("a:b").with_timestamp_ms(7));
    }

    #[test]
    fn key_ends_at_the_first_separator() {
        let parser = LineParser { key_separator: Some(":".parse().unwrap()), ..text() };
        let record = parser.parse(&Bytes::from_static(b"k:v:w"), 7).unwrap();
        assert_eq!(record, Record::new("v:w").with_key("k").with_timestamp_ms(7));
        let empty = parser.parse(&Bytes::from_static(b":"), 7).unwrap();
        assert_eq!(empty, Record::new("").with_key("").with_timestamp_ms(7));
        let problem = parser.parse(&Bytes::from_static(b"none"), 7).unwrap_err();
        assert_eq!(problem, "it has no key separator \":\"");
    }

    #[test]
    fn key_and_headers_for_all_are_added() {
        let parser = LineParser {
            format: InputFormat::Json,
            key: Some(Bytes::from_static(b"k")),
            headers: vec![parse_header("a=b=c").unwrap()],
            ..text()
        };
        let own =
            br#"{"key":"own","value":"v","timestamp_ms":1,"headers":[{"name":"x","value":"1"}]}"#;
        let record = parser.parse(&Bytes::from_static(own), 7).unwrap();
        let expected = Record::new("v").with_key("own").with_timestamp_ms(1);
        assert_eq!(record, expected.with_header("x", "1").with_header("a", "b=c"));
        let without = parser.parse(&Bytes::from_static(br#"{"value":"v"}"#), 7).unwrap();
        assert_eq!(without.key.as_deref(), Some(&b"k"[..]));
        assert_eq!(without.timestamp_ms, 7);
    }

    #[test]
    fn headers_need_a_name() {
        for bad in ["", "name", "=value"] {
            assert!(parse_header(bad).is_err(), "{bad}");
        }
        assert!(parse_header("name=").is_ok());
    }
}
