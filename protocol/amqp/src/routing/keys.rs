//! The keys under which a message is routed: its own, and those that its sender adds in the headers
//! CC and BCC. BCC is taken out before delivery.
//!
//! Source: RabbitMQ, "Sender-selected Distribution".

use crate::error::{Fault, ReplyCode};
use crate::properties::Properties;
use crate::table::{FieldTable, FieldValue, TableBuilder, TableRef};

/// The headers that add keys.
const ADDING: [&str; 2] = ["CC", "BCC"];

/// What a message is routed by.
#[derive(Debug, Clone)]
pub struct MessageKeys<'a> {
    key: &'a str,
    added: Vec<&'a str>,
    headers: TableRef<'a>,
}

impl<'a> MessageKeys<'a> {
    /// The keys of a message.
    ///
    /// # Errors
    /// 406 where CC or BCC are not arrays of long strings.
    pub fn new(key: &'a str, properties: &'a Properties) -> Result<Self, Fault> {
        let headers = properties.headers.as_ref().map(FieldTable::fields).unwrap_or_default();
        let mut added = Vec::new();
        for name in ADDING {
            let wrong = |kind: &str| {
                let reason = format!("{{unacceptable_type_in_header,\"{name}\",{kind}}}");
                let text = format!("invalid message: {reason}");
                Err(Fault::new(ReplyCode::PreconditionFailed, text))
            };
            let keys = match headers.find(name) {
                None => continue,
                Some(FieldValue::Array(keys)) => keys,
                Some(other) => return wrong(other.type_name()),
            };
            for value in keys.iter() {
                let FieldValue::LongStr(bytes) = value else { return wrong(value.type_name()) };
                // No name and no pattern has such bytes.
                added.extend(std::str::from_utf8(bytes));
            }
        }
        Ok(Self { key, added, headers })
    }

    /// The keys, the message's own first.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> {
        std::iter::once(self.key).chain(self.added.iter().copied())
    }

    /// The headers.
    #[must_use]
    pub fn headers(&self) -> TableRef<'a> {
        self.headers
    }
}

/// The properties as they are delivered, where they are not those that came.
#[must_use]
pub fn without_bcc(properties: &Properties) -> Option<Properties> {
    let headers = properties.headers.as_ref()?;
    headers.find("BCC")?;
    let kept = headers
        .fields()
        .iter()
        .filter(|(name, _)| *name != b"BCC")
        .fold(TableBuilder::new(), |table, (name, value)| table.field(name, value))
        .build()
        .expect("fields of a table that was read");
    Some(Properties { headers: Some(kept), ..properties.clone() })
}
