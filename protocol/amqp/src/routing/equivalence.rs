//! Is what a client declares what it was declared as before? If not, 406 with what was received and
//! what is.
//!
//! Source: RabbitMQ, "Queues", property equivalence; which arguments are compared depends on the type
//! of the queue that exists.

use std::fmt::Display;

use super::arguments::QueueKind;
use super::headers::equal;
use crate::error::{Fault, ReplyCode, Resource};
use crate::methods::QueueDeclare;
use crate::table::{FieldTable, FieldValue};

/// What a queue was declared as. An exclusive queue is never durable, whatever was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueueShape {
    /// Whether it survives a restart.
    pub durable: bool,
    /// Whether it goes with its last consumer.
    pub auto_delete: bool,
    /// Whether it belongs to one connection, and goes with it.
    pub exclusive: bool,
    /// Its arguments.
    pub arguments: FieldTable,
}

impl QueueShape {
    /// What a client declares.
    #[must_use]
    pub fn of(declare: &QueueDeclare) -> Self {
        Self {
            durable: declare.durable && !declare.exclusive,
            auto_delete: declare.auto_delete,
            exclusive: declare.exclusive,
            arguments: declare.arguments.clone(),
        }
    }
}

/// Checks that `declared` is what the queue, which exists, was declared as. `is_owner` says whether
/// the declaring connection owns it, where it is exclusive.
///
/// # Errors
/// 405 where one of both is exclusive and not of this connection; 406 for the first difference.
pub fn check_queue(
    existing: &QueueShape,
    declared: &QueueShape,
    is_owner: bool,
    name: Resource<'_>,
) -> Result<(), Fault> {
    if existing.exclusive != declared.exclusive || existing.exclusive && !is_owner {
        return Err(locked(name));
    }
    check_field("durable", existing.durable, declared.durable, name)?;
    check_field("auto_delete", existing.auto_delete, declared.auto_delete, name)?;
    let kind = QueueKind::of(&existing.arguments).unwrap_or_default();
    for argument in kind.arguments() {
        check_argument(argument, &existing.arguments, &declared.arguments, name)?;
    }
    Ok(())
}

/// 405: the queue is another connection's.
#[must_use]
pub fn locked(name: Resource<'_>) -> Fault {
    let text = format!(
        "cannot obtain exclusive access to locked {name}. It could be originally declared on another \
         connection or the exclusive property value does not match that of the original declaration."
    );
    Fault::new(ReplyCode::ResourceLocked, text)
}

fn inequivalent(what: &str, name: Resource<'_>, received: &str, current: &str) -> Fault {
    let text = format!(
        "inequivalent arg '{what}' for {name}: received {received} but current is {current}"
    );
    Fault::new(ReplyCode::PreconditionFailed, text)
}

/// Checks one property.
pub(super) fn check_field<T: PartialEq + Display + Copy>(
    what: &str,
    current: T,
    received: T,
    name: Resource<'_>,
) -> Result<(), Fault> {
    if current == received {
        return Ok(());
    }
    Err(inequivalent(what, name, &format!("'{received}'"), &format!("'{current}'")))
}

/// Checks one argument. Integers are compared whatever their width; a classic queue may say so or not.
pub(super) fn check_argument(
    what: &str,
    current: &FieldTable,
    received: &FieldTable,
    name: Resource<'_>,
) -> Result<(), Fault> {
    let is_classic = |value: FieldValue<'_>| value == FieldValue::LongStr(b"classic");
    let (received, current) = match (received.find(what), current.find(what)) {
        (None, None) => return Ok(()),
        (Some(received), Some(current)) => {
            if equal(received, current) {
                return Ok(());
            }
            (format!("'{}'", shown(received)), format!("'{}'", shown(current)))
        }
        (Some(one), None) | (None, Some(one)) if what == "x-queue-type" && is_classic(one) => {
            return Ok(());
        }
        (received, current) => (shown_with_type(received), shown_with_type(current)),
    };
    Err(inequivalent(what, name, &received, &current))
}

pub(super) fn shown(value: FieldValue<'_>) -> String {
    match value {
        FieldValue::LongStr(bytes) | FieldValue::Bytes(bytes) => {
            String::from_utf8_lossy(bytes).into_owned()
        }
        FieldValue::Bool(flag) => flag.to_string(),
        FieldValue::Timestamp(seconds) => seconds.to_string(),
        FieldValue::F32(number) => format!("{number:?}"),
        FieldValue::F64(number) => format!("{number:?}"),
        other => match other.as_integer() {
            Some(number) => number.to_string(),
            None => format!("{other:?}"),
        },
    }
}

fn shown_with_type(value: Option<FieldValue<'_>>) -> String {
    match value {
        None => "none".to_owned(),
        Some(value) => format!("the value '{}' of type '{}'", shown(value), value.type_name()),
    }
}
