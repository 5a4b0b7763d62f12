//! The headers exchange: the arguments of a binding against the headers of a message.
//!
//! Source: RabbitMQ, "Headers Exchange"; equality of values as Erlang's `==` has it: numbers by what
//! they are, not by their width, and strings and byte arrays alike.

use crate::erlang;
use crate::error::{Fault, ReplyCode};
use crate::table::{FieldTable, FieldValue, TableBuilder, TableRef};

const X_MATCH: &str = "x-match";

/// How many of a binding's fields have to match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mode {
    all: bool,
    /// Whether fields count whose name begins with `x-`.
    with_x: bool,
}

impl Mode {
    fn from_name(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"all" => Self { all: true, with_x: false },
            b"any" => Self { all: false, with_x: false },
            b"all-with-x" => Self { all: true, with_x: true },
            b"any-with-x" => Self { all: false, with_x: true },
            _ => return None,
        })
    }

    /// Without `x-match` all have to match.
    fn of(arguments: TableRef<'_>) -> Self {
        match arguments.find(X_MATCH) {
            Some(FieldValue::LongStr(name)) => Self::from_name(name),
            _ => None,
        }
        .unwrap_or(Self { all: true, with_x: false })
    }
}

/// Whether a binding with these arguments takes a message with these headers. A field without a value
/// asks only for the name. Without fields `all` takes everything and `any` nothing.
#[must_use]
pub fn headers_match(arguments: TableRef<'_>, headers: TableRef<'_>) -> bool {
    let mode = Mode::of(arguments);
    let mut counting = arguments
        .iter()
        .filter(|(name, _)| *name != X_MATCH.as_bytes())
        .filter(|(name, _)| mode.with_x || !name.starts_with(b"x-"));
    let mut matches = |(name, wanted): (&[u8], FieldValue<'_>)| {
        let found = headers.find(name);
        found.is_some_and(|value| wanted == FieldValue::Void || equal(wanted, value))
    };
    if mode.all { counting.all(&mut matches) } else { counting.any(&mut matches) }
}

/// A value as a number, whatever its type.
fn number(value: FieldValue<'_>) -> Option<(i128, Option<f64>)> {
    match value {
        FieldValue::Timestamp(seconds) => Some((seconds.into(), None)),
        FieldValue::F32(number) => Some((0, Some(number.into()))),
        FieldValue::F64(number) => Some((0, Some(number))),
        other => other.as_integer().map(|number| (number.into(), None)),
    }
}

/// Whether two values are equal but for their types.
pub(super) fn equal(one: FieldValue<'_>, other: FieldValue<'_>) -> bool {
    use FieldValue::{Bytes, LongStr};
    match (number(one), number(other)) {
        (Some((one, None)), Some((other, None))) => return one == other,
        (Some((_, Some(one))), Some((_, Some(other)))) => return one == other,
        (Some((whole, None)), Some((_, Some(float))))
        | (Some((_, Some(float))), Some((whole, None))) => {
            // The cast saturates; a float that large is no integer of 64 bits.
            return float.fract() == 0.0 && float as i128 == whole;
        }
        _ => {}
    }
    match (one, other) {
        (LongStr(one) | Bytes(one), LongStr(other) | Bytes(other)) => one == other,
        (one, other) => one == other,
    }
}

/// Checks `x-match` where a binding is made.
pub(super) fn check_arguments(arguments: &FieldTable) -> Result<(), Fault> {
    let text = match arguments.find(X_MATCH) {
        None => return Ok(()),
        Some(FieldValue::LongStr(name)) if Mode::from_name(name).is_some() => return Ok(()),
        Some(FieldValue::LongStr(name)) => format!(
            "Invalid x-match field value {}; expected all, any, all-with-x, or any-with-x",
            erlang::binary(name)
        ),
        Some(other) => {
            let kind = other.type_name();
            format!("Invalid x-match field type {kind}; expected longstr")
        }
    };
    Err(Fault::new(ReplyCode::PreconditionFailed, text))
}

/// The same fields, sorted by name: what makes two bindings one.
#[must_use]
pub fn sorted(table: &FieldTable) -> FieldTable {
    if table.is_empty() {
        return FieldTable::default();
    }
    let mut fields: Vec<_> = table.fields().iter().collect();
    fields.sort_by_key(|(name, _)| *name);
    fields
        .into_iter()
        .fold(TableBuilder::new(), |table, (name, value)| table.field(name, value))
        .build()
        .expect("fields of a table that was read")
}
