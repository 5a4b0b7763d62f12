//! From a record to what is printed.

use std::io::Write;

use clap::ValueEnum;
use plimsoll_protocol::batch::Record;
use plimsoll_protocol::ids::Offset;

use crate::clock::time_text;
use crate::failure::Failure;
use crate::output::Output;
use crate::record_json::RecordJson;
use crate::separator::Separator;

/// How records are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// The value's bytes and a line break, after the fields of --show
    Text,
    /// One JSON object per line, exact for any bytes; `produce --format json` reads it
    Json,
}

/// What `--show` puts before the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Field {
    /// The partition's number
    Partition,
    /// The record's offset
    Offset,
    /// The record's time, RFC 3339 in UTC
    Time,
    /// The key; empty where there is none
    Key,
    /// The headers as name=value, joined by commas
    Headers,
}

/// Prints records.
#[derive(Debug)]
pub(super) struct Renderer {
    /// The topic they come from.
    pub(super) topic: String,
    /// How they are printed.
    pub(super) format: OutputFormat,
    /// What stands before the value of a text line.
    pub(super) show: Vec<Field>,
    /// What stands behind each of these fields.
    pub(super) separator: Separator,
}

impl Renderer {
    /// Prints one record.
    pub(super) fn print<W: Write>(
        &self,
        output: &mut Output<W>,
        partition: u32,
        offset: Offset,
        record: &Record,
    ) -> Result<(), Failure> {
        if self.format == OutputFormat::Json {
            return output.json(&RecordJson::of(&self.topic, partition, offset, record));
        }
        for field in &self.show {
            match field {
                Field::Partition => output.bytes(partition.to_string().as_bytes())?,
                Field::Offset => output.bytes(offset.to_string().as_bytes())?,
                Field::Time => output.bytes(time_text(record.timestamp_ms).as_bytes())?,
                Field::Key => output.bytes(record.key.as_deref().unwrap_or_default())?,
                Field::Headers => {
                    for (position, header) in record.headers.iter().enumerate() {
                        output.bytes(if position == 0 { b"" } else { b"," })?;
                        output.bytes(header.name.as_str().as_bytes())?;
                        output.bytes(b"=")?;
                        output.bytes(&header.value)?;
                    }
                }
            }
            output.bytes(self.separator.as_bytes())?;
        }
        output.bytes(record.value.as_deref().unwrap_or_default())?;
        output.bytes(b"\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(renderer: &Renderer, record: &Record) -> String {
        let mut bytes = Vec::new();
        let mut output = Output::to(&mut bytes);
        renderer.print(&mut output, 2, Offset(9), record).unwrap();
        output.flush().unwrap();
        drop(output);
        String::from_utf8(bytes).unwrap()
    }

    fn text(show: &[Field]) -> Renderer {
        Renderer {
            topic: "orders".into(),
            format: OutputFormat::Text,
            show: show.to_vec(),
            separator: "|".parse().unwrap(),
        }
    }

    #[test]
    fn text_is_the_value_after_the_fields_asked_for() {
        let record = Record::new("v").with_key("k").with_header("a", "1").with_header("b", "2");
        assert_eq!(printed(&text(&[]), &record), "v\n");
        let all = [Field::Partition, Field::Offset, Field::Time, Field::Key, Field::Headers];
        assert_eq!(printed(&text(&all), &record), "2|9|1970-01-01T00:00:00.000Z|k|a=1,b=2|v\n");
        assert_eq!(printed(&text(&[Field::Key]), &Record::default()), "|\n");
    }

    #[test]
    fn json_names_topic_and_place() {
        let renderer = Renderer { format: OutputFormat::Json, ..text(&[]) };
        let line = printed(&renderer, &Record::new("v"));
        assert!(line.starts_with(r#"{"topic":"orders","partition":2,"offset":9,"#), "{line}");
        assert!(line.ends_with("}\n"), "{line}");
    }
}
