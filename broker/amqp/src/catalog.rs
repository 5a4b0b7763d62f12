//! What the broker knows of users and virtual hosts, as plain values: a snapshot that is replaced as a
//! whole, and the changes that a client may ask for.

use std::sync::Arc;

use bytes::Bytes;
use plimsoll_amqp::error::{Fault, ReplyCode, Resource};
use plimsoll_amqp::methods::ExchangeDeclare;
use plimsoll_amqp::routing::{
    Binding, Destination, ExchangeShape, QueueArguments, QueueKind, QueueShape,
};
use plimsoll_amqp::shortstr::ShortStr;
use plimsoll_amqp::table::FieldTable;

use crate::passwords::PasswordHash;

/// Names a connection to this node, as the owner of exclusive queues. Never used twice while the
/// catalog may still know the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// The owner of an exclusive queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A connection to this node.
    Here(ConnectionId),
    /// A connection to another one.
    Elsewhere,
}

/// A user.
#[derive(Debug, Clone)]
pub struct User {
    /// The name.
    pub name: String,
    /// The password; none: no password lets this user in.
    pub password: Option<PasswordHash>,
    /// Tags. `impersonator` lets the user send messages in the name of others.
    pub tags: Vec<String>,
}

/// What a user may do in a virtual host: regular expressions of names, as RabbitMQ has them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PermissionPatterns {
    /// What may be declared and deleted.
    pub configure: String,
    /// What may be published to, and be bound.
    pub write: String,
    /// What may be consumed, and be bound to.
    pub read: String,
}

/// A queue.
#[derive(Debug, PartialEq, Eq)]
pub struct QueueEntry {
    /// Its name.
    pub name: ShortStr,
    /// What it was declared as.
    pub shape: QueueShape,
    /// What its arguments ask for.
    pub arguments: QueueArguments,
    /// Whose it is, where it is exclusive.
    pub owner: Option<Owner>,
    /// The topic that holds it; the gateway only carries it.
    pub topic: Arc<str>,
    /// Which declaration of the name it is: a queue that was deleted and declared again is another one.
    pub declaration: u64,
}

impl QueueEntry {
    /// The entry of a queue that was declared so.
    ///
    /// # Errors
    /// 406 where the arguments cannot be: such a queue is not declared.
    pub fn new(
        name: ShortStr,
        shape: QueueShape,
        owner: Option<Owner>,
        topic: Arc<str>,
        declaration: u64,
    ) -> Result<Self, Fault> {
        let arguments = QueueArguments::read(&shape.arguments, Resource::queue(&name, ""))?;
        Ok(Self { name, shape, arguments, owner, topic, declaration })
    }

    /// Whether its messages stay when they were read.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.arguments.kind == QueueKind::Stream
    }
}

/// An exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeEntry {
    /// Its name.
    pub name: ShortStr,
    /// What it was declared as.
    pub shape: ExchangeShape,
}

impl ExchangeEntry {
    /// The entry of an exchange whose parts are kept apart, as [`ExchangeShape::type_name`] and
    /// [`FieldTable::as_bytes`] give them.
    ///
    /// # Errors
    /// 406 where there is no such type; 502 where the arguments are no table.
    pub fn read(
        name: ShortStr,
        kind: &str,
        durable: bool,
        auto_delete: bool,
        internal: bool,
        arguments: Bytes,
    ) -> Result<Self, Fault> {
        let arguments = FieldTable::parse(arguments)
            .map_err(|error| Fault::new(ReplyCode::SyntaxError, error.to_string()))?;
        let declare = ExchangeDeclare {
            kind: ShortStr::cut(kind),
            durable,
            auto_delete,
            internal,
            arguments,
            ..ExchangeDeclare::default()
        };
        Ok(Self { name, shape: ExchangeShape::of(&declare)? })
    }
}

/// A binding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BindingEntry {
    /// The exchange that messages come from.
    pub source: ShortStr,
    /// The rest of it.
    pub binding: Binding,
}

/// All of a virtual host at one moment. What did not change should stand in the same order as in the
/// snapshot before: then only what did change is folded again.
#[derive(Debug, Default)]
pub struct HostSnapshot {
    /// Grows with every change of any of it.
    pub generation: u64,
    /// Exchanges; those that every virtual host has may be left out.
    pub exchanges: Vec<ExchangeEntry>,
    /// Queues.
    pub queues: Vec<Arc<QueueEntry>>,
    /// Bindings. Their ends are in the lists above.
    pub bindings: Vec<BindingEntry>,
    /// What each user may do; who is not named may not come in.
    pub permissions: Vec<(String, PermissionPatterns)>,
}

/// A change of a virtual host. Its makers checked it against the snapshot; whether that still holds is
/// the catalog's to say.
#[derive(Debug, Clone)]
pub enum Change {
    /// Makes an exchange where there is none of this name.
    DeclareExchange(ExchangeEntry),
    /// Removes an exchange with its bindings.
    DeleteExchange {
        /// Its name.
        name: ShortStr,
        /// Only where it is the source of no binding: else refused, with 406.
        if_unused: bool,
    },
    /// Makes a queue where there is none of this name.
    DeclareQueue {
        /// Its name.
        name: ShortStr,
        /// What it is to be.
        shape: QueueShape,
        /// Whose it is, where it is exclusive.
        owner: Option<ConnectionId>,
        /// The connection that declares it: what is not durable may end with its node.
        declared_by: ConnectionId,
    },
    /// Removes a queue with its messages and bindings; its consumers are told
    /// ([`ConsumerEnd::Deleted`](crate::backend::ConsumerEnd)).
    DeleteQueue {
        /// Its name.
        name: ShortStr,
        /// Which declaration: one that was made since stays.
        declaration: u64,
    },
    /// Binds.
    Bind(BindingEntry),
    /// Undoes a binding.
    Unbind {
        /// The exchange that messages come from.
        source: ShortStr,
        /// Where it leads.
        destination: Destination,
        /// Its key.
        key: ShortStr,
        /// Its arguments.
        arguments: FieldTable,
    },
    /// Removes the exclusive queues of a connection that has ended.
    ForgetOwner(ConnectionId),
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// It was made.
    Made,
    /// Something of this name was there already, or what was to be removed was not. Nothing was done.
    AsItWas,
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_amqp::table::TableBuilder;

    #[test]
    fn exchange_is_read_back_from_its_parts() {
        let arguments = TableBuilder::new().text("x-delayed-type", "topic").build().unwrap();
        let bytes = Bytes::copy_from_slice(arguments.as_bytes());
        let read = |kind: &str, arguments: Bytes| {
            ExchangeEntry::read(ShortStr::cut("ex"), kind, true, false, true, arguments)
        };
        for kind in ["direct", "x-delayed-message"] {
            let entry = read(kind, bytes.clone()).unwrap();
            let ExchangeShape { durable, auto_delete, internal, arguments, .. } = &entry.shape;
            assert_eq!((*durable, *auto_delete, *internal), (true, false, true));
            assert_eq!((entry.shape.type_name(), arguments.as_bytes()), (kind, &bytes[..]));
        }
        assert_eq!(read("odd", Bytes::new()).unwrap_err().code, ReplyCode::PreconditionFailed);
        let no_table = Bytes::from_static(b"\x05x");
        assert_eq!(read("direct", no_table).unwrap_err().code, ReplyCode::SyntaxError);
    }
}
